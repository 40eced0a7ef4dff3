"""Raw records: patients kept apart, and rows that do not depend on others."""

import inspect
import json
import shutil

import numpy as np
import pytest
from conftest import real_data

pytest.importorskip("wfdb")

from ecg_keras.dataset import check_parts
from ecg_keras.mitbih_records import (
    DS1,
    DS2,
    PACED,
    _source,
    load_beats,
    load_mitbih_records,
    load_wfdb_beats,
)
from ecg_keras.recordings import read_recording

pytestmark = pytest.mark.numeric


def rename(folder, old, new):
    """Give a record another name, in its header too."""
    for path in folder.glob(f"{old}.*"):
        path.rename(folder / f"{new}{path.suffix}")
    header = folder / f"{new}.hea"
    header.write_text(header.read_text().replace(old, new))


def test_split_lists_are_those_of_de_chazal():
    assert len(DS1) == len(DS2) == 22 and not set(DS1) & set(DS2)
    assert not (set(DS1) | set(DS2)) & set(PACED)


@pytest.mark.parametrize("split", ["patient", "kfold"])
def test_no_patient_is_in_two_parts(written_records, split):
    parts = load_mitbih_records(
        written_records, split=split, features="rr", classes="aami3", seed=1
    )
    check_parts(*parts)
    assert (
        sum(len(np.unique(part.patients)) for part in parts) == 9
    )  # demo007 is paced: all its beats are Q


def test_folds_test_every_patient_once(written_records):
    tested = [
        np.unique(
            load_mitbih_records(
                written_records, split="kfold", fold=k, n_folds=3, features=None, classes="aami3"
            )[2].patients
        )
        for k in range(3)
    ]
    assert sorted(np.concatenate(tested)) == [f"demo{i:03d}" for i in range(10) if i != 7]


def test_same_seed_same_split(written_records):
    load = lambda seed: load_mitbih_records(
        written_records, split="patient", features=None, classes="aami3", seed=seed
    )
    assert [part.fingerprint() for part in load(0)] == [part.fingerprint() for part in load(0)]


def test_explicit_lists_are_taken_as_given(written_records):
    split = {
        "train": ["demo001", "demo003", "demo004", "demo002"],
        "val": ["demo005"],
        "test": ["demo006", "demo009"],
    }
    train, val, test = load_mitbih_records(
        written_records, split=split, features=None, classes="aami3"
    )
    assert set(train.records) == set(split["train"]) and set(test.records) == {"demo006", "demo009"}
    assert set(val.records) == {"demo005"}


def test_a_record_gives_the_same_rows_whatever_it_is_loaded_with(written_records):
    alone = load_beats(written_records, ["demo004"])
    among = load_beats(written_records, ["demo001", "demo004", "demo002"])
    among = among[among.records == "demo004"]
    np.testing.assert_array_equal(alone.x, among.x)
    np.testing.assert_array_equal(alone.metadata, among.metadata)


def test_no_feature_knows_the_labels(records_to_damage):
    """Other symbols on the same beats change labels and nothing else."""
    wfdb = pytest.importorskip("wfdb")
    before = load_beats(records_to_damage, ["demo001"], typical=True)
    notes = read_recording(records_to_damage, "demo001")
    shuffled = np.random.default_rng(0).permutation(notes.symbols)
    wfdb.wrann(
        "demo001", "atr", notes.peaks, symbol=list(shuffled), write_dir=str(records_to_damage)
    )
    after = load_beats(records_to_damage, ["demo001"], typical=True)
    assert (before.y != after.y).any()
    np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(before.metadata, after.metadata)


def test_preparation_survives_json_and_prepares_the_same(written_records):
    ds = load_beats(
        written_records,
        ["demo002"],
        lead=("MLII", "other"),
        window_s=(0.3, 0.5),
        fs=100,
        typical=True,
        classes="aami3",
        mains_hz=60,
    )
    again = load_beats(written_records, ["demo002"], **json.loads(json.dumps(ds.preparation)))
    np.testing.assert_array_equal(ds.x, again.x)
    assert again.leads == ("MLII", "other", "MLII typical", "other typical") and again.x.shape[
        1:
    ] == (80, 4)


