"""Write what a run found: one page for people, the same numbers for programs, and the pictures.

Conventions
-----------
A run's folder holds report.json, history.csv, predictions.csv, PNG files and report.html,
each written whole or not at all and the page last, so a folder with a page is finished.
`numbers` is the content of report.json; the page shows nothing that is not in it, in the
data or in the files beside it.
"""

import csv
import io
import pathlib
import platform

import numpy as np

from ecg_keras import pages, plots
from ecg_keras.inspection import examples_of, inspect, inspection_html
from ecg_keras.pages import decimal, interval, percent
from ecg_keras.storage import atomic_path, write_json, write_text

_MOST_EXAMPLES = 12  # classes drawn; tasks with more show the largest


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
        return (
            f"{mark}{self.get('model')}: test accuracy {percent(test['accuracy'])} "
            f"(always the largest class: {percent(test.get('majority_accuracy'))}), "
            f"macro-F1 {decimal(test.get('macro_f1'))}, macro-AUC {decimal(test.get('macro_auc'))}; {self.page}"
        )

    def __repr__(self):
        return f"<Report: {self.summary()}>" if "test" in self else f"<Report in {self.out_dir}>"

    def _repr_html_(self):
        """A compact table for notebooks."""
        mark = f"<p><b>{pages.escape(_SYNTHETIC)}</b></p>" if self.get("synthetic") else ""
        rows = _headline_rows(self["test"], self.get("val"))
        name = pages.escape(f"{self.get('model')}: {self.page}")
        return f"{mark}<p><b>{name}</b></p>" + pages.table(["", "test", "95 % interval", "validation"], rows)


_SYNTHETIC = "Synthetic data: these signals were made by a program. The figures say nothing about patients."


def write_report(
    out_dir, numbers, *, train=None, val=None, test, history=(), probabilities, sections=(), examples=None
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
    examples : ECGDataset, optional
        Raw signals to draw beside images: rows of any part, of each class some.

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
    inspection = inspect(train, val, test)
    numbers = {**numbers, "inspection": dict(inspection)}
    report = Report(numbers, out_dir)
    drawn = {
        "data": _data_pictures(train, val, test, examples),
        "curves": _curve_pictures(history, numbers),
        "results": _result_pictures(test, scores, numbers),
    }
    write_json(out_dir / "report.json", numbers)
    _write_csv(out_dir / "history.csv", history)
    _write_csv(out_dir / "predictions.csv", _prediction_rows(test, scores, numbers["test"].get("thresholds")))
    for group in [*drawn.values(), *(pictures for _, _, pictures in sections)]:
        for name, picture in group.items():
            data = picture[0] if isinstance(picture, tuple) else picture
            with atomic_path(out_dir / f"{name}.png") as part:
                part.write_bytes(data)
    write_text(out_dir / "report.html", _page(report, train, val, test, history, inspection, drawn, sections))
    return report


def _page(report, train, val, test, history, inspection, drawn, sections):
    """The whole run as HTML."""
    parts = {name: part for name, part in (("train", train), ("val", val), ("test", test)) if part is not None}
    chapters = [("headline", "Result", _headline(report, test))]
    notes = _notes(report, parts, inspection)
    if notes:
        chapters.append(("notes", "Read this first", pages.bullets(notes)))
    chapters.append(("data", "Data", _data(parts, inspection, drawn["data"])))
    chapters.append(("settings", "Settings", _settings(report)))
    if history:
        chapters.append(("training", "Training", _training(history, report, drawn["curves"])))
    chapters.append(("results", "Test results", _results(report)))
    chapters.append(("pictures", "Test results in pictures", _gallery(drawn["results"])))
    for i, (heading, body, pictures) in enumerate(sections):
        chapters.append((f"section-{i + 1}", heading, body + _gallery(pictures)))
    chapters.append(("reproducibility", "Reproducibility", _reproducibility(report)))
    banner = _SYNTHETIC if report.get("synthetic") else None
    title = f"{report.get('model', 'model')} on {report.get('source', test.source)}"
    return pages.page(title, chapters, banner=banner)


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
        (percent(figures["majority_accuracy"]), always, "what no model at all would reach", " class=plain"),
        (decimal(figures["macro_f1"]), "macro-F1", interval(ci95.get("macro_f1")), ""),
        (decimal(figures["macro_auc"]), "macro-AUC", interval(ci95.get("macro_auc")), ""),
        (decimal(figures["ece"]), "calibration error", "0 is best", ""),
    ]
    for name in ("S", "V"):
        if "aami" in figures:
            row = figures["aami"][name]
            with_interval = interval((row.get("ci95") or {}).get("sensitivity"), percent)
            cards.append((percent(row["sensitivity"]), f"{name} sensitivity", with_interval, ""))
    items = "".join(
        f"<li{kind}><b>{pages.escape(value)}</b><span>{pages.escape(label)}</span><small>{pages.escape(below)}</small></li>"
        for value, label, below, kind in cards
    )
    by = "whole patients" if figures.get("ci95_by") == "patients" else "rows"
    how = f"Small figures are 95 % intervals from a bootstrap over {by}."
    return f"<p>{pages.escape(text)}</p>\n<ul class=cards>{items}</ul>\n<p class=quiet>{how}</p>\n"


