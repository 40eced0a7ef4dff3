"""Make the batches a model is trained on, and change their signals at random.

Conventions
-----------
A batch is (inputs, targets, weights): a dict of float32 arrays by the names of the model's inputs,
or the array itself where there is one; float32 one-hot or multi-hot targets; a weight per row. What
a batch holds follows from (seed, epoch, its number) alone, so a run that was interrupted sees the
same batches as one that was not.

Augmentations take and return float32 (n, samples, leads). Every row is changed by its own draws,
and by strengths relative to its own size: a row never depends on the others of its batch, and any
unit will do. Nothing is changed in place.
"""

import keras
import numpy as np

from ecg_keras._checks import check_option, check_positive


class TrainBatches(keras.utils.PyDataset):
    """Batches of a train part, in a new order every epoch.

    Parameters
    ----------
    train : ECGDataset
        Rows to train on.
    inputs : sequence of str
        Names of the model's inputs.
    batch_size : int
        Rows per batch at most. An epoch is cut into batches of equal size, to one row: one or two
        rows left over would make a batch of their own, and its normalisation a step to nowhere.
    class_weight_power : float, default 0
        Rows weigh ``count_of_their_class ** -power``, scaled to a mean of 1 over an epoch; with 0
        all alike. Must be 0 where rows have several classes.
    majority_share : float, default 1
        Share of the largest class's rows in an epoch; the next epoch takes the next ones, so all
        have their turn.
    augment : sequence of str, default ()
        Names of `batches.AUGMENTATIONS`, applied to signals.
    crop_samples : int, optional
        Cut a random stretch of this length out of every signal.
    mixup : float, default 0
        Mix pairs of rows and their targets by shares from Beta(mixup, mixup) (Zhang et al., ICLR
        2018).
    sampler : bool, default False
        Draw classes equally often, and interpolate minority rows towards a near neighbour.
    seed : int, default 0
        Seed of all draws.

    Examples
    --------
    >>> from ecg_keras import ECGDataset
    >>> train = ECGDataset(np.zeros((10, 187)), [0] * 8 + [1] * 2, classes="NV", fs=125)
    >>> inputs, targets, weights = TrainBatches(train, ["signal"], batch_size=4)[0]
    >>> inputs.shape, targets.shape, weights.shape
    ((4, 187, 1), (4, 2), (4,))
    """

    def __init__(
        self,
        train,
        inputs,
        *,
        batch_size,
        class_weight_power=0.0,
        majority_share=1.0,
        augment=(),
        crop_samples=None,
        mixup=0.0,
        sampler=False,
        seed=0,
    ):
        super().__init__(workers=1)
        if augment and train.grid is not None:
            raise ValueError(
                "augment changes signals, and train holds images or spectra; give the model raw "
                "signals."
            )
        if crop_samples is not None and crop_samples > train.x.shape[1]:
            raise ValueError(
                f"crop_samples={crop_samples} is longer than the signals ({train.x.shape[1]} "
                "samples)."
            )
        self.arrays = train.inputs(inputs)
        self.targets = targets_of(train)
        self.majority = _majority(train, majority_share, seed)
        self.weights = _row_weights(train, class_weight_power, majority_share)
        self.neighbours = Neighbours(train) if sampler else None
        self.n_majority = max(1, round(majority_share * len(self.majority)))
        self.batch_size, self.augment, self.mixup = batch_size, augment, mixup
        self.fs, self.crop_samples = train.fs, crop_samples
        self.seed, self.epoch = seed, 0
        self._order = self._draw_order()

    def go_to(self, epoch):
        """Go to an epoch, counted from 0. Keras ends one before the first: it is not let count."""
        self.epoch = epoch
        self._order = self._draw_order()

    def __len__(self):
        return -(-len(self._order) // self.batch_size)

    def _draw_order(self):
        """Row numbers in the order of this epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.neighbours is not None:
            return self.neighbours.draw(len(self.targets), rng)
        if len(self.majority):
            turn = np.roll(self.majority, -self.epoch * self.n_majority)
            return rng.permutation(np.delete(np.arange(len(self.targets)), turn[self.n_majority :]))
        return rng.permutation(len(self.targets))

    def __getitem__(self, number):
        rng = np.random.default_rng([self.seed, self.epoch, number])
        first, last = (-(-place * len(self._order) // len(self)) for place in (number, number + 1))
        rows = self._order[first:last]
        inputs = {name: array[rows] for name, array in self.arrays.items()}
        targets, weights = self.targets[rows], self.weights[rows]
        if self.neighbours is not None:
            inputs = self.neighbours.interpolate(inputs, self.arrays, rows, rng)
        if self.crop_samples is not None:
            inputs["signal"] = _cropped(inputs["signal"], self.crop_samples, rng)
        if self.augment:
            inputs["signal"] = augment(inputs["signal"], self.augment, rng, fs=self.fs)
        if self.mixup:
            share = rng.beta(self.mixup, self.mixup, len(rows)).astype(np.float32)
            other = rng.permutation(len(rows))
            inputs = {name: _mixed(array, array[other], share) for name, array in inputs.items()}
            targets = _mixed(targets, targets[other], share)
            weights = _mixed(weights, weights[other], share)
        return keras_inputs(inputs), targets, weights


def targets_of(ds):
    """Labels as a loss takes them, float32 (n, classes): one-hot or multi-hot."""
    return ds.y if ds.multi_label else np.eye(len(ds.classes), dtype=np.float32)[ds.y]


def keras_inputs(inputs):
    """Inputs as Keras wants them: a dict of several, or the array itself of one."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _majority(train, share, seed):
    """Rows of the largest class in an order of their own; none where an epoch takes every row."""
    if share == 1:
        return np.arange(0)
    if train.multi_label:
        raise ValueError(
            "majority_share needs one class per row; this data set is multi-label, use 1."
        )
    return np.random.default_rng(seed).permutation(
        np.flatnonzero(train.y == np.bincount(train.y).argmax())
    )


def _row_weights(train, power, majority_share):
    """A weight per row: ``count ** -power`` of its class in an epoch, with a mean of 1 there."""
    if not power:
        return np.ones(len(train), np.float32)
    if train.multi_label:
        raise ValueError(
            "class weights are for one class per row; this data set is multi-label, use 0."
        )
    counts = np.bincount(train.y, minlength=len(train.classes)).clip(1).astype(float)
    counts[counts.argmax()] *= majority_share
    weights = counts**-power
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)[train.y]


