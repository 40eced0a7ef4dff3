"""Write what a run found: one page for people, the same numbers for programs, and the pictures.

Conventions
-----------
A run's folder holds report.json, history.csv, predictions.csv, PNG files and report.html,
each written whole or not at all and the page last, so a folder with a page is finished.
`numbers` is the content of report.json; the page shows nothing that is not in it, in the
data or in the files beside it.

Tell a run's story in HTML: what was measured on what, with what, and how to do it again.

Conventions
-----------
`report` is the content of report.json; figures are shares in 0..1 and shown in percent,
or with three decimals. Each private function returns the HTML of one section. A figure
that cannot be known is a dash.

Say what a run was made on and what it took.

Conventions
-----------
Memory is in MB of 10^6 bytes. Nothing here needs a backend to be loaded that is not.
"""

import contextlib
import csv
import functools
import importlib.metadata
import io
import itertools
import json
import os
import pathlib
import platform
import sys
import time

import numpy as np

from ecg_keras import pages, plots
from ecg_keras.dataset import representative, representative_rows
from ecg_keras.grids import SpectrogramGrid
from ecg_keras.inspection import inspect, inspection_html, plot_labelled
from ecg_keras.pages import decimal, interval, percent
from ecg_keras.spectrograms import represent
from ecg_keras.storage import atomic_path, check_free, write_json, write_text

_WITH_INTERVAL = ("accuracy", "macro_f1", "macro_auc")
_CURVES = {
    "loss": "loss",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "macro_auc": "macro-AUC",
}
_WITH_SPREAD = (
    "accuracy",
    "macro_f1",
    "macro_auc",
    "S_sensitivity",
    "S_predictivity",
    "V_sensitivity",
    "V_predictivity",
)

_UNFINISHED = (
    "What decided",
    "<p>The explanations were not finished when this page was written.</p>\n",
    {},
)


