"""Find the P, QRS and T waves of beats: onset, peak and end, intervals, marks for pictures.

Conventions
-----------
Signals are (samples,) or (samples, leads) in any unit, `fs` in Hz; positions are
sample numbers. R peaks are those of `signals.r_peaks`.

`delineate` measures: a small network, trained on leads that cardiologists marked, names every
8 ms none, P, QRS or T. It runs in NumPy. `find_waves` only marks the waves of one row for
reading a picture: no onset or end is sought.
"""

import functools
import pathlib

import numpy as np
import pandas as pd
from scipy import ndimage

from ecg_keras._checks import check_positive
from ecg_keras.signals import (
    LEAST_HZ,
    LEAST_S,
    bandpass,
    fill_gaps,
    r_peaks,
    resample,
    used_samples,
)

_LEAST_SHARE = 0.04  # of the QRS: smaller waves are not marked
# where each wave is looked for, from the R peak
_SPANS_S = {"Q": (-0.09, -0.01), "S": (0.016, 0.1), "P": (-0.26, -0.09), "T": (0.13, 0.45)}
_BEAT_S = 3.0  # rows up to this long are beats, longer ones are recordings

_MARKS = ("r", "p_on", "p_peak", "p_off", "qrs_on", "qrs_off", "t_on", "t_peak", "t_off")
_WAVES = ("p", "qrs", "t")  # the network's classes 1 to 3, and its three peaks
_NET_HZ, _OUT_HZ = 250, 125  # of what the network reads, and of what it answers
_SCALE_S = 3.0  # a lead is scaled by its own swing over this long
_CHUNK, _MARGIN = 16384, 512  # samples the network reads at once, and around them (2 s)
# channels, length, stride, dilation of each convolution; it goes down to 15.6 Hz and up again
_LAYERS = {
    "a1": (12, 7, 2, 1),
    "a2": (12, 5, 1, 1),
    "b1": (20, 5, 2, 1),
    "b2": (20, 5, 1, 1),
    "c1": (28, 5, 2, 1),
    "c2": (28, 5, 1, 1),
    "d1": (32, 5, 2, 1),
    "d2": (32, 5, 1, 2),
    "d3": (32, 5, 1, 4),
    "c3": (28, 3, 1, 1),
    "b3": (20, 3, 1, 1),
    "a3": (16, 5, 1, 1),
    "out": (7, 1, 1, 1),
}
_LEAST_LONG_S = {"p": 0.032, "qrs": 0.032, "t": 0.056}  # shorter stretches are no waves
_SEAM_S = 0.04  # stretches of one wave this near are one
_QRS_REACH_S = 0.1  # between an R peak and its QRS
# P begins at most this long before the QRS, T ends this long after the R peak
_P_REACH_S, _T_REACH_S = 0.45, 0.75


def delineate(x, *, fs, peaks=None):
    """Find onset, peak and end of P, QRS and T of every beat.

    A convolutional network of 36 thousand weights reads the signal at 250 Hz, between 0.5 and
    40 Hz, scaled by its own swing over 3 s, and says every 8 ms what it sees. An R peak takes the
    QRS on it. T is the strongest T between this QRS and the next, P the strongest P between the
    T before and this QRS. Several leads are each read by the network; their probabilities are
    averaged, so that they vote.

    Parameters
    ----------
    x : array_like of float, shape (samples,) or (samples, leads)
        A recording, in any unit. NaN is allowed: nothing is marked where no lead has values.
    fs : float
        Sampling rate, in Hz; at least 50, and made for 100 to 1000.
    peaks : sequence of int, optional
        R peaks, rising. By default those of `signals.r_peaks`.

    Returns
    -------
    waves : DataFrame
        One row a beat: r, p_on, p_peak, p_off, qrs_on, qrs_off, t_on, t_peak, t_off, sample
        numbers as Int64; <NA> where there is none (no P in atrial fibrillation).

    Raises
    ------
    ValueError
        If `fs` is under 50 Hz, the signal is shorter than 0.2 s or infinite, or `peaks` lie
        outside of it.

    Notes
    -----
    A U-Net on single leads, as V. Moskalenko et al. (2019), smaller, with the peaks as outputs of
    their own. Trained on LUDB 1.0.1 (A. I. Kalyakulina et al., IEEE Access 8, 2020; ODC-BY 1.0)
    by ``tests/bench/ludb.py``, which also counts it by folds of patients. One P a beat is given:
    P waves that no QRS follows are left out.

    Examples
    --------
    >>> from ecg_keras.demo import simulate_patient
    >>> recording = simulate_patient(0, duration_s=10, fs=250)
    >>> waves = delineate(recording.signal, fs=250)
    >>> list(waves.columns)
    ['r', 'p_on', 'p_peak', 'p_off', 'qrs_on', 'qrs_off', 't_on', 't_peak', 't_off']
    >>> bool((waves.qrs_on < waves.r).all() and (waves.r < waves.qrs_off).all())
    True
    """
    x = np.asarray(x, np.float64)
    if x.ndim not in (1, 2) or not x.size:
        raise ValueError(f"x must have shape (samples,) or (samples, leads), got {x.shape}.")
    if np.isinf(x).any():
        raise ValueError("x has infinite samples; mark what is missing with NaN.")
    if check_positive("fs", fs) < LEAST_HZ:
        raise ValueError(f"fs must be at least {LEAST_HZ} Hz to find waves, got {fs:g}.")
    if len(x) < LEAST_S * fs:
        raise ValueError(f"x must hold at least {LEAST_S} s, got {len(x)} samples at {fs:g} Hz.")
    if peaks is not None:
        peaks = np.asarray(peaks, np.int64).ravel()
        if len(peaks) and not (0 <= peaks[0] and peaks[-1] < len(x) and np.all(np.diff(peaks) > 0)):
            raise ValueError(f"peaks must rise within 0 to {len(x) - 1}, the samples of x.")
    return _delineate(x.reshape(len(x), -1), fs, peaks, _shipped())


