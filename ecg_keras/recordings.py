"""Open any recording, block by block; read WFDB records with their beats; refuse damaged files.

Conventions
-----------
`open_recording` takes WFDB records, CSV, Parquet and EDF files, arrays and tables, and gives
blocks of float32 (samples, leads) in millivolts, NaN where nothing was recorded. WFDB and EDF
files are read where a block needs them, never as a whole.

`read_recording` reads a WFDB record that has beat annotations: ``100.hea`` (header),
``100.dat`` (samples) and ``100.atr`` (annotations). Its signal is float64 (samples, leads) in
the header's unit, millivolts in the MIT-BIH databases; beats are rising sample numbers with a
symbol each. wfdb and pyedflib are used for reading and for nothing else.
"""

import contextlib
import dataclasses
import datetime
import functools
import os
import pathlib
import re
import stat
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecg_keras._checks import check_positive, require
from ecg_keras.beats import BEAT_SYMBOLS, aami_classes

ONE_PATIENT = {"201": "201+202", "202": "201+202"}  # the one man with two recordings in MIT-BIH

# bytes per sample, by WFDB format
_BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "212": 1.5, "24": 3, "32": 4}
_SLACK = 512  # bytes that a file may have beyond its samples: some are padded to a whole block

_MV = {"nv": 1e-6, "uv": 1e-3, "mv": 1.0, "v": 1e3}  # millivolts, by unit in small letters
_UNITS = "'mV', 'uV', 'V', 'nV', or a number: millivolts per unit"
_LEAST_S, _LONGEST_S = 2, 31 * 86400  # a recording shorter or longer than this is refused
_HIGHEST_HZ = 100_000  # a higher rate is a damaged header
_GAP_S = 7 * 86400  # a longer gap between two rows is a wrong time
_LARGEST_TEXT = 4 << 30  # bytes of a CSV or Parquet file, which is read as a whole
_LARGEST_HEADER = 16 << 20  # bytes of a .hea file
# swing within 2 s, in mV, that no ECG reaches, and that it stays under where its unit is volts
_LARGEST_SWING_MV, _SMALLEST_SWING_MV = 50, 0.02
_PROBES, _PROBE_S = 3, 10  # stretches that are looked at when a recording is opened
_HUGE, _SPARSE = 64 << 20, 20  # bytes from which a file may not be 20 times as large as its blocks
# names of channels that are no ECG, beside one: breathing, pressures, brain, eyes, muscles, motion
_OTHER = re.compile(
    r"resp|rsp|breath|pleth|ppg|spo2|sao2|abp|art\b|bp\b|cvp|pap|icp|co2|eeg|eog|emg|acc|gyr"
    r"|temp|pulse|flow|snore|marker|annotation|trigger|status|event|thor|abdo|battery|rr\b|hr\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"^\W*(elapsed|sensor|phone)?[\s_]*(time|timestamp|date|datetime|seconds?|secs?|t|ms|millis)"
    r"([\s_]*(stamp|index|utc|s|sec|seconds|ms|us|ns))?\W*([\[(].*[\])])?\W*$",
    re.IGNORECASE,
)
_COUNTER = re.compile(r"^\W*(sample|index|row|n|no|unnamed)\b.*$", re.IGNORECASE)
_PER_S = {"s": 1, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9}


@dataclass(frozen=True, eq=False, repr=False)
class OpenRecording:
    """A recording of any source, read block by block; made by `open_recording`."""

    name: str
    fs: float  # Hz
    leads: tuple
    n_samples: int
    blocks: object = dataclasses.field(repr=False)  # (start, stop) -> (stop - start, leads), in mV
    start: datetime.datetime | None = None
    notes: tuple = ()  # what was assumed or converted

    def __repr__(self):
        return (
            f"<recording {self.name}: {self.n_samples / self.fs:g} s at {self.fs:g} Hz, "
            f"{', '.join(self.leads)}>"
        )

    def read(self, start, stop):
        """Samples `start` to `stop`: float32 (stop - start, leads) in mV, NaN where none is."""
        start, stop = int(start), int(stop)
        if not 0 <= start <= stop <= self.n_samples:
            raise ValueError(
                f"recording {self.name}: samples {start} to {stop} were asked for; "
                f"it has 0 to {self.n_samples}."
            )
        if start == stop:
            return np.zeros((0, len(self.leads)), np.float32)
        return np.asarray(self.blocks(start, stop), np.float32)


