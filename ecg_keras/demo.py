"""Make synthetic ECG with five kinds of beat, for trying the package without data.

Conventions
-----------
Signals are in mV. A beat is a sum of Gaussian waves on the phase circle, after
P. E. McSharry et al., 'A dynamical model for generating synthetic
electrocardiogram signals', IEEE Trans. Biomed. Eng. 50(3), 2003, equation (1)
and table I. Here the equation for z is solved in closed form at constant
angular speed instead of integrated, so a wave is ``a * exp(-(theta - theta_i)**2 /
(2 * b**2))`` with `a` in mV; theta is 0 at the R peak. Phase advances by 2 pi in
sqrt(mean RR) seconds, the heart rate correction of the authors' program ECGSYN.

Kinds are the AAMI classes: N (normal), S (early, with an odd P wave and a narrow QRS),
V (early and wide, no P wave, opposite T wave, a full compensatory pause after it),
F (between the patient's N and V), Q (paced: a spike and a wide QRS). Whatever is made here is
marked as synthetic: figures reached on it say nothing about patients.
"""

import pathlib

import numpy as np

from ecg_keras._checks import check_positive, require
from ecg_keras.beats import AAMI_CLASSES
from ecg_keras.mitbih_csv import FS, MARKER, cut_beats, load_mitbih_csv, write_beats_csv
from ecg_keras.recordings import Recording
from ecg_keras.storage import cache_folder, write_text

_CSV = ("mitbih_train.csv", "mitbih_test.csv")
_SYMBOLS = np.array(["N", "A", "V", "F", "/"])  # MIT-BIH annotation of each class
_SHARES = {"N": 0.80, "S": 0.04, "V": 0.08, "F": 0.02, "Q": 0.06}  # of the CSV rows
_N_PATIENTS = 24
_PACED_EVERY = 8  # one patient in so many has a pacemaker
_VERSION = 2  # raise when the same seed makes other beats: cached demo files are then made again


def load_demo(*, n_beats=5000, balance=None, standardize=False, val_fraction=0.1, seed=0):
    """Load the synthetic demo set as `load_mitbih_csv` loads the real files.

    The CSV files are written once, in the cache folder.

    Parameters
    ----------
    n_beats : int, default 5000
        Beats in all parts together; a fifth of them is the test part.
    balance, standardize, val_fraction
        As in `load_mitbih_csv`.
    seed : int, default 0
        Seed of the synthetic patients, of the division and of the balancing.

    Returns
    -------
    train, val, test : ECGDataset
        ``(n, 187, 1)`` beats at 125 Hz, scaled to 0..1; `source` says that they are synthetic.

    Raises
    ------
    ValueError
        As `load_mitbih_csv` and `write_demo_csv`.

    Examples
    --------
    >>> train, val, test = load_demo(n_beats=200)
    >>> train.synthetic, test.x.shape
    (True, (40, 187, 1))
    """
    folder = cache_folder() / f"demo-{_VERSION}-{n_beats}-{seed}"
    if not all((folder / name).is_file() for name in (MARKER, *_CSV)):
        write_demo_csv(folder, n_beats=n_beats, seed=seed)
    parts = load_mitbih_csv(
        folder, balance=balance, standardize=standardize, val_fraction=val_fraction, seed=seed
    )
    split_by = {
        "loader": "load_demo",
        "n_beats": n_beats,
        "val_fraction": val_fraction,
        "seed": seed,
    }
    return tuple(part.replace(split_by=split_by) for part in parts)


