"""The geometry of images made from signals: which frequencies, which times, how many dB.

Conventions
-----------
A grid is a value. It says how a layer turns signals (samples, leads) into rows of frequency and
columns of time, and where those lie in Hz and s. It holds no data and needs no Keras; `layers.py`
computes what a grid describes.
"""

from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import check_positive


class _ImageGrid:
    """What grids of images share: options are checked, and give the shape of an image."""

    def _check_image(self, **whole):
        """Check top_db and size, and that each option of `whole` is a whole number of its least."""
        check_positive("top_db", self.top_db)
        for name, least in whole.items():
            value = getattr(self, name)
            if value != int(value) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, got {value}.")
            object.__setattr__(self, name, int(value))
        if self.size is not None:
            size = tuple(self.size) if np.iterable(self.size) else (self.size,)
            if len(size) != 2 or any(value != int(value) or value < 1 for value in size):
                raise ValueError(f"size must be (height, width) in pixels, got {size}.")
            object.__setattr__(self, "size", tuple(int(value) for value in size))

    def image_shape(self, n_samples, n_leads):
        """(height, width, channels) of the image of one row of signals."""
        if self.rgb and n_leads != 1:
            raise ValueError(
                f"rgb=True colours one lead, got {n_leads} leads; "
                "leave rgb=False, one channel per lead."
            )
        height, width = self.size or (self.n_freqs, self.n_frames(n_samples))
        return height, width, 3 if self.rgb else n_leads


