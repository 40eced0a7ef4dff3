"""Keep what a training has reached, epoch by epoch, so that a killed one goes on.

Conventions
-----------
An epoch is finished when ``state.json`` in the checkpoint folder names it; that file is
written last and replaced whole. Epochs count from 1 in every file. The folder holds nothing else,
and what a training did not write is never removed from it.
"""

import contextlib
import json
import re
import sys
import time

import keras
import numpy as np

from ecg_keras import metrics
from ecg_keras.saved_models import predict
from ecg_keras.storage import (
    atomic_path,
    final_name,
    fingerprint,
    is_ours,
    read_json,
    write_json,
)

_BAND = 0.005  # differences of a figure below this are luck of few rows; of such epochs a cosine's last is the most settled
MONITORS = {"macro_f1": metrics.macro_f1, "macro_auc": metrics.macro_auc, "loss": None}


def default_monitor(ds):
    """The validation figure that chooses epochs and trials: macro-F1, or macro-AUC (multi-label)."""
    return "macro_auc" if ds.multi_label else "macro_f1"


def sign(monitor):
    """1 where a higher figure is better, -1 where a lower one is."""
    return -1 if monitor == "loss" else 1


def architecture(model):
    """The model's configuration with its layers numbered: Keras names them by what was built before in the process."""
    configuration, numbers = json.loads(model.to_json()), {}

    def number(value):
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                numbers.setdefault(part["name"], f"layer {len(numbers)}")
            if isinstance(part, (dict, list)):
                number(part)

    def numbered(value):
        if isinstance(value, dict):
            return {key: numbered(part) for key, part in value.items()}
        if isinstance(value, list):
            return [numbered(part) for part in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    number(configuration)
    return numbered(configuration)


def checkpoint_files(folder):
    """Files in a checkpoint folder that a training wrote, state.json last, and those that none did."""
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []
    known, ours, others = is_ours(folder / "state.json"), [], []
    for file in files:
        name = final_name(file.name)
        named = re.fullmatch(r"state\.json|(best|last)-\d+\.weights\.h5", name) and file.is_file()
        if named and (known or name != file.name):
            ours.append(file)
        elif not file.name.startswith(
            "."
        ):  # hidden files, of a file browser say, are in nobody's way
            others.append(file)
    return sorted(ours, key=lambda file: file.name == "state.json"), others


def clear_checkpoint(folder):
    """Remove what a training wrote, and the folder if that leaves it empty."""
    for file in checkpoint_files(folder)[0]:
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


class Epochs(keras.callbacks.Callback):
    """After each epoch: measure, keep the best weights, write the state to go on from, show progress."""

    def __init__(self, model, batches, val, folder, key, settings, progress):
        super().__init__()
        self.batches, self.val = batches, val
        self.folder, self.key, self.settings = folder, key, settings
        self.monitor, self.progress = settings["monitor"], progress
        self.rows, self.best_row, self.bar = [], None, None
        self.finished = False
        self._averaged = settings["ema"] > 0
        self._load(model)

    @property
    def done(self):
        """Epochs finished so far."""
        return len(self.rows)

    def _load(self, model):
        """Take up a state of the same key and first weights, else start anew in the folder."""
        self._network = model
        if others := checkpoint_files(self.folder)[1]:
            raise ValueError(
                f"{others[0]} was not written by a training, and {self.folder} is to hold nothing but "
                "the state to go on from; move it, or give another folder."
            )
        state, now = read_json(self.folder / "state.json") or {}, _digest(model)
        began, left = getattr(model, "_began", (now, now))
        known = {now, began} if left == now else {now}  # a stopped network goes on itself
        same = state.get("key") == self.key and all(
            (self.folder / name).exists() for name in _weights_files(state["rows"], state["best"])
        )
        if same and state["rows"] and state.get("start") in known:
            self.start = state["start"]
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self.folder / state["last"])
            self.rows, self.best_row = state["rows"], state["best"]
            self.finished = state["finished"]
            return
        if same and state["rows"] and "start" in state:
            print(
                f"the network starts from other weights than the killed run in {self.folder} (to go on, seed "
                "before building it: keras.utils.set_random_seed), so training starts anew"
            )
        self.start = now
        self._write_state()

    def remember(self):
        """Note on the network which weights it began from and now has, so that it can go on itself."""
        self._network._began = (self.start, _digest(self._network))

    def on_train_begin(self, logs=None):
        if self.progress:
            from tqdm.auto import tqdm

            seconds = (
                0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 30
            )  # between lines of a log file
            self.bar = tqdm(
                total=self.params["steps"],
                unit="batch",
                dynamic_ncols=True,
                leave=False,
                mininterval=seconds,
            )
            if self.done:
                tqdm.write(f"going on after epoch {self.done} of {self.settings['epochs']}")

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()
        self.batches.go_to(epoch)
        self._seed(epoch)
        if self.bar is not None:
            self.bar.reset()
            self.bar.set_description(f"epoch {epoch + 1}/{self.settings['epochs']}")

    def _seed(self, epoch):
        """Begin the draws of dropout where this epoch's begin: a weights file does not hold how far they were."""
        states = [
            variable for variable in self.model.variables if variable.name == "seed_generator_state"
        ]
        for number, state in enumerate(states):
            state.assign(
                np.random.SeedSequence([self.settings["seed"], number, epoch]).generate_state(
                    2, np.uint32
                )
            )

    def on_train_batch_end(self, batch, logs=None):
        if self.bar is not None:
            self.bar.update(1)
            if batch % 20 == 0 and logs:
                self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        swap = self._swapped() if self._averaged else None
        row = {"epoch": epoch + 1, "loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        row |= self._validated()
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        better = self._is_better(row)
        if better:
            self.best_row = len(self.rows)
            self._save(f"best-{epoch + 1}.weights.h5")
        if swap is not None:
            swap()
        row["seconds"] = time.perf_counter() - self._start
        self.rows.append(row)
        self._slow_down_or_stop()
        self._save(f"last-{epoch + 1}.weights.h5")
        self._write_state()
        self._show(row, better)

    def _is_better(self, row):
        """True if a new epoch is to be kept instead of the best so far."""
        figures = [sign(self.monitor) * other[f"val_{self.monitor}"] for other in (*self.rows, row)]
        if self.best_row is None:
            return True
        if self.monitor != "loss" and self.settings["schedule"] == "cosine":
            return figures[-1] >= max(figures) - _BAND
        return figures[-1] > figures[self.best_row]

    def _validated(self):
        """Loss and figures on the validation part."""
        probabilities = predict(self.model, self.val)
        y = (
            self.val.y
            if self.val.multi_label
            else np.eye(len(self.val.classes), dtype=np.float32)[self.val.y]
        )
        loss = float(keras.ops.convert_to_numpy(self.model.loss(y, probabilities)))
        row = {"val_loss": loss}
        if not self.val.multi_label:
            row["val_accuracy"] = float((probabilities.argmax(axis=1) == self.val.y).mean())
        for name, measure in MONITORS.items():
            if measure is not None:
                row[f"val_{name}"] = measure(self.val.y, probabilities)
        return row

    def _swapped(self):
        """Put the averaged weights in the model; returns the function that puts the others back."""
        optimizer, variables = self.model.optimizer, self.model.trainable_variables
        kept = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
        optimizer.finalize_variable_values(variables)
        for (
            variable
        ) in variables:  # JAX would else share, and give away, the optimizer's own arrays
            variable.assign(keras.ops.convert_to_numpy(variable).copy())

        def back():
            for variable, value in zip(variables, kept):
                variable.assign(value)

        return back

    def _slow_down_or_stop(self):
        """Halve the rate on a plateau; stop where patience ends."""
        waited = len(self.rows) - 1 - self.best_row
        optimizer = self.model.optimizer
        if self.settings["schedule"] == "plateau" and waited and waited % 2 == 0:
            optimizer.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate)) / 2
        patience = self.settings["patience"]
        if patience is not None and waited >= patience:
            self.model.stop_training = self.finished = True
        self.finished = self.finished or len(self.rows) == self.settings["epochs"]

    def _save(self, name):
        """Write the model's weights (and the optimizer's) whole."""
        with atomic_path(self.folder / name) as part:
            self.model.save_weights(part, overwrite=True)

    def _write_state(self):
        """Name the files to go on from, then drop those of ours no longer named."""
        named = _weights_files(self.rows, self.best_row)
        state = {
            "key": self.key,
            "start": self.start,
            "rows": self.rows,
            "best": self.best_row,
            "last": named[0] if named else None,
            "finished": self.finished,
        }
        write_json(self.folder / "state.json", state)
        for file in checkpoint_files(self.folder)[0]:
            if file.name not in (*named, "state.json"):
                file.unlink()

    def _show(self, row, better):
        """One line per epoch above the bar."""
        if self.bar is None:
            return
        figures = f"loss {row['loss']:.4f}  val_loss {row['val_loss']:.4f}  val_{self.monitor} {row[f'val_{self.monitor}']:.4f}"
        self.bar.write(
            f"epoch {row['epoch']:3d}  {figures}  {row['seconds']:.0f} s{'  best' if better else ''}"
        )

    def on_train_end(self, logs=None):
        if self.bar is not None:
            self.bar.close()

    def restore_best(self):
        """Put the weights of the best epoch into the model."""
        self._network.load_weights(self.folder / f"best-{self.best_row + 1}.weights.h5")


def _weights_files(rows, best_row):
    """Names of the last and of the best weights after these epochs."""
    return [f"last-{len(rows)}.weights.h5", f"best-{best_row + 1}.weights.h5"] if rows else []


def _digest(model):
    """What tells one set of weights from another."""
    return fingerprint(*model.get_weights())
