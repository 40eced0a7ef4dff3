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
from dataclasses import dataclass, field

import numpy as np

from ecg_keras._checks import check_option, require
from ecg_keras.feature_maps import feature_maps
from ecg_keras.parts import Cells, balanced_rows, replacement

_STEP_S = 0.08  # positions of a feature map farther apart than a QRS is wide cannot show one
_PARTS_SHAP = 48  # stretches of time SHAP divides a row into; of an image, patches: about five times as many
_PARTS_LIME = 24
_BANDS = 8  # of a spectrum, followed over time: narrower ones are wider in time than a QRS
_TINY = 1e-20  # shares a band without energy out evenly


@dataclass(frozen=True)
class Attribution:
    """What one method says of each row."""

    method: str
    view: np.ndarray  # (n, ...) on what the network sees, summed over an image's channels
    signal: np.ndarray | None  # (n, samples, leads); None of spectra whose signals are not known
    quality: dict = field(default_factory=dict)  # figures of the method itself: additivity, fit, resolution

    @property
    def image(self):
        """(n, freqs, frames) for image models, else None."""
        return self.view if self.view.ndim == 3 and self.quality.get("view") == "image" else None


def gradcam(probe, targets, *, layer="fine", weights="elementwise", guided=True, background=None):
    """Grad-CAM of each row for a class, or Guided Grad-CAM.

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    layer : {"fine", "last"}, default "fine"
        "last" reads the last feature map of each branch, as the paper does. Where that has positions more than 80 ms
        apart, or fewer than 12 columns if it is one of an image, "fine" goes back to the deepest one that has not.
    weights : {"elementwise", "mean"}, default "elementwise"
        "mean" averages the gradient over the map (Selvaraju et al., ICCV 2017, equations 1 and 2).
        "elementwise" leaves it where it is (HiResCAM, Draelos and Carin, arXiv:2011.08891, 2020); the
        two are equal where a network ends in global average pooling and one dense layer.
    guided : bool, default True
        Multiply the map by what each sample or pixel itself adds, ``max((x - background) * gradient, 0)``: Guided
        Grad-CAM (Selvaraju et al., section 3.2), which is as fine as the row is and tells leads apart. The paper
        guides by guided backpropagation; that hardly depends on the weights (Adebayo et al., NeurIPS 2018), so here it is
        the plain gradient. A row in which nothing is left keeps its map.
    background : float, shape (m, ...), optional
        Rows of the view whose mean counts as nothing; by default up to 200 of the probe's own, of each class as many.

    Returns
    -------
    Attribution
        Branches are added as their maps add to the score; a map over the frequencies of a spectrum
        counts only where the network sees nothing else. A map alone gives all leads the same, but of a spectrum.

    Raises
    ------
    ValueError
        If the network has no convolution.

    Notes
    -----
    Departing from the paper, the score is the class's log-odds against the others, not its logit.
    """
    check_option("layer", layer, ("fine", "last"))
    check_option("weights", weights, ("elementwise", "mean"))
    n_seen = probe.length or probe.n_samples  # samples behind what the network takes
    duration_s = n_seen / probe.fs
    maps = feature_maps(probe.network, probe.grid, step_s=_STEP_S if layer == "fine" else None, duration_s=duration_s)
    if not maps:
        raise ValueError(
            f"Grad-CAM needs a convolution, the model {probe.name!r} has none; use methods=('shap', 'lime') instead."
        )
    has_time = any(m.kind != "frequency" for m in maps)
    targets = np.asarray(targets)
    n, n_samples = len(probe), probe.n_samples
    view = np.zeros((n, *probe.x.shape[1:-1]))
    signal, detail = np.zeros((n, n_samples)), np.zeros(probe.x.shape)
    fill = None if not guided else replacement(probe) if background is None else np.mean(background, axis=0)
    for start in [0] if probe.length is None else probe.starts:
        seen = slice(None) if probe.length is None else slice(start, start + probe.length)
        x = probe.x[:, seen]
        for rows, values, gradients, slope in probe.maps_and_gradients(maps, x, probe.metadata, targets):
            if guided:
                detail[rows, seen] += np.maximum((x[rows] - fill[seen]) * slope, 0)
            for m, a, g in zip(maps, values, gradients):
                axes = tuple(range(2, a.ndim - 1))
                g = g.mean(axis=axes, keepdims=True) if weights == "mean" else g
                cams = np.maximum((a.astype(np.float64) * g).sum(axis=-1), 0)  # (rows, crops, positions or freqs, frames)
                if m.kind == "frequency" and (has_time or probe.is_spectra):
                    view[rows] += _stretched(cams[:, 0], view.shape[1:], m.extent) if probe.is_spectra else 0
                    continue
                length = n_seen if m.crops is None else m.crops.length
                for cam, first in zip(cams.swapaxes(0, 1), [0] if m.crops is None else m.crops.starts):
                    if m.kind == "frequency":
                        freqs, heard = m.grid.freqs_hz(length), x[rows, first : first + length]
                        over_time = _over_time(_stretched(cam, (len(freqs),), m.extent), heard, freqs, probe.fs).sum(axis=2)
                    elif m.kind == "image":
                        shape = view.shape[1:] if probe.is_images else m.grid.image_shape(length, len(probe.leads))[:2]
                        cam = _stretched(cam, shape, m.extent)
                        view[rows] += cam if probe.is_images else 0
                        over_time = _to_samples(cam, m.grid.times_s(length), probe.fs, length)
                    else:
                        over_time = _stretched(cam, (length,), m.extent)
                    signal[rows, start + first : start + first + over_time.shape[1]] += over_time
    steps_s = [_step_s(m, duration_s) for m in maps if m.kind != "frequency"]
    view = view if probe.grid is not None else signal[:, :, None]
    if guided:
        view = _guided(view, detail if probe.grid is None else detail.sum(axis=-1))
    if probe.is_images:
        signal = _to_samples(view, probe.times_s, probe.fs, n_samples)
    elif probe.grid is None:
        signal = view if guided else view[:, :, 0]
    quality = {
        "layers": [f"{m.branch}/{m.layer.name}".lstrip("/") for m in maps],
        "step_ms": 1000 * min(steps_s) if steps_s else None,
        "weights": weights,
        "guided": guided,
        "empty": int(((signal if not probe.is_spectra else view).reshape(n, -1).sum(axis=1) == 0).sum()),
    }
    return _attribution("gradcam", probe, _unit(view), None if probe.is_spectra else _unit(signal), quality)


