"""Spectra: the Fourier magnitude against NumPy, its resolution and its refusals."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras.grids import SpectrumGrid
from ecg_keras.layers import Spectrum
from ecg_keras.spectrograms import to_spectra

pytestmark = pytest.mark.numeric

FS = 125.0


def test_sine_peaks_at_its_own_frequency():
    x = np.sin(2 * np.pi * 12.5 * np.arange(1000) / FS)[None, :]
    grid = SpectrumGrid(FS, resolution_hz=0.5)
    assert abs(grid.freqs_hz(1000)[to_spectra(x, grid=grid)[0, :, 0].argmax()] - 12.5) <= 0.5


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


def test_an_offset_and_the_batch_change_nothing():
    ds = toy_dataset(4, leads=2)
    np.testing.assert_allclose(to_spectra(ds.x + 3, fs=FS), to_spectra(ds.x, fs=FS), atol=1e-2)
    np.testing.assert_allclose(
        to_spectra(ds.x[2:3], fs=FS)[0], to_spectra(ds.x, fs=FS)[2], atol=1e-4
    )


def test_data_set_layer_and_saved_model_agree(tmp_path):
    ds = toy_dataset(5, leads=2)
    spectra = to_spectra(ds, resolution_hz=1.0)
    assert spectra.x.shape[2] == 2 and not spectra.is_images and spectra.grid.resolution_hz == 1.0
    inputs = keras.Input((187, 2))
    model = keras.Model(inputs, Spectrum(spectra.grid)(inputs))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras").predict(ds.x, verbose=0)
    np.testing.assert_allclose(again, spectra.x, atol=1e-4)


def test_linear_magnitude_is_a_share_of_the_peak():
    x = np.random.default_rng(0).standard_normal((2, 200, 1))
    shares = to_spectra(x, grid=SpectrumGrid(100, log=False))
    assert shares.max(axis=(1, 2)).tolist() == pytest.approx([1, 1]) and shares.min() >= 0


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="resolution_hz must be above 0"):
        SpectrumGrid(FS, resolution_hz=0.0)
    with pytest.raises(ValueError, match="less than 4 rows; choose a finer resolution_hz"):
        SpectrumGrid(FS, resolution_hz=30.0).n_freqs(187)
    with pytest.raises(ValueError, match="images or spectra already"):
        to_spectra(to_spectra(toy_dataset(3)))
