"""Measure how a folder of recordings gets faster with a second worker.

    python tests/bench/folder.py DIR [--model mitbih_beats] [--records 8] [--backend loky]

Annotates the first records of DIR with one worker and with two, each as a command of its own, pages
and files included, and writes outputs/folder/<backend>.json. Times are wall-clock seconds; with a
start of about 10 s in each (importing TensorFlow, loading the model), more records scale better.
Where others use the machine, the load average beside them says how far to trust them.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from ecg_keras.report import versions
from ecg_keras.storage import write_json

OUT = pathlib.Path("outputs/folder")


def main(options):
    records = sorted(path.with_suffix("") for path in options.directory.glob("*.hea"))
    records, seconds, load = records[: options.records], {}, []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "ecg_keras", "annotate", *map(str, records)]
            command += ["--model", options.model, "--out", out, "--backend", options.backend]
            command += ["--workers", str(workers)]
            # one worker gets one core, as each of two has
            if workers == 1 and hasattr(os, "sched_setaffinity"):
                command = ["taskset", "-c", "0", *command]
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[workers] = time.perf_counter() - start
            load.append(os.getloadavg()[0])
            done = json.loads((pathlib.Path(out) / "folder.json").read_text())["recordings"]
            assert len(done) == len(records) and not any(row["why"] for row in done)
    result = {
        "command": "python tests/bench/folder.py DIR",
        "records": [path.name for path in records],
        "model": options.model,
        "backend": options.backend,
        "seconds": seconds,
        "speedup": seconds[1] / seconds[2],
        "load_average": load,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions(),
    }
    write_json(OUT / f"{options.backend}.json", result)
    print(seconds, f"{result['speedup']:.2f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--model", default="mitbih_beats")
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--backend", default="loky", choices=("loky", "ray", "dask"))
    main(parser.parse_args())
