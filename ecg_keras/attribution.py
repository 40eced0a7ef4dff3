"""Say which parts of a row decided: Grad-CAM, SHAP, LIME, and the share of each branch.

Conventions
-----------
Every method takes a `Probe` and one class per row, and returns an `Attribution`:
what each sample (n, samples, leads) adds to that class's log-odds, in nats for
SHAP and LIME; for image models also each pixel (n, freqs, frames). Grad-CAM is
not signed and scaled to sum 1 per row. Sums over an image, over its samples and
over the parts a method worked with are the same number. What a band of a spectrum
adds is shared out over time as the row's energy in that band is.
"""

import itertools

import numpy as np

from ecg_keras._checks import require
from ecg_keras.attributed import attributed, to_samples
from ecg_keras.cam import gradcam
from ecg_keras.parts import Cells, balanced_rows, replacement

_PARTS_SHAP = (
    48  # stretches of time SHAP divides a row into; of an image, patches: about five times as many
)
_PARTS_LIME = 24


def shap(probe, targets, *, background=None, parts=_PARTS_SHAP, max_evals=500, seed=0):
    """SHAP values of each row's parts for a class, by the partition explainer of the package `shap`.

    Parts are stretches of time of each lead, patches of an image, bands of a spectrum; a tree that halves them along
    their axes says which are grouped (Owen values; Lundberg and Lee, NeurIPS 2017). A part is taken out by
    putting that of a background row in its place, and the score averaged over the background.

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    background : float, shape (m, ...), optional
        Rows of the view; by default eight of the probe's own, of each class as many.
    parts : int, default 48
        Stretches of time a lead is divided into; an image's patches are about as many along time.
    max_evals : int, default 500
        Coalitions per row, spent where they change most; what is not resolved by then is shared evenly within its group.
    seed : int, default 0
        Seed of the draw of the background.

    Returns
    -------
    Attribution
        ``quality["additivity"]``: per row, how far the values' sum is from the difference they explain,
        as a share of it, where the difference is computed anew.

    Raises
    ------
    ImportError
        If shap is not installed.
    """
    package = require("shap", "explain")
    targets = np.asarray(targets)
    background = (
        probe.x[balanced_rows(probe.y, 8, seed=seed)]
        if background is None
        else np.asarray(background, np.float32)
    )
    cells = Cells(probe, parts)
    current = {}

    def masked(mask, x):
        """The row with the parts outside the mask replaced, once for each background row."""
        return (np.where(cells.where(mask), x, background),)

    def score(rows):
        metadata = (
            None if probe.metadata is None else np.repeat(current["metadata"], len(rows), axis=0)
        )
        return probe.log_odds(rows, metadata)[:, current["target"]]

    explainer = package.PartitionExplainer(score, _Masker(masked, cells, len(background)))
    values, gaps = np.zeros((len(probe), cells.n)), []
    for i in range(len(probe)):
        current = {
            "target": targets[i],
            "metadata": None if probe.metadata is None else probe.metadata[i : i + 1],
        }
        found = explainer(probe.x[i : i + 1], max_evals=max_evals, batch_size=64, silent=True)
        values[i] = np.reshape(found.values[0], -1)
        base, own = score(background).mean(), score(probe.x[i : i + 1])[0]
        gaps.append(abs(values[i].sum() - (own - base)) / max(abs(own - base), 1e-6))
    quality = {
        "additivity": np.array(gaps),
        "parts": cells.n,
        "background": len(background),
        "cells": values,
    }
    return _from_cells("shap", probe, cells, values, quality)


class _Masker:
    """What `shap.PartitionExplainer` asks of a masker: how many parts, their tree, and a row with some of them."""

    def __init__(self, masked, cells, n_background):
        self._masked, self._n, self._background = masked, cells.n, n_background
        self.clustering = cells.tree()

    def shape(self, x):
        """Background rows and parts."""
        return self._background, self._n

    def mask_shapes(self, x):
        """Shape of a row's mask."""
        return [(self._n,)]

    def __call__(self, mask, x):
        return self._masked(mask, x)


