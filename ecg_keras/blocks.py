"""Parts that model families share: inputs, convolutions, Transformer encoder, classifier.

Conventions
-----------
Tensors are (batch, samples, channels) for signals and (batch, freqs, frames, channels) for images.
Three layers have fixed names, for Grad-CAM and for `hybrid`, which joins networks before their
classifiers: the last feature map of a branch is ``features``, the vector that is pooled from it
``embedding``, and the classifying layer ``probabilities``.
"""

import keras
import numpy as np
from keras import layers

from ecg_keras._checks import check_option, check_positive
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid
from ecg_keras.layers import Positions, Standardize, representation

_NAMES = {SpectrogramGrid: "spectrogram", ScalogramGrid: "scalogram", SpectrumGrid: "spectrum"}
_TOKENS = 128  # most positions that attention sees; its memory grows with their square
_FULL_RATE_HZ = 100.0  # what the layers after the first convolution see, about


def signal_input(like, family):
    """The input tensor (samples, leads) of a family that looks at raw signals."""
    if like.is_images or like.grid is not None:
        held = "images" if like.is_images else "spectra"
        raise ValueError(
            f"{family} needs signals of shape (samples, leads); like holds {held} of shape "
            f"{like.x.shape[1:]}. Give the data set of raw signals."
        )
    return keras.Input(like.x.shape[1:], name="signal")


def image_input(like, grid=None, *, default=SpectrogramGrid):
    """The input tensor of a family that looks at images, and the image tensor made of it.

    A data set of images is taken as it is. One of signals gets the layer of `grid`, or of
    ``default(like.fs)`` where `grid` is None, in front.
    """
    if like.is_images:
        _check_no_grid(grid, "images")
        image = keras.Input(like.x.shape[1:], name="image")
        return image, image
    if like.grid is not None:
        raise ValueError(
            f"like holds spectra of shape {like.x.shape[1:]}; this family needs signals or images."
        )
    signal = keras.Input(like.x.shape[1:], name="signal")
    return signal, transformed(signal, grid or default(like.fs))


def spectrum_input(like, grid=None):
    """The input tensor of a family that looks at spectra, and the spectrum made of it.

    A data set of spectra is taken as it is. One of signals gets the layer of `grid` in front.
    """
    if like.is_images:
        raise ValueError(
            f"like holds images of shape {like.x.shape[1:]}; this family needs signals or spectra."
        )
    signal = keras.Input(like.x.shape[1:], name="signal")
    if like.grid is not None:
        _check_no_grid(grid, "spectra")
        return signal, signal
    return signal, transformed(signal, grid or SpectrumGrid(like.fs))


def _check_no_grid(grid, held):
    """Refuse a grid where the data set holds images or spectra."""
    if grid is not None:
        raise ValueError(
            f"like holds {held} already; leave grid out, or give the data set of raw signals."
        )


def metadata_input(like):
    """The input tensor of age, sex and the like, and the same standardised by the train rows."""
    metadata = keras.Input(like.metadata.shape[1:], name="metadata")
    statistics = like.metadata.mean(axis=0), like.metadata.std(axis=0)
    return metadata, Standardize(*statistics, name="standardize")(metadata)


def transformed(signal, grid):
    """The layer of `grid` on a signal, in float32 whatever the model's precision."""
    return representation(grid, name=_NAMES[type(grid)], dtype="float32")(signal)


def in_crops(like, crop_s):
    """A data set of all stretches of `crop_s` seconds that lie end to end, those of a row together.

    Raises
    ------
    ValueError
        If the rows are no signals, or shorter than `crop_s`.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> in_crops(ECGDataset(np.zeros((2, 250, 1)), [0, 1], classes="NV", fs=100), 1.0).x.shape
    (4, 100, 1)
    """
    check_positive("crop_s", crop_s)
    n_samples = round(crop_s * like.fs)
    if like.grid is not None or not 1 < n_samples <= like.x.shape[1]:
        seconds = f"signals of {like.x.shape[1] / like.fs:g} s"
        got = seconds if like.grid is None else "images or spectra"
        raise ValueError(f"crop_s={crop_s:g} needs signals of at least that length, got {got}.")
    n_crops = like.x.shape[1] // n_samples
    rows = like[np.repeat(np.arange(len(like)), n_crops)]
    x = like.x[:, : n_crops * n_samples].reshape(-1, n_samples, like.x.shape[2])
    return rows.replace(x=x, n_samples=n_samples)