def _step_s(m, duration_s):
    """Seconds between the positions of a map."""
    share = 1 if m.crops is None else m.crops.length / m.crops.input.shape[1]
    return share * duration_s / m.layer.output.shape[-2]


def _guided(maps, detail):
    """Maps (n, ...) times detail (n, ...); rows in which nothing would be left stay."""
    product = maps * detail
    empty = product.sum(axis=tuple(range(1, product.ndim)), keepdims=True) == 0
    return np.where(empty, np.broadcast_to(maps, product.shape), product)


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
    background = probe.x[balanced_rows(probe.y, 8, seed=seed)] if background is None else np.asarray(background, np.float32)
    cells = Cells(probe, parts)
    current = {}

    def masked(mask, x):
        """The row with the parts outside the mask replaced, once for each background row."""
        return (np.where(cells.where(mask), x, background),)

    def score(rows):
        metadata = None if probe.metadata is None else np.repeat(current["metadata"], len(rows), axis=0)
        return probe.log_odds(rows, metadata)[:, current["target"]]

    explainer = package.PartitionExplainer(score, _Masker(masked, cells, len(background)))
    values, gaps = np.zeros((len(probe), cells.n)), []
    for i in range(len(probe)):
        current = {"target": targets[i], "metadata": None if probe.metadata is None else probe.metadata[i : i + 1]}
        found = explainer(probe.x[i : i + 1], max_evals=max_evals, batch_size=64, silent=True)
        values[i] = np.reshape(found.values[0], -1)
        base, own = score(background).mean(), score(probe.x[i : i + 1])[0]
        gaps.append(abs(values[i].sum() - (own - base)) / max(abs(own - base), 1e-6))
    quality = {"additivity": np.array(gaps), "parts": cells.n, "background": len(background), "cells": values}
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
        metadata = None if probe.metadata is None else np.repeat(probe.metadata[i : i + 1], n_draws, axis=0)
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
    names = [tensor._keras_history.operation.name.removesuffix("_logits").removesuffix("_branch") for tensor in tensors]
    vectors = keras.Model(probe.network.inputs, list(tensors))
    other = probe[balanced_rows(probe.y, 16, seed=seed)] if background is None else background
    own, base = (
        [keras.ops.convert_to_numpy(v) for v in vectors.predict_on_batch(p.feed(p.x, p.metadata))] for p in (probe, other)
    )
    head = probe.headed(list(tensors), probe.network.outputs[0])
    targets, n, m = np.asarray(targets), len(probe), len(other)
    worth = {}
    for kept in itertools.product((False, True), repeat=len(names)):
        feeds = [np.repeat(a, m, axis=0) if k else np.tile(b, (n, 1)) for k, a, b in zip(kept, own, base)]
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
        signal = _to_samples(view, probe.times_s, probe.fs, probe.n_samples)
    elif probe.is_spectra:
        signal = None
    else:
        signal = view if view.ndim == 3 else np.repeat(view[:, :, None], len(probe.leads), axis=2) / len(probe.leads)
        view = signal
    return _attribution(method, probe, view, signal, quality)


