"""Write what a run found: a page for people, the same figures for programs, and pictures.

Conventions
-----------
A run's folder holds report.json, history.csv, predictions.csv, PNG files and report.html. Each
is written whole or not at all, and the page last, so a folder with a page is finished.
`numbers` is the content of report.json; the page shows nothing that is not in it, in the data
or in the files beside it. Figures are shares in 0..1; the page shows them in percent or with
three decimals, and a dash where a figure cannot be known. Memory is in MB of 10^6 bytes.

The functions stand in the order of a run: the folder, its pictures, the page section by
section, what the run was made on, and the tables over many runs.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import sys
import time

import numpy as np
import pandas as pd
from markupsafe import Markup

from ecg_keras import pages, plots
from ecg_keras.dataset import representative, representative_rows
from ecg_keras.grids import SpectrogramGrid
from ecg_keras.pages import decimal, percent, range_text
from ecg_keras.spectrograms import represent
from ecg_keras.storage import atomic_path, check_free, digest_rows, write_json, write_text

SYNTHETIC = (
    "Synthetic data: these signals were made by a program. The figures say nothing about patients."
)
SEEN = (
    "Not a test: the model was trained on these rows, or on others of the same patients. The "
    "figures say nothing about new ones."
)
_CURVES = {  # column of history.csv to its label
    "loss": "loss",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "macro_auc": "macro-AUC",
}
_WITH_INTERVAL = ("accuracy", "macro_f1", "macro_auc")  # of results.csv
_WITH_SPREAD = (
    *_WITH_INTERVAL,
    "S_sensitivity",
    "S_predictivity",
    "V_sensitivity",
    "V_predictivity",
)
_SAMPLE_ROWS = 5_000  # rows looked at for ranges; duplicates and labels use all
_FEW_ROWS = 20  # of a class: one row more or less moves its recall by 5 points


class Report(dict):
    """The content of report.json, with the folder it lies in as `out_dir`.

    Examples
    --------
    >>> Report({"model": "cnn2d", "test": {"accuracy": 0.9}}, "outputs/run")["test"]["accuracy"]
    0.9
    """

    def __init__(self, numbers, out_dir):
        super().__init__(numbers)
        self.out_dir = pathlib.Path(out_dir)

    @property
    def page(self):
        """Path of report.html."""
        return self.out_dir / "report.html"

    def summary(self):
        """One line: model, test accuracy beside the majority's, macro F1, macro AUC, folder."""
        test = self["test"]
        mark = "SYNTHETIC DATA: " if self.get("synthetic") else ""
        if (self.get("seen") or {}).get("too_many"):
            mark += "ROWS IT WAS TRAINED ON: "
        return (
            f"{mark}{self.get('model')}: test accuracy {percent(test['accuracy'])} "
            f"(always the largest class: {percent(test.get('majority_accuracy'))}), "
            f"macro-F1 {decimal(test.get('macro_f1'))}, "
            f"macro-AUC {decimal(test.get('macro_auc'))}; {self.page}"
        )

    def __repr__(self):
        return f"<Report: {self.summary()}>" if "test" in self else f"<Report in {self.out_dir}>"

    def _repr_html_(self):
        """The key figures as a table, for notebooks."""
        bold = Markup("<b>{}</b>")
        warning = _banner(self)
        html = pages.paragraph(bold.format(warning)) if warning else Markup()
        html += pages.paragraph(bold.format(f"{self.get('model')}: {self.page}"))
        return html + _overall(self)


def write_report(
    out_dir,
    numbers,
    *,
    train=None,
    val=None,
    test,
    history=(),
    probabilities,
    sections=(),
    explain=None,
):
    """Write a run's folder and return its numbers.

    Parameters
    ----------
    out_dir : path
        Folder of the run; made if absent.
    numbers : dict
        Everything report.json is to hold (the README has its keys). ``numbers["test"]`` and, where
        there is a validation part, ``numbers["val"]`` come from `metrics.evaluate`. The page also
        shows ``settings`` (dict), ``command``, ``best_epoch`` and ``notes`` (list of str).
    train, val : ECGDataset, optional
        Parts the model was fitted and chosen on; absent where only a saved model is evaluated.
    test : ECGDataset
        The part measured.
    history : sequence of dict, optional
        One dict per epoch (epoch, loss, val_loss, macro_f1, val_macro_f1, learning_rate, seconds
        ...).
    probabilities : dict of str to float (n, classes)
        "test", and "val" where known.
    sections : sequence of (str, str, dict), optional
        More sections: heading, HTML body, and PNG bytes by file name (without ``.png``). The
        caption of a picture is its name with spaces for underscores.
    explain : function, optional
        Makes one more section, of explanations, which may take long. It is called when the folder
        is finished; the page is then written again, and report.json with the seconds it took.

    Returns
    -------
    Report
        A dict of `numbers` that knows its folder and shows itself in notebooks.

    Raises
    ------
    ValueError
        If predictions and test rows differ in number.
    """
    out_dir = pathlib.Path(out_dir)
    scores = np.asarray(probabilities["test"])
    if scores.shape != (len(test), len(test.classes)):
        raise ValueError(
            f"probabilities['test'] must have shape ({len(test)}, {len(test.classes)}): a row per "
            f"test row, a column per class; got {scores.shape}."
        )
    history = [dict(row) for row in history]
    parts = {"train": train, "val": val, "test": test}
    parts = {name: part for name, part in parts.items() if part is not None}
    inspection = inspect(**parts)
    report = Report({**numbers, "inspection": dict(inspection)}, out_dir)
    drawn = {
        "data": _data_pictures(train, val, test),
        "curves": _curve_pictures(history, report),
        "results": _result_pictures(test, scores, report),
    }
    write_json(out_dir / "report.json", report)
    _write_csv(out_dir / "history.csv", history)
    _write_csv(out_dir / "predictions.csv", _predictions(test, scores, report["test"]))
    for pictures in (*drawn.values(), *(pictures for *_, pictures in sections)):
        write_pictures(out_dir, pictures)
    told = functools.partial(_page, report, parts, history, inspection, drawn)
    if explain is not None:
        why = pages.paragraph("The explanations were not finished when this page was written.")
        write_text(report.page, told([*sections, ("What decided", why, {})]))
        start = time.perf_counter()
        sections = [*sections, explain()]
        seconds = {"explain": time.perf_counter() - start}
        report["seconds"] = {**(report.get("seconds") or {}), **seconds}
        write_json(out_dir / "report.json", report)
        write_pictures(out_dir, sections[-1][2])
    write_text(report.page, told(sections))
    return report


