"""Check data before training: sizes, ranges, balance, leaks between parts, dead leads.

Conventions
-----------
`inspect` returns numbers, and `findings`: sentences about what looks wrong. A finding is not an
error; some are properties of a public data set that a reader has to know.
"""

import itertools

import numpy as np

from ecg_keras import pages, plots
from ecg_keras.dataset import representative_rows
from ecg_keras.storage import digest_rows

_SAMPLE_ROWS = 5_000  # rows looked at for ranges; duplicates and labels use all
_FEW_ROWS = 20  # of a class: one row more or less moves its recall by 5 points


class Inspection(dict):
    """What `inspect` found: ``parts``, ``shared_rows``, ``shared_patients``, ``findings``.

    Printed it is a table of text; in a notebook a table and a list.
    """

    def __str__(self):
        rows = _table(self)
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"! {finding}" for finding in self["findings"])])

    def _repr_html_(self):
        return inspection_html(self) + pages.notes(self["findings"])


def inspect(train=None, val=None, test=None):
    """Check one to three parts and compare them.

    Parameters
    ----------
    train, val, test : ECGDataset, optional
        At least one.

    Returns
    -------
    Inspection
        A dict. ``parts`` has for each part ``rows``, ``shape``, ``duration_s``, ``channels``,
        ``min``, ``max``, ``mean``, ``std``, ``zeros`` (share of entries), ``class_counts``,
        ``patients``, ``records``, ``constant_leads`` (number of rows in which a lead does not
        move), ``equal_leads``, ``duplicates`` (rows that were in the part before) and
        ``label_runs`` (runs of equal labels, over the number expected if rows were shuffled).
        Ranges are those of up to 5,000 evenly spaced rows. ``shared_rows`` and
        ``shared_patients`` count what two parts share; ``findings`` is a list of sentences.

    Raises
    ------
    ValueError
        If no part is given.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> x = np.sin(np.arange(30.0)).reshape(3, 10, 1)
    >>> found = inspect(test=ECGDataset(x[[0, 1, 1, 2]], [0, 1, 1, 0], classes="NV", fs=10))
    >>> found["parts"]["test"]["duplicates"], found["findings"][-1]
    (1, 'test: 1 of 4 rows are exact copies of others.')
    """
    parts = {"train": train, "val": val, "test": test}
    parts = {name: part for name, part in parts.items() if part is not None}
    if not parts:
        raise ValueError("inspect needs at least one of train, val and test.")
    digests = {name: digest_rows(part.x) for name, part in parts.items()}
    patients = {name: part.patients for name, part in parts.items() if part.patients is not None}
    result = Inspection(
        parts={name: _describe(part, digests[name]) for name, part in parts.items()},
        shared_rows=_shared(digests),
        shared_patients=_shared(patients),
    )
    result["findings"] = _findings(result)
    return result


def plot_labelled(ds, *, per_class=3, seed=0):
    """Draw random rows under their labels, a line of pictures per class.

    Parameters
    ----------
    ds : ECGDataset
        Signals or images.
    per_class : int, default 3
        Pictures per class.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> ds = ECGDataset(np.ones((4, 9)), [0, 0, 1, 1], classes="NV", fs=10)
    >>> len(plot_labelled(ds, per_class=2).axes)
    4
    """
    rng = np.random.default_rng(seed)
    names = list(representative_rows(ds))
    size = {"width": 2.4 * per_class, "height": 1.5 * len(names) + 0.4}
    axes = plots.panels(len(names), per_class, **size)
    for line, name in zip(axes, names):
        i = ds.classes.index(name)
        rows = np.flatnonzero(ds.y[:, i] == 1 if ds.multi_label else ds.y == i)
        for ax, row in zip(line, rng.permutation(rows)[:per_class]):
            if ds.is_images:
                image = np.clip(ds.x[row], 0, 1)
                image = image if image.shape[2] == 3 else image[:, :, 0]
                ax.imshow(image, origin="lower", aspect="auto", cmap="magma")
            else:
                ax.plot(ds.x[row][:, 0], color=plots.INK, linewidth=0.9)
            label = "+".join(np.array(ds.classes)[ds.y[row] == 1]) if ds.multi_label else name
            ax.set_title(f"{label} (row {row})", fontsize=9, loc="left")
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_color(plots.GRID)
    return axes[0, 0].figure


def inspection_html(inspection):
    """The table of an inspection, a column per part."""
    header, *rows = _table(inspection)
    return pages.table(header, rows)


def _table(inspection):
    """Numbers of an inspection as rows of text, header first."""
    parts = inspection["parts"]
    shown = [
        ("rows", lambda p: f"{p['rows']:,}"),
        ("shape of a row", lambda p: " x ".join(str(size) for size in p["shape"])),
        (
            "duration",
            lambda p: (
                "-" if p["duration_s"] is None else f"{p['duration_s']:.2f} s at {p['fs']:g} Hz"
            ),
        ),
        ("leads or channels", lambda p: p["channels"]),
        ("range", lambda p: f"{round(p['min'], 4):.4g} to {round(p['max'], 4):.4g} {p['unit']}"),
        ("mean, standard deviation", lambda p: f"{p['mean']:.3g}, {p['std']:.3g}"),
        ("entries that are 0", lambda p: pages.percent(p["zeros"])),
        ("patients", lambda p: "not named" if p["patients"] is None else f"{p['patients']:,}"),
        ("recordings", lambda p: "not named" if p["records"] is None else f"{p['records']:,}"),
        ("rows with a constant lead", lambda p: f"{max(p['constant_leads'].values()):,}"),
        ("copies within the part", lambda p: f"{p['duplicates']:,}"),
        (
            "smallest class",
            lambda p: "{} ({:,})".format(*min(p["class_counts"].items(), key=lambda item: item[1])),
        ),
    ]
    rows = [[label, *(show(part) for part in parts.values())] for label, show in shown]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    for first in list(parts)[:-1]:
        shared = [inspection["shared_rows"].get(f"{first}, {name}") for name in parts]
        rows.append(
            [f"rows also in {first}", *("" if count is None else f"{count:,}" for count in shared)]
        )
    return [["", *parts], *rows]


