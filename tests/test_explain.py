"""Explanations of trained networks: the call, its files, and refusals."""

import importlib.util
import json
import re

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import build_model, explain, fit_and_report, to_spectrograms
from ecg_keras.attribution import Probe, gradcam, lime, shap
from ecg_keras.explain import around_r, default_rows, report_section, verdicts
from ecg_keras.saved_models import load_model, save_served


@pytest.fixture(scope="module")
def small():
    """A network that was never trained, and its rows."""
    ds = toy_dataset(20)
    return build_model("cnn1d", like=ds, filters=(4, 8)), ds


@pytest.fixture(scope="module")
def small_on_images():
    """A network of images that was never trained, its rows, and these as signals."""
    signals = toy_dataset(20)
    images = to_spectrograms(signals)
    return build_model("cnn2d", like=images, filters=(4, 8)), images, signals


@pytest.fixture
def quick(monkeypatch):
    """The module `explain`, with two rows by default and without the training on planted rows."""
    import ecg_keras.explain as module

    monkeypatch.setattr(module.faithfulness, "planted_shares", lambda *args, **kwargs: None)
    monkeypatch.setattr(module, "default_rows", lambda *args, **kwargs: {0: "first", 4: "fifth"})
    return module


def inside(found):
    """Mean share of positive attribution in the planted span, 36 to 64 % of the row."""
    positive = np.maximum(found.signal, 0).sum(axis=2)
    first, last = (round(share * positive.shape[1]) for share in (0.36, 0.64))
    return (positive[:, first:last].sum(axis=1) / positive.sum(axis=1)).mean()


@pytest.mark.slow
def test_at_least_80_percent_of_the_attribution_is_where_the_classes_differ(trained):
    model, test = trained
    probe = Probe(model, test)
    rows, plain = probe[np.flatnonzero(test.y == 1)], probe.x[test.y == 0][:8]
    targets = np.ones(len(rows), int)
    few = rows[np.arange(4)]
    assert inside(gradcam(rows, targets, background=plain)) >= 0.8
    assert inside(shap(few, targets[:4], background=plain)) >= 0.8
    assert inside(lime(few, targets[:4], background=plain)) >= 0.6  # chance: 0.28


@pytest.mark.slow
def test_a_reloaded_model_explains_alike_and_everything_is_written(trained, tmp_path):
    model, test = trained
    save_served(tmp_path / "model.keras", model, test)
    loaded = load_model(tmp_path / "model.keras")
    options = {"methods": ("gradcam", "lime"), "seed": 0}
    found = explain(loaded, test, check_rows=8, plant=False, out_dir=tmp_path / "out", **options)
    same = explain(model, test, rows=found.rows, check_rows=0, **options)
    np.testing.assert_allclose(found["gradcam"].signal, same["gradcam"].signal, atol=1e-5)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {f"explained_{row}.png" for row in found.rows} | {
        "explanations.html",
        "explanations.json",
    }
    numbers = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert numbers["synthetic"] and len(numbers["rows"]) == len(found.rows)
    assert set(verdicts(found)) == {"gradcam", "lime"}
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert "Can the pictures be believed?" in page and page.count("<img") >= len(found.rows) + 1
    with pytest.raises(ValueError, match="fs 100"):
        explain(loaded, test.replace(fs=100))


@pytest.mark.slow
def test_the_section_of_a_report_has_a_heading_a_body_and_pictures(quick, monkeypatch):
    ds = toy_dataset(12)
    model = build_model("multimodal", like=ds, width=8)
    monkeypatch.setattr(quick, "_left_out", lambda *args: {"shap": "it is slow"})
    heading, html, pictures = report_section(model, ds)
    assert heading and "Share of each branch" in html and "deletion gain" in html
    assert set(pictures) >= {"explained_0", "explained_4", "explained_removal"}
    assert all(data[:4] == b"\x89PNG" and caption for data, caption in pictures.values())


