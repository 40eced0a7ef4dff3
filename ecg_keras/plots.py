"""Draw data, training, predictions and attributions; read on a phone and printed in grey.

Conventions
-----------
Every function draws one picture on `ax`, or on a new figure where `ax` is None, and returns the
axes; ``ax.figure`` is the figure, `png` its bytes. Pictures of several panels take an array of
axes and return the figure. Figures are made without pyplot, so nothing stays open and no backend
is chosen. Axes carry units: seconds (ms where attributions are drawn), Hz, dB, the signal's own.

Lines differ in dash and darkness, not in colour alone. What speaks for the explained class is
drawn thick and red, what speaks against it thick and blue. The darkest stretch of a panel is its
own largest value, so panels compare places, not sizes. P, Q, R, S and T are those of
`waves.find_waves`. Other modules draw with this palette, `axes`, `panels` and `grid_lines`.
"""

import io
import math

import numpy as np

from ecg_keras.waves import find_waves

INK, ACCENT, PALE = "#1b2a3a", "#b3261e", "#9db4c8"  # lines, what to look at, filled shapes
FOR, AGAINST = ACCENT, "#1f6f94"  # what speaks for a class, what speaks against it
QUIET, GRID, _EDGE = "#9aa7b2", "#dde4ea", "#5b6b7a"  # lines to compare with, grid, frame
TITLES = {"gradcam": "Grad-CAM", "shap": "SHAP", "lime": "LIME"}
_MOST_LEADS = 4  # drawn under an attribution
_LOOKS = [  # of lines; the colours also differ in lightness
    {"color": colour, "linestyle": dash}
    for colour, dash in (
        ("#10243b", "-"),
        ("#b3261e", "--"),
        ("#2e7d9a", "-."),
        ("#d08a17", ":"),
        ("#6b4c9a", (0, (5, 1, 1, 1, 1, 1))),
        ("#7a8793", (0, (7, 2))),
        ("#4b8b3b", (0, (1, 1))),
        ("#c26a8b", (0, (3, 2, 1, 2))),
    )
]
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def png(drawn, *, dpi=130):
    """Bytes of a PNG of a figure, or of the figure that axes are on.

    Examples
    --------
    >>> png(plot_class_distribution({"N": 90, "V": 10}))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    getattr(drawn, "figure", drawn).savefig(
        buffer, format="png", dpi=dpi, metadata={"Software": None}
    )
    return buffer.getvalue()


def axes(ax=None, *, width=5.4, height=2.4):
    """The axes given, or those of a new figure (sizes in inches)."""
    return panels(1, 1, width=width, height=height)[0, 0] if ax is None else ax


def panels(rows, columns, *, width, height, **options):
    """Axes (rows, columns) of a new figure (sizes in inches).

    `options` go to matplotlib's `Figure.subplots`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure.subplots(rows, columns, squeeze=False, **options)


def grid_lines(ax, axis="both"):
    """Light grid lines along one axis or both."""
    ax.grid(True, axis=axis, color=GRID, linewidth=0.7)


