"""Pick rows to look at: a typical one of each class.

Conventions
-----------
A typical row is the one nearest (in the sum of absolute differences) to the median of up to
300 rows of its class, evenly spread over the data set; a row of the data, not an average.
"""

import numpy as np

_MEDIAN_ROWS = 300  # per class; more do not change what is typical


def typical_rows(ds, *, most=12):
    """Row number of a typical row of each class.

    Multi-label rows with that class alone are preferred. Classes without rows are left out.

    Parameters
    ----------
    ds : ECGDataset
        Signals or images.
    most : int, default 12
        Only so many of the largest classes.

    Returns
    -------
    dict of str to int
        In the order of the classes.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> typical_rows(ECGDataset([[0, 0], [0, 1], [0, 2], [5, 5]], [0, 0, 0, 1], classes="NV", fs=10))
    {'N': 1, 'V': 3}
    """
    counts = ds.class_counts()
    kept = sorted((name for name in ds.classes if counts[name]), key=lambda name: -counts[name])[
        :most
    ]
    found = {}
    for i, name in enumerate(ds.classes):
        if name not in kept:
            continue
        if ds.multi_label:
            alone = (ds.y[:, i] == 1) & (ds.y.sum(axis=1) == 1)
            rows = np.flatnonzero(alone if alone.any() else ds.y[:, i] == 1)
        else:
            rows = np.flatnonzero(ds.y == i)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MEDIAN_ROWS).astype(int))]
        flat = ds.x[rows].reshape(len(rows), -1)
        found[name] = int(rows[np.abs(flat - np.median(flat, axis=0)).sum(axis=1).argmin()])
    return found


def typical(ds, *, most=12):
    """The data set of the rows of `typical_rows`, to be shown beside what is made of them."""
    rows = typical_rows(ds, most=most)
    return ds[np.array(sorted(set(rows.values())), int)].replace(balance=None)
