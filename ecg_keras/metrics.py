"""Measure predictions: accuracy beside that of always answering the largest class, macro figures, intervals.

Conventions
-----------
`y` is int (n,) for one label per row, or 0/1 (n, classes) for several. Probabilities
are (n, classes), in the order of `classes`. A class without a row in `y` has no
recall, F1 or AUC: it is None in the result and left out of macro averages, and a note
says so. A class that is never predicted has precision 0, as in scikit-learn. Accuracy
of a multi-label task is exact-match accuracy: all labels of a row right.

Intervals are 95 % percentile intervals of a bootstrap that draws whole patients where
patients are known, and rows where they are not. Draws without a row of some class leave
that class out of that draw.

Figures of heartbeat classification as ANSI/AAMI EC57 names them.

Conventions
-----------
`y` and `predicted` are class numbers (n,) in the order of `classes`, which are among
N, S, V, F and Q. Sensitivity and its kin are shares in 0..1, None where nothing can be divided.

Draw rows or patients again and measure every draw: the intervals of every figure.

Conventions
-----------
`truth` and `predicted` are bool (n, classes), `scores` float (n, classes); `units` is int
(n,), which patient each row is of, or None where rows are drawn one by one. A class
without rows has NaN, and averages leave NaN out.
"""

import numpy as np

from ecg_keras.wfdb_records import AAMI_CLASSES

_BINS = 15  # of the calibration error, as in Guo et al. 2017