def _mixed(first, second, share):
    """``share`` of the first rows and the rest of the second."""
    share = share.reshape(-1, *[1] * (first.ndim - 1))
    return share * first + (1 - share) * second


def _cropped(signals, length, rng):
    """(n, samples, leads) to (n, length, leads), each row from a start of its own."""
    starts = rng.integers(0, signals.shape[1] - length + 1, len(signals))
    return signals[np.arange(len(signals))[:, None], starts[:, None] + np.arange(length)]


class Neighbours:
    """Class-balanced draws in which a repeated minority row moves towards a near one of its class.

    What SMOTE (Chawla et al., JAIR 2002) makes and keeps, this makes when a batch needs it: a point
    on the line between a row and one of its `k` nearest neighbours of the same class.

    Parameters
    ----------
    train : ECGDataset
        Single-label rows.
    k : int, default 5
        Neighbours to choose from.
    """

    def __init__(self, train, *, k=5):
        from sklearn.neighbors import NearestNeighbors

        if train.multi_label:
            raise ValueError(
                "the class-balanced sampler needs one class per row; this data set is multi-label."
            )
        caps = (train.balance.caps if train.balance else None) or {}
        self.rows = [np.flatnonzero(train.y == label) for label in range(len(train.classes))]
        most = max(len(rows) for rows in self.rows)
        goals = [
            min(most, caps.get(name, most)) if len(rows) else 0
            for name, rows in zip(train.classes, self.rows)
        ]
        self.shares = np.asarray(goals, float) / sum(goals)
        self.near = np.full((len(train), k), -1)
        for rows, goal in zip(self.rows, goals):
            if 1 < len(rows) < goal:
                flat = train.x[rows].reshape(len(rows), -1)
                n = min(k, len(rows) - 1)
                nearest = NearestNeighbors(n_neighbors=n + 1).fit(flat)
                found = nearest.kneighbors(flat, return_distance=False)[:, 1:]  # not itself
                self.near[rows] = rows[found[:, np.arange(k) % n]]  # fewer than k are repeated

    def draw(self, n, rng):
        """`n` row numbers, classes in their shares, each row of a class about equally often."""
        counts = rng.multinomial(n, self.shares)
        picks = [_repeated(rows, count, rng) for rows, count in zip(self.rows, counts) if count]
        return rng.permutation(np.concatenate(picks))

    def interpolate(self, inputs, arrays, rows, rng):
        """Move minority rows of a batch towards a random neighbour by a random share."""
        other = self.near[rows, rng.integers(self.near.shape[1], size=len(rows))]
        other = np.where(other < 0, rows, other)
        share = 1 - rng.random(len(rows), dtype=np.float32)
        return {name: _mixed(batch, arrays[name][other], share) for name, batch in inputs.items()}


def _repeated(rows, count, rng):
    """`count` picks from `rows`: whole rounds of all of them, then a random part."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]


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
    """Scale each row by one factor, log-uniform in [low, high] (distance of electrodes, body)."""
    factor = np.exp(rng.uniform(np.log(low), np.log(high), (len(x), 1, 1)))
    return (x * factor).astype(np.float32)


def baseline_wander(x, rng, *, fs, strength=0.4, low_hz=0.05, high_hz=0.5):
    """Add a slow sine (breathing) to each lead: up to `strength` of the standard deviation."""
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
    """Shift each row by up to `most_s` seconds; the ends hold their value (an R peak found off)."""
    shift = rng.uniform(-most_s, most_s, (len(x), 1)) * fs
    return _resampled(x, np.arange(x.shape[1]) + shift)


def lead_polarity(x, rng, *, fs, share=0.5):
    """Turn each lead of each row upside down with probability `share` (electrodes swapped)."""
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