def open_recording(recording, *, fs=None, leads=None, unit=None, name=None):
    """Open a recording of any source, to be read block by block in millivolts.

    Parameters
    ----------
    recording : path, array_like, DataFrame or OpenRecording
        A WFDB record, with or without an ending (any format that wfdb reads, several segments
        too); a CSV or Parquet file; an EDF or BDF file; an array of shape (samples,) or
        (samples, leads); a table whose columns are leads.
    fs : float, optional
        Sampling rate, in Hz. Needed where neither a header nor a column of times tells it. Times
        are seconds, unless their name says ms, us or ns, or date and time of day.
    leads : str or sequence of str, optional
        For arrays and tables without names: the names of the leads. Else the leads wanted, in
        this order; "II" also finds "MLII", "ECG II" and "Lead II". By default every lead of an
        ECG.
    unit : str or float, optional
        "mV", "uV", "V" or "nV", or the millivolts of one unit. By default that of the file, and
        mV where nothing tells it.
    name : str, optional
        Name of the recording; by default that of the file.

    Returns
    -------
    OpenRecording
        With `name`, `fs`, `leads`, `n_samples`, `start` (date and time, or None), `notes` (what
        was assumed or converted) and ``read(start, stop)``. Leads of different rates are brought
        to the highest one by straight lines. Missing rows of a table are NaN.

    Raises
    ------
    ValueError
        If there is no recording, it is damaged, shorter than 2 s or has nothing but NaN; a lead is
        absent; the rate is unknown or contradicted; values cannot be in the unit; says which.
    ImportError
        If wfdb, pyedflib or pyarrow is needed and not installed.

    Examples
    --------
    >>> t = np.arange(3000) / 250
    >>> recording = open_recording(1000 * np.sin(2 * np.pi * t), fs=250, leads="II", unit="uV")
    >>> recording, recording.read(0, 500).shape, float(recording.read(62, 63)[0, 0].round(2))
    (<recording recording: 12 s at 250 Hz, II>, (500, 1), 1.0)
    """
    if isinstance(recording, OpenRecording):
        return _again(recording, fs, leads, unit, name)
    if isinstance(recording, (str, os.PathLike)):
        source, kind = _find(recording)
        opened = _KINDS[kind](source, fs=fs, leads=leads, unit=unit)
    elif isinstance(recording, (pd.DataFrame, pd.Series)):
        opened = _open_table(pd.DataFrame(recording), "recording", fs=fs, leads=leads, unit=unit)
    else:
        opened = _open_array(recording, "recording", fs=fs, leads=leads, unit=unit)
    if name is not None:
        opened = dataclasses.replace(opened, name=str(name))
    _probe(opened, unit)
    return opened


def _again(opened, fs, leads, unit, name):
    """An open recording, with some of its leads."""
    if unit is not None:
        raise ValueError("unit is given when a recording is opened first; this one is open.")
    _agreed_rate(opened.name, fs, opened.fs)
    if leads is not None:
        rows = choose_leads(opened.name, opened.leads, leads)
        blocks = opened.blocks
        opened = dataclasses.replace(
            opened,
            leads=tuple(opened.leads[i] for i in rows),
            blocks=lambda start, stop: np.asarray(blocks(start, stop))[:, rows],
        )
    return opened if name is None else dataclasses.replace(opened, name=str(name))


