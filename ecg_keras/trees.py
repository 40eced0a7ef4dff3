"""Average the beats of a signal, and run decision trees, inside a network.

Conventions
-----------
Signals are (batch, samples, leads). Weights are fixed: scikit-learn grows the trees, see `forest.py`.
"""

import keras
import numpy as np
from keras import ops

_RATE_HZ = 100.0  # of the average beat, about
SURE = 1e-3  # shares of trees stay this far from 0 and 1 before their log-odds are taken
_APART_S = 0.25  # two R peaks
_QRS_S = 0.08
_REST_S = (-0.20, -0.12)  # before R: the PR segment
_NODE = {
    "feature": "int32",
    "threshold": "float32",
    "left": "int32",
    "right": "int32",
    "share": "float32",
}


@keras.saving.register_keras_serializable("ecg_keras")
class Trees(keras.layers.Layer):
    """What decision trees say of each class: the log-odds of their mean share, or the sum of boosted ones.

    Parameters
    ----------
    classes, trees : int
        Classes, and trees for each.
    nodes, depth : int
        Most nodes of a tree, and the longest way from a root to a leaf.
    boosted : bool, default False
        Trees add to the log-odds, instead of having a share each.

    Input shape: (batch, values). Output shape: (batch, classes), shares within the log-odds of 0.001 and 0.999.

    Examples
    --------
    >>> from sklearn.ensemble import ExtraTreesClassifier
    >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> tree = ExtraTreesClassifier(1, random_state=0).fit(x, y).estimators_[0].tree_
    >>> layer = Trees(1, 1, tree.node_count, tree.max_depth)
    >>> odds = layer(x)
    >>> layer.plant([[(tree, tree.value[:, 0, 1])]])
    >>> np.asarray(layer(x), float).round(1).ravel().tolist()
    [-6.9, -6.9, 6.9, 6.9]
    """

    def __init__(self, classes, trees, nodes, depth, boosted=False, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.classes, self.trees, self.nodes, self.depth = (
            int(classes),
            int(trees),
            int(nodes),
            int(depth),
        )
        self.boosted = bool(boosted)

    def build(self, input_shape):
        size = self.classes * self.trees * self.nodes
        for name, dtype in _NODE.items():
            weight = self.add_weight(
                name=name, shape=(size,), dtype=dtype, initializer="zeros", trainable=False
            )
            setattr(self, name, weight)

    def plant(self, forests):
        """Take over trees: per class a list of (scikit-learn's `Tree`, what it says at each of its nodes)."""
        arrays = {
            name: np.zeros((self.classes * self.trees, self.nodes), dtype)
            for name, dtype in _NODE.items()
        }
        for number, (tree, share) in enumerate(pair for forest in forests for pair in forest):
            leaf, own = tree.children_left < 0, np.arange(tree.node_count)
            first = number * self.nodes
            values = {
                "feature": np.where(leaf, 0, tree.feature),
                "threshold": tree.threshold,
                "left": first + np.where(leaf, own, tree.children_left),  # a leaf leads to itself
                "right": first + np.where(leaf, own, tree.children_right),
                "share": share,
            }
            for name, value in values.items():
                arrays[name][number, : tree.node_count] = value
        for name, value in arrays.items():
            getattr(self, name).assign(value.ravel())

    def save_own_variables(self, store):
        for name in _NODE:  # by name: Keras's numbers would follow the order of this file
            store[name] = np.asarray(getattr(self, name))

    def load_own_variables(self, store):
        for name in _NODE:
            getattr(self, name).assign(store[name])

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.classes

    def call(self, values):
        roots = np.arange(self.classes * self.trees, dtype=np.int32) * self.nodes
        node = ops.zeros_like(ops.cast(values[:, :1], "int32")) + roots  # (batch, trees)
        for _ in range(self.depth):
            seen = ops.take_along_axis(values, ops.take(self.feature, node), axis=1)
            node = ops.where(
                seen <= ops.take(self.threshold, node),
                ops.take(self.left, node),
                ops.take(self.right, node),
            )
        shares = ops.reshape(ops.take(self.share, node), (-1, self.classes, self.trees))
        if self.boosted:
            return ops.sum(shares, axis=2)
        p = ops.clip(ops.mean(shares, axis=2), SURE, 1 - SURE)
        return ops.log(p) - ops.log(1 - p)

    def get_config(self):
        sizes = {
            "classes": self.classes,
            "trees": self.trees,
            "nodes": self.nodes,
            "depth": self.depth,
        }
        return {**super().get_config(), **sizes, "boosted": self.boosted}


@keras.saving.register_keras_serializable("ecg_keras")
class AverageBeat(keras.layers.Layer):
    """Mean of a signal's beats around R, above its level before QRS, and how it rises and falls.

    R is where the squared slope of all leads together, over 80 ms, is largest within a quarter of a second and
    at least a quarter of what its steepest 2 % reach. The signal is first averaged down to about 100 Hz.

    Parameters
    ----------
    fs : float
        Sampling rate, in Hz.
    before_s, after_s : float
        The beat, in s before and after R.

    Input shape: (batch, samples, leads). Output shape: (batch, values): the beat, then differences of the samples
    on both sides of each of its inner ones, leads together.

    Examples
    --------
    >>> t = np.arange(1000) % 80 - 40
    >>> x = np.exp(-((t / 3) ** 2)).astype(np.float32)[None, :, None]
    >>> beat = np.asarray(AverageBeat(100.0)(x), float)[0, :70]
    >>> int(beat.argmax()), round(float(beat.max()), 2)
    (25, 1.0)
    """

    def __init__(self, fs, *, before_s=0.25, after_s=0.45, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.fs, self.before_s, self.after_s = float(fs), float(before_s), float(after_s)
        self.step = max(1, round(self.fs / _RATE_HZ))

    def _n(self, seconds):
        """Seconds as samples of the averaged-down signal."""
        return round(seconds * self.fs / self.step)

    def build(self, input_shape):
        if input_shape[1] // self.step < 2 * self._n(self.before_s + self.after_s):
            raise ValueError(
                f"an average beat of {self.before_s + self.after_s:g} s needs signals at least twice as long, "
                f"got {input_shape[1] / self.fs:g} s."
            )

    def compute_output_shape(self, input_shape):
        return input_shape[0], 2 * (
            self._n(self.before_s) + self._n(self.after_s) - 1
        ) * input_shape[2]

    def call(self, signals):
        x = ops.average_pool(signals, self.step, strides=self.step) if self.step > 1 else signals
        n, leads = x.shape[1:]
        before, after = self._n(self.before_s), self._n(self.after_s)
        slopes = ops.sum(ops.square(x[:, 1:] - x[:, :-1]), axis=2, keepdims=True)
        slopes = ops.concatenate([ops.zeros_like(slopes[:, :1]), slopes], axis=1)
        energy = ops.average_pool(slopes, self._n(_QRS_S), strides=1, padding="same")
        inside = np.zeros((1, n, 1), np.float32)
        inside[:, before : n - after] = 1  # only beats that are there whole
        energy = energy * inside
        steep = ops.sort(energy, axis=1)[:, int(0.98 * n)][:, None]
        top = ops.max_pool(energy, 2 * self._n(_APART_S) + 1, strides=1, padding="same")
        peaks = ops.where((energy >= top) & (energy >= 0.25 * steep), energy, 0.0)[..., 0]
        most = -(-n // self._n(_APART_S))
        height, places = ops.top_k(peaks, most)
        weight = ops.cast(height > 0, x.dtype)  # (batch, most)
        weight = weight / ops.maximum(ops.sum(weight, axis=1, keepdims=True), 1.0)
        at = ops.maximum(ops.cast(places, "int32"), before)[:, :, None] + np.arange(
            -before, after, dtype=np.int32
        )
        at = ops.minimum(at, n - 1)
        flat = ops.reshape(at, (-1, most * (before + after), 1))
        beats = ops.take_along_axis(x, flat, axis=1)
        beats = ops.reshape(beats, (-1, most, before + after, leads))
        beat = ops.sum(beats * weight[:, :, None, None], axis=1)
        first = max(0, before + self._n(_REST_S[0]))
        rest = ops.mean(
            beat[:, first : max(first + 1, before + self._n(_REST_S[1]))], axis=1, keepdims=True
        )
        slopes = beat[:, 2:] - beat[:, :-2]
        size = (before + after) * leads
        return ops.concatenate(
            [ops.reshape(beat - rest, (-1, size)), ops.reshape(slopes, (-1, size - 2 * leads))],
            axis=1,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "fs": self.fs,
            "before_s": self.before_s,
            "after_s": self.after_s,
        }
