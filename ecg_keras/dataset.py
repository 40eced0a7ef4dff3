"""Hold labelled ECG rows as one value, split them into parts, and balance a train part.

Conventions
-----------
Signals are float32 (n, samples, leads); images are float32 (n, freqs, frames,
leads), frequency rising with the row and time with the column. Labels are int64
class numbers (n,), or float32 multi-hot rows (n, classes), which make the task
multi-label. A data set is a value: functions return new ones and change none.

Parts are train, validation and test. They are split by whole patients where the patients are
known. Only a train part is balanced, after the other rows were cut off.
"""

import dataclasses
import html
import itertools
import time
from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import check_finite, check_fraction, check_option
from ecg_keras.storage import digest_rows, fingerprint

BALANCES = (None, "smote", "smote_tomek", "class_weight", "sampler")  # see `balance_train`
MADE = "(made)"  # patient and record of a row that no source holds
_MEDIAN_ROWS = 300  # per class; more change the median of a class little


@dataclass(frozen=True)
class Balance:
    """How a train part is balanced: by rows already made, or by weights and draws while fitting."""

    method: str  # one of `BALANCES`
    counts_before: dict  # beats per class as the source has them
    caps: dict | None = None  # most beats per class after balancing

    @property
    def resampled(self):
        """True where rows were added or removed, so the part is no longer what was measured."""
        return self.method in ("smote", "smote_tomek")