def write_demo_csv(directory, *, n_beats=5000, seed=0):
    """Write synthetic beats in the form of the Kaggle 'heartbeat' files.

    The recordings of 24 synthetic patients are cut into beats by `mitbih_csv.cut_beats`. As in the
    original, beats of one patient are in both files.

    Parameters
    ----------
    directory : str or path
        Folder for ``mitbih_train.csv`` and ``mitbih_test.csv`` (four fifths and one fifth of each
        class: 80 % N, 4 % S, 8 % V, 2 % F, 6 % Q), and for the marker file ``SYNTHETIC.txt``.
    n_beats : int, default 5000
        Beats in both files together, at least 40.
    seed : int, default 0
        The same seed writes the same files.

    Returns
    -------
    directory : pathlib.Path

    Raises
    ------
    ValueError
        If `n_beats` is below 40, or `directory` holds CSV files that are not marked as synthetic.

    Examples
    --------
    >>> import tempfile
    >>> folder = write_demo_csv(tempfile.mkdtemp(), n_beats=40)
    >>> sorted(path.name for path in folder.iterdir())
    ['SYNTHETIC.txt', 'mitbih_test.csv', 'mitbih_train.csv']
    """
    if check_positive("n_beats", n_beats) < 40:
        raise ValueError(
            f"n_beats must be at least 40, so that each file has all five classes; got {n_beats}."
        )
    directory = pathlib.Path(directory)
    present = [name for name in _CSV if (directory / name).exists()]
    if present and not (directory / MARKER).exists():
        raise ValueError(
            f"{directory / present[0]} exists and is not synthetic; name another folder for the "
            "demo set."
        )
    rng = np.random.default_rng([seed, _N_PATIENTS])
    x, y = _beats_of_all(int(n_beats), seed)
    counts = _class_counts(int(n_beats))
    parts = {"train": [], "test": []}
    for label, count in enumerate(counts):
        rows = rng.permutation(np.flatnonzero(y == label))[:count]
        n_test = max(1, round(0.2 * count))
        parts["test"].append(rows[:n_test])
        parts["train"].append(rows[n_test:])
    # the marker comes first: no CSV of ours is ever without it
    write_text(
        directory / MARKER,
        "The beats in this folder were made by ecg_keras.demo. They are not measured, and figures "
        f"reached on them say nothing about patients.\nn_beats={n_beats} seed={seed}\n",
    )
    for part, rows in parts.items():
        rows = rng.permutation(np.concatenate(rows))
        write_beats_csv(directory / f"mitbih_{part}.csv", x[rows], y[rows])
    return directory


def write_demo_records(directory, *, n_patients=12, duration_s=300.0, seed=0):
    """Write synthetic recordings as WFDB files with beat annotations, like the MIT-BIH database.

    Parameters
    ----------
    directory : str or path
        Folder for ``demo000.hea``, ``.dat`` and ``.atr`` (leads MLII and V1, 360 Hz, symbols
        N A V F /), one of each per patient, and the list ``RECORDS``. Every header says that the
        recording is synthetic.
    n_patients : int, default 12
        Recordings to write; every eighth patient is paced.
    duration_s : float, default 300
        Length of each, in s.
    seed : int, default 0
        The same seed writes the same recordings.

    Returns
    -------
    names : tuple of str
        The record names.

    Raises
    ------
    ValueError
        If a number is not above zero.
    ImportError
        If wfdb is not installed.

    Examples
    --------
    >>> import tempfile
    >>> write_demo_records(tempfile.mkdtemp(), n_patients=2, duration_s=20)
    ('demo000', 'demo001')
    """
    wfdb = require("wfdb", "wfdb")
    check_positive("n_patients", n_patients)
    check_positive("duration_s", duration_s)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    names = tuple(f"demo{patient:03d}" for patient in range(int(n_patients)))
    for patient, name in enumerate(names):
        recording = simulate_patient(patient, duration_s=duration_s, fs=360, seed=seed)
        wfdb.wrsamp(
            name,
            fs=360,
            units=["mV", "mV"],
            sig_name=["MLII", "V1"],
            p_signal=recording.signal,
            fmt=["212", "212"],
            adc_gain=[200, 200],
            baseline=[0, 0],
            comments=[f"synthetic: patient {patient} of ecg_keras.demo, seed {seed}; not measured"],
            write_dir=str(directory),
        )
        # no fs here: readers take it from the header, and wfdb 4.1 fails to write it with NumPy 2
        wfdb.wrann(
            name,
            "atr",
            recording.peaks,
            symbol=list(recording.symbols),
            write_dir=str(directory),
        )
    write_text(directory / "RECORDS", "".join(f"{name}\n" for name in names))
    return names


def simulate_patient(patient, *, duration_s=60.0, fs=360.0, seed=0):
    """Simulate one patient's two-lead ECG.

    Parameters
    ----------
    patient : int
        Which patient: sets the shape, rhythm, ectopic beats and noise. Patients 7, 15, 23 ...
        are paced.
    duration_s : float, default 60
        Length, in s.
    fs : float, default 360
        Sampling rate, in Hz.
    seed : int, default 0
        Seed of all patients.

    Returns
    -------
    recording : recordings.Recording
        Signal ``(round(duration_s * fs), 2)`` in mV, leads MLII and V1; beats of the symbols
        N A V F /.

    Raises
    ------
    ValueError
        If `duration_s` or `fs` is not above zero.

    Examples
    --------
    >>> recording = simulate_patient(0, duration_s=30, fs=125)
    >>> recording.signal.shape, recording.leads
    ((3750, 2), ('MLII', 'V1'))
    """
    check_positive("duration_s", duration_s)
    check_positive("fs", fs)
    rng = np.random.default_rng([seed, patient])
    n_samples = round(duration_s * fs)
    paced = patient % _PACED_EVERY == _PACED_EVERY - 1
    mean_rr_s = rng.uniform(0.62, 1.05)
    times_s, kinds = _rhythm(duration_s, mean_rr_s, paced, rng)
    waves = _waves(kinds, rng)
    signal = _draw(times_s, waves, np.sqrt(mean_rr_s), n_samples, fs)
    signal += _noise(n_samples, fs, rng)
    peaks = np.round(times_s * fs).astype(np.int64)
    inside = (peaks >= 0) & (peaks < n_samples)
    return Recording(
        f"demo{patient:03d}",
        signal,
        float(fs),
        ("MLII", "V1"),
        "mV",
        peaks[inside],
        _SYMBOLS[kinds[inside]],
        synthetic=True,
    )


