"""Write files whole or not at all, and keep arrays in a cache that notices damage.

Conventions
-----------
Every file is written beside its final name and then renamed, so a reader sees the old file or the
new one, never half of one. Only files that this package wrote are replaced or removed: a folder is
known as the package's own by a JSON file in it (`_MARKS`). A cache is an .npz file of NumPy, not
compressed, and beside its arrays it holds its key as JSON. The zip format has a CRC-32 of each
array. A cache that is damaged, or of another key, counts as absent.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
import zipfile
import zlib

import numpy as np

_HEADER = "header.json"  # of a cache: its key and the names of its arrays
# what reading a zip with one wrong bit raises
_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_MARKS = {  # JSON files that this package writes, and keys that each of them has
    "state.json": ("key", "rows", "best", "last", "finished"),
    "report.json": ("test", "classes", "versions"),
    "compare.json": ("runs", "pairs", "unpaired"),
    "explanations.json": ("rows", "methods", "checks"),
    "search.json": ("identity", "job"),
    "summary.json": ("record", "n_beats", "heart_rate"),
    "ec57.json": ("records", "gross", "settings"),
    "folder.json": ("model", "recordings"),
}


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path in the same folder; rename it to `path` if the block ends well.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as part:
    ...     _ = part.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays: Keras, matplotlib and pandas choose the format by it
    descriptor, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}-", suffix="".join(path.suffixes)
    )
    os.close(descriptor)
    part = pathlib.Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask():
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def final_name(name):
    """The name that a temporary file of `atomic_path` was to get; another name as it is.

    A kill leaves such a file.

    Examples
    --------
    >>> final_name(".best-3.weights-a1b2c3d_.weights.h5"), final_name("notes.txt")
    ('best-3.weights.h5', 'notes.txt')
    """
    part = re.fullmatch(r"\.(.+)-[a-z0-9_]{8}(?:\.[^.]+)*?(\.[^.]+)?", name)
    return part[1] + (part[2] or "") if part else name


def is_ours(path):
    """True for one of the JSON files of this package by which its folders are known."""
    content = read_json(path)
    return isinstance(content, dict) and content.keys() >= {*_MARKS[pathlib.Path(path).name]}


def check_free(folder, names, *marks):
    """Refuse a folder where others' files would be replaced.

    Those are files that match `names` (glob patterns) in a folder that has none of `marks`.
    """
    folder = pathlib.Path(folder)
    if any(is_ours(folder / mark) for mark in marks):
        return
    there = [folder] if folder.is_file() else [file for name in names for file in folder.glob(name)]
    for file in there:
        if file.is_file() or any(file.iterdir()):
            raise ValueError(
                f"{file} was not written by this package, which would replace it; move it, or give "
                "another out_dir."
            )


def write_text(path, text):
    """Write `text` to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write `value` as indented JSON, whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path):
    """The content of a JSON file; None where it is missing or damaged."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _plain(value):
    """NumPy values to JSON's own types, NaN and infinity to None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def write_cache(path, key, arrays):
    """Write named arrays under a `key`: any JSON value that says what they were made from."""
    with atomic_path(path) as part:
        with part.open("wb") as file:
            np.savez(file, **arrays)
        with zipfile.ZipFile(part, "a") as archive:
            archive.writestr(_HEADER, json.dumps({"key": key, "arrays": list(arrays)}))


def read_cache(path, key):
    """Return the arrays that were written under `key`.

    None where there is no such file, or it is damaged, or its key is another.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_HEADER))
            if header["key"] != json.loads(json.dumps(key)):
                return None
            arrays = {}
            for name in header["arrays"]:
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member)
                    if member.read(1):  # a checksum is compared where its member ends
                        return None
            return arrays
    except _DAMAGED:
        return None


def cache_folder():
    """The folder for caches: ``ECG_KERAS_CACHE``, else ``ecg_keras`` in the user's cache folder.

    That is ``XDG_CACHE_HOME``, else ``~/.cache``.
    """
    if folder := os.environ.get("ECG_KERAS_CACHE"):
        return pathlib.Path(folder)
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "ecg_keras"


def file_stamp(path):
    """What tells one version of a file from another without reading it: name, size, time, inode."""
    stat = os.stat(path)
    return [str(pathlib.Path(path).resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino]


def fingerprint(*values):
    """A short hash of JSON values and arrays, for naming and comparing.

    Examples
    --------
    >>> fingerprint({"seed": 0}, np.arange(3)) == fingerprint({"seed": 0}, np.arange(3))
    True
    """
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        else:
            digest.update(json.dumps(_plain(value), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def digest_rows(x):
    """An 8-byte BLAKE2b digest of each row's bytes, uint64 (n,).

    Of a million rows, two that differ have the same with a chance of 3e-8.

    Examples
    --------
    >>> a, b, c = digest_rows(np.array([[0, 1], [0, 1], [1, 0]], np.float32))
    >>> a == b, a == c
    (np.True_, np.False_)
    """
    rows = np.ascontiguousarray(x).reshape(len(x), int(np.prod(x.shape[1:]))).view(np.uint8)
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
