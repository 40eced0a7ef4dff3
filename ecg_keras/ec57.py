"""Compare found beats with reference annotations, beat by beat and run by run, as EC57 has it.

Conventions
-----------
The counting is that of the standard's own programs, the WFDB applications ``bxb``, ``rxr`` and
``sumstats`` (G. Moody, versions of 2020), corner by corner: which of two candidates is paired, what
flutter and shutdown hide, when a comparison starts and ends. Pairs are named reference first, in
capitals, then found: ``Nv`` is an N beat that was called V. O is no beat; X is no beat where the
other side says that the signal cannot be read. Times are samples at the record's rate; shares are
in 0..1 in tables and JSON, in percent in texts and pages. A share of nothing is NaN, printed ``-``.
"""

import bisect
import pathlib
import re
import struct
import sys
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup

from ecg_keras import pages
from ecg_keras._checks import CallableModule, check_option, check_positive
from ecg_keras.beats import AAMI
from ecg_keras.recordings import ANNOTATION_CODES, UNREADABLE, open_recording
from ecg_keras.storage import atomic_path, check_free, write_json, write_text

_NEVER = 2**63 - 1  # a time after every other
_DEFAULT_FS = 250.0  # Hz; what WFDB takes where a header gives none
_CELLS = [  # of the matrix: reference in rows, found in columns
    a + b for a in "NSVFQOX" for b in ("nsvfq" if a in "OX" else "nsvfqox")
]
_RUN_CELLS = "CTs CFN CTp CFP STs SFN STp SFP LTs LFN LTp LFP".split()
_RUN_SHARES = "couplet_se couplet_pp short_se short_pp long_se long_pp".split()
_BEAT_SHARES = "q_se q_pp v_se v_pp s_se s_pp".split()
_STRIP_S = 3.5  # seconds of one strip: three stand side by side on a page
_MOST_LEADS = 2  # of a strip
_STRIP_FS = 125.0  # points per second drawn, about
_PAGE_BYTES = 2_800_000  # of strips on a page
_LISTED = 500  # rows of a table of disagreements


def ec57(
    reference,
    found,
    *,
    reference_extension="atr",
    found_extension="ecg",
    records=None,
    fs=None,
    start_s=300.0,
    stop_s=None,
    window_s=0.15,
    escape_beats="S",
    out_dir=None,
    strips=300,
):
    """Compare annotations of beats with reference annotations as ANSI/AAMI EC57 asks.

    Parameters
    ----------
    reference, found : path, (samples, symbols, fs), annotation object, or dict of those by record
        A folder holds annotation files, or folders of them where it holds none; records present in
        both are compared, the others listed. A file is ``DIR/100.atr``, or ``DIR/100`` with the
        extension below. Arrays are sample numbers, PhysioNet's symbols and Hz (None: the other
        side's); an object has attributes `sample`, `symbol` and `fs`, and may have `subtype` and
        `aux_note`, as ``wfdb.rdann`` gives it. The found side is brought to the reference's rate.
    reference_extension, found_extension : str, default "atr" and "ecg"
        Of annotation files.
    records : sequence of str, optional
        Of two folders, only these.
    fs : float, optional
        Rate of the samples in Hz where neither a header nor an annotation file tells it.
    start_s : float, default 300
        Where the comparison starts. The standard says five minutes.
    stop_s : float, optional
        Where it ends: by default at the end of the record, or of the reference where the record's
        length is not known; with 0 where either ends.
    window_s : float, default 0.15
        Largest distance of the two beats of a pair.
    escape_beats : {"S", "N"}, default "S"
        What e, j and n count as: S as for the standard's programs, or N as in `beats.AAMI`.
    out_dir : path, optional
        Write ec57.html, ec57.csv, ec57_runs.csv, ec57.json, mismatches.csv and mismatches.html.
    strips : int, default 300
        Most strips of ECG drawn in mismatches.html. They need the signal beside the reference.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If a folder or a file is missing, no record is in both, a file is no annotation file, the
        rate is not known, or `stop_s` is before `start_s`.

    Examples
    --------
    >>> beats = ([100, 350, 600, 850], list("NNVN"), 250.0)
    >>> found = ([101, 352, 600, 700, 851], list("NNVNN"), 250.0)
    >>> result = ec57(beats, found, start_s=0)
    >>> result.beats[["Nn", "Vv", "On", "q_se", "q_pp"]].iloc[0].tolist()
    [3.0, 1.0, 1.0, 1.0, 0.8]
    """
    check_positive("start_s", start_s, zero=True)
    check_positive("window_s", window_s, zero=True)
    check_option("escape_beats", escape_beats, ("S", "N"))
    if stop_s is not None:
        check_positive("stop_s", stop_s, zero=True)
        if 0 < stop_s < start_s:
            raise ValueError(f"stop_s={stop_s:g} is before start_s={start_s:g}.")
    if fs is not None:
        check_positive("fs", fs)
    if out_dir is not None:
        written = ("ec57*.*", "mismatches.*")
        check_free(out_dir, written, "ec57.json")
    settings = {
        "start_s": start_s,
        "stop_s": stop_s,
        "window_s": window_s,
        "escape_beats": escape_beats,
    }
    pairs, missing, names = _pairs(reference, found, reference_extension, found_extension, records)
    compared = []
    for name, a, b in pairs:
        one = _compare(name, a, b, fs, settings)
        if isinstance(one, str):
            missing.append((name, one))
        else:
            compared.append(one)
    if not compared:
        raise ValueError(f"no record is compared: {missing[-1][0]} {missing[-1][1]}.")
    result = Comparison(tuple(compared), tuple(missing), names, settings)
    if out_dir is not None:
        _write(result, pathlib.Path(out_dir), {name: a for name, a, _ in pairs}, strips)
    return result


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison found, record by record, gross and on average.

    `missing` are pairs of a record that was not compared and the reason; `annotators` the names of
    the two sides; `settings` the keywords; `records` what the tables are made of.
    """

    records: tuple = field(repr=False)
    missing: tuple
    annotators: tuple
    settings: dict

    @property
    def beats(self):
        """A DataFrame, one row a record: the cells of the matrix, and what follows from them.

        ``q_`` is every QRS, ``v_`` and ``s_`` are VEB and SVEB; ``_se`` is sensitivity, ``_pp``
        positive predictivity; ``v_fpr`` the false positive rate; ``rr_rms_ms`` the RMS error of RR
        intervals.
        """
        rows = []
        for one in self.records:
            shares = {name: _share(*pair) for name, pair in _beat_shares(one.cells).items()}
            rows.append(
                {"record": one.name, "fs": one.fs, **one.cells, **shares, "rr_rms_ms": one.rr_rms}
            )
        return pd.DataFrame(rows)

    @property
    def runs(self):
        """A DataFrame, two rows a record (kind V and S): runs found, missed and false, and shares.

        C, S and L are couplets, short runs (3 to 5) and long runs (more); ``Ts`` and ``FN`` are
        those of the reference found and missed, ``Tp`` and ``FP`` those found that are right and
        false. A file without an annotation after the start has no figures of runs, and no row.
        """
        rows = []
        for one in self.records:
            for kind, matrices in one.runs.items():
                counts = _run_counts(*matrices)
                shares = [_share(*pair) for pair in _run_shares(counts)]
                rows.append(
                    {"record": one.name, "kind": kind, **counts, **dict(zip(_RUN_SHARES, shares))}
                )
        return pd.DataFrame(rows, columns=["record", "kind", *_RUN_CELLS, *_RUN_SHARES])

    @property
    def run_matrices(self):
        """Dict (record, kind) to two arrays (7, 7): reference run lengths in rows, found across.

        Lengths are 0 to 5 and more; the first array asks from the reference's runs, the second from
        those found.
        """
        return {(one.name, kind): pair for one in self.records for kind, pair in one.runs.items()}

    @property
    def shutdowns(self):
        """A DataFrame, one row a record: reference beats missed where the found side was shut down.

        ``Nx`` and the others are these beats, ``n_N`` and the others all of the class, ``seconds``
        the time in shutdown.
        """
        rows = []
        for one in self.records:
            cells = one.cells
            counts = {f"{a}x": cells[f"{a}x"] for a in "NSVFQ"}
            counts |= {f"n_{a}": _row(cells, a) for a in "NSVFQ"}
            rows.append({"record": one.name, **counts, "seconds": one.shutdown_s})
        return pd.DataFrame(rows)

    @property
    def mismatches(self):
        """A DataFrame of every disagreement: record, sample, time_s, reference and found class."""
        columns = ["record", "sample", "time_s", "reference", "found"]
        rows = [
            (one.name, sample, sample / one.fs, a, b)
            for one in self.records
            for sample, a, b in one.mismatches
        ]
        return pd.DataFrame(rows, columns=columns)

    @property
    def gross(self):
        """Shares over the beats, or runs, of all records together, as a dict.

        As for the standard's program, SVEB positive predictivity counts F called S as no error
        here, though it counts in each record.
        """
        shares = [_share(*pair) for pair in _lined_shares(_summed(self))]
        shares = dict(zip(_BEAT_SHARES, shares))
        for kind in "VS":
            counts = self._run_sums(kind)
            for name, pair in zip(_RUN_SHARES, _run_shares(counts)):
                shares[f"{kind.lower()}_{name}"] = _share(*pair)
        return shares

    @property
    def average(self):
        """Means of the records' shares, each over the records that have one, as a dict."""
        columns = [[_share(*pair) for pair in _lined_shares(_lined(one))] for one in self.records]
        shares = {name: _mean(values) for name, values in zip(_BEAT_SHARES, zip(*columns))}
        shares["rr_rms_ms"] = _mean(_printed_errors(self))
        for kind in "VS":
            of_kind = self.runs[self.runs["kind"] == kind]
            for name in _RUN_SHARES:
                shares[f"{kind.lower()}_{name}"] = _mean(of_kind[name])
        return shares

    def text(self, table=None, *, summed=True):
        """Figures as the programs print them, one line a record, and with `summed` their sums.

        Parameters
        ----------
        table : {"beats", "shutdowns", "runs_v", "runs_s"}, optional
            Which; by default all four.
        summed : bool, default True
            Add what ``sumstats`` prints below.

        Returns
        -------
        str
        """
        if table is None:
            return "\n".join(self.text(name, summed=summed) for name in _TABLES)
        check_option("table", table, _TABLES)
        head, line, below, rule = _TABLES[table]
        kind = table[-1].upper()
        shown = [one for one in self.records if not table.startswith("runs") or kind in one.runs]
        lines = [*head, *(line(one) for one in shown)]
        if summed:
            count = f"Summary of results from {len(shown)} record{'s' * (len(shown) != 1)}"
            lines += ["_" * rule, *below(self), "", count]
        return "\n".join(lines) + "\n"

    def record_text(self, record, program="bxb"):
        """The matrices and figures of a record as ``bxb -S`` or ``rxr -S`` prints them."""
        check_option("program", program, ("bxb", "rxr"))
        by_name = {one.name: one for one in self.records}
        check_option("record", record, by_name)
        show = _bxb_text if program == "bxb" else _rxr_text
        return show(by_name[record], *self.annotators)

    @property
    def notes(self):
        """What a reader must know beside the figures: records left out, files that end early."""
        notes = [note for one in self.records for note in one.notes]
        lacking = {}
        for name, why in self.missing:
            lacking.setdefault(why, []).append(name)
        return notes + [
            f"Not compared, {why}: {', '.join(names)} ({len(names)})."
            for why, names in lacking.items()
        ]

    def _run_sums(self, kind):
        """Counts of runs of a kind over all records, as a dict."""
        of_kind = self.runs[self.runs["kind"] == kind]
        return {name: int(of_kind[name].sum()) for name in _RUN_CELLS}

    def _repr_html_(self):
        """The summary and the table of records, for notebooks."""
        return str(_cards(self) + _beats_table(self))


