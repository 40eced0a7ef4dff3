"""Filter an ECG, find its R peaks, and turn them into windows and RR features.

Conventions
-----------
A recording is float (samples,) or (samples, leads), any unit, `fs` in Hz. R
peaks are sample numbers, int64 (n_beats,), rising. Beat windows are float32
(n_beats, samples, leads). RR intervals are in seconds; intervals compared with
one another are compared by natural logarithm, so twice and half weigh the same.

Nothing here looks at a label, and no function assumes a sampling rate.
"""

from fractions import Fraction

import numpy as np
from scipy import ndimage, signal

from ecg_keras._checks import check_positive

LEAST_HZ, LEAST_S = 50, 0.2  # what R peaks can be found in: a QRS has energy up to 25 Hz
_WORK_HZ = 120  # R peaks are searched at about this rate; QRS energy lies under 40 Hz
_ROW_S = 20  # what is shorter is mirrored at both ends, so that beats at its edges are found
_MIRROR_S, _MIRRORED_S = 1, 8  # by this much, and until it is as long as this
_SWING_S = 0.08  # from the QRS energy's peak to the R peak, at most
_QRS_S, _BLOCK_S = 0.12, 1.5  # the moving window; what each lead's height is measured in
# of `PeakStream`: reach of its filters, what it remembers, how old a peak is when it is given, and
# how much later a low one in a gap may be
_REACH_S, _MEMORY_S, CERTAIN_S, _LATE_S = 0.4, 24, 1.0, 2.0
_TINY = 1e-12  # keeps a silent lead from dividing by zero
QUALITY = ("good", "noise", "flat", "clipped", "missing")  # states of a second of a lead
_GRID_HZ = 60  # quality is judged at about this rate
_NOISE, _FAST_NOISE = 0.13, 0.15  # median over usual peak: above, noise hides the beats
_CLIPPED_SHARE, _LEAST_RAIL_MV = 0.12, 1.5  # of a second at its rail; from the median to the rail
_FLAT_MV = 0.01
_LEAK, _WAVY = 0.45, 0.25  # of flutter: below, and above
_SLOWEST_HZ, _FASTEST_HZ, _LEAST_WAVE_MV = 2.2, 9.0, 0.2
# RR intervals outside are clipped: artefacts, pauses of the recorder
_SHORTEST_RR_S, _LONGEST_RR_S = 0.15, 4.0


def bandpass(x, *, fs, low_hz=0.5, high_hz=40.0, order=3, axis=0):
    """Keep the frequencies of the ECG; zero phase, so nothing moves in time.

    Parameters
    ----------
    x : array_like of float
        Signals, time along `axis`.
    fs : float
        Sampling rate, in Hz.
    low_hz, high_hz : float, default 0.5 and 40
        Where the gain is a half (-6 dB: each of the two passes of the filter loses 3 dB).
    order : int, default 3
        Order of the Butterworth filter, run as second-order sections forwards and backwards.
    axis : int, default 0
        The time axis.

    Returns
    -------
    y : ndarray of float64, shape of `x`

    Raises
    ------
    ValueError
        If the band does not lie between 0 and half the sampling rate, or `x` is not finite.

    Examples
    --------
    >>> t = np.arange(2500) / 250
    >>> drift, ecg = np.sin(2 * np.pi * 0.1 * t), np.sin(2 * np.pi * 10 * t)
    >>> bool(abs(bandpass(drift + ecg, fs=250) - ecg)[500:-500].max() < 0.1)  # drift was 1
    True
    """
    x = _checked(x)
    check_positive("fs", fs)
    if not 0 < low_hz < high_hz < fs / 2:
        raise ValueError(
            f"the band must satisfy 0 < low_hz < high_hz < fs / 2 = {fs / 2:g} Hz, "
            f"got {low_hz} to {high_hz} Hz."
        )
    sos = signal.butter(order, [low_hz, high_hz], "bandpass", fs=fs, output="sos")
    return _forth_and_back(sos, x, axis)


def notch(x, *, fs, mains_hz, quality=30.0, axis=0):
    """Remove mains hum at `mains_hz` (50 or 60) by a zero-phase notch `mains_hz / quality` Hz wide.

    Examples
    --------
    >>> t = np.arange(5000) / 500
    >>> hum = np.sin(2 * np.pi * 50 * t)
    >>> bool(abs(notch(hum, fs=500, mains_hz=50))[1000:-1000].max() < 0.01)
    True
    """
    x = _checked(x)
    check_positive("fs", fs)
    if not 0 < mains_hz < fs / 2:
        raise ValueError(f"mains_hz must lie between 0 and fs / 2 = {fs / 2:g} Hz, got {mains_hz}.")
    sos = signal.tf2sos(*signal.iirnotch(mains_hz, quality, fs=fs))
    return _forth_and_back(sos, x, axis)


