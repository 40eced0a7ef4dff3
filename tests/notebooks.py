"""Run code as the single cell of a notebook, here or where the package is not installed."""

import json
import os
import sys
import sysconfig
import venv

import pytest


def bare_python(folder):
    """A Python with everything installed here but ecg_keras: an environment on top of this one.

    The .pth file of an editable install is read only in the environment it lies in, so the package
    is not seen.
    """
    for kind in ("purelib", "platlib"):
        if os.path.isdir(os.path.join(sysconfig.get_path(kind), "ecg_keras")):
            pytest.skip(
                "ecg_keras is installed as a copy; install it with -e to test an environment "
                "without it"
            )
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "outer.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    )
    return python


def environment(folder, **variables):
    """Environment variables of a fresh session: ours only as given, caches in `folder`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ECG_KERAS_", "PYTHONPATH"))
    }
    return (
        kept
        | {"ECG_KERAS_CACHE": str(folder / "cache"), "ECG_KERAS_INPUTS": str(folder / "inputs")}
        | variables
    )


def run_cell(source, folder, *, python=sys.executable, **variables):
    """Run `source` as a notebook's single cell in `folder`; returns what it printed to stdout."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    spec = folder / "jupyter" / "kernels" / "tested"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "tested", "language": "python"})
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="tested", resources={"metadata": {"path": str(folder)}}
    )
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    try:
        client.execute(env=environment(folder, **variables))
    finally:
        os.environ.pop("JUPYTER_PATH") if before is None else os.environ.update(JUPYTER_PATH=before)
    outputs = notebook.cells[0].outputs
    return "".join(
        out.text for out in outputs if out.output_type == "stream" and out.name == "stdout"
    )