@dataclass(frozen=True, eq=False)
class _Record:
    """What is known of one record after the comparison."""

    name: str
    fs: float  # Hz
    n_samples: int | None
    cells: dict  # counts by cell of the matrix
    rr_rms: float  # ms, NaN where no interval could be compared
    shutdown_s: int
    runs: dict  # kind to two matrices
    mismatches: list  # (sample, reference class, found class)
    labels: tuple  # of the two sides: lists of (sample, class) of the beats, rising
    notes: tuple


@dataclass(frozen=True, eq=False)
class _Annotations:
    """Annotations of one side as they come: (time, symbol, subtype, text), and their rate."""

    items: list
    fs: float | None = None  # Hz
    notes: tuple = ()
    path: pathlib.Path | None = None  # without extension


# ---- what is compared with what -------------------------------------------------------------


def _pairs(reference, found, reference_extension, found_extension, records):
    """Both sides to (name, reference, found) of each common record, those missing, and names."""
    extensions = (reference_extension.lstrip("."), found_extension.lstrip("."))
    sides = [
        _side(side, extension, what)
        for side, extension, what in zip((reference, found), extensions, ("reference", "found"))
    ]
    single = [not isinstance(side, dict) for side in sides]
    if any(single):
        if not all(single):
            raise ValueError(
                "reference and found must both be folders (or dicts), or both be one record's "
                "annotations."
            )
        (name, a), (other, b) = sides
        return [(name or other or "record", a, b)], [], _annotators(reference, found, extensions)
    wanted = sorted(set(sides[0]) | set(sides[1])) if records is None else list(map(str, records))
    missing = []
    for name in wanted:
        lacking = [what for what, side in zip(("reference", "found"), sides) if name not in side]
        if lacking:
            missing.append((name, f"no {' and no '.join(lacking)} annotations"))
    absent = {name for name, _ in missing}
    common = [name for name in wanted if name not in absent]
    if not common:
        raise ValueError(
            f"no record is in both: {_places(reference, extensions[0], sides[0])}; "
            f"{_places(found, extensions[1], sides[1])}."
        )
    opened = [
        (name, _opened(sides[0][name], name), _opened(sides[1][name], name)) for name in common
    ]
    return opened, missing, _annotators(reference, found, extensions)


def _side(side, extension, what):
    """One side to a dict of records, or to (name, annotations) of a single one."""
    if isinstance(side, dict):
        return {str(name): value for name, value in side.items()}
    if not isinstance(side, (str, pathlib.Path)):
        return None, _opened(side, what)
    path = pathlib.Path(side)
    if path.is_dir():
        files = sorted(path.glob(f"*.{extension}")) or sorted(path.glob(f"*/*.{extension}"))
        return {file.stem: file for file in files if file.is_file()}
    file = path if path.is_file() else path.with_name(f"{path.name}.{extension}")
    if not file.is_file():
        raise ValueError(f"{what}: there is no folder {path} and no annotation file {file}.")
    return file.stem, _read_annotations(file)


def _places(side, extension, known):
    """A side in the words of an error."""
    if isinstance(side, dict):
        return f"a dict of {len(known)} records"
    names = ", ".join(list(known)[:5]) + (" ..." if len(known) > 5 else "")
    return f"{side} holds {len(known)} files *.{extension}{f' ({names})' * bool(known)}"


def _annotators(reference, found, extensions):
    """Names of the two sides for texts: extensions of files, else what they are."""
    sides = zip((reference, found), extensions, ("reference", "found"))
    names = []
    for side, extension, what in sides:
        path = pathlib.Path(side) if isinstance(side, (str, pathlib.Path)) else None
        own = path is not None and path.is_file() and path.suffix[1:]
        names.append(own or (extension if path is not None else what))
    return tuple(names)