def _find(path):
    """A path to what is read (WFDB: without ending), and the kind of recording."""
    path = pathlib.Path(path)
    header = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    if path.is_dir() and not header.is_file():
        inside = sorted({file.stem for file in path.glob("*.hea")})
        raise ValueError(
            f"{path} is a folder, not a recording"
            + (f"; it holds the records {_some(inside)}." if inside else ".")
        )
    if header.exists():
        return header.with_suffix(""), "wfdb"
    if path.with_suffix(".hea").exists() and path.suffix not in _ENDINGS:
        return path.with_suffix(""), "wfdb"
    if not path.exists():
        beside = sorted({file.stem for file in path.parent.glob("*.hea")})
        raise ValueError(
            f"{path}: there is no such recording"
            + (f"; {path.parent} holds the records {_some(beside)}." if beside else ".")
        )
    _check_regular(path)
    with path.open("rb") as file:
        first = file.read(4096)
    if first[:4] == b"PAR1":
        return path, "parquet"
    if first[:8] == b"0       " or first[:8] == b"\xffBIOSEMI":
        return path, "edf"
    kind = _ENDINGS.get(path.suffix.lower().removesuffix(".gz"))
    if kind in ("edf", "parquet"):
        raise ValueError(f"{path}: is no {kind.upper()} file; it starts with other bytes.")
    if first[:2] == b"\x1f\x8b" and path.suffix == ".gz":
        return path, "csv"
    if not first or b"\0" in first or not first.strip():
        what = "is empty" if not first.strip() else "is no recording that can be read"
        raise ValueError(f"{path}: {what}; expected a WFDB record, CSV, Parquet or EDF.")
    return path, "csv"


def _some(names, most=8):
    """Names for an error, not more than some."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_regular(path, largest=None):
    """Refuse what is no ordinary file, is mostly holes, or is too large to be read whole."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: is not a regular file.")
    blocks = getattr(found, "st_blocks", None)  # of 512 bytes; absent on Windows
    if found.st_size > _HUGE and blocks is not None and found.st_size > _SPARSE * 512 * blocks:
        raise ValueError(
            f"{path}: says {found.st_size} bytes and holds {512 * blocks}: it is mostly holes, "
            "not a recording."
        )
    if largest and found.st_size > largest:
        raise ValueError(f"{path}: has {found.st_size} bytes; at most {largest} can be read.")


def choose_leads(name, present, wanted):
    """Rows of the `wanted` leads among those `present`, by name; "II" also finds "MLII".

    Examples
    --------
    >>> choose_leads("100", ("ECG V5", "MLII"), ("ii", "V5"))
    [1, 0]
    """
    wanted = [wanted] if isinstance(wanted, str) else [str(of) for of in wanted]
    rows = []
    for of in wanted:
        for same in (str, str.casefold, _plain):
            found = [i for i, other in enumerate(present) if same(other) == same(of)]
            if found:
                break
        else:
            raise ValueError(
                f"recording {name}: lead {of!r} is absent; it has {', '.join(present)}."
            )
        if len(found) > 1:
            raise ValueError(
                f"recording {name}: lead {of!r} may be {' or '.join(present[i] for i in found)}."
            )
        rows.append(found[0])
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(f"leads must name at least one lead, each once; got {wanted!r}.")
    return rows


def _plain(lead):
    """A lead's name without what is written around it: "ECG Lead II (mV)" and "MLII" give "ii"."""
    lead = re.sub(r"[\[(].*?[\])]", "", lead.casefold())
    lead = re.sub(r"[-_\s]*(nv|uv|µv|μv|mv|ref)$", "", lead)
    lead = re.sub(r"[^a-z0-9+]", "", lead)
    lead = re.sub(r"^(ecg|ekg|lead|channel|ch)+(?=.)", "", lead)
    return re.sub(r"^m(l?)(?=i|v)", "", lead)


def _unique(names):
    """Names of leads, each once: a second "ECG" is "ECG 2"."""
    seen, given = {}, []
    for lead in names:
        seen[lead] = seen.get(lead, 0) + 1
        given.append(lead if seen[lead] == 1 else f"{lead} {seen[lead]}")
    return tuple(given)


def _factor(unit):
    """Millivolts of one `unit`, or ValueError."""
    if isinstance(unit, str):
        plain = unit.strip().replace("µ", "u").replace("μ", "u").casefold()
        plain = {"millivolt": "mv", "microvolt": "uv", "volt": "v"}.get(plain.rstrip("s"), plain)
        if plain not in _MV:
            raise ValueError(f"unit={unit!r} is not known; give {_UNITS}.")
        return _MV[plain]
    return float(check_positive("unit", unit))


