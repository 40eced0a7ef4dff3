"""Draw attributions on the ECG and on its image.

Conventions
-----------
What speaks for the explained class is drawn thick and red, what speaks against it thick and
blue; the darkest stretch of a panel is its own largest value, so panels compare places, not
sizes. Time is in ms, frequency in Hz. Marks of P, QRS and T are those of `landmarks`.
"""

import numpy as np

from ecg_keras.waves import find_r_peaks, find_waves

_INK, _FOR, _AGAINST, _BASE = "#1b2a3a", "#b3261e", "#1f6f94", "#9aa7b2"
_MOST_LEADS = 4
TITLES = {"gradcam": "Grad-CAM", "shap": "SHAP", "lime": "LIME"}


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
    title=None,
):
    """One row with what each method says of it: the waveform, and the image beside it where there is one.

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
    title : str, optional
        Shown above.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    over_time = any(a.signal is not None for a in attributions.values())
    beside = image is not None
    n_leads = min(_MOST_LEADS, len(leads)) if over_time else 1
    height = 1.5 + 0.75 * n_leads
    widths = [1.7, 1] if over_time and beside else [1]
    fig = Figure(
        figsize=(8.6 if len(widths) == 2 else 6.4, 0.5 + height * len(attributions)),
        layout="constrained",
    )
    axes = fig.subplots(len(attributions), len(widths), squeeze=False, width_ratios=widths)
    waves = [] if signal is None else find_waves(signal, fs=fs)
    for line, (name, found) in zip(axes, attributions.items()):
        label = TITLES.get(name, name)
        if over_time:
            values = np.zeros((1, len(leads))) if found.signal is None else found.signal[row]
            if found.signal is None:
                line[0].text(
                    0.5, 0.5, "no feature map over time", transform=line[0].transAxes, ha="center"
                )
            else:
                plot_attribution(
                    values,
                    signal=signal,
                    fs=fs,
                    unit=unit,
                    leads=leads,
                    waves=waves,
                    title=label,
                    ax=line[0],
                )
        if beside:
            plot_image_attribution(
                found.view[row], image=image, freqs_hz=freqs_hz, times_s=times_s, ax=line[-1]
            )
            line[-1].set_title(
                f"{label}, on the {'image' if times_s is not None else 'spectrum'}",
                loc="left",
                fontsize=10,
            )
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    return fig


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

    ax = _axes(ax)
    values = np.asarray(values, np.float64)
    times_ms = 1000 * (start_s + np.arange(len(values)) / fs)
    if signal is None:
        total = values.sum(axis=1)
        ax.fill_between(times_ms, np.maximum(total, 0), color=_FOR, linewidth=0)
        ax.fill_between(times_ms, np.minimum(total, 0), color=_AGAINST, hatch="////", linewidth=0)
        ax.set_ylabel("attribution")
        offsets, shown = [0.0], []
    else:
        shown = np.sort(np.argsort(-np.abs(values).sum(axis=0), kind="stable")[:_MOST_LEADS])
        step = 1.15 * float(np.ptp(signal[:, shown], axis=0).max()) or 1.0
        offsets = -step * np.arange(len(shown))
        most = np.abs(values[:, shown]).max() or 1.0
        for offset, lead in zip(offsets, shown):
            y = signal[:, lead] + offset
            ax.plot(times_ms, y, color=_BASE, linewidth=1.0, zorder=1)
            points = np.column_stack([times_ms, y])
            strength = np.abs(values[:-1, lead] + values[1:, lead]) / 2 / most
            sign = values[:-1, lead] + values[1:, lead] > 0
            for side, colour in ((sign, _FOR), (~sign, _AGAINST)):
                if not side.any():
                    continue
                pieces = np.stack([points[:-1], points[1:]], axis=1)[side]
                shade = np.clip(1.15 * strength[side], 0, 1)
                lines = LineCollection(
                    pieces, colors=colour, alpha=shade, capstyle="round", zorder=2
                )
                lines.set_linewidth(0.8 + 4.2 * strength[side])
                ax.add_collection(lines)
        if len(shown) > 1 or len(leads) > 1:
            ax.set_yticks(
                offsets + np.array([np.median(signal[:, lead]) for lead in shown]),
                [leads[lead] for lead in shown],
            )
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


def _mark(ax, waves, times_ms):
    """Lines at R peaks and letters above the waves."""
    top = ax.get_ylim()[1]
    shown = [wave for wave in waves if wave["R"] < len(times_ms)]
    for wave in shown:
        ax.axvline(times_ms[wave["R"]], color=_INK, linestyle=":", linewidth=0.8, zorder=0)
        for name, at in wave.items():
            if len(shown) <= 4 or name == "R":
                first = at < 0.012 * len(times_ms)
                ax.text(
                    times_ms[at],
                    top,
                    name,
                    ha="left" if first else "center",
                    va="top",
                    fontsize=8.5,
                    color=_INK,
                )


def plot_image_attribution(values, *, image, freqs_hz, times_s=None, ax=None):
    """A spectrogram or scalogram in grey with what each pixel adds over it; a spectrum as a line.

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

    ax = _axes(ax)
    values = np.asarray(values, np.float64)
    if times_s is None:
        values = values.sum(axis=1) if values.ndim == 2 else values
        ax.plot(freqs_hz, image[:, 0], color=_INK, linewidth=1.0)
        scale = image.max() / (np.abs(values).max() or 1.0)
        look = {"alpha": 0.5, "linewidth": 0}
        ax.fill_between(freqs_hz, np.maximum(values, 0) * scale, color=_FOR, **look)
        ax.fill_between(
            freqs_hz, np.maximum(-values, 0) * scale, color=_AGAINST, hatch="////", **look
        )
        ax.set_xlabel("frequency (Hz)")
        ax.set_ylabel("log magnitude")
        return ax
    shade = image.mean(axis=2)
    ax.pcolormesh(
        1000 * times_s, freqs_hz, shade, shading="nearest", cmap="Greys", vmin=0, vmax=1.4
    )
    most = np.abs(values).max() or 1.0
    for sign, colour in ((1, _FOR), (-1, _AGAINST)):
        clear = LinearSegmentedColormap.from_list("", [colour + "00", colour + "d0"])
        strength = np.maximum(sign * values, 0) / most
        if strength.max() > 0.05:
            ax.pcolormesh(
                1000 * times_s, freqs_hz, strength, shading="nearest", cmap=clear, vmin=0, vmax=1
            )
    if (
        freqs_hz.min() > 0
        and len(freqs_hz) > 2
        and freqs_hz[-1] - freqs_hz[-2] > 2 * (freqs_hz[1] - freqs_hz[0])
    ):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("time (ms)")
    ax.set_ylabel("frequency (Hz)")
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


