"""Fit a model, go on where a killed run stopped, measure it once and report.

Conventions
-----------
An epoch is finished when ``checkpoint/state.json`` names it; that file is
written last and replaced whole. Epochs count from 1 in every file. The model
that is kept is that of the epoch with the best validation figure.

Keep what a training has reached, epoch by epoch, so that a killed one goes on.

Conventions
-----------
An epoch is finished when ``state.json`` in the checkpoint folder names it; that file is
written last and replaced whole. Epochs count from 1 in every file. The folder holds nothing else,
and what a training did not write is never removed from it.
"""

import contextlib
import json
import pathlib
import re
import shlex
import sys
import time
import warnings
from functools import partial

import keras
import numpy as np

from ecg_keras import metrics
from ecg_keras._checks import check_option, check_positive
from ecg_keras.batches import TrainBatches
from ecg_keras.dataset import ECGDataset, balance_train, check_parts
from ecg_keras.layers import crop_length
from ecg_keras.pages import paragraph
from ecg_keras.report import check_run_folder, device, peak_rss_mb, versions, write_report
from ecg_keras.saved_models import (
    check_card,
    check_fits,
    check_unseen,
    load_served,
    predict,
    save_served,
)
from ecg_keras.storage import (
    atomic_path,
    final_name,
    fingerprint,
    is_ours,
    read_json,
    write_json,
)

SCHEDULES = ("cosine", "plateau", "constant")


