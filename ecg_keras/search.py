"""Search the options of a model family and of its training, for hours, and be there in the morning.

Conventions
-----------
The searching process proposes trials (Keras Tuner's oracles) and trains none; worker processes do, and are
renewed after a few. What is on disk decides: ``search.json`` what is searched, ``oracle.json`` what was
proposed, ``trials/*/result.json`` what is finished. Seconds are wall time; an objective is a validation
figure, larger is better.
"""

import contextlib
import filecmp
import importlib.metadata
import os
import pathlib
import shutil
import time

from ecg_keras._checks import check_option, check_positive, require
from ecg_keras.dataset import ECGDataset, check_parts
from ecg_keras.search_result import Search
from ecg_keras.search_space import declare
from ecg_keras.search_trials import decoded, encoded, read_parts, write_parts
from ecg_keras.storage import (
    atomic_path,
    cache_folder,
    check_free,
    fingerprint,
    is_ours,
    read_json,
    write_json,
)
from ecg_keras.workers import Workers, worker_count

STRATEGIES = ("hyperband", "bayesian", "random")
_FILES = (  # what a search writes into its folder, besides the winner's run
    "search.json",
    "oracle.json",
    "oracle.previous.json",
    "trials",
    "workers",
    "leaderboard.csv",
    "memory.csv",
    "search.html",
    "ended.json",
    "winner.json",
)


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

    Kill it, a worker or the machine at any moment and call it again with the same arguments: it goes on,
    with nothing lost but the epochs that were running. The first trial is the default model.

    Parameters
    ----------
    train, val : ECGDataset
        Parts to train trials on and to measure them by: macro-F1, macro-AUC for multi-label data.
    model : str, default "cnn2d"
        A key of `MODELS`; what is varied for it is declared in `search_space.FAMILIES` and `search_space.TRAINING`.
    out_dir : path
        Folder of the search: leaderboard.csv and search.html, written after every trial, and its state. Files
        that no search wrote stay as they are.
    hours : float, optional
        Time for this call. No trial is started that would not end in time by what earlier ones took; a last
        one that does not is stopped. Time to train the winner (`epochs` on `full_train`) is kept, and
        everything is on disk five minutes (or a tenth of shorter budgets) before.
    max_trials : int, optional
        Trials in all, those of earlier calls included. Random and Bayesian search need it or `hours`.
    strategy : {"hyperband", "bayesian", "random"}
        How options are proposed. Hyperband trains many a little and goes on with the best third; every
        second new trial is drawn near the best so far.
    epochs : int, default 9
        Of a full training. With Hyperband trials end after a ninth, a third or all of it.
    workers : int, default 0
        Processes that train; 0 is one per visible GPU, each with a GPU of its own, or one without GPUs.
    seed : int, default 0
        Of the proposals and of every training.
    fresh : bool, default False
        Start anew; an `out_dir` that holds a search is moved aside, to ``<out_dir>-old-1``.
    test : ECGDataset, optional
        Train the winner on `full_train` and report it, on this part, in ``winner`` in `out_dir`.
    full_train : ECGDataset, optional
        Rows to train the winner on, where `train` is only some of them.
    previous : path, optional
        Folder in which to look for the same search of an earlier session, such as /kaggle/input. It is
        copied if `out_dir` holds none.
    renew_after : int, default 8
        Trials after which a worker process is replaced, because memory grows in it.
    lease_s : float, default 120
        Seconds without a sign of life after which another worker goes on with a worker's trial.
    progress : bool, default True
        Print a line per trial, and a live one while it runs.
    **narrowed
        Narrow or fix any entry of the space, or any option of the family or of `fit_and_report`: a list to
        choose from, a pair (low, high) within a range, or one value. ``filters=(32, 64), dropout=(0.1, 0.4)``.

    Returns
    -------
    Search
        With `model`, `model_options`, `fit_options` and `leaderboard`, so that the winner can be
        rebuilt without this package's search.

    Raises
    ------
    ValueError
        If `out_dir` holds a search of other data, space, settings or versions (each difference is named), or
        a file that no search wrote and this one would replace, or another process searches there.
    RuntimeError
        If the first three trials fail for the same reason, which is given, or a worker cannot start.

    Notes
    -----
    Several machines that share `out_dir` search together by Keras Tuner's distributed mode: run the same
    program everywhere with KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT set to an address of the first, and
    KERASTUNER_TUNER_ID to ``chief`` there and to another name on each of the others::

        KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=chief python tune.py
        KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 KERASTUNER_TUNER_ID=second python tune.py

    The chief trains too. A machine that falls silent loses its trial to another after `lease_s`; one that
    joins later is welcome. What to vary is what the chief says.

    Where this process itself has used a GPU with TensorFlow, set TF_FORCE_GPU_ALLOW_GROWTH=true before it
    does, or it holds all of the GPU's memory while the workers need it.

    Examples
    --------
    >>> from ecg_keras import build_model, fit_and_report, search
    >>> best = search(train, val, hours=8)  # doctest: +SKIP
    >>> model = build_model(best.model, like=train, **best.model_options)  # doctest: +SKIP
    >>> report = fit_and_report(model, train, val, test, out_dir="outputs/best", **best.fit_options)  # doctest: +SKIP
    """
    start = time.monotonic()
    check_option("strategy", strategy, STRATEGIES)
    for name, value in (
        ("hours", hours),
        ("max_trials", max_trials),
        ("epochs", epochs),
        ("renew_after", renew_after),
    ):
        if value is not None:
            check_positive(name, value)
    if hours is None and max_trials is None and strategy != "hyperband":
        raise ValueError(f"strategy={strategy!r} has no end of its own; give hours or max_trials.")
    for name, part in (("train", train), ("val", val)):
        if not isinstance(part, ECGDataset):
            raise TypeError(f"{name} must be an ECGDataset, got {type(part).__name__}.")
    if test is None:
        check_parts(train, val, val.replace(patients=None))
    else:
        check_parts(train, val, test)
    settings = {"model": model, "strategy": strategy, "epochs": int(epochs), "seed": int(seed)}
    identity = {"data": _data_identity(train, val), "settings": settings}
    folder = pathlib.Path(out_dir).resolve()
    data_file = _data_file(identity["data"], train, val)
    role = os.environ.get("KERASTUNER_TUNER_ID") if "KERASTUNER_ORACLE_IP" in os.environ else None
    if role is not None and "chief" not in role:
        return _work_for_chief(folder, identity, data_file, role, workers)
    require("keras_tuner", "tune")
    import keras

    from ecg_keras.epochs import default_monitor
    from ecg_keras.supervisor import Supervisor

    space = declare(model, train, **narrowed)
    backend = keras.backend.backend()
    identity |= {"space": space.describe(), "versions": _versions(backend)}
    job = {
        "model": model,
        "epochs": int(epochs),
        "seed": int(seed),
        "renew_after": int(renew_after),
        "lease_s": float(lease_s),
        "backend": backend,
    }
    with _locked(folder):
        _prepare(folder, identity, job, fresh, previous)
        if test is not None:
            from ecg_keras.report import check_run_folder

            check_run_folder(folder / "winner", test, trained=True)
        rows = len(train if full_train is None else full_train) / len(train)
        objective = f"val_{default_monitor(train)}"
        run = Supervisor(
            folder,
            space,
            job,
            strategy=strategy,
            objective=objective,
            hours=hours,
            max_trials=max_trials,
            start=start,
            rows=rows,
            progress=progress,
        )
        if not (test is not None and run.winner_is_pending()):
            run.go(data_file, workers, role)
        found = run.result()
        if test is not None:
            found.report = _report_winner(
                found, train if full_train is None else full_train, val, test, job["seed"], progress
            )
            run.page(found)
    return found


def _data_identity(train, val):
    """What tells one pair of data sets from another; every value counts."""
    identity = {}
    for name, part in (("train", train), ("val", val)):
        about = [
            part.classes,
            part.fs,
            part.leads,
            part.unit,
            encoded({"grid": part.grid}),
            part.metadata_names,
        ]
        arrays = [array for array in (part.x, part.y, part.metadata) if array is not None]
        identity[name] = f"{len(part)} rows, {fingerprint(about, *arrays)}"
    identity["balance"] = train.balance.method if train.balance else None
    return identity


def _versions(backend):
    """Versions a result depends on."""
    names = (
        "ecg_keras",
        "keras",
        "keras-tuner",
        {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[backend],
    )
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _data_file(identity, train, val):
    """Write the parts to the cache for the workers, unless they are there whole; files unused for a week go."""
    folder = cache_folder() / "search"
    for old in folder.glob("*.parts"):
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
    """Hold the folder for one searching process; the system lets go when the process ends, however it ends."""
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
            f"{folder} holds trials, but its search.json cannot be read; give fresh=True or another out_dir."
        )
    check_free(folder, _FILES, "search.json")
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    there = read_json(file)
    if there is not None:
        changed = _differences(there["identity"], identity)
        if changed:
            raise ValueError(
                f"{folder} holds a search that is not this one: {'; '.join(changed)}. "
                "Its trials cannot be compared with new ones; give fresh=True to start anew (the old search is moved "
                "aside) or another out_dir."
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
    """Copy the newest search with the same identity under `inputs` to `folder`; what is there already stays."""
    found = sorted(inputs.rglob("search.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in found:
        there = read_json(file)
        if not isinstance(there, dict) or "identity" not in there:
            continue
        changed = _differences(there["identity"], identity)
        if changed:
            print(
                f"the search in {file.parent} is not this one and is left alone: {'; '.join(changed)}"
            )
            continue
        paths = [path.relative_to(file.parent) for path in file.parent.rglob("*")]
        paths.sort(
            key=lambda path: (path == pathlib.Path("search.json"), path)
        )  # last: all is there
        for path in paths:
            old, new = file.parent / path, folder / path
            if not old.is_dir() and new.exists() and not filecmp.cmp(old, new, shallow=False):
                raise ValueError(
                    f"{new} is in the way of the search in {file.parent}, which is to be copied; move it, "
                    "or give another out_dir."
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
    """Train the winner on all rows and report it; a kill in between is gone on with by the same call."""
    import keras

    from ecg_keras.models import build_model
    from ecg_keras.training import fit_and_report

    board = found.leaderboard
    trial = board["trial"].iloc[0] if found.value is not None else None
    write_json(found.out_dir / "winner.json", {"trial": trial, "ended": found.ended})
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    network = build_model(found.model, like=train, **found.model_options)
    report = fit_and_report(
        network,
        train,
        val,
        test,
        out_dir=found.out_dir / "winner",
        seed=seed,
        progress=progress,
        **found.fit_options,
    )
    (found.out_dir / "winner.json").unlink()
    return report


def _work_for_chief(folder, identity, data_file, role, workers):
    """Run workers for a search that another machine leads; returns what it found."""
    stale, waited = read_json(folder / "ended.json"), time.monotonic()
    while (there := read_json(folder / "search.json")) is None:
        if time.monotonic() - waited > 600:
            raise ValueError(
                f"no search in {folder} after 10 minutes; start the chief, and share out_dir between the machines."
            )
        time.sleep(0.5)
    identity |= {
        "space": there["identity"]["space"],
        "versions": _versions(there["job"]["backend"]),
    }
    changed = _differences(there["identity"], identity)
    if changed:
        raise ValueError(f"the chief searches something else in {folder}: {'; '.join(changed)}.")
    names = [f"{role}-{i}" for i in range(worker_count(workers))]
    address = os.environ["KERASTUNER_ORACLE_IP"], int(os.environ["KERASTUNER_ORACLE_PORT"])
    pool = Workers(
        folder, data_file, names, address, there["job"]["backend"], lambda name, code: code <= 0
    )
    ended = lambda: (found := read_json(folder / "ended.json")) != stale and found  # noqa: E731
    try:
        pool.start()
        while pool.tend() and not ended():
            time.sleep(0.5)
    finally:
        pool.stop()
    waited = time.monotonic()
    while not (found := ended()):
        if time.monotonic() - waited > 600:
            raise RuntimeError(
                f"the chief gave no trials any more, but has not ended its search in {folder}; look at it there."
            )
        time.sleep(0.5)
    import pandas as pd

    board = pd.read_csv(folder / "leaderboard.csv", dtype={"trial": str})
    return Search(
        found["model"],
        decoded(found["model_options"]),
        found["fit_options"],
        board,
        found["value"],
        folder,
        found["ended"],
    )
