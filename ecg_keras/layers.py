"""The package's Keras layers: images of signals, crops, fixed convolutions, decision trees.

Conventions
-----------
Signals are (batch, samples, leads) in any real unit. Nothing in these layers trains. Each row is
computed by itself, never with a statistic over the batch, so a beat gives the same answer whatever
it is batched with.

The layers are registered with Keras under the package name ``ecg_keras``. After ``import
ecg_keras``, which imports this module as soon as Keras is there, a saved model loads with Keras's
safe mode on. Class names and config keys are part of saved files: they never change.
"""

import dataclasses
import html
import itertools
import textwrap

import keras
import numpy as np
from keras import ops

from ecg_keras._checks import check_signal_shape
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid

SURE = 1e-3  # shares of trees stay this far from 0 and 1 before their log-odds are taken
# keeps an all-zero signal finite; far below the power of one ADC step, and its square is a float32
_MOST_DIGEST = 2**32 - 1  # of a row, see `ECGDataset.row_digests`
_TINY = 1e-18
_BEAT_HZ = 100.0  # rate of the average beat, about
_APART_S = 0.25  # least distance of two R peaks
_QRS_S = 0.08  # width over which slopes are summed to find R
_REST_S = (-0.20, -0.12)  # before R: the PR segment
_NODE = {  # what `Trees` holds of each node
    "feature": "int32",
    "threshold": "float32",
    "left": "int32",
    "right": "int32",
    "share": "float32",
}
_registered = keras.saving.register_keras_serializable("ecg_keras")


class _Fixed(keras.layers.Layer):
    """A layer with nothing to train. `kept` names the arguments that its config holds."""

    kept = ()

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})

    def compute_output_shape(self, input_shape):
        """The input's own shape, where a layer does not say otherwise."""
        return input_shape

    def get_config(self):
        """What the layer is made again from."""
        return {**super().get_config(), **{name: getattr(self, name) for name in self.kept}}


class _Representation(_Fixed):
    """A layer that computes what its grid describes."""

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = self.grid_type(**grid) if isinstance(grid, dict) else grid

    def build(self, input_shape):
        """Refuse signals that the grid does not fit."""
        check_signal_shape(self, input_shape)
        self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape):
        """(batch, height, width, channels) of the images."""
        return input_shape[0], *self.grid.image_shape(*input_shape[1:])

    def get_config(self):
        """What the layer is made again from: the grid's fields."""
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


@_registered
class Spectrogram(_Representation):
    """Log-power spectrogram of each lead, scaled to [0, 1].

    Power of the Hann-window short-time Fourier transform, in dB relative to the row's own
    peak over all its leads, floored at ``-top_db`` and mapped linearly to [0, 1]: 1 is the peak.

    Parameters
    ----------
    grid : SpectrogramGrid
        Window, step, floor and image options.

    Input shape: (batch, samples, leads), any real unit.
    Output shape: (batch, height, width, channels) as ``grid.image_shape(samples, leads)``.

    Examples
    --------
    >>> layer = Spectrogram(SpectrogramGrid(fs=125))
    >>> tuple(layer(np.random.default_rng(0).normal(size=(2, 187, 1))).shape)
    (2, 17, 32, 1)
    """

    grid_type = SpectrogramGrid

    def __init__(self, grid, **kwargs):
        super().__init__(grid, **kwargs)
        self._kernel = _fourier_kernel(self.grid.frame_length)

    def call(self, signals):
        """Images of signals."""
        grid = self.grid
        x = ops.cast(signals, "float32")
        n_samples, n_leads = x.shape[1:]
        x = _leads_as_rows(x)
        if grid.center:
            half = grid.frame_length // 2
            x = ops.pad(x, ((0, 0), (half, half), (0, 0)), mode="reflect")
        parts = ops.conv(x, self._kernel, strides=grid.hop_length, padding="valid")
        power = _power(parts)  # (batch * leads, frames, freqs)
        power = ops.reshape(power, (-1, n_leads, grid.n_frames(n_samples), grid.n_freqs))
        power = ops.transpose(power, (0, 3, 2, 1))  # (batch, freqs, frames, leads)
        return ops.cast(_image(power, grid), self.compute_dtype)


