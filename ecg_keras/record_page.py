"""Write a recording with its annotation as one HTML page: trace, overview, Holter summary, strips.

Conventions
-----------
Signals are in mV, times in seconds from the start, beats by sample number at the recording's rate.
The page needs no other file. It holds the signal in steps of 5 microvolts, at the recording's rate
or a whole fraction of it, as chunks of a minute that the browser unpacks when they are looked at,
and the lowest and highest value of every bin, for the view from afar. Everything is drawn by
record_page.js on canvases; no code of others is embedded. What the page is made of stands in
record_page.jinja, its style in page.css and record_page.css.

A chunk is, lead by lead, the differences of neighbours as 16-bit numbers, zigzag coded (0, -1, 1,
-2 become 0, 1, 2, 3), first all low bytes, then all high bytes, deflated, in base64.
"""

import base64
import json
import pathlib
import zlib

import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.signal import firwin, upfirdn

from ecg_keras import pages, plots
from ecg_keras.pages import clock
from ecg_keras.storage import atomic_path

STEP_MV = 0.005  # of the signal on the page
_MISSING = -32768  # in steps: nothing was recorded
_CHUNK_S, _BLOCK_CHUNKS = 60, 10  # unpacked at once; read at once
_MOST_SAMPLES, _LEAST_FS = 26e6, 100.0  # of all leads together; below this rate nothing is thinned
_MOST_BINS, _LEAST_BIN_S = 90_000, 0.1
_PER_CLASS = 3  # strips of each class
_MOST_WINDOWS = 300  # rows of a table
_CARD_LETTERS = 600  # of one value of a card
_COLOURS = {"N": plots.INK, "V": plots.ACCENT, "S": plots.AGAINST, "F": "#b06f00", "Q": "#6b4c9a"}
_UNREAD, _UNREAD_COLOUR = "?", "#6b7782"
_MORE_COLOURS = ("#10243b", "#b3261e", "#2e7d9a", "#b06f00", "#6b4c9a", "#4b8b3b", "#c26a8b")
_WAVES = ("p_on", "p_peak", "p_off", "qrs_on", "qrs_off", "t_on", "t_peak", "t_off")
_CHUNKS_HERE = "<!-- chunks -->"  # no text of a recording gives this: "<" is escaped


