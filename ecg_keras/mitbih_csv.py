"""Load the MIT-BIH beats of Kaggle's two CSV files, or make such files of raw recordings.

Conventions
-----------
A row is one beat, then its class as a number, 0 to 4 for AAMI's N, S, V, F, Q. A beat is 187
samples at 125 Hz. It is cut as M. Kachuee et al. describe ("ECG heartbeat classification: a deep
transferable representation", ICHI 2018): the recording is taken in windows of 10 s, each window
is scaled to 0..1, and a beat goes from its R peak over 1.2 times the window's median RR interval.
Zeros fill the rest of the row.
"""

import contextlib
import gzip
import io
import os
import pathlib
import time
import zipfile
import zlib

import numpy as np

from ecg_keras._checks import check_fraction, check_option
from ecg_keras.beats import AAMI_CLASSES
from ecg_keras.dataset import BALANCES, ECGDataset, Scaler, balance_train, draw_patients
from ecg_keras.recordings import ONE_PATIENT, list_records, read_recording
from ecg_keras.signals import resample
from ecg_keras.storage import (
    atomic_path,
    cache_folder,
    file_stamp,
    fingerprint,
    read_cache,
    write_cache,
    write_text,
)

FS = 125.0  # Hz
N_SAMPLES = 187
MARKER = "SYNTHETIC.txt"  # beside CSV files that are not measured
_WINDOW_S = 10.0  # in which a beat is scaled

_FILES = {"train": "mitbih_train.csv", "test": "mitbih_test.csv"}
_ENDINGS = ("", ".gz", ".zip")
_KAGGLE_INPUT = pathlib.Path("/kaggle/input")
_GET_THEM = (
    "get them with: ecg-keras download mitbih_csv DIR (or attach the Kaggle data set "
    "shayanfazeli/heartbeat), then give DIR, or set ECG_KERAS_DATA"
)
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)  # of a damaged or packed file
_COLUMNS = f"expected {N_SAMPLES + 1} columns ({N_SAMPLES} samples and a label)"
_MIXED = (
    "Beats of the same patients are in the train and test files of this data set, so these figures "
    "say how well beats of known patients are told apart, not how well it works on a new patient."
)