def fit_and_report(
    model,
    train,
    val,
    test,
    *,
    out_dir,
    epochs=12,
    batch_size=128,
    learning_rate=3e-3,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=0.5,
    label_smoothing=0.02,
    class_weight_power=None,
    majority_share="auto",
    monitor="auto",
    patience=None,
    ema=0.0,
    augment=(),
    mixup=0.0,
    balance=None,
    seed=0,
    explain=False,
    progress=True,
):
    """Train a model, keep its best epoch, measure the test part once, and write a report.

    Kill it at any moment and call it again with the same arguments and a network of the same
    weights (call ``keras.utils.set_random_seed`` before building it): it goes on after the last
    finished epoch. A call after a finished run trains anew.

    Parameters
    ----------
    model : keras.Model
        Uncompiled, as `build_model` makes it. Its weights become those of the best epoch.
    train, val, test : ECGDataset
        Parts with the same representation and, where patients are known, none in two parts.
        Only `train` may be balanced.
    out_dir : path
        Folder for report.html, report.json, model.keras, history.csv, predictions.csv and pictures.
        Those of an earlier run are replaced; no other file is.
    epochs : int, default 12
        Passes over the train part, at most.
    batch_size : int, default 128
        Rows per step.
    learning_rate, weight_decay : float
        Of AdamW (Loshchilov & Hutter, ICLR 2019). Biases and normalisation are not decayed.
    schedule : {"cosine", "plateau", "constant"}, default "cosine"
        Learning rate after the warm-up: half a cosine down to 1 % of it, halved after two epochs
        without a better validation figure, or as it is.
    warmup_epochs : float, default 0.5
        Epochs of linear warm-up (cosine only).
    label_smoothing : float, default 0.02
        Share of the target spread over all classes (single-label only).
    class_weight_power : float, optional
        A row weighs ``count_of_its_class ** -power``. By default 0.1, 0.5 for a train part loaded with
        ``balance="class_weight"``, and 0 for one that is resampled, drawn class by class, or multi-label.
    majority_share : float or "auto", default "auto"
        Share of the largest class's rows that an epoch takes, another part of them every epoch. By default
        as many as make two thirds of the epoch, and all where the part is balanced or multi-label:
        beats of the largest class are plenty, and most of an epoch is spent on them.
    monitor : {"auto", "macro_f1", "macro_auc", "loss"}, default "auto"
        Validation figure that chooses the epoch: macro-F1, or macro-AUC for a multi-label task. Under "cosine", of all
        epochs less than 0.005 below the best, which a handful of rare beats can turn, the last is kept.
    patience : int, optional
        Stop after this many epochs without a better figure. By default never for "cosine", whose
        last epochs are its best, else 5.
    ema : float, default 0
        Decay per step of an exponential moving average of the weights, which is then what is
        validated and kept (0: none). Try 0.999.
    augment : sequence of str, default ()
        Names of `batches.AUGMENTATIONS`, for models that take signals.
    mixup : float, default 0
        Parameter of the Beta distribution of mixup; 0 for none.
    balance : {None, "class_weight", "sampler", "smote", "smote_tomek"}
        Balance `train` first, as `balance_train` does; for parts that a loader left as they were.
    seed : int, default 0
        Seed of the order of rows and of every draw while fitting.
    explain : bool or ECGDataset, default False
        Add pictures of what decided to the page. Images hold no waveform to draw on: of them give the test part as it was
        loaded, as in ``explain=beats``; with True only representative rows are drawn on theirs.
        They join the report when the folder is finished; if they fail, a warning and the page say
        why there are none.
    progress : bool, default True
        Show a progress bar.

    Returns
    -------
    Report
        The content of report.json, as a dict that knows its folder.

    Raises
    ------
    ValueError
        If the parts are not comparable, share patients, or do not fit the model, or a file in
        `out_dir` that no run wrote would be replaced.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import build_model, fit_and_report
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> model = build_model("cnn2d", like=train, filters=(4, 8))
    >>> report = fit_and_report(model, train, val, test, out_dir=tempfile.mkdtemp(), epochs=1, progress=False)
    >>> report["test"]["n"] == len(test)
    True
    """
    check_parts(train, val, test)
    for part in (train, val, test):
        check_fits(model, part)
    signals = explain.x if isinstance(explain, ECGDataset) and test.grid is not None else None
    if signals is not None and signals.shape != (len(test), test.n_samples, len(test.leads)):
        raise ValueError(
            f"explain must be the {len(test)} signals that test was made of, got rows of shape {signals.shape}."
        )
    out_dir = pathlib.Path(out_dir)
    check_run_folder(out_dir, test, trained=True, explained=bool(explain))
    if balance is not None:
        train = balance_train(train, balance, seed=seed)
    history = fit(
        model,
        train,
        val,
        folder=out_dir / "checkpoint",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing,
        class_weight_power=class_weight_power,
        majority_share=majority_share,
        monitor=monitor,
        patience=patience,
        ema=ema,
        augment=augment,
        mixup=mixup,
        seed=seed,
        progress=progress,
    )

    start = time.perf_counter()
    probabilities = {"val": predict(model, val), "test": predict(model, test)}
    thresholds = (
        metrics.choose_thresholds(val.y, probabilities["val"]) if train.multi_label else None
    )
    numbers = _facts(model, train, seed) | {
        "settings": history.settings,
        "options": _layer_options(model),
        "epochs_run": len(history.rows),
        "best_epoch": history.best_row + 1,
        "val": _measured(val, probabilities["val"], thresholds),
        "test": _measured(test, probabilities["test"], thresholds),
    }
    whole = save_served(out_dir / "model.keras", model, train, thresholds=thresholds)
    numbers["seconds"] = _seconds(train, val, test) | {
        "fit": sum(row["seconds"] for row in history.rows),
        "evaluate": time.perf_counter() - start,
    }
    numbers["peak_rss_mb"] = peak_rss_mb()
    report = write_report(
        out_dir,
        numbers,
        train=train,
        val=val,
        test=test,
        history=history.rows,
        probabilities=probabilities,
        explain=partial(_explained, whole, test, network=model, signals=signals)
        if explain
        else None,
    )
    clear_checkpoint(out_dir / "checkpoint")
    return report