@dataclass(frozen=True)
class Scaler:
    """Mean and scale of the train rows, to standardise others: ``(x - mean) / scale``."""

    mean: np.ndarray  # float32, broadcasts against one row of x
    scale: np.ndarray

    def apply(self, x):
        """Standardise rows of `x`."""
        return ((x - self.mean) / self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ECGDataset:
    """ECG signals or images with their labels and where they came from.

    Windows of other signals, EEG or EMG, are such rows too: name them by `modality`, and give their
    own `unit`, `leads` and `fs`.

    Parameters
    ----------
    x : float32, shape (n, samples, leads) or (n, freqs, frames, leads)
        What the model eats. (n, samples) is taken as one lead.
    y : int64, shape (n,), or float32, shape (n, classes)
        Class numbers, or multi-hot rows of 0 and 1 for a multi-label task.
    classes : sequence of str
        Names in the order of `y`.
    fs : float
        Sampling rate of the signals (of those an image was made from), in Hz.
    leads : sequence of str, default ("ECG",)
        Lead names in the order of the last axis of a signal.
    unit : str, default "mV"
        Unit of the signals.
    patients : sequence of str or int, shape (n,), optional
        Whose each row is; None where the source does not say.
    records : sequence of str or int, shape (n,), optional
        Which recording each row is from; a patient may have several.
    metadata : float32, shape (n, m), optional
        Numbers beside the signal: age, sex, RR-interval features.
    metadata_names : sequence of str, optional
        One name per column of `metadata`.
    grid : SpectrogramGrid, ScalogramGrid or SpectrumGrid, optional
        How `x` was made, if it is images or spectra.
    source : str, default "unknown"
        Where the rows came from. Starts with "synthetic" where they are not measured.
    scaler : Scaler, optional
        How raw signals were standardised before they became `x`.
    balance : Balance, optional
        How this train part is balanced; None for parts to validate and test on.
    n_samples : int, optional
        Samples of the signal each row was made from; filled in for signals, needed for images.
    examples : ECGDataset, optional
        A few rows of the raw signals that images were made of, to show beside them.
    preparation : dict, optional
        Keywords by which the loader prepares more rows the same way; a saved model carries them.
    split_by : dict, optional
        How the parts were made: the loader's name as "loader", and those of its keywords that
        decide which part a row falls into; a saved model carries them as its card's ``split``.
    digests : uint32, shape (n,), optional
        What `row_digests` gave while `x` still held raw signals; 0 for a row made by resampling.
        Whatever turns raw signals into something else fills it in.
    notes : sequence of str, optional
        What a reader of the report has to know: rows left out, patients shared.
    seconds : dict, optional
        What making the data set took, by step: "load", "balance", "transform".
    modality : str, default "ECG"
        What was recorded, as in "EEG" or "EMG". Only an ECG has R peaks to align averages on, and
        waves to letter.

    Raises
    ------
    ValueError
        If a field does not fit the others; says which, what came and what was expected.

    Examples
    --------
    >>> ds = ECGDataset(np.zeros((4, 187, 1)), [0, 0, 0, 1], classes=("N", "V"), fs=125)
    >>> len(ds), ds.class_counts()
    (4, {'N': 3, 'V': 1})
    >>> ds[ds.y == 1].summary()
    '1 row of 187 samples x 1 lead (1.50 s at 125 Hz); N 0, V 1; unknown'
    >>> eeg = {"classes": ("rest", "task"), "leads": ("O1", "O2"), "unit": "uV", "modality": "EEG"}
    >>> ECGDataset(np.zeros((2, 500, 2)), [0, 1], fs=250, **eeg).modality
    'EEG'
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple
    fs: float
    leads: tuple = ("ECG",)
    unit: str = "mV"
    patients: np.ndarray | None = None
    records: np.ndarray | None = None
    metadata: np.ndarray | None = None
    metadata_names: tuple | None = None
    grid: object = None
    source: str = "unknown"
    scaler: Scaler | None = None
    balance: Balance | None = None
    n_samples: int | None = None
    examples: "ECGDataset | None" = None
    preparation: dict | None = None
    split_by: dict | None = None
    digests: np.ndarray | None = None
    notes: tuple = ()
    seconds: dict | None = None
    modality: str = "ECG"

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        x = np.asarray(self.x)
        if x.dtype == object or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
            raise TypeError(f"x must hold real numbers, got an array of {x.dtype}.")
        x = x.astype(np.float32, copy=False)
        x = x[:, :, None] if x.ndim == 2 else x
        if x.ndim not in (3, 4):
            raise ValueError(
                "x must have shape (n, samples, leads), or (n, freqs, frames, leads) for images, "
                f"got {np.shape(self.x)}."
            )
        put("x", check_finite("x", x, row="rows"))
        put("classes", tuple(str(name) for name in self.classes))
        if not isinstance(self.modality, str) or not self.modality:
            raise TypeError(f'modality must be a name, as in "EEG", got {self.modality!r}.')
        put("leads", (self.leads,) if isinstance(self.leads, str) else tuple(self.leads))
        if self.leads == ("ECG",):  # the default
            put("leads", (self.modality,))
        put("y", self._checked_labels())
        put("fs", float(self.fs))
        if not np.isfinite(self.fs) or self.fs <= 0:
            raise ValueError(f"fs must be the sampling rate in Hz, above 0, got {self.fs}.")
        if self.grid is None and x.ndim == 3 and len(self.leads) != x.shape[2]:
            raise ValueError(
                f"leads has {len(self.leads)} names ({', '.join(self.leads)}), "
                f"but x has {x.shape[2]} leads."
            )
        for name in ("patients", "records"):
            if getattr(self, name) is not None:
                ids = np.asarray([str(value) for value in getattr(self, name)])
                if ids.shape != (len(x),):
                    raise ValueError(
                        f"{name} must name one for each of the {len(x)} rows of x, "
                        f"got shape {ids.shape}."
                    )
                put(name, ids)
        if self.digests is not None:
            digests = np.asarray(self.digests, np.uint32)
            if digests.shape != (len(x),):
                raise ValueError(
                    f"digests must have one for each of the {len(x)} rows of x, "
                    f"got shape {digests.shape}."
                )
            put("digests", digests)
        if (self.metadata is None) != (self.metadata_names is None):
            raise ValueError("metadata and metadata_names belong together: give both or neither.")
        if self.metadata is not None:
            metadata = np.asarray(self.metadata, dtype=np.float32)
            names = tuple(self.metadata_names)
            if metadata.shape != (len(x), len(names)):
                raise ValueError(
                    f"metadata must have shape ({len(x)}, {len(names)}): a row per row of x, "
                    f"a column per name; got {metadata.shape}."
                )
            put("metadata", check_finite("metadata", metadata, row="rows"))
            put("metadata_names", names)
        if self.grid is None and x.ndim == 3:
            put("n_samples", x.shape[1])
        put("notes", tuple(self.notes))

    def _checked_labels(self):
        """`y` as int64 (n,) or float32 (n, classes), or an error that says what is wrong."""
        y, n, n_classes = np.asarray(self.y), len(self.x), len(self.classes)
        if n_classes < 2 or len(set(self.classes)) != n_classes:
            raise ValueError(f"classes must hold at least two different names, got {self.classes}.")
        if len(y) != n:
            raise ValueError(f"y must have one label for each of the {n} rows of x, got {len(y)}.")
        if y.ndim == 2:
            if y.shape[1] != n_classes:
                raise ValueError(
                    f"y must have {n_classes} columns, one per class, got {y.shape[1]}."
                )
            if not np.isin(y, (0, 1)).all():
                raise ValueError("y must hold only 0 and 1 in a multi-label data set.")
            return y.astype(np.float32)
        if y.ndim != 1:
            raise ValueError(f"y must have shape (n,) or (n, classes), got {y.shape}.")
        whole = y.astype(np.int64)
        wrong = (whole != y) | (whole < 0) | (whole >= n_classes)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"y must hold whole class numbers 0 to {n_classes - 1} "
                f"({', '.join(self.classes)}), got {y[row]} at row {row}."
            )
        return whole

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """Return the data set of some rows: a slice, a boolean mask or row numbers."""
        if isinstance(rows, (int, np.integer)):
            rows = [rows]
        if not isinstance(rows, slice):
            rows = np.asarray(rows, dtype=None if len(rows) else int)
        picked = {
            name: getattr(self, name)[rows]
            for name in ("x", "y", "patients", "records", "metadata", "digests")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, **picked)

    @property
    def multi_label(self):
        """True where a row may have several classes."""
        return self.y.ndim == 2

    @property
    def synthetic(self):
        """True where the signals were made, not measured."""
        return self.source.startswith("synthetic")

    @property
    def is_images(self):
        """True where `x` has a frequency and a time axis."""
        return self.x.ndim == 4

    def replace(self, **fields):
        """Return a copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **fields)

    def split(self, fraction, *, by="auto", seed=0):
        """Cut a part off: returns (rest, part), see `dataset.split`.

        Whole patients where they are known, else the same share of every class.
        """
        return split(self, fraction, by=by, seed=seed)

    def class_counts(self):
        """Rows per class, as a dict in the order of `classes`."""
        counts = (
            self.y.sum(axis=0)
            if self.multi_label
            else np.bincount(self.y, minlength=len(self.classes))
        )
        return {name: int(count) for name, count in zip(self.classes, counts)}

    def inputs(self, names):
        """Return what a model with inputs of these names eats: a dict of arrays with one row each.

        Raises ValueError naming the input this data set cannot give.
        """
        have = {"signal": self.x, "image": self.x, "metadata": self.metadata}
        held = ", ".join(name for name, value in have.items() if value is not None)
        for name in names:
            if have.get(name) is None:
                raise ValueError(
                    f"the model has an input {name!r}, which this data set does not hold; "
                    f"it holds {held}."
                )
        return {name: have[name] for name in names}

    def row_digests(self):
        """A digest of the raw signal that each row was made of, to find a row again.

        Returns
        -------
        digests : uint32, shape (n,), or None
            The first 4 bytes of `storage.digest_rows`. Of 20,000 rows and 100,000 others, half a
            pair has the same by chance. None where `x` is standardised, images or spectra, and
            `digests` is not known.
        """
        if self.digests is None and self.grid is None and self.scaler is None:
            return (digest_rows(self.x) >> 32).astype(np.uint32)
        return self.digests

    def fingerprint(self):
        """A short hash of rows, labels and order, to tell one data set from another."""
        step = max(1, len(self) // 997)  # a prime number of rows is enough to notice another order
        return fingerprint(
            [len(self), self.x.shape[1:], self.classes, self.fs], self.x[::step], self.y
        )

    def summary(self):
        """One line: size, duration, class counts, source."""
        n = f"{len(self):,} row" + ("" if len(self) == 1 else "s")
        if self.is_images:
            shape = "{} x {} x {} images".format(*self.x.shape[1:])
        else:
            samples, leads = self.x.shape[1:]
            shape = f"{samples} samples x {leads} lead" + ("" if leads == 1 else "s")
            duration = f"{samples / self.fs:.2f} s at {self.fs:g} Hz"
            shape += " (spectra)" if self.grid is not None else f" ({duration})"
        counts = ", ".join(f"{name} {count:,}" for name, count in self.class_counts().items())
        people = "" if self.patients is None else f"{len(np.unique(self.patients))} patients; "
        return f"{n} of {shape}; {people}{counts}; {self.source}"

    def __repr__(self):
        return f"<ECGDataset: {self.summary()}>"

    def _repr_html_(self):
        """A small table for notebooks."""
        total = max(len(self), 1)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td style='text-align:right'>{count:,}</td>"
            f"<td style='text-align:right'>{100 * count / total:.1f} %</td></tr>"
            for name, count in self.class_counts().items()
        )
        return (
            f"<p><b>ECGDataset</b>: {html.escape(self.summary())}</p>"
            f"<table><tr><th>class</th><th>rows</th><th>share</th></tr>{rows}</table>"
        )