def _attribution(method, probe, view, signal, quality):
    """An `Attribution` with the leads' axis, what is common to all leads divided by their number."""
    n_leads = len(probe.leads)
    if signal is None and probe.signals is not None and np.isfinite(probe.signals).all():
        signal = _over_time(view, probe.signals, probe.freqs_hz, probe.fs)
    if signal is not None and signal.ndim == 2:
        signal = np.repeat(signal[:, :, None], n_leads, axis=2) / n_leads
    if probe.grid is None:
        view = signal
    kind = "image" if probe.is_images else "spectrum" if probe.is_spectra else "signal"
    signal = None if signal is None else signal.astype(np.float32)
    return Attribution(method, view.astype(np.float32), signal, {**quality, "view": kind})


def _unit(values):
    """Rows (n, ...) scaled to sum 1; rows of zeros stay."""
    total = values.sum(axis=tuple(range(1, values.ndim)), keepdims=True)
    return values / np.where(total > 0, total, 1)


def _stretched(values, shape, extent):
    """Maps (n, ...) that cover `extent` of `shape`, interpolated linearly on half-pixel centres; each row's sum stays."""
    total = values.sum(axis=tuple(range(1, values.ndim)))
    for axis, size in enumerate(shape, start=1):
        n = values.shape[axis]
        first, last = extent[axis - 1]
        at = np.clip(((np.arange(size) + 0.5) / size - first) / (last - first) * n - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.take(values, low, axis) * (1 - part) + np.take(values, np.minimum(low + 1, n - 1), axis) * part
    new = values.sum(axis=tuple(range(1, values.ndim)))
    scale = np.divide(total, new, out=np.zeros_like(total), where=new != 0)
    return values * scale.reshape([-1] + [1] * (values.ndim - 1))


def _to_samples(image, times_s, fs, n_samples):
    """Images (n, freqs, frames) summed over frequency and shared out to samples (n, samples); sums stay.

    Each frame's value goes to the samples near it by linear interpolation, so a signed map keeps its sums too.
    """
    frames = image.sum(axis=1)
    at = np.arange(n_samples) / fs
    share = np.stack([np.interp(at, times_s, unit) for unit in np.eye(len(times_s))])  # (frames, samples)
    return frames @ (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12))


def _over_time(bands, signals, freqs_hz, fs):
    """Attribution of frequencies (n, freqs) shared out to (n, samples, leads) as the energy in each band is; sums stay."""
    n_samples = signals.shape[1]
    own, spectra = np.fft.rfftfreq(n_samples, 1 / fs), np.fft.rfft(signals, axis=1)
    edges = np.concatenate([[-np.inf], (freqs_hz[1:] + freqs_hz[:-1]) / 2, [np.inf]])
    over_time = np.zeros(signals.shape)
    for band in np.array_split(np.arange(len(freqs_hz)), min(_BANDS, len(freqs_hz))):
        inside = (own >= edges[band[0]]) & (own < edges[band[-1] + 1])
        energy = np.fft.irfft(spectra * inside[:, None], n_samples, axis=1) ** 2 + _TINY
        over_time += energy * (bands[:, band].sum(axis=1) / energy.sum(axis=(1, 2)))[:, None, None]
    return over_time


METHODS = {"gradcam": gradcam, "shap": shap, "lime": lime}
