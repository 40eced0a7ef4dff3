"""Annotate recordings, one or a folder: class of every beat, events, Holter summary, page, files.

Conventions
-----------
A recording is whatever `recordings.open_recording` opens. `sample` counts from 0 at the recording's
own rate; times are seconds from its start. Beats that cannot be read are kept with the class "?"
and the reason; peaks inside ventricular flutter or fibrillation are not beats.

Rows are made by `beats.beat_views`, which made those that the model was trained on. A recording is
read in blocks of half an hour with minutes of context around, so its length costs no memory.

Of a folder, each recording gets a folder of its own. It is done when its summary.json says what it
was made from: sizes and times of its files, the model's checksum and the options. So the same
command goes on where it was stopped, and does again what has changed.
"""

import collections
import contextlib
import hashlib
import html
import os
import pathlib
import re
import struct
import sys
import urllib.parse
import uuid
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from ecg_keras import pages
from ecg_keras._checks import CallableModule, check_option, check_positive, require
from ecg_keras.beats import AAMI_CLASSES
from ecg_keras.layers import model_card
from ecg_keras.pages import clock
from ecg_keras.recordings import ANNOTATION_CODES, UNREADABLE, open_recording
from ecg_keras.saved_models import load_model, model_file, predict_windows
from ecg_keras.signals import QUALITY, fill_gaps
from ecg_keras.storage import (
    atomic_path,
    check_free,
    fingerprint,
    is_ours,
    read_json,
    write_json,
    write_text,
)
from ecg_keras.streams import (
    BEATS_OF_RATE,
    UNREAD,
    Reader,
    Reading,
    annotate_causally,
    choose_columns,
    find_beats,
    model_reads,
)
from ecg_keras.waves import delineate

FILES = ("beats.csv", "summary.json", "record.html")  # beside NAME.ecg
_BLOCK_S = 1800  # read at once
_AROUND_S, _BEFORE_S = 30, 360  # and around it; before it for rows that need what is usual there
_WAVES_S = 7200  # up to this length, the page shows P, QRS and T and their intervals
_PAUSE_S = 3.0
_SLOW_BPM, _FAST_BPM, _LASTING_S = 50.0, 120.0, 10.0
# of folders
BACKENDS = ("loky", "ray", "dask")
ENDINGS = (".hea", ".csv", ".csv.gz", ".tsv", ".parquet", ".pq", ".edf", ".bdf")
_FILES = ("summary.csv", "index.html", "folder.json")
_TRIES = 2  # of a recording whose worker died
_MODELS = {}  # of this process: checksum to model


@dataclass(frozen=True, eq=False)
class Annotation:
    """What `annotate` found in one recording; shows itself in notebooks.

    Parameters
    ----------
    name : str
    fs : float
        Sampling rate of the recording, in Hz.
    leads : tuple of str
        All leads of the recording.
    duration_s : float
    start : datetime or None
    beats : DataFrame
        A row per beat: ``sample``, ``time_s``, ``class`` ("?" where not classified), ``why`` it is
        not (noise, flat, clipped, missing, unlike), ``p_`` and the class's name for each class,
        ``rr_before_s``, ``rr_after_s``, ``rate_bpm``, ``quality`` (0 to 1).
    events : DataFrame
        ``kind``, ``class``, ``start_s``, ``stop_s``, ``n_beats``, ``rate_bpm``, ``text``.
    spans : DataFrame
        Stretches that cannot be read: ``start_s``, ``stop_s``, ``lead`` ("" for all), ``why``.
    windows : DataFrame
        Of a model that reads whole records: ``start_s``, ``stop_s``, ``p_`` and name, ``classes``.
    summary : dict
        What summary.json holds.
    card : dict
        The model's card.
    notes : tuple of str
        What was assumed or converted.
    """

    name: str
    fs: float
    leads: tuple
    duration_s: float
    start: object
    beats: pd.DataFrame
    events: pd.DataFrame
    spans: pd.DataFrame
    windows: pd.DataFrame
    summary: dict
    card: dict
    notes: tuple

    def __str__(self):
        return "\n".join(": ".join(line) for line in summary_lines(self.summary))

    def _repr_html_(self):
        tables = [pages.facts(summary_lines(self.summary))]
        if len(self.windows):
            tables.append(self.windows.head(12).to_html(index=False, float_format="%.3f"))
        if len(self.events):
            shown = self.events.drop(columns=["stop_s"]).head(12)
            tables.append(shown.to_html(index=False, float_format="%.1f"))
        title = f"<h3>{html.escape(self.name)}</h3>"
        return title + "".join(map(str, tables)) + str(pages.notes(self.notes))

    def write(self, out_dir, recording, *, page=True):
        """Write NAME.ecg, beats.csv, summary.json and record.html; returns the folder.

        Parameters
        ----------
        out_dir : path
            Made if absent. Files in it that this package did not write are not replaced.
        recording : OpenRecording
            What was annotated; its signal is drawn on the page.
        page : bool, default True
            Write record.html too, which takes most of the time.
        """
        out_dir, ending = pathlib.Path(out_dir), file_name(self.name) + ".ecg"
        check_free(out_dir, [*FILES, ending], "summary.json")
        there = (read_json(out_dir / "summary.json") or {}).get("record", self.name)
        if there != self.name:
            raise ValueError(
                f"{out_dir} holds the annotation of {there}, which that of {self.name} would "
                "replace; give another out_dir."
            )
        # a kill before the end leaves this: it says that the folder is ours
        if not (out_dir / "summary.json").exists():
            begun = {"record": self.name, "n_beats": None, "heart_rate": None}
            write_json(out_dir / "summary.json", begun)
        _write_wfdb(out_dir / ending, self)
        with atomic_path(out_dir / "beats.csv") as part:
            self.beats.to_csv(part, index=False, float_format="%.5g")
        if page:
            from ecg_keras.record_page import write_record_page

            waves = _waves(recording, self)
            write_record_page(out_dir / "record.html", recording, self, waves=waves)
        write_json(out_dir / "summary.json", self.summary)
        return out_dir