def evaluate(
    y, probabilities, classes, *, patients=None, records=None, thresholds=None, seed=0, n_boot=1000
):
    """Measure predicted probabilities against labels.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Class numbers, or multi-hot rows.
    probabilities : float, shape (n, classes)
        Rows sum to 1 for single-label tasks.
    classes : sequence of str
        Names in the order of the columns.
    patients, records : sequence, shape (n,), optional
        Whose each row is (intervals then draw whole patients), and which recording it is from
        (the AAMI block then has a row per recording).
    thresholds : sequence of float, shape (classes,), optional
        Multi-label only: a class is predicted at or above its threshold, 0.5 by default.
        Choose them on validation rows with `choose_thresholds`.
    seed : int, default 0
        Seed of the bootstrap.
    n_boot : int, default 1000
        Draws of the bootstrap; 0 for no intervals. AUC gets fewer where n times draws exceeds
        12 million, and never fewer than 200 (`ci95_draws` says how many).

    Returns
    -------
    dict
        ``n, n_patients, accuracy, macro_f1, macro_auc, ece, majority_accuracy``;
        ``per_class``: a dict per class of ``recall, precision, specificity, f1, auc, support``;
        ``confusion``: counts, rows true and columns predicted, or for multi-label one
        ``[[tn, fp], [fn, tp]]`` per class; ``thresholds`` (multi-label, else None);
        ``ci95`` of accuracy, macro_f1 and macro_auc as ``[low, high]``; ``ci95_by``, ``ci95_draws``;
        ``notes``; and ``aami`` where the classes are AAMI's (see `metrics.aami_block`).
        ``majority_accuracy`` is that of always answering the largest class (for multi-label the
        most frequent combination of labels). ``ece`` is the expected calibration error: rows in 15
        equal bins of the highest probability, mean distance of confidence from accuracy weighted by
        bin size (Guo et al. 2017, eq. 3); for multi-label the mean over classes of the same with the
        class's probability and frequency.

    Raises
    ------
    ValueError
        If shapes disagree, values are not probabilities, or thresholds are given for a single-label task.

    Examples
    --------
    >>> result = evaluate([0, 0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], ("N", "V"))
    >>> result["accuracy"], result["majority_accuracy"], round(result["macro_f1"], 3), result["macro_auc"]
    (0.75, 0.75, 0.733, 1.0)
    """
    y, probabilities = _checked(y, probabilities, classes)
    multi = y.ndim == 2
    truth = y.astype(bool) if multi else np.eye(len(classes), dtype=bool)[y]
    thresholds = _checked_thresholds(thresholds, classes, multi)
    predicted = _predicted(probabilities, thresholds)
    exact = (truth == predicted).all(axis=1)
    support = truth.sum(axis=0)
    notes = [
        f"{name} has no row here; it is left out of macro averages."
        for name, n in zip(classes, support)
        if not n
    ]
    never = [name for name, n, p in zip(classes, support, predicted.any(axis=0)) if n and not p]
    notes += [f"{name} is never predicted; its precision is counted as 0." for name in never]
    tp, fp, fn = (
        (truth & predicted).sum(axis=0),
        (~truth & predicted).sum(axis=0),
        (truth & ~predicted).sum(axis=0),
    )
    auc = auc_scores(truth, probabilities, np.ones((len(y), 1)))[:, 0]
    f1 = f1_scores(tp, fp, fn)
    result = {
        "n": len(y),
        "n_patients": None
        if patients is None
        else len(np.unique(_ids("patients", patients, len(y)))),
        "accuracy": float(exact.mean()),
        "macro_f1": _mean(f1),
        "macro_auc": _mean(auc),
        "ece": _calibration_error(truth, probabilities, exact, multi),
        "majority_accuracy": _majority_accuracy(y),
        "per_class": {
            name: {
                "recall": ratio(tp[i], support[i]),
                "precision": ratio(tp[i], tp[i] + fp[i], none=0.0 if support[i] else None),
                "specificity": ratio(len(y) - support[i] - fp[i], len(y) - support[i]),
                "f1": number(f1[i]),
                "auc": number(auc[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": _confusion(y, predicted, multi).tolist(),
        "thresholds": None if thresholds is None else [float(value) for value in thresholds],
    }
    units = (
        None
        if patients is None
        else np.unique(_ids("patients", patients, len(y)), return_inverse=True)[1]
    )
    if units is not None and units.max() < 4:
        notes.append(f"intervals rest on {units.max() + 1} patients only; read them with care.")
    draws = draw(truth, predicted, probabilities, units=units, seed=seed, n_boot=n_boot)
    result["ci95"] = {
        name: interval(draws.get(name)) for name in ("accuracy", "macro_f1", "macro_auc")
    }
    result["ci95_by"] = "rows" if units is None else "patients"
    result["ci95_draws"] = {name: len(draws.get(name, ())) for name in result["ci95"]}
    if not multi and set("NSV") <= set(classes) <= set(AAMI_CLASSES):
        records = None if records is None else _ids("records", records, len(y))
        result["aami"] = aami_block(
            y, predicted.argmax(axis=1), classes, records=records, draws=draws
        )
    result["notes"] = notes
    return result


def macro_f1(y, predictions, *, thresholds=None):
    """Mean F1 of the classes that have rows in `y`; quick enough for every epoch.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Labels.
    predictions : float, shape (n, classes), or int, shape (n,)
        Probabilities or class numbers.
    thresholds : sequence of float, optional
        Multi-label only, 0.5 by default.

    Examples
    --------
    >>> round(macro_f1([0, 0, 0, 1], [0, 0, 1, 1]), 3)
    0.733
    """
    y, predictions = np.asarray(y), np.asarray(predictions)
    if y.ndim == 2:
        predicted = predictions >= (0.5 if thresholds is None else np.asarray(thresholds))
        truth = y.astype(bool)
        counts = (
            (truth & predicted).sum(axis=0),
            (~truth & predicted).sum(axis=0),
            (truth & ~predicted).sum(axis=0),
        )
    else:
        predicted = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions.astype(int)
        n = int(max(y.max(), predicted.max())) + 1
        confusion = np.bincount(y.astype(int) * n + predicted, minlength=n * n).reshape(n, n)
        tp = np.diag(confusion)
        counts = tp, confusion.sum(axis=0) - tp, confusion.sum(axis=1) - tp
    return _mean(f1_scores(*counts))


def macro_auc(y, probabilities):
    """Mean over classes of the area under the ROC curve, each class against all others.

    Classes without a row, or with every row, are left out.

    Examples
    --------
    >>> macro_auc([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    1.0
    """
    y, probabilities = np.asarray(y), np.asarray(probabilities)
    truth = (
        y.astype(bool) if y.ndim == 2 else np.eye(probabilities.shape[1], dtype=bool)[y.astype(int)]
    )
    return _mean(auc_scores(truth, probabilities, np.ones((len(y), 1)))[:, 0])


def choose_thresholds(y, probabilities):
    """Threshold per class with the highest F1 on these rows; give it validation rows, never test rows.

    Parameters
    ----------
    y : 0/1, shape (n, classes)
        Multi-hot labels.
    probabilities : float, shape (n, classes)
        Predictions.

    Returns
    -------
    thresholds : list of float, length classes
        Halfway between the two probabilities it separates; 0.5 for a class without a row.

    Examples
    --------
    >>> choose_thresholds([[1], [1], [0]], [[0.9], [0.3], [0.1]])
    [0.2]
    """
    y, probabilities = np.asarray(y).astype(bool), np.asarray(probabilities, np.float64)
    if y.ndim != 2 or y.shape != probabilities.shape:
        raise ValueError(
            f"y and probabilities must both have shape (n, classes), got {y.shape} and {probabilities.shape}."
        )
    thresholds = []
    for truth, scores in zip(y.T, probabilities.T):
        order = np.argsort(-scores, kind="stable")
        scores, tp = scores[order], np.cumsum(truth[order])
        f1 = 2 * tp / (np.arange(1, len(tp) + 1) + max(truth.sum(), 1))
        below = np.append(scores[1:], 0.0)
        f1[scores == below] = -1.0  # a threshold cannot part equal probabilities
        best = int(f1.argmax())
        thresholds.append(round(float(scores[best] + below[best]) / 2, 6) if truth.any() else 0.5)
    return thresholds


def paired_bootstrap(
    y, a, b, *, patients=None, thresholds_a=None, thresholds_b=None, seed=0, n_boot=1000
):
    """Difference of two models on the same rows, each draw taking the same rows (or patients) for both.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Labels.
    a, b : float, shape (n, classes)
        Probabilities of the two models, rows in the same order.
    patients : sequence, shape (n,), optional
        Whose each row is; draws then take whole patients.
    thresholds_a, thresholds_b : sequence of float, optional
        Multi-label only.
    seed : int, default 0
        Seed of the draws.
    n_boot : int, default 1000
        Number of draws (see `evaluate` for AUC).

    Returns
    -------
    dict
        As `difference`.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]] * 20)
    >>> paired_bootstrap([0, 1] * 20, p, p)["accuracy"]["difference"]
    0.0
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a and b must be predictions for the same rows and classes, got {np.shape(a)} and {np.shape(b)}."
        )
    same = {"patients": patients, "seed": seed, "n_boot": n_boot}
    return difference(
        bootstrap(y, a, thresholds=thresholds_a, **same),
        bootstrap(y, b, thresholds=thresholds_b, **same),
    )


def bootstrap(y, probabilities, *, patients=None, thresholds=None, seed=0, n_boot=1000):
    """Accuracy, macro F1 and macro AUC, measured and in bootstrap draws; arguments as `paired_bootstrap`.

    Models measured with the same `y`, `patients` and `seed` get the same draws, so their draws can be subtracted.

    Returns
    -------
    dict of str to (float, ndarray (n_boot,))
        The figure and its draws.
    """
    probabilities = np.asarray(probabilities)
    classes = range(probabilities.shape[-1])
    y, probabilities = _checked(y, probabilities, classes)
    truth = y.astype(bool) if y.ndim == 2 else np.eye(len(classes), dtype=bool)[y]
    predicted = _predicted(probabilities, _checked_thresholds(thresholds, classes, y.ndim == 2))
    units = (
        None
        if patients is None
        else np.unique(_ids("patients", patients, len(y)), return_inverse=True)[1]
    )
    tp, fp, fn = (
        part.sum(axis=0) for part in (truth & predicted, ~truth & predicted, truth & ~predicted)
    )
    once = {
        "accuracy": float((truth == predicted).all(axis=1).mean()),
        "macro_f1": _mean(f1_scores(tp, fp, fn)),
        "macro_auc": _mean(auc_scores(truth, probabilities, np.ones((len(y), 1)))[:, 0]),
    }
    draws = draw(truth, predicted, probabilities, units=units, seed=seed, n_boot=n_boot)
    return {name: (value, draws.get(name, np.array([]))) for name, value in once.items()}


def difference(a, b):
    """Two results of `bootstrap` on the same rows to ``b - a``.

    Returns
    -------
    dict
        For accuracy, macro_f1 and macro_auc: ``difference``, ``ci95``, and ``p``, twice the share of
        draws on the other side of zero, the measured one counted too (so never 0, and at most 1).
    """
    result = {}
    for name, (value, draws) in a.items():
        other, other_draws = b[name]
        gaps = (other_draws - draws)[np.isfinite(other_draws) & np.isfinite(draws)]
        tail = (
            (min((gaps <= 0).sum(), (gaps >= 0).sum()) + 1) / (len(gaps) + 1)
            if len(gaps)
            else np.nan
        )
        result[name] = {
            "difference": None if value is None or other is None else other - value,
            "ci95": interval(gaps),
            "p": number(min(1.0, 2 * tail)),
        }
    return result


def _checked(y, probabilities, classes):
    """Labels as int (n,) or bool (n, classes), probabilities as float (n, classes)."""
    y, probabilities = np.asarray(y), np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(
            f"probabilities must have shape (n, {len(classes)}), a column per class, got {probabilities.shape}."
        )
    if (
        len(y) != len(probabilities)
        or not len(y)
        or (y.ndim == 2 and y.shape != probabilities.shape)
        or y.ndim > 2
    ):
        raise ValueError(
            f"y must have shape (n,) or (n, classes) for the {len(probabilities)} predictions, got {y.shape}."
        )
    if not np.isfinite(probabilities).all():
        bad = ~np.isfinite(probabilities).all(axis=1)
        raise ValueError(
            f"probabilities are NaN or infinite in {bad.sum()} of {len(bad)} rows (first at row {int(bad.argmax())}); "
            "the model has diverged: lower the learning rate."
        )
    if probabilities.min() < -1e-6 or probabilities.max() > 1 + 1e-6:
        raise ValueError(
            f"probabilities must lie in 0..1, got {probabilities.min():.3g} to {probabilities.max():.3g}; "
            "apply softmax or sigmoid to logits."
        )
    if y.ndim == 1:
        if not np.isin(np.unique(y), np.arange(len(classes))).all():
            raise ValueError(
                f"y must hold class numbers 0 to {len(classes) - 1}, got {np.unique(y)}."
            )
        if np.abs(probabilities.sum(axis=1) - 1).max() > 0.02:
            raise ValueError(
                "probabilities of a single-label task must sum to 1 in every row; give multi-hot y otherwise."
            )
        return y.astype(np.int64), probabilities
    return y, probabilities


def _checked_thresholds(thresholds, classes, multi):
    """Thresholds as float (classes,), None for single-label."""
    if not multi:
        if thresholds is not None:
            raise ValueError(
                "thresholds are for multi-label tasks; a single-label row gets its most probable class."
            )
        return None
    thresholds = (
        np.full(len(classes), 0.5) if thresholds is None else np.asarray(thresholds, np.float64)
    )
    if thresholds.shape != (len(classes),):
        raise ValueError(
            f"thresholds must hold {len(classes)} values, one per class, got shape {thresholds.shape}."
        )
    return thresholds


def _ids(name, values, n):
    """Identifiers as an array of str (n,)."""
    values = np.asarray(values).astype(str)
    if values.shape != (n,):
        raise ValueError(
            f"{name} must name one for each of the {n} rows, got shape {values.shape}."
        )
    return values


def _predicted(probabilities, thresholds):
    """Probabilities to predicted labels, bool (n, classes)."""
    if thresholds is not None:
        return probabilities >= thresholds
    return np.eye(probabilities.shape[1], dtype=bool)[probabilities.argmax(axis=1)]


def _confusion(y, predicted, multi):
    """Counts (classes, classes), rows true; or (classes, 2, 2) with rows true and columns predicted."""
    n = predicted.shape[1]
    if multi:
        truth = y.astype(bool)
        cells = [[(t & p).sum(axis=0) for p in (~predicted, predicted)] for t in (~truth, truth)]
        return np.moveaxis(np.array(cells), -1, 0)
    return np.bincount(y * n + predicted.argmax(axis=1), minlength=n * n).reshape(n, n)


def _majority_accuracy(y):
    """Accuracy of always giving the most frequent answer."""
    return float(np.unique(y, axis=0, return_counts=True)[1].max() / len(y))


def _calibration_error(truth, probabilities, exact, multi):
    """Expected calibration error, in 0..1."""
    if not multi:
        return _binned_gap(probabilities.max(axis=1), exact)
    return float(np.mean([_binned_gap(p, t) for p, t in zip(probabilities.T, truth.T)]))


def _binned_gap(confidence, right):
    """Mean over equal-width bins of |mean confidence - share right|, weighted by rows."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _mean(values):
    """Mean of the finite values as float, or None."""
    return number(nan_mean(np.asarray(values), axis=0))


def aami_block(y, predicted, classes, *, records=None, draws=None):
    """Figures for S and V as ANSI/AAMI EC57 names them.

    Sensitivity, positive predictivity, false positive rate and F1 count one class against all
    others. EC57 and de Chazal et al. 2004 do not count fusion and unknown beats called V, nor unknown
    beats called S, as false: where F or Q are among the classes, the ``_ec57`` values follow them.

    Returns
    -------
    dict
        ``"S"`` and ``"V"``: dicts of the figures, with ``ci95`` where `draws` are given;
        ``per_record``: a row per recording, or None.
    """
    y, predicted, classes = np.asarray(y), np.asarray(predicted), tuple(classes)
    block = {}
    for name, exempt in (("S", "Q"), ("V", "FQ")):
        i = classes.index(name)
        tp, fp = int(((y == i) & (predicted == i)).sum()), int(((y != i) & (predicted == i)).sum())
        positives = int((y == i).sum())
        row = {
            "sensitivity": ratio(tp, positives),
            "positive_predictivity": ratio(tp, tp + fp, none=0.0 if positives else None),
            "false_positive_rate": ratio(fp, len(y) - positives),
            "f1": ratio(2 * tp, positives + tp + fp) if positives else None,
            "support": positives,
        }
        exempt = [classes.index(other) for other in exempt if other in classes]
        if exempt:
            spared = np.isin(y, exempt) & (predicted == i)
            fp, negatives = fp - int(spared.sum()), len(y) - positives - int(spared.sum())
            row["positive_predictivity_ec57"] = ratio(tp, tp + fp, none=0.0 if positives else None)
            row["false_positive_rate_ec57"] = ratio(fp, negatives)
        if draws and "tp" in draws:
            tp, fp, fn = (draws[key][:, i] for key in ("tp", "fp", "fn"))
            with np.errstate(invalid="ignore", divide="ignore"):
                row["ci95"] = {
                    "sensitivity": interval(tp / (tp + fn)),
                    "positive_predictivity": interval(tp / (tp + fp)),
                    "f1": interval(f1_scores(tp, fp, fn)),
                }
        block[name] = row
    block["per_record"] = None
    if records is not None:
        records = np.asarray(records).astype(str)
        block["per_record"] = [
            _record_row(record, y[records == record], predicted[records == record], classes)
            for record in np.unique(records)
        ]
    return block


def _record_row(record, y, predicted, classes):
    """Labels and predictions of one recording to its row of the AAMI table."""
    row = {"record": str(record), "n": len(y), "accuracy": float((y == predicted).mean())}
    row["majority_accuracy"] = float(np.bincount(y).max() / len(y))
    for name in ("N", "S", "V"):
        i = classes.index(name)
        tp = int(((y == i) & (predicted == i)).sum())
        row[f"{name}_support"] = int((y == i).sum())
        row[f"{name}_sensitivity"] = ratio(tp, (y == i).sum())
        row[f"{name}_positive_predictivity"] = ratio(tp, (predicted == i).sum())
    return row


_AUC_CELLS = (
    12_000_000  # rows x draws for intervals of AUC; larger sets get fewer draws, 200 at least
)
_CHUNK_CELLS = 400_000  # rows x draws held at once


def draw(truth, predicted, scores, *, units, seed, n_boot):
    """Bootstrap draws of accuracy, macro F1, macro AUC (n_boot,) and of tp, fp, fn (n_boot, classes)."""
    n, n_classes = truth.shape
    if units is not None and units.max() == 0:
        n_boot = 0  # one patient: no spread to be seen
    if not n_boot:
        return {}
    parts = (
        truth & predicted,
        ~truth & predicted,
        truth & ~predicted,
        (truth == predicted).all(axis=1)[:, None],
    )
    table = np.hstack([*parts, np.ones((n, 1), bool)]).astype(np.float32)  # (n, 3 classes + 2)
    n_units = n if units is None else int(units.max()) + 1
    if units is not None:  # one row per patient, then draws are of patients
        summed = np.zeros((n_units, table.shape[1]), np.float32)
        np.add.at(summed, units, table)
        table = summed
    rng, sums, aucs = np.random.default_rng(seed), [], []
    n_auc = min(n_boot, max(200, _AUC_CELLS // n))
    step = max(1, min(n_boot, _CHUNK_CELLS // n))
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        drawn = rng.integers(0, n_units, (size, n_units)) + n_units * np.arange(size)[:, None]
        weights = (
            np.bincount(drawn.ravel(), minlength=size * n_units)
            .reshape(size, n_units)
            .astype(np.float32)
        )
        sums.append(weights @ table)  # (size, 3 classes + 2)
        if start < n_auc:
            weights = np.ascontiguousarray(
                weights[: n_auc - start].T
            )  # (units, draws): rows are gathered whole
            weights = weights if units is None else weights[units]
            aucs.append(nan_mean(auc_scores(truth, scores, weights), axis=0))
    sums = np.concatenate(sums)
    tp, fp, fn = (sums[:, i * n_classes : (i + 1) * n_classes] for i in range(3))
    return {
        "accuracy": sums[:, -2] / sums[:, -1],
        "macro_f1": nan_mean(f1_scores(tp, fp, fn), axis=1),
        "macro_auc": np.concatenate(aucs),
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }


def f1_scores(tp, fp, fn):
    """Counts to F1; NaN for a class without rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)


def auc_scores(truth, scores, weights):
    """AUC of each class under each column of row weights, (classes, draws); NaN where a side is empty.

    The weighted share of pairs of a row in the class and a row outside it that the scores put in order;
    equal scores count half (Mann-Whitney).
    """
    auc = np.full((truth.shape[1], weights.shape[1]), np.nan)
    for i in range(truth.shape[1]):
        inside, outside = np.flatnonzero(truth[:, i]), np.flatnonzero(~truth[:, i])
        if not len(inside) or not len(outside):
            continue
        outside = outside[np.argsort(scores[outside, i], kind="stable")]
        below = np.zeros((len(outside) + 1, weights.shape[1]), weights.dtype)
        np.cumsum(weights[outside], axis=0, out=below[1:])
        ranked, own = scores[outside, i], scores[inside, i]
        pairs = below[np.searchsorted(ranked, own, "left")]
        pairs += below[np.searchsorted(ranked, own, "right")]
        won = np.einsum("nb,nb->b", weights[inside], pairs) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            auc[i] = won / (weights[inside].sum(axis=0) * below[-1])
    return auc


def interval(draws):
    """Draws to [low, high] at 95 %, or None."""
    if draws is None or not np.isfinite(draws).any():
        return None
    return [float(value) for value in np.nanpercentile(draws, [2.5, 97.5])]


def nan_mean(values, *, axis):
    """Mean over the finite values; NaN where there is none."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=axis) / known.sum(axis=axis)


def number(value):
    """Value as float, None for NaN."""
    return float(value) if np.isfinite(value) else None


def ratio(part, whole, *, none=None):
    """Part / whole as float, `none` where there is nothing to divide by."""
    return float(part / whole) if whole else none
