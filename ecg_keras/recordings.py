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
import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecg_keras._checks import check_positive, require
from ecg_keras.beats import BEAT_SYMBOLS, aami_classes

# of WFDB's annotation files: the symbol of each code, and the bits of the subtype of "~" that say
# that no signal can be read
ANNOTATION_CODES = ' NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r'
UNREADABLE = 0x30
ONE_PATIENT = {"201": "201+202", "202": "201+202"}  # the one man with two recordings in MIT-BIH

# bytes per sample, by WFDB format
_BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "212": 1.5, "24": 3, "32": 4}
_SLACK = 512  # bytes that a file may have beyond its samples: some are padded to a whole block

_MV = {"nv": 1e-6, "uv": 1e-3, "mv": 1.0, "v": 1e3}  # millivolts, by unit in small letters
_UNITS = "'mV', 'uV', 'V', 'nV', or a number: millivolts per unit"
_LEAST_S, _LONGEST_S = 2, 31 * 86400  # a recording shorter or longer than this is refused
_LOWEST_HZ, _HIGHEST_HZ = 20, 100_000  # another rate is a wrong time or a damaged header
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
_COUNTER = re.compile(r"^\W*((sample|index|row|n|no|unnamed)\b.*)?$", re.IGNORECASE)
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


def unit_factor(unit):
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
    if not _LOWEST_HZ <= fs <= _HIGHEST_HZ:
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
    said = "as the unit of the file or mV" if unit is None else f"by unit={unit!r}"
    if largest > _LARGEST_SWING_MV:
        raise ValueError(
            f"recording {opened.name}: values swing by {largest:.4g} mV within 2 s, taken "
            f"{said}; no ECG does. They are likely microvolts or raw counts: give unit='uV', or "
            "the millivolts of one count, as in unit=1/200."
        )
    if unit is None and 1e-4 < largest < _SMALLEST_SWING_MV:
        raise ValueError(
            f"recording {opened.name}: values swing by {largest:.2g} mV within 2 s, taken "
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
    factor = 1.0 if unit is None else unit_factor(unit)
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
    if not header.sig_len or not header.n_sig:
        raise ValueError(
            f"record {name}: {path.name} gives {header.n_sig} leads of {header.sig_len} samples; "
            "both must be above 0."
        )
    _check_size(name, header.sig_len, header.fs or 0)
    segments = _segments(wfdb, base, header)
    channels, uncalibrated = {}, []  # of all segments: lead to unit and samples per frame
    for segment in segments:
        _check_files(segment.base, segment.header)
        zeros = _zero_gains(segment.base)
        for i, (lead, its_unit, ratio, gain) in enumerate(_channels(segment.header)):
            uncalibrated += [lead] * (i in zeros and lead not in uncalibrated)
            if not np.isfinite(gain) or gain <= 0:
                raise ValueError(
                    f"record {segment.base.name}: the header gives lead {lead} a gain of {gain:g}; "
                    "it must be above 0."
                )
            if channels.setdefault(lead, (its_unit, ratio))[1] != ratio:
                raise ValueError(f"record {name}: lead {lead} has another rate in each segment.")
    chosen, notes = _choose_ecg(name, {of: told for of, told in channels.items()}, leads, unit)
    if these := [lead for lead in chosen if lead in uncalibrated]:
        notes.append(
            f"The header gives {', '.join(these)} a gain of 0, not calibrated: 200 units are taken "
            "for 1 mV, as WFDB does."
        )
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


def _zero_gains(base):
    """Rows of the channels whose gain a header gives as 0, which wfdb reads as 200."""
    text = base.with_name(base.name + ".hea").read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")][1:]
    fields = [line.split() for line in lines]
    return {
        i
        for i, of in enumerate(fields)
        if len(of) > 2 and re.match(r"-?0*\.?0*(e[+-]?\d+)?([(/]|$)", of[2]) and "0" in of[2]
    }


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
        if unit_factor(its) != 1:
            notes.append(f"{of} was converted from {its} to mV.")
    if unit is not None:
        unit_factor(unit)
        notes.append(f"Values were taken as {unit}.")
    return chosen, notes


def _is_voltage(unit):
    """Whether a header's unit is one that is converted."""
    try:
        return unit_factor(str(unit)) > 0
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
                factor = unit_factor(unit if unit is not None else present[names.index(lead)][1])
                values = record.e_p_signal[rows.index(names.index(lead))] * factor
                column[(a - first) * ratio : (b - first) * ratio] = values
    at = np.arange(start, stop)
    columns = [_stretch(of, most / ratio, at - first * most) for of, ratio in zip(frames, ratios)]
    return np.stack(columns, axis=1)


def _stretch(values, ratio, at):
    """Values whose rate is lower by `ratio` at samples `at` of the higher rate."""
    if ratio == 1:
        return values[int(at[0]) : int(at[-1]) + 1]
    return np.interp(at / ratio, np.arange(len(values)), values)


def _open_csv(path, *, fs, leads, unit):
    """A text file of numbers: a row per sample, with or without names and times."""
    _check_regular(path, _LARGEST_TEXT)
    try:
        with pd.io.common.get_handle(path, "r", encoding="utf-8-sig", errors="replace") as handles:
            lines = [line for _, line in zip(range(200), handles.handle)]
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error}).") from None
    first, separator, decimal = _layout(path, lines)
    told = _preamble(lines[:first])
    names = [of.strip().strip("\"'") for of in lines[first - 1].split(separator)] if first else []
    rows = lines[first:]
    if len(names) != len(rows[0].rstrip("\r\n").split(separator)) or told:
        names = []
    try:
        table = pd.read_csv(
            path,
            sep=separator if separator is not None else r"\s+",
            skiprows=first,
            names=names or None,
            header=None,
            decimal=decimal,
            encoding="utf-8-sig",
            encoding_errors="replace",
            skip_blank_lines=True,
            index_col=False,
            low_memory=False,
        )
    except (ValueError, pd.errors.ParserError) as error:
        said = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path}: is no table of numbers ({said}).") from None
    if "rate" in told and fs is None:
        fs = told["rate"]
    if "unit" in told and unit is None:
        unit = told["unit"]
    if "lead" in told and leads is None and table.shape[1] == 1:
        leads = told["lead"]
    return _open_table(table, path.name.split(".")[0], fs=fs, leads=leads, unit=unit)


