import types

import numpy as np
import pytest
from conftest import toy_dataset
from matplotlib.text import Text

from ecg_keras import plots
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid

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


def test_panels_share_the_style_of_single_axes():
    for ax in (plots.axes(), *plots.panels(2, 1, width=3, height=3).ravel()):
        assert not ax.spines["top"].get_visible() and ax.xaxis.label.get_color() == plots.INK
    assert plots.axes(width=3, height=2).figure.get_size_inches().tolist() == [3, 2]


def test_rows_of_a_logarithmic_grid_are_evenly_high():
    grid = ScalogramGrid(125)
    n = len(grid.freqs_hz)
    axes = plots.plot_image(np.zeros((n, 187, 1)), grid=grid)
    assert axes.get_yscale() == "log"
    assert (
        plots.plot_image(np.zeros((17, 32, 1)), grid=SpectrogramGrid(125)).get_yscale() == "linear"
    )


def test_a_spectrum_has_a_line_per_lead_over_hz():
    grid = SpectrumGrid(125)
    freqs_hz = grid.freqs_hz(187)
    spectrum = np.random.default_rng(0).random((len(freqs_hz), 2))
    axes = plots.plot_spectrum(spectrum, grid=grid, n_samples=187, leads=("I", "II"), title="N")
    assert axes.get_xlabel() == "frequency (Hz)" and axes.get_title(loc="left") == "N"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["I", "II"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), freqs_hz)


def test_runs_are_drawn_over_their_own_epochs():
    histories = {str(i): [{"epoch": 2, "val_loss": i}, {"val_loss": None}] for i in range(9)}
    axes = plots.plot_runs(histories, "val_loss", label="loss")
    assert [line.get_label() for line in axes.lines] == list(histories)
    assert axes.lines[3].get_xdata().tolist() == [2, 2] and axes.lines[3].get_ydata()[0] == 3
    assert axes.lines[8].get_alpha() == 0.55, "the ninth look is told from the first"


def test_intervals_are_drawn_around_their_figures():
    axes = plots.plot_intervals([("a", 0.9, (0.8, 0.95)), ("b", 0.7, None)], label="accuracy")
    assert axes.lines[0].get_xdata().tolist() == [0.8, 0.95]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "accuracy, 95 % interval"


def test_every_label_counts_in_the_calibration_of_several_labels():
    y, p = np.tile([1, 0], (10, 1)), np.tile([0.9, 0.1], (10, 1))
    points = plots.plot_calibration(y, p, ece=0.1).collections[0].get_offsets()
    np.testing.assert_allclose(points, [[0.1, 0.0], [0.9, 1.0]])


BEAT = np.exp(-(((np.arange(125) - 60) / 3.0) ** 2))  # an R peak at sample 60


def explained(image=None, over_time=True):
    """An explanation: the first half speaks for the class, the second half against it."""
    values = np.where(np.arange(125) < 60, 1.0, -1.0)[None, :, None] * BEAT[:, None]
    view = None if image is None else np.ones((1, *image.shape[:2]))
    return types.SimpleNamespace(signal=values if over_time else None, view=view)


def drawn_in(ax, colour):
    """True where a line of many pieces has this colour."""
    from matplotlib.colors import to_rgb

    return any(to_rgb(c) == to_rgb(colour) for lines in ax.collections for c in lines.get_colors())


def test_what_speaks_for_the_class_is_red_and_what_speaks_against_it_blue():
    values = BEAT[:, None]
    look = {"signal": BEAT[:, None], "fs": 125, "unit": "mV"}
    ax = plots.plot_attribution(values, **look)
    assert drawn_in(ax, plots.FOR) and not drawn_in(ax, plots.AGAINST)
    ax = plots.plot_attribution(-values, **look)
    assert drawn_in(ax, plots.AGAINST) and not drawn_in(ax, plots.FOR)
    assert ax.get_xlabel() == "time (ms)" and ax.get_ylabel() == "mV"


def test_an_attribution_without_a_waveform_is_filled_on_both_sides_of_zero():
    values = np.where(np.arange(10) < 5, 2.0, -3.0)[:, None]
    ax = plots.plot_attribution(values, fs=10)
    ends = [part.get_paths()[0].get_extents() for part in ax.collections]
    assert ends[0].y1 == 2 and ends[1].y0 == -3 and ax.get_ylabel() == "attribution"


