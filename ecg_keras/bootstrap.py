"""Draw rows or patients again and measure every draw: the intervals of every figure.

Conventions
-----------
`truth` and `predicted` are bool (n, classes), `scores` float (n, classes); `units` is int
(n,), which patient each row is of, or None where rows are drawn one by one. A class
without rows has NaN, and averages leave NaN out.
"""

import numpy as np

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
    """part / whole as float, `none` where there is nothing to divide by."""
    return float(part / whole) if whole else none