def resample(x, *, fs, to_fs, axis=0):
    """Bring a signal from `fs` to `to_fs` by a polyphase filter without aliasing; both in Hz.

    The first sample stays where it is: sample `k` of the result is at `k / to_fs` seconds.

    Examples
    --------
    >>> resample(np.ones((720, 2)), fs=360, to_fs=125).shape
    (250, 2)
    """
    x = _checked(x)
    check_positive("fs", fs)
    check_positive("to_fs", to_fs)
    ratio = Fraction(to_fs).limit_denominator(10000) / Fraction(fs).limit_denominator(10000)
    if ratio == 1:
        return x
    ratio = ratio.limit_denominator(2000)
    return signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=axis, padtype="line")


def normalize(x, peaks, *, fs):
    """Scale each lead of a recording by the height of its own typical QRS, about a median of 0.

    Parameters
    ----------
    x : array_like of float, shape (samples, leads)
        One recording.
    peaks : array_like of int, shape (n_beats,)
        Its R peaks.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    y : ndarray of float32, shape (samples, leads)
        The median of the largest distance from 0 within 100 ms of each R peak is 1.

    Raises
    ------
    ValueError
        If a lead is constant around its R peaks.

    Examples
    --------
    >>> x = np.zeros((500, 1)); x[100::100] = 3.0
    >>> float(normalize(x, [100, 200, 300, 400], fs=100).max())
    1.0
    """
    x = _checked(x)
    x = x - np.median(x, axis=0)
    around = beat_windows(x, peaks, fs=fs, before_s=0.1, after_s=0.1)
    height = np.median(np.abs(around).max(axis=1), axis=0)  # (leads,)
    if (height <= 0).any():
        raise ValueError(
            f"lead {int(np.argmin(height))} is constant around its R peaks; "
            "it cannot be scaled by its QRS."
        )
    return (x / height).astype(np.float32)


def r_peaks(x, *, fs):
    """Find the R peaks of a recording, or of one row of a data set.

    The method is that of Pan and Tompkins (IEEE Trans. Biomed. Eng. 32(3), 1985): band-pass,
    derivative, square, moving window of 120 ms. It departs from them in this:

    - Each lead is measured by its own QRS of the surrounding 15 s. Leads are added; the cleaner
      one counts more.
    - Thresholds use the beats on both sides, as the whole recording is there.
    - A peak is dropped if it is low and close to a higher one (a T wave), or low and between two
      beats whose distance is a usual interval. Gaps are searched again for lower peaks.
    - A row of less than 20 s is mirrored at both ends. So a row may start with its R peak, as the
      Kaggle beats do. Zeros padded to its end are cut off first.

    Parameters
    ----------
    x : array_like of float, shape (samples,) or (samples, leads)
        At least 0.2 s, any unit, unfiltered or filtered.
    fs : float
        Sampling rate, in Hz; at least 50.

    Returns
    -------
    peaks : ndarray of int64, shape (n_beats,)
        Extremum of the first lead's QRS, in samples of `x`. Empty where nothing beats.

    Raises
    ------
    ValueError
        If `x` is not finite, is shorter than 0.2 s, or `fs` is under 50 Hz.

    Examples
    --------
    >>> x = np.zeros(3000)
    >>> x[150::300] = 1.0  # a spike every 1.2 s at 250 Hz
    >>> r_peaks(x, fs=250)[:3].tolist()
    [150, 450, 750]
    >>> row = np.zeros(187)
    >>> row[[0, 100]] = 1.0  # a beat that starts with its R peak, and the next one
    >>> r_peaks(row, fs=125).tolist()
    [0, 100]
    """
    x = _checked(x)
    x = x[:, None] if x.ndim == 1 else x
    check_positive("fs", fs)
    if fs < LEAST_HZ:
        raise ValueError(
            f"R peaks need a sampling rate of at least {LEAST_HZ} Hz, got {fs:g}; "
            "a QRS has energy up to 25 Hz."
        )
    if len(x) < LEAST_S * fs:
        raise ValueError(
            f"R peaks need at least {LEAST_S} s ({LEAST_S * fs:g} samples), got {len(x)} samples."
        )
    if len(x) >= _ROW_S * fs:
        return _search(x, fs)
    x = x[: used_samples(x)]
    if len(x) < LEAST_S * fs:
        return np.zeros(0, np.int64)
    last, side = len(x) - 1, int(max(_MIRROR_S * fs, (_MIRRORED_S * fs - len(x)) / 2))
    found = _search(np.pad(x, ((side, side), (0, 0)), mode="reflect"), fs) - side
    near = found[(found >= -_SWING_S * fs) & (found <= last + _SWING_S * fs)]
    return np.unique(last - np.abs(last - np.abs(near)))  # from the mirror back into the row


