"""Measure R-peak detection against the reference annotations of all records in a folder.

    python tests/bench/rpeaks.py DIR

Writes outputs/rpeaks/records.csv (a row per record) and outputs/rpeaks/summary.json. All minutes
count, the first five too. Times are CPU seconds of this process, which does its work in one
thread, the best of three: the machine is shared. Stretches of ventricular flutter (between ``[``
and ``]``; record 207) hold waves, no beats, and are left out on both sides, as ANSI/AAMI EC57 has
it. The thresholds of the detector were tuned on these same records.
"""

import csv
import os
import pathlib
import sys
import time

import numpy as np

from ecg_keras.recordings import list_records, read_recording
from ecg_keras.report import versions
from ecg_keras.signals import match_peaks, r_peaks
from ecg_keras.storage import atomic_path, write_json

TOLERANCE_S = 0.15
OUT = pathlib.Path("outputs/rpeaks")


def main(directory):
    rows, errors = [], []
    # imports and caches are no part of the time
    r_peaks(np.random.default_rng(0).standard_normal(8000), fs=360)
    for name in list_records(directory):
        recording = read_recording(directory, name, lead=None)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            found = r_peaks(recording.signal, fs=recording.fs)
            seconds.append(time.process_time() - start)
        beats = recording.peaks
        for first, last in recording.flutter:
            margin = TOLERANCE_S * recording.fs
            beats = beats[(beats < first) | (beats > last)]
            found = found[(found < first - margin) | (found > last + margin)]
        pairs = match_peaks(beats, found, fs=recording.fs, tolerance_s=TOLERANCE_S)
        error_ms = 1e3 * np.abs(beats[pairs[:, 0]] - found[pairs[:, 1]]) / recording.fs
        errors.append(error_ms)
        row = {
            "record": name,
            "leads": " ".join(recording.leads),
            "beats": len(beats),
            "tp": len(pairs),
        }
        row |= {"fn": len(beats) - len(pairs), "fp": len(found) - len(pairs)}
        row |= {
            "sensitivity": 100 * len(pairs) / len(beats),
            "positive_predictivity": 100 * len(pairs) / len(found),
        }
        row |= {
            "median_error_ms": np.median(error_ms),
            "p95_error_ms": np.percentile(error_ms, 95),
            "cpu_seconds": min(seconds),
        }
        rows.append(row)
    with atomic_path(OUT / "records.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            {
                key: round(value, 3) if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in rows
        )
    total = {key: sum(row[key] for row in rows) for key in ("beats", "tp", "fn", "fp")}
    summary = {
        "command": "python tests/bench/rpeaks.py DIR",
        "data": f"MIT-BIH Arrhythmia Database, {len(rows)} raw records, both leads, all 30 minutes",
        "tolerance_s": TOLERANCE_S,
        "records": len(rows),
        **total,
        "sensitivity": 100 * total["tp"] / total["beats"],
        "positive_predictivity": 100 * total["tp"] / (total["tp"] + total["fp"]),
        "median_error_ms": float(np.median(np.concatenate(errors))),
        "cpu_seconds_per_record": {
            "median": float(np.median([row["cpu_seconds"] for row in rows])),
            "max": max(row["cpu_seconds"] for row in rows),
        },
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
    }
    write_json(OUT / "summary.json", summary)
    print(
        {
            key: summary[key]
            for key in (
                "sensitivity",
                "positive_predictivity",
                "median_error_ms",
                "cpu_seconds_per_record",
            )
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
