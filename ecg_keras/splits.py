"""Split rows into parts: stratified by class, or by whole patients."""

import numpy as np

from ecg_keras._checks import check_fraction


def split(ds, fraction, *, by="auto", seed=0):
    """Cut a part off a data set.

    Parameters
    ----------
    ds : ECGDataset
        Rows to divide; must not be resampled, or copies would fall on both sides.
    fraction : float
        Share of the rows (or of the patients) in the second part, between 0 and 1.
    by : {"auto", "rows", "patients"}, default "auto"
        "patients" keeps each patient's rows together; "auto" does so where patients are known,
        and else keeps the share of each class.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    rest, part : ECGDataset
        In the order of the rows of `ds`.

    Examples
    --------
    >>> from ecg_keras.dataset import ECGDataset
    >>> ds = ECGDataset(np.zeros((100, 9)), [0] * 80 + [1] * 20, classes="NV", fs=125)
    >>> [part.class_counts() for part in split(ds, 0.1)]
    [{'N': 72, 'V': 18}, {'N': 8, 'V': 2}]
    """
    check_fraction("fraction", fraction)
    if ds.balance is not None and ds.balance.resampled:
        raise ValueError(
            f"cannot split rows already resampled by {ds.balance.method!r}; split first, then balance."
        )
    if by == "auto":
        by = "rows" if ds.patients is None else "patients"
    if by == "patients":
        if ds.patients is None:
            raise ValueError("by='patients' needs a data set that names its patients.")
        chosen = np.isin(ds.patients, draw_patients(ds, fraction, seed=seed))
    else:
        chosen = _stratified(ds.y, fraction, np.random.default_rng(seed))
    return ds[~chosen], ds[chosen]


def _stratified(y, fraction, rng):
    """Labels to a mask that holds `fraction` of each class (each combination, if multi-label)."""
    if y.ndim == 2:
        _, y = np.unique(y, axis=0, return_inverse=True)
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        exact = fraction * len(rows)
        n = int(exact) + (
            rng.random() < exact - int(exact)
        )  # on average the exact share, small groups too
        chosen[rows[:n]] = True
    return chosen


def draw_patients(ds, fraction, *, seed=0, tries=200):
    """Choose whole patients with about `fraction` of the rows of every class.

    The best of `tries` random draws by the largest deviation of any class's share;
    labels are used only to keep classes from being absent.
    """
    rng = np.random.default_rng(seed)
    names, which = np.unique(ds.patients, return_inverse=True)
    labels = ds.y if ds.multi_label else np.eye(len(ds.classes))[ds.y]
    counts = np.zeros((len(names), labels.shape[1]))
    np.add.at(counts, which, labels)
    counts = counts[:, counts.sum(axis=0) > 0]
    n = min(max(1, round(fraction * len(names))), len(names) - 1)
    if n < 1:
        raise ValueError(f"{len(names)} patient cannot be divided; at least two are needed.")
    draws = [rng.permutation(len(names))[:n] for _ in range(tries)]
    shares = [counts[draw].sum(axis=0) / counts.sum(axis=0) for draw in draws]
    return names[draws[int(np.argmin([np.abs(share - fraction).max() for share in shares]))]]
