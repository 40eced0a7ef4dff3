"""Recordings read by a model: beats, events, summary and files."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from ecg_keras import annotate as annotating
from ecg_keras.annotate import annotate, find_events, mean_rates
from ecg_keras.demo import simulate_patient, write_demo_records
from ecg_keras.recordings import _wide_bytes
from ecg_keras.streams import UNREAD, Reading


def beats_of(text, rr=0.8, **changes):
    """A beats table of one letter a beat, `rr` seconds apart, with other intervals by number."""
    intervals = np.full(len(text), rr)
    for i, value in changes.get("at", {}).items():
        intervals[i] = value
    time = np.cumsum(intervals)
    before = np.append(np.nan, np.diff(time))[: len(time)]
    return pd.DataFrame({"time_s": time, "class": list(text), "rr_before_s": before})


def kinds(events, *names):
    return [
        tuple(row)
        for row in events[events["kind"].isin(names)][
            ["kind", "class", "start_s", "n_beats"]
        ].values.tolist()
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("NNVNN", []),
        ("NNVVNN", [("couplet", "V", 2)]),
        ("NVVVN", [("run", "V", 3)]),
        ("NSSSSN", [("run", "S", 4)]),
        ("NVSVN", []),  # of two classes: no couplet
        ("NVV?VN", [("couplet", "V", 2)]),  # what is not read breaks a run
        ("VVNVV", [("couplet", "V", 2), ("couplet", "V", 2)]),
        ("NVNVNVN", [("bigeminy", "V", 6)]),
        ("NVNVNN", []),  # two cycles are not yet bigeminy
        ("NNVNNVNNVN", [("trigeminy", "V", 9)]),
        ("NNSNNSNNSN", [("trigeminy", "S", 9)]),
        ("NVNVNVVNVNVN", [("couplet", "V", 2)]),
    ],
)
def test_events_of_a_sequence_of_classes(text, expected):
    events = find_events(beats_of(text))
    found = [
        (kind, of, n) for kind, of, _, n in kinds(events, "couplet", "run", "bigeminy", "trigeminy")
    ]
    assert found == expected


def test_a_run_has_its_rate_and_its_times():
    events = find_events(beats_of("NNVVVVNN", at={3: 0.4, 4: 0.4, 5: 0.4}))
    run = events[events["kind"] == "run"].iloc[0]
    assert run["n_beats"] == 4 and run["rate_bpm"] == pytest.approx(150)
    assert run["start_s"] == pytest.approx(2.4) and run["stop_s"] == pytest.approx(3.6)


def test_a_gap_nobody_could_read_breaks_runs_and_pauses():
    beats = beats_of("NVVVN", at={2: 5.0})
    assert kinds(find_events(beats), "pause")[0][0] == "pause"
    beats.loc[2, "rr_before_s"] = np.nan
    found = find_events(beats)
    assert not kinds(found, "pause", "run") and kinds(found, "couplet")


def test_pause_longest_interval_and_slow_and_fast_rhythm():
    events = find_events(beats_of("N" * 60, at={10: 3.0} | {i: 0.4 for i in range(25, 60)}))
    assert [row[0] for row in kinds(events, "pause", "longest_rr")] == ["pause", "longest_rr"]
    fast = events[events["kind"] == "tachycardia"].iloc[0]
    assert "150 per minute" in fast["text"]
    slow = find_events(beats_of("N" * 30, rr=1.5))
    assert "40 per minute" in slow[slow["kind"] == "bradycardia"].iloc[0]["text"]
    assert not len(find_events(beats_of("N" * 30)).query("kind != 'longest_rr'"))


def test_no_beats_give_no_events():
    assert len(find_events(beats_of(""))) == 0


def test_mean_rate_is_over_eight_intervals():
    rate = mean_rates(np.array([np.nan] + [0.5] * 9))
    assert np.isnan(rate[7]) and rate[8] == pytest.approx(120)


def test_intervals_over_unreadable_seconds_are_unknown():
    states = np.zeros((10, 1), np.int8)
    states[4] = 1
    reading = Reading(
        [0],
        np.array([100, 200, 300, 600, 700]),
        np.eye(3, dtype=np.float32)[[0, 2, 0, 0, 1]],
        np.array(["", "", "", "", "noise"]),
        states,
        np.zeros(10, bool),
    )
    beats = reading.beats_table(100.0, ["N", "S", "V"])
    assert beats["class"].tolist() == ["N", "V", "N", "N", UNREAD]
    assert beats["rr_before_s"].isna().tolist() == [True, False, False, True, False]
    assert beats["p_V"].tolist()[:2] == [0, 1] and np.isnan(beats["p_V"].iloc[4])
    assert reading.spans(("I",)).values.tolist() == [[4, 5, "", "noise"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo record, and its name."""
    folder = tmp_path_factory.mktemp("records")
    return folder, write_demo_records(folder, n_patients=2, duration_s=90)