def _agreed_rate(name, fs, known):
    """The rate that a source tells, unless the one given contradicts it."""
    if fs is not None and abs(check_positive("fs", fs) / known - 1) > 0.01:
        raise ValueError(
            f"recording {name}: fs={fs:g} contradicts the recording itself, "
            f"which says {known:g} Hz; leave fs away."
        )
    return known


def _check_size(name, n_samples, fs):
    """Refuse rates and lengths that no ECG has."""
    if not 0 < fs <= _HIGHEST_HZ:
        raise ValueError(f"recording {name}: a sampling rate of {fs:g} Hz is not one of an ECG.")
    if n_samples < _LEAST_S * fs:
        raise ValueError(
            f"recording {name}: is {n_samples / fs:.2g} s long ({n_samples} samples at {fs:g} Hz); "
            f"at least {_LEAST_S} s are needed."
        )
    if n_samples > _LONGEST_S * fs:
        raise ValueError(
            f"recording {name}: would be {n_samples / fs / 86400:.3g} days long ({n_samples} "
            f"samples at {fs:g} Hz); at most {_LONGEST_S // 86400} are read. "
            "The header or the rate is wrong."
        )


def _probe(opened, unit):
    """Look at some stretches: refuse nothing but NaN, and values that are not in mV."""
    length = min(opened.n_samples, int(_PROBE_S * opened.fs))
    starts = np.linspace(0, opened.n_samples - length, _PROBES).astype(int)
    swings = [_swings(opened.read(start, start + length), opened.fs) for start in set(starts)]
    swings = np.concatenate(swings)  # (2 s stretches, leads)
    if not np.isfinite(swings).any():
        step = int(600 * opened.fs)
        for start in range(0, opened.n_samples, step):
            block = opened.read(start, min(start + step, opened.n_samples))
            if np.isfinite(block).any():
                return
        raise ValueError(f"recording {opened.name}: every sample is NaN; nothing was recorded.")
    typical = [np.median(of[np.isfinite(of)]) for of in swings.T if np.isfinite(of).any()]
    largest = float(max(typical))
    said = "the unit that the file gives or none" if unit is None else f"unit={unit!r}"
    if largest > _LARGEST_SWING_MV:
        raise ValueError(
            f"recording {opened.name}: values swing by {largest:.4g} mV within 2 s, taken in "
            f"{said}; no ECG does. They are likely microvolts or raw counts: give unit='uV', or "
            "the millivolts of one count, as in unit=1/200."
        )
    if unit is None and 1e-4 < largest < _SMALLEST_SWING_MV:
        raise ValueError(
            f"recording {opened.name}: values swing by {largest:.2g} mV within 2 s, taken in "
            f"{said}; that is too small for an ECG. They are likely volts: give unit='V', or "
            "unit='mV' if they are right."
        )