def _opened(side, name):
    """A path, arrays or an object to `_Annotations`."""
    if isinstance(side, _Annotations):
        return side
    if isinstance(side, (str, pathlib.Path)):
        return _read_annotations(pathlib.Path(side))
    if hasattr(side, "sample") and hasattr(side, "symbol"):
        samples, symbols, fs = side.sample, side.symbol, getattr(side, "fs", None)
        subtypes, texts = getattr(side, "subtype", None), getattr(side, "aux_note", None)
    elif isinstance(side, (tuple, list)) and len(side) == 3:
        (samples, symbols, fs), subtypes, texts = side, None, None
    else:
        raise TypeError(
            f"{name}: expected a path, (samples, symbols, fs) or an object with sample and symbol, "
            f"got {type(side).__name__}."
        )
    samples = np.asarray(samples)
    if samples.ndim != 1 or len(samples) != len(symbols):
        raise ValueError(
            f"{name}: samples must have one axis and a symbol each, got shape {samples.shape} and "
            f"{len(symbols)} symbols."
        )
    if samples.size and not np.issubdtype(samples.dtype, np.integer):
        raise ValueError(f"{name}: samples must be whole numbers, got {samples.dtype}.")
    unknown = set(map(str, symbols)) - set(ANNOTATION_CODES)
    if unknown:
        raise ValueError(f"{name}: {sorted(unknown)[0]!r} is no annotation symbol of PhysioNet.")
    if fs is not None:
        check_positive("fs", fs)
    subtypes = [0] * len(samples) if subtypes is None else subtypes
    texts = [""] * len(samples) if texts is None else texts
    items = [
        (int(sample), str(symbol), int(subtype), text or "")
        for sample, symbol, subtype, text in zip(samples, symbols, subtypes, texts)
    ]
    return _Annotations(sorted(items, key=lambda item: item[0]), fs and float(fs))


def _read_annotations(file):
    """An annotation file in MIT format to `_Annotations`, as WFDB's own library reads it.

    A word has six bits of code and ten of time since the last; codes above 58 go with the
    annotation before. A file without its end mark loses its last annotation there, so here.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}).") from error
    if re.fullmatch(rb"[\t\r\n -~]+", data):
        raise ValueError(f"{file} cannot be read: it is text, and no WFDB annotation file.")
    words = struct.unpack(f"<{len(data) // 2}H", data[: len(data) // 2 * 2])
    items, fs, time, place, ended = [], None, 0, 0, False
    while place < len(words):
        word = words[place]
        code, value, place = word >> 10, word & 0x3FF, place + 1
        if word == 0:
            ended = True
            break
        if code == 59:  # a long interval: the high word first
            high, low = words[place : place + 2] if place + 2 <= len(words) else (0, 0)
            jump = high << 16 | low
            time, place = time + (jump - 2**32 if jump >= 2**31 else jump), place + 2
        elif code == 61 and items:
            items[-1][2] = value
        elif code == 63:
            length = value & 0xFF
            raw = data[2 * place : 2 * place + length]
            place += (length + 1) // 2
            if items:
                items[-1][3] = raw.decode("latin-1")
        elif code < len(ANNOTATION_CODES) + 8:
            time += value
            items.append(
                [time, ANNOTATION_CODES[code] if code < len(ANNOTATION_CODES) else " ", 0, ""]
            )
        elif code not in (60, 61, 62):
            raise ValueError(f"{file} cannot be read: it is no WFDB annotation file in MIT format.")
    notes = ()
    if items and not ended:
        items.pop()
        notes = (
            f"{file.name} has no end mark: it ends early, and its last annotation is left out",
        )
    for item in items:
        if item[:2] != [0, '"'] or item[2] != 0 or not item[3]:
            break
        if resolution := re.match(r"## time resolution:\s*([0-9.eE+-]+)", item[3]):
            fs = float(resolution[1])
    items = [tuple(item) for item in items]
    return _Annotations(items, fs or None, notes, file.with_suffix(""))


def _header(*sides):
    """Rate (Hz) and length of a record by the first header beside an annotation file, or Nones."""
    for side in sides:
        if side.path is None:
            continue
        file = side.path.with_name(side.path.name + ".hea")
        if not file.is_file():
            continue
        lines = file.read_text(encoding="latin-1").splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith("#")]
        parts = lines[0].split() if lines else []
        try:
            fs = float(re.split(r"[/(]", parts[2])[0]) if len(parts) > 2 else _DEFAULT_FS
            n_samples = int(parts[3]) if len(parts) > 3 else 0
            int(parts[1])
        except (ValueError, IndexError) as error:
            raise ValueError(f"{file} cannot be read: its first line is no WFDB header.") from error
        return (fs if fs > 0 else _DEFAULT_FS), (n_samples or None)
    return None, None


def _compare(name, reference, found, fs, settings):
    """One record's two sides to a `_Record`, or to the reason why they are not compared."""
    rate, n_samples = _header(reference, found)
    rate = rate or reference.fs or fs or found.fs
    if rate is None:
        raise ValueError(
            f"record {name}: its sampling rate is not known, as there is no {name}.hea and the "
            "annotation file does not tell it; give it with fs."
        )
    start, window = _samples(settings["start_s"], rate), _samples(settings["window_s"], rate)
    stop_s = settings["stop_s"]
    stop = (n_samples or -1) if stop_s is None else _samples(stop_s, rate)
    if 0 < stop < start:
        return f"ends before the comparison starts ({settings['start_s']:g} s)"
    classes = _classes(settings["escape_beats"])
    sides = [_at_rate(side, rate) for side in (reference, found)]
    cells, rr_rms, shutdown_s, mismatches = _beat_by_beat(
        *sides, classes, rate, start, stop, window
    )
    labels = tuple(
        sorted((time, classes[symbol]) for time, symbol, *_ in side if symbol in classes)
        for side in sides
    )
    runs = _run_by_run(*sides, classes, start, stop, window)
    notes = tuple(f"Record {name}: {note}." for side in (reference, found) for note in side.notes)
    if len(runs) < 2:
        notes += (f"Record {name}: a side has no annotation after the start; no figures of runs.",)
    return _Record(
        name, rate, n_samples, cells, rr_rms, shutdown_s, runs, mismatches, labels, notes
    )


def _samples(seconds, fs):
    """Seconds to samples, rounded as WFDB's ``strtim`` does."""
    return int(seconds * fs + 0.5)


def _at_rate(side, fs):
    """Annotations with times in samples at `fs`, halves rounded up."""
    if side.fs is None or side.fs == fs:
        return side.items
    scale = fs / side.fs
    times = np.array([item[0] for item in side.items], np.float64) * scale
    whole = np.floor(times)
    whole += times - whole >= 0.5
    return [(int(time), *item[1:]) for time, item in zip(whole, side.items)]


def _classes(escape_beats):
    """Symbol of each beat to its class; "!" is a beat of no class."""
    classes = {symbol: name for name, symbols in AAMI.items() for symbol in symbols}
    classes |= {"B": "N", "r": "V", "?": "Q", "!": "O"}
    return classes | dict.fromkeys("ejn", escape_beats)


# ---- beat by beat, as bxb --------------------------------------------------------------------


