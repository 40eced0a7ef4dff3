"""Declare what a search may vary: options of each model family and of the training.

Conventions
-----------
An entry is a `Choice` or a `Range`. Its default is that of the family's function or of
`fit_and_report`, so the first trial of a search is the default model. An entry is named as the
option that it sets. Three options have other entries: `filters` has n_blocks, filters_1, filters_2
and so on; `dense_units` has dense (0 for no layer); the spectrogram `grid` has frame_length and
hop_length, in samples.
"""

import contextlib
import dataclasses
import inspect
from dataclasses import dataclass

import numpy as np

from ecg_keras import grids
from ecg_keras._checks import check_option
from ecg_keras.grids import SpectrogramGrid


@dataclass(frozen=True)
class Choice:
    """One of some values; numbers count as ordered."""

    values: tuple
    default: object = None

    def narrowed(self, values):
        """The same choice among other values; the default stays where it is one of them."""
        values = tuple(values)
        return Choice(values, self.default if self.default in values else values[0])

    def counts(self):
        """Whole numbers that the entry may take."""
        return self.values

    def share(self, value):
        """The rank of a value among all, 0 to 1; NaN for another."""
        if value not in self.values:
            return np.nan
        return self.values.index(value) / max(len(self.values) - 1, 1)

    def ticks(self):
        """Shares and names of all values; the more values, the shorter the names."""
        names = ["none" if value is None else str(value) for value in self.values]
        most = max(6, 36 // len(names))
        short = [name if len(name) <= most else name[: most - 1] + "…" for name in names]
        return [(self.share(value), name) for value, name in zip(self.values, short)]

    def __str__(self):
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, in steps of `step` where given; `log` draws its logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    default: float | None = None

    def narrowed(self, low, high):
        """The same range between other ends; the default moves to the nearer end."""
        default = min(max(self.default, low), high)
        return dataclasses.replace(self, low=low, high=high, default=default)

    def counts(self):
        """Whole numbers that the entry may take."""
        return range(int(self.low), int(self.high) + 1)

    def share(self, value):
        """Where a value lies between the ends, 0 to 1; NaN for None."""
        if value is None:
            return np.nan
        low, high = self.low, self.high
        if self.log:
            low, high, value = np.log([low, high, value])
        return float((value - low) / ((high - low) or 1))

    def ticks(self):
        """Shares and names of the ends, and of the middle where the steps meet it."""
        low, high = self.low, self.high
        middle = np.sqrt(low * high) if self.log else (low + high) / 2
        met = not self.step or np.isclose((middle - low) / self.step % 1, [0, 1]).any()
        shown = [(0, low), (0.5, middle), (1, high)] if met else [(0, low), (1, high)]
        return [(share, f"{value:.2g}") for share, value in shown]

    def __str__(self):
        steps = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{steps}{', logarithmic' if self.log else ''}"


_WIDTHS = (0.5, 0.75, 1, 1.5, 2)  # filters of a block, as multiples of the default

_IMAGES = {
    "n_blocks": (2, 5),
    "kernel_size": Choice((3, 5)),
    "block_dropout": Range(0, 0.4, step=0.05),
    "dropout": Range(0, 0.6, step=0.05),
    "dense": Choice((0, 64, 128)),
}
_SIGNALS = _IMAGES | {"kernel_size": Choice((3, 5, 7, 9, 13))}
_SPECTROGRAMS = {  # s, and the default of the grid
    "frame_length": Choice((0.128, 0.192, 0.256, 0.384, 0.512)),
    "hop_length": Choice((0.032, 0.048, 0.064, 0.096)),
}
_ENCODER = {
    "n_blocks": (1, 3),
    "kernel_size": Choice((3, 5, 7, 9)),
    "width": Choice((32, 64, 96, 128)),
    "depth": Range(1, 3, step=1),
    "block_dropout": Range(0, 0.4, step=0.05),
    "dropout": Range(0, 0.6, step=0.05),
}

FAMILIES = {
    "cnn1d": _SIGNALS,
    "resnet1d": _SIGNALS | {"blocks": Range(1, 2, step=1), "stem_kernel": Choice((7, 11, 15, 21))},
    "fft_transformer": _ENCODER,
    "minirocket": {
        "n_biases": Choice((4, 8, 16)),
        "ridge": Range(1e-5, 1e-2, log=True),
        "sharpness": Range(2.0, 12.0, step=1.0),
    },
    "beat_forest": {
        "trees": Choice((50, 100, 200)),
        "boosted": Choice((0, 200, 400)),
        "max_features": Range(0.1, 1.0, step=0.1),
        "min_leaf": Range(1, 8, step=1),
    },
    "cnn2d": _IMAGES | _SPECTROGRAMS,
    "vgg2d": _IMAGES | _SPECTROGRAMS | {"n_blocks": (2, 4), "convolutions": Range(1, 3, step=1)},
    "resnet2d": _IMAGES | _SPECTROGRAMS | {"n_blocks": (2, 4), "blocks": Range(1, 3, step=1)},
    "scalogram_cnn": _IMAGES,
    "multimodal": _ENCODER | {"dense": Choice((0, 32, 64, 128))},
    "hybrid": {"dropout": Range(0, 0.6, step=0.05), "dense": Choice((0, 32, 64, 128))},
    "rhythm": {
        "units": Choice((64, 128, 256)),
        "joint_units": Choice((32, 64, 128)),
        "dropout": Range(0, 0.6, step=0.05),
    },
    "signal_to_image": {"dense_units": Choice((64, 128, 256)), "dropout": Range(0, 0.6, step=0.05)},
}
TRAINING = {
    "learning_rate": Range(3e-4, 1e-2, log=True),
    "weight_decay": Range(1e-4, 0.2, log=True),
    "schedule": Choice(("cosine", "plateau", "constant")),
    "label_smoothing": Range(0, 0.16, step=0.02),
    "batch_size": Choice((64, 128, 256)),
    "balance": Choice((None, "class_weight", "sampler")),
}
_OF_THE_SEARCH = ("epochs", "monitor", "seed")  # fit options that its own keywords or rules set


@dataclass(frozen=True)
class Space:
    """What one search varies, and what it holds fixed.

    Attributes
    ----------
    model : str
        The family.
    entries : dict of str to Choice or Range
        What is varied; filters_i counts only where n_blocks is at least i.
    fixed : dict
        Options of the family and of `fit_and_report` that are held.
    fs : float
        Sampling rate of the signals, in Hz, for the grid.
    """

    model: str
    entries: dict
    fixed: dict
    fs: float

    def describe(self):
        """The space as text by name, to compare and to print."""
        varied = {name: f"{e}, default {e.default!r}" for name, e in self.entries.items()}
        return varied | {name: f"fixed at {value!r}" for name, value in self.fixed.items()}

    def defaults(self):
        """Values of the first trial, by entry; inactive ones too."""
        return {name: entry.default for name, entry in self.entries.items()}

    def options(self, values):
        """Turn values by entry into (options of the family, options of `fit_and_report`).

        Examples
        --------
        >>> from ecg_keras.demo import load_demo
        >>> train, val, test = load_demo()
        >>> space = declare("cnn2d", train, batch_size=64)
        >>> model_options, fit_options = space.options(space.defaults())
        >>> model_options["filters"], model_options["dense_units"], fit_options["batch_size"]
        ((32, 64, 96, 160), (), 64)
        """
        values = {
            name: _rounded(values[name], entry)
            for name, entry in self.entries.items()
            if name in values
        } | self.fixed
        if "n_blocks" in values:
            blocks = range(1, int(values.pop("n_blocks")) + 1)
            values["filters"] = tuple(values[f"filters_{block}"] for block in blocks)
        values = {name: value for name, value in values.items() if not _block(name)}
        if "dense" in values:
            units = values.pop("dense")
            values["dense_units"] = (units,) if units else ()
        geometry = {name: values.pop(name) for name in _SPECTROGRAMS if name in values}
        if geometry:
            values["grid"] = SpectrogramGrid(self.fs, **geometry)
        fitting = {name: values.pop(name) for name in list(values) if name in _fit_options()}
        return values, fitting

    def hyperparameters(self):
        """The entries as Keras Tuner's own, conditions included, with the defaults as values."""
        import keras_tuner

        parameters = keras_tuner.HyperParameters()
        for name, entry in self.entries.items():
            scope = contextlib.nullcontext()
            if _block(name) and "n_blocks" in self.entries:
                counts = [n for n in self.entries["n_blocks"].counts() if n >= _block(name)]
                scope = parameters.conditional_scope("n_blocks", counts)
            with scope:
                _register(parameters, name, entry)
        return parameters

    def decoded(self, values):
        """Keras Tuner's values as those of the entries."""
        found = {}
        for name, entry in self.entries.items():
            if name in values:
                names, value = _coded(entry), values[name]
                value = entry.values[names.index(value)] if names else _rounded(value, entry)
                found[name] = value
        return found


def declare(model, like, **narrowed):
    """Return the space of a family for data shaped like `like`, narrowed by keyword.

    Parameters
    ----------
    model : str
        A key of `MODELS`.
    like : ECGDataset
        Its kind decides what applies. Images have no grid to vary. Multi-label data have no
        balancing and no label smoothing. A part that is balanced already is not balanced again.
    **narrowed
        By name of an entry, or of any option of the family or of `fit_and_report`: a list of values
        to choose from, a pair (low, high) within a range, a `Choice` or `Range`, or one value to
        hold.

    Raises
    ------
    TypeError
        If a name is neither an entry nor an option.
    ValueError
        If a list is empty.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> space = declare("cnn2d", train, filters=(8, 16), dropout=(0.1, 0.3), kernel_size=3)
    >>> space.fixed, str(space.entries["dropout"])
    ({'filters': (8, 16), 'kernel_size': 3}, '0.1 to 0.3 in steps of 0.05')
    """
    from ecg_keras.models import MODELS

    check_option("model", model, MODELS)
    parameters = inspect.signature(MODELS[model]).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "like"}
    entries = _family_entries(model, like, defaults) | _training_entries(like)
    fixed = {}
    options = set(defaults) | set(_fit_options())
    for name, value in narrowed.items():
        if name not in entries and name not in options:
            known = ", ".join(sorted({*entries, *options}))
            raise TypeError(
                f"{name!r} is not an option of {model} or of its training; known are: {known}."
            )
        declared = entries.get(name)
        for other in _replaced_by(name, entries):
            del entries[other]
        entry = _narrowed(name, declared, value)
        if isinstance(entry, (Choice, Range)):
            entries[name] = entry
        else:
            fixed[name] = value
    if "n_blocks" in fixed or "n_blocks" in entries:
        most = max(entries["n_blocks"].counts()) if "n_blocks" in entries else fixed["n_blocks"]
        entries = {name: entry for name, entry in entries.items() if _block(name) <= most}
    if not entries:
        raise ValueError(
            "every option is fixed: nothing is left to search; leave at least one free."
        )
    # n_blocks first: it decides which filters count
    entries = dict(sorted(entries.items(), key=lambda item: item[0] != "n_blocks"))
    return Space(model, entries, fixed, like.fs)


