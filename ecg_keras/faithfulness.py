"""Check explanations: deletion, other weights, agreement of methods, and a known answer.

Conventions
-----------
A check takes a `Probe`, the class explained in each row, and attributions by method; it returns
plain numbers. Areas are of probability (0..1) over the share of the row removed (0..1). Intervals
are 95 % bootstrap intervals of the mean over rows. Removed cells are replaced by the mean of
rows, of each class as many.
"""

import itertools
import warnings

import keras
import numpy as np

from ecg_keras.attribution import METHODS, Cells, replacement
from ecg_keras.dataset import ECGDataset
from ecg_keras.metrics import interval

_CELLS = 36  # stretches of time that are removed one after the other
_STEPS = 16
_KINDS = ("deletion", "insertion")
_SPAN = (0.36, 0.64)  # of the row: where the planted class differs


def deletion_and_insertion(probe, targets, attributions, *, fill=None, n_random=8, seed=0):
    """Remove cells in the order of an attribution, and put them in, against random orders.

    Deletion starts from the row and removes the cell with the highest attribution first: the
    faster the class's probability falls, the smaller the area under its curve. Insertion starts
    from the replacement alone, and the probability should rise fast (Petsiuk et al., BMVC 2018).

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    attributions : dict of str to Attribution
        By method.
    fill : float, shape of a row of the view, optional
        What replaces a cell; `attribution.replacement` of the probe's rows by default.
    n_random : int, default 8
        Random orders per row; the methods are compared with their mean.
    seed : int, default 0
        Seed of the orders and of the bootstrap.

    Returns
    -------
    result : dict
        ``share``: removed shares (steps,). ``n_cells``: cells of a row. ``random``: mean
        ``deletion`` and ``insertion`` curves. Per method the same curves, ``deletion_gain`` (random
        area - own area) and ``insertion_gain`` (own - random), each with ``mean``, ``ci95`` and
        ``n``. A gain above zero is better than random.
    """
    rng = np.random.default_rng(seed)
    cells = Cells(probe, _CELLS, split_leads=False)
    fill = replacement(probe) if fill is None else fill
    counts = np.unique(np.round(np.linspace(0, cells.n, _STEPS + 1)).astype(int))
    n, n_orders = len(attributions), len(attributions) + n_random
    values = np.zeros((n_orders, len(probe), cells.n))  # random orders: all cells are equal
    for i, a in enumerate(attributions.values()):
        values[i] = cells.gather(a.view)
    curves = {kind: np.zeros((n_orders, len(probe), len(counts))) for kind in _KINDS}
    for row in range(len(probe)):
        ranks = []
        for own in values[:, row]:
            order = np.lexsort((rng.permutation(cells.n), -own))  # equal cells: at random
            ranks.append(np.argsort(order))
        removed = np.array(ranks)[:, None, :] < counts[:, None]  # (orders, steps, cells)
        mask = cells.row_mask(removed.reshape(-1, cells.n))
        for kind, kept in zip(_KINDS, (~mask, mask)):
            rows = np.where(kept, probe.x[row], fill).astype(np.float32)
            p = probe.probabilities(rows, probe.metadata_of(row, len(rows)))[:, targets[row]]
            curves[kind][:, row] = p.reshape(n_orders, -1)
    share = counts / cells.n
    areas = {kind: np.trapezoid(p, share, axis=2) for kind, p in curves.items()}  # (orders, rows)
    result = {
        "share": share,
        "n_cells": cells.n,
        "random": {kind: p[n:].mean(axis=(0, 1)) for kind, p in curves.items()},
    }
    for i, name in enumerate(attributions):
        gains = {
            "deletion_gain": areas["deletion"][n:].mean(axis=0) - areas["deletion"][i],
            "insertion_gain": areas["insertion"][i] - areas["insertion"][n:].mean(axis=0),
        }
        result[name] = {
            **{kind: p[i].mean(axis=0) for kind, p in curves.items()},
            **{kind: mean_with_interval(gain, seed=seed) for kind, gain in gains.items()},
        }
    return result


