"""Families on images: the same from images as from signals, and the published recipe."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from families import SMALL, call

from ecg_keras import build_model
from ecg_keras.image_models import signal_to_image
from ecg_keras.spectrograms import to_scalograms, to_spectrograms


@pytest.fixture(scope="module")
def beats():
    """Twelve beats of one lead, three classes."""
    return toy_dataset(12)


@pytest.mark.parametrize("name", ("cnn2d", "vgg2d", "resnet2d", "scalogram_cnn"))
def test_image_families_see_the_same_in_images_as_in_signals(name, beats):
    images = to_scalograms(beats) if name == "scalogram_cnn" else to_spectrograms(beats)
    keras.utils.set_random_seed(0)
    from_images = build_model(name, like=images, **SMALL[name])
    keras.utils.set_random_seed(0)
    from_signals = build_model(name, like=beats, **SMALL[name])
    assert [tensor.name for tensor in from_images.inputs] == ["image"]
    np.testing.assert_allclose(call(from_signals, beats), call(from_images, images), atol=1e-4)


def test_the_plain_recipe_has_blocks_of_one_convolution(beats):
    options = {"residual": False, "stem_kernel": 3, "stem_strides": 1, "stem_padding": "same"}
    model = build_model("cnn2d", like=beats, filters=(4, 8), block_dropout=0.25, **options)
    kinds = [type(layer).__name__ for layer in model.layers]
    block = ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D", "Dropout"]
    assert kinds[2:12] == block * 2


def test_images_smaller_than_the_first_convolution_are_refused(beats):
    with pytest.raises(ValueError, match='17 x 32 pixels are smaller .* pass stem_padding="same"'):
        build_model("cnn2d", like=beats, stem_kernel=19)


def test_signal_to_image_is_the_published_recipe():
    model = signal_to_image(toy_dataset(n=6))
    assert model.get_layer("spectrogram").output.shape == (None, 128, 128, 3)
    kinds = [
        type(layer).__name__
        for layer in model.layers
        if not layer.name.startswith(("spectrogram", "features", "signal"))
    ]
    stage = ["Conv2D", "BatchNormalization", "MaxPooling2D"]
    assert kinds == [*stage * 3, "Flatten", "Dense", "Dropout", "Dense"]


def test_an_image_does_not_depend_on_its_batch():
    ds = toy_dataset(n=6)
    model = signal_to_image(ds)
    image = keras.Model(model.inputs[0], model.get_layer("spectrogram").output)
    alone, among = (
        np.asarray(image(ds.x[:1])),
        np.asarray(image(ds.x * np.array([1] + [1e3] * 5)[:, None, None])),
    )
    np.testing.assert_allclose(alone[0], among[0], atol=1e-5)
