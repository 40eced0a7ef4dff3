"""Tests of the oracles: no finished trial is lost, and Keras Tuner's private parts are there."""

import importlib
import random
import time

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras.search_space import declare
from ecg_keras.storage import write_json

keras_tuner = pytest.importorskip("keras_tuner")

OBJECTIVE = keras_tuner.Objective("val_macro_f1", "max")


# Keras Tuner's private parts, which may move with any version


@pytest.mark.parametrize(
    "place",
    [
        "distribute.oracle_chief.OracleServicer",
        "distribute.oracle_client.OracleClient",
        "engine.trial.Trial",
        "protos.get_service_grpc",
    ],
)
def test_a_private_name_of_keras_tuner_is_where_it_was(place):
    module, name = place.rsplit(".", 1)
    assert hasattr(importlib.import_module(f"keras_tuner.src.{module}"), name)


@pytest.mark.parametrize(
    ("oracle", "names"),
    [
        ("RandomSearchOracle", "_retry_queue _random_values _duplicate _save_trial end_order"),
        ("BayesianOptimizationOracle", "_random_populate_space _vectorize_trials"),
        ("BayesianOptimizationOracle", "_vector_to_values gpr beta num_initial_points"),
        ("HyperbandOracle", "_brackets _random_values hyperband_iterations"),
    ],
)
def test_an_oracle_of_keras_tuner_has_what_ours_use(oracle, names):
    made = getattr(keras_tuner.oracles, oracle)(objective=OBJECTIVE)
    missing = [name for name in names.split() if not hasattr(made, name)]
    assert not missing, f"{oracle} of Keras Tuner {keras_tuner.__version__} has no {missing}"


def test_retry_queue_holds_what_is_given_out_next(tmp_path):
    oracle = an_oracle(tmp_path)
    first = oracle.create_trial("own-0").trial_id
    oracle.give_up("own-0")
    assert oracle._retry_queue == oracle.get_state()["retry_queue"] == [first]
    assert oracle.create_trial("own-1").trial_id == first and oracle._retry_queue == []


def test_brackets_hold_rounds_of_trials_and_where_they_came_from(tmp_path):
    oracle = an_oracle(tmp_path, "hyperband")
    for _ in range(10):
        finish(tmp_path, oracle, oracle.create_trial("own-0"))
    first, second, *_ = oracle._brackets[0]["rounds"]
    assert [row["id"] for row in first] == [f"{i:04d}" for i in range(9)]
    assert [row["id"] for row in second] == ["0009"] and second[0]["past_id"] in oracle.trials


def test_duplicate_tells_values_that_were_tried(tmp_path):
    oracle = an_oracle(tmp_path)
    values = dict(oracle.create_trial("own-0").hyperparameters.values)
    assert oracle._duplicate(values)
    assert not oracle._duplicate(values | {"dropout": values["dropout"] + 0.05})


def test_random_values_are_the_defaults_and_then_drawn(tmp_path):
    oracle = an_oracle(tmp_path, "bayesian")
    assert oracle._random_populate_space()["values"] == oracle.hyperparameters.values
    first = oracle.create_trial("own-0")
    drawn = oracle._random_populate_space()
    assert drawn["status"] == "RUNNING" and drawn["values"] != first.hyperparameters.values
    assert drawn["values"].keys() == first.hyperparameters.values.keys()


def test_vectors_of_trials_turn_back_into_values_and_smaller_is_better(tmp_path):
    oracle = an_oracle(tmp_path, "bayesian")
    for _ in range(4):
        finish(tmp_path, oracle, oracle.create_trial("own-0"))
    x, y = oracle._vectorize_trials()
    scores = [oracle.trials[trial_id].score for trial_id in oracle.end_order]
    np.testing.assert_allclose(y, np.negative(scores))
    assert x.min() >= 0 and x.max() <= 1
    for vector, trial in zip(x, oracle.trials.values()):
        values = oracle._vector_to_values(vector)
        for parameter in oracle.hyperparameters.space:
            step = 1.01 * (getattr(parameter, "step", None) or 0)  # it may round to the next step
            expected = trial.hyperparameters.values[parameter.name]
            assert values[parameter.name] == pytest.approx(expected, abs=step or 1e-9)


def test_a_worker_asks_tells_and_ends_by_the_protocol(tmp_path, monkeypatch):
    from ecg_keras.search_oracle import client, serve

    oracle = an_oracle(tmp_path, max_trials=1)
    server, port = serve(oracle, "127.0.0.1:0")
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "far-0")
    link = client()
    trial = link.create_trial(link.tuner_id)
    assert link.tuner_id == "far-0" and trial.status == "RUNNING"
    link.update_trial(trial.trial_id, {"epoch": 2, "value": 0.5}, step=2)
    assert oracle.progress[trial.trial_id] == {"epoch": 2, "value": 0.5}
    write_result(tmp_path, trial)
    link.end_trial(trial)
    assert oracle.end_order == [trial.trial_id]
    assert link.create_trial(link.tuner_id).status == "STOPPED"
    with pytest.raises(Exception, match="is not running here"):
        link.update_trial(trial.trial_id, {"epoch": 3})
    server.stop(0)


