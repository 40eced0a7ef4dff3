"""Search the options of a model and of its training, for hours and through kills.

Conventions
-----------
The searching process proposes trials. Worker processes train them. What is on disk decides:
``search.json`` holds what is searched, ``oracle.json`` what was proposed, and
``trials/*/result.json`` what is finished. A result is the content of a result.json. A value is a
validation figure; larger is better. Seconds are wall time from the start of the call.
"""

import contextlib
import dataclasses
import filecmp
import importlib.metadata
import os
import pathlib
import re
import shutil
import sys
import time

import numpy as np

from ecg_keras import pages, plots
from ecg_keras._checks import CallableModule, check_option, check_positive, require
from ecg_keras.dataset import ECGDataset, check_parts
from ecg_keras.pages import decimal
from ecg_keras.plots import png
from ecg_keras.search_space import declare, from_json, to_json
from ecg_keras.search_trials import Workers, read_parts, resident_mb, worker_count, write_parts
from ecg_keras.storage import (
    atomic_path,
    cache_folder,
    check_free,
    final_name,
    fingerprint,
    is_ours,
    read_json,
    write_json,
    write_text,
)

STRATEGIES = ("hyperband", "bayesian", "random")
_FILES = (  # what a search writes into its folder, besides the winner's run
    "search.json oracle.json oracle.previous.json trials workers leaderboard.csv memory.csv "
    "search.html ended.json winner.json"
).split()
_MARGIN_S = 300  # everything is on disk this long before the hours are over
_PATIENCE_S = 600  # machines wait this long for what the chief writes
_DEATHS = 5  # of workers in one trial without a finished epoch between
_COLUMNS = (
    "trial status value epochs_run best_epoch seconds fit_seconds rss_mb n_parameters past"
).split()
_ENDED = ("model", "fit_options", "value", "ended")  # of a Search, as ended.json has them
_SHOWN = 30  # rows of the leaderboard on the page; the file has all
_DOT = {"markersize": 4, "color": plots.PALE, "markeredgecolor": plots.INK, "markeredgewidth": 0.5}