def _layout(path, lines):
    """Number of the first line of numbers, the separator (None: spaces) and the decimal sign."""
    for separator in (",", ";", "\t", None):
        for decimal in (".", ",") if separator != "," else (".",):
            good = [_is_row(line, separator, decimal) for line in lines]
            filled = [line.strip() != "" for line in lines]
            if True not in good:
                continue
            first = good.index(True)
            of = [a for a, b in zip(good[first:], filled[first:]) if b]
            if np.mean(of) > 0.9:
                return first, separator, decimal
    raise ValueError(
        f"{path}: is no recording that can be read; expected a WFDB record, a CSV of numbers, "
        "Parquet or EDF."
    )


def _is_row(line, separator, decimal):
    """Whether a line holds samples: at least one number, and nothing but numbers and times."""
    cells = [cell.strip().strip("\"'") for cell in line.rstrip("\r\n").split(separator)]
    numbers = 0
    for cell in cells:
        try:
            numbers += np.isfinite(float(cell.replace(",", ".") if decimal == "," else cell))
        except ValueError:
            if cell and cell.casefold() not in _MISSING and not _CLOCK.search(cell):
                return False
    return numbers > 0


_MISSING = ("nan", "na", "n/a", "null", "none", "-")
_CLOCK = re.compile(r"^\W*(\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}[T ]*)?\d{1,2}:\d{2}(:\d{2})?")


