"""The CSV files are read as they are, faults are told by row and column, beats are cut once."""

import gzip
import os
import shutil
import zipfile

import numpy as np
import pytest
from conftest import real_data

from ecg_keras import load_mitbih_csv, mitbih_csv
from ecg_keras.dataset import check_parts
from ecg_keras.demo import write_demo_records
from ecg_keras.mitbih_csv import cut_beats, find_csv_files, make_mitbih_csv, read_beats_csv
from ecg_keras.recordings import Recording, read_recording

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part,row,record\ntrain,0,100\n", "expected a column 'patient', got part, row, record"),
        ("part,row,record,patient\ntrain,0,100,1\n", "names 1 rows of mitbih_train.csv, which has"),
    ],
)
def test_rows_that_are_not_of_these_files_are_refused(folder, text, message):
    (folder / "mitbih_rows.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_mitbih_csv(folder, split="patient")


def test_a_cache_folder_that_cannot_be_written_costs_time_only(folder, monkeypatch):
    monkeypatch.setenv("ECG_KERAS_CACHE", str(folder / "mitbih_test.csv"))
    assert len(load_mitbih_csv(folder)[2]) == 30


def test_a_zip_that_holds_something_else_is_told(folder, tmp_path):
    for name, inside in (
        ("a.zip", ["mitbih_train.csv"]),
        ("mitbih_train.csv.zip", ["a.csv", "b.csv"]),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in inside:
                archive.writestr(member, "1")
    with pytest.raises(ValueError, match="holds no mitbih_test.csv"):
        load_mitbih_csv(tmp_path / "a.zip")
    with pytest.raises(ValueError, match="expected one CSV file inside, got 2"):
        read_beats_csv(tmp_path / "mitbih_train.csv.zip")
    (tmp_path / "torn.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        read_beats_csv(tmp_path / "torn.csv.gz")


def recording(n_samples=2500, every=100, **fields):
    """20 s at 125 Hz in two leads; MLII is 1 mV at each R peak, and -1 or -2 mV once a window."""
    peaks = np.arange(50, n_samples, every)
    signal = np.zeros((n_samples, 2))
    signal[peaks, 1] = 1
    signal[[10, 1260], 1] = -1, -2
    given = {"name": "a", "signal": signal, "fs": 125.0, "leads": ("V1", "MLII"), "unit": "mV"}
    return Recording(**given | {"peaks": peaks, "symbols": np.full(len(peaks), "N")} | fields)


def test_a_beat_is_scaled_in_its_window_and_lasts_1_2_of_the_usual_rr():
    rows, kept = cut_beats(recording())
    np.testing.assert_array_equal(kept, np.arange(25))
    expected = np.zeros(187)
    expected[:120] = 0.5  # 0 mV, in the middle between -1 and 1 mV
    expected[[0, 100]] = 1
    np.testing.assert_array_equal(rows[0], expected)
    assert rows[11, 110] == 0  # the -2 mV of the next window: a row stays within 0..1
    np.testing.assert_allclose(rows[12, [0, 1]], [1, 2 / 3])
    assert not rows[-1, 50:].any()  # the recording ends


def test_windows_that_do_not_move_give_no_rows():
    one = recording()
    one.signal[:1250] = 0
    np.testing.assert_array_equal(cut_beats(one)[1], np.arange(12, 25))
    still = recording(signal=np.zeros((2500, 2)))
    assert [part.shape for part in cut_beats(still)] == [(0, 187), (0,)]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Ten synthetic records of a minute."""
    pytest.importorskip("wfdb")
    folder = tmp_path_factory.mktemp("records")
    write_demo_records(folder, n_patients=10, duration_s=60)
    return folder


def test_csv_files_name_the_record_of_every_row(records, tmp_path):
    make_mitbih_csv(records, tmp_path)
    train, val, test = load_mitbih_csv(tmp_path, split="patient")
    check_parts(train, val, test)
    assert set(np.unique(np.concatenate([part.records for part in (train, val, test)]))) == {
        f"demo{i:03d}" for i in range(10)
    }
    assert train.x.min() >= 0 and train.x.max() <= 1 and train.synthetic
    table = np.genfromtxt(
        tmp_path / "mitbih_rows.csv", delimiter=",", names=True, dtype=None, encoding=None
    )
    row = table[(table["part"] == "test")][3]
    recording = read_recording(records, row["record"])
    assert row["sample"] in recording.peaks


def test_synthetic_csv_files_are_marked_before_they_are_there(records, tmp_path, monkeypatch):
    write = np.savetxt

    def killed(path, *args, **options):
        write(path, *args, **options)
        if "test" in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(mitbih_csv.np, "savetxt", killed)
    with pytest.raises(KeyboardInterrupt):
        make_mitbih_csv(records, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "SYNTHETIC.txt",
        "mitbih_train.csv",
    ]


def test_synthetic_and_measured_csv_files_are_kept_apart(records, tmp_path):
    measured, marked = tmp_path / "measured", tmp_path / "marked"
    folder = shutil.copytree(records, tmp_path / "records")
    for header in folder.glob("*.hea"):
        header.write_text(header.read_text().replace("synthetic", "real"))
    make_mitbih_csv(folder, measured)
    text = (measured / "mitbih_train.csv").read_text()
    with pytest.raises(ValueError, match="mitbih_test.csv is not marked as synthetic"):
        make_mitbih_csv(records, measured)
    assert (measured / "mitbih_train.csv").read_text() == text
    assert not (measured / "SYNTHETIC.txt").exists()
    make_mitbih_csv(records, marked)
    with pytest.raises(ValueError, match="SYNTHETIC.txt marks .* as synthetic"):
        make_mitbih_csv(folder, marked)
    make_mitbih_csv(records, marked)


def test_csv_rows_are_those_of_the_published_files(tmp_path):
    """Each row made from record 119 is among the rows of the prepared set, to float32 rounding."""
    prepared = np.load(real_data("heartbeat") / "beats.npz")
    rows = np.concatenate([prepared["x_train"], prepared["x_test"]]).astype(np.float32)
    source, out = tmp_path / "one", tmp_path / "csv"
    source.mkdir()
    for path in real_data("mitdb").glob("119.*"):
        shutil.copy(path, source)
    make_mitbih_csv(source, out)
    made = np.loadtxt(out / "mitbih_test.csv", delimiter=",", max_rows=40, dtype=np.float32)[
        :, :187
    ]
    nearest = [np.abs(rows - row).max(axis=1).min() for row in made]
    assert np.mean(np.array(nearest) < 0.002) > 0.97  # of 1


def test_a_recording_that_cannot_be_read_stops_or_is_skipped_and_told(records, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in (*records.glob("demo000.*"), *records.glob("demo001.*")):
        shutil.copy(path, few)
    (few / "demo001.dat").unlink()
    with pytest.raises(ValueError, match="demo001"):
        make_mitbih_csv(few, tmp_path / "out")
    told = make_mitbih_csv(few, tmp_path / "out", on_error="skip")
    assert "rows of 1 records: " in told and "\nskipped: " in told and "demo001" in told
    (few / "demo000.dat").unlink()
    with pytest.raises(ValueError, match="none of 2 records could be read"):
        make_mitbih_csv(few, tmp_path / "out", on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore' is not known"):
        make_mitbih_csv(few, tmp_path / "out", on_error="ignore")
    with pytest.raises(ValueError, match="test_fraction must be above 0"):
        make_mitbih_csv(few, tmp_path / "out", test_fraction=0)