def test_windows_hold_the_r_peak_and_are_scaled_by_the_record(written_records):
    ds = load_beats(written_records, ["demo001"], window_s=(0.2, 0.4), features=None)
    normal = ds.x[ds.y == 0, :, 0]
    peak = np.abs(normal).argmax(axis=1)
    assert (abs(peak - 25) <= 3).mean() > 0.95  # samples at 125 Hz
    assert np.median(np.abs(normal).max(axis=1)) == pytest.approx(1, abs=0.15)


def test_classes_left_out_are_counted(written_records):
    names = [f"demo{i:03d}" for i in range(10)]
    five, three, merged = (
        load_beats(written_records, names, features=None, **options)
        for options in ({}, {"classes": "aami3"}, {"classes": "aami3", "fusion_beats": "V"})
    )
    counts = five.class_counts()
    assert three.class_counts() == {name: counts[name] for name in "NSV"}
    assert merged.class_counts()["V"] == counts["V"] + counts["F"]
    assert f"{counts['F']:,} F" in three.notes[0] and "F counted as V" in merged.notes[0]


def test_detected_beats_match_the_annotated_ones(written_records):
    annotated, detected = (
        load_beats(written_records, ["demo001"], beats=beats, features="rr")
        for beats in ("annotated", "detected")
    )
    assert 0.85 * len(annotated) <= len(detected) <= len(annotated)
    assert f"{len(annotated) - len(detected)} annotated but not detected" in detected.notes[0]


def test_records_201_and_202_are_one_patient(records_to_damage):
    rename(records_to_damage, "demo001", "201")
    rename(records_to_damage, "demo002", "202")
    assert len(set(load_beats(records_to_damage, ["201", "202"], features=None).patients)) == 1
    for seed in range(4):
        parts = load_mitbih_records(
            records_to_damage, split="patient", features=None, classes="aami3", seed=seed
        )
        assert sum(bool({"201", "202"} & set(part.records)) for part in parts) == 1
    with pytest.raises(ValueError, match="record 202 is of a patient who is in train and in test"):
        load_mitbih_records(records_to_damage, split={"train": ["201", "demo003"], "test": ["202"]})


def test_paced_records_are_left_out_and_named(records_to_damage):
    rename(records_to_damage, "demo001", "104")
    parts = load_mitbih_records(records_to_damage, split="patient", features=None, classes="aami3")
    assert not any("104" in part.records for part in parts)
    assert any("104" in note for note in parts[0].notes)


def test_train_only_options_leave_validation_and_test_alone(written_records):
    load = lambda **options: load_mitbih_records(
        written_records, split="patient", features=None, classes="aami3", seed=2, **options
    )
    plain, thin = load(), load(most_per_class=5, balance="class_weight")
    assert [len(part) for part in plain[1:]] == [len(part) for part in thin[1:]]
    assert max(np.unique(thin[0].records[thin[0].y == 0], return_counts=True)[1]) <= 5
    assert thin[0].balance.method == "class_weight" and thin[2].balance is None
    with pytest.raises(
        ValueError, match="train has no beat of class S"
    ):  # all are annotated A here
        load(train_without="A")


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "ds1_ds2 needs 44 records, and .* lacks 44 of them: 101, 106.*split='patient'"),
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
        ({"split": "patient", "window_s": (0.4,)}, "window_s must be a pair of numbers"),
        ({"split": "patient", "val_fraction": 1.0}, "val_fraction must lie between 0 and 1"),
        ({"split": "patient", "records": "ds3"}, "records='ds3' is not known"),
        ({"split": "patient", "on_error": "ignore"}, "on_error='ignore' is not known"),
    ],
)
def test_refusals_say_what_is_wrong(written_records, options, message):
    with pytest.raises(ValueError, match=message):
        load_mitbih_records(written_records, **{"features": None} | options)


def test_real_ds2_is_reported_as_missing():
    with pytest.raises(ValueError, match="lacks 22 of them: 100, 103"):
        load_mitbih_records(real_data("mitdb"))


