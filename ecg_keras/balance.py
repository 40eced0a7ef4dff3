"""Balance the classes of a train part.

Conventions
-----------
Only a train part comes here, after validation rows were cut off. Methods that
make rows mark the result as resampled; those that act while fitting only note
what `fit_and_report` is to do.
"""

import time

import numpy as np

from ecg_keras._checks import check_option
from ecg_keras.dataset import Balance

METHODS = (None, "smote", "smote-tomek", "class_weight", "sampler")
MADE = "(made)"  # patient and record of a row that no source holds


def balance_train(train, method, *, caps=None, seed=0):
    """Balance a train part.

    Parameters
    ----------
    train : ECGDataset
        Signals with one class per row.
    method : {None, "smote", "smote-tomek", "class_weight", "sampler"}
        SMOTE interpolates between a minority row and one of its 5 nearest neighbours until every class
        has as many rows as the largest (Chawla et al., JAIR 2002; imbalanced-learn); "smote-tomek" then removes
        pairs of nearest neighbours of different classes (slow: minutes on 300,000 rows);
        "class_weight" weighs rows while fitting; "sampler" makes SMOTE's rows while fitting, batch by
        batch, in no extra memory.
    caps : dict of str to int, optional
        Most rows of a class after balancing. A class with more is thinned at random.
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    ECGDataset
        With `balance` set, or `train` itself for None.

    Raises
    ------
    ValueError
        If the method or a class is not known, or a class has too few rows to interpolate.

    Examples
    --------
    >>> from ecg_keras.dataset import ECGDataset
    >>> x = np.random.default_rng(0).normal(size=(60, 20))
    >>> train = ECGDataset(x, [0] * 50 + [1] * 10, classes="NV", fs=125)
    >>> balance_train(train, "smote").class_counts()
    {'N': 50, 'V': 50}
    """
    check_option("balance", method, METHODS)
    if method is None:
        if caps:
            raise ValueError(
                "caps limit what balancing makes; choose a balance method, or leave caps out."
            )
        return train
    if train.multi_label:
        raise ValueError(
            f"balance={method!r} needs one class per row; this data set is multi-label."
        )
    if train.balance is not None:
        raise ValueError(f"train is balanced by {train.balance.method!r} already.")
    caps = {str(name): int(most) for name, most in (caps or {}).items()}
    for name, most in caps.items():
        check_option("a class in caps", name, train.classes)
        if most < 1:
            raise ValueError(f"caps[{name!r}] must be at least 1, got {most}.")
    mark = Balance(method, train.class_counts(), caps or None)
    if not mark.resampled:
        return train.replace(balance=mark)
    start = time.perf_counter()
    x, y, metadata, kept = _smote(train, caps, seed, tomek=method == "smote-tomek")
    seconds = {**(train.seconds or {}), "balance": time.perf_counter() - start}
    digests = train.row_digests()
    return train.replace(
        x=x,
        y=y,
        digests=None if digests is None else np.where(kept < 0, 0, digests[kept]),
        metadata=metadata,
        patients=_names(train.patients, kept),
        records=_names(train.records, kept),
        balance=mark,
        seconds=seconds,
        notes=(
            *train.notes,
            f"The train part holds rows made by {method}; validation and test rows are as measured.",
        ),
    )


def _names(names, kept):
    """Names of the measured rows, `MADE` for the others: shared patients are still found."""
    return None if names is None else np.where(kept < 0, MADE, names[kept])


def _smote(train, caps, seed, *, tomek):
    """x, y, metadata after thinning to `caps`, SMOTE and, with `tomek`, removal of Tomek links; and the row of
    `train` that each is, -1 for those made."""
    from imblearn.over_sampling import SMOTE
    from imblearn.under_sampling import TomekLinks

    rng = np.random.default_rng(seed)
    rows = np.arange(len(train))
    for label, name in enumerate(train.classes):
        mine = rows[train.y[rows] == label]
        if len(mine) > caps.get(name, len(mine)):
            rows = np.setdiff1d(
                rows, rng.choice(mine, len(mine) - caps[name], replace=False), assume_unique=True
            )
    flat = train.x[rows].reshape(len(rows), -1)
    width = flat.shape[1]
    if train.metadata is not None:
        flat = np.concatenate([flat, train.metadata[rows]], axis=1)
    counts = np.bincount(train.y[rows], minlength=len(train.classes))
    goals = {
        label: min(counts.max(), caps.get(train.classes[label], counts.max()))
        for label in np.flatnonzero(counts)
    }
    few = [
        f"{train.classes[label]} ({counts[label]})"
        for label, goal in goals.items()
        if counts[label] < min(goal, 6)
    ]
    if few:
        raise ValueError(
            f"SMOTE needs at least 6 rows of a class to find 5 neighbours, too few of {', '.join(few)}; "
            "use balance='class_weight' or 'sampler'."
        )
    flat, y = SMOTE(sampling_strategy=goals, random_state=seed).fit_resample(flat, train.y[rows])
    kept = np.concatenate(
        [rows, np.full(len(y) - len(rows), -1)]
    )  # imbalanced-learn puts the measured rows first
    if tomek:
        links = TomekLinks(sampling_strategy="all", n_jobs=-1)
        flat, y = links.fit_resample(flat, y)
        kept = kept[links.sample_indices_]
    metadata = None if train.metadata is None else flat[:, width:]
    return flat[:, :width].reshape(-1, *train.x.shape[1:]), y, metadata, kept