def annotate(
    model,
    recording,
    *,
    fs=None,
    leads=None,
    lead=None,
    unit=None,
    out_dir=None,
    causal=False,
):
    """Find and classify every beat of a recording, or run a model that reads whole records on it.

    Parameters
    ----------
    model : keras.Model, path or str
        A saved model (`load_model`), its file, or the name of one that ships
        (`list_pretrained`).
    recording : path, array, DataFrame or OpenRecording
        See `recordings.open_recording`: WFDB, CSV, Parquet or EDF, or values (samples, leads).
    fs : float, optional
        Sampling rate in Hz, where the recording does not say it.
    leads : sequence of str, optional
        Names of the leads of an array.
    lead : str or sequence of str, optional
        Which lead, or leads, to read. By default those that the model was trained on; where they
        are not there, those that are read best.
    unit : str or float, optional
        Unit of values without one: "mV" (the default), "uV", "V", or mV per unit.
    out_dir : path, optional
        Folder for NAME.ecg (a WFDB annotation file), beats.csv, summary.json and record.html.
    causal : bool, default False
        Use of each beat's future only what a `StreamingAnnotator` waits for.

    Returns
    -------
    Annotation

    Raises
    ------
    ValueError
        If the recording cannot be read, lacks a lead that is asked for, or is not what the model
        takes; says what came and what is expected.

    Notes
    -----
    Couplets are two V (or S) beats in a row, runs three or more. Bigeminy is at least three cycles
    of a beat N and an ectopic one, trigeminy of two N and one. A pause lasts at least 3 s.
    Bradycardia is a mean rate under 50 per minute over 8 intervals for at least 10 s, tachycardia
    one over 120.

    Examples
    --------
    >>> import keras
    >>> from ecg_keras import ECGDataset, build_model
    >>> from ecg_keras.demo import simulate_patient
    >>> from ecg_keras.saved_models import served
    >>> rows = ECGDataset(np.zeros((4, 500, 1)), [0, 1, 0, 1], classes=["rest", "run"], fs=100)
    >>> model = served(build_model("cnn1d", like=rows, filters=(4,)), rows)
    >>> patient = simulate_patient(0, duration_s=20)
    >>> found = annotate(model, patient.signal[:, 0], fs=patient.fs, lead=None)
    >>> len(found.windows), found.windows.columns[2]
    (4, 'p_rest')
    """
    model = load_model(model) if isinstance(model, (str, pathlib.Path)) else model
    card = model_card(model)
    if card is None:
        raise ValueError("the model carries no card; give one that load_model loaded.")
    if card.get("modality", "ECG") != "ECG":
        raise ValueError(
            f"the model reads {card['modality']}, and annotate looks for heart beats; "
            "predict(model, recording) gives its classes."
        )
    source = open_recording(recording, fs=fs, leads=leads, unit=unit)
    notes = list(source.notes)
    kind = model_reads(card)
    columns = choose_columns(source, card, lead, notes)
    if causal:
        read = annotate_causally(model, source, columns)
    else:
        read = _in_blocks(Reader(model, source.name, source.fs, columns), source)
    beats = read.beats_table(source.fs, [] if kind == "rows" else card["classes"])
    spans, windows = read.spans(source.leads), pd.DataFrame()
    if kind == "rows":
        windows = _windows_table(model, card, source, read)
    duration_s = source.n_samples / source.fs
    events = find_events(beats, read.flutter_spans())
    summary = _summary(source, card, beats, events, spans, read, windows, duration_s)
    summary["notes"] = list(dict.fromkeys(notes))
    annotation = Annotation(
        source.name,
        source.fs,
        source.leads,
        duration_s,
        source.start,
        beats,
        events,
        spans,
        windows,
        summary,
        dict(card),
        tuple(summary["notes"]),
    )
    if out_dir is not None:
        annotation.write(out_dir, source)
    return annotation


