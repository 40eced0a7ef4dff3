"""Tell a run's story in HTML: what was measured on what, with what, and how to do it again.

Conventions
-----------
`report` is the content of report.json; figures are shares in 0..1 and shown in percent,
or with three decimals. Each private function returns the HTML of one section. A figure
that cannot be known is a dash.
"""

import numpy as np

from ecg_keras import pages
from ecg_keras.inspection import inspection_html
from ecg_keras.pages import decimal, interval, percent

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
            "smote-tomek": "Rows were added by SMOTE and Tomek links removed, in the train part only.",
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
