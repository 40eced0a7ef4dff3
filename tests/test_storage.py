import json

import numpy as np
import pytest

from ecg_keras.storage import atomic_path, fingerprint, read_cache, write_cache, write_json

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


@pytest.mark.parametrize("damage", ["cut", "flip", "header", "empty"])
def test_a_damaged_cache_counts_as_absent(tmp_path, damage):
    path = tmp_path / "a.cache"
    write_cache(path, "key", {"x": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-8]
    elif damage == "flip":
        content[-20] ^= 1
    elif damage == "header":
        content[10] ^= 1
    else:
        content = b""
    path.write_bytes(content)
    assert read_cache(path, "key") is None


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
