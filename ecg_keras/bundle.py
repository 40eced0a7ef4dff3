"""Write one script that carries the whole package, for Kaggle sessions without internet.

Conventions
-----------
The script is ``kaggle_kernel.py`` with the package in front of it, as a zip in base64. Run or
pasted alone it unpacks the package into a temporary folder, puts that on the import path and goes
on as the kernel does. The same package gives the same bytes.
"""

import base64
import io
import pathlib
import re
import textwrap
import zipfile

from ecg_keras.storage import write_json, write_text

_MOST_BYTES = 1_000_000  # Kaggle refuses larger sources
_KINDS = (".py", ".pyi", ".css", ".jinja", ".js")
_HEAD = '''"""ecg_keras {version} and its Kaggle kernel, written by `ecg-keras bundle`."""

import base64
import io
import sys
import tempfile
import zipfile

_PACKAGE = """
{package}
"""

sys.path.insert(0, tempfile.mkdtemp(prefix="ecg_keras-"))
zipfile.ZipFile(io.BytesIO(base64.b64decode(_PACKAGE))).extractall(sys.path[0])

'''


def write_bundle(out_dir, *, username="INSERT_YOUR_USERNAME", title="ECG Keras MIT BIH"):
    """Write the package and the kernel as one script, and the metadata for Kaggle's command line.

    Shipped weights are left out: the kernel trains, and needs none.

    Parameters
    ----------
    out_dir : str or path
        Folder for ``ecg_keras_bundle.py`` (run it, or paste it into a notebook cell) and
        ``kernel-metadata.json``; then ``kaggle kernels push -p OUT_DIR``.
    username : str, optional
        Your name on Kaggle, the first half of the kernel's id.
    title : str, default "ECG Keras MIT BIH"
        Title of the kernel; the second half of the id follows from it, as Kaggle demands.

    Returns
    -------
    path : pathlib.Path
        The script.

    Raises
    ------
    ValueError
        If the kernel's source is not beside the package, `title` has no letters, or the script
        exceeds 1 MB.

    Examples
    --------
    >>> import tempfile
    >>> path = write_bundle(tempfile.mkdtemp(), username="ada")
    >>> path.name, path.stat().st_size < 1_000_000
    ('ecg_keras_bundle.py', True)
    """
    from ecg_keras import __version__

    folder = pathlib.Path(__file__).parent
    kernel = folder.parent / "kaggle_kernel.py"
    if not kernel.is_file():
        raise ValueError(
            f"{kernel} is not there; make the bundle from a checkout of the repository."
        )
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if not slug:
        raise ValueError(f"title must have letters or digits, got {title!r}.")
    package = "\n".join(textwrap.wrap(base64.b64encode(_zipped(folder)).decode(), 120))
    script = _HEAD.format(version=__version__, package=package) + kernel.read_text(encoding="utf-8")
    if len(script) > _MOST_BYTES:
        raise ValueError(
            f"the bundle would have {len(script):,} bytes; Kaggle takes {_MOST_BYTES:,} at most."
        )
    out_dir = pathlib.Path(out_dir)
    write_text(out_dir / "ecg_keras_bundle.py", script)
    write_json(
        out_dir / "kernel-metadata.json",
        {
            "id": f"{username}/{slug}",
            "title": title,
            "code_file": "ecg_keras_bundle.py",
            "language": "python",
            "kernel_type": "script",
            "is_private": "true",  # words, as in the example of Kaggle's documentation
            "enable_gpu": "true",
            "enable_internet": "false",
            "dataset_sources": ["shayanfazeli/heartbeat"],
            "competition_sources": [],
            "kernel_sources": [],
            "model_sources": [],
        },
    )
    return out_dir / "ecg_keras_bundle.py"


def _zipped(folder):
    """The package's modules, templates and styles as the bytes of a zip; no caches."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.suffix in _KINDS and "__pycache__" not in path.parts:
                # dated 1980, so the same package gives the same bytes
                entry = zipfile.ZipInfo(f"ecg_keras/{path.relative_to(folder).as_posix()}")
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    return memory.getvalue()
