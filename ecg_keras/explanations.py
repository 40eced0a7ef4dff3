"""Hold explanations, judge them by their checks, and write them as pictures and a page.

Conventions
-----------
The page says of every method which checks it passes and which it fails, before it shows a
picture. Shares are in 0..1 in explanations.json and in percent on the page.
"""

import pathlib
from dataclasses import dataclass, field

import numpy as np

from ecg_keras import overlays, pages
from ecg_keras.plots import png
from ecg_keras.probe import Probe
from ecg_keras.sections import SYNTHETIC
from ecg_keras.storage import atomic_path, write_json, write_text

QRS_S = (-0.08, 0.12)  # around R: a wide QRS fits
BEFORE_S, AFTER_S = 0.2, 0.6  # of R that averages show
_LIMITS = {"additivity": 0.02, "other_weights": 0.5, "planted": 0.8}


@dataclass
class Explanations:
    """What `explain` found.

    Attributes
    ----------
    rows : int, shape (n,)
        Row numbers in the data set.
    roles : list of str
        Why each was chosen.
    targets : int, shape (n,)
        Class explained.
    probabilities : float, shape (n, classes)
        What the model says of each row.
    attributions : dict of str to Attribution
        By method: ``.signal`` (n, samples, leads), ``.image`` (n, freqs, frames) or None, ``.quality``.
    left_out : dict of str to str
        Why other methods were not used, by method.
    freqs_hz, times_s : float or None
        Axes of the image (of a spectrum, frequencies alone).
    branches : dict of str to float (n,), or None
        What each branch of a fused network adds to the class's log-odds, against its mean.
    checks : dict
        Figures of the checks.
    averages : dict
        Class to signals and attributions around the R peak, as `overlays.plot_averages` takes them.
    """

    classes: tuple
    rows: np.ndarray
    roles: list
    targets: np.ndarray
    probabilities: np.ndarray
    y: np.ndarray
    attributions: dict
    freqs_hz: np.ndarray | None
    times_s: np.ndarray | None
    left_out: dict = field(default_factory=dict)
    branches: dict | None = None
    checks: dict = field(default_factory=dict)
    averages: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)
    probe: Probe | None = None
    out_dir: pathlib.Path | None = None

    def __getitem__(self, method):
        return self.attributions[method]

    def __len__(self):
        return len(self.rows)

    @property
    def page(self):
        """Path of explanations.html, or None."""
        return None if self.out_dir is None else self.out_dir / "explanations.html"


def verdicts(found):
    """Sentences on which checks each method fails; an empty list where it passes all.

    Parameters
    ----------
    found : Explanations
        With checks.

    Returns
    -------
    failures : dict of str to list of str
    """
    checks, failures = found.checks, {}
    for name in found.attributions:
        failures[name] = said = []
        for kind in ("deletion", "insertion"):
            gain = checks["removal"][name][f"{kind}_gain"]
            if gain["ci95"] is None or gain["ci95"][0] <= 0:
                said.append(f"{kind} is not better than random order")
        rank = checks["other_weights"][name]
        if rank["mean"] is not None and rank["mean"] >= _LIMITS["other_weights"]:
            said.append("the picture hardly changes with other weights")
        planted = checks.get("planted")
        if (
            planted
            and name in planted
            and planted["accuracy"] >= 0.9
            and planted[name]["mean"] < _LIMITS["planted"]
        ):
            said.append(
                f"less than {100 * _LIMITS['planted']:.0f} % of it lies inside a planted difference"
            )
        if name == "shap" and checks["additivity"]["largest"] > _LIMITS["additivity"]:
            said.append("values do not sum to the difference within 2 %")
    return failures


def write(found, ds, out_dir):
    """First explanations.json, which makes the folder ours, one PNG per row, and last explanations.html."""
    out_dir = pathlib.Path(out_dir)
    found.out_dir = out_dir
    write_json(out_dir / "explanations.json", _numbers(found, ds))
    rows, checks = row_pictures(found), check_pictures(found, ds)
    for name, (data, _) in {**rows, **checks}.items():
        with atomic_path(out_dir / f"{name}.png") as part:
            part.write_bytes(data)
    sections = []
    if found.checks:
        gallery = pages.figures(*(pages.figure(*picture, wide=True) for picture in checks.values()))
        sections.append(("checks", "Can the pictures be believed?", checks_html(found) + gallery))
    gallery = pages.figures(
        *(pages.figure(*picture, wide=found.times_s is not None) for picture in rows.values())
    )
    if rows:
        sections.append(("rows", "Row by row", _legend(found) + gallery))
    banner = SYNTHETIC if ds.synthetic else None
    lead = f"<p>{pages.escape(found.probe.name)} on {pages.escape(ds.source)}: {len(found)} rows explained.</p>"
    lead += pages.bullets(ds.notes) + left_out_html(found)
    write_text(
        out_dir / "explanations.html",
        pages.page("What decided", sections, lead=lead, banner=banner),
    )


