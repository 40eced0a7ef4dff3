"""Files are whole or absent; a cache gives back what was written, or nothing."""

import json
import os

import numpy as np
import pytest

from ecg_keras.storage import (
    atomic_path,
    cache_folder,
    check_free,
    digest_rows,
    file_stamp,
    final_name,
    fingerprint,
    read_cache,
    read_json,
    write_cache,
    write_json,
)

pytestmark = pytest.mark.numeric


def test_a_cache_returns_what_was_written(tmp_path):
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array([1, 2, 3])}
    write_cache(tmp_path / "a.cache", ["key", 1], arrays)
    back = read_cache(tmp_path / "a.cache", ["key", 1])
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_another_key_finds_nothing(tmp_path):
    write_cache(tmp_path / "a.cache", {"size": 1}, {"x": np.zeros(3)})
    assert read_cache(tmp_path / "a.cache", {"size": 2}) is None
    assert read_cache(tmp_path / "absent.cache", {"size": 1}) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "shape", "key", "empty"])
def test_a_damaged_cache_counts_as_absent(tmp_path, damage):
    path = tmp_path / "a.cache"
    write_cache(path, "key", {"x": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-8]
    elif damage == "flip":
        content[1000] ^= 1
    elif damage == "shape":
        content = content.replace(b"(1000,)", b"(0010,)")
    elif damage == "key":
        content[content.index(b'"key"') + 9] ^= 1
    else:
        content = b""
    path.write_bytes(content)
    assert read_cache(path, "key") is None


def test_a_cache_with_one_wrong_bit_never_gives_other_arrays(tmp_path):
    path = tmp_path / "a.cache"
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array([1, 2, 3])}
    write_cache(path, ["key", 1], arrays)
    content = path.read_bytes()
    unnoticed = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        back = read_cache(path, ["key", 1])
        if back is not None:  # the bit was in a date or the like
            unnoticed += 1
            for name, array in arrays.items():
                np.testing.assert_array_equal(back[name], array, strict=True)
    assert unnoticed < len(content) / 3


def test_a_cache_in_the_form_of_0_1_0_counts_as_absent_and_is_replaced(tmp_path):
    path = tmp_path / "a.cache"
    path.write_bytes(b'{"key": "key", "arrays": []}\n3183953471\n')
    assert read_cache(path, "key") is None
    write_cache(path, "key", {"x": np.zeros((0, 3), np.int16)})
    assert read_cache(path, "key")["x"].shape == (0, 3)


def test_a_cache_is_an_npz_file_and_as_large_as_its_arrays(tmp_path):
    path = tmp_path / "a.cache"
    write_cache(path, "key", {"x": np.arange(1e5)})
    with path.open("rb") as file:
        np.testing.assert_array_equal(np.load(file)["x"], np.arange(1e5))
    assert path.stat().st_size < 8e5 + 1000


def test_caches_are_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ECG_KERAS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ECG_KERAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ecg_keras"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ecg_keras"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        with atomic_path(path) as part:
            part.write_text("half")
            raise RuntimeError("midway")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_takes_numpy_and_turns_nan_to_null(tmp_path):
    write_json(
        tmp_path / "a.json",
        {"a": np.float32(1.5), "b": [np.nan, np.int64(3)], "c": np.ones((1, 2))},
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": 1.5,
        "b": [None, 3],
        "c": [[1.0, 1.0]],
    }


def test_fingerprints_tell_shapes_and_types_apart():
    flat = np.zeros(4, np.float32)
    assert (
        len(
            {
                fingerprint(flat),
                fingerprint(flat.reshape(2, 2)),
                fingerprint(flat.astype(np.float64)),
            }
        )
        == 3
    )


def test_a_written_file_may_be_read_by_others_as_the_umask_says(tmp_path):
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(mask)


def test_what_a_kill_left_is_known_by_its_name(tmp_path):
    with atomic_path(tmp_path / "best.weights.h5") as part:
        assert part.name != "best.weights.h5" and final_name(part.name) == "best.weights.h5"
    assert final_name("best.weights.h5") == "best.weights.h5"


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "model.keras").write_text("somebody's")
    with pytest.raises(ValueError, match="model.keras was not written by this package"):
        check_free(tmp_path, ["model.*"], "report.json")
    write_json(tmp_path / "report.json", {"test": {}, "classes": [], "versions": {}})
    check_free(tmp_path, ["model.*"], "report.json")
    with pytest.raises(ValueError, match="not written by this package"):
        check_free(tmp_path / "model.keras", ["*"], "report.json")
    (tmp_path / "empty" / "model.d").mkdir(parents=True)
    check_free(tmp_path / "empty", ["model.*"], "report.json")


def test_json_that_is_missing_or_damaged_is_none(tmp_path):
    assert read_json(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_text("{")
    assert read_json(tmp_path / "a.json") is None


def test_a_stamp_tells_a_replaced_file_from_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", 1)
    before = file_stamp(tmp_path / "a.json")
    write_json(tmp_path / "a.json", 2)
    os.utime(tmp_path / "a.json", ns=(before[2], before[2]))
    assert file_stamp(tmp_path / "a.json")[:3] == before[:3] != file_stamp(tmp_path / "a.json")


def test_row_digests_tell_rows_apart():
    x = np.zeros((3, 4, 1), np.float32)
    x[1, 2] = 1
    one, other, again = digest_rows(x)
    assert one == again != other and digest_rows(x[:0]).shape == (0,)
