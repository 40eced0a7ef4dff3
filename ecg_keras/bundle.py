"""Write one script that carries the whole package, for Kaggle sessions without internet.

Conventions
-----------
The script is ``kaggle_kernel.py`` with the package in front of it, as a tar.xz in base 85. Run or
pasted alone it unpacks the package into a temporary folder, puts that on the import path and goes
on as the kernel does. The same package gives the same bytes.
"""

import base64
import io
import pathlib
import re
import tarfile

from ecg_keras.storage import write_json, write_text

_MOST_BYTES = 1_000_000  # Kaggle refuses larger sources
_KINDS = (".py", ".pyi", ".css", ".jinja", ".js", ".json", ".keras", ".npz")
_LEFT_OUT = ("pretrained_ptbxl_superclasses.keras",)  # 250 KB here: too much for Kaggle
_HEAD = '''"""ecg_keras {version} and its Kaggle kernel, written by `ecg-keras bundle`."""

import base64
import io
import sys
import tarfile
import tempfile

_PACKAGE = """
{package}
"""

sys.path.insert(0, tempfile.mkdtemp(prefix="ecg_keras-"))
_PACKAGE = base64.b85decode("".join(_PACKAGE.split()))
tarfile.open(fileobj=io.BytesIO(_PACKAGE)).extractall(sys.path[0], filter="data")

'''


def write_bundle(out_dir, *, username="INSERT_YOUR_USERNAME", title="ECG Keras MIT BIH"):
    """Write the package and the kernel as one script, and the metadata for Kaggle's command line.

    The pretrained models of beats are in it too; ptbxl_superclasses would make it too large.

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
    package = base64.b85encode(_packed(folder)).decode()
    package = "\n".join(package[i : i + 120] for i in range(0, len(package), 120))
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


def _packed(folder):
    """The package's modules, templates, styles and models as the bytes of a tar.xz; no caches."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.name in _LEFT_OUT:
                continue
            if path.suffix in _KINDS and "__pycache__" not in path.parts:
                # without a date, so the same package gives the same bytes
                entry = tarfile.TarInfo(f"ecg_keras/{path.relative_to(folder).as_posix()}")
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    return memory.getvalue()