def _preamble(lines):
    """What lines before the samples tell as "key,value": rate, unit and lead."""
    told = {}
    for line in lines:
        key, _, value = (part.strip().strip("\"'") for part in re.sub("[;:\t]", ",", line, count=1)
                         .partition(","))  # fmt: skip
        key, number = key.casefold(), re.match(r"[\d.]+", value)
        if re.search(r"sampl\w* ?rate|frequency|^fs$", key) and number:
            told["rate"] = float(number.group())
        elif key in ("unit", "units") and _is_voltage(value):
            told["unit"] = value
        elif key == "lead" and value:
            told["lead"] = value
    return told


def _open_parquet(path, *, fs, leads, unit):
    """A Parquet file whose columns are leads, with or without times."""
    require("pyarrow", "parquet")
    _check_regular(path, _LARGEST_TEXT)
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError, TypeError, OverflowError) as error:
        said = str(error).strip().split("\n")[0]
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {said}).") from None
    return _open_table(table, path.stem, fs=fs, leads=leads, unit=unit)


def _open_table(table, name, *, fs, leads, unit):
    """A DataFrame whose columns are leads; a column, or the index, may be the time."""
    notes = []
    if not len(table):
        raise ValueError(f"recording {name}: the table has no rows.")
    named = not all(isinstance(of, (int, np.integer)) for of in table.columns)
    timed = isinstance(table.index, (pd.DatetimeIndex, pd.TimedeltaIndex)) or (
        _TIME.match(str(table.index.name)) is not None
    )
    if timed or (table.index.dtype.kind == "f" and table.index.name is None):
        index = table.index.name or "time"
        table = table.reset_index(names=index)
        table.columns = [index, *table.columns[1:]]
        time = table.columns[0]
    else:
        times = [of for of in table.columns if _TIME.match(str(of))]
        rising = (of for of in times if _rises(table[of]))
        time = next(rising, times[0] if times else None)
        table = table.drop(columns=[of for of in times if of != time])
    columns = {of: _numbers(table.iloc[:, i]) for i, of in enumerate(table.columns)}
    if time is None and not named and len(columns) > 1:
        first = columns[table.columns[0]]
        steps = np.array([]) if first is None else np.diff(first)
        if first is None and _moments(table.iloc[:, 0]) is not None:
            time = table.columns[0]
        elif len(steps) and (steps > 0).all() and len(steps) > 8:
            time = table.columns[0]
            if np.allclose(steps, 1):
                columns.pop(time)
                time = None
                notes.append("The first column counts samples; it is no lead.")
            else:
                notes.append("The first column rises at every row: it was taken as the time.")
    counters = [of for of in columns if named and of != time and _counts(of, columns[of])]
    signals = {
        of: column
        for of, column in columns.items()
        if of != time and of not in counters and column is not None and np.isfinite(column).any()
    }
    empty = [str(of) for of in columns if of != time and of not in signals and of not in counters]
    if not signals:
        if any(column is not None and of != time for of, column in columns.items()):
            raise ValueError(f"recording {name}: every sample is NaN; nothing was recorded.")
        raise ValueError(
            f"recording {name}: none of its columns holds numbers; "
            f"it has {', '.join(str(of) for of in columns)}."
        )
    if empty:
        notes.append(f"Left out, as they hold no numbers: {', '.join(empty)}.")
    units = {str(of): _unit_in(str(of)) for of in signals}
    if not named:
        given = None if leads is None else [leads] if isinstance(leads, str) else list(leads)
        if given is not None and len(given) != len(signals):
            raise ValueError(
                f"recording {name}: leads must name each of its {len(signals)} columns of "
                f"numbers, got {given}."
            )
        several = [f"ECG{i + 1}" for i in range(len(signals))]
        chosen = tuple(given or (several if len(signals) > 1 else ["ECG"]))
        columns, its = list(signals.values()), [None] * len(chosen)
    else:
        channels = _unique([str(of) for of in signals])
        told = {of: (units[str(key)] or "mV", 1) for of, key in zip(channels, signals)}
        chosen, more = _choose_ecg(name, told, leads, unit)
        notes += more
        rows = [channels.index(of) for of in chosen]
        columns = [list(signals.values())[i] for i in rows]
        its = [units[str(list(signals)[i])] for i in rows]
    if unit is None and None in its:
        notes.append("Values were taken as mV.")
    factors = np.array([unit_factor(unit if unit is not None else of or "mV") for of in its])
    x = np.column_stack(columns)
    x = (x * factors).astype(np.float32)
    start = None
    if time is not None:
        rows, fs, start, more = _times(name, time, table[time], fs)
        notes += more
        x = _evened(x, rows)
    elif fs is None:
        raise ValueError(
            f"recording {name}: has no column of times (it has "
            f"{', '.join(str(of) for of in table.columns)}), so its rate is not known; "
            "give fs, in Hz."
        )
    fs = float(check_positive("fs", fs))
    _check_size(name, len(x), fs)
    return OpenRecording(
        name, fs, chosen, len(x), functools.partial(_slice, x, 1), start, tuple(notes)
    )


