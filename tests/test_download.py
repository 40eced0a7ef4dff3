"""Downloads are whole, checked and continued; a server on this machine stands for PhysioNet."""

import functools
import hashlib
import http.server
import re
import sys
import threading
import types

import pytest

from ecg_keras import download as module
from ecg_keras.download import download

pytestmark = pytest.mark.numeric


class _Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and keeps what was asked for."""

    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def physionet(tmp_path, monkeypatch):
    """A small PhysioNet on this machine; returns its mitdb folder."""
    folder = tmp_path / "server" / "mitdb" / "1.0.0"
    (folder / "x_mitdb").mkdir(parents=True)
    for name in ("100.hea", "100.dat", "100.atr", "RECORDS", "x_mitdb/x_108.hea", "ANNOTATORS"):
        (folder / name).write_bytes(f"content of {name}".encode() * 50)
    _write_sums(folder)
    _Counting.asked = []
    handler = functools.partial(_Counting, directory=tmp_path / "server")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(module, "_MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    yield folder
    server.shutdown()
    server.server_close()


def _write_sums(folder):
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS.txt"
    ]
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.relative_to(folder).as_posix()}\n"
        for p in files
    ]
    (folder / "SHA256SUMS.txt").write_text("".join(lines))


def test_what_is_listed_arrives(physionet, tmp_path):
    download("mitbih_records", tmp_path / "got", progress=False)
    names = {path.name for path in (tmp_path / "got").iterdir()}
    assert names == {"100.hea", "100.dat", "100.atr", "RECORDS"}
    assert (tmp_path / "got" / "100.dat").read_bytes() == (physionet / "100.dat").read_bytes()


def test_second_call_fetches_only_what_is_damaged(physionet, tmp_path):
    download("mitbih_records", tmp_path / "got", progress=False)
    (tmp_path / "got" / "100.dat").write_bytes(b"torn")
    _Counting.asked.clear()
    download("mitbih_records", tmp_path / "got", progress=False)
    assert _Counting.asked == ["/mitdb/1.0.0/SHA256SUMS.txt", "/mitdb/1.0.0/100.dat"]
    assert (tmp_path / "got" / "100.dat").read_bytes() == (physionet / "100.dat").read_bytes()


def test_ptbxl_takes_one_rate(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_from_physionet", lambda *arguments: asked.append(arguments))
    files = ["ptbxl_database.csv", "records100/00000/00001_lr.dat", "records500/00000/00001_hr.dat"]
    for rate, expected in ((100, [True, True, False]), (500, [True, False, True])):
        download("ptbxl", "data", sampling_rate=rate)
        project, pattern, *_ = asked[-1]
        assert project == "ptb-xl/1.0.3"
        assert [bool(re.fullmatch(pattern, file)) for file in files] == expected
        assert not re.fullmatch(pattern, "folder/notes.txt")


def test_damaged_file_is_never_named(physionet, tmp_path):
    (physionet / "100.dat").write_bytes(b"changed after the sums were made")
    with pytest.raises(OSError, match="checksum"):
        download("mitbih_records", tmp_path / "got", progress=False)
    assert not (tmp_path / "got" / "100.dat").exists()


def test_unreachable_server_is_said_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    with pytest.raises(OSError, match="run the same command again"):
        download("mitbih_records", tmp_path / "got", progress=False)


@pytest.mark.parametrize(
    "line", ["<html>login</html>", "0" * 64 + " ../../etc/passwd", "0" * 64 + " /etc/passwd"]
)
def test_strange_list_is_refused(physionet, tmp_path, line):
    (physionet / "SHA256SUMS.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
        download("mitbih_records", tmp_path / "got", progress=False)


def test_kaggle_files_are_copied(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "versions" / "1"
    cache.mkdir(parents=True)
    for name in ("mitbih_train.csv", "mitbih_test.csv", "ptbdb_normal.csv"):
        (cache / name).write_text(name)
    hub = types.SimpleNamespace(
        dataset_download=lambda handle: str(cache) if handle == "shayanfazeli/heartbeat" else None
    )
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    got = download("mitbih_csv", tmp_path / "got")
    assert {path.name: path.read_text() for path in got.iterdir()} == {
        name: name for name in ("mitbih_train.csv", "mitbih_test.csv")
    }


def test_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose one of 'mitbih_csv', 'mitbih_records', 'ptbxl'"):
        download("mit-bih", tmp_path)
    with pytest.raises(ValueError, match="sampling_rate=250"):
        download("ptbxl", tmp_path, sampling_rate=250)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        download("ptbxl", tmp_path / "file")


@pytest.mark.parametrize("old", ["mitdb", "mitbih-records"])
def test_old_names_still_work(physionet, tmp_path, old):
    with pytest.warns(DeprecationWarning, match=f"name='{old}' is spelled 'mitbih_records' now"):
        download(old, tmp_path / "got", progress=False)
    assert (tmp_path / "got" / "100.hea").is_file()


def test_a_mirror_that_fails_is_followed_by_the_next(physionet, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIRRORS", ("http://127.0.0.1:9/", *module._MIRRORS))
    download("mitbih_records", tmp_path / "got", progress=False)
    assert (tmp_path / "got" / "100.dat").read_bytes() == (physionet / "100.dat").read_bytes()


def test_a_list_without_the_files_expected_is_refused(physionet, tmp_path):
    for path in physionet.glob("*.*"):
        path.unlink()
    (physionet / "RECORDS").unlink()
    _write_sums(physionet)
    with pytest.raises(ValueError, match="lists 2 files, but none of those expected"):
        download("mitbih_records", tmp_path / "got", progress=False)


def test_kaggle_files_under_other_names_are_told(tmp_path, monkeypatch):
    hub = types.SimpleNamespace(dataset_download=lambda _: str(tmp_path))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    with pytest.raises(ValueError, match="from Kaggle has no mitbih_train.csv"):
        download("mitbih_csv", tmp_path / "got")
