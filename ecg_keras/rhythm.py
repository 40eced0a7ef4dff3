"""Build networks for beats of patients never seen: shape, rhythm and the recording's typical beat together.

Conventions
-----------
A family is one function from a data set to an uncompiled functional
`keras.Model`, as `models.py` says. `rhythm` takes beats (samples, leads), with or without
the typical beat in further leads, and the metadata of `beats.describe_beats`.
"""

import keras
from keras import layers, ops

from ecg_keras.blocks import classifier, image_input, metadata_input, pooled, signal_input
from ecg_keras.grids import SpectrogramGrid

_TINY = 1e-7  # keeps a logarithm finite


def rhythm(
    like,
    *,
    filters=(16, 24, 32),
    kernel_size=7,
    shape_units=32,
    units=128,
    joint_units=64,
    members=5,
    limit=3.0,
    dropout=0.3,
    shape_dropout=0.5,
):
    """A perceptron on rhythm and likeness features, a small CNN on the beat, and the mean of several such members.

    Parameters
    ----------
    like : ECGDataset
        Signals with metadata. Leads named ``... typical`` are taken as the typical beat, and the
        difference to it is given to the CNN too.
    filters : sequence of int, default (16, 24, 32)
        Convolutions of stride 2; empty for a network that uses the metadata only.
    kernel_size : int, default 7
        Of the convolutions, in samples.
    shape_units, units, joint_units : int
        Dense units after the CNN, on the metadata, and where both meet.
    members : int, default 5
        Networks with weights of their own, trained together; their probabilities are averaged.
        One network alone swings by several points of macro-F1 with its seed on patients it has not seen.
    limit : float, default 3
        Metadata are squashed to this many standard deviations, so that an unusual patient stays in reach.
    dropout, shape_dropout : float
        Dropout after the dense layers, and after the CNN.

    Raises
    ------
    ValueError
        If `like` holds no metadata, or images.

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> like = ECGDataset(np.zeros((4, 125, 2)), [0, 1, 0, 1], classes="NV", fs=125, leads=("MLII", "V1"),
    ...                   metadata=np.eye(4), metadata_names="abcd")
    >>> rhythm(like, members=2).output_shape
    (None, 2)
    """
    signal = signal_input(like, "rhythm")
    if like.metadata is None:
        raise ValueError("rhythm needs metadata; load the beats with features='rhythm' (or 'rr').")
    metadata, numbers = metadata_input(like)
    numbers = limit * ops.tanh(numbers / limit)
    if filters:
        shape = _with_difference(signal, like.leads)
    else:  # the signal has no say, and stays an input all the same
        shape, numbers = (
            None,
            numbers + 0 * ops.mean(layers.GlobalAveragePooling1D()(signal), axis=-1, keepdims=True),
        )
    outputs = [
        _member(
            numbers,
            shape,
            like,
            filters,
            kernel_size,
            shape_units,
            units,
            joint_units,
            dropout,
            shape_dropout,
            number,
        )
        for number in range(members)
    ]
    x = layers.Average(dtype="float32")(outputs) if members > 1 else outputs[0]
    if like.multi_label:
        x = layers.Activation("sigmoid", dtype="float32", name="probabilities")(
            ops.log(x + _TINY) - ops.log(1 - x + _TINY)
        )
    else:
        x = layers.Activation("softmax", dtype="float32", name="probabilities")(
            ops.log(x + _TINY)
        )  # the mean itself
    return keras.Model([signal, metadata], x, name="rhythm")


def _with_difference(signal, leads):
    """Beat leads, typical leads, and their difference where there are typical leads."""
    own = [i for i, lead in enumerate(leads) if not lead.endswith(" typical")]
    if 2 * len(own) != len(leads):
        return signal
    beat, typical = signal[:, :, : len(own)], signal[:, :, len(own) :]
    return layers.Concatenate(name="with_difference")([beat, typical, beat - typical])


def _member(
    numbers,
    shape,
    like,
    filters,
    kernel_size,
    shape_units,
    units,
    joint_units,
    dropout,
    shape_dropout,
    number,
):
    """One network from metadata and beat to probabilities."""
    x = layers.Dropout(dropout)(layers.Dense(units, activation="gelu")(numbers))
    if shape is not None:
        y = layers.GaussianNoise(0.05)(shape)
        for n in filters:
            y = layers.Conv1D(n, kernel_size, strides=2, padding="same", use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
        if number == 0:
            y = pooled(y, "mean+max")
        else:
            y = layers.Concatenate()(
                [layers.GlobalAveragePooling1D()(y), layers.GlobalMaxPooling1D()(y)]
            )
        y = layers.Dense(shape_units, activation="gelu")(layers.Dropout(shape_dropout)(y))
        x = layers.Concatenate()([x, y])
    x = layers.Dropout(dropout)(layers.Dense(joint_units, activation="gelu")(x))
    activation = "sigmoid" if like.multi_label else "softmax"
    return layers.Dense(
        len(like.classes), activation=activation, dtype="float32", name=f"member_{number}"
    )(x)


def signal_to_image(
    like, *, filters=(8, 16, 32), kernel_size=3, dense_units=128, dropout=0.5, grid=None
):
    """The signal-to-image recipe: a coloured 128 x 128 spectrogram, three convolution stages, one dense layer.

    Each stage is convolution, ReLU, batch normalisation and 2 x 2 maximum, in this order. The images are made
    inside the model batch by batch and never exist all at once.

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
        Geometry of the images made from signals. By default windows of 0.5 s (64 samples at 125 Hz) every
        32 ms, resized to 128 x 128 in three colours.

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
    return keras.Model(
        inputs,
        classifier(x, like, dense_units=(dense_units,), dropout=dropout),
        name="signal_to_image",
    )
