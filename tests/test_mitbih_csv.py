import gzip
import os
import zipfile

import numpy as np
import pytest

from ecg_keras import load_mitbih_csv
from ecg_keras.mitbih_csv import find_csv_files, read_beats_csv

pytestmark = pytest.mark.numeric


def rows(n=40, seed=0):
    """Random beats and their classes, as the files have them: (n, 188)."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.random((n, 187)).astype(np.float32), np.arange(n) % 5])


def write(path, table, *, end="\n"):
    text = "\n".join(",".join(f"{value:.18e}" for value in row) for row in table) + end
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "heartbeat"
    place.mkdir()
    write(place / "mitbih_train.csv", rows(100))
    write(place / "mitbih_test.csv", rows(30, seed=1))
    return place


def test_values_and_labels_come_back_as_written(folder):
    train, val, test = load_mitbih_csv(folder)
    np.testing.assert_array_equal(test.x[:, :, 0], rows(30, seed=1)[:, :187].astype(np.float32))
    np.testing.assert_array_equal(test.y, rows(30)[:, 187])
    assert len(train) == 90 and len(val) == 10
    assert train.fs == 125 and train.classes == ("N", "S", "V", "F", "Q") and train.patients is None
    assert any("same patients" in note for note in test.notes)


def test_the_second_load_is_from_the_cache_and_equal(folder, monkeypatch):
    first = load_mitbih_csv(folder)
    monkeypatch.setattr(
        "ecg_keras.mitbih_csv.read_beats_csv", lambda file: pytest.fail("read the text again")
    )
    for one, other in zip(first, load_mitbih_csv(folder)):
        np.testing.assert_array_equal(one.x, other.x)


def test_a_changed_file_is_read_again_even_with_its_old_time(folder):
    load_mitbih_csv(folder)
    path = folder / "mitbih_test.csv"
    stat = path.stat()
    table = rows(30, seed=1)
    table[3, 0] = 0.125
    write(path, table)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_mitbih_csv(folder)[2].x[3, 0, 0] == 0.125


def test_a_torn_cache_is_made_anew(folder, tmp_path):
    expected = load_mitbih_csv(folder)[2].x
    cache = next((tmp_path / "cache").iterdir())
    cache.write_bytes(cache.read_bytes()[:-100])
    np.testing.assert_array_equal(load_mitbih_csv(folder)[2].x, expected)


@pytest.mark.parametrize("form", ["nested", "gz", "zip", "one zip", "zip in folder", "file"])
def test_every_form_of_the_files_is_found(folder, tmp_path, form):
    expected = load_mitbih_csv(folder)[2].x
    files = [folder / "mitbih_train.csv", folder / "mitbih_test.csv"]
    place = tmp_path / "input"
    place.mkdir()
    if form == "nested":
        folder.rename(place / "heartbeat")
    elif form == "gz":
        for file in files:
            (place / (file.name + ".gz")).write_bytes(gzip.compress(file.read_bytes()))
    elif form == "zip":
        for file in files:
            with zipfile.ZipFile(place / (file.name + ".zip"), "w") as archive:
                archive.write(file, file.name)
    elif form == "file":
        place = files[0]
    else:
        with zipfile.ZipFile(place / "archive.zip", "w") as archive:
            for file in files:
                archive.write(file, f"data/{file.name}")
        place = place if form == "zip in folder" else place / "archive.zip"
    np.testing.assert_array_equal(load_mitbih_csv(place)[2].x, expected)


def test_without_a_directory_the_variable_then_kaggle_s_folders(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("ECG_KERAS_DATA", raising=False)
    for layout in ("datasets/shayanfazeli/heartbeat", "heartbeat"):
        root = tmp_path / ("kaggle-" + layout.replace("/", "-"))
        (root / layout).parent.mkdir(parents=True)
        monkeypatch.setattr("ecg_keras.mitbih_csv._KAGGLE_INPUT", root)
        with pytest.raises(ValueError, match="ecg-keras download mitbih_csv DIR"):
            find_csv_files()
        (root / layout).symlink_to(folder)
        assert find_csv_files()["train"].path.name == "mitbih_train.csv"
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("ECG_KERAS_DATA", str(other))
    with pytest.raises(ValueError, match="mitbih_train.csv and mitbih_test.csv not found"):
        find_csv_files()


def test_standardising_uses_train_rows_only(folder):
    raw_train, raw_val, _ = load_mitbih_csv(folder)
    train, val, _ = load_mitbih_csv(folder, standardize=True)
    np.testing.assert_allclose(train.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.x.std(axis=0), 1, atol=1e-4)
    expected = (raw_val.x - raw_train.x.mean(axis=0)) / raw_train.x.std(axis=0)
    np.testing.assert_allclose(val.x, expected, atol=1e-4)
    np.testing.assert_array_equal(val.row_digests(), raw_val.row_digests())


def test_only_the_train_part_is_balanced(tmp_path):
    table = np.concatenate(
        [rows(200), np.column_stack([np.random.default_rng(5).random((100, 187)), np.zeros(100)])]
    )
    write(tmp_path / "mitbih_train.csv", table)
    write(tmp_path / "mitbih_test.csv", rows(30))
    train, val, test = load_mitbih_csv(tmp_path, balance="smote")
    assert len(set(train.class_counts().values())) == 1
    assert val.class_counts() == load_mitbih_csv(tmp_path)[1].class_counts() and len(test) == 30
    kept = {row.tobytes() for row in train.x}
    assert not any(row.tobytes() in kept for row in val.x)


def test_split_by_patient_needs_the_file_that_names_them(folder):
    with pytest.raises(ValueError, match="ecg-keras make-mitbih-csv RECORDS_DIR OUT_DIR"):
        load_mitbih_csv(folder, split="patient")


def test_split_by_patient_keeps_patients_whole(folder):
    lines = ["part,row,record,patient,sample,symbol"]
    lines += [f"train,{i},{100 + i % 10},p{i % 10},{i},N" for i in range(100)]
    lines += [f"test,{i},{100 + i % 10},p{i % 10},{i},N" for i in range(30)]
    (folder / "mitbih_rows.csv").write_text("\n".join(lines) + "\n")
    parts = load_mitbih_csv(folder, split="patient")
    people = [set(part.patients) for part in parts]
    assert sum(map(len, people)) == 10 and len(set.union(*people)) == 10
    assert sum(map(len, parts)) == 130


def test_the_synthetic_mark_is_seen(folder):
    assert not load_mitbih_csv(folder)[0].synthetic
    (folder / "SYNTHETIC.txt").write_text("made by a program")
    assert load_mitbih_csv(folder)[0].synthetic


def spoilt(tmp_path, change):
    path = write(tmp_path / "mitbih_train.csv", rows(20))
    lines = path.read_text().splitlines()
    path.write_text(change(lines))
    return path


def field(row, column, text):
    """A change of one field, counted from 1."""

    def change(lines):
        fields = lines[row - 1].split(",")
        fields[column - 1] = text
        lines[row - 1] = ",".join(fields)
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: "", "is empty"),
        (
            lambda lines: "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (lambda lines: "<!DOCTYPE html><html></html>\n", "HTML page"),
        (
            lambda lines: "\n".join(line.rsplit(",", 1)[0] for line in lines) + "\n",
            "expected 188 columns .* got 187 in row 1",
        ),
        (
            lambda lines: ",".join(f"s{i}" for i in range(188)) + "\n" + "\n".join(lines) + "\n",
            "row 1 is a header line",
        ),
        (field(7, 9, "abc"), "row 7, column 9: expected a number, got 'abc'"),
        (field(7, 9, ""), "row 7, column 9: expected a number, got nothing"),
        (field(3, 2, "nan"), "row 3, column 2: is nan"),
        (field(3, 2, "inf"), "row 3, column 2: is inf"),
        (field(3, 2, "1e300"), "row 3, column 2: is 1e300"),
        (
            field(5, 188, "7.0"),
            "row 5, column 188: the label must be a whole number 0 to 4 .* got 7",
        ),
        (field(5, 188, "1.5"), "row 5, column 188: .* got 1.5"),
        (field(5, 188, "-1.0"), "row 5, column 188: .* got -1"),
        (lambda lines: "\n".join(lines)[:-1000], "last line is cut off after column"),
        (lambda lines: "\n".join(lines)[:-3], "last line is cut off after column 188"),
        (
            lambda lines: "\n".join([*lines[:4], lines[4][:500], *lines[5:]]) + "\n",
            "row 5: expected 188 columns",
        ),
        (
            lambda lines: "\n".join([*lines[:4], lines[4] + ",1.0", *lines[5:]]) + "\n",
            "row 5: expected 188 columns .* got 189",
        ),
        (lambda lines: "\n".join(lines[::5]) + "\n", "all 4 beats are of class N"),
    ],
)
def test_a_bad_file_is_told_with_row_column_and_cure(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_beats_csv(spoilt(tmp_path, change))


def test_a_torn_download_is_told(tmp_path, folder):
    packed = gzip.compress((folder / "mitbih_train.csv").read_bytes())
    (tmp_path / "mitbih_train.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match="cut off or damaged|cannot be"):
        read_beats_csv(tmp_path / "mitbih_train.csv.gz")
    (tmp_path / "all.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="not a zip that can be read"):
        load_mitbih_csv(tmp_path / "all.zip")


def test_a_missing_file_is_named(folder, tmp_path):
    (folder / "mitbih_test.csv").unlink()
    with pytest.raises(
        ValueError, match=r"mitbih_test.csv not found \(mitbih_train.csv is there\)"
    ):
        load_mitbih_csv(folder)
    with pytest.raises(ValueError, match="no such folder"):
        load_mitbih_csv(tmp_path / "nowhere")


def test_a_missing_end_of_line_is_no_fault(tmp_path):
    x, _ = read_beats_csv(write(tmp_path / "mitbih_train.csv", rows(20), end=""))
    assert len(x) == 20