def check_parts(train, val, test):
    """Refuse parts on which figures would say too much.

    Parameters
    ----------
    train, val, test : ECGDataset
        All signals, or all images of the same grid.

    Raises
    ------
    TypeError
        If a part is not an ECGDataset.
    ValueError
        If a part has no rows, if classes or shapes differ, if validation or test rows were
        resampled, or if a patient is in two parts.

    Examples
    --------
    >>> ds = ECGDataset(np.zeros((100, 9)), [0] * 80 + [1] * 20, classes="NV", fs=125)
    >>> check_parts(*split_dataset(ds))
    """
    parts = {"train": train, "val": val, "test": test}
    for name, part in parts.items():
        if not isinstance(part, ECGDataset):
            raise TypeError(f"{name} must be an ECGDataset, got {type(part).__name__}.")
        if not len(part):
            raise ValueError(f"{name} has no rows.")
        if part.classes != train.classes or part.multi_label != train.multi_label:
            raise ValueError(
                f"{name} has classes {part.classes}, train has {train.classes}; load them together."
            )
        if part.x.shape[2:] != train.x.shape[2:] or part.fs != train.fs or part.grid != train.grid:
            raise ValueError(
                f"{name} has rows of shape {part.x.shape[1:]} at {part.fs:g} Hz, train has "
                f"{train.x.shape[1:]} at {train.fs:g} Hz; give all parts the same representation."
            )
        if part.balance is not None and name != "train":
            raise ValueError(
                f"{name} is marked as balanced by {part.balance.method!r}; only a train part may "
                "be, or the figures would not be those of measured rows."
            )
    known = {name: part.patients for name, part in parts.items() if part.patients is not None}
    for first, second in itertools.combinations(known, 2):
        shared = np.intersect1d(known[first], known[second])
        if len(shared):
            raise ValueError(
                f"{first} and {second} share {len(shared)} patients ({', '.join(shared[:5])}...): "
                "figures would be those of people already seen. Split by patient."
            )


