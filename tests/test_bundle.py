"""The bundle carries the package: it runs alone, where the package is not installed."""

import json
import subprocess

import pytest
from notebooks import bare_python, environment, run_cell

from ecg_keras.bundle import write_bundle


@pytest.mark.slow
def test_bundle_runs_as_a_notebook_cell_without_the_package(tmp_path):
    python = bare_python(tmp_path / "venv")
    absent = subprocess.run(
        [python, "-c", "import ecg_keras"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
    )
    assert b"No module named 'ecg_keras'" in absent.stderr
    path = write_bundle(tmp_path / "bundle")
    # no data at all: it makes the synthetic set itself
    settings = {"ECG_KERAS_OUT": "out", "ECG_KERAS_EPOCHS": "1", "ECG_KERAS_EXPLAIN": "0"}
    printed = run_cell(path.read_text(), tmp_path, python=python, **settings)
    lines = printed.strip().splitlines()
    assert "SYNTHETIC" in lines[0] and "SYNTHETIC" in lines[-1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["synthetic"] and report["epochs_run"] == 1
    assert (
        "<style>" in (tmp_path / "out" / "report.html").read_text()
    )  # the package's data files are there too


def test_bundle_is_one_small_file_and_always_the_same(tmp_path):
    one, other = (write_bundle(tmp_path / name).read_bytes() for name in "ab")
    assert one == other
    assert len(one) < 1_000_000
    compile(one, "bundle", "exec")


def test_metadata_is_what_kaggle_pushes(tmp_path):
    path = write_bundle(tmp_path, username="ada", title="My ECG, 2nd try")
    values = json.loads((tmp_path / "kernel-metadata.json").read_text())
    assert values["id"] == "ada/my-ecg-2nd-try"
    assert (tmp_path / values["code_file"]) == path
    assert values["dataset_sources"] == ["shayanfazeli/heartbeat"]
    assert (values["kernel_type"], values["language"]) == ("script", "python")
    assert (values["enable_gpu"], values["enable_internet"]) == ("true", "false")


def test_title_without_letters_is_refused(tmp_path):
    with pytest.raises(ValueError, match="letters"):
        write_bundle(tmp_path, title="...")