def _family_entries(model, like, defaults):
    """The entries of a family with its own defaults; the grid only for data that are signals."""
    entries = {}
    for name, entry in FAMILIES.get(model, {}).items():  # an undeclared family: only its training
        if name == "n_blocks":
            filters = defaults["filters"]
            entries[name] = Range(*entry, step=1, default=len(filters))
            for i in range(entry[1]):
                base = filters[min(i, len(filters) - 1)]
                widths = tuple(int(base * width) for width in _WIDTHS)
                entries[f"filters_{i + 1}"] = Choice(widths, base)
        elif name in _SPECTROGRAMS:
            if like.grid is None:
                default = getattr(SpectrogramGrid(like.fs), name)
                samples = {max(4, round(seconds * like.fs)) for seconds in entry.values} | {default}
                fitting = sorted(n for n in samples if n <= like.x.shape[1])
                entries[name] = Choice(tuple(fitting), default)
        elif name == "dense":
            units = (*defaults["dense_units"], 0)[0]
            entries[name] = dataclasses.replace(entry, default=units)
        else:
            entries[name] = dataclasses.replace(entry, default=defaults[name])
    return entries


def _training_entries(like):
    """The entries of the training that apply to `like`, with the defaults of `fit_and_report`."""
    defaults = _fit_options()
    entries = {name: dataclasses.replace(e, default=defaults[name]) for name, e in TRAINING.items()}
    if like.multi_label:
        del entries["label_smoothing"]
    if like.multi_label or like.balance is not None:
        del entries["balance"]
    return entries