@pytest.fixture(scope="module")
def beat_model(folder):
    """A small model of beats of one lead with features of rhythm, hardly trained."""
    import keras

    from ecg_keras import build_model, load_beats
    from ecg_keras.saved_models import served

    keras.utils.set_random_seed(0)
    rows = load_beats(*folder, classes="aami3", features="rhythm", beats="detected")
    network = build_model("rhythm", like=rows, members=1, filters=(), units=8, joint_units=8)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(rows.inputs(["signal", "metadata"]), rows.y, epochs=3, verbose=0)
    return served(network, rows), rows


def test_a_recording_gets_the_probabilities_that_the_loaders_rows_get(beat_model, folder):
    from ecg_keras import predict

    model, rows = beat_model
    name = folder[1][0]
    found = annotate(model, folder[0] / name, lead="MLII")
    own = rows.records == name
    told = found.beats[["p_N", "p_S", "p_V"]].to_numpy()
    expected = predict(model, rows[own])
    # the loader's rows are those of annotated beats of three classes, annotate reads all
    gaps = np.abs(told[:, None] - expected[None]).max(axis=2).min(axis=0)
    assert len(told) >= len(expected) and np.nanmax(gaps) < 1e-4


def test_files_are_those_that_viewers_read(beat_model, folder, tmp_path):
    import wfdb

    model, _ = beat_model
    name = folder[1][0]
    found = annotate(model, str(folder[0] / name), out_dir=tmp_path)
    with _wide_bytes():
        notes = wfdb.rdann(str(tmp_path / name), "ecg")
    beats = np.isin(notes.symbol, list("NSVFQ"))
    assert notes.sample[beats].tolist() == found.beats["sample"].tolist() and notes.fs == found.fs
    symbols = found.beats["class"].replace(UNREAD, "Q").tolist()
    assert np.array(notes.symbol)[beats].tolist() == symbols
    table = pd.read_csv(tmp_path / "beats.csv", keep_default_na=False)
    assert table["class"].tolist() == found.beats["class"].tolist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["n_beats"] == len(found.beats) and summary["record"] == name
    assert (
        summary["beats"]
        == found.beats["class"]
        .value_counts()
        .reindex(["N", "S", "V", UNREAD], fill_value=0)
        .to_dict()
    )
    assert (tmp_path / "record.html").stat().st_size > 10_000
    annotate(model, str(folder[0] / name), out_dir=tmp_path)  # its own files are replaced
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [f"{name}.ecg", "beats.csv", "record.html", "summary.json"]
    )


def test_a_folder_keeps_the_annotation_of_one_recording(beat_model, folder, tmp_path):
    first, second = (folder[0] / name for name in folder[1])
    annotate(beat_model[0], first, out_dir=tmp_path)
    kept = (tmp_path / "beats.csv").read_bytes()
    with pytest.raises(ValueError, match=f"holds the annotation of {first.name}"):
        annotate(beat_model[0], second, out_dir=tmp_path)
    assert (tmp_path / "beats.csv").read_bytes() == kept


