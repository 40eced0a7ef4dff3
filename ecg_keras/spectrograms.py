"""Arrays or data sets of signals turned into images, by the layers that a model is served with.

Conventions
-----------
Signals are float32 (n, samples, leads) in any real unit. Images are float32 (n, freqs, frames,
leads) and spectra float32 (n, freqs, leads), both in [0, 1]. Frequency rises with the row, time
with the column.
"""

import dataclasses
import functools
import time

import numpy as np

from ecg_keras._checks import check_signals
from ecg_keras.dataset import ECGDataset, representative
from ecg_keras.grids import ScalogramGrid, SpectrogramGrid, SpectrumGrid

_BATCH_BYTES = 8e6  # intermediate values of one batch; larger ones need memory and are no faster


def to_spectrograms(signals, *, fs=None, grid=None, size=None, rgb=False):
    """Compute one log-power spectrogram per row, in dB below its own peak, scaled to [0, 1].

    Parameters
    ----------
    signals : ECGDataset, or array_like of shape (n, samples) or (n, samples, leads)
        Signals in any real unit.
    fs : float, optional
        Sampling rate in Hz; needed for arrays, a data set brings its own.
    grid : SpectrogramGrid, optional
        Window, step, floor; ``SpectrogramGrid(fs)`` by default. At 125 Hz its 32-sample
        window spans 256 ms and rows are 3.9 Hz apart.
    size : tuple of int (height, width), optional
        Resize each image, for example to (128, 128).
    rgb : bool, default False
        Colour one lead's image in three channels.

    Returns
    -------
    ECGDataset or ndarray of float32, shape (n, freqs, frames, leads)
        As `signals` came. 1 is the row's own peak, 0 is ``top_db`` below it.

    Raises
    ------
    ValueError
        If the signals are shorter than one frame, not finite, or already images.

    Examples
    --------
    >>> beat = np.sin(2 * np.pi * 10 * np.arange(187) / 125)
    >>> to_spectrograms(beat[None, :], fs=125).shape
    (1, 17, 32, 1)
    """
    grid = _grid(SpectrogramGrid, grid, signals, fs, size=size, rgb=rgb)
    return represent(signals, grid)


def to_scalograms(signals, *, fs=None, grid=None, size=None, rgb=False):
    """Compute one log-power Morlet scalogram per row, in dB below its own peak, scaled to [0, 1].

    Parameters
    ----------
    signals, fs, size, rgb
        As in `to_spectrograms`.
    grid : ScalogramGrid, optional
        Frequencies, step, floor; ``ScalogramGrid(fs)`` by default: 32 rows from 1 to 40 Hz, a
        column every 40 ms.

    Returns
    -------
    ECGDataset or ndarray of float32, shape (n, freqs, frames, leads)
        As `signals` came. 1 is the row's own peak, 0 is ``top_db`` below it.

    Examples
    --------
    >>> beat = np.sin(2 * np.pi * 10 * np.arange(187) / 125)
    >>> to_scalograms(beat[None, :], fs=125).shape
    (1, 32, 38, 1)
    """
    grid = _grid(ScalogramGrid, grid, signals, fs, size=size, rgb=rgb)
    return represent(signals, grid)


def to_spectra(signals, *, fs=None, grid=None, resolution_hz=None):
    """Compute one Fourier spectrum per row, in dB below its own peak, scaled to [0, 1].

    Parameters
    ----------
    signals, fs
        As in `to_spectrograms`.
    grid : SpectrumGrid, optional
        Resolution, highest frequency, floor; ``SpectrumGrid(fs)`` by default.
    resolution_hz : float, optional
        Distance of the rows, in Hz; fs / n_samples by default.

    Returns
    -------
    ECGDataset or ndarray of float32, shape (n, freqs, leads)
        As `signals` came. 1 is the row's own peak, 0 is ``top_db`` below it.

    Examples
    --------
    >>> beat = np.sin(2 * np.pi * 10 * np.arange(187) / 125)
    >>> to_spectra(beat[None, :], fs=125).shape
    (1, 75, 1)
    """
    grid = _grid(SpectrumGrid, grid, signals, fs, resolution_hz=resolution_hz)
    return represent(signals, grid)


def _grid(kind, grid, signals, fs, **options):
    """The grid of a kind that is meant, with those options that were given."""
    if grid is None:
        grid = kind(_rate(signals, fs))
    elif fs is not None and fs != grid.fs:
        raise ValueError(f"fs={fs:g} Hz, but grid is for {grid.fs:g} Hz; leave fs out.")
    given = {
        name: value for name, value in options.items() if not (value is None or value is False)
    }
    return dataclasses.replace(grid, **given)


def _rate(signals, fs):
    """The sampling rate of a data set, or the one given for an array."""
    if isinstance(signals, ECGDataset):
        if fs is not None and fs != signals.fs:
            raise ValueError(f"fs={fs:g} Hz, but the data set has {signals.fs:g} Hz; leave fs out.")
        return signals.fs
    if fs is None:
        raise TypeError("fs, the sampling rate in Hz, is needed for an array of signals.")
    return fs


def represent(signals, grid):
    """Run the layer of `grid` over an array or an `ECGDataset` in batches."""
    if isinstance(signals, ECGDataset):
        if signals.grid is not None:
            raise ValueError(
                "signals are images or spectra already; give the data set of raw signals."
            )
        if signals.fs != grid.fs:
            raise ValueError(f"grid is for {grid.fs:g} Hz, the signals have {signals.fs:g} Hz.")
        start = time.perf_counter()
        x = _in_batches(signals.x, grid)
        seconds = {**(signals.seconds or {}), "transform": time.perf_counter() - start}
        return signals.replace(
            x=x,
            grid=grid,
            digests=signals.row_digests(),
            seconds=seconds,
            examples=representative(signals),
        )
    return _in_batches(check_signals("signals", signals), grid)


def _in_batches(x, grid):
    """(n, samples, leads) to the grid's images, one compiled batch at a time."""
    run, shape = _transform(grid, x.shape[1:])
    per_row = 12 * max(np.prod(shape), np.prod(x.shape[1:]))  # bytes: three float32 of a value
    return in_batches(run, x, shape, int(np.clip(_BATCH_BYTES // per_row, 1, 4096)))


def in_batches(run, x, shape, batch):
    """What a compiled function makes of rows `x`, `batch` at a time: float32 (n, *shape)."""
    result = np.empty((len(x), *shape), np.float32)
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        if len(part) < batch <= len(x):  # a full batch from the end: no second compilation
            start = len(x) - batch
            part = x[start:]
        result[start : start + len(part)] = run(part)
    return result


@functools.lru_cache(maxsize=16)
def _transform(grid, row_shape):
    """The compiled function of a grid for rows of a shape, and the shape of its image of a row."""
    import keras

    from ecg_keras.layers import representation

    inputs = keras.Input(row_shape)
    model = keras.Model(inputs, representation(grid, dtype="float32")(inputs))
    return compiled(model), model.output_shape[1:]


def compiled(model):
    """`model` as a function from NumPy to NumPy, compiled where the backend compiles."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        rows = tf.TensorSpec(model.inputs[0].shape, tf.float32)  # any number of them: traced once
        graph = tf.function(lambda x: model(x, training=False), input_signature=[rows])
        return lambda x: graph(tf.convert_to_tensor(x)).numpy()
    if backend == "jax":
        import jax

        trained = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]
        graph = jax.jit(lambda x: model.stateless_call(trained, fixed, x, training=False)[0])
        return lambda x: np.asarray(graph(x))
    return lambda x: keras.ops.convert_to_numpy(model(x, training=False))