def search(
    train,
    val,
    *,
    model="cnn2d",
    out_dir="outputs/search",
    hours=None,
    max_trials=None,
    strategy="hyperband",
    epochs=9,
    workers=0,
    seed=0,
    fresh=False,
    test=None,
    full_train=None,
    previous=None,
    renew_after=8,
    lease_s=120.0,
    progress=True,
    **narrowed,
):
    """Search the options of a family and of its training for the best validation figure.

    Kill the search, a worker or the machine at any moment and make the same call again: the search
    goes on, and only the epochs that were running are lost. The first trial is the default model.

    Parameters
    ----------
    train, val : ECGDataset
        Parts to train trials on and to measure them by: macro-F1, macro-AUC for multi-label data.
    model : str, default "cnn2d"
        A key of `MODELS`. `search_space.FAMILIES` and `search_space.TRAINING` say what is varied.
    out_dir : path
        Folder of the search: leaderboard.csv and search.html, written after every trial, and its
        state. Files that no search wrote stay as they are.
    hours : float, optional
        Time for this call. A trial is started only if it would end in time, judged by the earlier
        ones; if it does not, it is stopped. Time to train the winner (`epochs` on `full_train`) is
        kept. All files are written five minutes before the end, or a tenth of a shorter time.
    max_trials : int, optional
        Trials in all, with those of earlier calls. Random and Bayesian search need it or `hours`.
    strategy : {"hyperband", "bayesian", "random"}
        How options are proposed. Hyperband trains many models a little and goes on with the best
        third; every second new trial is drawn near the best so far.
    epochs : int, default 9
        Of a full training. With Hyperband trials end after a ninth, a third or all of it.
    workers : int, default 0
        Processes that train. 0 is one for each visible GPU, or one where there is no GPU.
    seed : int, default 0
        Of the proposals and of every training.
    fresh : bool, default False
        Start anew. A search in `out_dir` is moved to ``<out_dir>-old-1``.
    test : ECGDataset, optional
        Train the winner on `full_train` and report it, on this part, in ``winner`` in `out_dir`.
    full_train : ECGDataset, optional
        Rows to train the winner on, where `train` is only some of them.
    previous : path, optional
        Folder in which to look for the same search of an earlier session, such as /kaggle/input. It
        is copied if `out_dir` holds none.
    renew_after : int, default 8
        Trials after which a worker process is replaced, because memory grows in it.
    lease_s : float, default 120
        A worker that gives no sign of life for so many seconds loses its trial to another.
    progress : bool, default True
        Print a line per trial, and a live one while it runs.
    **narrowed
        What to vary less or not at all: any entry of the space, or option of the family or of
        `fit_and_report`. Give a list to choose from, a pair (low, high) within a range, or one
        value: ``filters=(32, 64), dropout=(0.1, 0.4)``.

    Returns
    -------
    Search
        With `model`, `model_options`, `fit_options` and `leaderboard`, so that the winner can be
        rebuilt without this package's search.

    Raises
    ------
    ValueError
        If `out_dir` holds a search of other data, space, settings or versions (each difference is
        named), or a file of others that this search would replace; or another process searches
        there.
    RuntimeError
        If the first three trials fail for the same reason, which is told, or a worker cannot start.

    Notes
    -----
    Several machines that share `out_dir` can search together. Run the same program on each, with
    Keras Tuner's three variables: the address of the first machine, and a name, which is ``chief``
    on the first::

        export KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000
        KERASTUNER_TUNER_ID=chief python tune.py   # on 10.0.0.1
        KERASTUNER_TUNER_ID=second python tune.py  # on another

    The chief trains too, and its call says what to vary. Machines may join later. One that gives no
    sign of life for `lease_s` loses its trial to another.

    TensorFlow takes all memory of a GPU, and the workers then have none. If this process has to use
    the GPU before it searches, set TF_FORCE_GPU_ALLOW_GROWTH=true at its start.

    Examples
    --------
    >>> from ecg_keras import search
    >>> best = search(train, val, hours=8)  # doctest: +SKIP
    >>> print(best.code())  # how to train the winner again  # doctest: +SKIP
    """
    start = time.monotonic()
    strategy = check_option("strategy", strategy, STRATEGIES)
    ends = {"hours": hours, "max_trials": max_trials}
    for name, value in (ends | {"epochs": epochs, "renew_after": renew_after}).items():
        if value is not None:
            check_positive(name, value)
    if hours is None and max_trials is None and strategy != "hyperband":
        raise ValueError(f"strategy={strategy!r} has no end of its own; give hours or max_trials.")
    for name, part in (("train", train), ("val", val)):
        if not isinstance(part, ECGDataset):
            raise TypeError(f"{name} must be an ECGDataset, got {type(part).__name__}.")
    check_parts(train, val, val.replace(patients=None) if test is None else test)
    settings = {"model": model, "strategy": strategy, "epochs": int(epochs), "seed": int(seed)}
    identity = {"data": _data_identity(train, val), "settings": settings}
    folder = pathlib.Path(out_dir).resolve()
    data_file = _data_file(identity["data"], train, val)
    role = os.environ.get("KERASTUNER_TUNER_ID") if "KERASTUNER_ORACLE_IP" in os.environ else None
    if role is not None and "chief" not in role:
        return _work_for_chief(folder, identity, data_file, role, workers)
    require("keras_tuner", "tune")
    import keras

    from ecg_keras.training import default_monitor

    space = declare(model, train, **narrowed)
    backend = keras.backend.backend()
    identity |= {"space": space.describe(), "versions": _versions(backend)}
    job = {name: value for name, value in settings.items() if name != "strategy"}
    job |= {"renew_after": int(renew_after), "lease_s": float(lease_s), "backend": backend}
    with _locked(folder):
        _prepare(folder, identity, job, fresh, previous)
        if test is not None:
            from ecg_keras.report import check_run_folder

            check_run_folder(folder / "winner", test, trained=True)
        full = train if full_train is None else full_train
        figure, rows = default_monitor(train), len(full) / len(train)
        clock = {"start": start, "rows": rows, "progress": progress}
        run = Supervisor(folder, space, job, strategy=strategy, figure=figure, **ends, **clock)
        if not (test is not None and run.winner_is_pending()):
            run.go(data_file, workers, role)
        found = run.result()
        if test is not None:
            found.report = _report_winner(found, full, val, test, job["seed"], progress)
            run.page(found)
    return found


def _data_identity(train, val):
    """What tells one pair of data sets from another; every value counts."""
    identity = {}
    for name, part in (("train", train), ("val", val)):
        about = [part.classes, part.fs, part.leads, part.unit, to_json({"grid": part.grid})]
        about.append(part.metadata_names)
        arrays = [array for array in (part.x, part.y, part.metadata) if array is not None]
        identity[name] = f"{len(part)} rows, {fingerprint(about, *arrays)}"
    identity["balance"] = train.balance.method if train.balance else None
    return identity


def _versions(backend):
    """Versions a result depends on."""
    found = {}
    for name in ("ecg_keras", "keras", "keras-tuner", backend):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _data_file(identity, train, val):
    """Write the parts to the cache for the workers, unless they are there whole.

    Files that no search used for a week are removed.
    """
    folder = cache_folder() / "search"
    for old in folder.glob("*.parts"):
        if not re.fullmatch(r"[0-9a-f]{16}\.parts", final_name(old.name)):
            continue  # not of a search
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 7 * 86400:
                old.unlink()
    file = folder / f"{fingerprint(identity)}.parts"
    if file.exists() and read_parts(file) is not None:
        os.utime(file)
    else:
        write_parts(file, train, val)
    return file