class Report(dict):
    """The numbers of report.json, with the folder they lie in as `out_dir`.

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
            f"macro-F1 {decimal(test.get('macro_f1'))}, macro-AUC {decimal(test.get('macro_auc'))}; {self.page}"
        )

    def __repr__(self):
        return f"<Report: {self.summary()}>" if "test" in self else f"<Report in {self.out_dir}>"

    def _repr_html_(self):
        """A compact table for notebooks."""
        mark = f"<p><b>{pages.escape(banner(self))}</b></p>" if banner(self) else ""
        rows = headline_rows(self["test"], self.get("val"))
        name = pages.escape(f"{self.get('model')}: {self.page}")
        return f"{mark}<p><b>{name}</b></p>" + pages.table(
            ["", "test", "95 % interval", "validation"], rows
        )


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
        Everything report.json is to hold (see the README for its keys); ``numbers["test"]`` and,
        where there is a validation part, ``numbers["val"]`` come from `metrics.evaluate`. Optional
        keys shown on the page: ``settings`` (dict), ``command``, ``best_epoch``, ``notes`` (list of str).
    train, val : ECGDataset, optional
        Parts the model was fitted and chosen on; absent where only a saved model is evaluated.
    test : ECGDataset
        The part measured.
    history : sequence of dict, optional
        One dict per epoch (epoch, loss, val_loss, macro_f1, val_macro_f1, learning_rate, seconds ...).
    probabilities : dict of str to float (n, classes)
        "test", and "val" where known.
    sections : sequence of (str, str, dict), optional
        More sections: heading, HTML body, and PNG bytes by file name (without ``.png``); a picture's
        name with underscores as spaces is its caption.
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
            f"probabilities['test'] must have shape ({len(test)}, {len(test.classes)}): a row per test row, "
            f"a column per class; got {scores.shape}."
        )
    history = [dict(row) for row in history]
    parts = {
        name: part
        for name, part in (("train", train), ("val", val), ("test", test))
        if part is not None
    }
    inspection = inspect(**parts)
    numbers = {**numbers, "inspection": dict(inspection)}
    report = Report(numbers, out_dir)
    drawn = {
        "data": _data_pictures(train, val, test),
        "curves": _curve_pictures(history, numbers),
        "results": _result_pictures(test, scores, numbers),
    }
    write_json(out_dir / "report.json", numbers)
    _write_dicts(out_dir / "history.csv", history)
    columns = _prediction_columns(test, scores, numbers["test"].get("thresholds"))
    _write_csv(out_dir / "predictions.csv", columns, zip(*columns.values()))
    _write_pictures(out_dir, *drawn.values(), *(pictures for _, _, pictures in sections))
    tell = functools.partial(
        story, report, parts, history=history, inspection=inspection, pictures=drawn
    )
    if explain is not None:
        write_text(report.page, tell(sections=[*sections, _UNFINISHED]))
        start = time.perf_counter()
        sections = [*sections, explain()]
        seconds = {"explain": time.perf_counter() - start}
        report["seconds"] = {**(report.get("seconds") or {}), **seconds}
        write_json(out_dir / "report.json", report)
        _write_pictures(out_dir, sections[-1][2])
    write_text(report.page, tell(sections=sections))
    return report


def _write_pictures(out_dir, *groups):
    """Each picture of some dicts, bytes or (bytes, caption) by name, as a PNG file."""
    for name, picture in (item for group in groups for item in group.items()):
        data = picture[0] if isinstance(picture, tuple) else picture
        with atomic_path(out_dir / f"{name}.png") as part:
            part.write_bytes(data)


def check_run_folder(out_dir, test, *, trained=False, explained=False):
    """Refuse a folder where a run measured on `test` would replace files that no run wrote."""
    names = ["report.html", "report.json", "history.csv", "predictions.csv"]
    pictures = [
        "class_distribution",
        "labelled",
        "confusion",
        "roc",
        "precision_recall",
        "calibration",
    ]
    for name in map(_file_name, test.classes):
        pictures += [f"signal_{name}", f"image_{name}"]
    if trained:
        names.append("model.keras")
        pictures += [f"curve_{name}" for name in _CURVES]
    if explained:
        pictures.append("explained_*")
    names += [f"{name}.png" for name in pictures]
    check_free(out_dir, names, "report.json", "checkpoint/state.json")


def _data_pictures(train, val, test):
    """Class distribution, and a signal and an image of each class, as (bytes, caption) by file name."""
    first = train if train is not None else test
    balance = first.balance
    before = balance.counts_before if balance is not None else first.class_counts()
    after = first.class_counts() if balance is not None and balance.resampled else None
    part = "train" if train is not None else "test"
    caption = f"Rows of each class in the {part} part" + (
        ", before and after balancing." if after else "."
    )
    pictures = {
        "class_distribution": (
            plots.png(plots.plot_class_distribution(before, after=after)),
            caption,
        )
    }
    name, seen = ("val", val) if val is not None else ("test", test)  # never resampled
    first = "" if len(seen.leads) == 1 else f", lead {seen.leads[0]}"
    pictures["labelled"] = (
        plots.png(plot_labelled(seen)),
        f"Rows of {name} under their labels{first}, each scaled by itself.",
    )
    signals = representative(seen) if seen.grid is None else getattr(seen, "examples", None)
    images = (
        representative(seen)
        if signals is None
        else represent(signals, seen.grid or _viewing_grid(seen))
    )
    told = "what the model sees" if seen.grid is not None else "its spectrogram"
    for kind, row in representative_rows(images if signals is None else signals).items():
        if signals is not None:
            pictures[f"signal_{_file_name(kind)}"] = _signal_picture(signals, row, kind)
        pictures[f"image_{_file_name(kind)}"] = _image_picture(images, row, kind, told)
    return pictures


def _viewing_grid(ds):
    """A spectrogram grid to look at signals with: windows of half a second, or a quarter of a shorter signal."""
    frame = max(4, 2 * min(round(0.256 * ds.fs), ds.n_samples // 8))
    return SpectrogramGrid(ds.fs, frame_length=frame, hop_length=max(1, frame // 6))


def _signal_picture(ds, row, kind):
    """One row of signals as (bytes, caption)."""
    axes = plots.plot_signal(
        ds.x[row], fs=ds.fs, unit=ds.unit, leads=ds.leads, title=f"{kind}: signal"
    )
    return plots.png(axes), f"Class {kind}: the signal."


def _image_picture(ds, row, kind, told):
    """One row of images or spectra as (bytes, caption)."""
    if ds.is_images:
        lead = f", lead {ds.leads[0]}" if len(ds.leads) > 1 else ""
        axes = plots.plot_image(
            ds.x[row], grid=ds.grid, n_samples=ds.n_samples, title=f"{kind}: image{lead}"
        )
    else:
        axes = plots.plot_spectrum(
            ds.x[row],
            grid=ds.grid,
            n_samples=ds.n_samples,
            leads=ds.leads,
            title=f"{kind}: spectrum",
        )
    return plots.png(axes), f"Class {kind}: {told}."


def _curve_pictures(history, numbers):
    """Loss and macro F1 (or accuracy) over epochs."""
    if not history:
        return {}
    best, pictures = numbers.get("best_epoch"), {}
    for name, label in _CURVES.items():
        if any(row.get(key) is not None for row in history for key in (name, f"val_{name}")):
            axes = plots.plot_history(history, (name, f"val_{name}"), label=label, best_epoch=best)
            pictures[f"curve_{name}"] = (plots.png(axes), f"{label} over the epochs.")
    return pictures


def _result_pictures(test, scores, numbers):
    """Confusion matrix, ROC, precision-recall and calibration of the test part."""
    figures, pictures = numbers["test"], {}
    if not test.multi_label:
        axes = plots.plot_confusion(figures["confusion"], test.classes)
        pictures["confusion"] = (
            plots.png(axes),
            "Confusion matrix: counts, and the percentage of each true class.",
        )
    axes = plots.plot_roc(test.y, scores, test.classes)
    pictures["roc"] = (plots.png(axes), "ROC curve of each class against all others.")
    axes = plots.plot_precision_recall(test.y, scores, test.classes)
    pictures["precision_recall"] = (
        plots.png(axes),
        "Precision over recall of each class against all others.",
    )
    axes = plots.plot_calibration(test.y, scores, ece=figures.get("ece"))
    pictures["calibration"] = (
        plots.png(axes),
        "Calibration: how often an answer given with this probability is right.",
    )
    return pictures


def _prediction_columns(test, scores, thresholds):
    """Columns of predictions.csv: name to a value per test row."""
    names = np.array(test.classes)
    if test.multi_label:
        join = lambda labels: ("|".join(names[row]) for row in labels)
        true, predicted = join(test.y.astype(bool)), join(scores >= np.asarray(thresholds or 0.5))
    else:
        true, predicted = names[test.y], names[scores.argmax(axis=1)]
    columns = {"row": range(len(test)), "true": true, "predicted": predicted}
    columns |= {
        f"p_{name}": map("{:.8g}".format, column) for name, column in zip(test.classes, scores.T)
    }
    if test.patients is not None:
        columns["patient"] = test.patients
    if test.records is not None:
        columns["record"] = test.records
    return columns


def _write_dicts(path, rows):
    """Dicts to a CSV file with all their keys as columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def _write_csv(path, header, rows):
    """A CSV file, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(itertools.chain([header], rows))
    write_text(path, text.getvalue())


def _file_name(text):
    """Class name as part of a file name."""
    return "".join(char if char.isalnum() or char in "-+" else "-" for char in str(text))


def record_result(path, run_dirs, *, protocol, command, commit="", repeats="seeds", model=None):
    """Put the mean and standard deviation of repeated runs into a CSV file, one row per protocol and model.

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
        The row written: means over the runs, with sample standard deviations (``_sd``, empty for one run) and the
        mean ends of their 95 % intervals (``_low``, ``_high``).
    """
    reports = []
    for run_dir in run_dirs:
        file = pathlib.Path(run_dir) / "report.json"
        if not file.is_file():
            raise ValueError(f"{run_dir} has no report.json; give folders of finished runs.")
        reports.append(json.loads(file.read_text(encoding="utf-8")))
    if not reports:
        raise ValueError("run_dirs is empty; give at least one finished run.")
    first = reports[0]
    row = {
        "protocol": protocol,
        "model": model or first["model"],
        "repeats": repeats,
        "n": len(reports),
    }
    row["synthetic"] = any(report.get("synthetic") for report in reports)
    for name, values in _figures_of(reports).items():
        known = [value for value in values if value is not None]
        row[name] = f"{np.mean(known):.5g}" if known else ""
        if name in _WITH_SPREAD:
            row[f"{name}_sd"] = f"{np.std(known, ddof=1):.3g}" if len(known) > 1 else ""
        if name in _WITH_INTERVAL:
            row |= dict(zip((f"{name}_low", f"{name}_high"), _mean_interval(reports, name)))
    row |= {
        "device": first.get("device") or "",
        "source": first.get("source") or "",
        "commit": commit,
        "command": command,
    }
    path, rows = pathlib.Path(path), []
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    keys = [(old["protocol"], old["model"]) for old in rows]
    at = keys.index((protocol, row["model"])) if (protocol, row["model"]) in keys else len(rows)
    _write_dicts(path, [*rows[:at], row, *rows[at + 1 :]])
    return row


def _mean_interval(reports, name):
    """Lower and upper end of the 95 % interval of a figure, each a mean over the reports, as text."""
    known = [
        report["test"]["ci95"][name] for report in reports if name in report["test"].get("ci95", {})
    ]
    return [f"{end:.5g}" for end in np.mean(known, axis=0)] if known else ["", ""]


def _figures_of(reports):
    """Test figures and costs of several reports as lists by column name."""
    tests = [report["test"] for report in reports]
    names = ("accuracy", "majority_accuracy", "macro_f1", "macro_auc", "ece")
    figures = {name: [test.get(name) for test in tests] for name in names}
    for kind in ("S", "V") if any("aami" in test for test in tests) else ():
        for short, name in (
            ("sensitivity", "sensitivity"),
            ("predictivity", "positive_predictivity"),
        ):
            figures[f"{kind}_{short}"] = [
                test["aami"][kind][name] if "aami" in test else None for test in tests
            ]
    figures["n_test"] = [test["n"] for test in tests]
    figures["parameters"] = [report.get("n_parameters") for report in reports]
    figures["fit_seconds"] = [(report.get("seconds") or {}).get("fit") for report in reports]
    figures["peak_rss_mb"] = [report.get("peak_rss_mb") for report in reports]
    return figures


def results_table(path="outputs/results.csv", *, protocol=None, least_runs=1):
    """The table of the README, in Markdown, from the file that `record_result` writes.

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
        A header and a line per row, in the order of the file but for rows of one protocol, which stand together under
        its name. Accuracy stands beside that of always answering the largest class; "±" is one standard deviation over the runs,
        and a figure of one run is followed by its 95 % interval.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is absent; record_result writes it.")
    with open(path, encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["protocol"].startswith(protocol or "") and int(row["n"]) >= least_runs
        ]
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    rows.sort(key=lambda row: protocols.index(row["protocol"]))
    lines = [
        "| data and split | model | accuracy | always largest | macro-F1 | macro-AUC | parameters | training | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for last, row in zip([None, *rows], rows):
        data = row["protocol"] + (" (synthetic)" if row.get("synthetic") == "True" else "")
        cells = [
            "" if last and last["protocol"] == row["protocol"] else data,
            f"`{row['model']}`",
            _with_spread(row, "accuracy", 100, 2, " %"),
            _with_spread(row, "majority_accuracy", 100, 1, " %"),
            _with_spread(row, "macro_f1", 1, 3),
            _with_spread(row, "macro_auc", 1, 3),
            f"{float(row['parameters']):,.0f}" if row.get("parameters") else "-",
            f"{float(row['fit_seconds']):,.0f} s" if row.get("fit_seconds") else "-",
            f"{row['n']} {row['repeats'] if int(row['n']) > 1 else row['repeats'].removesuffix('s')}",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(row, name, factor, digits, unit=""):
    """Mean of one figure as text, with its standard deviation over runs or the interval of the only one."""
    if not row.get(name):
        return "-"
    value, spread, low, high = (row.get(name + end) for end in ("", "_sd", "_low", "_high"))
    text = f"{factor * float(value):.{digits}f}"
    if spread:
        text += f" ± {factor * float(spread):.{digits}f}"
    elif low:
        text += f" ({factor * float(low):.{digits}f} to {factor * float(high):.{digits}f})"
    return text + unit


SYNTHETIC = (
    "Synthetic data: these signals were made by a program. The figures say nothing about patients."
)

SEEN = (
    "Not a test: the model was trained on these rows, or on others of the same patients. The "
    "figures say nothing about new ones."
)


def banner(report):
    """The warning across the top of a run's page, or None: made by a program, no test, or both."""
    seen = (report.get("seen") or {}).get("too_many")
    return " ".join([SYNTHETIC] * bool(report.get("synthetic")) + [SEEN] * bool(seen)) or None


def story(report, parts, *, history, inspection, pictures, sections=()):
    """Build the page of a run.

    Parameters
    ----------
    report : dict
        Content of report.json.
    parts : dict of str to ECGDataset
        "test", and "train" and "val" where known.
    history : list of dict
        One dict per epoch.
    inspection : Inspection
        Of the parts.
    pictures : dict of str to dict
        "data", "curves" and "results": (PNG bytes, caption) by file name.
    sections : sequence of (str, str, dict)
        Further headings, bodies and pictures.

    Returns
    -------
    str
        HTML.
    """
    test = parts["test"]
    chapters = [("headline", "Result", _headline(report, test))]
    notes = _notes(report, parts, inspection)
    nothing = "<p>Nothing in the data or the figures calls for a warning.</p>\n"
    chapters.append(("notes", "Read this first", pages.bullets(notes) or nothing))
    chapters.append(("data", "Data", _data(parts, inspection, pictures["data"])))
    chapters.append(("settings", "Settings", _settings(report)))
    if history:
        chapters.append(("training", "Training", _training(history, report, pictures["curves"])))
    chapters.append(("results", "Test results", _results(report)))
    chapters.append(("pictures", "Test results in pictures", _gallery(pictures["results"])))
    for i, (heading, body, own) in enumerate(sections):
        chapters.append((f"section-{i + 1}", heading, body + _gallery(own)))
    chapters.append(("reproducibility", "Reproducibility", _reproducibility(report)))
    title = f"{report.get('model', 'model')} on {report.get('source', test.source)}"
    return pages.page(title, chapters, banner=banner(report))


def _headline(report, test):
    """What was measured on what, and the figures as cards."""
    figures, ci95 = report["test"], report["test"].get("ci95") or {}
    people = f" of {figures['n_patients']:,} patients" if figures.get("n_patients") else ""
    task = "each row may have several of" if test.multi_label else "each row is one of"
    size = f"{report['n_parameters']:,} parameters" if report.get("n_parameters") else "a model"
    names = ", ".join(test.classes[:12]) + (" ..." if len(test.classes) > 12 else "")
    text = (
        f"{report.get('model', 'The model')} ({size}) was measured once on {figures['n']:,} test rows{people}; "
        f"{task} {len(test.classes)} classes: {names}."
    )
    exact = "exact-match accuracy" if test.multi_label else "test accuracy"
    always = "always the most frequent labels" if test.multi_label else "always the largest class"
    cards = [
        (percent(figures["accuracy"]), exact, interval(ci95.get("accuracy"), percent), ""),
        (
            percent(figures["majority_accuracy"]),
            always,
            "what no model at all would reach",
            " class=plain",
        ),
        (decimal(figures["macro_f1"]), "macro-F1", interval(ci95.get("macro_f1")), ""),
        (decimal(figures["macro_auc"]), "macro-AUC", interval(ci95.get("macro_auc")), ""),
        (decimal(figures["ece"]), "calibration error", "0 is best", ""),
    ]
    for name in ("S", "V") if "aami" in figures else ():
        row = figures["aami"][name]
        for key in ("sensitivity", "positive_predictivity"):
            with_interval = interval((row.get("ci95") or {}).get(key), percent)
            cards.append((percent(row[key]), f"{name} {key.replace('_', ' ')}", with_interval, ""))
    items = "".join(
        f"<li{kind}><b>{pages.escape(value)}</b><span>{pages.escape(label)}</span><small>{pages.escape(below)}</small></li>"
        for value, label, below, kind in cards
    )
    by = "whole patients" if figures.get("ci95_by") == "patients" else "rows"
    how = f"Small figures are 95 % intervals from a bootstrap over {by}."
    return f"<p>{pages.escape(text)}</p>\n<ul class=cards>{items}</ul>\n<p class=quiet>{how}</p>\n"


def _notes(report, parts, inspection):
    """Everything a reader must know before believing a figure, once each."""
    notes = [note for part in parts.values() for note in part.notes]
    notes += list(report.get("notes") or [])
    notes += list(inspection["findings"])
    test, (low, _) = report["test"], (report["test"].get("ci95") or {}).get("accuracy") or (1, 1)
    if test["accuracy"] <= test["majority_accuracy"]:
        notes.append("Test accuracy is not above that of always giving the most frequent answer.")
    elif low <= test["majority_accuracy"]:
        notes.append(
            "The interval of test accuracy reaches down to that of always giving the most frequent answer."
        )
    notes += [f"Test: {note}" for note in report["test"].get("notes") or []]
    return list(dict.fromkeys(notes))


def _data(parts, inspection, pictures):
    """Sizes, class balance, inspection table, examples."""
    classes = next(iter(parts.values())).classes
    counts = {name: part.class_counts() for name, part in parts.items()}
    rows = [[kind, *(_count_and_share(counts[name], kind) for name in parts)] for kind in classes]
    rows.append(["rows", *(f"{len(part):,}" for part in parts.values())])
    html = pages.table(
        ["class", *parts], rows, caption="Rows of each class in each part, and their share"
    )
    train = parts.get("train")
    if train is not None and train.balance is not None:
        what = {
            "smote": "Rows of the smaller classes were added by SMOTE, to the train part only.",
            "smote_tomek": "Rows were added by SMOTE and Tomek links removed, in the train part only.",
            "class_weight": "No rows were added; the loss weighs smaller classes more.",
            "sampler": "No rows were added; batches are drawn evenly from the classes and minority rows interpolated.",
        }
        html += f"<p>{pages.escape(what.get(train.balance.method, train.balance.method))}</p>\n"
    html += _gallery({name: pictures[name] for name in pictures if name == "class_distribution"})
    html += "<h3>Inspection</h3>\n" + inspection_html(inspection)
    html += "<h3>Labels beside rows drawn at random</h3>\n" + _gallery(
        {"labelled": pictures["labelled"]}
    )
    shown = {name: pictures[name] for name in pictures if name.startswith(("signal_", "image_"))}
    if shown:
        html += "<h3>One row of each class</h3>\n<p class=quiet>The row nearest to the median of its class.</p>\n"
        html += _gallery(shown)
    return html


def _count_and_share(counts, kind):
    """Rows of a class and their share of all labels in the part."""
    return f"{counts[kind]:,} ({percent(counts[kind] / max(sum(counts.values()), 1))})"


def _settings(report):
    """What was chosen for this run."""
    shown = {"model": report.get("model"), "task": report.get("task"), "seed": report.get("seed")}
    shown |= {name: report.get(name) for name in ("model_file", "trained_on")}
    shown |= {"inputs": report.get("options")} | (report.get("settings") or {})
    return pages.facts(
        (name.replace("_", " "), _plain(value))
        for name, value in shown.items()
        if value is not None
    )


def _training(history, report, pictures):
    """Curves, and the epochs as a table."""
    columns = [name for name in history[0] if isinstance(history[0][name], (int, float, np.number))]
    rows = [[_short(row.get(name)) for name in columns] for row in history]
    text = f"{len(history)} epochs run"
    if report.get("best_epoch") is not None:
        text += f"; the weights of epoch {report['best_epoch']} were kept, chosen on the validation part"
    details = f"<details><summary>Every epoch</summary>{pages.table(columns, rows, numbers_from=0)}</details>\n"
    return f"<p>{pages.escape(text)}.</p>\n" + _gallery(pictures) + details


def _results(report):
    """Headline with validation beside it, per class, classification report, AAMI."""
    test = report["test"]
    html = pages.table(
        ["", "test", "95 % interval", "validation"],
        headline_rows(test, report.get("val")),
        caption="All classes together",
    )
    per_class = test["per_class"]
    rows = [
        [
            name,
            percent(r["recall"]),
            percent(r["specificity"]),
            decimal(r["auc"]),
            f"{r['support']:,}",
        ]
        for name, r in per_class.items()
    ]
    headers = ["class", "accuracy", "specificity", "AUC", "rows"]
    caption = "Per class: accuracy within the class (share of its rows found), share of other rows left alone"
    html += pages.table(headers, rows, caption=caption)
    html += pages.table(
        ["class", "precision", "recall", "F1", "support"],
        _classification_rows(per_class),
        caption="Classification report",
    )
    if test.get("thresholds"):
        pairs = zip(per_class, test["thresholds"])
        html += pages.table(
            ["class", "threshold"],
            [[name, decimal(value)] for name, value in pairs],
            caption="Thresholds, frozen before the test",
        )
    if "aami" in test:
        html += _aami(test["aami"], test)
    return html


def headline_rows(test, val):
    """Rows of metric, test, interval, validation."""
    val, ci95 = val or {}, test.get("ci95") or {}
    shown = [
        ("accuracy", "accuracy", percent),
        ("always the largest class", "majority_accuracy", percent),
        ("macro-F1", "macro_f1", decimal),
        ("macro-AUC", "macro_auc", decimal),
        ("calibration error", "ece", decimal),
    ]
    rows = [
        [label, show(test.get(key)), interval(ci95.get(key), show), show(val.get(key))]
        for label, key, show in shown
    ]
    return [*rows, ["rows", f"{test['n']:,}", "-", f"{val['n']:,}" if val else "-"]]


def _classification_rows(per_class):
    """Precision, recall, F1 and support with the two averages of the usual report; classes without rows have dashes."""
    keys = ("precision", "recall", "f1")
    rows = [
        [name, *(decimal(r[key]) for key in keys), f"{r['support']:,}"]
        for name, r in per_class.items()
    ]
    known = [r for r in per_class.values() if r["support"]]
    support = np.array([r["support"] for r in known])
    for label, weights in (("macro average", np.ones(len(known))), ("weighted average", support)):
        means = [np.average([r[key] for r in known], weights=weights) for key in keys]
        rows.append([label, *(decimal(mean) for mean in means), f"{support.sum():,}"])
    return rows


def _aami(block, test):
    """S and V as EC57 names their figures, and the recordings one by one."""
    exempt = "positive_predictivity_ec57" in block["V"]
    headers = [
        "class",
        "sensitivity",
        "95 %",
        "positive predictivity",
        "95 %",
        "false positive rate",
        "F1",
        "beats",
    ]
    rows = []
    for name in ("S", "V"):
        row, ci95 = block[name], block[name].get("ci95") or {}
        rows.append(
            [
                name,
                percent(row["sensitivity"]),
                interval(ci95.get("sensitivity"), percent),
                percent(row["positive_predictivity"]),
                interval(ci95.get("positive_predictivity"), percent),
                percent(row["false_positive_rate"], 2),
                decimal(row["f1"]),
                f"{row['support']:,}",
            ]
        )
        if exempt:
            predictivity, rate = row["positive_predictivity_ec57"], row["false_positive_rate_ec57"]
            rows.append(
                [
                    f"{name}, EC57 exemptions",
                    "",
                    "",
                    percent(predictivity),
                    "",
                    percent(rate, 2),
                    "",
                    "",
                ]
            )
    html = "<h3>AAMI report</h3>\n"
    html += f"<p>Always answering the largest class is right for {percent(test['majority_accuracy'])} of these beats.</p>\n"
    caption = "Supraventricular (S) and ventricular (V) ectopic beats, each against all others (ANSI/AAMI EC57)"
    html += pages.table(headers, rows, caption=caption)
    if exempt:
        html += (
            "<p class=quiet>EC57 exemptions: fusion and unknown beats called V, and unknown beats called S, "
            "are not counted as false (de Chazal et al. 2004).</p>\n"
        )
    if block.get("per_record"):
        headers = ["record", "beats", "accuracy", "majority"]
        headers += [
            text for name in "NSV" for text in (f"{name} beats", f"{name} Se", f"{name} +P")
        ]
        rows = [
            [
                row["record"],
                f"{row['n']:,}",
                percent(row["accuracy"]),
                percent(row["majority_accuracy"]),
            ]
            + [
                text
                for name in "NSV"
                for text in (
                    f"{row[f'{name}_support']:,}",
                    percent(row[f"{name}_sensitivity"]),
                    percent(row[f"{name}_positive_predictivity"]),
                )
            ]
            for row in block["per_record"]
        ]
        html += pages.table(
            headers, rows, caption="Each recording (Se: sensitivity, +P: positive predictivity)"
        )
    return html


def _reproducibility(report):
    """Everything needed to run it again."""
    seconds = report.get("seconds") or {}
    pairs = [
        ("command", report.get("command")),
        ("seed", report.get("seed")),
        ("backend", report.get("backend")),
        ("device", report.get("device")),
        ("epochs run", report.get("epochs_run")),
        ("peak memory", f"{report['peak_rss_mb']:,.0f} MB" if report.get("peak_rss_mb") else None),
        (
            "seconds",
            ", ".join(
                f"{name} {value:,.1f}" for name, value in seconds.items() if value is not None
            ),
        ),
        (
            "versions",
            ", ".join(f"{name} {value}" for name, value in (report.get("versions") or {}).items()),
        ),
    ]
    files = "report.json, history.csv, predictions.csv, model.keras and the pictures as PNG lie beside this page."
    return (
        pages.facts((name, value) for name, value in pairs if value not in (None, ""))
        + f"<p class=quiet>{files}</p>\n"
    )


def _gallery(pictures):
    """Pictures by name as HTML: bytes, or (bytes, caption)."""
    shown = []
    for name, picture in pictures.items():
        data, caption = picture if isinstance(picture, tuple) else (picture, name.replace("_", " "))
        shown.append(pages.figure(data, caption))
    return pages.figures(*shown) if shown else ""


def _plain(value):
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_plain(item)) for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else value


def _short(value):
    """A number in few digits."""
    if value is None:
        return "-"
    return f"{value:d}" if isinstance(value, (int, np.integer)) else f"{value:.4g}"


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

        gpus = tf.config.list_physical_devices("GPU")
        names = [
            tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
        ]
    elif backend == "jax":
        import jax

        names = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    else:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        ", ".join(names)
        or f"{_processor()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    )


def _processor():
    """The processor's name as the system gives it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions():
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in (
        "ecg_keras",
        "keras",
        "tensorflow",
        "jax",
        "torch",
        "numpy",
        "scipy",
        "scikit-learn",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