def test_waves_are_named_above_the_signal():
    signal = np.tile(BEAT, 2)[:, None]
    waves = [{"R": 60, "T": 80}, {"R": 185}]
    ax = plots.plot_attribution(signal, signal=signal, fs=125, waves=waves)
    assert [text.get_text() for text in ax.texts] == ["R", "T", "R"]
    assert ax.texts[0].get_position()[0] == pytest.approx(480)  # ms


def test_of_many_leads_those_with_the_most_attribution_are_drawn():
    signal = np.tile(BEAT[:, None], (1, 6))
    values = signal * np.arange(6)
    ax = plots.plot_attribution(values, signal=signal, fs=125, leads=list("abcdef"))
    assert [label.get_text() for label in ax.get_yticklabels()] == list("cdef")


def test_an_explanation_has_a_row_per_method_and_the_image_beside_the_signal():
    image = np.random.default_rng(0).random((17, 30, 1))
    found = {"gradcam": explained(image, over_time=False), "shap": explained(image)}
    look = {"fs": 125, "unit": "mV", "leads": ("I",), "signal": BEAT[:, None], "image": image}
    look |= {"freqs_hz": np.linspace(1, 40, 17), "times_s": np.linspace(0, 1, 30)}
    axes = plots.plot_explanation(found, 0, **look, title="row 7").axes
    assert len(axes) == 4 and axes[0].texts[0].get_text() == "no feature map over time"
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == ["", "Grad-CAM, on the image", "SHAP", "SHAP, on the image"]
    assert axes[3].get_ylabel() == "frequency (Hz)" and axes[3].get_xlabel() == "time (ms)"
    given = plots.panels(1, 1, width=4, height=3)
    for name in ("image", "freqs_hz", "times_s"):
        look.pop(name)
    figure = plots.plot_explanation({"lime": explained()}, 0, **look, ax=given)
    assert figure is given[0, 0].figure and given[0, 0].get_title(loc="left") == "LIME"


def test_the_attribution_of_a_spectrum_is_drawn_under_its_line():
    spectrum, freqs_hz = np.linspace(0, 2, 9)[:, None], np.arange(9.0)
    ax = plots.plot_image_attribution(spectrum / 10, image=spectrum, freqs_hz=freqs_hz)
    filled = ax.collections[0].get_paths()[0].get_extents()
    assert filled.y1 == pytest.approx(2), "its largest value is as high as the spectrum"
    assert ax.get_xlabel() == "frequency (Hz)"


def test_averages_leave_out_what_no_beat_has():
    rows = np.tile(BEAT, (8, 1))
    rows[:, :20] = np.nan
    averages = {kind: {"signal": rows, "shap": rows, "lime": -rows} for kind in "NV"}
    figure = plots.plot_averages(averages, fs=125, unit="mV", before=60, qrs_s=(-0.08, 0.12))
    axes = figure.axes
    assert [ax.get_title(loc="left") for ax in axes[:2]] == ["N: SHAP, 8 beats", "N: LIME, 8 beats"]
    assert axes[0].get_xlim() == pytest.approx((-1000 * 40 / 125, 1000 * 64 / 125))
    assert [ax.get_xlabel() for ax in axes[1:3]] == ["", "time from R peak (ms)"]
    assert [ax.get_ylabel() for ax in axes[2:]] == ["mV", ""]
    given = plots.panels(2, 2, width=4, height=4)
    drawn = plots.plot_averages(averages, fs=125, unit="mV", before=60, ax=given)
    assert drawn is given[0, 0].figure


def test_removal_curves_stand_beside_those_of_random_orders():
    share = np.linspace(0, 1, 5)
    result = {"share": share} | {
        name: {"deletion": 1 - share, "insertion": share} for name in ("random", "shap")
    }
    given = plots.panels(1, 2, width=6, height=3)
    figure = plots.plot_removal(result, ["shap"], ax=given)
    assert figure is given[0, 0].figure
    assert [line.get_label() for line in given[0, 1].lines] == ["random", "SHAP"]
    np.testing.assert_allclose(given[0, 0].lines[1].get_ydata(), 1 - share)
    assert given[0, 0].get_xlabel() == "share of the row removed (%)"
