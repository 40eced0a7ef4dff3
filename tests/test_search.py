"""Tests of the search: what is finished stays finished, whatever is killed, torn or out of memory."""

import html
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import build_model, search, search_trials
from ecg_keras.dataset import Balance, Scaler
from ecg_keras.search import _data_file, _prepare, default_result
from ecg_keras.search_space import declare
from ecg_keras.spectrograms import to_spectrograms
from ecg_keras.storage import read_json, write_json

pytest.importorskip("keras_tuner")
from ecg_keras.search import Supervisor
from ecg_keras.search_oracle import make_oracle

SMALL = {
    "model": "cnn1d",
    "filters": (4,),
    "dense_units": (),
    "batch_size": 32,
    "schedule": "cosine",
    "balance": None,
}


# The oracle alone: trials without training


def an_oracle(
    folder, strategy="random", *, epochs=9, max_trials=None, fits=None, lease_s=60.0, endless=False
):
    """An oracle over a small space, bound to a folder."""
    space = declare("cnn1d", toy_dataset(), filters=(4, 8))
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    oracle = make_oracle(strategy, space, "val_macro_f1", epochs=epochs, seed=0, endless=endless)
    return oracle.attach(
        space, folder, epochs=epochs, max_trials=max_trials, lease_s=lease_s, fits=fits
    )


def write_result(folder, trial, *, status="completed", reason=None):
    """The result a worker would write: a value that follows from the options."""
    values = trial.hyperparameters.values
    epochs = values.get("tuner/epochs", 9)
    value = round(
        -abs(np.log10(values["learning_rate"]) + 2.7) + 0.01 * epochs - values["dropout"] / 10, 9
    )
    result = {"trial": trial.trial_id, "values": values, "status": status, "reason": reason, "best_epoch": epochs,
              "value": value if status == "completed" else None, "epochs_run": epochs, "epoch_seconds": 1.0,
              "fit_seconds": float(epochs), "seconds": epochs + 1.0, "batch_size": 128, "notes": [], "rss_mb": 1.0}  # fmt: skip
    write_json(folder / "trials" / trial.trial_id / "result.json", result)


def run_out(make, folder, *, most=60, disturb=lambda oracle: oracle):
    """Run an oracle to its end as a worker would; returns trial to values."""
    oracle = make(folder)
    for _ in range(most):
        trial = oracle.create_trial("own-0")
        if trial.status == "STOPPED":
            break
        oracle = disturb(oracle)
        if oracle is None:  # killed before the result
            oracle = make(folder)
            continue
        write_result(folder, trial)
        oracle = disturb(oracle) or make(folder)  # killed between the result and its report
        if trial.trial_id not in oracle.end_order:
            oracle.end_trial(trial)
        assert oracle.error is None
    return {
        trial_id: oracle.trials[trial_id].hyperparameters.values for trial_id in oracle.end_order
    }


@pytest.mark.parametrize("strategy", ["random", "bayesian", "hyperband"])
def test_an_oracle_killed_at_random_moments_finishes_the_same_trials(tmp_path, strategy):
    make = lambda folder: an_oracle(folder, strategy, max_trials=14)
    rng, kills = random.Random(0), []

    def disturb(oracle):
        if rng.random() < 0.5:
            kills.append(1)
            return None
        return oracle

    whole = run_out(make, tmp_path / "whole")
    assert len(whole) == 14
    assert run_out(make, tmp_path / "killed", most=200, disturb=disturb) == whole
    assert len(kills) > 8


def test_hyperband_promotes_the_best_third_and_ends(tmp_path):
    finished = run_out(lambda folder: an_oracle(folder, "hyperband"), tmp_path, most=100)
    stages = [
        (values["tuner/initial_epoch"], values["tuner/epochs"]) for values in finished.values()
    ]
    assert stages.count((0, 1)) == 9 and stages.count((1, 3)) == 3 and stages.count((3, 9)) >= 1
    assert all(
        finished[v["tuner/trial_id"]]["learning_rate"] == v["learning_rate"]
        for v in finished.values()
        if v["tuner/initial_epoch"]
    )