def _swings(block, fs):
    """Largest minus smallest value of each 2 s of a block, NaN where there is NaN, (n, leads)."""
    step = int(_LEAST_S * fs)
    n = max(1, len(block) // step)
    return np.stack([np.ptp(block[i * step : (i + 1) * step], axis=0) for i in range(n)])


def _open_array(x, name, *, fs, leads, unit):
    """An array (samples,) or (samples, leads)."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiu":
        try:
            x = x.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"a recording must be a path, a table or numbers, got an array of {x.dtype}."
            ) from None
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or not x.size:
        raise ValueError(
            f"a recording must have shape (samples,) or (samples, leads), got {x.shape}."
        )
    if x.shape[1] > x.shape[0]:
        raise ValueError(
            f"a recording must have shape (samples, leads), got {x.shape}; turn it with x.T."
        )
    if fs is None:
        raise ValueError("the sampling rate of an array is not known; give fs, in Hz.")
    fs, notes = float(check_positive("fs", fs)), []
    _check_size(name, len(x), fs)
    names = ["ECG"] if x.shape[1] == 1 else [f"ECG{i + 1}" for i in range(x.shape[1])]
    if leads is not None:
        names = [leads] if isinstance(leads, str) else [str(of) for of in leads]
        if len(names) != x.shape[1] or len(set(names)) < len(names):
            raise ValueError(
                f"leads must name each of the {x.shape[1]} columns of the array once, got {names}."
            )
    if unit is None:
        notes.append("Values were taken as mV.")
    factor = 1.0 if unit is None else _factor(unit)
    return OpenRecording(
        name, fs, tuple(names), len(x), functools.partial(_slice, x, factor), None, tuple(notes)
    )


def _slice(x, factor, start, stop):
    """Rows of an array in mV; infinite values count as missing."""
    block = (x[start:stop] * factor).astype(np.float32)
    block[~np.isfinite(block)] = np.nan
    return block


@dataclass(frozen=True)
class _Segment:
    """A stretch of a WFDB record that lies in files of its own; `header` is wfdb's."""

    base: pathlib.Path
    header: object
    start: int  # frames
    length: int


def _open_wfdb(base, *, fs, leads, unit):
    """A WFDB record, of one segment or of several."""
    wfdb = require("wfdb", "wfdb")
    name, path = base.name, base.with_name(base.name + ".hea")
    _check_regular(path, _LARGEST_HEADER)
    header = _read(wfdb.rdheader, base, ".hea")
    _check_size(name, (header.sig_len or 0), header.fs or 0)
    segments = _segments(wfdb, base, header)
    channels = {}  # of all segments: lead to unit and samples per frame
    for segment in segments:
        _check_files(segment.base, segment.header)
        for lead, its_unit, ratio, gain in _channels(segment.header):
            if not np.isfinite(gain) or gain <= 0:
                raise ValueError(
                    f"record {segment.base.name}: the header gives lead {lead} a gain of {gain:g}; "
                    "it must be above 0."
                )
            if channels.setdefault(lead, (its_unit, ratio))[1] != ratio:
                raise ValueError(f"record {name}: lead {lead} has another rate in each segment.")
    chosen, notes = _choose_ecg(name, {of: told for of, told in channels.items()}, leads, unit)
    ratios = [channels[lead][1] for lead in chosen]
    most = max(ratios)
    rate = _agreed_rate(name, fs, float(header.fs * most))
    if len(set(ratios)) > 1:
        notes.append("Leads of a lower rate were brought to the highest by straight lines.")
    if len(segments) > 1 or segments[0].length < header.sig_len:
        gap = header.sig_len - sum(segment.length for segment in segments)
        notes.append(f"{len(segments)} segments; {gap / header.fs:g} s between them are missing.")
    start = None
    if header.base_time is not None and header.base_date is not None:
        start = datetime.datetime.combine(header.base_date, header.base_time)
    elif header.base_time is not None:
        notes.append(f"Starts at {header.base_time:%H:%M:%S}; the date is not known.")
    read = functools.partial(_wfdb_block, segments, chosen, ratios, header.sig_len, unit)
    return OpenRecording(name, rate, chosen, int(header.sig_len) * most, read, start, tuple(notes))


def _segments(wfdb, base, header):
    """The stretches of a record that were recorded, each with its header."""
    if not hasattr(header, "seg_name"):
        return [_Segment(base, header, 0, header.sig_len)]
    if len(header.seg_name) != header.n_seg or sum(header.seg_len) != header.sig_len:
        raise ValueError(
            f"record {base.name}: the header says {header.n_seg} segments of {header.sig_len} "
            f"samples together and lists {len(header.seg_name)} of {sum(header.seg_len)}."
        )
    segments, at = [], 0
    for of, length in zip(header.seg_name, header.seg_len):
        if length and of != "~":  # a length of 0: the layout, which lists all leads
            part = base.with_name(of)
            its = _read(wfdb.rdheader, part, ".hea")
            if hasattr(its, "seg_name") or its.sig_len != length or its.fs != header.fs:
                raise ValueError(
                    f"record {base.name}: {base.name}.hea says that segment {of} has {length} "
                    f"samples at {header.fs:g} Hz; {of}.hea says {its.sig_len} at {its.fs:g} Hz."
                )
            segments.append(_Segment(part, its, at, length))
        at += length
    if not segments:
        raise ValueError(f"record {base.name}: none of its segments was recorded.")
    return segments


def _channels(header):
    """Lead, unit, samples per frame and gain of each channel of a WFDB header."""
    return [
        (lead, header.units[i], header.samps_per_frame[i] or 1, header.adc_gain[i])
        for i, lead in enumerate(_unique(header.sig_name))
    ]


def _choose_ecg(name, channels, leads, unit):
    """Channels, a dict of (unit, rate) by name, to the names of those read, and notes."""
    notes, present = [], tuple(channels)
    if leads is not None:
        chosen = tuple(present[i] for i in choose_leads(name, present, leads))
    else:
        chosen = tuple(
            of
            for of, (its, _) in channels.items()
            if not _OTHER.search(of) and (unit is not None or _is_voltage(its))
        )
        marked = tuple(of for of in chosen if re.search("ecg|ekg", of, re.IGNORECASE))
        other = [of for of in chosen if of not in marked and _plain(of) not in _LEADS]
        if marked and len(other) + len(marked) < len(present):
            chosen = tuple(of for of in chosen if of not in other)
        best = max((channels[of][1] for of in chosen), default=0)
        chosen = tuple(of for of in chosen if channels[of][1] == best)
        if not chosen:
            told = ", ".join(f"{of} ({its})" for of, (its, _) in channels.items())
            raise ValueError(
                f"recording {name}: none of its channels is an ECG in volts; it has {told}. "
                "Name one by leads, with unit if its own is not a voltage."
            )
        if len(chosen) < len(present):
            notes.append(f"Left out: {', '.join(of for of in present if of not in chosen)}.")
    for of in chosen:
        its = channels[of][0]
        if unit is not None:
            continue
        if not _is_voltage(its):
            raise ValueError(
                f"recording {name}: lead {of} is in {its!r}, which is not a voltage; "
                f"give unit: {_UNITS}."
            )
        if _factor(its) != 1:
            notes.append(f"{of} was converted from {its} to mV.")
    if unit is not None:
        _factor(unit)
        notes.append(f"Values were taken as {unit}.")
    return chosen, notes


def _is_voltage(unit):
    """Whether a header's unit is one that is converted."""
    try:
        return _factor(str(unit)) > 0
    except ValueError:
        return False


_LEADS = {"i", "ii", "iii", "avr", "avl", "avf", "vx", "vy", "vz", "x", "y", "z", *"12345678"}
_LEADS |= {f"v{i}" for i in range(1, 10)} | {"d1", "d2", "d3", "cs", "cc5", "cm5", "cm2"}


def _wfdb_block(segments, leads, ratios, n_frames, unit, start, stop):
    """Samples `start` to `stop` of a WFDB record, (stop - start, leads), in mV."""
    wfdb = require("wfdb", "wfdb")
    most = max(ratios)
    first, last = start // most, min(-(-stop // most) + (len(set(ratios)) > 1), n_frames)
    frames = [np.full((last - first) * ratio, np.nan, np.float32) for ratio in ratios]
    for segment in segments:
        a, b = max(first, segment.start), min(last, segment.start + segment.length)
        present = _channels(segment.header)
        names = [of for of, *_ in present]
        rows = [names.index(lead) for lead in leads if lead in names]
        if a >= b or not rows:
            continue
        record = _read(
            wfdb.rdrecord,
            segment.base,
            ".hea",
            sampfrom=a - segment.start,
            sampto=b - segment.start,
            channels=rows,
            smooth_frames=False,
        )
        for lead, ratio, column in zip(leads, ratios, frames):
            if lead in names:
                factor = _factor(unit if unit is not None else present[names.index(lead)][1])
                values = record.e_p_signal[rows.index(names.index(lead))] * factor
                column[(a - first) * ratio : (b - first) * ratio] = values
    at = np.arange(start, stop)
    columns = [_stretch(of, most / ratio, at - first * most) for of, ratio in zip(frames, ratios)]
    return np.stack(columns, axis=1)


def _stretch(values, ratio, at):
    """Values whose rate is lower by `ratio` at samples `at` of the higher rate."""
    if ratio == 1:
        return values[at[0] : at[-1] + 1]
    return np.interp(at / ratio, np.arange(len(values)), values)


_KINDS = {"wfdb": _open_wfdb}
_ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".edf": "edf",
    ".bdf": "edf",
}


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording: its signal, and its annotated beats."""

    name: str
    signal: np.ndarray  # float64 (samples, leads)
    fs: float  # Hz
    leads: tuple
    unit: str
    peaks: np.ndarray  # R peaks: int64 (n_beats,), rising
    symbols: np.ndarray  # PhysioNet's symbol of each beat, one character
    flutter: tuple = ()  # (first, last) sample of each stretch of ventricular flutter
    synthetic: bool = False
    late: int = 0  # annotations at or after the end, which were left out

    @property
    def aami(self):
        """AAMI class of each beat, one character, shape (n_beats,)."""
        return aami_classes(self.symbols)


def list_records(directory):
    """Names of the recordings in a folder, sorted.

    Raises
    ------
    ValueError
        If the folder is absent or holds no header file.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such folder.")
    names = sorted(path.stem for path in directory.glob("*.hea"))
    if not names:
        below = sorted({str(path.parent) for path in directory.glob("*/*.hea")})
        hint = (
            f"; {below[0]} does"
            if below
            else "; get them with: ecg-keras download mitbih_records DIR"
        )
        raise ValueError(f"{directory}: holds no WFDB records (no .hea file){hint}.")
    return names


