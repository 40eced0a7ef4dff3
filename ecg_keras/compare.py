"""Put finished runs side by side: figures, differences on the same test rows, size and time.

Conventions
-----------
A run is a folder that `report.write_report` wrote. Two runs are paired only where their
predictions.csv have the same classes, the same true labels in the same order, and the same
patients and recordings; other pairs are listed with the reason. A difference is the second
run minus the first. Intervals come from the test rows, not from repeated training.
"""

import contextlib
import functools
import itertools
import json
import pathlib
import sys

import numpy as np
import pandas as pd
from markupsafe import Markup

from ecg_keras import pages, plots
from ecg_keras._checks import CallableModule
from ecg_keras.metrics import bootstrap, difference
from ecg_keras.pages import decimal, percent, range_text
from ecg_keras.report import write_pictures
from ecg_keras.storage import check_free, write_json, write_text

_LABELS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "macro_auc": "macro-AUC"}
_CURVES = {  # column of history.csv to its label
    "val_loss": "validation loss",
    "val_macro_f1": "validation macro-F1",
    "val_macro_auc": "validation macro-AUC",
}
_FILES = ["compare.json", "compare.csv", "compare.html"]
_FILES += [f"compare_{name}.png" for name in (*_LABELS, *_CURVES, "cost")]
_COLUMNS = (  # of compare.csv
    "run model source synthetic task seed n_test n_patients parameters model_mb epochs_run "
    "fit_seconds peak_rss_mb device accuracy accuracy_low accuracy_high majority_accuracy "
    "macro_f1 macro_f1_low macro_f1_high macro_auc macro_auc_low macro_auc_high ece"
).split()


class Comparison(dict):
    """What `compare` found, with the folder it was written to as `out_dir`.

    ``runs`` holds a dict per run, ``pairs`` the differences, ``unpaired`` pairs with reasons.
    """

    def __init__(self, values, out_dir):
        super().__init__(values)
        self.out_dir = pathlib.Path(out_dir)

    @property
    def page(self):
        """Path of compare.html."""
        return self.out_dir / "compare.html"

    def _repr_html_(self):
        """The table of runs, for notebooks."""
        return _run_table(self["runs"], _order(self["runs"]))


def compare(run_dirs, out_dir, *, seed=0, n_boot=1000):
    """Compare finished runs and write compare.html, compare.csv, compare.json and the pictures.

    Parameters
    ----------
    run_dirs : sequence of path
        Folders with report.json; predictions.csv and history.csv are used where they are.
    out_dir : path
        Folder to write to.
    seed : int, default 0
        Seed of the bootstrap.
    n_boot : int, default 1000
        Draws of the paired bootstrap, by patient where predictions.csv names patients.

    Returns
    -------
    Comparison
        A dict with ``runs``, ``pairs`` and ``unpaired``; knows its `page`.

    Raises
    ------
    ValueError
        If fewer than two runs are given, a folder is not a finished run, or a file in `out_dir`
        that no comparison wrote would be replaced.

    Examples
    --------
    >>> compare(["outputs/one"], "outputs/comparison")
    Traceback (most recent call last):
    ValueError: compare needs at least two runs, got 1.
    """
    run_dirs, out_dir = [pathlib.Path(path) for path in run_dirs], pathlib.Path(out_dir)
    if len(run_dirs) < 2:
        raise ValueError(f"compare needs at least two runs, got {len(run_dirs)}.")
    check_free(out_dir, _FILES, "compare.json")
    names = _short_names(run_dirs)
    runs = [_read_run(path, name) for path, name in zip(run_dirs, names)]
    pairs, unpaired = _pair_up(runs, seed, n_boot)
    order = _order([run["report"] for run in runs])
    runs.sort(key=lambda run: -(run["report"]["test"].get(order[0]) or 0))
    rows = [_row(run) for run in runs]
    result = Comparison(
        {"runs": rows, "pairs": pairs, "unpaired": unpaired, "seed": seed, "n_boot": n_boot},
        out_dir,
    )
    pictures = _pictures(runs, rows, order)
    write_json(out_dir / "compare.json", result)
    table = pd.DataFrame(rows, columns=_COLUMNS, dtype=object)  # whole numbers stay whole
    write_text(out_dir / "compare.csv", table.to_csv(index=False, lineterminator="\n"))
    write_pictures(out_dir, pictures)
    write_text(result.page, _page(result, runs, pictures, order))
    return result


