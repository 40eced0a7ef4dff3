"""Load raw MIT-BIH recordings as one row per beat, patients kept apart.

Conventions
-----------
A row is one beat: a window around its R peak, float32 (samples, leads), and
metadata that tell its rhythm and its likeness to the recording's other beats.
Classes are AAMI's, in the order N S V F Q.

Each recording is filtered, resampled, scaled and described by itself, all its
beats as context; then beats of classes not wanted are dropped. Labels play no
part in it. So a row is the same whatever recordings it is loaded with.
"""

import dataclasses
import pathlib
import time

import numpy as np

from ecg_keras._checks import check_fraction, check_option, check_positive, keywords_of
from ecg_keras.beats import (
    CLASSES,
    BeatPreparation,
    aami_classes,
    beat_views,
)
from ecg_keras.dataset import BALANCES, ECGDataset, balance_train, check_parts, draw_patients
from ecg_keras.recordings import ONE_PATIENT, list_records, read_recording
from ecg_keras.signals import match_peaks, r_peaks

DS1 = tuple(
    "101 106 108 109 112 114 115 116 118 119 122 "
    "124 201 203 205 207 208 209 215 220 223 230".split()
)
DS2 = tuple(
    "100 103 105 111 113 117 121 123 200 202 210 "
    "212 213 214 219 221 222 228 231 232 233 234".split()
)
PACED = ("102", "104", "107", "217")  # AAMI leaves them out
_SPLITS = {"ds1_ds2": "DS1/DS2", "patient": "whole patients", "kfold": "whole patients"}


