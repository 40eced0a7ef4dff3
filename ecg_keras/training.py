"""Fit a model, go on where a killed run stopped, measure it once and report.

Conventions
-----------
An epoch is finished when ``checkpoint/state.json`` names it; that file is
written last and replaced whole. Epochs count from 1 in every file. The model
that is kept is that of the epoch with the best validation figure.
"""

import pathlib
import shlex
import sys
import time
import warnings
from functools import partial

import keras
import numpy as np

from ecg_keras import metrics
from ecg_keras._checks import check_option, check_positive
from ecg_keras.balance import balance_train
from ecg_keras.batches import TrainBatches
from ecg_keras.crops import crop_length
from ecg_keras.dataset import ECGDataset, check_parts
from ecg_keras.epochs import MONITORS, Epochs, architecture, clear_checkpoint, default_monitor
from ecg_keras.machine import device, peak_rss_mb, versions
from ecg_keras.pages import escape
from ecg_keras.report import check_run_folder, write_report
from ecg_keras.saved_models import (
    check_card,
    check_fits,
    check_unseen,
    load_served,
    predict,
    save_served,
)
from ecg_keras.storage import fingerprint

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

    Kill it at any moment and call it again with the same arguments and a network of the same weights (call
    ``keras.utils.set_random_seed`` before building it): it goes on after the last finished epoch. A call
    after a finished run trains anew.

    Parameters
    ----------
    model : keras.Model
        Uncompiled, as `build_model` makes it. Its weights become those of the best epoch.
    train, val, test : ECGDataset
        Parts with the same representation and, where patients are known, none in two parts.
        Only `train` may be balanced.
    out_dir : path
        Folder for report.html, report.json, model.keras, history.csv, predictions.csv and pictures. Those of
        an earlier run are replaced; no other file is.
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
        Names of `augment.AUGMENTATIONS`, for models that take signals.
    mixup : float, default 0
        Parameter of the Beta distribution of mixup; 0 for none.
    balance : {None, "class_weight", "sampler", "smote", "smote-tomek"}
        Balance `train` first, as `balance_train` does; for parts that a loader left as they were.
    seed : int, default 0
        Seed of the order of rows and of every draw while fitting.
    explain : bool or ECGDataset, default False
        Add pictures of what decided to the page. Images hold no waveform to draw on: of them give the test part as it was
        loaded, as in ``explain=beats``; with True only typical rows are drawn on theirs.
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
        If the parts are not comparable, share patients, or do not fit the model, or a file in `out_dir`
        that no run wrote would be replaced.

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
        Where the state to go on from is kept, and nothing else. A call with the same data, settings and
        first weights goes on after the last finished epoch found there; another training's state is replaced.
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
        return "What decided", f"<p>{escape(why)}</p>\n", {}


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
                shuffle=False,  # the rows are; Keras would mix whole batches, by a state that is not kept
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
