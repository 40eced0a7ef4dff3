"""Measure reading the CSV files, first and cached, and the rate of `to_spectrograms`.

    python tests/bench/loading.py DIR [--out outputs/loading]

Each load is a process of its own: its time is that of the call, its peak memory that of the
process. The rate is the best of five passes over the train beats, after a short one to compile.
Run it on an idle machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

LOAD = """
import json, resource, sys, time
from ecg_keras import load_mitbih_csv
start = time.perf_counter()
parts = load_mitbih_csv(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    "rows": sum(map(len, parts)),
}))
"""

TRANSFORM = """
import json, sys, time
from ecg_keras import load_mitbih_csv, to_spectrograms
train, _, _ = load_mitbih_csv(sys.argv[1])
to_spectrograms(train[:8192])
rates = []
for _ in range(5):
    start = time.perf_counter()
    images = to_spectrograms(train)
    rates.append(len(train) / (time.perf_counter() - start))
from ecg_keras.report import device, versions
print(json.dumps({
    "beats_per_s": max(rates),
    "passes": rates,
    "image": images.x.shape[1:],
    "device": device(),
    "versions": versions(),
}))
"""


def run(code, directory, cache):
    """The JSON that a piece of code prints as its last line."""
    environment = {**os.environ, "ECG_KERAS_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code, directory],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of mitbih_train.csv and mitbih_test.csv")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "outputs" / "loading")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        result = {
            "command": "python tests/bench/loading.py DIR",
            "first_load": run(LOAD, options.data, cache),
            "cached_load": run(LOAD, options.data, cache),
            "spectrograms": run(TRANSFORM, options.data, cache),
        }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loading.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