def _fourier_kernel(frame_length):
    """Hann-windowed cosines, then sines, as a convolution kernel (frame_length, 1, 2 * n_freqs)."""
    n = np.arange(frame_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / frame_length)  # periodic, as scipy.signal's
    turns = np.exp(-2j * np.pi * np.outer(n, np.arange(frame_length // 2 + 1)) / frame_length)
    kernel = window[:, None] * np.concatenate([turns.real, turns.imag], axis=1)
    return kernel[:, None, :].astype(np.float32)


@_registered
class Scalogram(_Representation):
    """Log-power scalogram of each lead: complex Morlet wavelets, scaled to [0, 1].

    The squared magnitude of PyWavelets' ``cwt`` in dB relative to the row's own peak over all
    its leads, floored at ``-top_db`` and mapped linearly to [0, 1]: 1 is the peak.

    Parameters
    ----------
    grid : ScalogramGrid
        Frequencies, step, floor and image options.

    Input shape: (batch, samples, leads), any real unit.
    Output shape: (batch, height, width, channels) as ``grid.image_shape(samples, leads)``.

    Examples
    --------
    >>> layer = Scalogram(ScalogramGrid(fs=125))
    >>> tuple(layer(np.random.default_rng(0).normal(size=(2, 187, 1))).shape)
    (2, 32, 38, 1)
    """

    grid_type = ScalogramGrid

    def build(self, input_shape):
        """Compute the wavelets for this length of signals."""
        super().build(input_shape)
        self._kernels = _morlet_kernels(self.grid, input_shape[1])

    def power(self, signals):
        """Squared magnitude of each coefficient, float32 (batch, freqs, frames, leads)."""
        signals = ops.convert_to_tensor(signals, "float32")
        if not self.built:
            self.build(signals.shape)
        x = _leads_as_rows(signals)
        bands = []
        for kernel in self._kernels:
            half = kernel.shape[0] // 2
            padded = ops.pad(x, ((0, 0), (half, half), (0, 0)))
            parts = ops.conv(padded, kernel, strides=self.grid.hop_length, padding="valid")
            bands.append(_power(parts))  # (batch * leads, frames, freqs of the band)
        power = ops.concatenate(bands, axis=-1)
        power = ops.reshape(power, (-1, signals.shape[2], *power.shape[1:]))
        return ops.transpose(power, (0, 3, 2, 1))

    def call(self, signals):
        """Images of signals."""
        image = _image(self.power(ops.cast(signals, "float32")), self.grid)
        return ops.cast(image, self.compute_dtype)


def _morlet_kernels(grid, n_samples):
    """One convolution kernel (taps, 1, 2 * freqs) an octave of scales, real parts then imaginary.

    The integral of the wavelet is read from a table and differenced, as ``pywt.cwt`` does. Two
    kinds of taps are left out: those beyond the signal's length, which meet only zeros, and those
    beyond 4 widths, which are below 1e-6 of the largest.
    """
    step = 16 / (2**grid.precision - 1)  # PyWavelets' support is -8 to 8 scales
    at = -8 + step * np.arange(2**grid.precision)
    wavelet = np.exp(2j * np.pi * grid.center * at - at**2 / grid.bandwidth)
    wavelet = wavelet / np.sqrt(np.pi * grid.bandwidth)
    table = np.conj(np.cumsum(wavelet) * step)
    reach = min(8.0, 4 * np.sqrt(grid.bandwidth))  # exp(-16) of the peak
    octaves = {}
    for scale in grid.scales:
        place = (np.arange(scale * 16 + 1) / (scale * step)).astype(int)
        integral = table[place[place < len(table)]][::-1]
        taps = -np.sqrt(scale) * np.diff(np.pad(integral, 1))[::-1]  # a correlation kernel
        zero = (
            len(taps) - 1 - (1 + (len(integral) - 2) // 2)
        )  # the tap that meets the sample itself
        half = int(min(np.ceil(reach * scale), n_samples - 1, zero, len(taps) - 1 - zero))
        octave = octaves.setdefault(int(np.floor(np.log2(scale))), [])
        octave.append(taps[zero - half : zero + half + 1])
    kernels = []
    for band in octaves.values():
        half = max(len(taps) for taps in band) // 2
        columns = np.stack([np.pad(taps, half - len(taps) // 2) for taps in band], axis=1)
        kernel = np.concatenate([columns.real, columns.imag], axis=1)
        kernels.append(kernel[:, None, :].astype(np.float32))
    return kernels


@_registered
class Spectrum(_Representation):
    """Spectrum of each whole lead: Fourier magnitude in dB, scaled to [0, 1].

    Each lead's mean is taken off first. Power is in dB relative to the row's own peak over all
    its leads, floored at ``-top_db`` and mapped linearly to [0, 1]: 1 is the peak.

    Parameters
    ----------
    grid : SpectrumGrid
        Resolution, highest frequency and floor.

    Input shape: (batch, samples, leads), any real unit.
    Output shape: (batch, freqs, leads) as ``grid.spectrum_shape(samples, leads)``.

    Examples
    --------
    >>> layer = Spectrum(SpectrumGrid(fs=125))
    >>> tuple(layer(np.random.default_rng(0).normal(size=(2, 187, 1))).shape)
    (2, 75, 1)
    """

    grid_type = SpectrumGrid

    def build(self, input_shape):
        """Compute the cosines and sines for this length of signals."""
        super().build(input_shape)
        freqs, self._share = self.grid.bins(input_shape[1])
        turns = np.exp(-2j * np.pi * np.outer(np.arange(input_shape[1]), freqs) / self.grid.fs)
        kernel = np.concatenate([turns.real, turns.imag], axis=1)  # (samples, 2 * bins)
        self._kernel = kernel.astype(np.float32)

    def compute_output_shape(self, input_shape):
        """(batch, freqs, leads)."""
        return input_shape[0], *self.grid.spectrum_shape(*input_shape[1:])

    def power(self, signals):
        """Squared magnitude of each frequency, float32 (batch, freqs, leads)."""
        signals = ops.convert_to_tensor(signals, "float32")
        if not self.built:
            self.build(signals.shape)
        x = ops.transpose(signals - ops.mean(signals, axis=1, keepdims=True), (0, 2, 1))
        power = _power(ops.matmul(x, self._kernel))  # (batch, leads, bins)
        if self._share > 1:
            n_leads, n_bins = power.shape[1:]
            power = ops.reshape(power, (-1, n_leads, n_bins // self._share, self._share))
            power = ops.mean(power, axis=-1)
        return ops.transpose(power, (0, 2, 1))

    def call(self, signals):
        """Spectra of signals."""
        power = self.power(ops.cast(signals, "float32"))
        if self.grid.log:
            spectrum = _decibels(power, self.grid.top_db)
        else:
            peak = ops.max(power, axis=(1, 2), keepdims=True)
            spectrum = ops.sqrt(power / ops.maximum(peak, _TINY))
        return ops.cast(spectrum, self.compute_dtype)


def _leads_as_rows(x):
    """(batch, samples, leads) to (batch * leads, samples, 1)."""
    return ops.reshape(ops.transpose(x, (0, 2, 1)), (-1, x.shape[1], 1))


def _power(parts):
    """Squared magnitude; the real parts come first on the last axis, then the imaginary ones."""
    real, imaginary = ops.split(parts, 2, axis=-1)
    return ops.square(real) + ops.square(imaginary)


def _image(power, grid):
    """The image of power (batch, freqs, frames, leads), resized and coloured as the grid says."""
    image = _decibels(power, grid.top_db)
    if grid.size is not None:
        image = ops.image.resize(
            image, grid.size, interpolation="bilinear", data_format="channels_last"
        )
    if grid.rgb:  # the classic blue-green-red map, piecewise linear
        image = ops.clip(1.5 - ops.abs(4 * image - np.array([3.0, 2.0, 1.0], "float32")), 0, 1)
    return image


def _decibels(power, top_db):
    """Power to dB below each row's own peak, floored at -top_db and mapped to [0, 1]."""
    peak = ops.max(power, axis=tuple(range(1, len(power.shape))), keepdims=True)
    share = ops.maximum(power / ops.maximum(peak, _TINY), 10.0 ** (-top_db / 10))
    return ops.maximum(1 + (10 / np.log(10) / top_db) * ops.log(share), 0)


REPRESENTATIONS = {layer.grid_type: layer for layer in (Spectrogram, Scalogram, Spectrum)}


def representation(grid, **kwargs):
    """The layer that computes what `grid` describes."""
    return REPRESENTATIONS[type(grid)](grid, **kwargs)


@_registered
class Standardize(_Fixed):
    """Subtract a mean and divide by a scale that were fitted on train rows.

    Parameters
    ----------
    mean, scale : array_like
        Broadcast against one row of the input. A scale of 0 (a constant column) counts as 1.

    Input and output shape: the same.

    Examples
    --------
    >>> np.asarray(Standardize([1.0, 2.0], [2.0, 0.0])(np.array([[3.0, 4.0]]))).tolist()
    [[1.0, 2.0]]
    """

    def __init__(self, mean, scale, **kwargs):
        super().__init__(**kwargs)
        self.mean = np.asarray(mean, np.float32)
        scale = np.asarray(scale, np.float32)
        self.scale = np.where(scale == 0, np.float32(1), scale)

    def call(self, x):
        """The standardised rows."""
        return ops.cast((ops.cast(x, "float32") - self.mean) / self.scale, self.compute_dtype)

    def get_config(self):
        """What the layer is made again from."""
        return {**super().get_config(), "mean": self.mean.tolist(), "scale": self.scale.tolist()}


@_registered
class Card(_Fixed):
    """Pass probabilities through and carry what a user of the saved model must know.

    Parameters
    ----------
    info : dict
        classes, fs (Hz), leads, unit, n_samples, task, thresholds (multi-label), and of the train
        part source, preparation, split and patients.
    rows : uint32, shape (n,), optional
        `ECGDataset.row_digests` of the rows trained on. Kept sorted, each once. In the saved file
        they lie among the weights, 4 bytes each, but they are no weights of the model.

    Attributes
    ----------
    known_to : int
        Of rows whose digest is no larger, the card knows all; see `keep_rows`.

    Examples
    --------
    >>> Card({"classes": ["N", "V"], "fs": 125.0}).info["classes"]
    ['N', 'V']
    """

    kept = ("info",)

    def __init__(self, info, rows=None, **kwargs):
        super().__init__(**kwargs)
        self.info = dict(info)
        self.rows = None if rows is None else np.unique(np.asarray(rows, np.uint32))
        self.known_to = _MOST_DIGEST

    def keep_rows(self, most):
        """Keep the `most` smallest digests: as digests are random, a fair sample of the rows."""
        if self.rows is not None and len(self.rows) > most:
            self.rows = self.rows[:most]
            self.known_to = int(self.rows[-1])

    def call(self, x):
        """The probabilities as they are."""
        return x

    def save_own_variables(self, store):
        """Write the rows into the saved file, where Keras asks for weights."""
        if self.rows is not None:
            store["rows"] = self.rows
            if self.known_to < _MOST_DIGEST:
                store["known_to"] = np.array([self.known_to], np.uint32)

    def load_own_variables(self, store):
        """Read the rows back; files of older versions have none."""
        self.rows = np.array(store["rows"]) if "rows" in store.keys() else None
        if "known_to" in store.keys():
            self.known_to = int(np.array(store["known_to"])[0])


def card_layer(model):
    """The `Card` of a model saved by `fit_and_report`, or None."""
    return next((layer for layer in reversed(model.layers) if isinstance(layer, Card)), None)


def model_card(model):
    """What a saved model says of itself, see `load_model`: a dict, or None for other models.

    Examples
    --------
    >>> card = Card({"classes": ["N", "V"], "fs": 125.0})
    >>> model_card(keras.Sequential([keras.Input((2,)), card]))["classes"]
    ['N', 'V']
    """
    layer = card_layer(model)
    return None if layer is None else ModelCard(layer.info)


class ModelCard(dict):
    """What a saved model says of itself: a dict that prints, and shows in notebooks, as a table.

    Examples
    --------
    >>> print(ModelCard(classes=["N", "V"], fs=125.0, thresholds=None))
    classes      N, V
    fs           125
    """

    # long, or only for programs
    _hidden = ("patients", "split", "preparation", "metadata_names", "figures")

    def lines(self):
        """Names and values as pairs of texts; figures one by one."""
        lines = [
            (name.replace("_", " "), _plain_text(value))
            for name, value in self.items()
            if name not in self._hidden and value not in (None, [], "")
        ]
        if self.get("patients"):
            lines.append(("patients", f"{len(self['patients']):,} that it was trained on"))
        for figure in self.get("figures") or ():
            low, high = figure.get("interval") or (None, None)
            spread = "" if low is None else f" (95 % interval {low:.3g} to {high:.3g})"
            said = f"{figure['value']:.4g}{spread}, {figure['on']}"
            lines.append((figure["name"], said))
        return lines

    def __str__(self):
        text = []
        for name, value in self.lines():
            text += textwrap.wrap(f"{name:12} {value}", 100, subsequent_indent=" " * 13)
        return "\n".join(text)

    def _repr_html_(self):
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self.lines()
        )
        return f"<table>{rows}</table>"


def _plain_text(value):
    """A value of a card as text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@_registered
class Crops(_Fixed):
    """Cut stretches of one length out of each signal; `MeanOfCrops` averages the answers for them.

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

    Input shape: (batch, samples, leads).
    Output shape: (batch * crops, length, leads), a row's crops together.

    Examples
    --------
    >>> crops = Crops([0, 2], 3, random=True)
    >>> x = np.arange(5.0).reshape(1, 5, 1)
    >>> np.asarray(crops(x))[..., 0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    >>> tuple(crops(x, training=True).shape)
    (1, 3, 1)
    """

    kept = ("starts", "length", "random", "seed")

    def __init__(self, starts, length, *, random=False, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.starts, self.length = [int(start) for start in starts], int(length)
        self.random, self.seed = bool(random), int(seed)
        self.draw = keras.random.SeedGenerator(seed) if random else None

    def compute_output_shape(self, input_shape):
        """(batch * crops, length, leads)."""
        rows = None if input_shape[0] is None else input_shape[0] * len(self.starts)
        return rows, self.length, *input_shape[2:]

    def call(self, x, training=False):
        """All crops of each row, or one random crop in training."""
        if training and self.random:
            last = x.shape[1] - self.length
            first = keras.random.randint((ops.shape(x)[0], 1), 0, last + 1, seed=self.draw)
            at = ops.cast(first, "int32") + np.arange(self.length, dtype=np.int32)
            return ops.take_along_axis(x, at[:, :, None], axis=1)
        cut = ops.stack([x[:, start : start + self.length] for start in self.starts], axis=1)
        return ops.reshape(cut, (-1, self.length, *x.shape[2:]))

    def repeat(self, x):
        """A row of `x` for each of its crops."""
        return ops.repeat(x, len(self.starts), axis=0)


@_registered
class MeanOfCrops(_Fixed):
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

    kept = ("n", "random")

    def __init__(self, n, *, random=False, **kwargs):
        super().__init__(**kwargs)
        self.n, self.random = int(n), bool(random)

    def compute_output_shape(self, input_shape):
        """(batch, values)."""
        return None, *input_shape[1:]

    def call(self, x, training=False):
        """The mean over each row's crops."""
        if training and self.random:
            return x
        return ops.mean(ops.reshape(x, (-1, self.n, x.shape[-1])), axis=1)


def crop_starts(n_samples, length):
    """First samples of a record's crops: they overlap by half, and the last ends with the record.

    Examples
    --------
    >>> crop_starts(1000, 250).tolist()
    [0, 125, 250, 375, 500, 625, 750]
    """
    n = 1 if length >= n_samples else 1 + -(-2 * (n_samples - length) // length)
    return np.linspace(0, n_samples - length, n).round().astype(int)


def crop_length(model, ds):
    """Samples that the model takes, where that is less than the rows of `ds` have; else None."""
    inputs = {tensor.name: tensor for tensor in model.inputs}
    if "signal" not in inputs or ds.grid is not None:
        return None
    length = inputs["signal"].shape[1]
    return length if length is not None and length < ds.x.shape[1] else None


@_registered
class Positions(_Fixed):
    """Add sines and cosines to each position of a sequence, which tell where it is.

    As in A. Vaswani et al., NeurIPS 2017, section 3.5.

    Input and output shape: (batch, length, width), any length.

    Examples
    --------
    >>> np.asarray(Positions()(np.zeros((1, 2, 4))), float).round(2)[0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.84, 0.01, 0.54, 1.0]]
    """

    def call(self, x):
        """The sequence with its places added."""
        length, width = x.shape[1:]
        rates = 10000.0 ** (-np.arange((width + 1) // 2) * 2 / width)
        angles = np.arange(length)[:, None] * rates
        places = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
        return x + ops.cast(places, x.dtype)


@_registered
class LateMean(keras.layers.Layer):
    """Mean of what several branches say; those that do not train join only outside training.

    A branch that was fitted to the train rows before knows their labels. If it took part in
    training, the others would learn only what it gets wrong there, which is next to nothing.

    Parameters
    ----------
    frozen : sequence of int
        Places of the branches that do not train.
    weights : sequence of float, optional
        How much each branch counts; all alike by default.

    Input: a list of tensors (batch, classes). Output shape: (batch, classes).

    Examples
    --------
    >>> branches, mean = [np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])], LateMean([1])
    >>> np.asarray(mean(branches)).tolist(), np.asarray(mean(branches, training=True)).tolist()
    ([[2.0, 2.0]], [[1.0, 0.0]])
    >>> np.asarray(LateMean(weights=(3, 1))(branches)).tolist()
    [[1.5, 1.0]]
    """

    def __init__(self, frozen=(), weights=None, **kwargs):
        super().__init__(**kwargs)
        self.frozen = [int(place) for place in frozen]
        self.counts = None if weights is None else [float(weight) for weight in weights]

    def compute_output_shape(self, input_shape):
        """(batch, classes)."""
        return input_shape[0]

    def call(self, branches, training=False):
        """The mean of the branches that take part."""
        weighed = list(zip(self.counts or [1.0] * len(branches), branches))
        awake = [pair for place, pair in enumerate(weighed) if place not in self.frozen]
        chosen = awake if training and awake else weighed
        return sum(weight * x for weight, x in chosen) / sum(weight for weight, _ in chosen)

    def get_config(self):
        """What the layer is made again from."""
        return {**super().get_config(), "frozen": self.frozen, "weights": self.counts}


@_registered
class MiniRocket(_Fixed):
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

    Input shape: (batch, samples, leads).
    Output shape: (batch, dilations * n_biases * 84), in [0, 1].

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(8, 100, 3)).astype("float32")
    >>> layer = MiniRocket([1, 2], n_biases=2)
    >>> layer.adapt(x)
    >>> tuple(layer(x).shape)
    (8, 336)
    """

    kept = ("dilations", "n_biases", "seed")

    def __init__(self, dilations, *, n_biases=8, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.dilations = [int(step) for step in dilations]
        self.n_biases, self.seed = int(n_biases), int(seed)

    def build(self, input_shape):
        """Draw the kernels."""
        check_signal_shape(self, input_shape)
        longest = max(self.dilations)
        if 8 * longest >= input_shape[1]:
            raise ValueError(
                f"dilations up to {longest} reach over {8 * longest + 1} samples, "
                f"the signals have {input_shape[1]}."
            )
        draw = lambda shape, dtype: ops.convert_to_tensor(_rocket_kernels(shape, self.seed), dtype)
        shape = (len(self.dilations), 9, input_shape[2], 84)
        self.kernels = self.add_weight(
            name="kernels", shape=shape, initializer=draw, trainable=False
        )
        shape = (len(self.dilations), self.n_biases, 84)
        self.biases = self.add_weight(
            name="biases", shape=shape, initializer="zeros", trainable=False
        )

    def adapt(self, signals):
        """Set the thresholds to quantiles of each convolution over rows (n, samples, leads)."""
        if not self.built:
            self.build(signals.shape)
        # low-discrepancy levels, as in the paper
        levels = (np.arange(1, self.n_biases + 1) * (np.sqrt(5) + 1) / 2) % 1
        biases = []
        for i in range(len(self.dilations)):
            values = ops.convert_to_numpy(self._convolved(signals, i)).reshape(-1, 84)
            biases.append(np.quantile(values, levels, axis=0))
        self.biases.assign(np.stack(biases).astype(np.float32))

    def compute_output_shape(self, input_shape):
        """(batch, dilations * n_biases * 84)."""
        return input_shape[0], len(self.dilations) * self.n_biases * 84

    def call(self, signals):
        """Share of time above each threshold."""
        shares = []
        for i in range(len(self.dilations)):
            values = self._convolved(signals, i)
            shares += [
                ops.mean(ops.cast(values > self.biases[i, j], values.dtype), axis=1)
                for j in range(self.n_biases)
            ]
        return ops.concatenate(shares, axis=-1)

    def _convolved(self, signals, i):
        """The 84 convolutions at one dilation, (batch, samples, 84)."""
        return ops.conv(signals, self.kernels[i], padding="same", dilation_rate=self.dilations[i])


def _rocket_kernels(shape, seed):
    """Taps (dilations, 9, leads, 84): all ways to choose three of nine, each on random leads."""
    n_dilations, _, n_leads, _ = shape
    taps = np.full((84, 9), -1.0)
    for row, places in enumerate(itertools.combinations(range(9), 3)):
        taps[row, list(places)] = 2.0
    rng = np.random.default_rng(seed)
    counts = 2 ** rng.uniform(
        0, np.log2(n_leads + 0.999), (n_dilations, 84)
    )  # few leads more often
    rank = rng.random((n_dilations, 84, n_leads)).argsort(axis=-1).argsort(axis=-1)
    used = rank < counts.astype(int)[..., None]  # (dilations, 84, leads)
    return (taps.T[None, :, None, :] * used.transpose(0, 2, 1)[:, None]).astype(np.float32)


@_registered
class AverageBeat(_Fixed):
    """Mean of a signal's beats around R, above its level before QRS, and how it rises and falls.

    The signal is first averaged down to about 100 Hz. R is where the squared slope of all leads
    together, over 80 ms, is largest within a quarter of a second and at least a quarter of what
    its steepest 2 % reach.

    Parameters
    ----------
    fs : float
        Sampling rate, in Hz.
    before_s, after_s : float
        The beat, in s before and after R.

    Input shape: (batch, samples, leads).
    Output shape: (batch, values). First the beat, all leads of a sample together; then, for each
    inner sample of the beat, the difference of the samples on its two sides.

    Examples
    --------
    >>> t = np.arange(1000) % 80 - 40
    >>> x = np.exp(-((t / 3) ** 2)).astype(np.float32)[None, :, None]
    >>> beat = np.asarray(AverageBeat(100.0)(x), float)[0, :70]
    >>> int(beat.argmax()), round(float(beat.max()), 2)
    (25, 1.0)
    """

    kept = ("fs", "before_s", "after_s")

    def __init__(self, fs, *, before_s=0.25, after_s=0.45, **kwargs):
        super().__init__(**kwargs)
        self.fs, self.before_s, self.after_s = float(fs), float(before_s), float(after_s)
        self.step = max(1, round(self.fs / _BEAT_HZ))

    def build(self, input_shape):
        """Refuse signals that may hold no whole beat."""
        if input_shape[1] // self.step < 2 * self._n(self.before_s + self.after_s):
            raise ValueError(
                f"an average beat of {self.before_s + self.after_s:g} s needs signals at least "
                f"twice as long, got {input_shape[1] / self.fs:g} s."
            )

    def compute_output_shape(self, input_shape):
        """(batch, values)."""
        length = self._n(self.before_s) + self._n(self.after_s)
        return input_shape[0], 2 * (length - 1) * input_shape[2]

    def call(self, signals):
        """The average beat, and its slopes."""
        x = ops.average_pool(signals, self.step, strides=self.step) if self.step > 1 else signals
        n, leads = x.shape[1:]
        before, after = self._n(self.before_s), self._n(self.after_s)
        height, places = self._peaks(x)  # (batch, most)
        weight = ops.cast(height > 0, x.dtype)
        weight = weight / ops.maximum(ops.sum(weight, axis=1, keepdims=True), 1.0)
        window = np.arange(-before, after, dtype=np.int32)
        at = ops.maximum(ops.cast(places, "int32"), before)[:, :, None] + window
        at = ops.minimum(at, n - 1)  # (batch, most, window)
        most = at.shape[1]
        flat = ops.reshape(at, (-1, most * (before + after), 1))
        beats = ops.take_along_axis(x, flat, axis=1)
        beats = ops.reshape(beats, (-1, most, before + after, leads))
        beat = ops.sum(beats * weight[:, :, None, None], axis=1)  # (batch, window, leads)
        first = max(0, before + self._n(_REST_S[0]))
        end = max(first + 1, before + self._n(_REST_S[1]))
        rest = ops.mean(beat[:, first:end], axis=1, keepdims=True)
        slopes = beat[:, 2:] - beat[:, :-2]
        size = (before + after) * leads
        parts = [ops.reshape(beat - rest, (-1, size)), ops.reshape(slopes, (-1, size - 2 * leads))]
        return ops.concatenate(parts, axis=1)

    def _peaks(self, x):
        """Height and sample of R peaks whose beats are there whole; a height of 0 is no peak."""
        n = x.shape[1]
        slopes = ops.sum(ops.square(x[:, 1:] - x[:, :-1]), axis=2, keepdims=True)
        slopes = ops.concatenate([ops.zeros_like(slopes[:, :1]), slopes], axis=1)
        energy = ops.average_pool(slopes, self._n(_QRS_S), strides=1, padding="same")
        inside = np.zeros((1, n, 1), np.float32)
        inside[:, self._n(self.before_s) : n - self._n(self.after_s)] = 1
        energy = energy * inside
        steep = ops.sort(energy, axis=1)[:, int(0.98 * n)][:, None]
        top = ops.max_pool(energy, 2 * self._n(_APART_S) + 1, strides=1, padding="same")
        peaks = ops.where((energy >= top) & (energy >= 0.25 * steep), energy, 0.0)[..., 0]
        return ops.top_k(peaks, -(-n // self._n(_APART_S)))

    def _n(self, seconds):
        """Seconds as samples of the averaged-down signal."""
        return round(seconds * self.fs / self.step)


@_registered
class Trees(_Fixed):
    """What decision trees say of each class: log-odds of their mean share, or a sum of log-odds.

    scikit-learn grows the trees (see `signal_models.beat_forest`); the layer holds them as fixed
    weights and gives the same answers.

    Parameters
    ----------
    classes, trees : int
        Classes, and trees for each.
    nodes, depth : int
        Most nodes of a tree, and the longest way from a root to a leaf.
    boosted : bool, default False
        Trees add to the log-odds, instead of having a share each.

    Input shape: (batch, values).
    Output shape: (batch, classes); shares stay within the log-odds of 0.001 and 0.999.

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

    kept = ("classes", "trees", "nodes", "depth", "boosted")

    def __init__(self, classes, trees, nodes, depth, boosted=False, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.trees = int(classes), int(trees)
        self.nodes, self.depth = int(nodes), int(depth)
        self.boosted = bool(boosted)

    def build(self, input_shape):
        """Make room for the nodes; `plant` fills it."""
        size = self.classes * self.trees * self.nodes
        for name, dtype in _NODE.items():
            weight = self.add_weight(
                name=name, shape=(size,), dtype=dtype, initializer="zeros", trainable=False
            )
            setattr(self, name, weight)

    def plant(self, forests):
        """Take over trees: per class a list of (scikit-learn's `Tree`, its answer at each node)."""
        shape = (self.classes * self.trees, self.nodes)
        arrays = {name: np.zeros(shape, dtype) for name, dtype in _NODE.items()}
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
        """Write the nodes by name: Keras's numbers would follow the order of this file."""
        for name in _NODE:
            store[name] = np.asarray(getattr(self, name))

    def load_own_variables(self, store):
        """Read the nodes back by name."""
        for name in _NODE:
            getattr(self, name).assign(store[name])

    def compute_output_shape(self, input_shape):
        """(batch, classes)."""
        return input_shape[0], self.classes

    def call(self, values):
        """Log-odds of each class."""
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
