"""Draw what a search tried and found, and put it on one page.

Conventions
-----------
A tried trial is a pair (result, values): the content of its result.json and its values by entry of the
space. Values that are no numbers are drawn as ranks. A darker line or dot is a better one.
"""

import time

import numpy as np

from ecg_keras.pages import bullets, decimal, escape, facts, figure, page, table
from ecg_keras.plots import png

_INK, _ACCENT, _PALE = "#1b2a3a", "#b3261e", "#9db4c8"
_SHOWN = 30  # rows of the leaderboard on the page; the file has all


def search_page(found, tried, objective, space, job):
    """Build search.html.

    Parameters
    ----------
    found : Search
        What is known now.
    tried : list of (dict, dict)
        Results and values in the order in which the trials ended.
    objective : str
        Name of the figure, such as "val_macro_f1".
    space : Space
        What is varied.
    job : dict
        Of the search, with "epochs".

    Returns
    -------
    str
        The whole HTML document.
    """
    done = [(result, values) for result, values in tried if result["status"] == "completed"]
    failed = [result for result, _ in tried if result["status"] != "completed"]
    label = (
        objective.removeprefix("val_")
        .replace("_", "-")
        .replace("macro-f1", "macro-F1")
        .replace("auc", "AUC")
    )
    default = default_result(tried, space)
    pairs = [
        ("model", found.model),
        ("trials finished", f"{len(tried)}, of which {len(failed)} failed"),
        (f"best validation {label}", decimal(found.value, 4)),
        (
            "default",
            f"{decimal(default['value'], 4)} after {default['epochs_run']} of {job['epochs']} epochs"
            if default
            else "-",
        ),
        (
            "training time",
            f"{sum(result.get('fit_seconds') or 0 for result, _ in tried) / 3600:.2f} h",
        ),
        ("epochs of a full training", job["epochs"]),
        (
            "state",
            {"running": "running", "time": "its time was over"}.get(found.ended, found.ended),
        ),
        ("written", time.strftime("%Y-%m-%d %H:%M")),
    ]
    lead = "<p>Validation figures chose among these trials, so the best one is flattered; the test part tells.</p>\n"
    winner = "<p>No trial has ended: these are the defaults.</p>" if found.value is None else ""
    sections = [
        ("summary", "Summary", facts(pairs)),
        ("winner", "Winner", f"{winner}<pre><code>{escape(found.code())}</code></pre>\n"),
    ]
    if done:
        sections += [
            (
                "progress",
                "Best so far",
                figure(
                    png(plot_progress(tried, label)),
                    f"Validation {label} of each trial and the best so far",
                    wide=True,
                ),
            ),
            (
                "parameters",
                "Each setting",
                figure(
                    png(plot_settings(done, space, label)),
                    f"Validation {label} against each setting",
                    wide=True,
                ),
            ),
            (
                "parallel",
                "All settings",
                figure(
                    png(plot_parallel(done, space, label)),
                    "One line per trial across all settings; darker is better, the winner is red and dashed",
                    wide=True,
                ),
            ),
        ]
    sections.append(("trials", "Trials", _trials(found, len(tried))))
    if failed:
        reasons = {result["reason"]: 0 for result in failed}
        for result in failed:
            reasons[result["reason"]] += 1
        sections.append(
            (
                "failed",
                "Failed",
                bullets(f"{reason} ({count})" for reason, count in reasons.items()),
            )
        )
    sections.append(
        (
            "space",
            "Space",
            table(["setting", "tried"], list(space.describe().items()), numbers_from=2),
        )
    )
    return page(f"Search: {found.model}", sections, lead=lead)


def default_result(tried, space):
    """The result of the default model that was trained longest, None where none has ended well."""
    defaults = space.defaults()
    found = [
        result
        for result, values in tried
        if result["status"] == "completed"
        and all(value == defaults[name] for name, value in values.items())
    ]
    return max(found, key=lambda result: result["epochs_run"], default=None)


def _trials(found, n):
    """The top of the leaderboard as a table."""
    board = found.leaderboard.head(_SHOWN)
    names = [
        name
        for name in board.columns
        if name not in ("past", "reason", "fit_seconds") and board[name].notna().any()
    ]
    rows = [[_text(row[name]) for name in names] for _, row in board[names].iterrows()]
    caption = f"The best {len(rows)} of {n}; leaderboard.csv has all." if n > len(rows) else None
    return table([name.replace("_", " ") for name in names], rows, caption=caption)


def _text(value):
    """A cell: short numbers, a dash for nothing."""
    if value is None or value != value or value == "":
        return "-"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return str(value)


