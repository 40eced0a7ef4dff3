"""Hold an ECG data set: the one value that travels from loader to report.

Conventions
-----------
Signals are float32 (n, samples, leads); images are float32 (n, freqs, frames,
leads), frequency rising with the row and time with the column. Labels are int64
class numbers (n,), or float32 multi-hot rows (n, classes), which make the task
multi-label. A data set is a value: functions return new ones and change none.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ecg_keras._checks import check_finite
from ecg_keras.splits import split
from ecg_keras.storage import digest_rows, fingerprint


@dataclass(frozen=True)
class Balance:
    """How a train part is balanced: by rows already made, or by weights and draws while fitting."""

    method: str  # "smote", "smote-tomek", "class_weight", "sampler"
    counts_before: dict  # beats per class as the source has them
    caps: dict | None = None  # most beats per class after balancing

    @property
    def resampled(self):
        """True where rows were added or removed, so the part is no longer what was measured."""
        return self.method in ("smote", "smote-tomek")


@dataclass(frozen=True)
class Scaler:
    """Statistics of the train rows, as scikit-learn's StandardScaler has them: ``(x - mean) / scale``."""

    mean: np.ndarray  # float32, broadcasts against one row of x
    scale: np.ndarray

    def apply(self, x):
        """Standardise rows of `x`."""
        return ((x - self.mean) / self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ECGDataset:
    """ECG signals or images with their labels and where they came from.

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

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - frozen dataclass
        x = np.asarray(self.x)
        if x.dtype == object or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
            raise TypeError(f"x must hold real numbers, got an array of {x.dtype}.")
        x = x.astype(np.float32, copy=False)
        x = x[:, :, None] if x.ndim == 2 else x
        if x.ndim not in (3, 4):
            raise ValueError(
                f"x must have shape (n, samples, leads), or (n, freqs, frames, leads) for images, got {np.shape(self.x)}."
            )
        put("x", check_finite("x", x, row="rows"))
        put("classes", tuple(str(name) for name in self.classes))
        put("leads", (self.leads,) if isinstance(self.leads, str) else tuple(self.leads))
        put("y", self._checked_labels())
        put("fs", float(self.fs))
        if not np.isfinite(self.fs) or self.fs <= 0:
            raise ValueError(f"fs must be the sampling rate in Hz, above 0, got {self.fs}.")
        if self.grid is None and x.ndim == 3 and len(self.leads) != x.shape[2]:
            raise ValueError(
                f"leads has {len(self.leads)} names ({', '.join(self.leads)}), but x has {x.shape[2]} leads."
            )
        for name in ("patients", "records"):
            if getattr(self, name) is not None:
                ids = np.asarray([str(value) for value in getattr(self, name)])
                if ids.shape != (len(x),):
                    raise ValueError(
                        f"{name} must name one for each of the {len(x)} rows of x, got shape {ids.shape}."
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
                    f"metadata must have shape ({len(x)}, {len(names)}): a row per row of x, a column per name; got {metadata.shape}."
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
                f"y must hold whole class numbers 0 to {n_classes - 1} ({', '.join(self.classes)}), got {y[row]} at row {row}."
            )
        return whole

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """Return the data set of some rows: a slice, a boolean mask or row numbers."""
        if isinstance(rows, (int, np.integer)):
            rows = [rows]
        rows = (
            rows if isinstance(rows, slice) else np.asarray(rows, dtype=None if len(rows) else int)
        )
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
        """Cut a part off: returns (rest, part), see `splits.split`.

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
        for name in names:
            if have.get(name) is None:
                raise ValueError(
                    f"the model has an input {name!r}, which this data set does not hold; "
                    f"it holds {', '.join(key for key, value in have.items() if value is not None)}."
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
            shape += (
                f" ({samples / self.fs:.2f} s at {self.fs:g} Hz)"
                if self.grid is None
                else " (spectra)"
            )
        counts = ", ".join(f"{name} {count:,}" for name, count in self.class_counts().items())
        people = "" if self.patients is None else f"{len(np.unique(self.patients))} patients; "
        return f"{n} of {shape}; {people}{counts}; {self.source}"

    def __repr__(self):
        return f"<ECGDataset: {self.summary()}>"

    def _repr_html_(self):
        """A small table for notebooks."""
        total = max(len(self), 1)
        rows = "".join(
            f"<tr><td>{_escape(name)}</td><td style='text-align:right'>{count:,}</td>"
            f"<td style='text-align:right'>{100 * count / total:.1f} %</td></tr>"
            for name, count in self.class_counts().items()
        )
        return (
            f"<p><b>ECGDataset</b>: {_escape(self.summary())}</p>"
            f"<table><tr><th>class</th><th>rows</th><th>share</th></tr>{rows}</table>"
        )


def _escape(text):
    """Text as HTML shows it."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_parts(train, val, test):
    """Refuse parts that cannot be compared honestly.

    Raises
    ------
    ValueError
        If classes or shapes differ, if validation or test rows were resampled, or if
        a patient is in two parts.
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
                f"{name} has rows of shape {part.x.shape[1:]} at {part.fs:g} Hz, train has {train.x.shape[1:]} at "
                f"{train.fs:g} Hz; give all parts the same representation."
            )
        if part.balance is not None and name != "train":
            raise ValueError(
                f"{name} is marked as balanced by {part.balance.method!r}; only a train part may be, "
                "or the figures would not be those of real beats."
            )
    names = list(parts)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if parts[first].patients is None or parts[second].patients is None:
                continue
            shared = np.intersect1d(parts[first].patients, parts[second].patients)
            if len(shared):
                raise ValueError(
                    f"{first} and {second} share {len(shared)} patients ({', '.join(shared[:5])}...): "
                    "figures would be those of people already seen. Split by patient."
                )
