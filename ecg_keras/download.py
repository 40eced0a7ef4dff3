"""Fetch public ECG data sets into a folder that the loaders read.

Conventions
-----------
What comes from PhysioNet comes file by file, from its open mirror on Amazon S3 or else from
physionet.org, and is checked against the publisher's SHA256SUMS.txt. A second call fetches only
what is absent or damaged. Every file is written whole or not at all.
"""

import hashlib
import http.client
import pathlib
import re
import shutil
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from ecg_keras._checks import check_option, require
from ecg_keras.storage import atomic_path

_MIRRORS = ("https://physionet-open.s3.amazonaws.com/", "https://physionet.org/files/")
_HEARTBEAT = "shayanfazeli/heartbeat"  # on Kaggle
# name of a data set: its project on PhysioNet, and a pattern of its files; {rate} is in Hz
_PROJECTS = {
    "mitbih_records": ("mitdb/1.0.0", r"RECORDS|[^/]+\.(hea|dat|atr)"),
    "ptbxl": ("ptb-xl/1.0.3", r"records{rate}/.+|[^/]+\.(csv|txt)"),
}
_TRIES, _PAUSE_S, _TIMEOUT_S = 3, 2.0, 60.0


def download(name, directory, *, sampling_rate=100, n_threads=32, progress=True):
    """Fetch one public data set; what is already there and whole is kept.

    Parameters
    ----------
    name : {"mitbih_csv", "mitbih_records", "ptbxl"}
        The CSV files of Kaggle's 'heartbeat' (by kagglehub; 510 MB), the MIT-BIH Arrhythmia
        Database 1.0.0 (100 MB, ODC-BY 1.0), or PTB-XL 1.0.3 (43,598 files, 1 GB at 100 Hz and
        2.5 GB at 500 Hz, CC BY 4.0).
    directory : str or path
        Folder to fill; made where absent.
    sampling_rate : {100, 500}, default 100
        Which of PTB-XL's two versions to fetch, in Hz. The other data sets have one.
    n_threads : int, default 32
        Files fetched at a time from PhysioNet.
    progress : bool, default True
        Show a bar.

    Returns
    -------
    directory : pathlib.Path

    Raises
    ------
    ValueError
        If `name` or `sampling_rate` is not known, or the publisher's list is not one of files.
    OSError
        If no mirror has a file as the publisher lists it.
    ImportError
        If kagglehub is not installed ("mitbih_csv" only).

    Examples
    --------
    >>> download("mitbih_records", "data/mitdb")  # doctest: +SKIP
    PosixPath('data/mitdb')
    """
    names = ("mitbih_csv", *_PROJECTS)
    name = check_option("name", name, names, renamed={"mitdb": "mitbih_records"})
    check_option("sampling_rate", sampling_rate, (100, 500))
    directory = pathlib.Path(directory).expanduser()
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; name a folder to fill.")
    if name == "mitbih_csv":
        return _from_kaggle(directory)
    project, pattern = _PROJECTS[name]
    pattern = pattern.format(rate=sampling_rate)
    return _from_physionet(project, pattern, directory, n_threads, progress)


def _from_kaggle(directory):
    """Copy the two CSV files out of kagglehub's own cache."""
    kagglehub = require("kagglehub", "download")
    source = pathlib.Path(kagglehub.dataset_download(_HEARTBEAT))
    for name in ("mitbih_train.csv", "mitbih_test.csv"):
        found = next(iter(sorted(source.rglob(name))), None)
        if found is None:
            raise ValueError(
                f"{_HEARTBEAT} from Kaggle has no {name} (looked in {source}); its owner may have "
                "changed it."
            )
        with atomic_path(directory / name) as part:
            shutil.copyfile(found, part)
    return directory


def _from_physionet(project, pattern, directory, n_threads, progress):
    """Fetch the files of SHA256SUMS.txt that match a pattern and are not there yet."""
    from tqdm.auto import tqdm

    sums = _checksums(_fetch(f"{project}/SHA256SUMS.txt"), project)
    files = {file: digest for file, digest in sums.items() if re.fullmatch(pattern, file)}
    if not files:
        raise ValueError(
            f"{project}/SHA256SUMS.txt lists {len(sums)} files, but none of those expected."
        )

    def get(file):
        path = directory / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == files[file]:
            return
        content = _fetch(f"{project}/{file}", digest=files[file])
        with atomic_path(path) as part:
            part.write_bytes(content)

    with ThreadPoolExecutor(n_threads) as pool:
        work = [pool.submit(get, file) for file in files]
        try:
            for done in tqdm(work, desc=project, unit="file", disable=not progress):
                done.result()
        finally:  # the first failure, or Ctrl-C, ends the rest
            pool.shutdown(wait=False, cancel_futures=True)
    return directory


def _checksums(content, project):
    """Text of SHA256SUMS.txt to a dict from relative path to hex digest."""
    sums = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        digest, _, file = line.strip().partition(" ")
        file = file.strip().lstrip("*").removeprefix("./")
        parts = pathlib.PurePosixPath(file).parts
        if len(digest) != 64 or not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(
                f"{project}/SHA256SUMS.txt, line {number}: expected 64 hex digits and a file name, "
                f"got {line[:80]!r}; a page of a proxy or a login may have come instead."
            )
        sums[file] = digest
    return sums


def _fetch(file, *, digest=None):
    """Bytes of one file from the first mirror that has it, right by its digest."""
    # pooch knows one mirror and writes files that only their owner may read
    failures = []
    for attempt in range(_TRIES):
        for mirror in _MIRRORS:
            url = mirror + urllib.parse.quote(file)
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                    content = answer.read()
            except (OSError, http.client.HTTPException) as error:  # not found, timed out, cut
                failures.append(f"{url}: {error}")
                continue
            if digest is None or hashlib.sha256(content).hexdigest() == digest:
                return content
            failures.append(
                f"{url}: {len(content)} bytes that do not match the publisher's checksum"
            )
        time.sleep(_PAUSE_S * attempt)
    raise OSError(
        f"cannot fetch {file} ({failures[-1]}); check the network and run the same command again: "
        "what has arrived is kept."
    )
