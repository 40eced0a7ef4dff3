"""Layers against PyWavelets, NumPy and scikit-learn; crops; saving."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from sklearn.ensemble import ExtraTreesClassifier

from ecg_keras import ScalogramGrid, SpectrogramGrid, SpectrumGrid, build_model
from ecg_keras.layers import (
    _NODE,
    AverageBeat,
    Card,
    Crops,
    LateMean,
    MeanOfCrops,
    MiniRocket,
    Positions,
    Scalogram,
    Spectrogram,
    Spectrum,
    Standardize,
    Trees,
    crop_length,
    model_card,
)
from ecg_keras.saved_models import predict
from ecg_keras.spectrograms import to_spectra, to_spectrograms

pytestmark = pytest.mark.numeric
FS = 125.0


def numpy(tensor):
    """A tensor of any backend as an array."""
    return keras.ops.convert_to_numpy(tensor)


def _ecg_like(n, fs, leads=1, seed=0):
    """Narrow peaks on a slow wave with a little noise, (1, n, leads)."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / fs
    peaks = sum(np.exp(-(((t - at) / 0.02) ** 2)) for at in np.arange(0.3, n / fs, 0.8))
    one = [
        peaks + 0.3 * np.sin(2 * np.pi * 0.7 * t + phase) + 0.02 * rng.standard_normal(n)
        for phase in range(leads)
    ]
    return np.stack(one, axis=-1)[None].astype(np.float32)


@pytest.mark.parametrize(("n", "fs"), [(187, 125.0), (1000, 100.0), (5000, 500.0)])
def test_magnitude_agrees_with_pywavelets(n, fs):
    pywt = pytest.importorskip("pywt")
    grid = ScalogramGrid(fs, n_freqs=12)
    x = _ecg_like(n, fs, leads=2)
    ours = np.sqrt(np.asarray(Scalogram(grid).power(x)))[0]  # (freqs, frames, leads)
    for lead in range(2):
        scales = pywt.frequency2scale("cmor1.5-1.0", grid.freqs_hz / fs)
        theirs = np.abs(pywt.cwt(x[0, :, lead].astype(np.float64), scales, "cmor1.5-1.0")[0])[
            :, :: grid.hop_length
        ]
        np.testing.assert_allclose(
            ours[:, :, lead], theirs, atol=1e-3 * theirs.max(), rtol=0
        )  # of the largest
        each = np.abs(ours[:, :, lead] - theirs).max(axis=1) / theirs.max(axis=1)
        assert each.max() < 1e-3, each  # of the largest in each row