def read_recording(directory, name, *, lead="MLII"):
    """Read one recording and its beats.

    Parameters
    ----------
    directory : path
        Folder of the .hea, .dat and .atr files.
    name : str
        Record name, as in ``"100"``.
    lead : str, sequence of str or None, default "MLII"
        Leads by name, in the order wanted. "other" stands for the first lead of the recording
        that is not named; None takes all as they come.

    Returns
    -------
    Recording

    Raises
    ------
    ValueError
        If a file is missing, truncated or contradicts the header, a lead is absent, constant or
        holds NaN, there are fewer than 10 beats, or annotations are not of this signal; names the
        recording. A few annotations at or after its end (within a second, and not more than 1 % or
        one) are left out and counted as `late`.
    ImportError
        If wfdb is not installed.
    """
    wfdb = require("wfdb", "wfdb")
    directory, name = pathlib.Path(directory), str(name)
    present = list_records(directory)
    if name not in present:
        raise ValueError(f"record {name!r} is not in {directory}; it holds {', '.join(present)}.")
    base = directory / name
    header = _read(wfdb.rdheader, base, ".hea")
    _check_files(base, header)
    columns = _columns(name, header.sig_name, lead)
    record = _read(wfdb.rdrecord, base, ".dat", channels=columns)
    signal = record.p_signal
    for column, of in zip(signal.T, record.sig_name):
        if not np.isfinite(column).all():
            raise ValueError(
                f"record {name}: lead {of} has {int((~np.isfinite(column)).sum())} NaN samples "
                f"of {len(column)}."
            )
        if np.ptp(column) == 0:
            raise ValueError(
                f"record {name}: lead {of} is constant ({column[0]:g} {record.units[0]}); "
                "nothing was recorded."
            )
    with _wide_bytes():
        notes = _read(wfdb.rdann, base, ".atr", extension="atr")
    inside = _inside(name, notes.sample, len(signal), record.fs)
    samples, symbols = notes.sample[inside], np.asarray(notes.symbol)[inside]
    beats = np.isin(symbols, list(BEAT_SYMBOLS))
    if beats.sum() < 10:
        raise ValueError(
            f"record {name}: {name}.atr holds {int(beats.sum())} beat annotations; "
            "at least 10 are needed."
        )
    peaks, order = np.unique(samples[beats].astype(np.int64), return_index=True)
    return Recording(
        name,
        signal,
        float(record.fs),
        tuple(record.sig_name),
        record.units[0],
        peaks,
        symbols[beats][order],
        _flutter(samples, symbols, len(signal)),
        any("synthetic" in comment.lower() for comment in header.comments),
        int((~inside).sum()),
    )