def load_mitbih_csv(
    directory=None,
    *,
    split="files",
    balance=None,
    caps=None,
    standardize=False,
    val_fraction=0.1,
    seed=0,
):
    """Load the MIT-BIH beats of the Kaggle data set 'heartbeat'.

    Source: G. B. Moody, R. G. Mark, 'The impact of the MIT-BIH Arrhythmia Database', IEEE EMB
    20(3), 2001; cut into beats by M. Kachuee et al., 'ECG heartbeat classification', ICHI 2018;
    Kaggle data set shayanfazeli/heartbeat; licence ODC-BY 1.0. Lead MLII (else the first), which
    the publisher resampled from 360 to 125 Hz and cut as the head of this module says. The files
    do not name patients, and beats of one patient are in both.

    Parameters
    ----------
    directory : path, optional
        A folder that holds mitbih_train.csv and mitbih_test.csv (also in a folder below it, also
        as .csv.gz or .csv.zip), or a .zip of both. By default the folder that the environment
        variable ``ECG_KERAS_DATA`` names, then Kaggle's input folders.
    split : {"files", "patient"}, default "files"
        "files" tests on mitbih_test.csv. "patient" divides all rows by whole patients, 70 % to
        train on, 15 % to validate, 15 % to test; it needs the file mitbih_rows.csv that
        `make_mitbih_csv` writes.
    balance : {None, "smote", "smote_tomek", "class_weight", "sampler"}, default None
        How the train part is balanced; see `dataset.balance_train`.
    caps : dict of str to int, optional
        Most train rows of a class after balancing.
    standardize : bool, default False
        Subtract the mean and divide by the standard deviation of each of the 187 samples over the
        train rows. The saved model does the same to raw beats.
    val_fraction : float, default 0.1
        Share of the rows of mitbih_train.csv that are cut off for validation, the same of each
        class, before anything is balanced or fitted.
    seed : int, default 0
        Seed of the split and of balancing.

    Returns
    -------
    train, val, test : ECGDataset
        x float32 (n, 187, 1) in 0..1, y int64 (n,), classes N S V F Q, fs 125 Hz.

    Raises
    ------
    ValueError
        If a file is missing, cut off, not a CSV of 188 numbers a row, or holds NaN, infinity or a
        label that is not 0 to 4; names the file, row and column.

    Notes
    -----
    The first call reads the text and keeps the beats in the folder ``ECG_KERAS_CACHE`` (by default
    ``~/.cache/ecg_keras``). Later calls read them there as long as the CSV files are the same.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_csv
    >>> folder = tempfile.mkdtemp()
    >>> _ = write_demo_csv(folder, n_beats=300)
    >>> train, val, test = load_mitbih_csv(folder)
    >>> train.x.shape[1:], train.classes, train.fs
    ((187, 1), ('N', 'S', 'V', 'F', 'Q'), 125.0)
    """
    balance = check_option("balance", balance, BALANCES)
    split = check_option("split", split, ("files", "patient"))
    check_fraction("val_fraction", val_fraction)
    start = time.perf_counter()
    files = find_csv_files(directory)
    arrays = _read_cached(files)
    synthetic = any((file.path.parent / MARKER).is_file() for file in files.values())
    source = (
        "synthetic demo set in the form of the MIT-BIH CSV"
        if synthetic
        else "MIT-BIH Arrhythmia Database, CSV of beats"
    )
    parts = {
        name: ECGDataset(
            arrays[f"x_{name}"],
            arrays[f"y_{name}"],
            classes=AAMI_CLASSES,
            fs=FS,
            leads=("MLII",),
            unit="0..1",
            source=source,
        )
        for name in _FILES
    }
    if split == "patient":
        train, val, test = _split_by_patient(parts, files["train"].path.parent, seed)
    else:
        train, val = parts["train"].split(val_fraction, seed=seed)
        train, val, test = (part.replace(notes=(_MIXED,)) for part in (train, val, parts["test"]))
    if standardize:
        scale = train.x.std(axis=0, dtype=np.float64)
        mean = train.x.mean(axis=0, dtype=np.float64)
        scaler = Scaler(mean.astype(np.float32), np.where(scale == 0, 1, scale).astype(np.float32))
        train, val, test = (
            part.replace(
                x=scaler.apply(part.x),
                scaler=scaler,
                unit="standard deviations",
                digests=part.row_digests(),
            )
            for part in (train, val, test)
        )
    facts = {
        "split_by": {
            "loader": "load_mitbih_csv",
            "split": split,
            "val_fraction": val_fraction,
            "seed": seed,
        },
        "seconds": {"load": time.perf_counter() - start},
    }
    train, val, test = (part.replace(**facts) for part in (train, val, test))
    return balance_train(train, balance, caps=caps, seed=seed), val, test


class _File:
    """One of the CSV files: plain, compressed, or a member of a zip."""

    def __init__(self, path, member=None):
        self.path, self.member = path, member
        self.name = member or path.name

    def open(self):
        """Open the text as bytes."""
        if self.member is not None:
            return _member(self.path, self.member)
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                inside = [name for name in archive.namelist() if name.endswith(".csv")]
            if len(inside) != 1:
                raise ValueError(f"{self.path}: expected one CSV file inside, got {len(inside)}.")
            return _member(self.path, inside[0])
        return gzip.open(self.path, "rb") if self.path.suffix == ".gz" else open(self.path, "rb")

    def stamp(self):
        """What changes when the file does: its place, size, times, and its first and last bytes."""
        with open(self.path, "rb") as file:
            head = zlib.crc32(file.read(65536))
            file.seek(max(0, os.path.getsize(self.path) - 65536))
            return [*file_stamp(self.path), self.member, head, zlib.crc32(file.read())]


