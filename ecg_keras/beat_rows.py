"""Turn recordings into rows of a data set, one per beat.

Conventions
-----------
Each recording is filtered, resampled, scaled and described by itself, all its
beats as context; then beats of classes not wanted are dropped. Nothing depends
on another recording, on the order of rows or on a label.
"""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import check_option, check_positive
from ecg_keras.beats import describe_beats
from ecg_keras.dataset import ECGDataset
from ecg_keras.signals import (
    bandpass,
    beat_windows,
    match_peaks,
    normalize,
    notch,
    r_peaks,
    resample,
    rr_features,
)
from ecg_keras.wfdb_records import aami_classes, read_recording

CLASSES = {
    "aami5": ("N", "S", "V", "F", "Q"),
    "aami4": ("N", "S", "V", "F"),
    "aami3": ("N", "S", "V"),
}
ONE_PATIENT = {
    "201": "201+202",
    "202": "201+202",
}  # two recordings of one man in the MIT-BIH database

_LARGEST = 20.0  # typical QRS heights; more is an artefact


@dataclass(frozen=True)
class BeatPreparation:
    """How a recording becomes rows; the fields are keywords of `mitbih_records.load_beats`, explained at `mitbih_records.load_mitbih_records`."""

    classes: str = "aami5"
    fusion_beats: str = "out"
    lead: str | list = "MLII"
    window_s: tuple = (0.4, 0.6)
    fs: float = 125.0  # Hz
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
        for name, value in (("window_s", self.window_s), ("band_hz", self.band_hz)):
            if len(value) != 2:
                raise ValueError(f"{name} must be a pair of numbers, got {value}.")
            object.__setattr__(self, name, [float(number) for number in value])
        object.__setattr__(
            self, "lead", self.lead if isinstance(self.lead, str) else list(self.lead)
        )

    @property
    def leads(self):
        """Names of the leads of `x`."""
        own = (self.lead,) if isinstance(self.lead, str) else tuple(self.lead)
        return own + tuple(f"{lead} typical" for lead in own) * self.typical


def beat_rows(directory, records, preparation, *, on_error="raise"):
    """Load recordings as one data set; returns it with the annotation symbol of each row.

    Raises
    ------
    ValueError
        If a recording cannot be used (with ``on_error="skip"``: if none can), or no beat is of the classes.
    """
    start = time.perf_counter()
    check_option("on_error", on_error, ("raise", "skip"))
    if isinstance(records, str) or not len(records):
        raise ValueError(f"records must be a list of at least one record name, got {records!r}.")
    parts, left_out, skipped, synthetic = [], {}, [], False
    for name in records:
        try:
            recording = read_recording(directory, name, lead=preparation.lead)
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
        source="synthetic demo records"
        if synthetic
        else "MIT-BIH Arrhythmia Database, raw records",
        preparation=dataclasses.asdict(preparation),
        notes=(_classes_note(preparation, left_out), *_late_note(parts), *skipped),
        seconds={"load": time.perf_counter() - start},
    )
    return ds, joined["symbols"]


def _classes_note(preparation, left_out):
    """Which classes, and how many beats were left out, as a sentence for the report."""
    fusion = (
        ", F counted as V"
        if preparation.fusion_beats == "V" and preparation.classes == "aami3"
        else ""
    )
    counts = ", ".join(f"{count:,} {key}" for key, count in left_out.items() if count) or "none"
    return f"Classes {preparation.classes} ({' '.join(CLASSES[preparation.classes])}{fusion}); beats left out: {counts}."


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
    try:
        x, metadata, names = _views(recording, peaks, preparation)
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
    rows = {
        "x": x[kept],
        "y": np.array([classes.index(label) for label in labels[kept]], np.int64),
        "metadata": metadata[kept],
        "symbols": symbols[kept],
        "names": names,
    }
    return rows, left_out


def _views(recording, peaks, preparation):
    """Windows float32 (n_beats, samples, leads), features (n_beats, columns) and their names, of all beats."""
    signal, fs = recording.signal, preparation.fs
    if preparation.mains_hz:
        signal = notch(signal, fs=recording.fs, mains_hz=preparation.mains_hz)
    low_hz, high_hz = preparation.band_hz
    signal = resample(
        bandpass(signal, fs=recording.fs, low_hz=low_hz, high_hz=high_hz), fs=recording.fs, to_fs=fs
    )
    peaks_s = peaks / recording.fs
    at = np.clip(np.round(peaks_s * fs).astype(np.int64), 0, len(signal) - 1)
    if preparation.scale == "record":
        signal = np.clip(normalize(signal, at, fs=fs), -_LARGEST, _LARGEST)
    before_s, after_s = preparation.window_s
    x = beat_windows(signal, at, fs=fs, before_s=before_s, after_s=after_s)
    metadata, names = np.zeros((len(x), 0), np.float32), ()
    if preparation.features == "rhythm" or preparation.typical:
        metadata, names, typical = describe_beats(signal, peaks_s, fs=fs)
    if preparation.features == "rr":
        metadata, names = rr_features(peaks, fs=recording.fs)
    if preparation.typical:
        usual = np.broadcast_to(typical(before_s, after_s), x.shape)
        x = np.concatenate([x, usual], axis=2).astype(np.float32)
    return x, metadata, names
