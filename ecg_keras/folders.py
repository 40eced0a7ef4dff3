"""Annotate every recording of a folder, on one core, on several, or on a cluster.

Conventions
-----------
Each recording gets a folder of its own under `out_dir`, named after it, with the files that
`annotate` writes. Beside them summary.csv has a row per recording, index.html shows it with links,
and folder.json holds it for programs. A recording is done when its summary.json says what it was
made from: the sizes and times of its files, the model's checksum and the options. So the same
command goes on where it was stopped, and does again what has changed.
"""

import collections
import contextlib
import hashlib
import importlib.resources
import os
import pathlib
import urllib.parse
import uuid

import joblib
import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from ecg_keras import pages
from ecg_keras._checks import check_option, check_positive, require
from ecg_keras.annotate import annotate, clock, file_name
from ecg_keras.recordings import open_recording
from ecg_keras.saved_models import load_model
from ecg_keras.storage import (
    atomic_path,
    check_free,
    fingerprint,
    is_ours,
    read_json,
    write_json,
    write_text,
)

BACKENDS = ("loky", "ray", "dask")
ENDINGS = (".hea", ".csv", ".csv.gz", ".tsv", ".parquet", ".pq", ".edf", ".bdf")
_FILES = ("summary.csv", "index.html", "folder.json")
_TRIES = 2  # of a recording whose worker died


def annotate_folder(
    model,
    recordings,
    out_dir,
    *,
    workers=1,
    backend="loky",
    recursive=False,
    fs=None,
    lead=None,
    unit=None,
    causal=False,
):
    """Annotate recordings, each into a folder of its own, with one table and page of all.

    Parameters
    ----------
    model : path or str
        A model file, or the name of one that ships.
    recordings : path, or sequence of path
        Folders, recordings (see `recordings.open_recording`), or both.
    out_dir : path
        Made if absent.
    workers : int, default 1
        Processes; each loads the model once, and takes its share of the cores. With 1 no process
        is started.
    backend : {"loky", "ray", "dask"}, default "loky"
        What runs the workers, through joblib. Ray and Dask use the cluster that RAY_ADDRESS or
        DASK_SCHEDULER_ADDRESS names, which must see the same files; without one they start
        `workers` local workers.
    recursive : bool, default False
        Look into the folders of folders too.
    fs, lead, unit, causal
        For every recording, see `annotate`.

    Returns
    -------
    table : DataFrame
        What summary.csv holds: a row per recording. ``why`` is "" for those annotated, else the
        reason why not.

    Raises
    ------
    ValueError
        If there is no recording, `out_dir` holds files of others, or no recording could be
        annotated; the message has the first reason.

    Notes
    -----
    A recording that cannot be read is listed, and the others go on. If a worker dies, what it had
    is done again by itself; a recording whose worker dies twice is listed.

    Examples
    --------
    >>> annotate_folder("mitbih_beats", "records", "annotated", workers=2)  # doctest: +SKIP
    """
    check_option("backend", backend, BACKENDS)
    if check_positive("workers", workers) != int(workers):
        raise ValueError(f"workers must be a whole number, got {workers}.")
    out_dir = pathlib.Path(out_dir)
    check_free(out_dir, _FILES, "folder.json")
    file = model_file(model)
    options = {"fs": fs, "lead": lead, "unit": unit, "causal": causal}
    jobs = _name(find_recordings(recordings, recursive=recursive, out_dir=out_dir), out_dir)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    out_dir.mkdir(parents=True, exist_ok=True)
    made = {
        str(path): {"files": _stamps(path), "model": digest, "options": fingerprint(options)}
        for path in jobs
    }
    open_jobs = [path for path in jobs if not _is_done(jobs[path], made[str(path)])]
    failed = _run(file, jobs, made, open_jobs, options, int(workers), backend, digest)
    table = pd.DataFrame([_row(path, jobs[path], out_dir, failed.get(path, "")) for path in jobs])
    _write(out_dir, table, model)
    if not (table["why"] == "").any():
        path, why = table.iloc[0][["path", "why"]]
        raise ValueError(f"none of {len(table)} recordings could be annotated. {path}: {why}")
    return table


