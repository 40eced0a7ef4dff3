"""Draw data, training and predictions, readable on a phone and printed in grey.

Conventions
-----------
Every function draws one picture on `ax`, or on a new figure where `ax` is None, and
returns the axes; ``ax.figure`` is the figure, `png` its bytes. Figures are made without
pyplot, so nothing stays open and no backend is chosen. Axes carry units: seconds, Hz, dB,
the signal's own unit. Lines differ in dash and darkness, not in colour alone.
"""

import io
import math

import numpy as np

_INK, _ACCENT, _PALE = "#1b2a3a", "#b3261e", "#9db4c8"
_LINES = [  # colour and dash; the colours also differ in lightness
    ("#10243b", "-"),
    ("#b3261e", "--"),
    ("#2e7d9a", "-."),
    ("#d08a17", ":"),
    ("#6b4c9a", (0, (5, 1, 1, 1, 1, 1))),
    ("#7a8793", (0, (7, 2))),
    ("#4b8b3b", (0, (1, 1))),
    ("#c26a8b", (0, (3, 2, 1, 2))),
]
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6b7a",
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
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


def plot_class_distribution(counts, *, after=None, label_after="after balancing", ax=None):
    """Rows per class as bars, with the rows after balancing beneath them where given.

    Parameters
    ----------
    counts : dict of str to int
        Rows per class, as the source has them.
    after : dict of str to int, optional
        Rows per class after balancing.
    label_after : str, default "after balancing"
        What the second bars are called.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    names, n = list(counts), len(counts)
    ax = _axes(ax, height=1.1 + (0.62 if after else 0.4) * n)
    shown = [(counts, "in the data", _PALE, None)] + (
        [(after, label_after, "white", "////")] if after else []
    )
    height = 0.8 / len(shown)
    for k, (values, label, colour, hatch) in enumerate(shown):
        widths = [values.get(name, 0) for name in names]
        at = np.arange(n) + (k - (len(shown) - 1) / 2) * height
        ax.barh(
            at,
            widths,
            height * 0.92,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor=_INK,
            linewidth=0.8,
        )
        total = max(sum(widths), 1)
        for y, width in zip(at, widths):
            text = f"{width:,} ({100 * width / total:.1f} %)"
            ax.annotate(
                text, (width, y), (4, 0), textcoords="offset points", va="center", fontsize=9.5
            )
    ax.set_yticks(np.arange(n), names)
    ax.invert_yaxis()
    ax.set_xlim(0, max(max(values.values()) for values, *_ in shown) * 1.3 or 1)
    ax.set_xlabel("rows")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.locator_params(axis="x", nbins=5)
    if after:
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, frameon=False
        )
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
    ax = _axes(ax, height=2.4 if n_leads == 1 else 1.1 + 0.36 * n_leads)
    times_s = np.arange(n_samples) / fs
    if n_leads == 1:
        ax.plot(times_s, signal[:, 0], color=_INK, linewidth=1.4)
        ax.set_ylabel(unit)
    else:
        step = float(np.median(np.ptp(signal, axis=0))) or 1.0
        offsets = -step * np.arange(n_leads)
        ax.plot(times_s, signal - np.median(signal, axis=0) + offsets, color=_INK, linewidth=1.0)
        ax.set_yticks(offsets, leads, fontsize=9)
        ax.set_ylabel(f"lead, {step:.3g} {unit} apart")
    ax.set_xlim(0, times_s[-1] if n_samples > 1 else 1)
    ax.set_xlabel("time (s)")
    ax.grid(True, axis="x", color="#dde4ea", linewidth=0.7)
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
    ax = _axes(ax, height=2.4)
    freqs_hz, times_s = np.asarray(grid.freqs_hz), _times_s(grid, image.shape[1], n_samples)
    if getattr(grid, "rgb", False):
        ax.imshow(
            np.clip(image, 0, 1),
            origin="lower",
            aspect="auto",
            extent=(times_s[0], times_s[-1], freqs_hz[0], freqs_hz[-1]),
        )
    else:
        mesh = ax.pcolormesh(
            times_s, freqs_hz, image[:, :, channel], shading="nearest", cmap="magma", vmin=0, vmax=1
        )
        bar = ax.figure.colorbar(mesh, ax=ax, ticks=[0, 0.5, 1], pad=0.02)
        top_db = getattr(grid, "top_db", None)
        if top_db is None:
            bar.set_label("scaled magnitude")
        else:
            bar.set_ticks([0, 0.5, 1], labels=[f"{-top_db:g}", f"{-top_db / 2:g}", "0"])
            bar.set_label("dB, peak = 0")
    if (
        len(freqs_hz) > 2
        and not np.allclose(np.diff(freqs_hz), freqs_hz[1] - freqs_hz[0], rtol=0.05)
        and freqs_hz.min() > 0
    ):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("time (s)")
    ax.set_ylabel("frequency (Hz)")
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
    ax = _axes(ax, height=2.2)
    freqs_hz = grid.freqs_hz(n_samples)
    for i, values in enumerate(np.asarray(spectrum).T):
        colour, dash = _LINES[i % len(_LINES)]
        ax.plot(
            freqs_hz,
            values,
            color=colour,
            linestyle=dash,
            linewidth=1.2,
            label=leads[i] if i < len(leads) else None,
        )
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
    ax = _axes(ax, height=2.9)
    epochs = [row.get("epoch", i + 1) for i, row in enumerate(history)]
    for name, (colour, dash), marker in zip(names, _LINES, "os^D"):
        values = [np.nan if row.get(name) is None else float(row[name]) for row in history]
        if np.isfinite(values).any():
            text = "validation" if name.startswith("val_") else "train"
            ax.plot(
                epochs,
                values,
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=4,
                label=text,
            )
    if best_epoch is not None:
        ax.axvline(
            best_epoch,
            color="#5b6b7a",
            linestyle=":",
            linewidth=1.2,
            label=f"kept: epoch {best_epoch}",
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True, color="#dde4ea", linewidth=0.7)
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
    ax = _axes(ax, height=side + 0.6, width=side + 1.2)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(confusion.shape):
        text = f"{confusion[i, j]:,}" + (f"\n{100 * share[i, j]:.1f} %" if n <= 12 else "")
        ax.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share[i, j] > 0.55 else _INK,
        )
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

    ax = _axes(ax, height=3.9, width=4.6)
    for i, (name, truth, scores) in enumerate(_one_against_all(y, probabilities, classes)):
        false_rate, true_rate, _ = roc_curve(truth, scores)
        colour, dash = _LINES[i % len(_LINES)]
        ax.plot(
            false_rate,
            true_rate,
            color=colour,
            linestyle=dash,
            label=f"{name}  {auc(false_rate, true_rate):.3f}",
        )
    ax.plot([0, 1], [0, 1], color="#9aa7b2", linewidth=1)
    ax.set_xlabel("false positive rate (1 - specificity)")
    ax.set_ylabel("sensitivity")
    _unit_square(ax, legend_title="class, area", legend=len(classes) <= 12)
    return ax


def plot_precision_recall(y, probabilities, classes, *, ax=None):
    """Precision over recall of each class against all others, with average precision; arguments as `plot_roc`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    ax = _axes(ax, height=3.9, width=4.6)
    for i, (name, truth, scores) in enumerate(_one_against_all(y, probabilities, classes)):
        precision, recall, _ = precision_recall_curve(truth, scores)
        colour, dash = _LINES[i % len(_LINES)]
        area = average_precision_score(truth, scores)
        ax.plot(recall, precision, color=colour, linestyle=dash, label=f"{name}  {area:.3f}")
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
    ax = _axes(ax, height=3.9, width=4.6)
    ax.plot([0, 1], [0, 1], color="#9aa7b2", linewidth=1, label="perfectly calibrated")
    at = np.bincount(bins, weights=confidence, minlength=15)[used] / rows[used]
    share = np.bincount(bins, weights=right, minlength=15)[used] / rows[used]
    ax.plot(at, share, color=_INK, linewidth=1.2)
    ax.scatter(
        at,
        share,
        s=20 + 160 * rows[used] / rows.max(),
        color=_PALE,
        edgecolor=_INK,
        zorder=3,
        label="bin of rows",
    )
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
    ax = _axes(ax, height=1.0 + 0.34 * len(rows))
    for i, (_, value, pair) in enumerate(rows):
        if pair is not None:
            ax.plot(pair, [i, i], color=_INK, linewidth=1.6, solid_capstyle="butt")
            ax.plot(pair, [i, i], "|", color=_INK, markersize=8)
        if value is not None:
            ax.plot(value, i, "o", color=_INK, markersize=6)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{label}, 95 % interval")
    ax.locator_params(axis="x", nbins=5)
    ax.grid(True, axis="x", color="#dde4ea", linewidth=0.7)
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
    ax = _axes(ax, height=3.4 + 0.25 * (len(histories) > 5) * math.ceil(len(histories) / 3))
    for i, (run, history) in enumerate(histories.items()):
        colour, dash = _LINES[i % len(_LINES)]
        again = (
            {"alpha": 0.55, "markerfacecolor": "white"} if i >= len(_LINES) else {}
        )  # colours begin anew
        values = [np.nan if row.get(name) is None else float(row[name]) for row in history]
        epochs = [row.get("epoch", k + 1) for k, row in enumerate(history)]
        marker = "os^Dv"[i % 5]
        ax.plot(
            epochs,
            values,
            color=colour,
            linestyle=dash,
            linewidth=1.6,
            marker=marker,
            markersize=3,
            label=run,
            **again,
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True, color="#dde4ea", linewidth=0.7)
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
    ax = _axes(ax, height=4.2)
    most = max(n for *_, n in rows) or 1
    for _, seconds, value, n in rows:
        ax.scatter(seconds, value, s=25 + 250 * n / most, color=_PALE, edgecolor=_INK, zorder=2.5)
    ax.margins(0.15)
    ax.set_xlabel("training time (s), area: parameters")
    ax.set_ylabel(label)
    ax.grid(True, color="#dde4ea", linewidth=0.7)
    _name_points(ax, [row[:3] for row in rows])
    return ax