def plot_class_distribution(counts, *, after=None, ax=None):
    """Rows per class as bars, with the rows after balancing beneath them where given.

    Parameters
    ----------
    counts : dict of str to int
        Rows per class, as the source has them.
    after : dict of str to int, optional
        Rows per class after balancing.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    names, n = list(counts), len(counts)
    ax = axes(ax, height=1.1 + (0.62 if after else 0.4) * n)
    shown = [(counts, "in the data", PALE, None)]
    if after:
        shown.append((after, "after balancing", "white", "////"))
    height = 0.8 / len(shown)
    for k, (values, label, colour, hatch) in enumerate(shown):
        widths = [values.get(name, 0) for name in names]
        at = np.arange(n) + (k - (len(shown) - 1) / 2) * height
        look = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.8}
        ax.barh(at, widths, height * 0.92, label=label, **look)
        total = max(sum(widths), 1)
        for y, width in zip(at, widths):
            text = f"{width:,} ({100 * width / total:.1f} %)"
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(text, (width, y), fontsize=9.5, **beside)
    ax.set_yticks(np.arange(n), names)
    ax.invert_yaxis()
    ax.set_xlim(0, max(max(values.values()) for values, *_ in shown) * 1.3 or 1)
    ax.set_xlabel("rows")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.locator_params(axis="x", nbins=5)
    if after:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        ax.legend(ncols=2, frameon=False, **above)
    return ax


def plot_signal(signal, *, fs, unit="mV", leads=("ECG",), title=None, ax=None):
    """One recording or beat over time; several leads one under the other.

    Parameters
    ----------
    signal : float, shape (samples,) or (samples, leads)
        One row of a data set.
    fs : float
        Sampling rate, in Hz.
    unit : str, default "mV"
        Unit of the values.
    leads : sequence of str, default ("ECG",)
        Lead names.
    title : str, optional
        Shown above.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    signal = np.asarray(signal)
    signal = signal[:, None] if signal.ndim == 1 else signal
    n_samples, n_leads = signal.shape
    ax = axes(ax, height=2.4 if n_leads == 1 else 1.1 + 0.36 * n_leads)
    times_s = np.arange(n_samples) / fs
    if n_leads == 1:
        ax.plot(times_s, signal[:, 0], color=INK, linewidth=1.4)
        ax.set_ylabel(unit)
    else:
        step = float(np.median(np.ptp(signal, axis=0))) or 1.0
        offsets = -step * np.arange(n_leads)
        ax.plot(times_s, signal - np.median(signal, axis=0) + offsets, color=INK, linewidth=1.0)
        ax.set_yticks(offsets, leads, fontsize=9)
        ax.set_ylabel(f"lead, {step:.3g} {unit} apart")
    ax.set_xlim(0, times_s[-1] if n_samples > 1 else 1)
    ax.set_xlabel("time (s)")
    grid_lines(ax, "x")
    _title(ax, title)
    return ax


def plot_image(image, *, grid, n_samples=None, channel=0, title=None, ax=None):
    """One spectrogram or scalogram, frequency in Hz over time in s.

    Parameters
    ----------
    image : float, shape (freqs, frames, channels)
        One row of a data set of images. Three channels of an RGB grid are shown in colour.
    grid : SpectrogramGrid or ScalogramGrid
        Geometry of the image.
    n_samples : int, optional
        Samples of the signal it was made from; by default as many as the frames span.
    channel : int, default 0
        Which lead to show.
    title : str, optional
        Shown above.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    image = np.asarray(image)
    ax = axes(ax, height=2.4)
    freqs_hz, times_s = np.asarray(grid.freqs_hz), _times_s(grid, image.shape[1], n_samples)
    if getattr(grid, "rgb", False):
        extent = (times_s[0], times_s[-1], freqs_hz[0], freqs_hz[-1])
        ax.imshow(np.clip(image, 0, 1), origin="lower", aspect="auto", extent=extent)
    else:
        look = {"shading": "nearest", "cmap": "magma", "vmin": 0, "vmax": 1}
        mesh = ax.pcolormesh(times_s, freqs_hz, image[:, :, channel], **look)
        bar = ax.figure.colorbar(mesh, ax=ax, ticks=[0, 0.5, 1], pad=0.02)
        top_db = getattr(grid, "top_db", None)
        if top_db is None:
            bar.set_label("scaled magnitude")
        else:
            bar.set_ticks([0, 0.5, 1], labels=[f"{-top_db:g}", f"{-top_db / 2:g}", "0"])
            bar.set_label("dB, peak = 0")
    _frequency_axis(ax, freqs_hz)
    ax.set_xlabel("time (s)")
    _title(ax, title)
    return ax


def plot_spectrum(spectrum, *, grid, n_samples, leads=("ECG",), title=None, ax=None):
    """One row of a data set of spectra: scaled magnitude over frequency, a line per lead.

    Parameters
    ----------
    spectrum : float, shape (freqs, leads)
        One row.
    grid : SpectrumGrid
        Geometry of the spectrum.
    n_samples : int
        Samples of the signal it was made from.
    leads : sequence of str
        Lead names.
    title : str, optional
        Shown above.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, height=2.2)
    freqs_hz = grid.freqs_hz(n_samples)
    for i, values in enumerate(np.asarray(spectrum).T):
        label = leads[i] if i < len(leads) else None
        ax.plot(freqs_hz, values, linewidth=1.2, label=label, **_look(i))
    ax.set_xlabel("frequency (Hz)")
    ax.set_ylabel("magnitude (dB, scaled)" if grid.log else "magnitude (share of peak)")
    _title(ax, title)
    if len(leads) > 1:
        ax.legend(ncols=4, fontsize=8, frameon=False)
    return ax