def check_run_folder(out_dir, test, *, trained=False, explained=False):
    """Refuse a folder where a run measured on `test` would replace files that no run wrote."""
    names = ["report.html", "report.json", "history.csv", "predictions.csv"]
    pictures = "class_distribution labelled confusion roc precision_recall calibration".split()
    for name in map(_file_name, test.classes):
        pictures += [f"signal_{name}", f"image_{name}"]
    if trained:
        names.append("model.keras")
        pictures += [f"curve_{name}" for name in _CURVES]
    if explained:
        pictures.append("explained_*")
    names += [f"{name}.png" for name in pictures]
    check_free(out_dir, names, "report.json", "checkpoint/state.json")


def write_pictures(folder, pictures):
    """Write pictures, PNG bytes or (bytes, caption) by name, as files."""
    for name, picture in pictures.items():
        with atomic_path(pathlib.Path(folder) / f"{name}.png") as part:
            part.write_bytes(picture[0] if isinstance(picture, tuple) else picture)


def _write_csv(path, rows):
    """Dicts, or columns by name, to a CSV file; cells as `str` writes them, empty for None."""
    frame = pd.DataFrame(rows, dtype=object)  # of objects: whole numbers stay whole beside a None
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _predictions(test, scores, figures):
    """Columns of predictions.csv: name to a value per test row."""
    names = np.array(test.classes)
    if test.multi_label:
        said = scores >= np.asarray(figures.get("thresholds") or 0.5)
        joined = lambda labels: ["|".join(names[row]) for row in labels]
        true, predicted = joined(test.y.astype(bool)), joined(said)
    else:
        true, predicted = names[test.y], names[scores.argmax(axis=1)]
    columns = {"row": range(len(test)), "true": true, "predicted": predicted}
    for name, column in zip(test.classes, scores.T):
        columns[f"p_{name}"] = [f"{value:.8g}" for value in column]
    ids = {"patient": test.patients, "record": test.records}
    return columns | {name: values for name, values in ids.items() if values is not None}


def _file_name(text):
    """Class name as part of a file name."""
    return "".join(char if char.isalnum() or char in "-+" else "-" for char in str(text))


def _data_pictures(train, val, test):
    """Class distribution, rows under their labels, and a signal and an image of each class.

    Pictures are (PNG bytes, caption) by file name, here and below.
    """
    name, first = ("train", train) if train is not None else ("test", test)
    balance = first.balance
    before = first.class_counts() if balance is None else balance.counts_before
    after = first.class_counts() if balance is not None and balance.resampled else None
    caption = f"Rows of each class in the {name} part"
    caption += ", before and after balancing." if after else "."
    axes = plots.plot_class_distribution(before, after=after)
    pictures = {"class_distribution": (plots.png(axes), caption)}

    name, seen = ("val", val) if val is not None else ("test", test)  # never resampled
    lead = "" if len(seen.leads) == 1 else f", lead {seen.leads[0]}"
    caption = f"Rows of {name} under their labels{lead}, each scaled by itself."
    pictures["labelled"] = plots.png(plot_labelled(seen)), caption

    signals = representative(seen) if seen.grid is None else getattr(seen, "examples", None)
    if signals is None:
        images = representative(seen)
    else:
        images = represent(signals, seen.grid or _viewing_grid(seen))
    told = "its spectrogram" if seen.grid is None else "what the model sees"
    for kind, row in representative_rows(images if signals is None else signals).items():
        if signals is not None:
            axes = _draw_row(signals, row, kind)
            pictures[f"signal_{_file_name(kind)}"] = plots.png(axes), f"Class {kind}: the signal."
        axes = _draw_row(images, row, kind)
        pictures[f"image_{_file_name(kind)}"] = plots.png(axes), f"Class {kind}: {told}."
    return pictures


