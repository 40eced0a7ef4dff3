"""Build the parts that model families share: inputs, convolution blocks, the classifying head.

Conventions
-----------
Tensors are (batch, samples, channels) for signals and (batch, freqs, frames,
channels) for images. Every function takes a tensor and returns one. The last
feature map of a branch, before it is pooled, passes through a layer named
``features``: Grad-CAM looks for that name.
"""

import keras
from keras import layers

from ecg_keras.grids import SpectrogramGrid
from ecg_keras.layers import representation


def image_input(like, grid=None):
    """The input tensor, and the image tensor made of it, for a family that looks at spectrograms.

    A data set of images is taken as it is; one of signals gets the layer of `grid`
    (``SpectrogramGrid(like.fs)`` by default) in front.
    """
    if like.is_images:
        if grid is not None:
            raise ValueError("like holds images already; leave grid out, or give the data set of raw signals.")
        image = keras.Input(like.x.shape[1:], name="image")
        return image, image
    if like.grid is not None:
        raise ValueError(f"like holds spectra of shape {like.x.shape[1:]}; this family needs signals or images.")
    signal = keras.Input(like.x.shape[1:], name="signal")
    return signal, representation(grid or SpectrogramGrid(like.fs), name="spectrogram", dtype="float32")(signal)


def convolution(x, filters, kernel_size, *, strides=1, relu=True):
    """Convolution without bias, batch normalisation and, with `relu`, a rectifier; 1D or 2D as `x` is."""
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    x = kind(filters, kernel_size, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization()(x)
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


def pooled(x):
    """Mark `x` as the branch's feature map and average it over time (and frequency)."""
    x = layers.Activation("linear", name="features")(x)
    kind = layers.GlobalAveragePooling2D if len(x.shape) == 4 else layers.GlobalAveragePooling1D
    return kind(name="embedding")(x)


def classifier(x, like, *, dense_units=(), dropout=0.0):
    """Dense layers, then one probability per class: softmax, or sigmoid where rows have several classes."""
    for units in dense_units:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    if not dense_units and dropout:
        x = layers.Dropout(dropout)(x)
    activation = "sigmoid" if like.multi_label else "softmax"
    return layers.Dense(len(like.classes), activation=activation, dtype="float32", name="probabilities")(x)
