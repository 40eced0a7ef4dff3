"""Keep what a training has reached, epoch by epoch, so that a killed one goes on.

Conventions
-----------
An epoch is finished when ``state.json`` in the checkpoint folder names it; that file is
written last and replaced whole. Epochs count from 1 in every file.
"""

import json
import shutil
import sys
import time

import keras
import numpy as np

from ecg_keras import metrics
from ecg_keras.serving import predict
from ecg_keras.storage import atomic_path, read_json, write_json

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
        """Take up a state written under the same key, else clear the folder."""
        self._network = model
        state = read_json(self.folder / "state.json")
        if state is None or state["key"] != self.key:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / state["last"])
        self.rows, self.best_row, self.finished = state["rows"], state["best"], state["finished"]

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
        self._write_state(epoch + 1)
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

    def _write_state(self, epoch):
        """Name the files to go on from, then drop those no longer named."""
        last, best = f"last-{epoch}.weights.h5", f"best-{self.best_row + 1}.weights.h5"
        state = {
            "key": self.key,
            "rows": self.rows,
            "best": self.best_row,
            "last": last,
            "finished": self.finished,
        }
        write_json(self.folder / "state.json", state)
        for file in self.folder.glob("*.weights.h5"):
            if file.name not in (last, best):
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
