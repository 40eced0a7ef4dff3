"""Folders of recordings: what is found, done again, left out, and done by workers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pandas as pd
import pytest

from ecg_keras import annotate as annotating
from ecg_keras.annotate import annotate_folder, find_recordings
from ecg_keras.demo import write_demo_records
from ecg_keras.storage import write_json


def names_of(found):
    return [path.name for _, path in found]


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("x\n")


def test_recordings_of_a_folder(tmp_path):
    touch(tmp_path, "b.csv", "a.edf", "c.parquet", "notes.md", ".hidden.csv", "RECORDS", "m_s.hea")
    (tmp_path / "m.hea").write_text("m/2 1 360 20\nm_s 10\n~ 10\n")
    assert names_of(find_recordings(tmp_path)) == ["a.edf", "b.csv", "c.parquet", "m"]


def test_folders_below_are_named_or_taken(tmp_path):
    touch(tmp_path / "monday", "x.csv")
    touch(tmp_path / "made", "beats.csv")
    write_json(
        tmp_path / "made" / "summary.json", dict.fromkeys(["record", "n_beats", "heart_rate"], 1)
    )
    with pytest.raises(ValueError, match=r"holds no recordings .*monday does"):
        find_recordings(tmp_path)
    assert names_of(find_recordings(tmp_path, recursive=True)) == ["x.csv"]
    with pytest.raises(ValueError, match="no recordings"):
        find_recordings(tmp_path / "made")


def test_records_of_one_name_do_not_share_a_folder(tmp_path):
    for day in ("a", "b"):
        touch(tmp_path / day, "100.csv", "100.edf", "200.csv")
    found = find_recordings([tmp_path / "a", tmp_path / "b"])
    jobs = annotating._name(found, tmp_path / "out")
    assert len(set(jobs.values())) == 6
    backwards = annotating._name(found[::-1], tmp_path / "out")
    assert jobs == backwards
    jobs = annotating._name(find_recordings(tmp_path, recursive=True), tmp_path / "out")
    told = sorted(path.relative_to(tmp_path / "out").as_posix() for path in jobs.values())
    assert told == ["a/100_csv", "a/100_edf", "a/200", "b/100_csv", "b/100_edf", "b/200"]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A folder of two tables and one that is none; a model that only counts its use."""
    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("one", "two"):
        np.savetxt(folder / f"{name}.csv", np.zeros((500, 1)), header="II", comments="")
    (folder / "broken.csv").write_bytes(b"\x00\x01\x02")
    model = tmp_path / "model.keras"
    model.write_bytes(b"weights")
    used = []

    def write(out_dir, recording):
        used.append(recording.name)
        for name in ("beats.csv", "record.html", f"{recording.name}.ecg"):
            (out_dir / name).write_text("made")
        write_json(out_dir / "summary.json", found.summary)

    found = types.SimpleNamespace(write=write, summary={})

    def annotate(model, recording, **options):
        found.summary = {"record": recording.name, "n_beats": 3, "heart_rate": {}, "beats": {}}
        found.summary |= {"duration_s": 5.0, "analysable": 1.0, "pauses": 0, "flutter_s": 0}
        return found

    monkeypatch.setattr(annotating, "annotate", annotate)
    monkeypatch.setattr(annotating, "load_model", lambda file: object())
    monkeypatch.setattr(
        annotating,
        "open_recording",
        lambda path, **options: (
            refuse(path) if "broken" in path.name else types.SimpleNamespace(name=path.stem)
        ),
    )
    return types.SimpleNamespace(folder=folder, model=model, out=tmp_path / "out", used=used)


def refuse(path):
    raise ValueError(f"{path}: is no recording.")


def test_bad_recordings_are_listed_and_the_others_go_on(records):
    table = annotate_folder(records.model, records.folder, records.out, fs=100)
    assert table["why"].tolist()[1:] == ["", ""] and "no recording" in table["why"].iloc[0]
    written = pd.read_csv(records.out / "summary.csv")
    assert written["record"].tolist() == ["broken.csv", "one", "two"]
    page = (records.out / "index.html").read_text()
    assert '<a href="one/record.html">one</a>' in page and "Not annotated" in page
    assert len(json.loads((records.out / "folder.json").read_text())["recordings"]) == 3
    assert not (records.out / "broken").exists()