@contextlib.contextmanager
def _member(path, name):
    """Open a file inside a zip."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


def find_csv_files(directory=None):
    """Find mitbih_train.csv and mitbih_test.csv.

    Parameters
    ----------
    directory : path, optional
        As `load_mitbih_csv` takes it.

    Returns
    -------
    dict
        ``"train"`` and ``"test"``, each with a `path` and `open()`.

    Raises
    ------
    ValueError
        If there is none, or one only; says where it looked and how to get them.
    """
    if directory is not None:
        return _files_in(pathlib.Path(directory).expanduser())
    if os.environ.get("ECG_KERAS_DATA"):
        return _files_in(pathlib.Path(os.environ["ECG_KERAS_DATA"]).expanduser())
    for folder in ("datasets/shayanfazeli/heartbeat", "heartbeat", "."):
        place = _KAGGLE_INPUT / folder
        if place.is_dir() and any(_matches(place, name) for name in _FILES.values()):
            return _files_in(place)
    raise ValueError(
        f"no directory given, and none found in ECG_KERAS_DATA or {_KAGGLE_INPUT}: {_GET_THEM}."
    )


def _matches(folder, name):
    """Files of that name, compressed or not, in a folder or below it, the least deep first."""
    found = [path for ending in _ENDINGS for path in folder.rglob(name + ending) if path.is_file()]
    return sorted(found, key=lambda path: (len(path.parts), path.suffix != ".csv", str(path)))


def _files_in(place):
    """Both files of a folder or zip, or an error that says what is missing."""
    if not place.exists():
        raise ValueError(f"{place}: no such folder or file; {_GET_THEM}.")
    if _holds_both(place):
        return _files_in_zip(place)
    if place.is_file():
        place = place.parent
    found = {part: _matches(place, name) for part, name in _FILES.items()}
    missing = [name for part, name in _FILES.items() if not found[part]]
    if missing:
        zips = [path for path in place.glob("*.zip") if _holds_both(path)]
        if len(missing) == 2 and len(zips) == 1:
            return _files_in_zip(zips[0])
        only = "".join(f" ({_FILES[part]} is there)" for part in found if found[part])
        raise ValueError(f"{place}: {' and '.join(missing)} not found{only}; {_GET_THEM}.")
    train = found["train"][0]
    beside = [path for path in found["test"] if path.parent == train.parent]
    return {"train": _File(train), "test": _File((beside or found["test"])[0])}


def _holds_both(path):
    """True for a .zip that is not one of the two files, compressed."""
    one = path.name.startswith(tuple(_FILES.values()))
    return path.is_file() and path.suffix == ".zip" and not one


def _files_in_zip(path):
    """Both files inside one zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a zip that can be read ({error}); {_GET_THEM}.") from error
    members = {
        part: [name for name in names if pathlib.PurePosixPath(name).name == _FILES[part]]
        for part in _FILES
    }
    missing = [_FILES[part] for part in _FILES if not members[part]]
    if missing:
        raise ValueError(f"{path}: holds no {' and no '.join(missing)}; {_GET_THEM}.")
    return {part: _File(path, members[part][0]) for part in _FILES}


def _read_cached(files):
    """X and y of both files, from the cache where it was made from these very files."""
    key = ["mitbih-csv", 1, [file.stamp() for file in files.values()]]
    cache = cache_folder() / f"mitbih-csv-{fingerprint([stamp[0] for stamp in key[2]])}.cache"
    arrays = read_cache(cache, key)
    if arrays is None:
        arrays = {}
        for part, file in files.items():
            arrays[f"x_{part}"], arrays[f"y_{part}"] = read_beats_csv(file)
        try:
            write_cache(cache, key, arrays)
        except OSError:  # a read-only or full cache folder: the next load takes longer
            pass
    return arrays