def _rhythm(duration_s, mean_rr_s, paced, rng):
    """Times of the R peaks (n_beats,), in s, and the kind of each beat (n_beats,)."""
    n = int(1.6 * duration_s / mean_rr_s) + 4  # more than fit; cut below
    if paced:
        kinds = np.full(n, AAMI_CLASSES.index("Q"))
        rr = mean_rr_s * (1 + 0.004 * rng.standard_normal(n))
    else:
        rates = np.array(
            [rng.uniform(0.02, 0.14), rng.uniform(0.04, 0.18), rng.uniform(0.01, 0.05)]
        )  # S, V, F
        kinds = rng.choice(4, n, p=[1 - rates.sum(), *rates])
        kinds[1:][(kinds[1:] > 0) & (kinds[:-1] > 0)] = 0  # an ectopic beat follows a sinus beat
        kinds[0] = 0
        # two peaks of the RR spectrum: Mayer waves at 0.1 Hz and respiration at 0.25 Hz
        # (McSharry, section II)
        t = mean_rr_s * np.arange(n)
        depth = rng.uniform(0.005, 0.04, 2)
        swing = sum(
            a * np.sin(2 * np.pi * (f * t + rng.random())) for a, f in zip(depth, (0.1, 0.25))
        )
        rr = mean_rr_s * (1 + swing + 0.01 * rng.standard_normal(n))  # rr[k] leads to beat k
        early = np.select(
            [kinds == 1, kinds == 2, kinds == 3],
            [rng.uniform(0.62, 0.88, n), rng.uniform(0.55, 0.85, n), rng.uniform(0.90, 1.0, n)],
            1.0,
        )
        # after V the sinus node keeps its beat: the pause makes up what was early; S resets it,
        # with a short delay
        pause = np.select([kinds == 1, kinds == 2], [rng.uniform(1.05, 1.35, n), 2 - early], 1.0)
        rr *= early * np.concatenate([[1.0], pause[:-1]])
    times_s = rng.uniform(0, mean_rr_s) + np.cumsum(rr) - rr[0]
    keep = times_s < duration_s
    return times_s[keep], kinds[keep]


# Angle (rad), width (rad) and amplitude (mV in MLII, mV in V1) of P, Q, R, S, T and the pacing
# spike. Angles and widths of P to T follow table I of McSharry et al.; MLII amplitudes are its
# a * b**2, R scaled to 1.
_NORMAL = np.array(
    [
        [-1.05, 0.25, 0.15, 0.08],
        [-0.26, 0.10, -0.12, 0.00],
        [0.00, 0.10, 1.00, 0.25],
        [0.26, 0.10, -0.22, -0.90],
        [1.60, 0.40, 0.30, -0.08],
        [-0.50, 0.03, 0.00, 0.00],
    ]
)
_P, _Q, _R, _S, _T, _SPIKE = range(6)