def _numbers(found, ds):
    """What explanations.json holds."""
    rows = [
        {
            "row": row,
            "role": role,
            "explained": found.classes[target],
            "true": _true(found, i),
            "probabilities": dict(zip(found.classes, found.probabilities[i])),
            **(
                {}
                if found.branches is None
                else {"branches": {k: v[i] for k, v in found.branches.items()}}
            ),
        }
        for i, (row, role, target) in enumerate(zip(found.rows, found.roles, found.targets))
    ]
    quality = {
        name: {key: value for key, value in a.quality.items() if key != "cells"}
        for name, a in found.attributions.items()
    }
    return {
        "source": ds.source,
        "synthetic": ds.synthetic,
        "rows": rows,
        "methods": quality,
        "left_out": found.left_out,
        "checks": found.checks,
        "seconds": found.seconds,
    }


def _true(found, i):
    """True label of a row as text."""
    y = found.y[i]
    return (
        "+".join(np.array(found.classes)[y == 1]) or "none"
        if found.y.ndim == 2
        else found.classes[y]
    )


def row_pictures(found):
    """A picture of each row, as (PNG, caption) by file name; none where no method was used."""
    probe, pictures = found.probe, {}
    for i, (row, role) in enumerate(zip(found.rows, found.roles) if found.attributions else ()):
        name = found.classes[found.targets[i]]
        said = found.classes[found.probabilities[i].argmax()]
        chance = found.probabilities[i, found.targets[i]]
        title = (
            f"row {row}: true {_true(found, i)}, predicted {said}; explained: {name} ({chance:.3f})"
        )
        fig = overlays.plot_explanation(
            found.attributions,
            i,
            signal=None
            if probe.signals is None or np.isnan(probe.signals[i]).any()
            else probe.signals[i],
            image=probe.x[i] if probe.grid is not None else None,
            fs=probe.fs,
            unit=probe.unit,
            leads=probe.leads,
            freqs_hz=found.freqs_hz,
            times_s=found.times_s,
            title=title,
        )
        branches = "" if found.branches is None else f" Branches: {_branch_text(found, i)}."
        pictures[f"explained_{row}"] = (png(fig, dpi=110), f"Row {row} ({role}).{branches}")
    return pictures


def _branch_text(found, i):
    """Shares of the branches in one row's score, with sign."""
    values = {name: float(v[i]) for name, v in found.branches.items()}
    total = sum(abs(v) for v in values.values()) or 1.0
    return ", ".join(
        f"{name} {100 * abs(v) / total:.0f} % {'for' if v >= 0 else 'against'}"
        for name, v in values.items()
    )


def check_pictures(found, ds):
    """Deletion curves and class averages."""
    if not found.checks:
        return {}
    fig = overlays.plot_removal(found.checks["removal"], list(found.attributions))
    pictures = {
        "explained_removal": (
            png(fig),
            "Parts taken out, and put in, in the order of each method and at random.",
        )
    }
    shown = {
        name: parts
        for name, parts in found.averages.items()
        if all(m in parts for m in found.attributions)
    }
    if shown:
        fig = overlays.plot_averages(
            shown, fs=ds.fs, unit=ds.unit, before=round(BEFORE_S * ds.fs), qrs_s=QRS_S
        )
        caption = "Average beat and attribution of each class, aligned on the R peak; yellow: 80 ms before to 120 ms after it."
        pictures["explained_averages"] = (png(fig, dpi=110), caption)
    return pictures


def _legend(found):
    """How to read the pictures."""
    words = {
        "gradcam": "Grad-CAM shows where the network's feature map speaks for the class "
        "(no sign, {step:.0f} ms apart, {weights} gradients{guided})",
        "shap": "SHAP shares the log-odds out to stretches of time or patches, against rows of all classes",
        "lime": "LIME fits a linear model to what happens when stretches or patches are replaced",
    }
    text = []
    for name, a in found.attributions.items():
        guided = (
            ", times what each sample or pixel adds by its own gradient"
            if a.quality.get("guided")
            else ""
        )
        step, weights = a.quality.get("step_ms") or 0, a.quality.get("weights")
        text.append(words[name].format(step=step, weights=weights, guided=guided))
    return (
        "<p class=quiet>Red speaks for the class explained, blue against it; the score is the class's log-odds against "
        "all others. "
        + pages.escape("; ".join(text))
        + ". P, Q, R, S and T are marked where a simple rule finds them.</p>\n"
    )