class _Beats:
    """One side as ``bxb`` reads it: a beat, the next one, and the last two shutdowns and flutters.

    `rr` is the interval that ends with the beat, 0 where flutter or a shutdown lies in it.
    """

    def __init__(self, items, classes, window, stop, *, is_reference):
        self.time = self.next_time = self.rr = self.shut_down = 0
        self.label = self.next_label = ""
        self._items, self._place = items, 0
        while self._place < len(items) and _is_definition(items[self._place]):
            self._place += 1
        self._classes, self._window, self._stop = classes, window, stop
        self._is_reference = is_reference
        self._flutter = self._last_flutter = self._shutdown = self._last_shutdown = (-1, -1)

    def advance(self):
        """Make the next beat the one at hand."""
        before, self.time, self.label = self.time, self.next_time, self.next_label
        stretches = (self._flutter, self._shutdown, self._last_flutter, self._last_shutdown)
        broken = any(before <= first < self.time for first, _ in stretches)
        self.rr = 0 if before == 0 or self.time == _NEVER or broken else self.time - before
        self.next_time, self.next_label = self._next_beat()

    def in_flutter(self, time):
        """True where a time is in flutter."""
        return _inside(time, self._flutter, self._last_flutter)

    def in_shutdown(self, time):
        """True where a time is in a shutdown."""
        return _inside(time, self._shutdown, self._last_shutdown)

    def _next_beat(self):
        """Read up to the next beat: its time and class."""
        while (item := self._read()) is not None:
            time, symbol, subtype, _ = item
            if symbol in self._classes:
                return time, self._classes[symbol]
            if symbol == "~" and _unreadable(subtype):
                if not self._read_shutdown(time):
                    break
            elif symbol == "[":
                self._last_flutter, self._flutter = self._flutter, (time, self._flutter[1])
                while (item := self._read()) is not None and item[1] != "]":
                    pass
                if item is None:
                    break
                self._flutter = (time, item[0])
        return _NEVER, "*"

    def _read_shutdown(self, first):
        """Note the shutdown that starts at `first`; False where the file ends in it."""
        self._last_shutdown, self._shutdown = self._shutdown, (first, self._shutdown[1])
        end = self._read()
        if end is None:
            if self._is_reference:
                self._shutdown = (first, _NEVER)
            elif self._stop > 0:
                self.shut_down += self._stop - first
            return False
        last = end[0]
        if end[1] != "~" or _unreadable(end[2]):
            # one mark amid the shutdown: from the beat before to what comes next
            first = max(self._flutter[1], self.time) + self._window
            last -= self._window
            first = min(first, last)
            self._place -= 1
        self._shutdown = (first, last)
        self.shut_down += last - first
        return True

    def _read(self):
        """The next annotation, or None."""
        if self._place >= len(self._items):
            return None
        self._place += 1
        return self._items[self._place - 1]


def _is_definition(item):
    """True for notes at the start that tell of the file itself."""
    return item[0] == 0 and item[1] == '"' and item[2] == 0


def _unreadable(subtype):
    """True where a ``~`` says that no signal can be read."""
    return subtype & UNREADABLE == UNREADABLE


def _inside(time, stretch, previous):
    """True where a time lies in the last stretch, which may still be open, or in the one before."""
    first, last = stretch
    now = first != -1 and first <= time and (time <= last or last == -1)
    return now or (previous[0] != -1 and previous[0] <= time <= previous[1])


def _beat_by_beat(reference, found, classes, fs, start, stop, window):
    """Two sides to the matrix's cells, RMS error of RR (ms), shutdown (s) and disagreements."""
    ref = _Beats(reference, classes, window, stop, is_reference=True)
    new = _Beats(found, classes, window, stop, is_reference=False)
    cells, errors, mismatches = dict.fromkeys(_CELLS, 0), [], []

    def pair(a, b):
        cell = a + b.lower()
        if cell in cells:
            cells[cell] += 1
            if a != b:
                mismatches.append((new.time if a in "OX" else ref.time, a, b))
        if ref.rr > 0 and new.rr > 0:
            errors.append(ref.rr - new.rr)

    def both():
        ref.advance()
        new.advance()

    ref.advance()
    while ref.time < start:
        ref.advance()
    new.advance()
    while new.next_time < start:
        new.advance()
    # the last found beat before the start may belong to the first reference beat after it
    early = ref.time - new.time
    if early < abs(ref.time - new.next_time) and early <= window:
        if ref.label or new.label:
            pair(ref.label, new.label)
        both()
    else:
        new.advance()
        nearer = abs(ref.time - new.next_time) < abs(ref.time - new.time)
        if new.time - start <= window and nearer:
            new.advance()  # a beat just after the start, of a reference beat before it

    def more():
        if stop > 0:
            return ref.time <= stop or new.time <= stop
        return ref.time != _NEVER and (stop < 0 or new.time != _NEVER)

    while more():
        next_apart = abs(ref.next_time - new.next_time)
        if new.time < ref.time:
            apart, other = ref.time - new.time, abs(ref.time - new.next_time)
            if apart <= window and (apart < other or next_apart < other):
                pair(ref.label, new.label)
                both()
            else:
                hidden = "X" if ref.in_shutdown(new.time) else "O"
                pair("*" if ref.in_flutter(new.time) else hidden, new.label)
                new.advance()
        else:
            apart, other = new.time - ref.time, abs(new.time - ref.next_time)
            if apart <= window and (apart < other or next_apart < other):
                pair(ref.label, new.label)
                both()
            else:
                pair(ref.label, "X" if new.in_shutdown(ref.time) else "O")
                ref.advance()
    second = _samples(1, fs)
    squares = float(sum(error * error for error in errors))
    rr_rms = np.sqrt(squares / len(errors)) * 1000 / second if errors else np.nan
    return cells, float(rr_rms), int((_samples(0.5, fs) + new.shut_down) / second), mismatches


# ---- run by run, as rxr ----------------------------------------------------------------------


class _Rhythm:
    """One side as ``rxr`` reads it: the annotation at hand, named with the rhythm before it.

    Names are beat classes, ``[`` and ``]`` for flutter, ``{`` and ``}`` for atrial fibrillation,
    U for a signal that cannot be read from here on, and O for all else.
    """

    def __init__(self, items, classes):
        self._items, self._classes = items, classes
        self.item = (0, " ", 0, "")
        self.rewind()

    def rewind(self):
        """Back to the start; the annotation at hand keeps its kind, as in the program."""
        self._place = 0
        self._fibrillation = self._flutter = self._shut = False
        self.time = 0

    @property
    def time(self):
        """Time of the annotation at hand, below 0 after the end."""
        return self.item[0]

    @time.setter
    def time(self, value):
        self.item = (value, *self.item[1:])

    def advance(self):
        """Take the next annotation; False at the end, where the one at hand stays."""
        if self._place >= len(self._items):
            return False
        self.item, self._place = self._items[self._place], self._place + 1
        return True

    def name(self):
        """Name of the annotation at hand; it also moves the rhythm on."""
        _, symbol, subtype, text = self.item
        if symbol in self._classes:
            label = self._classes[symbol]
            return "S" if label == "N" and self._fibrillation else label
        if symbol == "~":
            before, self._shut = self._shut, _unreadable(subtype)
            return "U" if self._shut and not before else "O"
        if symbol == "[" or (symbol == "+" and text.startswith("(VF")):
            if self._flutter:
                return "O"
            self._fibrillation, self._flutter = False, True
            return "["
        if symbol == "+" and text.startswith("(AF"):
            if self._fibrillation:
                return "O"
            self._fibrillation, self._flutter = True, False
            return "{"
        if symbol == "+" and text and self._fibrillation:
            self._fibrillation = False
            return "}"
        if self._flutter and (symbol == "]" or (symbol == "+" and text)):
            self._flutter = False
            return "]"
        return "O"


def _run_by_run(reference, found, classes, start, stop, window):
    """Two sides to {kind: (sensitivity matrix, +P matrix)}; a kind without figures is left out."""
    sides = (_Rhythm(reference, classes), _Rhythm(found, classes))
    runs = {}
    for kind in "VS":
        matrices = [_run_matrix(sides, by, kind, start, stop, window) for by in (0, 1)]
        if any(matrix is None for matrix in matrices):
            return runs  # the program ends here
        runs[kind] = tuple(matrices)
    return runs


