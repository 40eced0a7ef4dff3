"""Say which samples or pixels of a row decided: Grad-CAM, SHAP, LIME, shares of branches.

Conventions
-----------
A `Probe` is a trained network with rows as the network sees them. Its view is the image, where
the network looks at one image of the signal and at nothing else; otherwise it is the signal
(samples, leads) or the spectrum (freqs, leads). The score of a class is its log-odds in nats:
``z_c - log(sum of exp(z_k) over the other k)`` of the softmax logits z, or the logit itself of a
sigmoid. A score keeps growing where a probability is already close to 1.

Every method takes a `Probe` and one class per row, and returns an `Attribution`: what each sample
of the signal (n, samples, leads) adds to the class's score, and of image models also each pixel
(n, freqs, frames). SHAP and LIME are signed, in nats. Grad-CAM has no sign and sums to 1 per row.
SHAP and LIME replace cells of the view: stretches of time, patches of an image, or bands of a
spectrum. The sums of a row over its cells, its pixels and its samples are equal; what a band of
a spectrum adds is given to the samples in proportion to the energy in that band.
"""

import contextlib
import copy
import itertools
from dataclasses import dataclass, field
from math import factorial

import keras
import numpy as np

from ecg_keras._checks import check_option, require
from ecg_keras.keras_graph import (
    LIMIT,
    backward,
    feature_maps,
    forward,
    output_kind,
    producer,
    readers,
)
from ecg_keras.layers import REPRESENTATIONS, crop_length, crop_starts, model_card
from ecg_keras.saved_models import check_card, check_fits

_SHAP_CELLS = 48  # per lead; an image has about five times as many
_LIME_CELLS = 24
_STEP_S = 0.08  # a map with positions farther apart than a QRS is wide cannot show a QRS
_BANDS = 8  # of a spectrum: narrower bands are wider in time than a QRS
_TINY = 1e-20  # energy added, so that a band without any is shared out evenly
_BATCH_BYTES = 48e6  # of rows given to a network at once


