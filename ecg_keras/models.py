"""Build a model family for data shaped like a given data set.

Conventions
-----------
A family is one function from a data set to an uncompiled functional
`keras.Model`. Inputs are named ``signal`` (samples, leads), ``image`` (freqs,
frames, leads) or ``metadata`` (columns); the output ``probabilities`` has one
unit per class, softmax for single-label and sigmoid for multi-label data.
"""

import keras
from keras import layers

from ecg_keras._checks import check_option
from ecg_keras.blocks import classifier, convolution, image_input, pooled, residual_block


def cnn2d(
    like,
    *,
    filters=(32, 64, 96, 160),
    kernel_size=3,
    stem_kernel=5,
    stem_strides=(2, 1),
    residual=True,
    block_dropout=0.0,
    dense_units=(),
    dropout=0.3,
    grid=None,
):
    """A convolutional network on spectrogram images.

    Parameters
    ----------
    like : ECGDataset
        Images, or signals, which get the spectrogram layer of `grid` in front.
    filters : sequence of int
        Filters per block. With `residual` the first is the stem's and each later block halves the image.
    kernel_size : int, default 3
        Kernel of the blocks, in pixels.
    stem_kernel, stem_strides : int and (int, int)
        Kernel and (frequency, time) strides of the first convolution.
    residual : bool, default True
        Residual blocks; False gives the plain recipe: convolution, batch normalisation,
        max pooling, dropout per block.
    block_dropout : float, default 0
        Dropout inside each block.
    dense_units : sequence of int
        Dense layers before the output.
    dropout : float, default 0.3
        Dropout before the output.
    grid : SpectrogramGrid, optional
        Geometry of the images made from signals.

    Notes
    -----
    The notebook recipe is ``filters=(32, 64, 128, 256), residual=False, stem_kernel=3,
    stem_strides=1, block_dropout=0.25, dense_units=(128,), dropout=0.5``.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> build_model("cnn2d", like=train).output_shape
    (None, 5)
    """
    inputs, x = image_input(like, grid)
    x = convolution(x, filters[0], stem_kernel, strides=stem_strides)
    if residual:
        for n in filters[1:]:
            x = residual_block(x, n, kernel_size, strides=2, dropout=block_dropout)
    else:
        x = _pool_and_drop(x, block_dropout)
        for n in filters[1:]:
            x = _pool_and_drop(convolution(x, n, kernel_size), block_dropout)
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="cnn2d")


def _pool_and_drop(x, dropout):
    """Halve an image and drop some of its values."""
    x = layers.MaxPooling2D(2, padding="same")(x)
    return layers.Dropout(dropout)(x) if dropout else x


MODELS = {"cnn2d": cnn2d}


def build_model(name, *, like, **options):
    """Build one of `MODELS` for data shaped like `like`; `options` go to that function unchanged.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    like : ECGDataset
        Gives input shapes, class count, single- or multi-label, and the train statistics of metadata.
    **options
        Keywords of that family; a misspelled one is a TypeError.

    Returns
    -------
    keras.Model
        Uncompiled, with an attribute-free functional graph that saves and loads.

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> like = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> build_model("cnn2d", like=like, filters=(8, 16)).output_shape
    (None, 2)
    """
    check_option("name", name, MODELS)
    return MODELS[name](like, **options)