@keywords_of(BeatPreparation)
def load_mitbih_records(
    directory,
    *,
    split="ds1_ds2",
    records=None,
    paced=False,
    val_fraction=0.15,
    test_fraction=0.15,
    val_records=None,
    fold=0,
    n_folds=5,
    most_per_class=None,
    train_without="",
    balance=None,
    caps=None,
    on_error="raise",
    seed=0,
    **preparation,
):
    """Load raw MIT-BIH recordings as train, validation and test beats of different patients.

    Source: G. B. Moody, R. G. Mark, 'The impact of the MIT-BIH Arrhythmia Database', IEEE EMB
    20(3), 2001, by way of PhysioNet. Licence ODC-BY 1.0. 48 recordings of 30 minutes, 360 Hz, two
    leads, mV, from 47 people.

    Parameters
    ----------
    directory : path
        Folder of WFDB records (.hea, .dat, .atr).
    split : {"ds1_ds2", "patient", "kfold"} or dict of three lists, default "ds1_ds2"
        "ds1_ds2" trains on DS1 and tests on DS2 (de Chazal et al., IEEE Trans. Biomed. Eng. 51(7),
        2004); validation patients are cut off DS1. "patient" draws whole patients for the three
        parts. "kfold" tests on one of `n_folds` groups of patients. A dict
        ``{"train": [...], "val": [...], "test": [...]}`` names records; without "val", it is cut
        off train.
    records : {"ds1", "ds2"} or sequence of str, optional
        Which records "patient" and "kfold" divide; all of the folder by default.
    paced : bool, default False
        Keep the paced recordings 102, 104, 107, 217, which AAMI leaves out.
    val_fraction, test_fraction : float, default 0.15
        Share of patients for validation (of those not tested on) and test ("patient" only).
    val_records : sequence of str, optional
        Validate on those of these that are not tested on, instead of drawing patients.
    fold, n_folds : int, default 0 and 5
        Which group "kfold" tests on, and of how many. Groups are drawn so that classes are spread
        (scikit-learn's StratifiedGroupKFold).
    most_per_class : int, optional
        Keep at most this many train beats of a class and recording, drawn at random.
    train_without : str, default ""
        Annotation symbols whose beats are left out of train alone, as in "a": aberrated atrial
        beats count as S and look like V, and nearly all of those in DS1 are of one patient.
    balance, caps : str and dict, optional
        See `dataset.balance_train`; on train only.
    on_error : {"raise", "skip"}, default "raise"
        What to do with a recording that cannot be used; skipped ones are named in `notes`.
    seed : int, default 0
        Seed of every draw.
    **preparation
        How a recording becomes rows: see `BeatPreparation`.

    Returns
    -------
    train, val, test : ECGDataset
        With `patients`, `records`, `metadata` and `notes`.

    Raises
    ------
    ValueError
        If a record is absent, damaged or lacks a lead (it is named), a part is empty, or train has
        no beat of a class.
    TypeError
        If a keyword is not known.
    ImportError
        If wfdb is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_records
    >>> folder = tempfile.mkdtemp()
    >>> _ = write_demo_records(folder, n_patients=6, duration_s=60)
    >>> options = {"classes": "aami3", "features": "rr"}
    >>> train, val, test = load_mitbih_records(folder, split="patient", **options)
    >>> train.classes, train.x.shape[1:], sorted(set(train.patients) & set(test.patients))
    (('N', 'S', 'V'), (125, 1), [])
    """
    start = time.perf_counter()
    preparation = BeatPreparation(**preparation)
    check_option("balance", balance, BALANCES)
    check_fraction("val_fraction", val_fraction)
    check_fraction("test_fraction", test_fraction)
    split = split if isinstance(split, dict) else check_option("split", split, _SPLITS)
    groups, chosen, notes = _choose_records(directory, split, records, paced)
    whole, symbols = beat_rows(directory, chosen, preparation, on_error=on_error)
    if split == "ds1_ds2" and set(ONE_PATIENT) <= set(whole.records):
        notes.append(
            "Records 201 (DS1) and 202 (DS2) are of one patient: the classic split shares him. "
            "Here they count as two, so that it can be compared."
        )
        whole = whole.replace(patients=whole.records)
    if split == "patient":
        tested = draw_patients(whole, test_fraction, seed=seed)
    elif split == "kfold":
        tested = fold_patients(whole, fold, n_folds=n_folds, seed=seed)
    else:
        tested = np.unique(whole.patients[np.isin(whole.records, groups["test"])])
    in_test = np.isin(whole.patients, tested)
    rest = whole[~in_test]
    _check_not_empty(rest, "train and validation", directory)
    validated = groups.get("val") or val_records
    if validated is not None:
        in_val = np.isin(whole.records, [str(name) for name in validated]) & ~in_test
    else:
        share = min(val_fraction / (1 - test_fraction), 0.5) if split == "patient" else val_fraction
        in_val = np.isin(whole.patients, draw_patients(rest, share, seed=seed))
    in_train = ~in_test & ~in_val
    unwanted = in_train & np.isin(symbols, list(train_without))
    if unwanted.any():
        left_out = " ".join(train_without)
        notes.append(f"{unwanted.sum()} train beats annotated {left_out} left out of train")
    parts = {"train": whole[in_train & ~unwanted], "val": whole[in_val], "test": whole[in_test]}
    parts["train"] = thinned(parts["train"], most_per_class, seed)
    split_by = {
        "loader": "load_mitbih_records",
        "split": split if isinstance(split, str) else groups,
        "records": records if records is None or isinstance(records, str) else [*map(str, records)],
        "paced": paced,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "val_records": None if val_records is None else [*map(str, val_records)],
        "fold": fold,
        "n_folds": n_folds,
        "seed": seed,
    }
    name = "records by list" if isinstance(split, dict) else _SPLITS[split]
    facts = {
        "source": f"{whole.source}, {f'fold {fold} of {n_folds}, ' * (split == 'kfold')}{name}",
        "split_by": split_by,
        "notes": (*notes, *whole.notes),
        "seconds": {"load": time.perf_counter() - start},
    }
    for name, part in parts.items():
        _check_not_empty(part, name, directory)
        parts[name] = part.replace(**facts)
    if absent := [name for name, count in parts["train"].class_counts().items() if not count]:
        raise ValueError(
            f"train has no beat of class {', '.join(absent)} "
            f"(records {', '.join(np.unique(parts['train'].records))}); choose other classes "
            "('aami3' needs only N, S and V), another split or another seed."
        )
    check_parts(*parts.values())
    return balance_train(parts["train"], balance, caps=caps, seed=seed), parts["val"], parts["test"]