def test_a_folder_that_was_not_finished_is_finished_by_the_next_call(
    beat_model, folder, tmp_path, monkeypatch
):
    from ecg_keras import record_page

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    path = folder[0] / folder[1][0]
    with monkeypatch.context() as patch:
        patch.setattr(record_page, "write_record_page", killed)
        with pytest.raises(KeyboardInterrupt):
            annotate(beat_model[0], path, out_dir=tmp_path)
    assert (tmp_path / "beats.csv").exists()
    found = annotate(beat_model[0], path, out_dir=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["n_beats"] == len(found.beats) and (tmp_path / "record.html").exists()


def test_files_of_others_are_not_replaced(beat_model, folder, tmp_path):
    (tmp_path / "beats.csv").write_text("mine")
    with pytest.raises(ValueError, match="not written by this package"):
        annotate(beat_model[0], folder[0] / folder[1][0], out_dir=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["beats.csv"]


def test_a_long_recording_is_read_in_blocks_as_in_one(beat_model, monkeypatch):
    patient = simulate_patient(3, duration_s=400, fs=200)
    arguments = {"fs": 200, "leads": patient.leads, "lead": "MLII"}
    whole = annotate(beat_model[0], patient.signal, **arguments)
    for name, value in {"_BLOCK_S": 100, "_BEFORE_S": 60, "_AROUND_S": 20}.items():
        monkeypatch.setattr(annotating, name, value)
    parts = annotate(beat_model[0], patient.signal, **arguments)
    same = np.isin(parts.beats["sample"], whole.beats["sample"])
    assert len(parts.beats) == len(whole.beats) and same.mean() > 0.99
    assert len(parts.spans) == len(whole.spans)


def test_what_cannot_be_read_is_marked_and_not_classified(beat_model):
    patient = simulate_patient(0, duration_s=120, fs=250)
    x = patient.signal.copy()
    x[250 * 40 : 250 * 60] = np.nan
    x[250 * 80 : 250 * 90] = 0.3
    found = annotate(beat_model[0], x, fs=250, leads=patient.leads)
    time = found.beats["time_s"]
    assert not ((time > 41) & (time < 59)).any() and not ((time > 81) & (time < 89)).any()
    assert {"missing", "flat"} <= set(found.spans["why"])
    assert found.summary["analysable"] == pytest.approx(0.75, abs=0.04)
    assert found.summary["unreadable_s"]["missing"] == pytest.approx(20, abs=1)


def test_unreadable_stretches_are_told_in_the_annotation_file(beat_model, tmp_path):
    import wfdb

    patient = simulate_patient(0, duration_s=60, fs=250)
    x = patient.signal.copy()
    x[250 * 20 : 250 * 30] = np.nan
    found = annotate(beat_model[0], x, fs=250, leads=patient.leads, out_dir=tmp_path)
    with _wide_bytes():
        notes = wfdb.rdann(str(tmp_path / found.name), "ecg")
    marks = np.array(notes.symbol) == "~"
    assert np.array(notes.subtype)[marks].tolist() == [0x30, 0]
    assert np.abs(notes.sample[marks] / 250 - [20, 30]).max() <= 2


def test_signals_that_no_electrode_gives_are_not_classified(beat_model):
    patient = simulate_patient(0, duration_s=60, fs=250)
    found = annotate(beat_model[0], 0.01 * patient.signal, fs=250, leads=patient.leads, unit="mV")
    assert set(found.beats["class"]) <= {UNREAD}


def test_an_annotation_shows_itself(beat_model, folder):
    found = annotate(beat_model[0], folder[0] / folder[1][0])
    assert "Heart rate per minute: mean" in str(found)
    assert f"<h3>{found.name}</h3>" in found._repr_html_()


def test_leads_that_are_not_there_are_told(beat_model, folder):
    path = folder[0] / folder[1][0]
    with pytest.raises(ValueError, match="V9.*MLII, V1"):
        annotate(beat_model[0], path, lead="V9")
    found = annotate(beat_model[0], simulate_patient(1).signal[:, :1], fs=360, leads=["chest"])
    assert "lead MLII, which is not there; chest was read" in found.notes[-1]


@pytest.fixture(scope="module")
def record_model():
    """An untrained network that reads four seconds of two leads."""
    from ecg_keras import ECGDataset, build_model
    from ecg_keras.saved_models import served

    rows = ECGDataset(
        np.zeros((4, 400, 2)),
        np.eye(3)[[0, 1, 2, 0]],
        classes=["A", "B", "C"],
        fs=100,
        leads=("I", "II"),
    )
    return served(build_model("cnn1d", like=rows, filters=(4,)), rows)


def test_a_model_of_whole_records_is_run_on_each_window(record_model, tmp_path):
    from ecg_keras import predict

    patient = simulate_patient(0, duration_s=30, fs=250)
    found = annotate(record_model, patient.signal, fs=250, leads=("II", "I"), out_dir=tmp_path)
    assert found.windows["start_s"].tolist() == [0, 4, 8, 12, 16, 20, 24, 26]
    assert found.windows[["p_A", "p_B", "p_C"]].to_numpy().max() <= 1
    assert set(found.beats["class"]) == {""} and found.summary["windows"]["n"] == 8
    from ecg_keras.recordings import open_recording

    source = open_recording(patient.signal, fs=250, leads=("II", "I"))
    again = predict(record_model, source)
    np.testing.assert_allclose(again, found.windows[["p_A", "p_B", "p_C"]], atol=1e-6)
    swapped = annotate(record_model, patient.signal[:, ::-1], fs=250, leads=("I", "II"))
    np.testing.assert_allclose(swapped.windows["p_A"], found.windows["p_A"], atol=1e-6)


def test_a_model_of_other_leads_or_longer_records_is_refused(record_model):
    patient = simulate_patient(0, duration_s=30)
    with pytest.raises(ValueError, match=r"reads 2 leads \(I, II\), the recording has 1 \(V1\)"):
        annotate(record_model, patient.signal[:, 0], fs=360, leads=["V1"])
    with pytest.raises(ValueError, match="3 s.*4 s"):
        annotate(record_model, patient.signal[: 3 * 360], fs=360, leads=["I", "II"])


def test_a_model_of_kaggle_rows_reads_recordings(folder):
    from ecg_keras import ECGDataset, build_model, predict
    from ecg_keras.mitbih_csv import cut_beats
    from ecg_keras.saved_models import served

    rows = ECGDataset(
        np.zeros((5, 187, 1)),
        np.arange(5),
        classes=tuple("NSVFQ"),
        fs=125,
        split_by={"loader": "load_mitbih_csv"},
    )
    model = served(build_model("cnn1d", like=rows, filters=(4,)), rows)
    patient = simulate_patient(2, duration_s=60)
    found = annotate(model, patient.signal, fs=360, leads=patient.leads)
    own = types.SimpleNamespace(
        signal=patient.signal, fs=360.0, leads=patient.leads, peaks=found.beats["sample"].to_numpy()
    )
    expected = predict(model, cut_beats(own)[0][..., None])
    told = found.beats[[f"p_{name}" for name in "NSVFQ"]].to_numpy()
    np.testing.assert_allclose(told, expected, atol=1e-4)


def test_a_network_without_a_card_is_refused():
    import keras

    with pytest.raises(ValueError, match="no card"):
        annotate(keras.Sequential([keras.Input((3,))]), np.zeros((1000, 1)), fs=100)


@pytest.fixture(scope="module")
def model_files(beat_model, record_model, tmp_path_factory):
    """Both models as files."""
    folder = tmp_path_factory.mktemp("models")
    beat_model[0].save(folder / "beats.keras")
    record_model.save(folder / "records.keras")
    return folder


T = np.arange(1500) / 125
WAVE = np.exp(-0.5 * ((T % 0.8 - 0.4) / 0.02) ** 2)


@pytest.mark.parametrize(
    "model, values, options, told",
    [
        ("beats", WAVE, ["--fs", "125", "--lead", "V5"], "lead 'V5' is absent"),
        ("beats", WAVE, [], "fs"),
        ("beats", WAVE * 4000, ["--fs", "125"], "likely microvolts or raw counts"),
        ("beats", WAVE[:100], ["--fs", "125"], "at least 2 s"),
        ("beats", WAVE * np.nan, ["--fs", "125"], "CSV of numbers"),
        ("records", WAVE, ["--fs", "125"], "reads 2 leads (I, II), the recording has 1"),
        ("beats", "no recording at all", ["--fs", "125"], "mine.csv"),
        ("beats", None, [], "mine.csv"),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(
    model, values, options, told, model_files, tmp_path, capsys
):
    from ecg_keras.__main__ import main

    file = tmp_path / "mine.csv"
    if isinstance(values, str):
        file.write_text(values)
    elif values is not None:
        pd.DataFrame({"chest": values}).to_csv(file, index=False)
    arguments = ["annotate", str(file), "--out", str(tmp_path / "out"), *options]
    assert main([*arguments, "--model", str(model_files / f"{model}.keras")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and told in said
    assert not (tmp_path / "out").exists()
