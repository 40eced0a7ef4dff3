"""Raw records: patients kept apart, rows that do not depend on others, and clear words about damaged files."""

import json
import shutil

import numpy as np
import pytest
from conftest import real_data

pytest.importorskip("wfdb")

from ecg_keras.beats import describe_beats
from ecg_keras.dataset import check_parts
from ecg_keras.demo import write_demo_records
from ecg_keras.mitbih_csv import make_mitbih_csv
from ecg_keras.mitbih_records import DS1, DS2, PACED, load_beats, load_mitbih_records
from ecg_keras.wfdb_records import aami_classes, read_recording

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Ten synthetic records of a minute."""
    folder = tmp_path_factory.mktemp("records")
    write_demo_records(folder, n_patients=10, duration_s=60)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "records")


def rename(folder, old, new):
    """Give a record another name, in its header too."""
    for path in folder.glob(f"{old}.*"):
        path.rename(folder / f"{new}{path.suffix}")
    header = folder / f"{new}.hea"
    header.write_text(header.read_text().replace(old, new))


def test_split_lists_are_those_of_de_chazal():
    assert len(DS1) == len(DS2) == 22 and not set(DS1) & set(DS2)
    assert not (set(DS1) | set(DS2)) & set(PACED)


def test_symbols_follow_aami():
    assert "".join(aami_classes(list("NLRejAaJSVEF/fQ"))) == "NNNNNSSSSVVFQQQ"
    with pytest.raises(ValueError, match="symbol='x'"):
        aami_classes(["x"])


@pytest.mark.parametrize("split", ["patient", "kfold"])
def test_no_patient_is_in_two_parts(written, split):
    parts = load_mitbih_records(written, split=split, features="rr", classes="aami3", seed=1)
    check_parts(*parts)
    assert (
        sum(len(np.unique(part.patients)) for part in parts) == 9
    )  # demo007 is paced: all its beats are Q


def test_folds_test_every_patient_once(written):
    tested = [
        np.unique(
            load_mitbih_records(
                written, split="kfold", fold=k, n_folds=3, features=None, classes="aami3"
            )[2].patients
        )
        for k in range(3)
    ]
    assert sorted(np.concatenate(tested)) == [f"demo{i:03d}" for i in range(10) if i != 7]


def test_same_seed_same_split(written):
    load = lambda seed: load_mitbih_records(
        written, split="patient", features=None, classes="aami3", seed=seed
    )
    assert [part.fingerprint() for part in load(0)] == [part.fingerprint() for part in load(0)]


def test_explicit_lists_are_taken_as_given(written):
    split = {
        "train": ["demo001", "demo003", "demo004", "demo002"],
        "val": ["demo005"],
        "test": ["demo006", "demo009"],
    }
    train, val, test = load_mitbih_records(written, split=split, features=None, classes="aami3")
    assert set(train.records) == set(split["train"]) and set(test.records) == {"demo006", "demo009"}
    assert set(val.records) == {"demo005"}


def test_a_record_gives_the_same_rows_whatever_it_is_loaded_with(written):
    alone = load_beats(written, ["demo004"])
    among = load_beats(written, ["demo001", "demo004", "demo002"])
    among = among[among.records == "demo004"]
    np.testing.assert_array_equal(alone.x, among.x)
    np.testing.assert_array_equal(alone.metadata, among.metadata)


def test_no_feature_knows_the_labels(folder):
    """Other symbols on the same beats change labels and nothing else."""
    wfdb = pytest.importorskip("wfdb")
    before = load_beats(folder, ["demo001"], typical=True)
    notes = read_recording(folder, "demo001")
    shuffled = np.random.default_rng(0).permutation(notes.symbols)
    wfdb.wrann("demo001", "atr", notes.peaks, symbol=list(shuffled), write_dir=str(folder))
    after = load_beats(folder, ["demo001"], typical=True)
    assert (before.y != after.y).any()
    np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(before.metadata, after.metadata)


def test_preparation_survives_json_and_prepares_the_same(written):
    ds = load_beats(
        written,
        ["demo002"],
        lead=("MLII", "other"),
        window_s=(0.3, 0.5),
        fs=100,
        typical=True,
        classes="aami3",
        mains_hz=60,
    )
    again = load_beats(written, ["demo002"], **json.loads(json.dumps(ds.preparation)))
    np.testing.assert_array_equal(ds.x, again.x)
    assert again.leads == ("MLII", "other", "MLII typical", "other typical") and again.x.shape[
        1:
    ] == (80, 4)


def test_windows_hold_the_r_peak_and_are_scaled_by_the_record(written):
    ds = load_beats(written, ["demo001"], window_s=(0.2, 0.4), features=None)
    normal = ds.x[ds.y == 0, :, 0]
    peak = np.abs(normal).argmax(axis=1)
    assert (abs(peak - 25) <= 3).mean() > 0.95  # samples at 125 Hz
    assert np.median(np.abs(normal).max(axis=1)) == pytest.approx(1, abs=0.15)


def test_classes_left_out_are_counted(written):
    names = [f"demo{i:03d}" for i in range(10)]
    five, three, merged = (
        load_beats(written, names, features=None, **options)
        for options in ({}, {"classes": "aami3"}, {"classes": "aami3", "fusion_beats": "V"})
    )
    counts = five.class_counts()
    assert three.class_counts() == {name: counts[name] for name in "NSV"}
    assert merged.class_counts()["V"] == counts["V"] + counts["F"]
    assert f"{counts['F']:,} F" in three.notes[0] and "F counted as V" in merged.notes[0]


def test_detected_beats_match_the_annotated_ones(written):
    annotated, detected = (
        load_beats(written, ["demo001"], beats=beats, features="rr")
        for beats in ("annotated", "detected")
    )
    assert 0.85 * len(annotated) <= len(detected) <= len(annotated)
    assert f"{len(annotated) - len(detected)} annotated but not detected" in detected.notes[0]


def test_lead_is_taken_by_name_not_by_place(folder):
    header = folder / "demo003.hea"
    straight = read_recording(folder, "demo003", lead="V1").signal
    lines = header.read_text().replace(" MLII", " X").replace(" V1", " MLII").replace(" X", " V1")
    header.write_text(lines)
    swapped = read_recording(folder, "demo003", lead="MLII")
    np.testing.assert_array_equal(swapped.signal, straight)
    assert read_recording(folder, "demo003", lead=("MLII", "other")).leads == ("MLII", "V1")


def test_records_201_and_202_are_one_patient(folder):
    rename(folder, "demo001", "201")
    rename(folder, "demo002", "202")
    assert len(set(load_beats(folder, ["201", "202"], features=None).patients)) == 1
    for seed in range(4):
        parts = load_mitbih_records(
            folder, split="patient", features=None, classes="aami3", seed=seed
        )
        assert sum(bool({"201", "202"} & set(part.records)) for part in parts) == 1
    with pytest.raises(ValueError, match="record 202 is of a patient who is in train and in test"):
        load_mitbih_records(folder, split={"train": ["201", "demo003"], "test": ["202"]})


def test_paced_records_are_left_out_and_named(folder):
    rename(folder, "demo001", "104")
    parts = load_mitbih_records(folder, split="patient", features=None, classes="aami3")
    assert not any("104" in part.records for part in parts)
    assert any("104" in note for note in parts[0].notes)


def test_train_only_options_leave_validation_and_test_alone(written):
    load = lambda **options: load_mitbih_records(
        written, split="patient", features=None, classes="aami3", seed=2, **options
    )
    plain, thin = load(), load(most_per_class=5, balance="class_weight")
    assert [len(part) for part in plain[1:]] == [len(part) for part in thin[1:]]
    assert max(np.unique(thin[0].records[thin[0].y == 0], return_counts=True)[1]) <= 5
    assert thin[0].balance.method == "class_weight" and thin[2].balance is None
    with pytest.raises(
        ValueError, match="train has no beat of class S"
    ):  # all are annotated A here
        load(train_without="A")


def damaged(folder, kind):
    """Damage record demo001 in one way."""
    header, data, notes = (folder / f"demo001.{ending}" for ending in ("hea", "dat", "atr"))
    if kind in ("hea", "dat", "atr"):
        (folder / f"demo001.{kind}").unlink()
    elif kind == "truncated":
        data.write_bytes(data.read_bytes()[:-5000])
    elif kind == "longer header":
        header.write_text(header.read_text().replace(" 21600", " 43200"))
    elif kind == "shorter header":
        header.write_text(header.read_text().replace(" 21600", " 10800"))
    elif kind == "fewer leads":
        lines = header.read_text().splitlines()
        header.write_text("\n".join([lines[0].replace("demo001 2", "demo001 1"), lines[1]]) + "\n")
    elif kind == "lead not described":
        header.write_text("\n".join(header.read_text().splitlines()[:2]) + "\n")
    elif kind == "annotation beyond":
        data.write_bytes(data.read_bytes()[: len(data.read_bytes()) // 2])
        header.write_text(header.read_text().replace(" 21600", " 10800"))
    elif kind == "constant":
        data.write_bytes(bytes(len(data.read_bytes())))
    elif kind == "noise for a header":
        header.write_bytes(bytes(range(200, 250)))
    elif kind == "noise for annotations":
        notes.write_bytes(b"\x00\x00")


MESSAGES = {
    "hea": "record 'demo001' is not in",
    "dat": "record demo001: demo001.dat is missing",
    "atr": "record demo001: demo001.atr is missing",
    "truncated": "record demo001: .* truncated",
    "longer header": "record demo001: .* 43200 samples.* truncated",
    "shorter header": "record demo001: .*longer than that",
    "fewer leads": "record demo001: .*1 leads of 21600 samples.*longer than that",
    "lead not described": "record demo001: ",
    "annotation beyond": "record demo001: annotation at sample .* beyond the end of the signal .10800 samples",
    "constant": "record demo001: lead MLII is constant",
    "noise for a header": "record demo001: ",
    "noise for annotations": "record demo001: ",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_damaged_records_are_named(folder, kind):
    damaged(folder, kind)
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        load_beats(folder, ["demo001"])
    ds = load_beats(folder, ["demo001", "demo002"], on_error="skip", features="rr")
    assert set(ds.records) == {"demo002"} and any("demo001" in note for note in ds.notes)


def annotate(folder, *late):
    """Add beats to record demo001 so many samples after its last one."""
    wfdb = pytest.importorskip("wfdb")
    beats = read_recording(folder, "demo001")
    samples = [*beats.peaks, *(len(beats.signal) - 1 + after for after in late)]
    symbols = [*beats.symbols, *("N" for _ in late)]
    wfdb.wrann("demo001", "atr", np.array(samples), symbol=symbols, write_dir=str(folder))


@pytest.mark.parametrize("after", [1, 360])  # the second: one second after the last sample
def test_an_annotation_just_after_the_last_sample_is_dropped_and_told(folder, after):
    before = load_beats(folder, ["demo001", "demo002"])
    annotate(folder, after)
    ds = load_beats(folder, ["demo001", "demo002"])
    np.testing.assert_array_equal(ds.x, before.x)
    np.testing.assert_array_equal(ds.metadata, before.metadata)
    told = "Annotations at or after the end of their recording, left out: 1 (demo001)."
    assert told in ds.notes and told not in before.notes
    assert "end of their recording, left out: 1" in make_mitbih_csv(folder, folder / "csv")


@pytest.mark.parametrize("late", [[361], [1, 2]])
def test_annotations_far_beyond_the_end_or_many_are_of_another_file(folder, late):
    annotate(folder, *late)
    with pytest.raises(ValueError, match="record demo001: annotation at sample .* beyond the end"):
        load_beats(folder, ["demo001"])


def test_an_annotation_before_the_first_sample_is_refused(folder, monkeypatch):
    wfdb = pytest.importorskip("wfdb")
    read = wfdb.rdann

    def shifted(*args, **options):
        notes = read(*args, **options)
        notes.sample[0] = -3
        return notes

    monkeypatch.setattr(wfdb, "rdann", shifted)
    with pytest.raises(ValueError, match="record demo001: annotation at sample -3 "):
        load_beats(folder, ["demo001"])


def test_the_real_record_with_a_beat_at_its_end_is_read():
    ds = load_beats(real_data("svdb"), ["860"], lead="ECG1", features=None)
    assert "Annotations at or after the end of their recording, left out: 1 (860)." in ds.notes


def test_nan_in_a_signal_is_refused(folder):
    wfdb = pytest.importorskip("wfdb")
    record = wfdb.rdrecord(str(folder / "demo001"))
    record.p_signal[100:200, 0] = np.nan
    options = {
        "fmt": ["212", "212"],
        "adc_gain": [200, 200],
        "baseline": [0, 0],
        "write_dir": str(folder),
    }
    wfdb.wrsamp("demo001", 360, ["mV", "mV"], ["MLII", "V1"], p_signal=record.p_signal, **options)
    with pytest.raises(ValueError, match="record demo001: lead MLII .*NaN samples"):
        load_beats(folder, ["demo001"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "ds1-ds2 needs 44 records, and .* lacks 44 of them: 101, 106.*split='patient'"),
        ({"split": "patients"}, "split='patients' is not known"),
        ({"split": {"train": ["demo001"]}}, "split needs the records of 'train' and 'test'"),
        ({"split": {"train": ["demo001"], "tset": ["demo002"]}}, "split has the parts tset"),
        (
            {"split": "patient", "records": ["nobody"]},
            "record 'nobody' is not in .*it holds demo000, demo001",
        ),
        (
            {"split": "patient", "lead": "V5"},
            "record demo000: lead 'V5' is absent; it has MLII, V1",
        ),
        ({"split": "patient", "classes": "aami2"}, "classes='aami2' is not known"),
        ({"split": "kfold", "fold": 7}, "fold must be 0 to 4, got 7"),
        ({"split": "kfold", "n_folds": 40}, "n_folds must be 2 to 10"),
        (
            {
                "split": {"train": ["demo001"], "val": ["demo002"], "test": ["demo003"]},
                "classes": "aami5",
            },
            "no beat of class",
        ),
        ({"split": "patient", "on_error": "ignore"}, "on_error='ignore' is not known"),
    ],
)
def test_refusals_say_what_is_wrong(written, options, message):
    with pytest.raises(ValueError, match=message):
        load_mitbih_records(written, **{"features": None} | options)


def test_folder_without_records_and_no_folder(tmp_path):
    with pytest.raises(ValueError, match="holds no WFDB records"):
        load_beats(tmp_path, ["100"])
    with pytest.raises(ValueError, match="no such folder"):
        load_beats(tmp_path / "absent", ["100"])


def test_the_typical_beat_is_a_late_one_where_most_are_early():
    """Runs of early narrow beats after pauses: the typical beat has the P wave of the beats after a pause."""
    fs, t, rng = 125, 5.0, np.random.default_rng(0)
    peaks, p_waves = [], []
    for _ in range(30):
        for k in range(4):  # one beat after a pause, three early ones
            t += 1.2 if k == 0 else 0.45 + 0.01 * rng.standard_normal()
            peaks.append(t)
            p_waves.append(k == 0)
    time_s = np.arange(int((t + 5) * fs)) / fs
    bump = lambda at, width: np.exp(-0.5 * ((time_s - at) / width) ** 2)
    x = sum(bump(at, 0.012) + 0.2 * p * bump(at - 0.16, 0.02) for at, p in zip(peaks, p_waves))[
        :, None
    ]
    features, names, typical = describe_beats(x, peaks, fs=fs)
    assert typical(0.4, 0.5)[round(0.24 * fs), 0] > 0.15  # the P wave
    like = features[:, names.index("p_like_0")]
    assert like[np.array(p_waves)].min() > 0.9 > 0.5 > np.median(like[~np.array(p_waves)])


def test_real_record_114_has_its_mlii_second():
    folder = real_data("mitdb")
    recording = read_recording(folder, "114", lead=("MLII", "other"))
    assert recording.leads == ("MLII", "V5") and len(recording.peaks) == 1879


def test_real_ds2_is_reported_as_missing():
    with pytest.raises(ValueError, match="lacks 22 of them: 100, 103"):
        load_mitbih_records(real_data("mitdb"))


def test_ds1_ds2_where_all_records_are_there(written, tmp_path):
    for number, name in enumerate(DS1 + DS2):
        for ending in ("hea", "dat", "atr"):
            shutil.copy(written / f"demo{number % 7:03d}.{ending}", tmp_path / f"{name}.{ending}")
        header = tmp_path / f"{name}.hea"
        header.write_text(
            header.read_text()
            .replace(f"demo{number % 7:03d} ", f"{name} ")
            .replace(f"demo{number % 7:03d}.", f"{name}.")
        )
    options = {"classes": "aami3", "features": None}
    train, val, test = load_mitbih_records(tmp_path, **options)
    assert set(test.records) == set(DS2) and set(train.records) | set(val.records) == set(DS1)
    assert not set(train.records) & set(val.records)
    assert any("201" in note and "202" in note for note in test.notes)
    train, val, test = load_mitbih_records(tmp_path, **options, val_records=("205", "220"))
    assert set(val.records) == {"205", "220"} and len(set(train.records)) == 20
