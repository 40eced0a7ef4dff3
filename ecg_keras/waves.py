"""Find the P, Q, S and T waves around R peaks, to mark on pictures and to align beats by.

Conventions
-----------
Signals are (samples,) or (samples, leads) in any unit, `fs` in Hz; positions are
sample numbers. R peaks are those of `signals.r_peaks`. The waves are marks for
reading a picture, not measurements: no onset or end is sought.
"""

import numpy as np

from ecg_keras.signals import LEAST_HZ, LEAST_S, r_peaks, used_samples

_LEAST_SHARE = 0.04  # of the QRS: smaller waves are not marked
# where each wave is looked for, from the R peak
_SPANS_S = {"Q": (-0.09, -0.01), "S": (0.016, 0.1), "P": (-0.26, -0.09), "T": (0.13, 0.45)}
_BEAT_S = 3.0  # rows up to this long are beats, longer ones are recordings


def find_waves(signal, *, fs, peaks=None):
    """Find the P, Q, S and T waves around each R peak of one row.

    Q and S are the points farthest opposite to R within 90 and 100 ms. P and T are the largest
    deflections 90 to 260 ms before and 130 to 450 ms after R, kept out of the neighbouring beats.
    A wave smaller than 4 % of the QRS is left out.

    Parameters
    ----------
    signal : array_like of float, shape (samples,) or (samples, leads)
        One row; of several leads the one with the tallest QRS is read.
    fs : float
        Sampling rate, in Hz.
    peaks : sequence of int, optional
        R peaks. By default those of `signals.r_peaks`; none in rows under 0.2 s or 50 Hz.

    Returns
    -------
    waves : list of dict
        Per beat: "R", and of "P", "Q", "S", "T" those found, each a sample number.

    Raises
    ------
    ValueError
        If `fs` is not above zero, or the signal is not finite.

    Examples
    --------
    >>> t = np.arange(250) / 250
    >>> bump = lambda at, wide, tall: tall * np.exp(-0.5 * ((t - at) / wide) ** 2)
    >>> beat = bump(0.3, 0.02, 0.15) + bump(0.46, 0.008, -0.2) + bump(0.5, 0.01, 1)
    >>> waves = find_waves(beat + bump(0.8, 0.04, 0.3), fs=250)
    >>> [(name, round(float(t[at]), 2)) for name, at in sorted(waves[0].items())]
    [('P', 0.3), ('Q', 0.46), ('R', 0.5), ('T', 0.8)]
    """
    signal = np.asarray(signal, np.float64)
    signal = signal[: used_samples(signal)].reshape(-1, signal[0].size)
    peaks = _peaks_of_row(signal, fs) if peaks is None else np.asarray(peaks)
    if not len(peaks):
        return []
    signal = signal[:, np.ptp(signal, axis=0).argmax()]
    n_samples, rest, found = len(signal), np.median(signal), []
    for i, peak in enumerate(peaks):
        tall = abs(signal[peak] - rest)
        facing = np.sign(signal[peak] - rest) or 1.0
        low = (peaks[i - 1] + peak) // 2 if i else 0
        high = (peak + peaks[i + 1]) // 2 + round(0.05 * fs) if i + 1 < len(peaks) else n_samples
        waves = {"R": int(peak)}
        for name, (start_s, stop_s) in _SPANS_S.items():
            start = max(low, peak + round(start_s * fs))
            stop = min(high, n_samples, peak + round(stop_s * fs))
            if stop - start > 2:
                part = signal[start:stop]
                if name in "QS":
                    height = -facing * (part - rest)
                else:
                    height = np.abs(part - np.median(part))
                at = int(height.argmax())
                inner = 0 < at < len(part) - 1
                if inner and height[at] - max(height[0], height[-1]) > _LEAST_SHARE * tall:
                    waves[name] = start + at
        found.append(waves)
    return found


def _peaks_of_row(row, fs):
    """R peaks of a row; none where it is too short, or sampled too slowly, to look for them."""
    long_enough = len(row) >= LEAST_S * fs and not 0 < fs < LEAST_HZ
    return r_peaks(row, fs=fs) if long_enough else np.zeros(0, np.int64)


def row_peaks(signals, *, fs):
    """Find the R peaks that rows are averaged around: every one of recordings, one of beats.

    Rows up to 3 s are taken for beats, which were all cut at the same place around their R peak.
    That place is where most rows have a peak.

    Parameters
    ----------
    signals : array_like of float, shape (n, samples) or (n, samples, leads)
        Rows of a data set.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    peaks : list of n sequences of int
        Sample numbers.

    Examples
    --------
    >>> rows = np.zeros((5, 125))
    >>> rows[:, 50] = 1.0
    >>> row_peaks(rows, fs=125)
    [[50], [50], [50], [50], [50]]
    """
    peaks = [_peaks_of_row(row, fs) for row in signals]
    samples = len(signals[0])
    if samples > _BEAT_S * fs or not sum(map(len, peaks)):
        return peaks
    votes = np.bincount(np.concatenate(peaks), minlength=samples)
    reach = max(1, round(0.03 * fs))
    middle = int(np.convolve(votes, np.ones(2 * reach + 1), "same").argmax())
    first = max(0, middle - reach)
    return [[first + int(votes[first : middle + reach + 1].argmax())]] * len(signals)