def _fit_options():
    """The options of `fit_and_report` that a search may set, with their defaults."""
    from ecg_keras.training import FitOptions

    options = dataclasses.asdict(FitOptions())
    return {"balance": None} | {n: v for n, v in options.items() if n not in _OF_THE_SEARCH}


def _replaced_by(name, entries):
    """Entries that an option given by keyword stands for."""
    groups = {
        "filters": ["n_blocks", *filter(_block, entries)],
        "dense_units": ["dense"],
        "grid": list(_SPECTROGRAMS),
    }
    return [other for other in groups.get(name, [name]) if other in entries]


def _narrowed(name, declared, value):
    """The entry that a keyword's value makes of the declared one; a value to hold as it is."""
    if isinstance(value, (Choice, Range)):
        if value.default is None:
            default = value.values[0] if isinstance(value, Choice) else value.low
            return dataclasses.replace(value, default=default)
        return value
    if isinstance(value, tuple) and len(value) == 2 and isinstance(declared, Range):
        return declared.narrowed(*value)
    if isinstance(value, list) or (isinstance(value, tuple) and declared is not None):
        if not value:
            raise ValueError(f"{name}=[] leaves nothing to choose from; give at least one value.")
        if isinstance(declared, Choice):
            return declared.narrowed(value)
        return Choice(tuple(value), value[0])
    return value