def _choose_records(directory, split, records, paced):
    """The records of each part where the split names them, all records to load, and notes."""
    present = list_records(directory)
    groups = {"train": list(DS1), "test": list(DS2)} if split == "ds1_ds2" else {}
    if isinstance(split, dict):
        if unknown := set(split) - {"train", "val", "test"}:
            raise ValueError(
                f"split has the parts {', '.join(sorted(unknown))}; "
                "it may have train, val and test."
            )
        if not split.get("train") or not split.get("test"):
            raise ValueError(
                "split needs the records of 'train' and 'test'; "
                "'val' is cut off train if it is left out."
            )
        groups = {part: [str(name) for name in names] for part, names in split.items()}
        _check_one_part(groups)
    if groups:
        chosen = [name for part in groups.values() for name in part]
        if absent := [name for name in chosen if name not in present]:
            raise ValueError(
                f"split {split if isinstance(split, str) else 'by lists'} needs {len(chosen)} "
                f"records, and {directory} lacks {len(absent)} of them: {', '.join(absent)}. "
                "Get them (ecg-keras download mitbih_records DIR), or divide the records that "
                "are there: split='patient'."
            )
        return groups, chosen, []
    if isinstance(records, str):
        records = {"ds1": DS1, "ds2": DS2}[check_option("records", records, ("ds1", "ds2"))]
    chosen = present if records is None else [str(name) for name in records]
    notes = []
    if not paced and records is None and (out := [name for name in chosen if name in PACED]):
        notes.append(f"paced records left out: {', '.join(out)}")
        chosen = [name for name in chosen if name not in PACED]
    return groups, chosen, notes


def _check_one_part(groups):
    """Refuse a record, or a patient, in two parts of an explicit split."""
    of = {}
    for part, names in groups.items():
        for name in names:
            patient = ONE_PATIENT.get(name, name)
            if of.setdefault(patient, part) != part:
                raise ValueError(
                    f"record {name} is of a patient who is in {of[patient]} and in {part}; "
                    "keep patients in one part."
                )


