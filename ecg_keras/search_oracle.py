"""What makes Keras Tuner's oracles survive: their state is one file, and a trial is finished when its result is on disk.

Conventions
-----------
``oracle.json`` holds everything an oracle knows and is replaced whole; the one before it stays as
``oracle.previous.json``. What either lacks is found again in the trials' own folders. Keras Tuner itself
writes many files in place, takes up trials whose end was not yet written, and runs those again.

Source: Keras Tuner 1.4.8.
"""

import copy
import pathlib
import threading
import time

import keras_tuner
from keras_tuner.src.engine.trial import Trial

from ecg_keras.epochs import clear_checkpoint
from ecg_keras.search_trials import encoded
from ecg_keras.storage import read_json, write_json


class Kept:
    """What every oracle of this package does besides proposing values; `attach` comes before any use."""

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
        self.closed = self.error = None  # why no trial is started any more; what went wrong in here
        self.progress, self.heard, self.results = {}, {}, {}
        self.news = []  # results that nobody has told the user of
        self.verbose = 0
        with self.guard:
            self._take_up()
        return self

    def _take_up(self):
        """Read the newest whole state, and end the trials whose results came after it."""
        for name in ("oracle.json", "oracle.previous.json"):
            state = read_json(self.folder / name)
            if state is not None:
                break
        else:
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
            elif self._is_own(tuner_id):
                self.give_up(tuner_id)
            else:
                self.heard[trial.trial_id] = time.monotonic()
        for trial_id in [
            *self._retry_queue,
            *(trial.trial_id for trial in self.ongoing_trials.values()),
        ]:
            if self.result_of(trial_id) is not None:
                self._finish(trial_id)
        self._retry_queue = [
            trial_id for trial_id in self._retry_queue if trial_id not in self.end_order
        ]

    @staticmethod
    def _is_own(tuner_id):
        """True for the workers that the searching process itself starts: they die with it."""
        return tuner_id.startswith("own-")

    # What Keras Tuner calls

    def save(self):
        """Write the state whole; the one before stays."""
        trials = {
            trial_id: {
                "values": trial.hyperparameters.values,
                "status": trial.status,
                "message": trial.message,
                "score": trial.score,
                "best_step": trial.best_step,
            }
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
        """A trial to run, IDLE, or STOPPED; trials that have a result already are ended on the way."""
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
                    if not self._retry_queue and (
                        self.closed or (self.most and len(self.trials) >= self.most)
                    ):
                        self.closed = self.closed or "max_trials"
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
                self.error = self.error or error
                self.closed = "error"
                return self._stop(tuner_id)

    def _stop(self, tuner_id):
        """The answer that ends a worker."""
        self.tuner_ids.discard(tuner_id)
        return Trial(keras_tuner.HyperParameters(), status="STOPPED")

    def _prepared(self, trial, before):
        """Write what the worker needs; False where the trial has a result, or does not fit the time (then no more do)."""
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
        write_json(
            folder / "trial.json",
            {
                "values": values,
                "model_options": encoded(model_options),
                "fit_options": fit_options,
                "start": start,
                "until": until,
                "past": past,
            },
        )
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
                self.error = self.error or error
                self.closed = "error"

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
        super().end_trial(trial)
        self._retry_queue = [other for other in self._retry_queue if other != trial_id]
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
        """Take the running trial from a worker that is gone, for another to go on with; returns its id."""
        with self.guard:
            trial = self.ongoing_trials.pop(tuner_id, None)
            if trial is None:
                return None
            if self.result_of(trial.trial_id) is not None:
                self._finish(trial.trial_id)
            else:
                self._retry_queue.append(trial.trial_id)
            self.progress.pop(trial.trial_id, None)
            self.heard.pop(
                trial.trial_id, None
            )  # else the worker that takes it up would be late from the start
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
    """What a worker is told of a trial: all but the space, each condition of which Keras Tuner 1.4.8 prints as it sends it."""
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
