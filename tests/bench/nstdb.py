"""Measure how noise is told, and what is lost to it, on the MIT-BIH Noise Stress Test Database.

    python tests/bench/nstdb.py DATA_DIR [MODEL]

DATA_DIR holds nstdb/, mitdb/ and svdb/. Writes into outputs/nstdb/: levels.csv (a row per record
with added noise), clean.csv (a row per record of mitdb/ and svdb/, which are nearly all readable)
and summary.json. A beat is marked where no lead of its second is good. Sensitivity and positive
predictivity are those of the R peaks of `r_peaks` that are not marked, against the reference
beats that are not marked, within 150 ms; all minutes count. Noise lies in the record from minute
5 on, two minutes with it and two without. The limits of `signal_quality` were chosen on these
same records, so other noise may be told less well.

With a model of beats that has not seen record 118 (a fold of mitbih_beats.py), classes.csv has what
`annotate` says of it, by the rules of EC57, from minute 5 on.
"""

import pathlib
import sys

import numpy as np
import pandas as pd

from ecg_keras.recordings import list_records, read_recording
from ecg_keras.report import versions
from ecg_keras.signals import QUALITY, fibrillation, match_peaks, r_peaks, signal_quality
from ecg_keras.storage import atomic_path, write_json

FIRST_S, EVERY_S, NOISY_S = 300, 240, 120
OUT = pathlib.Path("outputs/nstdb")


def main(directory, model=None):
    directory = pathlib.Path(directory)
    if model is not None:
        table = classes(directory / "nstdb", model)
        with atomic_path(OUT / "classes.csv") as path:
            table.to_csv(path, index=False, float_format="%.5g")
        print(table.to_string(index=False))
        return
    levels = pd.DataFrame(
        [level(directory / "nstdb", of) for of in list_records(directory / "nstdb")]
    )
    clean = pd.DataFrame(
        [
            {"database": base} | unmarked(directory / base, name)
            for base in ("mitdb", "svdb")
            for name in list_records(directory / base)
        ]
    )
    for name, table in (("levels", levels), ("clean", clean)):
        with atomic_path(OUT / f"{name}.csv") as path:
            table.round(5).to_csv(path, index=False)
    total = clean.drop(columns=["record"]).groupby("database").sum()
    summary = {
        "command": "python tests/bench/nstdb.py DATA_DIR",
        "data": "MIT-BIH Noise Stress Test Database, record 118 with six levels of noise; "
        f"{len(clean)} records of the MIT-BIH Arrhythmia and Supraventricular databases without",
        "tolerance_s": 0.15,
        "levels": levels.round(5).to_dict("records"),
        "clean": total.astype(int).to_dict("index"),
        "versions": versions(),
    }
    write_json(OUT / "summary.json", summary)
    print(levels.round(4).to_string(index=False))
    print(total.to_string())


def classes(folder, model):
    """Figures of the classes of each level of noise, and how many beats are not classified."""
    from ecg_keras import annotate, ec57

    rows = []
    for name in list_records(folder):
        found = annotate(model, folder / name)
        known = found.beats[found.beats["class"] != "?"]
        reference = read_recording(folder, name, lead=None)
        told = {name: (known["sample"].to_numpy(), known["class"].to_numpy(), found.fs)}
        real = {name: (reference.peaks, reference.symbols, reference.fs)}
        line = ec57(real, told, escape_beats="N").beats.iloc[0]
        noisy = found.beats["time_s"] >= FIRST_S
        rows.append(
            {
                "record": name,
                "not_classified": (found.beats["class"][noisy] == "?").mean(),
                "analysable": found.summary["analysable"],
            }
            | {key: line[key] for key in "q_se q_pp v_se v_pp s_se s_pp".split()}
            | {key: line[key] for key in ("Vv", "Nv", "Sv", "Ov")}
        )
    return pd.DataFrame(rows)


def level(folder, name):
    """Detection and marks of one record with added noise."""
    recording = read_recording(folder, name, lead=None)
    beats, fs = recording.peaks, recording.fs
    good, second = readable(recording), beats // int(fs)
    found = r_peaks(recording.signal, fs=fs)
    kept, seen = found[good[found // int(fs)]], beats[good[second]]
    noisy = (second >= FIRST_S) & ((second - FIRST_S) % EVERY_S < NOISY_S)
    pairs, all_pairs = match_peaks(seen, kept, fs=fs), match_peaks(beats, found, fs=fs)
    db = name.split("e")[1].replace("_", "-")
    return {
        "record": name,
        "snr_db": int(db),
        "beats": len(beats),
        "marked_in_noise": float((~good[second])[noisy].mean()),
        "marked_elsewhere": float((~good[second])[~noisy].mean()),
        "sensitivity": len(pairs) / max(1, len(seen)),
        "positive_predictivity": len(pairs) / max(1, len(kept)),
        "lost": 1 - len(match_peaks(beats, kept, fs=fs)) / len(beats),  # marked or missed
        "sensitivity_unmarked_detector": len(all_pairs) / len(beats),
        "positive_predictivity_unmarked_detector": len(all_pairs) / max(1, len(found)),
    }


def readable(recording):
    """Which seconds have a good lead."""
    return (signal_quality(recording.signal, fs=recording.fs) == 0).any(axis=1)


def unmarked(folder, name):
    """Beats with correct labels that would be lost in a record as it is, and seconds by state."""
    recording = read_recording(folder, name, lead=None)
    states = signal_quality(recording.signal, fs=recording.fs)
    flutter = fibrillation(recording.signal, fs=recording.fs)
    inside = np.zeros(len(flutter), bool)
    for first, last in recording.flutter:
        inside[int(first / recording.fs) : int(last / recording.fs) + 1] = True
    second = np.minimum((recording.peaks / recording.fs).astype(int), len(states) - 1)
    row = {"record": name, "beats": len(second)}
    row["beats_marked"] = int((states[second] != 0).all(axis=1).sum())
    row["v_beats_marked"] = int(((states[second] != 0).all(axis=1) & (recording.aami == "V")).sum())
    row |= {f"lead_seconds_{of}": int((states == i).sum()) for i, of in enumerate(QUALITY)}
    row |= {"flutter_seconds": int(inside.sum()), "flutter_found": int((flutter & inside).sum())}
    return row | {"flutter_false": int((flutter & ~inside).sum())}


if __name__ == "__main__":
    main(*sys.argv[1:])