def _in_blocks(reader, source):
    """Read a recording block by block; returns a `Reading`."""
    fs, seconds = source.fs, int(np.ceil(source.n_samples / source.fs))
    before_s = _AROUND_S if reader.bounded else _BEFORE_S
    parts, at, last_peak = [], 0, -source.fs
    while at < seconds:
        stop = seconds if seconds - at <= 1.5 * _BLOCK_S else at + _BLOCK_S
        first_s, last_s = max(0, at - before_s), min(seconds, stop + _AROUND_S)
        first, last = round(first_s * fs), min(source.n_samples, round(last_s * fs))
        x = source.read(first, last)[:, reader.columns]
        peaks, states, flutter = find_beats(x, fs=fs)
        own = (peaks + first >= max(round(at * fs), last_peak + 0.2 * fs)) & (
            peaks + first < round(stop * fs)
        )
        second = np.minimum((peaks / fs).astype(int), len(states) - 1)
        readable = states[second] == 0  # (n_beats, leads read)
        probabilities = np.full((len(peaks), 0), np.nan)
        why = np.array(("", *QUALITY[1:]))[states[second].min(axis=1)]  # of the lead read best
        if reader.kind != "rows":
            found = (fill_gaps(x), peaks, readable)
            probabilities = reader.probabilities(*found, own=own, start=first)
            why[(why == "") & np.isnan(probabilities).any(axis=1)] = "unlike"
        inside = slice(at - first_s, stop - first_s)
        parts.append(
            (peaks[own] + first, probabilities[own], why[own], states[inside], flutter[inside])
        )
        last_peak = parts[-1][0][-1] if own.any() else last_peak
        at = stop
    return Reading(reader.columns, *map(np.concatenate, zip(*parts)))


def _windows_table(model, card, source, read):
    """Classes of a model that reads whole records, window by window."""
    starts, probabilities = predict_windows(model, source, read.columns)
    length_s = card["n_samples"] / card["fs"]
    thresholds = card.get("thresholds") or [0.5] * len(card["classes"])
    table = {"start_s": starts, "stop_s": starts + length_s}
    table |= {f"p_{name}": probabilities[:, i] for i, name in enumerate(card["classes"])}
    good = (read.states == 0).mean(axis=1)
    said = []
    for start, row in zip(starts, probabilities):
        if good[int(start) : int(np.ceil(start + length_s))].mean() < 0.5:
            said.append(UNREAD)
        elif card["task"] == "multi-label":
            said.append(" ".join(n for n, p, t in zip(card["classes"], row, thresholds) if p >= t))
        else:
            said.append(card["classes"][row.argmax()])
    return pd.DataFrame(table | {"classes": said})


def find_events(beats, flutter=()):
    """Couplets, runs, bigeminy, trigeminy, pauses, brady- and tachycardia; see `annotate`.

    Parameters
    ----------
    beats : DataFrame
        As `Annotation.beats`.
    flutter : sequence of (float, float)
        Stretches of ventricular flutter, in seconds.

    Returns
    -------
    DataFrame
        As `Annotation.events`, in the order of time.

    Examples
    --------
    >>> beats = pd.DataFrame({"time_s": np.arange(6.0), "class": list("NVVNNN")})
    >>> beats["rr_before_s"] = beats["time_s"].diff()
    >>> find_events(beats)["text"].tolist()
    ['longest RR interval, 1.00 s', 'couplet of V']
    """
    time, label = beats["time_s"].to_numpy(), beats["class"].to_numpy()
    rr = beats["rr_before_s"].to_numpy()
    rows = []

    def add(kind, of, first, last, text):
        n = last - first + 1
        span = time[last] - time[first]
        rate = 60 * (n - 1) / span if n > 1 and span > 0 else np.nan
        rows.append((kind, of, time[first], time[last], n, rate, text))

    broken = np.isnan(rr)
    for of in ("V", "S"):
        for first, last in _runs(label == of, broken):
            n = last - first + 1
            if n == 2:
                add("couplet", of, first, last, f"couplet of {of}")
            elif n > 2:
                rate = 60 * (n - 1) / (time[last] - time[first])
                add("run", of, first, last, f"run of {n} {of} beats at {rate:.0f} per minute")
        single = (label == of) & (np.roll(label, 1) != of) & (np.roll(label, -1) != of)
        for step, kind in ((2, "bigeminy"), (3, "trigeminy")):
            for first, last in _cycles(label, single, broken, step):
                n = (last - first) // step + 1
                add(kind, of, max(0, first - step + 1), last, f"{kind} with {n} {of} beats")
    for i in np.flatnonzero(rr >= _PAUSE_S):
        add("pause", "", i - 1, i, f"pause of {rr[i]:.1f} s")
    if np.isfinite(rr).any():
        i = int(np.nanargmax(rr))
        add("longest_rr", "", i - 1, i, f"longest RR interval, {rr[i]:.2f} s")
    rate = mean_rates(rr)
    for kind, wanted in (("bradycardia", rate < _SLOW_BPM), ("tachycardia", rate > _FAST_BPM)):
        for first, last in _runs(wanted, broken):
            first = max(0, first - BEATS_OF_RATE)
            if time[last] - time[first] >= _LASTING_S:
                inside = rate[first : last + 1]
                worst = np.nanmin(inside) if kind == "bradycardia" else np.nanmax(inside)
                add(kind, "", first, last, f"{kind}, {worst:.0f} per minute")
    for start, stop in flutter:
        text = f"ventricular flutter or fibrillation, {stop - start:.0f} s"
        rows.append(("flutter", "V", float(start), float(stop), 0, np.nan, text))
    names = ["kind", "class", "start_s", "stop_s", "n_beats", "rate_bpm", "text"]
    return pd.DataFrame(rows, columns=names).sort_values(
        "start_s", ignore_index=True, kind="stable"
    )