@contextlib.contextmanager
def _locked(folder):
    """Hold the folder for one searching process; its end, of any kind, frees the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with open(folder.parent / f".{folder.name}.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process searches in {folder} now; wait for it, or give another out_dir."
            ) from None
        yield


def _prepare(folder, identity, job, fresh, previous):
    """Make the folder of a new search, or check that the one there is the same search."""
    file = folder / "search.json"
    torn = read_json(file) is None and any(folder.glob("trials/*/trial.json"))
    if fresh and (is_ours(file) or torn):
        number = 1
        while (aside := folder.with_name(f"{folder.name}-old-{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"the search in {folder} was moved to {aside}")
    if previous is not None and not file.exists():
        _copy_previous(pathlib.Path(previous), folder, identity)
    if read_json(file) is None and any(folder.glob("trials/*/trial.json")):
        raise ValueError(
            f"{folder} holds trials, but its search.json cannot be read; give fresh=True or "
            "another out_dir."
        )
    check_free(folder, _FILES, "search.json")
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    there = read_json(file)
    if there is not None:
        changed = _differences(there["identity"], identity)
        if changed:
            raise ValueError(
                f"{folder} holds a search that is not this one: {'; '.join(changed)}. Its trials "
                "cannot be compared with new ones; give fresh=True to start anew (the old search "
                "is moved aside) or another out_dir."
            )
    if there is None or there["job"] != job:
        write_json(file, {"identity": identity, "job": job})
    (folder / "ended.json").unlink(missing_ok=True)


def _differences(old, new):
    """What differs between two identities, in words."""
    changed = []
    for kind in ("data", "space", "settings", "versions"):
        for name in sorted({*old[kind], *new[kind]}, key=str):
            was, now = old[kind].get(name, "absent"), new[kind].get(name, "absent")
            if was != now:
                changed.append(f"{kind} {name} was {was}, is {now}")
    return changed


def _copy_previous(inputs, folder, identity):
    """Copy the newest search with the same identity under `inputs` to `folder`; replace nothing."""
    found = sorted(inputs.rglob("search.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in found:
        there = read_json(file)
        if not isinstance(there, dict) or "identity" not in there:
            continue
        changed = _differences(there["identity"], identity)
        if changed:
            print(f"the search in {file.parent} is not this one and stays: {'; '.join(changed)}")
            continue
        paths = [path.relative_to(file.parent) for path in file.parent.rglob("*")]
        paths.sort(key=lambda path: (str(path) == "search.json", path))  # last: all is there
        for path in paths:
            old, new = file.parent / path, folder / path
            if not old.is_dir() and new.exists() and not filecmp.cmp(old, new, shallow=False):
                raise ValueError(
                    f"{new} is in the way of the search in {file.parent}, which is to be copied; "
                    "move it, or give another out_dir."
                )
        for path in paths:
            old, new = file.parent / path, folder / path
            if old.is_dir():
                new.mkdir(parents=True, exist_ok=True)
            elif not new.exists():
                with atomic_path(new) as part:
                    shutil.copyfile(old, part)
        print(f"going on with the search in {file.parent}")
        return


def _report_winner(found, train, val, test, seed, progress):
    """Train the winner on all rows and report it; after a kill the same call goes on with it."""
    import keras

    from ecg_keras.models import build_model
    from ecg_keras.training import fit_and_report

    board = found.leaderboard
    trial = board["trial"].iloc[0] if found.value is not None else None
    write_json(found.out_dir / "winner.json", {"trial": trial, "ended": found.ended})
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    network = build_model(found.model, like=train, **found.model_options)
    options = {"out_dir": found.out_dir / "winner", "seed": seed, "progress": progress}
    report = fit_and_report(network, train, val, test, **options, **found.fit_options)
    (found.out_dir / "winner.json").unlink()
    return report


def _work_for_chief(folder, identity, data_file, role, workers):
    """Run workers for a search that another machine leads; returns what it found."""
    import pandas as pd

    stale = read_json(folder / "ended.json")
    there = _wait_for(
        lambda: read_json(folder / "search.json"),
        f"no search in {folder} after 10 minutes; start the chief, and share out_dir between the "
        "machines.",
    )
    backend = there["job"]["backend"]
    identity |= {"space": there["identity"]["space"], "versions": _versions(backend)}
    changed = _differences(there["identity"], identity)
    if changed:
        raise ValueError(f"the chief searches something else in {folder}: {'; '.join(changed)}.")
    names = [f"{role}-{i}" for i in range(worker_count(workers))]
    places = folder, data_file, names, _chief_address()
    pool = Workers(*places, backend, lambda name, code: code <= 0)
    ended = lambda: (found := read_json(folder / "ended.json")) != stale and found
    try:
        pool.start()
        while pool.tend() and not ended():
            time.sleep(0.5)
    finally:
        pool.stop()
    found = _wait_for(
        ended,
        f"the chief gave no trials any more, but has not ended its search in {folder}; look at it "
        "there.",
    )
    board = pd.read_csv(folder / "leaderboard.csv", dtype={"trial": str})
    known = {name: found[name] for name in _ENDED}
    options = from_json(found["model_options"])
    return Search(model_options=options, leaderboard=board, out_dir=folder, **known)


def _wait_for(read, missing):
    """What `read` returns once that is something; RuntimeError with the text `missing` if never."""
    began = time.monotonic()
    while not (found := read()):
        if time.monotonic() - began > _PATIENCE_S:
            raise RuntimeError(missing)
        time.sleep(0.5)
    return found


def _chief_address():
    """Where Keras Tuner's environment variables say that the chief answers."""
    return os.environ["KERASTUNER_ORACLE_IP"], int(os.environ["KERASTUNER_ORACLE_PORT"])