def _block(name):
    """3 for "filters_3", 0 for an entry that belongs to no block."""
    return int(name.removeprefix("filters_")) if name.startswith("filters_") else 0


def _coded(entry):
    """Names of values that Keras Tuner cannot hold (None, tuples, mixed types), else None."""
    if isinstance(entry, Range):
        return None
    plain = {type(value) for value in entry.values}
    return None if plain in ({int}, {float}, {str}) else [repr(value) for value in entry.values]


def _register(parameters, name, entry):
    """Add one entry to Keras Tuner's."""
    if isinstance(entry, Choice):
        values = _coded(entry) or list(entry.values)
        default = values[entry.values.index(entry.default)]
        parameters.Choice(name, values, default=default)
    elif all(isinstance(value, int) for value in (entry.low, entry.high, entry.step)):
        parameters.Int(name, entry.low, entry.high, step=entry.step, default=int(entry.default))
    else:
        low, high, default = map(float, (entry.low, entry.high, entry.default))
        drawn = {"step": entry.step, "sampling": "log" if entry.log else "linear"}
        parameters.Float(name, low, high, default=default, **drawn)


def _rounded(value, entry):
    """A number that is easy to read and type: three digits, or ten where it has steps.

    Steps of 0.05 add up to 0.15000000000000002.
    """
    if not isinstance(value, float):
        return value
    if isinstance(entry, Range) and not entry.step:
        return min(max(float(f"{value:.3g}"), entry.low), entry.high)
    return float(f"{value:.10g}")


def to_json(value):
    """Options as JSON values: a grid becomes its name and fields.

    Examples
    --------
    >>> import json
    >>> options = {"filters": (8, 16), "grid": SpectrogramGrid(125.0)}
    >>> from_json(json.loads(json.dumps(to_json(options)))) == options
    True
    """
    if dataclasses.is_dataclass(value):
        return {"kind": type(value).__name__, **dataclasses.asdict(value)}
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return value


def from_json(value):
    """The inverse of `to_json`; lists become tuples."""
    if isinstance(value, dict):
        items = {name: from_json(item) for name, item in value.items()}
        return getattr(grids, items.pop("kind"))(**items) if "kind" in items else items
    return tuple(map(from_json, value)) if isinstance(value, list) else value