def mean_rates(rr):
    """Heart rate over the 8 RR intervals that end at each beat, per minute; NaN across gaps."""
    return 60 / pd.Series(rr).rolling(BEATS_OF_RATE).mean().to_numpy()


def _runs(wanted, broken):
    """(first, last) of each stretch of neighbours that are wanted, cut where `broken` is True."""
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return []
    cut = (np.diff(rows) > 1) | broken[rows[1:]]
    firsts, lasts = rows[np.append(True, cut)], rows[np.append(cut, True)]
    return list(zip(firsts.tolist(), lasts.tolist()))


def _cycles(label, single, broken, step):
    """(first, last) ectopic beat of stretches where every `step`-th beat is one, the rest N."""
    rows, found = np.flatnonzero(single), []
    first = 0
    follows = []
    for a, b in zip(rows[:-1], rows[1:]):
        between = label[a + 1 : b]
        whole = b - a == step and (between == "N").all() and not broken[a + 1 : b + 1].any()
        follows.append(whole)
    for i, whole in enumerate([*follows, False]):
        if not whole:
            if i - first >= 2:
                found.append((int(rows[first]), int(rows[i])))
            first = i + 1
    return found


def _summary(source, card, beats, events, spans, read, windows, duration_s):
    """What a Holter page has, as a dict for JSON."""
    classes = [*card["classes"], UNREAD] if len(windows) == 0 else []
    readable = read.readable()
    label, time = beats["class"].to_numpy(), beats["time_s"].to_numpy()
    n_known = int((label != UNREAD).sum()) if classes else len(beats)
    counts = {name: int((label == name).sum()) for name in classes}
    burden = {
        name: counts[name] / n_known if n_known else None for name in classes if name != UNREAD
    }
    summary = {
        "record": source.name,
        "start": None if source.start is None else source.start.isoformat(),
        "duration_s": duration_s,
        "fs": source.fs,
        "leads": list(source.leads),
        "leads_read": [source.leads[column] for column in read.columns],
        "model": card.get("name") or card.get("model"),
        "analysable": float(readable.mean()) if len(readable) else 0.0,
        "unreadable_s": {
            why: float((part["stop_s"] - part["start_s"]).sum())
            for why, part in spans[spans["lead"] == ""].groupby("why")
        },
        "flutter_s": int(read.flutter.sum()),
        "n_beats": len(beats),
        "beats": counts,
        "burden": burden,
        "heart_rate": _heart_rate(beats),
    }
    if classes:
        summary |= {"couplets": {}, "runs": {}, "bigeminy": {}, "trigeminy": {}}
        for of in [name for name in ("V", "S") if name in counts]:
            mine = events[events["class"] == of]
            runs = mine[mine["kind"] == "run"]
            for kind in ("bigeminy", "trigeminy"):
                summary[kind][of] = int((mine["kind"] == kind).sum())
            summary["couplets"][of] = int((mine["kind"] == "couplet").sum())
            summary["runs"][of] = {
                "n": len(runs),
                "longest": _extreme_run(runs, "n_beats"),
                "fastest": _extreme_run(runs, "rate_bpm"),
            }
    pauses = events[events["kind"] == "pause"]
    longest = events[events["kind"] == "longest_rr"]
    summary["pauses"] = len(pauses)
    summary["longest_rr"] = None
    if len(longest):
        row = longest.iloc[0]
        summary["longest_rr"] = {
            "seconds": float(row["stop_s"] - row["start_s"]),
            "time_s": float(row["start_s"]),
        }
    summary["hours"] = _hours(label, time, readable, classes, duration_s)
    if len(windows):
        summary["windows"] = {
            "n": len(windows),
            "length_s": card["n_samples"] / card["fs"],
            "classes": {
                name: int(windows["classes"].str.split().map(lambda said, n=name: n in said).sum())
                for name in [*card["classes"], UNREAD]
            },
            "mean_probability": {
                name: float(windows[f"p_{name}"].mean()) for name in card["classes"]
            },
        }
    return summary


def _heart_rate(beats):
    """Minimum, mean and maximum heart rate, with their times; over beats that were read."""
    rr = beats["rr_before_s"].to_numpy().copy()
    unread = beats["class"].to_numpy() == UNREAD
    rr[unread | np.roll(unread, 1)] = np.nan
    rates, time = mean_rates(rr), beats["time_s"].to_numpy()
    if not np.isfinite(rates).any():
        return {"min": None, "mean": None, "max": None}
    low, high = int(np.nanargmin(rates)), int(np.nanargmax(rates))
    return {
        "min": {"bpm": float(rates[low]), "time_s": float(time[low])},
        "mean": {"bpm": float(60 / np.nanmean(rr))},
        "max": {"bpm": float(rates[high]), "time_s": float(time[high])},
    }


def _extreme_run(runs, column):
    """The run with the largest value of a column, as a dict; None where there is none."""
    if not len(runs):
        return None
    row = runs.loc[runs[column].idxmax()]
    return {
        "n_beats": int(row["n_beats"]),
        "rate_bpm": float(row["rate_bpm"]),
        "start_s": float(row["start_s"]),
    }