def gradcam(probe, targets, *, layer="fine", weights="elementwise", guided=True, background=None):
    """Grad-CAM of each row for a class, or Guided Grad-CAM.

    Departing from the paper, the score is the class's log-odds, not its logit.

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    layer : {"fine", "last"}, default "fine"
        "last" reads the last feature map of each branch, as the paper does. "fine" goes back to the
        deepest map whose positions lie at most 80 ms apart, or that has 12 columns if it is one of
        an image.
    weights : {"elementwise", "mean"}, default "elementwise"
        "mean" averages the gradient over the map (Selvaraju et al., ICCV 2017, equations 1 and 2).
        "elementwise" does not (HiResCAM, Draelos and Carin, arXiv:2011.08891, 2020). The two are
        equal where a network ends in global average pooling and one dense layer.
    guided : bool, default True
        Multiply the map by what each sample or pixel adds, ``max((x - background) * gradient, 0)``.
        This is Guided Grad-CAM (Selvaraju et al., section 3.2), which is as fine as the row and
        tells leads apart. The paper uses guided backpropagation, which hardly depends on the
        weights (Adebayo et al., NeurIPS 2018); here it is the plain gradient. A row in which
        nothing would be left keeps its map.
    background : float, shape (m, ...), optional
        Rows of the view; their mean is the background. By default up to 200 of the probe's own, of
        each class as many.

    Returns
    -------
    Attribution
        Branches add up as their maps add to the score. A map over the frequencies of a spectrum
        counts only where the network sees nothing else. Without `guided`, all leads get the same,
        except of a spectrum. ``quality`` names the layers and says how many rows are empty.

    Raises
    ------
    ValueError
        If the network has no convolution, or an option is not known.

    Examples
    --------
    >>> from ecg_keras import build_model
    >>> from ecg_keras.faithfulness import planted
    >>> ds = planted(4)
    >>> model = build_model("cnn1d", like=ds, filters=(4, 8))
    >>> gradcam(Probe(model, ds), ds.y).signal.shape
    (4, 187, 1)
    """
    check_option("layer", layer, ("fine", "last"))
    check_option("weights", weights, ("elementwise", "mean"))
    n, n_samples = len(probe), probe.n_samples
    n_seen = probe.length or n_samples  # samples behind what the network takes
    duration_s = n_seen / probe.fs
    step_s = _STEP_S if layer == "fine" else None
    maps = feature_maps(probe.network, probe.grid, step_s=step_s, duration_s=duration_s)
    if not maps:
        raise ValueError(
            f"Grad-CAM needs a convolution, the model {probe.name!r} has none; "
            "use methods=('shap', 'lime') instead."
        )
    over_time = [m for m in maps if m.kind != "frequency"]
    view, signal = np.zeros((n, *probe.x.shape[1:-1])), np.zeros((n, n_samples))
    added = np.zeros(probe.x.shape) if guided else np.ones(probe.x.shape)
    if guided:
        base = replacement(probe) if background is None else np.mean(background, axis=0)
    for window in probe.windows:
        x, start = probe.x[:, window], window.start or 0
        for rows, values, gradients, slope in probe.maps_and_gradients(
            maps, x, probe.metadata, np.asarray(targets)
        ):
            if guided:
                added[rows, window] += np.maximum((x[rows] - base[window]) * slope, 0)
            for m, a, g in zip(maps, values, gradients):  # both (rows, crops, ..., channels)
                if weights == "mean":
                    g = g.mean(axis=tuple(range(2, a.ndim - 1)), keepdims=True)
                cams = np.maximum((a.astype(np.float64) * g).sum(axis=-1), 0)  # (rows, crops, ...)
                if probe.grid is not None:  # the network sees nothing but this image or spectrum
                    view[rows] += _resized(cams[:, 0], view.shape[1:], m.extent)
                elif m.kind != "frequency" or not over_time:
                    crops = [0] if m.crops is None else m.crops.starts
                    length = n_seen if m.crops is None else m.crops.length
                    for cam, first in zip(cams.swapaxes(0, 1), crops):
                        crop = x[rows, first : first + length]
                        at = slice(start + first, start + first + length)
                        signal[rows, at] += _map_to_signal(m, cam, crop, probe.fs)
    if probe.grid is None:
        view, signal = _multiplied(signal[:, :, None], added), None
    else:
        view, signal = _multiplied(view, added.sum(axis=-1)), None
        if probe.is_images:
            signal = _sum_to_one(image_to_signal(view, probe.times_s, probe.fs, n_samples))
    quality = {
        "layers": [f"{m.branch}/{m.layer.name}".lstrip("/") for m in maps],
        "step_ms": min((1000 * _step_s(m, duration_s) for m in over_time), default=None),
        "weights": weights,
        "guided": guided,
        "empty": int((view.reshape(n, -1).sum(axis=1) == 0).sum()),
    }
    return _make_attribution("gradcam", probe, _sum_to_one(view), quality, signal=signal)


def _map_to_signal(m, cam, crop, fs):
    """A map (rows, ...) over the samples of the crop (rows, samples, leads): (rows, samples)."""
    n_samples, n_leads = crop.shape[1:]
    if m.kind == "time":
        return _resized(cam, (n_samples,), m.extent)
    if m.kind == "image":
        image = _resized(cam, m.grid.image_shape(n_samples, n_leads)[:2], m.extent)
        return image_to_signal(image, m.grid.times_s(n_samples), fs, n_samples)
    freqs_hz = m.grid.freqs_hz(n_samples)
    bands = _resized(cam, (len(freqs_hz),), m.extent)
    return spectrum_to_signal(bands, crop, freqs_hz, fs).sum(axis=2)