def intervals(delineation, *, fs):
    """Compute PR, QRS, QT and corrected QT of every beat, in ms.

    Parameters
    ----------
    delineation : DataFrame
        What `delineate` gives.
    fs : float
        Sampling rate it was given, in Hz.

    Returns
    -------
    intervals : DataFrame of float
        One row a beat, NaN where a mark is missing: pr_ms (onset of P to onset of QRS), qrs_ms,
        qt_ms (onset of QRS to end of T), rr_ms (from the beat before), qtc_bazett_ms
        (QT / RR^(1/2), RR in s) and qtc_fridericia_ms (QT / RR^(1/3)).

    Raises
    ------
    ValueError
        If `fs` is not above zero.

    Examples
    --------
    >>> beats = {"r": [100, 350], "p_on": [60, 310], "qrs_on": [95, 345], "qrs_off": [118, 368]}
    >>> found = intervals(pd.DataFrame(beats | {"t_off": [190, 440]}), fs=250)
    >>> found.iloc[1].round().astype(int).to_dict()
    {'pr_ms': 140, 'qrs_ms': 92, 'qt_ms': 380, 'rr_ms': 1000, 'qtc_bazett_ms': 380,
     'qtc_fridericia_ms': 380}
    """
    ms = 1e3 / check_positive("fs", fs)
    at = {name: delineation[name].to_numpy(float, na_value=np.nan) * ms for name in delineation}
    qt, rr = at["t_off"] - at["qrs_on"], np.diff(at["r"], prepend=np.nan)
    return pd.DataFrame(
        {
            "pr_ms": at["qrs_on"] - at["p_on"],
            "qrs_ms": at["qrs_off"] - at["qrs_on"],
            "qt_ms": qt,
            "rr_ms": rr,
            "qtc_bazett_ms": qt / np.sqrt(rr / 1e3),
            "qtc_fridericia_ms": qt / np.cbrt(rr / 1e3),
        },
        index=delineation.index,
    )


@functools.lru_cache(1)
def _shipped():
    """The package's weights by name, float32."""
    with np.load(pathlib.Path(__file__).with_name("waves_ludb.npz")) as file:
        return {name: file[name].astype(np.float32) for name in file.files if name[-2] == "_"}


def _delineate(x, fs, peaks, net):
    """Recording (samples, leads) and weights to the marks of its beats."""
    missing, x = np.isnan(x), fill_gaps(x)
    if peaks is None:
        peaks = r_peaks(x, fs=fs)
        peaks = peaks[~missing[peaks].all(axis=1)]
        own = True
    else:
        own = False
    live = np.flatnonzero(np.ptp(x, axis=0) > 0)
    if not len(peaks) or not len(live):
        return _table([{"r": peak} for peak in peaks])
    logits = _vote(_prepare(x[:, live], fs), missing[:, live], fs, net)
    return _table(_marks(_stretches(logits), logits[:, 4:], peaks, len(x), fs, own))