def _hours(label, time, readable, classes, duration_s):
    """Beats of each class, mean rate and readable share of each hour."""
    hours = []
    for hour in range(int(np.ceil(duration_s / 3600))):
        inside = (time >= 3600 * hour) & (time < 3600 * (hour + 1))
        seconds = readable[3600 * hour : 3600 * (hour + 1)]
        known = int(seconds.sum())
        row = {"hour": hour, "analysable": float(seconds.mean()), "n_beats": int(inside.sum())}
        row["rate_bpm"] = 60 * row["n_beats"] / known if known else None
        row |= {name: int((label[inside] == name).sum()) for name in classes}
        hours.append(row)
    return hours


def summary_lines(summary):
    """The summary as pairs of texts, for a page or a terminal."""
    start = None if summary["start"] is None else pd.Timestamp(summary["start"])
    lines = [
        ("Recording", f"{summary['record']}, {clock(summary['duration_s'])}"),
        ("Leads read", ", ".join(summary["leads_read"])),
        ("Analysable", pages.percent(summary["analysable"])),
        ("Beats", f"{summary['n_beats']:,}"),
    ]
    for name, count in summary["beats"].items():
        share = summary["burden"].get(name)
        text = f"{count:,}" + ("" if share is None else f" ({pages.percent(share)})")
        lines.append(("Not classified" if name == UNREAD else f"Beats {name}", text))
    rate = summary["heart_rate"]
    if rate["mean"] is not None:
        low, high = rate["min"], rate["max"]
        text = f"mean {rate['mean']['bpm']:.0f}, lowest {low['bpm']:.0f} at "
        text += f"{clock(low['time_s'], start)}, highest {high['bpm']:.0f} at "
        lines.append(("Heart rate per minute", text + clock(high["time_s"], start)))
    for of, runs in summary.get("runs", {}).items():
        text = f"{summary['couplets'][of]} couplets, {runs['n']} runs"
        if runs["longest"]:
            longest, fastest = runs["longest"], runs["fastest"]
            text += f"; longest {longest['n_beats']} beats at {clock(longest['start_s'], start)}"
            text += f", fastest {fastest['rate_bpm']:.0f} per minute"
        text += f"; bigeminy {summary['bigeminy'][of]}, trigeminy {summary['trigeminy'][of]}"
        lines.append((f"Ectopy {of}", text))
    if summary["longest_rr"]:
        longest = summary["longest_rr"]
        text = f"{longest['seconds']:.2f} s at {clock(longest['time_s'], start)}; "
        lines.append(("Longest RR", text + f"{summary['pauses']} pauses of 3 s or more"))
    if summary["flutter_s"]:
        lines.append(("Ventricular flutter or fibrillation", f"{summary['flutter_s']} s"))
    if "windows" in summary:
        said = summary["windows"]
        text = ", ".join(f"{name} {count}" for name, count in said["classes"].items() if count)
        lines.append((f"Windows of {said['length_s']:g} s", f"{said['n']}: {text or 'none'}"))
    return lines


def _waves(recording, annotation):
    """P, QRS and T of each beat in the first lead read, for the page; None for long recordings."""
    if annotation.duration_s > _WAVES_S or not len(annotation.beats):
        return None
    column = recording.leads.index(annotation.summary["leads_read"][0])
    x = recording.read(0, recording.n_samples)[:, column]
    return delineate(x, fs=recording.fs, peaks=annotation.beats["sample"])


def file_name(name):
    """A record's name as WFDB allows it in a file name.

    Examples
    --------
    >>> file_name("Holter of 3 May.edf")
    'Holter_of_3_May_edf'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "record"


def _write_wfdb(path, annotation):
    """Write the beats as a WFDB annotation file, whole or not at all.

    Written here, because ``wfdb.wrann`` before 4.2, which Kaggle gets, fails under NumPy 2.
    """
    fs, beats, spans = annotation.fs, annotation.beats, annotation.spans
    notes = []  # (sample, symbol, subtype, text)
    for sample, label in zip(beats["sample"], beats["class"]):
        known = label in AAMI_CLASSES
        text = "" if known or label == UNREAD else str(label)
        notes.append((int(sample), label if known else "Q", 0, text))
    flutter = annotation.events[annotation.events["kind"] == "flutter"]
    for start_s, stop_s in flutter[["start_s", "stop_s"]].to_numpy():
        notes.append((round(start_s * fs), "[", 0, ""))
        notes.append((round(stop_s * fs) - 1, "]", 0, ""))
    for start_s, stop_s in spans.loc[spans["lead"] == "", ["start_s", "stop_s"]].to_numpy():
        notes.append((round(start_s * fs), "~", UNREADABLE, ""))
        notes.append((round(stop_s * fs) - 1, "~", 0, ""))
    notes.sort(key=lambda note: note[0])
    # the rate is told as WFDB does it: a comment before all others, and a step back of one
    made = [_coded(0, '"', 0, f"## time resolution: {fs:.12g}"), bytes([0, 236, *[255] * 4, 1, 0])]
    before = 0
    for sample, symbol, subtype, text in notes:
        made.append(_coded(sample - before, symbol, subtype, text))
        before = sample
    with atomic_path(path) as part:
        part.write_bytes(b"".join(made) + bytes(2))


def _coded(step, symbol, subtype, text):
    """One annotation in WFDB's MIT format, `step` samples after the one before."""
    word = lambda code, value: struct.pack("<H", code << 10 | value)
    far = word(59, 0) + struct.pack("<HH", step >> 16, step & 0xFFFF) if step > 1023 else b""
    made = far + word(ANNOTATION_CODES.index(symbol), 0 if far else step)
    if subtype:
        made += word(61, subtype)
    text = text.encode("ascii", "replace")[:255]
    return made + (word(63, len(text)) + text + bytes(len(text) % 2) if text else b"")


