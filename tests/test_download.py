"""Downloads are whole, checked and continued; a server on this machine stands for PhysioNet."""

import functools
import hashlib
import http.server
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
    download("mitdb", tmp_path / "got", progress=False)
    names = {path.name for path in (tmp_path / "got").iterdir()}
    assert names == {"100.hea", "100.dat", "100.atr", "RECORDS"}
    assert (tmp_path / "got" / "100.dat").read_bytes() == (physionet / "100.dat").read_bytes()


def test_second_call_fetches_only_what_is_damaged(physionet, tmp_path):
    download("mitdb", tmp_path / "got", progress=False)
    (tmp_path / "got" / "100.dat").write_bytes(b"torn")
    _Counting.asked.clear()
    download("mitdb", tmp_path / "got", progress=False)
    assert _Counting.asked == ["/mitdb/1.0.0/SHA256SUMS.txt", "/mitdb/1.0.0/100.dat"]
    assert (tmp_path / "got" / "100.dat").read_bytes() == (physionet / "100.dat").read_bytes()


def test_ptbxl_takes_one_rate():
    wanted = module.DATASETS["ptbxl"][1]
    files = ["ptbxl_database.csv", "records100/00000/00001_lr.dat", "records500/00000/00001_hr.dat"]
    assert [wanted(file, 100) for file in files] == [True, True, False]
    assert [wanted(file, 500) for file in files] == [True, False, True]


def test_damaged_file_is_never_named(physionet, tmp_path):
    (physionet / "100.dat").write_bytes(b"changed after the sums were made")
    with pytest.raises(OSError, match="checksum"):
        download("mitdb", tmp_path / "got", progress=False)
    assert not (tmp_path / "got" / "100.dat").exists()


def test_unreachable_server_is_said_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    with pytest.raises(OSError, match="run the same command again"):
        download("mitdb", tmp_path / "got", progress=False)


@pytest.mark.parametrize(
    "line", ["<html>login</html>", "0" * 64 + " ../../etc/passwd", "0" * 64 + " /etc/passwd"]
)
def test_strange_list_is_refused(physionet, tmp_path, line):
    (physionet / "SHA256SUMS.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
        download("mitdb", tmp_path / "got", progress=False)


def test_kaggle_files_are_copied(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "versions" / "1"
    cache.mkdir(parents=True)
    for name in ("mitbih_train.csv", "mitbih_test.csv", "ptbdb_normal.csv"):
        (cache / name).write_text(name)
    hub = types.SimpleNamespace(
        dataset_download=lambda handle: str(cache) if handle == "shayanfazeli/heartbeat" else None
    )
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    got = download("mitbih-csv", tmp_path / "got")
    assert {path.name: path.read_text() for path in got.iterdir()} == {
        name: name for name in ("mitbih_train.csv", "mitbih_test.csv")
    }


def test_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'mitdb'"):
        download("mit-bih", tmp_path)
