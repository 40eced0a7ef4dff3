"""Tests of the search: what is finished stays finished, whatever is killed or torn."""

import contextlib
import html
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import toy_dataset

from ecg_keras import build_model, search
from ecg_keras.search import Supervisor, _data_file, _locked, _prepare, default_result
from ecg_keras.search_space import declare
from ecg_keras.storage import read_json, write_json

pytest.importorskip("keras_tuner")
from test_search_oracle import an_oracle, finish, run_out

SMALL = {
    "model": "cnn1d",
    "filters": (4,),
    "dense_units": (),
    "batch_size": 32,
    "schedule": "cosine",
    "balance": None,
}


# The clock and the failures, on trials without training


def supervised(folder, **options):
    """A supervisor over a finished search of three trials of 9 epochs, 1 s each."""
    run_out(lambda folder: an_oracle(folder, max_trials=3), folder)
    space = declare("cnn1d", toy_dataset(), filters=(4, 8))
    job = {"model": "cnn1d", "epochs": 9, "seed": 0, "renew_after": 8, "lease_s": 60.0}
    job |= {"backend": "tensorflow"}
    common = {"strategy": "random", "figure": "macro_f1", "max_trials": None, "hours": None}
    common |= {"rows": 1.0, "progress": False, "start": time.monotonic()}
    return Supervisor(folder, space, job, **common | options)


def test_time_for_the_winner_and_five_minutes_are_kept(tmp_path):
    run = supervised(tmp_path, hours=1.0)
    training = 1.25 * 1.0 * 9 + 30
    assert run.stop_at_s() == pytest.approx(3600 - 300 - training)
    assert run._fits({}, 0, 9)
    run.start -= run.stop_at_s() - 9  # a trial takes 10 s by what the others took
    assert not run._fits({}, 0, 9) and run._fits({}, 3, 9)
    more = supervised(tmp_path / "more", hours=1.0, rows=10.0)
    assert more.stop_at_s() == pytest.approx(3600 - 300 - 112.5 - 30)


def test_a_trial_in_which_workers_keep_dying_fails_with_a_reason(tmp_path):
    run = supervised(tmp_path)
    trial = run.oracle.create_trial("own-0")
    for _ in range(5):
        assert trial.trial_id not in run.oracle.end_order
        run._on_death("own-0", -9)
        run.oracle.create_trial("own-0")
    assert "died" in run.oracle.results[trial.trial_id]["reason"].lower()


@pytest.mark.parametrize(
    ("reasons", "raised"),
    [
        (["ValueError: 1 is bad"] * 3, True),
        (["ValueError: a", "KeyError: b", "ValueError: a"], False),
    ],
)
def test_the_same_failure_three_times_is_raised_and_different_ones_are_not(
    tmp_path, reasons, raised
):
    oracle = an_oracle(tmp_path)
    for reason in reasons:
        finish(tmp_path, oracle, oracle.create_trial("own-0"), status="failed", reason=reason)
    run, text = supervised(tmp_path), "first 3 trials failed for the same reason: ValueError: 1 is"
    with pytest.raises(RuntimeError, match=text) if raised else contextlib.nullcontext():
        run._check_failures()


def test_hyperband_with_hours_begins_again_after_a_search_that_had_an_end(tmp_path):
    oracle = an_oracle(tmp_path, "hyperband")
    finish(tmp_path, oracle, oracle.create_trial("own-0"))
    space, job = declare("cnn1d", toy_dataset(), filters=(4, 8)), {"epochs": 9, "seed": 0}
    common = {"strategy": "hyperband", "figure": "macro_f1", "max_trials": None, "start": 0.0}
    common |= {"rows": 1.0, "progress": False}
    make = lambda hours: Supervisor(tmp_path, space, job | {"lease_s": 60.0}, hours=hours, **common)
    assert make(None).oracle.hyperband_iterations == 1
    assert make(1.0).oracle.hyperband_iterations > 10**6
    assert make(1.0).oracle.end_order == ["0000"]


