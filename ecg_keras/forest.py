"""Classify signals by decision trees on their average beat, as part of a Keras network.

Conventions
-----------
Signals are (batch, samples, leads). scikit-learn grows the trees when the model is built; the
network holds them as fixed weights, so that they are saved, served and joined to other
branches like any other layers. Nothing in them trains.
"""

import keras
import numpy as np

from ecg_keras.blocks import classifier, signal_input
from ecg_keras.spectrograms import compiled, in_batches
from ecg_keras.trees import SURE, AverageBeat, Trees

_BATCH = 64
_BOOSTING = {
    "max_depth": 4,
    "learning_rate": 0.04,
    "min_samples_leaf": 10,
    "subsample": 0.7,
    "max_features": "sqrt",
}
_SHORTEST_S = 2.0  # signals shorter than this hold one beat and are taken as they are


def beat_forest(
    like, *, trees=100, max_features=0.3, min_leaf=2, before_s=0.25, after_s=0.45, boosted=0, seed=0
):
    """Extremely randomised trees on the average beat, and boosted ones: for each class, trees that tell it from the others.

    Parameters
    ----------
    like : ECGDataset
        Signals of a train part: the trees are grown on its rows and labels while the model is built.
    trees : int, default 100
        Trees per class.
    max_features : float, default 0.3
        Share of the values that each split chooses among.
    min_leaf : int, default 2
        Train rows a leaf holds at least.
    before_s, after_s : float
        The beat: seconds before and after R. Signals under two seconds are one beat, and taken whole.
    boosted : int, default 0
        Boosted trees per class; 400 suit a few thousand records.
    seed : int, default 0
        Draws the trees.

    Notes
    -----
    P. Geurts, D. Ernst and L. Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006; J. H. Friedman,
    "Stochastic gradient boosting", Computational Statistics & Data Analysis 38, 2002. Values are those of
    `trees.AverageBeat`, in the unit of the signals. A class's logit is the log-odds of its mean share over the trees'
    leaves; with boosted trees, the mean of that and of their sum. `fit_and_report` may train the readout further; one
    epoch at a small learning rate leaves it as it is.

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
        values = AverageBeat(
            like.fs, before_s=before_s, after_s=after_s, name="values", dtype="float32"
        )(inputs)
    features = in_batches(compiled(keras.Model(inputs, values)), like.x, values.shape[1:], _BATCH)
    targets = like.y if like.multi_label else np.eye(len(like.classes), dtype=int)[like.y]
    says = []
    randomised = {"max_features": max_features, "min_samples_leaf": min_leaf}
    for grow, n, options in ((_randomised, trees, randomised), (_boosted, boosted, _BOOSTING)):
        if not n:
            continue
        grown = [
            grow(features, column.astype(int), n, options, _state(seed, i))
            for i, column in enumerate(targets.T)
        ]
        name = grow.__name__.strip("_") if trees and boosted else "embedding"
        layer = Trees(*_sizes(grown), boosted=grow is _boosted, name=name, dtype="float32")
        says.append(layer(values))
        layer.plant(grown)
    embedding = (
        keras.layers.Average(name="embedding", dtype="float32")(says) if len(says) > 1 else says[0]
    )
    model = keras.Model(inputs, classifier(embedding, like), name="beat_forest")
    head = model.get_layer("probabilities")
    head.set_weights([np.eye(len(like.classes)), np.zeros(len(like.classes))])
    return model


def _state(seed, i):
    """scikit-learn's seed for class `i`."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1)[0])


def _randomised(features, wanted, trees, options, state):
    """The trees (scikit-learn's `Tree`) of one class, each with the share of that class at its nodes."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(trees, random_state=state, n_jobs=-1, **options).fit(
        features, wanted
    )
    counts = [
        tree.tree_.value[:, 0] for tree in forest.estimators_
    ]  # of the rows without and with the class
    has = forest.classes_ == 1  # a class that no train row has, or every one, is one column
    return [
        (tree.tree_, count[:, has].sum(axis=1) / count.sum(axis=1))
        for tree, count in zip(forest.estimators_, counts)
    ]


def _boosted(features, wanted, trees, options, state):
    """The boosted trees of one class, each with what it adds to the log-odds at its nodes; the first holds the share of rows too."""
    from sklearn.ensemble import GradientBoostingClassifier

    share = wanted.mean()
    if share in (0, 1):  # nothing to tell apart
        from sklearn.tree import DecisionTreeRegressor

        stump = DecisionTreeRegressor().fit(features[:1], [0.0]).tree_
        return [(stump, np.array([_log_odds(np.clip(share, SURE, 1 - SURE)) / trees]))] * trees
    forest = GradientBoostingClassifier(n_estimators=trees, random_state=state, **options).fit(
        features, wanted
    )
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
    return (
        len(grown),
        len(grown[0]),
        max(tree.node_count for tree in trees),
        max(tree.max_depth for tree in trees),
    )