def _run_matrix(sides, by, kind, start, stop, window):
    """Count the runs of side `by` against the longest ones of the other side around each.

    Returns an int array (7, 7), reference lengths in rows, or None where side `by` has no
    annotation from the start on.
    """
    own = {"V": ("V", "F"), "S": ("S",)}[kind]
    opens, closes = {"V": "[]", "S": "{}"}[kind]
    ends = {"N", "Q", "U"} | ({"S"} if kind == "V" else {"V", "F"})
    for side in sides:
        side.rewind()
    a, other = sides[by], _Other(sides[1 - by], own, kind)
    matrix = np.zeros((7, 7), np.int64)
    length = first = last = 0
    seen = False
    while a.advance():
        if a.time >= start:
            seen = True
            break
        name = a.name()
        if name == opens:
            length, seen = 6, True
        elif name in ("]", "}"):
            length, seen = 0, True
    if not seen:
        return None
    if length:
        first, last = start - window, start + window
    while True:
        name = a.name()
        if length:
            if name in ends:
                found = other.longest(first, last)
                matrix[(length, found) if by == 0 else (found, length)] += 1
                length = 0
            elif name in own:
                length, last = min(length + 1, 6), a.time + window
            elif name == closes:
                last = a.time + window
        elif name in own:
            length, first, last = 1, a.time - window, a.time + window
        elif name == opens:
            length, first = 6, a.time - window
        if not a.advance():
            if not length:
                break
            a.item = (a.time, "Q", 0, "")  # the end of the file ends a run
        if 0 < stop < a.time:
            break
    return matrix


class _Other:
    """The other side of a run, read onwards from run to run."""

    def __init__(self, side, own, kind):
        self._side, self._own, self._kind = side, own, kind
        self._opens, self._leave = {"V": ("[", "]{U"), "S": ("{", "}[U")}[kind]
        self._until = 0  # end of the last flutter (or atrial fibrillation), below 0 if it has none

    def longest(self, first, last):
        """Length of the longest run of the kind in [first, last], at most 6."""
        side = self._side
        if self._until < 0 or self._until > first:
            return 6
        if side.time < 0:
            return 0
        while side.time < first:
            if side.name() == self._opens:
                if not self._leave_rhythm():
                    return 6
                if side.time > first:
                    self._until = side.time
                    return 6
            if not side.advance():
                side.time = -1
                return 0
        ends = "NQU" + ("S{" if self._kind == "V" else "VF[")
        best = length = 0
        while side.time <= last:
            name = side.name()
            if name in self._own:
                length = min(length + 1, 6)
            elif name == self._opens:
                if self._leave_rhythm():
                    self._until = side.time
                return 6
            elif name in ends:
                best, length = max(best, length), 0
            if not side.advance():
                side.time = -1
                break
        return max(best, length)

    def _leave_rhythm(self):
        """Read to the end of flutter (or fibrillation); False where the file ends in it."""
        while self._side.advance():
            if self._side.name() in self._leave:
                return True
        self._until = -1
        return False


# ---- what follows from the counts -----------------------------------------------------------


def _row(cells, label):
    """Beats of a reference class."""
    return sum(cells[label + b] for b in "nsvfqox")


def _beat_shares(cells):
    """The matrix's cells to (part, whole) of each share, as ``bxb`` has them."""
    right = sum(cells[a + b] for a in "NSVFQ" for b in "nsvfq")
    missed = sum(cells[a + b] for a in "NSVFQ" for b in "ox")
    extra = sum(cells[a + b] for a in "OX" for b in "nsvfq")
    v_false = sum(cells[a + "v"] for a in "NSOX")
    v_not = sum(cells[a + b] for a in "NSFQOX" for b in "nsfq")
    s_false = sum(cells[a + "s"] for a in "NVFOX")
    return {
        "q_se": (right, right + missed),
        "q_pp": (right, right + extra),
        "v_se": (cells["Vv"], _row(cells, "V")),
        "v_pp": (cells["Vv"], cells["Vv"] + v_false),
        "s_se": (cells["Ss"], _row(cells, "S")),
        "s_pp": (cells["Ss"], cells["Ss"] + s_false),
        "v_fpr": (v_false, v_false + v_not),
    }


# columns of a line of ``bxb -L``: the cells of the matrix that each adds, and its width
_LINED = {
    "Nn'": ("Nn Nf Nq", 5),
    "Sn'": ("Sn Sf Sq", 3),
    "Vn'": ("Vn Vf Vq", 3),
    "Fn'": ("Fn Ff Fq Qn Qf Qq", 3),
    "On'": ("On Of Oq Xn Xf Xq", 3),
    "Ns": ("Ns", 3),
    "Ss": ("Ss", 3),
    "Vs": ("Vs", 3),
    "Fs'": ("Fs Qs", 3),
    "Os'": ("Os Xs", 3),
    "Nv": ("Nv", 3),
    "Sv": ("Sv", 3),
    "Vv": ("Vv", 4),
    "Fv'": ("Fv Qv", 3),
    "Ov'": ("Ov Xv", 3),
    "No'": ("No Nx", 3),
    "So'": ("So Sx", 3),
    "Vo'": ("Vo Vx", 3),
    "Fo'": ("Fo Fx Qo Qx", 3),
}


def _lined(one):
    """A record's counts by column of a line."""
    return {
        name: sum(one.cells[cell] for cell in parts.split()) for name, (parts, _) in _LINED.items()
    }


def _summed(result):
    """Counts by column over all records."""
    lines = [_lined(one) for one in result.records]
    return {name: sum(line[name] for line in lines) for name in _LINED}


def _lined_shares(line):
    """A line's counts, or their sums, to (part, whole) of each share, as ``sumstats`` has them."""

    def total(names):
        return sum(line[name] for name in names.split())

    right = total("Nn' Sn' Vn' Fn' Ns Ss Vs Fs' Nv Sv Vv Fv'")
    return (
        (right, right + total("No' So' Vo' Fo'")),
        (right, right + total("On' Os' Ov'")),
        (line["Vv"], total("Vn' Vs Vv Vo'")),
        (line["Vv"], total("Nv Sv Vv Ov'")),
        (line["Ss"], total("Sn' Ss Sv So'")),
        (line["Ss"], total("Ns Ss Vs Os'")),
    )


def _run_counts(se, pp):
    """The two matrices of runs to the counts of a line."""
    return {
        name: int(value)
        for name, value in zip(
            _RUN_CELLS,
            (
                se[2, 2:].sum(),
                se[2, :2].sum(),
                pp[2:, 2].sum(),
                pp[:2, 2].sum(),
                se[3:6, 3:].sum(),
                se[3:6, :3].sum(),
                pp[3:, 3:6].sum(),
                pp[:3, 3:6].sum(),
                se[6, 6],
                se[6, :6].sum(),
                pp[6, 6],
                pp[:6, 6].sum(),
            ),
        )
    }


def _run_shares(counts):
    """Counts of runs to (part, whole) of each share."""
    return [(counts[a], counts[a] + counts[b]) for a, b in zip(_RUN_CELLS[0::2], _RUN_CELLS[1::2])]


def _share(part, whole):
    """A part as a share; NaN of nothing."""
    return part / whole if whole > 0 else np.nan


def _mean(values):
    """Mean of what is not NaN."""
    total, n = _total(values)
    return total / n if n else np.nan


def _total(values):
    """Sum and count of what is not NaN; in order, as the last digit that is printed may need it."""
    total, n = 0.0, 0
    for value in values:
        if not np.isnan(value):
            total, n = total + value, n + 1
    return total, n


# ---- texts as the programs print them -----------------------------------------------------------


def _percent(pair, width=7, digits=2):
    """A (part, whole) in percent, a dash for nothing."""
    part, whole = pair
    return "-".rjust(width) if whole <= 0 else f"{100.0 * part / whole:{width}.{digits}f}"


def _whole_percent(pair):
    """A (part, whole) in whole percent as ``rxr`` rounds, a dash for nothing."""
    part, whole = pair
    return "   -" if whole <= 0 else f" {int(100.0 * part / whole + 0.5):3d}"


def _printed_errors(result):
    """RMS errors of RR as a line prints them; ``sumstats`` reads them from there."""
    return [float(f"{one.rr_rms:.2f}") for one in result.records]