def _waves(kinds, rng):
    """Kinds (n_beats,) to angle, width, amplitudes of a patient's waves (n_beats, 6, 4)."""
    n = len(kinds)
    normal = _NORMAL.copy()
    normal[:, 0] *= rng.uniform(0.9, 1.1, 6)
    normal[:, 1] *= rng.uniform(0.8, 1.3, 6)
    normal[:, 2:] *= rng.uniform(0.5, 1.5, (6, 1)) * rng.uniform(0.8, 1.2, (6, 2))  # heart and axis
    normal[_T, 2:] *= 1 if rng.random() < 0.8 else -0.5  # inverted in some
    ventricular = normal.copy()
    side = 1 if rng.random() < 0.6 else -1  # origin of the ectopic focus
    size = rng.uniform(0.8, 1.5)
    ventricular[_P, 2:] = 0
    ventricular[_Q] = [-0.55, 0.22, -0.25 * side * size, 0.2 * side * size]
    ventricular[_R] = [0.0, rng.uniform(0.22, 0.34), side * size, -0.9 * side * size]
    ventricular[_S] = [0.65, 0.28, -0.5 * side * size, 0.3 * side * size]
    ventricular[_T] = [rng.uniform(1.7, 2.1), 0.5, -0.4 * side * size, 0.4 * side * size]
    paced = ventricular.copy()
    paced[_SPIKE, 2:] = rng.uniform(0.3, 1.2) * np.array([1, 0.8])

    waves = np.repeat(normal[None], n, axis=0)  # (n_beats, 6, 4)
    atrial = kinds == 1
    waves[atrial, _P, 0] += rng.normal(0.15, 0.15, atrial.sum())
    waves[atrial, _P, 2:] *= rng.uniform(-0.8, 0.5, (atrial.sum(), 1))
    waves[atrial, _S, 2:] *= rng.uniform(1.1, 2.2, (atrial.sum(), 1))  # slight aberration
    waves[atrial, _T, 2:] *= rng.uniform(0.4, 0.9, (atrial.sum(), 1))
    waves[kinds == 2] = ventricular
    fused = kinds == 3
    share = rng.uniform(0.3, 0.8, (fused.sum(), 1, 1))
    waves[fused] = share * ventricular + (1 - share) * normal
    waves[kinds == 4] = paced
    # no two beats of a patient are equal
    waves[:, :_SPIKE, 1] *= np.exp(0.06 * rng.standard_normal((n, 5)))
    waves[:, :_SPIKE, 2:] *= np.exp(0.10 * rng.standard_normal((n, 5, 1)))
    waves[:, :_SPIKE, 0] += 0.02 * rng.standard_normal((n, 5))
    return waves


def _draw(times_s, waves, cycle_s, n_samples, fs):
    """Sum the Gaussian waves of every beat into one signal (n_samples, 2)."""
    before, after = round(0.55 * cycle_s * fs), round(0.75 * cycle_s * fs)
    first = np.floor(times_s * fs).astype(np.int64) - before
    at = first[:, None] + np.arange(before + after)  # (n_beats, span)
    theta = 2 * np.pi * (at / fs - times_s[:, None]) / cycle_s
    beats = np.zeros((*at.shape, 2))
    for wave in range(waves.shape[1]):
        # each (n_beats, 1)
        angle, width, *amplitude = np.moveaxis(waves[:, wave], -1, 0)[..., None]
        bump = np.exp(-0.5 * ((theta - angle) / width) ** 2)
        beats += bump[..., None] * np.stack(amplitude, axis=-1)
    at = np.clip(at, -1, n_samples) + 1  # what lies outside falls into a bin at either end
    signal = [
        np.bincount(at.ravel(), beats[..., lead].ravel(), minlength=n_samples + 2)
        for lead in range(2)
    ]
    return np.stack(signal, axis=-1)[1:-1]


def _noise(n_samples, fs, rng):
    """Baseline wander, mains hum and muscle noise (n_samples, 2), in mV, of random levels."""
    t = np.arange(n_samples) / fs
    noise = np.zeros((n_samples, 2))
    # electrode drift, respiration
    for low_hz, high_hz, most_mv in ((0.02, 0.08, 0.2), (0.15, 0.40, 0.12)):
        wander = np.sin(2 * np.pi * (rng.uniform(low_hz, high_hz) * t + rng.random()))
        noise += wander[:, None] * rng.uniform(0.2, 1, 2) * most_mv
    mains_hz = rng.choice([50.0, 60.0])
    noise += np.sin(2 * np.pi * mains_hz * t)[:, None] * rng.uniform(0.0, 0.02, 2)
    # muscle: white noise less its slow part, in bursts of some seconds
    white = rng.standard_normal((n_samples, 2))
    fast = np.diff(white, axis=0, prepend=0) / np.sqrt(2)
    bursts = 1 + np.sin(2 * np.pi * (rng.uniform(0.05, 0.2) * t + rng.random()))
    return noise + bursts[:, None] * fast * rng.uniform(0.005, 0.035)


def _beats_of_all(n_beats, seed):
    """Enough beats of every kind, cut like the Kaggle files: x (n, 187) in 0..1 and y (n,)."""
    duration_s = max(60.0, 1.5 * n_beats / _N_PATIENTS)
    x, y = [], []
    for patient in range(_N_PATIENTS):
        recording = simulate_patient(patient, duration_s=duration_s, fs=FS, seed=seed)
        rows, kept = cut_beats(recording)
        x.append(rows)
        y += [AAMI_CLASSES.index(name) for name in recording.aami[kept]]
    return np.concatenate(x), np.array(y)


def _class_counts(n_beats):
    """Beats of each class, by `_SHARES`, at least 4 of each; N takes the rest."""
    counts = [max(4, round(_SHARES[name] * n_beats)) for name in AAMI_CLASSES]
    counts[0] = n_beats - sum(counts[1:])
    return counts
