"""Tests of trials and workers: a trial goes on after a kill, and a worker is started again."""

import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import search_trials
from ecg_keras.dataset import Balance, Scaler
from ecg_keras.spectrograms import to_spectrograms
from ecg_keras.storage import write_json

PARTS = toy_dataset(30), toy_dataset(30, seed=1)


# One trial, in this process


def a_trial(folder, epochs=3, **fit_options):
    """A trial's folder with its trial.json, and the job."""
    content = {"values": {}, "model_options": {"filters": [4], "dense_units": []}}
    content |= {"fit_options": {"batch_size": 16} | fit_options}
    write_json(folder / "trial.json", content | {"start": 0, "until": epochs, "past": None})
    return {"model": "cnn1d", "epochs": epochs, "seed": 0}


@pytest.mark.slow
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
    result = search_trials.run_trial(tmp_path / "0000", job, *PARTS)
    assert sizes == [64, 32, 16] and result["status"] == "completed"
    assert result["batch_size"] == 16 and "halved to 16" in result["notes"][-1]


@pytest.mark.slow
def test_a_trial_goes_on_after_the_last_finished_epoch(tmp_path):
    job, told = a_trial(tmp_path / "0000"), []

    def killed(progress):
        told.append(progress)
        if progress["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_trials.run_trial(tmp_path / "0000", job, *PARTS, alive=killed)
    assert not (tmp_path / "0000" / "result.json").exists()
    result = search_trials.run_trial(tmp_path / "0000", job, *PARTS, alive=told.append)
    assert [progress["epoch"] for progress in told] == [1, 2, 3] and result["taken_up_after"] == 2
    assert result["objective"] == "val_macro_f1" and told[-1]["value"] == result["value"]
    a_trial(tmp_path / "0001")
    undisturbed = search_trials.run_trial(tmp_path / "0001", job, *PARTS)
    np.testing.assert_allclose(result["curve"], undisturbed["curve"], atol=1e-6)


def test_a_multi_label_trial_is_told_and_ranked_by_its_auc(tmp_path):
    job, told = a_trial(tmp_path / "0000", epochs=1), []
    parts = [toy_dataset(30, seed=seed, multi_label=True) for seed in (0, 1)]
    result = search_trials.run_trial(tmp_path / "0000", job, *parts, alive=told.append)
    assert result["objective"] == "val_macro_auc" and told[-1]["value"] == result["value"]


@pytest.mark.slow
def test_a_promoted_trial_goes_on_from_the_one_before(tmp_path):
    job = a_trial(tmp_path / "0000") | {"epochs": 3}
    for name, start, until, past in (("0000", 0, 1, None), ("0001", 1, 3, "0000")):
        a_trial(tmp_path / name)
        trial = json.loads((tmp_path / name / "trial.json").read_text())
        trial |= {"start": start, "until": until, "past": past}
        write_json(tmp_path / name / "trial.json", trial)
        result = search_trials.run_trial(tmp_path / name, job, *PARTS)
    first = json.loads((tmp_path / "0000" / "result.json").read_text())
    assert result["taken_up_after"] == 1 and result["epochs_run"] == 3
    assert result["curve"][:1] == first["curve"]


def test_a_failed_trial_is_a_result_with_its_reason(tmp_path):
    job = a_trial(tmp_path / "0000", learning_rate=-1.0)
    result = search_trials.run_trial(tmp_path / "0000", job, *PARTS)
    assert result["status"] == "failed" and result["value"] is None
    assert result["reason"].startswith("ValueError: learning_rate must be above 0")
    assert json.loads((tmp_path / "0000" / "result.json").read_text())["reason"] == result["reason"]


def test_data_sets_come_back_from_their_file_as_they_were(tmp_path):
    full = toy_dataset(30, leads=2, patients=True)
    scaler = Scaler(np.zeros(2, np.float32), np.ones(2, np.float32))
    full = full.replace(scaler=scaler, notes=("a note",))
    full = full.replace(balance=Balance("sampler", full.class_counts(), {"N": 5}))
    images = to_spectrograms(toy_dataset(20, multi_label=True))
    search_trials.write_parts(tmp_path / "data.parts", full, images)
    for before, after in zip((full, images), search_trials.read_parts(tmp_path / "data.parts")):
        for name in ("x", "y", "metadata", "patients"):
            if getattr(before, name) is not None:
                np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        for (
            name
        ) in "classes fs leads unit grid balance notes n_samples metadata_names source".split():
            assert getattr(before, name) == getattr(after, name), name
        assert (before.scaler is None) == (after.scaler is None)
        if before.scaler is not None:
            np.testing.assert_array_equal(before.scaler.mean, after.scaler.mean)
            np.testing.assert_array_equal(before.scaler.scale, after.scaler.scale)
    (tmp_path / "data.parts").write_bytes((tmp_path / "data.parts").read_bytes()[:-9])
    assert search_trials.read_parts(tmp_path / "data.parts") is None


# Workers


def a_pool(folder, monkeypatch, codes, had_trial=True):
    """Workers "a" and "b" that write "hello" and end with one of `codes` after another."""
    pool = search_trials.Workers(
        folder, "data", "ab", ("127.0.0.1", 1), "jax", lambda name, code: had_trial
    )
    popen, started = search_trials.subprocess.Popen, []

    def instead(command, **options):
        started.append(options["env"]["KERASTUNER_TUNER_ID"])
        program = f"print('hello'); raise SystemExit({codes[len(started) - 1]})"
        return popen([sys.executable, "-c", program], **options)

    monkeypatch.setattr(search_trials.subprocess, "Popen", instead)
    return pool, started


def tend(pool):
    """Tend a pool until none runs."""
    until = time.monotonic() + 60
    while pool.tend() and time.monotonic() < until:
        time.sleep(0.01)


def test_a_worker_that_is_due_or_lost_its_trial_is_replaced_and_others_are_not(
    tmp_path, monkeypatch
):
    renew, stopped, lost = search_trials.RENEW, search_trials.STOPPED, search_trials.LOST
    pool, started = a_pool(tmp_path, monkeypatch, [renew, stopped, lost, stopped])
    pool.start()
    tend(pool)
    assert started[:2] == ["a", "b"] and len(started) == 4 and pool.running == {}
    assert (tmp_path / "workers" / "a.log").read_text().startswith("hello")


def test_a_worker_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path, monkeypatch):
    pool, started = a_pool(tmp_path, monkeypatch, [1] * 9, had_trial=False)
    pool.start()
    with pytest.raises(RuntimeError, match=r"worker [ab] cannot start(.|\n)*hello"):
        tend(pool)
    pool.stop()
    assert 5 <= len(started) <= 6 and pool.running == {}