def _table(rows):
    """Dicts of marks to a DataFrame of Int64."""
    return pd.DataFrame(rows, columns=list(_MARKS)).astype("Int64")


def _prepare(x, fs):
    """Recording (samples, leads) to what the network reads: float32 at 250 Hz, scaled, per lead."""
    x = bandpass(resample(x, fs=fs, to_fs=_NET_HZ), fs=_NET_HZ)
    long = round(_SCALE_S * _NET_HZ)
    swing = np.sqrt(np.maximum(ndimage.uniform_filter1d(x**2, long, axis=0, mode="mirror"), 0))
    # far under a lead's own swing there is nothing to see
    least = 0.02 * np.sqrt((x**2).mean(axis=0)) + 1e-12
    return np.clip(x / np.maximum(swing, least), -8, 8).astype(np.float32)


def _vote(prepared, missing, fs, net):
    """Leads (samples, leads) to one (n, 7): probabilities of 4 classes, of 3 peaks, at 125 Hz."""
    n = len(prepared) // 2
    total, votes = np.zeros((n, 7), np.float32), np.zeros((n, 1), np.float32)
    near = np.minimum(np.rint(np.arange(n) * fs / _OUT_HZ).astype(int), len(missing) - 1)
    for lead in range(prepared.shape[1]):
        found = _logits(prepared[:, lead], net)[:n]
        kind = np.exp(found[:, :4] - found[:, :4].max(axis=1, keepdims=True))
        found[:, :4] = kind / kind.sum(axis=1, keepdims=True)
        found[:, 4:] = 1 / (1 + np.exp(-np.clip(found[:, 4:], -30, 30)))
        there = ~missing[near, lead][:, None]
        total += found * there
        votes += there
    total /= np.maximum(votes, 1)
    total[votes[:, 0] == 0, 0] = 1
    return total