def plot_history(history, names, *, label, best_epoch=None, ax=None):
    """Curves of the training, train and validation together.

    Parameters
    ----------
    history : list of dict
        One dict per epoch, with "epoch" (from 1) or in order.
    names : sequence of str
        Keys to draw, such as ("loss", "val_loss"); absent ones are left out.
    label : str
        Label of the vertical axis.
    best_epoch : int, optional
        Marked by a line.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, height=2.9)
    for i, name in enumerate(names):
        values = _column(history, name)
        if np.isfinite(values).any():
            kind = "validation" if name.startswith("val_") else "train"
            look = {"marker": "os^D"[i], "markersize": 4, **_look(i)}
            ax.plot(_epochs(history), values, label=kind, **look)
    if best_epoch is not None:
        look = {"color": _EDGE, "linestyle": ":", "linewidth": 1.2}
        ax.axvline(best_epoch, label=f"kept: epoch {best_epoch}", **look)
    _epoch_axis(ax, label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def plot_confusion(confusion, classes, *, title=None, ax=None):
    """Confusion matrix with counts and the percentage of each true class.

    Parameters
    ----------
    confusion : int, shape (classes, classes)
        Rows true, columns predicted.
    classes : sequence of str
        Names.
    title : str, optional
        Shown above.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    confusion, n = np.asarray(confusion), len(classes)
    side = max(2.2, 0.85 * n) if n <= 12 else 0.5 * n
    ax = axes(ax, height=side + 0.6, width=side + 1.2)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(confusion.shape):
        text = f"{confusion[i, j]:,}" + (f"\n{100 * share[i, j]:.1f} %" if n <= 12 else "")
        colour = "white" if share[i, j] > 0.55 else INK
        ax.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(n), classes, rotation=0 if max(map(len, classes)) < 6 else 45)
    ax.set_yticks(range(n), classes)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true (rows sum to 100 %)")
    ax.spines[:].set_visible(False)
    _title(ax, title)
    return ax


def plot_roc(y, probabilities, classes, *, ax=None):
    """ROC curve of each class against all others, with its area.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Labels.
    probabilities : float, shape (n, classes)
        Predictions.
    classes : sequence of str
        Names.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    from sklearn.metrics import auc, roc_curve

    ax = axes(ax, height=3.9, width=4.6)
    for i, (name, truth, scores) in enumerate(_one_against_all(y, probabilities, classes)):
        false_rate, true_rate, _ = roc_curve(truth, scores)
        label = f"{name}  {auc(false_rate, true_rate):.3f}"
        ax.plot(false_rate, true_rate, label=label, **_look(i))
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
    ax.set_xlabel("false positive rate (1 - specificity)")
    ax.set_ylabel("sensitivity")
    _unit_square(ax, legend_title="class, area", legend=len(classes) <= 12)
    return ax


def plot_precision_recall(y, probabilities, classes, *, ax=None):
    """Precision over recall of each class against all others, with average precision.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Labels.
    probabilities : float, shape (n, classes)
        Predictions.
    classes : sequence of str
        Names.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    ax = axes(ax, height=3.9, width=4.6)
    for i, (name, truth, scores) in enumerate(_one_against_all(y, probabilities, classes)):
        precision, recall, _ = precision_recall_curve(truth, scores)
        label = f"{name}  {average_precision_score(truth, scores):.3f}"
        ax.plot(recall, precision, label=label, **_look(i))
    ax.set_xlabel("recall (sensitivity)")
    ax.set_ylabel("precision (positive predictivity)")
    _unit_square(ax, legend_title="class, average precision", legend=len(classes) <= 12)
    return ax


