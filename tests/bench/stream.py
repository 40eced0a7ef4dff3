"""Measure streams: R peaks against the whole-record detector, speed, and delay.

    python tests/bench/stream.py peaks DATA_DIR
    OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=2 taskset -c 0 \\
        python tests/bench/stream.py speed MODEL DATA_DIR

`peaks` reads all records of DATA_DIR/mitdb and DATA_DIR/svdb (all leads, all minutes, flutter left
out on both sides, 150 ms) and writes outputs/stream/peaks.json; nothing of `PeakStream` but its
memory and reach was chosen on them. `speed` reads record 101, one lead, at 125 Hz, in chunks
of 1 s, 10 s and 10 min on one core, the model included, and writes outputs/stream/speed.json. Times
are CPU seconds of this process after a minute of warming up, the best of three.
"""

import argparse
import os
import pathlib
import platform
import time

import numpy as np

from ecg_keras.recordings import list_records, read_recording
from ecg_keras.report import versions
from ecg_keras.signals import PeakStream, match_peaks, r_peaks, resample
from ecg_keras.storage import write_json

OUT = pathlib.Path("outputs/stream")
TOLERANCE_S = 0.15


def peaks(data):
    result = {"command": "python tests/bench/stream.py peaks DATA_DIR", "tolerance_s": TOLERANCE_S}
    for base in ("mitdb", "svdb"):
        rows = {}
        for name in list_records(data / base):
            recording = read_recording(data / base, name, lead=None)
            rows[name] = {
                "whole": _counts(recording, r_peaks(recording.signal, fs=recording.fs)),
                "stream": _counts(recording, _stream_peaks(recording)),
            }
        result[base] = {"records": len(rows)}
        for kind in ("whole", "stream"):
            tp, fn, fp = np.sum([row[kind] for row in rows.values()], axis=0).tolist()
            result[base][kind] = {
                "tp": tp,
                "fn": fn,
                "fp": fp,
                "sensitivity": 100 * tp / (tp + fn),
                "positive_predictivity": 100 * tp / (tp + fp),
            }
            print(base, kind, result[base][kind])
        result[base]["per_record"] = {
            name: {kind: list(map(int, counts)) for kind, counts in row.items()}
            for name, row in rows.items()
        }
    write_json(OUT / "peaks.json", result | _machine())


def _stream_peaks(recording):
    """R peaks of a recording that arrives second by second."""
    fs, x = recording.fs, recording.signal
    stream, found = PeakStream(fs, x.shape[1]), []
    for second in range(int(np.ceil(len(x) / fs))):
        found += stream.push(x[round(second * fs) : round((second + 1) * fs)]).tolist()
    rest = stream.push(np.repeat(x[-1:], int(1.5 * fs), axis=0))
    return np.array(found + rest[rest < len(x)].tolist())


def _counts(recording, found):
    """True positives, false negatives and false positives."""
    beats, margin = recording.peaks, TOLERANCE_S * recording.fs
    for first, last in recording.flutter:
        beats = beats[(beats < first) | (beats > last)]
        found = found[(found < first - margin) | (found > last + margin)]
    n = len(match_peaks(beats, found, fs=recording.fs, tolerance_s=TOLERANCE_S))
    return n, len(beats) - n, len(found) - n


def speed(model, data):
    from ecg_keras.saved_models import load_model
    from ecg_keras.streams import StreamingAnnotator

    recording = read_recording(data / "mitdb", "101")
    x = resample(recording.signal, fs=recording.fs, to_fs=125).astype(np.float32)
    network, fs = load_model(model), 125
    result = {"command": "python tests/bench/stream.py speed MODEL DATA_DIR", "model": str(model)}
    for label, chunk_s, seconds in (("1 s", 1, 300), ("10 s", 10, 600), ("10 min", 600, 1800)):
        step, best, delays = chunk_s * fs, np.inf, []
        for _ in range(3):
            stream = StreamingAnnotator(network, fs=fs)
            stream.push(x[: 60 * fs])
            if chunk_s > 1:
                stream.push(x[60 * fs : 60 * fs + step])  # compiles the batch sizes of this chunk
            rest = np.concatenate([x, x])[: seconds * fs]
            start, delays = time.process_time(), []
            for at in range(0, len(rest), step):
                found = stream.push(rest[at : at + step])
                now = stream._stream._n + len(stream._stream._rest)
                delays += ((now - found["sample"]) / fs).tolist()
            best = min(best, time.process_time() - start)
        result[label] = {
            "times_real_time": seconds / best,
            "ms_per_chunk": 1e3 * best * chunk_s / seconds,
            "delay_s": {"median": float(np.median(delays)), "max": float(np.max(delays))},
        }
        print(label, result[label])
    write_json(OUT / "speed.json", result | _machine())


def _machine():
    return {"versions": versions(), "machine": platform.machine(), "cores": os.cpu_count()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("peaks")
    part.add_argument("data", type=pathlib.Path)
    part = parts.add_parser("speed")
    part.add_argument("model")
    part.add_argument("data", type=pathlib.Path)
    options = parser.parse_args()
    if options.what == "peaks":
        peaks(options.data)
    else:
        speed(options.model, options.data)