def test_keras_tuner_writes_no_files_of_its_own(tmp_path):
    oracle = an_oracle(tmp_path)
    finish(tmp_path, oracle, oracle.create_trial("own-0"))
    names = {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*.json")}
    assert names == {"oracle.json", "oracle.previous.json", "trials"}


# The oracle alone: trials without training


def an_oracle(folder, strategy="random", *, filters=(4, 8), endless=False, lease_s=60.0, **more):
    """An oracle over a small space, bound to a folder."""
    from ecg_keras.search_oracle import make_oracle

    space = declare("cnn1d", toy_dataset(), **{"filters": filters} if filters else {})
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    oracle = make_oracle(strategy, space, "val_macro_f1", epochs=9, seed=0, endless=endless)
    more = {"epochs": 9, "max_trials": None, "lease_s": lease_s} | more
    return oracle.attach(space, folder, **more)


def write_result(folder, trial, *, status="completed", reason=None):
    """The result a worker would write: a value that follows from the options."""
    values = trial.hyperparameters.values
    epochs = values.get("tuner/epochs", 9)
    value = -abs(np.log10(values["learning_rate"]) + 2.7) + 0.01 * epochs - values["dropout"] / 10
    result = {"trial": trial.trial_id, "values": values, "status": status, "reason": reason}
    result |= {"value": round(value, 9) if status == "completed" else None, "best_epoch": epochs}
    result |= {"epochs_run": epochs, "epoch_seconds": 1.0, "fit_seconds": float(epochs)}
    result |= {"seconds": epochs + 1.0, "batch_size": 128, "notes": [], "rss_mb": 1.0}
    write_json(folder / "trials" / trial.trial_id / "result.json", result)


def finish(folder, oracle, trial, **outcome):
    """End a trial as a worker would."""
    write_result(folder, trial, **outcome)
    oracle.end_trial(trial)
    assert oracle.error is None


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
    return {name: oracle.trials[name].hyperparameters.values for name in oracle.end_order}


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
    stages = [(v["tuner/initial_epoch"], v["tuner/epochs"]) for v in finished.values()]
    assert stages.count((0, 1)) == 9 and stages.count((1, 3)) == 3 and stages.count((3, 9)) >= 1
    for values in finished.values():
        if values["tuner/initial_epoch"]:
            before = finished[values["tuner/trial_id"]]
            assert before["learning_rate"] == values["learning_rate"]


def test_hyperband_draws_every_second_trial_near_one_of_the_best(tmp_path):
    oracle = an_oracle(tmp_path, "hyperband", max_trials=100, endless=True)
    own = lambda values: {name: v for name, v in values.items() if not name.startswith("tuner/")}
    near, far, shifts = 0, 0, []
    for _ in range(100):
        best = []
        for result in sorted(oracle.results.values(), key=lambda result: -result["value"]):
            best += [own(result["values"])] if own(result["values"]) not in best else []
        trial = oracle.create_trial("own-0")
        values = own(trial.hyperparameters.values)
        if trial.hyperparameters.values["tuner/initial_epoch"] == 0 and best:
            changed = [sum(values[name] != other[name] for name in values) for other in best[:3]]
            parent = best[int(np.argmin(changed))]
            near, far = near + (min(changed) <= 3), far + (min(changed) > 3)
            if min(changed) <= 3 and values["learning_rate"] != parent["learning_rate"]:
                shifts.append(abs(np.log(values["learning_rate"] / parent["learning_rate"])))
        finish(tmp_path, oracle, trial)
    assert near + far > 40 and 0.3 < near / (near + far) < 0.7
    # a random draw is a third of the range away on average
    assert np.median(shifts) < np.log(0.01 / 0.0003) / 4


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
    assert half.items() <= whole.items()
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_a_kill_while_a_result_is_noted_counts_the_trial_once(tmp_path, monkeypatch):
    from ecg_keras.search_oracle import RandomOracle

    oracle, save = an_oracle(tmp_path), RandomOracle.save
    trial = oracle.create_trial("far-0")
    oracle.give_up("far-0")
    write_result(tmp_path, trial)

    def killed(oracle):
        save(oracle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RandomOracle, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            an_oracle(tmp_path)
    assert an_oracle(tmp_path).end_order == [trial.trial_id]


def test_only_what_a_training_wrote_is_removed_after_a_trial(tmp_path):
    oracle = an_oracle(tmp_path)
    trial = oracle.create_trial("own-0")
    folder = tmp_path / "trials" / trial.trial_id / "checkpoint"
    keys = ("key", "rows", "best", "last", "finished")
    write_json(folder / "state.json", dict.fromkeys(keys))
    for name in ("best-1.weights.h5", "notes.txt"):
        (folder / name).write_text(name)
    finish(tmp_path, oracle, trial)
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
    # asked while the trial is handed over
    oracle.fits = lambda *args: late.extend(oracle.silent()) or True
    assert oracle.create_trial("other-0").trial_id == first.trial_id
    assert late == []


def test_trials_with_conditions_are_sent_without_a_printed_word(tmp_path, capsys):
    oracle = an_oracle(tmp_path, max_trials=2, filters=None)
    for _ in range(2):
        trial = oracle.create_trial("own-0")
        told = trial.from_proto(trial.to_proto())
        assert (told.trial_id, told.status) == (trial.trial_id, "RUNNING")
        kept = oracle.trials[trial.trial_id].hyperparameters
        assert told.hyperparameters.values["n_blocks"] == kept.values["n_blocks"]
        oracle.update_trial(trial.trial_id, {"epoch": 1}).to_proto()
        finish(tmp_path, oracle, trial)
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
    finish(tmp_path, oracle, trial)
    assert oracle.create_trial("own-0").status == "STOPPED" and oracle.over


def test_a_trial_that_does_not_fit_the_time_is_not_started(tmp_path):
    allowed = []
    fits = lambda values, start, until: len(allowed) < 2 and not allowed.append(until)
    oracle = an_oracle(tmp_path, fits=fits)
    for _ in range(2):
        trial = oracle.create_trial("own-0")
        finish(tmp_path, oracle, trial)
    assert oracle.create_trial("own-0").status == "STOPPED" and oracle.closed == "time"
    assert len(oracle.trials) == 2
    # a later call goes on
    assert len(run_out(lambda folder: an_oracle(folder, max_trials=4), tmp_path)) == 4