def split_dataset(ds, *, val_fraction=0.15, test_fraction=0.15, by="auto", seed=0):
    """Split a data set into train, validation and test parts.

    Parameters
    ----------
    ds : ECGDataset
        Rows to divide; not resampled, or copies of a row would fall into several parts.
    val_fraction, test_fraction : float, default 0.15
        Share of the rows (or of the patients) in the validation and in the test part. The rest,
        which must not be empty, is the train part.
    by : {"auto", "rows", "patients"}, default "auto"
        "patients" keeps the rows of a patient together. "rows" keeps the share of each class.
        "auto" is "patients" where `ds` names them, else "rows".
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    train, val, test : ECGDataset
        Each in the order of the rows of `ds`.

    Notes
    -----
    Windows cut from one recording are alike, whatever was recorded: without `patients` such rows
    fall into several parts, and the figures are those of people already seen.

    Raises
    ------
    ValueError
        If a fraction is not between 0 and 1, if both leave no rows to train on, if rows were
        resampled, or if patients are asked for that `ds` does not name.

    Examples
    --------
    >>> ds = ECGDataset(np.zeros((100, 9)), [0] * 80 + [1] * 20, classes="NV", fs=125)
    >>> [part.class_counts() for part in split_dataset(ds, val_fraction=0.1, test_fraction=0.2)]
    [{'N': 56, 'V': 14}, {'N': 8, 'V': 2}, {'N': 16, 'V': 4}]
    >>> emg = ECGDataset(
    ...     np.zeros((40, 300, 2)), [0, 1] * 20, classes=("rest", "grip"), fs=1000, modality="EMG",
    ...     leads=("flexor", "extensor"), patients=np.repeat(range(10), 4),
    ... )
    >>> [len(set(part.patients)) for part in split_dataset(emg, test_fraction=0.2)]
    [7, 1, 2]
    """
    check_fraction("val_fraction", val_fraction)
    check_fraction("test_fraction", test_fraction)
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            "val_fraction and test_fraction must leave rows to train on: their sum must be below "
            f"1, got {val_fraction} + {test_fraction}."
        )
    rest, test = split(ds, test_fraction, by=by, seed=seed)
    train, val = split(rest, val_fraction / (1 - test_fraction), by=by, seed=seed)
    return train, val, test


