"""Kill a search at random moments and compare what it finished with an uninterrupted run.

    python tests/bench/search_kills.py [--kills 20] [--trials 12] [--out outputs/search_kills]

A random search of small trials on synthetic sines runs twice: once undisturbed, and once while the
searching process, a worker, or both at once are killed (SIGKILL) at random moments and the same
command is started again. Writes result.json: which trials were finished, with which options and
values, in both runs; how many results were written twice (should be none); what was killed when.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))


def run(folder, trials):
    """The command that is killed and started again."""
    from conftest import toy_dataset

    from ecg_keras.search import search

    search(
        toy_dataset(90),
        toy_dataset(45, seed=1),
        model="cnn1d",
        out_dir=folder,
        strategy="random",
        max_trials=trials,
        epochs=4,
        filters=(4, 8),
        batch_size=[16, 32],
        renew_after=4,
        progress=False,
    )


def start(folder, trials):
    command = [sys.executable, __file__, "--run", str(folder), "--trials", str(trials)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def children(process):
    """Process ids of the workers."""
    try:
        tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    except OSError:
        return []


def finished(folder):
    """Trial to (values, value, time of its end)."""
    found = {}
    for file in sorted(pathlib.Path(folder, "trials").glob("*/result.json")):
        result = json.loads(file.read_text())
        found[result["trial"]] = (result["values"], result["value"], result["ended"])
    return found


def progress(folder):
    """What changes when an epoch or a trial has ended."""
    files = [
        *pathlib.Path(folder).glob("trials/*/checkpoint/state.json"),
        *pathlib.Path(folder).glob("trials/*/result.json"),
    ]
    stamps = set()
    for file in files:
        try:
            stamps.add((file, file.stat().st_mtime_ns))
        except OSError:
            pass  # removed meanwhile
    return stamps


def wait(process, folder, rng):
    """Wait for a random moment; True if the process ended by itself before.

    It comes soon, while processes start, or up to 3 s after the next end of an epoch or trial.
    """
    before, soon = progress(folder), rng.random() < 0.3
    while not soon and process.poll() is None and not progress(folder) - before:
        time.sleep(0.05)
    try:
        process.wait(rng.uniform(0, 6 if soon else 3))
        return True
    except subprocess.TimeoutExpired:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default=None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="outputs/search_kills")
    options = parser.parse_args()
    if options.run:
        return run(options.run, options.trials)
    work = pathlib.Path(tempfile.mkdtemp())
    os.environ["ECG_KERAS_CACHE"] = str(work / "cache")
    rng = random.Random(options.seed)
    began = time.time()
    process = start(work / "whole", options.trials)
    process.wait()
    if process.returncode:
        sys.exit(process.stderr.read().decode())
    whole, undisturbed_s = finished(work / "whole"), time.time() - began

    began, kills, seen, twice, starts = time.time(), [], {}, 0, 1
    process = start(work / "killed", options.trials)
    while True:
        ended = (
            process.wait() is not None
            if len(kills) == options.kills
            else wait(process, work / "killed", rng)
        )
        now = finished(work / "killed")
        twice += sum(now.get(trial) != row for trial, row in seen.items())
        seen = now
        if ended and process.returncode:
            sys.exit(process.stderr.read().decode())
        if ended and len(kills) < options.kills:  # too soon: the other kills find it finished
            print(f"finished after {len(kills)} kills", flush=True)
        if ended:
            break
        what = rng.choice(["worker", "worker", "search", "both"])
        workers = children(process)
        if what == "worker" and not workers:
            continue
        both = [process.pid, *workers]
        for pid in {"worker": workers, "search": [process.pid], "both": both}[what]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        kills.append({"what": what, "after_s": round(time.time() - began, 1), "finished": len(now)})
        print(kills[-1], flush=True)
        if what != "worker":
            process.wait()
            starts += 1
            process = start(work / "killed", options.trials)
    killed = finished(work / "killed")
    differences = [
        abs(killed[trial][1] - whole[trial][1])
        for trial in whole
        if trial in killed and whole[trial][1] is not None
    ]
    result = {
        "command": "python tests/bench/search_kills.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores",
        "data": "synthetic sines, seed 0 and 1",
        "kills": len(kills),
        "by_kind": {
            kind: sum(kill["what"] == kind for kill in kills)
            for kind in ("worker", "search", "both")
        },
        "starts_of_the_search": starts,
        "trials_undisturbed": len(whole),
        "trials_killed": len(killed),
        "same_trials_and_options": {t: row[0] for t, row in whole.items()}
        == {t: row[0] for t, row in killed.items()},
        "results_written_twice": twice,
        "largest_difference_of_a_value": max(differences, default=None),
        "values_that_differ": sum(difference > 1e-9 for difference in differences),
        "seconds_undisturbed": round(undisturbed_s, 1),
        "seconds_killed": round(time.time() - began, 1),
        "log": kills,
    }
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "log"}, indent=1))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
