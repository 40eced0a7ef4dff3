"""Turn raw signals into what a network looks at, as Keras layers.

Conventions
-----------
Every layer takes signals of shape (batch, samples, leads) and has nothing to
train. Each row is transformed by itself, never with a statistic over the batch,
so a beat gives the same image whatever it is batched with. The layers are
registered under the package ``ecg_keras``: a saved model loads after
``import ecg_keras`` with Keras's safe mode on, for that imports this module as
soon as Keras is there, and this module those that hold more layers.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

# whole modules, no names from them: the first of all imports Keras, and that imports this one
import ecg_keras.crops
import ecg_keras.network_layers
import ecg_keras.trees  # noqa: F401
from ecg_keras._checks import check_signal_shape
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid

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
        check_signal_shape(self, input_shape)
        self.grid.image_shape(input_shape[1], input_shape[2])

    def compute_output_shape(self, input_shape):
        return input_shape[0], *self.grid.image_shape(input_shape[1], input_shape[2])

    def call(self, signals):
        grid = self.grid
        x = ops.cast(signals, "float32")
        n_samples, n_leads = x.shape[1:]
        x = ops.reshape(
            ops.transpose(x, (0, 2, 1)), (-1, n_samples, 1)
        )  # (batch * leads, samples, 1)
        if grid.center:
            half = grid.frame_length // 2
            x = ops.pad(x, ((0, 0), (half, half), (0, 0)), mode="reflect")
        parts = ops.conv(x, self._kernel, strides=grid.hop_length, padding="valid")
        real, imaginary = ops.split(parts, 2, axis=-1)
        power = ops.square(real) + ops.square(imaginary)  # (batch * leads, frames, freqs)
        power = ops.reshape(power, (-1, n_leads, grid.n_frames(n_samples), grid.n_freqs))
        image = ops.transpose(
            _decibels(power, grid.top_db), (0, 3, 2, 1)
        )  # (batch, freqs, frames, leads)
        return ops.cast(_finished(image, grid), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


def _fourier_kernel(frame_length):
    """Hann-windowed cosines, then sines, as a convolution kernel (frame_length, 1, 2 * n_freqs)."""
    n = np.arange(frame_length)
    window = 0.5 - 0.5 * np.cos(
        2 * np.pi * n / frame_length
    )  # periodic, as scipy.signal.get_window gives it
    turns = np.exp(-2j * np.pi * np.outer(n, np.arange(frame_length // 2 + 1)) / frame_length)
    kernel = window[:, None] * np.concatenate([turns.real, turns.imag], axis=1)
    return kernel[:, None, :].astype(np.float32)


def _finished(image, grid):
    """Resize and colour an image in [0, 1], as the grid says."""
    if grid.size is not None:
        image = ops.image.resize(
            image, grid.size, interpolation="bilinear", data_format="channels_last"
        )
    if grid.rgb:  # the classic blue-green-red map, piecewise linear
        image = ops.clip(1.5 - ops.abs(4 * image - np.array([3.0, 2.0, 1.0], "float32")), 0, 1)
    return image


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
        check_signal_shape(self, input_shape)
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
        x = ops.reshape(
            ops.transpose(signals, (0, 2, 1)), (-1, n_samples, 1)
        )  # (batch * leads, samples, 1)
        bands = []
        for kernel in self._kernels:
            half = kernel.shape[0] // 2
            parts = ops.conv(
                ops.pad(x, ((0, 0), (half, half), (0, 0))),
                kernel,
                strides=self.grid.hop_length,
                padding="valid",
            )
            real, imaginary = ops.split(parts, 2, axis=-1)
            bands.append(
                ops.square(real) + ops.square(imaginary)
            )  # (batch * leads, frames, freqs of the band)
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
    wavelet = np.exp(2j * np.pi * grid.center * at - at**2 / grid.bandwidth) / np.sqrt(
        np.pi * grid.bandwidth
    )
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
        octaves.setdefault(int(np.floor(np.log2(scale))), []).append(
            taps[zero - half : zero + half + 1]
        )
    kernels = []
    for band in octaves.values():
        half = max(len(taps) for taps in band) // 2
        columns = np.stack([np.pad(taps, half - len(taps) // 2) for taps in band], axis=1)
        kernels.append(
            np.concatenate([columns.real, columns.imag], axis=1)[:, None, :].astype(np.float32)
        )
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
        check_signal_shape(self, input_shape)
        freqs, self._share = self.grid.bins(input_shape[1])
        turns = np.exp(-2j * np.pi * np.outer(np.arange(input_shape[1]), freqs) / self.grid.fs)
        self._kernel = np.concatenate([turns.real, turns.imag], axis=1).astype(
            np.float32
        )  # (samples, 2 * bins)

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
            power = ops.mean(
                ops.reshape(power, (-1, n_leads, power.shape[2] // self._share, self._share)),
                axis=-1,
            )
        return ops.transpose(power, (0, 2, 1))

    def call(self, signals):
        power = self.power(ops.cast(signals, "float32"))
        if self.grid.log:
            spectrum = _decibels(power, self.grid.top_db)
        else:
            spectrum = ops.sqrt(
                power / ops.maximum(ops.max(power, axis=(1, 2), keepdims=True), _TINY)
            )
        return ops.cast(spectrum, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "grid": dataclasses.asdict(self.grid)}


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
        classes, fs (Hz), leads, unit, n_samples, task, thresholds (multi-label), and of the train
        part source, preparation, split and patients.
    rows : uint32, shape (n,), optional
        `ECGDataset.row_digests` of the rows trained on. Kept sorted, each once; in the saved file
        they lie among the weights, 4 bytes each, but are no weights of the model.

    Examples
    --------
    >>> Card({"classes": ["N", "V"], "fs": 125.0}).info["classes"]
    ['N', 'V']
    """

    def __init__(self, info, rows=None, **kwargs):
        super().__init__(**{**kwargs, "trainable": False})
        self.info = dict(info)
        self.rows = None if rows is None else np.unique(np.asarray(rows, np.uint32))

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "info": self.info}

    def save_own_variables(self, store):
        """Write the rows into the saved file, where Keras asks for weights."""
        if self.rows is not None:
            store["rows"] = self.rows

    def load_own_variables(self, store):
        """Read them back; files of older versions have none."""
        self.rows = np.array(store["rows"]) if "rows" in store.keys() else None


def card_layer(model):
    """The `Card` of a model saved by `fit_and_report`, or None."""
    return next((layer for layer in reversed(model.layers) if isinstance(layer, Card)), None)


def model_card(model):
    """The `Card` info inside a model saved by `fit_and_report`, or None."""
    layer = card_layer(model)
    return None if layer is None else layer.info


REPRESENTATIONS = {SpectrogramGrid: Spectrogram, ScalogramGrid: Scalogram, SpectrumGrid: Spectrum}


def representation(grid, **kwargs):
    """The layer that computes what `grid` describes."""
    return REPRESENTATIONS[type(grid)](grid, **kwargs)