def find_recordings(paths, *, recursive=False, out_dir=None):
    """Recordings in folders, as pairs (folder that was given or None, path), in order.

    Headers of segments belong to their record, and tables in folders that `annotate` wrote are no
    recordings.

    Raises
    ------
    ValueError
        If a folder holds none; names a folder below that does.

    Examples
    --------
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "night.csv").touch()
    >>> [path.name for _, path in find_recordings(folder)]
    ['night.csv']
    """
    found = []
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        path = pathlib.Path(given)
        if not path.is_dir() or path.with_name(path.name + ".hea").is_file():
            found.append((None, path))
            continue
        inside = _inside(path, out_dir)
        if recursive:
            below = [folder for folder in sorted(path.rglob("*")) if folder.is_dir()]
            inside += [file for folder in below for file in _inside(folder, out_dir)]
        if not inside:
            below = [folder for folder in sorted(path.glob("*/")) if _inside(folder, out_dir)]
            hint = f" {below[0]} does: give that folder, or --recursive." if below else ""
            raise ValueError(
                f"{path} holds no recordings (WFDB with a .hea file, CSV, Parquet or EDF).{hint}"
            )
        found += [(path, file) for file in inside]
    if not found:
        raise ValueError("there are no recordings to annotate.")
    return list({path.resolve(): (root, path) for root, path in found}.values())


def _inside(folder, out_dir):
    """Recordings directly in a folder, sorted; WFDB's without their ending."""
    if is_ours(folder / "summary.json") or is_ours(folder / "folder.json"):
        return []
    if out_dir is not None and folder.resolve() == out_dir.resolve():
        return []
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ENDINGS) and file.is_file() and file.name[0] != "."
    ]
    headers = [file for file in files if file.suffix == ".hea"]
    segments = {name for file in headers for name in _named(file) if "." not in name}
    return [
        file.with_suffix("") if file.suffix == ".hea" else file
        for file in files
        if file.suffix != ".hea" or file.stem not in segments
    ]


def _named(header):
    """Files, or segments, that a WFDB header names."""
    try:
        lines = header.read_text(errors="replace").splitlines()
    except OSError:
        return []
    lines = [line.split() for line in lines if line.strip() and line[0] != "#"]
    return [line[0] for line in lines[1:] if line[0] not in ("~", "-")]


def _name(found, out_dir):
    """Recordings to their folders under `out_dir`; no two share one."""
    choices = []  # of each, the longer the less likely is another's
    for root, path in found:
        inner = [file_name(part) for part in path.parent.relative_to(root).parts] if root else []
        stem = path.name
        for ending in ENDINGS:
            stem = stem.removesuffix(ending)
        full, above = file_name(path.name), path.parent.resolve().parts[1:]
        choices.append(
            [(*inner, file_name(stem)), (*inner, full), (file_name("_".join(above)), full)]
        )
    names = [of[0] for of in choices]
    for longer in (1, 2):  # all that share a name get a longer one, whatever their order
        count = collections.Counter(names)
        names = [of[longer] if count[name] > 1 else name for of, name in zip(choices, names)]
    if len(set(names)) < len(names):
        raise ValueError("two recordings would share a folder; annotate them one by one.")
    return {path: out_dir.joinpath(*name) for (_, path), name in zip(found, names)}


def model_file(model):
    """The file of a model that is given by its path, or by the name of one that ships."""
    path = pathlib.Path(model)
    if path.is_file():
        return path
    name = str(model).replace("-", "_")
    shipped = importlib.resources.files("ecg_keras") / f"pretrained_{name}.keras"
    if shipped.is_file():
        return pathlib.Path(str(shipped))
    raise ValueError(f"{model}: there is no such model file, and none of that name ships.")


def _stamps(path):
    """Name, size and time of each file of a recording."""
    files, header = [path], path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    if header.is_file():
        files, more = [], [header]
        while more:
            file = more.pop()
            files.append(file)
            if file.suffix == ".hea":
                names = [file.with_name(name) for name in _named(file)]
                names = [n if "." in n.name else n.with_name(n.name + ".hea") for n in names]
                more += [name for name in names if name not in files]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats)]


def _is_done(folder, made):
    """True for a folder whose files were all written, from what is there now."""
    summary = read_json(folder / "summary.json")
    if not isinstance(summary, dict) or summary.get("made_from") != made:
        return False
    names = ("beats.csv", "record.html", f"{file_name(summary['record'])}.ecg")
    return all((folder / name).is_file() for name in names)