def row_peaks(signals, *, fs):
    """The R peaks that rows (n, samples, leads) are averaged around: of records all, of beats the one they were cut by.

    Rows up to 3 s count as beats, all cut by their R peak at one place; it is where most of them have one.
    """
    peaks = [find_r_peaks(row, fs=fs) for row in signals]
    if signals.shape[1] > 3 * fs or not sum(map(len, peaks)):
        return peaks
    votes = np.bincount(np.concatenate(peaks), minlength=signals.shape[1]).astype(float)
    reach = max(1, round(0.03 * fs))
    middle = int(np.convolve(votes, np.ones(2 * reach + 1), "same").argmax())
    near = np.arange(max(0, middle - reach), min(len(votes), middle + reach + 1))
    return [[int(near[votes[near].argmax()])]] * len(signals)


def plot_averages(averages, *, fs, unit, before, qrs_s=None):
    """Average beat and average attribution of each class, aligned on the R peak: a row per class, a column per method.

    The band is the middle half of the beats; the filled curve at the foot is the average attribution.

    Parameters
    ----------
    averages : dict of str to dict
        Class to ``{"signal": (beats, samples), method: (beats, samples), ...}``, as `aligned` cuts them.
    fs : float
        Sampling rate, in Hz.
    unit : str
        Of the signals.
    before : int
        Samples before the R peak.
    qrs_s : (float, float), optional
        Stretch around R to mark.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    methods = [name for name in next(iter(averages.values())) if name != "signal"]
    fig = Figure(
        figsize=(0.6 + 3.4 * len(methods), 0.4 + 2.0 * len(averages)), layout="constrained"
    )
    axes = fig.subplots(len(averages), len(methods), squeeze=False, sharex=True)
    for line, (kind, parts) in zip(axes, averages.items()):
        for ax, name in zip(line, methods):
            last = kind == list(averages)[-1]
            mean, value = (nan_mean(parts[key]) for key in ("signal", name))
            seen = np.isfinite(mean)
            low, high = (np.nanpercentile(parts["signal"][:, seen], q, axis=0) for q in (25, 75))
            times_ms = 1000 * (np.arange(len(mean)) - before) / fs
            first = int(np.flatnonzero(seen)[0])
            if qrs_s is not None:
                ax.axvspan(1000 * qrs_s[0], 1000 * qrs_s[1], color="#fff1cc", zorder=-1)
            ax.fill_between(times_ms[seen], low, high, color="#e3eaf0", linewidth=0, zorder=0)
            shown, start_s = np.nan_to_num(value[seen])[:, None], (first - before) / fs
            plot_attribution(
                shown, signal=mean[seen][:, None], fs=fs, unit=unit, start_s=start_s, ax=ax
            )
            ax.axvline(0, color=_INK, linestyle=":", linewidth=0.8, zorder=0)
            bottom, top = min(low.min(), mean[seen].min()), max(high.max(), mean[seen].max())
            room = 0.25 * (top - bottom)
            for sign, colour, hatch in ((1, _FOR, None), (-1, _AGAINST, "////")):
                strip = (
                    bottom
                    - 1.2 * room
                    + room * np.maximum(sign * shown[:, 0], 0) / (np.abs(shown).max() or 1.0)
                )
                ax.fill_between(
                    times_ms[seen],
                    bottom - 1.2 * room,
                    strip,
                    color=colour,
                    hatch=hatch,
                    alpha=0.75,
                    linewidth=0,
                )
            ax.set_ylim(bottom - 1.2 * room, top + 0.1 * room)
            ax.set_title(
                f"{kind}: {TITLES.get(name, name)}, {len(parts[name])} beats",
                loc="left",
                fontsize=10,
            )
            ax.set_xlabel("time from R peak (ms)" if last else "")
            if name != methods[0]:
                ax.set_ylabel("")
    return fig


def nan_mean(values):
    """Mean over rows without the missing values; NaN where all are."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.divide(
        total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0)
    )


def plot_removal(result, methods):
    """Deletion and insertion curves of each method and of random orders.

    Parameters
    ----------
    result : dict
        Of `faithfulness.deletion_and_insertion`.
    methods : sequence of str
        Which to draw.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7.6, 3.0), layout="constrained")
    looks = zip(methods, [("#10243b", "-"), ("#b3261e", "--"), ("#2e7d9a", "-."), ("#d08a17", ":")])
    looks = [("random", ("#9aa7b2", "-")), *looks]
    for ax, kind, label in zip(
        fig.subplots(1, 2), ("deletion", "insertion"), ("removed", "put in")
    ):
        for name, (colour, dash) in looks:
            ax.plot(
                100 * result["share"],
                result[name][kind],
                color=colour,
                linestyle=dash,
                label=TITLES.get(name, name),
            )
        ax.set_xlabel(f"share of the row {label} (%)")
        ax.set_ylabel("probability of the class")
        ax.set_title(kind, loc="left", fontsize=10)
        ax.set_ylim(-0.02, 1.02)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#dde4ea", linewidth=0.7)
    ax.legend(fontsize=9, frameon=False)
    return fig


def _axes(ax):
    """The axes given, or those of a new figure outside pyplot."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5.4, 2.4), layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax
