"""Load PTB-XL: ten seconds of twelve leads, with several diagnoses at once.

Conventions
-----------
Signals are float32 (n, 10 * sampling_rate, leads) in mV, leads in the order of `LEADS` or as
asked. Labels are multi-hot (n, classes), except for the task "superclass_single". Parts are cut by
the publisher's ten folds, which keep patients together. Nothing is filtered, standardised or
resampled. One record is int16 (samples, 12) in uV.

P. Wagner et al., "PTB-XL, a large publicly available electrocardiography dataset",
Scientific Data 7:154, 2020 (CC BY 4.0; https://physionet.org/content/ptb-xl/). 21,799
records of 18,869 patients, 1989-1996, 12 leads, 500 Hz and 100 Hz. The label rule is that of
N. Strodthoff et al., "Deep Learning for ECG Analysis", IEEE JBHI 25(5), 2021.
"""

import json
import os
import pathlib
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ecg_keras._checks import check_option, require
from ecg_keras.dataset import ECGDataset, check_parts, split
from ecg_keras.storage import cache_folder, fingerprint, read_cache, write_cache

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
TASKS = ("superclass", "superclass_single", "subclass", "diagnostic", "form", "rhythm", "all")
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
OFFICIAL_FOLDS = (tuple(range(1, 9)), (9,), (10,))

_COLUMNS = (
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "scp_codes",
    "strat_fold",
    "filename_lr",
    "filename_hr",
)
_SUFFIX = {100: "lr", 500: "hr"}
_OVER_89, _UNKNOWN_AGE = 90.0, 60.0  # years; the publisher writes 300 for over 89
_UNITS_PER_MV = {"mv": 1.0, "uv": 1000.0, "v": 0.001}


def load_ptbxl(
    directory,
    *,
    task="superclass",
    sampling_rate=100,
    folds=OFFICIAL_FOLDS,
    leads=None,
    seed=0,
    progress=True,
):
    """Load PTB-XL from its official folder as train, validation and test parts.

    Parameters
    ----------
    directory : path
        The folder of ``ptbxl_database.csv``, ``scp_statements.csv`` and ``records100`` or
        ``records500``, or the one above it.
    task : {"superclass", "superclass_single", "subclass", "diagnostic", "form", "rhythm", "all"}
        What to predict: the 5 superclasses NORM MI STTC CD HYP, the 23 subclasses, the 44
        diagnostic, 19 form or 12 rhythm statements, or all 71. Every code of a record counts,
        whatever its likelihood. Records without a class of the task are left out and counted in
        `notes`. "superclass_single" keeps the records with exactly one superclass, as class
        numbers (n,).
    sampling_rate : {100, 500}, default 100
        In Hz; which of the two published versions to read.
    folds : str or (train, val, test), default 1-8, 9 and 10
        Numbers 1 to 10 of each part, as `parse_folds` reads them. A fraction in the place of val,
        as in ``"1-8/0.1/9"``, cuts that share of the patients off train.
    leads : sequence of str, optional
        Leads to keep, in this order; any case.
    seed : int, default 0
        Draws the patients where val is a fraction; nothing else is drawn.
    progress : bool, default True
        Show a bar while records are read for the first time.

    Returns
    -------
    train, val, test : ECGDataset
        ``patients`` and ``records`` are the publisher's ids. ``metadata`` is age in years and sex
        (0 male, 1 female). The age 300 stands for "over 89" and becomes 90; a missing age becomes
        60 and a missing sex 0.5, and `notes` counts all three.

    Raises
    ------
    ValueError
        If a file is missing, cut or of another layout, if a record has another length or lacks a
        lead, if a part has no records, or if a patient is in two parts.

    Examples
    --------
    >>> train, val, test = load_ptbxl("ptb-xl-1.0.3", folds="1-7/8/9")  # doctest: +SKIP
    >>> train.classes  # doctest: +SKIP
    ('NORM', 'MI', 'STTC', 'CD', 'HYP')
    """
    start = time.perf_counter()
    train_folds, val_folds, test_folds = parse_folds(folds)
    options = {"task": task, "sampling_rate": sampling_rate, "leads": leads, "progress": progress}
    train = load_ptbxl_part(directory, folds=train_folds, **options)
    test = load_ptbxl_part(directory, folds=test_folds, **options)
    if isinstance(val_folds, float):
        train, val = split(train, val_folds, by="patients", seed=seed)
    else:
        val = load_ptbxl_part(directory, folds=val_folds, **options)
    check_parts(train, val, test)
    facts = {
        "split_by": {
            "loader": "load_ptbxl",
            "folds": [train_folds, val_folds, test_folds],
            "seed": seed,
        },
        "seconds": {"load": time.perf_counter() - start},
    }
    return tuple(part.replace(**facts) for part in (train, val, test))


def load_ptbxl_part(
    directory, *, folds, task="superclass", sampling_rate=100, leads=None, progress=True
):
    """Load the records of some folds as one data set, to evaluate a finished model on.

    Parameters
    ----------
    folds : int, str or sequence of int
        Folds of the one part: 10, ``"9-10"``, ``(9, 10)``.
    directory, task, sampling_rate, leads, progress
        As in `load_ptbxl`.

    Returns
    -------
    part : ECGDataset
        The classes of a task and their order come from ``scp_statements.csv``, so they do not
        depend on the folds.

    Raises
    ------
    ValueError
        As `load_ptbxl`.

    Examples
    --------
    >>> test = load_ptbxl_part("ptb-xl-1.0.3", folds=10)  # doctest: +SKIP
    """
    start = time.perf_counter()
    task = check_option("task", task, TASKS)
    check_option("sampling_rate", sampling_rate, tuple(_SUFFIX))
    folds = _parse_part(folds)
    columns = _lead_columns(leads)
    root = _find_root(directory)
    table, notes = _read_table(root), []
    here = sorted(set(table.strat_fold))
    chosen = np.isin(table.strat_fold, folds)
    if not chosen.any():
        raise ValueError(
            f"folds {_name(folds)}: {root / 'ptbxl_database.csv'} has no records of them; it has "
            f"folds {_name(here)}."
        )
    if absent := sorted(set(folds) - set(here)):
        notes.append(f"folds {_name(absent)} have no records here")
    table = table[chosen]
    y, classes = _labels(table, root, task, notes)
    single = task == "superclass_single"
    kept = y.sum(axis=1) == 1 if single else y.any(axis=1)
    if not kept.all():
        what = "exactly one superclass" if single else f"a class of the task {task!r}"
        notes.append(f"{int((~kept).sum())} of {len(kept)} records left out: not {what}")
    if not kept.any():
        raise ValueError(
            f"folds {_name(folds)}: none of {len(kept)} records has a class of the task {task!r}."
        )
    x = _read_signals(root, table, sampling_rate, kept, columns, progress)
    table, y = table[kept], y[kept]
    return ECGDataset(
        x,
        y.argmax(axis=1) if single else y,
        classes=classes,
        fs=sampling_rate,
        leads=tuple(LEADS[column] for column in columns),
        unit="mV",
        patients=[f"{patient:.0f}" for patient in table.patient_id],
        records=table.ecg_id,
        metadata=_metadata(table, notes),
        metadata_names=("age", "sex"),
        source=f"PTB-XL, {sampling_rate} Hz, task {task}, folds {_name(set(table.strat_fold))}",
        preparation={
            "task": task,
            "sampling_rate": sampling_rate,
            "leads": [LEADS[column] for column in columns],
        },
        notes=tuple(notes),
        seconds={"load": time.perf_counter() - start},
    )


def parse_folds(folds):
    """Read train, validation and test folds, from text or from a tuple of three.

    Returns
    -------
    parts : tuple of three
        Each a tuple of int, but for val, which may be a fraction of train's patients as a float.

    Examples
    --------
    >>> parse_folds("1-3,5/8/9")
    ((1, 2, 3, 5), (8,), (9,))
    >>> parse_folds((range(1, 9), 0.1, 9))
    ((1, 2, 3, 4, 5, 6, 7, 8), 0.1, (9,))
    """
    parts = folds.split("/") if isinstance(folds, str) else tuple(folds)
    if len(parts) != 3:
        raise ValueError(
            f"folds must name train, validation and test as in '1-8/9/10', got {folds!r}."
        )
    val = parts[1]
    if isinstance(val, str) and re.fullmatch(r"\s*0?\.\d+\s*", val):
        val = float(val)
    if isinstance(val, float) and not 0 < val < 1:
        raise ValueError(
            f"folds: the validation part must be folds or a fraction between 0 and 1, got {val}."
        )
    parts = tuple(
        part if isinstance(part, float) else _parse_part(part) for part in (parts[0], val, parts[2])
    )
    seen = [fold for part in parts if not isinstance(part, float) for fold in part]
    if twice := sorted({fold for fold in seen if seen.count(fold) > 1}):
        raise ValueError(f"folds: {_name(twice)} is in two parts; each fold may be in one.")
    return parts


