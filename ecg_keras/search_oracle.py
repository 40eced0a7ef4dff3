"""Propose the trials of a search with Keras Tuner, and keep what is known through kills.

Conventions
-----------
An oracle is the object of Keras Tuner that proposes trials. ``oracle.json`` holds everything that
it knows. The file is replaced whole, and the one before stays as ``oracle.previous.json``. What a
file lacks is found again in the folders of the trials: a trial is finished when its result is on
disk. Keras Tuner's own files are written in place, so a kill can spoil them, and it runs a trial
again whose end was not yet written.

All use of Keras Tuner's private parts is in this module; test_search_oracle.py names each.

Sources: Keras Tuner 1.4.8; Hyperband: L. Li et al., JMLR 18, 2018.
"""

import copy
import pathlib
import threading
import time
from concurrent import futures

import grpc
import keras_tuner
import numpy as np
from keras_tuner.src.distribute.oracle_chief import OracleServicer
from keras_tuner.src.distribute.oracle_client import OracleClient
from keras_tuner.src.engine.trial import Trial
from keras_tuner.src.protos import get_service_grpc

from ecg_keras.search_space import to_json
from ecg_keras.storage import read_json, write_json
from ecg_keras.training import clear_checkpoint

_MANY = 10**9  # more trials or rounds than any search has


