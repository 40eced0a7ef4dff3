"""Start the worker processes of a search, one per device, and start them again when they end.

Conventions
-----------
A worker ends by itself after a few trials (`search_trials.RENEW`), when the oracle has no more
(`search_trials.STOPPED`), or by a signal; only the second is for good. Its output goes to
``workers/<id>.log`` in the search's folder.
"""

import os
import pathlib
import subprocess
import sys

from ecg_keras.search_trials import LOST, STOPPED, resident_mb

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