def _resized(values, shape, extent):
    """Maps (n, ...) that cover `extent` of `shape`, by linear interpolation; each row's sum stays.

    The values lie in the middle of their pixels (half-pixel centres).
    """
    total = values.sum(axis=tuple(range(1, values.ndim)))
    for axis, size in enumerate(shape, start=1):
        n = values.shape[axis]
        first, last = extent[axis - 1]
        at = np.clip(((np.arange(size) + 0.5) / size - first) / (last - first) * n - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        high = np.minimum(low + 1, n - 1)
        weight = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
    new = values.sum(axis=tuple(range(1, values.ndim)))
    scale = np.divide(total, new, out=np.zeros_like(total), where=new != 0)
    return values * scale.reshape([-1] + [1] * (values.ndim - 1))


def _multiplied(maps, added):
    """Product of two arrays (n, ...); a row keeps its map where the product would be empty."""
    product = maps * added
    empty = product.sum(axis=tuple(range(1, product.ndim)), keepdims=True) == 0
    return np.where(empty, np.broadcast_to(maps, product.shape), product)


def _sum_to_one(values):
    """Rows (n, ...) scaled to sum 1; rows of zeros stay."""
    total = values.sum(axis=tuple(range(1, values.ndim)), keepdims=True)
    return values / np.where(total > 0, total, 1)


def _step_s(m, duration_s):
    """Seconds between the positions of a map."""
    share = 1 if m.crops is None else m.crops.length / m.crops.input.shape[1]
    return share * duration_s / m.layer.output.shape[-2]


def shap(probe, targets, *, background=None, cells_per_lead=_SHAP_CELLS, max_evals=500, seed=0):
    """SHAP values of each row's cells for a class, by the partition explainer of the package shap.

    A cell is replaced by the same cell of a background row; the score is averaged over the
    background. A tree that halves the row along its axes says which cells are taken together
    (Owen values; Lundberg and Lee, NeurIPS 2017).

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    background : float, shape (m, ...), optional
        Rows of the view; by default eight of the probe's own, of each class as many.
    cells_per_lead : int, default 48
        Cells along time of each lead or image, or along the frequencies of a spectrum.
    max_evals : int, default 500
        Coalitions per row, spent where the score changes most. What is not resolved by then is
        shared evenly within its group.
    seed : int, default 0
        Seed of the draw of the background.

    Returns
    -------
    Attribution
        ``quality["cells"]``: nats of each cell (n, cells). ``quality["additivity"]``: per row, the
        distance of the values' sum from the difference that it explains, as a share of that
        difference, which is computed again for this.

    Raises
    ------
    ImportError
        If the package shap is not installed.
    """
    package = require("shap", "explain")
    targets = np.asarray(targets)
    if background is None:
        background = probe.x[balanced_rows(probe.y, 8, seed=seed)]
    background = np.asarray(background, np.float32)
    cells = Cells(probe, cells_per_lead)
    masker = _Masker(cells, background)
    values, gaps = np.zeros((len(probe), cells.n)), []
    for i in range(len(probe)):

        def score(rows, i=i):
            return probe.log_odds(rows, probe.metadata_of(i, len(rows)))[:, targets[i]]

        row = probe.x[i : i + 1]
        explainer = package.PartitionExplainer(score, masker)
        found = explainer(row, max_evals=max_evals, batch_size=64, silent=True)
        values[i] = np.reshape(found.values[0], -1)
        difference = score(row)[0] - score(background).mean()
        gaps.append(abs(values[i].sum() - difference) / max(abs(difference), 1e-6))
    quality = {
        "additivity": np.array(gaps),
        "n_cells": cells.n,
        "background": len(background),
        "cells": values,
    }
    return _make_attribution("shap", probe, cells.spread(values), quality)


class _Masker:
    """What `shap.PartitionExplainer` asks: number and tree of the cells, and rows with some."""

    def __init__(self, cells, background):
        self._cells, self._background = cells, background
        self.clustering = cells.tree()

    def shape(self, x):
        """Background rows and cells."""
        return len(self._background), self._cells.n

    def mask_shapes(self, x):
        """Shape of a row's mask."""
        return [(self._cells.n,)]

    def __call__(self, mask, x):
        """The row with the cells outside the mask replaced, once for each background row."""
        return (np.where(self._cells.row_mask(mask), x, self._background),)


def lime(probe, targets, *, background=None, cells_per_lead=_LIME_CELLS, n_draws=None, seed=0):
    """LIME: a ridge regression of the score on which cells of the row are kept.

    Ribeiro et al., KDD 2016. Each draw keeps every cell with probability 1/2 and replaces the
    others by the mean of the background. Its weight is ``exp(-d**2 / 0.25**2)``, where d is the
    cosine distance of the kept cells to all; the authors' package does the same for images.

    Parameters
    ----------
    probe : Probe
        Network and rows.
    targets : int, shape (n,)
        Class of each row.
    background : float, shape (m, ...), optional
        Rows of the view; by default up to 200 of the probe's own, of each class as many.
    cells_per_lead : int, default 24
        As in `shap`. More than two leads would need very many draws; a cell then spans all leads.
    n_draws : int, optional
        Draws per row; by default ten per cell, but at least 500 and at most 2,000.
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    Attribution
        ``quality["cells"]``: nats of each cell (n, cells). ``quality["r2"]``: per row, the weighted
        share of the score's variance that the regression explains.
    """
    from sklearn.linear_model import Ridge

    targets, rng = np.asarray(targets), np.random.default_rng(seed)
    base = replacement(probe, seed=seed) if background is None else np.mean(background, axis=0)
    cells = Cells(probe, cells_per_lead, split_leads=len(probe.leads) <= 2)
    n_draws = n_draws or int(np.clip(10 * cells.n, 500, 2000))
    values, fits = np.zeros((len(probe), cells.n)), []
    for i in range(len(probe)):
        kept = rng.random((n_draws, cells.n)) < 0.5
        kept[0] = True
        rows = np.where(cells.row_mask(kept), probe.x[i], base).astype(np.float32)
        scores = probe.log_odds(rows, probe.metadata_of(i, n_draws))[:, targets[i]]
        distance = 1 - np.sqrt(kept.mean(axis=1))  # cosine distance of 0/1 rows to all ones
        weights = np.exp(-((distance / 0.25) ** 2))
        model = Ridge(alpha=1.0).fit(kept, scores, sample_weight=weights)
        values[i] = model.coef_
        fits.append(model.score(kept, scores, sample_weight=weights))
    quality = {"r2": np.array(fits), "n_cells": cells.n, "draws": n_draws, "cells": values}
    return _make_attribution("lime", probe, cells.spread(values), quality)


def branch_shares(probe, targets, *, background=None, seed=0):
    """Compute what each branch of a fused network adds: exact Shapley values over branches.

    A branch is taken out by giving it the vector that it has for a background row; the score is
    averaged over these rows.

    Parameters
    ----------
    probe : Probe
        Network with a layer named ``fused``, and rows.
    targets : int, shape (n,)
        Class of each row.
    background : Probe, optional
        Rows to take the vectors from; by default 16 of the probe's own, of each class as many.
    seed : int, default 0
        Seed of the draw of these rows.

    Returns
    -------
    values : dict of str to float64 (n,), or None
        Nats that each branch adds; they sum to the difference of the score from its mean over the
        background. None for a network of one branch, and for one that takes crops of the rows.
    """
    try:
        fused = probe.network.get_layer("fused")
    except ValueError:
        return None
    tensors = list(fused.input) if isinstance(fused.input, (list, tuple)) else [fused.input]
    if len(tensors) < 2 or probe.length is not None:
        return None
    names = [
        producer(tensor).name.removesuffix("_logits").removesuffix("_branch") for tensor in tensors
    ]
    vectors = keras.Model(probe.network.inputs, tensors)
    other = probe[balanced_rows(probe.y, 16, seed=seed)] if background is None else background
    own, base = (
        [
            keras.ops.convert_to_numpy(v)
            for v in vectors.predict_on_batch(p.network_inputs(p.x, p.metadata))
        ]
        for p in (probe, other)
    )
    head = probe.log_odds_from(tensors)
    n, m = len(probe), len(other)
    scores = {}  # of every coalition of branches, a tuple of bool: (n,)
    for kept in itertools.product((False, True), repeat=len(names)):
        arrays = [
            np.repeat(a, m, axis=0) if k else np.tile(b, (n, 1)) for k, a, b in zip(kept, own, base)
        ]
        chosen = head(arrays)[np.arange(n * m), np.repeat(np.asarray(targets), m)]
        scores[kept] = chosen.reshape(n, m).mean(axis=1)
    return dict(zip(names, _shapley(scores, len(names))))


def _shapley(scores, n):
    """Shapley value of each of n players of a game, given as coalition (tuple of bool) to score."""
    values = []
    for i in range(n):
        total = 0
        for kept in scores:
            if not kept[i]:
                size = sum(kept)
                share = factorial(size) * factorial(n - size - 1) / factorial(n)
                joined = kept[:i] + (True,) + kept[i + 1 :]
                total = total + share * (scores[joined] - scores[kept])
        values.append(total)
    return values


@dataclass(frozen=True)
class Attribution:
    """What one method says of each row."""

    method: str
    view: np.ndarray  # (n, ...) on what the network sees, summed over an image's channels
    signal: np.ndarray | None  # (n, samples, leads); None of spectra whose signals are not known
    quality: dict = field(default_factory=dict)  # figures of the method: additivity, fit, layers

    def __getitem__(self, rows):
        """What is said of some of the rows, without the figures of the method."""
        signal = None if self.signal is None else self.signal[rows]
        return Attribution(self.method, self.view[rows], signal, {"view": self.quality.get("view")})

    @property
    def image(self):
        """(n, freqs, frames) for image models, else None."""
        return self.view if self.view.ndim == 3 and self.quality.get("view") == "image" else None


def _make_attribution(method, probe, view, quality, *, signal=None):
    """An `Attribution` of values on the view; the leads get equal shares of what is of them all."""
    n_leads = len(probe.leads)
    if probe.grid is None:
        signal = view
    elif signal is None and probe.is_images:
        signal = image_to_signal(view, probe.times_s, probe.fs, probe.n_samples)
    elif signal is None and probe.signals is not None and np.isfinite(probe.signals).all():
        signal = spectrum_to_signal(view, probe.signals, probe.freqs_hz, probe.fs)
    if signal is not None and signal.ndim == 2:
        signal = np.repeat(signal[:, :, None], n_leads, axis=2) / n_leads
    if probe.grid is None:
        view = signal
    kind = "image" if probe.is_images else "spectrum" if probe.is_spectra else "signal"
    signal = None if signal is None else signal.astype(np.float32)
    return Attribution(method, view.astype(np.float32), signal, {**quality, "view": kind})


def image_to_signal(image, times_s, fs, n_samples):
    """Sum images (n, freqs, frames) over frequency and share them out to samples (n, samples).

    The value of a frame goes to the samples near it, as linear interpolation weighs them. The sums
    of rows stay, also where values have a sign.
    """
    frames = image.sum(axis=1)
    at = np.arange(n_samples) / fs
    share = np.stack([np.interp(at, times_s, one) for one in np.eye(len(times_s))])
    return frames @ (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12))


