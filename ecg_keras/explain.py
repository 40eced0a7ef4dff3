"""Explain what a trained model decided by, check the explanations, write them as a page.

Conventions
-----------
An explanation belongs to a row and a class. Attributions are aligned with the signal
(n, samples, leads) and, for image models, with the image (n, freqs, frames); `attribution.py` says
their units, `faithfulness.py` how they are checked. The page says of every method which checks it
passes and which it fails, before it shows a picture. Shares are in 0..1 in explanations.json and
in percent on the page.
"""

import functools
import importlib.util
import pathlib
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from ecg_keras import faithfulness, pages, plots
from ecg_keras._checks import CallableModule, check_option, check_signals
from ecg_keras.attribution import METHODS, Probe, balanced_rows, branch_shares, replacement
from ecg_keras.dataset import ECGDataset
from ecg_keras.keras_graph import feature_maps
from ecg_keras.report import SYNTHETIC
from ecg_keras.saved_models import predict
from ecg_keras.storage import atomic_path, check_free, write_json, write_text
from ecg_keras.waves import row_peaks

BEFORE_S, AFTER_S = 0.2, 0.6  # of R that averages show
QRS_S = (-0.08, 0.12)  # around R: a wide QRS fits
_PER_CLASS = 200  # rows Grad-CAM averages over, at most
_AVERAGED_BYTES = 64e6  # that these rows may take together
_OTHER_WEIGHTS_ROWS = 8
_HEAVY = 6000  # values of a row: above, SHAP of 15 rows with eight background rows takes minutes
_REPORT_ROWS = 20  # that the section of a report is checked on
_MOST_CLASSES = 8  # classes that default rows are taken from: the largest
_LIMITS = {"additivity": 0.02, "other_weights": 0.5, "planted": 0.8}


