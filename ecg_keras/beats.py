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

# What the rows of features="context" depend on, in seconds from their beat
CONTEXT_S, BEFORE_S, AHEAD_S = 1200.0, 2.0, 2.0
_SHORTEST_RR_S, _LONGEST_RR_S = 0.15, 4.0
_LONG, _LONG_S = 400, 300.0  # beats and seconds that a beat is compared with
_SHORT, _SHORT_S = 128, 100.0  # that make the typical one
_PACE_S = 900  # that the rate is compared over
_BASELINE_S = 1.0  # reach of the filter that takes out the baseline
_LATEST_S = 0.9  # end of a beat's window, at most
_FINE_HZ = 1000.0  # of beats that are given by their times
_CHUNK = 256  # beats described at once: bounds memory
_WATCHED = (  # features compared with those of typical beats
    "qrs_like qrs_apart qrs_gain p_like p_apart p_gain p_best p_best_gain t_like t_apart t_gain "
    "width_half width_quarter length slope area like_prev p_size t_up t_down"
).split()


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
        Leads by name; "other" is the recording's first lead not named. "each" makes rows of every
        lead by itself, whatever its name: a beat's probabilities are the mean over its leads.
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
    features : {"rhythm", "rr", "context", None}, default "rhythm"
        Metadata: `beats.describe_beats`, `signals.rr_features`, those of `BeatContext`, or none.
        "context" makes whole rows that depend only on minutes before a beat and two seconds after,
        filtered and scaled there; `mains_hz` and the lower end of `band_hz` play no part.
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
        check_option("features", self.features, ("rhythm", "rr", "context", None))
        check_option("beats", self.beats, ("annotated", "detected"))
        check_positive("fs", self.fs)
        # lists, so that the settings are equal to what JSON makes of them
        for name, value in (("window_s", self.window_s), ("band_hz", self.band_hz)):
            if len(value) != 2:
                raise ValueError(f"{name} must be a pair of numbers, got {value}.")
            object.__setattr__(self, name, [float(number) for number in value])
        if self.features == "context" and not (
            self.window_s[0] >= _BEFORE_S and _AFTER_S <= self.window_s[1] <= _LATEST_S
        ):
            raise ValueError(
                f"window_s must reach from {_BEFORE_S} s or more before the R peak to {_AFTER_S} "
                f"to {_LATEST_S} s after for features='context', got {self.window_s}."
            )
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
    if preparation.features == "context":
        signal = np.asarray(signal)
        if not np.isfinite(signal).all():
            raise ValueError("signal has NaN or infinite samples; fill them first.")
        return BeatContext(preparation, fs=fs).rows(signal, peaks)
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