def read_beats_csv(file):
    """Read one CSV of beats.

    Parameters
    ----------
    file : path, or a member of `find_csv_files`

    Returns
    -------
    x : float32, shape (n, 187)
    y : int64, shape (n,)

    Raises
    ------
    ValueError
        Names file, row and column, and what to do.
    """
    import pandas as pd

    file = file if isinstance(file, _File) else _File(pathlib.Path(file))
    _check_looks(file)
    try:
        with file.open() as stream, np.errstate(over="ignore"):  # told below
            table = pd.read_csv(
                stream,
                header=None,
                dtype=np.float32,
                na_filter=False,
                engine="c",
                encoding="latin-1",
            )
        values = table.to_numpy()
    except (ValueError, OverflowError, *_UNREADABLE) as error:
        raise ValueError(_first_fault(file) or f"{file.path}: cannot be read ({error}).") from error
    if values.shape[1] != N_SAMPLES + 1 or not np.isfinite(values.sum(dtype=np.float64)):
        raise ValueError(_first_fault(file) or f"{file.path}: holds values that are not finite.")
    labels = values[:, -1]
    whole = labels.astype(np.int64)
    wrong = (whole != labels) | (whole < 0) | (whole >= len(AAMI_CLASSES))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{file.name}: row {row + 1}, column {N_SAMPLES + 1}: the label must be a whole number "
            f"0 to 4 ({', '.join(AAMI_CLASSES)}), got {labels[row]:g}."
        )
    if len(np.unique(whole)) < 2:
        raise ValueError(
            f"{file.name}: all {len(whole)} beats are of class {AAMI_CLASSES[whole[0]]}; a "
            f"classifier needs at least two classes. The file is not whole; {_GET_THEM}."
        )
    return np.ascontiguousarray(values[:, :-1]), whole


def _check_looks(file):
    """Refuse what is not a CSV of numbers by its first and last bytes."""
    try:
        with file.open() as stream:
            head = stream.read(8192)
    except _UNREADABLE as error:
        raise ValueError(f"{file.path}: cannot be unpacked ({error}); {_GET_THEM}.") from error
    if not head.strip():
        raise ValueError(f"{file.path}: is empty; {_GET_THEM}.")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{file.path}: is a Git LFS pointer, not the data; fetch it with: git lfs pull."
        )
    if head.lstrip()[:1] == b"<":
        raise ValueError(
            f"{file.path}: is an HTML page, not a CSV (did the download need a login?); "
            f"{_GET_THEM}."
        )
    first = head.split(b"\n", 1)[0].decode("latin-1").strip().split(",")
    if b"\n" in head and not _number(first[0]) and sum(map(_number, first)) < len(first) / 2:
        raise ValueError(
            f"{file.name}: row 1 is a header line ({', '.join(first[:3])} ...); remove it, rows "
            "are numbers only."
        )
    if b"\n" in head and len(first) != N_SAMPLES + 1:
        raise ValueError(f"{file.name}: {_COLUMNS}, got {len(first)} in row 1.")
    if file.member is None and file.path.suffix == ".csv":
        with open(file.path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(file.path) - 16384))
            tail = stream.read()
        last = tail.rstrip(b"\r").split(b"\n")[-1].decode("latin-1")
        if last and (last.count(",") != N_SAMPLES or len(last.rsplit(",", 1)[1]) < len(first[-1])):
            raise ValueError(
                f"{file.name}: the last line is cut off after column {last.count(',') + 1}; the "
                f"file is not whole; {_GET_THEM}."
            )


