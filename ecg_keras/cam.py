"""Grad-CAM on every feature map of a network, laid over the signal or image it came from."""

import numpy as np

from ecg_keras._checks import check_option
from ecg_keras.attributed import attributed, over_time, to_samples, unit
from ecg_keras.feature_maps import feature_maps
from ecg_keras.parts import replacement

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
