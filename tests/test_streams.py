"""Beats and classes while a signal arrives."""

import dataclasses
import io
import json
import socket
import sys
import threading
import types

import numpy as np
import pandas as pd
import pytest

from ecg_keras import ECGDataset
from ecg_keras.beats import BeatPreparation, beat_views
from ecg_keras.demo import simulate_patient
from ecg_keras.signals import PeakStream, match_peaks, r_peaks
from ecg_keras.streams import StreamingAnnotator, _Samples, stream

FS = 125.0
CLASSES = ["N", "S", "V"]
EXACT = ["sample", "class", "why", "rr_before_s", "rr_after_s", "quality"]


@pytest.fixture(scope="module")
def recording():
    """One lead of two minutes, at 125 Hz."""
    patient = simulate_patient(3, duration_s=120, fs=FS)
    return patient.signal[:, :1].astype(np.float32)


def context_model(recording, **changes):
    """A small network of beats with bounded context, not trained."""
    import keras

    from ecg_keras import build_model
    from ecg_keras.saved_models import served

    keras.utils.set_random_seed(0)
    settings = {"features": "context", "lead": "each", "classes": "aami3"} | changes
    preparation = BeatPreparation(**settings)
    x, metadata, names = beat_views(
        recording, r_peaks(recording, fs=FS), fs=FS, preparation=preparation
    )
    rows = ECGDataset(
        x,
        np.arange(len(x)) % 3,
        classes=CLASSES,
        fs=preparation.fs,
        leads=preparation.leads,
        metadata=metadata,
        metadata_names=names,
        preparation=dataclasses.asdict(preparation),
    )
    return served(
        build_model("rhythm", like=rows, members=1, filters=(), units=4, joint_units=4), rows
    )


@pytest.fixture(scope="module")
def model(recording):
    return context_model(recording)


def read(model, x, sizes, **options):
    """All beats of a stream that comes in chunks of these sizes, again and again."""
    annotator, found, at = StreamingAnnotator(model, fs=FS, **options), [], 0
    while at < len(x):
        for size in sizes:
            found.append(annotator.push(x[at : at + size]))
            at += size
    found.append(annotator.finish())
    return pd.concat([beats for beats in found if len(beats)], ignore_index=True)


def close(a, b, atol=1e-5):
    pd.testing.assert_frame_equal(a[EXACT], b[EXACT])
    np.testing.assert_allclose(
        a.filter(like="p_").to_numpy(), b.filter(like="p_").to_numpy(), atol=atol
    )


def test_peaks_of_a_stream_are_those_of_the_whole_recording():
    patient = simulate_patient(0, duration_s=300)
    x, fs = patient.signal, patient.fs
    whole, peaks = r_peaks(x, fs=fs), PeakStream(fs, x.shape[1])
    step, found = int(fs), []
    for at in range(0, len(x), step):
        new = peaks.push(x[at : at + step])
        assert (new <= peaks.n_samples - 0.9 * fs).all()  # a second old, less the swing
        found += new.tolist()
    whole = whole[whole < found[-1] + 1]
    pairs = match_peaks(whole, found, fs=fs, tolerance_s=0.02)
    assert len(pairs) >= 0.99 * max(len(whole), len(found))
    assert (np.diff(found) > 0).all()


def test_chunks_change_nothing(model, recording):
    x = recording.copy()
    x[2000:2150] = np.nan
    x[9000:9700] = np.nan
    whole = read(model, x, [len(x)])
    assert len(whole) > 90 and (whole["why"] == "").sum() > 90
    rng = np.random.default_rng(0)
    for largest in (100, 700, 10000):
        close(whole, read(model, x, rng.integers(1, largest, 50)))


def test_beats_are_those_of_a_causal_annotation(model, recording):
    from ecg_keras import annotate

    found = annotate(model, recording, fs=FS, causal=True).beats
    given = read(model, recording, [1000])
    assert given["sample"].tolist() == found["sample"].tolist()
    assert given["class"].tolist() == found["class"].tolist()
    both_sides = annotate(model, recording, fs=FS).beats.iloc[3:-3]
    pairs = match_peaks(both_sides["sample"], given["sample"], fs=FS)
    assert len(pairs) >= 0.97 * len(both_sides)


def test_answers_come_within_three_seconds_and_a_hop(model, recording):
    annotator, delays = StreamingAnnotator(model, fs=FS), []
    step = 25
    for at in range(0, 40 * 125, step):
        for sample in annotator.push(recording[at : at + step])["sample"]:
            delays.append((at + step - sample) / FS)
    assert len(delays) > 30 and 2 <= min(delays) and max(delays) <= 4.1


def test_memory_does_not_grow(model, recording):
    def held(value, seen):
        if id(value) in seen or isinstance(value, (type, types.ModuleType, type(model))):
            return 0
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            return value.nbytes
        if isinstance(value, dict):
            return sum(held(item, seen) for item in value.values())
        if isinstance(value, (list, tuple)):
            return 8 * len(value) + sum(held(item, seen) for item in value)
        return held(vars(value), seen) if hasattr(value, "__dict__") else 0

    annotator, sizes = StreamingAnnotator(model, fs=FS), []
    for _ in range(3):
        annotator.push(recording)
        state = vars(annotator._stream).copy()
        contexts = state.pop("_contexts")  # of the last 400 beats
        state.pop("reader")
        sizes.append(held(state, {id(annotator.model)}) / 4 / FS)
        assert held([vars(c) for c in contexts], {id(annotator.model)}) < 20e6
    assert max(sizes) < 40 + 24 * 4  # seconds of float32 and of float64


