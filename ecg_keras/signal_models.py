"""Model families that look along one axis: time, or the frequencies of a spectrum.

Conventions
-----------
A family is one function from a data set to an uncompiled `keras.Model`, as `models.py` says.
Signals are (samples, leads) at any sampling rate. The first convolution steps over samples, so
that the layers after it work at about 100 Hz.

`minirocket` and `beat_forest` are fitted to the rows of `like` while they are built, and not
trained: scikit-learn solves the readout and grows the trees, and the network holds both as weights,
so that they are saved, served and joined to other branches like any other layers.
"""

import keras
import numpy as np

from ecg_keras.blocks import (
    classifier,
    convolution,
    first_stride,
    halved,
    pooled,
    residual_block,
    signal_input,
    spectrum_input,
    transformer_encoder,
)
from ecg_keras.layers import SURE, AverageBeat, MiniRocket, Trees
from ecg_keras.spectrograms import compiled, in_batches

_RIDGE_ROWS = 8192  # enough for a linear readout; keeps memory at 150 MB
_SHORTEST_S = 2.0  # signals shorter than this hold one beat and are taken as they are
_BATCH = 64
_BOOSTING = {
    "max_depth": 4,
    "learning_rate": 0.04,
    "min_samples_leaf": 10,
    "subsample": 0.7,
    "max_features": "sqrt",
}


def cnn1d(
    like, *, filters=(32, 64, 128), kernel_size=7, block_dropout=0.1, dense_units=(64,), dropout=0.3
):
    """A plain convolutional network along time: convolve, then halve the length.

    Each block is a convolution, batch normalisation, max pooling and dropout.

    Parameters
    ----------
    like : ECGDataset
        Signals.
    filters : sequence of int
        Filters per block; each halves the length.
    kernel_size : int, default 7
        Kernel of the convolutions, in samples.
    block_dropout, dropout : float
        Dropout inside the blocks and before the output.
    dense_units : sequence of int
        Dense layers before the output.

    Notes
    -----
    Input: signal

    Source: own

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> cnn1d(train).output_shape
    (None, 5)
    """
    inputs = x = signal_input(like, "cnn1d")
    for i, n in enumerate(filters):
        x = convolution(x, n, kernel_size, strides=first_stride(like) if i == 0 else 1)
        x = halved(x, dropout=block_dropout)
    outputs = classifier(pooled(x), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="cnn1d")


def resnet1d(
    like,
    *,
    filters=(32, 64, 96, 128),
    kernel_size=7,
    blocks=1,
    stem_filters=32,
    stem_kernel=11,
    stem_strides=None,
    block_dropout=0.0,
    pooling="mean+max",
    dense_units=(),
    dropout=0.3,
):
    """A residual network along time, which sees wide stretches of a long record.

    Parameters
    ----------
    like : ECGDataset
        Signals.
    filters : sequence of int
        Filters per stage; each halves the length.
    kernel_size : int, default 7
        Kernel of the blocks, in samples after the stem.
    blocks : int, default 1
        Residual blocks per stage.
    stem_filters, stem_kernel : int
        Filters and kernel (samples) of the first convolution.
    stem_strides : int, optional
        Step of the first convolution; ``fs / 100`` rounded by default.
    block_dropout, dropout : float
        Dropout inside the blocks and before the output.
    pooling : {"mean+max", "mean", "flatten"}
        How the last feature map becomes one vector. "flatten" keeps the places, for short windows
        around a beat: its weights grow with the length.
    dense_units : sequence of int
        Dense layers before the output.

    Notes
    -----
    Input: signal

    Source: Strodthoff et al. 2021, IEEE JBHI 25(5) ("resnet1d_wang"), with far fewer weights

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> resnet1d(train, filters=(16, 32)).output_shape
    (None, 5)
    """
    inputs = x = signal_input(like, "resnet1d")
    x = convolution(x, stem_filters, stem_kernel, strides=stem_strides or first_stride(like))
    for n in filters:
        for i in range(blocks):
            x = residual_block(x, n, kernel_size, strides=2 if i == 0 else 1, dropout=block_dropout)
    outputs = classifier(pooled(x, pooling), like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs, outputs, name="resnet1d")