def annotate_folder(
    model,
    recordings,
    out_dir,
    *,
    workers=1,
    backend="loky",
    recursive=False,
    fs=None,
    lead=None,
    unit=None,
    causal=False,
):
    """Annotate recordings, each into a folder of its own, with one table and page of all.

    Parameters
    ----------
    model : path or str
        A model file, or the name of one that ships.
    recordings : path, or sequence of path
        Folders, recordings (see `recordings.open_recording`), or both.
    out_dir : path
        Made if absent.
    workers : int, default 1
        Processes; each loads the model once, and takes its share of the cores. With 1 no process
        is started.
    backend : {"loky", "ray", "dask"}, default "loky"
        What runs the workers, through joblib. Ray and Dask use the cluster that RAY_ADDRESS or
        DASK_SCHEDULER_ADDRESS names, which must see the same files; without one they start
        `workers` local workers.
    recursive : bool, default False
        Look into the folders of folders too.
    fs, lead, unit, causal
        For every recording, see `annotate`.

    Returns
    -------
    table : DataFrame
        What summary.csv holds: a row per recording. ``why`` is "" for those annotated, else the
        reason why not.

    Raises
    ------
    ValueError
        If there is no recording, `out_dir` holds files of others, or no recording could be
        annotated; the message has the first reason.

    Notes
    -----
    A recording that cannot be read is listed, and the others go on. If a worker dies, what it had
    is done again by itself; a recording whose worker dies twice is listed.

    Examples
    --------
    >>> annotate_folder("mitbih_beats", "records", "annotated", workers=2)  # doctest: +SKIP
    """
    check_option("backend", backend, BACKENDS)
    if check_positive("workers", workers) != int(workers):
        raise ValueError(f"workers must be a whole number, got {workers}.")
    out_dir = pathlib.Path(out_dir)
    check_free(out_dir, _FILES, "folder.json")
    file = model_file(model)
    options = {"fs": fs, "lead": lead, "unit": unit, "causal": causal}
    jobs = _name(find_recordings(recordings, recursive=recursive, out_dir=out_dir), out_dir)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    out_dir.mkdir(parents=True, exist_ok=True)
    made = {
        str(path): {"files": _stamps(path), "model": digest, "options": fingerprint(options)}
        for path in jobs
    }
    open_jobs = [path for path in jobs if not _is_done(jobs[path], made[str(path)])]
    failed = _run(file, jobs, made, open_jobs, options, int(workers), backend, digest)
    table = pd.DataFrame([_row(path, jobs[path], out_dir, failed.get(path, "")) for path in jobs])
    _write(out_dir, table, model)
    if not (table["why"] == "").any():
        path, why = table.iloc[0][["path", "why"]]
        raise ValueError(f"none of {len(table)} recordings could be annotated. {path}: {why}")
    return table


def find_recordings(paths, *, recursive=False, out_dir=None):
    """Recordings in folders, as pairs (folder that was given or None, path), in order.

    Headers of segments belong to their record, and tables in folders that `annotate` wrote are no
    recordings.

    Raises
    ------
    ValueError
        If a folder holds none; names a folder below that does.

    Examples
    --------
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "night.csv").touch()
    >>> [path.name for _, path in find_recordings(folder)]
    ['night.csv']
    """
    found = []
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        path = pathlib.Path(given)
        if not path.is_dir() or path.with_name(path.name + ".hea").is_file():
            found.append((None, path))
            continue
        inside = _inside(path, out_dir)
        if recursive:
            below = [folder for folder in sorted(path.rglob("*")) if folder.is_dir()]
            inside += [file for folder in below for file in _inside(folder, out_dir)]
        if not inside:
            below = [folder for folder in sorted(path.glob("*/")) if _inside(folder, out_dir)]
            hint = f" {below[0]} does: give that folder, or --recursive." if below else ""
            raise ValueError(
                f"{path} holds no recordings (WFDB with a .hea file, CSV, Parquet or EDF).{hint}"
            )
        found += [(path, file) for file in inside]
    if not found:
        raise ValueError("there are no recordings to annotate.")
    return list({path.resolve(): (root, path) for root, path in found}.values())


def _inside(folder, out_dir):
    """Recordings directly in a folder, sorted; WFDB's without their ending."""
    if is_ours(folder / "summary.json") or is_ours(folder / "folder.json"):
        return []
    if out_dir is not None and folder.resolve() == out_dir.resolve():
        return []
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ENDINGS) and file.is_file() and file.name[0] != "."
    ]
    headers = [file for file in files if file.suffix == ".hea"]
    segments = {name for file in headers for name in _named(file) if "." not in name}
    return [
        file.with_suffix("") if file.suffix == ".hea" else file
        for file in files
        if file.suffix != ".hea" or file.stem not in segments
    ]


