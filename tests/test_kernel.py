"""The Kaggle kernel works pasted into a notebook, and finds the package without harm."""

import json
import pathlib
import runpy
import subprocess
import sys
import zipfile
from importlib import metadata, util

import numpy as np
import pytest
from notebooks import bare_python, environment, run_cell

from ecg_keras import to_spectrograms
from ecg_keras.demo import write_demo_csv
from ecg_keras.search import Search

ROOT = pathlib.Path(__file__).parents[1]
KERNEL = ROOT / "kaggle_kernel.py"


@pytest.mark.slow
def test_kernel_runs_as_a_notebook_cell(tmp_path):
    write_demo_csv(tmp_path / "inputs" / "datasets" / "somebody" / "heartbeat", n_beats=40)
    settings = {"OUT": "out", "EPOCHS": "1", "SEED": "3", "EXPLAIN": "0"}
    variables = {f"ECG_KERAS_{name}": value for name, value in settings.items()}
    printed = run_cell(KERNEL.read_text(), tmp_path, **variables)
    lines = printed.strip().splitlines()
    assert "SYNTHETIC" in lines[0] and "SYNTHETIC" in lines[-1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["synthetic"], report["seed"], report["epochs_run"]) == (True, 3, 1)
    assert report["test"]["n"] == 9
    assert f"{100 * report['test']['accuracy']:.2f} %" in lines[-1]
    assert {"report.html", "model.keras", "history.csv"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.usefixtures("without_drawing")
def test_epochs_that_the_user_gave_go_before_those_of_a_search(tmp_path, monkeypatch):
    asked = {}

    def search(train, val, *, model, out_dir, **options):
        asked.update(options)
        found = {"epochs": 9, "batch_size": 16}
        return Search(model, {"filters": (4,)}, found, None, 0.5, out_dir, "time")

    monkeypatch.setattr("ecg_keras.search.search", search)
    write_demo_csv(tmp_path / "inputs", n_beats=40)
    out = tmp_path / "out"
    settings = {"EPOCHS": 1, "SEED": 3, "SEARCH_HOURS": 0.1, "EXPLAIN": 0, "OUT": out}
    _set(monkeypatch, INPUTS=tmp_path / "inputs", **settings)
    runpy.run_path(str(KERNEL))["main"]()
    report = json.loads((out / "report.json").read_text())
    assert (report["epochs_run"], report["settings"]["batch_size"], report["seed"]) == (1, 16, 3)
    assert (asked["epochs"], asked["seed"], asked["hours"]) == (1, 3, 0.1)


def _set(monkeypatch, **settings):
    """Set variables of the kernel, and the one that it sets itself, for this test alone."""
    for name, value in settings.items():
        monkeypatch.setenv(f"ECG_KERAS_{name}", str(value))
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@pytest.mark.parametrize("wanted", [True, False])
def test_images_are_explained_on_their_beats_unless_told_otherwise(tmp_path, monkeypatch, wanted):
    asked = {}

    def fit_and_report(model, train, val, test, **options):
        asked.update(options, test=test)
        return {"test": {"accuracy": 0.5, "majority_accuracy": 0.5, "macro_f1": 0.5}}

    monkeypatch.setattr("ecg_keras.fit_and_report", fit_and_report)
    write_demo_csv(tmp_path / "inputs", n_beats=40)
    _set(monkeypatch, INPUTS=tmp_path / "inputs", **({} if wanted else {"EXPLAIN": 0}))
    runpy.run_path(str(KERNEL))["main"]()
    beats, test = asked["explain"], asked["test"]
    assert test.grid is not None
    if wanted:
        assert beats.grid is None and beats.x.shape == (len(test), 187, 1)
        np.testing.assert_array_equal(to_spectrograms(beats).x, test.x)
    else:
        assert beats is False


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python without ecg_keras."""
    python = bare_python(tmp_path_factory.mktemp("bare") / "venv")
    assert subprocess.run(
        [python, "-c", "import ecg_keras"], cwd="/", capture_output=True
    ).returncode
    return python


def _found(python, folder, **variables):
    """Where find_package() found the package, in a session with these inputs."""
    code = (
        f"import runpy; runpy.run_path({str(KERNEL)!r})['find_package'](); "
        "import ecg_keras; print(ecg_keras.__file__)"
    )
    done = subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_attached_wheel_goes_before_source(bare, tmp_path):
    source = tmp_path / "inputs" / "my-code" / "repository"
    (source / "ecg_keras").mkdir(parents=True)
    (source / "ecg_keras" / "__init__.py").write_text("")
    assert _found(bare, tmp_path) == str(source / "ecg_keras" / "__init__.py")
    _write_wheel(
        tmp_path / "inputs" / "ecg_keras-0.1.0-py3-none-any.whl",
        {"ecg_keras/__init__.py": "", "ecg_keras/a.css": ""},
    )
    found = pathlib.Path(_found(bare, tmp_path))
    assert tmp_path not in found.parents and (found.parent.name, found.name) == (
        "ecg_keras",
        "__init__.py",
    )


def test_pip_is_told_to_keep_what_is_installed(monkeypatch):
    commands = []

    def run(command, check):
        commands.append(
            (command, pathlib.Path(command[command.index("--constraint") + 1]).read_text())
        )

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("ECG_KERAS_INPUTS", "/nowhere")
    runpy.run_path(str(KERNEL))["find_package"]()
    ((command, frozen),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == "ecg_keras"
    for name in ("keras", "tensorflow", "numpy"):
        assert f"{name}=={metadata.version(name)}\n" in frozen


def test_pip_fails_rather_than_replace_keras(bare, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _write_wheel(wheels / "keras-99.0-py3-none-any.whl", {"keras/__init__.py": ""})
    _write_wheel(wheels / "greedy-1.0-py3-none-any.whl", {"greedy.py": ""}, requires="keras>=99")
    code = f"import runpy; runpy.run_path({str(KERNEL)!r})['find_package']()"
    settings = {
        "ECG_KERAS_PACKAGE": "greedy",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    done = subprocess.run(
        [bare, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
    )
    assert done.returncode and "conflict" in (done.stderr + done.stdout).lower(), done.stderr
    version = subprocess.run(
        [bare, "-c", "from importlib import metadata; print(metadata.version('keras'))"],
        capture_output=True,
    )
    assert version.stdout.decode().strip() == metadata.version("keras")


def _write_wheel(path, files, requires=None):
    """A wheel of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, version = path.name.split("-")[:2]
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"] + [
        f"Requires-Dist: {requires}"
    ] * bool(requires)
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(file, text)