def test_power_agrees_with_numpy():
    x = np.random.default_rng(0).standard_normal((3, 187, 2)).astype(np.float32)
    ours = np.asarray(Spectrum(SpectrumGrid(FS, max_hz=FS)).power(x))
    theirs = np.abs(np.fft.rfft(x.astype(np.float64) - x.mean(axis=1, keepdims=True), axis=1)) ** 2
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * theirs.max())
    decibels = 10 * np.log10(theirs / theirs.max(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(
        to_spectra(x, grid=SpectrumGrid(FS, max_hz=FS)), np.maximum(1 + decibels / 60, 0), atol=1e-3
    )


def test_finer_resolution_is_zero_padding_and_coarser_is_averaged_power():
    x = np.random.default_rng(0).standard_normal((2, 200, 1)).astype(np.float32)
    padded = np.abs(np.fft.rfft(x - x.mean(axis=1, keepdims=True), n=400, axis=1)) ** 2
    fine = np.asarray(Spectrum(SpectrumGrid(100, resolution_hz=0.25)).power(x))
    np.testing.assert_allclose(fine, padded, atol=1e-5 * padded.max())
    coarse = np.asarray(Spectrum(SpectrumGrid(100, resolution_hz=1.0)).power(x))
    np.testing.assert_allclose(
        coarse, padded[:, :200:2].reshape(2, -1, 2, 1).mean(axis=2), atol=1e-5 * padded.max()
    )


def test_layers_save_and_load(tmp_path):
    signals = toy_dataset(4).x
    inputs = keras.Input((187, 1))
    x = Standardize(np.zeros((187, 1)), np.full((187, 1), 2.0))(inputs)
    x = Spectrogram(SpectrogramGrid(FS, size=(16, 16)))(x)
    outputs = Card({"classes": ["N"], "fs": FS})(x)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        model.predict(signals, verbose=0), loaded.predict(signals, verbose=0)
    )
    assert model_card(loaded) == {"classes": ["N"], "fs": FS}


@pytest.mark.parametrize(
    "layer",
    [
        Spectrogram(SpectrogramGrid(FS, size=(16, 16))),
        Scalogram(ScalogramGrid(FS)),
        Spectrum(SpectrumGrid(FS, log=False)),
        Standardize([1.0, 2.0], [0.5, 0.0]),
        Card({"classes": ["N"]}),
        Crops([0, 40], 60, random=True, seed=3),
        MeanOfCrops(2, random=True),
        Positions(),
        LateMean([1], weights=[1, 2]),
        MiniRocket([1, 4], n_biases=2, seed=3),
        AverageBeat(FS, before_s=0.2),
        Trees(2, 3, 4, 5, boosted=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_made_again_from_its_config(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    assert keras.saving.get_registered_name(type(layer)) == f"ecg_keras>{type(layer).__name__}"
    assert layer.trainable == isinstance(layer, LateMean)


def test_positions_tell_the_order():
    x = keras.random.normal((1, 10, 16), seed=0)
    moved = np.asarray(Positions()(x))
    assert np.abs(moved - np.asarray(Positions()(keras.ops.flip(x, axis=1)))[:, ::-1]).max() > 0.5


def test_minirocket_counts_positive_values_of_its_kernels():
    x = np.random.default_rng(0).normal(size=(4, 100, 3)).astype(np.float32)
    layer = MiniRocket([1, 4], n_biases=2, seed=3)
    layer.adapt(x)
    shares = keras.ops.convert_to_numpy(layer(x)).reshape(4, 2, 2, 84)
    for i, dilation in enumerate(layer.dilations):
        kernel = keras.ops.convert_to_numpy(layer.kernels)[i, :, :, 40]  # (9, leads)
        assert sorted(set(kernel[:, kernel.any(axis=0)].ravel())) == [-1, 2]
        padded = np.pad(x, ((0, 0), (4 * dilation, 4 * dilation), (0, 0)))
        values = sum(
            padded[:, tap * dilation : tap * dilation + 100] @ kernel[tap] for tap in range(9)
        )
        for j in range(2):
            bias = float(keras.ops.convert_to_numpy(layer.biases)[i, j, 40])
            np.testing.assert_allclose(
                shares[:, i, j, 40], (values > bias).mean(axis=1), atol=0.011
            )  # one sample


def test_dilations_longer_than_the_signals_are_refused():
    with pytest.raises(ValueError, match="dilations up to 4 reach over 33 samples, .* have 30"):
        MiniRocket([1, 4])(np.zeros((1, 30, 1), np.float32))


def test_training_sees_one_crop_from_a_random_start():
    x = np.arange(1000, dtype=np.float32).reshape(1, 100, 10).repeat(8, axis=0)[:, :, :1]
    layer, mean = Crops([0, 40], 60, random=True, seed=3), MeanOfCrops(2, random=True)
    first, second = (numpy(layer(x, training=True)) for _ in range(2))
    assert (
        first.shape == (8, 60, 1)
        and len(set(first[:, 0, 0])) > 2
        and not np.array_equal(first, second)
    )
    np.testing.assert_array_equal(np.diff(first[:, :, 0], axis=1), 10)
    assert numpy(mean(first, training=True)).shape == first.shape
    assert numpy(layer(x)).shape == (16, 60, 1)


def test_a_model_of_images_or_of_whole_signals_has_no_crops():
    ds = toy_dataset(3)

    def model(shape, name):
        signal = keras.Input(shape, name=name)
        return keras.Model(signal, keras.layers.Identity()(signal))

    assert crop_length(model((100, 1), "signal"), ds) == 100
    assert crop_length(model((187, 1), "signal"), ds) is None
    images = to_spectrograms(ds)
    assert crop_length(model(images.x.shape[1:], "image"), images) is None


def beats_of_a_known_shape(fs, *, noise=0.0, seconds=10):
    """Three records of two leads: a sharp R at known times, and a T wave of 0.3 after each."""
    rng, t = np.random.default_rng(0), np.arange(round(seconds * fs)) / fs
    x, times = np.zeros((3, len(t), 2)), []
    for row, period in enumerate((0.6, 0.85, 1.3)):
        times.append(np.arange(0.5, seconds - 0.6, period))
        for r in times[-1]:
            wave = np.exp(-0.5 * ((t - r) / 0.012) ** 2) + 0.3 * np.exp(
                -0.5 * ((t - r - 0.25) / 0.04) ** 2
            )
            x[row] += wave[:, None] * (1.0, -0.5)
    return (x + 0.2 + noise * rng.normal(size=x.shape)).astype(np.float32), times


@pytest.mark.parametrize("fs", [100.0, 500.0])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_average_beat_has_the_shape_of_every_beat(fs, noise):
    x, _ = beats_of_a_known_shape(fs, noise=noise)
    found = numpy(AverageBeat(fs)(x))
    assert (
        found.shape == (3, 2 * (70 + 68)) == (3, AverageBeat(fs).compute_output_shape(x.shape)[1])
    )
    beat = found[:, :140].reshape(3, 70, 2)
    assert (np.abs(beat[:, :, 0].argmax(axis=1) - 25) <= 1).all()
    assert (beat[:, 24:27, 0].max(axis=1) > 0.75).all() and (
        beat[:, 24:27, 1].min(axis=1) < -0.37
    ).all()
    np.testing.assert_allclose(
        beat[:, 48:52, 0].mean(axis=1), 0.3, atol=0.04
    )  # the T wave, above the level before QRS
    slopes = found[:, 140:].reshape(3, 68, 2)
    np.testing.assert_allclose(slopes, beat[:, 2:] - beat[:, :-2], atol=1e-5)


def test_an_average_beat_does_not_depend_on_its_batch_and_bears_a_flat_line():
    x, _ = beats_of_a_known_shape(100.0, noise=0.05)
    x[2] = 0.0
    layer = AverageBeat(100.0)
    whole = numpy(layer(x))
    np.testing.assert_allclose(numpy(layer(x[1:2])), whole[1:2], atol=1e-6)
    assert not whole[2].any() and np.isfinite(whole).all()


def test_signals_too_short_for_an_average_are_refused():
    with pytest.raises(
        ValueError, match="average beat of 0.7 s needs signals at least twice as long, got 1 s"
    ):
        AverageBeat(100.0)(np.zeros((1, 100, 1), np.float32))


def test_trees_say_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 2, (300, 2))
    forests = [
        ExtraTreesClassifier(7, min_samples_leaf=4, random_state=0).fit(x, column) for column in y.T
    ]
    trees = [tree.tree_ for forest in forests for tree in forest.estimators_]
    layer = Trees(2, 7, max(t.node_count for t in trees), max(t.max_depth for t in trees))
    fresh = rng.normal(size=(50, 6)).astype(np.float32)
    layer(fresh)
    shares = lambda tree: tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
    layer.plant(
        [[(tree.tree_, shares(tree.tree_)) for tree in forest.estimators_] for forest in forests]
    )
    p = np.stack([forest.predict_proba(fresh)[:, 1] for forest in forests], axis=1).clip(
        1e-3, 1 - 1e-3
    )
    np.testing.assert_allclose(numpy(layer(fresh)), np.log(p / (1 - p)), atol=1e-4)


def test_trees_are_saved_by_name(tmp_path, monkeypatch):
    beats = toy_dataset(30)
    model = build_model("beat_forest", like=beats, trees=3, boosted=2)
    before = predict(model, beats)
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr(
        "ecg_keras.layers._NODE", dict(reversed(_NODE.items()))
    )  # as if the order had changed since
    np.testing.assert_allclose(
        predict(keras.saving.load_model(tmp_path / "model.keras"), beats), before, atol=1e-6
    )
