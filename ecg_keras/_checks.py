"""Check arguments, import optional packages, and show the keywords of a function.

Conventions
-----------
Every `check_` function takes the name of the argument, which its error tells, and returns the
value. ValueError is for values, TypeError for types.
"""

import dataclasses
import importlib
import inspect
import types
import warnings

import numpy as np


def check_option(name, value, options, *, renamed=None):
    """Return `value` if it is one of `options`, or raise ValueError that lists them.

    Names had hyphens before 0.2.0, and `renamed` says which had another name. These still work,
    with a DeprecationWarning, so use what is returned.

    Examples
    --------
    >>> check_option("balance", "smote", (None, "smote"))
    'smote'
    """
    if value in options:
        return value
    if (
        isinstance(value, str)
        and (now := (renamed or {}).get(value, value.replace("-", "_"))) in options
    ):
        warnings.warn(
            f"{name}={value!r} is spelled {now!r} now; the old spelling ends with 0.3.0.",
            DeprecationWarning,
            stacklevel=3,
        )
        return now
    known = ", ".join(repr(option) for option in options)
    raise ValueError(f"{name}={value!r} is not known; choose one of {known}.")


def check_positive(name, value, *, zero=False):
    """Return `value` if it is a finite number above zero (or not below it, with `zero`)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be {least}, got {value}.")
    return value


def check_fraction(name, value):
    """Return `value` if it lies strictly between 0 and 1."""
    check_positive(name, value)
    if value >= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
    return value


def check_signals(name, signals):
    """Return `signals` as float32 (n, samples, leads); (n, samples) gets one lead.

    Raises ValueError for another number of axes and for NaN or infinite samples.
    """
    signals = np.asarray(signals)
    if signals.ndim == 1:
        raise ValueError(
            f"{name} must have shape (n, samples) or (n, samples, leads), got {signals.shape}; "
            f"add the batch axis with {name}[None, :] for a single beat."
        )
    if signals.ndim == 2:
        signals = signals[:, :, None]
    if signals.ndim != 3:
        raise ValueError(
            f"{name} must have shape (n, samples) or (n, samples, leads), got {signals.shape}."
        )
    return check_finite(name, signals.astype(np.float32, copy=False))


def check_finite(name, values, *, row="beats"):
    """Return `values` if all are finite, or say in how many rows they are not."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.sum(values, dtype=np.float64)  # one pass, no copy; NaN and inf survive a sum
    if np.isfinite(total):
        return values
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not bad.any():  # a finite array can still overflow its own sum
        return values
    raise ValueError(
        f"{name} has NaN or infinite samples in {bad.sum()} of {len(values)} {row} "
        f"(first at row {int(bad.argmax())})."
    )


def check_signal_shape(layer, shape):
    """Refuse the shape of an input that is not (batch, samples, leads)."""
    if len(shape) != 3 or shape[1] is None or shape[2] is None:
        raise ValueError(
            f"{type(layer).__name__} takes signals of shape (batch, samples, leads) with samples "
            f"and leads known, got {tuple(shape)}."
        )


def require(module, extra):
    """Import an optional `module`, or say which extra of this package installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ImportError(
            f"{error.name} is needed here; install it with: pip install 'ecg_keras[{extra}]'"
        ) from None


def keywords_of(fields):
    """Show the fields of a dataclass in the signature of a function with ``**options``.

    The function makes the dataclass of its options. So the fields are listed and documented once,
    and editors and notebooks complete them.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Size:
    ...     width: int = 3
    >>> @keywords_of(Size)
    ... def area(height, **options):
    ...     return height * Size(**options).width
    >>> str(inspect.signature(area)), area(2)
    ('(height, *, width=3)', 6)
    """

    def shown(function):
        own = inspect.signature(function)
        kept = [part for part in own.parameters.values() if part.kind is not part.VAR_KEYWORD]
        more = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            for field in dataclasses.fields(fields)
        ]
        function.__signature__ = own.replace(parameters=kept + more)
        return function

    return shown


class CallableModule(types.ModuleType):
    """A module that is called as its function of the same name.

    ``from ecg_keras import explain`` gives the module once anything has imported it; so that this
    works as the function does, modules of that kind end with
    ``sys.modules[__name__].__class__ = CallableModule``.
    """

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self):
        """The function; `inspect.signature` and notebooks show its keywords."""
        return getattr(self, self.__name__.rpartition(".")[2])