def explain(
    model,
    ds,
    *,
    rows=None,
    methods=None,
    target="predicted",
    out_dir=None,
    signals=None,
    layer="fine",
    weights="elementwise",
    guided=True,
    check_rows=30,
    plant=True,
    seed=0,
):
    """Say which part of each row decided, and check the answer.

    Parameters
    ----------
    model : keras.Model
        As `build_model` makes it, trained; or a saved model (`load_model`), which takes raw
        signals.
    ds : ECGDataset
        Rows in the form the model takes, best a test part.
    rows : sequence of int, optional
        Which to explain. By default for each class the most confident hit, the most confident miss
        and a representative row, at most 24.
    methods : sequence of {"gradcam", "shap", "lime"}, optional
        See `attribution.py`. By default all that apply; ``left_out`` of the result says why the
        others do not.
    target : {"predicted", "true"} or a class name, default "predicted"
        Which class is explained. Of a row with several true classes, the one with the highest
        probability.
    out_dir : path, optional
        Folder for one PNG per row, explanations.json and explanations.html.
    signals : float, shape (n, samples, leads), optional
        The waveform of each row, for a `ds` of images or spectra, which holds none; only drawn.
    layer : {"fine", "last"}, default "fine"
    weights : {"elementwise", "mean"}, default "elementwise"
    guided : bool, default True
        Of `attribution.gradcam`; ``layer="last", weights="mean", guided=False`` is the paper's
        plain Grad-CAM.
    check_rows : int, default 30
        Rows drawn from all classes for the checks; 0 for none.
    plant : bool, default True
        With the checks, train the same architecture on synthetic beats with a known answer.
    seed : int, default 0
        Seed of every draw.

    Returns
    -------
    Explanations

    Raises
    ------
    TypeError
        If `ds` is not an ECGDataset.
    ValueError
        If a row, method or class is not there, the rows do not fit the model, or Grad-CAM is asked
        of a model without convolutions.
    ImportError
        If shap is asked for and not installed.

    Examples
    --------
    >>> from ecg_keras import build_model
    >>> from ecg_keras.faithfulness import planted
    >>> ds = planted(40)
    >>> model = build_model("cnn1d", like=ds, filters=(4, 8))
    >>> found = explain(model, ds, rows=[0, 1], methods=["gradcam", "lime"], check_rows=0)
    >>> found["gradcam"].signal.shape
    (2, 187, 1)
    """
    if not isinstance(ds, ECGDataset):
        raise TypeError(f"ds must be an ECGDataset, as a loader gives it, got {type(ds).__name__}.")
    if methods is not None:
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        methods = [check_option("methods", name, METHODS) for name in methods]
        if not methods:
            raise ValueError(f"methods is empty; choose of {', '.join(METHODS)}.")
    if target not in ("predicted", "true", *ds.classes):
        known = ", ".join(ds.classes)
        raise ValueError(
            f"target={target!r} is not a class; choose 'predicted', 'true' or one of {known}."
        )
    if out_dir is not None:
        names = ("explanations.json", "explanations.html", "explained_*.png")
        check_free(out_dir, names, "explanations.json", "report.json")
    rows = None if rows is None else _checked_rows(rows, len(ds))
    waveforms = ds.x if ds.grid is None else _waveforms(signals, ds)
    Probe(model, ds[:1])  # refuses what does not fit before anything takes time
    scores = predict(_matching_model(model, ds), ds)
    predicted = scores.argmax(axis=1)
    if rows is None:
        known = []
        if ds.grid is not None and waveforms is not None:
            known = np.flatnonzero(np.isfinite(waveforms).all(axis=(1, 2)))
        chosen = default_rows(ds, scores, representative=known)
        rows, roles = np.array(list(chosen), int), list(chosen.values())
    else:
        roles = ["chosen"] * len(rows)
    check = np.array(balanced_rows(ds.y, check_rows, seed=seed), int)
    average = _rows_to_average(ds, scores, seed) if check_rows else np.array([], int)
    back = np.array(balanced_rows(ds.y, _PER_CLASS, seed=seed + 1), int)
    all_rows, places = np.unique(np.concatenate([rows, check, average, back]), return_inverse=True)
    probe = Probe(model, ds[all_rows])
    probe.signals = None if waveforms is None else waveforms[all_rows]
    ends = np.cumsum([len(rows), len(check), len(average)])
    own, checked, averaged, background = (probe[part] for part in np.split(places, ends))
    fill = replacement(background)
    some = fill[None] if probe.x[0].size > _HEAVY else background.x[:8]
    look = {"layer": layer, "weights": weights, "guided": guided}
    compute = {
        "gradcam": functools.partial(METHODS["gradcam"], background=fill[None], **look),
        "shap": functools.partial(METHODS["shap"], background=some, seed=seed),
        "lime": functools.partial(METHODS["lime"], background=fill[None], seed=seed),
    }
    left_out = {}
    if methods is None:
        left_out = _left_out(background, fill)
        methods = [name for name in METHODS if name not in left_out]
    targets = _targets(ds.y[rows], scores[rows], target, ds.classes)
    attributions, seconds = {}, {}
    for name in methods:
        start = time.perf_counter()
        attributions[name] = compute[name](own, targets)
        seconds[name] = time.perf_counter() - start
    found = Explanations(
        classes=ds.classes,
        rows=rows,
        roles=roles,
        targets=targets,
        probabilities=scores[rows],
        y=ds.y[rows],
        attributions=attributions,
        left_out=left_out,
        freqs_hz=probe.freqs_hz,
        times_s=probe.times_s,
        branches=branch_shares(own, targets, background=background[np.arange(len(back))[:16]]),
        seconds=seconds,
        probe=own,
    )
    if check_rows and methods:
        start = time.perf_counter()
        found.checks, checked = _checks(
            found, checked, predicted[check], compute, fill, plant, seed
        )
        by_method = {name: (check, a) for name, a in checked.items()}
        if "gradcam" in methods:
            by_method["gradcam"] = average, compute["gradcam"](averaged, predicted[average])
        averages = _averages(ds, waveforms, predicted, by_method, seed)
        found.averages, found.checks["qrs"] = averages
        seconds["checks"] = time.perf_counter() - start
    if out_dir is not None:
        write(found, ds, out_dir)
    return found


