"""Shared parts of networks: inputs, crops of a data set, the encoder, pooling."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ScalogramGrid, SpectrogramGrid, SpectrumGrid, build_model
from ecg_keras.blocks import image_input, in_crops, pooled, spectrum_input, transformer_encoder
from ecg_keras.spectrograms import to_spectra, to_spectrograms


@pytest.fixture(scope="module")
def beats():
    """Twelve beats of one lead, three classes."""
    return toy_dataset(12)


def test_a_grid_is_only_for_signals(beats):
    _, image = image_input(beats, ScalogramGrid(125.0))
    assert image.shape[1:] == (32, 38, 1)
    with pytest.raises(ValueError, match="like holds images already; leave grid out"):
        image_input(to_spectrograms(beats), SpectrogramGrid(125.0))
    with pytest.raises(ValueError, match="like holds spectra already; leave grid out"):
        spectrum_input(to_spectra(beats), SpectrumGrid(125.0))


def test_crops_of_a_data_set_lie_end_to_end_and_keep_their_row():
    ds = toy_dataset(4, samples=500, patients=True)
    crops = in_crops(ds, 1.6)
    assert crops.x.shape == (8, 200, 1) and crops.n_samples == 200
    np.testing.assert_array_equal(crops.x.reshape(4, 400, 1), ds.x[:, :400])
    np.testing.assert_array_equal(crops.y, np.repeat(ds.y, 2))
    np.testing.assert_array_equal(crops.patients, np.repeat(ds.patients, 2))
    with pytest.raises(ValueError, match="needs signals of at least that length, got images"):
        in_crops(to_spectrograms(ds), 1.0)


def test_attention_sees_few_positions_of_a_long_record():
    like = toy_dataset(2, n_classes=2, samples=5000, fs=500.0)
    model = build_model("multimodal", like=like, filters=(8,), width=16)
    for branch in ("time", "spectrum"):
        assert model.get_layer(branch).get_layer("features").output.shape[1] <= 128


def test_heads_divide_the_width():
    options = {"filters": (4,), "kernel_size": 3, "depth": 1, "dropout": 0.1}
    with pytest.raises(ValueError, match="heads=3 must divide the width of the sequence, 16"):
        transformer_encoder(keras.Input((64, 1)), **options, width=16, heads=3)


def test_a_flattened_map_keeps_its_places(beats):
    mean, flat = (
        build_model("resnet1d", like=beats, filters=(4, 8), pooling=how)
        for how in ("mean", "flatten")
    )
    length, channels = mean.get_layer("features").output.shape[1:]
    assert mean.get_layer("probabilities").kernel.shape[0] == channels == 8
    assert flat.get_layer("probabilities").kernel.shape[0] == length * channels
    with pytest.raises(ValueError, match="flatten"):
        build_model("resnet1d", like=beats, pooling="flat")


def test_mean_and_maximum_lie_side_by_side():
    inputs = keras.Input((5, 2))
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    found = keras.ops.convert_to_numpy(keras.Model(inputs, pooled(inputs, "mean+max"))(x))
    np.testing.assert_allclose(found[:, :2], x.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found[:, 2:], x.max(axis=1))
