"""Fit a network, go on where a killed run stopped, measure it once and report.

Conventions
-----------
Epochs count from 1 in every file. An epoch is finished when ``state.json`` in the checkpoint folder
names it: that file is written last, and replaced whole. The folder holds nothing else, and a file
that no training wrote is never removed from it.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import keras
import numpy as np

from ecg_keras import metrics
from ecg_keras._checks import check_option, check_positive, keywords_of
from ecg_keras.batches import AUGMENTATIONS, TrainBatches, targets_of
from ecg_keras.dataset import ECGDataset, balance_train, check_parts
from ecg_keras.layers import crop_length, model_card
from ecg_keras.pages import paragraph
from ecg_keras.report import check_run_folder, device, peak_rss_mb, versions, write_report
from ecg_keras.saved_models import (
    check_card,
    check_fits,
    check_unseen,
    load_model,
    predict,
    save_served,
)
from ecg_keras.storage import atomic_path, final_name, fingerprint, is_ours, read_json, write_json

SCHEDULES = ("cosine", "plateau", "constant")
MONITORS = {"macro_f1": metrics.macro_f1, "macro_auc": metrics.macro_auc, "loss": None}
_BAND = 0.005  # a few rare beats change a figure by less; of such epochs the last is most settled


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a network is fitted: keywords of `fit_and_report` and of `fit`.

    Parameters
    ----------
    epochs : int, default 12
        Passes over the train part, at most.
    batch_size : int, default 128
        Rows per step.
    learning_rate : float, default 3e-3
        Of AdamW (Loshchilov & Hutter, ICLR 2019); above 0.
    weight_decay : float, default 0.02
        Of AdamW, at least 0. Biases and normalisation are not decayed.
    schedule : {"cosine", "plateau", "constant"}, default "cosine"
        Learning rate after the warm-up: half a cosine down to 1 % of it; halved after every two
        epochs without a better validation figure; or as it is.
    warmup_epochs : float, default 0.5
        Epochs in which the rate rises from 0, linearly; at least 0. For "cosine" only.
    label_smoothing : float, default 0.02
        Share of the target that is spread over all classes, in [0, 1). Single-label only.
    class_weight_power : float, optional
        A row weighs ``count_of_its_class ** -power``; at least 0. By default 0.1; 0.5 for a train
        part loaded with ``balance="class_weight"``; and 0 for one that is resampled, drawn class by
        class, or multi-label.
    majority_share : float or "auto", default "auto"
        Share of the largest class's rows that an epoch takes, in (0, 1]; the next epoch takes other
        ones. By default they make at most two thirds of the epoch, which would else be spent on
        them; and all are taken where the part is balanced or multi-label.
    monitor : {"auto", "macro_f1", "macro_auc", "loss"}, default "auto"
        Validation figure that chooses the epoch to keep: "auto" is macro-F1, or macro-AUC for a
        multi-label task. The best epoch is kept; with "cosine", of all epochs less than 0.005 below
        the best, the last.
    patience : int, optional
        Stop after this many epochs without a better figure; at least 1. By default never for
        "cosine", whose last epochs are its best, else 5.
    ema : float, default 0
        Decay per step of an exponential moving average of the weights, in [0, 1). The average is
        then what is validated and kept. 0 for none; try 0.999.
    augment : sequence of str, default ()
        Names of `batches.AUGMENTATIONS`, for models that take signals.
    mixup : float, default 0
        Parameter of the Beta distribution of mixup, at least 0; 0 for none.
    seed : int, default 0
        Seed of the order of rows and of every draw while fitting.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range or of another type; names it.

    Examples
    --------
    >>> FitOptions(epochs=3).learning_rate
    0.003
    """

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    schedule: str = "cosine"
    warmup_epochs: float = 0.5
    label_smoothing: float = 0.02
    class_weight_power: float | None = None
    majority_share: float | str = "auto"
    monitor: str = "auto"
    patience: int | None = None
    ema: float = 0.0
    augment: tuple = ()
    mixup: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            if name != "patience" or self.patience is not None:
                _check_whole(name, getattr(self, name), least=least)
        check_positive("learning_rate", self.learning_rate)
        for name in ("weight_decay", "warmup_epochs", "class_weight_power", "mixup"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name), zero=True)
        for name in ("label_smoothing", "ema"):
            if check_positive(name, getattr(self, name), zero=True) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")
        if (
            self.majority_share != "auto"
            and check_positive("majority_share", self.majority_share) > 1
        ):
            raise ValueError(f"majority_share must be at most 1, got {self.majority_share}.")
        if isinstance(self.augment, str):
            raise TypeError(f"augment must be a sequence of names: ({self.augment!r},).")
        put = partial(object.__setattr__, self)  # old spellings become those of now
        put("schedule", check_option("schedule", self.schedule, SCHEDULES))
        put("monitor", check_option("monitor", self.monitor, ("auto", *MONITORS)))
        put("augment", tuple(check_option("augment", name, AUGMENTATIONS) for name in self.augment))

    def settings(self, train):
        """All options as JSON values, with what was left open chosen for a train part."""
        chosen = dataclasses.asdict(self) | {"augment": list(self.augment)}
        if self.class_weight_power is None:
            chosen["class_weight_power"] = _default_power(train)
        if self.majority_share == "auto":
            chosen["majority_share"] = _default_share(train)
        if self.monitor == "auto":
            chosen["monitor"] = default_monitor(train)
        if self.patience is None and self.schedule != "cosine":
            chosen["patience"] = 5
        balance = train.balance.method if train.balance else None
        return chosen | {"balance": balance, "seed": chosen.pop("seed")}