def _named(header):
    """Files, or segments, that a WFDB header names."""
    try:
        lines = header.read_text(errors="replace").splitlines()
    except OSError:
        return []
    lines = [line.split() for line in lines if line.strip() and line[0] != "#"]
    return [line[0] for line in lines[1:] if line[0] not in ("~", "-")]


def _name(found, out_dir):
    """Recordings to their folders under `out_dir`; no two share one."""
    choices = []  # of each, the longer the less likely is another's
    for root, path in found:
        inner = [file_name(part) for part in path.parent.relative_to(root).parts] if root else []
        stem = path.name
        for ending in ENDINGS:
            stem = stem.removesuffix(ending)
        full, above = file_name(path.name), path.parent.resolve().parts[1:]
        choices.append(
            [(*inner, file_name(stem)), (*inner, full), (file_name("_".join(above)), full)]
        )
    names = [of[0] for of in choices]
    for longer in (1, 2):  # all that share a name get a longer one, whatever their order
        count = collections.Counter(names)
        names = [of[longer] if count[name] > 1 else name for of, name in zip(choices, names)]
    if len(set(names)) < len(names):
        raise ValueError("two recordings would share a folder; annotate them one by one.")
    return {path: out_dir.joinpath(*name) for (_, path), name in zip(found, names)}


def _stamps(path):
    """Name, size and time of each file of a recording."""
    files, header = [path], path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    if header.is_file():
        files, more = [], [header]
        while more:
            file = more.pop()
            files.append(file)
            if file.suffix == ".hea":
                names = [file.with_name(name) for name in _named(file)]
                names = [n if "." in n.name else n.with_name(n.name + ".hea") for n in names]
                more += [name for name in names if name not in files]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats)]


def _is_done(folder, made):
    """True for a folder whose files were all written, from what is there now."""
    summary = read_json(folder / "summary.json")
    if not isinstance(summary, dict) or summary.get("made_from") != made:
        return False
    names = ("beats.csv", "record.html", f"{file_name(summary['record'])}.ecg")
    return all((folder / name).is_file() for name in names)


def _run(file, jobs, made, open_jobs, options, workers, backend, digest):
    """Annotate the open recordings; returns the reason for each that could not be."""
    failed, deaths, run = {}, dict.fromkeys(open_jobs, 0), uuid.uuid4().hex
    waiting = [(path, str(jobs[path]), made[str(path)]) for path in open_jobs]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="record", disable=None)
        )
        if waiting and workers > 1:
            stack.enter_context(_backend(backend, workers))
        while waiting:
            # what was in hand when a worker died goes alone, so that it harms no other
            careful = [job for job in waiting if deaths[job[0]]]
            batch = [job for job in waiting if not deaths[job[0]]] or careful[:1]
            try:
                for path, why in _outcomes(file, digest, batch, options, run, workers, backend):
                    bar.update()
                    if why:
                        failed[path] = why
            except Exception as error:  # each engine says in its own way that a worker died
                for path, folder, _ in batch:
                    if _in_hand(folder, run):
                        deaths[path] += 1
                        if deaths[path] == _TRIES:
                            told = str(error).strip().splitlines()
                            failed[path] = (
                                f"the process that read it died {_TRIES} times "
                                f"({type(error).__name__}: {told[0][:200] if told else ''})."
                            )
                if not any(deaths[job[0]] for job in batch):
                    raise  # nothing was begun: not the recordings' fault
            waiting = [
                job
                for job in waiting
                if job[0] not in failed and not _is_done(pathlib.Path(job[1]), job[2])
            ]
    return failed


def _outcomes(file, digest, batch, options, run, workers, backend):
    """(path, reason or "") of each recording, as they are done."""
    if workers == 1:
        for path, folder, of in batch:
            yield _one(file, digest, path, folder, of, options, run)
        return
    # Ray's pool gives its answers at the end
    return_as = "list" if backend == "ray" else "generator_unordered"
    parallel = joblib.Parallel(min(workers, len(batch)), batch_size=1, return_as=return_as)
    yield from parallel(
        joblib.delayed(_one)(file, digest, path, folder, of, options, run)
        for path, folder, of in batch
    )


def _one(file, digest, path, folder, made, options, run):
    """Annotate one recording; returns its path, and the reason where it could not be."""
    folder = pathlib.Path(folder)
    mark, begun = folder / "summary.json", {"n_beats": None, "heart_rate": None, "begun": run}
    try:
        there = (read_json(mark) or {}).get("record")
        check_free(folder, ["summary.json", "beats.csv", "record.html", "*.ecg"], "summary.json")
        # a kill leaves this: it says that the folder is ours, and what was in hand
        write_json(mark, {"record": there} | begun)
        recording = open_recording(path, fs=options["fs"], unit=options["unit"])
        if there not in (None, recording.name):
            raise ValueError(f"{folder} holds {there}, another recording; give another --out.")
        write_json(mark, {"record": recording.name} | begun)
        if digest not in _MODELS:
            _MODELS.clear()
            _MODELS[digest] = load_model(file)
        found = annotate(_MODELS[digest], recording, lead=options["lead"], causal=options["causal"])
        found.summary["made_from"] = made
        found.write(folder, recording)
    except Exception as error:  # a broken file raises anything; it is listed, the others go on
        with contextlib.suppress(OSError):
            if _in_hand(folder, run) and [file.name for file in folder.iterdir()] == [
                "summary.json"
            ]:
                (folder / "summary.json").unlink()
                folder.rmdir()
        kind = "" if isinstance(error, (ValueError, ImportError)) else f"{type(error).__name__}: "
        return path, kind + " ".join(str(error).split())
    return path, ""


