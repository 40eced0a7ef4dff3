"""Measure what a search of sixty small trials does to the memory of its processes.

    python tests/bench/search_memory.py [--trials 60] [--out outputs/search_memory]

A random search on synthetic sines, workers renewed after every five trials. Reads memory.csv, which
every search writes after each trial. Stores the resident memory of the searching process and of
the worker after 10 trials and after the last; at most ten per cent more are allowed.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--out", default="outputs/search_memory")
    options = parser.parse_args()

    import pandas as pd
    from conftest import toy_dataset

    from ecg_keras.search import search

    work = pathlib.Path(tempfile.mkdtemp())
    os.environ["ECG_KERAS_CACHE"] = str(work / "cache")
    best = search(
        toy_dataset(300),
        toy_dataset(90, seed=1),
        model="cnn1d",
        out_dir=work / "search",
        strategy="random",
        max_trials=options.trials,
        epochs=2,
        filters=[(4, 8), (8, 16), (8, 8, 8)],
        dense_units=(),
        batch_size=64,
        renew_after=5,
    )
    memory = pd.read_csv(work / "search" / "memory.csv").set_index("finished")
    ended = json.loads((work / "search" / "ended.json").read_text())
    result = {
        "command": "python tests/bench/search_memory.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores",
        "data": "synthetic sines, 300 and 90 rows",
        "trials": len(best.leaderboard),
        "renew_after": 5,
        "seconds": ended["seconds"],
        "training_share_of_these_tiny_trials": ended["training_share"],
    }
    for name in ("search_mb", "worker_mb"):
        after10, last = float(memory[name][10]), float(memory[name].iloc[-1])
        result[name] = {
            "after_10": after10,
            f"after_{options.trials}": last,
            "growth": round(last / after10 - 1, 4),
            "largest": float(memory[name].max()),
            "within_10_percent": bool(abs(last / after10 - 1) <= 0.1),
        }
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    memory.to_csv(out / "memory.csv")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