def _parse_part(part):
    """'1-3,5', 9 or (9, 10) to a tuple of fold numbers."""
    if isinstance(part, str):
        numbers = []
        for piece in part.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
            if not match:
                raise ValueError(
                    f"folds: {part!r} is not understood; write numbers and ranges as in '1-3,5'."
                )
            numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    else:
        numbers = [part] if isinstance(part, (int, np.integer)) else list(part)
    if not numbers or not all(isinstance(n, (int, np.integer)) and 1 <= n <= 10 for n in numbers):
        raise ValueError(f"folds must be whole numbers from 1 to 10, got {part!r}.")
    return tuple(int(n) for n in numbers)


def _name(folds):
    """(1, 2, 3, 9) to '1-3,9'."""
    runs = []
    for fold in sorted(int(f) for f in folds):
        if runs and runs[-1][1] == fold - 1:
            runs[-1][1] = fold
        else:
            runs.append([fold, fold])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _lead_columns(leads):
    """Lead names to their positions in `LEADS`; None is all."""
    if leads is None:
        return list(range(len(LEADS)))
    leads = [leads] if isinstance(leads, str) else list(leads)
    wrong = [lead for lead in leads if str(lead).upper() not in LEADS]
    if wrong or not leads or len(set(leads)) != len(leads):
        raise ValueError(f"leads must be different names among {' '.join(LEADS)}, got {leads}.")
    return [LEADS.index(lead.upper()) for lead in leads]


def _find_root(directory):
    """The folder that holds ``ptbxl_database.csv``: `directory` or the one below it that does."""
    directory = pathlib.Path(directory).expanduser()
    if not directory.is_dir():
        raise ValueError(
            f"{directory}: there is no such folder; give the one that holds ptbxl_database.csv."
        )
    found = [directory] if (directory / "ptbxl_database.csv").is_file() else []
    found = found or [path.parent for path in sorted(directory.glob("*/ptbxl_database.csv"))]
    if len(found) != 1:
        content = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"{directory}: expected ptbxl_database.csv here or in one folder below, "
            f"found {content}."
        )
    if not (found[0] / "scp_statements.csv").is_file():
        raise ValueError(
            f"{found[0]}: scp_statements.csv is missing; it names the classes of the SCP codes."
        )
    return found[0]


def _read_csv(path, columns):
    """A CSV file as a table of strings, with errors that name the file."""
    import pandas

    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a whole CSV file ({error}); fetch it again.") from None
    if absent := [name for name in columns if name not in table.columns]:
        raise ValueError(
            f"{path}: the columns {', '.join(absent)} are missing; it has "
            f"{', '.join(table.columns[:8])} ..."
        )
    return table


def _read_table(root):
    """``ptbxl_database.csv`` with checked numbers and file names; one row per record."""
    import pandas

    path = root / "ptbxl_database.csv"
    table = _read_csv(path, _COLUMNS)
    for name in ("ecg_id", "patient_id", "strat_fold", "age", "sex"):
        table[name] = pandas.to_numeric(table[name], errors="coerce")
    bad = table[["ecg_id", "patient_id", "strat_fold"]].isna().any(axis=1)
    bad |= ~table.strat_fold.between(1, 10)
    for column, suffix in (("filename_lr", "lr"), ("filename_hr", "hr")):
        bad |= ~table[column].str.fullmatch(rf"records\d00/\d{{5}}/\d{{5}}_{suffix}")
    if not len(table) or bad.any():
        row = int(np.argmax(bad)) if len(table) else 0
        raise ValueError(
            f"{path}: row {row + 2} has no id, patient, fold from 1 to 10 or file names; the file "
            "seems to be cut or edited."
        )
    if (twice := table.ecg_id.duplicated()).any():
        raise ValueError(f"{path}: ecg_id {table.ecg_id[twice].iloc[0]:.0f} is there twice.")
    table["ecg_id"] = table.ecg_id.astype(int)
    table["strat_fold"] = table.strat_fold.astype(int)
    return table


