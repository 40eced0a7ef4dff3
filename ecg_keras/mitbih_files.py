"""Write the Kaggle form of MIT-BIH beats from raw recordings, with the record of every row.

Conventions
-----------
A row is 187 samples at 125 Hz from an R peak on, scaled to 0..1 within its 10 s
window, padded with zeros, then the class as a float (0 to 4 for N S V F Q).
"""

import pathlib
import time

import numpy as np

from ecg_keras.signals import resample
from ecg_keras.storage import atomic_path, write_text
from ecg_keras.wfdb_records import aami_classes, list_records, read_recording

_FS, _SAMPLES, _WINDOW_S = 125.0, 187, 10.0
_CLASSES = "NSVFQ"
_ONE_PATIENT = ("201", "202")


def make_mitbih_csv(records_dir, out_dir, *, test_fraction=0.2, on_error="raise", seed=0):
    """Write mitbih_train.csv, mitbih_test.csv and mitbih_rows.csv from a folder of raw recordings.

    The method is that of the Kaggle files' authors (M. Kachuee et al., ICHI 2018): lead MLII, else the
    first, resampled to 125 Hz; windows of 10 s one after the other, each scaled to 0..1; a beat goes from its R peak for
    1.2 times the median RR interval of its window and is padded with zeros to 187 samples. R peaks are the
    annotated ones. Rows are divided at random within each class, so patients are mixed as in the
    original; ``load_mitbih_csv(out_dir, split="patient")`` keeps them apart by the third file.

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
        If a recording cannot be read, or `out_dir` holds measured files and these are synthetic, or the
        other way round.

    Notes
    -----
    mitbih_rows.csv has the columns ``part`` (train or test), ``row`` (from 0, as in that part's file),
    ``record``, ``patient`` (201 and 202 are one), ``sample`` (of the R peak, at the record's own rate), ``symbol``.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras.demo import write_demo_records
    >>> records, out = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = write_demo_records(records, n_patients=2, duration_s=30)
    >>> make_mitbih_csv(records, out).split(":")[0].split()[1:]
    ['rows', 'of', '2', 'records']
    """
    start, out_dir = time.perf_counter(), pathlib.Path(out_dir)
    rows, labels, origin, skipped = [], [], [], []
    synthetic, late = False, 0
    names = list_records(records_dir)
    for name in names:
        try:
            recording = _read(records_dir, name)
        except ValueError as error:
            if on_error == "raise":
                raise
            skipped.append(str(error))
            continue
        synthetic, late = synthetic | recording.synthetic, late + recording.late
        cut, kept = _cut(recording)
        rows.append(cut)
        labels.append([_CLASSES.index(label) for label in aami_classes(recording.symbols[kept])])
        patient = "+".join(_ONE_PATIENT) if name in _ONE_PATIENT else name
        origin += [
            (name, patient, sample, symbol)
            for sample, symbol in zip(recording.peaks[kept], recording.symbols[kept])
        ]
    if not rows:
        raise ValueError(f"{records_dir}: none of {len(names)} records could be read: {skipped[0]}")
    rows, labels = np.concatenate(rows), np.concatenate(labels)
    _mark(out_dir, synthetic)
    parts = _divided(labels, test_fraction, np.random.default_rng(seed))
    for part, chosen in parts.items():
        with atomic_path(out_dir / f"mitbih_{part}.csv") as path:
            np.savetxt(
                path, np.column_stack([rows[chosen], labels[chosen]]), fmt="%.18e", delimiter=","
            )
    with atomic_path(out_dir / "mitbih_rows.csv") as path, path.open("w", encoding="utf-8") as file:
        file.write("part,row,record,patient,sample,symbol\n")
        for part, chosen in parts.items():
            for row, i in enumerate(chosen):
                record, patient, sample, symbol = origin[i]
                file.write(f'{part},{row},{record},{patient},{sample},"{symbol}"\n')
    counts = ", ".join(
        f"{name} {count:,}" for name, count in zip(_CLASSES, np.bincount(labels, minlength=5))
    )
    line = f"{len(rows):,} rows of {len(names) - len(skipped)} records: {counts}; in {out_dir}, {time.perf_counter() - start:.0f} s"
    if late:
        line += f"; annotations after the end of their recording, left out: {late}"
    return line + "".join(f"\nskipped: {error}" for error in skipped)


def _mark(out_dir, synthetic):
    """Write the marker of synthetic files, before any of them; refuse a folder of the other kind."""
    marker = out_dir / "SYNTHETIC.txt"
    present = [file for file in sorted(out_dir.glob("mitbih_t*.csv")) if file.is_file()]
    if synthetic and present and not marker.exists():
        raise ValueError(
            f"{present[0]} is not marked as synthetic, and these recordings are synthetic; "
            "give another out_dir."
        )
    if not synthetic and marker.exists():
        raise ValueError(
            f"{marker} marks what is in the folder as synthetic, and these recordings are measured; "
            "give another out_dir."
        )
    if synthetic:
        write_text(marker, "These beats are of synthetic recordings; they were not measured.\n")


def _read(directory, name):
    """A recording's lead MLII, or its first."""
    whole = read_recording(directory, name, lead=None)
    column = whole.leads.index("MLII") if "MLII" in whole.leads else 0
    object.__setattr__(whole, "signal", whole.signal[:, column])
    return whole


def _cut(recording):
    """One lead of a recording to its rows float64 (n, 187), and which annotated beats they are."""
    signal = resample(recording.signal, fs=recording.fs, to_fs=_FS)
    peaks = np.round(recording.peaks * _FS / recording.fs).astype(np.int64)
    length = int(_WINDOW_S * _FS)
    rows, kept = [], []
    for begin in range(0, len(signal), length):
        window = signal[begin : begin + length]
        inside = np.flatnonzero((peaks >= begin) & (peaks < begin + length))
        if len(window) < 2 or np.ptp(window) == 0 or not len(inside):
            continue
        rr = np.diff(peaks[inside])
        usual = np.median(rr) if len(rr) else _FS
        for i in inside:
            beat = signal[
                peaks[i] : peaks[i] + min(int(1.2 * usual), _SAMPLES)
            ]  # may reach into the next window
            beat = np.clip((beat - window.min()) / np.ptp(window), 0, 1)
            rows.append(np.pad(beat, (0, _SAMPLES - len(beat))))
            kept.append(i)
    return np.array(rows).reshape(-1, _SAMPLES), np.array(kept, int)


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