def report_section(model, test, *, network=None, signals=None):
    """Make the section of a report: heading, HTML and pictures.

    Parameters
    ----------
    model : keras.Model
        The saved model.
    test : ECGDataset
        Rows it was measured on, in the form `network` takes them.
    network : keras.Model, optional
        The trained network; by default the saved model is asked.
    signals : float, shape (n, samples, leads), optional
        Waveforms of the rows, where `test` holds images.

    Returns
    -------
    heading : str
    html : str
    pictures : dict of str to (bytes, str)
        PNG and caption by file name.
    """
    few = min(_REPORT_ROWS, max(4, len(test) // 4))
    network = model if network is None else network
    found = explain(network, test, signals=signals, check_rows=few)
    pictures = {**check_pictures(found, test), **row_pictures(found)}
    return "What decided", left_out_html(found) + checks_html(found), pictures


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
        By method: ``.signal`` (n, samples, leads), ``.image`` (n, freqs, frames) or None,
        ``.quality``. ``found["lime"]`` is that of LIME.
    left_out : dict of str to str
        Why other methods were not used, by method.
    freqs_hz, times_s : float or None
        Axes of the image (of a spectrum, frequencies alone).
    branches : dict of str to float (n,), or None
        What each branch of a fused network adds to the class's log-odds, against its mean.
    checks : dict
        Figures of the checks.
    averages : dict
        Class to signals and attributions around the R peak, as `plots.plot_averages` takes them.
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


def _checked_rows(rows, n):
    """Row numbers as an array, or an error that names the first that is not there."""
    rows = np.atleast_1d(np.asarray(rows))
    if rows.ndim != 1 or not len(rows) or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows must be row numbers, such as [0, 17], got {rows!r}.")
    wrong = (rows < -n) | (rows >= n)
    if wrong.any():
        raise ValueError(
            f"row {rows[wrong][0]} is not there: the data set has {n} rows, 0 to {n - 1}."
        )
    return rows % n


def _waveforms(signals, ds):
    """Waveforms of the rows of a data set of images, or None.

    Where none are given, the rows that are also in its examples get those; others are NaN.
    """
    shape = (len(ds), ds.n_samples, len(ds.leads))
    if signals is not None:
        signals = check_signals("signals", signals)
        if signals.shape != shape:
            raise ValueError(
                f"signals must have shape {shape}: the waveforms of the rows of ds; "
                f"got {signals.shape}."
            )
        return signals
    if ds.examples is None or not ds.is_images or ds.examples.grid is not None:
        return None
    from ecg_keras.spectrograms import represent

    waveforms = np.full(shape, np.nan, np.float32)
    for signal, image in zip(ds.examples.x, represent(ds.examples, ds.grid).x):
        gaps = np.abs(ds.x[:, :, 0] - image[:, 0]).max(axis=(1, 2))  # one column tells rows apart
        row = int(gaps.argmin())
        if np.abs(ds.x[row] - image).max() < 1e-3:
            waveforms[row] = signal
    return waveforms


def _matching_model(model, ds):
    """The model that takes the rows as they are: of a saved one, its network if they are ready."""
    from ecg_keras.layers import model_card

    ready = ds.grid is not None or ds.scaler is not None
    return model.get_layer("network") if ready and model_card(model) is not None else model


def default_rows(ds, probabilities, *, representative=()):
    """Choose for each class the most confident hit, the most confident miss and a usual row.

    Parameters
    ----------
    ds : ECGDataset
        Rows.
    probabilities : float, shape (n, classes)
        What the model says.
    representative : sequence of int
        Rows known to represent their class. Where there are none of a class, the row nearest to
        the median of its hits is.

    Returns
    -------
    rows : dict of int to str
        Row number to why it was chosen, class by class. A miss of a multi-label row is a true
        class with the lowest probability.
    """
    counts = ds.class_counts()
    chosen = {}
    for i, name in enumerate(ds.classes):
        if name not in sorted(counts, key=counts.get)[-_MOST_CLASSES:]:
            continue
        own = probabilities[:, i]
        if ds.multi_label:
            true, said, wrong_by = ds.y[:, i] == 1, own >= 0.5, 1 - own
        else:
            true, said = ds.y == i, probabilities.argmax(axis=1) == i
            wrong_by = probabilities.max(axis=1)
        hits, misses = np.flatnonzero(true & said), np.flatnonzero(true & ~said)
        if len(hits):
            chosen.setdefault(int(hits[own[hits].argmax()]), f"{name}: most confident hit")
        if len(misses):
            chosen.setdefault(
                int(misses[wrong_by[misses].argmax()]), f"{name}: most confident miss"
            )
        if true.any():
            few = (hits if len(hits) else misses)[:1000]
            flat = ds.x[few].reshape(len(few), -1)
            order = few[np.abs(flat - np.median(flat, axis=0)).sum(axis=1).argsort()]
            order = [*(row for row in representative if true[row]), *order]
            row = next((int(row) for row in order if int(row) not in chosen), None)
            if row is not None:
                chosen[row] = f"{name}: representative"
    return chosen


def _rows_to_average(ds, scores, seed):
    """Up to 200 rows of each class that the model gets right; fewer of large rows."""
    predicted = scores.argmax(axis=1)
    right = predicted == (
        np.where(ds.y == 1, scores, -1).argmax(axis=1) if ds.multi_label else ds.y
    )
    rng = np.random.default_rng(seed)
    most = int(np.clip(_AVERAGED_BYTES // (4 * ds.x[0].size * len(ds.classes)), 5, _PER_CLASS))
    rows = [
        rng.permutation(np.flatnonzero(right & (predicted == i)))[:most]
        for i in range(len(ds.classes))
    ]
    return np.concatenate(rows).astype(int)


def _left_out(probe, fill):
    """Why methods do not apply to the network of a probe, by name."""
    replaced = probe.log_odds(np.broadcast_to(fill, probe.x.shape), probe.metadata)
    if np.allclose(replaced, probe.log_odds(), rtol=1e-5, atol=1e-5):
        return dict.fromkeys(METHODS, "the model says the same whatever the signal is")
    why = {}
    if not feature_maps(probe.network, probe.grid):
        why["gradcam"] = "the model has no convolution layer"
    if importlib.util.find_spec("shap") is None:
        why["shap"] = "its package is absent; install it with: pip install 'ecg_keras[explain]'"
    return why


def _targets(y, scores, target, classes):
    """The class explained in each row, (n,)."""
    if target in classes:
        return np.full(len(y), classes.index(target))
    if target == "true" and y.ndim == 1:
        return y
    predicted = scores.argmax(axis=1)
    if target == "predicted":
        return predicted
    return np.where(y.any(axis=1), np.where(y == 1, scores, -1).argmax(axis=1), predicted)


def _checks(found, probe, targets, compute, fill, plant, seed):
    """Figures of the checks on the rows of a probe, and the attributions of these rows."""
    attributions = {name: compute[name](probe, targets) for name in found.attributions}
    few = np.arange(len(probe))[:_OTHER_WEIGHTS_ROWS]
    of_few = {name: a[few] for name, a in attributions.items()}
    pairs = faithfulness.agreement(probe, attributions, seed=seed)
    checks = {
        "rows": len(probe),
        "removal": faithfulness.deletion_and_insertion(
            probe, targets, attributions, fill=fill, seed=seed
        ),
        "other_weights": faithfulness.other_weights(
            probe[few], targets[few], of_few, compute, seed=seed
        ),
        "agreement": {f"{a} and {b}": value for (a, b), value in pairs.items()},
    }
    if "shap" in attributions:
        gaps = [a["shap"].quality["additivity"] for a in (found, attributions)]
        checks["additivity"] = {"largest": float(np.max(np.concatenate(gaps)))}
        checks["additivity"]["n"] = sum(map(len, gaps))
    if "lime" in attributions:
        r2 = attributions["lime"].quality["r2"]
        checks["lime_r2"] = faithfulness.mean_with_interval(r2, seed=seed)
    if plant:
        checks["planted"] = faithfulness.planted_shares(
            probe, methods=list(attributions), seed=seed
        )
    return checks, attributions


def _averages(ds, waveforms, predicted, by_method, seed):
    """Average attribution of each class around the R peak, and the share of it inside the QRS.

    Rows that the model gets right count, where there are at least two of a class. Signals other
    than ECG have no R peak.
    """
    averages, shares = {}, {}
    known = waveforms is not None and np.isfinite(waveforms).all()
    if ds.modality != "ECG" or not known or any(a.signal is None for _, a in by_method.values()):
        return averages, shares
    for i, name in enumerate(ds.classes):
        curves, own_shares = {}, {}
        for method, (rows, a) in by_method.items():
            true = ds.y[rows, i] == 1 if ds.multi_label else ds.y[rows] == i
            own = np.flatnonzero((predicted[rows] == i) & true)
            if len(own) < 2:
                continue
            cut = around_r(a.signal[own], waveforms[rows[own]], fs=ds.fs, seed=seed)
            if cut is None:
                continue
            if not curves or method == "gradcam":
                curves["signal"] = cut[0]
            curves[method], own_shares[method] = cut[1:]
        if curves:
            averages[name], shares[name] = curves, own_shares
    return averages, shares


def around_r(attribution, waveforms, *, fs, seed=0):
    """Cut attributions around the R peaks, and measure the share of them that lies in the QRS.

    Parameters
    ----------
    attribution, waveforms : float, shape (n, samples, leads)
        Rows and what is said of them.
    fs : float
        Sampling rate, in Hz.
    seed : int, default 0
        Seed of the bootstrap.

    Returns
    -------
    signal, values : float, shape (beats, samples around R)
        The lead with the largest waves, and the attribution of all leads, from 0.2 s before R to
        0.6 s after it; NaN beyond the row.
    share : dict
        ``mean``, ``ci95`` and ``n`` of the share of a row's positive attribution from 80 ms before
        R to 120 ms after it, and ``of_time``, what share of the row this is. None instead of all
        three where no row has an R peak.
    """
    peaks = row_peaks(waveforms, fs=fs)
    if not any(map(len, peaks)):
        return None
    before, after = round(BEFORE_S * fs), round(AFTER_S * fs)
    window = slice(before + round(QRS_S[0] * fs), before + round(QRS_S[1] * fs) + 1)
    largest = np.ptp(waveforms, axis=1).mean(axis=0).argmax()
    rows = attribution.sum(axis=2)
    signal, values = (
        plots.aligned(curves, peaks, before=before, after=after)
        for curves in (waveforms[:, :, largest], rows)
    )
    total = np.repeat(np.maximum(rows, 0).sum(axis=1), [len(own) for own in peaks])
    some = total > 0
    inside = np.nansum(np.maximum(values[:, window], 0), axis=1)
    share = faithfulness.mean_with_interval(inside[some] / total[some], seed=seed)
    live = np.isfinite(values[:, window]).sum(axis=1) / rows.shape[1]
    return signal, values, {**share, "of_time": float(live.mean())}


def verdicts(found):
    """Say which checks each method fails.

    Parameters
    ----------
    found : Explanations
        With checks.

    Returns
    -------
    failures : dict of str to list of str
        Sentences by method; an empty list where it passes all.
    """
    checks, failures = found.checks, {}
    planted = checks.get("planted") or {}
    for name in found.attributions:
        failures[name] = said = []
        for kind in ("deletion", "insertion"):
            gain = checks["removal"][name][f"{kind}_gain"]
            if gain["ci95"] is None or gain["ci95"][0] <= 0:
                said.append(f"{kind} is not better than random order")
        rank = checks["other_weights"][name]["mean"]
        if rank is not None and rank >= _LIMITS["other_weights"]:
            said.append("the picture hardly changes with other weights")
        limit = _LIMITS["planted"]
        if name in planted and planted["accuracy"] >= 0.9 and planted[name]["mean"] < limit:
            said.append(f"less than {_whole_percent(limit)} of it lies inside a planted difference")
        if name == "shap" and checks["additivity"]["largest"] > _LIMITS["additivity"]:
            said.append("values do not sum to the difference within 2 %")
    return failures


def write(found, ds, out_dir):
    """Write explanations.json first, which makes the folder ours, then PNGs, then the page."""
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
    if rows:
        wide = found.times_s is not None
        gallery = pages.figures(*(pages.figure(*picture, wide=wide) for picture in rows.values()))
        sections.append(("rows", "Row by row", _legend(found) + gallery))
    banner = SYNTHETIC if ds.synthetic else None
    lead = pages.paragraph(f"{found.probe.name} on {ds.source}: {len(found)} rows explained.")
    lead += pages.notes(ds.notes) + left_out_html(found)
    html = pages.page("What decided", sections, lead=lead, banner=banner)
    write_text(out_dir / "explanations.html", html)


def _numbers(found, ds):
    """What explanations.json holds."""
    rows = []
    for i, (row, role, target) in enumerate(zip(found.rows, found.roles, found.targets)):
        numbers = {
            "row": row,
            "role": role,
            "explained": found.classes[target],
            "true": _true(found, i),
            "probabilities": dict(zip(found.classes, found.probabilities[i])),
        }
        if found.branches is not None:
            numbers["branches"] = {name: values[i] for name, values in found.branches.items()}
        rows.append(numbers)
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
    if found.y.ndim == 1:
        return found.classes[found.y[i]]
    return "+".join(np.array(found.classes)[found.y[i] == 1]) or "none"


def row_pictures(found):
    """Draw each row: (PNG, caption) by file name; none where no method was used."""
    probe, pictures = found.probe, {}
    if not found.attributions:
        return pictures
    for i, (row, role) in enumerate(zip(found.rows, found.roles)):
        explained = found.classes[found.targets[i]]
        predicted = found.classes[found.probabilities[i].argmax()]
        probability = found.probabilities[i, found.targets[i]]
        known = probe.signals is not None and not np.isnan(probe.signals[i]).any()
        fig = plots.plot_explanation(
            found.attributions,
            i,
            signal=probe.signals[i] if known else None,
            image=probe.x[i] if probe.grid is not None else None,
            fs=probe.fs,
            unit=probe.unit,
            leads=probe.leads,
            freqs_hz=found.freqs_hz,
            times_s=found.times_s,
            waves=probe.modality == "ECG",
            title=f"row {row}: true {_true(found, i)}, predicted {predicted}; "
            f"explained: {explained} ({probability:.3f})",
        )
        branches = "" if found.branches is None else f" Branches: {_branch_text(found, i)}."
        pictures[f"explained_{row}"] = plots.png(fig, dpi=110), f"Row {row} ({role}).{branches}"
    return pictures


def _branch_text(found, i):
    """Shares of the branches in one row's score, with sign."""
    values = {name: float(v[i]) for name, v in found.branches.items()}
    total = sum(abs(v) for v in values.values()) or 1.0
    return ", ".join(
        f"{name} {_whole_percent(abs(v) / total)} {'for' if v >= 0 else 'against'}"
        for name, v in values.items()
    )


def check_pictures(found, ds):
    """Draw deletion curves and class averages: (PNG, caption) by file name."""
    if not found.checks:
        return {}
    fig = plots.plot_removal(found.checks["removal"], list(found.attributions))
    caption = "Cells of a row removed, and put in, in the order of each method and at random."
    pictures = {"explained_removal": (plots.png(fig), caption)}
    shown = {
        name: curves
        for name, curves in found.averages.items()
        if all(method in curves for method in found.attributions)
    }
    if shown:
        before = round(BEFORE_S * ds.fs)
        fig = plots.plot_averages(shown, fs=ds.fs, unit=ds.unit, before=before, qrs_s=QRS_S)
        caption = (
            "Average beat and attribution of each class, aligned on the R peak; "
            "yellow: 80 ms before to 120 ms after it."
        )
        pictures["explained_averages"] = plots.png(fig, dpi=110), caption
    return pictures


def left_out_html(found):
    """A sentence on each method that was left out."""
    return pages.notes(
        f"{plots.TITLES[name]} was left out: {why}." for name, why in found.left_out.items()
    )


def checks_html(found):
    """Verdict, tables and how to read them; nothing where nothing was checked."""
    if not found.checks:
        return Markup()
    checks, failures = found.checks, verdicts(found)
    titles = {name: plots.TITLES[name] for name in found.attributions}
    good = [titles[name] for name, said in failures.items() if not said]
    html = pages.paragraph(
        f"{checks['rows']} rows drawn from all classes were used for the checks."
    )
    verdict = Markup("<b>{} passed every check.</b>").format(", ".join(good) or "No method")
    html += pages.paragraph(verdict)
    html += pages.notes(
        f"{titles[name]}: {'; '.join(said)}." for name, said in failures.items() if said
    )
    planted = checks.get("planted") or {}
    rows = [
        [
            title,
            _mean_text(checks["removal"][name]["deletion_gain"]),
            _mean_text(checks["removal"][name]["insertion_gain"]),
            _mean_text(checks["other_weights"][name]),
            _mean_text(planted.get(name), _whole_percent),
        ]
        for name, title in titles.items()
    ]
    headers = [
        "method",
        "deletion gain",
        "insertion gain",
        "rank corr., other weights",
        "inside planted span",
    ]
    html += pages.table(headers, rows, caption="Means over rows, with 95 % intervals")
    html += pages.paragraph(Markup("<br>").join(_notes(checks)), quiet=True)
    if checks["agreement"]:
        rows = [
            [", ".join(titles[name] for name in pair.split(" and ")), _mean_text(value)]
            for pair, value in checks["agreement"].items()
        ]
        caption = "Agreement of what speaks for the class"
        html += pages.table(["methods", "Spearman"], rows, caption=caption)
    if checks["qrs"]:
        rows = [
            [
                kind,
                *(_mean_text(shares.get(name), _whole_percent) for name in titles),
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
        caption = (
            "Share of each branch in the decision "
            "(Shapley values over branches, mean over the rows shown)"
        )
        html += pages.table(["branch", "share"], rows, caption=caption)
    return html + _legend(found)


def _notes(checks):
    """How to read the table of checks, a text per line."""
    notes = [
        "Gains: area between the method's curve and that of random order, in probability; above "
        "zero is better than random. LIME replaces cells as this check does, which favours it.",
        "Other weights: Spearman correlation with the explanation of the same network with new "
        f"random weights; low is good (below {_LIMITS['other_weights']} passes).",
    ]
    if planted := checks.get("planted"):
        first, last = planted["span_s"]
        note = (
            "Planted span: share of positive attribution inside, for the same architecture trained "
            f"on synthetic beats that differ only from {first:.2f} to {last:.2f} s "
            f"({_whole_percent(planted['chance'])} of the row; accuracy "
            f"{_whole_percent(planted['accuracy'])}); {_whole_percent(_LIMITS['planted'])} passes."
        )
        if planted["accuracy"] < 0.9:
            note += " It did not learn the task, so these shares say little."
        notes.append(note)
    if gap := checks.get("additivity"):
        notes.append(
            f"SHAP: over {gap['n']} rows, the values' sum is off by "
            f"{pages.percent(gap['largest'], 2)} of the difference at most."
        )
    if "lime_r2" in checks:
        share = _mean_text(checks["lime_r2"], pages.percent)
        notes.append(f"LIME: its linear fit explains {share} of the score's variance.")
    return notes


def _legend(found):
    """How to read the pictures."""
    texts = []
    if "gradcam" in found.attributions:
        quality = found["gradcam"].quality
        guided = ", times what each sample or pixel adds by its own gradient"
        texts.append(
            "Grad-CAM shows where the network's feature map speaks for the class (no sign, "
            f"{quality['step_ms'] or 0:.0f} ms apart, {quality['weights']} gradients"
            f"{guided if quality['guided'] else ''})"
        )
    if "shap" in found.attributions:
        texts.append(
            "SHAP shares the log-odds out to cells (stretches of time or patches), "
            "against rows of all classes"
        )
    if "lime" in found.attributions:
        texts.append("LIME fits a linear model to what happens when cells are replaced")
    return pages.paragraph(
        "Red speaks for the class explained, blue against it; the score is the class's log-odds "
        f"against all others. {'; '.join(texts)}. P, Q, R, S and T are marked where a simple rule "
        "finds them.",
        quiet=True,
    )


def _mean_text(value, show=pages.decimal):
    """A mean with its interval as text, a dash for None."""
    if not value or value["mean"] is None:
        return "-"
    return f"{show(value['mean'])} ({pages.range_text(value['ci95'], show)})"


def _whole_percent(value):
    """A share as percent without decimals."""
    return pages.percent(value, 0)


sys.modules[__name__].__class__ = CallableModule
