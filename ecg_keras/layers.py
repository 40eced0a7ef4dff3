"""Turn raw signals into what a network looks at, as Keras layers.

Conventions
-----------
Every layer takes signals of shape (batch, samples, leads) and has nothing to
train. Each row is transformed by itself, never with a statistic over the batch,
so a beat gives the same image whatever it is batched with. The layers are
registered under the package ``ecg_keras``: a saved model loads after
``import ecg_keras.layers`` with Keras's safe mode on.
"""

import dataclasses
import itertools

import keras
import numpy as np
from keras import ops

from ecg_keras.crops import Crops, MeanOfCrops  # noqa: F401 - a saved model may need them
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid
from ecg_keras.trees import AverageBeat, Trees  # noqa: F401

_TINY = 1e-18  # keeps an all-zero signal finite; far below the power of one ADC step, and its square is still a float32


@keras.saving.register_keras_serializable("ecg_keras")
class Spectrogram(keras.layers.Layer):
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

    def __init__(self, grid, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.grid = SpectrogramGrid(**grid) if isinstance(grid, dict) else grid
        self._kernel = _fourier_kernel(self.grid.frame_length)

    def build(self, input_shape):
        _check_signal_shape(self, input_shape)
        self.grid.image_shape(input_shape[1], input_shape[2])

    def compute_output_shape(self, input_shape):
        return input_shape[0], *self.grid.image_shape(input_shape[1], input_shape[2])

    def call(self, signals):
        grid = self.grid
        x = ops.cast(signals, "float32")
        n_samples, n_leads = x.shape[1:]
        x = ops.reshape(ops.transpose(x, (0, 2, 1)), (-1, n_samples, 1))  # (batch * leads, samples, 1)
        if grid.center:
            half = grid.frame_length // 2
            x = ops.pad(x, ((0, 0), (half, half), (0, 0)), mode="reflect")
        parts = ops.conv(x, self._kernel, strides=grid.hop_length, padding="valid")
        real, imaginary = ops.split(parts, 2, axis=-1)
        power = ops.square(real) + ops.square(imaginary)  # (batch * leads, frames, freqs)
        power = ops.reshape(power, (-1, n_leads, grid.n_frames(n_samples), grid.n_freqs))
        image = ops.transpose(_decibels(power, grid.top_db), (0, 3, 2, 1))  # (batch, freqs, frames, leads)
        return ops.cast(_finished(image, grid), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


def _fourier_kernel(frame_length):
    """Hann-windowed cosines, then sines, as a convolution kernel (frame_length, 1, 2 * n_freqs)."""
    n = np.arange(frame_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / frame_length)  # periodic, as scipy.signal.get_window gives it
    turns = np.exp(-2j * np.pi * np.outer(n, np.arange(frame_length // 2 + 1)) / frame_length)
    kernel = window[:, None] * np.concatenate([turns.real, turns.imag], axis=1)
    return kernel[:, None, :].astype(np.float32)


def _finished(image, grid):
    """Resize and colour an image in [0, 1], as the grid says."""
    if grid.size is not None:
        image = ops.image.resize(image, grid.size, interpolation="bilinear", data_format="channels_last")
    if grid.rgb:  # the classic blue-green-red map, piecewise linear
        image = ops.clip(1.5 - ops.abs(4 * image - np.array([3.0, 2.0, 1.0], "float32")), 0, 1)
    return image


def _check_signal_shape(layer, shape):
    """Refuse what is not (batch, samples, leads)."""
    if len(shape) != 3 or shape[1] is None or shape[2] is None:
        raise ValueError(
            f"{type(layer).__name__} takes signals of shape (batch, samples, leads) with samples and leads known, "
            f"got {tuple(shape)}."
        )


@keras.saving.register_keras_serializable("ecg_keras")
class Scalogram(keras.layers.Layer):
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

    def __init__(self, grid, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.grid = ScalogramGrid(**grid) if isinstance(grid, dict) else grid

    def build(self, input_shape):
        _check_signal_shape(self, input_shape)
        self.grid.image_shape(input_shape[1], input_shape[2])
        self._kernels = _morlet_kernels(self.grid, input_shape[1])

    def compute_output_shape(self, input_shape):
        return input_shape[0], *self.grid.image_shape(input_shape[1], input_shape[2])

    def power(self, signals):
        """Squared magnitude of each coefficient, float32 (batch, freqs, frames, leads)."""
        signals = ops.convert_to_tensor(signals, "float32")
        if not self.built:
            self.build(signals.shape)
        n_samples, n_leads = signals.shape[1:]
        x = ops.reshape(ops.transpose(signals, (0, 2, 1)), (-1, n_samples, 1))  # (batch * leads, samples, 1)
        bands = []
        for kernel in self._kernels:
            half = kernel.shape[0] // 2
            parts = ops.conv(
                ops.pad(x, ((0, 0), (half, half), (0, 0))), kernel, strides=self.grid.hop_length, padding="valid"
            )
            real, imaginary = ops.split(parts, 2, axis=-1)
            bands.append(ops.square(real) + ops.square(imaginary))  # (batch * leads, frames, freqs of the band)
        power = ops.concatenate(bands, axis=-1)
        power = ops.reshape(power, (-1, n_leads, *power.shape[1:]))
        return ops.transpose(power, (0, 3, 2, 1))

    def call(self, signals):
        image = _decibels(self.power(ops.cast(signals, "float32")), self.grid.top_db)
        return ops.cast(_finished(image, self.grid), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


def _morlet_kernels(grid, n_samples):
    """Convolution kernels (taps, 1, 2 * freqs), real parts then imaginary, one for each octave of scales.

    The integral of the wavelet is read from a table and differenced, as ``pywt.cwt`` does; taps
    beyond the signal's length meet only zeros, those beyond 4 widths are below 1e-6 of the largest, and are left out.
    """
    step = 16 / (2**grid.precision - 1)  # PyWavelets' support is -8 to 8 scales
    at = -8 + step * np.arange(2**grid.precision)
    wavelet = np.exp(2j * np.pi * grid.center * at - at**2 / grid.bandwidth) / np.sqrt(np.pi * grid.bandwidth)
    table = np.conj(np.cumsum(wavelet) * step)
    reach = min(8.0, 4 * np.sqrt(grid.bandwidth))  # exp(-16) of the peak
    octaves = {}
    for scale in grid.scales:
        place = (np.arange(scale * 16 + 1) / (scale * step)).astype(int)
        integral = table[place[place < len(table)]][::-1]
        taps = -np.sqrt(scale) * np.diff(np.pad(integral, 1))[::-1]  # a correlation kernel
        zero = len(taps) - 1 - (1 + (len(integral) - 2) // 2)  # the tap that meets the sample itself
        half = int(min(np.ceil(reach * scale), n_samples - 1, zero, len(taps) - 1 - zero))
        octaves.setdefault(int(np.floor(np.log2(scale))), []).append(taps[zero - half : zero + half + 1])
    kernels = []
    for band in octaves.values():
        half = max(len(taps) for taps in band) // 2
        columns = np.stack([np.pad(taps, half - len(taps) // 2) for taps in band], axis=1)
        kernels.append(np.concatenate([columns.real, columns.imag], axis=1)[:, None, :].astype(np.float32))
    return kernels


@keras.saving.register_keras_serializable("ecg_keras")
class Spectrum(keras.layers.Layer):
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

    def __init__(self, grid, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.grid = SpectrumGrid(**grid) if isinstance(grid, dict) else grid

    def build(self, input_shape):
        _check_signal_shape(self, input_shape)
        freqs, self._share = self.grid.bins(input_shape[1])
        turns = np.exp(-2j * np.pi * np.outer(np.arange(input_shape[1]), freqs) / self.grid.fs)
        self._kernel = np.concatenate([turns.real, turns.imag], axis=1).astype(np.float32)  # (samples, 2 * bins)

    def compute_output_shape(self, input_shape):
        return input_shape[0], *self.grid.spectrum_shape(input_shape[1], input_shape[2])

    def power(self, signals):
        """Squared magnitude of each frequency, float32 (batch, freqs, leads)."""
        signals = ops.convert_to_tensor(signals, "float32")
        if not self.built:
            self.build(signals.shape)
        x = ops.transpose(signals - ops.mean(signals, axis=1, keepdims=True), (0, 2, 1))
        real, imaginary = ops.split(ops.matmul(x, self._kernel), 2, axis=-1)
        power = ops.square(real) + ops.square(imaginary)  # (batch, leads, bins)
        if self._share > 1:
            n_leads = power.shape[1]
            power = ops.mean(ops.reshape(power, (-1, n_leads, power.shape[2] // self._share, self._share)), axis=-1)
        return ops.transpose(power, (0, 2, 1))

    def call(self, signals):
        power = self.power(ops.cast(signals, "float32"))
        if self.grid.log:
            spectrum = _decibels(power, self.grid.top_db)
        else:
            spectrum = ops.sqrt(power / ops.maximum(ops.max(power, axis=(1, 2), keepdims=True), _TINY))
        return ops.cast(spectrum, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


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
        self.dilations, self.n_biases, self.seed = [int(step) for step in dilations], int(n_biases), int(seed)

    def build(self, input_shape):
        _check_signal_shape(self, input_shape)
        if 8 * max(self.dilations) >= input_shape[1]:
            raise ValueError(
                f"dilations up to {max(self.dilations)} reach over {8 * max(self.dilations) + 1} samples, "
                f"the signals have {input_shape[1]}."
            )
        shape = (len(self.dilations), 9, input_shape[2], 84)
        draw = lambda shape, dtype: ops.convert_to_tensor(_rocket_kernels(shape, self.seed), dtype)  # noqa: E731
        self.kernels = self.add_weight(name="kernels", shape=shape, initializer=draw, trainable=False)
        biases = (len(self.dilations), self.n_biases, 84)
        self.biases = self.add_weight(name="biases", shape=biases, initializer="zeros", trainable=False)

    def adapt(self, signals):
        """Set the thresholds to quantiles of each convolution over some rows (n, samples, leads)."""
        if not self.built:
            self.build(signals.shape)
        levels = (np.arange(1, self.n_biases + 1) * (np.sqrt(5) + 1) / 2) % 1  # low-discrepancy, as in the paper
        values = [ops.convert_to_numpy(self._convolved(signals, i)).reshape(-1, 84) for i in range(len(self.dilations))]
        self.biases.assign(np.stack([np.quantile(value, levels, axis=0) for value in values]).astype(np.float32))

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
                ops.mean(ops.cast(values > self.biases[i, j], values.dtype), axis=1) for j in range(self.n_biases)
            ]
        return ops.concatenate(shares, axis=-1)

    def get_config(self):
        return {**super().get_config(), "dilations": self.dilations, "n_biases": self.n_biases, "seed": self.seed}


def _rocket_kernels(shape, seed):
    """Taps of every dilation (dilations, 9, leads, 84): all ways to choose three of nine, on random leads."""
    n_dilations, _, n_leads, _ = shape
    taps = np.full((84, 9), -1.0)
    for row, places in enumerate(itertools.combinations(range(9), 3)):
        taps[row, list(places)] = 2.0
    rng = np.random.default_rng(seed)
    counts = (2 ** rng.uniform(0, np.log2(n_leads + 0.999), (n_dilations, 84))).astype(int)  # few leads more often
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

    Input: a list of tensors (batch, classes). Output shape: (batch, classes).

    Examples
    --------
    >>> branches = [np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])]
    >>> [np.asarray(LateMean([1])(branches, training=training)).tolist() for training in (False, True)]
    [[[2.0, 2.0]], [[1.0, 0.0]]]
    """

    def __init__(self, frozen=(), **kwargs):
        super().__init__(**kwargs)
        self.frozen = [int(place) for place in frozen]

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def call(self, branches, training=False):
        awake = [x for place, x in enumerate(branches) if place not in self.frozen]
        chosen = awake if training and awake else branches
        return sum(chosen[1:], chosen[0]) / len(chosen)

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen}


def _decibels(power, top_db):
    """Power to dB below each row's own peak, floored at -top_db and mapped to [0, 1]."""
    peak = ops.max(power, axis=tuple(range(1, len(power.shape))), keepdims=True)
    share = ops.maximum(power / ops.maximum(peak, _TINY), 10.0 ** (-top_db / 10))
    return ops.maximum(1 + (10 / np.log(10) / top_db) * ops.log(share), 0)


@keras.saving.register_keras_serializable("ecg_keras")
class Standardize(keras.layers.Layer):
    """Subtract a mean and divide by a scale that were fitted on train rows.

    Parameters
    ----------
    mean, scale : array_like
        Broadcast against one row of the input. A scale of 0 (a constant column) counts as 1.

    Examples
    --------
    >>> np.asarray(Standardize([1.0, 2.0], [2.0, 0.0])(np.array([[3.0, 4.0]]))).tolist()
    [[1.0, 2.0]]
    """

    def __init__(self, mean, scale, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.mean = np.asarray(mean, np.float32)
        scale = np.asarray(scale, np.float32)
        self.scale = np.where(scale == 0, np.float32(1), scale)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        return ops.cast((ops.cast(x, "float32") - self.mean) / self.scale, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean.tolist(), "scale": self.scale.tolist()}


@keras.saving.register_keras_serializable("ecg_keras")
class Card(keras.layers.Layer):
    """Pass probabilities through and carry what a user of the saved model must know.

    Parameters
    ----------
    info : dict
        classes, fs (Hz), leads, unit, n_samples, task, thresholds (multi-label), source ...

    Examples
    --------
    >>> Card({"classes": ["N", "V"], "fs": 125.0}).info["classes"]
    ['N', 'V']
    """

    def __init__(self, info, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.info = dict(info)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "info": self.info}


def model_card(model):
    """The `Card` info inside a model saved by `fit_and_report`, or None."""
    for layer in reversed(model.layers):
        if isinstance(layer, Card):
            return layer.info
    return None


REPRESENTATIONS = {SpectrogramGrid: Spectrogram, ScalogramGrid: Scalogram, SpectrumGrid: Spectrum}


def representation(grid, **kwargs):
    """The layer that computes what `grid` describes."""
    return REPRESENTATIONS[type(grid)](grid, **kwargs)