def _notes(report, parts, inspection):
    """Everything a reader must know before believing a figure, once each."""
    notes = [_SYNTHETIC] if report.get("synthetic") else []
    notes += [note for part in parts.values() for note in part.notes]
    notes += list(report.get("notes") or [])
    notes += list(inspection["findings"])
    notes += [f"Test: {note}" for note in report["test"].get("notes") or []]
    return list(dict.fromkeys(notes))


def _data(parts, inspection, pictures):
    """Sizes, class balance, inspection table, examples."""
    classes = next(iter(parts.values())).classes
    counts = {name: part.class_counts() for name, part in parts.items()}
    rows = [[kind, *(_count_and_share(counts[name], kind) for name in parts)] for kind in classes]
    rows.append(["rows", *(f"{len(part):,}" for part in parts.values())])
    html = pages.table(["class", *parts], rows, caption="Rows of each class in each part, and their share")
    train = parts.get("train")
    if train is not None and train.balance is not None:
        what = {
            "smote": "Rows of the smaller classes were added by SMOTE, to the train part only.",
            "smote-tomek": "Rows were added by SMOTE and Tomek links removed, in the train part only.",
            "class_weight": "No rows were added; the loss weighs smaller classes more.",
            "sampler": "No rows were added; batches are drawn evenly from the classes and minority rows interpolated.",
        }
        html += f"<p>{pages.escape(what.get(train.balance.method, train.balance.method))}</p>\n"
    html += _gallery({name: pictures[name] for name in pictures if name == "class_distribution"})
    html += "<h3>Inspection</h3>\n" + inspection_html(inspection)
    shown = {name: pictures[name] for name in pictures if name != "class_distribution"}
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
    shown |= report.get("settings") or {}
    return pages.facts((name.replace("_", " "), _plain(value)) for name, value in shown.items() if value is not None)


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
        ["", "test", "95 % interval", "validation"], _headline_rows(test, report.get("val")), caption="All classes together"
    )
    per_class = test["per_class"]
    rows = [
        [name, percent(r["recall"]), percent(r["specificity"]), decimal(r["auc"]), f"{r['support']:,}"]
        for name, r in per_class.items()
    ]
    headers = ["class", "accuracy within the class", "specificity", "AUC", "rows"]
    html += pages.table(headers, rows, caption="Per class: the share of its rows that was found, and of the others that was left alone")
    html += pages.table(
        ["class", "precision", "recall", "F1", "support"], _classification_rows(per_class), caption="Classification report"
    )
    if test.get("thresholds"):
        pairs = zip(per_class, test["thresholds"])
        html += pages.table(
            ["class", "threshold"], [[name, decimal(value)] for name, value in pairs], caption="Thresholds, frozen before the test"
        )
    if "aami" in test:
        html += _aami(test["aami"], test)
    return html


def _headline_rows(test, val):
    """Rows of metric, test, interval, validation."""
    val, ci95 = val or {}, test.get("ci95") or {}
    shown = [
        ("accuracy", "accuracy", percent),
        ("always the largest class", "majority_accuracy", percent),
        ("macro-F1", "macro_f1", decimal),
        ("macro-AUC", "macro_auc", decimal),
        ("calibration error", "ece", decimal),
    ]
    rows = [[label, show(test.get(key)), interval(ci95.get(key), show), show(val.get(key))] for label, key, show in shown]
    return [*rows, ["rows", f"{test['n']:,}", "-", f"{val['n']:,}" if val else "-"]]


def _classification_rows(per_class):
    """Precision, recall, F1 and support with the two averages of the usual report; classes without rows have dashes."""
    keys = ("precision", "recall", "f1")
    rows = [[name, *(decimal(r[key]) for key in keys), f"{r['support']:,}"] for name, r in per_class.items()]
    known = [r for r in per_class.values() if r["support"]]
    support = np.array([r["support"] for r in known])
    for label, weights in (("macro average", np.ones(len(known))), ("weighted average", support)):
        means = [np.average([r[key] for r in known], weights=weights) for key in keys]
        rows.append([label, *(decimal(mean) for mean in means), f"{support.sum():,}"])
    return rows


def _aami(block, test):
    """S and V as EC57 names their figures, and the recordings one by one."""
    exempt = "positive_predictivity_ec57" in block["V"]
    headers = ["class", "sensitivity", "95 %", "positive predictivity", "95 %", "false positive rate", "F1", "beats"]
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
            rows.append([f"{name}, EC57 exemptions", "", "", percent(predictivity), "", percent(rate, 2), "", ""])
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
        headers += [text for name in "NSV" for text in (f"{name} beats", f"{name} Se", f"{name} +P")]
        rows = [
            [row["record"], f"{row['n']:,}", percent(row["accuracy"]), percent(row["majority_accuracy"])]
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
        html += pages.table(headers, rows, caption="Each recording (Se: sensitivity, +P: positive predictivity)")
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
        ("seconds", ", ".join(f"{name} {value:,.1f}" for name, value in seconds.items() if value is not None)),
        ("versions", ", ".join(f"{name} {value}" for name, value in (report.get("versions") or {}).items())),
        ("machine", platform.platform()),
    ]
    files = "report.json, history.csv, predictions.csv, model.keras and the pictures as PNG lie beside this page."
    return pages.facts((name, value) for name, value in pairs if value not in (None, "")) + f"<p class=quiet>{files}</p>\n"