def test_ds1_ds2_where_all_records_are_there(written_records, tmp_path):
    for number, name in enumerate(DS1 + DS2):
        for ending in ("hea", "dat", "atr"):
            shutil.copy(
                written_records / f"demo{number % 7:03d}.{ending}", tmp_path / f"{name}.{ending}"
            )
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


def test_a_misspelled_keyword_is_refused_by_name(written_records):
    with pytest.raises(TypeError, match="windows_s"):
        load_mitbih_records(written_records, split="patient", windows_s=(0.4, 0.6))
    with pytest.raises(TypeError, match="feature'"):
        load_beats(written_records, ["demo001"], feature=None)


@pytest.mark.parametrize("loader", [load_mitbih_records, load_beats])
def test_signatures_show_how_beats_are_prepared(loader):
    keywords = inspect.signature(loader).parameters
    assert "options" not in keywords and "preparation" not in keywords
    assert keywords["window_s"].default == (0.4, 0.6) and keywords["features"].default == "rhythm"


def test_the_old_spelling_of_the_split_still_works(written_records):
    with pytest.warns(DeprecationWarning, match="split='ds1-ds2' is spelled 'ds1_ds2' now"):
        with pytest.raises(ValueError, match="split ds1_ds2 needs 44 records"):
            load_mitbih_records(written_records, split="ds1-ds2")


def test_records_must_be_a_list_and_one_must_be_usable(written_records):
    with pytest.raises(ValueError, match="records must be a list .*got '100'"):
        load_beats(written_records, "100")
    with pytest.raises(ValueError, match="none of the 2 records could be used: .*nobody"):
        load_beats(written_records, ["nobody", "noone"], on_error="skip")
    with pytest.raises(ValueError, match="records demo007: no beat of the classes N, S, V"):
        load_beats(written_records, ["demo007"], classes="aami3", features=None)  # paced


def test_the_split_is_told_and_can_be_made_again(written_records):
    load = lambda **options: load_mitbih_records(
        written_records, features=None, classes="aami3", **options
    )
    parts = load(split="kfold", fold=1, n_folds=3)
    assert parts[2].source.endswith("fold 1 of 3, whole patients")
    split_by = dict(parts[2].split_by)
    assert split_by.pop("loader") == "load_mitbih_records"
    assert [part.fingerprint() for part in load(**split_by)] == [
        part.fingerprint() for part in parts
    ]


def test_databases_are_loaded_together_each_lead_by_itself(written_records, tmp_path):
    for name in ("demo000", "demo001"):
        for ending in ("hea", "dat", "atr"):
            shutil.copy(written_records / f"{name}.{ending}", tmp_path)
    options = {"lead": "each", "features": "context", "classes": "aami3", "beats": "detected"}
    sources = [(written_records, ["demo000", "demo002"]), (tmp_path, None)]
    ds = load_wfdb_beats(sources, **options)
    first, second = written_records.name, tmp_path.name
    assert set(ds.records) == {
        f"{first}/demo000",
        f"{first}/demo002",
        f"{second}/demo000",
        f"{second}/demo001",
    }
    assert set(ds.patients) == set(ds.records) and ds.x.shape[2] == 1
    alone = load_wfdb_beats([(tmp_path, ["demo000"])], **options)
    np.testing.assert_array_equal(alone.x, ds.x[ds.records == f"{second}/demo000"])
    np.testing.assert_array_equal(alone.metadata, ds.metadata[ds.records == f"{first}/demo000"])
    n_leads = len(read_recording(tmp_path, "demo000", lead=None).leads)
    half = len(alone) // n_leads
    np.testing.assert_array_equal(alone.y[:half], alone.y[half : 2 * half])
    assert list(set(alone.patients)) == ["demo000"]


def test_databases_need_folders_of_different_names(written_records):
    with pytest.raises(ValueError, match="each folder of another name"):
        load_wfdb_beats([(written_records, None), (written_records, ["demo000"])])
    with pytest.raises(ValueError, match="got the folders none"):
        load_wfdb_beats([])


def test_the_source_says_which_database():
    assert "Supraventricular" in _source("x", ["800", "894"])
    assert _source("x", ["100", "230"]).startswith("MIT-BIH Arrhythmia")
    assert _source("/data/incart", ["I01"]) == "WFDB records of incart"