def _number(text):
    """True where float() takes the text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_fault(file):
    """Say where the first fault of a file is, line by line; None if there is none."""
    row, most = 0, float(np.finfo(np.float32).max)
    try:
        with file.open() as stream:
            for row, line in enumerate(io.TextIOWrapper(stream, encoding="latin-1"), 1):
                fields = line.strip().split(",")
                if fields == [""]:
                    continue
                place = f"{file.name}: row {row}"
                if len(fields) != N_SAMPLES + 1:
                    return (
                        f"{place}: {_COLUMNS}, got {len(fields)}; the line is cut off or joined "
                        "with another."
                    )
                for column, text in enumerate(fields, 1):
                    if not _number(text):
                        fault = f"expected a number, got {repr(text) if text else 'nothing'}"
                        return f"{place}, column {column}: {fault}; correct or remove the row."
                    if not abs(float(text)) <= most:
                        fault = f"is {text}; samples must be finite"
                        return f"{place}, column {column}: {fault}, remove the row."
    except _UNREADABLE as error:
        return f"{file.path}: is cut off or damaged after row {row} ({error}); {_GET_THEM}."
    return None


def _split_by_patient(parts, folder, seed):
    """All rows, divided by whole patients with the help of mitbih_rows.csv."""
    patients, records = _read_rows(folder, {name: len(part) for name, part in parts.items()})
    whole = parts["train"].replace(
        x=np.concatenate([part.x for part in parts.values()]),
        y=np.concatenate([part.y for part in parts.values()]),
        patients=patients,
        records=records,
        source=parts["train"].source + ", divided by patient",
    )
    held_out = np.isin(whole.patients, draw_patients(whole, 0.3, seed=seed))
    train, rest = whole[~held_out], whole[held_out]
    in_test = np.isin(rest.patients, draw_patients(rest, 0.5, seed=seed))
    return train, rest[~in_test], rest[in_test]


def _read_rows(folder, lengths):
    """Patient and record of every row, train rows first, from mitbih_rows.csv."""
    import pandas as pd

    path = folder / "mitbih_rows.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: not found. split='patient' needs it, and the Kaggle files do not name "
            "patients; write files that do with: ecg-keras make-mitbih-csv RECORDS_DIR OUT_DIR"
        )
    table = pd.read_csv(path, dtype={"part": str, "record": str, "patient": str})
    for column in ("part", "record", "patient"):
        if column not in table:
            raise ValueError(
                f"{path}: expected a column {column!r}, got {', '.join(table.columns)}."
            )
    parts = [table[table["part"] == name] for name in lengths]
    for (name, n), part in zip(lengths.items(), parts):
        if len(part) != n:
            raise ValueError(
                f"{path}: names {len(part)} rows of {_FILES[name]}, which has {n}; write both "
                "files anew."
            )
    table = pd.concat(parts)
    return table["patient"].to_numpy(), table["record"].to_numpy()


def make_mitbih_csv(records_dir, out_dir, *, test_fraction=0.2, on_error="raise", seed=0):
    """Write mitbih_train.csv, mitbih_test.csv and mitbih_rows.csv from a folder of raw recordings.

    Beats are cut as in the Kaggle files (see `cut_beats`), at the annotated R peaks. Rows are
    divided at random within each class, so patients are mixed as in the original;
    ``load_mitbih_csv(out_dir, split="patient")`` keeps them apart by the third file.

    Parameters
    ----------
    records_dir, out_dir : path
        Folder of WFDB records, and folder to write to.
    test_fraction : float, default 0.2
        Share of the beats of each class in mitbih_test.csv.
    on_error : {"raise", "skip"}, default "raise"
        What to do with a recording that cannot be read.
    seed : int, default 0
        Seed of the division and of the order of rows.

    Returns
    -------
    str
        One line: rows, classes, files, annotations and recordings left out.

    Raises
    ------
    ValueError
        If a recording cannot be read, or if one of `out_dir` and the recordings is synthetic and
        the other is measured.

    Notes
    -----
    mitbih_rows.csv has the columns ``part`` (train or test), ``row`` (from 0, as in that part's
    file), ``record``, ``patient`` (records 201 and 202 are of one), ``sample`` (of the R peak, at
    the record's own rate) and ``symbol``.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_records
    >>> records, out = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = write_demo_records(records, n_patients=2, duration_s=30)
    >>> make_mitbih_csv(records, out).split(":")[0].split()[1:]
    ['rows', 'of', '2', 'records']
    """
    import pandas as pd

    check_option("on_error", on_error, ("raise", "skip"))
    check_fraction("test_fraction", test_fraction)
    start, out_dir = time.perf_counter(), pathlib.Path(out_dir)
    beats, origin, skipped = [], [], []
    synthetic, late = False, 0
    names = list_records(records_dir)
    for name in names:
        try:
            recording = read_recording(records_dir, name, lead=None)
        except ValueError as error:
            if on_error == "raise":
                raise
            skipped.append(str(error))
            continue
        synthetic, late = synthetic | recording.synthetic, late + recording.late
        rows, kept = cut_beats(recording)
        beats.append(rows)
        columns = {"record": name, "patient": ONE_PATIENT.get(name, name)}
        columns |= {"sample": recording.peaks[kept], "symbol": recording.symbols[kept]}
        columns["label"] = [AAMI_CLASSES.index(label) for label in recording.aami[kept]]
        origin.append(pd.DataFrame(columns))
    if not beats:
        raise ValueError(f"{records_dir}: none of {len(names)} records could be read: {skipped[0]}")
    beats, origin = np.concatenate(beats), pd.concat(origin)
    labels = origin.pop("label").to_numpy()
    _mark(out_dir, synthetic)
    tables = []
    for part, chosen in _divided(labels, test_fraction, np.random.default_rng(seed)).items():
        write_beats_csv(out_dir / _FILES[part], beats[chosen], labels[chosen])
        tables.append(origin.iloc[chosen])
        tables[-1].insert(0, "row", np.arange(len(chosen)))
        tables[-1].insert(0, "part", part)
    with atomic_path(out_dir / "mitbih_rows.csv") as path:
        pd.concat(tables).to_csv(path, index=False)
    counts = zip(AAMI_CLASSES, np.bincount(labels, minlength=len(AAMI_CLASSES)))
    counts = ", ".join(f"{name} {count:,}" for name, count in counts)
    line = f"{len(beats):,} rows of {len(names) - len(skipped)} records: {counts}; "
    line += f"in {out_dir}, {time.perf_counter() - start:.0f} s"
    if late:
        line += f"; annotations after the end of their recording, left out: {late}"
    return line + "".join(f"\nskipped: {error}" for error in skipped)


def _mark(out_dir, synthetic):
    """Write the marker of synthetic files before any of them; refuse a folder of measured ones."""
    marker = out_dir / MARKER
    present = [file for file in sorted(out_dir.glob("mitbih_t*.csv")) if file.is_file()]
    if synthetic and present and not marker.exists():
        raise ValueError(
            f"{present[0]} is not marked as synthetic, and these recordings are synthetic; "
            "give another out_dir."
        )
    if not synthetic and marker.exists():
        raise ValueError(
            f"{marker} marks what is in the folder as synthetic, and these recordings are "
            "measured; give another out_dir."
        )
    if synthetic:
        write_text(marker, "These beats are of synthetic recordings; they were not measured.\n")


def _divided(labels, test_fraction, rng):
    """Row numbers of train and test, the same share of each class, shuffled."""
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test[rows[: round(test_fraction * len(rows))]] = True
    return {
        "train": rng.permutation(np.flatnonzero(~test)),
        "test": rng.permutation(np.flatnonzero(test)),
    }


def write_beats_csv(path, x, y):
    """Write beats (n, 187) and their class numbers (n,) in the form of the Kaggle files."""
    with atomic_path(path) as part:
        np.savetxt(part, np.column_stack([x, y]), fmt="%.18e", delimiter=",")


def cut_beats(recording):
    """Cut the beats of a recording as the Kaggle files have them.

    Parameters
    ----------
    recording : recordings.Recording
        Its lead MLII is used, else its first.

    Returns
    -------
    rows : float64, shape (n_rows, 187)
        Beats at 125 Hz from their R peak on, in 0..1, padded with zeros.
    kept : int, shape (n_rows,)
        Which annotated beat each row is. Windows that do not move give no rows.

    Examples
    --------
    >>> from ecg_keras.demo import simulate_patient
    >>> rows, kept = cut_beats(simulate_patient(0, duration_s=30))
    >>> rows.shape[1], rows.min(), rows.max()
    (187, np.float64(0.0), np.float64(1.0))
    """
    column = recording.leads.index("MLII") if "MLII" in recording.leads else 0
    signal = resample(recording.signal[:, column], fs=recording.fs, to_fs=FS)
    peaks = np.round(recording.peaks * FS / recording.fs).astype(np.int64)
    length = int(_WINDOW_S * FS)
    rows, kept = [], []
    for begin in range(0, len(signal), length):
        window = signal[begin : begin + length]
        inside = np.flatnonzero((peaks >= begin) & (peaks < begin + length))
        if len(window) < 2 or np.ptp(window) == 0 or not len(inside):
            continue
        rr = np.diff(peaks[inside])
        usual = np.median(rr) if len(rr) else FS
        for i in inside:
            end = peaks[i] + min(int(1.2 * usual), N_SAMPLES)  # may lie in the next window
            beat = np.clip((signal[peaks[i] : end] - window.min()) / np.ptp(window), 0, 1)
            rows.append(np.pad(beat, (0, N_SAMPLES - len(beat))))
            kept.append(i)
    return np.array(rows).reshape(-1, N_SAMPLES), np.array(kept, int)