def _run(file, jobs, made, open_jobs, options, workers, backend, digest):
    """Annotate the open recordings; returns the reason for each that could not be."""
    failed, deaths, run = {}, dict.fromkeys(open_jobs, 0), uuid.uuid4().hex
    waiting = [(path, str(jobs[path]), made[str(path)]) for path in open_jobs]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="record", disable=None)
        )
        if waiting and workers > 1:
            stack.enter_context(_backend(backend, workers))
        while waiting:
            # what was in hand when a worker died goes alone, so that it harms no other
            careful = [job for job in waiting if deaths[job[0]]]
            batch = [job for job in waiting if not deaths[job[0]]] or careful[:1]
            try:
                for path, why in _outcomes(file, digest, batch, options, run, workers, backend):
                    bar.update()
                    if why:
                        failed[path] = why
            except Exception as error:  # each engine says in its own way that a worker died
                for path, folder, _ in batch:
                    if _in_hand(folder, run):
                        deaths[path] += 1
                        if deaths[path] == _TRIES:
                            told = str(error).strip().splitlines()
                            failed[path] = (
                                f"the process that read it died {_TRIES} times "
                                f"({type(error).__name__}: {told[0][:200] if told else ''})."
                            )
                if not any(deaths[job[0]] for job in batch):
                    raise  # nothing was begun: not the recordings' fault
            waiting = [
                job
                for job in waiting
                if job[0] not in failed and not _is_done(pathlib.Path(job[1]), job[2])
            ]
    return failed


def _outcomes(file, digest, batch, options, run, workers, backend):
    """(path, reason or "") of each recording, as they are done."""
    if workers == 1:
        for path, folder, of in batch:
            yield _one(file, digest, path, folder, of, options, run)
        return
    # Ray's pool gives its answers at the end
    return_as = "list" if backend == "ray" else "generator_unordered"
    parallel = joblib.Parallel(min(workers, len(batch)), batch_size=1, return_as=return_as)
    yield from parallel(
        joblib.delayed(_one)(file, digest, path, folder, of, options, run)
        for path, folder, of in batch
    )


_MODELS = {}  # of this process: checksum to model


def _one(file, digest, path, folder, made, options, run):
    """Annotate one recording; returns its path, and the reason where it could not be."""
    folder = pathlib.Path(folder)
    mark, begun = folder / "summary.json", {"n_beats": None, "heart_rate": None, "begun": run}
    try:
        there = (read_json(mark) or {}).get("record")
        check_free(folder, ["summary.json", "beats.csv", "record.html", "*.ecg"], "summary.json")
        # a kill leaves this: it says that the folder is ours, and what was in hand
        write_json(mark, {"record": there} | begun)
        recording = open_recording(path, fs=options["fs"], unit=options["unit"])
        if there not in (None, recording.name):
            raise ValueError(f"{folder} holds {there}, another recording; give another --out.")
        write_json(mark, {"record": recording.name} | begun)
        if digest not in _MODELS:
            _MODELS.clear()
            _MODELS[digest] = load_model(file)
        found = annotate(_MODELS[digest], recording, lead=options["lead"], causal=options["causal"])
        found.summary["made_from"] = made
        found.write(folder, recording)
    except Exception as error:  # a broken file raises anything; it is listed, the others go on
        with contextlib.suppress(OSError):
            if _in_hand(folder, run) and [file.name for file in folder.iterdir()] == [
                "summary.json"
            ]:
                (folder / "summary.json").unlink()
                folder.rmdir()
        kind = "" if isinstance(error, (ValueError, ImportError)) else f"{type(error).__name__}: "
        return path, kind + " ".join(str(error).split())
    return path, ""


def _in_hand(folder, run):
    """True where this run began a recording and did not end it."""
    return (read_json(pathlib.Path(folder) / "summary.json") or {}).get("begun") == run