def _axes(ax, *, width=5.4, height):
    """The axes given, or those of a new figure outside pyplot, in this module's style (sizes in inches)."""
    if ax is not None:
        return ax
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained").add_subplot()


def _name_points(ax, points, *, size=9):
    """Write a name beside each point, from below upwards, higher and with a line to its point where another is in the way."""
    ax.figure.draw_without_rendering()  # the layout decides where points come to lie
    taken = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        px, py = ax.transData.transform((x, y)) * 72 / ax.figure.dpi
        left, right, up = px + 6, px + 6 + 0.62 * size * len(name), 6.0
        for other_left, other_right, bottom in sorted(taken, key=lambda box: box[2]):
            if left < other_right and other_left < right and abs(py + up - bottom) < 1.2 * size:
                up = bottom - py + 1.2 * size
        taken.append((left, right, py + up))
        line = (
            {"arrowstyle": "-", "color": _PALE, "linewidth": 0.8, "shrinkB": 4} if up > 6 else None
        )
        ax.annotate(
            name, (x, y), (6, up), textcoords="offset points", fontsize=size, arrowprops=line
        )


def _title(ax, title):
    """Put a title at the left edge, where the eye starts."""
    if title:
        ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)


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
    ax.grid(True, color="#dde4ea", linewidth=0.7)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(title=legend_title, loc=legend_loc, alignment="left", fontsize=9.5)