@contextlib.contextmanager
def _wide_bytes():
    """Let wfdb before 4.2 read annotations under NumPy 2, where its sums of uint8 overflow."""
    from wfdb.io import annotation

    load = annotation.load_byte_pairs
    annotation.load_byte_pairs = lambda *arguments: load(*arguments).astype(np.int64)
    try:
        yield
    finally:
        annotation.load_byte_pairs = load


def _read(function, base, ending, **options):
    """Call a reader of wfdb; what it cannot read is an error that names the file."""
    path = base.with_name(base.name + ending)
    if not path.is_file():
        raise ValueError(f"record {base.name}: {path.name} is missing in {base.parent}.")
    arguments = {"record_name": str(base)} | options
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # wfdb's own calls of pandas
            warnings.simplefilter("ignore", FutureWarning)
            return function(**arguments)
    except (
        ValueError,
        IndexError,
        TypeError,
        KeyError,
        OSError,
        AttributeError,
        OverflowError,
    ) as error:  # seen on damaged files
        raise ValueError(
            f"record {base.name}: {path.name} cannot be read ({type(error).__name__}: {error})."
        ) from error


def _check_files(base, header):
    """Refuse sample files that are missing or whose size is not what the header says."""
    name = base.name
    if not header.n_sig or not header.sig_len or not header.fs:
        raise ValueError(
            f"record {name}: {name}.hea gives {header.n_sig} leads, {header.sig_len} samples at "
            f"{header.fs} Hz; all must be above 0."
        )
    if len(header.file_name or ()) != header.n_sig:
        raise ValueError(
            f"record {name}: {name}.hea says {header.n_sig} leads and describes "
            f"{len(header.file_name or ())}."
        )
    for file in dict.fromkeys(header.file_name):
        path = base.with_name(file)
        if not path.is_file():
            raise ValueError(f"record {name}: {file} is missing in {base.parent}.")
        rows = [i for i, other in enumerate(header.file_name) if other == file]
        if not all(header.fmt[i] in _BYTES for i in rows):
            continue  # a compressed format has no size to check
        per_frame = sum(_BYTES[header.fmt[i]] * (header.samps_per_frame[i] or 1) for i in rows)
        expected = int(np.ceil(per_frame * header.sig_len)) + (header.byte_offset[rows[0]] or 0)
        found = path.stat().st_size
        if not expected <= found <= expected + _SLACK:
            what = "truncated" if found < expected else "longer than that"
            raise ValueError(
                f"record {name}: {name}.hea says {len(rows)} leads of {header.sig_len} samples, "
                f"which are {expected} bytes, but {file} has {found}: the file is {what}, "
                "or the header is wrong."
            )