def plot_calibration(y, probabilities, *, ece=None, ax=None):
    """Share of right answers over the confidence of the answer, with the rows in each bin.

    Single-label: the highest probability of each row. Multi-label: every probability of every
    class, and the share of rows that have it. A point's area grows with its rows.

    Parameters
    ----------
    y : int, shape (n,), or 0/1, shape (n, classes)
        Labels.
    probabilities : float, shape (n, classes)
        Predictions.
    ece : float, optional
        Expected calibration error, shown above.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    y, probabilities = np.asarray(y), np.asarray(probabilities, np.float64)
    if y.ndim == 2:
        confidence, right = probabilities.ravel(), y.ravel()
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    rows = np.bincount(bins, minlength=15)
    used = rows > 0
    ax = axes(ax, height=3.9, width=4.6)
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=1, label="perfectly calibrated")
    at = np.bincount(bins, weights=confidence, minlength=15)[used] / rows[used]
    share = np.bincount(bins, weights=right, minlength=15)[used] / rows[used]
    ax.plot(at, share, color=INK, linewidth=1.2)
    look = {"color": PALE, "edgecolor": INK, "zorder": 3, "label": "bin of rows"}
    ax.scatter(at, share, s=20 + 160 * rows[used] / rows.max(), **look)
    if ece is not None:
        _title(ax, f"expected calibration error {ece:.3f}")
    ax.set_xlabel("probability given")
    ax.set_ylabel("share that is right")
    _unit_square(ax, legend_loc="upper left")
    return ax


def plot_intervals(rows, *, label, ax=None):
    """Figures with their intervals, one line per run, best above.

    Parameters
    ----------
    rows : sequence of (str, float, (float, float) or None)
        Name, value and 95 % interval; drawn in this order from the top.
    label : str
        Label of the axis.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, height=1.0 + 0.34 * len(rows))
    for i, (_, value, pair) in enumerate(rows):
        if pair is not None:
            ax.plot(pair, [i, i], color=INK, linewidth=1.6, solid_capstyle="butt")
            ax.plot(pair, [i, i], "|", color=INK, markersize=8)
        if value is not None:
            ax.plot(value, i, "o", color=INK, markersize=6)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{label}, 95 % interval")
    ax.locator_params(axis="x", nbins=5)
    grid_lines(ax, "x")
    return ax


def plot_runs(histories, name, *, label, ax=None):
    """One key of several histories over the epochs, a line per run.

    Parameters
    ----------
    histories : dict of str to list of dict
        Epochs of each run.
    name : str
        Key to draw, such as "val_macro_f1".
    label : str
        Label of the vertical axis.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, height=3.4 + 0.25 * (len(histories) > 5) * math.ceil(len(histories) / 3))
    for i, (run, history) in enumerate(histories.items()):
        look = {"linewidth": 1.6, "marker": "os^Dv"[i % 5], "markersize": 3, **_look(i)}
        if i >= len(_LOOKS):  # colours begin anew
            look |= {"alpha": 0.55, "markerfacecolor": "white"}
        ax.plot(_epochs(history), _column(history, name), label=run, **look)
    _epoch_axis(ax, label)
    if len(histories) > 5:  # no room inside
        ax.legend(frameon=False, fontsize=8, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    else:
        ax.legend(frameon=False, fontsize=9)
    return ax


def plot_cost(rows, *, label, ax=None):
    """A figure over training time, a named point per run whose area grows with its parameters.

    Parameters
    ----------
    rows : sequence of (str, float, float, int)
        Name, training time in s, figure, parameters.
    label : str
        Label of the vertical axis.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, height=4.2)
    most = max(n for *_, n in rows) or 1
    for _, seconds, value, n in rows:
        ax.scatter(seconds, value, s=25 + 250 * n / most, color=PALE, edgecolor=INK, zorder=2.5)
    ax.margins(0.15)
    ax.set_xlabel("training time (s), area: parameters")
    ax.set_ylabel(label)
    grid_lines(ax)
    _name_points(ax, [row[:3] for row in rows])
    return ax


def _look(i):
    """Colour and dash of the i-th line."""
    return _LOOKS[i % len(_LOOKS)]