def write_record_page(path, recording, annotation, *, waves=None):
    """Write a recording and what was found in it as one HTML page.

    Parameters
    ----------
    path : path
        The HTML file.
    recording : OpenRecording
        What was annotated; read in blocks.
    annotation : Annotation
        What `annotate` found in it.
    waves : DataFrame, optional
        What `waves.delineate` gives: marks of P, QRS and T per beat, drawn under the trace and
        summed up as PR, QRS, QT and QTc.

    Returns
    -------
    path : pathlib.Path

    Examples
    --------
    >>> import tempfile, types
    >>> class Minute:
    ...     name, fs, leads, n_samples, start, notes = "minute", 125.0, ("II",), 7500, None, ()
    ...     def read(self, start, stop):
    ...         return np.sin(np.arange(start, stop, dtype=np.float32))[:, None]
    >>> nothing = pd.DataFrame()
    >>> found = types.SimpleNamespace(beats=nothing, events=nothing, spans=nothing, card={},
    ...                               windows=nothing, summary={}, notes=())
    >>> page = write_record_page(tempfile.mkdtemp() + "/record.html", Minute(), found)
    >>> page.name, page.stat().st_size < 100_000
    ('record.html', True)
    """
    path = pathlib.Path(path)
    beats = _beats(annotation, recording.fs)
    marks = None if waves is None or not len(beats) else _marks_of(beats, waves, recording.fs)
    columns, factor = _what_fits(recording, annotation)
    chunks, overview, medians, bin_samples = _packed(recording, columns, factor)
    classes = list(dict.fromkeys([*_classes(annotation), *beats["class"]]))
    why = list(dict.fromkeys(["", *beats["why"]]))
    notes = list(dict.fromkeys(map(str, annotation.notes)))
    if factor > 1 or len(columns) < len(recording.leads):
        notes.append(_thinned(recording, columns, factor))
    read = annotation.summary.get("leads_read") or recording.leads[:1]
    shown = [recording.leads[column] for column in columns]
    meta = {
        "name": str(recording.name),
        "fs": float(recording.fs),
        "factor": factor,
        "samples": -(-int(recording.n_samples) // factor),
        "chunk": _chunk_samples(recording.fs, factor),
        "bin": bin_samples,
        "step": STEP_MV,
        "leads": shown,
        "lead": shown.index(read[0]) if read[0] in shown else 0,
        "start": None if recording.start is None else pd.Timestamp(recording.start).isoformat(),
        "medians": medians,
        "classes": classes,
        "normal": "N" if "N" in classes else classes[0] if classes else "N",
        "colours": _colours(classes),
        "why": why,
        "beats": len(beats),
        "waves": marks is not None,
        "events": _records(annotation.events),
        "spans": _records(annotation.spans),
        "windows": _windows(annotation),
    }
    strips = _strips(annotation, beats, meta, annotation.summary.get("start"))
    html = pages.render(
        "record_page.jinja",
        title=str(recording.name),
        about=_about(recording, annotation),
        style=Markup(_file("record_page.css")),
        script=Markup(_file("record_page.js")),
        sections=_sections(recording, annotation, beats, marks, notes, meta, strips),
        cards=_cards(annotation),
        strips=strips,
        meta=_safe_json(meta),
        overview=overview,
        beats=_pack_bytes(_beat_bytes(beats, classes, why, marks)),
        has=meta,
    )
    before, after = html.split(_CHUNKS_HERE)
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(before)
        for number, chunk in enumerate(chunks):
            file.write(f'<script type="text/plain" id="c{number}">{chunk}</script>\n')
        file.write(after)
    return path


def _file(name):
    """A text file of the package."""
    return (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")


def _safe_json(value):
    """A value as JSON that may stand in a script element: without "<", ">" and "&"."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _records(table):
    """A DataFrame as a list of dicts for JSON; NaN becomes None."""
    return [
        {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]


def _beats(annotation, fs):
    """The table of beats with all columns that the page needs, also where there is no beat."""
    beats = annotation.beats
    if not len(beats):
        names = ["sample", "time_s", "class", "why", "rr_before_s", "quality"]
        return pd.DataFrame({name: [] for name in names})
    keep = {"why": "", "quality": np.nan, "rr_before_s": np.nan, "time_s": beats["sample"] / fs}
    return beats.assign(**{name: value for name, value in keep.items() if name not in beats})


def _classes(annotation):
    """Classes by the names of the columns of probabilities; of windows where there are such."""
    table = annotation.windows if len(annotation.windows) else annotation.beats
    named = [name[2:] for name in table.columns if str(name).startswith("p_")]
    return named or list(annotation.card.get("classes", []))


def _colours(classes):
    """A colour for each class: those of plots.py, which also differ in lightness."""
    if set(classes) <= {*_COLOURS, _UNREAD, ""}:
        return {name: _COLOURS.get(name, _UNREAD_COLOUR) for name in classes}
    known = [name for name in classes if name not in (_UNREAD, "")]
    colours = {name: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, name in enumerate(known)}
    return {name: colours.get(name, _UNREAD_COLOUR) for name in classes}


def _what_fits(recording, annotation):
    """Columns to show, and one of how many samples: a page holds 26 million, at 100 Hz or more."""
    columns = list(range(len(recording.leads)))
    highest = max(1, int(recording.fs / _LEAST_FS))
    for factor in range(1, highest + 1):
        if recording.n_samples / factor * len(columns) <= _MOST_SAMPLES:
            return columns, factor
    read = annotation.summary.get("leads_read") or []
    first = [column for column in columns if recording.leads[column] in read]
    columns = first + [column for column in columns if column not in first]
    most = max(1, int(_MOST_SAMPLES * highest / recording.n_samples))
    return sorted(columns[:most]), highest


def _thinned(recording, columns, factor):
    """What the page shows less of than the recording has."""
    text = "To keep this page small it shows "
    if len(columns) < len(recording.leads):
        text += f"{len(columns)} of {len(recording.leads)} leads"
        text += " and " if factor > 1 else ""
    if factor > 1:
        text += f"the signal at {recording.fs / factor:g} Hz; it was read at {recording.fs:g} Hz"
    return text + "."


def _chunk_samples(fs, factor):
    return max(1, round(_CHUNK_S * fs / factor))


def _packed(recording, columns, factor):
    """The signal as texts, one a chunk, its lowest and highest per bin as one text, medians in mV.

    Medians are (chunks, leads), None where nothing was recorded; the last value is samples per bin.
    """
    length = _chunk_samples(recording.fs, factor)  # of a chunk, thinned
    fs, n = recording.fs / factor, -(-recording.n_samples // factor)
    bin_samples = max(1, round(_LEAST_BIN_S * fs), -(-n // _MOST_BINS))
    chunks, medians, lows, highs = [], [], [], []
    rest = np.zeros((0, len(columns)), np.int16)
    for first in range(0, n, length * _BLOCK_CHUNKS):
        steps = _steps(recording, columns, factor, first, min(n, first + length * _BLOCK_CHUNKS))
        for start in range(0, len(steps), length):
            chunk = steps[start : start + length]
            chunks.append(_pack(chunk))
            known = (
                np.ma.masked_equal(chunk, _MISSING).filled(0)
                if (chunk == _MISSING).any()
                else chunk
            )
            medians.append([round(float(v) * STEP_MV, 3) for v in np.median(known, axis=0)])
        rest = np.concatenate([rest, steps])
        whole = len(rest) // bin_samples * bin_samples
        if first + len(steps) == n and whole < len(rest):  # the last bin
            whole = -(-len(rest) // bin_samples) * bin_samples
            rest = np.pad(rest, ((0, whole - len(rest)), (0, 0)), mode="edge")
        bins = rest[:whole].reshape(-1, bin_samples, len(columns))
        missing = bins == _MISSING
        lows.append(np.where(missing.all(axis=1), _MISSING, np.where(missing, 32767, bins).min(1)))
        highs.append(bins.max(axis=1))  # missing is the lowest number
        rest = rest[whole:]
    bins = np.concatenate([np.concatenate(lows), np.concatenate(highs)], axis=1)
    return chunks, _pack(bins.astype(np.int16)), medians, bin_samples


def _steps(recording, columns, factor, first, stop):
    """Samples [first, stop) of the thinned signal as whole steps, int16 (n, leads)."""
    half = 4 * factor if factor > 1 else 0  # taps at either side
    start, end = first * factor, (stop - 1) * factor + 1
    low, high = max(0, start - half), min(recording.n_samples, end + half)
    x = np.asarray(recording.read(low, high))[:, columns]
    missing = ~np.isfinite(x)
    if missing.any():
        x = np.where(missing, 0, x)
    if factor > 1:
        missing = missing[start - low :: factor][: stop - first]
        x = np.pad(x, ((half - (start - low), half - (high - end)), (0, 0)), mode="edge")
        taps = firwin(2 * half + 1, 0.9 / factor).astype(np.float32)
        x = upfirdn(taps, x, 1, 1, axis=0)[2 * half : len(x) : factor]
    steps = np.clip(np.rint(x / STEP_MV), -32767, 32767).astype(np.int16)
    steps[missing] = _MISSING
    return steps


def _pack(steps):
    """Numbers int16 (n, columns) as text, see the head of this module."""
    difference = np.diff(steps.T, axis=1, prepend=np.int16(0))  # wraps around, as reading does
    zigzag = ((difference << 1) ^ (difference >> 15)).view(np.uint16).ravel()
    return _pack_bytes(
        (zigzag & 255).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()
    )


def _pack_bytes(content):
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def _beat_bytes(beats, classes, why, marks):
    """The beats as bytes, column by column: sample, RR before (ms, 0 for none), marks, class ..."""
    certain = np.full(len(beats), 255)  # per cent of the class given, 255 for none
    for name in set(beats["class"]):
        if f"p_{name}" in beats:
            rows = (beats["class"] == name).to_numpy()
            p = beats.loc[rows, f"p_{name}"].to_numpy(float)
            certain[rows] = np.where(np.isfinite(p), np.rint(100 * p), 255)
    rr = np.nan_to_num(beats["rr_before_s"].to_numpy(float) * 1000)
    columns = [
        beats["sample"].to_numpy().astype("<i4"),
        np.clip(np.rint(rr), 0, 65535).astype("<u2"),
    ]
    if marks is not None:
        columns.append(marks.T.astype("<i2"))
    columns += [
        beats["class"].map({name: i for i, name in enumerate(classes)}).to_numpy().astype(np.uint8),
        beats["why"].map({name: i for i, name in enumerate(why)}).to_numpy().astype(np.uint8),
        certain.astype(np.uint8),
    ]
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def _marks_of(beats, waves, fs):
    """Marks of each beat as samples from its R peak, (n_beats, 8), -32768 where there is none."""
    marks = np.full((len(beats), len(_WAVES)), _MISSING)
    if not len(waves):
        return marks
    r = waves["r"].to_numpy(float)
    order = np.argsort(r)
    samples = beats["sample"].to_numpy(float)
    after = np.clip(np.searchsorted(r[order], samples), 1, max(1, len(r) - 1))
    near = np.stack([after - 1, np.minimum(after, len(r) - 1)])
    nearest = near[np.abs(r[order][near] - samples).argmin(axis=0), np.arange(len(samples))]
    row = order[nearest]
    same = np.abs(r[row] - samples) <= 0.06 * fs
    for i, name in enumerate(_WAVES):
        at = waves[name].to_numpy(float, na_value=np.nan)[row] - samples
        known = same & np.isfinite(at) & (np.abs(at) < 32767)
        marks[known, i] = np.rint(at[known])
    return marks


def _windows(annotation):
    """The windows as columns for JSON, probabilities in per cent."""
    table = annotation.windows
    if not len(table):
        return {"start": [], "stop": [], "said": [], "p": []}
    p = table[[f"p_{name}" for name in _classes(annotation)]].to_numpy(float)
    known = [[None if not np.isfinite(v) else round(100 * v) for v in row] for row in p.tolist()]
    return {
        "start": table["start_s"].astype(float).tolist(),
        "stop": table["stop_s"].astype(float).tolist(),
        "said": table["classes"].astype(str).tolist(),
        "p": known,
    }


def _jump(seconds, start):
    """A button with a time that goes there."""
    return Markup('<button class="at" data-s="{:.3f}">{}</button>').format(
        float(seconds), clock(seconds, start)
    )


def _about(recording, annotation):
    """One line under the heading."""
    parts = (
        [] if recording.start is None else [f"{pd.Timestamp(recording.start):%d %B %Y, %H:%M:%S}"]
    )
    parts += [f"{clock(recording.n_samples / recording.fs)} h", ", ".join(recording.leads)]
    parts.append(f"{recording.fs:g} Hz")
    model = annotation.summary.get("model") or annotation.card.get("name")
    return [*parts, f"read by {model}"] if model else parts


def _cards(annotation):
    """The key figures above the trace."""
    said, start = annotation.summary, annotation.summary.get("start")
    cards = []
    if said.get("analysable") is not None:
        lost = said.get("unreadable_s") or {}
        below = (
            ", ".join(f"{why} {clock(s)}" for why, s in lost.items() if s >= 1) or "all readable"
        )
        cards.append((pages.percent(said["analysable"]), "analysable", below, False))
    rate = said.get("heart_rate") or {}
    if rate.get("mean"):
        below = Markup("{:.0f} at {}, {:.0f} at {}").format(
            rate["min"]["bpm"],
            _jump(rate["min"]["time_s"], start),
            rate["max"]["bpm"],
            _jump(rate["max"]["time_s"], start),
        )
        cards.append((f"{rate['mean']['bpm']:.0f}", "beats per minute", below, False))
    for name, share in (said.get("burden") or {}).items():
        count = said["beats"][name]
        if name != "N" and (count or name in ("V", "S")):
            cards.append((pages.percent(share), f"{name} burden", f"{count:,} beats", False))
    if said.get("longest_rr"):
        longest = said["longest_rr"]
        below = Markup("at {}, {} of 3 s or more").format(
            _jump(longest["time_s"], start), said.get("pauses", 0)
        )
        cards.append((f"{longest['seconds']:.2f} s", "longest RR", below, False))
    for name, count in (said.get("windows") or {}).get("classes", {}).items():
        n = said["windows"]["n"]
        if count:
            cards.append((f"{count} of {n}", name, "windows", False))
    return pages.cards(cards) if cards else ""


def _sections(recording, annotation, beats, marks, notes, meta, strips):
    """(identifier, heading, body) of everything under the trace."""
    start = annotation.summary.get("start")
    sections = [("summary", "Summary", _summary(annotation.summary, start))]
    if strips:
        sections.append(("strips", "Strips of each class", " "))  # the template has these two
    if meta["events"]:
        sections.append(("events", "Events", " "))
    if len(annotation.windows):
        sections.append(("windows", "Windows", _windows_table(annotation, start)))
    if marks is not None:
        sections.append(("intervals", "Intervals", _intervals(beats, marks, recording.fs)))
    hours = annotation.summary.get("hours") or []
    if len(hours) > 1:
        sections.append(("hours", "Hour by hour", _hours(hours, start)))
    sections.append(("model", "The model and its limits", _model(annotation.card)))
    if notes:
        sections.append(("notes", "Notes", pages.notes(notes)))
    return [(name, heading, body) for name, heading, body in sections if body]


def _summary(said, start):
    """What a Holter page has: a row per class, then one of rhythm."""
    rows = []
    hours = max(1e-9, (said.get("duration_s") or 0) * (said.get("analysable") or 0) / 3600)
    for name, count in (said.get("beats") or {}).items():
        share = (said.get("burden") or {}).get(name)
        row = ["not classified" if name == _UNREAD else name, f"{count:,}", pages.percent(share, 2)]
        row.append(f"{count / hours:,.0f}")
        runs = (said.get("runs") or {}).get(name)
        if runs is None:
            row += ["-"] * 6
        else:
            row += [said["couplets"][name], runs["n"]]
            for kind, unit in (("longest", "n_beats"), ("fastest", "rate_bpm")):
                run = runs[kind]
                text = Markup("{:.0f}, {}")
                row.append(text.format(run[unit], _jump(run["start_s"], start)) if run else "-")
            row += [said["bigeminy"][name], said["trigeminy"][name]]
        rows.append(row)
    heads = ["class", "beats", "burden", "per hour", "couplets", "runs", "longest run (beats)"]
    heads += ["fastest run (per minute)", "bigeminy", "trigeminy"]
    html = pages.table(heads, rows) if rows else Markup()
    facts = []
    rate = said.get("heart_rate") or {}
    if rate.get("mean"):
        text = Markup("mean {:.0f}, lowest {:.0f} at {}, highest {:.0f} at {}").format(
            rate["mean"]["bpm"],
            rate["min"]["bpm"],
            _jump(rate["min"]["time_s"], start),
            rate["max"]["bpm"],
            _jump(rate["max"]["time_s"], start),
        )
        facts.append(("Heart rate per minute", text))
    if said.get("longest_rr"):
        longest, n = said["longest_rr"], said.get("pauses", 0)
        text = Markup("{:.2f} s at {}; {} pause{} of 3 s or more").format(
            longest["seconds"], _jump(longest["time_s"], start), n, "s" * (n != 1)
        )
        facts.append(("Longest RR", text))
    if said.get("flutter_s"):
        facts.append(("Ventricular flutter or fibrillation", f"{said['flutter_s']} s"))
    for why, seconds in (said.get("unreadable_s") or {}).items():
        facts.append((f"Not readable: {why}", f"{seconds:,.0f} s"))
    if "windows" in said:
        shown = [
            (name, count, pages.percent(said["windows"]["mean_probability"].get(name)))
            for name, count in said["windows"]["classes"].items()
        ]
        html += pages.table(["class", "windows", "mean probability"], shown)
    return html + (pages.facts(facts) if facts else Markup())


def _strips(annotation, beats, meta, start):
    """Some sharp examples of each class: the surest beat of each third of the recording.

    Rows are class, seconds, button to go there, caption.
    """
    chosen = []
    for name in meta["classes"]:
        rows = np.flatnonzero((beats["class"] == name).to_numpy())
        if name in (_UNREAD, "") or not len(rows):
            continue
        sure = beats[f"p_{name}"].to_numpy(float) if f"p_{name}" in beats else np.ones(len(beats))
        sure = np.nan_to_num(sure * np.nan_to_num(beats["quality"].to_numpy(float), nan=1.0))
        chosen += [
            (name, int(part[sure[part].argmax()]))
            for part in np.array_split(rows, _PER_CLASS)
            if len(part)
        ]
    shown = []
    for name, row in chosen:
        at = beats["time_s"].iloc[row]
        p = beats[f"p_{name}"].iloc[row] if f"p_{name}" in beats else np.nan
        text = f"p {p:.2f}" if np.isfinite(p) else ""
        rr = beats["rr_before_s"].iloc[row]
        text += f", RR {1000 * rr:.0f} ms" if np.isfinite(rr) else ""
        shown.append((name, f"{at:.3f}", _jump(at, start), text.removeprefix(", ")))
    return shown


def _windows_table(annotation, start):
    """Classes and probabilities of each window."""
    table, classes = annotation.windows, _classes(annotation)
    rows = [
        [
            _jump(row["start_s"], start),
            row["classes"] or "none",
            *(
                pages.decimal(p if np.isfinite(p := row[f"p_{name}"]) else None, 2)
                for name in classes
            ),
        ]
        for row in table.head(_MOST_WINDOWS).to_dict("records")
    ]
    more = len(table) - len(rows)
    html = pages.table(["from", "classes", *classes], rows, numbers_from=2)
    return html + (pages.paragraph(f"and {more:,} more", quiet=True) if more else "")


def _intervals(beats, marks, fs):
    """PR, QRS, QT and QTc over the beats that have both marks: median and the middle 90 %."""
    at = dict(zip(_WAVES, np.where(marks == _MISSING, np.nan, marks).T * 1000 / fs))
    rr = beats["rr_before_s"].to_numpy(float)
    normal = (beats["class"] == "N").to_numpy() if (beats["class"] == "N").any() else slice(None)
    qt = at["t_off"] - at["qrs_on"]
    found = {
        "PR": at["qrs_on"] - at["p_on"],
        "QRS": at["qrs_off"] - at["qrs_on"],
        "QT": qt,
        "QTc (Bazett)": qt / np.sqrt(rr),
        "QTc (Fridericia)": qt / np.cbrt(rr),
    }
    rows = []
    for name, values in found.items():
        values = values[normal]
        values = values[np.isfinite(values)]
        if len(values):
            low, middle, high = np.percentile(values, [5, 50, 95])
            rows.append(
                [name, f"{middle:.0f} ms", f"{low:.0f} to {high:.0f} ms", f"{len(values):,}"]
            )
    of = "beats N" if not isinstance(normal, slice) else "all beats"
    text = f"Of {of}, one lead, marked by a program; RR is the interval before the beat."
    table = pages.table(["interval", "median", "middle 90 %", "beats"], rows)
    return table + pages.paragraph(text, quiet=True) if rows else ""


def _hours(hours, start):
    """A row per hour."""
    names = [name for name in hours[0] if name not in ("hour", "analysable", "n_beats", "rate_bpm")]
    rows = [
        [
            _jump(3600 * row["hour"], start),
            f"{row['n_beats']:,}",
            pages.decimal(row["rate_bpm"], 0),
            *(f"{row[name]:,}" for name in names),
            pages.percent(row["analysable"]),
        ]
        for row in hours
    ]
    return pages.table(["from", "beats", "rate per minute", *names, "analysable"], rows)


def _model(card):
    """The model's card as it comes: names and values."""
    facts = []
    for name, value in card.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            text = ", ".join(value)
        if isinstance(value, dict):
            text = "; ".join(f"{key}: {item}" for key, item in value.items())
        text = text if len(text) <= _CARD_LETTERS else text[:_CARD_LETTERS] + " ..."
        facts.append((str(name).replace("_", " "), text))
    warning = pages.paragraph(
        "A program read this recording. That is no diagnosis: look at the trace before you decide."
    )
    return warning + (pages.facts(facts) if facts else "")
