"""Measure predictions: accuracy, macro figures, calibration, their intervals, and the AAMI block.

Conventions
-----------
`y` is int (n,) for one label per row, or 0/1 (n, classes) for several. Probabilities are
(n, classes), in the order of `classes`. Inside, `truth` and `predicted` are bool (n, classes), and
`units` is int (n,), which patient each row is of, or None where rows are drawn one by one.

A class without a row in `y` has no recall, F1 or AUC: it is None in the result and left out of
macro averages, and a note says so. A class that is never predicted has precision 0, as in
scikit-learn. Accuracy of a multi-label task is exact-match accuracy: all labels of a row right.

Intervals are 95 % percentile intervals of a bootstrap that draws whole patients where patients are
known, and rows where they are not. A draw without a row of some class leaves that class out.
"""

import numpy as np

from ecg_keras.beats import AAMI_CLASSES

FIGURES = ("accuracy", "macro_f1", "macro_auc")  # with intervals
_BINS = 15  # of the calibration error, as in Guo et al. 2017
_AUC_CELLS = 12_000_000  # rows x draws for intervals of AUC; larger sets get fewer draws
_AUC_DRAWS = 200  # but never fewer than this
_CHUNK_CELLS = 400_000  # rows x draws held at once


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
        - ``n``, ``n_patients``, ``accuracy``, ``macro_f1``, ``macro_auc``;
        - ``ece``: expected calibration error. Rows lie in 15 equal bins of the highest probability;
          it is the mean distance of confidence from accuracy, weighted by bin size (Guo et al.
          2017, eq. 3). For multi-label the mean over classes of the same, with the class's
          probability and frequency;
        - ``majority_accuracy``: of always answering the largest class, for multi-label the most
          frequent combination of labels;
        - ``per_class``: by class ``recall, precision, specificity, f1, auc, support``;
        - ``confusion``: counts, rows true and columns predicted; for multi-label one
          ``[[tn, fp], [fn, tp]]`` per class;
        - ``thresholds``: those used, None for single-label;
        - ``ci95``: of accuracy, macro_f1 and macro_auc as ``[low, high]``; ``ci95_by``: what was
          drawn; ``ci95_draws``: how often;
        - ``aami``: where the classes are AAMI's, see `aami_block`;
        - ``notes``: what a reader has to know.

    Raises
    ------
    ValueError
        If shapes disagree, values are not probabilities, or thresholds are given for a single-label
        task.

    Examples
    --------
    >>> p = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]
    >>> result = evaluate([0, 0, 0, 1], p, ("N", "V"))
    >>> result["accuracy"], round(result["macro_f1"], 3), result["macro_auc"]
    (0.75, 0.733, 1.0)
    >>> result["majority_accuracy"]
    0.75
    """
    y, probabilities = _checked(y, probabilities, classes)
    multi = y.ndim == 2
    thresholds = _checked_thresholds(thresholds, classes, multi)
    truth, predicted = _labels(y, len(classes)), _predicted(probabilities, thresholds)
    units = None if patients is None else _numbered("patients", patients, len(y))
    tp, fp, fn = _counts(truth, predicted)
    exact, support = (truth == predicted).all(axis=1), tp + fn
    tn = len(y) - support - fp
    f1, auc = f1_scores(tp, fp, fn), _auc(truth, probabilities)
    result = {
        "n": len(y),
        "n_patients": None if units is None else int(units.max()) + 1,
        "accuracy": float(exact.mean()),
        "macro_f1": _mean(f1),
        "macro_auc": _mean(auc),
        "ece": _calibration_error(truth, probabilities, exact, multi),
        "majority_accuracy": float(np.unique(y, axis=0, return_counts=True)[1].max() / len(y)),
        "per_class": {
            name: {
                "recall": sensitivity(tp[i], fn[i]),
                "precision": positive_predictivity(tp[i], fp[i], fn[i]),
                "specificity": ratio(tn[i], tn[i] + fp[i]),
                "f1": number(f1[i]),
                "auc": number(auc[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": np.moveaxis(np.array([[tn, fp], [fn, tp]]), -1, 0).tolist()
        if multi
        else (truth.T.astype(int) @ predicted).tolist(),
        "thresholds": None if thresholds is None else [float(value) for value in thresholds],
    }
    draws = draw(truth, predicted, probabilities, units=units, seed=seed, n_boot=n_boot)
    result["ci95"] = {name: interval(draws.get(name)) for name in FIGURES}
    result["ci95_by"] = "rows" if units is None else "patients"
    result["ci95_draws"] = {name: len(draws.get(name, ())) for name in FIGURES}
    if not multi and set("NSV") <= set(classes) <= set(AAMI_CLASSES):
        guess = predicted.argmax(axis=1)
        result["aami"] = aami_block(y, guess, classes, records=records, draws=draws)
    result["notes"] = [
        f"{name} has no row here; it is left out of macro averages."
        for name, n in zip(classes, support)
        if not n
    ]
    result["notes"] += [
        f"{name} is never predicted; its precision is counted as 0."
        for name, n, p in zip(classes, support, tp + fp)
        if n and not p
    ]
    if units is not None and units.max() < 4:
        n_patients = result["n_patients"]
        result["notes"].append(
            f"intervals rest on {n_patients} patients only; read them with care."
        )
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
        return _mean(f1_scores(*_counts(y.astype(bool), predicted)))
    guess = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions
    n_classes = int(max(y.max(), guess.max())) + 1
    return _mean(f1_scores(*_counts(_labels(y, n_classes), _labels(guess, n_classes))))


def macro_auc(y, probabilities):
    """Mean over classes of the area under the ROC curve, each class against all others.

    Classes without a row, or with every row, are left out.

    Examples
    --------
    >>> macro_auc([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    1.0
    """
    y, probabilities = np.asarray(y), np.asarray(probabilities)
    return _mean(_auc(_labels(y, probabilities.shape[1]), probabilities))


def choose_thresholds(y, probabilities):
    """Threshold of each class with the highest F1 on these rows: of validation, never of test.

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
            f"y and probabilities must both have shape (n, classes), got {y.shape} and "
            f"{probabilities.shape}."
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


def bootstrap(y, probabilities, *, patients=None, thresholds=None, seed=0, n_boot=1000):
    """Accuracy, macro F1 and macro AUC: measured, and in bootstrap draws.

    Models measured with the same `y`, `patients` and `seed` get the same draws, of rows or of whole
    patients: give two results to `difference`.

    Parameters
    ----------
    y, probabilities, patients, thresholds, seed, n_boot
        As for `evaluate`.

    Returns
    -------
    dict of str to (float, ndarray (n_boot,))
        The figure and its draws.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]] * 20)
    >>> value, draws = bootstrap([0, 1] * 20, p, n_boot=100)["accuracy"]
    >>> value, draws.shape
    (1.0, (100,))
    """
    probabilities = np.asarray(probabilities)
    classes = range(probabilities.shape[-1])
    y, probabilities = _checked(y, probabilities, classes)
    thresholds = _checked_thresholds(thresholds, classes, y.ndim == 2)
    truth, predicted = _labels(y, len(classes)), _predicted(probabilities, thresholds)
    units = None if patients is None else _numbered("patients", patients, len(y))
    once = {
        "accuracy": float((truth == predicted).all(axis=1).mean()),
        "macro_f1": _mean(f1_scores(*_counts(truth, predicted))),
        "macro_auc": _mean(_auc(truth, probabilities)),
    }
    draws = draw(truth, predicted, probabilities, units=units, seed=seed, n_boot=n_boot)
    return {name: (value, draws.get(name, np.array([]))) for name, value in once.items()}


def difference(a, b):
    """Two results of `bootstrap` on the same rows to ``b - a``.

    Returns
    -------
    dict
        For accuracy, macro_f1 and macro_auc: ``difference``, ``ci95``, and ``p``, twice the share
        of draws on the other side of zero, the measured one counted too: above 0, at most 1.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]] * 20)
    >>> a = bootstrap([0, 1] * 20, p, n_boot=100)
    >>> difference(a, a)["accuracy"]
    {'difference': 0.0, 'ci95': [0.0, 0.0], 'p': 1.0}
    """
    result = {}
    for name, (value, draws) in a.items():
        other, other_draws = b[name]
        gaps = (other_draws - draws)[np.isfinite(other_draws) & np.isfinite(draws)]
        tail = (min((gaps <= 0).sum(), (gaps >= 0).sum()) + 1) / (len(gaps) + 1)
        result[name] = {
            "difference": None if value is None or other is None else other - value,
            "ci95": interval(gaps),
            "p": min(1.0, 2 * float(tail)) if len(gaps) else None,
        }
    return result


def aami_block(y, predicted, classes, *, records=None, draws=None):
    """Figures for S and V as ANSI/AAMI EC57 names them.

    Sensitivity, positive predictivity, false positive rate and F1 count one class against all
    others. EC57 and de Chazal et al. (IEEE TBME 2004) do not count as false: fusion and unknown
    beats called V, and unknown beats called S. Where F or Q are among the classes, the ``_ec57``
    values follow them.

    Parameters
    ----------
    y, predicted : int, shape (n,)
        Class numbers.
    classes : sequence of str
        Of N, S, V, F and Q; the first three are needed.
    records : sequence, shape (n,), optional
        Which recording each row is from.
    draws : dict, optional
        What `draw` returned, for intervals.

    Returns
    -------
    dict
        ``"S"`` and ``"V"``: dicts of the figures, shares in 0..1, None where nothing can be
        divided, with ``ci95`` where `draws` are given; ``per_record``: a row per recording, or
        None.

    Examples
    --------
    >>> block = aami_block([0, 0, 1, 2], [0, 2, 1, 2], ("N", "S", "V"))
    >>> block["V"]["sensitivity"], block["V"]["positive_predictivity"]
    (1.0, 0.5)
    """
    y, predicted, classes = np.asarray(y), np.asarray(predicted), tuple(classes)
    block = {}
    for name, exempt in (("S", "Q"), ("V", "FQ")):
        i = classes.index(name)
        tp, fp, fn = _counts(y == i, predicted == i)
        tn = len(y) - tp - fp - fn
        row = {
            "sensitivity": sensitivity(tp, fn),
            "positive_predictivity": positive_predictivity(tp, fp, fn),
            "false_positive_rate": false_positive_rate(fp, tn),
            "f1": number(f1_scores(tp, fp, fn)),
            "support": int(tp + fn),
        }
        exempt = [classes.index(other) for other in exempt if other in classes]
        if exempt:
            fp -= int((np.isin(y, exempt) & (predicted == i)).sum())
            row["positive_predictivity_ec57"] = positive_predictivity(tp, fp, fn)
            row["false_positive_rate_ec57"] = false_positive_rate(fp, tn)
        if draws:
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
        records = _names("records", records, len(y))
        block["per_record"] = [
            _record_row(record, y[records == record], predicted[records == record], classes)
            for record in np.unique(records)
        ]
    return block


def sensitivity(tp, fn):
    """Share of a class's beats that are found: TP / (TP + FN)."""
    return ratio(tp, tp + fn)


def positive_predictivity(tp, fp, fn):
    """Share of a class's calls that are right: TP / (TP + FP); 0 for one that is never called."""
    return ratio(tp, tp + fp, none=0.0 if tp + fn else None)


def false_positive_rate(fp, tn):
    """Share of the other beats that are called of a class: FP / (FP + TN)."""
    return ratio(fp, fp + tn)


def _record_row(record, y, predicted, classes):
    """Labels and predictions of one recording to its row of the AAMI table."""
    row = {"record": str(record), "n": len(y), "accuracy": float((y == predicted).mean())}
    row["majority_accuracy"] = float(np.bincount(y).max() / len(y))
    for name in ("N", "S", "V"):
        i = classes.index(name)
        tp, fp, fn = _counts(y == i, predicted == i)
        row[f"{name}_support"] = int(tp + fn)
        row[f"{name}_sensitivity"] = sensitivity(tp, fn)
        row[f"{name}_positive_predictivity"] = ratio(tp, tp + fp)
    return row


def draw(truth, predicted, scores, *, units, seed, n_boot):
    """Bootstrap draws of the figures, each (n_boot,), and of tp, fp and fn, (n_boot, classes).

    Empty where there are none: `n_boot` is 0, or all rows are of one patient.
    """
    n, n_classes = truth.shape
    if not n_boot or (units is not None and units.max() == 0):
        return {}
    exact = (truth == predicted).all(axis=1)[:, None]
    columns = (truth & predicted, ~truth & predicted, truth & ~predicted, exact, np.ones((n, 1)))
    table = np.hstack(columns).astype(np.float32)  # (n, 3 classes + 2)
    n_units = n if units is None else int(units.max()) + 1
    if units is not None:  # one row per patient, then draws are of patients
        summed = np.zeros((n_units, table.shape[1]), np.float32)
        np.add.at(summed, units, table)
        table = summed
    rng, sums, aucs = np.random.default_rng(seed), [], []
    n_auc = min(n_boot, max(_AUC_DRAWS, _AUC_CELLS // n))
    step = max(1, min(n_boot, _CHUNK_CELLS // n))
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        drawn = rng.integers(0, n_units, (size, n_units)) + n_units * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * n_units)
        weights = weights.reshape(size, n_units).astype(np.float32)  # how often each is drawn
        sums.append(weights @ table)  # (size, 3 classes + 2)
        if start < n_auc:
            weights = np.ascontiguousarray(weights[: n_auc - start].T)  # rows are gathered whole
            weights = weights if units is None else weights[units]  # (n, draws)
            aucs.append(nan_mean(auc_scores(truth, scores, weights), axis=0))
    sums = np.concatenate(sums)
    tp, fp, fn = np.split(sums[:, : 3 * n_classes], 3, axis=1)
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
    """AUC of each class under each column of row weights, (classes, draws); NaN if a side is empty.

    The weighted share of pairs, of a row in the class and a row outside it, that the scores put in
    order; equal scores count half (Mann-Whitney). All draws at once: a call of scikit-learn's
    roc_auc_score per draw took 56 times as long for 20,000 rows, 250 times for 2,000.
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


def _checked(y, probabilities, classes):
    """Labels as int (n,) or bool (n, classes), probabilities as float (n, classes)."""
    y, probabilities = np.asarray(y), np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(
            f"probabilities must have shape (n, {len(classes)}), a column per class, got "
            f"{probabilities.shape}."
        )
    if (
        len(y) != len(probabilities)
        or not len(y)
        or (y.ndim == 2 and y.shape != probabilities.shape)
        or y.ndim > 2
    ):
        raise ValueError(
            f"y must have shape (n,) or (n, classes) for the {len(probabilities)} predictions, "
            f"got {y.shape}."
        )
    if not np.isfinite(probabilities).all():
        bad = ~np.isfinite(probabilities).all(axis=1)
        raise ValueError(
            f"probabilities are NaN or infinite in {bad.sum()} of {len(bad)} rows (first at row "
            f"{int(bad.argmax())}); the model has diverged: lower the learning rate."
        )
    if probabilities.min() < -1e-6 or probabilities.max() > 1 + 1e-6:
        raise ValueError(
            f"probabilities must lie in 0..1, got {probabilities.min():.3g} to "
            f"{probabilities.max():.3g}; apply softmax or sigmoid to logits."
        )
    if y.ndim == 1:
        if not np.isin(np.unique(y), np.arange(len(classes))).all():
            raise ValueError(
                f"y must hold class numbers 0 to {len(classes) - 1}, got {np.unique(y)}."
            )
        if np.abs(probabilities.sum(axis=1) - 1).max() > 0.02:
            raise ValueError(
                "probabilities of a single-label task must sum to 1 in every row; give multi-hot y "
                "otherwise."
            )
        return y.astype(np.int64), probabilities
    return y, probabilities


def _checked_thresholds(thresholds, classes, multi):
    """Thresholds as float (classes,), None for single-label."""
    if not multi:
        if thresholds is not None:
            raise ValueError(
                "thresholds are for multi-label tasks; a single-label row gets its most probable "
                "class."
            )
        return None
    thresholds = (
        np.full(len(classes), 0.5) if thresholds is None else np.asarray(thresholds, np.float64)
    )
    if thresholds.shape != (len(classes),):
        raise ValueError(
            f"thresholds must hold {len(classes)} values, one per class, got shape "
            f"{thresholds.shape}."
        )
    return thresholds


def _numbered(name, values, n):
    """Names of patients to their numbers, int (n,)."""
    return np.unique(_names(name, values, n), return_inverse=True)[1]


def _names(name, values, n):
    """Names as an array of str (n,)."""
    values = np.asarray(values).astype(str)
    if values.shape != (n,):
        raise ValueError(
            f"{name} must name one for each of the {n} rows, got shape {values.shape}."
        )
    return values


def _labels(y, n_classes):
    """Class numbers or 0/1 rows to bool (n, classes)."""
    return y.astype(bool) if y.ndim == 2 else np.eye(n_classes, dtype=bool)[y.astype(int)]


def _predicted(probabilities, thresholds):
    """Probabilities to predicted labels, bool (n, classes)."""
    if thresholds is not None:
        return probabilities >= thresholds
    return _labels(probabilities.argmax(axis=1), probabilities.shape[1])


def _counts(truth, predicted):
    """True positives, false positives and false negatives of each class."""
    pairs = (truth & predicted, ~truth & predicted, truth & ~predicted)
    return [pair.sum(axis=0) for pair in pairs]


def _auc(truth, scores):
    """AUC of each class, every row counted once."""
    return auc_scores(truth, scores, np.ones((len(truth), 1)))[:, 0]


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
    return number(nan_mean(values, axis=0))