def split(ds, fraction, *, by="auto", seed=0):
    """Cut a part off a data set.

    Parameters
    ----------
    ds : ECGDataset
        Rows to divide; not resampled, or copies of a row would fall on both sides.
    fraction : float
        Share of the rows (or of the patients) in the second part, between 0 and 1.
    by : {"auto", "rows", "patients"}, default "auto"
        As in `split_dataset`.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    rest, part : ECGDataset
        In the order of the rows of `ds`.

    Examples
    --------
    >>> ds = ECGDataset(np.zeros((100, 9)), [0] * 80 + [1] * 20, classes="NV", fs=125)
    >>> [part.class_counts() for part in split(ds, 0.1)]
    [{'N': 72, 'V': 18}, {'N': 8, 'V': 2}]
    """
    check_fraction("fraction", fraction)
    check_option("by", by, ("auto", "rows", "patients"))
    if ds.balance is not None and ds.balance.resampled:
        raise ValueError(
            f"cannot split rows already resampled by {ds.balance.method!r}; "
            "split first, then balance."
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
    # scikit-learn's train_test_split draws other rows, and published figures are of these
    if y.ndim == 2:
        _, y = np.unique(y, axis=0, return_inverse=True)
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        exact = fraction * len(rows)
        # on average the exact share, small groups too
        n = int(exact) + (rng.random() < exact - int(exact))
        chosen[rows[:n]] = True
    return chosen


def draw_patients(ds, fraction, *, seed=0, tries=200):
    """Choose whole patients with about `fraction` of the rows of every class.

    Of `tries` random draws the one is kept whose worst class is nearest to `fraction`. Labels are
    used for nothing but this choice.
    """
    # scikit-learn's StratifiedGroupKFold has other folds, and published figures are of these
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


def balance_train(train, method, *, caps=None, seed=0):
    """Balance a train part.

    Parameters
    ----------
    train : ECGDataset
        Signals with one class per row.
    method : {None, "smote", "smote_tomek", "class_weight", "sampler"}
        "smote" adds rows until every class has as many as the largest: each lies between a row of
        the class and one of its 5 nearest neighbours (N. V. Chawla et al., JAIR 16, 2002).
        "smote_tomek" then removes pairs of nearest neighbours of different classes; it takes
        minutes on 300,000 rows. The other two add no rows here, only a note for the training:
        "class_weight" gives rows of small classes more weight in the loss, "sampler" makes SMOTE's
        rows batch by batch, without more memory. Rows are made by imbalanced-learn.
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
    >>> x = np.random.default_rng(0).normal(size=(60, 20))
    >>> train = ECGDataset(x, [0] * 50 + [1] * 10, classes="NV", fs=125)
    >>> balance_train(train, "smote").class_counts()
    {'N': 50, 'V': 50}
    """
    method = check_option("balance", method, BALANCES)
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
    x, y, metadata, kept = _smote(train, caps, seed, tomek=method == "smote_tomek")
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
            f"The train part holds rows made by {method}; "
            "validation and test rows are as measured.",
        ),
    )


