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
from ecg_keras.trees import AverageBeat, Trees

_BATCH = 64
_SHORTEST_S = 2.0  # signals shorter than this hold one beat and are taken as they are


def beat_forest(like, *, trees=100, max_features=0.3, min_leaf=2, before_s=0.25, after_s=0.45, seed=0):
    """Extremely randomised trees on the average beat: for each class, trees that tell it from the others.

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
    seed : int, default 0
        Draws the trees.

    Notes
    -----
    P. Geurts, D. Ernst and L. Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006. Values are those of
    `trees.AverageBeat`, in the unit of the signals. A class's logit is the log-odds of its mean share over the trees'
    leaves. `fit_and_report` may train the readout further; one epoch at a small learning rate leaves it as it is.

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo(n_beats=400)
    >>> beat_forest(train, trees=5).output_shape
    (None, 5)
    """
    inputs = signal_input(like, "beat_forest")
    if like.x.shape[1] / like.fs < _SHORTEST_S:
        values = keras.layers.Flatten(name="values")(inputs)
    else:
        values = AverageBeat(like.fs, before_s=before_s, after_s=after_s, name="values", dtype="float32")(inputs)
    features = in_batches(compiled(keras.Model(inputs, values)), like.x, values.shape[1:], _BATCH)
    targets = like.y if like.multi_label else np.eye(len(like.classes), dtype=int)[like.y]
    grown = [_grown(features, column, trees, max_features, min_leaf, [seed, i]) for i, column in enumerate(targets.T)]
    layer = Trees(*_sizes(grown), name="embedding", dtype="float32")
    embedding = layer(values)
    layer.plant(grown)
    model = keras.Model(inputs, classifier(embedding, like), name="beat_forest")
    head = model.get_layer("probabilities")
    head.set_weights([np.eye(len(like.classes)), np.zeros(len(like.classes))])
    return model


def _grown(features, wanted, trees, max_features, min_leaf, seed):
    """The trees (scikit-learn's `Tree`) of one class, each with the share of that class at its nodes."""
    from sklearn.ensemble import ExtraTreesClassifier

    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    forest = ExtraTreesClassifier(trees, max_features=max_features, min_samples_leaf=min_leaf, random_state=state, n_jobs=-1)
    forest.fit(features, wanted.astype(int))
    counts = [tree.tree_.value[:, 0] for tree in forest.estimators_]  # of the rows without and with the class
    has = forest.classes_ == 1  # a class that no train row has, or every one, is one column
    return [(tree.tree_, count[:, has].sum(axis=1) / count.sum(axis=1)) for tree, count in zip(forest.estimators_, counts)]


def _sizes(grown):
    """Classes, trees per class, most nodes of a tree, and the greatest depth."""
    trees = [tree for forest in grown for tree, _ in forest]
    return len(grown), len(grown[0]), max(tree.node_count for tree in trees), max(tree.max_depth for tree in trees)
