"""Cut long signals into crops, and average what a network says of them.

Conventions
-----------
Crops of a record all have one length. What is predicted of a record is the average over crops
that overlap by half; what is trained on is one crop per record and epoch, from a random start.
"""

import keras
import numpy as np
from keras import ops

from ecg_keras._checks import check_positive


def crop_starts(n_samples, length):
    """First samples of the crops a record's prediction averages: half overlapping, first and last included.

    Examples
    --------
    >>> crop_starts(1000, 250).tolist()
    [0, 125, 250, 375, 500, 625, 750]
    """
    n = 1 if length >= n_samples else 1 + -(-2 * (n_samples - length) // length)
    return np.linspace(0, n_samples - length, n).round().astype(int)


def crop_length(model, ds):
    """Samples the model takes where that is less than the rows of `ds` have, else None."""
    inputs = {tensor.name: tensor for tensor in model.inputs}
    if "signal" not in inputs or ds.grid is not None:
        return None
    length = inputs["signal"].shape[1]
    return length if length is not None and length < ds.x.shape[1] else None


def in_crops(like, crop_s):
    """A data set of all stretches of `crop_s` seconds that lie end to end, those of a row together.

    Raises
    ------
    ValueError
        If its rows are no signals, or shorter.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> in_crops(ECGDataset(np.zeros((2, 250, 1)), [0, 1], classes="NV", fs=100), 1.0).x.shape
    (4, 100, 1)
    """
    check_positive("crop_s", crop_s)
    n_samples = round(crop_s * like.fs)
    if like.grid is not None or not 1 < n_samples <= like.x.shape[1]:
        got = (
            "images or spectra"
            if like.grid is not None
            else f"signals of {like.x.shape[1] / like.fs:g} s"
        )
        raise ValueError(f"crop_s={crop_s:g} needs signals of at least that length, got {got}.")
    n_crops = like.x.shape[1] // n_samples
    rows = like[np.repeat(np.arange(len(like)), n_crops)]
    return rows.replace(
        x=like.x[:, : n_crops * n_samples].reshape(-1, n_samples, like.x.shape[2]),
        n_samples=n_samples,
    )


@keras.saving.register_keras_serializable("ecg_keras")
class Crops(keras.layers.Layer):
    """Cut stretches of one length out of each signal; `MeanOfCrops` averages what a network says of them.

    Parameters
    ----------
    starts : sequence of int
        First sample of each crop.
    length : int
        Samples per crop.
    random : bool, default False
        In training, cut one crop from a random start instead.
    seed : int, default 0
        Of the random starts.

    Input shape: (batch, samples, leads). Output shape: (batch * crops, length, leads), a row's crops together.

    Examples
    --------
    >>> crops = Crops([0, 2], 3, random=True)
    >>> x = np.arange(5.0).reshape(1, 5, 1)
    >>> np.asarray(crops(x))[..., 0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    >>> tuple(crops(x, training=True).shape)
    (1, 3, 1)
    """

    def __init__(self, starts, length, *, random=False, seed=0, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.starts, self.length = [int(start) for start in starts], int(length)
        self.random, self.seed = bool(random), int(seed)
        self.draw = keras.random.SeedGenerator(seed) if random else None

    def compute_output_shape(self, input_shape):
        rows = None if input_shape[0] is None else input_shape[0] * len(self.starts)
        return rows, self.length, *input_shape[2:]

    def call(self, x, training=False):
        if training and self.random:
            first = keras.random.randint(
                (ops.shape(x)[0], 1), 0, x.shape[1] - self.length + 1, seed=self.draw
            )
            at = ops.cast(first, "int32") + np.arange(self.length, dtype=np.int32)
            return ops.take_along_axis(x, at[:, :, None], axis=1)
        cut = ops.stack([x[:, start : start + self.length] for start in self.starts], axis=1)
        return ops.reshape(cut, (-1, self.length, *x.shape[2:]))

    def repeat(self, x):
        """A row of `x` for each of its crops."""
        return ops.repeat(x, len(self.starts), axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "starts": self.starts,
            "length": self.length,
            "random": self.random,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("ecg_keras")
class MeanOfCrops(keras.layers.Layer):
    """Average what a network says of a row's crops.

    Parameters
    ----------
    n : int
        Crops per row.
    random : bool, default False
        In training there is one crop per row, as of `Crops` with ``random=True``.

    Input shape: (batch * n, values). Output shape: (batch, values).

    Examples
    --------
    >>> np.asarray(MeanOfCrops(2)(np.array([[0.0], [2.0], [5.0], [6.0]]))).tolist()
    [[1.0], [5.5]]
    """

    def __init__(self, n, *, random=False, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.n, self.random = int(n), bool(random)

    def compute_output_shape(self, input_shape):
        return None, *input_shape[1:]

    def call(self, x, training=False):
        if training and self.random:
            return x
        return ops.mean(ops.reshape(x, (-1, self.n, x.shape[-1])), axis=1)

    def get_config(self):
        return {**super().get_config(), "n": self.n, "random": self.random}