def fold_patients(whole, fold, *, n_folds=5, seed=0):
    """Patients of one of `n_folds` groups; whole patients, classes spread over the groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_patients = len(np.unique(whole.patients))
    if not 2 <= n_folds <= n_patients:
        raise ValueError(
            f"n_folds must be 2 to {n_patients}, the number of patients, got {n_folds}."
        )
    if not 0 <= fold < n_folds:
        raise ValueError(f"fold must be 0 to {n_folds - 1}, got {fold}.")
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(
        whole.y, whole.y, whole.patients
    )
    return np.unique(whole.patients[list(folds)[fold][1]])


def thinned(ds, most, seed):
    """At most `most` rows of each class of each recording, in the order they came."""
    if most is None:
        return ds
    check_positive("most_per_class", most)
    rng, kept = np.random.default_rng(seed), np.zeros(len(ds), bool)
    for record in np.unique(ds.records):
        for label in range(len(ds.classes)):
            rows = np.flatnonzero((ds.records == record) & (ds.y == label))
            kept[rng.permutation(rows)[:most]] = True
    return ds[kept]


def _check_not_empty(part, name, directory):
    """Refuse a part without rows."""
    if not len(part):
        raise ValueError(
            f"{name} has no beats; {pathlib.Path(directory)} holds too few patients for this split."
        )


@keywords_of(BeatPreparation)
def load_beats(directory, records, *, on_error="raise", **preparation):
    """Load the beats of some recordings as one data set, to evaluate a finished model on.

    Parameters
    ----------
    directory : path
        Folder of WFDB records (.hea, .dat, .atr).
    records : sequence of str
        Record names.
    on_error : {"raise", "skip"}, default "raise"
        What to do with a recording that cannot be used; skipped ones are named in `notes`.
    **preparation
        How a recording becomes rows: see `BeatPreparation`. A model's card carries that of its
        training data, so that further recordings can be prepared in the same way.

    Returns
    -------
    ECGDataset

    Raises
    ------
    ValueError
        If a recording cannot be used (with ``on_error="skip"``: if none can), or no beat is of the
        classes.
    TypeError
        If a keyword is not known.
    ImportError
        If wfdb is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_records
    >>> folder = tempfile.mkdtemp()
    >>> names = write_demo_records(folder, n_patients=2, duration_s=60)
    >>> ds = load_beats(folder, names, features="rr")
    >>> len(ds) == len(load_beats(folder, names, **ds.preparation))
    True
    """
    return beat_rows(directory, records, BeatPreparation(**preparation), on_error=on_error)[0]


@keywords_of(BeatPreparation)
def load_wfdb_beats(sources, *, on_error="raise", **preparation):
    """Load the beats of recordings of several WFDB databases as one data set.

    Parameters
    ----------
    sources : sequence of (path, sequence of str or None)
        Folders of WFDB records (.hea, .dat, .atr) and which of their records; None for all.
    on_error : {"raise", "skip"}, default "raise"
        What to do with a recording that cannot be used; skipped ones are named in `notes`.
    **preparation
        How a recording becomes rows: see `BeatPreparation`. ``lead="each"`` suits databases whose
        leads differ or have no names.

    Returns
    -------
    ECGDataset
        Records and patients carry the folder's name, as in ``svdb/800``, where there are several.

    Raises
    ------
    ValueError
        If there is no source or two folders have one name, a recording cannot be used (with
        ``on_error="skip"``: if none of a source can), or no beat is of the classes.
    TypeError
        If a keyword is not known.
    ImportError
        If wfdb is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_records
    >>> folder = tempfile.mkdtemp()
    >>> names = write_demo_records(folder, n_patients=2, duration_s=60)
    >>> options = {"lead": "each", "features": "context", "classes": "aami3"}
    >>> ds = load_wfdb_beats([(folder, None)], **options)
    >>> ds.leads, ds.x.shape[1:], sorted(set(ds.records)) == sorted(names)
    (('each',), (125, 1), True)
    """
    preparation = BeatPreparation(**preparation)
    sources = [(pathlib.Path(directory), records) for directory, records in sources]
    names = [directory.name for directory, _ in sources]
    if not sources or len(set(names)) < len(names):
        raise ValueError(
            "sources must be at least one pair of a folder and its records, "
            f"each folder of another name, got the folders {', '.join(names) or 'none'}."
        )
    parts = []
    for directory, records in sources:
        records = list_records(directory) if records is None else records
        part = beat_rows(directory, records, preparation, on_error=on_error)[0]
        if len(sources) > 1:
            prefixed = lambda values, name=directory.name: [f"{name}/{value}" for value in values]
            part = part.replace(patients=prefixed(part.patients), records=prefixed(part.records))
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    joined = lambda name: np.concatenate([getattr(part, name) for part in parts])
    return parts[0].replace(
        **{name: joined(name) for name in ("x", "y", "patients", "records")},
        metadata=None if parts[0].metadata is None else joined("metadata"),
        source="; ".join(dict.fromkeys(part.source for part in parts)),
        notes=tuple(f"{name}: {note}" for name, part in zip(names, parts) for note in part.notes),
        seconds={"load": sum(part.seconds["load"] for part in parts)},
    )


def beat_rows(directory, records, preparation, *, on_error="raise"):
    """`load_beats` by a `BeatPreparation`; returns also the annotation symbol of each row."""
    start = time.perf_counter()
    check_option("on_error", on_error, ("raise", "skip"))
    if isinstance(records, str) or not len(records):
        raise ValueError(f"records must be a list of at least one record name, got {records!r}.")
    each = preparation.lead == "each"
    parts, left_out, skipped, synthetic = [], {}, [], False
    for name in records:
        try:
            lead = None if each else preparation.lead
            recording = read_recording(directory, name, lead=lead)
            part, dropped = _rows_of(recording, preparation)
        except ValueError as error:
            if on_error == "raise":
                raise
            skipped.append(f"skipped {error}")
            continue
        synthetic |= recording.synthetic
        left_out = {key: left_out.get(key, 0) + count for key, count in dropped.items()}
        parts.append((recording, part))
    if not parts:
        raise ValueError(f"none of the {len(records)} records could be used: {skipped[0]}")
    joined = {
        key: np.concatenate([part[key] for _, part in parts])
        for key in ("x", "y", "metadata", "symbols")
    }
    if not len(joined["y"]):
        names = ", ".join(map(str, records))
        raise ValueError(
            f"records {names}: no beat of the classes {', '.join(CLASSES[preparation.classes])}."
        )
    of = np.repeat(
        [recording.name for recording, _ in parts], [len(part["y"]) for _, part in parts]
    )
    described = preparation.features is not None
    source = _source(directory, [recording.name for recording, _ in parts])
    ds = ECGDataset(
        joined["x"],
        joined["y"],
        classes=CLASSES[preparation.classes],
        fs=preparation.fs,
        leads=preparation.leads,
        unit="typical QRS" if preparation.scale == "record" else parts[0][0].unit,
        patients=[ONE_PATIENT.get(name, name) for name in of],
        records=of,
        metadata=joined["metadata"] if described else None,
        metadata_names=parts[0][1]["names"] if described else None,
        source="synthetic demo records" if synthetic else source,
        preparation=dataclasses.asdict(preparation),
        notes=(_classes_note(preparation, left_out), *_late_note(parts), *skipped),
        seconds={"load": time.perf_counter() - start},
    )
    return ds, joined["symbols"]


def _source(directory, names):
    """The database that records are of: two are known by their names, another by its folder."""
    if set(names) <= {*DS1, *DS2, *PACED}:
        return "MIT-BIH Arrhythmia Database, raw records"
    if all(name.isdigit() and 800 <= int(name) <= 894 for name in names):
        return "MIT-BIH Supraventricular Arrhythmia Database, raw records"
    return f"WFDB records of {pathlib.Path(directory).name}"


def _classes_note(preparation, left_out):
    """Which classes, and how many beats were left out, as a sentence for the report."""
    merged = preparation.fusion_beats == "V" and preparation.classes == "aami3"
    names = " ".join(CLASSES[preparation.classes]) + ", F counted as V" * merged
    counts = ", ".join(f"{count:,} {key}" for key, count in left_out.items() if count) or "none"
    return f"Classes {preparation.classes} ({names}); beats left out: {counts}."


def _late_note(parts):
    """How many annotations were left out because they lie after their recording, as sentences."""
    late = [f"{recording.late} ({recording.name})" for recording, _ in parts if recording.late]
    told = "Annotations at or after the end of their recording, left out"
    return [f"{told}: {', '.join(late)}."] if late else []


def _rows_of(recording, preparation):
    """One recording to its rows (a dict of arrays), and counts of the beats left out."""
    peaks, symbols, left_out = recording.peaks, recording.symbols, {}
    if preparation.beats == "detected":
        found = r_peaks(recording.signal, fs=recording.fs)
        pairs = match_peaks(peaks, found, fs=recording.fs)
        left_out = {
            "annotated but not detected": len(peaks) - len(pairs),
            "detected but not annotated": len(found) - len(pairs),
        }
        at = np.full(len(found), "")
        at[pairs[:, 1]] = symbols[pairs[:, 0]]
        peaks, symbols = found, at
    n_leads = recording.signal.shape[1]
    groups = [[i] for i in range(n_leads)] if preparation.lead == "each" else [slice(None)]
    try:
        views = [
            beat_views(recording.signal[:, group], peaks, fs=recording.fs, preparation=preparation)
            for group in groups
        ]
    except ValueError as error:
        raise ValueError(f"record {recording.name}: {error}") from error
    labels = np.full(len(symbols), "")
    labels[symbols != ""] = aami_classes(symbols[symbols != ""])
    if preparation.fusion_beats == "V" and preparation.classes == "aami3":
        labels[labels == "F"] = "V"
    classes = CLASSES[preparation.classes]
    kept = np.isin(labels, classes)
    left_out = {
        label: int((labels == label).sum()) for label in "FQ" if label not in classes
    } | left_out
    y = np.array([classes.index(label) for label in labels[kept]], np.int64)
    rows = {  # one lead after the other
        "x": np.concatenate([x[kept] for x, _, _ in views]),
        "y": np.tile(y, len(views)),
        "metadata": np.concatenate([metadata[kept] for _, metadata, _ in views]),
        "symbols": np.tile(symbols[kept], len(views)),
        "names": views[0][2],
    }
    return rows, left_out