def other_weights(probe, targets, attributions, compute, *, seed=0):
    """Rank correlation of each attribution with that of the same network with new random weights.

    An explanation that hardly changes shows the row, not what was learned (Adebayo et al., NeurIPS
    2018). Values are compared with their sign, over the cells that deletion removes; the paper
    also gives the figure without sign.

    Parameters
    ----------
    probe, targets, attributions
        As in `deletion_and_insertion`.
    compute : dict of str to function
        Method to a function from probe and targets to an Attribution.
    seed : int, default 0
        Seed of the weights.

    Returns
    -------
    result : dict of str to dict
        Per method ``mean``, ``ci95``, ``n`` of Spearman's correlation over rows.
    """
    cells = Cells(probe, _CELLS, split_leads=False)
    with probe.other_weights(seed):
        others = {name: compute[name](probe, targets) for name in attributions}
    result = {}
    for name, own in attributions.items():
        pairs = (cells.gather(a.view) for a in (own, others[name]))
        result[name] = mean_with_interval(_row_correlations(*pairs), seed=seed)
    return result


def agreement(probe, attributions, *, seed=0):
    """Rank correlation between two methods, of what speaks for the class.

    Values are summed over stretches of time, or over cells of the view where the signal is not
    known. Of signed methods the positive values count, as Grad-CAM has no others.

    Parameters
    ----------
    probe, attributions
        As in `deletion_and_insertion`.
    seed : int, default 0
        Seed of the bootstrap.

    Returns
    -------
    result : dict of (str, str) to dict
        Per pair of methods ``mean``, ``ci95``, ``n``.
    """
    values = {}
    for name, a in attributions.items():
        if a.signal is not None:
            positive = np.maximum(a.signal, 0).sum(axis=2)
            at = np.arange(positive.shape[1]) * _CELLS // positive.shape[1]
            values[name] = np.stack([np.bincount(at, weights=row) for row in positive])
        else:
            values[name] = np.maximum(Cells(probe, _CELLS, split_leads=False).gather(a.view), 0)
    return {
        (first, second): mean_with_interval(
            _row_correlations(values[first], values[second]), seed=seed
        )
        for first, second in itertools.combinations(values, 2)
        if values[first].shape == values[second].shape
    }


def planted(
    n,
    *,
    n_samples=187,
    fs=125.0,
    leads=("ECG",),
    classes=("plain", "planted"),
    span=_SPAN,
    freq_hz=None,
    seed=0,
):
    """Make synthetic beats of two classes that differ only in a known stretch of time.

    Both have P, QRS and T waves and noise. The second class also has an oscillation inside `span`,
    with a random phase and smooth ends.

    Parameters
    ----------
    n : int
        Rows; every second one is planted.
    n_samples : int, default 187
        Samples per row.
    fs : float, default 125
        Sampling rate, in Hz.
    leads : sequence of str
        Lead names; each lead is drawn by itself and carries the oscillation.
    classes : sequence of str
        Class names; rows belong to the first two.
    span : (float, float), default (0.36, 0.64)
        Where the classes differ, as shares of the row.
    freq_hz : float, optional
        Frequency of the oscillation; a tenth of `fs` by default.
    seed : int, default 0
        The same seed makes the same rows.

    Returns
    -------
    ECGDataset

    Examples
    --------
    >>> ds = planted(4)
    >>> ds.class_counts(), ds.synthetic
    ({'plain': 2, 'planted': 2}, True)
    """
    rng = np.random.default_rng(seed)
    y, at = np.arange(n) % 2, np.arange(n_samples)
    shape = (n, n_samples, len(leads))
    x = 0.15 * rng.standard_normal(shape)
    for centre, width_s, tall in (
        (0.1, 0.02, 1.0),
        (0.25, 0.06, 0.3),
        (0.7, 0.05, 0.12),
        (0.8, 0.02, 1.0),
    ):
        moved = centre * n_samples + rng.uniform(-0.03, 0.03, (n, 1, 1)) * n_samples
        size = tall * rng.uniform(0.8, 1.2, (n, 1, len(leads)))
        x += size * np.exp(-0.5 * ((at[:, None] - moved) / (width_s * fs)) ** 2)
    first, last = (edge * n_samples for edge in span)
    inside = (at >= first) & (at < last)
    window = np.where(inside, np.sin(np.pi * (at - first) / (last - first)) ** 2, 0)
    turns = 2 * np.pi * ((freq_hz or fs / 10) * at / fs + rng.random((n, 1)))
    x += (y[:, None] * 0.4 * window * np.sin(turns))[:, :, None]
    source = "synthetic beats with a planted difference"
    return ECGDataset(x, y, classes=tuple(classes), fs=fs, leads=tuple(leads), source=source)