def test_only_what_changed_is_done_again(records):
    again = lambda **options: annotate_folder(
        records.model, records.folder, records.out, **{"fs": 100} | options
    )
    again()
    records.used.clear()
    again()
    assert records.used == []
    os.utime(records.folder / "one.csv", ns=(1, 1))
    again()
    assert records.used == ["one"]
    (records.out / "two" / "beats.csv").unlink()
    again()
    assert records.used == ["one", "two"]
    records.model.write_bytes(b"other weights")
    again()
    assert len(records.used) == 4
    again(fs=200)
    assert len(records.used) == 6


def test_what_a_kill_left_is_done_again(records):
    annotate_folder(records.model, records.folder, records.out, fs=100)
    records.used.clear()
    begun = {"record": "one", "n_beats": None, "heart_rate": None, "begun": "before"}
    write_json(records.out / "one" / "summary.json", begun)
    table = annotate_folder(records.model, records.folder, records.out, fs=100)
    assert records.used == ["one"] and table["n_beats"].tolist()[1:] == [3, 3]


def test_nothing_of_others_is_replaced(records):
    touch(records.out / "one", "beats.csv")
    table = annotate_folder(records.model, records.folder, records.out, fs=100)
    assert "was not written by this package" in table.set_index("record")["why"]["one.csv"]
    assert (records.out / "one" / "beats.csv").read_text() == "x\n"
    touch(records.out.parent / "theirs", "summary.csv")
    with pytest.raises(ValueError, match="was not written by this package"):
        annotate_folder(records.model, records.folder, records.out.parent / "theirs")


def test_if_none_can_be_read_that_is_an_error(records):
    with pytest.raises(ValueError, match=r"none of 1 recordings .*is no recording"):
        annotate_folder(records.model, records.folder / "broken.csv", records.out)
    with pytest.raises(ValueError, match="no such model"):
        annotate_folder("mona_lisa", records.folder, records.out)
    with pytest.raises(ValueError, match="backend"):
        annotate_folder(records.model, records.folder, records.out, backend="spark")


@pytest.mark.parametrize("deaths, expected", [(1, ""), (2, "died 2 times")])
def test_what_a_dead_worker_had_is_done_again_alone(records, monkeypatch, deaths, expected):
    left, one = {"one": deaths}, annotating._one

    def dying(file, digest, path, folder, *rest):
        if left.get(path.stem):
            left[path.stem] -= 1
            begun = {"record": None, "n_beats": None, "heart_rate": None, "begun": rest[-1]}
            write_json(pathlib.Path(folder) / "summary.json", begun)
            raise RuntimeError("a worker was killed")
        return one(file, digest, path, folder, *rest)

    monkeypatch.setattr(annotating, "_one", dying)
    table = annotate_folder(records.model, records.folder, records.out, fs=100)
    why = table.set_index("path")["why"]
    assert expected in why[str(records.folder / "one.csv")]
    assert (why[str(records.folder / "one.csv")] == "") == (expected == "")
    assert why[str(records.folder / "two.csv")] == ""


@pytest.mark.slow
@pytest.mark.parametrize("backend", annotating.BACKENDS)
def test_two_workers_give_what_one_gives(backend, tmp_path):
    if backend != "loky":
        pytest.importorskip({"ray": "ray", "dask": "distributed"}[backend])
    write_demo_records(tmp_path / "records", n_patients=3, duration_s=60)
    folder = tmp_path / "records"
    one = annotate_folder("mitbih_beats", folder, tmp_path / "one")
    two = annotate_folder("mitbih_beats", folder, tmp_path / backend, workers=2, backend=backend)
    pd.testing.assert_frame_equal(one, two)
    for name in one["folder"]:
        files = [tmp_path / out / name / "beats.csv" for out in ("one", backend)]
        a, b = (pd.read_csv(file) for file in files)
        pd.testing.assert_frame_equal(a, b, atol=1e-4)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    write_demo_records(tmp_path / "records", n_patients=4, duration_s=60)
    command = [sys.executable, "-m", "ecg_keras", "annotate", str(tmp_path / "records")]
    command += ["--out", str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = lambda: {
        file: file.stat().st_mtime_ns
        for file in (tmp_path / "out").glob("*/summary.json")
        if "made_from" in json.loads(file.read_text())
    }
    for _ in range(1200):
        if done() or run.poll() is not None:
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = done()
    assert before
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = done()
    assert len(after) == 4 and before.items() <= after.items()
