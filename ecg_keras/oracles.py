"""Keras Tuner's oracles, each with the state of `oracle_state`: how the values of the next trial are chosen.

Sources: Keras Tuner 1.4.8; Hyperband: L. Li et al., JMLR 18, 2018.
"""

from concurrent import futures

import grpc
import keras_tuner
import numpy as np
from keras_tuner.src.distribute.oracle_chief import OracleServicer
from keras_tuner.src.protos import get_service_grpc

from ecg_keras.search_oracle import Kept

_MANY = 10**9


class RandomOracle(Kept, keras_tuner.oracles.RandomSearchOracle):
    """Random search."""


class BayesianOracle(Kept, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimisation: Keras Tuner's Gaussian process and upper confidence bound.

    The bound is sought among random points and points near the best ones, all at once: Keras Tuner's
    fifty gradient descents without gradients took seconds per trial, and were not the same after a restart.
    """

    def populate_space(self, trial_id):
        """Random values first, then those whose upper confidence bound is best."""
        if (
            sum(trial.status == "COMPLETED" for trial in self.trials.values())
            < self.num_initial_points
        ):
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
    """Hyperband: many short trainings, of which the best third goes on three times as long, and so on.

    Every second new trial is drawn near one of the three best so far, at first the default: one to three
    of its values are drawn anew, numbers near the old one (mutation as in regularised evolution: E. Real
    et al., AAAI 2019). Random draws alone seldom came near a default that was chosen by hand.
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
        done = [
            self.trials[trial_id]
            for trial_id in self.end_order
            if self.trials[trial_id].score is not None
        ]
        found = []
        for trial in sorted(done, key=lambda trial: trial.score, reverse=True):
            values = {
                name: value
                for name, value in trial.hyperparameters.values.items()
                if not name.startswith("tuner/")
            }
            if values not in found:
                found.append(values)
        return found[:n]

    def _near(self, values, rng):
        """Values with one to three entries drawn anew; entries that become active are drawn at random."""
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
                probability = np.clip(
                    parameter.value_to_prob(values[name]) + rng.normal(0, 0.25), 0, 1 - 1e-9
                )
            near.values[name] = parameter.prob_to_value(float(probability))
        return near.values

    def superfluous(self):
        """Finished trials of brackets that are over, and those whose successor is finished."""
        waiting = set()
        for bracket in self._brackets:
            last = bracket["rounds"][-1]
            promoted = {
                row["past_id"]
                for row_ in bracket["rounds"]
                for row in row_
                if row["id"] in self.end_order
            }
            for round_ in bracket["rounds"]:
                if round_ is not last:
                    waiting |= {row["id"] for row in round_} - promoted
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
        return HyperbandOracle(
            max_epochs=epochs, hyperband_iterations=_MANY if endless else 1, **common
        )
    if strategy == "bayesian":
        return BayesianOracle(max_trials=None, num_initial_points=10, **common)
    return RandomOracle(max_trials=None, **common)


def serve(oracle, address):
    """Answer workers by Keras Tuner's protocol; returns (server, port)."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)]
    )
    get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    port = server.add_insecure_port(address)
    server.start()
    return server, port