def _order(runs):
    """The metrics, first what runs are ordered by: macro-F1, or macro-AUC (all multi-label)."""
    multi_label = all(run.get("task") == "multi-label" for run in runs)
    first = "macro_auc" if multi_label else "macro_f1"
    return sorted(_LABELS, key=lambda name: name != first)


def _short_names(run_dirs):
    """Folder names with the parents that tell them apart, without an ending that all share."""
    resolved = [path.resolve() for path in run_dirs]
    if len(set(resolved)) < len(resolved):
        raise ValueError("a run is given twice; name each folder once.")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            parents, _, endings = zip(*(name.rpartition("/") for name in names))
            shared = len(set(endings)) == 1 and len(set(parents)) == len(parents)
            return list(parents) if shared else names
    raise AssertionError("different paths have different names")


def _read_run(path, name):
    """A run's folder to its report, history, and predictions (or why there are none)."""
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        report["test"]["accuracy"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not a finished run: report.json is absent or not whole; give a folder "
            "that a run wrote."
        ) from None
    run = {"name": name, "path": path, "report": report, "history": [], "rows": None, "why": None}
    with contextlib.suppress(FileNotFoundError, pd.errors.EmptyDataError):
        history = pd.read_csv(path / "history.csv").apply(pd.to_numeric, errors="coerce")
        run["history"] = history.astype(object).where(history.notna(), None).to_dict("records")
    try:
        run["rows"] = _read_predictions(path / "predictions.csv", report)
    except (OSError, ValueError, KeyError) as error:
        run["why"] = f"{name}: predictions.csv is absent or does not fit report.json ({error})"
    return run