def plot_progress(tried, label, *, ax=None):
    """Value of each trial and the best so far, over the time that trials took.

    Parameters
    ----------
    tried : list of (dict, dict)
        Results and values in the order in which they ended.
    label : str
        Name of the figure.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(7.2, 3.2) if ax is None else ax
    seconds = np.cumsum([result.get("seconds") or 0 for result, _ in tried])
    unit, per_unit = ("h", 3600) if seconds[-1] > 5400 else ("min", 60)
    spent = seconds / per_unit
    values = np.array(
        [np.nan if result["value"] is None else result["value"] for result, _ in tried]
    )
    good = np.isfinite(values)
    ax.plot(
        spent[good],
        values[good],
        "o",
        markersize=4,
        color=_PALE,
        markeredgecolor=_INK,
        markeredgewidth=0.5,
        label="trial",
    )
    ax.step(
        spent[good],
        np.maximum.accumulate(values[good]),
        where="post",
        color=_ACCENT,
        linewidth=1.6,
        label="best so far",
    )
    if not good.all():
        bottom = values[good].min()
        ax.plot(spent[~good], np.full((~good).sum(), bottom), "x", color=_INK, label="failed")
    ax.set_xlabel(f"time in trials ({unit})")
    ax.set_ylabel(f"validation {label}")
    ax.grid(True, color="#dde4ea", linewidth=0.7)
    ax.legend(frameon=False, loc="lower right")
    return ax


def plot_settings(done, space, label):
    """Value against each entry of the space, one small plot each; size of a dot: epochs trained. Returns the figure."""
    from matplotlib.figure import Figure

    names = list(space.entries)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    drawn = Figure(figsize=(2.1 * columns + 0.4, 1.75 * rows), layout="constrained")
    axes = np.atleast_1d(drawn.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    scores = np.array([result["value"] for result, _ in done])
    epochs = np.array([result["epochs_run"] for result, _ in done], float)
    for ax, name in zip(axes, names):
        has = np.array([name in values for _, values in done])
        at, ticks = _places(space.entries[name], [values.get(name) for _, values in done])
        sizes = 8 + 24 * epochs / epochs.max()
        ax.scatter(at[has], scores[has], s=sizes[has], color=_PALE, edgecolor=_INK, linewidth=0.5)
        best = int(scores.argmax())
        if has[best]:
            ax.scatter(at[best], scores[best], s=50, marker="*", color=_ACCENT, zorder=3)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7.5)
        entry = space.entries[name]
        if ticks:
            ax.set_xticks(*ticks)
            ax.set_xlim(-0.5, len(entry.values) - 0.5)
        else:
            _span(ax, entry)
        ax.grid(True, color="#dde4ea", linewidth=0.6)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    drawn.supylabel(f"validation {label}", fontsize=9)
    return drawn


def plot_parallel(done, space, label):
    """A line per trial across all entries, each scaled to its own range; returns the figure."""
    from matplotlib.figure import Figure

    names = list(space.entries)
    drawn = Figure(figsize=(max(7.2, 0.62 * len(names) + 1.5), 3.6), layout="constrained")
    ax = drawn.add_subplot()
    scores = np.array([result["value"] for result, _ in done])
    ranks = scores.argsort().argsort() / max(len(scores) - 1, 1)
    for i in scores.argsort():
        heights = [_height(space.entries[name], done[i][1].get(name)) for name in names]
        heights.append((scores[i] - scores.min()) / (np.ptp(scores) or 1))
        best = i == scores.argmax()
        grey = 0.88 - 0.72 * ranks[i]
        ax.plot(
            heights,
            color=_ACCENT if best else str(grey),
            linestyle="--" if best else "-",
            linewidth=2 if best else 0.9,
            marker="." if not best else "*",
            markersize=4 if not best else 7,
        )
    for i, name in enumerate(names):
        low, high = _ends(space.entries[name])
        ax.axvline(i, color="#c5d0d9", linewidth=0.7, zorder=0)
        ax.text(i, 1.04, high, ha="center", va="bottom", fontsize=7)
        ax.text(i, -0.04, low, ha="center", va="top", fontsize=7)
    ax.text(len(names), 1.04, f"{scores.max():.3f}", ha="center", va="bottom", fontsize=7)
    ax.text(len(names), -0.04, f"{scores.min():.3f}", ha="center", va="top", fontsize=7)
    ax.set_xticks(range(len(names) + 1), [*names, label], rotation=45, ha="right", fontsize=8)
    ax.tick_params(axis="x", pad=12, length=0)
    ax.set_yticks([])
    ax.set_ylim(-0.02, 1.02)
    ax.spines[:].set_visible(False)
    return drawn


def _span(ax, entry):
    """Show the whole range of an entry, with its ends and its middle named."""
    low, high = entry.low, entry.high
    if entry.log:
        ax.set_xscale("log")
        middle, margin = np.sqrt(low * high), (high / low) ** 0.06
        ax.set_xlim(low / margin, high * margin)
    else:
        middle, margin = (low + high) / 2, 0.06 * (high - low)
        ax.set_xlim(low - margin, high + margin)
    ax.set_xticks([low, middle, high], [f"{value:.2g}" for value in (low, middle, high)])
    ax.set_xticks([], minor=True)


def _axes(width, height):
    from matplotlib.figure import Figure

    ax = Figure(figsize=(width, height), layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _places(entry, values):
    """Horizontal places of values, and tick places with names where they are ranks."""
    options = getattr(entry, "values", None)
    if options is None:
        return np.array([np.nan if value is None else value for value in values], float), None
    at = np.array([options.index(value) if value in options else np.nan for value in values], float)
    return at, (range(len(options)), [_short(option) for option in options])


def _height(entry, value):
    """0 to 1 for a value between the ends of its entry; NaN where the trial has none."""
    options = getattr(entry, "values", None)
    if options is not None:
        return options.index(value) / max(len(options) - 1, 1) if value in options else np.nan
    if value is None:
        return np.nan
    low, high = entry.low, entry.high
    if entry.log:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return (value - low) / ((high - low) or 1)


def _ends(entry):
    """Names of the lowest and the highest value."""
    options = getattr(entry, "values", None)
    if options is None:
        return f"{entry.low:g}", f"{entry.high:g}"
    return _short(options[0]), _short(options[-1])


def _short(value):
    """A value's name that fits under a tick."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 9 else text[:8] + "…"
