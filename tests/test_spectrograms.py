import keras
import numpy as np
import pytest
import scipy.signal
from conftest import real_data, toy_dataset

from ecg_keras import SpectrogramGrid, to_spectrograms
from ecg_keras.layers import Card, Spectrogram, Standardize, model_card

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
    grid = SpectrogramGrid(FS, size=(128, 96))
    assert grid.freqs_hz.shape == (128,) and grid.times_s(187).shape == (96,)
    assert grid.freqs_hz[-1] == FS / 2


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


def test_layers_save_and_load(tmp_path):
    inputs = keras.Input((187, 1))
    x = Standardize(np.zeros((187, 1)), np.full((187, 1), 2.0))(inputs)
    x = Spectrogram(SpectrogramGrid(FS, size=(16, 16)))(x)
    outputs = Card({"classes": ["N"], "fs": FS})(x)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        model.predict(beats(4), verbose=0), loaded.predict(beats(4), verbose=0)
    )
    assert model_card(loaded) == {"classes": ["N"], "fs": FS}


@pytest.mark.parametrize(
    ("signals", "options", "message"),
    [
        (np.zeros(187), {"fs": FS}, r"add the batch axis with signals\[None, :\]"),
        (np.zeros((2, 12)), {"fs": FS}, "signals of 12 samples are too short for frame_length=32"),
        (np.full((2, 187), np.inf), {"fs": FS}, "NaN or infinite samples in 2 of 2"),
        (np.zeros((2, 187, 2)), {"fs": FS, "rgb": True}, "rgb=True colours one lead, got 2"),
        (np.zeros((2, 187)), {"fs": FS, "size": 128}, "size must be"),
    ],
)
def test_what_cannot_be_transformed_is_refused(signals, options, message):
    with pytest.raises(ValueError, match=message):
        to_spectrograms(signals, **options)


def test_images_are_not_transformed_again():
    with pytest.raises(ValueError, match="images or spectra already"):
        to_spectrograms(to_spectrograms(toy_dataset(n=3)))


def test_a_rate_is_needed_for_arrays():
    with pytest.raises(TypeError, match="fs, the sampling rate in Hz"):
        to_spectrograms(np.zeros((1, 187)))


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="hop_length must be a whole number"):
        SpectrogramGrid(FS, hop_length=0)