@dataclass(frozen=True)
class SpectrogramGrid(_ImageGrid):
    """Geometry of a log-power spectrogram from a Hann-window short-time Fourier transform.

    Parameters
    ----------
    fs : float
        Sampling rate of the signals, in Hz.
    frame_length : int, optional
        Hann window, in samples; the rows are ``fs / frame_length`` Hz apart. By default the even
        number nearest to 0.256 s: 32 at 125 Hz.
    hop_length : int, optional
        Step between frames, in samples; by default the nearest to 0.048 s: 6 at 125 Hz.
    top_db : float, default 45
        Power more than this many dB below the row's own peak counts as this many. The default lies
        above the quantisation noise of beats scaled to 0..1, and float32 resolves it to 1e-4 dB.
    center : bool, default True
        Put a frame's middle, not its start, on samples 0, hop_length ...: the signal is mirrored
        by half a frame at both ends. Without this, a beat that starts with its R peak would lose
        it to the window's edge.
    size : tuple of int (height, width), optional
        Resize the image to this, bilinearly.
    rgb : bool, default False
        Colour one lead's image (blue, green, yellow, red), in three channels.

    Examples
    --------
    >>> grid = SpectrogramGrid(fs=125)
    >>> grid.image_shape(187, 1)
    (17, 32, 1)
    >>> print(grid.freqs_hz[1], grid.times_s(187)[1])
    3.90625 0.048
    """

    fs: float
    frame_length: int | None = None
    hop_length: int | None = None
    top_db: float = 45.0
    center: bool = True
    size: tuple | None = None
    rgb: bool = False

    def __post_init__(self):
        check_positive("fs", self.fs)
        if self.frame_length is None:
            object.__setattr__(self, "frame_length", max(4, 2 * round(0.128 * self.fs)))
        if self.hop_length is None:
            object.__setattr__(self, "hop_length", max(1, round(0.048 * self.fs)))
        self._check_image(frame_length=4, hop_length=1)

    @property
    def n_freqs(self):
        """Rows before resizing."""
        return self.frame_length // 2 + 1

    def n_frames(self, n_samples):
        """Columns before resizing, for a signal of `n_samples`."""
        padded = n_samples + 2 * (self.frame_length // 2) * self.center
        if padded < self.frame_length or (self.center and n_samples <= self.frame_length // 2):
            raise ValueError(
                f"signals of {n_samples} samples are too short for "
                f"frame_length={self.frame_length}; choose a frame_length of at most {n_samples}."
            )
        return 1 + (padded - self.frame_length) // self.hop_length

    @property
    def freqs_hz(self):
        """Centre frequency of each row of the image, in Hz, shape (height,)."""
        freqs = np.fft.rfftfreq(self.frame_length, d=1 / self.fs)
        return freqs if self.size is None else _resampled(freqs, self.size[0])

    def times_s(self, n_samples):
        """Time of each column of the image from the signal's first sample, in s, shape (width,)."""
        first = 0 if self.center else self.frame_length / 2
        times = (first + self.hop_length * np.arange(self.n_frames(n_samples))) / self.fs
        return times if self.size is None else _resampled(times, self.size[1])


@dataclass(frozen=True)
class ScalogramGrid(_ImageGrid):
    """Geometry of a log-power scalogram from a bank of complex Morlet wavelets.

    The wavelets are PyWavelets' ``cmor{bandwidth}-{center}`` as its ``cwt`` applies them, at
    logarithmically spaced frequencies; signals count as zero beyond their ends.

    Parameters
    ----------
    fs : float
        Sampling rate of the signals, in Hz.
    low_hz : float, default 1
        Frequency of the first row.
    high_hz : float, optional
        Frequency of the last row; by default 40 Hz or 0.4 fs, whichever is lower.
    n_freqs : int, default 32
        Rows before resizing.
    hop_length : int, optional
        Step between columns, in samples; 40 ms by default.
    bandwidth, center : float, default 1.5 and 1.0
        Of the Morlet wavelet: its variance parameter, and its frequency at scale 1.
    precision : int, default 12
        The wavelet is looked up in a table of ``2 ** precision`` steps, as PyWavelets does. Its
        default is 12; more is nearer to the ideal wavelet at low frequencies.
    top_db : float, default 45
        Power more than this many dB below the row's own peak counts as this many.
    size : tuple of int (height, width), optional
        Resize the image to this, bilinearly.
    rgb : bool, default False
        Colour one lead's image, in three channels.

    Examples
    --------
    >>> grid = ScalogramGrid(fs=125)
    >>> grid.image_shape(187, 1)
    (32, 38, 1)
    >>> grid.freqs_hz[[0, -1]].round(1).tolist(), grid.hop_length
    ([1.0, 40.0], 5)
    """

    fs: float
    low_hz: float = 1.0
    high_hz: float | None = None
    n_freqs: int = 32
    hop_length: int | None = None
    bandwidth: float = 1.5
    center: float = 1.0
    precision: int = 12
    top_db: float = 45.0
    size: tuple | None = None
    rgb: bool = False

    def __post_init__(self):
        for name in ("fs", "low_hz", "bandwidth", "center"):
            check_positive(name, getattr(self, name))
        if self.high_hz is None:
            object.__setattr__(self, "high_hz", min(40.0, 0.4 * self.fs))
        if self.hop_length is None:
            object.__setattr__(self, "hop_length", max(1, round(0.04 * self.fs)))
        if not self.low_hz < self.high_hz < self.fs / 2:
            raise ValueError(
                "frequencies must rise from low_hz to high_hz and stay below "
                f"fs / 2 = {self.fs / 2:g} Hz, got {self.low_hz:g} to {self.high_hz:g} Hz."
            )
        self._check_image(n_freqs=2, hop_length=1, precision=6)

    @property
    def scales(self):
        """Scale of each wavelet, in samples: ``center * fs / frequency``."""
        return self.center * self.fs / np.geomspace(self.low_hz, self.high_hz, self.n_freqs)

    def n_frames(self, n_samples):
        """Columns before resizing, for a signal of `n_samples`."""
        return 1 + (n_samples - 1) // self.hop_length

    @property
    def freqs_hz(self):
        """Centre frequency of each row of the image, in Hz, shape (height,)."""
        freqs = np.geomspace(self.low_hz, self.high_hz, self.n_freqs)
        return freqs if self.size is None else _resampled(freqs, self.size[0])

    def times_s(self, n_samples):
        """Time of each column of the image from the signal's first sample, in s, shape (width,)."""
        times = self.hop_length * np.arange(self.n_frames(n_samples)) / self.fs
        return times if self.size is None else _resampled(times, self.size[1])


@dataclass(frozen=True)
class SpectrumGrid:
    """Geometry of the spectrum of a whole signal: discrete Fourier transform, magnitude, dB.

    Parameters
    ----------
    fs : float
        Sampling rate of the signals, in Hz.
    resolution_hz : float, optional
        Distance of the rows, by default that of the signal itself, fs / n_samples. Smaller values
        interpolate, as zero padding does; larger ones average the power of the bins they cover.
    max_hz : float, default 50
        Frequencies up to this (or fs / 2, if lower) are kept; an ECG has little beyond.
    top_db : float, default 60
        Power more than this many dB below the row's own peak counts as this many.
    log : bool, default True
        False gives the magnitude itself, as a share of the peak.

    Examples
    --------
    >>> grid = SpectrumGrid(fs=100)
    >>> grid.n_freqs(1000), float(grid.freqs_hz(1000)[1])
    (501, 0.1)
    >>> SpectrumGrid(fs=100, resolution_hz=0.5).n_freqs(1000)
    100
    """

    fs: float
    resolution_hz: float | None = None
    max_hz: float = 50.0
    top_db: float = 60.0
    log: bool = True

    def __post_init__(self):
        for name in ("fs", "max_hz", "top_db"):
            check_positive(name, getattr(self, name))
        if self.resolution_hz is not None:
            check_positive("resolution_hz", self.resolution_hz)

    def bins(self, n_samples):
        """Frequencies in Hz that are computed, and how many neighbours are averaged into a row."""
        own = self.fs / n_samples
        step, share = self.resolution_hz or own, 1
        if step > own * (1 + 1e-9):
            share = int(np.ceil(step / own - 1e-9))
            step = step / share
        n = int(np.floor(min(self.max_hz, self.fs / 2) / step + 1e-9)) + 1
        n -= n % share
        if n < 4 * share:
            raise ValueError(
                f"a spectrum of {n_samples} samples up to {self.max_hz:g} Hz in steps of "
                f"{step * share:g} Hz has less than 4 rows; choose a finer resolution_hz or a "
                "higher max_hz."
            )
        return step * np.arange(n), share

    def n_freqs(self, n_samples):
        """Rows of the spectrum of a signal of `n_samples`."""
        freqs, share = self.bins(n_samples)
        return len(freqs) // share

    def freqs_hz(self, n_samples):
        """Centre frequency of each row, in Hz, shape (n_freqs,)."""
        freqs, share = self.bins(n_samples)
        return freqs.reshape(-1, share).mean(axis=1)

    def spectrum_shape(self, n_samples, n_leads):
        """(rows, leads) of the spectrum of one row of signals."""
        return self.n_freqs(n_samples), n_leads


def _resampled(axis, n):
    """Positions of `n` pixels after a half-pixel-centred resize of `axis`, clipped at its ends."""
    at = (np.arange(n) + 0.5) * len(axis) / n - 0.5
    return np.interp(at, np.arange(len(axis)), axis)