def _logits(x, net):
    """One prepared lead (samples,) to the network's answer (n, 7) at 125 Hz, piece by piece."""
    n = len(x)
    x = np.pad(x, (0, -n % 16))
    pieces = []
    for start in range(0, len(x), _CHUNK):
        first = max(0, start - _MARGIN)
        found = _network(x[first : start + _CHUNK + _MARGIN, None], net)
        pieces.append(found[(start - first) // 2 :][: _CHUNK // 2])
    return np.concatenate(pieces)


def _network(x, net):
    """The U-Net: (samples, 1), a multiple of 16 samples, to logits (samples / 2, 7)."""

    def conv(x, name):
        _, length, stride, dilation = _LAYERS[name]
        kernel, n = net[name + "_w"].astype(np.float32), len(x) // stride
        extra = (length - 1) * dilation + 1 - stride
        x = np.pad(x, ((extra // 2, extra - extra // 2), (0, 0)))
        y = x[: n * stride : stride] @ kernel[0]
        for k in range(1, length):
            y += x[k * dilation : k * dilation + n * stride : stride] @ kernel[k]
        y += net[name + "_b"].astype(np.float32)
        return y if name == "out" else np.maximum(y, 0, out=y)

    def up(x, skip):
        return np.concatenate([np.repeat(x, 2, axis=0), skip], axis=1)

    a = conv(conv(x, "a1"), "a2")  # 125 Hz
    b = conv(conv(a, "b1"), "b2")
    c = conv(conv(b, "c1"), "c2")
    d = conv(conv(conv(c, "d1"), "d2"), "d3")  # 15.6 Hz
    x = conv(up(d, c), "c3")
    x = conv(up(x, b), "b3")
    x = conv(up(x, a), "a3")
    return conv(x, "out")


def _stretches(found):
    """Probabilities (n, 7) to stretches of P, QRS, T: per wave rows of (start, stop, mass)."""
    kind = found[:, :4].argmax(axis=1)
    cuts = np.flatnonzero(np.diff(kind)) + 1
    starts, stops = np.append(0, cuts), np.append(cuts, len(kind))
    stretches = {}
    for code, wave in enumerate(_WAVES, 1):
        rows = []
        summed = np.append(0, np.cumsum(found[:, code], dtype=np.float64))
        chosen = kind[starts] == code
        for start, stop in zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True):
            near = rows and start - rows[-1][1] <= _SEAM_S * _OUT_HZ
            if near and not (kind[rows[-1][1] : start] != 0).any():
                start = rows.pop()[0]
            rows.append((start, stop, summed[stop] - summed[start]))
        least = _LEAST_LONG_S[wave] * _OUT_HZ
        rows = np.array([row for row in rows if row[1] - row[0] >= least]).reshape(-1, 3)
        # edges between two answers: where the wave's lead over the next best class is 0
        ahead = found[:, code] - np.delete(found[:, :4], code, axis=1).max(axis=1)
        for column, step in ((0, -1), (1, 1)):
            inner = rows[:, column].astype(int) - (column == 1)
            outer = inner + step
            real = (outer >= 0) & (outer < len(found))
            here, there = ahead[inner], ahead[np.clip(outer, 0, len(found) - 1)]
            rows[:, column] = inner + step * np.where(
                real & (there < here), np.clip(here / np.maximum(here - there, 1e-6), 0, 1), 0
            )
        stretches[wave] = rows
    return stretches


def _marks(stretches, tops, peaks, n_samples, fs, own):
    """Stretches, peak probabilities (n, 3) and R peaks to one dict of marks a beat."""
    ratio = fs / _OUT_HZ
    at = peaks / ratio  # in answers, as all below
    qrs, rows = stretches["qrs"], []
    owner = _owners(qrs, at)
    ends = np.where(owner >= 0, qrs[owner, 1] if len(qrs) else 0, at + 0.04 * _OUT_HZ)
    begins = np.where(owner >= 0, qrs[owner, 0] if len(qrs) else 0, at - 0.04 * _OUT_HZ)
    last = 0.0  # where the T before ended
    taken = {wave: stretches[wave].tolist() for wave in ("p", "t")}
    first = {"p": 0, "t": 0}

    def strongest(wave, low, high):
        """The stretch of most mass with its middle between two places, or None."""
        found = taken[wave]
        i = first[wave]
        while i < len(found) and (found[i][0] + found[i][1]) / 2 < low:
            i += 1
        first[wave], best = i, None
        while i < len(found) and (found[i][0] + found[i][1]) / 2 <= high:
            if best is None or found[i][2] > best[2]:
                best = found[i]
            i += 1
        return best

    for i, peak in enumerate(peaks.tolist()):
        marks = {"r": peak}
        found = {}
        if owner[i] >= 0:
            found["qrs"] = qrs[owner[i]]
        p = strongest("p", max(last, begins[i] - _P_REACH_S * _OUT_HZ), begins[i])
        next_qrs = begins[i + 1] if i + 1 < len(peaks) else np.inf
        t = strongest("t", ends[i], min(next_qrs, at[i] + _T_REACH_S * _OUT_HZ))
        last = t[1] if t is not None else ends[i]
        found |= {wave: stretch for wave, stretch in (("p", p), ("t", t)) if stretch is not None}
        for wave, (start, stop, _) in found.items():
            marks[wave + "_on"], marks[wave + "_off"] = start * ratio, stop * ratio
            if wave != "qrs" or own:
                top = _top(tops[:, _WAVES.index(wave)], start, stop) * ratio
                marks["r" if wave == "qrs" else wave + "_peak"] = top
        rows.append({name: min(n_samples - 1, max(0, round(at))) for name, at in marks.items()})
    return rows


def _owners(qrs, at):
    """QRS stretches and R peaks to the nearest stretch of each peak, -1 where none is its own."""
    owner = np.full(len(at), -1)
    if not len(qrs):
        return owner
    middle = (qrs[:, 0] + qrs[:, 1]) / 2
    right = np.searchsorted(middle, at)
    best = np.full(len(qrs), np.inf)  # distance of the peak that has each stretch
    for i in range(len(at)):
        near = [k for k in (right[i] - 1, right[i]) if 0 <= k < len(qrs)]
        away = [
            max(0, qrs[k, 0] - at[i], at[i] - qrs[k, 1]) + 1e-3 * abs(middle[k] - at[i])
            for k in near
        ]
        k, distance = near[int(np.argmin(away))], min(away)
        if distance <= _QRS_REACH_S * _OUT_HZ and distance < best[k]:
            owner[owner == k] = -1
            owner[i], best[k] = k, distance
    return owner


def _top(probability, start, stop):
    """Where a wave's peak is most likely within a stretch, between two answers."""
    low, high = int(np.ceil(start)), int(stop) + 1
    i = low + int(probability[low:high].argmax())
    if not low < i < high - 1 or i + 1 >= len(probability):
        return i
    a, b, c = probability[i - 1 : i + 2]
    bend = a - 2 * b + c
    return i + float(np.clip(0.5 * (a - c) / bend, -0.5, 0.5)) if bend < 0 else i


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