def _epochs(history):
    """Number of each epoch, from 1 where the history does not say it."""
    return [row.get("epoch", i + 1) for i, row in enumerate(history)]


def _column(history, name):
    """One figure of every epoch, NaN where it is not known."""
    return [np.nan if row.get(name) is None else float(row[name]) for row in history]


def _epoch_axis(ax, label):
    """Whole epochs from left to right, `label` at the vertical axis."""
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    grid_lines(ax)


def _frequency_axis(ax, freqs_hz):
    """Hz from the bottom up, on a logarithmic scale where the rows are not evenly spaced."""
    steps = np.diff(freqs_hz)
    if len(steps) > 1 and freqs_hz.min() > 0 and not np.allclose(steps, steps[0], rtol=0.05):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_ylabel("frequency (Hz)")


def _name_points(ax, points, *, size=9):
    """Write a name beside each point, from below upwards.

    Where another name is in the way it stands higher, with a line to its point.
    """
    ax.figure.draw_without_rendering()  # the layout decides where points come to lie
    taken = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        px, py = ax.transData.transform((x, y)) * 72 / ax.figure.dpi
        left, right, up = px + 6, px + 6 + 0.62 * size * len(name), 6.0
        for other_left, other_right, bottom in sorted(taken, key=lambda box: box[2]):
            if left < other_right and other_left < right and abs(py + up - bottom) < 1.2 * size:
                up = bottom - py + 1.2 * size
        taken.append((left, right, py + up))
        line = {"arrowstyle": "-", "color": PALE, "linewidth": 0.8, "shrinkB": 4}
        beside = {"xytext": (6, up), "textcoords": "offset points", "fontsize": size}
        ax.annotate(name, (x, y), arrowprops=line if up > 6 else None, **beside)


def _title(ax, title):
    """Put a title at the left edge, where the eye starts."""
    if title:
        ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)


def _times_s(grid, n_frames, n_samples):
    """Time of each column, in s, for a signal whose length may not be known."""
    if n_samples is not None:
        return np.asarray(grid.times_s(n_samples))
    first = 0 if getattr(grid, "center", True) else grid.frame_length / 2
    return (first + getattr(grid, "hop_length", 1) * np.arange(n_frames)) / grid.fs


def _one_against_all(y, probabilities, classes):
    """Yield name, truth (n,) and scores (n,) of each class that has rows and is not every row."""
    y, probabilities = np.asarray(y), np.asarray(probabilities)
    for i, name in enumerate(classes):
        truth = (y[:, i] if y.ndim == 2 else y == i).astype(int)
        if 0 < truth.sum() < len(truth):
            yield name, truth, probabilities[:, i]


def _unit_square(ax, *, legend_title=None, legend_loc="best", legend=True):
    """Limits 0..1 with room for lines at the edge, a light grid and a legend."""
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    grid_lines(ax)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(title=legend_title, loc=legend_loc, alignment="left", fontsize=9.5)