def fit(
    model,
    train,
    val,
    *,
    folder,
    epochs=12,
    batch_size=128,
    learning_rate=3e-3,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=0.5,
    label_smoothing=0.02,
    class_weight_power=None,
    majority_share="auto",
    monitor="auto",
    patience=None,
    ema=0.0,
    augment=(),
    mixup=0.0,
    seed=0,
    until=None,
    callbacks=(),
    progress=True,
):
    """Train a model and put the weights of its best epoch into it, without measuring or reporting.

    Parameters are those of `fit_and_report`, and:

    Parameters
    ----------
    folder : path
        Where the state to go on from is kept, and nothing else. A call with the same data, settings
        and first weights goes on after the last finished epoch found there; the state of another
        training is replaced.
    until : int, optional
        Stop after this many of the `epochs`; a later call with a larger `until` goes on.
    callbacks : sequence of keras.callbacks.Callback
        Called after the state of an epoch is written.

    Returns
    -------
    Epochs
        ``rows`` holds the figures of each epoch, ``best_row`` the number of the kept one (from 0),
        ``monitor`` and ``settings`` what was used.

    Raises
    ------
    ValueError
        If an option is not known, or `folder` holds a file that no training wrote.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import build_model
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> model = build_model("cnn1d", like=train, filters=(4, 8))
    >>> len(fit(model, train, val, folder=tempfile.mkdtemp(), epochs=3, until=1, progress=False).rows)
    1
    """
    check_option("schedule", schedule, SCHEDULES)
    monitor = check_option("monitor", monitor, ("auto", *MONITORS))
    if monitor == "auto":
        monitor = default_monitor(train)
    for name, value in (
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("learning_rate", learning_rate),
    ):
        check_positive(name, value)
    if class_weight_power is None:
        class_weight_power = _default_power(train)
    if majority_share == "auto":
        majority_share = _default_share(train)
    if patience is None and schedule != "cosine":
        patience = 5
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_epochs": warmup_epochs,
        "label_smoothing": label_smoothing,
        "class_weight_power": class_weight_power,
        "majority_share": majority_share,
        "monitor": monitor,
        "patience": patience,
        "ema": ema,
        "augment": list(augment),
        "mixup": mixup,
        "balance": train.balance.method if train.balance else None,
        "seed": seed,
    }
    keras.utils.set_random_seed(seed)
    return _fit(
        model, train, val, pathlib.Path(folder), settings, until or epochs, callbacks, progress
    )


def evaluate_and_report(model_file, test, *, out_dir, explain=False, allow_seen=False):
    """Measure a saved model on a data set of raw signals and write a report of it.

    Parameters
    ----------
    model_file : path
        A model.keras written by `fit_and_report`.
    test : ECGDataset
        Raw signals, as a loader gives them, with the classes, rate and leads of the model.
    out_dir : path
        Folder for the report.
    explain : bool, default False
        Add pictures of what decided.
    allow_seen : bool, default False
        Measure rows that the model was trained on too. The page then says so across its top, and
        ``seen`` in report.json.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the data set has other classes, another rate, leads or metadata than the model's card
        says, or rows or patients that it was trained on, see `saved_models.check_unseen`.
    """
    start = time.perf_counter()
    check_run_folder(out_dir, test, explained=explain)
    model, card = load_served(model_file)
    check_card(card, test)
    seen = check_unseen(model, test, allow_seen=allow_seen)
    probabilities = predict(model, test)
    numbers = _facts(model, test, seed=None) | {
        "model": card["model"],
        "model_file": pathlib.Path(model_file).name,
        "trained_on": card["source"],
        "seen": seen,
        "notes": [seen["note"]] if seen["note"] else [],
        "test": _measured(test, probabilities, card["thresholds"]),
    }
    numbers["seconds"] = _seconds(test) | {"evaluate": time.perf_counter() - start}
    numbers["peak_rss_mb"] = peak_rss_mb()
    return write_report(
        out_dir,
        numbers,
        test=test,
        probabilities={"test": probabilities},
        explain=partial(_explained, model, test) if explain else None,
    )


def _explained(model, test, **options):
    """The section of explanations, or of a sentence where they fail: the run's report stays."""
    from ecg_keras.explain import report_section

    try:
        return report_section(model, test, **options)
    except Exception as error:  # whatever it is: no explanation is worth a report
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        why = f"There are no explanations: {said}"
        warnings.warn(why, stacklevel=4)
        return "What decided", paragraph(why), {}


def _default_power(train):
    """How strongly rare classes weigh where the caller does not say."""
    if train.multi_label:
        return 0.0
    if train.balance is None:
        return 0.1
    return 0.5 if train.balance.method == "class_weight" else 0.0


def _default_share(train):
    """Rows of the largest class in an epoch: at most twice all others, unless the part is balanced some other way."""
    if train.multi_label or train.balance is not None:
        return 1.0
    counts = np.sort(np.bincount(train.y))
    return float(min(1, 2 * counts[:-1].sum() / counts[-1])) or 1.0


