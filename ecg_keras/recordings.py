"""Read recordings with beat annotations from WFDB files, and refuse damaged ones by name.

Conventions
-----------
A recording is three files: ``100.hea`` (header), ``100.dat`` (samples) and
``100.atr`` (annotations). Signals are float64 (samples, leads) in the header's
unit, millivolts in the MIT-BIH databases; beats are rising sample numbers with
a symbol each. wfdb is used for reading and for nothing else.
"""

import contextlib
import pathlib
import warnings
from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import require
from ecg_keras.beats import BEAT_SYMBOLS, aami_classes

ONE_PATIENT = {"201": "201+202", "202": "201+202"}  # the one man with two recordings in MIT-BIH

# bytes per sample, by WFDB format
_BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "212": 1.5, "24": 3, "32": 4}
_SLACK = 512  # bytes that a file may have beyond its samples: some are padded to a whole block


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
