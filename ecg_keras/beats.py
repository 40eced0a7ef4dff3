"""Cut a recording into the rows that beat models read, each beat described among the others.

Conventions
-----------
A recording is float (samples, leads) at `fs` Hz, filtered; beats are given by
the times of their R peaks in seconds. Features are float32 (n_beats, columns).
Everything is taken from one recording alone and without a label, so a beat's
features do not change with the recordings beside it. RR intervals are compared
by natural logarithm, shapes after their mean over the window is removed.

The typical beat is the median of late beats: in a recording where most beats
come early, the mean beat is an ectopic one, but those after a pause are not.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ecg_keras._checks import check_option, check_positive
from ecg_keras.signals import (
    bandpass,
    beat_windows,
    normalize,
    notch,
    resample,
    rr_features,
    rr_intervals,
)

# ANSI/AAMI EC57 class to the PhysioNet symbols of its beats
AAMI = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
AAMI_CLASSES = tuple(AAMI)
BEAT_SYMBOLS = "".join(AAMI.values())
CLASSES = {"aami5": AAMI_CLASSES, "aami4": AAMI_CLASSES[:4], "aami3": AAMI_CLASSES[:3]}
_LARGEST = 20.0  # typical QRS heights; more is an artefact
_BEFORE_S, _AFTER_S, _MARGIN_S = 0.4, 0.5, 0.08  # what is cut around an R peak; room to align it
_QRS_S, _P_S, _T_S = (-0.09, 0.12), (-0.28, -0.08), (0.12, 0.45)  # from the R peak
_LAG_S = 0.04  # most by which a beat, or its P wave, is moved to fit the typical one
_AROUND = 81  # beats that a beat's surroundings are measured over: one to two minutes
_COMPARED = tuple(  # first letters of the features that `_standing` compares
    "qrs_apart qrs_gain p_apart p_like_0 p_like_1 p_like_moved t_apart "
    "width_0 width_1 like_prev alike_typical_log p_alike_typical".split()
)
_LEAST_SPREAD = 0.02  # of features compared in their own spread
_REFERENCES = 1500  # beats that each beat is compared with, at most: bounds memory


@dataclass(frozen=True)
class BeatPreparation:
    """How a recording becomes rows: keywords of `load_mitbih_records` and `load_beats`.

    A data set carries them as its `preparation`, and so does a model trained on it.

    Parameters
    ----------
    classes : {"aami5", "aami4", "aami3"}, default "aami5"
        N S V F Q; without Q; without F and Q.
    fusion_beats : {"out", "V"}, default "out"
        What "aami3" does with F: leave out, or count as V.
    lead : str or sequence of str, default "MLII"
        Leads by name; "other" is the recording's first lead not named.
    window_s : (float, float), default (0.4, 0.6)
        Seconds before and after the R peak.
    fs : float, default 125
        Rate that signals are brought to, in Hz.
    band_hz : (float, float), default (0.5, 40)
        Band-pass, see `signals.bandpass`.
    mains_hz : float, optional
        Notch at this frequency before the band-pass.
    scale : {"record", "none"}, default "record"
        Divide each lead by the height of the recording's typical QRS, or keep the header's unit.
    features : {"rhythm", "rr", None}, default "rhythm"
        Metadata: `beats.describe_beats`, `signals.rr_features`, or none.
    typical : bool, default False
        Add the recording's typical beat as further leads, named ``MLII typical``.
    beats : {"annotated", "detected"}, default "annotated"
        R peaks from the annotations, or found by `signals.r_peaks`. A found beat takes the class of
        the annotation within 150 ms. Those without one are context only.
    """

    classes: str = "aami5"
    fusion_beats: str = "out"
    lead: str | list = "MLII"
    window_s: tuple = (0.4, 0.6)
    fs: float = 125.0
    band_hz: tuple = (0.5, 40.0)
    mains_hz: float | None = None
    scale: str = "record"
    features: str | None = "rhythm"
    typical: bool = False
    beats: str = "annotated"

    def __post_init__(self):
        check_option("classes", self.classes, CLASSES)
        check_option("fusion_beats", self.fusion_beats, ("out", "V"))
        check_option("scale", self.scale, ("record", "none"))
        check_option("features", self.features, ("rhythm", "rr", None))
        check_option("beats", self.beats, ("annotated", "detected"))
        check_positive("fs", self.fs)
        # lists, so that the settings are equal to what JSON makes of them
        for name, value in (("window_s", self.window_s), ("band_hz", self.band_hz)):
            if len(value) != 2:
                raise ValueError(f"{name} must be a pair of numbers, got {value}.")
            object.__setattr__(self, name, [float(number) for number in value])
        if not isinstance(self.lead, str):
            object.__setattr__(self, "lead", list(self.lead))

    @property
    def leads(self):
        """Names of the leads of `x`."""
        own = (self.lead,) if isinstance(self.lead, str) else tuple(self.lead)
        return own + tuple(f"{lead} typical" for lead in own) * self.typical


def beat_views(signal, peaks, *, fs, preparation):
    """Turn one recording and its R peaks into the rows that a beat model reads.

    The one place where this is done: loaders and `annotate` both call it.

    Parameters
    ----------
    signal : array_like of float, shape (samples, leads)
        One recording, unfiltered; the leads of `preparation`, in its order.
    peaks : array_like of int, shape (n_beats,)
        All its R peaks, in samples.
    fs : float
        Sampling rate of `signal`, in Hz.
    preparation : BeatPreparation

    Returns
    -------
    x : ndarray of float32, shape (n_beats, samples, leads)
        At ``preparation.fs``.
    metadata : ndarray of float32, shape (n_beats, columns)
    names : tuple of str
        Names of the columns.

    Raises
    ------
    ValueError
        If a lead cannot be scaled, or there are too few beats to describe them.

    Examples
    --------
    >>> x = np.zeros((5000, 1)); x[100::250] = 1.0
    >>> peaks = np.arange(100, 5000, 250)
    >>> beats, _, _ = beat_views(x, peaks, fs=250, preparation=BeatPreparation(features=None))
    >>> beats.shape
    (20, 125, 1)
    """
    rate = preparation.fs
    if preparation.mains_hz:
        signal = notch(signal, fs=fs, mains_hz=preparation.mains_hz)
    low_hz, high_hz = preparation.band_hz
    signal = bandpass(signal, fs=fs, low_hz=low_hz, high_hz=high_hz)
    signal = resample(signal, fs=fs, to_fs=rate)
    peaks_s = np.asarray(peaks) / fs
    at = np.clip(np.round(peaks_s * rate).astype(np.int64), 0, len(signal) - 1)
    if preparation.scale == "record":
        signal = np.clip(normalize(signal, at, fs=rate), -_LARGEST, _LARGEST)
    before_s, after_s = preparation.window_s
    x = beat_windows(signal, at, fs=rate, before_s=before_s, after_s=after_s)
    metadata, names = np.zeros((len(x), 0), np.float32), ()
    if preparation.features == "rhythm" or preparation.typical:
        metadata, names, typical = describe_beats(signal, peaks_s, fs=rate)
    if preparation.features == "rr":
        metadata, names = rr_features(peaks, fs=fs)
    if preparation.typical:
        usual = np.broadcast_to(typical(before_s, after_s), x.shape)
        x = np.concatenate([x, usual], axis=2).astype(np.float32)
    return x, metadata, names


def describe_beats(x, peaks_s, *, fs):
    """Compute features of rhythm and shape for each beat, and the recording's typical beat.

    Parameters
    ----------
    x : array_like of float, shape (samples, leads)
        One recording, band-passed (see `signals.bandpass`), any unit.
    peaks_s : array_like of float, shape (n_beats,)
        Times of all its R peaks, in seconds, rising; at least 10.
    fs : float
        Sampling rate of `x`, in Hz.

    Returns
    -------
    features : ndarray of float32, shape (n_beats, n_features)
    names : tuple of str
        Rhythm first; then for each lead ``qrs``, ``p`` and ``t`` likeness to the typical beat;
        then likeness to the recording's other beats.
    typical : function of (before_s, after_s)
        The typical beat as float32 (samples, leads), cut as `signals.beat_windows` cuts beats.

    Raises
    ------
    ValueError
        If there are fewer than 10 beats, or the peaks do not rise or lie outside the recording.

    Examples
    --------
    >>> t = np.arange(7500) / 125
    >>> peaks_s = np.arange(1, 59, 0.8)
    >>> x = np.exp(-0.5 * ((t[:, None] - peaks_s) / 0.02) ** 2).sum(axis=1)[:, None]
    >>> features, names, typical = describe_beats(x, peaks_s, fs=125)
    >>> features.shape == (len(peaks_s), len(names)), typical(0.2, 0.4).shape
    (True, (75, 1))
    """
    x, peaks_s = np.asarray(x, float), np.asarray(peaks_s, float)
    check_positive("fs", fs)
    if len(peaks_s) < 10:
        raise ValueError(
            f"beats are described by those around them: at least 10 are needed, got {len(peaks_s)}."
        )
    rhythm = _rhythm(peaks_s)
    if peaks_s[0] < 0 or peaks_s[-1] * fs > len(x):
        raise ValueError(
            f"peaks_s must lie in the recording's {len(x) / fs:g} s, got "
            f"{peaks_s[0]:g} to {peaks_s[-1]:g} s."
        )
    peaks = np.clip(np.round(peaks_s * fs).astype(np.int64), 0, len(x) - 1)
    late = (rhythm["rr_prev/around_p75"] >= 0) & (rhythm["rr_rank"] <= 0.97)
    beats, lags, chosen = _aligned(x, peaks, late, fs)
    typical_beat = np.median(beats[chosen], axis=0)  # (samples, leads)
    shape = _shape(beats, typical_beat, fs)
    likeness = _likeness(beats, typical_beat, chosen, rhythm | shape, fs)
    columns = rhythm | {"lag": lags / fs} | shape | likeness
    columns |= _standing(columns, chosen)
    features = np.column_stack(list(columns.values())).astype(np.float32)

    def typical(before_s, after_s):
        centres = (peaks + lags)[chosen]
        centres = centres[(centres >= 0) & (centres < len(x))]
        return np.median(
            beat_windows(x, centres, fs=fs, before_s=before_s, after_s=after_s), axis=0
        )

    return features, tuple(columns), typical


def _rhythm(peaks_s):
    """R peak times to timing features, a dict of (n_beats,)."""
    previous, following = rr_intervals(peaks_s, fs=1.0)
    n, log, log_next = len(previous), np.log(previous), np.log(following)
    over = lambda length, percent: ndimage.percentile_filter(log, percent, length, mode="nearest")
    usual = {
        "near": over(17, 50),
        "around": over(_AROUND, 50),
        "around_p75": over(_AROUND, 75),
        "around_p90": over(_AROUND, 90),
    }
    usual |= {"record": _constant(np.median(log), n)}
    usual |= {
        f"record_p{percent}": _constant(np.percentile(log, percent), n) for percent in (75, 90)
    }
    columns = {"rr_prev": previous, "rr_next": following, "rr_prev/next": log - log_next}
    columns |= {f"rr_prev/{name}": log - value for name, value in usual.items()}
    columns |= {
        f"rr_next/{name}": log_next - usual[name] for name in ("near", "around_p75", "record")
    }
    columns["near/record"] = usual["near"] - usual["record"]
    columns["around/record"] = usual["around_p75"] - usual["record_p75"]
    padded = np.pad(log, 8, mode="edge")
    shifted = {k: padded[8 + k : 8 + k + n] for k in range(-8, 8)}
    columns |= {
        f"rr{k:+d}": shifted[k] - usual["around_p75"] for k in (-5, -4, -3, -2, -1, 2, 3, 4, 5)
    }
    before = np.stack([shifted[-k] for k in range(1, 8)])  # (7, n_beats)
    columns["rr_prev/before"] = log - np.median(before, axis=0)
    columns["rr_next/before"] = log_next - np.median(before, axis=0)
    columns["rr_prev/longest_before"] = log - before.max(axis=0)
    columns["rr_prev/shortest_before"] = log - before.min(axis=0)
    change = np.abs(np.diff(log, prepend=log[0]))
    columns |= {f"change_{k}": ndimage.median_filter(change, k, mode="nearest") for k in (11, 41)}
    columns["change_record"] = _constant(np.median(change), n)
    # small where RR intervals cluster, as in bigeminy; large in fibrillation
    alone = _distance_to_neighbours(log)
    columns |= {"alone": alone, "alone_41": ndimage.median_filter(alone, 41, mode="nearest")}
    columns["alone_record"] = _constant(np.median(alone), n)
    columns["spread_41"] = over(41, 80) - over(41, 20)
    for name in ("around", "around_p75"):
        deviation = np.abs(log - usual[name])
        spread = 1.48 * ndimage.median_filter(deviation, _AROUND, mode="nearest") + 0.02
        z = np.stack([log - usual[name], log_next - usual[name]]) / spread
        z = np.sign(z) * np.log1p(np.abs(z))
        columns |= {f"rr_prev/{name}:z": z[0], f"rr_next/{name}:z": z[1]}
    early = (log - usual["around_p75"] < -0.15).astype(float)
    columns |= {f"early_{k}": ndimage.uniform_filter1d(early, k, mode="nearest") for k in (9, 41)}
    columns["early_record"] = _constant(early.mean(), n)
    columns["rr_rank"] = np.argsort(np.argsort(previous, kind="stable"), kind="stable") / n
    return columns


def _constant(value, n):
    """One value for all beats of a recording."""
    return np.full(n, value)


def _distance_to_neighbours(log, *, reach=30, rank=6):
    """Distance to the `rank`-th most alike of the RR intervals within `reach` beats, in log."""
    reach = min(reach, len(log) - 1)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(log, reach, mode="reflect"), 2 * reach + 1
    )
    return np.sort(np.abs(windows - log[:, None]), axis=1)[:, min(rank, 2 * reach)]


def _aligned(x, peaks, late, fs):
    """Cut beats and move each to fit the typical beat best.

    Returns beats (n_beats, samples, leads), lags in samples, and the rows of the beats that make
    the typical one.
    """
    margin = round(_MARGIN_S * fs)
    wide = beat_windows(
        x, peaks, fs=fs, before_s=_BEFORE_S + _MARGIN_S, after_s=_AFTER_S + _MARGIN_S
    )
    samples = wide.shape[1] - 2 * margin
    qrs, late = _part(_QRS_S, fs), np.flatnonzero(late)
    most = min(round(_LAG_S * fs), margin)
    typical_beat = np.median(wide[late, margin : margin + samples], axis=0)
    for _ in range(2):
        fits = np.stack(
            [
                _correlation(
                    wide[:, margin + lag + qrs.start : margin + lag + qrs.stop], typical_beat[qrs]
                ).mean(axis=1)
                for lag in range(-most, most + 1)
            ]
        )  # (lags, n_beats)
        lags = fits.argmax(axis=0) - most
        at = (margin + lags)[:, None] + np.arange(samples)
        beats = wide[np.arange(len(wide))[:, None], at]
        apart = np.abs(beats[late][:, qrs] - typical_beat[qrs]).mean(axis=(1, 2))
        chosen = late[apart <= np.percentile(apart, 60)]
        typical_beat = np.median(beats[chosen], axis=0)
    return beats, lags, chosen


def _part(span_s, fs):
    """Seconds from the R peak to a slice of an aligned beat."""
    return slice(round((span_s[0] + _BEFORE_S) * fs), round((span_s[1] + _BEFORE_S) * fs))


def _correlation(beats, typical_beat):
    """Correlation over time of (n, samples, leads) with (samples, leads), shape (n, leads)."""
    beats, typical_beat = (
        beats - beats.mean(axis=1, keepdims=True),
        typical_beat - typical_beat.mean(axis=0),
    )
    size = np.linalg.norm(beats, axis=1) * np.linalg.norm(typical_beat, axis=0)
    return np.einsum("nsl,sl->nl", beats, typical_beat) / (size + 1e-6)


def _shape(beats, typical_beat, fs):
    """Aligned beats and the typical one to features of each lead, a dict of (n_beats,)."""
    n, _, leads = beats.shape
    qrs = _part(_QRS_S, fs)
    height = np.abs(typical_beat[qrs]).max(axis=0) + 1e-6  # (leads,)
    columns = {}
    for wave, span_s in (("qrs", _QRS_S), ("p", _P_S), ("t", _T_S)):
        part = _part(span_s, fs)
        own, usual = beats[:, part], typical_beat[part]
        own, usual = own - own.mean(axis=1, keepdims=True), usual - usual.mean(axis=0)
        size = np.linalg.norm(own, axis=1)  # (n, leads)
        usual_size = np.linalg.norm(usual, axis=0)  # (leads,)
        apart = np.linalg.norm(own - usual, axis=1) / (np.sqrt(len(usual)) * height)
        gain = np.log((size + 1e-3 * height) / (usual_size + 1e-3 * height))
        for name, values in (("like", _correlation(own, usual)), ("apart", apart), ("gain", gain)):
            columns |= {f"{wave}_{name}_{lead}": values[:, lead] for lead in range(leads)}
    wide, usual_width = _width(beats, fs), _width(typical_beat[None], fs)
    shifts = [
        _correlation(beats[:, _moved(_P_S, lag, fs)], typical_beat[_part(_P_S, fs)])
        for lag in _lags(fs)
    ]
    p_best = np.max(shifts, axis=0)  # (n, leads)
    for lead in range(leads):
        columns |= {
            f"qrs_top_{lead}": beats[:, qrs, lead].max(axis=1) / height[lead],
            f"qrs_bottom_{lead}": beats[:, qrs, lead].min(axis=1) / height[lead],
            f"width_{lead}": wide[:, lead],
            f"width_typical_{lead}": _constant(usual_width[0, lead], n),
            f"width_more_{lead}": wide[:, lead] - usual_width[0, lead],
            f"p_typical_{lead}": _constant(
                np.ptp(typical_beat[_part(_P_S, fs), lead]) / height[lead], n
            ),
            f"p_like_moved_{lead}": p_best[:, lead],
            f"p_like_41_{lead}": ndimage.median_filter(
                columns[f"p_like_{lead}"], 41, mode="nearest"
            ),
            f"qrs_like_41_{lead}": ndimage.median_filter(
                columns[f"qrs_like_{lead}"], 41, mode="nearest"
            ),
        }
        columns[f"p_like_more_{lead}"] = columns[f"p_like_{lead}"] - columns[f"p_like_41_{lead}"]
    return columns


def _lags(fs):
    """Shifts in samples by which a P wave is tried."""
    most = round(_LAG_S * fs)
    return range(-most, most + 1)


def _moved(span_s, lag, fs):
    """The slice of a part of a beat, `lag` samples later."""
    part = _part(span_s, fs)
    return slice(part.start + lag, part.stop + lag)


def _width(beats, fs):
    """Share of the time around R where a beat exceeds 40 % of its height, shape (n, leads)."""
    size = np.abs(beats[:, _part((-0.15, 0.2), fs)])
    return (size > 0.4 * size.max(axis=1, keepdims=True)).mean(axis=1)


def _likeness(beats, typical_beat, chosen, known, fs):
    """How many of the recording's beats look like each, and what is usual for those that do."""
    n = len(beats)
    height = np.abs(typical_beat[_part(_QRS_S, fs)]).max(axis=0) + 1e-6
    shapes = {}
    for wave, span_s in (("qrs", _QRS_S), ("p", _P_S)):
        part = beats[:, _part(span_s, fs)] / (height if wave == "qrs" else 1)
        part = part - part.mean(axis=1, keepdims=True)
        if wave == "p":
            # each lead counts the same
            part = part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-9)
        shapes[wave] = part.reshape(n, -1)
    others = np.unique(np.linspace(0, n - 1, min(n, _REFERENCES)).round().astype(int))
    alike = np.exp(-_relative_distance(shapes["qrs"], shapes["qrs"][others]) / 0.15)  # (n, others)
    alike_typical = np.exp(-_relative_distance(shapes["qrs"], shapes["qrs"][chosen]) / 0.15).mean(
        axis=1
    )
    p_alike = _relative_distance(shapes["p"], shapes["p"][others])
    columns = {
        "alike": alike.mean(axis=1),
        "alike_typical": alike_typical,
        "alike_typical_log": np.log(alike_typical / np.median(alike_typical[chosen]) + 1e-3),
    }
    weight = alike / (alike.sum(axis=1, keepdims=True) + 1e-9)
    names = ["rr_prev/around_p75", "rr_next/around_p75", "rr_prev/before"]
    names += [f"{name}_{lead}" for name in ("p_like", "width") for lead in range(beats.shape[2])]
    columns |= {f"alike:{name}": weight @ known[name][others] for name in names}
    unit = shapes["qrs"] / (np.linalg.norm(shapes["qrs"], axis=1, keepdims=True) + 1e-9)
    neighbours = (unit[1:] * unit[:-1]).sum(axis=1)
    columns |= {"like_prev": np.append(1, neighbours), "like_next": np.append(neighbours, 1)}
    p_typical = 1 - _relative_distance(shapes["p"], shapes["p"][chosen]) / 2
    columns |= {
        "p_alike": (1 - p_alike / 2 > 0.8).mean(axis=1),
        "p_alike_typical": p_typical.mean(axis=1),
        "p_alike_typical_41": ndimage.median_filter(p_typical.mean(axis=1), 41, mode="nearest"),
    }
    both = alike * np.exp(-p_alike / 0.3)
    both /= both.sum(axis=1, keepdims=True) + 1e-9
    columns |= {f"alike_both:{name}": both @ known[name][others] for name in names[:2]}
    return columns