def _describe(part, digests):
    """Numbers of one part."""
    x = part.x[:: max(1, len(part) // _SAMPLE_ROWS)]
    channels = (
        part.leads
        if x.shape[-1] == len(part.leads)
        else tuple(f"channel {i}" for i in range(x.shape[-1]))
    )
    axes = tuple(range(1, part.x.ndim - 1))
    still = np.ptp(part.x, axis=axes) == 0  # (n, channels)
    equal = [
        f"{channels[i]} = {channels[j]}"
        for i in range(len(channels))
        for j in range(i + 1, len(channels))
        if len(channels) <= 16 and np.array_equal(x[..., i], x[..., j])
    ]
    runs = None
    if not part.multi_label and len(part) > 1:
        share = np.bincount(part.y) / len(part)
        expected = 1 + (len(part) - 1) * (1 - (share**2).sum())
        runs = float((1 + (np.diff(part.y) != 0).sum()) / expected)
    return {
        "rows": len(part),
        "shape": list(part.x.shape[1:]),
        "fs": part.fs,
        "duration_s": part.x.shape[1] / part.fs if part.grid is None else None,
        "unit": part.unit if part.grid is None else "",
        "channels": ", ".join(channels),
        "min": float(x.min()),
        "max": float(x.max()),
        "mean": float(x.mean(dtype=np.float64)),
        "std": _std(x),
        "zeros": float((x == 0).mean()),
        "class_counts": part.class_counts(),
        "patients": None if part.patients is None else len(np.unique(part.patients)),
        "records": None if part.records is None else len(np.unique(part.records)),
        "constant_leads": {name: int(count) for name, count in zip(channels, still.sum(axis=0))},
        "equal_leads": equal,
        "duplicates": len(digests) - len(np.unique(digests)),
        "label_runs": runs,
        "resampled": bool(part.balance is not None and part.balance.resampled),
    }


def _std(x):
    """Standard deviation over all entries, without a copy of them in double precision."""
    apart = np.subtract(x, x.mean(dtype=np.float64), dtype=x.dtype).ravel()
    return float(np.sqrt(np.einsum("i,i->", apart, apart, dtype=np.float64) / apart.size))


def _shared(ids):
    """Ids of each part to how many of them are in both, for each pair of parts."""
    pairs = itertools.combinations(ids, 2)
    return {f"{a}, {b}": len(np.intersect1d(ids[a], ids[b])) for a, b in pairs}


def _findings(result):
    """Sentences about what a reader has to know or a user has to repair."""
    found = []
    for name, part in result["parts"].items():
        n = part["rows"]
        counts = part["class_counts"]
        if absent := [kind for kind, count in counts.items() if not count]:
            found.append(
                f"{name}: no row of {', '.join(absent)}; what the model does with them is not "
                "known from it."
            )
        if few := [f"{kind} ({count})" for kind, count in counts.items() if 0 < count < _FEW_ROWS]:
            found.append(
                f"{name}: few rows of {', '.join(few)}; figures of these classes are coarse."
            )
        for lead, count in part["constant_leads"].items():
            if count:
                found.append(f"{name}: {lead} does not move in {count:,} of {n:,} rows.")
        for pair in part["equal_leads"]:
            found.append(f"{name}: {pair} in every row looked at; one of them adds nothing.")
        if part["duplicates"] and not part["resampled"]:
            found.append(
                f"{name}: {part['duplicates']:,} of {n:,} rows are exact copies of others."
            )
        runs = part["label_runs"]
        if runs is not None and runs < 0.05 and n >= 100 and part["patients"] is None:
            found.append(
                f"{name}: rows are sorted by class; whatever depends on the order of rows would "
                "carry the label."
            )
    for pair, count in result["shared_rows"].items():
        if count:
            found.append(
                f"{count:,} rows are in both {pair.replace(', ', ' and ')}, to the last digit."
            )
    for pair, count in result["shared_patients"].items():
        if count:
            found.append(f"{count:,} patients are in both {pair.replace(', ', ' and ')}.")
    if "train" in result["parts"]:
        base = result["parts"]["train"]
        for name, part in result["parts"].items():
            shifted = abs(part["mean"] - base["mean"]) > base["std"]
            scaled = base["std"] > 0 and not 0.5 < part["std"] / base["std"] < 2
            if name != "train" and not base["resampled"] and (shifted or scaled):
                found.append(
                    f"{name}: mean {part['mean']:.3g} and standard deviation {part['std']:.3g} "
                    f"differ from train's {base['mean']:.3g} and {base['std']:.3g}; were both "
                    "scaled alike?"
                )
    return found