def _in_hand(folder, run):
    """True where this run began a recording and did not end it."""
    return (read_json(pathlib.Path(folder) / "summary.json") or {}).get("begun") == run


@contextlib.contextmanager
def _backend(backend, workers):
    """Let joblib use an engine; its workers share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, cores // workers)
    limits = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    limits = dict.fromkeys(limits | {"TF_NUM_INTRAOP_THREADS"}, str(threads))
    # with one thread, Keras can wait for itself for ever
    limits["TF_NUM_INTEROP_THREADS"] = "2"
    before = {name: os.environ.get(name) for name in limits}
    os.environ |= limits  # workers are started with them
    try:
        with contextlib.ExitStack() as stack:
            if backend == "ray":
                ray = require("ray", "ray")
                register = require("ray.util.joblib", "ray").register_ray
                if not ray.is_initialized():
                    local = {"num_cpus": workers, "include_dashboard": False}
                    local = {} if os.environ.get("RAY_ADDRESS") else local
                    ray.init(**local, log_to_driver=False, logging_level="ERROR")
                    stack.callback(ray.shutdown)
                register()
            if backend == "dask":
                distributed = require("distributed", "dask")
                address = os.environ.get("DASK_SCHEDULER_ADDRESS")
                if address is None:
                    cluster = distributed.LocalCluster(
                        n_workers=workers, threads_per_worker=1, dashboard_address=None
                    )
                    address = stack.enter_context(cluster)
                stack.enter_context(distributed.Client(address))
            stack.enter_context(joblib.parallel_config(backend=backend))
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _row(path, folder, out_dir, why):
    """A recording's row of summary.csv."""
    summary = {} if why else read_json(folder / "summary.json")
    rate = summary.get("heart_rate") or {}
    row = {
        "record": summary.get("record", path.name),
        "path": str(path),
        "folder": "" if why else folder.relative_to(out_dir).as_posix(),
        "why": why,
        "duration_s": summary.get("duration_s"),
        "analysable": summary.get("analysable"),
        "n_beats": summary.get("n_beats"),
    }
    row |= {f"beats_{name}": count for name, count in (summary.get("beats") or {}).items()}
    row |= {f"burden_{name}": share for name, share in (summary.get("burden") or {}).items()}
    for name in ("min", "mean", "max"):
        row[f"rate_{name}_bpm"] = (rate.get(name) or {}).get("bpm")
    for of, runs in (summary.get("runs") or {}).items():
        row |= {f"couplets_{of}": summary["couplets"][of], f"runs_{of}": runs["n"]}
        longest = runs["longest"] or {}
        row[f"longest_run_{of}"] = longest.get("n_beats", 0)
    row |= {"pauses": summary.get("pauses"), "flutter_s": summary.get("flutter_s")}
    if "windows" in summary:
        row |= {f"windows_{name}": n for name, n in summary["windows"]["classes"].items()}
    return row


def _write(out_dir, table, model):
    """Write summary.csv, index.html and folder.json."""
    with atomic_path(out_dir / "summary.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    good, bad = table[table["why"] == ""], table[table["why"] != ""]
    counted = [name for name in table.columns if name.startswith(("beats_", "windows_"))]
    headers = ["recording", "duration", "analysable", "beats", "rate", "lowest", "highest"]
    headers += [name.partition("_")[2] for name in counted]
    events = [n for n in table.columns if n.startswith(("couplets_", "runs_", "longest_run_"))]
    headers += [name.replace("_", " ") for name in events] + ["pauses"]
    rows = []
    for row in good.to_dict("records"):
        link = Markup('<a href="{}/record.html">{}</a>').format(
            urllib.parse.quote(row["folder"]), row["folder"]
        )
        whole = lambda name, row=row: "-" if pd.isna(row[name]) else f"{row[name]:,.0f}"
        rows.append(
            [link, clock(row["duration_s"]), pages.percent(row["analysable"]), whole("n_beats")]
            + [whole(f"rate_{name}_bpm") for name in ("mean", "min", "max")]
            + [whole(name) for name in [*counted, *events, "pauses"]]
        )
    sections = [("recordings", "Recordings", pages.table(headers, rows))]
    if len(bad):
        listed = bad[["path", "why"]].values.tolist()
        sections.append(
            ("left-out", "Not annotated", pages.table(["recording", "why"], listed, numbers_from=2))
        )
    hours = np.nansum(good["duration_s"].to_numpy(float)) / 3600 if len(good) else 0
    lead = pages.paragraph(
        f"{len(good)} of {len(table)} recordings, {hours:.1f} hours, read by {model}. "
        "For research; not a diagnosis."
    )
    write_text(out_dir / "index.html", str(pages.page("Annotated recordings", sections, lead=lead)))
    write_json(
        out_dir / "folder.json", {"model": str(model), "recordings": table.to_dict("records")}
    )


sys.modules[__name__].__class__ = CallableModule
