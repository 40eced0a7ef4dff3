"""Turn raw signals into what a network looks at, as Keras layers.

Conventions
-----------
Every layer takes signals of shape (batch, samples, leads) and has nothing to
train. Each row is transformed by itself, never with a statistic over the batch,
so a beat gives the same image whatever it is batched with. The layers are
registered under the package ``ecg_keras``: a saved model loads after
``import ecg_keras`` with Keras's safe mode on, for that imports this module as
soon as Keras is there, and this module those that hold more layers.

Cut long signals into crops, and average what a network says of them.

Conventions
-----------
Crops of a record all have one length. What is predicted of a record is the average over crops
that overlap by half; what is trained on is one crop per record and epoch, from a random start.

Parts of networks that Keras does not have: positions, fixed random convolutions, the mean of branches.

Conventions
-----------
Layers are registered under the package ``ecg_keras`` and have nothing to train.

Average the beats of a signal, and run decision trees, inside a network.

Conventions
-----------
Signals are (batch, samples, leads). Weights are fixed: scikit-learn grows the trees, see `signal_models.py`.
"""

import dataclasses
import itertools

import keras
import numpy as np
from keras import ops

from ecg_keras._checks import check_positive, check_signal_shape
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
        draw = lambda shape, dtype: ops.convert_to_tensor(_rocket_kernels(shape, self.seed), dtype)
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