def _numbers(column):
    """A column as float64, or None if it holds something else."""
    if column.dtype.kind == "b" or column.dtype.kind in "Mm":
        return None
    if column.dtype.kind in "fiu":
        return column.to_numpy(np.float64, na_value=np.nan)
    found = pd.to_numeric(column, errors="coerce")
    kept = column.notna() & ~column.astype(str).str.strip().str.casefold().isin(["", *_MISSING])
    if found[kept].isna().any() or not kept.any():
        return None
    return found.to_numpy(np.float64, na_value=np.nan)


def _rises(column):
    """Whether a column's numbers rise at every row."""
    numbers = _numbers(column)
    return numbers is not None and bool((np.diff(numbers) > 0).all())


def _counts(name, column):
    """Whether a column with such a name counts the rows."""
    if column is None or not _COUNTER.match(str(name)):
        return False
    return len(column) > 1 and bool((np.diff(column) == 1).all())


def _unit_in(name):
    """The unit that a column's name ends with, as in "ecg [uV]" or "II_mV", or None."""
    found = re.search(r"(?:[\[(]\s*|[\s_])([nuµμm]?[vV])\s*[\])]?$", name)
    return found.group(1) if found and found.group(1) not in ("V", "v") or (
        found and re.search(r"[\[(]", name)) else None  # fmt: skip