def _measured(ds, probabilities, thresholds):
    """The figures of one part."""
    return metrics.evaluate(
        ds.y,
        probabilities,
        ds.classes,
        patients=ds.patients,
        records=ds.records,
        thresholds=thresholds,
    )


def _fit(model, train, val, folder, settings, until, callbacks, progress):
    """Compile and train `model`, or go on with it; returns the epochs' figures. The best weights are in `model`."""
    length = crop_length(model, train)
    batches = TrainBatches(
        train,
        [tensor.name for tensor in model.inputs],
        batch_size=settings["batch_size"],
        class_weight_power=settings["class_weight_power"],
        majority_share=settings["majority_share"],
        augment=tuple(settings["augment"]),
        crop_samples=length,
        mixup=settings["mixup"],
        sampler=train.balance is not None and train.balance.method == "sampler",
        seed=settings["seed"],
    )
    _compile(model, train, len(batches), settings)
    key = fingerprint(settings, architecture(model), train.fingerprint(), val.fingerprint())
    epochs = Epochs(model, batches, val, folder, key, settings, progress)
    try:
        if not epochs.finished and epochs.done < until:
            model.fit(
                batches,
                initial_epoch=epochs.done,
                epochs=min(until, settings["epochs"]),
                callbacks=[epochs, *callbacks],
                shuffle=False,  # the rows are; Keras would mix whole batches, and not keep how
                verbose=0,
            )
        epochs.restore_best()
    finally:
        epochs.remember()
    return epochs


def _compile(model, train, n_steps, settings):
    """AdamW, cross-entropy and the learning-rate schedule."""
    rate, warmup = settings["learning_rate"], settings["warmup_epochs"]
    if settings["schedule"] == "cosine":
        steps, first = settings["epochs"] * n_steps, int(warmup * n_steps)
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if first else float(rate),
            decay_steps=max(steps - first, 1),
            alpha=0.01,
            warmup_target=float(rate) if first else None,
            warmup_steps=first,
        )
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=settings["weight_decay"],
        use_ema=settings["ema"] > 0,
        ema_momentum=settings["ema"] or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if train.multi_label:
        loss = keras.losses.BinaryCrossentropy()
    else:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=settings["label_smoothing"])
    accuracy = (
        keras.metrics.BinaryAccuracy if train.multi_label else keras.metrics.CategoricalAccuracy
    )
    model.compile(optimizer, loss, metrics=[accuracy(name="accuracy")], jit_compile=_jit())


def _jit():
    """XLA where it helps: on TensorFlow without a GPU it made convolutions two to three times slower."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


def _facts(model, ds, seed):
    """What report.json says of the run besides its figures."""
    return {
        "task": "multi-label" if ds.multi_label else "single-label",
        "source": ds.source,
        "synthetic": ds.synthetic,
        "model": model.name,
        "n_parameters": int(model.count_params()),
        "classes": list(ds.classes),
        "seed": seed,
        "backend": keras.backend.backend(),
        "device": device(),
        "versions": versions(),
        "command": _command(),
    }


def _command():
    """What was typed, absolute paths by their last part: a report may be published."""
    words = [
        pathlib.Path(word).name if pathlib.Path(word).is_absolute() else word for word in sys.argv
    ]
    return shlex.join(words) if sys.argv[0] else None


def _layer_options(model):
    """Shape of the network in one line per input and output."""
    return {tensor.name: list(tensor.shape[1:]) for tensor in model.inputs}


def _seconds(*parts):
    """What loading, balancing and transforming took, over all parts (parts of one load share its time)."""
    total = {"load": 0.0, "transform": 0.0}
    for name in {name for part in parts for name in part.seconds or {}}:
        times = [part.seconds[name] for part in parts if name in (part.seconds or {})]
        total[name] = sum(times) if name == "transform" else max(times)
    return total


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
    """Files of a checkpoint folder: those that a training wrote, state.json last, and others."""
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
                f"{others[0]} was not written by a training, and {self.folder} is to hold nothing "
                "but the state to go on from; move it, or give another folder."
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
                f"the network starts from other weights than the killed run in {self.folder} (to "
                "go on, seed before building: keras.utils.set_random_seed), so it starts anew"
            )
        self.start = now
        self._write_state()

    def remember(self):
        """Note on the network which weights it began from and has now, so that it can go on."""
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