class BeatContext:
    """Rows of ``features="context"``, beat after beat: for streams and recordings of any length.

    Holds what later beats need of earlier ones: times and windows of the last 400. So a
    stream pays for its new beats only, and however a recording is cut into calls, the rows are
    the same. A beat's row depends on the recording from `CONTEXT_S` before to `AHEAD_S` after its R
    peak, and on nothing else.

    Parameters
    ----------
    preparation : BeatPreparation
        With ``features="context"``.
    fs : float
        Sampling rate of the recording, in Hz.

    Examples
    --------
    >>> x = np.zeros((15000, 1)); x[100::200] = 1.0  # a spike every 0.8 s at 250 Hz
    >>> peaks = np.arange(100, 15000, 200)
    >>> context = BeatContext(BeatPreparation(features="context", lead="each"), fs=250)
    >>> first, _, names = context.rows(x[:8000], peaks[:30], following=peaks[30])
    >>> more, _, _ = context.rows(x[4000:], peaks[30:], start=4000)
    >>> len(first) + len(more) == len(peaks)
    True
    """

    def __init__(self, preparation, *, fs):
        check_positive("fs", fs)
        self.preparation, self.fs = preparation, fs
        self._cut = _Cutter(fs, preparation)
        self._past = {}  # of the last beats: "t" (m,), rhythm (m,), and of each lead its windows

    def rows(self, signal, peaks, *, start=0, following=None):
        """Describe the next beats.

        Parameters
        ----------
        signal : array_like of float, shape (samples, leads)
            A piece of the recording, unfiltered, finite. It reaches from `BEFORE_S` before the
            first of `peaks` to `AHEAD_S` after the last, or to the recording's ends.
        peaks : array_like of int, shape (n_beats,)
            R peaks of the new beats, in samples of the recording, all after those given before.
        start : int, default 0
            The recording's sample that ``signal[0]`` is.
        following : int, optional
            R peak of the beat after the last of `peaks`; None if there is none within `AHEAD_S`.

        Returns
        -------
        x : ndarray of float32, shape (n_beats, samples, leads)
        metadata : ndarray of float32, shape (n_beats, columns)
        names : tuple of str

        Raises
        ------
        ValueError
            If the peaks do not rise, or lie outside `signal`.
        """
        signal, peaks = np.asarray(signal), np.asarray(peaks, np.int64)
        last = self._past["peaks"][-1:] if self._past else peaks[:0]
        if (np.diff(np.concatenate([last, peaks])) <= 0).any():
            raise ValueError("R peaks must rise, and come after those given before.")
        at = peaks - start
        if len(at) and (at[0] < 0 or at[-1] >= len(signal)):
            raise ValueError(
                f"R peaks {peaks[0]} to {peaks[-1]} must lie in signal, which holds samples "
                f"{start} to {start + len(signal) - 1}."
            )
        if not len(peaks):  # a beat of a scratch context tells shapes and names
            scratch = BeatContext(self.preparation, fs=self.fs)
            x, metadata, names = scratch.rows(np.zeros((2, signal.shape[1])), [1])
            return x[:0], metadata[:0], names
        xs, tables, names = [], [], ()
        for first in range(0, len(peaks), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            after = peaks[first + _CHUNK] if first + _CHUNK < len(peaks) else following
            x, columns = self._next(self._cut(signal, at[chunk]), peaks[chunk], after)
            xs.append(x)
            names = tuple(columns)
            tables.append(np.column_stack(list(columns.values())).astype(np.float32))
        return np.concatenate(xs), np.concatenate(tables), names

    def _next(self, windows, peaks, following):
        """Rows of a chunk of beats from their windows (n, samples, leads)."""
        rhythm, held, spans = _context_rhythm(self._past, peaks, following, self.fs)
        columns, parts, leads = dict(rhythm), [], []
        several = windows.shape[2] > 1
        for lead in range(windows.shape[2]):
            before = self._past["leads"][lead] if self._past else {}
            shape, part, kept = _context_shape(
                before, windows[:, :, lead], held, spans, self.preparation
            )
            columns |= {f"{name}_{lead}" if several else name: v for name, v in shape.items()}
            parts.append(part)
            leads.append({name: values[-_LONG:] for name, values in kept.items()})
        self._past = _kept(held) | {"leads": leads}
        x = np.concatenate(parts, axis=2)
        return x, columns


class _Cutter:
    """Cuts filtered beats at the model's rate out of a recording: one matrix product.

    A window's sample is a weighted sum of the recording's around it: a low-pass (a sinc under a
    Hann window of 0.2 s) less a baseline (a Gaussian of 0.3 s, cut at 1 s), at any instant, so that
    the grid of the new rate starts at the R peak itself.
    """

    def __init__(self, fs, preparation):
        rate, (_, high_hz) = preparation.fs, preparation.band_hz
        before, after = (round((s + _MARGIN_S) * rate) for s in preparation.window_s)
        out_s = np.arange(-before, after) / rate
        reach_s = _BASELINE_S
        self.first = -int(np.ceil((before / rate + reach_s) * fs))
        last = int(np.ceil((after / rate + reach_s) * fs))
        apart_s = out_s[None, :] - np.arange(self.first, last + 1)[:, None] / fs
        high_hz = min(high_hz, 0.45 * fs)
        low_pass = np.sinc(2 * high_hz * apart_s) * np.cos(np.pi * apart_s / 0.2) ** 2
        low_pass[np.abs(apart_s) >= 0.1] = 0
        baseline = np.exp(-0.5 * (apart_s / 0.3) ** 2)
        baseline[np.abs(apart_s) > reach_s] = 0
        weights = low_pass / low_pass.sum(axis=0) - baseline / baseline.sum(axis=0)
        self.weights = weights  # (recorded samples, window samples)

    def __call__(self, signal, at):
        """Recording (samples, leads) and R peaks to windows float32 (n, samples, leads)."""
        offsets = np.arange(self.first, self.first + len(self.weights))
        near = np.clip(at[:, None] + offsets, 0, len(signal) - 1)
        windows = np.empty((len(at), self.weights.shape[1], signal.shape[1]), np.float32)
        for lead in range(signal.shape[1]):
            column = signal[:, lead]
            raw = column[near].astype(float) - column[at][:, None]
            # in double precision: rounded sums must not change with the number of beats
            windows[:, :, lead] = raw @ self.weights
        return windows


def context_rhythm(peaks_s):
    """What ``features="context"`` tells of beats by their times alone.

    Parameters
    ----------
    peaks_s : array_like of float, shape (n_beats,)
        R peaks of one recording, in seconds, rising.

    Returns
    -------
    columns : dict of ndarray of float64, shape (n_beats,)
        By name; and ``early`` and ``earliness``, which look-alikes are asked for.

    Examples
    --------
    >>> columns = context_rhythm([0.5, 1.3, 2.1, 2.6])
    >>> print(f"{columns['rr_prev/median_80'][3]:.2f}")  # 0.5 s after 0.8 s
    -0.47
    """
    peaks = np.round(np.asarray(peaks_s, float) * _FINE_HZ).astype(np.int64)
    past, parts = {}, []
    for first in range(0, len(peaks), _CHUNK):
        new, after = peaks[first : first + _CHUNK], peaks[first + _CHUNK : first + _CHUNK + 1]
        columns, held, _ = _context_rhythm(past, new, after[0] if len(after) else None, _FINE_HZ)
        columns |= {name: held[name][-len(new) :] for name in ("early", "earliness")}
        parts.append(columns)
        past = _kept(held)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _kept(held):
    """What is held of the last beats, for those to come."""
    times = held["times"]
    recent = times >= times[-1] - _PACE_S - 30 if len(times) else slice(None)
    return {
        name: values[recent] if name in ("times", "paces") else values[-_LONG:]
        for name, values in held.items()
    }


def _joined(past, name, new):
    """What is held of earlier beats, then the new ones."""
    return np.concatenate([past[name], new]) if past else np.asarray(new)


class _Before:
    """Looks from each of the last n times at the `_LONG` ones before, `_LONG_S` at most."""

    def __init__(self, t, n):
        own = np.arange(len(t) - n, len(t))[:, None]
        self.n, at = n, own - np.arange(_LONG, 0, -1)
        self.at = np.maximum(at, 0)
        self.there = (at >= 0) & (t[self.at] >= t[own] - _LONG_S)

    def of(self, values, length):
        """The last `length` values before each, NaN if there are fewer, and its own: (n, ...)."""
        rows = np.empty((self.n, length + 1))
        rows[:, :-1] = values[self.at[:, -length:]]
        rows[:, :-1][~self.there[:, -length:]] = np.nan
        rows[:, -1] = values[len(values) - self.n :]
        return rows


def _quantiles(rows, shares, otherwise):
    """Quantiles over rows with NaN, one array (n,) a share; `otherwise` where all are NaN."""
    ranked, most = np.sort(rows, axis=1), np.isfinite(rows).sum(axis=1) - 1
    place = np.multiply.outer(shares, np.maximum(most, 0))  # (shares, n)
    low = place.astype(int)
    high, row = np.minimum(low + 1, np.maximum(most, 0)), np.arange(len(rows))
    part = place - low
    value = ranked[row, low] * (1 - part) + ranked[row, high] * part
    return np.where(most >= 0, value, otherwise)


def _mean_and_spread(rows, otherwise):
    """Mean and standard deviation over rows with NaN."""
    there = np.isfinite(rows)
    count = np.maximum(there.sum(axis=1), 1)
    values = np.where(there, rows, 0)
    mean = values.sum(axis=1) / count
    spread = np.sqrt((np.where(there, rows - mean[:, None], 0) ** 2).sum(axis=1) / count)
    return np.where(there.any(axis=1), mean, otherwise), spread


def _squashed(z):
    """Logarithm of large distances, sign kept."""
    return np.sign(z) * np.log1p(np.abs(z))


def _context_rhythm(past, peaks, following, fs):
    """Timing of new beats among those before.

    Returns columns (a dict of (n,)), what is held of old and new beats (a dict of (m + n,)), and
    for each new beat and each held one whether that lies in the short and in the long span; and
    what looks back from new beats.
    """
    n = len(peaks)
    samples = _joined(past, "peaks", peaks)
    t = samples / fs
    rr = np.diff(t[-n - 1 :]) if len(t) > n else np.diff(t[-n:], prepend=np.nan)
    rr = np.clip(rr, _SHORTEST_RR_S, _LONGEST_RR_S)
    after = np.append(samples[len(samples) - n + 1 :], following or np.iinfo(np.int32).max)
    rr_next = np.clip((after - peaks) / fs, _SHORTEST_RR_S, AHEAD_S)
    log, log_next = _joined(past, "log", np.log(rr)), np.log(rr_next)
    own = np.where(np.isfinite(log[-n:]), log[-n:], log_next)  # a recording's first beat
    age = t[-n:, None] - t[None, :]  # (n, m + n)
    order = np.arange(len(t) - n, len(t))[:, None] - np.arange(len(t))[None, :]
    short = (order >= 0) & (order < _SHORT) & (age <= _SHORT_S)
    long = (order >= 0) & (order < _LONG) & (age <= _LONG_S)
    look = _Before(t, n)
    before = look.of(log, _LONG)[:, :-1]
    columns = {"rr_prev": own, "rr_next": log_next, "rr_prev/next": own - log_next}
    held, usual = {"peaks": samples, "log": log}, {}
    for k in (8, 32, 80, _LONG):
        last = before[:, -k:]
        p20, middle, p75, p80, p90 = _quantiles(last, (0.2, 0.5, 0.75, 0.8, 0.9), own)
        mean, spread = _mean_and_spread(last, own)
        usual |= {f"mean_{k}": mean, f"median_{k}": middle, f"p75_{k}": p75, f"p90_{k}": p90}
        columns[f"spread_{k}"] = p80 - p20
        columns[f"shorter_{k}"] = (last < own[:, None] - 0.03).sum(axis=1) / np.maximum(
            np.isfinite(last).sum(axis=1), 1
        )
        columns[f"rr_prev:z_{k}"] = _squashed((own - mean) / (spread + 0.02))
        columns[f"rr_next:z_{k}"] = _squashed((log_next - mean) / (spread + 0.02))
    columns |= {f"rr_prev/{name}": own - value for name, value in usual.items()}
    columns |= {
        f"rr_next/{name}": log_next - usual[name]
        for name in ("mean_8", "mean_32", "p75_80", "median_80", f"p75_{_LONG}")
    }
    columns |= _pace_columns(past, usual["mean_8"], own, usual["p75_80"], t[-n:], held)
    reference = usual["p75_80"]
    pair = np.log((np.exp(own) + np.exp(log_next)) / 2)
    columns |= {"pair/p75_80": pair - reference, "pair/mean_8": pair - usual["mean_8"]}
    columns["mean_8/p75_80"] = usual["mean_8"] - reference
    columns["p75_80/long"] = reference - usual[f"p75_{_LONG}"]
    recent = np.where(np.isfinite(before[:, -8:]), before[:, -8:], reference[:, None])
    columns |= {f"rr-{k}": recent[:, -k] - reference for k in range(1, 6)}
    columns["rr_prev/longest_before"] = own - recent.max(axis=1)
    columns["rr_prev/shortest_before"] = own - recent.min(axis=1)
    change = np.abs(own - np.where(np.isfinite(before[:, -1]), before[:, -1], own))
    near = before[:, -60:]
    gaps = np.sort(np.abs(near - own[:, None]), axis=1)
    count = np.isfinite(near).sum(axis=1)
    alone = np.where(count > 0, gaps[np.arange(n), np.clip(count // 10, 0, 5)], 0)
    earliness = np.clip(own - reference, -1.5, 1.0)
    early = (earliness < -0.15).astype(float)
    late = 1 / (1 + np.exp(-(earliness + 0.08) / 0.03))
    fresh = {"change": change, "alone": alone, "early": early, "late": late}
    held |= {name: _joined(past, name, new) for name, new in fresh.items()}
    held["earliness"] = _joined(past, "earliness", earliness)
    columns["alone"] = alone
    for name, lengths in (("change", (10, 40, 80, _LONG)), ("alone", (41, _LONG))):
        values = look.of(held[name], _LONG)
        columns |= {f"{name}_{k}": _quantiles(values[:, -k:], 0.5, 0) for k in lengths}
    values = look.of(held["early"], _LONG)
    columns |= {f"early_{k}": np.nanmean(values[:, -k:], axis=1) for k in (9, 41, _LONG)}
    columns["seen"] = np.log1p(np.isfinite(before).sum(axis=1))
    return columns, held, (short, long, look)


def _pace_columns(past, pace, own, reference, t, held):
    """The rate of the last quarter of an hour, looked at every 10 s; adds what is held to `held`.

    A tachycardia of minutes becomes usual to all shorter spans.
    """
    times, paces = _joined(past, "times", t), _joined(past, "paces", pace)
    held |= {"times": times, "paces": paces}
    back_s = np.arange(0, _PACE_S + 1, 10)
    at = np.searchsorted(times, t[:, None] - back_s, side="right") - 1
    seen = np.where(at >= 0, paces[at], np.nan)  # (n, looks), newest first
    seen[times[at] < t[:, None] - back_s - 10] = np.nan
    middle, slow = _quantiles(seen, (0.5, 0.9), own)
    change = np.where(np.isfinite(seen), seen, slow[:, None])
    change = change[:, :-2] - change[:, 2:]
    return {
        "rr_prev/slow": own - slow,
        "pace/slow": pace - slow,
        "around/slow": reference - slow,
        "pace/middle": pace - middle,
        "middle/slow": middle - slow,
        "drop": change.min(axis=1),
        "drop_age": np.log1p(change.argmin(axis=1)),
        "drop_120": change[:, :12].min(axis=1),
        "fast_share": np.nanmean(
            np.where(np.isfinite(seen), seen < slow[:, None] - 0.25, np.nan), 1
        ),
    }


def _context_shape(past, wide, held, spans, preparation):
    """Shape of new beats of one lead among those before.

    Returns columns (a dict of (n,)), the beat and the typical one as float32 (n, samples, 2), and
    what is held of old and new beats.
    """
    n, fs = len(wide), preparation.fs
    short, long, look = spans
    margin = round(_MARGIN_S * fs)
    centre = round((preparation.window_s[0] + _MARGIN_S) * fs)
    samples = wide.shape[1] - 2 * margin
    span = lambda a, b: slice(centre + round(a * fs), centre + round(b * fs))
    # how many late beats look like each: beats of the usual rhythm and shape make the typical one
    top = np.abs(wide[:, span(-0.1, 0.1)]).max(axis=1) + 1e-6
    wide_all, top_all = _joined(past, "wide", wide), _joined(past, "top", top)
    form = lambda rows: rows - rows.mean(axis=1, keepdims=True)
    rough = form(wide_all[:, span(*_QRS_S)])
    alike = np.exp(-_relative_distance(rough[-n:], rough) / 0.3) * short * held["late"]
    dense = alike.sum(axis=1) / (short * held["late"]).sum(axis=1)
    weight = _joined(past, "weight", held["late"][-n:] * dense**2 + 1e-3)
    share = short * weight
    usual = (share / share.sum(axis=1, keepdims=True)).astype(np.float32) @ wide_all
    # move each beat to fit it
    most = round(_LAG_S * fs)
    qrs = span(-0.1, 0.13)
    target = form(usual[:, qrs])
    target /= np.linalg.norm(target, axis=1, keepdims=True) + 1e-6
    fits = np.empty((2 * most + 1, n))
    for lag in range(-most, most + 1):
        own = form(wide[:, qrs.start + lag : qrs.stop + lag])
        fits[lag + most] = (own * target).sum(axis=1) / (np.linalg.norm(own, axis=1) + 1e-6)
    lags = fits.argmax(axis=0) - most
    fit = fits.max(axis=0)
    at = (margin + lags)[:, None] + np.arange(samples)
    beats = wide[np.arange(n)[:, None], at]
    beats_all = _joined(past, "beats", beats)
    sure = weight[-n:] * (1 / (1 + np.exp(-(fit - 0.9) / 0.03)) + 1e-2)
    sure_all = _joined(past, "sure", sure)
    share = short * sure_all
    share = share / share.sum(axis=1, keepdims=True)
    light = share.astype(np.float32)
    typical = light @ beats_all
    scatter = np.sqrt(np.maximum(light @ beats_all**2 - typical**2, 0))
    centre -= margin
    span = lambda a, b: slice(centre + round(a * fs), centre + round(b * fs))
    height = np.abs(typical[:, span(-0.1, 0.1)]).max(axis=1) + 1e-6
    near = span(-0.1, 0.1)
    peak = np.abs(typical[:, near]).argmax(axis=1)
    sign = np.sign(typical[:, near][np.arange(n), peak])
    usual_top = _quantiles(look.of(top_all, 80), 0.5, 0)
    scale = np.maximum(height, 0.25 * usual_top)
    columns = {
        "lag": lags / fs,
        "fit": fit,
        "dense": dense,
        "top": np.log(top / scale),
        "top_typical": np.log(usual_top / scale),
    }
    z = np.abs(beats - typical) / (scatter + 0.05 * scale[:, None])
    for wave, span_s in (("qrs", _QRS_S), ("p", _P_S), ("t", _T_S)):
        part = span(*span_s)
        own, other = form(beats[:, part]), form(typical[:, part])
        size, other_size = np.linalg.norm(own, axis=1), np.linalg.norm(other, axis=1)
        like = (own * other).sum(axis=1) / (size * other_size + 1e-6)
        columns[f"{wave}_like"] = like
        apart = np.linalg.norm(own - other, axis=1) / (np.sqrt(other.shape[1]) * scale)
        columns[f"{wave}_apart"] = np.sqrt(apart)
        columns[f"{wave}_gain"] = np.log((size + 1e-2 * scale) / (other_size + 1e-2 * scale))
        columns[f"{wave}_z"] = np.log(z[:, part].mean(axis=1) + 0.1)
        columns[f"{wave}_level"] = (beats[:, part] - typical[:, part]).mean(axis=1) * sign / scale
    around = span(-0.15, 0.2)
    columns["qrs_with"] = (beats[:, near] * sign[:, None]).max(axis=1) / scale
    columns["qrs_against"] = (beats[:, near] * -sign[:, None]).max(axis=1) / scale
    columns["against_typical"] = (typical[:, near] * -sign[:, None]).max(axis=1) / scale
    for name, rows in (("", beats), ("_typical", typical)):
        size = np.abs(rows[:, around])
        tallest = size.max(axis=1, keepdims=True)
        columns[f"width_half{name}"] = (size > 0.5 * tallest).mean(axis=1)
        columns[f"width_quarter{name}"] = (size > 0.25 * tallest).mean(axis=1)
        slope = np.diff(rows[:, around], axis=1)
        energy = np.cumsum(slope**2, axis=1)
        energy /= energy[:, -1:] + 1e-12
        columns[f"length{name}"] = ((energy > 0.05) & (energy < 0.95)).mean(axis=1)
        columns[f"slope{name}"] = np.log(np.abs(slope).max(axis=1) / scale + 1e-2)
        columns[f"area{name}"] = size.mean(axis=1) / scale
        t_wave = rows[:, span(*_T_S)]
        columns[f"t_up{name}"] = (t_wave * sign[:, None]).max(axis=1) / scale
        columns[f"t_down{name}"] = (t_wave * sign[:, None]).min(axis=1) / scale
        columns[f"p_size{name}"] = np.ptp(rows[:, span(*_P_S)], axis=1) / scale
    for name in ("width_half", "width_quarter", "length", "slope", "area"):
        columns[f"{name}_more"] = columns[name] - columns[f"{name}_typical"]
    columns |= _p_moved(beats, typical, span, fs)
    rough_noise = np.abs(np.diff(beats[:, span(-0.4, -0.1)], n=2, axis=1)).mean(axis=1)
    columns["noise"] = np.log(rough_noise / scale + 1e-3)
    # look-alikes
    tall = np.maximum(np.linalg.norm(form(beats_all[:, span(*_QRS_S)]), axis=1), 1e-6)
    qrs_all = form(beats_all[:, span(*_QRS_S)])
    alike = np.exp(-_relative_distance(qrs_all[-n:], qrs_all) / 0.15)
    p_all = form(beats_all[:, span(*_P_S)])
    p_all = p_all / (np.linalg.norm(p_all, axis=1, keepdims=True) + 1e-6)
    p_like = p_all[-n:].astype(float) @ p_all.T.astype(float)  # compared with a limit below
    others = long & (
        np.arange(long.shape[1]) < np.arange(long.shape[1] - n, long.shape[1])[:, None]
    )
    counted = np.maximum(others.sum(axis=1), 1)
    mass = alike * others
    columns["alike"] = mass.sum(axis=1) / counted
    columns["alike_late"] = (mass * held["late"]).sum(axis=1) / (
        (others * held["late"]).sum(axis=1) + 1e-3
    )
    columns["alike_sure"] = (mass * sure_all).sum(axis=1) / ((others * sure_all).sum(axis=1) + 1e-3)
    unit = qrs_all / tall[:, None]
    columns["p_alike"] = ((p_like > 0.8) & others).sum(axis=1) / counted
    columns["p_alike_sure"] = (p_like * others * sure_all).sum(axis=1) / (
        (others * sure_all).sum(axis=1) + 1e-3
    )
    for name, kernel in (("alike", mass), ("alike_both", mass * np.exp(-(1 - p_like) / 0.15))):
        total = kernel.sum(axis=1) + 1e-2
        columns[f"{name}:mass"] = np.log(total)
        columns[f"{name}:earliness"] = kernel @ held["earliness"] / total
        columns[f"{name}:early"] = kernel @ held["early"] / total
    before = np.concatenate([unit[max(len(unit) - n - 2, 0) : len(unit) - n], unit[-n:]])
    before = np.concatenate([unit[:1].repeat(n + 2 - len(before), axis=0), before])
    columns["like_prev"] = (before[2:] * before[1:-1]).sum(axis=1)
    columns["like_prev_2"] = (before[2:] * before[:-2]).sum(axis=1)
    # means over typical beats, and how far each beat stands from them
    watched = np.column_stack([columns[name] for name in _WATCHED])
    watched_all = _joined(past, "watched", watched)
    mean = share @ watched_all
    spread = np.sqrt(np.maximum(share @ watched_all**2 - mean**2, 0))
    z = _squashed((watched - mean) / (spread + 0.03))
    columns |= {f"{name}:z": z[:, i] for i, name in enumerate(_WATCHED)}
    for name in ("p_like", "qrs_like", "p_best"):
        i = _WATCHED.index(name)
        values = look.of(watched_all[:, i], 41)
        columns[f"{name}_41"] = _quantiles(values, 0.5, 0)
        columns[f"{name}_9"] = _quantiles(values[:, -9:], 0.5, 0)
    x = np.stack([beats, typical][: 1 + preparation.typical], axis=2)
    if preparation.scale == "record":
        x = np.clip(x / scale[:, None, None], -_LARGEST, _LARGEST)
    kept = {
        "wide": wide_all,
        "top": top_all,
        "weight": weight,
        "beats": beats_all,
        "sure": sure_all,
        "watched": watched_all,
    }
    return columns, x.astype(np.float32), kept


def _p_moved(beats, typical, span, fs):
    """Where before a beat the typical P wave is found again: likeness, shift and gain."""
    usual = typical[:, span(*_P_S)]
    usual = usual - usual.mean(axis=1, keepdims=True)
    size = np.linalg.norm(usual, axis=1)
    first, last = -round(0.12 * fs), round(_LAG_S * fs)
    likes, gains = [], []
    for lag in range(first, last + 1, 2):
        part = span(*_P_S)
        own = beats[:, part.start + lag : part.stop + lag]
        own = own - own.mean(axis=1, keepdims=True)
        own_size = np.linalg.norm(own, axis=1)
        product = (own * usual).sum(axis=1)
        likes.append(product / (own_size * size + 1e-6))
        gains.append(product / (size**2 + 1e-6))
    likes, gains = np.array(likes), np.clip(gains, -3, 3)
    best = likes.argmax(axis=0)
    row = np.arange(len(beats))
    near = np.abs(np.arange(first, last + 1, 2)) <= last
    return {
        "p_best": likes.max(axis=0),
        "p_best_lag": (first + 2 * best) / fs,
        "p_best_gain": gains[best, row],
        "p_near": likes[near].max(axis=0),
        "p_gain_here": gains[len(range(first, 0, 2)), row],
    }


def aami_classes(symbols):
    """PhysioNet beat symbols to AAMI classes.

    Examples
    --------
    >>> aami_classes(["N", "L", "a", "E", "/"]).tolist()
    ['N', 'N', 'S', 'V', 'Q']
    """
    to = {symbol: name for name, group in AAMI.items() for symbol in group}
    return np.array([to[check_option("symbol", symbol, to)] for symbol in symbols], dtype="<U1")