def _columns(name, present, lead):
    """Lead names to column numbers."""
    if lead is None:
        return list(range(len(present)))
    wanted = [lead] if isinstance(lead, str) else list(lead)
    rest = [i for i, of in enumerate(present) if of not in wanted]
    columns = []
    for of in wanted:
        if of == "other" and not rest:
            raise ValueError(
                f"record {name}: lead 'other' asks for a second lead, "
                f"and it has only {', '.join(present)}."
            )
        if of != "other" and of not in present:
            raise ValueError(f"record {name}: lead {of!r} is absent; it has {', '.join(present)}.")
        columns.append(rest[0] if of == "other" else present.index(of))
    return columns


def _inside(name, samples, length, fs):
    """Which annotations lie in the signal; an error if others are too far out, or too many."""
    late, first, last = samples >= length, samples.min(initial=0), samples.max(initial=0)
    if first < 0 or last > length - 1 + fs or late.sum() > max(1, 0.01 * len(samples)):
        worst, where = (first, "before the start") if first < 0 else (last, "beyond the end")
        raise ValueError(
            f"record {name}: annotation at sample {int(worst)} lies {where} of the signal "
            f"({length} samples; {late.sum()} of {len(samples)} annotations lie after it); "
            f"{name}.atr belongs to another recording, or {name}.hea gives too short a length."
        )
    return ~late


def _flutter(samples, symbols, length):
    """Stretches between ``[`` and ``]``, as pairs of samples."""
    spans, start = [], None
    for sample, symbol in zip(samples, symbols):
        if symbol == "[":
            start = int(sample)
        elif symbol == "]" and start is not None:
            spans.append((start, int(sample)))
            start = None
    return tuple(spans if start is None else [*spans, (start, length - 1)])
