"""Model families that look at images of a signal: frequency by time.

Conventions
-----------
A family is one function from a data set to an uncompiled `keras.Model`, as `models.py` says. A data
set of images is taken as it is. One of signals gets the layer that makes the images in front, so
that they are made batch by batch and never exist all at once.
"""

import keras
from keras import layers

from ecg_keras.blocks import classifier, convolution, halved, image_input, pooled, residual_block
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid


def cnn2d(
    like,
    *,
    filters=(32, 64, 96, 160),
    kernel_size=3,
    stem_kernel=5,
    stem_strides=(1, 2),
    stem_padding="valid",
    residual=True,
    block_dropout=0.0,
    dense_units=(),
    dropout=0.3,
    grid=None,
):
    """A small residual network on spectrograms; its first layer steps in time.

    Parameters
    ----------
    like : ECGDataset
        Images, or signals, which get the spectrogram layer of `grid` in front.
    filters : sequence of int
        Filters per block. With `residual` the first is the stem's, and each later block halves the
        image.
    kernel_size : int, default 3
        Kernel of the blocks, in pixels.
    stem_kernel, stem_strides : int and (int, int)
        Kernel and (frequency, time) strides of the first convolution.
    stem_padding : {"valid", "same"}, default "valid"
        "valid" keeps the first convolution inside the image, which saves a third of the network's
        work on the default grid. "same" is for images smaller than its kernel.
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
    Input: spectrogram

    Source: own, with the residual blocks of He et al. 2016, CVPR

    The usual notebook recipe is ``filters=(32, 64, 128, 256), residual=False, stem_kernel=3,
    stem_strides=1, stem_padding="same", block_dropout=0.25, dense_units=(128,), dropout=0.5``.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> cnn2d(train).output_shape
    (None, 5)
    """
    inputs, x = image_input(like, grid)
    return _cnn(
        inputs,
        x,
        like,
        filters=filters,
        kernel_size=kernel_size,
        stem=(stem_kernel, stem_strides, stem_padding),
        residual=residual,
        block_dropout=block_dropout,
        dense_units=dense_units,
        dropout=dropout,
        name="cnn2d",
    )


def scalogram_cnn(
    like,
    *,
    filters=(32, 64, 96, 160),
    kernel_size=3,
    stem_kernel=5,
    stem_strides=(1, 2),
    block_dropout=0.0,
    dense_units=(),
    dropout=0.3,
    grid=None,
):
    """The network of `cnn2d` on scalograms, images made by wavelets.

    Parameters
    ----------
    like : ECGDataset
        Images, or signals, which get the scalogram layer of `grid` in front.
    filters, kernel_size, stem_kernel, stem_strides, block_dropout, dense_units, dropout
        As in `cnn2d`.
    grid : ScalogramGrid, optional
        Geometry of the images made from signals.

    Notes
    -----
    Input: scalogram

    Source: own, with the residual blocks of He et al. 2016, CVPR

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> scalogram_cnn(train, filters=(8, 16)).output_shape
    (None, 5)
    """
    inputs, x = image_input(like, grid, default=ScalogramGrid)
    return _cnn(
        inputs,
        x,
        like,
        filters=filters,
        kernel_size=kernel_size,
        stem=(stem_kernel, stem_strides, "same"),
        block_dropout=block_dropout,
        dense_units=dense_units,
        dropout=dropout,
        name="scalogram_cnn",
    )


def _cnn(
    inputs,
    x,
    like,
    *,
    filters,
    kernel_size,
    stem,
    residual=True,
    block_dropout,
    dense_units,
    dropout,
    name,
):
    """The network of `cnn2d` on images `x`; `stem` is its first kernel, strides and padding."""
    stem_kernel, stem_strides, stem_padding = stem
    if stem_padding == "valid" and min(x.shape[1:3]) < stem_kernel:
        raise ValueError(
            f"images of {x.shape[1]} x {x.shape[2]} pixels are smaller than the first convolution, "
            f'stem_kernel={stem_kernel}; pass stem_padding="same".'
        )
    x = convolution(x, filters[0], stem_kernel, strides=stem_strides, padding=stem_padding)
    if residual:
        for n in filters[1:]:
            x = residual_block(x, n, kernel_size, strides=2, dropout=block_dropout)
    else:
        x = halved(x, dropout=block_dropout)
        for n in filters[1:]:
            x = halved(convolution(x, n, kernel_size), dropout=block_dropout)
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name=name)


