"""Say which parts of a row decided: Grad-CAM, SHAP, LIME, and the share of each branch.

Conventions
-----------
Every method takes a `Probe` and one class per row, and returns an `Attribution`:
what each sample (n, samples, leads) adds to that class's log-odds, in nats for
SHAP and LIME; for image models also each pixel (n, freqs, frames). Grad-CAM is
not signed and scaled to sum 1 per row. Sums over an image, over its samples and
over the parts a method worked with are the same number. What a band of a spectrum
adds is shared out over time as the row's energy in that band is.

Grad-CAM on every feature map of a network, laid over the signal or image it came from.

Hold what one method says of each row, on what the network sees and on the signal.

Conventions
-----------
Shares of the frames of an image or the bands of a spectrum are shared out over the signal so that sums stay.

Open a trained network for questions: what it sees of each row, its log-odds, its feature maps and their gradients.

Conventions
-----------
A row's view is what is perturbed and explained: the image where the network
looks at one image of the signal and nothing else, else the signal (samples, leads)
or spectrum. The score of a class is its log-odds in nats: of softmax logits z,
``z_c - log(sum of exp(z_k) over the other k)``; of a sigmoid, its logit. It grows without
bound where a probability saturates, and says what speaks for a class against the others.

Divide rows into the parts that explanations take out, and choose what stands in their place.

Conventions
-----------
A part is a stretch of time of a lead, a patch of an image or a band of a spectrum; parts cover
a row of a `Probe`'s view once.
"""

import contextlib
import itertools
from dataclasses import dataclass, field

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
        producer(tensor).name.removesuffix("_logits").removesuffix("_branch") for tensor in tensors
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


_STEP_S = 0.08  # positions of a feature map farther apart than a QRS is wide cannot show one


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
    maps = feature_maps(
        probe.network,
        probe.grid,
        step_s=_STEP_S if layer == "fine" else None,
        duration_s=duration_s,
    )
    if not maps:
        raise ValueError(
            f"Grad-CAM needs a convolution, the model {probe.name!r} has none; use methods=('shap', 'lime') instead."
        )
    has_time = any(m.kind != "frequency" for m in maps)
    targets = np.asarray(targets)
    n, n_samples = len(probe), probe.n_samples
    view = np.zeros((n, *probe.x.shape[1:-1]))
    signal = np.zeros((n, n_samples))
    detail = np.zeros(probe.x.shape) if guided else np.ones(probe.x.shape)
    fill = (
        None
        if not guided
        else replacement(probe)
        if background is None
        else np.mean(background, axis=0)
    )
    for start in [0] if probe.length is None else probe.starts:
        seen = slice(None) if probe.length is None else slice(start, start + probe.length)
        x = probe.x[:, seen]
        for rows, values, gradients, slope in probe.maps_and_gradients(
            maps, x, probe.metadata, targets
        ):
            if guided:
                detail[rows, seen] += np.maximum((x[rows] - fill[seen]) * slope, 0)
            for m, a, g in zip(maps, values, gradients):
                axes = tuple(range(2, a.ndim - 1))
                g = g.mean(axis=axes, keepdims=True) if weights == "mean" else g
                cams = np.maximum(
                    (a.astype(np.float64) * g).sum(axis=-1), 0
                )  # (rows, crops, positions or freqs, frames)
                if probe.grid is not None:  # the network sees nothing but this image or spectrum
                    view[rows] += _stretched(cams[:, 0], view.shape[1:], m.extent)
                elif m.kind != "frequency" or not has_time:
                    starts, length = (
                        ([0], n_seen) if m.crops is None else (m.crops.starts, m.crops.length)
                    )
                    for cam, first in zip(cams.swapaxes(0, 1), starts):
                        heard = x[rows, first : first + length]
                        signal[rows, start + first : start + first + length] += _over_samples(
                            m, cam, heard, probe.fs
                        )
    if probe.grid is None:
        view = signal = _times(signal[:, :, None], detail)
    else:
        view = _times(view, detail.sum(axis=-1))
        signal = to_samples(view, probe.times_s, probe.fs, n_samples) if probe.is_images else None
    steps_s = [_step_s(m, duration_s) for m in maps if m.kind != "frequency"]
    quality = {
        "layers": [f"{m.branch}/{m.layer.name}".lstrip("/") for m in maps],
        "step_ms": 1000 * min(steps_s) if steps_s else None,
        "weights": weights,
        "guided": guided,
        "empty": int((view.reshape(n, -1).sum(axis=1) == 0).sum()),
    }
    return attributed(
        "gradcam", probe, unit(view), None if signal is None else unit(signal), quality
    )