def _viewing_grid(ds):
    """A spectrogram grid to look at signals: windows of half a second, or a quarter of the row."""
    frame = max(4, 2 * min(round(0.256 * ds.fs), ds.n_samples // 8))
    return SpectrogramGrid(ds.fs, frame_length=frame, hop_length=max(1, frame // 6))


def _draw_row(ds, row, kind):
    """One row of a data set on axes: its signal, spectrum or image."""
    x, geometry = ds.x[row], {"grid": ds.grid, "n_samples": ds.n_samples}
    if ds.is_images:
        lead = f", lead {ds.leads[0]}" if len(ds.leads) > 1 else ""
        return plots.plot_image(x, **geometry, title=f"{kind}: image{lead}")
    if ds.grid is not None:
        return plots.plot_spectrum(x, **geometry, leads=ds.leads, title=f"{kind}: spectrum")
    return plots.plot_signal(x, fs=ds.fs, unit=ds.unit, leads=ds.leads, title=f"{kind}: signal")


def _curve_pictures(history, report):
    """Each figure that the history has over the epochs."""
    pictures = {}
    for name, label in _CURVES.items():
        keys = (name, f"val_{name}")
        if any(row.get(key) is not None for row in history for key in keys):
            axes = plots.plot_history(
                history, keys, label=label, best_epoch=report.get("best_epoch")
            )
            pictures[f"curve_{name}"] = plots.png(axes), f"{label} over the epochs."
    return pictures


def _result_pictures(test, scores, report):
    """Confusion matrix, ROC, precision-recall and calibration of the test part."""
    figures, drawn = report["test"], {}
    if not test.multi_label:
        drawn["confusion"] = (
            plots.plot_confusion(figures["confusion"], test.classes),
            "Confusion matrix: counts, and the percentage of each true class.",
        )
    drawn["roc"] = (
        plots.plot_roc(test.y, scores, test.classes),
        "ROC curve of each class against all others.",
    )
    drawn["precision_recall"] = (
        plots.plot_precision_recall(test.y, scores, test.classes),
        "Precision over recall of each class against all others.",
    )
    drawn["calibration"] = (
        plots.plot_calibration(test.y, scores, ece=figures.get("ece")),
        "Calibration: how often an answer given with this probability is right.",
    )
    return {name: (plots.png(axes), caption) for name, (axes, caption) in drawn.items()}


def _page(report, parts, history, inspection, pictures, sections):
    """The page of a run; `pictures` has those of "data", "curves" and "results"."""
    test = parts["test"]
    chapters = [
        ("headline", "Result", _headline(report, test)),
        ("notes", "Read this first", _notes(report, parts, inspection)),
        ("data", "Data", _data(parts, inspection, pictures["data"])),
        ("settings", "Settings", _settings(report)),
    ]
    if history:
        chapters.append(("training", "Training", _training(history, report, pictures["curves"])))
    chapters.append(("results", "Test results", _results(report)))
    chapters.append(("pictures", "Test results in pictures", _gallery(pictures["results"])))
    for i, (heading, body, own) in enumerate(sections):
        chapters.append((f"section-{i + 1}", heading, Markup(body) + _gallery(own)))
    chapters.append(("reproducibility", "Reproducibility", _reproducibility(report)))
    title = f"{report.get('model', 'model')} on {report.get('source', test.source)}"
    return pages.page(title, chapters, banner=_banner(report))


def _banner(report):
    """The warning across the top of a run's page, or None: made by a program, no test, or both."""
    seen = (report.get("seen") or {}).get("too_many")
    return " ".join([SYNTHETIC] * bool(report.get("synthetic")) + [SEEN] * bool(seen)) or None


def _headline(report, test):
    """What was measured on what, and the key figures as cards."""
    figures, ci95 = report["test"], report["test"].get("ci95") or {}
    people = f" of {figures['n_patients']:,} patients" if figures.get("n_patients") else ""
    task = "each row may have several of" if test.multi_label else "each row is one of"
    size = f"{report['n_parameters']:,} parameters" if report.get("n_parameters") else "a model"
    names = ", ".join(test.classes[:12]) + (" ..." if len(test.classes) > 12 else "")
    text = (
        f"{report.get('model', 'The model')} ({size}) was measured once on {figures['n']:,} test "
        f"rows{people}; {task} {len(test.classes)} classes: {names}."
    )
    exact = "exact-match accuracy" if test.multi_label else "test accuracy"
    always = "always the most frequent labels" if test.multi_label else "always the largest class"
    accuracy, majority = percent(figures["accuracy"]), percent(figures["majority_accuracy"])
    macro_f1, macro_auc = decimal(figures["macro_f1"]), decimal(figures["macro_auc"])
    cards = [
        (accuracy, exact, range_text(ci95.get("accuracy"), percent), False),
        (majority, always, "what no model at all would reach", True),
        (macro_f1, "macro-F1", range_text(ci95.get("macro_f1")), False),
        (macro_auc, "macro-AUC", range_text(ci95.get("macro_auc")), False),
        (decimal(figures["ece"]), "calibration error", "0 is best", False),
    ]
    for name in ("S", "V") if "aami" in figures else ():
        row = figures["aami"][name]
        for key in ("sensitivity", "positive_predictivity"):
            ends = range_text((row.get("ci95") or {}).get(key), percent)
            cards.append((percent(row[key]), f"{name} {key.replace('_', ' ')}", ends, False))
    by = "whole patients" if figures.get("ci95_by") == "patients" else "rows"
    how = f"Small figures are 95 % intervals from a bootstrap over {by}."
    return pages.paragraph(text) + pages.cards(cards) + pages.paragraph(how, quiet=True)


def _notes(report, parts, inspection):
    """Everything a reader must know before believing a figure, once each."""
    test = report["test"]
    low, _ = (test.get("ci95") or {}).get("accuracy") or (1, 1)
    notes = [note for part in parts.values() for note in part.notes]
    notes += list(report.get("notes") or [])
    notes += list(inspection["findings"])
    if test["accuracy"] <= test["majority_accuracy"]:
        notes.append("Test accuracy is not above that of always giving the most frequent answer.")
    elif low <= test["majority_accuracy"]:
        notes.append(
            "The interval of test accuracy reaches down to that of always giving the most "
            "frequent answer."
        )
    notes += [f"Test: {note}" for note in test.get("notes") or []]
    nothing = pages.paragraph("Nothing in the data or the figures calls for a warning.")
    return pages.notes(dict.fromkeys(notes)) or nothing


def _data(parts, inspection, pictures):
    """Sizes, class balance, inspection table, examples."""
    counts = {name: part.class_counts() for name, part in parts.items()}
    rows = [
        [kind, *(_count_and_share(own, kind) for own in counts.values())]
        for kind in parts["test"].classes
    ]
    rows.append(["rows", *(f"{len(part):,}" for part in parts.values())])
    caption = "Rows of each class in each part, and their share"
    html = pages.table(["class", *parts], rows, caption=caption)
    if "train" in parts and parts["train"].balance is not None:
        method = parts["train"].balance.method
        what = {
            "smote": "Rows of the smaller classes were added by SMOTE, to the train part only.",
            "smote_tomek": "Rows were added by SMOTE and Tomek links removed, in the train part "
            "only.",
            "class_weight": "No rows were added; the loss weighs smaller classes more.",
            "sampler": "No rows were added; batches are drawn evenly from the classes and minority "
            "rows interpolated.",
        }
        html += pages.paragraph(what.get(method, method))
    pictures = dict(pictures)
    distribution, labelled = pictures.pop("class_distribution"), pictures.pop("labelled")
    html += _gallery({"class_distribution": distribution})
    html += pages.heading("Inspection") + inspection_html(inspection)
    html += pages.heading("Labels beside rows drawn at random") + _gallery({"labelled": labelled})
    if pictures:
        html += pages.heading("One row of each class")
        html += pages.paragraph("The row nearest to the median of its class.", quiet=True)
        html += _gallery(pictures)
    return html


def _count_and_share(counts, kind):
    """Rows of a class and their share of all labels in the part."""
    return f"{counts[kind]:,} ({percent(counts[kind] / max(sum(counts.values()), 1))})"


def _settings(report):
    """What was chosen for this run."""
    names = ("model", "task", "seed", "model_file", "trained_on")
    shown = {name: report.get(name) for name in names}
    shown |= {"inputs": report.get("options")} | (report.get("settings") or {})
    known = {name: value for name, value in shown.items() if value is not None}
    return pages.facts((name.replace("_", " "), _plain(value)) for name, value in known.items())


def _plain(value):
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_plain(item)) for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else value


def _training(history, report, pictures):
    """Curves, and the epochs as a table."""
    columns = [name for name in history[0] if isinstance(history[0][name], (int, float, np.number))]
    rows = [[_short(row.get(name)) for name in columns] for row in history]
    text = f"{len(history)} epochs run"
    if report.get("best_epoch") is not None:
        text += f"; the weights of epoch {report['best_epoch']} were kept, "
        text += "chosen on the validation part"
    every = pages.folded("Every epoch", pages.table(columns, rows, numbers_from=0))
    return pages.paragraph(f"{text}.") + _gallery(pictures) + every


def _short(value):
    """A number in few digits."""
    if value is None:
        return "-"
    return f"{value:d}" if isinstance(value, (int, np.integer)) else f"{value:.4g}"


def _results(report):
    """All classes together, each class, classification report, thresholds, AAMI."""
    test = report["test"]
    per_class = test["per_class"]
    html = _overall(report, caption="All classes together")
    html += pages.table(
        ["class", "accuracy", "specificity", "AUC", "rows"],
        [
            [
                name,
                percent(row["recall"]),
                percent(row["specificity"]),
                decimal(row["auc"]),
                f"{row['support']:,}",
            ]
            for name, row in per_class.items()
        ],
        caption="Per class: accuracy within the class (share of its rows found), "
        "share of other rows left alone",
    )
    html += pages.table(
        ["class", "precision", "recall", "F1", "support"],
        _classification_rows(per_class),
        caption="Classification report",
    )
    if test.get("thresholds"):
        rows = [[name, decimal(value)] for name, value in zip(per_class, test["thresholds"])]
        caption = "Thresholds, frozen before the test"
        html += pages.table(["class", "threshold"], rows, caption=caption)
    return html + _aami(test) if "aami" in test else html


def _overall(report, **options):
    """Table of the key figures: test, interval, validation."""
    test, val, ci95 = report["test"], report.get("val") or {}, report["test"].get("ci95") or {}
    shown = [
        ("accuracy", "accuracy", percent),
        ("always the largest class", "majority_accuracy", percent),
        ("macro-F1", "macro_f1", decimal),
        ("macro-AUC", "macro_auc", decimal),
        ("calibration error", "ece", decimal),
    ]
    rows = [
        [label, show(test.get(key)), range_text(ci95.get(key), show), show(val.get(key))]
        for label, key, show in shown
    ]
    rows.append(["rows", f"{test['n']:,}", "-", f"{val['n']:,}" if val else "-"])
    return pages.table(["", "test", "95 % interval", "validation"], rows, **options)


def _classification_rows(per_class):
    """Precision, recall, F1 and support, and their averages over the classes that have rows."""
    keys = ("precision", "recall", "f1")
    rows = [
        [name, *(decimal(row[key]) for key in keys), f"{row['support']:,}"]
        for name, row in per_class.items()
    ]
    known = [row for row in per_class.values() if row["support"]]
    support = np.array([row["support"] for row in known])
    for label, weights in (("macro average", np.ones(len(known))), ("weighted average", support)):
        means = [np.average([row[key] for row in known], weights=weights) for key in keys]
        rows.append([label, *(decimal(mean) for mean in means), f"{support.sum():,}"])
    return rows


def _aami(test):
    """S and V as EC57 names their figures, and the recordings one by one."""
    block = test["aami"]
    exempt = "positive_predictivity_ec57" in block["V"]
    headers = (
        "class, sensitivity, 95 %, positive predictivity, 95 %, false positive rate, F1, beats"
    )
    rows = []
    for name in ("S", "V"):
        row, ci95 = block[name], block[name].get("ci95") or {}
        rows.append(
            [
                name,
                percent(row["sensitivity"]),
                range_text(ci95.get("sensitivity"), percent),
                percent(row["positive_predictivity"]),
                range_text(ci95.get("positive_predictivity"), percent),
                percent(row["false_positive_rate"], 2),
                decimal(row["f1"]),
                f"{row['support']:,}",
            ]
        )
        if exempt:
            predictivity = percent(row["positive_predictivity_ec57"])
            rate = percent(row["false_positive_rate_ec57"], 2)
            rows.append([f"{name}, EC57 exemptions", "", "", predictivity, "", rate, "", ""])
    always = percent(test["majority_accuracy"])
    html = pages.heading("AAMI report")
    html += pages.paragraph(
        f"Always answering the largest class is right for {always} of these beats."
    )
    html += pages.table(
        headers.split(", "),
        rows,
        caption="Supraventricular (S) and ventricular (V) ectopic beats, each against all others "
        "(ANSI/AAMI EC57)",
    )
    if exempt:
        html += pages.paragraph(
            "EC57 exemptions: fusion and unknown beats called V, and unknown beats called S, are "
            "not counted as false (de Chazal et al. 2004).",
            quiet=True,
        )
    if not block.get("per_record"):
        return html
    headers, rows = ["record", "beats", "accuracy", "majority"], []
    headers += [f"{name} {what}" for name in "NSV" for what in ("beats", "Se", "+P")]
    for row in block["per_record"]:
        cells = [row["record"], f"{row['n']:,}"]
        cells += [percent(row["accuracy"]), percent(row["majority_accuracy"])]
        for name in "NSV":
            cells.append(f"{row[f'{name}_support']:,}")
            cells.append(percent(row[f"{name}_sensitivity"]))
            cells.append(percent(row[f"{name}_positive_predictivity"]))
        rows.append(cells)
    caption = "Each recording (Se: sensitivity, +P: positive predictivity)"
    return html + pages.table(headers, rows, caption=caption)


def _reproducibility(report):
    """Everything needed to run it again."""
    seconds = {name: s for name, s in (report.get("seconds") or {}).items() if s is not None}
    memory = report.get("peak_rss_mb")
    names = ("command", "seed", "backend", "device", "epochs_run")
    pairs = [(name.replace("_", " "), report.get(name)) for name in names]
    pairs += [
        ("peak memory", f"{memory:,.0f} MB" if memory else None),
        ("seconds", ", ".join(f"{name} {value:,.1f}" for name, value in seconds.items())),
        ("versions", _plain(report.get("versions") or {})),
    ]
    files = (
        "report.json, history.csv, predictions.csv, model.keras and the pictures as PNG lie "
        "beside this page."
    )
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    return pages.facts(known) + pages.paragraph(files, quiet=True)


def _gallery(pictures):
    """Pictures by name, PNG bytes or (bytes, caption), as figures side by side."""
    shown = []
    for name, picture in pictures.items():
        data, caption = picture if isinstance(picture, tuple) else (picture, name.replace("_", " "))
        shown.append(pages.figure(data, caption))
    return pages.figures(*shown) if shown else Markup()


def peak_rss_mb():
    """Most memory this process ever held, in MB of 10^6 bytes; None where nothing says it."""
    try:
        import resource
    except ImportError:  # Windows, where psutil says it
        with contextlib.suppress(ImportError, AttributeError):
            import psutil

            return psutil.Process().memory_info().peak_wset / 1e6
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def device():
    """What the backend computes on: the GPUs' names, else the processor's and its cores."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        names = [details(gpu).get("device_name", "GPU") for gpu in gpus]
    elif backend == "jax":
        import jax

        names = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    else:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or f"{_processor()}, {_cores()} cores"


def _processor():
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def versions():
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in "ecg_keras keras tensorflow jax torch numpy scipy scikit-learn".split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def record_result(path, run_dirs, *, protocol, command, commit="", repeats="seeds", model=None):
    """Put the mean of repeated runs into a CSV file, one row per protocol and model.

    A row of the same protocol and model is replaced.

    Parameters
    ----------
    path : path
        The file, such as ``outputs/results.csv``; made if absent.
    run_dirs : sequence of path
        Finished runs that differ only in seed or fold.
    protocol : str
        What was trained and measured on what, such as "MIT-BIH CSV, patients mixed".
    command : str
        The command that repeats it.
    commit : str, default ""
        Version of the code.
    repeats : str, default "seeds"
        What the runs differ in: "seeds" or "folds".
    model : str, optional
        Name in the table; by default that of report.json.

    Returns
    -------
    dict
        The row written: means over the runs, with sample standard deviations (``_sd``, empty for
        one run) and the mean ends of their 95 % intervals (``_low``, ``_high``).

    Raises
    ------
    ValueError
        If no run is given, or a folder has no report.json.
    """
    reports = []
    for run_dir in run_dirs:
        file = pathlib.Path(run_dir) / "report.json"
        if not file.is_file():
            raise ValueError(f"{run_dir} has no report.json; give folders of finished runs.")
        reports.append(json.loads(file.read_text(encoding="utf-8")))
    if not reports:
        raise ValueError("run_dirs is empty; give at least one finished run.")
    first, n = reports[0], len(reports)
    row = {"protocol": protocol, "model": model or first["model"], "repeats": repeats, "n": n}
    row["synthetic"] = any(report.get("synthetic") for report in reports)
    for name, values in _figures_of(reports).items():
        known = [value for value in values if value is not None]
        row[name] = f"{np.mean(known):.5g}" if known else ""
        if name in _WITH_SPREAD:
            row[f"{name}_sd"] = f"{np.std(known, ddof=1):.3g}" if len(known) > 1 else ""
        if name in _WITH_INTERVAL:
            row[f"{name}_low"], row[f"{name}_high"] = _mean_interval(reports, name)
    row |= {name: first.get(name) or "" for name in ("device", "source")}
    row |= {"commit": commit, "command": command}
    path = pathlib.Path(path)
    rows = _read_results(path).to_dict("records") if path.is_file() else []
    keys = [(old["protocol"], old["model"]) for old in rows]
    at = keys.index((protocol, row["model"])) if (protocol, row["model"]) in keys else len(rows)
    _write_csv(path, [*rows[:at], row, *rows[at + 1 :]])
    return row


def _figures_of(reports):
    """Test figures and costs of several reports as lists by column name."""
    tests = [report["test"] for report in reports]
    names = ("accuracy", "majority_accuracy", "macro_f1", "macro_auc", "ece")
    figures = {name: [test.get(name) for test in tests] for name in names}
    for kind in ("S", "V") if any("aami" in test for test in tests) else ():
        rows = [(test.get("aami") or {}).get(kind, {}) for test in tests]
        figures[f"{kind}_sensitivity"] = [row.get("sensitivity") for row in rows]
        figures[f"{kind}_predictivity"] = [row.get("positive_predictivity") for row in rows]
    figures["n_test"] = [test["n"] for test in tests]
    figures["parameters"] = [report.get("n_parameters") for report in reports]
    figures["fit_seconds"] = [(report.get("seconds") or {}).get("fit") for report in reports]
    figures["peak_rss_mb"] = [report.get("peak_rss_mb") for report in reports]
    return figures


def _mean_interval(reports, name):
    """Lower and upper end of a figure's 95 % interval, each a mean over the reports, as text."""
    pairs = [(report["test"].get("ci95") or {}).get(name) for report in reports]
    known = [pair for pair in pairs if pair is not None]
    return [f"{end:.5g}" for end in np.mean(known, axis=0)] if known else ["", ""]


def _read_results(path):
    """The rows that `record_result` wrote, every cell as text."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{path} is absent; record_result writes it.")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def results_table(path="outputs/results.csv", *, protocol=None, least_runs=1):
    """Every stored result as a Markdown table, from the file that `record_result` writes.

    Parameters
    ----------
    path : path, default "outputs/results.csv"
        The results.
    protocol : str, optional
        Only rows whose protocol starts with this.
    least_runs : int, default 1
        Only rows that are the mean of at least so many runs.

    Returns
    -------
    str
        A header and a line per row, in the order of the file but for rows of one protocol, which
        stand together under its name. Accuracy stands beside that of always answering the largest
        class; "±" is one standard deviation over the runs, and a figure of one run is followed by
        its 95 % interval.

    Raises
    ------
    ValueError
        If the file is absent.
    """
    rows = [
        row
        for row in _read_results(path).to_dict("records")
        if row["protocol"].startswith(protocol or "") and int(row["n"]) >= least_runs
    ]
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    rows.sort(key=lambda row: protocols.index(row["protocol"]))
    lines = [
        "| data and split | model | accuracy | always largest | macro-F1 | macro-AUC | parameters "
        "| training | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for last, row in zip([None, *rows], rows):
        data = row["protocol"] + (" (synthetic)" if row.get("synthetic") == "True" else "")
        repeats = row["repeats"] if int(row["n"]) > 1 else row["repeats"].removesuffix("s")
        cells = [
            "" if last and last["protocol"] == row["protocol"] else data,
            f"`{row['model']}`",
            _with_spread(row, "accuracy", 100, 2, " %"),
            _with_spread(row, "majority_accuracy", 100, 1, " %"),
            _with_spread(row, "macro_f1", 1, 3),
            _with_spread(row, "macro_auc", 1, 3),
            _whole(row, "parameters"),
            _whole(row, "fit_seconds", " s"),
            f"{row['n']} {repeats}",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(row, name, factor, digits, unit=""):
    """Mean of a figure as text, with its standard deviation or the interval of the only run."""
    if not row.get(name):
        return "-"
    value, spread, low, high = (row.get(name + end) for end in ("", "_sd", "_low", "_high"))
    text = f"{factor * float(value):.{digits}f}"
    if spread:
        text += f" ± {factor * float(spread):.{digits}f}"
    elif low:
        text += f" ({factor * float(low):.{digits}f} to {factor * float(high):.{digits}f})"
    return text + unit


def _whole(row, name, unit=""):
    """A figure without decimals, a dash where it is not known."""
    return f"{float(row[name]):,.0f}{unit}" if row.get(name) else "-"


def families_table(families, path="outputs/results.csv"):
    """Every model family with its idea and its stored figures, a Markdown line each.

    A preset that was measured under a name of its own (family, underscore, name of the preset)
    has a line below its family.

    Parameters
    ----------
    families : sequence of dict
        What `models.families` gives.
    path : path, default "outputs/results.csv"
        The results, as `record_result` writes them.

    Returns
    -------
    str
        A header and a line per family in their order, with the beginning of its idea. Figures are
        means over the stored runs; parameters are those on the MIT-BIH CSV, else those on PTB-XL.

    Raises
    ------
    ValueError
        If the file is absent.
    """
    rows = _read_results(path).to_dict("records")
    beats, records = (
        {row["model"]: row for row in rows if row["protocol"].startswith(data)}
        for data in ("MIT-BIH CSV", "PTB-XL")
    )
    lines = [
        "| family | looks at | idea (source) | parameters | MIT-BIH CSV accuracy, macro-F1 "
        "| PTB-XL macro-AUC |",
        "|---|---|---|---:|---:|---:|",
    ]
    for family in families:
        name, idea = family["name"], re.split("[,:;.]", family["idea"])[0]
        told = {name: (family["input"], f"{idea} ({_cited(family['source'])})")}
        for other in dict.fromkeys(row["model"] for row in rows):
            if other.startswith(f"{name}_"):
                told[other] = ("", f"preset of `{name}`")
        for model, (seen, idea) in told.items():
            beat, record = beats.get(model, {}), records.get(model, {})
            figures = "-"
            if beat:
                accuracy, macro_f1 = (float(beat[name]) for name in ("accuracy", "macro_f1"))
                figures = f"{percent(accuracy, 2)}, {decimal(macro_f1)}"
            auc = decimal(float(record["macro_auc"])) if record else "-"
            cells = [f"`{model}`", seen, idea, _whole(beat or record, "parameters"), figures, auc]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cited(source):
    """First author and year of a source, or that it is our own."""
    found = re.match(r"(?!own)(.+?) (\d{4})", source)
    if not found:
        return source.split(",")[0]
    authors, year = found.groups()
    several = f"{authors.split(',')[0]} et al." if "," in authors else authors.replace("and", "&")
    return f"{several} {year}"


class Inspection(dict):
    """What `inspect` found: ``parts``, ``shared_rows``, ``shared_patients``, ``findings``.

    Printed it is a table of text; in a notebook a table and a list.
    """

    def __str__(self):
        rows = _table(self)
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"! {finding}" for finding in self["findings"])])

    def _repr_html_(self):
        return inspection_html(self) + pages.notes(self["findings"])


def inspect(train=None, val=None, test=None):
    """Check one to three parts and compare them.

    Parameters
    ----------
    train, val, test : ECGDataset, optional
        At least one.

    Returns
    -------
    Inspection
        A dict. ``parts`` has for each part ``rows``, ``shape``, ``duration_s``, ``channels``,
        ``min``, ``max``, ``mean``, ``std``, ``zeros`` (share of entries), ``class_counts``,
        ``patients``, ``records``, ``constant_leads`` (number of rows in which a lead does not
        move), ``equal_leads``, ``duplicates`` (rows that were in the part before) and
        ``label_runs`` (runs of equal labels, over the number expected if rows were shuffled).
        Ranges are those of up to 5,000 evenly spaced rows. ``shared_rows`` and
        ``shared_patients`` count what two parts share; ``findings`` is a list of sentences.

    Raises
    ------
    ValueError
        If no part is given.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> x = np.sin(np.arange(30.0)).reshape(3, 10, 1)
    >>> found = inspect(test=ECGDataset(x[[0, 1, 1, 2]], [0, 1, 1, 0], classes="NV", fs=10))
    >>> found["parts"]["test"]["duplicates"], found["findings"][-1]
    (1, 'test: 1 of 4 rows are exact copies of others.')
    """
    parts = {"train": train, "val": val, "test": test}
    parts = {name: part for name, part in parts.items() if part is not None}
    if not parts:
        raise ValueError("inspect needs at least one of train, val and test.")
    digests = {name: digest_rows(part.x) for name, part in parts.items()}
    patients = {name: part.patients for name, part in parts.items() if part.patients is not None}
    result = Inspection(
        parts={name: _describe(part, digests[name]) for name, part in parts.items()},
        shared_rows=_shared(digests),
        shared_patients=_shared(patients),
    )
    result["findings"] = _findings(result)
    return result


def plot_labelled(ds, *, per_class=3, seed=0):
    """Draw random rows under their labels, a line of pictures per class.

    Parameters
    ----------
    ds : ECGDataset
        Signals or images.
    per_class : int, default 3
        Pictures per class.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> ds = ECGDataset(np.ones((4, 9)), [0, 0, 1, 1], classes="NV", fs=10)
    >>> len(plot_labelled(ds, per_class=2).axes)
    4
    """
    rng = np.random.default_rng(seed)
    names = list(representative_rows(ds))
    size = {"width": 2.4 * per_class, "height": 1.5 * len(names) + 0.4}
    axes = plots.panels(len(names), per_class, **size)
    for line, name in zip(axes, names):
        i = ds.classes.index(name)
        rows = np.flatnonzero(ds.y[:, i] == 1 if ds.multi_label else ds.y == i)
        for ax, row in zip(line, rng.permutation(rows)[:per_class]):
            if ds.is_images:
                image = np.clip(ds.x[row], 0, 1)
                image = image if image.shape[2] == 3 else image[:, :, 0]
                ax.imshow(image, origin="lower", aspect="auto", cmap="magma")
            else:
                ax.plot(ds.x[row][:, 0], color=plots.INK, linewidth=0.9)
            label = "+".join(np.array(ds.classes)[ds.y[row] == 1]) if ds.multi_label else name
            ax.set_title(f"{label} (row {row})", fontsize=9, loc="left")
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_color(plots.GRID)
    return axes[0, 0].figure


def inspection_html(inspection):
    """The table of an inspection, a column per part."""
    header, *rows = _table(inspection)
    return pages.table(header, rows)


def _table(inspection):
    """Numbers of an inspection as rows of text, header first."""
    parts = inspection["parts"]
    shown = [
        ("rows", lambda p: f"{p['rows']:,}"),
        ("shape of a row", lambda p: " x ".join(str(size) for size in p["shape"])),
        (
            "duration",
            lambda p: (
                "-" if p["duration_s"] is None else f"{p['duration_s']:.2f} s at {p['fs']:g} Hz"
            ),
        ),
        ("leads or channels", lambda p: p["channels"]),
        ("range", lambda p: f"{round(p['min'], 4):.4g} to {round(p['max'], 4):.4g} {p['unit']}"),
        ("mean, standard deviation", lambda p: f"{p['mean']:.3g}, {p['std']:.3g}"),
        ("entries that are 0", lambda p: pages.percent(p["zeros"])),
        ("patients", lambda p: "not named" if p["patients"] is None else f"{p['patients']:,}"),
        ("recordings", lambda p: "not named" if p["records"] is None else f"{p['records']:,}"),
        ("rows with a constant lead", lambda p: f"{max(p['constant_leads'].values()):,}"),
        ("copies within the part", lambda p: f"{p['duplicates']:,}"),
        (
            "smallest class",
            lambda p: "{} ({:,})".format(*min(p["class_counts"].items(), key=lambda item: item[1])),
        ),
    ]
    rows = [[label, *(show(part) for part in parts.values())] for label, show in shown]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    for first in list(parts)[:-1]:
        shared = [inspection["shared_rows"].get(f"{first}, {name}") for name in parts]
        rows.append(
            [f"rows also in {first}", *("" if count is None else f"{count:,}" for count in shared)]
        )
    return [["", *parts], *rows]


def _describe(part, digests):
    """Numbers of one part."""
    x = part.x[:: max(1, len(part) // _SAMPLE_ROWS)]
    channels = (
        part.leads
        if x.shape[-1] == len(part.leads)
        else tuple(f"channel {i}" for i in range(x.shape[-1]))
    )
    axes = tuple(range(1, part.x.ndim - 1))
    still = np.ptp(part.x, axis=axes) == 0  # (n, channels)
    equal = [
        f"{channels[i]} = {channels[j]}"
        for i in range(len(channels))
        for j in range(i + 1, len(channels))
        if len(channels) <= 16 and np.array_equal(x[..., i], x[..., j])
    ]
    runs = None
    if not part.multi_label and len(part) > 1:
        share = np.bincount(part.y) / len(part)
        expected = 1 + (len(part) - 1) * (1 - (share**2).sum())
        runs = float((1 + (np.diff(part.y) != 0).sum()) / expected)
    return {
        "rows": len(part),
        "shape": list(part.x.shape[1:]),
        "fs": part.fs,
        "duration_s": part.x.shape[1] / part.fs if part.grid is None else None,
        "unit": part.unit if part.grid is None else "",
        "channels": ", ".join(channels),
        "min": float(x.min()),
        "max": float(x.max()),
        "mean": float(x.mean(dtype=np.float64)),
        "std": _std(x),
        "zeros": float((x == 0).mean()),
        "class_counts": part.class_counts(),
        "patients": None if part.patients is None else len(np.unique(part.patients)),
        "records": None if part.records is None else len(np.unique(part.records)),
        "constant_leads": {name: int(count) for name, count in zip(channels, still.sum(axis=0))},
        "equal_leads": equal,
        "duplicates": len(digests) - len(np.unique(digests)),
        "label_runs": runs,
        "resampled": bool(part.balance is not None and part.balance.resampled),
    }


def _std(x):
    """Standard deviation over all entries, without a copy of them in double precision."""
    apart = np.subtract(x, x.mean(dtype=np.float64), dtype=x.dtype).ravel()
    return float(np.sqrt(np.einsum("i,i->", apart, apart, dtype=np.float64) / apart.size))


def _shared(ids):
    """Ids of each part to how many of them are in both, for each pair of parts."""
    pairs = itertools.combinations(ids, 2)
    return {f"{a}, {b}": len(np.intersect1d(ids[a], ids[b])) for a, b in pairs}


def _findings(result):
    """Sentences about what a reader has to know or a user has to repair."""
    found = []
    for name, part in result["parts"].items():
        n = part["rows"]
        counts = part["class_counts"]
        if absent := [kind for kind, count in counts.items() if not count]:
            found.append(
                f"{name}: no row of {', '.join(absent)}; what the model does with them is not "
                "known from it."
            )
        if few := [f"{kind} ({count})" for kind, count in counts.items() if 0 < count < _FEW_ROWS]:
            found.append(
                f"{name}: few rows of {', '.join(few)}; figures of these classes are coarse."
            )
        for lead, count in part["constant_leads"].items():
            if count:
                found.append(f"{name}: {lead} does not move in {count:,} of {n:,} rows.")
        for pair in part["equal_leads"]:
            found.append(f"{name}: {pair} in every row looked at; one of them adds nothing.")
        if part["duplicates"] and not part["resampled"]:
            found.append(
                f"{name}: {part['duplicates']:,} of {n:,} rows are exact copies of others."
            )
        runs = part["label_runs"]
        if runs is not None and runs < 0.05 and n >= 100 and part["patients"] is None:
            found.append(
                f"{name}: rows are sorted by class; whatever depends on the order of rows would "
                "carry the label."
            )
    for pair, count in result["shared_rows"].items():
        if count:
            found.append(
                f"{count:,} rows are in both {pair.replace(', ', ' and ')}, to the last digit."
            )
    for pair, count in result["shared_patients"].items():
        if count:
            found.append(f"{count:,} patients are in both {pair.replace(', ', ' and ')}.")
    if "train" in result["parts"]:
        base = result["parts"]["train"]
        for name, part in result["parts"].items():
            shifted = abs(part["mean"] - base["mean"]) > base["std"]
            scaled = base["std"] > 0 and not 0.5 < part["std"] / base["std"] < 2
            if name != "train" and not base["resampled"] and (shifted or scaled):
                found.append(
                    f"{name}: mean {part['mean']:.3g} and standard deviation {part['std']:.3g} "
                    f"differ from train's {base['mean']:.3g} and {base['std']:.3g}; were both "
                    "scaled alike?"
                )
    return found