def test_hyperband_draws_every_second_trial_near_one_of_the_best(tmp_path):
    oracle = an_oracle(tmp_path, "hyperband", max_trials=100, endless=True)
    own = lambda values: {
        name: value for name, value in values.items() if not name.startswith("tuner/")
    }
    near, far, shifts = 0, 0, []
    for _ in range(100):
        best = []
        for result in sorted(oracle.results.values(), key=lambda result: -result["value"]):
            best += [own(result["values"])] if own(result["values"]) not in best else []
        trial = oracle.create_trial("own-0")
        values = own(trial.hyperparameters.values)
        if trial.hyperparameters.values["tuner/initial_epoch"] == 0 and best:
            distance = lambda other: sum(values[name] != other[name] for name in values)
            parent = min(best[:3], key=distance)
            near, far = near + (distance(parent) <= 3), far + (distance(parent) > 3)
            if distance(parent) <= 3 and values["learning_rate"] != parent["learning_rate"]:
                shifts.append(abs(np.log(values["learning_rate"] / parent["learning_rate"])))
        write_result(tmp_path, trial)
        oracle.end_trial(trial)
    assert near + far > 40 and 0.3 < near / (near + far) < 0.7
    assert (
        np.median(shifts) < np.log(0.01 / 0.0003) / 4
    )  # a random draw is a third of the range away on average