@pytest.mark.parametrize(
    "family, options", [("minirocket", {"n_biases": 1}), ("beat_forest", {"trees": 2})]
)
def test_a_family_without_convolutions_is_explained_without_gradcam(family, options, tmp_path):
    ds = toy_dataset(12)
    model = build_model(family, like=ds, **options)
    found = explain(model, ds, rows=[0], check_rows=0, out_dir=tmp_path)
    assert list(found.attributions) == ["shap", "lime"] and list(found.left_out) == ["gradcam"]
    sentence = "Grad-CAM was left out: the model has no convolution layer."
    assert sentence in found.page.read_text()
    numbers = json.loads((tmp_path / "explanations.json").read_text())
    assert numbers["left_out"] == found.left_out and set(numbers["methods"]) == {"shap", "lime"}
    with pytest.raises(ValueError, match="Grad-CAM needs a convolution, the model .* has none"):
        explain(model, ds, rows=[0], methods=["gradcam"])


def test_a_report_of_a_family_without_convolutions_has_its_section(quick):
    ds = toy_dataset(12)
    heading, html, pictures = report_section(build_model("beat_forest", like=ds, trees=2), ds)
    assert heading and "Grad-CAM was left out: the model has no convolution layer." in html
    assert "deletion gain" in html and "explained_removal" in pictures


def test_a_model_that_does_not_look_at_the_signal_is_not_explained_by_it(tmp_path):
    ds = toy_dataset(30)
    model = build_model("rhythm", like=ds, filters=(), members=2)
    found = explain(model, ds, out_dir=tmp_path)
    assert found.attributions == {} and list(found.left_out) == ["gradcam", "shap", "lime"]
    sentence = "LIME was left out: the model says the same whatever the signal is."
    page = found.page.read_text()
    assert sentence in page and "No method passed" not in page and "Red speaks" not in page
    heading, html, pictures = report_section(model, ds)
    assert heading and sentence in html and pictures == {}
    with pytest.raises(ValueError, match="Grad-CAM needs a convolution"):
        explain(model, ds, methods=["gradcam"])
    asked = explain(model, ds, rows=[0], methods=["lime"], check_rows=0)  # is done all the same
    assert list(asked.attributions) == ["lime"] and asked.left_out == {}


def test_shap_is_left_out_where_its_package_is_not_installed(small, monkeypatch):
    model, ds = small
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "shap" else find_spec(name)
    )
    found = explain(model, ds, rows=[0], check_rows=0)
    assert list(found.attributions) == ["gradcam", "lime"]
    assert "pip install 'ecg_keras[explain]'" in found.left_out["shap"]


def test_default_rows_are_hits_misses_and_representative_rows_of_each_class():
    ds = toy_dataset(9)  # classes 0 1 2 0 1 2 ...
    scores = np.full((9, 3), 0.1)
    scores[np.arange(9), ds.y] = np.linspace(0.5, 0.8, 9)
    scores[4] = [0.9, 0.05, 0.05]  # of class 1, surely taken for 0
    chosen = default_rows(ds, scores)
    assert chosen[6] == "N: most confident hit" and chosen[7] == "S: most confident hit"
    assert (
        chosen[4] == "S: most confident miss"
        and sum("representative" in role for role in chosen.values()) == 3
    )


def test_multi_label_rows_are_explained_for_a_true_class():
    ds = toy_dataset(20, multi_label=True, leads=3)
    model = build_model("cnn1d", like=ds, filters=(4, 8))
    found = explain(model, ds, rows=[3, -1], target="true", methods="gradcam", check_rows=0)
    assert (
        found.rows.tolist() == [3, 19]
        and found.targets.tolist() == ds.y[[3, 19]].argmax(axis=1).tolist()
    )
    assert found["gradcam"].signal.shape == (2, 187, 3)
    assert explain(
        model, ds, rows=[0], target="V", methods="gradcam", check_rows=0
    ).targets.tolist() == [2]