class Supervisor:
    """One call's searching: the oracle, the workers, the clock and what is printed.

    `folder` is that of the search, and `job` what its search.json says of it. `figure` is the
    validation figure that is made large, as "macro_f1". `start` is ``time.monotonic()`` at the
    start of the call. `rows` is how many times as many rows the winner is trained on as a trial.
    """

    def __init__(
        self, folder, space, job, *, strategy, figure, hours, max_trials, start, rows, progress
    ):
        self.folder, self.space, self.job, self.strategy = folder, space, job, strategy
        self.start, self.rows, self.progress = start, rows, progress
        self.budget_s = None if hours is None else 3600 * hours
        self.label = {"macro_f1": "macro-F1", "macro_auc": "macro-AUC"}[figure]
        from ecg_keras.search_oracle import make_oracle

        length = {"epochs": job["epochs"], "seed": job["seed"], "endless": hours is not None}
        ends = {"epochs": job["epochs"], "max_trials": max_trials, "lease_s": job["lease_s"]}
        self.oracle = make_oracle(strategy, space, f"val_{figure}", **length)
        self.oracle.attach(space, folder, fits=self._fits, **ends)
        self.oracle.news.clear()
        if strategy == "hyperband" and hours is not None:  # an earlier call may have had an end
            self.oracle.hyperband_iterations = 10**9
        self.deaths, self.told, self.bars = {}, set(), {}
        self.page_s = self.paged = self.drawn = 0.0

    # Time

    def elapsed_s(self):
        """Seconds since the start of the call."""
        return time.monotonic() - self.start

    def stop_at_s(self):
        """Seconds from the start at which no trial may run any more; None without a budget."""
        if self.budget_s is None:
            return None
        training = 0.25 * self.budget_s
        if best := self.best():
            training = 1.25 * best["epoch_seconds"] * self.job["epochs"] * self.rows
            training += min(30, 0.05 * self.budget_s)
        return self.budget_s - min(_MARGIN_S, 0.1 * self.budget_s) - training

    def _fits(self, values, start, until):
        """Whether a trial of these epochs would end in time, by what earlier ones took."""
        if self.budget_s is None:
            return True
        done = [result for result in self._results() if result["status"] == "completed"]
        expected = 0.0
        if done:
            past = self.oracle.results.get(values.get("tuner/trial_id"))
            rates = [result["epoch_seconds"] for result in ([past] if past else done)]
            besides = [max(0, result["seconds"] - result["fit_seconds"]) for result in done]
            expected = (until - start) * np.quantile(rates, 0.9) + np.quantile(besides, 0.9)
        return self.elapsed_s() + expected <= self.stop_at_s()

    # The loop

    def go(self, data_file, workers, role):
        """Search until the oracle has no more trials or the time is over."""
        from ecg_keras.search_oracle import serve

        host, port = ("127.0.0.1", 0) if role is None else _chief_address()
        server, port = serve(self.oracle, f"{host}:{port}")
        names = [f"own-{i}" for i in range(worker_count(workers))]
        places = self.folder, data_file, names, (host, port)
        pool = Workers(*places, self.job["backend"], self._on_death)
        if self.oracle.results:
            self._say(f"going on after {len(self.oracle.results)} finished trials in {self.folder}")
        began, before = time.monotonic(), self._training_s()
        try:
            pool.start()
            while pool.tend() or not self.oracle.over:
                self._tell_news(pool)
                for name in self.oracle.silent():
                    trial = self.oracle.give_up(name)
                    self._say(
                        f"worker {name} was not heard of for {self.job['lease_s']:g} s; "
                        f"another goes on with trial {trial}"
                    )
                if self.oracle.error is not None:
                    raise self.oracle.error
                self._check_failures()
                if self.budget_s is not None and self.elapsed_s() > self.stop_at_s():
                    self.oracle.closed = self.oracle.closed or "time"
                    break
                if self.oracle.over:
                    break
                self._draw(pool)
                time.sleep(0.2)
            self._tell_news(pool)
            self._check_failures()
            until = time.monotonic() + 5  # others ask once more, and hear that this was all
            while any(not self.oracle.is_own(name) for name in self.oracle.tuner_ids):
                if time.monotonic() > until:
                    break
                time.sleep(0.2)
        finally:
            pool.stop()
            server.stop(0)
            for bar in self.bars.values():
                bar.close()
            self.bars = {}
            self.worker_seconds = (time.monotonic() - began) * max(len(names), 1)
            self.training_seconds = self._training_s() - before
        for name in filter(self.oracle.is_own, list(self.oracle.ongoing_trials)):
            self.oracle.give_up(name)
        self._write(final=True)

    def _training_s(self):
        """Seconds that all results so far were trained."""
        return sum(result.get("fit_seconds", 0) for result in self._results())

    def _results(self):
        """All results so far; a list, because the oracle's threads add to its own."""
        return [result for result in list(self.oracle.results.values()) if result is not None]

    def _on_death(self, name, code):
        """Take the trial of a worker that ended; True if it had one.

        A trial in which workers keep dying has failed.
        """
        running = self.oracle.ongoing_trials.get(name)
        if running is None:
            return code == 0
        trial_id = running.trial_id
        folder = self.folder / "trials" / trial_id
        epoch = len((read_json(folder / "checkpoint" / "state.json") or {}).get("rows", []))
        same = [other for other in self.deaths.get(trial_id, []) if other == epoch] + [epoch]
        self.deaths[trial_id] = same
        if len(same) >= _DEATHS and not (folder / "result.json").exists():
            reason = f"WorkerDied: exit code {code}, {_DEATHS} times (out of host memory?)"
            failed = {"status": "failed", "value": None, "reason": reason, "ended": time.time()}
            failed |= {"trial": trial_id, "values": running.hyperparameters.values}
            write_json(folder / "result.json", failed)
        self.oracle.give_up(name)
        return True

    def _check_failures(self):
        """Raise what the first three trials, and all since, failed for."""
        ended = [self.oracle.results[trial_id] for trial_id in self.oracle.end_order]
        if len(ended) < 3 or any(result["status"] == "completed" for result in ended):
            return
        reasons = {re.sub(r"\d+", "#", result["reason"])[:120] for result in ended}
        if len(reasons) == 1:
            raise RuntimeError(
                f"the first {len(ended)} trials failed for the same reason: {ended[0]['reason']}\n"
                f"{ended[0].get('traceback', '')}"
            )

    # What is said and written

    def best(self):
        """The best result so far, None before the first."""
        done = [result for result in self._results() if result["value"] is not None]
        return max(done, key=lambda result: (result["value"], result["epochs_run"]), default=None)

    def _say(self, text):
        """Print a line beside the live ones."""
        if self.progress:
            from tqdm.auto import tqdm

            tqdm.write(text)

    def _tell_news(self, pool):
        """A line for each trial that ended, and the files."""
        if not self.oracle.news:
            return
        while self.oracle.news:
            result = self.oracle.news.pop(0)
            trial = result["trial"]
            if result["status"] == "failed":
                known = result["reason"] in self.told
                self.told.add(result["reason"])
                self._say(f"trial {trial}  failed: {'as before' if known else result['reason']}")
            else:
                best, memory = self.best(), f"{result['rss_mb'] or 0:.0f} MB"
                words = [f"trial {trial}", f"{self.label} {result['value']:.4f}"]
                words += [f"best {best['value']:.4f} ({best['trial']})"]
                words += [f"{result['epochs_run']} epochs", f"{result['seconds']:.0f} s"]
                self._say("  ".join([*words, self._left(), memory, *result["notes"]]))
            self._note_memory(result, pool)
        self._write()

    def _note_memory(self, result, pool):
        """A line of memory.csv: trials finished, memory of this process and of the worker."""
        file = self.folder / "memory.csv"
        mine, other = resident_mb() or 0, result.get("rss_mb") or 0
        line = f"{len(self.oracle.end_order)},{result['trial']},{mine:.1f},{other:.1f}\n"
        new = not file.exists()
        with file.open("a") as out:
            out.write(("finished,trial,search_mb,worker_mb\n" if new else "") + line)

    def _left(self):
        """Time left for trials, or trials left."""
        if self.budget_s is not None:
            return f"{_clock(max(0, self.stop_at_s() - self.elapsed_s()))} left"
        if self.oracle.most:
            return f"{max(0, self.oracle.most - len(self.oracle.end_order))} trials left"
        return ""

    def _draw(self, pool):
        """One live line per running trial."""
        now = time.monotonic()
        if not self.progress or now - self.drawn < (1 if sys.stderr.isatty() else 60):
            return
        self.drawn = now
        from tqdm.auto import tqdm

        best, memory = self.best(), pool.memory_mb()
        running = {trial.trial_id: name for name, trial in list(self.oracle.ongoing_trials.items())}
        for trial_id in [trial_id for trial_id in self.bars if trial_id not in running]:
            self.bars.pop(trial_id).close()
        for trial_id, name in running.items():
            trial = self.oracle.trials[trial_id]
            until = self.oracle.stage(trial.hyperparameters.values)[1]
            if trial_id not in self.bars:
                self.bars[trial_id] = tqdm(
                    total=until, unit="epoch", leave=False, dynamic_ncols=True, mininterval=0
                )
            bar, told = self.bars[trial_id], self.oracle.progress.get(trial_id, {})
            bar.n = int(told.get("epoch", 0))
            value = f"{told['value']:.4f}" if "value" in told else "-"
            so_far = f"{best['value']:.4f}" if best else "-"
            used = memory.get(name) or told.get("rss_mb") or 0
            bar.set_description_str(f"trial {trial_id}", refresh=False)
            text = f"{self.label} {value}, best {so_far}, {self._left()}, {used:.0f} MB"
            bar.set_postfix_str(text, refresh=True)

    def _write(self, final=False):
        """leaderboard.csv after every trial; search.html too, while that takes little time."""
        board = self.leaderboard()
        with atomic_path(self.folder / "leaderboard.csv") as part:
            board.to_csv(part, index=False)
        if final or time.monotonic() - self.paged > 50 * self.page_s:
            began = time.monotonic()
            self.page(self.result())
            self.paged = time.monotonic()
            self.page_s = self.paged - began
        if final:
            found = self.result()
            ended = {name: getattr(found, name) for name in _ENDED}
            ended |= {
                "model_options": to_json(found.model_options),
                "at": time.time(),
                "winner": (self.best() or {}).get("trial"),
                "trials": len(self.oracle.end_order),
                "failed": sum(result["status"] == "failed" for result in self._results()),
                "seconds": self.elapsed_s(),
                "training_share": self.training_seconds / max(self.worker_seconds, 1e-9),
            }
            write_json(self.folder / "ended.json", ended)

    def leaderboard(self):
        """A DataFrame with a row per finished trial, best first."""
        import pandas as pd

        rows = []
        for trial_id in self.oracle.end_order:
            result = self.oracle.results[trial_id]
            row = {name: result.get(name) for name in _COLUMNS}
            values = self.space.decoded(result["values"])
            for name, value in values.items():
                row[name] = value if isinstance(value, (int, float, str)) else repr(value)
            row["batch_size"] = result.get("batch_size", row.get("batch_size"))
            row["notes"] = "; ".join(result.get("notes", []))
            rows.append(row | {"reason": result.get("reason")})
        names = dict.fromkeys([*_COLUMNS, *self.space.entries, "batch_size", "notes", "reason"])
        board = pd.DataFrame(rows, columns=list(names))
        order = {"by": ["value", "epochs_run"], "ascending": False, "na_position": "last"}
        return board.sort_values(**order, kind="stable", ignore_index=True)

    def result(self):
        """What is known now, as a `Search`."""
        best = self.best()
        values = self.space.decoded(best["values"]) if best else self.space.defaults()
        model_options, fit_options = self.space.options(values)
        fit_options = {"epochs": self.job["epochs"], **fit_options}
        if best:
            fit_options["batch_size"] = best["batch_size"]
        value, ended = best and best["value"], self.oracle.closed or "running"
        options = self.job["model"], model_options, fit_options
        return Search(*options, self.leaderboard(), value, self.folder, ended)

    def page(self, found):
        """Write search.html."""
        results = [self.oracle.results[trial_id] for trial_id in self.oracle.end_order]
        tried = [(result, self.space.decoded(result["values"])) for result in results]
        text = search_page(found, tried, self.label, self.space, self.job)
        write_text(self.folder / "search.html", text)

    def winner_is_pending(self):
        """True where an earlier call was killed between its search and the winner's report."""
        pending = read_json(self.folder / "winner.json")
        if pending is None or (self.best() or {}).get("trial") != pending["trial"]:
            return False
        self.oracle.closed = pending["ended"]
        return True