def plot_explanation(
    attributions,
    row,
    *,
    signal=None,
    image=None,
    fs,
    unit,
    leads,
    freqs_hz=None,
    times_s=None,
    waves=True,
    title=None,
    ax=None,
):
    """One row with what each method says of it: the waveform, and beside it the image if any.

    Parameters
    ----------
    attributions : dict of str to Attribution
        By method.
    row : int
        Which of their rows.
    signal : float, shape (samples, leads), optional
        The row's waveform; without it the attribution over time is drawn by itself.
    image : float, shape (freqs, frames, channels), optional
        What an image model sees.
    fs : float
        Sampling rate, in Hz.
    unit : str
        Of the signal.
    leads : sequence of str
        Lead names; of more than four, those with the most attribution are drawn.
    freqs_hz, times_s : float
        Axes of the image; of a spectrum, `freqs_hz` alone.
    waves : bool, default True
        Letter the waves of an ECG.
    title : str, optional
        Shown above.
    ax : array of matplotlib Axes, optional
        Where to draw: a row per method; two columns where there is an attribution over time and
        an image, else one.

    Returns
    -------
    matplotlib Figure
    """
    over_time = any(a.signal is not None for a in attributions.values())
    beside = image is not None
    n_leads = min(_MOST_LEADS, len(leads)) if over_time else 1
    height = 1.5 + 0.75 * n_leads
    widths = [1.7, 1] if over_time and beside else [1]
    shape = len(attributions), len(widths)
    if ax is None:
        size = {"width": 8.6 if len(widths) == 2 else 6.4, "height": 0.5 + height * shape[0]}
        ax = panels(*shape, **size, width_ratios=widths)
    ax = np.reshape(ax, shape)
    waves = find_waves(signal, fs=fs) if waves and signal is not None else []
    wave_look = {"signal": signal, "fs": fs, "unit": unit, "leads": leads, "waves": waves}
    image_look = {"image": image, "freqs_hz": freqs_hz, "times_s": times_s}
    for line, (name, found) in zip(ax, attributions.items()):
        label = TITLES.get(name, name)
        if found.signal is not None:
            plot_attribution(found.signal[row], title=label, ax=line[0], **wave_look)
        elif over_time:
            place = {"transform": line[0].transAxes, "ha": "center"}
            line[0].text(0.5, 0.5, "no feature map over time", **place)
        if beside:
            plot_image_attribution(found.view[row], ax=line[-1], **image_look)
            label += f", on the {'image' if times_s is not None else 'spectrum'}"
            line[-1].set_title(label, loc="left", fontsize=10)
    figure = ax[0, 0].figure
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def plot_attribution(
    values,
    *,
    signal=None,
    fs,
    unit="mV",
    leads=("ECG",),
    waves=(),
    title=None,
    start_s=0.0,
    ax=None,
):
    """A waveform coloured by what each of its samples adds.

    Parameters
    ----------
    values : float, shape (samples, leads)
        Attribution.
    signal : float, shape (samples, leads), optional
        Waveform; without it the attribution is drawn as a line.
    fs : float
        Sampling rate, in Hz.
    unit : str
        Of the signal.
    leads : sequence of str
        Names.
    waves : list of dict, optional
        Marks, as `waves.find_waves` gives them.
    title : str, optional
        Shown above.
    start_s : float, default 0
        Time of the first sample.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    from matplotlib.collections import LineCollection

    ax = axes(ax)
    values = np.asarray(values, np.float64)
    times_ms = 1000 * (start_s + np.arange(len(values)) / fs)
    if signal is None:
        _fill_signs(ax, times_ms, values.sum(axis=1), hang=True)
        ax.set_ylabel("attribution")
    else:
        shown = np.sort(np.argsort(-np.abs(values).sum(axis=0), kind="stable")[:_MOST_LEADS])
        step = 1.15 * float(np.ptp(signal[:, shown], axis=0).max()) or 1.0
        offsets = -step * np.arange(len(shown))
        most = np.abs(values[:, shown]).max() or 1.0
        for offset, lead in zip(offsets, shown):
            y = signal[:, lead] + offset
            ax.plot(times_ms, y, color=QUIET, linewidth=1.0, zorder=1)
            points = np.column_stack([times_ms, y])
            strength = np.abs(values[:-1, lead] + values[1:, lead]) / 2 / most
            sign = values[:-1, lead] + values[1:, lead] > 0
            for side, colour in ((sign, FOR), (~sign, AGAINST)):
                if not side.any():
                    continue
                pieces = np.stack([points[:-1], points[1:]], axis=1)[side]
                alpha = np.clip(1.15 * strength[side], 0, 1)
                look = {"colors": colour, "alpha": alpha, "capstyle": "round", "zorder": 2}
                lines = LineCollection(pieces, **look)
                lines.set_linewidth(0.8 + 4.2 * strength[side])
                ax.add_collection(lines)
        if len(shown) > 1 or len(leads) > 1:
            middles = offsets + np.median(signal[:, shown], axis=0)
            ax.set_yticks(middles, [leads[lead] for lead in shown])
        else:
            ax.set_ylabel(unit)
        low, high = (signal[:, shown] + offsets).min(), (signal[:, shown] + offsets).max()
        ax.set_ylim(low - 0.08 * (high - low + 1e-9), high + 0.22 * (high - low + 1e-9))
        _mark(ax, waves, times_ms)
    ax.set_xlim(times_ms[0], times_ms[-1])
    ax.set_xlabel("time (ms)")
    if title:
        ax.set_title(title, loc="left", fontsize=10)
    return ax


def _fill_signs(ax, x, values, *, base=0.0, hang=False, **look):
    """Fill positive values from `base` upwards, negative ones hatched, up too or (`hang`) down."""
    negative = np.minimum(values, 0) if hang else np.maximum(-values, 0)
    look = {"linewidth": 0, **look}
    ax.fill_between(x, base, base + np.maximum(values, 0), color=FOR, **look)
    ax.fill_between(x, base, base + negative, color=AGAINST, hatch="////", **look)


def _mark(ax, waves, times_ms):
    """Lines at R peaks and letters above the waves."""
    top = ax.get_ylim()[1]
    shown = [wave for wave in waves if wave["R"] < len(times_ms)]
    for wave in shown:
        ax.axvline(times_ms[wave["R"]], color=INK, linestyle=":", linewidth=0.8, zorder=0)
        for name, at in wave.items():
            if len(shown) <= 4 or name == "R":
                side = "left" if at < 0.012 * len(times_ms) else "center"
                look = {"ha": side, "va": "top", "fontsize": 8.5, "color": INK}
                ax.text(times_ms[at], top, name, **look)


def plot_image_attribution(values, *, image, freqs_hz, times_s=None, ax=None):
    """An image in grey with what each pixel adds over it; a spectrum as a line.

    Parameters
    ----------
    values : float, shape (freqs, frames), or (freqs,) or (freqs, leads) for a spectrum
        Attribution.
    image : float, shape (freqs, frames, channels), or (freqs, leads)
        What the model sees.
    freqs_hz, times_s : float
        Axes; without times it is a spectrum.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    from matplotlib.colors import LinearSegmentedColormap

    ax = axes(ax)
    values = np.asarray(values, np.float64)
    if times_s is None:
        values = values.sum(axis=1) if values.ndim == 2 else values
        ax.plot(freqs_hz, image[:, 0], color=INK, linewidth=1.0)
        scale = image.max() / (np.abs(values).max() or 1.0)
        _fill_signs(ax, freqs_hz, scale * values, alpha=0.5)
        ax.set_xlabel("frequency (Hz)")
        ax.set_ylabel("log magnitude")
        return ax
    places = (1000 * times_s, freqs_hz)
    look = {"shading": "nearest", "vmin": 0}
    ax.pcolormesh(*places, image.mean(axis=2), cmap="Greys", vmax=1.4, **look)
    most = np.abs(values).max() or 1.0
    for sign, colour in ((1, FOR), (-1, AGAINST)):
        clear = LinearSegmentedColormap.from_list("", [colour + "00", colour + "d0"])
        strength = np.maximum(sign * values, 0) / most
        if strength.max() > 0.05:
            ax.pcolormesh(*places, strength, cmap=clear, vmax=1, **look)
    _frequency_axis(ax, freqs_hz)
    ax.set_xlabel("time (ms)")
    return ax