def _smote(train, caps, seed, *, tomek):
    """x, y and metadata after thinning to `caps` and SMOTE; the row of `train` of each, -1 if made.

    With `tomek` Tomek links are removed last.
    """
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
            "SMOTE needs at least 6 rows of a class to find 5 neighbours, too few of "
            f"{', '.join(few)}; use balance='class_weight' or 'sampler'."
        )
    flat, y = SMOTE(sampling_strategy=goals, random_state=seed).fit_resample(flat, train.y[rows])
    # imbalanced-learn puts the measured rows first
    kept = np.concatenate([rows, np.full(len(y) - len(rows), -1)])
    if tomek:
        links = TomekLinks(sampling_strategy="all", n_jobs=-1)
        flat, y = links.fit_resample(flat, y)
        kept = kept[links.sample_indices_]
    metadata = None if train.metadata is None else flat[:, width:]
    return flat[:, :width].reshape(-1, *train.x.shape[1:]), y, metadata, kept


def _names(names, kept):
    """Names of the measured rows, `MADE` for the others: shared patients are still found."""
    return None if names is None else np.where(kept < 0, MADE, names[kept])


def representative_rows(ds, *, most=12):
    """Find one row of each class to look at.

    It is a row of the data, not an average: the one nearest (in the sum of absolute differences)
    to the median of up to 300 rows of its class, evenly spread over the data set. Multi-label rows
    with that class alone are preferred. Classes without rows are left out.

    Parameters
    ----------
    ds : ECGDataset
        Signals or images.
    most : int, default 12
        Only so many of the largest classes.

    Returns
    -------
    dict of str to int
        Class to row number, in the order of the classes.

    Examples
    --------
    >>> x = [[0, 0], [0, 1], [0, 2], [5, 5]]
    >>> representative_rows(ECGDataset(x, [0, 0, 0, 1], classes="NV", fs=10))
    {'N': 1, 'V': 3}
    """
    counts = ds.class_counts()
    largest = sorted(ds.classes, key=lambda name: -counts[name])[:most]
    found = {}
    for i, name in enumerate(ds.classes):
        if name not in largest or not counts[name]:
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


def representative(ds, *, most=12):
    """The data set of the rows of `representative_rows`, to show beside what is made of them."""
    rows = representative_rows(ds, most=most)
    return ds[np.array(sorted(set(rows.values())), int)].replace(balance=None)