def _clock(seconds):
    """Seconds as 1h05 or 4m30.

    Examples
    --------
    >>> _clock(3900), _clock(270)
    ('1h05', '4m30')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}" if minutes >= 60 else f"{minutes}m{rest:02d}"


@dataclasses.dataclass
class Search:
    """What a search found.

    Attributes
    ----------
    model : str
        The family.
    model_options, fit_options : dict
        Of the winner, for `build_model` and `fit_and_report`.
    leaderboard : pandas.DataFrame
        One row per trial, best first.
    value : float or None
        The winner's validation figure; None where no trial ended and the options are the defaults.
    out_dir : pathlib.Path
        The folder.
    ended : str
        Why the search ended: "max_trials", "time" or "exhausted".
    report : Report or None
        Of the winner, where `test` was given.
    """

    model: str
    model_options: dict
    fit_options: dict
    leaderboard: object
    value: float | None
    out_dir: pathlib.Path
    ended: str
    report: object = None

    def code(self):
        """The winner's settings as Python to paste."""
        return code(self.model, self.model_options, self.fit_options)


def code(model, model_options, fit_options):
    """Options as a program to paste.

    Examples
    --------
    >>> print(code("cnn1d", {"filters": (8, 16)}, {"epochs": 3}))
    from ecg_keras import build_model, fit_and_report
    <BLANKLINE>
    model = build_model("cnn1d", like=train, filters=(8, 16))
    report = fit_and_report(model, train, val, test, out_dir="outputs/best", epochs=3)
    """
    grids = {type(v).__name__ for v in model_options.values() if dataclasses.is_dataclass(v)}
    first = [f'"{model}"', "like=train"]
    first += [f"{name}={value!r}" for name, value in model_options.items()]
    second = ["model", "train", "val", "test", 'out_dir="outputs/best"']
    second += [f"{name}={value!r}" for name, value in fit_options.items()]
    return (
        f"from ecg_keras import {', '.join([*sorted(grids), 'build_model', 'fit_and_report'])}\n\n"
        f"{_call('model = build_model', first)}\n{_call('report = fit_and_report', second)}"
    )