class Kept:
    """What every oracle of this package does besides proposing values; call `attach` first."""

    def attach(self, space, folder, *, epochs, max_trials, lease_s, fits=None):
        """Bind to a folder and take up what is there.

        Parameters
        ----------
        space : Space
            Turns values into options.
        folder : path
            Of the search.
        epochs : int
            Of a full training.
        max_trials : int or None
            Trials to start, at most.
        lease_s : float
            Seconds after which a silent worker's trial goes to another.
        fits : callable, optional
            ``fits(values, start, until)`` says whether a trial of these epochs ends in time.
        """
        self.space, self.folder = space, pathlib.Path(folder)
        self.epochs, self.most, self.lease_s = epochs, max_trials, lease_s
        self.fits = fits or (lambda values, start, until: True)
        self.guard = threading.RLock()
        self.closed = None  # why no trial is started any more
        self.error = None  # what went wrong in here
        self.progress, self.heard, self.results = {}, {}, {}
        self.news = []  # results that the user was not told of
        self.verbose = 0
        with self.guard:
            self._take_up()
        return self

    def _take_up(self):
        """Read the newest whole state, and end the trials whose results came after it."""
        files = (self.folder / name for name in ("oracle.json", "oracle.previous.json"))
        state = next((found for found in map(read_json, files) if found is not None), None)
        if state is None:
            return
        for trial_id, kept in state["trials"].items():
            parameters = self.hyperparameters.copy()
            parameters.values = kept["values"]
            trial = Trial(parameters, trial_id, kept["status"], kept["message"])
            trial.score, trial.best_step = kept["score"], kept["best_step"]
            self.trials[trial_id] = trial
        self.set_state(state["oracle"])
        for trial_id in self.end_order:
            self.results[trial_id] = self.result_of(trial_id)
        for tuner_id, trial in list(self.ongoing_trials.items()):
            if trial.trial_id in self.end_order:
                del self.ongoing_trials[tuner_id]
            elif self.is_own(tuner_id):
                self.give_up(tuner_id)
            else:
                self.heard[trial.trial_id] = time.monotonic()
        running = [trial.trial_id for trial in self.ongoing_trials.values()]
        for trial_id in [*self._retry_queue, *running]:
            if self.result_of(trial_id) is not None:
                self._finish(trial_id)

    @staticmethod
    def is_own(tuner_id):
        """True for the workers that the searching process itself starts: they die with it."""
        return tuner_id.startswith("own-")

    # What Keras Tuner calls

    def save(self):
        """Write the state whole; the one before stays."""
        kept = ("status", "message", "score", "best_step")
        trials = {
            trial_id: {"values": trial.hyperparameters.values}
            | {name: getattr(trial, name) for name in kept}
            for trial_id, trial in self.trials.items()
        }
        file = self.folder / "oracle.json"
        if file.exists():
            file.replace(self.folder / "oracle.previous.json")
        write_json(file, {"oracle": self.get_state(), "trials": trials})

    def _save_trial(self, trial):
        """Nothing: `save` holds the trials too."""

    def _random_values(self):
        """The defaults first, then what Keras Tuner draws."""
        if not self.trials:
            return dict(self.hyperparameters.values)
        return super()._random_values()

    def create_trial(self, tuner_id):
        """A trial to run, IDLE, or STOPPED; trials that have a result already end on the way."""
        with self.guard:
            try:
                while True:
                    if tuner_id in self.ongoing_trials:
                        trial = self.ongoing_trials[tuner_id]
                        if self.result_of(trial.trial_id) is not None:
                            self._finish(trial.trial_id)
                            continue
                        self.heard[trial.trial_id] = time.monotonic()
                        return _message(trial)
                    if self.closed in ("time", "error"):
                        return self._stop(tuner_id)
                    if self.most and len(self.trials) >= self.most:
                        self.closed = self.closed or "max_trials"
                    if self.closed and not self._retry_queue:
                        if self.ongoing_trials:  # its worker may die: stay to take it up
                            return Trial(keras_tuner.HyperParameters(), status="IDLE")
                        return self._stop(tuner_id)
                    before = copy.deepcopy(self.get_state())
                    trial = super().create_trial(tuner_id)
                    if trial.status == "STOPPED":
                        self.closed = "exhausted"
                        continue
                    if trial.status != "RUNNING" or self._prepared(trial, before):
                        return _message(trial)
            except Exception as error:  # Keras Tuner would hold its lock for ever
                self._note(error)
                return self._stop(tuner_id)

    def _note(self, error):
        """Keep the first error for the search to raise; no more trials."""
        self.error, self.closed = self.error or error, "error"

    def _stop(self, tuner_id):
        """The answer that ends a worker."""
        self.tuner_ids.discard(tuner_id)
        return Trial(keras_tuner.HyperParameters(), status="STOPPED")

    def _prepared(self, trial, before):
        """Write what the worker needs.

        False for a trial that has a result, and for one that would not end in time: then no more
        are started.
        """
        trial_id, values = trial.trial_id, trial.hyperparameters.values
        start, until, past = self.stage(values)
        found = self.result_of(trial_id)
        if found is not None and found["values"] == values:
            self._finish(trial_id)
            return False
        folder = self.folder / "trials" / trial_id
        if not self.fits(values, _epochs_done(folder, start), until):
            self.closed = "time"
            if trial_id not in before["start_order"]:
                del self.trials[trial_id]
            self.set_state(before)
            self.save()
            return False
        if found is not None:  # left by a state that is lost
            folder.rename(_free(folder))
        model_options, fit_options = self.space.options(self.space.decoded(values))
        content = {"values": values, "start": start, "until": until, "past": past}
        content |= {"model_options": to_json(model_options), "fit_options": fit_options}
        write_json(folder / "trial.json", content)
        self.heard[trial_id] = time.monotonic()
        return True

    def stage(self, values):
        """(first epoch, last epoch, trial to go on from) of a trial with these values."""
        return (
            values.get("tuner/initial_epoch", 0),
            values.get("tuner/epochs", self.epochs),
            values.get("tuner/trial_id"),
        )

    def update_trial(self, trial_id, metrics, step=0):
        """A sign of life from a worker; refused where the trial is no longer its own."""
        if trial_id not in [trial.trial_id for trial in list(self.ongoing_trials.values())]:
            raise KeyError(f"trial {trial_id} is not running here any more")
        self.heard[trial_id] = time.monotonic()
        self.progress[trial_id] = dict(metrics)
        return _message(self.trials[trial_id])

    def end_trial(self, trial):
        """Take the result of a trial from its folder."""
        with self.guard:
            try:
                if trial.trial_id not in self.end_order:
                    self._finish(trial.trial_id)
            except Exception as error:
                self._note(error)

    def _finish(self, trial_id):
        """End a trial whose result is on disk."""
        trial, result = self.trials[trial_id], self.result_of(trial_id)
        if result is None:
            raise RuntimeError(
                f"trial {trial_id} was reported as ended, but has no result in {self.folder}."
            )
        trial.status = "COMPLETED" if result["status"] == "completed" else "FAILED"
        trial.message = result.get("reason")
        self.results[trial_id] = result
        self.progress.pop(trial_id, None)
        # before the end is saved: a trial that is in both lists would end twice after a kill
        self._retry_queue = [other for other in self._retry_queue if other != trial_id]
        super().end_trial(trial)
        self.save()
        self.news.append(result)
        for other in self.superfluous():
            clear_checkpoint(self.folder / "trials" / other / "checkpoint")

    def score_trial(self, trial):
        """The value in the result, in full precision."""
        result = self.results[trial.trial_id]
        trial.score, trial.best_step = result["value"], result["best_epoch"]

    # What the search calls

    def result_of(self, trial_id):
        """The content of a trial's result.json, None where there is none."""
        return read_json(self.folder / "trials" / trial_id / "result.json")

    def give_up(self, tuner_id):
        """Take the trial from a worker that is gone, for another to go on with; returns its id."""
        with self.guard:
            trial = self.ongoing_trials.pop(tuner_id, None)
            if trial is None:
                return None
            if self.result_of(trial.trial_id) is not None:
                self._finish(trial.trial_id)
            else:
                self._retry_queue.append(trial.trial_id)
            self.progress.pop(trial.trial_id, None)
            # else the worker that takes it up would be late from the start
            self.heard.pop(trial.trial_id, None)
            self.save()
            return trial.trial_id

    def silent(self):
        """Workers that were not heard of for the time of a lease."""
        with self.guard:
            now = time.monotonic()
            return [
                tuner_id
                for tuner_id, trial in self.ongoing_trials.items()
                if now - self.heard.get(trial.trial_id, now) > self.lease_s
            ]

    @property
    def over(self):
        """True when no trial runs, waits or will be proposed."""
        if self.closed in ("time", "error"):
            return not self.ongoing_trials
        return self.closed is not None and not self.ongoing_trials and not self._retry_queue

    def superfluous(self):
        """Finished trials whose checkpoint nobody will go on from."""
        return [self.end_order[-1]] if self.end_order else []


