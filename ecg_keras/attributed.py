"""Hold what one method says of each row, on what the network sees and on the signal.

Conventions
-----------
Shares of the frames of an image or the bands of a spectrum are shared out over the signal so that sums stay.
"""

from dataclasses import dataclass, field

import numpy as np

_BANDS = 8  # of a spectrum, followed over time: narrower ones are wider in time than a QRS
_TINY = 1e-20  # shares a band without energy out evenly


@dataclass(frozen=True)
class Attribution:
    """What one method says of each row."""

    method: str
    view: np.ndarray  # (n, ...) on what the network sees, summed over an image's channels
    signal: np.ndarray | None  # (n, samples, leads); None of spectra whose signals are not known
    quality: dict = field(
        default_factory=dict
    )  # figures of the method itself: additivity, fit, resolution

    @property
    def image(self):
        """(n, freqs, frames) for image models, else None."""
        return self.view if self.view.ndim == 3 and self.quality.get("view") == "image" else None


def attributed(method, probe, view, signal, quality):
    """An `Attribution` with the leads' axis, what is common to all leads divided by their number."""
    n_leads = len(probe.leads)
    if signal is None and probe.signals is not None and np.isfinite(probe.signals).all():
        signal = over_time(view, probe.signals, probe.freqs_hz, probe.fs)
    if signal is not None and signal.ndim == 2:
        signal = np.repeat(signal[:, :, None], n_leads, axis=2) / n_leads
    if probe.grid is None:
        view = signal
    kind = "image" if probe.is_images else "spectrum" if probe.is_spectra else "signal"
    signal = None if signal is None else signal.astype(np.float32)
    return Attribution(method, view.astype(np.float32), signal, {**quality, "view": kind})


def unit(values):
    """Rows (n, ...) scaled to sum 1; rows of zeros stay."""
    total = values.sum(axis=tuple(range(1, values.ndim)), keepdims=True)
    return values / np.where(total > 0, total, 1)


def to_samples(image, times_s, fs, n_samples):
    """Images (n, freqs, frames) summed over frequency and shared out to samples (n, samples); sums stay.

    Each frame's value goes to the samples near it by linear interpolation, so a signed map keeps its sums too.
    """
    frames = image.sum(axis=1)
    at = np.arange(n_samples) / fs
    share = np.stack(
        [np.interp(at, times_s, unit) for unit in np.eye(len(times_s))]
    )  # (frames, samples)
    return frames @ (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12))


def over_time(bands, signals, freqs_hz, fs):
    """Attribution of frequencies (n, freqs) shared out to (n, samples, leads) as the energy in each band is; sums stay."""
    n_samples = signals.shape[1]
    own, spectra = np.fft.rfftfreq(n_samples, 1 / fs), np.fft.rfft(signals, axis=1)
    edges = np.concatenate([[-np.inf], (freqs_hz[1:] + freqs_hz[:-1]) / 2, [np.inf]])
    shared = np.zeros(signals.shape)
    for band in np.array_split(np.arange(len(freqs_hz)), min(_BANDS, len(freqs_hz))):
        inside = (own >= edges[band[0]]) & (own < edges[band[-1] + 1])
        energy = np.fft.irfft(spectra * inside[:, None], n_samples, axis=1) ** 2 + _TINY
        shared += energy * (bands[:, band].sum(axis=1) / energy.sum(axis=(1, 2)))[:, None, None]
    return shared
