import numpy as np
import pytest
from conftest import toy_dataset
from matplotlib.text import Text

from ecg_keras import plots
from ecg_keras.grids import SpectrogramGrid

pytestmark = pytest.mark.numeric


def probabilities(n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 2 * np.eye(3)[y]
    return y, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_every_axis_of_a_signal_and_an_image_has_its_unit():
    axes = plots.plot_signal(toy_dataset().x[0], fs=125, unit="mV")
    assert axes.get_xlabel() == "time (s)" and axes.get_ylabel() == "mV"
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(186 / 125)
    axes = plots.plot_image(
        np.random.default_rng(0).random((17, 32, 1)), grid=SpectrogramGrid(125), n_samples=187
    )
    assert axes.get_xlabel() == "time (s)" and axes.get_ylabel() == "frequency (Hz)"
    assert any("dB" in other.get_ylabel() for other in axes.figure.axes)


def test_an_image_peak_is_drawn_at_its_frequency_and_time():
    grid, image = SpectrogramGrid(125), np.zeros((17, 32, 1))
    image[10, 5, 0] = 1
    mesh = plots.plot_image(image, grid=grid, n_samples=187).collections[0]
    corners = mesh.get_coordinates()[10:12, 5:7].reshape(
        -1, 2
    )  # time, frequency of the bright cell
    assert corners[:, 0].min() < grid.times_s(187)[5] < corners[:, 0].max()
    assert corners[:, 1].min() < grid.freqs_hz[10] < corners[:, 1].max()


def test_leads_keep_their_names_and_do_not_overlap():
    axes = plots.plot_signal(toy_dataset(leads=3).x[0], fs=125, leads=("I", "II", "V1"))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["I", "II", "V1"]
    assert np.all(np.diff([line.get_ydata().mean() for line in axes.lines]) < 0)


def test_confusion_matrix_shows_counts_and_row_percent():
    axes = plots.plot_confusion([[90, 10], [5, 15]], ("N", "V"))
    assert [text.get_text() for text in axes.texts] == [
        "90\n90.0 %",
        "10\n10.0 %",
        "5\n25.0 %",
        "15\n75.0 %",
    ]


def test_lines_differ_in_dash_so_that_grey_print_is_read():
    y, p = probabilities()
    for draw in (plots.plot_roc, plots.plot_precision_recall):
        lines = draw(y, p, "NSV").lines[:3]
        assert len({str(line.get_linestyle()) for line in lines}) == 3


def test_a_class_without_rows_is_left_out_of_the_curves():
    y, p = probabilities()
    labels = plots.plot_roc(np.where(y == 2, 0, y), p, "NSV").get_legend_handles_labels()[1]
    assert [label[0] for label in labels] == ["N", "S"]


def test_perfectly_calibrated_points_lie_on_the_diagonal():
    y = np.r_[np.zeros(80), np.ones(20)].astype(int)
    points = plots.plot_calibration(y, np.tile([0.8, 0.2], (100, 1))).collections[0].get_offsets()
    np.testing.assert_allclose(points, [[0.8, 0.8]])


def test_history_marks_the_kept_epoch_and_leaves_out_what_is_absent():
    history = [
        {"epoch": 1, "loss": 1.0, "val_loss": None},
        {"epoch": 2, "loss": 0.5, "val_loss": None},
    ]
    axes = plots.plot_history(history, ("loss", "val_loss"), label="loss", best_epoch=2)
    assert [line.get_label() for line in axes.lines] == ["train", "kept: epoch 2"]


def test_drawing_leaves_no_open_figure_and_uses_the_axes_given():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.png(plots.plot_class_distribution({"N": 9, "V": 1}, after={"N": 9, "V": 9}))
    assert plt.get_fignums() == before
    _, ax = plt.subplots()
    assert plots.plot_roc(*probabilities(), "NSV", ax=ax) is ax
    plt.close("all")


def test_names_of_runs_that_cost_the_same_do_not_hide_each_other():
    rows = [(name, 60 + i, 0.9, 1000) for i, name in enumerate(("one_run", "another", "a_third"))]
    axes = plots.plot_cost([*rows, ("apart", 600, 0.8, 1000)], label="figure")
    axes.figure.draw_without_rendering()
    boxes = [
        Text.get_window_extent(text) for text in axes.texts
    ]  # without the lines to their points
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
