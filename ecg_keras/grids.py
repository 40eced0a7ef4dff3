"""Describe the geometry of an image made from a signal.

Conventions
-----------
A grid is a value: it says how a layer turns signals (samples, leads) into rows
of frequency and columns of time, and where those lie in Hz and s. It holds no
data and needs no Keras; `layers.py` computes what a grid describes.
"""

from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import check_positive


@dataclass(frozen=True)
class SpectrogramGrid:
    """Geometry of a log-power spectrogram from a Hann-window short-time Fourier transform.

    Parameters
    ----------
    fs : float
        Sampling rate of the signals, in Hz.
    frame_length : int, default 64
        Hann window, in samples; the rows are ``fs / frame_length`` Hz apart.
    hop_length : int, default 12
        Step between frames, in samples.
    top_db : float, default 45
        Power more than this many dB below the row's own peak counts as this many.
        The default lies above the quantisation noise of beats scaled to 0..1, and within what
        float32 resolves to 1e-4 dB.
    center : bool, default True
        Put a frame's middle, not its start, on samples 0, hop_length ...: the signal is
        mirrored by half a frame at both ends. A beat that starts with its R peak would
        else lose it to the window's edge.
    size : tuple of int (height, width), optional
        Resize the image to this, bilinearly.
    rgb : bool, default False
        Colour one lead's image (blue, green, yellow, red), in three channels.

    Examples
    --------
    >>> grid = SpectrogramGrid(fs=125)
    >>> grid.image_shape(187, 1)
    (33, 16, 1)
    >>> grid.freqs_hz[1], grid.times_s(187)[1]
    (1.953125, 0.096)
    """

    fs: float
    frame_length: int = 64
    hop_length: int = 12
    top_db: float = 45.0
    center: bool = True
    size: tuple | None = None
    rgb: bool = False

    def __post_init__(self):
        check_positive("fs", self.fs)
        check_positive("top_db", self.top_db)
        for name in ("frame_length", "hop_length"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"{name} must be a whole number of samples, at least 1, got {value}.")
            object.__setattr__(self, name, int(value))
        if self.frame_length < 4:
            raise ValueError(f"frame_length must be at least 4 samples, got {self.frame_length}.")
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))

    @property
    def n_freqs(self):
        """Rows before resizing."""
        return self.frame_length // 2 + 1

    def n_frames(self, n_samples):
        """Columns before resizing, for a signal of `n_samples`."""
        padded = n_samples + 2 * (self.frame_length // 2) * self.center
        if padded < self.frame_length or (self.center and n_samples <= self.frame_length // 2):
            raise ValueError(
                f"signals of {n_samples} samples are too short for frame_length={self.frame_length}; "
                f"choose a frame_length of at most {n_samples}."
            )
        return 1 + (padded - self.frame_length) // self.hop_length

    def image_shape(self, n_samples, n_leads):
        """(height, width, channels) of the image of one row of signals."""
        if self.rgb and n_leads != 1:
            raise ValueError(f"rgb=True colours one lead, got {n_leads} leads; leave rgb=False, one channel per lead.")
        height, width = self.size or (self.n_freqs, self.n_frames(n_samples))
        return height, width, 3 if self.rgb else n_leads

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


def _checked_size(size):
    """`size` as two whole numbers (height, width)."""
    size = tuple(size)
    if len(size) != 2 or any(value != int(value) or value < 1 for value in size):
        raise ValueError(f"size must be (height, width) in pixels, got {size}.")
    return tuple(int(value) for value in size)


def _resampled(axis, n):
    """Positions of `n` pixels after a half-pixel-centred resize of `axis`, clipped at its ends."""
    at = (np.arange(n) + 0.5) * len(axis) / n - 0.5
    return np.interp(at, np.arange(len(axis)), axis)