@pytest.mark.slow
def test_a_report_on_images_draws_every_row_on_the_beats_it_is_given(
    quick, small_on_images, tmp_path, monkeypatch
):
    model, seen = small_on_images[0], []
    monkeypatch.setattr(quick, "_left_out", lambda *args: {"shap": "slow", "lime": "slow"})
    whole = quick.explain

    def kept(*args, **options):
        seen.append(whole(*args, **options))
        return seen[-1]

    monkeypatch.setattr(quick, "explain", kept)
    beats = toy_dataset(18, seed=1)
    parts = [to_spectrograms(part) for part in (toy_dataset(30), toy_dataset(12, seed=2), beats)]
    options = {"out_dir": tmp_path, "epochs": 1, "progress": False}
    message = "explain must be the 18 signals that test was made of, got rows of shape (17, 187, 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_and_report(model, *parts, explain=beats[np.arange(17)], **options)
    fit_and_report(model, *parts, explain=beats, **options)
    np.testing.assert_array_equal(seen[0].probe.signals, beats.x[seen[0].rows])
    assert "What decided" in (tmp_path / "report.html").read_text()


def test_waveforms_can_be_given_for_images(small_on_images):
    model, images, signals = small_on_images
    options = {"methods": ("gradcam",), "check_rows": 0}
    found = explain(model, images, rows=[2], signals=signals.x, **options)
    np.testing.assert_array_equal(found.probe.signals[0], signals.x[2])
    shown = explain(model, images, **options)  # representative rows come with theirs
    known = np.flatnonzero(np.isfinite(shown.probe.signals).all(axis=(1, 2)))
    assert len(known) == 3
    np.testing.assert_array_equal(shown.probe.signals[known], signals.x[shown.rows[known]])
    with pytest.raises(ValueError, match="signals must have shape"):
        explain(model, images, rows=[2], signals=signals.x[:5])


def test_the_share_around_r_is_that_of_the_qrs():
    rows = np.zeros((5, 125, 1))
    rows[:, 50] = 1.0  # the R peak
    said = np.zeros_like(rows)
    said[:, 50], said[:, 100] = 3.0, 1.0
    signal, values, share = around_r(said, rows, fs=125)
    assert signal.shape == values.shape == (5, 100)  # 0.2 s before R to 0.6 s after it
    assert (signal[:, 25] == 1).all() and (values[:, 25] == 3).all()
    assert share["mean"] == 0.75 and share["of_time"] == pytest.approx(26 / 125)
    assert around_r(said, np.zeros_like(rows), fs=125) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": [99]}, "row 99 is not there: the data set has 20 rows"),
        ({"rows": []}, "rows must be row numbers"),
        ({"rows": [0.5]}, "rows must be row numbers"),
        (
            {"target": "X"},
            "target='X' is not a class; choose 'predicted', 'true' or one of N, S, V",
        ),
        (
            {"methods": ("gradcm",)},
            "methods='gradcm' is not known; choose one of 'gradcam', 'shap', 'lime'",
        ),
        ({"methods": ()}, "methods is empty"),
        ({"layer": "first"}, "layer='first' is not known"),
    ],
)
def test_bad_requests_are_refused(change, message, small):
    model, ds = small
    with pytest.raises(ValueError, match=message):
        explain(model, ds, **{"methods": ("gradcam",), "check_rows": 0, "rows": [0], **change})


def test_rows_of_another_shape_are_refused(small):
    model, ds = small
    with pytest.raises(ValueError, match=r"'signal' needs rows of shape \(187, 1\), .* \(100, 1\)"):
        explain(model, ds.replace(x=ds.x[:, :100]))
    with pytest.raises(
        TypeError, match="ds must be an ECGDataset, as a loader gives it, got ndarray"
    ):
        explain(model, ds.x)


def test_files_of_others_are_not_replaced(small, tmp_path):
    model, ds = small
    few = {"rows": [0], "methods": "gradcam", "check_rows": 0, "out_dir": tmp_path}
    (tmp_path / "explained_0.png").write_text("mine")
    with pytest.raises(ValueError, match="explained_0.png was not written by .*another out_dir"):
        explain(model, ds, **few)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "explained_0.png").rename(tmp_path / "photo.png")
    explain(model, ds, **few)
    explain(model, ds, **few)
    assert (tmp_path / "photo.png").read_text() == "mine"