def _beats_line(one):
    """A record's line of ``bxb -L``."""
    line = _lined(one)
    counts = " ".join(f"{line[name]:{width}d}" for name, (_, width) in _LINED.items())
    pairs = _beat_shares(one.cells)
    shares = "".join(_percent(pairs[name]) for name in _BEAT_SHARES)
    error = "     -" if np.isnan(one.rr_rms) else f" {one.rr_rms:6.2f}"
    return f"{one.name:>4} {counts}{shares}{error}"


def _beats_below(result):
    """Sum, gross and average of lines of beats."""
    lines, total = [_lined(one) for one in result.records], _summed(result)
    widths = [6, *(width for _, width in list(_LINED.values())[1:])]
    counts = " ".join(f"{count:{width}d}" for count, width in zip(total.values(), widths))
    pairs = [_lined_shares(line) for line in lines]
    means = "".join(_percent(_total(_share(*pair) for pair in column)) for column in zip(*pairs))
    error, n = _total(_printed_errors(result))
    right = sum(total.values())
    extra = sum(total[name] for name in ("On'", "Os'", "Ov'"))
    v, s = (_lined_shares(total)[i][1] for i in (2, 4))
    return [
        f"Sum {counts}",
        "Gross".ljust(83) + "".join(map(_percent, _lined_shares(total))),
        "Average".ljust(83) + means + _percent((error / 100.0, n)),
        f"Total QRS complexes: {right - extra}  Total VEBs: {v}  Total SVEBs: {s}",
    ]


def _missed_in_shutdown(one):
    """(part, whole) of beats missed in shutdowns: all (``bxb`` leaves S out), N, S, V, F."""
    cells = one.cells
    missed = sum(cells[f"{a}x"] for a in "NVFQ")
    return [
        (missed, _beat_shares(cells)["q_se"][1]),
        *((cells[f"{a}x"], _row(cells, a)) for a in "NSVF"),
    ]


def _shutdown_line(one):
    """A record's line of the second file of ``bxb -L``."""
    counts = " ".join(f"{one.cells[f'{a}x']:4d}" for a in "NSVFQ")
    shares = "".join(map(_percent, _missed_in_shutdown(one)))
    rows = " ".join(str(_row(one.cells, a)) for a in "NSVFQ")
    return f"{one.name:>4} {counts}  {shares}{one.shutdown_s:5d} seconds {rows}"


def _shutdown_below(result):
    """Sum of lines of shutdowns."""
    counts = [sum(one.cells[f"{a}x"] for one in result.records) for a in "NSVFQ"]
    seconds = sum(one.shutdown_s for one in result.records)
    return ["Sum  " + " ".join(f"{n:4d}" for n in counts) + f"{'':38}{seconds:4d} seconds"]


def _runs_line(kind):
    """What makes a record's line of ``rxr -L``."""

    def line(one):
        counts = _run_counts(*one.runs[kind])
        shown = " ".join(f"{count:3d}" for count in counts.values())
        return f"{one.name:>4} {shown} " + "".join(map(_whole_percent, _run_shares(counts)))

    return line


def _runs_below(kind):
    """What makes sum, gross and average of lines of runs."""

    def below(result):
        counts = result._run_sums(kind)
        shown = " ".join(f"{n:{4 if i == 0 else 3}d}" for i, n in enumerate(counts.values()))
        of_kind = result.runs[result.runs["kind"] == kind]
        means = "".join(_percent(_total(of_kind[name]), 4, 0) for name in _RUN_SHARES)
        couplets, short, long = (whole for _, whole in _run_shares(counts)[0::2])
        return [
            f"Sum   {shown}",
            "Gross".ljust(55) + "".join(_percent(p, 4, 0) for p in _run_shares(counts)),
            "Average".ljust(55) + means,
            f"Total couplets: {couplets}  Total short runs: {short}  Total long runs: {long}",
        ]

    return below


_RUNS_HEAD = "Record " + " ".join(_RUN_CELLS) + "  CSe C+P SSe S+P LSe L+P"
_TABLES = {  # head, what makes a line, what makes the sums, length of the rule above them
    "beats": (
        [
            "Record Nn' Sn' Vn' Fn' On'  Ns  Ss  Vs  Fs' Os' Nv  Sv   Vv  Fv' Ov' No' So' Vo' Fo'"
            "  Q Se   Q +P   V Se   V +P   S Se   S +P RR err"
        ],
        _beats_line,
        _beats_below,
        132,
    ),
    "shutdowns": (
        [
            "Record Nx   Sx   Vx   Fx   Qx  % beats  % N    % S    % V    % F   Total Shutdown",
            " " * 32 + "missed missed missed missed missed      Time",
        ],
        _shutdown_line,
        _shutdown_below,
        72,
    ),
    "runs_v": ([_RUNS_HEAD], _runs_line("V"), _runs_below("V"), 77),
    "runs_s": (["(SVE run detection)", _RUNS_HEAD], _runs_line("S"), _runs_below("S"), 77),
}


def _statistic(name, pair, show):
    """A line of a record's figures: name, share, and the counts behind it."""
    part, whole = pair
    return f"{name}: {'     - ' if whole <= 0 else show % (100.0 * part / whole)} ({part}/{whole})"


def _bxb_text(one, reference, found):
    """A record as ``bxb -S`` prints it."""
    lines = [
        f"Beat-by-beat comparison results for record {one.name}",
        f"Reference annotator: {reference}",
        f"     Test annotator: {found}",
        "",
        "               Algorithm",
        "        n    s    v    f    q    o    x",
        "   " + "_" * 36,
    ]
    for a in "NSVFQOX":
        cells = [one.cells[a + b] for b in "nsvfqox" if a + b in one.cells]
        lines.append(f" {a} | " + " ".join(f"{count:4d}" for count in cells))
    lines.append("")
    pairs = _beat_shares(one.cells)
    names = ("QRS", "VEB", "SVEB")
    for name, key in zip(names, "qvs"):
        lines += [
            _statistic(f"{name} sensitivity".rjust(26), pairs[f"{key}_se"], "%6.2f%%"),
            _statistic(f"{name} positive predictivity".rjust(26), pairs[f"{key}_pp"], "%6.2f%%"),
        ]
    error = "     -" if np.isnan(one.rr_rms) else f"{one.rr_rms:6.2f} ms"
    lines += [f"     RMS RR interval error: {error}", ""]
    for name, pair in zip(("Beats", "N", "S", "V", "F"), _missed_in_shutdown(one)):
        lines.append(_statistic(f"{name} missed in shutdown".rjust(26), pair, "%6.2f%%"))
    lines.append(f"       Total shutdown time: {one.shutdown_s:5d} seconds")
    return "\n".join(lines) + "\n"


def _rxr_text(one, reference, found):
    """A record as ``rxr -S`` prints it."""
    lines = []
    for kind, matrices in one.runs.items():
        lines += [
            f"{'S' * (kind == 'S')}VE run-by-run comparison results for record {one.name}",
            f"Reference annotator: {reference}",
            f"     Test annotator: {found}",
            "",
        ]
        titles = (
            "      (Run Sensitivity Summary Matrix)",
            " (Run Positive Predictivity Summary Matrix)",
        )
        for title, matrix in zip(titles, matrices):
            lines += [
                "               Algorithm Run Length",
                "          0    1    2    3    4    5   >5",
                "     " + "_" * 36,
            ]
            for i, row in enumerate(matrix.tolist()):
                shown = " ".join("    " if i == j == 0 else f"{n:4d}" for j, n in enumerate(row))
                lines.append(f"{'>5' if i == 6 else i:>4} | {shown}")
            lines += ["", title, ""]
            if title.lstrip().startswith("(Run S"):
                lines.append("")
        names = ("Couplet", "Short run", "Long run")
        pairs = _run_shares(_run_counts(*matrices))
        for name, se, pp in zip(names, pairs[0::2], pairs[1::2]):
            for what, (part, whole) in (("sensitivity", se), ("positive predictivity", pp)):
                share = "   - " if whole <= 0 else f"{_whole_percent((part, whole))}%"
                lines.append(f"{f'{name} {what}':>31}:{share} ({part}/{whole})")
        lines.append("")
    return "".join(f"{line}\n" for line in lines)