def test_each_worker_has_its_own_device(tmp_path, monkeypatch):
    make = lambda: search_trials.Workers(
        tmp_path, "data", ["own-0", "own-1"], ("10.0.0.1", 8000), "jax", None
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,-1")
    assert search_trials.visible_gpus() == ["3", " 5"] and search_trials.worker_count(0) == 2
    first, second = map(make()._environment, ("own-0", "own-1"))
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("3", " 5")
    assert first["KERASTUNER_ORACLE_IP"] == "10.0.0.1" and first["KERAS_BACKEND"] == "jax"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pool = make()
    pool.cores = [0, 1, 2, 3]
    assert pool._environment("own-1")["ECG_KERAS_CORES"] == "1,3"
    assert search_trials.worker_count(0) == 1 and search_trials.worker_count(3) == 3


def test_gpus_are_asked_of_nvidia_smi(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = SimpleNamespace(stdout="GPU 0: one (UUID: 1)\nGPU 1: two (UUID: 2)\n")
    monkeypatch.setattr(search_trials.subprocess, "run", lambda *args, **options: listed)
    assert search_trials.visible_gpus() == ["0", "1"]

    def absent(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(search_trials.subprocess, "run", absent)
    assert search_trials.visible_gpus() == []


class Told:
    """A client that hands out trials of some states, and notes which end."""

    tuner_id = "own-0"

    def __init__(self, *states):
        self.states, self.ended = list(states), []

    def create_trial(self, tuner_id):
        number = f"{len(self.ended):04d}"
        return SimpleNamespace(trial_id=number, status=self.states.pop(0))

    def update_trial(self, *args, **options):
        pass

    def end_trial(self, trial):
        self.ended.append(trial.trial_id)


def test_a_worker_ends_after_a_few_trials_or_when_there_are_no_more(tmp_path, monkeypatch):
    oracle = pytest.importorskip("ecg_keras.search_oracle")
    write_json(tmp_path / "search.json", {"job": {"renew_after": 2, "lease_s": 60.0}})
    search_trials.write_parts(tmp_path / "data.parts", *PARTS)
    ran = []
    monkeypatch.setattr(search_trials, "run_trial", lambda folder, *a, **k: ran.append(folder.name))
    for states, code, trials in (
        (["RUNNING", "IDLE", "RUNNING", "RUNNING"], search_trials.RENEW, ["0000", "0001"]),
        (["RUNNING", "STOPPED"], search_trials.STOPPED, ["0000"]),
    ):
        link = Told(*states)
        monkeypatch.setattr(oracle, "client", lambda link=link: link)
        ran.clear()
        assert search_trials.main(tmp_path, tmp_path / "data.parts") == code
        assert ran == link.ended == trials
    (tmp_path / "data.parts").unlink()
    assert search_trials.main(tmp_path, tmp_path / "data.parts") == 1


def test_a_worker_whose_trial_was_given_away_ends(monkeypatch):
    ended = []

    def leave(code):
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr(search_trials.os, "_exit", leave)

    def refuse(text):
        def update_trial(*args, **options):
            raise RuntimeError(text)

        return SimpleNamespace(update_trial=update_trial)

    silent = search_trials._Link(os.getppid())
    silent.client = refuse("UNAVAILABLE")
    silent.hold("0000", 0.1)
    with pytest.raises(SystemExit):
        silent.watch()  # the oracle did not answer within a lease
    silent.hold(None, None)
    assert ended == [search_trials.LOST]
    refused = search_trials._Link(os.getppid())
    refused.client = refuse("trial 0000 is not running here any more")
    refused.hold("0000", 0.1)
    with pytest.raises(SystemExit):
        refused._signs()
    assert ended == [search_trials.LOST] * 2