@pytest.mark.parametrize("torn", [["oracle.json"], ["oracle.json", "oracle.previous.json"]])
def test_a_torn_state_loses_no_finished_trial(tmp_path, torn):
    make = lambda folder: an_oracle(folder, max_trials=6)
    whole = run_out(make, tmp_path / "whole")
    folder = tmp_path / "torn"
    half = run_out(lambda folder: an_oracle(folder, max_trials=3), folder)
    stamps = {file: file.stat().st_mtime_ns for file in folder.glob("trials/*/result.json")}
    for name in torn:
        text = (folder / name).read_text()
        (folder / name).write_text(text[: len(text) // 2])
    assert run_out(make, folder) == whole
    assert (
        half.items() <= whole.items()
        and {file: file.stat().st_mtime_ns for file in stamps} == stamps
    )


def test_only_what_a_training_wrote_is_removed_after_a_trial(tmp_path):
    oracle = an_oracle(tmp_path)
    trial = oracle.create_trial("own-0")
    folder = tmp_path / "trials" / trial.trial_id / "checkpoint"
    keys = ("key", "rows", "best", "last", "finished")
    write_json(folder / "state.json", dict.fromkeys(keys))
    for name in ("best-1.weights.h5", "notes.txt"):
        (folder / name).write_text(name)
    write_result(tmp_path, trial)
    oracle.end_trial(trial)
    assert [file.name for file in folder.iterdir()] == ["notes.txt"] and oracle.error is None


def test_a_silent_worker_loses_its_trial_to_another(tmp_path):
    oracle = an_oracle(tmp_path, lease_s=0.05)
    first = oracle.create_trial("far-0")
    oracle.update_trial(first.trial_id, {"epoch": 1})
    assert oracle.silent() == []
    time.sleep(0.1)
    assert oracle.silent() == ["far-0"]
    oracle.give_up("far-0")
    with pytest.raises(KeyError, match="not running here"):
        oracle.update_trial(first.trial_id, {"epoch": 2})
    late = []
    oracle.fits = lambda *args: (
        late.extend(oracle.silent()) or True
    )  # asked while the trial is handed over
    assert oracle.create_trial("other-0").trial_id == first.trial_id
    assert late == []


def test_trials_with_conditions_are_sent_without_a_printed_word(tmp_path, capsys):
    space = declare("cnn1d", toy_dataset())
    (tmp_path / "trials").mkdir()
    oracle = make_oracle("random", space, "val_macro_f1", epochs=9, seed=0)
    oracle.attach(space, tmp_path, epochs=9, max_trials=2, lease_s=60.0)
    for _ in range(2):
        trial = oracle.create_trial("own-0")
        told = trial.from_proto(trial.to_proto())
        assert (told.trial_id, told.status) == (trial.trial_id, "RUNNING")
        assert (
            told.hyperparameters.values["n_blocks"]
            == oracle.trials[trial.trial_id].hyperparameters.values["n_blocks"]
        )
        oracle.update_trial(trial.trial_id, {"epoch": 1}).to_proto()
        write_result(tmp_path, trial)
        oracle.end_trial(trial)
    oracle.create_trial("own-0").to_proto()
    assert capsys.readouterr().out == ""


def test_the_last_trial_of_a_dead_worker_waits_for_another(tmp_path):
    oracle = an_oracle(tmp_path, max_trials=1)
    last = oracle.create_trial("far-0")
    assert oracle.create_trial("own-0").status == "IDLE" and not oracle.over
    oracle.give_up("far-0")
    assert not oracle.over
    trial = oracle.create_trial("own-0")
    assert trial.trial_id == last.trial_id and trial.status == "RUNNING"
    write_result(tmp_path, trial)
    oracle.end_trial(trial)
    assert oracle.create_trial("own-0").status == "STOPPED" and oracle.over


def test_a_trial_that_does_not_fit_the_time_is_not_started(tmp_path):
    allowed = []
    oracle = an_oracle(
        tmp_path, fits=lambda values, start, until: len(allowed) < 2 and not allowed.append(until)
    )
    for _ in range(2):
        trial = oracle.create_trial("own-0")
        write_result(tmp_path, trial)
        oracle.end_trial(trial)
    assert oracle.create_trial("own-0").status == "STOPPED" and oracle.closed == "time"
    assert len(oracle.trials) == 2
    assert (
        len(run_out(lambda folder: an_oracle(folder, max_trials=4), tmp_path)) == 4
    )  # a later call goes on


def supervised(folder, **options):
    """A supervisor over a finished search of three trials of 9 epochs, 1 s each."""
    run_out(lambda folder: an_oracle(folder, max_trials=3), folder)
    space = declare("cnn1d", toy_dataset(), filters=(4, 8))
    job = {
        "model": "cnn1d",
        "epochs": 9,
        "seed": 0,
        "renew_after": 8,
        "lease_s": 60.0,
        "backend": "tensorflow",
    }
    common = {
        "strategy": "random",
        "figure": "macro_f1",
        "max_trials": None,
        "rows": 1.0,
        "progress": False,
    }
    return Supervisor(
        folder, space, job, **common | {"start": time.monotonic(), "hours": None} | options
    )


def test_time_for_the_winner_and_five_minutes_are_kept(tmp_path):
    run = supervised(tmp_path, hours=1.0)
    training = 1.25 * 1.0 * 9 + 30
    assert run.stop_at_s() == pytest.approx(3600 - 300 - training)
    assert run._fits({}, 0, 9)
    run.start -= run.stop_at_s() - 9  # a trial takes 10 s by what the others took
    assert not run._fits({}, 0, 9) and run._fits({}, 3, 9)
    assert supervised(tmp_path / "more", hours=1.0, rows=10.0).stop_at_s() == pytest.approx(
        3600 - 300 - 112.5 - 30
    )


def test_a_trial_in_which_workers_keep_dying_fails_with_a_reason(tmp_path):
    run = supervised(tmp_path)
    trial = run.oracle.create_trial("own-0")
    for _ in range(5):
        assert trial.trial_id not in run.oracle.end_order
        run._on_death("own-0", -9)
        run.oracle.create_trial("own-0")
    assert "died" in run.oracle.results[trial.trial_id]["reason"].lower()


def test_the_same_failure_three_times_is_raised_and_different_ones_are_not(tmp_path):
    for reasons, raised in (
        (["ValueError: 1 is bad"] * 3, True),
        (["ValueError: a", "KeyError: b", "ValueError: a"], False),
    ):
        folder = tmp_path / str(raised)
        oracle = an_oracle(folder)
        for reason in reasons:
            trial = oracle.create_trial("own-0")
            write_result(folder, trial, status="failed", reason=reason)
            oracle.end_trial(trial)
        run = supervised(folder)
        if raised:
            with pytest.raises(
                RuntimeError,
                match="first 3 trials failed for the same reason: ValueError: 1 is bad",
            ):
                run._check_failures()
        else:
            run._check_failures()


# One trial, in this process


def a_trial(folder, epochs=3, **fit_options):
    """A trial's folder with its trial.json, and the job."""
    fit_options = {"batch_size": 16} | fit_options
    content = {
        "values": {},
        "model_options": {"filters": [4], "dense_units": []},
        "fit_options": fit_options,
    }
    write_json(folder / "trial.json", content | {"start": 0, "until": epochs, "past": None})
    return {"model": "cnn1d", "epochs": epochs, "seed": 0}


def test_out_of_memory_halves_the_batch_and_says_so(tmp_path, monkeypatch):
    from ecg_keras import training

    sizes, fit = [], training.fit

    def scarce(*args, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes")
        return fit(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(training, "fit", scarce)
    job = a_trial(tmp_path / "0000", epochs=1, batch_size=64)
    result = search_trials.run_trial(
        tmp_path / "0000", job, toy_dataset(30), toy_dataset(30, seed=1)
    )
    assert sizes == [64, 32, 16] and result["status"] == "completed"
    assert result["batch_size"] == 16 and "halved to 16" in result["notes"][-1]


def test_a_trial_goes_on_after_the_last_finished_epoch(tmp_path):
    job, parts, told = a_trial(tmp_path / "0000"), (toy_dataset(30), toy_dataset(30, seed=1)), []

    def killed(progress):
        told.append(progress)
        if progress["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_trials.run_trial(tmp_path / "0000", job, *parts, alive=killed)
    assert not (tmp_path / "0000" / "result.json").exists()
    result = search_trials.run_trial(tmp_path / "0000", job, *parts, alive=told.append)
    assert [progress["epoch"] for progress in told] == [1, 2, 3] and result["taken_up_after"] == 2
    a_trial(tmp_path / "0001")
    undisturbed = search_trials.run_trial(tmp_path / "0001", job, *parts)
    np.testing.assert_allclose(result["curve"], undisturbed["curve"], atol=1e-6)


@pytest.mark.parametrize(
    ("multi_label", "figure"), [(False, "val_macro_f1"), (True, "val_macro_auc")]
)
def test_what_is_told_of_a_running_trial_is_the_figure_it_is_ranked_by(
    tmp_path, multi_label, figure
):
    job, told = a_trial(tmp_path / "0000"), []
    parts = [toy_dataset(30, seed=seed, multi_label=multi_label) for seed in (0, 1)]
    result = search_trials.run_trial(tmp_path / "0000", job, *parts, alive=told.append)
    assert result["objective"] == figure and told[-1]["value"] == result["value"]


def test_a_promoted_trial_goes_on_from_the_one_before(tmp_path):
    parts = toy_dataset(30), toy_dataset(30, seed=1)
    job = a_trial(tmp_path / "0000") | {"epochs": 3}
    for name, start, until, past in (("0000", 0, 1, None), ("0001", 1, 3, "0000")):
        a_trial(tmp_path / name)
        trial = json.loads((tmp_path / name / "trial.json").read_text())
        trial |= {"start": start, "until": until, "past": past}
        write_json(tmp_path / name / "trial.json", trial)
        result = search_trials.run_trial(tmp_path / name, job, *parts)
    first = json.loads((tmp_path / "0000" / "result.json").read_text())
    assert result["taken_up_after"] == 1 and result["epochs_run"] == 3
    assert result["curve"][:1] == first["curve"]


def test_a_failed_trial_is_a_result_with_its_reason(tmp_path):
    job = a_trial(tmp_path / "0000", learning_rate=-1.0)
    result = search_trials.run_trial(
        tmp_path / "0000", job, toy_dataset(30), toy_dataset(30, seed=1)
    )
    assert result["status"] == "failed" and result["reason"].startswith(
        "ValueError: learning_rate must be above 0"
    )
    assert json.loads((tmp_path / "0000" / "result.json").read_text())["reason"] == result["reason"]


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


def test_data_sets_come_back_from_their_file_as_they_were(tmp_path):
    full = toy_dataset(30, leads=2, patients=True)
    full = full.replace(
        scaler=Scaler(np.zeros(2, np.float32), np.ones(2, np.float32)), notes=("a note",)
    )
    full = full.replace(balance=Balance("sampler", full.class_counts(), {"N": 5}))
    images = to_spectrograms(toy_dataset(20, multi_label=True))
    search_trials.write_parts(tmp_path / "data.parts", full, images)
    for before, after in zip((full, images), search_trials.read_parts(tmp_path / "data.parts")):
        for name in ("x", "y", "metadata", "patients"):
            if getattr(before, name) is not None:
                np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        for name in (
            "classes",
            "fs",
            "leads",
            "unit",
            "grid",
            "balance",
            "notes",
            "n_samples",
            "metadata_names",
            "source",
        ):
            assert getattr(before, name) == getattr(after, name), name
        assert (before.scaler is None) == (after.scaler is None)
    (tmp_path / "data.parts").write_bytes((tmp_path / "data.parts").read_bytes()[:-9])
    assert search_trials.read_parts(tmp_path / "data.parts") is None


# Whole searches, with worker processes


def results(folder):
    """Finished trials: id to (values, moment of the end)."""
    read = [json.loads(file.read_text()) for file in sorted(folder.glob("trials/*/result.json"))]
    return {result["trial"]: (result["values"], result["ended"]) for result in read}


def workers_of(process):
    """Process ids of a search's workers."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_a_search_from_start_to_page_and_on(tmp_path, capsys):
    train, val, test = toy_dataset(60), toy_dataset(30, seed=1), toy_dataset(30, seed=2)
    out, common = tmp_path / "search", {**SMALL, "strategy": "random", "epochs": 1}
    best = search(train, val, out_dir=out, max_trials=2, **common)
    assert list(best.leaderboard["value"]) == sorted(best.leaderboard["value"], reverse=True)
    assert best.ended == "max_trials" and best.fit_options["epochs"] == 1
    assert "trial 0001" in capsys.readouterr().out
    before = results(out)
    best = search(
        train, val, out_dir=out, max_trials=3, test=test, **common
    )  # the same search goes on, and reports
    assert before.items() <= results(out).items() and len(best.leaderboard) == 3
    assert best.report["test"]["n"] == len(test) and (out / "winner" / "model.keras").exists()
    scope = {"build_model": build_model, "train": train}
    exec(best.code().split("report = ")[0], scope)
    assert scope["model"].output_shape == (None, 3)
    page = (out / "search.html").read_text()
    assert page.count("<img") == 3
    assert best.code() in html.unescape(page)

    with pytest.raises(ValueError, match="space filters was fixed at .4,., is fixed at .8,."):
        search(train, val, out_dir=out, max_trials=3, **{**common, "filters": (8,)})
    with pytest.raises(ValueError, match="data train was 60 rows, .* is 60 rows"):
        search(toy_dataset(60, seed=3), val, out_dir=out, max_trials=3, **common)
    job = json.loads((out / "search.json").read_text())
    job["identity"]["versions"]["ecg_keras"] = "0.0.1"
    write_json(out / "search.json", job)
    with pytest.raises(ValueError, match="versions ecg_keras was 0.0.1"):
        search(train, val, out_dir=out, max_trials=3, **common)
    search(train, val, out_dir=out, hours=0.1 / 3600, fresh=True, **common)
    assert len(results(tmp_path / "search-old-1")) == 3 and results(out) == {}


def test_a_search_that_was_killed_goes_on(tmp_path):
    """Three kills (a worker, the search, both); tests/bench/search_kills.py does it twenty times and at any moment."""
    bench = pathlib.Path(__file__).parent / "bench" / "search_kills.py"
    command = [sys.executable, bench, "--run", tmp_path / "search", "--trials", "3"]
    start = lambda: subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    process, seen = start(), {}
    for what in ("worker", "search", "both"):
        known = {
            **{
                file: file.stat().st_mtime_ns
                for file in tmp_path.glob("search/trials/*/checkpoint/state.json")
            }
        }
        ended = len(results(tmp_path / "search"))
        while process.poll() is None:  # until an epoch or a trial more is finished
            now = {
                file: file.stat().st_mtime_ns
                for file in tmp_path.glob("search/trials/*/checkpoint/state.json")
            }
            if set(now.items()) - set(known.items()) or len(results(tmp_path / "search")) > ended:
                break
            time.sleep(0.05)
        seen = results(tmp_path / "search")
        workers = workers_of(process)
        for pid in {"worker": workers, "search": [process.pid], "both": [process.pid, *workers]}[
            what
        ]:
            os.kill(pid, signal.SIGKILL)
        if what != "worker":
            process.wait()
            process = start()
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors[-2000:]
    found = results(tmp_path / "search")
    assert sorted(found) == ["0000", "0001", "0002"] and seen.items() <= found.items()


def test_three_machines_search_together_and_one_dies(tmp_path, monkeypatch):
    """A chief, which trains too, and three others; the one killed with its trial unfinished is replaced by another."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
        "from conftest import toy_dataset\nfrom ecg_keras.search import search\n"
        f"print(search(toy_dataset(60), toy_dataset(30, seed=1), out_dir={str(tmp_path / 'search')!r}, epochs=16, max_trials=4,\n"
        f"    strategy='random', lease_s=15, progress=False, workers=1, **{SMALL!r}).ended)\n"
    )
    port = str(20000 + os.getpid() % 20000)
    machines = {}
    for name in ("chief", "one", "two", "three"):
        address = {
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": port,
            "KERASTUNER_TUNER_ID": name,
        }
        machines[name] = subprocess.Popen(
            [sys.executable, program],
            env={**os.environ, **address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    running = lambda: json.loads((tmp_path / "search" / "oracle.json").read_text())["oracle"][
        "ongoing_trials"
    ]
    taken = None
    while taken is None and all(machine.poll() is None for machine in machines.values()):
        time.sleep(0.1)
        try:
            trial = running().get("one-0")
        except (OSError, ValueError):
            continue
        state = tmp_path / "search" / "trials" / str(trial) / "checkpoint" / "state.json"
        if (read_json(state) or {}).get("rows"):
            taken = trial
            for pid in [machines["one"].pid, *workers_of(machines["one"])]:
                os.kill(pid, signal.SIGKILL)
    machines.pop("one").communicate()
    for name, machine in machines.items():
        out, errors = machine.communicate(timeout=300)
        assert machine.returncode == 0 and "max_trials" in out.decode(), (
            f"{name}: {errors.decode()[-2000:]}"
        )
    found = [
        json.loads(file.read_text())
        for file in sorted(tmp_path.glob("search/trials/*/result.json"))
    ]
    assert [result["trial"] for result in found] == ["0000", "0001", "0002", "0003"]
    assert all(result["status"] == "completed" for result in found)
    assert next(result["taken_up_after"] for result in found if result["trial"] == taken) >= 1


def test_a_failure_of_every_trial_stops_the_search(tmp_path):
    with pytest.raises(RuntimeError, match="first 3 trials failed for the same reason: ValueError"):
        search(
            toy_dataset(30),
            toy_dataset(30, seed=1),
            out_dir=tmp_path,
            max_trials=9,
            strategy="random",
            **SMALL | {"kernel_size": -1},
        )
    assert len(results(tmp_path)) == 3


def test_a_short_budget_ends_the_search_with_a_model_and_a_page(tmp_path):
    best = search(
        toy_dataset(60),
        toy_dataset(30, seed=1),
        out_dir=tmp_path,
        hours=18 / 3600,
        epochs=9999,
        **SMALL,
    )
    assert best.ended == "time"
    assert best.model_options["filters"] == (4,) and (tmp_path / "search.html").exists()


def test_a_search_of_an_earlier_session_is_found_among_the_inputs(tmp_path):
    train, val = toy_dataset(30), toy_dataset(30, seed=1)
    common = {**SMALL, "strategy": "random", "hours": 0.05 / 3600, "progress": False}
    search(train, val, out_dir=tmp_path / "input" / "notebook" / "search", **common)
    old = tmp_path / "input" / "notebook" / "search" / "trials" / "0007"
    old.mkdir()
    search(
        train, val, out_dir=tmp_path / "working" / "search", previous=tmp_path / "input", **common
    )
    assert (tmp_path / "working" / "search" / "trials" / "0007").exists()
    search(
        train,
        val,
        out_dir=tmp_path / "other" / "search",
        previous=tmp_path / "input",
        seed=5,
        **common,
    )
    assert not (tmp_path / "other" / "search" / "trials" / "0007").exists()


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
    with pytest.raises(
        ValueError, match=f"{name.split('/')[0]} was not written by .*another out_dir"
    ):
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
    train, val = toy_dataset(30), toy_dataset(30, seed=1)
    from ecg_keras.search import _locked

    with _locked(tmp_path / "search"):
        with pytest.raises(ValueError, match="another process searches in"):
            search(train, val, out_dir=tmp_path / "search", max_trials=1, **SMALL)


def test_refusals(toy, tmp_path):
    with pytest.raises(ValueError, match="give hours or max_trials"):
        search(toy, toy, strategy="random", out_dir=tmp_path)
    with pytest.raises(ValueError, match="strategy='grid' is not known"):
        search(toy, toy, strategy="grid", out_dir=tmp_path)
    with pytest.raises(TypeError, match="droput"):
        search(toy, toy, max_trials=1, out_dir=tmp_path, droput=0.5)
    with pytest.raises(TypeError, match="val must be an ECGDataset"):
        search(toy, None, max_trials=1, out_dir=tmp_path)