def first_stride(like):
    """Samples that the first convolution steps over, so that about 100 Hz remain."""
    return max(1, round(like.fs / _FULL_RATE_HZ))


def convolution(x, filters, kernel_size, *, strides=1, padding="same", relu=True):
    """Convolution without bias, batch normalisation and, with `relu`, a rectifier.

    It is 1D or 2D as `x` is.
    """
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    x = kind(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(x)  # 0.99 is too slow for a few hundred steps
    return layers.ReLU()(x) if relu else x


def residual_block(x, filters, kernel_size, *, strides=1, dropout=0.0):
    """Two convolutions and a shortcut (He et al., CVPR 2016, figure 2).

    Where `strides` is above 1, the shortcut is average-pooled (He et al., CVPR 2019).
    """
    shortcut = x
    if strides != 1:
        pool = layers.AveragePooling2D if len(x.shape) == 4 else layers.AveragePooling1D
        shortcut = pool(strides, padding="same")(shortcut)
    if shortcut.shape[-1] != filters:
        shortcut = convolution(shortcut, filters, 1, relu=False)
    x = convolution(x, filters, kernel_size, strides=strides)
    if dropout:
        x = layers.Dropout(dropout)(x)
    x = convolution(x, filters, kernel_size, relu=False)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def halved(x, *, dropout=0.0):
    """Maximum of neighbouring pairs (2 x 2 pixels of an image), then dropout."""
    kind = layers.MaxPooling2D if len(x.shape) == 4 else layers.MaxPooling1D
    x = kind(2, padding="same")(x)
    return layers.Dropout(dropout)(x) if dropout else x


def transformer_encoder(x, *, filters, kernel_size, width, depth, heads, dropout):
    """Convolution blocks that halve the length, then a Transformer encoder.

    (batch, length, channels) to (batch, positions, width), with at most 128 positions.
    """
    for n in filters:
        x = halved(convolution(x, n, kernel_size))
    strides = -(-x.shape[1] // _TOKENS)
    x = layers.AveragePooling1D(strides, padding="same")(x) if strides > 1 else x
    x = Positions()(layers.Dense(width)(x))
    for _ in range(depth):
        x = _transformer_block(x, heads=heads, dropout=dropout)
    return layers.LayerNormalization(epsilon=1e-5)(x)


def _transformer_block(x, *, heads, dropout):
    """Self-attention, then two dense layers, each normalised first.

    As in Xiong et al., ICML 2020, figure 1b.
    """
    width = x.shape[-1]
    if width % heads:
        raise ValueError(f"heads={heads} must divide the width of the sequence, {width}.")
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(y, y)
    x = layers.Add()([x, layers.Dropout(dropout)(y)])
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(2 * width, activation="gelu")(y)
    y = layers.Dense(width)(layers.Dropout(dropout)(y))
    return layers.Add()([x, layers.Dropout(dropout)(y)])


def pooled(x, how="mean"):
    """Name `x` as the branch's feature map and make one vector of it.

    The vector is the map's "mean", its "mean+max" side by side, or with "flatten" every position.
    """
    check_option("pooling", how, ("mean", "mean+max", "flatten"))
    x = layers.Activation("linear", name="features")(x)
    if how == "flatten":
        return layers.Flatten(name="embedding")(x)
    if how == "mean":
        return _average(x, name="embedding")
    return layers.Concatenate(name="embedding")(mean_and_maximum(x))


def mean_and_maximum(x):
    """Mean and maximum of a feature map over its positions, each (batch, channels)."""
    maximum = layers.GlobalMaxPooling2D if len(x.shape) == 4 else layers.GlobalMaxPooling1D
    return [_average(x), maximum()(x)]


def _average(x, **kwargs):
    """Mean of a feature map over its positions."""
    mean = layers.GlobalAveragePooling2D if len(x.shape) == 4 else layers.GlobalAveragePooling1D
    return mean(**kwargs)(x)


def classifier(x, like, *, dense_units=(), dropout=0.0, name="probabilities"):
    """Dense layers, then one probability per class.

    The activation is softmax, or sigmoid where rows have several classes.
    """
    for units in dense_units:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    if not dense_units and dropout:
        x = layers.Dropout(dropout)(x)
    activation = "sigmoid" if like.multi_label else "softmax"
    return layers.Dense(len(like.classes), activation=activation, dtype="float32", name=name)(x)
