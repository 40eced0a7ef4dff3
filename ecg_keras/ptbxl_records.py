"""Read one record of PTB-XL and check every byte of it.

Conventions
-----------
A record is int16 (samples, 12) in uV, leads in the order of `LEADS` whatever that of
the file. Plain 16-bit WFDB files are read here, many times faster than by the
reference reader, which reads all others; tests compare the two.
"""

import re

import numpy as np

from ecg_keras._checks import require

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")

_UNITS_PER_MV = {"mv": 1.0, "uv": 1000.0, "v": 0.001}


def read_record(path, sampling_rate):
    """Read a record, given its path without suffix.

    Returns
    -------
    microvolts : ndarray of int16, shape (10 * sampling_rate, 12)

    Raises
    ------
    ValueError
        If the header is not whole, another rate, length or unit, a lead is missing, or samples are
        cut, marked as missing or do not match their checksum; names the file.
    """
    lines = [
        line
        for line in path.with_suffix(".hea").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    head = lines[0].split() if lines else []
    n_samples = 10 * sampling_rate
    if len(head) < 4 or not head[1].isdigit() or len(lines) != 1 + int(head[1]):
        raise ValueError(f"{path}.hea: not a whole WFDB header.")
    if float(head[2].split("/")[0]) != sampling_rate or int(head[3]) != n_samples:
        raise ValueError(
            f"{path}.hea: expected {n_samples} samples at {sampling_rate} Hz, got {head[3]} at {head[2]} Hz; "
            "leave this record out of ptbxl_database.csv or fetch it again."
        )
    signals = [line.split() for line in lines[1:]]
    names = [" ".join(fields[8:]).upper() for fields in signals]
    if absent := [lead for lead in LEADS if lead not in names]:
        raise ValueError(
            f"{path}.hea: leads {' '.join(absent)} are missing; it has {' '.join(names)}."
        )
    order = [names.index(lead) for lead in LEADS]
    plain = all(fields[0] == f"{path.name}.dat" and fields[1] == "16" for fields in signals)
    if not plain:
        return _read_by_wfdb(path, order)
    digital = np.fromfile(path.with_suffix(".dat"), "<i2")
    if digital.size != n_samples * len(signals):
        raise ValueError(
            f"{path}.dat: expected {2 * n_samples * len(signals)} bytes, got {2 * digital.size}; the file is cut."
        )
    digital = digital.reshape(n_samples, len(signals))
    sums = digital.sum(axis=0, dtype=np.int64)
    for column, fields in enumerate(signals):
        if (int(sums[column]) - int(fields[6])) % 65536:
            raise ValueError(
                f"{path}.dat: lead {names[column]} does not match its checksum in the header; fetch it again."
            )
    if (digital == -32768).any():  # what WFDB writes for a sample that is not there
        raise ValueError(f"{path}.dat: has samples marked as missing.")
    scales = [_microvolts(path, fields[2], fields[4]) for fields in signals]
    if any(scale != (1.0, 0.0) for scale in scales):
        factor, baseline = np.array(scales).T
        return _as_int16(path, ((digital - baseline) * factor)[:, order])
    return digital[:, order]


def _microvolts(path, gain, zero):
    """A header's '1000.0(0)/mV' to the uV of one step and the value that stands for 0 uV."""
    match = re.fullmatch(r"([\d.eE+-]+)(?:\((-?\d+)\))?(?:/(\S+))?", gain)
    unit = (match[3] or "mV").lower() if match else ""
    if unit not in _UNITS_PER_MV or not float(match[1]):
        raise ValueError(f"{path}.hea: the gain must read like '1000.0(0)/mV', got {gain!r}.")
    return 1000 / (float(match[1]) * _UNITS_PER_MV[unit]), float(
        match[2] if match[2] is not None else zero
    )


def _read_by_wfdb(path, order):
    """A record stored in another format than plain 16 bit, read by the reference reader."""
    return _as_int16(path, 1000 * require("wfdb", "wfdb").rdrecord(str(path)).p_signal[:, order])


def _as_int16(path, microvolts):
    """uV as float to int16, or an error where they are missing or do not fit."""
    if not np.isfinite(microvolts).all() or np.abs(microvolts).max() > 32767:
        raise ValueError(f"{path}: has samples that are missing or beyond 32.767 mV.")
    return np.rint(microvolts).astype(np.int16)
