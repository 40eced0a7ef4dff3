"""Change ECG signals at random in ways that leave their class as it is.

Conventions
-----------
Signals are float32 (n, samples, leads). Every row is changed by its own draws,
and by strengths relative to its own size, so a row never depends on the others
of its batch and any unit will do. Nothing is changed in place. Only rows to
train on may come here; labels and metadata are left alone.
"""

import numpy as np

from ecg_keras._checks import check_option, check_positive


def augment(x, names, rng, *, fs):
    """Apply the named augmentations to a batch, in the order given.

    Parameters
    ----------
    x : ndarray of float32, shape (n, samples, leads)
        Signals in any unit. Rows padded with a constant are changed there too.
    names : str or sequence of str
        Keys of `AUGMENTATIONS`; an empty sequence returns `x` itself.
    rng : numpy.random.Generator
        Where the draws come from.
    fs : float
        Sampling rate, in Hz.

    Returns
    -------
    changed : ndarray of float32, shape (n, samples, leads)

    Raises
    ------
    ValueError
        If a name is not known; says which are.

    Examples
    --------
    >>> x = np.ones((4, 250, 2), np.float32)
    >>> augment(x, ["amplitude", "time_shift"], np.random.default_rng(0), fs=125).shape
    (4, 250, 2)
    """
    check_positive("fs", fs)
    for name in [names] if isinstance(names, str) else names:
        check_option("augmentation", name, AUGMENTATIONS)
        x = AUGMENTATIONS[name](x, rng, fs=fs)
    return x


def amplitude(x, rng, *, fs, low=0.7, high=1.4):
    """Scale each row by one factor for all leads, log-uniform in [low, high] (electrode distance, body)."""
    factor = np.exp(rng.uniform(np.log(low), np.log(high), (len(x), 1, 1)))
    return (x * factor).astype(np.float32)


def baseline_wander(x, rng, *, fs, strength=0.4, low_hz=0.05, high_hz=0.5):
    """Add one slow sine to each lead: up to `strength` of the row's standard deviation (breathing, electrodes)."""
    n, samples, leads = x.shape
    hz = rng.uniform(low_hz, high_hz, (n, 1, leads))
    phase = rng.uniform(0, 2 * np.pi, (n, 1, leads))
    size = rng.uniform(0, strength, (n, 1, leads)) * _spread(x)
    t = (np.arange(samples) / fs)[None, :, None]
    return (x + size * np.sin(2 * np.pi * hz * t + phase)).astype(np.float32)


def noise(x, rng, *, fs, strength=0.1):
    """Add white noise to each lead: up to `strength` of the row's standard deviation (muscle)."""
    size = rng.uniform(0, strength, (len(x), 1, x.shape[2])) * _spread(x)
    return x + (size * rng.standard_normal(x.shape, np.float32)).astype(np.float32)


def time_stretch(x, rng, *, fs, most=0.1):
    """Stretch or squeeze each row about its middle by up to `most`; the ends hold their value."""
    factor = 1 + rng.uniform(-most, most, (len(x), 1))
    middle = (x.shape[1] - 1) / 2
    return _resampled(x, middle + (np.arange(x.shape[1]) - middle) * factor)


def time_shift(x, rng, *, fs, most_s=0.02):
    """Shift each row by up to `most_s` seconds; the ends hold their value (an R peak found a little off)."""
    shift = rng.uniform(-most_s, most_s, (len(x), 1)) * fs
    return _resampled(x, np.arange(x.shape[1]) + shift)


def lead_polarity(x, rng, *, fs, share=0.5):
    """Turn each lead of each row upside down with probability `share` (another position of the electrodes)."""
    sign = np.where(rng.random((len(x), 1, x.shape[2])) < share, -1, 1)
    return (x * sign).astype(np.float32)


def lead_dropout(x, rng, *, fs, share=0.3):
    """Set one lead to zero in a `share` of the rows; a single lead is never dropped."""
    n, _, leads = x.shape
    if leads == 1:
        return x
    lost = rng.integers(leads, size=(n, 1)) == np.arange(leads)  # (n, leads)
    lost &= rng.random((n, 1)) < share
    return np.where(lost[:, None, :], np.float32(0), x)


def _spread(x):
    """Standard deviation of each row over time and leads, shape (n, 1, 1)."""
    return x.std(axis=(1, 2), keepdims=True)


def _resampled(x, position):
    """Rows read at fractional sample positions (n, samples), linear, ends held."""
    samples = x.shape[1]
    position = np.clip(position, 0, samples - 1)
    left = np.minimum(position.astype(np.int64), samples - 2)
    share = (position - left)[:, :, None].astype(np.float32)
    rows = np.arange(len(x))[:, None]
    return x[rows, left] * (1 - share) + x[rows, left + 1] * share


AUGMENTATIONS = {
    "amplitude": amplitude,
    "baseline_wander": baseline_wander,
    "noise": noise,
    "time_stretch": time_stretch,
    "time_shift": time_shift,
    "lead_polarity": lead_polarity,
    "lead_dropout": lead_dropout,
}
