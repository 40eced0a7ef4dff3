"""Lead one call's searching: answer workers, keep the clock, say what happens, write what is known.

Conventions
-----------
Seconds count from the start of the call. A result is the content of a trial's result.json; a value is a
validation figure, larger is better.
"""

import os
import re
import sys
import time

import numpy as np

from ecg_keras.oracles import make_oracle, serve
from ecg_keras.search_page import search_page
from ecg_keras.search_result import Search
from ecg_keras.search_trials import encoded, resident_mb
from ecg_keras.storage import atomic_path, read_json, write_json, write_text
from ecg_keras.workers import Workers, worker_count

_MARGIN_S = 300  # everything is on disk this long before the hours are over
_DEATHS = 5  # of workers in one trial without a finished epoch between
_COLUMNS = (
    "trial",
    "status",
    "value",
    "epochs_run",
    "best_epoch",
    "seconds",
    "fit_seconds",
    "rss_mb",
    "n_parameters",
    "past",
)


class Supervisor:
    """One call's searching: the oracle, the workers, the clock and what is printed.

    Parameters
    ----------
    folder : pathlib.Path
        Of the search, with search.json.
    space : Space
        What is varied.
    job : dict
        Of search.json.
    strategy, objective : str
        How values are proposed, and the figure that is made large.
    hours, max_trials : float and int, or None
        Ends of the search.
    start : float
        ``time.monotonic()`` at the start of the call.
    rows : float
        Rows the winner is trained on, as a multiple of those of a trial.
    progress : bool
        Print lines.
    """

    def __init__(
        self, folder, space, job, *, strategy, objective, hours, max_trials, start, rows, progress
    ):
        self.folder, self.space, self.job, self.strategy = folder, space, job, strategy
        self.start, self.rows, self.progress = start, rows, progress
        self.budget_s = None if hours is None else 3600 * hours
        self.objective = objective
        self.oracle = make_oracle(
            strategy,
            space,
            self.objective,
            epochs=job["epochs"],
            seed=job["seed"],
            endless=hours is not None,
        ).attach(
            space,
            folder,
            epochs=job["epochs"],
            max_trials=max_trials,
            lease_s=job["lease_s"],
            fits=self._fits,
        )
        self.oracle.news.clear()
        if strategy == "hyperband" and hours is not None:
            self.oracle.hyperband_iterations = 10**9
        self.deaths, self.told, self.bars = {}, set(), {}
        self.page_s = self.paged = self.drawn = 0.0

    # Time

    def elapsed_s(self):
        return time.monotonic() - self.start

    def stop_at_s(self):
        """Seconds from the start at which no trial may run any more; None without a budget."""
        if self.budget_s is None:
            return None
        best = self.best()
        if best is None:
            training = 0.25 * self.budget_s
        else:
            training = 1.25 * best["epoch_seconds"] * self.job["epochs"] * self.rows + min(
                30, 0.05 * self.budget_s
            )
        return self.budget_s - min(_MARGIN_S, 0.1 * self.budget_s) - training

    def _fits(self, values, start, until):
        """Whether a trial of these epochs would end in time, by what earlier ones took."""
        if self.budget_s is None:
            return True
        done = [result for result in self._results() if result["status"] == "completed"]
        expected = 0.0
        if done:
            past = self.oracle.results.get(values.get("tuner/trial_id"))
            rates = (
                [past["epoch_seconds"]] if past else [result["epoch_seconds"] for result in done]
            )
            besides = [
                result["seconds"] - min(result["fit_seconds"], result["seconds"]) for result in done
            ]
            expected = (until - start) * np.quantile(rates, 0.9) + np.quantile(besides, 0.9)
        return self.elapsed_s() + expected <= self.stop_at_s()

    # The loop

    def go(self, data_file, workers, role):
        """Search until the oracle has no more trials or the time is over."""
        if role is None:
            host, port = "127.0.0.1", 0
        else:
            host, port = (
                os.environ["KERASTUNER_ORACLE_IP"],
                int(os.environ["KERASTUNER_ORACLE_PORT"]),
            )
        server, port = serve(self.oracle, f"{host}:{port}")
        names = [f"own-{i}" for i in range(worker_count(workers))]
        pool = Workers(
            self.folder, data_file, names, (host, port), self.job["backend"], self._on_death
        )
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
                        f"worker {name} was not heard of for {self.job['lease_s']:g} s; another goes on with trial {trial}"
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
            while (
                any(not name.startswith("own-") for name in self.oracle.tuner_ids)
                and time.monotonic() < until
            ):
                time.sleep(0.2)
        finally:
            pool.stop()
            server.stop(0)
            for bar in self.bars.values():
                bar.close()
            self.bars = {}
            self.worker_seconds = (time.monotonic() - began) * max(len(names), 1)
            self.training_seconds = self._training_s() - before
        for name in list(self.oracle.ongoing_trials):
            if name.startswith("own-"):
                self.oracle.give_up(name)
        self._write(final=True)

    def _training_s(self):
        return sum(result.get("fit_seconds", 0) for result in self._results())

    def _results(self):
        """All results so far; a list, because the oracle's threads add to its own."""
        return [result for result in list(self.oracle.results.values()) if result is not None]

    def _on_death(self, name, code):
        """Take the trial of a worker that ended; a trial in which workers keep dying has failed. True if it had one."""
        running = self.oracle.ongoing_trials.get(name)
        if running is None:
            return code == 0
        trial_id = running.trial_id
        folder = self.folder / "trials" / trial_id
        epoch = len((read_json(folder / "checkpoint" / "state.json") or {}).get("rows", []))
        same = [other for other in self.deaths.get(trial_id, []) if other == epoch] + [epoch]
        self.deaths[trial_id] = same
        if len(same) >= _DEATHS and not (folder / "result.json").exists():
            reason = f"WorkerDied: the process ended with code {code} {_DEATHS} times (out of host memory?)"
            write_json(
                folder / "result.json",
                {
                    "trial": trial_id,
                    "values": running.hyperparameters.values,
                    "status": "failed",
                    "value": None,
                    "reason": reason,
                    "ended": time.time(),
                },
            )
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
                f"the first {len(ended)} trials failed for the same reason: {ended[0]['reason']}\n{ended[0].get('traceback', '')}"
            )

    # What is said and written

    def best(self):
        """The best result so far, None before the first."""
        done = [result for result in self._results() if result["value"] is not None]
        return max(done, key=lambda result: (result["value"], result["epochs_run"]), default=None)

    def _say(self, text):
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
                best = self.best()
                notes = "".join(f"  {note}" for note in result["notes"])
                self._say(
                    f"trial {trial}  {result['value']:.4f}  best {best['value']:.4f} ({best['trial']})  "
                    f"{result['epochs_run']} epochs  {result['seconds']:.0f} s  {self._left()}  {result['rss_mb'] or 0:.0f} MB{notes}"
                )
            self._note_memory(result, pool)
        self._write()

    def _note_memory(self, result, pool):
        """A line of memory.csv: trials finished, memory of this process and of the worker after its trial."""
        file = self.folder / "memory.csv"
        line = f"{len(self.oracle.end_order)},{result['trial']},{resident_mb() or 0:.1f},{result.get('rss_mb') or 0:.1f}\n"
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
        if not self.progress:
            return
        now = time.monotonic()
        if now - self.drawn < (1 if sys.stderr.isatty() else 60):
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
            bar.set_postfix_str(
                f"{value}, best {so_far}, {self._left()}, {used:.0f} MB", refresh=True
            )

    def _write(self, final=False):
        """leaderboard.csv after every trial; search.html too, as long as it takes little of the time."""
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
            write_json(
                self.folder / "ended.json",
                {
                    "ended": found.ended,
                    "at": time.time(),
                    "winner": (self.best() or {}).get("trial"),
                    "value": found.value,
                    "model": found.model,
                    "model_options": encoded(found.model_options),
                    "fit_options": found.fit_options,
                    "trials": len(self.oracle.end_order),
                    "failed": sum(result["status"] == "failed" for result in self._results()),
                    "seconds": self.elapsed_s(),
                    "training_share": self.training_seconds / max(self.worker_seconds, 1e-9),
                },
            )

    def leaderboard(self):
        """A DataFrame with a row per finished trial, best first."""
        import pandas as pd

        rows = []
        for trial_id in self.oracle.end_order:
            result = self.oracle.results[trial_id]
            row = {name: result.get(name) for name in _COLUMNS}
            values = self.space.decoded(result["values"])
            row |= {
                name: value if isinstance(value, (int, float, str)) else repr(value)
                for name, value in values.items()
            }
            row |= {
                "batch_size": result.get("batch_size", row.get("batch_size")),
                "notes": "; ".join(result.get("notes", [])),
            }
            row["reason"] = result.get("reason")
            rows.append(row)
        names = [
            *_COLUMNS,
            *(name for name in self.space.entries if name not in _COLUMNS),
            "batch_size",
            "notes",
            "reason",
        ]
        board = pd.DataFrame(rows, columns=list(dict.fromkeys(names)))
        return board.sort_values(
            ["value", "epochs_run"],
            ascending=False,
            na_position="last",
            kind="stable",
            ignore_index=True,
        )

    def result(self):
        """What is known now, as a `Search`."""
        best = self.best()
        if best is None:
            values = self.space.defaults()
            model_options, fit_options = self.space.options(values)
        else:
            model_options, fit_options = self.space.options(self.space.decoded(best["values"]))
            fit_options["batch_size"] = best["batch_size"]
        fit_options = {"epochs": self.job["epochs"], **fit_options}
        value = None if best is None else best["value"]
        ended = self.oracle.closed or "running"
        return Search(
            self.job["model"],
            model_options,
            fit_options,
            self.leaderboard(),
            value,
            self.folder,
            ended,
        )

    def page(self, found):
        """search.html."""
        results = [self.oracle.results[trial_id] for trial_id in self.oracle.end_order]
        text = search_page(
            found,
            [(result, self.space.decoded(result["values"])) for result in results],
            self.objective,
            self.space,
            self.job,
        )
        write_text(self.folder / "search.html", text)

    def winner_is_pending(self):
        """True where an earlier call ended its search and was killed before it had reported the winner."""
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