def _check_whole(name, value, *, least):
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def _default_power(train):
    """How strongly rare classes weigh where the caller does not say."""
    if train.multi_label:
        return 0.0
    if train.balance is None:
        return 0.1
    return 0.5 if train.balance.method == "class_weight" else 0.0


def _default_share(train):
    """Share of the largest class in an epoch: at most twice as many rows as of all others."""
    if train.multi_label or train.balance is not None:
        return 1.0
    counts = np.sort(np.bincount(train.y))
    return float(min(1, 2 * counts[:-1].sum() / counts[-1])) or 1.0


def default_monitor(ds):
    """The validation figure that chooses epochs: macro-F1, or macro-AUC for multi-label."""
    return "macro_auc" if ds.multi_label else "macro_f1"


@keywords_of(FitOptions)
def fit_and_report(
    model, train, val, test, *, out_dir, balance=None, explain=False, progress=True, **options
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
    balance : {None, "class_weight", "sampler", "smote", "smote_tomek"}
        Balance `train` first, as `balance_train` does; for parts that a loader left as they were.
    explain : bool or ECGDataset, default False
        Add pictures of what decided to the page. They join the report when the folder is finished;
        if they fail, a warning and the page say why there are none. Images hold no waveform to draw
        on: of them give the test part as it was loaded, as in ``explain=beats``; with True only
        representative rows are drawn on theirs.
    progress : bool, default True
        Show a progress bar.
    **options
        How to fit: see `FitOptions`.

    Returns
    -------
    Report
        The content of report.json, as a dict that knows its folder.

    Raises
    ------
    ValueError, TypeError
        If the parts are not comparable, share patients, or do not fit the model; if an option is
        not known or out of its range; if a file in `out_dir` that no run wrote would be replaced.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import build_model, fit_and_report, load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> model = build_model("cnn2d", like=train, filters=(4, 8))
    >>> report = fit_and_report(
    ...     model, train, val, test, out_dir=tempfile.mkdtemp(), epochs=1, progress=False
    ... )
    >>> report["test"]["n"] == len(test)
    True
    """
    options = FitOptions(**options)
    check_parts(train, val, test)
    for part in (train, val, test):
        check_fits(model, part)
    signals = explain.x if isinstance(explain, ECGDataset) and test.grid is not None else None
    if signals is not None and signals.shape != (len(test), test.n_samples, len(test.leads)):
        raise ValueError(
            f"explain must be the {len(test)} signals that test was made of, got rows of shape "
            f"{signals.shape}."
        )
    out_dir = pathlib.Path(out_dir)
    check_run_folder(out_dir, test, trained=True, explained=bool(explain))
    if balance is not None:
        train = balance_train(train, balance, seed=options.seed)
    checkpoint = out_dir / "checkpoint"
    history = fit(model, train, val, folder=checkpoint, progress=progress, **vars(options))

    start = time.perf_counter()
    probabilities = {"val": predict(model, val), "test": predict(model, test)}
    thresholds = (
        metrics.choose_thresholds(val.y, probabilities["val"]) if train.multi_label else None
    )
    numbers = _facts(model, train, options.seed) | {
        "settings": history.settings,
        "options": {tensor.name: list(tensor.shape[1:]) for tensor in model.inputs},
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
    clear_checkpoint(checkpoint)
    return report


def evaluate_and_report(model, test, *, out_dir, explain=False, allow_seen=False):
    """Measure a saved model on a data set of raw signals and write a report of it.

    Parameters
    ----------
    model : path or keras.Model
        A model.keras written by `fit_and_report`, or what `load_model` made of it.
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
        The content of report.json, as a dict that knows its folder.

    Raises
    ------
    ValueError
        If the data set has other classes, another rate, leads or metadata than the model's card
        says, or rows or patients that it was trained on, see `saved_models.check_unseen`.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import build_model, evaluate_and_report, fit_and_report, load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> model = build_model("cnn1d", like=train, filters=(4, 8))
    >>> run = tempfile.mkdtemp()
    >>> _ = fit_and_report(model, train, val, test, out_dir=run, epochs=1, progress=False)
    >>> report = evaluate_and_report(run + "/model.keras", test, out_dir=tempfile.mkdtemp())
    >>> report["test"]["n"] == len(test)
    True
    """
    start = time.perf_counter()
    check_run_folder(out_dir, test, explained=explain)
    file = None if isinstance(model, keras.Model) else pathlib.Path(model)
    model = model if file is None else load_model(file)
    card = model_card(model)
    check_card(card, test)
    seen = check_unseen(model, test, allow_seen=allow_seen)
    probabilities = predict(model, test)
    numbers = _facts(model, test, seed=None) | {
        "model": card["model"],
        "model_file": file and file.name,
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


def _seconds(*parts):
    """What loading and transforming took, over all parts; those of one load share its time."""
    total = {"load": 0.0, "transform": 0.0}
    for name in {name for part in parts for name in part.seconds or {}}:
        times = [part.seconds[name] for part in parts if name in (part.seconds or {})]
        total[name] = sum(times) if name == "transform" else max(times)
    return total


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


@keywords_of(FitOptions)
def fit(model, train, val, *, folder, until=None, callbacks=(), progress=True, **options):
    """Train a model and give it the weights of its best epoch, without measuring or reporting.

    Parameters
    ----------
    model, train, val
        As for `fit_and_report`.
    folder : path
        Where the state to go on from is kept, and nothing else. A call with the same data, settings
        and first weights goes on after the last finished epoch found there; the state of another
        training is replaced.
    until : int, optional
        Stop after this many of the `epochs`; a later call with a larger `until` goes on.
    callbacks : sequence of keras.callbacks.Callback
        Called after the state of an epoch is written.
    progress : bool, default True
        Show a progress bar.
    **options
        How to fit: see `FitOptions`.

    Returns
    -------
    Epochs
        ``rows`` holds the figures of each epoch, ``best_row`` the number of the kept one (from 0),
        ``monitor`` and ``settings`` what was used.

    Raises
    ------
    ValueError, TypeError
        If an option is not known or out of its range, or `folder` holds a file that no training
        wrote.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import build_model, load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> model = build_model("cnn1d", like=train, filters=(4, 8))
    >>> history = fit(model, train, val, folder=tempfile.mkdtemp(), until=1, progress=False)
    >>> len(history.rows)
    1
    """
    settings = FitOptions(**options).settings(train)
    last = settings["epochs"]
    if until is not None:
        _check_whole("until", until, least=1)
        last = min(until, last)
    keras.utils.set_random_seed(settings["seed"])
    batches = TrainBatches(
        train,
        [tensor.name for tensor in model.inputs],
        batch_size=settings["batch_size"],
        class_weight_power=settings["class_weight_power"],
        majority_share=settings["majority_share"],
        augment=settings["augment"],
        crop_samples=crop_length(model, train),
        mixup=settings["mixup"],
        sampler=settings["balance"] == "sampler",
        seed=settings["seed"],
    )
    _compile(model, train, len(batches), settings)
    key = fingerprint(settings, architecture(model), train.fingerprint(), val.fingerprint())
    epochs = Epochs(model, batches, val, pathlib.Path(folder), key, settings)
    try:
        if not epochs.finished and epochs.done < last:
            model.fit(
                batches,
                initial_epoch=epochs.done,
                epochs=last,
                callbacks=[epochs, *([_Bar(epochs)] if progress else []), *callbacks],
                shuffle=False,  # the rows are; Keras would mix whole batches, and not keep how
                verbose=0,
            )
        epochs.restore_best()
    finally:
        epochs.leave()
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
        loss, accuracy = keras.losses.BinaryCrossentropy(), keras.metrics.BinaryAccuracy
    else:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=settings["label_smoothing"])
        accuracy = keras.metrics.CategoricalAccuracy
    model.compile(optimizer, loss, metrics=[accuracy(name="accuracy")], jit_compile=_jit())


def _jit():
    """XLA where it helps: it made convolutions of TensorFlow on a CPU two to three times slower."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


def architecture(model):
    """The model's configuration, its layers numbered: Keras names them by what was built before."""
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
    """The epochs of a training: each is measured, the best kept, the state to go on from written.

    Attributes
    ----------
    rows : list of dict
        The figures of each epoch.
    best_row : int or None
        Number of the epoch whose weights are kept, from 0.
    finished : bool
        True after the last epoch, or where patience has ended.
    monitor, settings : str, dict
        What was used.
    """

    def __init__(self, model, batches, val, folder, key, settings):
        super().__init__()
        self._network, self.batches, self.val = model, batches, val
        self.folder, self.key, self.settings = folder, key, settings
        self.monitor = settings["monitor"]
        self.rows, self.best_row, self.finished = [], None, False
        if others := checkpoint_files(folder)[1]:
            raise ValueError(
                f"{others[0]} was not written by a training, and {folder} is to hold nothing but "
                "the state to go on from; move it, or give another folder."
            )
        self._go_on_or_start()

    @property
    def done(self):
        """Epochs finished so far."""
        return len(self.rows)

    def _go_on_or_start(self):
        """Take up the state of the same training and first weights, else start anew."""
        state, now = read_json(self.folder / "state.json") or {}, _digest(self._network)
        same = (
            state.get("key") == self.key
            and state["rows"]
            and all((self.folder / name).exists() for name in _weights_files(state))
        )
        if same and now in (state.get("start"), state.get("left")):
            self.start = state["start"]
            self._network.optimizer.build(self._network.trainable_variables)
            self._network.load_weights(self.folder / _weights_files(state)[0])
            self.rows, self.best_row = state["rows"], state["best"]
            self.finished = state["finished"]
            return
        if same:
            print(
                f"the network starts from other weights than the killed run in {self.folder} (to "
                "go on, seed before building: keras.utils.set_random_seed), so it starts anew"
            )
        self.start = now
        self._write_state()

    def on_epoch_begin(self, epoch, logs=None):
        """Go to the epoch's batches and its draws."""
        self._start = time.perf_counter()
        self.batches.go_to(epoch)
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for number, state in enumerate(states):  # of dropout; a weights file does not hold them
            seeds = np.random.SeedSequence([self.settings["seed"], number, epoch])
            state.assign(seeds.generate_state(2, np.uint32))

    def on_epoch_end(self, epoch, logs=None):
        """Measure, keep the best, and write the state to go on from."""
        row = {"epoch": epoch + 1, "loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        with self._averaged_weights():
            row |= self._validated()
            row["learning_rate"] = float(_number(self.model.optimizer.learning_rate))
            if self._is_better(row):
                self.best_row = len(self.rows)
                self._save(f"best-{epoch + 1}.weights.h5")
        row["seconds"] = time.perf_counter() - self._start
        self.rows.append(row)
        self._slow_down_or_stop()
        self._save(f"last-{epoch + 1}.weights.h5")
        self._write_state()

    @contextlib.contextmanager
    def _averaged_weights(self):
        """Give the model its averaged weights, where there are any, and then its own again.

        Keras's SwapEMAWeights adds and subtracts them on TensorFlow: its own come back rounded.
        """
        if not self.settings["ema"]:
            yield
            return
        variables = self.model.trainable_variables
        own = [_number(variable).copy() for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        for variable in variables:  # JAX would share, and give away, the optimizer's arrays
            variable.assign(_number(variable).copy())
        try:
            yield
        finally:
            for variable, value in zip(variables, own):
                variable.assign(value)

    def _validated(self):
        """Loss and figures on the validation part."""
        val, probabilities = self.val, predict(self.model, self.val)
        row = {"val_loss": float(_number(self.model.loss(targets_of(val), probabilities)))}
        if not val.multi_label:
            row["val_accuracy"] = float((probabilities.argmax(axis=1) == val.y).mean())
        for name, measure in MONITORS.items():
            if measure is not None:
                row[f"val_{name}"] = measure(val.y, probabilities)
        return row

    def _is_better(self, row):
        """True if a new epoch is to be kept instead of the best so far."""
        if self.best_row is None:
            return True
        sign = -1 if self.monitor == "loss" else 1
        figures = [sign * other[f"val_{self.monitor}"] for other in (*self.rows, row)]
        if self.monitor != "loss" and self.settings["schedule"] == "cosine":
            return figures[-1] >= max(figures) - _BAND
        return figures[-1] > figures[self.best_row]

    def _slow_down_or_stop(self):
        """Halve the rate on a plateau; stop where patience ends."""
        waited = len(self.rows) - 1 - self.best_row
        optimizer = self.model.optimizer
        if self.settings["schedule"] == "plateau" and waited and waited % 2 == 0:
            optimizer.learning_rate = float(_number(optimizer.learning_rate)) / 2
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
        state = {
            "key": self.key,
            "start": self.start,
            "rows": self.rows,
            "best": self.best_row,
            "last": f"last-{len(self.rows)}.weights.h5" if self.rows else None,
            "finished": self.finished,
        }
        write_json(self.folder / "state.json", state)
        for file in checkpoint_files(self.folder)[0]:
            if file.name not in (*_weights_files(state), "state.json"):
                file.unlink()

    def restore_best(self):
        """Put the weights of the best epoch into the model."""
        self._network.load_weights(self.folder / f"best-{self.best_row + 1}.weights.h5")

    def leave(self):
        """Note which weights the network is left with, so that the same network can go on."""
        if state := read_json(self.folder / "state.json"):
            write_json(self.folder / "state.json", state | {"left": _digest(self._network)})


def _weights_files(state):
    """Names of the last and of the best weights that a state goes on from."""
    return [state["last"], f"best-{state['best'] + 1}.weights.h5"] if state["rows"] else []


def _digest(model):
    """What tells one set of weights from another."""
    return fingerprint(*model.get_weights())


def _number(tensor):
    """A tensor or variable as NumPy."""
    return keras.ops.convert_to_numpy(tensor)


class _Bar(keras.callbacks.Callback):
    """A bar of batches, and above it one line per epoch."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.n_epochs = epochs, epochs.settings["epochs"]

    def on_train_begin(self, logs=None):
        from tqdm.auto import tqdm

        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.bar = tqdm(
            total=self.params["steps"],
            unit="batch",
            dynamic_ncols=True,
            leave=False,
            mininterval=0.2 if watched else 30,  # seconds between lines of a log file
        )
        if self.epochs.done:
            tqdm.write(f"going on after epoch {self.epochs.done} of {self.n_epochs}")

    def on_epoch_begin(self, epoch, logs=None):
        self.bar.reset()
        self.bar.set_description(f"epoch {epoch + 1}/{self.n_epochs}")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update(1)
        if batch % 20 == 0 and logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        row, figure = self.epochs.rows[-1], f"val_{self.epochs.monitor}"
        best = "  best" if self.epochs.best_row == epoch else ""
        self.bar.write(
            f"epoch {row['epoch']:3d}  loss {row['loss']:.4f}  val_loss {row['val_loss']:.4f}  "
            f"{figure} {row[figure]:.4f}  {row['seconds']:.0f} s{best}"
        )

    def on_train_end(self, logs=None):
        self.bar.close()


def checkpoint_files(folder):
    """Files of a checkpoint folder: those that a training wrote, state.json last, and others."""
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []
    known, ours, others = is_ours(folder / "state.json"), [], []
    for file in files:
        name = final_name(file.name)
        named = re.fullmatch(r"state\.json|(best|last)-\d+\.weights\.h5", name) and file.is_file()
        if named and (known or name != file.name):
            ours.append(file)
        elif not file.name.startswith("."):  # hidden files, of a file browser say, may stay
            others.append(file)
    return sorted(ours, key=lambda file: file.name == "state.json"), others


def clear_checkpoint(folder):
    """Remove what a training wrote, and the folder if that leaves it empty."""
    for file in checkpoint_files(folder)[0]:
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