def aligned(values, peaks, *, before, after):
    """Cut rows (n, samples) around sample numbers, one or more per row; NaN beyond a row's ends.

    Parameters
    ----------
    values : float, shape (n, samples)
        Rows.
    peaks : sequence of sequences of int
        Where to cut each row.
    before, after : int
        Samples on either side.

    Returns
    -------
    cut : float64, shape (beats, before + after)

    Examples
    --------
    >>> aligned(np.arange(5.0)[None], [[0]], before=1, after=3).tolist()
    [[nan, 0.0, 1.0, 2.0]]
    """
    cut = []
    for row, own in zip(np.asarray(values, np.float64), peaks):
        framed = np.pad(row, (before, after), constant_values=np.nan)
        cut += [framed[at : at + before + after] for at in own]
    return np.array(cut).reshape(-1, before + after)


def plot_averages(averages, *, fs, unit, before, qrs_s=None, ax=None):
    """Average beat and average attribution of each class, aligned on the R peak.

    A row per class, a column per method. The band is the middle half of the beats; the filled
    curve at the foot is the average attribution.

    Parameters
    ----------
    averages : dict of str to dict
        Class to ``{"signal": (beats, samples), method: (beats, samples), ...}``, as `aligned` cuts
        them.
    fs : float
        Sampling rate, in Hz.
    unit : str
        Of the signals.
    before : int
        Samples before the R peak.
    qrs_s : (float, float), optional
        Stretch around R to mark.
    ax : array of matplotlib Axes, shape (classes, methods), optional
        Where to draw.

    Returns
    -------
    matplotlib Figure
    """
    methods = [name for name in next(iter(averages.values())) if name != "signal"]
    shape = len(averages), len(methods)
    if ax is None:
        size = {"width": 0.6 + 3.4 * shape[1], "height": 0.4 + 2.0 * shape[0]}
        ax = panels(*shape, **size, sharex=True)
    ax = np.reshape(ax, shape)
    for line, (kind, cut) in zip(ax, averages.items()):
        for panel, name in zip(line, methods):
            title = f"{kind}: {TITLES.get(name, name)}, {len(cut[name])} beats"
            panel.set_title(title, loc="left", fontsize=10)
            if qrs_s is not None:
                first, last = qrs_s
                panel.axvspan(1000 * first, 1000 * last, color="#fff1cc", zorder=-1)
            _plot_average(panel, cut["signal"], cut[name], fs=fs, unit=unit, before=before)
            if kind != list(averages)[-1]:
                panel.set_xlabel("")
            if name != methods[0]:
                panel.set_ylabel("")
    return ax[0, 0].figure


