"""The checks of explanations: true ones pass, noise does not; their figures by other means."""

import numpy as np
import pytest
from conftest import toy_dataset
from scipy.stats import bootstrap

from ecg_keras import build_model
from ecg_keras.attribution import Attribution, Probe, gradcam
from ecg_keras.faithfulness import (
    agreement,
    deletion_and_insertion,
    mean_with_interval,
    other_weights,
    planted,
    planted_shares,
)


def test_a_true_explanation_passes_the_checks_and_noise_does_not(trained):
    model, test = trained
    rows = Probe(model, test)[np.flatnonzero(test.y == 1)[:12]]
    targets = np.ones(12, int)
    noise = np.random.default_rng(0).random(rows.x.shape[:3] if rows.is_images else rows.x.shape)
    kinds = {"gradcam": gradcam(rows, targets), "noise": Attribution("noise", noise, None, {})}
    fill = (
        test.x[test.y == 0].mean(axis=0)
        if not rows.is_images
        else Probe(model, test[test.y == 0]).x.mean(axis=0)
    )
    result = deletion_and_insertion(rows, targets, kinds, fill=fill)
    assert result["gradcam"]["deletion_gain"]["ci95"][0] > 0
    assert result["gradcam"]["insertion_gain"]["ci95"][0] > 0
    assert result["noise"]["deletion_gain"]["ci95"][0] <= 0.02  # in probability
    assert result["gradcam"]["deletion"][0] > 0.9 > result["gradcam"]["deletion"][-1]

    kept = [w.copy() for w in rows.network.get_weights()]
    shown = lambda probe, targets: Attribution("row", np.abs(probe.x).sum(axis=-1), None, {})
    ranks = other_weights(
        rows,
        targets,
        {"gradcam": kinds["gradcam"], "row": shown(rows, targets)},
        {"gradcam": gradcam, "row": shown},
    )
    assert ranks["row"]["mean"] > 0.999 > ranks["gradcam"]["mean"]
    for before, after in zip(kept, rows.network.get_weights()):
        np.testing.assert_array_equal(before, after)


@pytest.mark.numeric
def test_agreement_of_a_method_with_itself_is_one():
    rng = np.random.default_rng(0)
    probe = Probe(build_model("cnn1d", like=toy_dataset(3), filters=(4,)), toy_dataset(3))
    said = rng.random((3, 187, 1)).astype(np.float32)
    less = 2 - said
    said[2] = less[2] = 0.0  # a row without differences has no correlation
    one, opposite = (Attribution("a", values, values) for values in (said, less))
    pairs = agreement(probe, {"a": one, "b": one, "c": opposite})
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs["a", "b"]["mean"] == pytest.approx(1) and pairs["a", "b"]["n"] == 2
    unknown = [Attribution("d", a.view, None) for a in (one, opposite)]
    pairs = agreement(probe, {"d": unknown[0], "e": unknown[1]})
    assert -1 <= pairs["d", "e"]["mean"] < 0  # over the cells of the view


@pytest.mark.numeric
def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).normal(size=40)
    found = mean_with_interval([*values, np.nan], n_draws=20_000)
    wanted = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile")
    assert found["mean"] == pytest.approx(values.mean()) and found["n"] == 40
    assert found["ci95"] == pytest.approx(list(wanted.confidence_interval), abs=0.02)
    assert mean_with_interval([np.nan]) == {"mean": None, "ci95": None, "n": 0}


@pytest.mark.slow
def test_the_same_architecture_is_trained_on_planted_rows_and_its_weights_stay():
    ds = toy_dataset(12)
    probe = Probe(build_model("multimodal", like=ds, width=8), ds)  # takes metadata
    kept = probe.network.get_weights()
    found = planted_shares(probe, methods=("gradcam",), n_train=32, n_rows=2, epochs=1)
    assert found["chance"] == 52 / 187 and found["span_s"] == [68 / 125, 120 / 125]
    assert 0 <= found["accuracy"] <= 1 and found["gradcam"]["n"] == 2
    for before, after in zip(kept, probe.network.get_weights()):
        np.testing.assert_array_equal(before, after)


@pytest.mark.numeric
def test_planted_rows_differ_inside_the_span_alone():
    ds = planted(400, leads=("I", "II"), span=(0.2, 0.6), classes=("N", "V", "F"))
    assert ds.x.shape == (400, 187, 2) and ds.classes == ("N", "V", "F") and ds.synthetic
    spread = np.std(ds.x[ds.y == 1], axis=0) - np.std(ds.x[ds.y == 0], axis=0)
    inside = np.zeros(187, bool)
    inside[38:112] = True
    middle = spread[60:90]
    assert middle.min() > 0.05 and np.abs(spread[~inside]).max() < 0.1
    np.testing.assert_array_equal(planted(4).x, planted(4).x)