def _step_s(m, duration_s):
    """Seconds between the positions of a map."""
    share = 1 if m.crops is None else m.crops.length / m.crops.input.shape[1]
    return share * duration_s / m.layer.output.shape[-2]


def _over_samples(m, cam, heard, fs):
    """A map (rows, ...) over the samples of what its branch saw, (rows, samples, leads): (rows, samples)."""
    n_samples, n_leads = heard.shape[1:]
    if m.kind == "time":
        return _stretched(cam, (n_samples,), m.extent)
    if m.kind == "image":
        image = _stretched(cam, m.grid.image_shape(n_samples, n_leads)[:2], m.extent)
        return to_samples(image, m.grid.times_s(n_samples), fs, n_samples)
    freqs_hz = m.grid.freqs_hz(n_samples)
    return over_time(_stretched(cam, (len(freqs_hz),), m.extent), heard, freqs_hz, fs).sum(axis=2)


def _times(maps, detail):
    """Maps (n, ...) times detail (n, ...); rows in which nothing would be left stay."""
    product = maps * detail
    empty = product.sum(axis=tuple(range(1, product.ndim)), keepdims=True) == 0
    return np.where(empty, np.broadcast_to(maps, product.shape), product)


def _stretched(values, shape, extent):
    """Maps (n, ...) that cover `extent` of `shape`, interpolated linearly on half-pixel centres; each row's sum stays."""
    total = values.sum(axis=tuple(range(1, values.ndim)))
    for axis, size in enumerate(shape, start=1):
        n = values.shape[axis]
        first, last = extent[axis - 1]
        at = np.clip(((np.arange(size) + 0.5) / size - first) / (last - first) * n - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = (
            np.take(values, low, axis) * (1 - part)
            + np.take(values, np.minimum(low + 1, n - 1), axis) * part
        )
    new = values.sum(axis=tuple(range(1, values.ndim)))
    scale = np.divide(total, new, out=np.zeros_like(total), where=new != 0)
    return values * scale.reshape([-1] + [1] * (values.ndim - 1))


_BANDS = 8  # of a spectrum, followed over time: narrower ones are wider in time than a QRS
_TINY = 1e-20  # shares a band without energy out evenly


@dataclass(frozen=True)
class Attribution:
    """What one method says of each row."""

    method: str
    view: np.ndarray  # (n, ...) on what the network sees, summed over an image's channels
    signal: np.ndarray | None  # (n, samples, leads); None of spectra whose signals are not known
    quality: dict = field(
        default_factory=dict
    )  # figures of the method itself: additivity, fit, resolution

    @property
    def image(self):
        """(n, freqs, frames) for image models, else None."""
        return self.view if self.view.ndim == 3 and self.quality.get("view") == "image" else None


def attributed(method, probe, view, signal, quality):
    """An `Attribution` with the leads' axis, what is common to all leads divided by their number."""
    n_leads = len(probe.leads)
    if signal is None and probe.signals is not None and np.isfinite(probe.signals).all():
        signal = over_time(view, probe.signals, probe.freqs_hz, probe.fs)
    if signal is not None and signal.ndim == 2:
        signal = np.repeat(signal[:, :, None], n_leads, axis=2) / n_leads
    if probe.grid is None:
        view = signal
    kind = "image" if probe.is_images else "spectrum" if probe.is_spectra else "signal"
    signal = None if signal is None else signal.astype(np.float32)
    return Attribution(method, view.astype(np.float32), signal, {**quality, "view": kind})


def unit(values):
    """Rows (n, ...) scaled to sum 1; rows of zeros stay."""
    total = values.sum(axis=tuple(range(1, values.ndim)), keepdims=True)
    return values / np.where(total > 0, total, 1)


def to_samples(image, times_s, fs, n_samples):
    """Images (n, freqs, frames) summed over frequency and shared out to samples (n, samples); sums stay.

    Each frame's value goes to the samples near it by linear interpolation, so a signed map keeps its sums too.
    """
    frames = image.sum(axis=1)
    at = np.arange(n_samples) / fs
    share = np.stack(
        [np.interp(at, times_s, unit) for unit in np.eye(len(times_s))]
    )  # (frames, samples)
    return frames @ (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12))