def _gallery(pictures):
    """Pictures by name as HTML: bytes, or (bytes, caption)."""
    shown = []
    for name, picture in pictures.items():
        data, caption = picture if isinstance(picture, tuple) else (picture, name.replace("_", " "))
        shown.append(pages.figure(data, caption))
    return pages.figures(*shown) if shown else ""


def _data_pictures(train, val, test, examples):
    """Class distribution, and a signal and an image of each class, as (bytes, caption) by file name."""
    first = train if train is not None else test
    balance = first.balance
    before = balance.counts_before if balance is not None else first.class_counts()
    after = first.class_counts() if balance is not None and balance.resampled else None
    part = "train" if train is not None else "test"
    caption = f"Rows of each class in the {part} part" + (", before and after balancing." if after else ".")
    pictures = {"class_distribution": (plots.png(plots.plot_class_distribution(before, after=after)), caption)}
    seen = val if val is not None else test  # never resampled
    if examples is None and seen.grid is None:
        examples = seen
    for kind, row in examples_of(examples, most=_MOST_EXAMPLES).items() if examples is not None else ():
        axes = plots.plot_signal(
            examples.x[row], fs=examples.fs, unit=examples.unit, leads=examples.leads, title=f"{kind}: signal"
        )
        pictures[f"signal_{_file_name(kind)}"] = (plots.png(axes), f"A signal of class {kind}.")
    if seen.grid is not None:
        n_samples = None if examples is None else examples.x.shape[1]
        for kind, row in examples_of(seen, most=_MOST_EXAMPLES).items():
            if seen.is_images:
                lead = f", lead {seen.leads[0]}" if len(seen.leads) > 1 else ""
                axes = plots.plot_image(seen.x[row], grid=seen.grid, n_samples=n_samples, title=f"{kind}: image{lead}")
            else:
                axes = plots.plot_spectrum(seen.x[row], grid=seen.grid, leads=seen.leads, title=f"{kind}: spectrum")
            pictures[f"image_{_file_name(kind)}"] = (plots.png(axes), f"What the model sees of class {kind}.")
    return pictures


def _curve_pictures(history, numbers):
    """Loss and macro F1 (or accuracy) over epochs."""
    if not history:
        return {}
    best, pictures = numbers.get("best_epoch"), {}
    for name, label in (("loss", "loss"), ("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("macro_auc", "macro-AUC")):
        if any(row.get(key) is not None for row in history for key in (name, f"val_{name}")):
            axes = plots.plot_history(history, (name, f"val_{name}"), label=label, best_epoch=best)
            pictures[f"curve_{name}"] = (plots.png(axes), f"{label} of train and validation over the epochs.")
    return pictures


def _result_pictures(test, scores, numbers):
    """Confusion matrix, ROC, precision-recall and calibration of the test part."""
    figures, pictures = numbers["test"], {}
    if not test.multi_label:
        axes = plots.plot_confusion(figures["confusion"], test.classes)
        pictures["confusion"] = (plots.png(axes), "Confusion matrix: counts, and the percentage of each true class.")
    axes = plots.plot_roc(test.y, scores, test.classes)
    pictures["roc"] = (plots.png(axes), "ROC curve of each class against all others.")
    axes = plots.plot_precision_recall(test.y, scores, test.classes)
    pictures["precision_recall"] = (plots.png(axes), "Precision over recall of each class against all others.")
    axes = plots.plot_calibration(test.y, scores, ece=figures.get("ece"))
    pictures["calibration"] = (plots.png(axes), "Calibration: how often an answer given with this probability is right.")
    return pictures


def _prediction_rows(test, scores, thresholds):
    """One dict per test row."""
    names = np.array(test.classes)
    if test.multi_label:
        join = lambda labels: ["|".join(names[row]) for row in labels]  # noqa: E731
        true, predicted = join(test.y.astype(bool)), join(scores >= np.asarray(thresholds or 0.5))
    else:
        true, predicted = names[test.y], names[scores.argmax(axis=1)]
    for i in range(len(test)):
        row = {"row": i, "true": true[i], "predicted": predicted[i]}
        row |= {f"p_{name}": f"{value:.8g}" for name, value in zip(test.classes, scores[i])}
        if test.patients is not None:
            row["patient"] = test.patients[i]
        if test.records is not None:
            row["record"] = test.records[i]
        yield row


def _write_csv(path, rows):
    """Dicts to a CSV file with all their keys as columns, whole or not at all."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _file_name(text):
    """Class name as part of a file name."""
    return "".join(char if char.isalnum() or char in "-+" else "-" for char in str(text))


def _plain(value):
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return value


def _short(value):
    """A number in few digits."""
    if value is None:
        return "-"
    return f"{value:d}" if isinstance(value, (int, np.integer)) else f"{value:.4g}"