def _plot_average(ax, signals, values, *, fs, unit, before):
    """One panel of `plot_averages`, of rows (beats, samples)."""
    mean, value = _mean_of_known(signals), _mean_of_known(values)
    seen = np.isfinite(mean)
    mean, value = mean[seen], np.nan_to_num(value[seen])
    low, high = np.nanpercentile(signals[:, seen], (25, 75), axis=0)
    times_ms = 1000 * (np.flatnonzero(seen) - before) / fs
    ax.fill_between(times_ms, low, high, color="#e3eaf0", linewidth=0, zorder=0)
    look = {"signal": mean[:, None], "fs": fs, "unit": unit, "start_s": times_ms[0] / 1000}
    plot_attribution(value[:, None], **look, ax=ax)
    ax.set_xlabel("time from R peak (ms)")
    ax.axvline(0, color=INK, linestyle=":", linewidth=0.8, zorder=0)
    bottom, top = min(low.min(), mean.min()), max(high.max(), mean.max())
    room = 0.25 * (top - bottom)
    foot = bottom - 1.2 * room
    value = room * value / (np.abs(value).max() or 1.0)
    _fill_signs(ax, times_ms, value, base=foot, alpha=0.75)
    ax.set_ylim(foot, top + 0.1 * room)


def _mean_of_known(values):
    """Mean over rows without the missing values; NaN where all are."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def plot_removal(result, methods, *, ax=None):
    """Deletion and insertion curves of each method and of random orders.

    Parameters
    ----------
    result : dict
        Of `faithfulness.deletion_and_insertion`.
    methods : sequence of str
        Which to draw.
    ax : array of matplotlib Axes, shape (2,), optional
        Where to draw.

    Returns
    -------
    matplotlib Figure
    """
    ax = np.ravel(panels(1, 2, width=7.6, height=3.0) if ax is None else ax)
    looks = {"random": {"color": QUIET}} | {name: _look(i) for i, name in enumerate(methods)}
    for panel, kind, label in zip(ax, ("deletion", "insertion"), ("removed", "put in")):
        for name, look in looks.items():
            values = result[name][kind]
            panel.plot(100 * result["share"], values, label=TITLES.get(name, name), **look)
        panel.set_xlabel(f"share of the row {label} (%)")
        panel.set_ylabel("probability of the class")
        panel.set_title(kind, loc="left", fontsize=10)
        panel.set_ylim(-0.02, 1.02)
        grid_lines(panel)
    ax[-1].legend(fontsize=9, frameon=False)
    return ax[0].figure
