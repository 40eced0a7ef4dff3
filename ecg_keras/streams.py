"""Read an ECG piece by piece, a recording or one while it is recorded: beats and their classes.

Conventions
-----------
A stream is a row of chunks of any size, float (samples,) or (samples, leads), NaN where nothing
was recorded. Samples count from 0, gaps included; times are seconds since the first sample.

Everything is computed in hops of 1 s that are counted from the first sample. So how a stream is cut
into chunks changes nothing.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecg_keras._checks import check_option, check_positive
from ecg_keras.batches import keras_inputs
from ecg_keras.beats import AHEAD_S, BEFORE_S, BeatContext, BeatPreparation, beat_views
from ecg_keras.dataset import ECGDataset
from ecg_keras.layers import model_card
from ecg_keras.mitbih_csv import cut_beats
from ecg_keras.recordings import OpenRecording, Recording, choose_leads, unit_factor
from ecg_keras.saved_models import load_model, predict
from ecg_keras.signals import (
    QUALITY,
    PeakStream,
    fibrillation,
    fill_gaps,
    r_peaks,
    signal_quality,
)

FORMATS = ("text", "int16", "float32")  # of `read_samples`
_PAST_S, _AHEAD_S = 10, 2  # seconds before and after one that its quality depends on
_LOST_S = 30  # after a longer gap the stream starts anew: electrodes were moved
_PIECE_S = 120  # a longer chunk is read in pieces: bounds memory
_KNOWN_S = 30  # seconds whose quality is remembered
_QUALITY_S = 5  # that a beat's quality is the mean of
_SIZES = (1, 8, 64, 256)  # rows that the model is called with: each is compiled once
_RATES, _HEIGHTS = 8, 30  # earlier beats that `known_rates` and `known_heights` look at
_LEAST_SHARE = 0.2  # readable share of the last seconds without which a lead is not looked at
_MINUTES = 600  # seconds of a recording that are read from disk at once
UNREAD = "?"  # class of a beat that is not classified
_MOST_LEADS = 2  # that a one-lead model is run on
_FIRST_LEADS = ("MLII", "II", "V1", "V5", "V2")  # in this order, where leads have names
_LEAST_BEATS = 10  # of a block: fewer say nothing about what is usual
_SMALLEST_MV, _LARGEST_MV = 0.1, 10.0  # height of the typical QRS that the models know
_FASTEST_BPM = 260.0
BEATS_OF_RATE = 8  # RR intervals that a heart rate is the mean of


class StreamingAnnotator:
    """Find and classify beats while they are recorded.

    A beat is given when all of it is known: its own row needs 2 s after the R peak, the quality of
    its second needs 2 s after that second, and R peaks are certain after 1 s. So the answer comes
    2 to 3 s after the R peak, plus up to one hop of 1 s and the time until the next chunk. A
    shorter delay would cost the RR interval after the beat, which tells ectopic beats by their
    pause.

    Memory does not grow: about 30 s of signal, and of each lead the windows of the last 400 beats,
    some 5 MB; beats that were given are not kept. While a chunk is read, 2 minutes of it are held.

    Gaps are bridged by the last value. After one of 30 s or more everything starts anew, as the
    electrodes were probably moved.

    Parameters
    ----------
    model : keras.Model, path or str
        A model of beats with ``features="context"``, its file, or the name of one that ships.
    fs : float
        Sampling rate of the stream, in Hz; at least 50.
    leads : sequence of str, optional
        Names of the columns of the chunks. By default they are counted at the first chunk.
    lead : str or sequence of str, optional
        Which of them to read, as in `annotate`.
    unit : str or float, optional
        "mV" (the default), "uV", "V", or the millivolts of one unit.

    Raises
    ------
    ValueError
        If the model needs a whole recording, or lacks a lead.

    Notes
    -----
    ``annotate(model, recording, causal=True)`` gives the same beats and classes. Without `causal`,
    R peaks and quality use both sides, and a few beats differ.

    Examples
    --------
    >>> stream = StreamingAnnotator(model, fs=250)  # doctest: +SKIP
    >>> for chunk in device:  # doctest: +SKIP
    ...     for beat in stream.push(chunk).itertuples():
    ...         print(beat.time_s, beat[3])
    >>> rest = stream.finish()  # doctest: +SKIP
    """

    def __init__(self, model, *, fs, leads=None, lead=None, unit=None):
        self.model = load_model(model) if isinstance(model, (str, pathlib.Path)) else model
        self.fs = float(check_positive("fs", fs))
        self._factor = 1.0 if unit is None else unit_factor(unit)
        self.leads, self._lead, self._stream = None, lead, None
        self._previous, self._nothing = None, None
        if leads is not None:
            self._open([leads] if isinstance(leads, str) else [str(name) for name in leads])

    def push(self, chunk):
        """Take the next samples, any number; returns the beats that are now certain.

        Parameters
        ----------
        chunk : array_like of float, shape (samples,) or (samples, leads)

        Returns
        -------
        beats : DataFrame
            Columns as in `Annotation.beats`. ``rr_after_s`` is NaN where it is over 2 s;
            ``quality`` is that of the last 5 s.
        """
        chunk = np.asarray(chunk, np.float32)
        chunk = chunk[:, None] if chunk.ndim == 1 else chunk
        if chunk.ndim != 2:
            raise ValueError(
                f"chunk must have shape (samples,) or (samples, leads), got {chunk.shape}."
            )
        if self.leads is None:
            n = chunk.shape[1]
            self._open(["ECG"] if n == 1 else [f"ECG{i + 1}" for i in range(n)])
        if chunk.shape[1] != len(self.leads):
            raise ValueError(
                f"chunk has {chunk.shape[1]} columns; the stream has {len(self.leads)} leads "
                f"({', '.join(self.leads)})."
            )
        chunk = chunk[:, self._stream.reader.columns] * np.float32(self._factor)
        return self._table(self._stream.push(chunk))

    def gap(self, seconds):
        """Nothing was recorded for some seconds; returns the beats that are now certain."""
        check_positive("seconds", seconds, zero=True)
        if self._stream is None:
            raise ValueError("a stream starts with a chunk or with leads, not with a gap.")
        total, found = round(seconds * self.fs), []
        piece = round(_PIECE_S * self.fs)
        lost = np.full((min(total, piece), len(self._stream.reader.columns)), np.nan, np.float32)
        for at in range(0, total, piece):
            found += self._stream.push(lost[: total - at])
        return self._table(found)

    def finish(self):
        """The stream has ended; returns the beats that were still open."""
        return self._table([] if self._stream is None else self._stream.finish())

    def _open(self, leads):
        """Choose the leads to read."""
        card = model_card(self.model)
        if card is None:
            raise ValueError("the model carries no card; give one that load_model loaded.")
        two = int(2 * self.fs)
        nothing = np.zeros((two, len(leads)), np.float32)
        source = OpenRecording(
            "stream", self.fs, tuple(leads), two, lambda start, stop: nothing[start:stop]
        )
        self._stream = _Stream(self.model, self.fs, choose_columns(source, card, self._lead, []))
        self.leads = tuple(leads)

    def _table(self, found):
        """Beats as a DataFrame."""
        if not found and self._nothing is not None:
            return self._nothing.copy()
        classes = model_card(self.model)["classes"]
        names = ["sample", "time_s", "class", "why", *[f"p_{name}" for name in classes]]
        names += ["rr_before_s", "rr_after_s", "rate_bpm", "quality"]
        rows = []
        for beat in found:
            label = UNREAD if beat.why else classes[int(np.argmax(beat.probabilities))]
            before = np.nan
            if beat.joined and self._previous is not None:
                before = (beat.peak - self._previous) / self.fs
            after = np.nan if beat.following is None else (beat.following - beat.peak) / self.fs
            self._previous = beat.peak
            row = (beat.peak, beat.peak / self.fs, label, beat.why, *beat.probabilities.tolist())
            after = after if after <= AHEAD_S else np.nan
            rows.append((*row, before, after, 60 / before, beat.quality))
        table = pd.DataFrame(rows, columns=names)
        if not rows:
            table = self._nothing = table.astype({"sample": np.int64})
        return table


def annotate_causally(model, source, columns):
    """Read a recording as a stream; returns a `Reading` for `annotate`.

    Parameters
    ----------
    model : keras.Model
    source : OpenRecording
    columns : sequence of int
        Leads to read.
    """
    stream, found = _Stream(model, source.fs, columns, keep=True), []
    step = round(_MINUTES * source.fs)
    for start in range(0, source.n_samples, step):
        stop = min(source.n_samples, start + step)
        found += stream.push(source.read(start, stop)[:, stream.reader.columns])
    found += stream.finish()
    n_classes = len(stream.reader.card["classes"])
    return Reading(
        stream.reader.columns,
        np.array([beat.peak for beat in found], np.int64),
        np.array([beat.probabilities for beat in found], np.float32).reshape(-1, n_classes),
        np.array([beat.why for beat in found], "<U8"),
        np.array(stream.all_states, np.int8).reshape(-1, len(stream.reader.columns)),
        np.array(stream.all_flutter, bool),
    )


class _Beat:
    """One beat of a stream; its row is not yet classified."""

    __slots__ = ("following", "good", "joined", "peak", "probabilities", "quality", "why")

    def __init__(self, peak, following, good, why, joined, quality):
        self.peak, self.following = peak, following  # samples
        self.good = good  # bool (leads,)
        self.why, self.joined, self.quality = why, joined, quality
        self.probabilities = None


class _Stream:
    """Samples of the leads read, in mV, to `_Beat`s; works in hops of one second."""

    def __init__(self, model, fs, columns, *, keep=False):
        self.reader = Reader(model, "stream", fs, columns)
        if not self.reader.bounded:
            raise ValueError(
                "the model's rows need the whole recording; a stream takes a model whose beats "
                "have features='context', as mitbih_beats has."
            )
        self.fs, self.model, n = fs, model, len(self.reader.columns)
        self.all_states, self.all_flutter, self._keep = [], [], keep
        self._rest = np.zeros((0, n), np.float32)  # samples of the hop that is not yet full
        self._hops, self._n = 0, 0  # full hops, and their samples
        self._raw = np.zeros((0, n), np.float32)  # the last seconds, with NaN
        self._held = np.zeros(n, np.float32)  # the last value of each lead
        self._lost = 0  # hops without a value, up to now
        self._states, self._flutter, self._bad = [], [], []  # of the last known seconds
        self._known = 0  # seconds whose state is known
        self._finished = False
        window_s = self.reader.preparation.window_s
        self._before = round(max(BEFORE_S, window_s[0] + 1.5) * fs)
        self._start_anew()

    def _start_anew(self):
        """Forget the heart; the clock goes on."""
        self._peaks, self._origin = PeakStream(self.fs, len(self._held)), self._n
        self._filled = np.zeros(
            (0, len(self._held)), np.float32
        )  # since before the first open beat
        self._pieces = []  # of it, not yet joined
        self._recent = []  # swing of each lead in the last hops
        self._waiting, self._ready = [], []  # R peaks found; beats settled and not classified
        self._last_second = None  # of the last beat
        self._contexts = self.reader.new_contexts()
        self._past_peaks = np.zeros(0, np.int64)
        self._past_heights = [np.zeros(0) for _ in self.reader.groups]

    def push(self, x):
        """The beats that are certain after the next samples (samples, leads)."""
        if self._finished:
            raise ValueError("the stream was finished; start a new one.")
        found, piece = [], max(1, round(_PIECE_S * self.fs))
        for at in range(0, len(x), piece):
            part = np.concatenate([self._rest, x[at : at + piece]])
            part[~np.isfinite(part)] = np.nan
            stops, hop = [0], self._hops  # where each hop that is full ends
            while (stop := round((hop + 1) * self.fs) - self._n) <= len(part):
                stops.append(stop)
                hop += 1
            self._rest = part[stops[-1] :].copy()
            if len(stops) > 1:
                found += self._read(part[: stops[-1]], stops, hop - _AHEAD_S)
        return found

    def finish(self):
        """The beats that were still open."""
        if self._finished:
            return []
        seconds = int(np.ceil((self._n + len(self._rest)) / self.fs - 1e-9))
        stops = [0, len(self._rest)] if len(self._rest) else [0]
        found = self._read(self._rest, stops, seconds)
        self._finished = True
        if self._peaks is not None:
            end = np.repeat(self._held[None], int(1.5 * self.fs), axis=0)
            more = self._peaks.push(end) + self._origin
            self._waiting += [int(peak) for peak in more if peak < self._n]
        self._settle(final=True)
        return found + self._classify()

    def _read(self, x, stops, seconds):
        """Take hops that end at `stops`, after which so many seconds can be judged."""
        self._raw = np.concatenate([self._raw, x])
        self._judge(seconds, self._n + len(x))
        found = []
        for first, stop in itertools.pairwise(stops):
            found += self._hop(x[first:stop])
        found += self._classify()
        self._states, self._flutter = self._states[-_KNOWN_S:], self._flutter[-_KNOWN_S:]
        keep = self._n - round(max(0, self._known - _PAST_S) * self.fs)
        self._raw = self._raw[len(self._raw) - keep :]
        return found

    def _judge(self, seconds, n):
        """State of all seconds before that one, of a signal of n samples by now."""
        if seconds <= self._known:
            return
        first = max(0, self._known - _PAST_S)
        start, stop = round(first * self.fs), round((seconds + _AHEAD_S) * self.fs)
        origin = n - len(self._raw)
        x = self._raw[start - origin : stop - origin]
        new = slice(self._known - first, seconds - first)
        states = list(signal_quality(x, fs=self.fs)[new])
        flutter = fibrillation(x, fs=self.fs)[new].tolist()
        self._states, self._flutter = self._states + states, self._flutter + flutter
        self._known = seconds
        if self._keep:
            self.all_states += states
            self.all_flutter += flutter

    def _hop(self, x):
        """Take one second; returns beats only where the stream starts anew."""
        found = []
        empty = bool(np.isnan(x).all())
        if not empty and self._lost >= _LOST_S:
            found = self._classify()
            self._start_anew()
        self._lost = self._lost + 1 if empty else 0
        filled = x
        if empty:
            filled = np.repeat(self._held[None], len(x), axis=0)
        elif np.isnan(x).any():
            filled = fill_gaps(np.concatenate([self._held[None], x]))[1:]
        self._held = filled[-1]
        self._pieces.append(filled)
        self._recent = [*self._recent[1 - _PAST_S :], np.ptp(filled, axis=0)]
        self._hops, self._n = self._hops + 1, self._n + len(x)
        if self._peaks is not None:
            new = self._peaks.push(filled, live=self._live()) + self._origin
            self._waiting += new.tolist()
            if self._lost == _LOST_S:
                self._peaks = None
        self._settle()
        return found

    def _live(self):
        """Leads that R peaks are looked for in; None for all."""
        n = len(self._held)
        if n == 1:
            return None
        known = self._hops - _AHEAD_S - (self._known - len(self._states))
        states = self._states[max(0, known - _PAST_S) : max(0, known)]
        share = np.mean([state == 0 for state in states], axis=0) if states else np.ones(n)
        moves = np.max(self._recent, axis=0) > 0
        live = np.flatnonzero(moves & (share >= min(_LEAST_SHARE, share.max())))
        return live if 0 < len(live) < n else None

    def _settle(self, *, final=False):
        """Move peaks whose beat is wholly known to `_ready`; drop those that are none."""
        certain = self._n if self._peaks is None else self._peaks.certain + self._origin
        known = self._known if final else self._hops - _AHEAD_S
        oldest = self._known - len(self._states)
        while self._waiting:
            peak = self._waiting[0]
            second = min(int(peak / self.fs), self._known - 1) if final else int(peak / self.fs)
            following = self._waiting[1] if len(self._waiting) > 1 else None
            later = following is not None or certain >= peak + AHEAD_S * self.fs
            if second >= known or not (later or final):
                break
            self._waiting.pop(0)
            if following is not None and following - peak > AHEAD_S * self.fs:
                following = None
            at = second - oldest
            state = self._states[at]
            dead = np.isin(state, (QUALITY.index("flat"), QUALITY.index("missing"))).all()
            if dead or self._flutter[at]:
                continue
            joined = self._last_second is not None and not any(
                self._flutter[i] or (self._states[i] != 0).all()
                for i in range(max(0, self._last_second + 1 - oldest, at - _PAST_S), at + 1)
            )
            self._last_second = second
            quality = np.mean([s == 0 for s in self._states[max(0, at - _QUALITY_S + 1) : at + 1]])
            why = QUALITY[state.min()] if state.min() else ""
            self._ready.append(_Beat(peak, following, state == 0, why, joined, float(quality)))

    def _classify(self):
        """Classify the settled beats; returns them."""
        found, self._ready = self._ready, []
        self._filled = np.concatenate([self._filled, *self._pieces])
        self._pieces = []
        first = 0
        for i, beat in enumerate(found):
            after = found[i + 1].peak if i + 1 < len(found) else None
            # a peak between that is no beat of its own still ends the RR interval
            if after is None or beat.following not in (None, after):
                self._rows(found[first : i + 1])
                first = i + 1
        open_from = min(self._waiting[:1] + [self._n - round(2 * self.fs)]) - self._before
        old = open_from - (self._n - len(self._filled))
        if old > 0:
            self._filled = self._filled[old:]
        return found

    def _rows(self, beats):
        """Give neighbouring beats their probabilities."""
        peaks = np.array([beat.peak for beat in beats], np.int64)
        start, n = self._n - len(self._filled), len(beats)
        good = np.array([beat.good for beat in beats])
        past = np.concatenate([self._past_peaks, peaks])
        usual = known_rates(past, self.fs)[-n:]
        self._past_peaks = past[-_RATES:]
        xs, tables, weights = [], [], []
        for i, group in enumerate(self.reader.groups):
            x = self._filled[:, group]
            rows, table, names = self._contexts[i].rows(
                x, peaks, start=start, following=beats[-1].following
            )
            height = np.concatenate([self._past_heights[i], qrs_heights(x, peaks - start, self.fs)])
            weight = good[:, group].any(axis=1) * usual * known_heights(height)[-n:]
            self._past_heights[i] = height[-_HEIGHTS:]
            xs.append(rows)
            tables.append(table)
            weights.append(weight)
        weights = np.array(weights)  # (groups, n)
        total = np.zeros((n, len(self.reader.card["classes"])))
        some = weights.reshape(-1) > 0
        if some.any():
            rows = {"signal": np.concatenate(xs)[some], "metadata": np.concatenate(tables)[some]}
            self._check_names(names)
            told = np.zeros((len(some), total.shape[1]))
            told[some] = self._probabilities(rows)
            told = told.reshape(len(weights), n, -1)
            total = (told * weights[:, :, None]).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = (total / weights.sum(axis=0)[:, None]).astype(np.float32)
        for beat, probabilities in zip(beats, total):
            beat.probabilities = probabilities
            if not beat.why and np.isnan(probabilities).any():
                beat.why = "unlike"
            if beat.why:
                beat.probabilities = np.full_like(probabilities, np.nan)

    def _check_names(self, names):
        """Refuse a model that was trained on other features."""
        expected = self.reader.card["metadata_names"]
        if expected and tuple(expected) != tuple(names):
            raise ValueError(
                "the model was trained on other features than this version computes; train it anew."
            )

    def _probabilities(self, rows):
        """Run the model on rows; batches have few sizes, as each is compiled once."""
        names, parts = [tensor.name for tensor in self.model.inputs], []
        total = len(rows["signal"])
        for at in range(0, total, _SIZES[-1]):
            n = min(_SIZES[-1], total - at)
            size = next(size for size in _SIZES if size >= n)
            batch = {}
            for name in names:
                part = rows[name][at : at + n]
                batch[name] = np.concatenate([part, np.repeat(part[-1:], size - n, axis=0)])
            parts.append(np.asarray(self.model.predict_on_batch(keras_inputs(batch)))[:n])
        return np.concatenate(parts)


def stream(model, *, fs, leads=None, lead=None, unit=None, port=None, format="text", out=None):
    """Read samples from stdin or a socket, and write one JSON line per beat, flushed.

    Parameters
    ----------
    model : keras.Model, path or str
        See `StreamingAnnotator`, as `fs`, `leads`, `lead` and `unit`.
    port : int, optional
        Listen at this port of 127.0.0.1 for one connection; 0 takes a free one and tells it on
        stderr. By default stdin is read.
    format : {"text", "int16", "float32"}, default "text"
        One line a sample: numbers with commas between leads, or JSON (a number, a list, or an
        object with the names of leads). Or raw little-endian numbers, lead after lead; then
        `leads` says how many. An empty field, ``nan`` and ``null`` are missing.
    out : text file, optional
        By default stdout.

    Notes
    -----
    A line that cannot be read counts as a missing sample, so that time goes on; the first of them
    is named on stderr, and their number at the end. A first line that is none is a header. The end
    of the input or Ctrl-C ends the stream: beats that were open are still written.

    Examples
    --------
    A record played like a wearable, a sample at a time, in a shell::

        python -c "
        import time, wfdb
        for sample in wfdb.rdrecord('100').p_signal:
            print(*sample, sep=',', flush=True)
            time.sleep(1 / 360)
        " | ecg-keras stream --fs 360 --leads MLII,V5
    """
    check_option("format", format, FORMATS)
    if format != "text" and leads is None:
        raise ValueError(f"format={format!r} does not say how many leads there are; give leads.")
    out = sys.stdout if out is None else out
    annotator = StreamingAnnotator(model, fs=fs, leads=leads, lead=lead, unit=unit)
    with contextlib.ExitStack() as stack:
        try:
            source = sys.stdin.buffer if port is None else stack.enter_context(_connection(port))
            samples = _Samples(format, leads)
            with contextlib.suppress(KeyboardInterrupt):
                while data := source.read1(1 << 16):
                    chunk = samples.parse(data)
                    if len(chunk):
                        _write(out, annotator.push(chunk))
            chunk = samples.parse(b"\n" if format == "text" else b"")
            if len(chunk):
                _write(out, annotator.push(chunk))
            _write(out, annotator.finish())
            samples.tell()
        except BrokenPipeError:  # nobody reads on
            sys.stderr.close()


@contextlib.contextmanager
def _connection(port):
    """The first connection to a port of this machine, as a file."""
    with socket.create_server(("127.0.0.1", port)) as server:
        print(f"listening at 127.0.0.1:{server.getsockname()[1]}", file=sys.stderr, flush=True)
        with server.accept()[0] as connection, connection.makefile("rb") as file:
            yield file


def _write(out, beats):
    """Beats as JSON lines."""
    for beat in beats.to_dict("records"):
        line = {}
        for name, value in beat.items():
            if isinstance(value, float):
                value = None if np.isnan(value) else round(value, 5)
            line[name] = value
        out.write(json.dumps(line) + "\n")
    if len(beats):
        out.flush()


class _Samples:
    """Bytes as they come to samples (n, leads)."""

    def __init__(self, format, leads):
        self.format, self.leads = format, leads
        self.n_columns = None if leads is None else len(leads)
        self.rest, self.n_lines, self.n_bad = b"", 0, 0

    def parse(self, data):
        """Samples whose last byte has come."""
        data = self.rest + data
        if self.format != "text":
            kind = np.dtype({"int16": "<i2", "float32": "<f4"}[self.format])
            size = kind.itemsize * self.n_columns
            whole = len(data) // size * size
            self.rest = data[whole:]
            return np.frombuffer(data[:whole], kind).reshape(-1, self.n_columns).astype(np.float32)
        lines = data.split(b"\n")
        self.rest = lines.pop()
        rows = [row for line in lines if (row := self._row(line)) is not None]
        return np.array(rows, np.float32).reshape(len(rows), self.n_columns or 1)

    def _row(self, line):
        """One line to a list of numbers; None where it is no sample."""
        self.n_lines += 1
        text = line.decode("utf-8", "replace").strip()
        if not text or text[0] == "#":
            return None
        try:
            row = self._numbers(text)
            if self.n_columns is None:
                self.n_columns = len(row)
            if len(row) == self.n_columns:
                return row
        except (ValueError, TypeError, KeyError):
            pass
        if self.n_lines == 1:
            return None  # a header
        self.n_bad += 1
        if self.n_bad == 1:
            print(
                f"line {self.n_lines} is no sample of {self.n_columns or 1} numbers: "
                f"{text[:60]!r}; it and others like it count as missing.",
                file=sys.stderr,
                flush=True,
            )
        return None if self.n_columns is None else [np.nan] * self.n_columns

    def _numbers(self, text):
        """The numbers of one line."""
        if text[0] in "[{":
            row = json.loads(text)
            if isinstance(row, dict):
                row = [row.get(name) for name in self.leads] if self.leads else [*row.values()]
            return [np.nan if value is None else float(value) for value in row]
        fields = [field.strip() for field in text.split(",")]
        return [np.nan if field in ("", "null") else float(field) for field in fields]

    def tell(self):
        """Say how many lines could not be read."""
        if self.n_bad:
            print(f"{self.n_bad} of {self.n_lines} lines were no samples.", file=sys.stderr)


def model_reads(card):
    """What a model reads: "beats", "csv" (beats as Kaggle's files have them) or "rows"."""
    preparation = card.get("preparation") or {}
    if "window_s" in preparation:
        return "beats"
    return "csv" if (card.get("split") or {}).get("loader") == "load_mitbih_csv" else "rows"


def choose_columns(source, card, lead, notes):
    """Column numbers of the leads to read, the model's first one first."""
    kind = model_reads(card)
    if lead is not None:
        wanted = [lead] if isinstance(lead, str) else list(lead)
        columns = choose_leads(source.name, source.leads, wanted)
        if kind == "rows" and len(columns) != len(card["leads"]):
            raise ValueError(_lacks(source, card))
        return columns
    if kind == "rows":
        if len(card["leads"]) == len(source.leads) == 1:
            return [0]
        columns = [_column(source, name) for name in card["leads"]]
        if None in columns:
            raise ValueError(_lacks(source, card))
        return columns
    wanted = (card.get("preparation") or {}).get("lead", "MLII")
    if wanted == "each":
        named = [_column(source, name) for name in _FIRST_LEADS]
        named = list(dict.fromkeys(column for column in named if column is not None))
        rest = [column for column in _best_first(source) if column not in named]
        return (named + rest)[:_MOST_LEADS]
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    columns = []
    for name in wanted:
        column = None if name == "other" else _column(source, name)
        if column is None or column in columns:
            rest = [column for column in _best_first(source) if column not in columns]
            if not rest:
                raise ValueError(_lacks(source, card))
            column = rest[0]
            if name != "other":
                notes.append(
                    f"The model was trained on lead {name}, which is not there; "
                    f"{source.leads[column]} was read instead."
                )
        columns.append(column)
    return columns


def _lacks(source, card):
    """The sentence for a recording without the model's leads."""
    return (
        f"{source.name}: the model reads {len(card['leads'])} leads ({', '.join(card['leads'])}), "
        f"the recording has {len(source.leads)} ({', '.join(source.leads)}); give a recording or a "
        "model of the other kind."
    )


def _column(source, name):
    """Column of a lead by name, None where it is not there."""
    try:
        return choose_leads(source.name, source.leads, [name])[0]
    except ValueError:
        return None


def _best_first(source):
    """All columns, the one with the largest readable share of its first minutes first."""
    if len(source.leads) == 1:
        return [0]
    middle = source.n_samples // 2
    length = min(source.n_samples, int(120 * source.fs))
    first = max(0, middle - length // 2)
    good = signal_quality(source.read(first, first + length), fs=source.fs) == 0
    return np.argsort(-good.mean(axis=0), kind="stable").tolist()


@dataclass
class Reading:
    """What was read of a recording: its peaks and seconds, before they become tables."""

    columns: list  # leads read
    peaks: np.ndarray  # int64 (n_beats,)
    probabilities: np.ndarray  # float32 (n_beats, classes), NaN where a beat was not classified
    why: np.ndarray  # str (n_beats,), "" for classified beats
    states: np.ndarray  # int8 (n_seconds, leads read), see `signals.signal_quality`
    flutter: np.ndarray  # bool (n_seconds,)

    def beats_table(self, fs, classes):
        """The beats as a DataFrame, see `Annotation`."""
        time_s = self.peaks / fs
        quality = (self.states == 0).mean(axis=1) if self.states.size else np.zeros(0)
        names = np.array([*classes, UNREAD, ""])
        label = np.full(len(self.peaks), len(classes) + (not len(classes)))
        known = self.why == ""
        if len(classes):
            label[known] = self.probabilities[known].argmax(axis=1)
        table = {"sample": self.peaks, "time_s": time_s, "class": names[label], "why": self.why}
        for i, name in enumerate(classes):
            table[f"p_{name}"] = np.where(known, self.probabilities[:, i], np.nan)
        before = np.full(len(time_s), np.nan)
        before[1:] = np.diff(time_s)
        before[self._after_gap(fs)] = np.nan
        after = np.append(before[1:], np.nan)[: len(time_s)]
        table |= {"rr_before_s": before, "rr_after_s": after, "rate_bpm": 60 / before}
        second = np.minimum((self.peaks / fs).astype(int), max(0, len(quality) - 1))
        wide = np.convolve(quality, np.ones(5) / 5, "same") if len(quality) > 5 else quality
        table["quality"] = wide[second] if len(quality) else np.zeros(0)
        return pd.DataFrame(table)

    def _after_gap(self, fs):
        """True for beats with a second between them and the one before that nobody could read."""
        lost = ((self.states != 0).all(axis=1) | self.flutter).cumsum()
        second = np.minimum((self.peaks / fs).astype(int), len(lost) - 1)
        after = np.zeros(len(self.peaks), bool)
        if len(lost):
            after[1:] = np.diff(lost[second]) > 0
        return after

    def readable(self):
        """True for seconds that at least one lead read can be read in, without flutter."""
        return (self.states == 0).any(axis=1) & ~self.flutter

    def spans(self, leads):
        """Unreadable stretches as a DataFrame."""
        rows = []
        whole = (self.states != 0).all(axis=1)
        kinds = [("", self.states.min(axis=1))]
        if self.states.shape[1] > 1:
            kinds += [
                (leads[column], np.where(whole, 0, self.states[:, i]))
                for i, column in enumerate(self.columns)
            ]
        for lead, codes in kinds:
            rows += [(a, b, lead, QUALITY[code]) for a, b, code in stretches(codes)]
        table = pd.DataFrame(rows, columns=["start_s", "stop_s", "lead", "why"])
        return table.sort_values(["start_s", "lead"], ignore_index=True)

    def flutter_spans(self):
        """(start, stop) in seconds of each stretch of flutter or fibrillation."""
        return [(a, b) for a, b, _ in stretches(self.flutter.astype(int))]


def stretches(codes):
    """(start, stop, code) of each stretch of one code that is not 0."""
    if not len(codes):
        return []
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts, stops = np.append(0, edges), np.append(edges, len(codes))
    return [(int(a), int(b), int(codes[a])) for a, b in zip(starts, stops) if codes[a]]


class Reader:
    """Reads pieces of one recording with a model; `annotate` and streams both use it.

    Parameters
    ----------
    model : keras.Model
        A saved model.
    name, fs : str and float
        Of the recording.
    columns : sequence of int
        Leads to read.
    """

    def __init__(self, model, name, fs, columns):
        self.model, self.name, self.fs, self.columns = model, name, fs, list(columns)
        self.card = model_card(model)
        self.kind = model_reads(self.card)
        self.preparation, self.groups, self._contexts = None, [], []
        if self.kind != "beats":
            return
        fields = {field.name for field in dataclasses.fields(BeatPreparation)}
        own = {key: value for key, value in self.card["preparation"].items() if key in fields}
        self.preparation = BeatPreparation(**own)
        n = len(self.columns)
        each = self.preparation.lead == "each"
        self.groups = [[i] for i in range(n)] if each else [list(range(n))]
        self._contexts = self.new_contexts()

    @property
    def bounded(self):
        """True for models whose rows need only what lies before them and two seconds after."""
        return self.preparation is not None and self.preparation.features == "context"

    def new_contexts(self):
        """What is remembered of earlier beats, for each lead, or all: nothing yet."""
        return [BeatContext(self.preparation, fs=self.fs) for _ in self.groups * self.bounded]

    def probabilities(self, x, peaks, readable, *, own=None, start=0):
        """Classify beats.

        Parameters
        ----------
        x : float32, shape (samples, leads read)
            A piece of the recording, finite.
        peaks : int64, shape (n_beats,)
            Its R peaks, in samples of `x`.
        readable : bool, shape (n_beats, leads read)
        own : bool, shape (n_beats,), optional
            Which beats to classify, neighbours in one stretch; the others are context.
        start : int, default 0
            Sample of the recording that ``x[0]`` is.

        Returns
        -------
        probabilities : float32, shape (n_beats, classes)
            NaN for beats that are not like those that the model knows, or are not `own`.
        """
        own = np.ones(len(peaks), bool) if own is None else own
        total = np.zeros((len(peaks), len(self.card["classes"])))
        weights = np.zeros(len(peaks))
        if own.any():
            usual, groups = known_rates(peaks, self.fs) * own, self._groups(x)
            rows_of = functools.partial(self._rows, x=x, peaks=peaks, own=own, start=start)
            with ThreadPoolExecutor(len(groups)) as pool:  # a lead a thread: NumPy frees the others
                described = pool.map(rows_of, range(len(groups)), groups)
            for group, (rows, kept) in zip(groups, described):
                weight = readable[kept][:, group].any(axis=1) * usual[kept]
                weight = weight * known_heights(qrs_heights(x[:, group], peaks, self.fs))[kept]
                some = weight > 0
                if some.any():
                    found = predict(self.model, rows[some])
                    total[kept[some]] += weight[some, None] * found
                    weights[kept] += weight
        with np.errstate(invalid="ignore"):
            return (total / np.where(weights > 0, weights, np.nan)[:, None]).astype(np.float32)

    def _groups(self, x):
        """Columns of `x` that make one row each: all of them, one each, or the first."""
        return [[0]] if self.kind == "csv" else self.groups

    def _rows(self, i, group, x, peaks, own, start):
        """Rows of beats as the model's own data set has them, and which beat each row is."""
        mine = np.flatnonzero(own)
        if self.kind == "csv":
            symbols = np.full(len(peaks), "N")
            piece = (self.name, x[:, group], self.fs, ("x",), "mV", peaks, symbols)
            rows, kept = cut_beats(Recording(*piece))
            rows, kept = rows[own[kept]], kept[own[kept]]
            return self._dataset(rows[..., None], None, None), kept
        if self.bounded:
            following = peaks[mine[-1] + 1 : mine[-1] + 2] + start
            x, metadata, names = self._contexts[i].rows(
                x[:, group],
                peaks[mine] + start,
                start=start,
                following=int(following[0]) if len(following) else None,
            )
            return self._dataset(x, metadata, names), mine
        if len(peaks) < _LEAST_BEATS:
            return None, mine[:0]
        try:
            x, metadata, names = beat_views(
                x[:, group], peaks, fs=self.fs, preparation=self.preparation
            )
        except ValueError:  # a lead that is constant around its peaks
            return None, mine[:0]
        return self._dataset(x[own], metadata[own], names), mine

    def _dataset(self, x, metadata, names):
        """Rows as the model's own data set has them."""
        with_metadata = bool(self.card["metadata_names"])
        return ECGDataset(
            x,
            np.zeros(len(x), np.int64),
            classes=self.card["classes"],
            fs=self.card["fs"],
            leads=self.card["leads"],
            unit=self.card["unit"],
            metadata=metadata if with_metadata else None,
            metadata_names=names if with_metadata else None,
        )


def find_beats(x, *, fs):
    """R peaks of a piece of a recording, and which of its seconds can be read.

    Parameters
    ----------
    x : float32, shape (samples, leads)
        NaN where nothing was recorded.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    peaks : int64, shape (n_beats,)
        None where every lead is flat or missing, or inside flutter.
    states : int8, shape (n_seconds, leads)
        See `signals.signal_quality`.
    flutter : bool, shape (n_seconds,)
        See `signals.fibrillation`.
    """
    states, flutter = signal_quality(x, fs=fs), fibrillation(x, fs=fs)
    filled = fill_gaps(x)
    share = (states == 0).mean(axis=0)
    live = np.flatnonzero((share >= min(_LEAST_SHARE, share.max())) & (np.ptp(filled, axis=0) > 0))
    if not len(live):
        return np.zeros(0, np.int64), states, flutter
    peaks = r_peaks(filled[:, live], fs=fs)
    dead = np.isin(states, [QUALITY.index("flat"), QUALITY.index("missing")]).all(axis=1)
    second = np.minimum((peaks / fs).astype(int), len(states) - 1)
    return peaks[~(dead | flutter)[second]], states, flutter


def qrs_heights(x, peaks, fs):
    """Peak to peak within 100 ms of each R peak, of the lead where it is largest; (n_beats,)."""
    reach = np.arange(-round(0.1 * fs), round(0.1 * fs) + 1)
    near = x[np.clip(peaks[:, None] + reach, 0, len(x) - 1)]  # (n_beats, samples, leads)
    return np.ptp(near, axis=1).max(axis=1)


def known_heights(heights):
    """1 for beats whose typical QRS is as high as those of real electrodes, else 0; (n_beats,)."""
    usual = pd.Series(heights).rolling(31, min_periods=1).median()
    return usual.between(_SMALLEST_MV, _LARGEST_MV).to_numpy(float)


def known_rates(peaks, fs):
    """1 for beats after others at a rate that hearts reach, else 0; shape (n_beats,)."""
    rr = pd.Series(np.diff(peaks, prepend=peaks[:1] - fs) / fs)
    usual = rr.rolling(BEATS_OF_RATE, min_periods=1).median()
    return (usual >= 60 / _FASTEST_BPM).to_numpy(float)