def _labels(table, root, task, notes):
    """SCP codes to multi-hot float32 (n, classes) and the class names."""
    statements = _read_csv(
        root / "scp_statements.csv", ("diagnostic", "form", "rhythm", "diagnostic_class")
    )
    code = statements.iloc[:, 0]
    if task in ("superclass", "superclass_single", "subclass"):
        column = statements["diagnostic_subclass" if task == "subclass" else "diagnostic_class"]
        diagnostic = statements.diagnostic.str.startswith("1")
        of_code = {c: value for c, value, yes in zip(code, column, diagnostic) if yes and value}
        classes = sorted(set(of_code.values())) if task == "subclass" else SUPERCLASSES
    else:
        used = code if task == "all" else code[statements[task].str.startswith("1")]
        classes = tuple(used)
        of_code = {c: c for c in classes}
    place = {name: i for i, name in enumerate(classes)}
    if wrong := sorted(set(of_code.values()) - set(place)):
        raise ValueError(
            f"{root / 'scp_statements.csv'}: the classes {', '.join(wrong)} are not of "
            f"{', '.join(classes)}."
        )
    known, unknown = set(code), {}
    y = np.zeros((len(table), len(classes)), np.float32)
    for row, (ecg_id, text) in enumerate(zip(table.ecg_id, table.scp_codes)):
        try:
            codes = list(json.loads(text.replace("'", '"')))
        except ValueError:
            raise ValueError(
                f"ptbxl_database.csv: scp_codes of record {ecg_id} must read like "
                f"{{'NORM': 100.0}}, got {text!r}."
            ) from None
        for name in codes:
            if name in of_code:
                y[row, place[of_code[name]]] = 1
            elif name not in known:
                unknown.setdefault(name, []).append(ecg_id)
    for name, ids in unknown.items():
        notes.append(
            f"SCP code {name!r} is not in scp_statements.csv and was left out of {len(ids)} "
            f"records (first: {ids[0]})"
        )
        warnings.warn(notes[-1], stacklevel=4)
    return y, tuple(classes)


def _metadata(table, notes):
    """Age in years and sex (0 male, 1 female), float32 (n, 2), without gaps."""
    age, sex = table.age.to_numpy(float), table.sex.to_numpy(float)
    old, no_age, no_sex = age > 89, np.isnan(age), ~np.isin(sex, (0, 1))
    for mask, what in (
        (old, "are older than 89 (300 in the file): age 90"),
        (no_age, f"have no age: {_UNKNOWN_AGE:g}"),
        (no_sex, "have no sex: 0.5"),
    ):
        if mask.any():
            notes.append(f"{int(mask.sum())} records {what}")
    age = np.where(no_age, _UNKNOWN_AGE, np.where(old, _OVER_89, age))
    return np.column_stack([age, np.where(no_sex, 0.5, sex)])


def _read_signals(root, table, sampling_rate, kept, columns, progress):
    """The `kept` records of a table as float32 (n, samples, leads) in mV, a cache per fold."""
    from tqdm import tqdm

    names = table["filename_" + _SUFFIX[sampling_rate]].to_numpy()
    folds = table.strat_fold.to_numpy()
    # all files first: errors come early
    stamps = [_stamps(root, names[folds == fold]) for fold in np.unique(folds)]
    x = np.empty((int(kept.sum()), 10 * sampling_rate, len(columns)), np.float32)
    place = np.cumsum(kept) - 1
    bar = tqdm(
        total=len(names),
        desc="PTB-XL records",
        unit="rec",
        disable=True if not progress else None,
        leave=False,
    )
    with bar, ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1)) as pool:
        for fold, stamp in zip(np.unique(folds), stamps):
            rows = np.flatnonzero(folds == fold)
            key = ["ptbxl-1", sampling_rate, stamp]
            place_of_fold = fingerprint([str(root.resolve()), sampling_rate, int(fold)])
            path = cache_folder() / f"ptbxl-{place_of_fold}.cache"
            cached = read_cache(path, key)
            if cached is None:
                digital = np.empty((len(rows), 10 * sampling_rate, len(LEADS)), np.int16)
                read = lambda name: read_record(root / name, sampling_rate)
                jobs = pool.map(read, names[rows])
                for i, record in enumerate(jobs):
                    digital[i] = record
                    bar.update()
                try:
                    write_cache(path, key, {"digital": digital})
                except OSError:  # a read-only or full cache folder: the next load takes longer
                    pass
            else:
                digital = cached["digital"]
                bar.update(len(rows))
            for i in np.flatnonzero(kept[rows]):  # row by row: no second copy of a large fold
                microvolts = digital[i][:, columns]
                np.divide(microvolts, np.float32(1000), out=x[place[rows[i]]])
    return x