def test_a_gap_is_missing_samples(model, recording):
    lost = np.full((int(12 * FS), 1), np.nan)
    whole = read(model, np.concatenate([recording[:7500], lost, recording[:2500]]), [7500])
    annotator = StreamingAnnotator(model, fs=FS)
    parts = [annotator.push(recording[:7500]), annotator.gap(12), annotator.push(recording[:2500])]
    close(whole, pd.concat([*parts, annotator.finish()], ignore_index=True))
    first = whole[whole["sample"] >= 9000].iloc[0]
    assert np.isnan(first["rr_before_s"])


def test_after_a_long_gap_the_stream_starts_anew(model, recording):
    annotator = StreamingAnnotator(model, fs=FS)
    before = [annotator.push(2 * recording[5000:10000]), annotator.gap(40)]
    parts = [annotator.push(recording[:5000]), annotator.finish()]
    old, new = (pd.concat(p, ignore_index=True) for p in (before, parts))
    start = 10000
    old = pd.concat([old, new[new["sample"] < start]])
    new = new[new["sample"] >= start].reset_index(drop=True)
    assert old["sample"].max() < 5050 and len(new) > 30
    fresh = read(model, recording[:5000], [5000])
    new["sample"] -= start
    # the quality of the first seconds looks back into the gap
    close(new.iloc[8:].reset_index(drop=True), fresh.iloc[8:].reset_index(drop=True))


def test_flat_and_missing_stretches_hold_no_beats(model, recording):
    x = recording.copy()
    x[2500:5000] = x[2500]
    beats = read(model, x, [999])
    assert not beats["sample"].between(2650, 4850).any()
    assert beats["sample"].between(5500, 15000).sum() > 60


def test_units_and_leads_are_chosen_by_name(model, recording):
    recording = recording[:5000]
    two = np.concatenate([np.zeros_like(recording), recording], axis=1)
    a = read(model, 1000 * two, [2500], leads=["resp", "MLII"], lead="MLII", unit="uV")
    b = read(model, recording, [2500])
    close(a, b, atol=1e-3)


def test_what_a_stream_refuses(model, recording):
    annotator = StreamingAnnotator(model, fs=FS, leads=["II"])
    with pytest.raises(ValueError, match="2 columns; the stream has 1 leads"):
        annotator.push(np.zeros((10, 2)))
    annotator.finish()
    with pytest.raises(ValueError, match="was finished"):
        annotator.push(recording)
    with pytest.raises(ValueError, match="at least 50 Hz"):
        StreamingAnnotator(model, fs=30, leads=["II"])
    with pytest.raises(ValueError, match="not with a gap"):
        StreamingAnnotator(model, fs=FS).gap(1)


def test_a_model_of_whole_recordings_is_refused(recording):
    whole = context_model(recording, features="rhythm", lead="MLII")
    with pytest.raises(ValueError, match="features='context'"):
        StreamingAnnotator(whole, fs=FS, leads=["MLII"])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1\n2\n", [[1], [2]]),
        ("1,2\r\n3,\r\n", [[1, 2], [3, np.nan]]),
        ("[1, null]\n", [[1, np.nan]]),
        ('{"a": 1, "b": 2}\n', [[1, 2]]),
        ("ecg\n# a comment\n\n5\n", [[5]]),
        ("5\nerror\n6\n", [[5], [np.nan], [6]]),
        ("5\n1,2\n", [[5], [np.nan]]),
    ],
)
def test_lines_of_samples(text, expected, capsys):
    samples, rows = _Samples("text", None), []
    for at in range(0, len(text), 3):  # bytes come in pieces of any size
        rows += samples.parse(text[at : at + 3].encode()).tolist()
    np.testing.assert_array_equal(rows, expected)
    assert ("line 2 is no sample" in capsys.readouterr().err) == (samples.n_bad > 0)


def test_raw_samples():
    samples = _Samples("int16", ["I", "II"])
    data = np.arange(8, dtype="<i2").tobytes()
    parts = [samples.parse(data[:5]), samples.parse(data[5:])]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(8).reshape(4, 2))


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_json_line_for_each_beat(model, recording, monkeypatch):
    x = recording[:5000]
    text = "ecg\n" + "".join(f"{value:.5f}\n" for value in x[:, 0])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    out = io.StringIO()
    stream(model, fs=FS, out=out)
    beats = read(model, np.round(x, 5), [len(x)])
    assert [line["sample"] for line in lines_of(out.getvalue())] == beats["sample"].tolist()
    assert [line["class"] for line in lines_of(out.getvalue())] == beats["class"].tolist()


def test_a_socket_of_raw_numbers(model, recording, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out, x = io.StringIO(), np.round(recording[:5000, 0] * 200).astype("<i2")
    options = {"port": port, "format": "int16", "leads": ["II"], "unit": 1 / 200}
    reader = threading.Thread(
        target=stream, args=(model,), kwargs={"fs": FS, "out": out} | options, daemon=True
    )
    reader.start()
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port)) as device:
                device.sendall(x.tobytes())
            break
        except ConnectionRefusedError:
            threading.Event().wait(0.1)
    reader.join(60)
    assert not reader.is_alive() and len(lines_of(out.getvalue())) > 30
