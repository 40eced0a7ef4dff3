"""Parts of networks that Keras does not have: positions, fixed random convolutions, the mean of branches.

Conventions
-----------
Layers are registered under the package ``ecg_keras`` and have nothing to train.
"""

import itertools

import keras
import numpy as np
from keras import ops

from ecg_keras._checks import check_signal_shape


@keras.saving.register_keras_serializable("ecg_keras")
class Positions(keras.layers.Layer):
    """Add to each position of a sequence where it is: sines and cosines (Vaswani et al., NeurIPS 2017, section 3.5).

    Input and output shape: (batch, length, width), any length.

    Examples
    --------
    >>> np.asarray(Positions()(np.zeros((1, 2, 4))), float).round(2)[0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.84, 0.01, 0.54, 1.0]]
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        length, width = x.shape[1:]
        rates = 10000.0 ** (-np.arange((width + 1) // 2) * 2 / width)
        angles = np.arange(length)[:, None] * rates
        places = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
        return x + ops.cast(places, x.dtype)


@keras.saving.register_keras_serializable("ecg_keras")
class MiniRocket(keras.layers.Layer):
    """Share of time in which each of many fixed convolutions exceeds a threshold.

    The 84 kernels of A. Dempster, D. Schmidt and G. Webb, "MiniRocket", KDD 2021 (nine taps, three
    of them 2, the others -1), each on a random subset of leads, at several dilations. Unlike
    the paper's, edges are always padded with zeros, and thresholds are quantiles over many rows.

    Parameters
    ----------
    dilations : sequence of int
        Samples between taps.
    n_biases : int, default 8
        Thresholds per kernel and dilation; `adapt` chooses them.
    seed : int, default 0
        Draws the leads of each kernel.

    Input shape: (batch, samples, leads). Output shape: (batch, dilations * n_biases * 84), in [0, 1].

    Examples
    --------
    >>> layer, x = MiniRocket([1, 2], n_biases=2), np.random.default_rng(0).normal(size=(8, 100, 3)).astype("float32")
    >>> layer.adapt(x)
    >>> tuple(layer(x).shape)
    (8, 336)
    """

    def __init__(self, dilations, *, n_biases=8, seed=0, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.dilations, self.n_biases, self.seed = (
            [int(step) for step in dilations],
            int(n_biases),
            int(seed),
        )

    def build(self, input_shape):
        check_signal_shape(self, input_shape)
        if 8 * max(self.dilations) >= input_shape[1]:
            raise ValueError(
                f"dilations up to {max(self.dilations)} reach over {8 * max(self.dilations) + 1} samples, "
                f"the signals have {input_shape[1]}."
            )
        shape = (len(self.dilations), 9, input_shape[2], 84)
        draw = lambda shape, dtype: ops.convert_to_tensor(_rocket_kernels(shape, self.seed), dtype)  # noqa: E731
        self.kernels = self.add_weight(
            name="kernels", shape=shape, initializer=draw, trainable=False
        )
        biases = (len(self.dilations), self.n_biases, 84)
        self.biases = self.add_weight(
            name="biases", shape=biases, initializer="zeros", trainable=False
        )

    def adapt(self, signals):
        """Set the thresholds to quantiles of each convolution over some rows (n, samples, leads)."""
        if not self.built:
            self.build(signals.shape)
        levels = (
            np.arange(1, self.n_biases + 1) * (np.sqrt(5) + 1) / 2
        ) % 1  # low-discrepancy, as in the paper
        values = [
            ops.convert_to_numpy(self._convolved(signals, i)).reshape(-1, 84)
            for i in range(len(self.dilations))
        ]
        self.biases.assign(
            np.stack([np.quantile(value, levels, axis=0) for value in values]).astype(np.float32)
        )

    def _convolved(self, signals, i):
        """The 84 convolutions at one dilation, (batch, samples, 84)."""
        return ops.conv(signals, self.kernels[i], padding="same", dilation_rate=self.dilations[i])

    def compute_output_shape(self, input_shape):
        return input_shape[0], len(self.dilations) * self.n_biases * 84

    def call(self, signals):
        shares = []
        for i in range(len(self.dilations)):
            values = self._convolved(signals, i)
            shares += [
                ops.mean(ops.cast(values > self.biases[i, j], values.dtype), axis=1)
                for j in range(self.n_biases)
            ]
        return ops.concatenate(shares, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "dilations": self.dilations,
            "n_biases": self.n_biases,
            "seed": self.seed,
        }


def _rocket_kernels(shape, seed):
    """Taps of every dilation (dilations, 9, leads, 84): all ways to choose three of nine, on random leads."""
    n_dilations, _, n_leads, _ = shape
    taps = np.full((84, 9), -1.0)
    for row, places in enumerate(itertools.combinations(range(9), 3)):
        taps[row, list(places)] = 2.0
    rng = np.random.default_rng(seed)
    counts = (2 ** rng.uniform(0, np.log2(n_leads + 0.999), (n_dilations, 84))).astype(
        int
    )  # few leads more often
    rank = rng.random((n_dilations, 84, n_leads)).argsort(axis=-1).argsort(axis=-1)
    used = rank < counts[..., None]  # (dilations, 84, leads)
    return (taps.T[None, :, None, :] * used.transpose(0, 2, 1)[:, None]).astype(np.float32)


@keras.saving.register_keras_serializable("ecg_keras")
class LateMean(keras.layers.Layer):
    """Mean of what several branches say; those that do not train join only when nothing trains.

    A branch fitted to the train rows before knows their labels: if it took part in training, the
    others would learn what it got wrong on them, which is next to nothing.

    Parameters
    ----------
    frozen : sequence of int
        Places of the branches that do not train.
    weights : sequence of float, optional
        How much each branch counts; all alike by default.

    Input: a list of tensors (batch, classes). Output shape: (batch, classes).

    Examples
    --------
    >>> branches = [np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])]
    >>> [np.asarray(LateMean([1])(branches, training=training)).tolist() for training in (False, True)]
    [[[2.0, 2.0]], [[1.0, 0.0]]]
    >>> np.asarray(LateMean(weights=(3, 1))(branches)).tolist()
    [[1.5, 1.0]]
    """

    def __init__(self, frozen=(), weights=None, **kwargs):
        super().__init__(**kwargs)
        self.frozen = [int(place) for place in frozen]
        self.counts = None if weights is None else [float(weight) for weight in weights]

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def call(self, branches, training=False):
        weighed = list(zip(self.counts or [1.0] * len(branches), branches))
        awake = [pair for place, pair in enumerate(weighed) if place not in self.frozen]
        chosen = awake if training and awake else weighed
        return sum(weight * x for weight, x in chosen) / sum(weight for weight, _ in chosen)

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen, "weights": self.counts}