# ---- pages -----------------------------------------------------------------------------------


def _write(result, out_dir, references, strips):
    """Write tables, pages and JSON into a folder."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("ec57.csv", result.beats.merge(result.shutdowns[["record", "seconds"]], on="record")),
        ("ec57_runs.csv", result.runs),
        ("mismatches.csv", result.mismatches),
    ):
        with atomic_path(out_dir / name) as part:
            table.to_csv(part, index=False)
    write_text(out_dir / "mismatches.html", _mismatches_page(result, references, strips))
    write_text(out_dir / "ec57.html", _page(result))
    write_json(
        out_dir / "ec57.json",
        {
            "settings": result.settings,
            "annotators": result.annotators,
            "records": result.beats.to_dict("records"),
            "runs": result.runs.to_dict("records"),
            "run_matrices": {
                one.name: {kind: [m.tolist() for m in pair] for kind, pair in one.runs.items()}
                for one in result.records
            },
            "shutdowns": result.shutdowns.to_dict("records"),
            "gross": result.gross,
            "average": result.average,
            "missing": result.missing,
            "notes": result.notes,
        },
    )


def _cards(result):
    """The gross figures as cards: sensitivity and positive predictivity of QRS, VEB, SVEB."""
    pairs = _lined_shares(_summed(result))
    cards = []
    for name, se, pp in zip(("QRS", "VEB", "SVEB"), pairs[0::2], pairs[1::2]):
        shown = f"{_shown(_share(*se)).removesuffix(' %')} / {_shown(_share(*pp))}"
        below = f"of {se[1]:,} in the reference / of {pp[1]:,} found that count"
        cards.append((shown, f"{name}, gross: sensitivity / +P", below, False))
    return pages.cards(cards)


def _shown(share):
    """A share in percent, a dash for NaN."""
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def _beats_table(result):
    """A row a record, then gross and average."""
    beats = result.beats
    rows = [
        [
            row["record"],
            sum(_row(row, a) for a in "NSVFQ"),
            _row(row, "V"),
            _row(row, "S"),
            *(_shown(row[name]) for name in _BEAT_SHARES),
            "-" if np.isnan(row["rr_rms_ms"]) else f"{row['rr_rms_ms']:.2f}",
        ]
        for row in beats.to_dict("records")
    ]
    counts = [sum(row[i] for row in rows) for i in (1, 2, 3)]
    gross, average = result.gross, result.average
    rows.append(["gross", *counts, *(_shown(gross[name]) for name in _BEAT_SHARES), ""])
    error = average["rr_rms_ms"]
    rows.append(
        [
            "average",
            "",
            "",
            "",
            *(_shown(average[name]) for name in _BEAT_SHARES),
            "-" if np.isnan(error) else f"{error:.2f}",
        ]
    )
    headers = "record|QRS|VEB|SVEB|QRS Se|QRS +P|VEB Se|VEB +P|SVEB Se|SVEB +P|RR error (ms)"
    return pages.table(headers.split("|"), rows)


def _runs_table(result, kind):
    """A row a record with its runs of a kind, then sum, gross and average."""
    of_kind = result.runs[result.runs["kind"] == kind].to_dict("records")
    rows = [
        [row["record"], *(row[name] for name in _RUN_CELLS), *map(_rounded, _of(row, _RUN_SHARES))]
        for row in of_kind
    ]
    names = [f"{kind.lower()}_{name}" for name in _RUN_SHARES]
    sums = result._run_sums(kind).values()
    rows.append(["gross", *sums, *map(_rounded, _of(result.gross, names))])
    blank = [""] * len(_RUN_CELLS)
    rows.append(["average", *blank, *map(_rounded, _of(result.average, names))])
    return pages.table(
        ["record", *_RUN_CELLS, "C Se", "C +P", "S Se", "S +P", "L Se", "L +P"],
        rows,
        caption=f"Runs of {kind}, in percent",
    )


def _of(values, names):
    """Values by names, in order."""
    return [values[name] for name in names]


def _rounded(share):
    """A share as a whole number of percent, a dash for NaN."""
    return "-" if np.isnan(share) else f"{100 * share:.0f}"


def _matrix_table(result):
    """The matrix of all records together."""
    total = {cell: sum(one.cells[cell] for one in result.records) for cell in _CELLS}
    rows = [
        [a, *(f"{total[a + b]:,}" if a + b in total else "" for b in "nsvfqox")] for a in "NSVFQOX"
    ]
    return pages.table(
        ["reference", *"nsvfqox"], rows, caption="All records: reference in rows, found in columns"
    )


def _page(result):
    """The page of figures."""
    settings = result.settings
    stop = settings["stop_s"]
    end = "its end" if stop is None else f"{stop:g} s" if stop else "the end of either side"
    rules = (
        f"Each record from {settings['start_s']:g} s to {end}; a pair is at most "
        f"{1000 * settings['window_s']:g} ms apart; e, j and n count as "
        f"{settings['escape_beats']}. "
        "O is no beat; X is no beat where the other side marks the signal as unreadable; found "
        "beats in the reference's ventricular flutter are not counted. Counted as the WFDB "
        "programs bxb, rxr and sumstats do (ANSI/AAMI EC57)."
    )
    n = len(result.mismatches)
    linked = f'<p><a href="mismatches.html">The {n:,} disagreements, drawn</a></p>'
    details = Markup("").join(
        pages.folded(
            one.name,
            pages.code(
                _bxb_text(one, *result.annotators) + "\n" + _rxr_text(one, *result.annotators)
            ),
        )
        for one in result.records
    )
    shutdowns = result.shutdowns
    shut = pages.table(
        ["record", "Nx", "Sx", "Vx", "Fx", "Qx", "seconds"],
        [
            [row[key] for key in ("record", "Nx", "Sx", "Vx", "Fx", "Qx", "seconds")]
            for row in shutdowns.to_dict("records")
        ],
        caption="Reference beats missed while the found side was shut down",
    )
    many = len(result.records)
    runs = pages.paragraph(
        "Couplets (C), short runs of 3 to 5 (S) and long runs (L): those of the reference found "
        "(Ts) and missed (FN), those found that are right (Tp) and false (FP). F counts as V here; "
        "flutter is a long run of V, atrial fibrillation one of S.",
        quiet=True,
    )
    return pages.page(
        f"Beats found, against the reference: {many} record{'s' * (many != 1)}",
        [
            ("beats", "Beat by beat", _beats_table(result) + _matrix_table(result)),
            ("runs", "Run by run", runs + _runs_table(result, "V") + _runs_table(result, "S")),
            ("shutdowns", "Shutdowns", shut),
            ("records", "Each record, as the programs print it", details),
        ],
        lead=_cards(result)
        + pages.notes(result.notes)
        + pages.paragraph(rules, quiet=True)
        + Markup(linked),
    )


# ---- strips of disagreements -------------------------------------------------------------------


def _mismatches_page(result, references, most):
    """The page of disagreements, worst record first, at most `most` strips."""
    ranked = sorted(result.records, key=lambda one: -len(one.mismatches))
    ranked = [one for one in ranked if one.mismatches]
    groups = {one.name: _grouped(one) for one in ranked}
    signals = {one.name: _signal_of(references[one.name], one) for one in ranked}
    quota = _quotas({name: len(found) for name, found in groups.items() if signals[name]}, most)
    room, listed, sections, shown, strips = _PAGE_BYTES, _LISTED, [], 0, 0
    for one in ranked:
        drawn = _strips(one, signals[one.name], groups[one.name], quota.get(one.name, 0), room)
        room -= sum(len(strip) for strip, _ in drawn)
        strips, told = strips + len(drawn), sum(n for _, n in drawn)
        shown += told
        kinds = pd.Series([a + b.lower() for _, a, b in one.mismatches]).value_counts()
        kinds = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        text = pages.paragraph(f"{len(one.mismatches)} disagreements: {kinds}.")
        if drawn:
            if told < len(one.mismatches):
                rest = f"Drawn: {told}, spread over the record; the others are in mismatches.csv."
                text += pages.paragraph(rest, quiet=True)
            drawings = Markup("").join(strip for strip, _ in drawn)
            text += Markup('<div class="strips">{}</div>').format(drawings)
        elif listed:
            text += _listing(one, listed, signals[one.name])
            listed -= min(listed, len(one.mismatches))
        sections.append((f"r-{one.name}", one.name, text))
    total = len(result.mismatches)
    lead = pages.paragraph(
        f"{total:,} disagreements in {len(ranked)} of {len(result.records)} records, worst record "
        f"first. {strips} strips show {shown:,} of them; all are in mismatches.csv."
    ) + pages.paragraph(
        "25 mm/s and 10 mm/mV. Above: the reference (capitals); below: what was found; red: where "
        "they disagree. o is no beat, x is no beat in a shutdown.",
        quiet=True,
    )
    if not sections:
        sections = [("none", "None", pages.paragraph("Both sides agree on every beat."))]
    lead += Markup('<p><a href="ec57.html">The figures</a></p>') + _PAPER
    return pages.page("Disagreements", sections, lead=lead)


def _strips(one, signal, groups, most, room):
    """Drawings of at most `most` groups, spread over the record, and how many each shows."""
    drawn = []
    for i in np.unique(np.linspace(0, len(groups) - 1, most).astype(int)):
        strip = _strip(one, signal, groups[i])
        if strip is None:
            continue  # after the end of the signal
        room -= len(strip)
        if room < 0:
            break
        drawn.append((strip, len(groups[i])))
    return drawn


def _listing(one, most, signal):
    """Disagreements of a record as a table of at most `most` rows."""
    rows = [[_clock(sample / one.fs), a, b.lower(), sample] for sample, a, b in one.mismatches]
    body = pages.table(
        ["time", "reference", "found", "sample"],
        rows[:most],
        caption=None if signal else "No signal beside the reference",
    )
    if len(rows) > most:
        body += pages.paragraph(f"{len(rows) - most} more in mismatches.csv.", quiet=True)
    return body


def _grouped(one):
    """Disagreements of a record that fit into one strip, together."""
    groups = []
    for mismatch in sorted(one.mismatches):
        if groups and mismatch[0] - groups[-1][0][0] <= 0.6 * _STRIP_S * one.fs:
            groups[-1].append(mismatch)
        else:
            groups.append([mismatch])
    return groups


def _quotas(wanted, most):
    """Strips for each record: an equal share of `most`; what one leaves goes to the worst."""
    quota, left = dict.fromkeys(wanted, 0), most
    while left > 0 and (open_ := [name for name in wanted if quota[name] < wanted[name]]):
        each = max(1, left // len(open_))
        for name in open_:
            more = min(each, wanted[name] - quota[name], left)
            quota[name], left = quota[name] + more, left - more
    return quota


def _signal_of(side, one):
    """What reads a record's signal beside its annotations, or None where there is none."""
    if side.path is None or not side.path.with_name(f"{side.path.name}.hea").is_file():
        return None
    try:
        opened = open_recording(side.path)
    except (ValueError, ImportError):
        return None  # a page without strips is better than none
    return opened if opened.fs == one.fs else None