def _call(start, arguments):
    """A call on one line, or with an argument per line where that is long."""
    line = f"{start}({', '.join(arguments)})"
    if len(line) <= 100:
        return line
    return f"{start}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"


def search_page(found, tried, label, space, job):
    """The text of search.html.

    Parameters
    ----------
    found : Search
        What is known now.
    tried : list of (dict, dict)
        Results and values (by entry of the space) in the order in which the trials ended.
    label : str
        Name of the figure, such as "macro-F1".
    space : Space
        What is varied.
    job : dict
        Of the search, with "epochs".
    """
    done = [(result, values) for result, values in tried if result["status"] == "completed"]
    failed = [result["reason"] for result, _ in tried if result["status"] != "completed"]
    default, told = default_result(tried, space), "-"
    if default:
        told = f"after {default['epochs_run']} of {job['epochs']} epochs"
        told = f"{decimal(default['value'], 4)} {told}"
    hours = sum(result.get("fit_seconds") or 0 for result, _ in tried) / 3600
    facts = {
        "model": found.model,
        "trials finished": f"{len(tried)}, of which {len(failed)} failed",
        f"best validation {label}": decimal(found.value, 4),
        "default": told,
        "training time": f"{hours:.2f} h",
        "epochs of a full training": job["epochs"],
        "state": {"time": "its time was over"}.get(found.ended, found.ended),
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
    winner = pages.code(found.code())
    if found.value is None:
        winner = pages.paragraph("No trial has ended: these are the defaults.") + winner
    sections = [("summary", "Summary", pages.facts(facts.items())), ("winner", "Winner", winner)]
    if done:
        drawn = plot_progress(tried, label).figure
        each, every = plot_settings(done, space, label), plot_parallel(done, space, label)
        of_all = f"Validation {label} of each trial and the best so far"
        against = f"Validation {label} against each setting"
        across = "One line per trial across all settings; darker is better, the winner is red"
        sections += [
            ("progress", "Best so far", pages.figure(png(drawn), of_all, wide=True)),
            ("parameters", "Each setting", pages.figure(png(each), against, wide=True)),
            ("parallel", "All settings", pages.figure(png(every), across, wide=True)),
        ]
    sections.append(("trials", "Trials", _trials(found, len(tried))))
    if failed:
        counts = (f"{reason} ({failed.count(reason)})" for reason in dict.fromkeys(failed))
        sections.append(("failed", "Failed", pages.notes(counts)))
    varied = pages.table(["setting", "tried"], list(space.describe().items()), numbers_from=2)
    sections.append(("space", "Space", varied))
    lead = pages.paragraph(
        "The best of many validation figures is too high by chance; only the test part is fair."
    )
    return pages.page(f"Search: {found.model}", sections, lead=lead)


def default_result(tried, space):
    """The result of the default model that was trained longest, None where none has ended well."""
    defaults = space.defaults()
    found = [
        result
        for result, values in tried
        if result["status"] == "completed"
        and all(value == defaults[name] for name, value in values.items())
    ]
    return max(found, key=lambda result: result["epochs_run"], default=None)


def _trials(found, n):
    """The top of the leaderboard as a table."""
    board = found.leaderboard.head(_SHOWN).drop(columns=["past", "reason", "fit_seconds"])
    board = board.dropna(axis="columns", how="all")
    rows = [[_text(value) for value in row] for row in board.itertuples(index=False)]
    caption = f"The best {len(rows)} of {n}; leaderboard.csv has all." if n > len(rows) else None
    return pages.table([name.replace("_", " ") for name in board], rows, caption=caption)


def _text(value):
    """A cell: short numbers, a dash for nothing."""
    if value is None or value != value or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def plot_progress(tried, label, *, ax=None):
    """Value of each trial and the best so far, over the time that trials took.

    Parameters
    ----------
    tried : list of (dict, dict)
        Results and values in the order in which they ended.
    label : str
        Name of the figure.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = plots.axes(ax, width=7.2, height=3.2)
    seconds = np.cumsum([result.get("seconds") or 0 for result, _ in tried])
    unit, per_unit = ("h", 3600) if seconds[-1] > 5400 else ("min", 60)
    spent = seconds / per_unit
    values = np.array([result["value"] for result, _ in tried], float)  # None is NaN
    good = np.isfinite(values)
    ax.plot(spent[good], values[good], "o", label="trial", **_DOT)
    best = np.maximum.accumulate(values[good])
    ax.step(spent[good], best, where="post", color=plots.ACCENT, label="best so far")
    if not good.all():
        bottom = np.full((~good).sum(), values[good].min())
        ax.plot(spent[~good], bottom, "x", color=plots.INK, label="failed")
    ax.set(xlabel=f"time in trials ({unit})", ylabel=f"validation {label}")
    plots.grid_lines(ax)
    # above the picture, where no trial is
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncol=3)
    return ax


def plot_settings(done, space, label):
    """Value against each entry of the space, a panel each; returns the figure.

    The more epochs a trial had, the larger its dot. The winner is a star.
    """
    names = list(space.entries)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    size = {"width": 2.1 * columns + 0.4, "height": 1.75 * rows}
    axes = plots.panels(rows, columns, sharey=True, **size).ravel()
    scores = np.array([result["value"] for result, _ in done])
    epochs = np.array([result["epochs_run"] for result, _ in done], float)
    best = int(scores.argmax())
    for ax, name in zip(axes, names):
        entry = space.entries[name]
        at = np.array([entry.share(values.get(name)) for _, values in done])
        sizes = 8 + 24 * epochs / epochs.max()
        ax.scatter(at, scores, s=sizes, color=plots.PALE, edgecolor=plots.INK, linewidth=0.5)
        ax.scatter(at[best], scores[best], s=50, marker="*", color=plots.ACCENT, zorder=3)
        ax.set_title(name, fontsize=9)
        ticks = entry.ticks()
        ax.set_xticks(*zip(*ticks[:: 1 + len(ticks) // 7]), fontsize=7.5)
        ax.set_xlim(-0.08, 1.08)
        ax.tick_params(axis="y", labelsize=7.5)
        plots.grid_lines(ax)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    axes[0].figure.supylabel(f"validation {label}", fontsize=9)
    return axes[0].figure


def plot_parallel(done, space, label):
    """A line per trial across all entries, each scaled to its own range; returns the figure."""
    entries = space.entries
    ax = plots.axes(width=max(7.2, 0.62 * len(entries) + 1.5), height=3.6)
    scores = np.array([result["value"] for result, _ in done])
    ranks = scores.argsort().argsort() / max(len(scores) - 1, 1)
    scaled = (scores - scores.min()) / (np.ptp(scores) or 1)
    for i in scores.argsort():
        shares = [entry.share(done[i][1].get(name)) for name, entry in entries.items()]
        look = {"color": str(0.88 - 0.72 * ranks[i]), "linewidth": 0.9, "marker": "."}
        if i == scores.argmax():
            look = {"color": plots.ACCENT, "linewidth": 2, "marker": "*", "linestyle": "--"}
        ax.plot([*shares, scaled[i]], **look)
    ends = [[name for _, name in entry.ticks()] for entry in entries.values()]
    ends.append([f"{scores.min():.3f}", f"{scores.max():.3f}"])
    for i, names in enumerate(ends):
        ax.axvline(i, color=plots.GRID, zorder=0)
        ax.text(i, 1.04, names[-1], ha="center", va="bottom", fontsize=7)
        ax.text(i, -0.04, names[0], ha="center", va="top", fontsize=7)
    ax.set_xticks(range(len(ends)), [*entries, label], rotation=45, ha="right", fontsize=8)
    ax.tick_params(axis="x", pad=12, length=0)
    ax.set(yticks=[], ylim=(-0.02, 1.02))
    ax.spines[:].set_visible(False)
    return ax.figure


sys.modules[__name__].__class__ = CallableModule
