"""Attributions against answers that follow from the network's weights."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import build_model, to_spectrograms
from ecg_keras.attribution import (
    Cells,
    Probe,
    branch_shares,
    gradcam,
    lime,
    shap,
    spectrum_to_signal,
)
from ecg_keras.faithfulness import planted
from ecg_keras.keras_graph import feature_maps

pytestmark = pytest.mark.numeric


@pytest.fixture(autouse=True)
def _same_weights():
    keras.utils.set_random_seed(0)


def linear_network(ds):
    """A softmax of two classes straight from the samples: log-odds are linear in the row."""
    inputs = keras.Input(ds.x.shape[1:], name="signal")
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))


def test_gradcam_is_the_class_activation_map_where_a_network_ends_in_one_dense_layer():
    ds = planted(6)
    model = build_model("cnn1d", like=ds, filters=(4, 6), dense_units=(), dropout=0)
    inner = keras.Model(model.inputs[0], model.get_layer("features").output)
    features = keras.ops.convert_to_numpy(inner.predict(ds.x, verbose=0))
    kernel = keras.ops.convert_to_numpy(model.get_layer("probabilities").kernel)
    cam = np.maximum(
        features @ (kernel[:, 1] - kernel[:, 0]), 0
    )  # Zhou et al., CVPR 2016, of the log-odds
    n = cam.shape[1]
    at = np.clip((np.arange(187) + 0.5) * n / 187 - 0.5, 0, n - 1)
    expected = np.stack([np.interp(at, np.arange(n), row) for row in cam])
    expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    assert expected.any()
    for weights in ("mean", "elementwise"):
        found = gradcam(
            Probe(model, ds), np.ones(6, int), layer="last", weights=weights, guided=False
        )
        np.testing.assert_allclose(found.signal[:, :, 0], expected, atol=1e-6)  # shares of 1


@pytest.mark.parametrize("name", ["cnn1d", "cnn2d"])
def test_guided_gradcam_is_the_map_times_what_each_input_adds(name):
    ds = planted(6)
    model = build_model(name, like=ds, filters=(4, 6), dropout=0)
    probe = Probe(model, ds)
    targets, back = np.ones(6, int), probe.x[:2]
    plain, guided = (gradcam(probe, targets, guided=g, background=back).view for g in (False, True))
    for row in range(6):
        places = np.argsort(guided[row], axis=None)[-6:]  # the six that count most
        own, step = np.repeat(probe.x[[row]], 12, axis=0), np.repeat([0.0005, -0.0005], 6)
        own.reshape(12, -1)[np.arange(12), np.tile(places, 2)] += step
        up, down = probe.log_odds(own)[:, 1].reshape(2, 6)
        added = np.maximum(
            (up - down) / 0.001 * (probe.x[row] - back.mean(axis=0)).ravel()[places], 0
        )
        expected, found = plain[row].ravel()[places] * added, guided[row].ravel()[places]
        np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=0.02)


def test_shap_and_lime_give_the_weights_of_a_linear_network():
    ds = planted(40)
    model = linear_network(ds)
    probe = Probe(model, ds)[np.arange(3)]
    kernel = keras.ops.convert_to_numpy(model.layers[-1].kernel)
    slope = (kernel[:, 1] - kernel[:, 0])[:, None]
    targets, back = np.ones(3, int), ds.x[20:28]
    exact = slope * (ds.x[:3] - back.mean(axis=0))
    for method, tolerance in ((shap, 1e-4), (lime, 0.05)):  # nats; LIME's ridge shrinks a little
        found = method(probe, targets, background=back, cells_per_lead=12)
        np.testing.assert_allclose(
            found.quality["cells"], Cells(probe, 12).gather(exact), atol=tolerance
        )
    assert found.quality["r2"].min() > 0.98


def test_shap_sums_to_the_difference_of_log_odds():
    ds = to_spectrograms(planted(16))
    model = build_model("cnn2d", like=ds, filters=(4, 8))
    back = ds.x[4:8]
    found = shap(Probe(model, ds)[np.arange(2)], np.array([0, 1]), background=back, max_evals=100)
    odds = lambda x: (
        np.log(p := keras.ops.convert_to_numpy(model.predict(x, verbose=0)).astype(float))
        - np.log(1 - p)
    )
    for row, target in enumerate((0, 1)):
        difference = odds(ds.x[row : row + 1])[0, target] - odds(back)[:, target].mean()
        assert abs(found.image[row].sum() - difference) < 0.02 * abs(difference)
        assert abs(found.signal[row].sum() - difference) < 0.02 * abs(difference)
    assert found.quality["additivity"].max() < 0.02


@pytest.mark.parametrize("name", ["resnet1d", "cnn2d", "multimodal", "hybrid"])
def test_a_row_does_not_depend_on_its_batch(name):
    ds = toy_dataset(12)
    few = {"filters": (4, 8)}
    branches = {"branches": ("time", "spectrogram"), "options": {"time": few, "spectrogram": few}}
    options = {"hybrid": branches, "multimodal": {"width": 4}}.get(name, few)
    probe = Probe(build_model(name, like=ds, **options), ds)
    whole = gradcam(probe, ds.y, background=probe.x)
    alone = gradcam(probe[[5]], ds.y[[5]], background=probe.x)
    assert whole.signal.shape == ds.x.shape
    np.testing.assert_allclose(alone.signal[0], whole.signal[5], atol=1e-6)
    assert np.isfinite(whole.signal).all() and (whole.signal >= 0).all()


def test_an_image_and_its_signal_have_equal_sums_and_known_axes():
    ds = toy_dataset(8)
    probe = Probe(build_model("cnn2d", like=ds, filters=(4, 8)), ds)
    found = lime(probe[[0, 1]], ds.y[:2], n_draws=50)
    assert (
        found.image.shape
        == (2, len(probe.freqs_hz), len(probe.times_s))
        == (2, *probe.x.shape[1:3])
    )
    np.testing.assert_allclose(
        found.image.sum(axis=(1, 2)), found.signal.sum(axis=(1, 2)), rtol=1e-4
    )
    assert probe.freqs_hz[-1] == 62.5 and probe.times_s[1] == probe.grid.hop_length / 125


def test_a_model_with_the_image_inside_explains_as_one_given_images():
    ds = toy_dataset(6)
    model = build_model("cnn2d", like=ds, filters=(4, 8))
    twin = build_model("cnn2d", like=to_spectrograms(ds), filters=(4, 8))
    twin.set_weights(model.get_weights())
    inside, given = (
        gradcam(Probe(m, d), ds.y) for m, d in ((model, ds), (twin, to_spectrograms(ds)))
    )
    np.testing.assert_allclose(inside.image, given.image, atol=1e-5)
    assert inside.image.max() > 0


def test_maps_are_found_in_nested_branches_and_finer_where_asked():
    ds = toy_dataset(6)
    model = build_model("hybrid", like=ds, branches=("time", "spectrum", "spectrogram"))
    last = feature_maps(model, None)
    assert [(m.branch, m.kind) for m in last] == [
        ("time", "time"),
        ("spectrum", "frequency"),
        ("spectrogram", "image"),
    ]
    fine = feature_maps(model, None, step_s=0.08, duration_s=187 / 125)
    assert [m.layer.output.shape[-2] for m in (last[0], fine[0])] == [12, 24]


def test_branches_sum_to_the_difference_from_the_background():
    ds = toy_dataset(20)
    probe = Probe(build_model("multimodal", like=ds, width=8), ds)
    own, back = probe[np.arange(3)], probe[np.arange(3, 11)]
    values = branch_shares(own, ds.y[:3], background=back)
    assert list(values) == ["time", "spectrum", "metadata"]
    difference = own.log_odds()[np.arange(3), ds.y[:3]] - back.log_odds()[:, ds.y[:3]].mean(axis=0)
    np.testing.assert_allclose(sum(values.values()), difference, atol=1e-4)


def test_crops_of_long_records_are_explained_over_the_record():
    ds = toy_dataset(8, samples=500, leads=2)
    short = ds.replace(x=ds.x[:, :200])
    probe = Probe(build_model("resnet1d", like=short, filters=(4, 8)), ds)
    assert gradcam(probe, ds.y).signal.shape == ds.x.shape
    assert lime(probe[[0]], ds.y[:1], n_draws=60).signal.shape == (1, 500, 2)


def test_crops_inside_a_network_are_explained_where_they_lie():
    ds = toy_dataset(8, samples=500)
    own = {"crop_s": 1.6, "filters": (4, 8)}
    model = build_model(
        "hybrid",
        like=ds,
        branches=("time", "spectrogram"),
        options={"time": own, "spectrogram": own},
    )
    probe = Probe(model, ds)
    whole = gradcam(probe, ds.y, guided=False)
    alone = gradcam(probe[[5]], ds.y[[5]], guided=False)
    assert whole.signal.shape == ds.x.shape and (whole.signal >= 0).all()
    np.testing.assert_allclose(alone.signal[0], whole.signal[5], atol=1e-6)
    assert whole.quality["step_ms"] == pytest.approx(1600 / 25) or whole.quality["step_ms"] <= 80
    for m in feature_maps(model, None):
        assert m.crops.starts == [0, 100, 200, 300] and m.n_crops == 4
    quiet = ds.x.copy()
    quiet[:, 250:] = 0  # crops that see nothing there add nothing there
    silent = gradcam(
        Probe(model, ds.replace(x=quiet)), ds.y, background=np.zeros_like(quiet)
    ).signal[..., 0]
    assert not silent[:, 250:].any() and silent[:, :250].sum() > 4


def test_log_odds_are_those_of_the_probabilities():
    for multi_label in (False, True):
        ds = toy_dataset(10, multi_label=multi_label)
        model = build_model("cnn1d", like=ds, filters=(4,))
        p = keras.ops.convert_to_numpy(model.predict(ds.x, verbose=0))
        np.testing.assert_allclose(Probe(model, ds).probabilities(), p, atol=1e-5)


def test_a_network_without_convolutions_is_told_what_to_use():
    ds = planted(4)
    with pytest.raises(ValueError, match="none; use methods="):
        gradcam(Probe(linear_network(ds), ds), ds.y)


def test_cells_cover_a_row_once():
    ds = toy_dataset(2, leads=3)
    probe = Probe(build_model("cnn1d", like=ds, filters=(4,)), ds)
    cells = Cells(probe, 48)
    values = np.random.default_rng(0).normal(size=(2, cells.n))
    np.testing.assert_allclose(cells.gather(cells.spread(values)), values)
    assert cells.tree()[-1, 3] == cells.n and len(cells.tree()) == cells.n - 1


@pytest.mark.parametrize("crop_s", [None, 1.0])
def test_what_a_spectrum_adds_is_found_where_its_energy_is(crop_s):
    ds = planted(60)
    burst = np.zeros((187, 1), np.float32)
    burst[60:85, 0] = np.hanning(25) * np.sin(2 * np.pi * 25 * np.arange(25) / ds.fs)
    ds = ds.replace(x=(ds.x + ds.y[:, None, None] * burst).astype(np.float32))
    model = build_model(
        "fft_transformer",
        like=ds,
        width=16,
        depth=1,
        **({} if crop_s is None else {"crop_s": crop_s}),
    )
    probe = Probe(model, ds[:6])
    found = gradcam(probe, ds.y[:6])
    assert found.signal.shape == (6, 187, 1)
    sums = found.signal.sum(
        axis=(1, 2)
    )  # an untrained network may find nothing that speaks for a class
    assert (sums == 0).sum() == found.quality["empty"] < 6 and np.allclose(
        sums[sums > 0], 1, rtol=1e-4
    )
    if crop_s is None:
        bands = np.zeros((6, len(probe.freqs_hz)))
        bands[:, np.abs(probe.freqs_hz - 25).argmin()] = 1
        shared = spectrum_to_signal(bands, probe.signals, probe.freqs_hz, probe.fs)
        inside = shared[ds.y[:6] == 1][:, 50:95].sum(axis=(1, 2))
        assert (inside > 0.8).all() and np.allclose(shared.sum(axis=(1, 2)), 1)
        for method in (shap, lime):
            values = method(probe, ds.y[:6], background=probe.x[:2])
            np.testing.assert_allclose(
                values.signal.sum(axis=(1, 2)), values.view.sum(axis=1), rtol=1e-3, atol=1e-4
            )


def test_a_map_of_convolutions_without_padding_covers_the_middle():
    ds = to_spectrograms(planted(4))
    stem, full = (
        feature_maps(build_model("cnn2d", like=ds, stem_padding=p), ds.grid)[0].extent
        for p in ("valid", "same")
    )
    np.testing.assert_allclose(
        stem, [[2 / 17, 15 / 17], [1.5 / 32, 29.5 / 32]]
    )  # kernel 5, strides 1 and 2
    np.testing.assert_allclose(full, [[0, 1], [0, 1]])