def _strip(one, recording, group):
    """The ECG around a group of disagreements as a drawing, in units of 0.1 mm at 25 mm/s."""
    fs, length = one.fs, int(_STRIP_S * one.fs)
    middle = (group[0][0] + group[-1][0]) // 2
    first = max(0, min(middle - length // 2, recording.n_samples - length))
    last = min(first + length, recording.n_samples)
    if group[0][0] >= last:
        return None
    signal = recording.read(first, last)[:, :_MOST_LEADS]
    step = max(1, round(fs / _STRIP_FS))

    def place(sample):
        return round((sample - first) / fs * 250)

    curves, bottom = [], 70
    for name, values in zip(recording.leads, signal.T):
        curve, bottom = _curve(name, values[::step], step / fs * 250, bottom)
        curves.append(curve)
    height, width = bottom + 70, round(_STRIP_S * 250)
    rows = ((42, "v18", 50), (height - 18, "v-18", height - 50))  # of letters; their ticks
    marks = [
        f'<path class="gap" d="M{place(sample)} 0V{height}"/>'
        for sample in sorted({sample for sample, *_ in group})
    ]
    for side, (y, tick, from_y) in enumerate(rows):
        labels = one.labels[side]
        here = labels[bisect.bisect_left(labels, (first,)) : bisect.bisect_left(labels, (last,))]
        off = set()  # samples of this side's beats that the other side has otherwise
        for sample, *pair in group:
            if pair[side] in "OX":
                letter = pair[side].lower()
                marks.append(f'<text class="off" x="{place(sample)}" y="{y}">{letter}</text>')
            elif here:
                off.add(min(here, key=lambda label: abs(label[0] - sample))[0])
        for sample, label in here:
            x, kind = place(sample), ' class="off"' if sample in off else ""
            letter = label.lower() if side else label
            marks.append(f'<path{kind} d="M{x} {from_y}{tick}"/>')
            marks.append(f'<text{kind} x="{x}" y="{y}">{letter}</text>')
    told = ", ".join(f"{_clock(sample / fs)} {a}{b.lower()}" for sample, a, b in group)
    return Markup(
        '<figure><svg viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<rect width="100%" height="100%" fill="url(#paper)"/>{}</svg>'
        "<figcaption>{}</figcaption></figure>"
    ).format(width, height, f"{one.name}: {told}", Markup("".join(marks + curves)), told)


def _curve(name, values, step, top):
    """A lead as a path below `top`, and where the next lead starts; values in mV."""
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    height = int(np.clip(100 * (high - low) + 20, 120, 350))
    middle = (low + high) / 2
    y = np.clip(top + height / 2 - 100 * (values - middle), top, top + height)
    x = np.round(np.arange(len(values)) * step).astype(int)
    path, pen, before = [], None, (0, 0)
    for at, value in zip(x.tolist(), y.tolist()):
        if not np.isfinite(value):
            pen = None
            continue
        point = (at, round(value))
        if pen is None:
            path.append(f"M{point[0]} {point[1]}l")
        else:
            dx, dy = point[0] - before[0], point[1] - before[1]
            path.append(f"{dx}{'' if dy < 0 else ' '}{dy} ")
        pen, before = True, point
    d = "".join(path).replace(" l", "l").rstrip()
    name = Markup("<text class=lead x=6 y={}>{}</text>").format(top + 22, name)
    return f'{name}<path class="ecg" d="{d}"/>', top + height


def _clock(seconds):
    """Seconds as h:mm:ss.s, hours only where there are any.

    Examples
    --------
    >>> _clock(61.04), _clock(3725.5)
    ('1:01.0', '1:02:05.5')
    """
    tenths = round(10 * seconds)
    hours, minutes = tenths // 36000, tenths // 600 % 60
    rest = f"{tenths % 600 / 10:04.1f}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


_PAPER = Markup(  # the squares of ECG paper, which every strip is filled with
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="paper" width="50" height="50" patternUnits="userSpaceOnUse"><path class="fine" '
    'd="M10 0V50M20 0V50M30 0V50M40 0V50M0 10H50M0 20H50M0 30H50M0 40H50"/>'
    '<path class="coarse" d="M0 0V50M0 0H50"/></pattern></defs></svg>'
)


sys.modules[__name__].__class__ = CallableModule
