"""Images and spectra of arrays and data sets: physics, SciPy as a judge, and refusals."""

import keras
import numpy as np
import pytest
import scipy.signal
from conftest import real_data, toy_dataset

from ecg_keras import (
    ScalogramGrid,
    SpectrogramGrid,
    SpectrumGrid,
    to_scalograms,
    to_spectra,
    to_spectrograms,
)
from ecg_keras.layers import representation

pytestmark = pytest.mark.numeric
FS = 125.0


def sine(hz, n=187):
    return np.sin(2 * np.pi * hz * np.arange(n) / FS)[None, :]


def beats(n=32):
    rng = np.random.default_rng(0)
    x = np.exp(
        -0.5 * ((np.arange(187) - rng.uniform(20, 60, (n, 1))) / rng.uniform(2, 8, (n, 1))) ** 2
    )
    return (x + 0.02 * rng.random((n, 187))).astype(np.float32)


def scipy_db(x, grid):
    """dB below each row's peak by scipy's short-time transform, shape (n, freqs, frames)."""
    half = grid.frame_length // 2
    padded = (
        np.pad(x.astype(np.float64), ((0, 0), (half, half)), mode="reflect")
        if grid.center
        else x.astype(np.float64)
    )
    _, _, z = scipy.signal.stft(
        padded, fs=grid.fs, nperseg=grid.frame_length, noverlap=grid.frame_length - grid.hop_length,
        boundary=None, padded=False,
    )  # fmt: skip
    power = np.abs(z) ** 2
    return 10 * np.log10(np.maximum(power / power.max(axis=(1, 2), keepdims=True), 1e-30))


def test_sine_peaks_at_its_own_frequency():
    image = to_spectrograms(sine(25.0), fs=FS)[0, :, :, 0]
    grid = SpectrogramGrid(FS)
    assert abs(grid.freqs_hz[image.mean(axis=1).argmax()] - 25.0) <= FS / 32  # one bin


def test_a_click_shows_at_its_own_time():
    click = np.zeros((1, 187))
    click[0, 125] = 1.0
    image = to_spectrograms(click, fs=FS)[0, :, :, 0]
    assert (
        abs(SpectrogramGrid(FS).times_s(187)[image.mean(axis=0).argmax()] - 1.0) <= 6 / FS
    )  # one hop


@pytest.mark.parametrize("options", [{}, {"center": False}, {"frame_length": 64, "hop_length": 12}])
def test_agrees_with_scipy_above_the_floor(options):
    grid = SpectrogramGrid(FS, **options)
    expected = scipy_db(beats(), grid)
    got = (to_spectrograms(beats(), fs=FS, grid=grid)[..., 0].astype(np.float64) - 1) * grid.top_db
    above = expected > -grid.top_db
    assert above.mean() > 0.1
    assert np.abs(got - expected)[above].max() < 1e-4  # dB
    assert np.abs(got[~above] + grid.top_db).max() < 1e-3  # dB; at the floor


def test_agrees_with_scipy_on_measured_beats():
    with np.load(real_data("heartbeat") / "beats.npz") as file:
        x = file["x_test"][:2000].astype(np.float32)
    grid = SpectrogramGrid(FS)
    expected = scipy_db(x, grid)
    got = (to_spectrograms(x, fs=FS)[..., 0].astype(np.float64) - 1) * grid.top_db
    assert np.abs(got - expected)[expected > -grid.top_db].max() < 1e-4  # dB


def test_a_beat_does_not_depend_on_its_batch():
    loud = beats(4) * np.array([1, 1e6, 1, 1])[:, None]
    np.testing.assert_array_equal(
        to_spectrograms(loud, fs=FS)[0], to_spectrograms(beats(4), fs=FS)[0]
    )


def test_values_lie_between_floor_and_peak_and_scale_does_not_matter():
    image = to_spectrograms(beats(), fs=FS)
    assert image.min() >= 0 and image.max() == 1
    np.testing.assert_allclose(to_spectrograms(beats() * 1000, fs=FS), image, atol=1e-5)


def test_an_all_zero_beat_is_all_floor():
    assert np.abs(to_spectrograms(np.zeros((1, 187)), fs=FS)).max() < 1e-6


def test_leads_keep_their_own_channel():
    x = np.stack([sine(10)[0], sine(40)[0]], axis=-1)[None]
    image = to_spectrograms(x, fs=FS)[0].mean(axis=1)
    freqs = SpectrogramGrid(FS).freqs_hz
    assert np.abs(freqs[image.argmax(axis=0)] - [10, 40]).max() <= FS / 32


def test_size_and_colour():
    image = to_spectrograms(beats(3), fs=FS, size=(128, 128), rgb=True)
    assert image.shape == (3, 128, 128, 3) and image.min() >= 0 and image.max() <= 1


def test_a_data_set_keeps_everything_else():
    ds = toy_dataset(n=9, patients=True)
    images = to_spectrograms(ds)
    assert images.is_images and images.grid == SpectrogramGrid(125.0) and images.n_samples == 187
    np.testing.assert_array_equal(images.y, ds.y)
    np.testing.assert_array_equal(images.patients, ds.patients)