def test_the_page_names_the_default_that_was_trained_longest():
    space = declare("cnn1d", toy_dataset(), filters=(4,))
    default, other = space.defaults(), space.defaults() | {"dropout": 0.55}
    row = lambda value, epochs: {"status": "completed", "value": value, "epochs_run": epochs}
    failed = {"status": "failed", "value": None}
    tried = [
        (row(0.9, 9), other),
        (row(0.5, 1), default),
        (row(0.4, 3), default),
        (failed, default),
    ]
    assert default_result(tried, space)["value"] == 0.4
    assert default_result(tried[:1], space) is None


# Whole searches, with worker processes


def results(folder):
    """Finished trials: id to (values, moment of the end)."""
    read = [json.loads(file.read_text()) for file in sorted(folder.glob("trials/*/result.json"))]
    return {result["trial"]: (result["values"], result["ended"]) for result in read}


def workers_of(process):
    """Process ids of a search's workers."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


COMMON = {**SMALL, "strategy": "random", "epochs": 1}
PARTS = toy_dataset(60), toy_dataset(30, seed=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search of two trials, by two workers that are renewed after each, and its folder."""
    folder = tmp_path_factory.mktemp("input") / "notebook" / "search"
    best = search(*PARTS, out_dir=folder, max_trials=2, workers=2, renew_after=1, **COMMON)
    return best, folder


@pytest.mark.slow
def test_a_search_ends_with_its_trials_ranked(finished):
    best, folder = finished
    assert list(best.leaderboard["value"]) == sorted(best.leaderboard["value"], reverse=True)
    assert best.ended == "max_trials" and best.fit_options["epochs"] == 1
    assert sorted(results(folder)) == ["0000", "0001"]
    assert len(list(folder.glob("workers/own-*.log"))) == 2
    ended = read_json(folder / "ended.json")
    assert ended["winner"] == best.leaderboard["trial"][0] and ended["trials"] == 2


@pytest.mark.slow
def test_a_search_found_among_the_inputs_goes_on_and_reports(finished, tmp_path, capsys):
    (train, val), test = PARTS, toy_dataset(30, seed=2)
    before, out = results(finished[1]), tmp_path / "search"
    common = COMMON | {"previous": finished[1].parents[1]}
    best = search(train, val, out_dir=out, max_trials=3, test=test, **common)
    said = capsys.readouterr().out
    assert "going on with the search in" in said and "going on after 2 finished trials" in said
    assert "trial 0002" in said
    assert before.items() <= results(out).items() and len(best.leaderboard) == 3
    assert best.report["test"]["n"] == len(test) and (out / "winner" / "model.keras").exists()
    scope = {"build_model": build_model, "train": train}
    exec(best.code().split("report = ")[0], scope)
    assert scope["model"].output_shape == (None, 3)
    page = (out / "search.html").read_text()
    assert page.count("<img") == 3
    assert best.code() in html.unescape(page)


@pytest.mark.slow
def test_a_search_of_other_options_data_or_versions_is_refused(finished, tmp_path):
    out = shutil.copytree(finished[1], tmp_path / "search")
    with pytest.raises(ValueError, match="space filters was fixed at .4,., is fixed at .8,."):
        search(*PARTS, out_dir=out, max_trials=3, **{**COMMON, "filters": (8,)})
    with pytest.raises(ValueError, match="data train was 60 rows, .* is 60 rows"):
        search(toy_dataset(60, seed=3), PARTS[1], out_dir=out, max_trials=3, **COMMON)
    job = json.loads((out / "search.json").read_text())
    job["identity"]["versions"]["ecg_keras"] = "0.0.1"
    write_json(out / "search.json", job)
    with pytest.raises(ValueError, match="versions ecg_keras was 0.0.1"):
        search(*PARTS, out_dir=out, max_trials=3, **COMMON)


@pytest.mark.slow
def test_a_fresh_search_moves_the_old_one_and_another_input_is_left(finished, tmp_path, capsys):
    out = shutil.copytree(finished[1], tmp_path / "search")
    common = COMMON | {"hours": 0.1 / 3600, "seed": 5, "previous": finished[1].parents[1]}
    search(*PARTS, out_dir=out, fresh=True, **common)
    assert len(results(tmp_path / "search-old-1")) == 2 and results(out) == {}
    assert "is not this one" in capsys.readouterr().out