def _moments(column):
    """A column of dates and times, or of times of day, as datetime64[ns]; None if it is neither."""
    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return column
    if column.dtype.kind in "fiub":
        return None
    texts = column.astype(str).str.strip().str.strip("'[]\"")
    for convert in (
        lambda of: pd.to_datetime(of, format="ISO8601"),
        lambda of: pd.Timestamp(1970, 1, 1) + pd.to_timedelta(of),
        lambda of: pd.to_datetime(of, format="mixed", dayfirst=True),
    ):
        try:
            return convert(texts)
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _times(name, label, column, fs):
    """Times of rows to the place of each on an even grid, the rate, the start and notes."""
    start, moments = None, None
    if column.dtype.kind == "m":
        t = column.to_numpy().astype("timedelta64[ns]").astype(np.float64) / 1e9
    elif (numbers := _numbers(column)) is not None:
        t, start = _seconds(str(label), numbers)
    elif (moments := _moments(column)) is not None:
        if moments.isna().any():
            raise ValueError(f"recording {name}: some times in column {label} are missing.")
        start = moments.iloc[0].to_pydatetime(warn=False)
        t = (moments - moments.iloc[0]).dt.total_seconds().to_numpy(np.float64)
        start = start if start.year > 1970 else None  # a time of day without a date
    else:
        raise ValueError(
            f"recording {name}: column {label} is not a time; it starts with {column.iloc[0]!r}."
        )
    if not np.isfinite(t).all():
        raise ValueError(
            f"recording {name}: the time in column {label} is missing in "
            f"{int((~np.isfinite(t)).sum())} rows."
        )
    steps = np.diff(t)
    if not len(steps) or (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 1 if len(steps) else 0
        if fs is None or (steps < 0).any():
            what = "goes back" if len(steps) and (steps < 0).any() else "does not rise"
            raise ValueError(
                f"recording {name}: the time in column {label} {what} at row {row}; "
                "sort the rows, or leave the column out and give fs, in Hz."
            )
        note = f"Times in column {label} repeat, so fs was used and gaps were not looked for."
        return np.arange(len(t), dtype=np.float64), fs, start, [note]
    usual = np.median(steps)
    gaps = steps > max(1.6 * usual, np.quantile(steps, 0.98) * 1.2 if len(steps) > 50 else 0)
    step = steps[~gaps].mean()
    gaps = steps > 1.6 * step if np.ptp(steps[~gaps]) < 1.5 * step else gaps
    step = steps[~gaps].mean()
    known = 1 / step
    if known < _LOWEST_HZ:
        raise ValueError(
            f"recording {name}: times in column {label} rise by {step:g} s a row, which is "
            f"{known:.3g} Hz and not the rate of an ECG; if they are milliseconds, name the "
            "column time_ms."
        )
    known = round(known) if abs(known / round(known or 1) - 1) < 5e-4 else known
    fs = float(known) if fs is None else float(check_positive("fs", fs))
    _agreed_rate(name, fs, known)
    if steps.max() > _GAP_S:
        raise ValueError(
            f"recording {name}: the time in column {label} jumps by {steps.max():.4g} s at row "
            f"{int(steps.argmax()) + 1}; such a gap is a wrong time."
        )
    notes, rows, at = [], np.empty(len(t)), 0.0
    bounds = [0, *(np.flatnonzero(gaps) + 1), len(t)]
    uneven = False
    for a, b in zip(bounds, bounds[1:]):
        begin = max((t[a] - t[0]) * fs, at)
        even = round(begin) + np.arange(b - a)
        off = (t[a:b] - t[a]) * known - np.arange(b - a)
        if np.ptp(off) > 2:  # samples from where an even grid has them
            uneven = True
            rows[a:b] = round(begin) + (t[a:b] - t[a]) * fs
        else:
            rows[a:b] = even
        at = np.ceil(rows[b - 1]) + 1
    if gaps.any():
        missing = float(steps[gaps].sum() - gaps.sum() * step)
        notes.append(f"{int(gaps.sum())} gaps, {missing:.4g} s together, are NaN.")
    if uneven:
        notes.append(
            f"Steps of the time are uneven ({1e3 * steps[~gaps].min():.3g} to "
            f"{1e3 * steps[~gaps].max():.3g} ms); samples were put on an even grid by straight "
            "lines."
        )
    notes.append(f"Rate found from the times in column {label}: {fs:.6g} Hz.")
    return rows, fs, start, notes


def _seconds(label, numbers):
    """Numbers of a time column to seconds, and the start where they count from 1970."""
    unit = re.search(r"(?:[\[(_\s]\s*|^)(ns|us|µs|ms|s|millis)\w*\s*[\])]?$", label.casefold())
    size = np.nanmax(np.abs(numbers))
    per_s = None
    if unit:
        per_s = _PER_S[unit.group(1).replace("millis", "ms")]
    elif size > 1e8:  # since 1970, in the unit that makes it a year of ours
        per_s = next((of for of in (1, 1e3, 1e6, 1e9) if size / of < 1e10), 1e9)
    per_s = per_s or 1
    start = None
    if 3e8 < numbers[0] / per_s < 1e10:
        start = datetime.datetime.fromtimestamp(numbers[0] / per_s, datetime.UTC)
    return (numbers - numbers[0]) / per_s, start


def _evened(x, rows):
    """Rows of a table put at their places on an even grid, NaN between those far apart."""
    whole = np.round(rows).astype(np.int64)
    n = int(whole[-1]) + 1
    if (rows == whole).all() and n == len(x):
        return x
    y = np.full((n, x.shape[1]), np.nan, np.float32)
    if (rows == whole).all():
        y[whole] = x
        return y
    grid = np.arange(n)
    right = np.clip(np.searchsorted(rows, grid), 1, len(rows) - 1)
    width = rows[right] - rows[right - 1]
    near = np.minimum(np.abs(rows[right] - grid), np.abs(rows[right - 1] - grid))
    for column, values in zip(y.T, x.T):
        column[:] = np.interp(grid, rows, values)
    y[(width > 3) & (near > 1)] = np.nan
    return y


def _open_edf(path, *, fs, leads, unit):
    """An EDF, EDF+ or BDF file."""
    pyedflib = require("pyedflib", "edf")
    _check_regular(path)
    try:
        with pyedflib.EdfReader(str(path), annotations_mode=pyedflib.DO_NOT_READ_ANNOTATIONS) as of:
            labels, rates = of.getSignalLabels(), of.getSampleFrequencies()
            units = [of.getPhysicalDimension(i).strip() for i in range(len(labels))]
            lengths = of.getNSamples()
            start = of.getStartdatetime()
            flat = [
                of.getPhysicalMaximum(i) == of.getPhysicalMinimum(i) for i in range(len(labels))
            ]
    except (OSError, ValueError, TypeError, UnicodeError, IndexError) as error:
        said = " ".join(str(error).replace(str(path), "").split()).strip(": ")
        raise ValueError(f"{path}: cannot be read as EDF ({said}).") from None
    labels = _unique([label.strip() or f"channel {i + 1}" for i, label in enumerate(labels)])
    channels = {
        label: (units[i] or "mV", float(rates[i]))
        for i, label in enumerate(labels)
        if "annotations" not in label.casefold() and rates[i] > 0
    }
    if not channels:
        raise ValueError(f"{path}: holds no signals.")
    chosen, notes = _choose_ecg(path.stem, channels, leads, unit)
    rows = [labels.index(lead) for lead in chosen]
    if any(flat[i] for i in rows):
        raise ValueError(f"{path}: the header gives a lead the same smallest and largest value.")
    rate = _agreed_rate(path.stem, fs, max(channels[lead][1] for lead in chosen))
    if len({channels[lead][1] for lead in chosen}) > 1:
        notes.append("Leads of a lower rate were brought to the highest by straight lines.")
    n_samples = min(int(lengths[i] * rate / rates[i]) for i in rows)
    _check_size(path.stem, n_samples, rate)
    factors = [unit_factor(unit if unit is not None else channels[lead][0]) for lead in chosen]
    ratios = [rate / channels[lead][1] for lead in chosen]
    blocks = functools.partial(_edf_block, path, rows, factors, ratios, [lengths[i] for i in rows])
    return OpenRecording(path.stem, rate, chosen, n_samples, blocks, start, tuple(notes))


def _edf_block(path, rows, factors, ratios, lengths, start, stop):
    """Samples `start` to `stop` of an EDF file, (stop - start, leads), in mV."""
    pyedflib = require("pyedflib", "edf")
    columns, at = [], np.arange(start, stop)
    with pyedflib.EdfReader(str(path), annotations_mode=pyedflib.DO_NOT_READ_ANNOTATIONS) as of:
        for row, factor, ratio, length in zip(rows, factors, ratios, lengths):
            first = int(start / ratio)
            last = min(int(np.ceil((stop - 1) / ratio)) + 1, int(length))
            values = of.readSignal(row, first, last - first) * factor
            columns.append(_stretch(values, ratio, at - first * ratio))
    return np.stack(columns, axis=1)


_KINDS = {"wfdb": _open_wfdb, "csv": _open_csv, "parquet": _open_parquet, "edf": _open_edf}
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
        if not path.exists():
            raise ValueError(f"record {name}: {file} is missing in {base.parent}.")
        _check_regular(path)
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