def spectrum_to_signal(bands, signals, freqs_hz, fs):
    """Share values of frequencies (n, freqs) out to samples (n, samples, leads) by their energy.

    The energy is that of the row in each of eight bands. The sums of rows stay.
    """
    n_samples = signals.shape[1]
    own, spectra = np.fft.rfftfreq(n_samples, 1 / fs), np.fft.rfft(signals, axis=1)
    edges = np.concatenate([[-np.inf], (freqs_hz[1:] + freqs_hz[:-1]) / 2, [np.inf]])
    shared = np.zeros(signals.shape)
    for band in np.array_split(np.arange(len(freqs_hz)), min(_BANDS, len(freqs_hz))):
        inside = (own >= edges[band[0]]) & (own < edges[band[-1] + 1])
        energy = np.fft.irfft(spectra * inside[:, None], n_samples, axis=1) ** 2 + _TINY
        shared += energy * (bands[:, band].sum(axis=1) / energy.sum(axis=(1, 2)))[:, None, None]
    return shared


class Probe:
    """A trained network and rows as it sees them.

    Parameters
    ----------
    model : keras.Model
        A network as `build_model` makes it, or a saved model, which takes raw signals.
    ds : ECGDataset
        Rows in the form the model takes.

    Attributes
    ----------
    network : keras.Model
        From the view (and metadata) to probabilities.
    x : float32, shape (n, ...)
        The view of each row.
    signals : float32, shape (n, samples, leads), or None
        The rows as signals; None where `ds` holds only images or spectra.
    grid : grid or None
        Geometry of the view, if it is no signal.
    length : int or None
        Samples of a crop, where the network takes crops of the rows.
    windows : list of slice
        Where these crops lie; one slice of everything where there are none.

    Raises
    ------
    ValueError
        If the rows do not fit the model: another shape, rate, lead or class.
    """

    def __init__(self, model, ds):
        card = model_card(model)
        self.classes, self.multi_label = ds.classes, ds.multi_label
        self.fs, self.leads, self.n_samples, self.unit = ds.fs, ds.leads, ds.n_samples, ds.unit
        self.name, self.y, self.metadata = model.name, ds.y, ds.metadata
        self.modality = ds.modality
        self.signals = ds.x if ds.grid is None else None
        if card is not None:
            check_card(card, ds)
            ds, model = _prepared(model, ds), model.get_layer("network")
        check_fits(model, ds)
        self.length, self.windows = crop_length(model, ds), [slice(None)]
        if self.length is not None:
            starts = crop_starts(ds.x.shape[1], self.length)
            self.windows = [slice(start, start + self.length) for start in starts]
        self.names = [tensor.name for tensor in model.inputs]
        self.network = keras.Model(list(model.inputs), model.outputs[0])
        self.x, self.grid = ds.x, ds.grid
        if self.length is None and self.grid is None:
            self._look_at_the_image(ds)
        if "metadata" not in self.names:
            self.metadata = None
        self._run, self._back = None, {}

    def _look_at_the_image(self, ds):
        """Make the image the view, where one layer turns the whole signal into it."""
        at = self.names.index("signal") if "signal" in self.names else None
        if at is None:
            return
        taking = readers(self.network.inputs[at])
        layer = taking.pop() if len(taking) == 1 else None
        if isinstance(layer, tuple(REPRESENTATIONS.values())):
            from ecg_keras.spectrograms import represent

            inputs = list(self.network.inputs)
            inputs[at] = layer.output
            self.network = keras.Model(inputs, self.network.outputs[0])
            ds = represent(ds, layer.grid)
            self.x, self.grid = ds.x, ds.grid

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """The same network with some of the rows; what is compiled is shared."""
        other = copy.copy(self)
        for name in ("x", "y", "signals", "metadata"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value[rows])
        other._run = self._runner()
        return other

    def with_network(self, network, ds):
        """A probe of another network of the same form, and rows `ds` of the same view."""
        other = copy.copy(self)
        other.network, other._run, other._back = network, None, {}
        other.x, other.y, other.metadata, other.signals = ds.x, ds.y, ds.metadata, None
        other.n_samples, other.length, other.windows = ds.n_samples, None, [slice(None)]
        return other

    @property
    def is_images(self):
        """True where the view has a frequency and a time axis."""
        return self.x.ndim == 4

    @property
    def is_spectra(self):
        """True where the view has a frequency axis and none of time."""
        return self.grid is not None and self.x.ndim == 3

    @property
    def freqs_hz(self):
        """Frequency of each row of the view, in Hz, or None."""
        if self.grid is None:
            return None
        freqs_hz = self.grid.freqs_hz
        return np.asarray(freqs_hz(self.n_samples) if callable(freqs_hz) else freqs_hz)

    @property
    def times_s(self):
        """Time of each column of the image from the signal's first sample, in s, or None."""
        return np.asarray(self.grid.times_s(self.n_samples)) if self.is_images else None

    def metadata_of(self, row, n):
        """Metadata of one row n times, (n, columns), or None."""
        return None if self.metadata is None else np.repeat(self.metadata[row : row + 1], n, axis=0)

    def log_odds(self, x=None, metadata=None):
        """Scores of rows of the view, in nats.

        Parameters
        ----------
        x : float, shape (m, ...), optional
            Rows of the view; the probe's own where not given.
        metadata : float, shape (m, columns), optional
            Their metadata; that of the probe's own rows where `x` is not given.

        Returns
        -------
        scores : float64, shape (m, classes)
        """
        x, metadata = (self.x, self.metadata) if x is None else (x, metadata)
        if self.length is None:
            return self._from_logits(self._logits(x, metadata))
        total = 0
        for window in self.windows:
            scores = self._from_logits(self._logits(x[:, window], metadata))
            total = total + 1 / (1 + np.exp(-scores))
        mean = np.clip(total / len(self.windows), LIMIT, 1 - LIMIT)
        return np.log(mean) - np.log1p(-mean)

    def probabilities(self, x=None, metadata=None):
        """Probabilities of rows of the view, float64 (m, classes)."""
        return 1 / (1 + np.exp(-self.log_odds(x, metadata)))

    def _logits(self, x, metadata):
        """What the last layer gives before its activation, float64 (m, classes), in batches."""
        run, logits = self._runner(), []
        step = int(np.clip(_BATCH_BYTES // (4 * max(x[:1].size, 1)), 16, 2048))
        for first in range(0, len(x), step):
            rows = slice(first, first + step)
            own = None if metadata is None else metadata[rows]
            logits.append(run(self.network_inputs(x[rows], own)))
        return np.concatenate(logits).astype(np.float64)

    def network_inputs(self, x, metadata):
        """Rows of the view and their metadata as arrays in the order of the network's inputs."""
        given = {"metadata": metadata}
        return [np.ascontiguousarray(given.get(name, x), np.float32) for name in self.names]

    def _runner(self):
        """The compiled network without its last activation, made once."""
        if self._run is None:
            self._run = forward(self.network)
        return self._run

    def _from_logits(self, logits):
        """Logits (m, classes) to log-odds (m, classes)."""
        kind = output_kind(self.network)
        if kind == "sigmoid":
            return logits
        if kind is None:  # probabilities of an unknown kind
            p = np.clip(logits, LIMIT, 1 - LIMIT)
            return np.log(p) - np.log1p(-p)
        same = np.eye(logits.shape[1], dtype=bool)
        others = np.where(same, -np.inf, logits[:, None, :])  # (m, class, other)
        top = others.max(axis=2)
        return logits - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2))

    def log_odds_from(self, tensors):
        """Make a function from arrays at inner tensors of the network to log-odds."""
        run = forward(keras.Model(tensors, self.network.outputs[0]))
        return lambda arrays: self._from_logits(
            run([np.asarray(a, np.float32) for a in arrays]).astype(np.float64)
        )

    def maps_and_gradients(self, found, x, metadata, targets):
        """Feature maps, and the gradients of each row's own score with respect to them.

        Parameters
        ----------
        found : sequence of Map
            As `feature_maps` finds them.
        x, metadata : float
            Rows the network takes: of a network that takes crops, crops.
        targets : int, shape (m,)
            The class of each row whose score is asked for.

        Yields
        ------
        rows : slice
            Which rows the arrays belong to.
        maps, gradients : list of float32, shape (rows, crops, ..., channels)
            One array per map.
        slope : float32, shape of the rows of `x`
            Gradient with respect to `x` itself.
        """
        key = tuple(id(m.layer) for m in found)
        if key not in self._back:  # compiled once, and shared by the probes of some of the rows
            view = next(i for i, name in enumerate(self.names) if name != "metadata")
            self._back[key] = backward(
                self.network,
                [m.layer for m in found],
                [m.n_crops for m in found],
                output_kind(self.network),
                view,
            )
        run = self._back[key]
        one_hot = np.eye(len(self.classes), dtype=np.float32)[targets]
        size = sum(m.n_crops * _size(m.layer.output.shape) for m in found)
        step = min(int(np.clip(_BATCH_BYTES // (16 * size), 8, 256)), max(len(x), 1))
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            batch = slice(max(0, rows.stop - step), rows.stop)  # a full one: nothing compiles twice
            own = None if metadata is None else metadata[batch]
            maps, gradients, slope = run(self.network_inputs(x[batch], own), one_hot[batch])
            kept = slice(rows.start - batch.start, None)
            maps, gradients = (
                [np.reshape(a, (-1, m.n_crops, *a.shape[1:]))[kept] for a, m in zip(arrays, found)]
                for arrays in (maps, gradients)
            )
            yield rows, maps, gradients, np.asarray(slope)[kept]

    @contextlib.contextmanager
    def other_weights(self, seed=0):
        """Give the network freshly drawn weights for as long as the context lasts."""
        kept = self.network.get_weights()
        keras.utils.set_random_seed(seed)
        try:
            self.network.set_weights(keras.models.clone_model(self.network).get_weights())
            yield self
        finally:
            self.network.set_weights(kept)


def _prepared(model, ds):
    """Raw rows as the network inside a saved model takes them; rows that are so already stay."""
    from ecg_keras.dataset import Scaler
    from ecg_keras.spectrograms import represent

    layers = {layer.name: layer for layer in model.layers}
    if ds.grid is not None or ds.scaler is not None:
        return ds
    if "standardize" in layers:
        scaler = Scaler(layers["standardize"].mean, layers["standardize"].scale)
        ds = ds.replace(x=scaler.apply(ds.x), scaler=scaler)
    return represent(ds, layers["representation"].grid) if "representation" in layers else ds


def _size(shape):
    """Entries of one row."""
    return int(np.prod([n or 1 for n in shape[1:]]))


class Cells:
    """A row of the view divided into cells, each sample or pixel in one of them.

    A cell is a stretch of time of a lead, a patch of an image with all its channels, or a band of
    a spectrum.

    Parameters
    ----------
    probe : Probe
        Says the shape.
    cells_per_lead : int
        Cells along the time of each lead or image, or along the frequencies of a spectrum. Of more
        than two leads, each has fewer and longer ones.
    split_leads : bool, default True
        Divide signals by lead too.
    """

    def __init__(self, probe, cells_per_lead, *, split_leads=True):
        shape = probe.x.shape[1:]
        if probe.is_images:  # at least 2 pixels high and 1 wide
            high = min(max(shape[0] // 2, 1), max(4, cells_per_lead // 4))
            wide = min(shape[1], cells_per_lead)
            edges = [np.arange(shape[0]) * high // shape[0], np.arange(shape[1]) * wide // shape[1]]
        elif probe.is_spectra or not split_leads:
            edges = [np.arange(shape[0]) * min(cells_per_lead, shape[0]) // shape[0]]
        else:
            count = min(cells_per_lead, shape[0])
            if shape[1] > 2:
                count = max(12, min(count, 480 // shape[1]))
            edges = [np.arange(shape[0]) * count // shape[0], np.arange(shape[1])]
        self.counts = tuple(int(e[-1]) + 1 for e in edges)
        self.n = int(np.prod(self.counts))
        self._ids = np.arange(self.n).reshape(self.counts)[np.ix_(*edges)]  # cell of each sample
        self._undivided = (1,) * (len(shape) - self._ids.ndim)  # axes that follow
        self._sizes = np.bincount(self._ids.ravel(), minlength=self.n)

    def row_mask(self, kept):
        """Which cells are kept, (n,) or (m, n), as masks that broadcast against rows."""
        return np.asarray(kept, bool)[..., self._ids.reshape(self._ids.shape + self._undivided)]

    def spread(self, values):
        """Values of cells (m, n) evenly over their samples or pixels: (m, ...)."""
        return (values / self._sizes)[:, self._ids]

    def gather(self, view):
        """Attribution of rows (m, ...) summed over each cell: (m, n)."""
        view = view if view.ndim == self._ids.ndim + 1 else view.sum(axis=-1)
        ids, rows = self._ids.ravel(), view.reshape(len(view), -1)
        return np.stack([np.bincount(ids, weights=row, minlength=self.n) for row in rows])

    def tree(self):
        """A linkage matrix (n - 1, 4), as SciPy's, that halves the cells again and again.

        Each step halves the longest axis.
        """
        merges = []

        def halved(box):
            sizes = [stop - start for start, stop in box]
            if max(sizes) == 1:
                return int(np.ravel_multi_index([start for start, _ in box], self.counts)), 1
            axis = int(np.argmax(sizes))
            start, stop = box[axis]
            middle = (start + stop) // 2
            (a, n_a), (b, n_b) = (
                halved(box[:axis] + (half,) + box[axis + 1 :])
                for half in ((start, middle), (middle, stop))
            )
            merges.append((a, b, n_a + n_b, n_a + n_b))
            return self.n + len(merges) - 1, n_a + n_b

        halved(tuple((0, count) for count in self.counts))
        return np.array(merges, float).reshape(-1, 4)


def balanced_rows(y, most, *, seed=0):
    """Draw at most `most` row numbers, from the classes in turn; y is (n,) or 0/1 (n, classes).

    Examples
    --------
    >>> sorted(balanced_rows(np.array([0, 0, 0, 0, 1]), 2))[1]
    4
    """
    rng = np.random.default_rng(seed)
    y = y.argmax(axis=1) if y.ndim == 2 else y
    rows = [rng.permutation(np.flatnonzero(y == kind)) for kind in np.unique(y)]
    drawn = [int(row) for turn in itertools.zip_longest(*rows) for row in turn if row is not None]
    return drawn[:most]


def replacement(probe, *, seed=0):
    """What replaces a cell: the mean of up to 200 rows of the probe, of each class as many."""
    return probe.x[balanced_rows(probe.y, 200, seed=seed)].mean(axis=0)


METHODS = {"gradcam": gradcam, "shap": shap, "lime": lime}