@contextlib.contextmanager
def _backend(backend, workers):
    """Let joblib use an engine; its workers share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, cores // workers)
    limits = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    limits = dict.fromkeys(limits | {"TF_NUM_INTRAOP_THREADS"}, str(threads))
    # with one thread, Keras can wait for itself for ever
    limits["TF_NUM_INTEROP_THREADS"] = "2"
    before = {name: os.environ.get(name) for name in limits}
    os.environ |= limits  # workers are started with them
    try:
        with contextlib.ExitStack() as stack:
            if backend == "ray":
                ray = require("ray", "ray")
                register = require("ray.util.joblib", "ray").register_ray
                if not ray.is_initialized():
                    local = {"num_cpus": workers, "include_dashboard": False}
                    local = {} if os.environ.get("RAY_ADDRESS") else local
                    ray.init(**local, log_to_driver=False, logging_level="ERROR")
                    stack.callback(ray.shutdown)
                register()
            if backend == "dask":
                distributed = require("distributed", "dask")
                address = os.environ.get("DASK_SCHEDULER_ADDRESS")
                if address is None:
                    cluster = distributed.LocalCluster(
                        n_workers=workers, threads_per_worker=1, dashboard_address=None
                    )
                    address = stack.enter_context(cluster)
                stack.enter_context(distributed.Client(address))
            stack.enter_context(joblib.parallel_config(backend=backend))
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _row(path, folder, out_dir, why):
    """A recording's row of summary.csv."""
    summary = {} if why else read_json(folder / "summary.json")
    rate = summary.get("heart_rate") or {}
    row = {
        "record": summary.get("record", path.name),
        "path": str(path),
        "folder": "" if why else folder.relative_to(out_dir).as_posix(),
        "why": why,
        "duration_s": summary.get("duration_s"),
        "analysable": summary.get("analysable"),
        "n_beats": summary.get("n_beats"),
    }
    row |= {f"beats_{name}": count for name, count in (summary.get("beats") or {}).items()}
    row |= {f"burden_{name}": share for name, share in (summary.get("burden") or {}).items()}
    for name in ("min", "mean", "max"):
        row[f"rate_{name}_bpm"] = (rate.get(name) or {}).get("bpm")
    for of, runs in (summary.get("runs") or {}).items():
        row |= {f"couplets_{of}": summary["couplets"][of], f"runs_{of}": runs["n"]}
        longest = runs["longest"] or {}
        row[f"longest_run_{of}"] = longest.get("n_beats", 0)
    row |= {"pauses": summary.get("pauses"), "flutter_s": summary.get("flutter_s")}
    if "windows" in summary:
        row |= {f"windows_{name}": n for name, n in summary["windows"]["classes"].items()}
    return row


def _write(out_dir, table, model):
    """Write summary.csv, index.html and folder.json."""
    with atomic_path(out_dir / "summary.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    good, bad = table[table["why"] == ""], table[table["why"] != ""]
    counted = [name for name in table.columns if name.startswith(("beats_", "windows_"))]
    headers = ["recording", "duration", "analysable", "beats", "rate", "lowest", "highest"]
    headers += [name.partition("_")[2] for name in counted]
    events = [n for n in table.columns if n.startswith(("couplets_", "runs_", "longest_run_"))]
    headers += [name.replace("_", " ") for name in events] + ["pauses"]
    rows = []
    for row in good.to_dict("records"):
        link = Markup('<a href="{}/record.html">{}</a>').format(
            urllib.parse.quote(row["folder"]), row["folder"]
        )
        whole = lambda name, row=row: "-" if pd.isna(row[name]) else f"{row[name]:,.0f}"
        rows.append(
            [link, clock(row["duration_s"]), pages.percent(row["analysable"]), whole("n_beats")]
            + [whole(f"rate_{name}_bpm") for name in ("mean", "min", "max")]
            + [whole(name) for name in [*counted, *events, "pauses"]]
        )
    sections = [("recordings", "Recordings", pages.table(headers, rows))]
    if len(bad):
        listed = bad[["path", "why"]].values.tolist()
        sections.append(
            ("left-out", "Not annotated", pages.table(["recording", "why"], listed, numbers_from=2))
        )
    hours = np.nansum(good["duration_s"].to_numpy(float)) / 3600 if len(good) else 0
    lead = pages.paragraph(
        f"{len(good)} of {len(table)} recordings, {hours:.1f} hours, read by {model}. "
        "For research; not a diagnosis."
    )
    write_text(out_dir / "index.html", str(pages.page("Annotated recordings", sections, lead=lead)))
    write_json(
        out_dir / "folder.json", {"model": str(model), "recordings": table.to_dict("records")}
    )
