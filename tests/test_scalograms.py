"""Scalograms: Morlet wavelets against PyWavelets, and their refusals."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras.grids import ScalogramGrid
from ecg_keras.layers import Scalogram
from ecg_keras.spectrograms import to_scalograms

pytestmark = pytest.mark.numeric

FS = 125.0


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


def test_sine_peaks_at_its_own_frequency():
    x = np.sin(2 * np.pi * 12 * np.arange(1000) / FS)[None, :]
    grid = ScalogramGrid(FS)
    image = to_scalograms(x, fs=FS)[0, :, 50:-50, 0]
    assert (
        abs(np.log2(grid.freqs_hz[image.mean(axis=1).argmax()] / 12)) < np.log2(40) / 31
    )  # one row


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


def test_a_row_does_not_depend_on_its_batch_nor_on_its_scale():
    ds = toy_dataset(6, leads=2)
    loud = ds.x * np.array([1, 1e3, 1, 1, 1e-3, 1], np.float32)[:, None, None]
    np.testing.assert_allclose(to_scalograms(loud, fs=FS), to_scalograms(ds.x, fs=FS), atol=1e-4)
    np.testing.assert_allclose(
        to_scalograms(ds.x[2:3], fs=FS)[0], to_scalograms(ds.x, fs=FS)[2], atol=1e-5
    )


def test_data_set_layer_and_saved_model_agree(tmp_path):
    ds = toy_dataset(5, leads=2)
    images = to_scalograms(ds, size=(24, 20))
    assert (
        images.x.shape == (5, 24, 20, 2)
        and images.grid == ScalogramGrid(FS, size=(24, 20))
        and images.is_images
    )
    inputs = keras.Input((187, 2))
    model = keras.Model(inputs, Scalogram(images.grid)(inputs))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras").predict(ds.x, verbose=0)
    np.testing.assert_allclose(again, images.x, atol=1e-5)


def test_a_flat_signal_is_finite():
    assert np.isfinite(to_scalograms(np.zeros((1, 187)), fs=FS)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high_hz": 70.0}, "below fs / 2 = 62.5 Hz, got 1 to 70 Hz"),
        ({"low_hz": 50.0}, "frequencies must rise"),
        ({"n_freqs": 1}, "n_freqs must be a whole number, at least 2, got 1"),
        ({"hop_length": 0}, "hop_length"),
    ],
)
def test_wrong_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScalogramGrid(FS, **options)


def test_rgb_of_several_leads_is_refused():
    with pytest.raises(ValueError, match="rgb=True colours one lead, got 2 leads"):
        to_scalograms(toy_dataset(3, leads=2), rgb=True)
    assert to_scalograms(toy_dataset(3), rgb=True).x.shape == (3, 32, 38, 3)
