"""Run the trials of a search in worker processes, which are renewed after a few.

Conventions
-----------
A trial's folder ``trials/0007`` holds trial.json (what to run), ``checkpoint`` (the state to go on
from after a kill) and, at the end, result.json, written whole. A trial is finished when it has a
result.json. Seconds are wall time, memory is in MB (10^6 bytes).

``python -m ecg_keras.search_trials OUT_DIR DATA_FILE`` is a worker. Keras Tuner's three environment
variables say where the oracle is. The worker asks it for trials. It ends after a few trials
(`RENEW`), when there are no more (`STOPPED`), or when its parent or its trial is gone (`LOST`). Its
output goes to ``workers/<id>.log`` in the search's folder.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import traceback

import numpy as np

from ecg_keras.dataset import Balance, ECGDataset, Scaler
from ecg_keras.search_space import from_json, to_json
from ecg_keras.storage import read_cache, read_json, write_cache, write_json

RENEW, STOPPED, LOST = 0, 10, 11  # exit codes: start another, no more trials, trial lost
# fields of a data set that only a report or a saved model needs
_REPORTED = ("examples", "preparation", "split_by", "digests")
_PARTS = "train and val of a search"  # key of their file
_MEMORY_ERRORS = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryError")
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "OUT OF MEMORY", "OOM WHEN ALLOCATING")
_FAILED_STARTS = 3  # of a worker that never got a trial: something is wrong with the installation


def run_trial(folder, job, train, val, *, alive=None):
    """Train one trial, or go on with it, and write its result.json.

    Parameters
    ----------
    folder : path
        The trial's folder, with trial.json.
    job : dict
        Of the search: "model", "epochs", "seed".
    train, val : ECGDataset
        Parts of the search.
    alive : callable, optional
        Called with a dict (epoch, value, rss_mb) after every epoch.

    Returns
    -------
    dict
        What result.json holds. A trial that fails is a result too, with its reason.
    """
    folder = pathlib.Path(folder)
    trial = json.loads((folder / "trial.json").read_text())
    start, notes = time.perf_counter(), []
    options = {"batch_size": 128} | trial["fit_options"]
    if trial["past"]:  # a promoted trial goes on with its own batch size
        past = folder.parent / trial["past"]
        options |= _batch_size(past / "result.json")
        if not (folder / "checkpoint").exists() and (past / "checkpoint").is_dir():
            shutil.copytree(past / "checkpoint", folder / "part", dirs_exist_ok=True)
            (folder / "part").rename(folder / "checkpoint")
    options |= _batch_size(folder / "smaller.json")
    result = {"trial": folder.name, "values": trial["values"]}
    result |= {"past": trial["past"], "epochs": trial["until"]}
    while True:
        try:
            result |= _trained(folder, job, trial | {"fit_options": options}, train, val, alive)
            break
        except Exception as error:  # of any options: the search goes on and tells the reason
            if not out_of_memory(error) or options["batch_size"] < 2:
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
                result |= {"status": "failed", "value": None, "reason": reason}
                result["traceback"] = traceback.format_exc()
                break
            options["batch_size"] //= 2
            notes.append(f"out of memory, batch size halved to {options['batch_size']}")
            write_json(folder / "smaller.json", {"batch_size": options["batch_size"]})
            print(f"trial {folder.name}: {notes[-1]}", flush=True)
    result |= {
        "batch_size": options["batch_size"],
        "notes": notes,
        "rss_mb": resident_mb(),
        "ended": time.time(),
    }
    result["seconds"] = time.perf_counter() - start
    write_json(folder / "result.json", result)
    return result


def _batch_size(file):
    """The batch size that a file of a trial names, as a dict; {} where it names none."""
    found = read_json(file) or {}
    return {"batch_size": found["batch_size"]} if "batch_size" in found else {}


def _trained(folder, job, trial, train, val, alive):
    """Build and fit; returns value, best epoch and times."""
    import keras

    from ecg_keras.dataset import balance_train
    from ecg_keras.models import build_model
    from ecg_keras.training import default_monitor, fit

    # frees the last trial's memory; and layers get the same names, whatever was built before
    keras.utils.clear_session()
    options = dict(trial["fit_options"])
    train = balance_train(train, options.pop("balance", None), seed=job["seed"])
    keras.utils.set_random_seed(job["seed"])
    model = build_model(job["model"], like=train, **from_json(trial["model_options"]))
    before = (read_json(folder / "checkpoint" / "state.json") or {}).get("rows", [])
    history = fit(
        model,
        train,
        val,
        folder=folder / "checkpoint",
        epochs=job["epochs"],
        seed=job["seed"],
        until=trial["until"],
        callbacks=[_progress(folder, f"val_{default_monitor(train)}", alive)],
        progress=False,
        **options,
    )
    key = f"val_{history.monitor}"
    best = history.rows[history.best_row]
    own = history.rows[trial["start"] :]
    return {
        "status": "completed",
        "value": best[key],
        "objective": key,
        "best_epoch": history.best_row + 1,
        "epochs_run": len(history.rows),
        "taken_up_after": len(before) or None,
        "fit_seconds": sum(row["seconds"] for row in own),
        "epoch_seconds": float(np.median([row["seconds"] for row in history.rows])),
        "n_parameters": int(model.count_params()),
        "curve": [row[key] for row in history.rows],
    }


def _progress(folder, figure, alive):
    """A callback that stops a diverged trial, and tells the epoch and the best `figure` so far."""
    import keras

    def told(epoch, logs):
        if not np.isfinite(logs["loss"]):
            raise ValueError("the loss is not finite: the training diverged")
        state = read_json(folder / "checkpoint" / "state.json")
        if alive is not None and state is not None:
            value = state["rows"][state["best"]][figure]
            alive({"epoch": epoch + 1, "value": value, "rss_mb": resident_mb()})

    return keras.callbacks.LambdaCallback(on_epoch_end=told)


def out_of_memory(error):
    """True for what the backends raise when a device or the host has no memory left.

    Examples
    --------
    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: OOM"))
    (True, True)
    >>> out_of_memory(ValueError("x"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ in _MEMORY_ERRORS:
        return True
    return any(word in str(error).upper() for word in _MEMORY_WORDS)


def resident_mb(pid="self"):
    """Resident memory of a process now, in MB; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return None


def write_parts(path, train, val):
    """Write two data sets into one checksummed file."""
    arrays = {}
    for part, ds in (("train", train), ("val", val)):
        fields = {field.name: getattr(ds, field.name) for field in dataclasses.fields(ds)}
        for name in _REPORTED:
            del fields[name]
        fields["grid"] = to_json(ds.grid)
        fields["balance"] = ds.balance and dataclasses.asdict(ds.balance)
        fields["scaler"] = ds.scaler and np.stack([ds.scaler.mean, ds.scaler.scale])
        for name in [name for name, value in fields.items() if isinstance(value, np.ndarray)]:
            arrays[f"{part}.{name}"] = fields.pop(name)
        arrays[f"{part}.fields"] = np.array(json.dumps(fields))
    write_cache(path, _PARTS, arrays)


def read_parts(path):
    """Read the two data sets that `write_parts` wrote; None for a missing or damaged file."""
    arrays = read_cache(path, _PARTS)
    if arrays is None:
        return None
    parts = {"train": {}, "val": {}}
    for name, array in arrays.items():
        part, _, field = name.partition(".")
        parts[part] |= json.loads(str(array)) if field == "fields" else {field: array}
    for fields in parts.values():
        fields["grid"] = from_json(fields["grid"])
        fields["balance"] = fields["balance"] and Balance(**fields["balance"])
        fields["scaler"] = None if fields["scaler"] is None else Scaler(*fields["scaler"])
    return [ECGDataset(**fields) for fields in parts.values()]


def main(out_dir, data_file):
    """Ask for trials and run them until renewal is due or there are no more; the exit code."""
    parent = os.getppid()
    link = _Link(parent)
    threading.Thread(target=link.watch, daemon=True).start()
    if cores := os.environ.get("ECG_KERAS_CORES"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    folder = pathlib.Path(out_dir)
    job = json.loads((folder / "search.json").read_text())["job"]
    parts = read_parts(data_file)
    if parts is None:
        print(f"{data_file} is missing or damaged", flush=True)
        return 1
    # imports here, so that their seconds do not count as a trial's
    import ecg_keras.models
    import ecg_keras.training  # noqa: F401
    from ecg_keras.search_oracle import client

    link.client = client()
    done = 0
    while done < job["renew_after"]:
        trial = link.client.create_trial(link.client.tuner_id)
        if trial.status == "STOPPED":
            return STOPPED
        if trial.status != "RUNNING":
            time.sleep(0.5)
            continue
        link.hold(trial.trial_id, job["lease_s"])
        run_trial(folder / "trials" / trial.trial_id, job, *parts, alive=link.tell)
        link.hold(None, None)
        link.client.end_trial(trial)
        done += 1
    return RENEW


class _Link:
    """Tells the oracle that this process lives.

    Ends the process when its parent is gone, or when its trial was given to another worker.
    """

    def __init__(self, parent):
        self.parent, self.client = parent, None
        self.trial, self.lease_s, self.heard = None, None, None
        self.progress = {}

    def hold(self, trial, lease_s):
        """Begin (or, with None, end) telling of a trial."""
        self.progress = {"epoch": 0, "rss_mb": resident_mb() or 0.0}
        self.heard, self.lease_s = time.monotonic(), lease_s
        self.trial = trial  # last: the threads look at it first

    def tell(self, progress):
        """Note what the next sign of life says."""
        self.progress = dict(progress)

    def watch(self):
        """End the process without its parent, or when the oracle was silent for most of a lease."""
        threading.Thread(target=self._signs, daemon=True).start()
        while True:
            time.sleep(0.5)
            late = self.trial is not None and time.monotonic() - self.heard > 0.8 * self.lease_s
            if os.getppid() != self.parent or late:
                os._exit(LOST)

    def _signs(self):
        """Signs of life, several in the time of a lease."""
        while True:
            time.sleep(min(2.0, (self.lease_s or 10) / 5))
            trial, sent = self.trial, time.monotonic()
            if trial is None:
                continue
            try:
                progress = {name: v for name, v in self.progress.items() if v is not None}
                self.client.update_trial(trial, progress, step=int(progress.get("epoch", 0)))
                if trial == self.trial:
                    self.heard = sent
            except Exception as error:  # the oracle has given the trial to another, or is gone
                if trial == self.trial and "UNAVAILABLE" not in str(error):
                    print(f"trial {trial} is no longer this worker's: {error}", flush=True)
                    os._exit(LOST)


def visible_gpus():
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them.

    Asks no framework, because that would take GPU memory.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [name for name in names if name.strip() not in ("", "-1")]
    asked = {"capture_output": True, "text": True, "timeout": 60}
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], **asked).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


class Workers:
    """Worker processes, each on its own GPU or its own share of the cores.

    Parameters
    ----------
    folder, data_file : path
        Of the search, and of its data sets.
    names : sequence of str
        One per worker: its KERASTUNER_TUNER_ID.
    address : (str, int)
        Where the oracle answers.
    backend : str
        KERAS_BACKEND of the workers.
    on_death : callable
        Called with the name and exit code of a worker that ended although there may be more trials;
        says whether it had a trial.
    """

    def __init__(self, folder, data_file, names, address, backend, on_death):
        self.folder, self.data_file, self.address = pathlib.Path(folder), data_file, address
        self.backend, self.on_death = backend, on_death
        self.names, self.gpus = list(names), visible_gpus()
        self.cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.running, self.failed = {}, dict.fromkeys(names, 0)
        (self.folder / "workers").mkdir(exist_ok=True)

    def start(self):
        """Start all."""
        for name in self.names:
            self._spawn(name)

    def _spawn(self, name):
        log = (self.folder / "workers" / f"{name}.log").open("ab")
        command = [sys.executable, "-m", "ecg_keras.search_trials", self.folder, self.data_file]
        with log:
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            environment = self._environment(name)
            self.running[name] = subprocess.Popen(command, env=environment, **files)

    def _environment(self, name):
        """What pins a worker to its device and leads it to the oracle."""
        number, host = self.names.index(name), self.address[0]
        package = str(pathlib.Path(__file__).parents[1])
        paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        more = {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": host,
            "KERASTUNER_ORACLE_PORT": str(self.address[1]),
            "no_grpc_proxy": ",".join(filter(None, [os.environ.get("no_grpc_proxy"), host])),
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "KERAS_BACKEND": self.backend,
            "PYTHONPATH": os.pathsep.join(paths),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        if self.gpus:
            more["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        elif self.cores and len(self.names) > 1:
            mine = self.cores[number % len(self.cores) :: len(self.names)]
            more["ECG_KERAS_CORES"] = ",".join(map(str, mine))
        return {**os.environ, **more}

    def tend(self):
        """Start again what has ended; True while any runs.

        Raises RuntimeError, with the end of its log, if a worker cannot start.
        """
        for name, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            if code == STOPPED:
                continue
            had_trial = self.on_death(name, code)
            fine = had_trial or code <= 0 or code == LOST
            self.failed[name] = 0 if fine else self.failed[name] + 1
            if self.failed[name] >= _FAILED_STARTS:
                log = self.folder / "workers" / f"{name}.log"
                end = log.read_text(errors="replace").strip()[-2000:]
                raise RuntimeError(f"worker {name} cannot start; the end of {log}:\n{end}")
            self._spawn(name)
        return bool(self.running)

    def memory_mb(self):
        """Resident memory of each worker, by name."""
        return {name: resident_mb(process.pid) for name, process in self.running.items()}

    def stop(self):
        """End all at once; what they were training can be gone on with."""
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()
        self.running = {}


def worker_count(workers):
    """Processes to start: as many as asked, or one per GPU, at least one."""
    return int(workers) or max(1, len(visible_gpus()))


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # no waiting for threads of the backend or of gRPC
