"""Build the parts that model families share: inputs, convolution and Transformer blocks, the classifying head.

Conventions
-----------
Tensors are (batch, samples, channels) for signals and (batch, freqs, frames,
channels) for images. Every function takes a tensor and returns one. The last
feature map of a branch, before it is pooled, passes through a layer named
``features`` (Grad-CAM looks for that name), what is pooled from it comes out of one
named ``embedding``, and the classifying layer is ``probabilities`` (`hybrid` takes
branches off before it).
"""

import keras
from keras import layers

from ecg_keras._checks import check_option
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid
from ecg_keras.layers import Positions, Standardize, representation

_NAMES = {SpectrogramGrid: "spectrogram", ScalogramGrid: "scalogram", SpectrumGrid: "spectrum"}
_TOKENS = 128  # most positions attention sees; its memory grows with their square


def signal_input(like, family):
    """The input tensor (samples, leads) of a family that looks at raw signals."""
    if like.is_images or like.grid is not None:
        raise ValueError(
            f"{family} needs signals of shape (samples, leads); like holds "
            f"{'images' if like.is_images else 'spectra'} of shape {like.x.shape[1:]}. Give the data set of raw signals."
        )
    return keras.Input(like.x.shape[1:], name="signal")


def image_input(like, grid=None, *, default=SpectrogramGrid):
    """The input tensor, and the image tensor made of it, for a family that looks at images.

    A data set of images is taken as it is; one of signals gets the layer of `grid`
    (``default(like.fs)`` where it is None) in front.
    """
    if like.is_images:
        if grid is not None:
            raise ValueError(
                "like holds images already; leave grid out, or give the data set of raw signals."
            )
        image = keras.Input(like.x.shape[1:], name="image")
        return image, image
    if like.grid is not None:
        raise ValueError(
            f"like holds spectra of shape {like.x.shape[1:]}; this family needs signals or images."
        )
    signal = keras.Input(like.x.shape[1:], name="signal")
    return signal, transformed(signal, grid or default(like.fs))


def spectrum_input(like, grid=None):
    """The input tensor, and the spectrum made of it, for a family that looks at spectra; either may be in `like`."""
    if like.is_images:
        raise ValueError(
            f"like holds images of shape {like.x.shape[1:]}; this family needs signals or spectra."
        )
    if like.grid is not None and grid is not None:
        raise ValueError(
            "like holds spectra already; leave grid out, or give the data set of raw signals."
        )
    signal = keras.Input(like.x.shape[1:], name="signal")
    return signal, signal if like.grid is not None else transformed(
        signal, grid or SpectrumGrid(like.fs)
    )


def metadata_input(like):
    """The input tensor of age, sex and the like, and the same standardised by the train rows."""
    metadata = keras.Input(like.metadata.shape[1:], name="metadata")
    statistics = like.metadata.mean(axis=0), like.metadata.std(axis=0)
    return metadata, Standardize(*statistics, name="standardize")(metadata)


def transformed(signal, grid):
    """The layer of `grid` on a signal, in float32 whatever the model's precision."""
    return representation(grid, name=_NAMES[type(grid)], dtype="float32")(signal)


def convolution(x, filters, kernel_size, *, strides=1, padding="same", relu=True):
    """Convolution without bias, batch normalisation and, with `relu`, a rectifier; 1D or 2D as `x` is."""
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    x = kind(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(
        x
    )  # 0.99 lags behind in trainings of a few hundred steps
    return layers.ReLU()(x) if relu else x


def residual_block(x, filters, kernel_size, *, strides=1, dropout=0.0):
    """Two convolutions and a shortcut (He et al., CVPR 2016, figure 2; average-pooled shortcut of He et al., CVPR 2019)."""
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


def tokens(x, width, *, most=_TOKENS):
    """A sequence (batch, length, channels) as at most `most` positions of `width` values, with their places added."""
    strides = -(-x.shape[1] // most)
    x = layers.AveragePooling1D(strides, padding="same")(x) if strides > 1 else x
    return Positions()(layers.Dense(width)(x))


def transformer_block(x, *, heads=4, expansion=2, dropout=0.1):
    """Self-attention and a two-layer perceptron, each normalised first (Xiong et al., ICML 2020, figure 1b)."""
    width = x.shape[-1]
    if width % heads:
        raise ValueError(f"heads={heads} must divide the width of the sequence, {width}.")
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(y, y)
    x = layers.Add()([x, layers.Dropout(dropout)(y)])
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(expansion * width, activation="gelu")(y)
    y = layers.Dense(width)(layers.Dropout(dropout)(y))
    return layers.Add()([x, layers.Dropout(dropout)(y)])


def pooled(x, how="mean"):
    """Mark `x` as the branch's feature map and make one vector of it: its mean, mean and maximum, or every position."""
    check_option("pooling", how, ("mean", "mean+max", "flatten"))
    x = layers.Activation("linear", name="features")(x)
    if how == "flatten":
        return layers.Flatten(name="embedding")(x)
    two = len(x.shape) == 4
    mean = layers.GlobalAveragePooling2D if two else layers.GlobalAveragePooling1D
    if how == "mean":
        return mean(name="embedding")(x)
    maximum = layers.GlobalMaxPooling2D if two else layers.GlobalMaxPooling1D
    return layers.Concatenate(name="embedding")([mean()(x), maximum()(x)])


def classifier(x, like, *, dense_units=(), dropout=0.0):
    """Dense layers, then one probability per class: softmax, or sigmoid where rows have several classes."""
    for units in dense_units:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    if not dense_units and dropout:
        x = layers.Dropout(dropout)(x)
    activation = "sigmoid" if like.multi_label else "softmax"
    return layers.Dense(
        len(like.classes), activation=activation, dtype="float32", name="probabilities"
    )(x)
