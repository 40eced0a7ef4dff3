"""Find R peaks and the waves around them, to mark on pictures and to align beats by.

Conventions
-----------
Signals are (samples,) or (samples, leads) in any unit; positions are sample
numbers. A row that starts or ends inside a QRS counts as mirrored there, so an R
peak at its edge is found. Zeros padded to a row's end are not looked at. These
are marks for reading a picture, not measurements: no wave is delineated.
"""

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

from ecg_keras._checks import check_positive

_QRS_HZ = (5.0, 25.0)  # where a QRS has more power than P, T and drift
_REFRACTORY_S = 0.25  # no two R peaks are closer
_LEAST_SHARE = 0.04  # of the QRS: smaller waves are not marked


def find_r_peaks(signal, *, fs):
    """Find the R peaks of one row.

    Energy of the band-passed, differentiated signal over 100 ms, as in J. Pan and W. J. Tompkins, IEEE Trans.
    Biomed. Eng. 32(3), 1985, but with one threshold for the whole row; the peak is the sample farthest
    from the row's median, up or down.

    Parameters
    ----------
    signal : float, shape (samples,) or (samples, leads)
        One row of a data set.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    peaks : int, shape (n_peaks,)
        Sample numbers, rising.

    Raises
    ------
    ValueError
        If `fs` is not above zero.

    Examples
    --------
    >>> signal = np.zeros(500)
    >>> signal[[100, 225, 350]] = 1
    >>> find_r_peaks(signal, fs=125).tolist()
    [100, 225, 350]
    """
    check_positive("fs", fs)
    signal = _columns(signal)
    signal = signal[: _used(signal)]
    n_samples, reach = len(signal), max(2, round(0.06 * fs))
    if n_samples < round(0.2 * fs) or not np.ptp(signal, axis=0).any():
        return np.array([], int)
    energy = qrs_energy(signal, fs=fs)
    edge = round(_REFRACTORY_S * fs)
    framed = np.pad(energy, edge, mode="reflect" if n_samples > edge else "edge")
    height = 0.12 * np.median(maximum_filter1d(energy, 2 * edge))
    if n_samples <= 3 * fs:  # too few beats for the median to be that of a QRS
        height = max(height, 0.1 * energy.max())
    found, _ = find_peaks(framed, height=height, distance=edge)
    found = found[(found >= edge - reach) & (found < edge + n_samples + reach)] - edge
    away = np.abs(signal - np.median(signal, axis=0))
    away = (away / np.maximum(np.ptp(signal, axis=0), 1e-12)).sum(axis=1)
    peaks = set()
    for at in found:
        first = min(max(0, at - reach), n_samples - 1)
        peaks.add(int(first + away[first : max(at + reach + 1, first + 1)].argmax()))
    kept = []
    for at in sorted(peaks, key=lambda i: -away[i]):  # the larger of two that are too close
        if all(abs(at - other) >= edge for other in kept):
            kept.append(at)
    return np.array(sorted(kept), int)


def qrs_energy(signal, *, fs):
    """Energy of the QRS band over 100 ms, all leads together, (samples,)."""
    signal = _columns(signal)
    n_samples = len(signal)
    high = min(_QRS_HZ[1], 0.45 * fs)
    edge = min(n_samples - 1, round(0.5 * fs))
    framed = np.pad(signal, ((edge, edge), (0, 0)), mode="reflect")
    sos = butter(2, [min(_QRS_HZ[0], high / 2), high], "bandpass", fs=fs, output="sos")
    steep = np.gradient(sosfiltfilt(sos, framed, axis=0, padlen=0), axis=0)
    scale = np.maximum(steep.std(axis=0), 1e-12)
    energy = ((steep / scale) ** 2).sum(axis=1)
    return uniform_filter1d(energy, max(3, round(0.1 * fs)))[edge : edge + n_samples]


def find_waves(signal, *, fs, peaks=None):
    """Find the P, Q, S and T waves around each R peak of one row.

    Q and S are the points farthest opposite to R within 90 ms, P and T the largest deflections 90 to 260 ms
    before and 130 to 450 ms after it, kept out of the neighbouring beats. A wave smaller than 4 % of the
    QRS is left out.

    Parameters
    ----------
    signal : float, shape (samples,) or (samples, leads)
        One row; of several leads the one with the tallest QRS is read.
    fs : float
        Sampling rate, in Hz.
    peaks : sequence of int, optional
        R peaks; found where not given.

    Returns
    -------
    waves : list of dict
        Per beat: "R", and of "P", "Q", "S", "T" those found, each a sample number.

    Examples
    --------
    >>> t = np.arange(250) / 250
    >>> bump = lambda at, wide, tall: tall * np.exp(-0.5 * ((t - at) / wide) ** 2)
    >>> beat = bump(0.3, 0.02, 0.15) + bump(0.46, 0.008, -0.2) + bump(0.5, 0.01, 1) + bump(0.8, 0.04, 0.3)
    >>> [(name, round(float(t[at]), 2)) for name, at in sorted(find_waves(beat, fs=250)[0].items())]
    [('P', 0.3), ('Q', 0.46), ('R', 0.5), ('T', 0.8)]
    """
    signal = _columns(signal)
    n_samples = _used(signal)
    peaks = find_r_peaks(signal, fs=fs) if peaks is None else np.asarray(peaks)
    signal = (
        signal[:n_samples, np.ptp(signal[:n_samples], axis=0).argmax()]
        if n_samples
        else signal[:, 0]
    )
    rest, found = np.median(signal) if n_samples else 0.0, []
    for i, peak in enumerate(peaks):
        tall = abs(signal[peak] - rest)
        facing = np.sign(signal[peak] - rest) or 1.0
        low = (peaks[i - 1] + peak) // 2 if i else 0
        high = (peak + peaks[i + 1]) // 2 + round(0.05 * fs) if i + 1 < len(peaks) else n_samples
        near = lambda start_s, stop_s: (
            max(low, peak + round(start_s * fs)),
            min(high, n_samples, peak + round(stop_s * fs)),
        )
        waves = {"R": int(peak)}
        for name, span in (("Q", near(-0.09, -0.01)), ("S", near(0.016, 0.1))):
            _mark(waves, name, -facing * (signal - rest), span, tall)
        for name, span in (("P", near(-0.26, -0.09)), ("T", near(0.13, 0.45))):
            start, stop = span
            if stop - start > 2:
                level = np.median(signal[start:stop])
                _mark(waves, name, np.abs(signal - level), span, tall)
        found.append(waves)
    return found


def _mark(waves, name, height, span, tall):
    """Add the highest inner sample of a stretch if it is high enough."""
    start, stop = span
    if stop - start < 3:
        return
    at = start + int(height[start:stop].argmax())
    inner = start < at < stop - 1
    if inner and height[at] - max(height[start], height[stop - 1]) > _LEAST_SHARE * tall:
        waves[name] = at


def _columns(signal):
    """(samples,) or (samples, leads) as float64 (samples, leads)."""
    signal = np.asarray(signal, np.float64)
    return signal[:, None] if signal.ndim == 1 else signal


def _used(signal):
    """Samples before the zeros padded to the end."""
    live = np.flatnonzero(signal.any(axis=1))
    return int(live[-1]) + 1 if len(live) else 0