def lime(probe, targets, *, background=None, parts=_PARTS_LIME, n_draws=None, seed=0):
    """LIME: a ridge regression of the score on which parts of the row are there (Ribeiro et al., KDD 2016).

    Each draw keeps every part with probability 1/2, puts the background's mean in place of the others, and weighs
    ``exp(-d**2 / 0.25**2)`` with d the cosine distance of the kept parts to all, as the authors' package does for images.

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    background : float, shape (m, ...), optional
        Rows of the view whose mean replaces a part; by default up to 200 of the probe's own, of each
        class as many.
    parts : int, default 24
        As in `shap`; of more than two leads, which would need very many draws, all are taken out together.
    n_draws : int, optional
        Draws per row; 500, or ten per part if that is more (at most 2,000), by default.
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    Attribution
        ``quality["r2"]``: per row, the weighted share of the score's variance that the regression explains.
    """
    from sklearn.linear_model import Ridge

    targets, rng = np.asarray(targets), np.random.default_rng(seed)
    fill = replacement(probe, seed=seed) if background is None else np.mean(background, axis=0)
    cells = Cells(probe, parts, leads=len(probe.leads) <= 2)
    n_draws = n_draws or int(np.clip(10 * cells.n, 500, 2000))
    values, fits = np.zeros((len(probe), cells.n)), []
    for i in range(len(probe)):
        masks = rng.random((n_draws, cells.n)) < 0.5
        masks[0] = True
        rows = np.where(cells.where(masks), probe.x[i], fill)
        metadata = (
            None
            if probe.metadata is None
            else np.repeat(probe.metadata[i : i + 1], n_draws, axis=0)
        )
        scores = probe.log_odds(rows.astype(np.float32), metadata)[:, targets[i]]
        distance = 1 - np.sqrt(masks.mean(axis=1))  # cosine distance of 0/1 rows to all ones
        weights = np.exp(-((distance / 0.25) ** 2))
        model = Ridge(alpha=1.0).fit(masks, scores, sample_weight=weights)
        values[i] = model.coef_
        fits.append(model.score(masks, scores, sample_weight=weights))
    quality = {"r2": np.array(fits), "parts": cells.n, "draws": n_draws, "cells": values}
    return _from_cells("lime", probe, cells, values, quality)


def branch_shares(probe, targets, *, background=None, seed=0):
    """Share of each branch of a fused network in each row's score: exact Shapley values over branches.

    A branch is taken out by giving it the vector it has for a background row, and the score averaged over 16 of them.

    Parameters
    ----------
    probe : Probe
        Network with a layer named ``fused``, and rows.
    targets : int, shape (n,)
        Class of each row.
    background : Probe, optional
        Rows to take the vectors from; by default 16 of the probe's own, of each class as many.

    Returns
    -------
    values : dict of str to float64 (n,), or None
        Nats each branch adds; they sum to the difference of the score to its mean over the background.
        None for a network of one branch.
    """
    import keras

    try:
        fused = probe.network.get_layer("fused")
    except ValueError:
        return None
    tensors = fused.input if isinstance(fused.input, (list, tuple)) else [fused.input]
    if len(tensors) < 2 or probe.length is not None:
        return None
    names = [
        tensor._keras_history.operation.name.removesuffix("_logits").removesuffix("_branch")
        for tensor in tensors
    ]
    vectors = keras.Model(probe.network.inputs, list(tensors))
    other = probe[balanced_rows(probe.y, 16, seed=seed)] if background is None else background
    own, base = (
        [keras.ops.convert_to_numpy(v) for v in vectors.predict_on_batch(p.feed(p.x, p.metadata))]
        for p in (probe, other)
    )
    head = probe.headed(list(tensors), probe.network.outputs[0])
    targets, n, m = np.asarray(targets), len(probe), len(other)
    worth = {}
    for kept in itertools.product((False, True), repeat=len(names)):
        feeds = [
            np.repeat(a, m, axis=0) if k else np.tile(b, (n, 1)) for k, a, b in zip(kept, own, base)
        ]
        scores = head(feeds)[np.arange(n * m), np.repeat(targets, m)]
        worth[kept] = scores.reshape(n, m).mean(axis=1)
    return dict(zip(names, _shapley(worth, len(names))))


def _shapley(worth, n):
    """Value of each player of a game given as coalition (tuple of bool) to worth."""
    from math import factorial

    values = []
    for i in range(n):
        total = 0
        for kept in worth:
            if not kept[i]:
                size = sum(kept)
                share = factorial(size) * factorial(n - size - 1) / factorial(n)
                total = total + share * (worth[kept[:i] + (True,) + kept[i + 1 :]] - worth[kept])
        values.append(total)
    return values


def _from_cells(method, probe, cells, values, quality):
    """Values of parts (n, parts) as an attribution."""
    view = cells.spread(values)
    if probe.is_images:
        signal = to_samples(view, probe.times_s, probe.fs, probe.n_samples)
    elif probe.is_spectra:
        signal = None
    else:
        signal = (
            view
            if view.ndim == 3
            else np.repeat(view[:, :, None], len(probe.leads), axis=2) / len(probe.leads)
        )
        view = signal
    return attributed(method, probe, view, signal, quality)


METHODS = {"gradcam": gradcam, "shap": shap, "lime": lime}
