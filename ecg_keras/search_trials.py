"""Run the trials of a search in worker processes, which are renewed after a few.

Conventions
-----------
A trial's folder ``trials/0007`` holds trial.json (what to run), ``checkpoint`` (to go on from after
a kill) and, once it has ended, result.json, written whole. Whoever reads result.json knows that the
trial is finished; nothing else says so. Seconds are wall time, memory is in MB (10^6 bytes).

``python -m ecg_keras.search_trials OUT_DIR DATA_FILE`` is a worker. It asks the oracle named by
Keras Tuner's three environment variables for trials, and ends by itself after a few (`RENEW`), when
there are no more (`STOPPED`), or when its parent or its trial is gone (`LOST`). Its output goes to
``workers/<id>.log`` in the search's folder.
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

from ecg_keras.search_space import from_json, to_json
from ecg_keras.storage import read_cache, read_json, write_cache, write_json

RENEW, STOPPED, LOST = 0, 10, 11  # exit codes: start another, no more trials, trial lost
# fields of a data set that only a report or a saved model needs
_REPORTED = ("examples", "preparation", "split_by", "digests")
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "OUT OF MEMORY", "OOM WHEN ALLOCATING")


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
    options = dict(trial["fit_options"])
    past = folder.parent / trial["past"] if trial["past"] else None
    if past is not None:  # a promoted trial goes on with its own batch size
        options["batch_size"] = (read_json(past / "result.json") or {}).get(
            "batch_size", options.get("batch_size")
        )
        if not (folder / "checkpoint").exists() and (past / "checkpoint").is_dir():
            shutil.copytree(past / "checkpoint", folder / "part", dirs_exist_ok=True)
            (folder / "part").rename(folder / "checkpoint")
    options["batch_size"] = (read_json(folder / "smaller.json") or {}).get(
        "batch_size", options.get("batch_size") or 128
    )
    result = {
        "trial": folder.name,
        "values": trial["values"],
        "past": trial["past"],
        "epochs": trial["until"],
    }
    while True:
        try:
            result |= _trained(folder, job, trial | {"fit_options": options}, train, val, alive)
            break
        except Exception as error:  # whatever a configuration does, the search goes on and names it
            if not out_of_memory(error) or options["batch_size"] < 2:
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
                result |= {
                    "status": "failed",
                    "value": None,
                    "reason": reason,
                    "traceback": traceback.format_exc(),
                }
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


def _trained(folder, job, trial, train, val, alive):
    """Build and fit; returns value, best epoch and times."""
    import keras

    from ecg_keras.dataset import balance_train
    from ecg_keras.models import build_model
    from ecg_keras.training import default_monitor, fit

    keras.utils.clear_session()  # frees the last trial, and layers get the same names whatever came before
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
    """A callback that stops a diverged trial and tells each finished epoch and the best `figure`."""
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
    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: OOM")), out_of_memory(ValueError("x"))
    (True, True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ in (
        "ResourceExhaustedError",
        "OutOfMemoryError",
    ):
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
        fields = {
            field.name: getattr(ds, field.name)
            for field in dataclasses.fields(ds)
            if field.name not in _REPORTED
        }
        scaler, balance = fields.pop("scaler"), fields.pop("balance")
        if scaler is not None:
            fields |= {"scaler_mean": scaler.mean, "scaler_scale": scaler.scale}
        fields["grid"] = to_json(fields["grid"])
        fields["balance"] = None if balance is None else dataclasses.asdict(balance)
        for name in [name for name, value in fields.items() if isinstance(value, np.ndarray)]:
            arrays[f"{part}.{name}"] = fields.pop(name)
        arrays[f"{part}.fields"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    write_cache(path, "search data", arrays)


def read_parts(path):
    """Read the two data sets that `write_parts` wrote; None where the file is missing or damaged."""
    from ecg_keras.dataset import Balance, ECGDataset, Scaler

    arrays = read_cache(path, "search data")
    if arrays is None:
        return None
    parts = []
    for part in ("train", "val"):
        mine = {
            name.removeprefix(f"{part}."): array
            for name, array in arrays.items()
            if name.startswith(f"{part}.")
        }
        fields = json.loads(mine.pop("fields").tobytes().decode())
        if "scaler_mean" in mine:
            fields["scaler"] = Scaler(mine.pop("scaler_mean"), mine.pop("scaler_scale"))
        fields["grid"] = from_json(fields["grid"])
        fields["balance"] = Balance(**fields["balance"]) if fields["balance"] else None
        parts.append(ECGDataset(**fields, **mine))
    return parts


def main(out_dir, data_file):
    """Ask for trials and run them until renewal is due or the oracle has no more; returns the exit code."""
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
    import keras  # noqa: F401 - the start-up that should not count as time of a trial

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
    """Tells the oracle that this process lives, and ends it when its parent is gone or its trial is no longer its own."""

    def __init__(self, parent):
        self.parent, self.client = parent, None
        self.trial, self.lease_s, self.heard = None, None, None
        self.progress = {}

    def hold(self, trial, lease_s):
        """Begin (or, with None, end) telling of a trial."""
        self.progress, self.heard, self.lease_s = (
            {"epoch": 0, "rss_mb": resident_mb() or 0.0},
            time.monotonic(),
            lease_s,
        )
        self.trial = trial

    def tell(self, progress):
        """Note what the next sign of life says."""
        self.progress = dict(progress)

    def watch(self):
        """Every second: is the parent there, has the oracle heard of the trial within its lease?"""
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
                progress = {
                    name: value for name, value in self.progress.items() if value is not None
                }
                self.client.update_trial(trial, progress, step=int(progress.get("epoch", 0)))
                if trial == self.trial:
                    self.heard = sent
            except Exception as error:  # the oracle has given the trial to another, or is gone
                if trial == self.trial and "UNAVAILABLE" not in str(error):
                    print(f"trial {trial} is no longer this worker's: {error}", flush=True)
                    os._exit(LOST)


_FAILED_STARTS = 3  # of a worker that never got a trial: something is wrong with the installation


def visible_gpus():
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them; asks no framework, so takes no memory."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [
            name
            for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")
            if name.strip() not in ("", "-1")
        ]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        ).stdout
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
        Called with the name of a worker that ended without saying that there are no more trials.
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
        command = [
            sys.executable,
            "-m",
            "ecg_keras.search_trials",
            str(self.folder),
            str(self.data_file),
        ]
        with log:
            self.running[name] = subprocess.Popen(
                command,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

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
            self.failed[name] = (
                0 if had_trial or code <= 0 or code == LOST else self.failed[name] + 1
            )
            if self.failed[name] >= _FAILED_STARTS:
                log = (self.folder / "workers" / f"{name}.log").read_text(errors="replace").strip()
                raise RuntimeError(
                    f"worker {name} cannot start; the end of {self.folder}/workers/{name}.log:\n{log[-2000:]}"
                )
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