def left_out_html(found):
    """A sentence on each method that was left out."""
    return pages.bullets(
        f"{overlays.TITLES[name]} was left out: {why}." for name, why in found.left_out.items()
    )


def checks_html(found):
    """Verdict, tables and how to read them; nothing where nothing was checked."""
    if not found.checks:
        return ""
    checks, failures = found.checks, verdicts(found)
    titles = {name: overlays.TITLES.get(name, name) for name in found.attributions}
    good = [titles[name] for name, said in failures.items() if not said]
    html = f"<p>{checks['rows']} rows drawn from all classes were used for the checks.</p>\n"
    html += f"<p><b>{pages.escape(', '.join(good) or 'No method')} passed every check.</b></p>\n"
    html += pages.bullets(
        [f"{titles[name]}: {'; '.join(said)}." for name, said in failures.items() if said]
    )
    planted = checks.get("planted") or {}
    rows = []
    for name, title in titles.items():
        removal = checks["removal"][name]
        gains = [_span(removal[kind]) for kind in ("deletion_gain", "insertion_gain")]
        rows.append(
            [
                title,
                *gains,
                _span(checks["other_weights"][name]),
                _span(planted.get(name), _whole_percent),
            ]
        )
    headers = [
        "method",
        "deletion gain",
        "insertion gain",
        "rank corr., other weights",
        "inside planted span",
    ]
    html += pages.table(headers, rows, caption="Means over rows, with 95 % intervals")
    html += (
        "<p class=quiet>" + "<br>".join(pages.escape(note) for note in _notes(checks)) + "</p>\n"
    )
    if checks["agreement"]:
        pairs = []
        for names, value in checks["agreement"].items():
            first, second = names.split(" and ")
            pairs.append([f"{titles[first]}, {titles[second]}", _span(value)])
        html += pages.table(
            ["methods", "Spearman"], pairs, caption="Agreement of what speaks for the class"
        )
    if checks["qrs"]:
        rows = [
            [
                kind,
                *(_span(shares.get(name), _whole_percent) for name in titles),
                _whole_percent(next(iter(shares.values()))["of_time"]),
            ]
            for kind, shares in checks["qrs"].items()
        ]
        caption = "Share of positive attribution from 80 ms before to 120 ms after the R peak"
        html += pages.table(["class", *titles.values(), "of the row's time"], rows, caption=caption)
    if found.branches is not None:
        sizes = {name: np.abs(values) for name, values in found.branches.items()}
        total = np.maximum(sum(sizes.values()), 1e-9)
        rows = [
            [name, _whole_percent(float((size / total).mean()))] for name, size in sizes.items()
        ]
        caption = "Share of each branch in the decision (Shapley values over branches, mean over the rows shown)"
        html += pages.table(["branch", "share"], rows, caption=caption)
    return html + _legend(found)


def _notes(checks):
    """How to read the table of checks."""
    notes = [
        "Gains: area between the method's curve and that of random order, in probability; above zero is better than "
        "random. LIME replaces parts as this check does, which favours it.",
        "Other weights: Spearman correlation with the explanation of the same network with fresh weights; low is good "
        f"(below {_LIMITS['other_weights']} passes).",
    ]
    if planted := checks.get("planted"):
        first, last = planted["span_s"]
        learned = (
            ""
            if planted["accuracy"] >= 0.9
            else " It did not learn the task, so these shares say little."
        )
        notes.append(
            f"Planted span: share of positive attribution inside, for the same architecture trained on synthetic beats that "
            f"differ only from {first:.2f} to {last:.2f} s ({_whole_percent(planted['chance'])} of the row; accuracy "
            f"{_whole_percent(planted['accuracy'])}); {_whole_percent(_LIMITS['planted'])} passes.{learned}"
        )
    if gap := checks.get("additivity"):
        most = pages.percent(gap["largest"], 2)
        notes.append(
            f"SHAP: over {gap['n']} rows, the values' sum is off by {most} of the difference at most."
        )
    if "lime_r2" in checks:
        notes.append(
            f"LIME: its linear fit explains {_span(checks['lime_r2'], pages.percent)} of the score's variance."
        )
    return notes


def _span(value, show=pages.decimal):
    """A mean with its interval as text."""
    if not value or value["mean"] is None:
        return "-"
    return f"{show(value['mean'])} ({pages.interval(value['ci95'], show)})"


def _whole_percent(value):
    """A share as percent without decimals."""
    return pages.percent(value, 0)