def planted_shares(
    probe, *, methods=("gradcam", "shap", "lime"), n_train=512, n_rows=15, epochs=8, seed=0
):
    """Train the same architecture on `planted` rows, and explain them: the answer is known.

    Parameters
    ----------
    probe : Probe
        Whose architecture is trained; its own weights stay as they are.
    methods : sequence of str
        Of `attribution.METHODS`.
    n_train, epochs : int
        Rows and passes of the training.
    n_rows : int, default 15
        Planted rows to explain.
    seed : int, default 0
        Seed of rows and weights.

    Returns
    -------
    result : dict
        ``accuracy`` on new rows; ``span`` as shares of the row, and ``span_s``; per method
        ``mean`` and ``ci95`` of the share of positive attribution that lies inside the span, next
        to ``chance``, the span's share of the row.
    """
    n_samples = probe.length or probe.n_samples
    look = {"fs": probe.fs, "leads": probe.leads, "classes": probe.classes}
    train, test = (
        _as_view(probe, planted(n, n_samples=n_samples, seed=[seed, i], **look))
        for i, n in enumerate((n_train, 256))
    )
    keras.utils.set_random_seed(seed)
    network = keras.models.clone_model(probe.network)
    losses = keras.losses
    loss = losses.BinaryCrossentropy if probe.multi_label else losses.CategoricalCrossentropy
    network.compile(keras.optimizers.AdamW(3e-3), loss())
    labels = np.eye(len(probe.classes), dtype=np.float32)[train.y]
    inputs = probe.network_inputs(train.x, train.metadata)
    network.fit(inputs, labels, batch_size=32, epochs=epochs, verbose=0)
    trained = probe.with_network(network, test)
    predicted = trained.log_odds()[:, :2].argmax(axis=1)
    rows = np.flatnonzero(test.y == 1)[:n_rows]
    first, last = (int(np.ceil(edge * n_samples)) for edge in _SPAN)
    result = {
        "accuracy": float((predicted == test.y).mean()),
        "span": list(_SPAN),
        "span_s": [first / probe.fs, last / probe.fs],
        "chance": (last - first) / n_samples,
    }
    plain = trained.x[test.y == 0][:8]
    for name in methods:
        found = METHODS[name](trained[rows], np.ones(len(rows), int), background=plain)
        if found.signal is not None:
            positive = np.maximum(found.signal, 0).sum(axis=2)
            shares = positive[:, first:last].sum(axis=1) / np.maximum(positive.sum(axis=1), 1e-12)
            result[name] = mean_with_interval(shares, seed=seed)
    return result


def _as_view(probe, ds):
    """Signals as the view of a probe; where it takes metadata, all rows get the mean of its own."""
    if probe.grid is not None:
        from ecg_keras.spectrograms import represent

        ds = represent(ds, probe.grid)
    if probe.metadata is not None:
        mean = np.repeat(probe.metadata.mean(axis=0, keepdims=True), len(ds), axis=0)
        ds = ds.replace(metadata=mean, metadata_names=[f"column {i}" for i in range(mean.shape[1])])
    return ds


def mean_with_interval(values, *, seed=0, n_draws=2000):
    """Mean over rows and its 95 % bootstrap interval; rows without a value are left out.

    Examples
    --------
    >>> mean_with_interval([1.0, 1.0, np.nan])
    {'mean': 1.0, 'ci95': [1.0, 1.0], 'n': 2}
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return {"mean": None, "ci95": None, "n": 0}
    draws = np.random.default_rng(seed).integers(len(values), size=(n_draws, len(values)))
    ci95 = interval(values[draws].mean(axis=1))
    return {"mean": float(values.mean()), "ci95": ci95, "n": len(values)}


def _row_correlations(first, second):
    """Spearman's correlation of each row of two arrays (n, cells); NaN where a row is constant."""
    from scipy.stats import ConstantInputWarning, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return np.array([spearmanr(a, b).statistic for a, b in zip(first, second)])