def _message(trial):
    """What a worker is told of a trial: all but the space.

    Keras Tuner 1.4.8 prints each condition of a space that it sends.
    """
    parameters = keras_tuner.HyperParameters()
    parameters.values = dict(trial.hyperparameters.values)
    return Trial(parameters, trial.trial_id, trial.status)


def _epochs_done(folder, start):
    """Epochs of a trial that need not be trained again."""
    state = read_json(folder / "checkpoint" / "state.json")
    return max(start, len(state["rows"]) if state else 0)


def _free(folder):
    """A name beside `folder` that is not taken."""
    number = 1
    while (free := folder.with_name(f"{folder.name}.lost{number}")).exists():
        number += 1
    return free


class RandomOracle(Kept, keras_tuner.oracles.RandomSearchOracle):
    """Random search."""


class BayesianOracle(Kept, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimisation: Keras Tuner's Gaussian process and upper confidence bound.

    The best bound is looked for among random points and points near the best trials, all at once.
    Keras Tuner's own fifty descents took seconds per trial, and ended elsewhere after a restart.
    """

    def populate_space(self, trial_id):
        """Random values first, then those whose upper confidence bound is best."""
        completed = sum(trial.status == "COMPLETED" for trial in self.trials.values())
        if completed < self.num_initial_points:
            return self._random_populate_space()
        x, y = self._vectorize_trials()  # smaller y is better
        self.gpr.fit(x, y)
        rng = np.random.default_rng([self.seed, len(self.trials)])
        near = np.repeat(x[np.argsort(y)[:5]], 200, axis=0)
        near = np.clip(near + rng.normal(0, 0.1, near.shape), 0, 1)
        points = np.concatenate([rng.uniform(size=(3000, x.shape[1])), near])
        mean, deviation = self.gpr.predict(points, return_std=True)
        for i in np.argsort(mean - self.beta * deviation):
            values = self._vector_to_values(points[i])
            if not self._duplicate(values):
                return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED"}


class HyperbandOracle(Kept, keras_tuner.oracles.HyperbandOracle):
    """Hyperband: many short trainings; the best third goes on three times as long, and so on.

    Every second new trial is drawn near one of the three best so far, at first the default. One to
    three of its values are drawn anew, numbers near the old one: mutation as in regularised
    evolution (E. Real et al., AAAI 2019). Random draws alone seldom came near a default that was
    chosen by hand.
    """

    def _random_values(self):
        """The defaults, then a random draw or one near the best."""
        best = self._best_values(3)
        rng = np.random.default_rng([self.seed, len(self.trials)])
        if not best or rng.random() < 0.5:
            return super()._random_values()
        for _ in range(100):
            values = self._near(best[rng.integers(len(best))], rng)
            if not self._duplicate(values):
                return values
        return super()._random_values()

    def _best_values(self, n):
        """Values of the `n` best finished trials that differ, without the tuner's own entries."""
        ended = (self.trials[trial_id] for trial_id in self.end_order)
        done = [trial for trial in ended if trial.score is not None]
        found = []
        for trial in sorted(done, key=lambda trial: trial.score, reverse=True):
            values = trial.hyperparameters.values
            values = {name: values[name] for name in values if not name.startswith("tuner/")}
            if values not in found:
                found.append(values)
        return found[:n]

    def _near(self, values, rng):
        """Values with one to three entries drawn anew; those that become active, at random."""
        changed = rng.choice(list(values), min(len(values), rng.integers(1, 4)), replace=False)
        near = keras_tuner.HyperParameters()
        for parameter in self.hyperparameters.space:
            near.merge([parameter])
            if not near.is_active(parameter):
                continue
            name, probability = parameter.name, rng.random()
            if name in values and name not in changed:
                near.values[name] = values[name]
                continue
            if name in values and getattr(parameter, "ordered", True):
                shifted = parameter.value_to_prob(values[name]) + rng.normal(0, 0.25)
                probability = np.clip(shifted, 0, 1 - 1e-9)
            near.values[name] = parameter.prob_to_value(float(probability))
        return near.values

    def superfluous(self):
        """Finished trials of brackets that are over, and those whose successor is finished."""
        waiting = set()
        for bracket in self._brackets:
            *earlier, last = bracket["rounds"]
            for this, following in zip(earlier, [*earlier[1:], last]):
                promoted = {row["past_id"] for row in following if row["id"] in self.end_order}
                waiting |= {row["id"] for row in this} - promoted
        return [trial_id for trial_id in self.end_order if trial_id not in waiting]


def make_oracle(strategy, space, objective, *, epochs, seed, endless=False):
    """Return the oracle of a strategy over a space, with its first trial at the defaults.

    Parameters
    ----------
    strategy : {"hyperband", "bayesian", "random"}
        How values are proposed.
    space : Space
        What is varied.
    objective : str
        What is made large, such as "val_macro_f1".
    epochs : int
        Of a full training; Hyperband's shorter ones are a third, a ninth ... of it.
    seed : int
        Of the proposals.
    endless : bool, default False
        Begin Hyperband again after its last bracket.
    """
    common = {
        "objective": keras_tuner.Objective(objective, "max"),
        "hyperparameters": space.hyperparameters(),
        "seed": seed + 1,  # Keras Tuner takes 0 for "any"
        "max_consecutive_failed_trials": _MANY,
    }
    if strategy == "hyperband":
        times = _MANY if endless else 1
        return HyperbandOracle(max_epochs=epochs, hyperband_iterations=times, **common)
    if strategy == "bayesian":
        return BayesianOracle(max_trials=None, num_initial_points=10, **common)
    return RandomOracle(max_trials=None, **common)


def serve(oracle, address):
    """Answer workers by Keras Tuner's protocol; returns (server, port)."""
    threads = futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
    get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def client():
    """What a worker asks for trials with, at the address in Keras Tuner's environment variables."""
    return OracleClient(None)
