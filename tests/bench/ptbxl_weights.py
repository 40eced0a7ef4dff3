"""Weigh the branches of the preset hybrid_best by cross-validation over folds 1 to 8 of PTB-XL.

    python tests/bench/ptbxl_weights.py --data DIR [--seed 0]

Folds 9 and 10 are not read. For each pair of folds (1 and 2, 3 and 4, ...) the preset is trained
on the other six, the first of the pair choosing the epoch; then its branches' logits on the pair
are averaged with each of WEIGHTS. outputs/ptbxl_weights.csv has, over the eight folds, the mean
macro-AUC, and the mean macro-F1 and accuracy with thresholds chosen on the other fold of the pair.
"""

import argparse
import tempfile

import numpy as np
import pandas as pd
from ptbxl_families import ROOT

WEIGHTS = (
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (1, 1, 3),
    (1, 1, 4),
)


def logits_of(pair, data, seed):
    """Labels and logits (branches, records, classes) on each fold of a pair; branches' names."""
    import keras

    from ecg_keras import build_model, load_ptbxl
    from ecg_keras.presets import PRESETS
    from ecg_keras.training import fit

    preset = PRESETS["ptbxl"]["hybrid_best"]
    others = tuple(fold for fold in range(1, 9) if fold not in pair)
    train, *parts = load_ptbxl(data, folds=(others, pair[:1], pair[1:]))
    keras.utils.set_random_seed(seed)
    model = build_model(like=train, **preset["model"])
    with tempfile.TemporaryDirectory() as folder:
        fit(model, train, parts[0], folder=folder, seed=seed, **preset["fit"])
    branches = keras.Model(model.inputs, model.get_layer("fused").input)
    return [
        (part.y, np.stack(branches.predict(part.x, batch_size=64, verbose=0))) for part in parts
    ], preset["model"]["branches"]


def figures(weights, folds):
    """macro-AUC, macro-F1 and accuracy of a mean with these weights, over a pair of folds."""
    from ecg_keras.metrics import choose_thresholds, evaluate

    joined = [
        (y, 1 / (1 + np.exp(-np.average(logits, axis=0, weights=weights)))) for y, logits in folds
    ]
    rows = []
    for (y, p), other in zip(joined, joined[::-1]):
        found = evaluate(
            y,
            p,
            [str(i) for i in range(y.shape[1])],
            thresholds=choose_thresholds(*other),
            n_boot=0,
        )
        rows.append([found[name] for name in ("macro_auc", "macro_f1", "accuracy")])
    return np.mean(rows, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = []
    for first in (1, 3, 5, 7):
        folds, branches = logits_of((first, first + 1), options.data, options.seed)
        found.append([figures(weights, folds) for weights in WEIGHTS])
    table = pd.DataFrame(WEIGHTS, columns=branches)
    table[["macro_auc", "macro_f1", "accuracy"]] = np.mean(found, axis=0).round(4)
    table.to_csv(ROOT / "outputs" / "ptbxl_weights.csv", index=False, lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