def vgg2d(
    like,
    *,
    filters=(32, 64, 128),
    convolutions=2,
    kernel_size=3,
    block_dropout=0.1,
    dense_units=(128,),
    dropout=0.5,
    grid=None,
):
    """Stacks of 3 x 3 convolutions, with max pooling, on spectrograms.

    Parameters
    ----------
    like : ECGDataset
        Images, or signals, which get the spectrogram layer of `grid` in front.
    filters : sequence of int
        Filters per stack; each stack halves the image.
    convolutions : int, default 2
        Convolutions per stack.
    kernel_size : int, default 3
        Kernel, in pixels.
    block_dropout, dropout : float
        Dropout after each stack, and before the output.
    dense_units : sequence of int
        Dense layers before the output.
    grid : SpectrogramGrid, optional
        Geometry of the images made from signals.

    Notes
    -----
    Input: spectrogram

    Source: Simonyan and Zisserman 2015, ICLR, narrower; batch normalisation and global average
    pooling, which the paper does not have, keep the dense layers small

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> vgg2d(train, filters=(8, 16)).output_shape
    (None, 5)
    """
    inputs, x = image_input(like, grid)
    for n in filters:
        for _ in range(convolutions):
            x = convolution(x, n, kernel_size)
        x = halved(x, dropout=block_dropout)
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="vgg2d")


def resnet2d(
    like,
    *,
    filters=(32, 64, 128),
    blocks=2,
    kernel_size=3,
    stem_kernel=3,
    stem_strides=(2, 1),
    block_dropout=0.0,
    dense_units=(),
    dropout=0.3,
    grid=None,
):
    """A deeper residual network, in stages of basic blocks, on spectrograms.

    Parameters
    ----------
    like : ECGDataset
        Images, or signals, which get the spectrogram layer of `grid` in front.
    filters : sequence of int
        Filters per stage; every stage but the first halves the image.
    blocks : int, default 2
        Residual blocks per stage.
    kernel_size, stem_kernel, stem_strides : int, int and (int, int)
        Kernels in pixels, and the (frequency, time) strides of the first convolution.
    block_dropout, dropout : float
        Dropout inside the blocks and before the output.
    dense_units : sequence of int
        Dense layers before the output.
    grid : SpectrogramGrid, optional
        Geometry of the images made from signals.

    Notes
    -----
    Input: spectrogram

    Source: He et al. 2016, CVPR, table 1, narrower

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> resnet2d(train, filters=(8, 16), blocks=1).output_shape
    (None, 5)
    """
    inputs, x = image_input(like, grid)
    x = convolution(x, filters[0], stem_kernel, strides=stem_strides)
    for stage, n in enumerate(filters):
        for i in range(blocks):
            x = residual_block(
                x, n, kernel_size, strides=2 if stage and i == 0 else 1, dropout=block_dropout
            )
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="resnet2d")


def signal_to_image(
    like, *, filters=(8, 16, 32), kernel_size=3, dense_units=128, dropout=0.5, grid=None
):
    """A coloured 128 x 128 spectrogram, three convolution stages, one dense layer.

    Each stage is convolution, ReLU, batch normalisation and 2 x 2 maximum, in this order.

    Parameters
    ----------
    like : ECGDataset
        Signals of one lead, or images.
    filters : sequence of int, default (8, 16, 32)
        Filters of the stages.
    kernel_size : int, default 3
        Kernel of the convolutions, in pixels.
    dense_units, dropout : int and float
        The dense layer, and the dropout after it.
    grid : SpectrogramGrid, optional
        Geometry of the images made from signals. By default windows of 0.5 s (64 samples at
        125 Hz) every 32 ms, resized to 128 x 128 in three colours.

    Notes
    -----
    Input: spectrogram

    Source: own code of a published recipe

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> like = ECGDataset(np.zeros((4, 128)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> signal_to_image(like, filters=(4, 8, 8)).get_layer("spectrogram").output.shape
    (None, 128, 128, 3)
    """
    if grid is None and like.grid is None:
        length, hop = max(8, round(0.512 * like.fs)), max(1, round(0.032 * like.fs))
        grid = SpectrogramGrid(like.fs, length, hop, size=(128, 128), rgb=len(like.leads) == 1)
    inputs, x = image_input(like, grid)
    for i, n in enumerate(filters):
        x = layers.Conv2D(n, kernel_size, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        if i == len(filters) - 1:
            x = layers.Activation("linear", name="features")(x)
        x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.Flatten(name="embedding")(x)
    outputs = classifier(x, like, dense_units=(dense_units,), dropout=dropout)
    return keras.Model(inputs, outputs, name="signal_to_image")