def used_samples(x):
    """Samples of one row before the zeros that were padded to its end.

    Examples
    --------
    >>> used_samples([0.0, 3.0, 1.0, 0.0, 0.0])
    3
    """
    live = np.flatnonzero(np.asarray(x).reshape(len(x), -1).any(axis=1))
    return int(live.max(initial=-1)) + 1


def _search(x, fs):
    """R peaks of a recording (samples, leads)."""
    step = max(1, int(fs // _WORK_HZ))
    slow = signal.resample_poly(x, 1, step, axis=0, padtype="line") if step > 1 else x
    found = _choose_peaks(_qrs_energy(slow, fs / step), fs / step) * step
    return _to_extremum(x, found, fs)


def _qrs_energy(x, fs):
    """Recording (samples, leads) to one QRS envelope (samples,), about 1 at a usual R peak."""
    sos = signal.butter(2, [5, min(18, 0.45 * fs)], "bandpass", fs=fs, output="sos")
    slope = np.gradient(_forth_and_back(sos, x, 0), axis=0) ** 2
    return _join_leads(ndimage.uniform_filter1d(slope, max(1, round(_QRS_S * fs)), axis=0), fs)


def _join_leads(energy, fs):
    """Energy of each lead (samples, leads) to one QRS envelope (samples,)."""
    block = int(_BLOCK_S * fs)  # holds at least one beat down to 40 per minute
    n = max(1, len(energy) // block)
    blocks = energy[: n * block].reshape(n, min(block, len(energy)), -1)
    # medians over 16 s, (n, leads); a silent stretch holds no small beats
    peak = ndimage.median_filter(blocks.max(axis=1), (11, 1), mode="reflect")
    peak = np.maximum(peak, 0.02 * np.median(peak, axis=0)) + _TINY
    floor = ndimage.median_filter(np.median(blocks, axis=1), (11, 1), mode="reflect")
    weight = 1 / (floor / peak + 0.01)  # a lead counts by how far its QRS stands out
    weight /= weight.sum(axis=1, keepdims=True)
    at = np.minimum(np.arange(len(energy)) // block, n - 1)
    energy = np.maximum(energy, 0)  # a running mean rounds to just under 0
    return np.sqrt((np.minimum(energy / peak[at], 3) * weight[at]).sum(axis=1))


def _choose_peaks(energy, fs, *, goes_on=False):
    """QRS envelope to the samples of its beats; what `goes_on` has no beat at its end yet."""
    peaks, _ = signal.find_peaks(energy, height=0.18, distance=max(1, int(0.2 * fs)))
    peaks = peaks[(peaks > 0.04 * fs) & (peaks < len(energy) - 0.04 * fs)]
    height, t = energy[peaks], peaks / fs
    kept = height > 0.42
    for _ in range(3):
        if not _drop_doubtful(kept, height, t):
            break
    for _ in range(3):
        if not _fill_gaps(kept, height, t, len(energy) / fs if goes_on else None):
            break
    return peaks[kept]


def _drop_doubtful(kept, height, t):
    """Clear `kept` where a low peak stands beside or between higher ones; True if any was."""
    rows = np.flatnonzero(kept)
    if len(rows) < 3:
        return False
    high, rr = height[rows], np.diff(t[rows])
    usual = ndimage.median_filter(rr, 15, mode="nearest")
    end = np.full(1, 9.0)  # stands for far and tall before the first peak and after the last
    before, after = np.concatenate([end, rr]), np.concatenate([rr, end])
    left, right = np.concatenate([end, high[:-1]]), np.concatenate([high[1:], end])
    usual = np.append(usual, usual[-1])
    doubtful = np.zeros(len(rows), bool)
    for gap, other in ((before, left), (after, right)):
        doubtful |= (gap < 0.36) & (high < 0.6 * other)
        doubtful |= (gap < 0.26) & (high < 0.8 * other)
    doubtful |= (high < 0.75 * np.minimum(left, right)) & (before + after < 1.35 * usual)
    # of two doubtful neighbours the lower goes first
    lower_before = np.append(False, doubtful[:-1]) & (left < high)
    lower_after = np.append(doubtful[1:], False) & (right < high)
    doubtful &= ~lower_before & ~lower_after
    kept[rows[doubtful]] = False
    return doubtful.any()


def _fill_gaps(kept, height, t, end=None):
    """Set `kept` at the highest peak in each gap of over 1.5 usual intervals; True if any was.

    The time up to `end` counts as a gap too.
    """
    rows = np.flatnonzero(kept)
    if len(rows) < 3:
        return False
    rr = np.diff(t[rows])
    usual = ndimage.median_filter(rr, 15, mode="nearest")
    more = []
    for gap in np.flatnonzero(rr > 1.5 * usual):
        inside = np.arange(rows[gap] + 1, rows[gap + 1])
        inside = inside[
            (t[inside] - t[rows[gap]] > 0.36)
            & (t[rows[gap + 1]] - t[inside] > 0.3)
            & (height[inside] > 0.26)
        ]
        if len(inside):
            more.append(inside[height[inside].argmax()])
    if end is not None and end - t[rows[-1]] > 1.5 * usual[-1]:
        inside = np.arange(rows[-1] + 1, len(t))
        inside = inside[
            (t[inside] - t[rows[-1]] > 0.36) & (end - t[inside] > 0.3) & (height[inside] > 0.26)
        ]
        if len(inside):
            more.append(inside[height[inside].argmax()])
    kept[more] = True
    return len(more) > 0


def _to_extremum(x, peaks, fs):
    """Move each peak to the largest swing of the first lead nearby."""
    if not len(peaks):
        return peaks.astype(np.int64)
    sos = signal.butter(2, [5, min(25, 0.45 * fs)], "bandpass", fs=fs, output="sos")
    lead = np.abs(_forth_and_back(sos, x[:, 0], 0))
    reach = round(_SWING_S * fs)
    offsets = np.arange(-reach, reach + 1)
    near = np.clip(peaks[:, None] + offsets, 0, len(x) - 1)  # (n_beats, offsets)
    return np.unique(near[np.arange(len(peaks)), lead[near].argmax(axis=1)])


class PeakStream:
    """Find R peaks while a signal arrives: the method of `r_peaks`, a second behind.

    Filters are cut to 0.4 s on either side, and thresholds come from the last 24 s. A peak is given
    when it is a second old and is not taken back; so it is seen with the beat after it only at
    rates over 60 per minute. A low one in a gap may come two seconds later.

    Which peaks are given depends on how the signal is cut into calls, by the little that
    thresholds move; cut it at fixed places where that matters.

    Parameters
    ----------
    fs : float
        Sampling rate, in Hz; at least 50.
    n_leads : int

    Attributes
    ----------
    n_samples : int
        Samples pushed so far.
    certain : int
        All peaks before this sample were given, but for low ones in a gap.

    Examples
    --------
    >>> x = np.zeros((3000, 1))
    >>> x[150::300] = 1.0  # a spike every 1.2 s at 250 Hz
    >>> stream = PeakStream(250, 1)
    >>> [stream.push(x[at : at + 500]).tolist() for at in (0, 500, 1000)]
    [[150], [450, 750], [1050]]
    """

    def __init__(self, fs, n_leads):
        if check_positive("fs", fs) < LEAST_HZ:
            raise ValueError(
                f"R peaks need a sampling rate of at least {LEAST_HZ} Hz, got {fs:g}; "
                "a QRS has energy up to 25 Hz."
            )
        self.fs, self.n_samples, self.certain = fs, 0, 0
        self._step = max(1, int(fs // _WORK_HZ))
        self._work_hz = fs / self._step
        band = _zero_phase([5, min(18, 0.45 * self._work_hz)], fs)
        slope = np.zeros(len(band) + 2 * self._step)  # the band-pass, and half a difference of it
        slope[2 * self._step :] += band / 2
        slope[: -2 * self._step] -= band / 2
        self._slope, self._half = slope, len(slope) // 2
        self._band = _zero_phase([5, min(25, 0.45 * fs)], fs)
        self._width = max(1, round(_QRS_S * self._work_hz))
        self._x = np.zeros((0, n_leads))  # the last seconds of the signal
        self._slopes = np.zeros((0, n_leads))  # squared, not yet averaged
        self._energy = np.zeros((0, n_leads))  # of the last `_MEMORY_S`
        self._first = 0  # the work sample of `_energy[0]`
        self._next = 0  # the work sample that is filtered next
        self._last = -np.inf  # the last peak given, by its energy

    def push(self, x, *, live=None):
        """Take the next samples; returns the R peaks that became certain.

        Parameters
        ----------
        x : array_like of float, shape (samples, leads)
            Finite.
        live : sequence of int, optional
            Leads to look at; by default all. The first one tells where in the QRS the R peak is.

        Returns
        -------
        peaks : ndarray of int64
            In samples since the first one pushed, all after those given before.
        """
        x = np.asarray(x, float)
        if not len(x):
            return np.zeros(0, np.int64)
        if not self.n_samples:  # the signal starts as if it had rested before
            self._x = np.repeat(x[:1], self._half + self._step * (self._width // 2 + 1), axis=0)
            self._next = -(self._width // 2)
            self._first = 0
        self._x = np.concatenate([self._x, x])
        self.n_samples += len(x)
        self._filter()
        oldest = max(self._last + 0.2 * self.fs, self.certain - _LATE_S * self.fs)
        self.certain = max(0, self.n_samples - round(CERTAIN_S * self.fs))
        found = np.zeros(0, np.int64)
        if len(self._energy) >= self._work_hz:
            live = range(self._x.shape[1]) if live is None else live
            envelope = _join_leads(self._energy[:, live], self._work_hz)
            found = (
                _choose_peaks(envelope, self._work_hz, goes_on=True) + self._first
            ) * self._step
            found = found[(found > oldest) & (found <= self.certain)]
        if len(found):
            self._last = found[-1]
        peaks = np.array([self._extremum(peak, live[0]) for peak in found], np.int64)
        self._x = self._x[-round((2 * _REACH_S + CERTAIN_S + _LATE_S + 1) * self.fs) :]
        return peaks

    def _filter(self):
        """Append the energy of the samples that arrived, and forget what is old."""
        origin = self.n_samples - len(self._x)  # sample of `_x[0]`
        last = (self.n_samples - 1 - self._half) // self._step
        if last < self._next:
            return
        windows = np.lib.stride_tricks.sliding_window_view(self._x, len(self._slope), axis=0)
        first = self._next * self._step - self._half - origin
        stop = last * self._step - self._half - origin + 1
        slopes = (windows[first : stop : self._step] @ self._slope) ** 2
        self._next = last + 1
        self._slopes = np.concatenate([self._slopes, slopes])
        if len(self._slopes) >= self._width:
            moving = np.lib.stride_tricks.sliding_window_view(self._slopes, self._width, axis=0)
            self._energy = np.concatenate([self._energy, moving.mean(axis=-1)])
            self._slopes = self._slopes[len(self._slopes) - self._width + 1 :]
        block = int(_BLOCK_S * self._work_hz)
        old = -(-(len(self._energy) - int(_MEMORY_S * self._work_hz)) // block) * block
        if old > 0:  # whole blocks, so that heights are measured in the same ones as before
            self._energy, self._first = self._energy[old:], self._first + old

    def _extremum(self, peak, lead):
        """The largest swing of a lead near a peak of the energy."""
        reach, half = round(_SWING_S * self.fs), len(self._band) // 2
        origin = self.n_samples - len(self._x)
        first = max(0, peak - reach, origin + half)
        near = self._x[first - half - origin : peak + reach + half + 1 - origin, lead]
        swing = np.abs(np.convolve(near, self._band, "valid"))  # the filter is symmetric
        return first + int(swing.argmax())


def _zero_phase(band_hz, fs):
    """Weights of a band-pass of `_forth_and_back`, cut to `_REACH_S` on either side."""
    sos = signal.butter(2, band_hz, "bandpass", fs=fs, output="sos")
    reach = round(_REACH_S * fs)
    impulse = np.zeros(8 * reach + 1)
    impulse[4 * reach] = 1
    return signal.sosfiltfilt(sos, impulse, padtype=None)[3 * reach : 5 * reach + 1]


def fill_gaps(x):
    """NaN samples of each lead by straight lines over them; a lead of NaN alone becomes zeros.

    Examples
    --------
    >>> fill_gaps(np.array([[1.0], [np.nan], [3.0]]))[:, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    lost = ~np.isfinite(x)
    if not lost.any():
        return x
    x = x.copy()
    for column, gone in zip(x.T, lost.T):
        there = np.flatnonzero(~gone)
        column[gone] = np.interp(np.flatnonzero(gone), there, column[there]) if len(there) else 0
    return x


def match_peaks(reference, found, *, fs, tolerance_s=0.15):
    """Pair reference peaks with found ones, each at most once, nearest first.

    Parameters
    ----------
    reference, found : array_like of int
        Rising sample numbers.
    fs : float
        Sampling rate, in Hz.
    tolerance_s : float, default 0.15
        Largest distance of a pair, as in ANSI/AAMI EC57.

    Returns
    -------
    pairs : ndarray of int64, shape (n_pairs, 2)
        Row numbers in `reference` and in `found`.

    Examples
    --------
    >>> match_peaks([100, 200, 300], [104, 290, 500], fs=100).tolist()
    [[0, 0], [2, 1]]
    """
    reference, found = np.asarray(reference, np.int64), np.asarray(found, np.int64)
    if not len(reference) or not len(found):
        return np.zeros((0, 2), np.int64)
    right = np.searchsorted(found, reference)
    pairs = np.concatenate(
        [
            np.column_stack([np.arange(len(reference)), np.clip(right + k, 0, len(found) - 1)])
            for k in (-2, -1, 0, 1)
        ]
    )
    pairs = np.unique(pairs, axis=0)
    distance = np.abs(reference[pairs[:, 0]] - found[pairs[:, 1]])
    near = distance <= tolerance_s * fs
    pairs = pairs[near][np.argsort(distance[near], kind="stable")]
    free = np.ones(len(reference), bool), np.ones(len(found), bool)
    taken = []
    for a, b in pairs:
        if free[0][a] and free[1][b]:
            free[0][a] = free[1][b] = False
            taken.append((a, b))
    return np.array(sorted(taken), np.int64).reshape(-1, 2)


def beat_windows(x, peaks, *, fs, before_s, after_s):
    """Cut one window per R peak out of a recording.

    Parameters
    ----------
    x : array_like of float, shape (samples,) or (samples, leads)
        One recording.
    peaks : array_like of int, shape (n_beats,)
        R peaks, as sample numbers of `x`.
    fs : float
        Sampling rate, in Hz.
    before_s, after_s : float
        Seconds before and after the peak. Beyond its ends the recording keeps its first and last
        value.

    Returns
    -------
    windows : ndarray of float32, shape (n_beats, samples, leads)
        ``samples = round(before_s * fs) + round(after_s * fs)``; the peak is at
        ``round(before_s * fs)``.

    Raises
    ------
    ValueError
        If a peak lies outside the recording, or the window is empty.

    Examples
    --------
    >>> x = np.arange(1000.0)
    >>> beat_windows(x, [500, 5], fs=100, before_s=0.1, after_s=0.2)[:, 10, 0].tolist()
    [500.0, 5.0]
    """
    x, peaks = np.asarray(x), np.asarray(peaks)
    x = x[:, None] if x.ndim == 1 else x
    check_positive("fs", fs)
    before, after = round(before_s * fs), round(after_s * fs)
    if before + after < 1:
        raise ValueError(
            f"the window of {before_s} s before and {after_s} s after the peak "
            f"holds no sample at {fs:g} Hz."
        )
    if len(peaks) and (peaks.min() < 0 or peaks.max() >= len(x)):
        raise ValueError(
            f"peaks must lie in 0 to {len(x) - 1}, the samples of x; "
            f"got {peaks.min()} to {peaks.max()}."
        )
    at = peaks.astype(np.int64)[:, None] + np.arange(-before, after)  # (n_beats, samples)
    return x[np.clip(at, 0, len(x) - 1)].astype(np.float32, copy=False)


def rr_intervals(peaks, *, fs):
    """R peaks to the RR interval before and after each beat, in seconds.

    Missing ones, before the first beat and after the last, are the recording's median.
    Intervals are clipped to 0.15 to 4 s.

    Returns
    -------
    previous, following : ndarray of float64, shape (n_beats,)

    Examples
    --------
    >>> rr_intervals([0, 100, 300], fs=100)[0].tolist()
    [1.5, 1.0, 2.0]
    """
    peaks = np.asarray(peaks)
    if len(peaks) < 2:
        raise ValueError(f"RR intervals need at least 2 R peaks, got {len(peaks)}.")
    rr = np.diff(peaks) / fs
    if (rr <= 0).any():
        raise ValueError(
            f"R peaks must rise; beat {int((rr <= 0).argmax()) + 1} "
            "does not come after the one before it."
        )
    rr = np.clip(rr, _SHORTEST_RR_S, _LONGEST_RR_S)
    usual = [np.median(rr)]
    return np.concatenate([usual, rr]), np.concatenate([rr, usual])


def rr_features(peaks, *, fs, local=17):
    """R peaks to the timing features of each beat.

    Parameters
    ----------
    peaks : array_like of int, shape (n_beats,)
        R peaks of one recording, in samples.
    fs : float
        Sampling rate, in Hz.
    local : int, default 17
        Beats in the local median, half before and half after.

    Returns
    -------
    features : ndarray of float32, shape (n_beats, 7)
    names : tuple of str
        ``rr_prev`` and ``rr_next`` in seconds; then natural logarithms of ``rr_prev/next``,
        ``rr_prev/local``, ``rr_next/local``, ``rr_prev/record``, ``rr_next/record``, where record
        is the recording's own median.

    Examples
    --------
    >>> features, names = rr_features([0, 100, 200, 250, 400], fs=100)
    >>> print(f"{features[3, names.index('rr_prev/next')]:.2f}")  # 0.5 s, then 1.5 s: early
    -1.10
    """
    previous, following = rr_intervals(peaks, fs=fs)
    near = ndimage.median_filter(previous, local, mode="nearest")
    usual = np.median(previous)
    columns = {
        "rr_prev": previous,
        "rr_next": following,
        "rr_prev/next": np.log(previous / following),
        "rr_prev/local": np.log(previous / near),
        "rr_next/local": np.log(following / near),
        "rr_prev/record": np.log(previous / usual),
        "rr_next/record": np.log(following / usual),
    }
    return np.column_stack(list(columns.values())).astype(np.float32), tuple(columns)


def _checked(x):
    """A finite float64 array with a time axis, or ValueError."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim == 0:
        raise ValueError("x must be a signal with a time axis, got a single number.")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"x has {bad} NaN or infinite samples of {x.size}; fill or cut them first."
        )
    return x


def _forth_and_back(sos, x, axis):
    """Zero-phase filtering that also takes signals shorter than the filter's usual padding."""
    shortest = x.shape[axis] - 1
    if shortest < 1:
        raise ValueError(f"x must have at least 2 samples along axis {axis}, got {shortest + 1}.")
    usual = 3 * (2 * len(sos) + 1)
    return signal.sosfiltfilt(sos, x, axis=axis, padlen=min(usual, shortest))


def signal_quality(x, *, fs):
    """Say of each second of each lead whether it can be read, and why not.

    Noise is told by how far the QRS stands out: of six seconds around, the median over the usual
    peak, once of the signal between 1 and 25 Hz, once of its slope where QRS complexes have theirs.
    Both are small in any rhythm with distinct beats, and large in noise that hides them.

    Parameters
    ----------
    x : array_like of float, shape (samples,) or (samples, leads)
        In mV, NaN where nothing was recorded.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    states : ndarray of int8, shape (n_seconds, leads)
        Index into `QUALITY`: good, noise, flat (a lead that is off), clipped (at a rail), missing.
        A second's state depends on samples from 3 s before it to 2 s after it.

    Notes
    -----
    The limits were chosen on DS1, 52 records of the MIT-BIH Supraventricular Arrhythmia Database
    and record 118 with the noise of the MIT-BIH Noise Stress Test Database.

    Examples
    --------
    >>> x = np.zeros((2500, 1)); x[100::200] = 1.0
    >>> x[1500:] = 0.2
    >>> [QUALITY[state] for state in signal_quality(x, fs=250)[:, 0]]
    ['good', 'good', 'good', 'good', 'good', 'good', 'flat', 'flat', 'flat', 'flat']
    """
    x = np.asarray(x, np.float32)
    x = x[:, None] if x.ndim == 1 else x
    seconds = _by_second(x, fs)  # (n_seconds, samples, leads)
    filled = fill_gaps(x)
    step = max(1, int(fs // _GRID_HZ))
    smooth = _boxcar(filled, max(step, 0.02 * fs))
    slow = np.abs(smooth - _boxcar(_boxcar(smooth, 0.6 * fs), 0.6 * fs))
    fast = _boxcar(filled, 0.03 * fs) - _boxcar(_boxcar(filled, 0.1 * fs), 0.1 * fs)
    fast = _boxcar(np.abs(np.diff(fast, axis=0, prepend=fast[:1])), 0.1 * fs)
    noise = np.ones(seconds[:, 0].shape, bool)
    for values, limit in ((slow, _NOISE), (fast, _FAST_NOISE)):
        around = _around(_by_second(values, fs)[:, ::step], 3, 3)  # (n_seconds, samples, leads)
        noise &= np.median(around, axis=1) > limit * _usual_tops(around)
    own = _by_second(filled, fs)
    middle = np.median(own[:, ::step], axis=1)  # (n_seconds, leads)
    clipped = np.zeros_like(noise)
    for rail in (
        _around(own.max(axis=1)[:, None], 3, 3).max(axis=1),
        _around(own.min(axis=1)[:, None], 3, 3).min(axis=1),
    ):
        share = (np.abs(own - rail[:, None]) < 1e-6).mean(axis=1)
        clipped |= (share > _CLIPPED_SHARE) & (np.abs(rail - middle) > _LEAST_RAIL_MV)
    states = np.where(noise, 1, 0)
    states = np.where(clipped, 3, states)
    states = np.where(np.ptp(own, axis=1) < _FLAT_MV, 2, states)
    return np.where(np.isnan(seconds).mean(axis=1) > 0.2, 4, states).astype(np.int8)


def fibrillation(x, *, fs):
    """Say of each second whether ventricular flutter or fibrillation is likely.

    A signal is taken for it if it is like a sine of 130 to 540 per minute: what a band-stop filter
    at its own mean frequency leaves is small (S. Kuo, R. Dillman, Computers in Cardiology 1978),
    and its median is no small part of its peak.

    Parameters
    ----------
    x : array_like of float, shape (samples,) or (samples, leads)
        In mV.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    likely : ndarray of bool, shape (n_seconds,)
        True where any lead shows it for two seconds. Depends on samples from 3 s before to 2 s
        after a second.

    Examples
    --------
    >>> t = np.arange(5000) / 250
    >>> x = np.where(t < 10, 0.5 * np.sin(2 * np.pi * 4 * t), t % 1 < 0.04)
    >>> fibrillation(x, fs=250).nonzero()[0].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    x = np.asarray(x, np.float32)
    x = fill_gaps(x[:, None] if x.ndim == 1 else x)
    step = max(1, int(fs // _GRID_HZ))
    smooth = _boxcar(x, max(step, 0.03 * fs))
    wave = smooth - _boxcar(_boxcar(smooth, 0.6 * fs), 0.6 * fs)
    seconds = _by_second(wave, fs)[:, ::step]
    rate = seconds.shape[1]  # per second
    around = _around(seconds, 2, 2)
    around = around - around.mean(axis=1, keepdims=True)  # (n_seconds, samples, leads)
    change = np.abs(np.diff(around, axis=1)).sum(axis=1) + _TINY
    half = np.pi * np.abs(around).sum(axis=1) / change  # half a period, in samples
    half = np.clip(np.round(half + 0.5), 2, rate).astype(int)
    leak = np.ones(half.shape)
    for lag in np.unique(half):
        late, early = around[:, lag:], around[:, :-lag]
        left = np.abs(late + early).sum(axis=1)
        whole = (np.abs(late) + np.abs(early)).sum(axis=1) + _TINY
        leak = np.where(half == lag, left / whole, leak)
    tops = _usual_tops(np.abs(around))
    rates_hz = rate / (2 * half)
    like = (leak < _LEAK) & (np.median(np.abs(around), axis=1) > _WAVY * tops)
    like &= (rates_hz > _SLOWEST_HZ) & (rates_hz < _FASTEST_HZ) & (tops > _LEAST_WAVE_MV)
    any_lead = like.any(axis=1)
    beside = np.append(any_lead[1:], False) | np.append(False, any_lead[:-1])
    return any_lead & beside


def _boxcar(x, length):
    """Mean over `length` samples around each, along time."""
    return ndimage.uniform_filter1d(x, max(1, round(length)), axis=0, mode="nearest")


def _by_second(x, fs):
    """(samples, leads) to (n_seconds, samples, leads): as many whole samples of each second."""
    n = int(np.ceil(len(x) / fs))
    at = np.round(np.arange(n) * fs).astype(int)[:, None] + np.arange(int(fs))
    return x[np.minimum(at, len(x) - 1)]


def _around(seconds, before, after):
    """Each second with `before` ones before it and up to `after` ones from it on, in one row."""
    n = len(seconds)
    at = np.clip(np.arange(n)[:, None] + np.arange(-before, after), 0, n - 1)
    return seconds[at].reshape(n, -1, seconds.shape[2])


def _usual_tops(around):
    """Median of the peaks of the four quarters of each row, shape (n_seconds, leads)."""
    quarter = around.shape[1] // 4
    quarters = around[:, : 4 * quarter].reshape(len(around), 4, quarter, -1)
    return np.median(quarters.max(axis=2), axis=1) + _TINY