def _read_predictions(path, report):
    """predictions.csv as true labels, probabilities, patients, records and thresholds."""
    classes = [str(name) for name in report["classes"]]
    kinds = {"true": str, "predicted": str, "patient": str, "record": str}
    frame = pd.read_csv(path, dtype=kinds, keep_default_na=False)
    probabilities = frame[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    true = frame["true"].to_numpy(str)
    if report.get("task") == "multi-label":
        y = np.array([[name in labels.split("|") for name in classes] for labels in true], int)
    else:
        y = np.array([classes.index(label) for label in true])
    if len(y) != report["test"]["n"]:
        raise ValueError(f"{len(y)} rows, report.json has {report['test']['n']}")
    ids = {
        name: frame[name].to_numpy(str) if name in frame else None for name in ("patient", "record")
    }
    thresholds = report["test"].get("thresholds")
    return {"classes": classes, "y": y, "p": probabilities, "thresholds": thresholds, **ids}


def _pair_up(runs, seed, n_boot):
    """All pairs of runs to differences, or to reasons why they have none."""
    pairs, unpaired, measured = [], [], {}
    for first, second in itertools.combinations(runs, 2):
        names = {"a": first["name"], "b": second["name"]}
        if reason := _why_not(first, second):
            unpaired.append({**names, "reason": reason})
            continue
        for run in (first, second):
            if run["name"] not in measured:
                rows = run["rows"]
                measured[run["name"]] = bootstrap(
                    rows["y"],
                    rows["p"],
                    patients=rows["patient"],
                    thresholds=rows["thresholds"],
                    seed=seed,
                    n_boot=n_boot,
                )
        gaps = difference(measured[first["name"]], measured[second["name"]])
        pairs.append({**names, **gaps})
    return pairs, unpaired


def _why_not(first, second):
    """None where two runs predicted the same rows, else the reason."""
    for run in (first, second):
        if run["why"]:
            return run["why"]
    a, b = first["rows"], second["rows"]
    if a["classes"] != b["classes"]:
        return f"classes differ: {', '.join(a['classes'])} and {', '.join(b['classes'])}"
    if len(a["y"]) != len(b["y"]):
        return f"test rows differ: {len(a['y']):,} and {len(b['y']):,}"
    if a["y"].shape != b["y"].shape or not np.array_equal(a["y"], b["y"]):
        return "true labels differ: these are other rows, or the same in another order"
    for name in ("patient", "record"):
        if not np.array_equal(a[name], b[name]):  # None where a run does not name them
            return f"{name}s of the test rows differ"
    return None


def _row(run):
    """One run as a flat row of `_COLUMNS`."""
    report, test = run["report"], run["report"]["test"]
    model = run["path"] / "model.keras"
    names = ("model", "source", "synthetic", "task", "seed", "epochs_run", "peak_rss_mb", "device")
    row = {
        "run": run["name"],
        **{name: report.get(name) for name in names},
        "n_test": test["n"],
        "n_patients": test.get("n_patients"),
        "parameters": report.get("n_parameters"),
        "model_mb": round(model.stat().st_size / 1e6, 3) if model.is_file() else None,
        "fit_seconds": (report.get("seconds") or {}).get("fit"),
        "majority_accuracy": test.get("majority_accuracy"),
        "ece": test.get("ece"),
    }
    for name in _LABELS:
        row[name] = test.get(name)
        row[f"{name}_low"], row[f"{name}_high"] = (test.get("ci95") or {}).get(name) or (None, None)
    return row


def _pictures(runs, rows, order):
    """Intervals, validation curves and cost, as (bytes, caption) by file name."""
    drawn, first = {}, _LABELS[order[0]]
    for name in order:
        label, points = _LABELS[name], [(row["run"], row[name], _pair(row, name)) for row in rows]
        if any(value is not None for _, value, _ in points):
            caption = f"Test {label} of each run, in the order of the table."
            drawn[name] = plots.plot_intervals(points, label=label), caption
    for key, label in _CURVES.items():
        curves = {run["name"]: run["history"] for run in runs}
        for name, history in list(curves.items()):
            if all(row.get(key) is None for row in history):
                del curves[name]
        if curves:
            caption = f"{label[0].upper()}{label[1:]} over the epochs."
            drawn[key] = plots.plot_runs(curves, key, label=label), caption
    points = [(r["run"], r["fit_seconds"], r[order[0]], r["parameters"] or 0) for r in rows]
    points = [point for point in points if point[1] is not None and point[2] is not None]
    if len(points) > 1:
        caption = f"Test {first} over training time."
        drawn["cost"] = plots.plot_cost(points, label=f"test {first}"), caption
    return {f"compare_{name}": (plots.png(axes), text) for name, (axes, text) in drawn.items()}


def _page(result, runs, pictures, order):
    """The comparison as HTML."""
    rows, key = result["runs"], order[0]
    best = rows[0]
    text = (
        f"{len(rows)} runs, ordered by test {_LABELS[key]}. The first, {best['run']}, reaches "
        f"{decimal(best[key])} ({range_text(_pair(best, key))}). Always answering the largest "
        f"class would be right for {percent(best['majority_accuracy'])} of its test rows."
    )
    notes = [
        "Intervals and p values come from drawing test rows (or patients) again. They do not hold "
        "the spread between trainings with other seeds, and p values are not corrected for the "
        "number of comparisons.",
    ]
    reasons = {}
    for pair in result["unpaired"]:
        reasons.setdefault(pair["reason"], []).append(f"{pair['a']} and {pair['b']}")
    notes += [f"Not paired, {reason}: {'; '.join(those)}." for reason, those in reasons.items()]
    chapters = [
        ("runs", "Runs", pages.paragraph(text) + _run_table(rows, order)),
        ("notes", "Read this first", pages.notes(notes)),
    ]
    if result["pairs"]:
        gaps = _differences(result, best["run"], order)
        chapters.append(("differences", "Differences on the same test rows", gaps))
    shown = pages.figures(*(pages.figure(*picture) for picture in pictures.values()))
    chapters.append(("pictures", "Pictures", shown))
    chapters.append(("cost", "Size and time", _cost_table(rows)))
    made = ", ".join(row["run"] for row in rows if row["synthetic"])
    banner = f"Synthetic data in {made}: these figures say nothing about patients."
    return pages.page("Comparison of runs", chapters, banner=banner if made else None)


def _run_table(rows, order):
    """Figures with intervals, a line per run."""
    headers, lines = ["run"], [[row["run"]] for row in rows]
    for name in order:
        show = functools.partial(percent, digits=2) if name == "accuracy" else decimal
        headers += [_LABELS[name], "95 %"]
        for line, row in zip(lines, rows):
            line += [show(row[name]), range_text(_pair(row, name), show)]
    headers += ["always largest", "ECE", "test rows"]
    for line, row in zip(lines, rows):
        line += [percent(row["majority_accuracy"]), decimal(row["ece"]), f"{row['n_test']:,}"]
    return pages.table(headers, lines)


def _differences(result, best, order):
    """Differences to the best run, and every pair folded away."""
    with_best = [pair for pair in result["pairs"] if best in (pair["a"], pair["b"])]
    to_best = [pair if pair["a"] == best else _turned(pair) for pair in with_best]
    caption = (
        f"Paired bootstrap, {result['n_boot']:,} draws, seed {result['seed']}; "
        "an interval without 0 is a difference seen on these rows"
    )
    html = _pair_table(to_best, order, caption=caption) if to_best else Markup()
    if len(result["pairs"]) > len(to_best):
        every = _pair_table(result["pairs"], order)
        html += pages.folded(f"All {len(result['pairs'])} pairs", every)
    return html


def _pair_table(pairs, order, **options):
    """Differences with intervals and p values, a line per pair."""
    headers = ["second minus first"]
    headers += [text for name in order for text in (_LABELS[name], "95 %", "p")]
    lines = []
    for pair in pairs:
        line = [f"{pair['b']} - {pair['a']}"]
        for gap in map(pair.get, order):
            line += [_signed(gap["difference"]), range_text(gap["ci95"], _signed)]
            line.append(decimal(gap["p"]))
        lines.append(line)
    return pages.table(headers, lines, **options)


def _turned(pair):
    """A pair the other way round."""
    turned = {"a": pair["b"], "b": pair["a"]}
    for name in _LABELS:
        gap, ci95 = pair[name]["difference"], pair[name]["ci95"]
        turned[name] = {
            "difference": None if gap is None else -gap,
            "ci95": None if ci95 is None else [-ci95[1], -ci95[0]],
            "p": pair[name]["p"],
        }
    return turned


def _cost_table(rows):
    """Parameters, file size, epochs, seconds, memory, device."""
    shown = {  # column to its heading and format
        "model": ("model", "{}"),
        "parameters": ("parameters", "{:,}"),
        "model_mb": ("model.keras (MB)", "{:.2f}"),
        "epochs_run": ("epochs", "{}"),
        "fit_seconds": ("training (s)", "{:,.0f}"),
        "peak_rss_mb": ("peak memory (MB)", "{:,.0f}"),
        "seed": ("seed", "{}"),
        "device": ("device", "{}"),
    }
    cell = lambda value, form: "-" if value is None else form.format(value)
    lines = [
        [row["run"], *(cell(row[name], form) for name, (_, form) in shown.items())] for row in rows
    ]
    headers = ["run", *(heading for heading, _ in shown.values())]
    return pages.table(headers, lines, numbers_from=2)


def _pair(row, name):
    """The interval of a metric in a flat row, or None."""
    return None if row[f"{name}_low"] is None else (row[f"{name}_low"], row[f"{name}_high"])


def _signed(value):
    """A difference with its sign."""
    return "-" if value is None else f"{value:+.4f}"


sys.modules[__name__].__class__ = CallableModule