def fft_transformer(
    like,
    *,
    filters=(32, 64),
    kernel_size=5,
    width=64,
    depth=2,
    heads=4,
    block_dropout=0.1,
    dropout=0.3,
    grid=None,
):
    """A Transformer along frequency: convolutions, then an encoder over a spectrum.

    Parameters
    ----------
    like : ECGDataset
        Spectra, or signals, which get the layer of `grid` in front.
    filters : sequence of int
        Filters per convolution block; each halves the length.
    kernel_size : int, default 5
        Kernel of the convolutions, in rows of the spectrum.
    width, depth, heads : int
        Values per position, blocks, and attention heads of the encoder. It sees at most 128
        positions, whatever the record's length.
    block_dropout, dropout : float
        Dropout inside the encoder and before the output.
    grid : SpectrumGrid, optional
        Geometry of the spectra made from signals.

    Notes
    -----
    Input: spectrum

    Source: Vaswani et al. 2017, NeurIPS (the encoder), normalised before each part

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> fft_transformer(train, width=32, depth=1).output_shape
    (None, 5)
    """
    inputs, x = spectrum_input(like, grid)
    x = transformer_encoder(
        x,
        filters=filters,
        kernel_size=kernel_size,
        width=width,
        depth=depth,
        heads=heads,
        dropout=block_dropout,
    )
    outputs = classifier(pooled(x), like, dropout=dropout)
    return keras.Model(inputs, outputs, name="fft_transformer")


def minirocket(like, *, dilations=None, n_biases=8, ridge=3e-4, sharpness=6.0, seed=0):
    """Fixed random convolutions, and a linear readout that is solved, not trained.

    Parameters
    ----------
    like : ECGDataset
        Signals of a train part. Thresholds and readout are fitted to its rows and labels, to at
        most 8,192 of them, while the model is built.
    dilations : sequence of int, optional
        Samples between the nine taps of a kernel. By default 10, 20, 40 ... 320 ms, as far as the
        signals reach.
    n_biases : int, default 8
        Thresholds per kernel and dilation.
    ridge : float, default 3e-4
        Penalty of the ridge regression on its weights, per row and feature.
    sharpness : float, default 6
        Logits per unit of the regression, whose targets are 0 and 1.
    seed : int, default 0
        Draws the leads of each kernel, and the rows.

    Notes
    -----
    Input: signal

    Source: Dempster, Schmidt and Webb 2021, KDD; `layers.MiniRocket` says what differs

    `fit_and_report` may train the readout further; one epoch at a small learning rate leaves it
    as it is.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> minirocket(train, n_biases=2).output_shape
    (None, 5)
    """
    inputs = signal_input(like, "minirocket")
    if dilations is None:
        steps = [first_stride(like) * 2**i for i in range(6)]
        dilations = [step for step in steps if 8 * step < like.x.shape[1]] or [1]
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(like))[:_RIDGE_ROWS])
    layer = MiniRocket(dilations, n_biases=n_biases, seed=seed, name="embedding", dtype="float32")
    embedding = layer(inputs)
    layer.adapt(like.x[rng.choice(rows, min(len(rows), 128), replace=False)])
    model = keras.Model(inputs, classifier(embedding, like), name="minirocket")
    targets = like.y[rows] if like.multi_label else np.eye(len(like.classes))[like.y[rows]]
    weights, intercept = _ridge(keras.Model(inputs, embedding), like.x[rows], targets, ridge)
    middle = 0.5 if like.multi_label else 1 / len(like.classes)
    readout = [sharpness * weights, sharpness * (intercept - middle)]
    model.get_layer("probabilities").set_weights(readout)
    return model


