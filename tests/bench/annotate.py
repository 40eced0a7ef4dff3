"""Measure `annotate`: one half-hour record, and one of 24 hours, files included.

    python tests/bench/annotate.py MITDB_DIR [--model mitbih_beats] [--out outputs/annotate]

The record of 24 hours is one of two leads at 360 Hz, made of the records of the folder one after
the other. Each measurement is a process of its own, the model is loaded and called once before the
clock starts; peak memory is that of the whole process, TensorFlow included. Run it on an idle
machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]

MEASURE = """
import json, resource, sys, time
import numpy as np
from ecg_keras import annotate, load_model
from ecg_keras.demo import simulate_patient
record, name, out = sys.argv[1:]
model = load_model(name)
patient = simulate_patient(0, duration_s=60)
annotate(model, patient.signal, fs=patient.fs, leads=patient.leads)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
found = annotate(model, record)
middle = time.perf_counter()
found = annotate(model, record, out_dir=out)
stop = time.perf_counter()
from ecg_keras.report import device, versions
print(json.dumps({
    "hours": found.duration_s / 3600,
    "beats": len(found.beats),
    "seconds_without_files": middle - start,
    "seconds": stop - middle,
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    "peak_rss_mb_before": before * 1024 / 1e6,
    "device": device(),
    "versions": versions(),
}))
"""


def measure(record, model):
    """Annotate a record in a process of its own; returns its figures, and sizes of the files."""
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEASURE, str(record), model, out],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        sizes = {file.name: file.stat().st_size for file in pathlib.Path(out).iterdir()}
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return figures | {"bytes": {pathlib.Path(name).suffix: size for name, size in sizes.items()}}


def write_long_record(directory, out, hours):
    """A WFDB record `long` of `hours`, of the folder's records one after the other."""
    import wfdb

    names = (pathlib.Path(directory) / "RECORDS").read_text().split()
    parts, n = [], round(hours * 3600 * 360)
    while sum(map(len, parts)) < n:
        record = wfdb.rdrecord(
            str(pathlib.Path(directory) / names[len(parts) % len(names)]), physical=False
        )
        parts.append(record.d_signal.astype(np.int16))
    wfdb.wrsamp(
        "long",
        fs=360,
        units=["mV", "mV"],
        sig_name=["MLII", "V1"],
        d_signal=np.concatenate(parts)[:n],
        fmt=["212", "212"],
        adc_gain=[200.0, 200.0],
        baseline=[1024, 1024],
        write_dir=str(out),
    )
    return pathlib.Path(out) / "long"


def main():
    """Measure both and write annotate.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--record", default="106")
    parser.add_argument("--model", default="mitbih_beats")
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--out", default=ROOT / "outputs" / "annotate", type=pathlib.Path)
    options = parser.parse_args()
    figures = {
        "command": "python tests/bench/annotate.py MITDB_DIR",
        "half_hour": measure(pathlib.Path(options.directory) / options.record, options.model),
    }
    print(json.dumps(figures["half_hour"], indent=1))
    with tempfile.TemporaryDirectory() as folder:
        long = write_long_record(options.directory, folder, options.hours)
        figures["long"] = measure(long, options.model)
    print(json.dumps(figures["long"], indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "annotate.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