def _standing(columns, chosen):
    """Distance of features from those of typical beats, in their own spread; log-compressed."""
    standing = {}
    for name, values in columns.items():
        if name.startswith(_COMPARED):
            usual = np.median(values[chosen])
            spread = 1.48 * np.median(np.abs(values[chosen] - usual))
            z = (values - usual) / (spread + _LEAST_SPREAD)
            standing[f"{name}:z"] = np.sign(z) * np.log1p(np.abs(z))
    return standing


def _relative_distance(rows, others):
    """Squared distance over the product of lengths, (n, m): 0 if equal, 2 if unrelated."""
    size = np.linalg.norm(rows, axis=1)[:, None]
    other_size = np.linalg.norm(others, axis=1)[None, :]
    rows, others = rows.astype(np.float32), others.astype(np.float32)
    squared = size**2 + other_size**2 - 2 * (rows @ others.T)
    return (np.maximum(squared, 0) / (size * other_size + 1e-9)).astype(np.float32)


def aami_classes(symbols):
    """PhysioNet beat symbols to AAMI classes.

    Examples
    --------
    >>> aami_classes(["N", "L", "a", "E", "/"]).tolist()
    ['N', 'N', 'S', 'V', 'Q']
    """
    to = {symbol: name for name, group in AAMI.items() for symbol in group}
    return np.array([to[check_option("symbol", symbol, to)] for symbol in symbols], dtype="<U1")