def _ridge(model, x, targets, penalty):
    """Weights (features, classes) and intercept of a ridge regression on what `model` outputs."""
    from sklearn.linear_model import Ridge

    batch = max(1, int(16e6 // (4 * 84 * x.shape[1])))
    features = in_batches(compiled(model), x, model.output_shape[1:], batch)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    features = (features - mean) / scale
    ridge = Ridge(penalty * features.size, fit_intercept=False, solver="cholesky")
    weights = ridge.fit(features, targets - targets.mean(axis=0)).coef_.T / scale[:, None]
    return weights, targets.mean(axis=0) - mean @ weights


def beat_forest(
    like, *, trees=100, max_features=0.3, min_leaf=2, before_s=0.25, after_s=0.45, boosted=0, seed=0
):
    """Decision trees on a mean beat; each class has trees of its own.

    The trees are extremely randomised ones, boosted ones, or both.

    Parameters
    ----------
    like : ECGDataset
        Signals of a train part. The trees are grown on its rows and labels while the model is
        built.
    trees : int, default 100
        Trees per class.
    max_features : float, default 0.3
        Share of the values that each split chooses among.
    min_leaf : int, default 2
        Train rows a leaf holds at least.
    before_s, after_s : float
        The beat, in s before and after R. Signals under two seconds are one beat, and taken whole.
    boosted : int, default 0
        Boosted trees per class; 400 suit a few thousand records.
    seed : int, default 0
        Draws the trees.

    Notes
    -----
    Input: signal

    Source: Geurts, Ernst and Wehenkel 2006, Machine Learning 63 (extremely randomised trees);
    Friedman 2002, Computational Statistics & Data Analysis 38 (boosted trees)

    The trees see the values of `layers.AverageBeat`, in the unit of the signals. A class's logit
    is the log-odds of its mean share over the trees' leaves; with boosted trees, the mean of that
    and of their sum. `fit_and_report` may train the readout further; one epoch at a small learning
    rate leaves it as it is.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> beat_forest(train, trees=5).output_shape
    (None, 5)
    """
    if trees < 0 or boosted < 0 or not trees + boosted:
        raise ValueError(
            f"beat_forest needs trees of one kind or both, got trees={trees} and boosted={boosted}."
        )
    inputs = signal_input(like, "beat_forest")
    if like.x.shape[1] / like.fs < _SHORTEST_S:
        values = keras.layers.Flatten(name="values")(inputs)
    else:
        window = {"before_s": before_s, "after_s": after_s}
        values = AverageBeat(like.fs, **window, name="values", dtype="float32")(inputs)
    features = in_batches(compiled(keras.Model(inputs, values)), like.x, values.shape[1:], _BATCH)
    targets = like.y if like.multi_label else np.eye(len(like.classes), dtype=int)[like.y]
    seeds = [
        np.random.SeedSequence([seed, i]).generate_state(1)[0] for i in range(targets.shape[1])
    ]
    randomised = {"max_features": max_features, "min_samples_leaf": min_leaf}
    says = []
    for grow, n, options in ((_randomised, trees, randomised), (_boosted, boosted, _BOOSTING)):
        if not n:
            continue
        grown = [
            grow(features, column.astype(int), n, options, int(state))
            for column, state in zip(targets.T, seeds)
        ]
        name = grow.__name__.strip("_") if trees and boosted else "embedding"
        layer = Trees(*_sizes(grown), boosted=grow is _boosted, name=name, dtype="float32")
        says.append(layer(values))
        layer.plant(grown)
    mean = keras.layers.Average(name="embedding", dtype="float32")
    embedding = mean(says) if len(says) > 1 else says[0]
    model = keras.Model(inputs, classifier(embedding, like), name="beat_forest")
    n_classes = len(like.classes)
    model.get_layer("probabilities").set_weights([np.eye(n_classes), np.zeros(n_classes)])
    return model


def _randomised(features, wanted, trees, options, state):
    """The trees (scikit-learn's `Tree`) of one class, each with its share of rows at each node."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(trees, random_state=state, n_jobs=-1, **options)
    forest.fit(features, wanted)
    has = forest.classes_ == 1  # a class that no train row has, or every one, is one column
    grown = []
    for tree in (tree.tree_ for tree in forest.estimators_):
        count = tree.value[:, 0]  # of the rows without and with the class
        grown.append((tree, count[:, has].sum(axis=1) / count.sum(axis=1)))
    return grown


def _boosted(features, wanted, trees, options, state):
    """The boosted trees of one class, each with what it adds to the log-odds at each node.

    The first holds the log-odds of the class's share of rows too.
    """
    from sklearn.ensemble import GradientBoostingClassifier

    share = wanted.mean()
    if share in (0, 1):  # nothing to tell apart
        from sklearn.tree import DecisionTreeRegressor

        stump = DecisionTreeRegressor().fit(features[:1], [0.0]).tree_
        return [(stump, np.array([_log_odds(np.clip(share, SURE, 1 - SURE)) / trees]))] * trees
    forest = GradientBoostingClassifier(n_estimators=trees, random_state=state, **options)
    forest.fit(features, wanted)
    grown = [
        (tree.tree_, options["learning_rate"] * tree.tree_.value[:, 0, 0])
        for tree in forest.estimators_[:, 0]
    ]
    grown[0] = grown[0][0], grown[0][1] + _log_odds(share)
    return grown


def _log_odds(share):
    """Of a share between 0 and 1."""
    return np.log(share / (1 - share))


def _sizes(grown):
    """Classes, trees per class, most nodes of a tree, and the greatest depth."""
    trees = [tree for forest in grown for tree, _ in forest]
    nodes, depth = max(tree.node_count for tree in trees), max(tree.max_depth for tree in trees)
    return len(grown), len(grown[0]), nodes, depth