def over_time(bands, signals, freqs_hz, fs):
    """Attribution of frequencies (n, freqs) shared out to (n, samples, leads) as the energy in each band is; sums stay."""
    n_samples = signals.shape[1]
    own, spectra = np.fft.rfftfreq(n_samples, 1 / fs), np.fft.rfft(signals, axis=1)
    edges = np.concatenate([[-np.inf], (freqs_hz[1:] + freqs_hz[:-1]) / 2, [np.inf]])
    shared = np.zeros(signals.shape)
    for band in np.array_split(np.arange(len(freqs_hz)), min(_BANDS, len(freqs_hz))):
        inside = (own >= edges[band[0]]) & (own < edges[band[-1] + 1])
        energy = np.fft.irfft(spectra * inside[:, None], n_samples, axis=1) ** 2 + _TINY
        shared += energy * (bands[:, band].sum(axis=1) / energy.sum(axis=(1, 2)))[:, None, None]
    return shared


_BATCH_BYTES = 48e6  # of rows given to a network at once


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
        self.signals = ds.x if ds.grid is None else None
        if card is not None:
            check_card(card, ds)
            ds, model = _prepared(model, ds), model.get_layer("network")
        check_fits(model, ds)
        self.length = crop_length(model, ds)
        self.starts = None if self.length is None else crop_starts(ds.x.shape[1], self.length)
        self.names = [tensor.name for tensor in model.inputs]
        self.network = keras.Model(list(model.inputs), model.outputs[0])
        self.x, self.grid = ds.x, ds.grid
        if self.length is None and self.grid is None:
            self._look_at_the_image(ds)
        if "metadata" not in self.names:
            self.metadata = None
        self._run, self._back = None, {}

    def _look_at_the_image(self, ds):
        """Where one layer turns the whole signal into the image the network looks at, make that image the view."""
        at = self.names.index("signal") if "signal" in self.names else None
        if at is None:
            return
        signal = self.network.inputs[at]
        taking = readers(signal)
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
        part = object.__new__(Probe)
        part.__dict__.update(self.__dict__)
        for name in ("x", "y", "signals", "metadata"):
            value = getattr(self, name)
            setattr(part, name, None if value is None else value[rows])
        part._run = self._runner()
        return part

    def replaced(self, network, ds):
        """A probe of another network of the same form, and rows `ds` of the same view."""
        part = object.__new__(Probe)
        part.__dict__.update(self.__dict__)
        part.network, part._run, part._back = network, None, {}
        part.x, part.y, part.metadata, part.signals = ds.x, ds.y, ds.metadata, None
        part.n_samples = ds.n_samples
        part.length = part.starts = None
        return part

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
        return np.asarray(
            self.grid.freqs_hz(self.n_samples)
            if callable(self.grid.freqs_hz)
            else self.grid.freqs_hz
        )

    @property
    def times_s(self):
        """Time of each column of the image from the signal's first sample, in s, or None."""
        return np.asarray(self.grid.times_s(self.n_samples)) if self.is_images else None

    def log_odds(self, x=None, metadata=None):
        """Scores of rows of the view.

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
        for start in self.starts:
            scores = self._from_logits(self._logits(x[:, start : start + self.length], metadata))
            total = total + 1 / (1 + np.exp(-scores))
        mean = np.clip(total / len(self.starts), LIMIT, 1 - LIMIT)
        return np.log(mean) - np.log1p(-mean)

    def probabilities(self, x=None, metadata=None):
        """Probabilities of rows of the view, float64 (m, classes)."""
        return 1 / (1 + np.exp(-self.log_odds(x, metadata)))

    def _logits(self, x, metadata):
        """What the last layer gives before its activation, float64 (m, classes), in batches."""
        run, parts = self._runner(), []
        step = int(np.clip(_BATCH_BYTES // (4 * max(x[:1].size, 1)), 16, 2048))
        for first in range(0, len(x), step):
            parts.append(
                run(
                    self.feed(
                        x[first : first + step],
                        None if metadata is None else metadata[first : first + step],
                    )
                )
            )
        return np.concatenate(parts).astype(np.float64)

    def feed(self, x, metadata):
        """Arrays in the order of the network's inputs."""
        given = {"metadata": metadata}
        return [np.ascontiguousarray(given.get(name, x), np.float32) for name in self.names]

    @property
    def _view(self):
        """Which of the network's inputs takes the view."""
        return next(i for i, name in enumerate(self.names) if name != "metadata")

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
        others = np.where(
            np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :]
        )  # (m, class, other)
        top = others.max(axis=2)
        return logits - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2))

    def headed(self, inputs, output):
        """A function from arrays at inner tensors of the network to log-odds."""
        run = forward(keras.Model(inputs, output))
        return lambda arrays: self._from_logits(
            run([np.asarray(a, np.float32) for a in arrays]).astype(np.float64)
        )

    def maps_and_gradients(self, found, x, metadata, targets):
        """Feature maps and the gradients of each row's own score with respect to them.

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
        if key not in self._back:  # compiled once, also for parts of the rows
            layers, crops = [m.layer for m in found], [m.n_crops for m in found]
            self._back[key] = backward(
                self.network, layers, crops, output_kind(self.network), self._view
            )
        run = self._back[key]
        chosen = np.eye(len(self.classes), dtype=np.float32)[targets]
        step = int(
            np.clip(
                _BATCH_BYTES // (16 * sum(m.n_crops * _size(m.layer.output.shape) for m in found)),
                8,
                256,
            )
        )
        step = min(step, max(len(x), 1))
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            back = slice(
                max(0, rows.stop - step), rows.stop
            )  # a full batch from the end: nothing compiles twice
            maps, gradients, slope = run(
                self.feed(x[back], None if metadata is None else metadata[back]), chosen[back]
            )
            keep = slice(rows.start - back.start, None)
            by_row = lambda a, m: np.reshape(a, (-1, m.n_crops, *a.shape[1:]))[keep]  # noqa: B023
            yield (
                rows,
                list(map(by_row, maps, found)),
                list(map(by_row, gradients, found)),
                np.asarray(slope)[keep],
            )

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
    """A row of the view divided into parts: stretches of time of each lead, patches of an image, bands of a spectrum.

    Parameters
    ----------
    probe : Probe
        Says the shape.
    parts : int
        Stretches of time of one lead; patches of an image are about as many as fit its axes.
    leads : bool, default True
        Divide signals by lead too.
    """

    def __init__(self, probe, parts, *, leads=True):
        shape = probe.x.shape[1:]
        if probe.is_images:  # patches, at least 2 pixels high and 1 wide; channels together
            high = min(max(shape[0] // 2, 1), max(4, parts // 4))
            wide = min(shape[1], parts)
            edges = [np.arange(shape[0]) * high // shape[0], np.arange(shape[1]) * wide // shape[1]]
        elif probe.is_spectra or not leads:
            edges = [np.arange(shape[0]) * min(parts, shape[0]) // shape[0]]
        else:
            count = min(parts, shape[0])
            if shape[1] > 2:  # many leads: fewer, longer stretches
                count = max(12, min(count, 480 // shape[1]))
            edges = [np.arange(shape[0]) * count // shape[0], np.arange(shape[1])]
        self.counts = tuple(int(e[-1]) + 1 for e in edges)
        self.n = int(np.prod(self.counts))
        grid = np.arange(self.n).reshape(self.counts)
        ids = grid[np.ix_(*edges)]
        self._ids = ids if ids.ndim == len(shape) else ids[..., None]  # broadcasts against a row
        self._shape = shape
        self._sizes = np.bincount(ids.ravel(), minlength=self.n)

    def where(self, mask):
        """Masks (n,) or (m, n) of parts as masks of rows, (..., 1) on axes that are not divided."""
        return np.asarray(mask, bool)[..., self._ids]

    def spread(self, values):
        """Values of parts (m, n) over their samples or pixels, evenly: (m, ...) without undivided axes."""
        return (values / self._sizes)[:, self._ids.reshape(self._ids.shape[: len(self.counts)])]

    def gather(self, view):
        """Attribution of rows (m, ...) summed over each part: (m, n)."""
        ids = self._ids.reshape(self._ids.shape[: len(self.counts)])
        view = view if view.ndim == ids.ndim + 1 else view.sum(axis=-1)
        flat = view.reshape(len(view), -1)
        return np.stack([np.bincount(ids.ravel(), weights=row, minlength=self.n) for row in flat])

    def tree(self):
        """A linkage matrix (n - 1, 4), as SciPy's, that halves the parts along their longest axis again and again."""
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
    """Row numbers of at most `most` rows, drawn from the classes in turn; y is (n,) or multi-hot (n, classes).

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
    """What stands in the place of a part taken out: the mean of up to 200 rows, of each class as many."""
    return probe.x[balanced_rows(probe.y, 200, seed=seed)].mean(axis=0)


METHODS = {"gradcam": gradcam, "shap": shap, "lime": lime}