def _stamps(root, names):
    """A hash of names, sizes and times of the records' files; an error where some are absent."""
    stamps, absent = [], []
    for name in names:
        for suffix in (".hea", ".dat"):
            try:
                stat = os.stat(f"{root}/{name}{suffix}")
            except FileNotFoundError:
                absent.append(name + suffix)
            else:
                stamps.append([name, stat.st_size, stat.st_mtime_ns])
    if absent:
        raise ValueError(
            f"{root}: {len(absent)} files named in ptbxl_database.csv are missing, first "
            f"{absent[0]}; fetch them again, or pick folds and a sampling_rate that are there."
        )
    return fingerprint(stamps)


def read_record(path, sampling_rate):
    """Read one record and check every byte of it.

    Plain 16-bit WFDB files, which PTB-XL has, are read here, many times faster than by the package
    wfdb, which reads all others.

    Parameters
    ----------
    path : pathlib.Path
        Of the record, without suffix.
    sampling_rate : {100, 500}
        In Hz.

    Returns
    -------
    microvolts : ndarray of int16, shape (10 * sampling_rate, 12)
        Leads in the order of `LEADS`, whatever that of the file.

    Raises
    ------
    ValueError
        If the header is not whole, the rate, length or unit is another, a lead is missing, or
        samples are cut, marked as missing or do not match their checksum; names the file.
    """
    lines = [
        line
        for line in path.with_suffix(".hea").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    head = lines[0].split() if lines else []
    n_samples = 10 * sampling_rate
    if len(head) < 4 or not head[1].isdigit() or len(lines) != 1 + int(head[1]):
        raise ValueError(f"{path}.hea: not a whole WFDB header.")
    if float(head[2].split("/")[0]) != sampling_rate or int(head[3]) != n_samples:
        raise ValueError(
            f"{path}.hea: expected {n_samples} samples at {sampling_rate} Hz, got {head[3]} at "
            f"{head[2]} Hz; leave this record out of ptbxl_database.csv or fetch it again."
        )
    signals = [line.split() for line in lines[1:]]
    names = [" ".join(fields[8:]).upper() for fields in signals]
    if absent := [lead for lead in LEADS if lead not in names]:
        raise ValueError(
            f"{path}.hea: leads {' '.join(absent)} are missing; it has {' '.join(names)}."
        )
    order = [names.index(lead) for lead in LEADS]
    plain = all(fields[0] == f"{path.name}.dat" and fields[1] == "16" for fields in signals)
    if not plain:
        return _read_by_wfdb(path, order)
    digital = np.fromfile(path.with_suffix(".dat"), "<i2")
    if digital.size != n_samples * len(signals):
        raise ValueError(
            f"{path}.dat: expected {2 * n_samples * len(signals)} bytes, got {2 * digital.size}; "
            "the file is cut."
        )
    digital = digital.reshape(n_samples, len(signals))
    sums = digital.sum(axis=0, dtype=np.int64)
    for column, fields in enumerate(signals):
        if (int(sums[column]) - int(fields[6])) % 65536:
            raise ValueError(
                f"{path}.dat: lead {names[column]} does not match its checksum in the header; "
                "fetch it again."
            )
    if (digital == -32768).any():  # what WFDB writes for a sample that is not there
        raise ValueError(f"{path}.dat: has samples marked as missing.")
    scales = [_microvolts(path, fields[2], fields[4]) for fields in signals]
    if any(scale != (1.0, 0.0) for scale in scales):
        factor, baseline = np.array(scales).T
        return _as_int16(path, ((digital - baseline) * factor)[:, order])
    return digital[:, order]


def _microvolts(path, gain, zero):
    """A header's '1000.0(0)/mV' to the uV of one step and the value that stands for 0 uV."""
    match = re.fullmatch(r"([\d.eE+-]+)(?:\((-?\d+)\))?(?:/(\S+))?", gain)
    unit = (match[3] or "mV").lower() if match else ""
    if unit not in _UNITS_PER_MV or not float(match[1]):
        raise ValueError(f"{path}.hea: the gain must read like '1000.0(0)/mV', got {gain!r}.")
    return 1000 / (float(match[1]) * _UNITS_PER_MV[unit]), float(match[2] or zero)


def _read_by_wfdb(path, order):
    """A record stored in another format than plain 16 bit, read by the reference reader."""
    return _as_int16(path, 1000 * require("wfdb", "wfdb").rdrecord(str(path)).p_signal[:, order])


def _as_int16(path, microvolts):
    """Samples in uV from float to int16, or an error where they are missing or do not fit."""
    if not np.isfinite(microvolts).all() or np.abs(microvolts).max() > 32767:
        raise ValueError(f"{path}: has samples that are missing or beyond 32.767 mV.")
    return np.rint(microvolts).astype(np.int16)
