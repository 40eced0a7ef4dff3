"""Build networks that look at a signal along one axis: time, or the frequencies of its spectrum.

Conventions
-----------
A family is one function from a data set to an uncompiled functional
`keras.Model`, as `models.py` says. Signals are (samples, leads) at any sampling
rate; the first convolution steps over samples so that what follows it works at
about 100 Hz.
"""

import keras

from ecg_keras.blocks import (
    classifier,
    convolution,
    halved,
    pooled,
    residual_block,
    signal_input,
    spectrum_input,
    tokens,
    transformer_block,
)

_RATE_HZ = 100.0  # what the blocks after the first convolution see, about


def cnn1d(like, *, filters=(32, 64, 128), kernel_size=7, block_dropout=0.1, dense_units=(64,), dropout=0.3):
    """A plain 1D convolutional network on signals: convolution, batch normalisation, max pooling, dropout per block.

    Parameters
    ----------
    like : ECGDataset
        Signals.
    filters : sequence of int
        Filters per block; each halves the length.
    kernel_size : int, default 7
        Kernel of the convolutions, in samples.
    block_dropout, dropout : float
        Dropout inside the blocks and before the output.
    dense_units : sequence of int
        Dense layers before the output.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> cnn1d(train).output_shape
    (None, 5)
    """
    inputs = x = signal_input(like, "cnn1d")
    for i, n in enumerate(filters):
        x = convolution(x, n, kernel_size, strides=_first_stride(like) if i == 0 else 1)
        x = halved(x, dropout=block_dropout)
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="cnn1d")


def resnet1d(
    like,
    *,
    filters=(32, 64, 96, 128),
    kernel_size=7,
    blocks=1,
    stem_filters=32,
    stem_kernel=11,
    stem_strides=None,
    block_dropout=0.0,
    pooling="mean+max",
    dense_units=(),
    dropout=0.3,
):
    """A residual 1D convolutional network on signals.

    Parameters
    ----------
    like : ECGDataset
        Signals.
    filters : sequence of int
        Filters per stage; each halves the length.
    kernel_size : int, default 7
        Kernel of the blocks, in samples after the stem.
    blocks : int, default 1
        Residual blocks per stage.
    stem_filters, stem_kernel : int
        Filters and kernel (samples) of the first convolution.
    stem_strides : int, optional
        Step of the first convolution; ``fs / 100`` rounded by default.
    block_dropout, dropout : float
        Dropout inside the blocks and before the output.
    pooling : {"mean+max", "mean"}
        How the last feature map becomes one vector.
    dense_units : sequence of int
        Dense layers before the output.

    Notes
    -----
    After N. Strodthoff et al., IEEE JBHI 25(5), 2021 ("resnet1d_wang"), with far fewer weights.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> resnet1d(train, filters=(16, 32)).output_shape
    (None, 5)
    """
    inputs = x = signal_input(like, "resnet1d")
    x = convolution(x, stem_filters, stem_kernel, strides=stem_strides or _first_stride(like))
    for n in filters:
        for i in range(blocks):
            x = residual_block(x, n, kernel_size, strides=2 if i == 0 else 1, dropout=block_dropout)
    outputs = classifier(pooled(x, pooling), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="resnet1d")


def fft_transformer(
    like, *, filters=(32, 64), kernel_size=5, width=64, depth=2, heads=4, block_dropout=0.1, dropout=0.3, grid=None
):
    """A 1D convolutional network, then a Transformer encoder, on the spectrum of each lead.

    Parameters
    ----------
    like : ECGDataset
        Spectra, or signals, which get the layer of `grid` in front.
    filters : sequence of int
        Filters per convolution block; each halves the length.
    kernel_size : int, default 5
        Kernel of the convolutions, in rows of the spectrum.
    width, depth, heads : int
        Values per position, blocks, and attention heads of the encoder. At most 128 positions
        reach it, whatever the record's length.
    block_dropout, dropout : float
        Dropout inside the encoder and before the output.
    grid : SpectrumGrid, optional
        Geometry of the spectra made from signals.

    Notes
    -----
    The encoder is that of A. Vaswani et al., NeurIPS 2017, normalised before each part.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> fft_transformer(train, width=32, depth=1).output_shape
    (None, 5)
    """
    inputs, x = spectrum_input(like, grid)
    x = encoded(x, filters=filters, kernel_size=kernel_size, width=width, depth=depth, heads=heads, dropout=block_dropout)
    outputs = classifier(pooled(x), like, dropout=dropout)
    return keras.Model(inputs, outputs, name="fft_transformer")


def encoded(x, *, filters, kernel_size, width, depth, heads, dropout):
    """Convolution blocks that halve the length, then a Transformer encoder: (batch, positions, width)."""
    for n in filters:
        x = halved(convolution(x, n, kernel_size))
    x = tokens(x, width)
    for _ in range(depth):
        x = transformer_block(x, heads=heads, dropout=dropout)
    return keras.layers.LayerNormalization(epsilon=1e-5)(x)


def _first_stride(like):
    """Samples to step over, so that about 100 Hz remain."""
    return max(1, round(like.fs / _RATE_HZ))