def wait_for_progress(folder, process):
    """Wait until an epoch or a trial more is finished, or the process has ended."""
    stamps = lambda: (
        {(file, file.stat().st_mtime_ns) for file in folder.glob("trials/*/checkpoint/state.json")}
        | results(folder).keys()
    )
    known = stamps()
    while process.poll() is None and not stamps() - known:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(tmp_path):
    """Two kills: a worker, the search. tests/bench/search_kills.py makes twenty, at any moment."""
    bench = pathlib.Path(__file__).parent / "bench" / "search_kills.py"
    command = [sys.executable, bench, "--run", tmp_path / "search", "--trials", "3"]
    start = lambda: subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    process = start()
    wait_for_progress(tmp_path / "search", process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    wait_for_progress(tmp_path / "search", process)
    seen, orphans = results(tmp_path / "search"), workers_of(process)
    process.kill()
    process.wait()
    process = start()
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors[-2000:]
    found = results(tmp_path / "search")
    assert sorted(found) == ["0000", "0001", "0002"] and seen.items() <= found.items()
    assert orphans and not any(pathlib.Path(f"/proc/{pid}/cmdline").exists() for pid in orphans)


@pytest.mark.slow
def test_machines_search_together_and_one_dies(tmp_path, monkeypatch):
    """This one is the chief, which trains too; one of two others dies with its trial unfinished."""
    out = tmp_path / "search"
    call = {"out_dir": str(out), "epochs": 12, "max_trials": 3, "strategy": "random", "lease_s": 8}
    call |= {"progress": False, "workers": 1, **SMALL}
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
        "from conftest import toy_dataset\nfrom ecg_keras.search import search\n"
        f"print(search(toy_dataset(60), toy_dataset(30, seed=1), **{call!r}).ended)\n"
    )
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(20000 + os.getpid() % 20000))
    machines = {}
    for name in ("one", "two"):
        machines[name] = subprocess.Popen(
            [sys.executable, program],
            env={**os.environ, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    taken = []

    def kill_one():
        """Kill machine "one" and its worker after the first epoch of a trial of theirs."""
        while machines["one"].poll() is None:
            time.sleep(0.1)
            state = read_json(out / "oracle.json") or {"oracle": {"ongoing_trials": {}}}
            trial = state["oracle"]["ongoing_trials"].get("one-0")
            done = read_json(out / "trials" / str(trial) / "checkpoint" / "state.json") or {}
            if done.get("rows"):
                taken.append(trial)
                for pid in [machines["one"].pid, *workers_of(machines["one"])]:
                    os.kill(pid, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert search(*PARTS, **call).ended == "max_trials"
    killer.join()
    machines.pop("one").communicate()
    said, errors = machines["two"].communicate(timeout=300)
    assert machines["two"].returncode == 0 and "max_trials" in said.decode(), errors[-2000:]
    found = [json.loads(file.read_text()) for file in sorted(out.glob("trials/*/result.json"))]
    assert [result["trial"] for result in found] == ["0000", "0001", "0002"]
    assert all(result["status"] == "completed" for result in found)
    assert [r["taken_up_after"] >= 1 for r in found if r["trial"] in taken] == [True]


@pytest.mark.slow
def test_a_failure_of_every_trial_stops_the_search(tmp_path):
    options = SMALL | {"kernel_size": -1, "max_trials": 9, "strategy": "random"}
    with pytest.raises(RuntimeError, match="first 3 trials failed for the same reason: ValueError"):
        search(*PARTS, out_dir=tmp_path, **options)
    assert len(results(tmp_path)) == 3


@pytest.mark.slow
def test_a_short_budget_ends_the_search_with_a_model_and_a_page(tmp_path):
    best = search(*PARTS, out_dir=tmp_path, hours=14 / 3600, epochs=9999, **SMALL)
    assert best.ended == "time"
    assert best.model_options["filters"] == (4,) and (tmp_path / "search.html").exists()


def contents(folder):
    """Files of a folder and below, with their text."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_text() for file in files}


IDENTITY = {kind: {} for kind in ("data", "space", "settings", "versions")}


@pytest.fixture
def earlier(tmp_path):
    """A search of an earlier session, as an input that can only be read."""
    folder = tmp_path / "input" / "search"
    write_json(folder / "search.json", {"identity": IDENTITY, "job": {}})
    for name in ("trial", "result"):
        write_json(folder / "trials" / "0000" / f"{name}.json", {name: 1})
    (folder / "leaderboard.csv").write_text("theirs")
    (folder / "trials" / "0000" / "result.json").chmod(0o444)
    return folder


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "name", ["search.json", "ended.json", "leaderboard.csv", "trials/plan.txt", "trials"]
)
def test_a_new_search_replaces_and_moves_no_file_of_others(tmp_path, name, fresh):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"mine": 1}')
    text = f"{name.split('/')[0]} was not written by .*another out_dir"
    with pytest.raises(ValueError, match=text):
        _prepare(out, IDENTITY, {}, fresh, None)
    assert contents(out) == {name: '{"mine": 1}'} and list(tmp_path.iterdir()) == [out]


def test_a_search_leaves_other_files_where_they_are(tmp_path, earlier):
    out = tmp_path / "out"
    (out / "trials").mkdir(parents=True)  # of a call that was killed at once
    (out / "notes.txt").write_text("mine")
    _prepare(out, IDENTITY, {}, True, tmp_path / "input")
    assert contents(out) == {**contents(earlier), "notes.txt": "mine"}
    (out / "trials" / "0000" / "result.json").write_text("can be written")


def test_a_copy_of_an_earlier_search_replaces_nothing_and_goes_on_after_a_kill(
    tmp_path, earlier, monkeypatch
):
    out, copy = tmp_path / "out", shutil.copyfile
    out.mkdir()
    (out / "leaderboard.csv").write_text("mine")
    with pytest.raises(ValueError, match="leaderboard.csv is in the way of the search in .*input"):
        _prepare(out, IDENTITY, {}, False, tmp_path / "input")
    assert contents(out) == {"leaderboard.csv": "mine"}
    (out / "leaderboard.csv").unlink()
    copied = []

    def killed(source, target):
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(copy(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            _prepare(out, IDENTITY, {}, False, tmp_path / "input")
    assert len(contents(out)) == 3 and not (out / "search.json").exists()
    _prepare(out, IDENTITY, {}, False, tmp_path / "input")
    assert contents(out) == contents(earlier)


def test_a_report_of_the_winner_that_would_replace_files_is_refused_before_the_search(
    toy, tmp_path
):
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "model.keras").write_text("mine")
    with pytest.raises(ValueError, match="model.keras was not written by"):
        search(toy, toy, test=toy, max_trials=1, out_dir=tmp_path, **SMALL)
    assert not list(tmp_path.glob("trials/*"))


def test_of_old_files_in_the_cache_only_those_of_searches_are_removed(toy, tmp_path):
    folder = tmp_path / "cache" / "search"
    folder.mkdir(parents=True)
    for name in ("0123456789abcdef.parts", ".0123456789abcdef-abc123_x.parts", "engine.parts"):
        (folder / name).write_text(name)
        os.utime(folder / name, (0, 0))
    new = _data_file({}, toy, toy)
    assert sorted(folder.iterdir()) == sorted([new, folder / "engine.parts"])


def test_two_searches_in_one_folder_are_refused(tmp_path):
    text = "another process searches in"
    with _locked(tmp_path / "search"), pytest.raises(ValueError, match=text):
        search(*PARTS, out_dir=tmp_path / "search", max_trials=1, **SMALL)


def test_refusals(toy, tmp_path):
    with pytest.raises(ValueError, match="give hours or max_trials"):
        search(toy, toy, strategy="random", out_dir=tmp_path)
    with pytest.raises(ValueError, match="strategy='grid' is not known"):
        search(toy, toy, strategy="grid", out_dir=tmp_path)
    with pytest.raises(TypeError, match="droput"):
        search(toy, toy, max_trials=1, out_dir=tmp_path, droput=0.5)
    with pytest.raises(TypeError, match="val must be an ECGDataset"):
        search(toy, None, max_trials=1, out_dir=tmp_path)


def test_without_keras_tuner_a_search_names_its_extra(tmp_path):
    program = (
        "import sys; sys.modules['keras_tuner'] = None\n"
        "import numpy as np\n"
        "from ecg_keras import ECGDataset, search\n"
        "ds = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes='NV', fs=125)\n"
        "try:\n"
        f"    search(ds, ds, out_dir={str(tmp_path / 'search')!r}, max_trials=1)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'ecg_keras[tune]'" in done.stdout, done.stderr[-2000:]