def test_batches_do_not_show_in_the_result(monkeypatch):
    whole = to_spectrograms(beats(20), fs=FS)
    monkeypatch.setattr("ecg_keras.spectrograms._BATCH_BYTES", 50e3)
    np.testing.assert_allclose(to_spectrograms(beats(20), fs=FS), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("signals", "options", "message"),
    [
        (np.zeros(187), {"fs": FS}, r"add the batch axis with signals\[None, :\]"),
        (np.zeros((2, 12)), {"fs": FS}, "signals of 12 samples are too short for frame_length=32"),
        (np.full((2, 187), np.inf), {"fs": FS}, "NaN or infinite samples in 2 of 2"),
        (np.zeros((2, 187, 2)), {"fs": FS, "rgb": True}, "rgb=True colours one lead, got 2"),
        (np.zeros((2, 187)), {"fs": FS, "size": 128}, "size must be"),
        (np.zeros((2, 187)), {"fs": 250.0, "grid": SpectrogramGrid(FS)}, "grid is for 125 Hz"),
    ],
)
def test_what_cannot_be_transformed_is_refused(signals, options, message):
    with pytest.raises(ValueError, match=message):
        to_spectrograms(signals, **options)


def test_images_are_not_transformed_again():
    with pytest.raises(ValueError, match="images or spectra already"):
        to_spectrograms(to_spectrograms(toy_dataset(n=3)))
    with pytest.raises(ValueError, match="images or spectra already"):
        to_spectra(to_spectra(toy_dataset(3)))


def test_a_rate_is_needed_for_arrays():
    with pytest.raises(TypeError, match="fs, the sampling rate in Hz"):
        to_spectrograms(np.zeros((1, 187)))
    with pytest.raises(ValueError, match="fs=250 Hz, but the data set has 125 Hz"):
        to_spectrograms(toy_dataset(3), fs=250.0)
    with pytest.raises(ValueError, match="grid is for 250 Hz, the signals have 125 Hz"):
        to_spectrograms(toy_dataset(3), grid=SpectrogramGrid(250.0))


def test_an_option_changes_only_itself_in_a_grid_that_was_given():
    grid = SpectrogramGrid(FS, size=(16, 12))
    assert to_spectrograms(beats(2), grid=grid, rgb=True).shape == (2, 16, 12, 3)


def test_a_sine_peaks_at_its_own_frequency_in_a_scalogram():
    x = np.sin(2 * np.pi * 12 * np.arange(1000) / FS)[None, :]
    grid = ScalogramGrid(FS)
    image = to_scalograms(x, fs=FS)[0, :, 50:-50, 0]
    assert (
        abs(np.log2(grid.freqs_hz[image.mean(axis=1).argmax()] / 12)) < np.log2(40) / 31
    )  # one row


def test_a_sine_peaks_at_its_own_frequency_in_a_spectrum():
    x = np.sin(2 * np.pi * 12.5 * np.arange(1000) / FS)[None, :]
    grid = SpectrumGrid(FS, resolution_hz=0.5)
    assert abs(grid.freqs_hz(1000)[to_spectra(x, grid=grid)[0, :, 0].argmax()] - 12.5) <= 0.5


def test_a_scalogram_does_not_depend_on_its_batch_nor_on_its_scale():
    ds = toy_dataset(6, leads=2)
    loud = ds.x * np.array([1, 1e3, 1, 1, 1e-3, 1], np.float32)[:, None, None]
    np.testing.assert_allclose(to_scalograms(loud, fs=FS), to_scalograms(ds.x, fs=FS), atol=1e-4)
    np.testing.assert_allclose(
        to_scalograms(ds.x[2:3], fs=FS)[0], to_scalograms(ds.x, fs=FS)[2], atol=1e-5
    )


def test_a_spectrum_does_not_depend_on_offset_and_batch():
    ds = toy_dataset(4, leads=2)
    np.testing.assert_allclose(to_spectra(ds.x + 3, fs=FS), to_spectra(ds.x, fs=FS), atol=1e-2)
    np.testing.assert_allclose(
        to_spectra(ds.x[2:3], fs=FS)[0], to_spectra(ds.x, fs=FS)[2], atol=1e-4
    )


@pytest.mark.parametrize(
    ("transform", "options", "grid"),
    [
        (to_scalograms, {"size": (24, 20)}, ScalogramGrid(FS, size=(24, 20))),
        (to_spectra, {"resolution_hz": 1.0}, SpectrumGrid(FS, resolution_hz=1.0)),
    ],
)
def test_data_set_layer_and_saved_model_agree(transform, options, grid, tmp_path):
    ds = toy_dataset(5, leads=2)
    images = transform(ds, **options)
    assert images.grid == grid and images.is_images == (transform is to_scalograms)
    assert images.x.shape == ((5, 24, 20, 2) if images.is_images else (5, 50, 2))
    inputs = keras.Input((187, 2))
    model = keras.Model(inputs, representation(grid)(inputs))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras").predict(ds.x, verbose=0)
    np.testing.assert_allclose(again, images.x, atol=1e-5 if images.is_images else 1e-4)


def test_a_flat_signal_is_finite():
    assert np.isfinite(to_scalograms(np.zeros((1, 187)), fs=FS)).all()


def test_rgb_of_several_leads_is_refused():
    with pytest.raises(ValueError, match="rgb=True colours one lead, got 2 leads"):
        to_scalograms(toy_dataset(3, leads=2), rgb=True)
    assert to_scalograms(toy_dataset(3), rgb=True).x.shape == (3, 32, 38, 3)


def test_linear_magnitude_is_a_share_of_the_peak():
    x = np.random.default_rng(0).standard_normal((2, 200, 1))
    shares = to_spectra(x, grid=SpectrumGrid(100, log=False))
    assert shares.max(axis=(1, 2)).tolist() == pytest.approx([1, 1]) and shares.min() >= 0
