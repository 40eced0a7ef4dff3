"""Figures of heartbeat classification as ANSI/AAMI EC57 names them.

Conventions
-----------
`y` and `predicted` are class numbers (n,) in the order of `classes`, which are among
N, S, V, F and Q. Sensitivity and its kin are shares in 0..1, None where nothing can be divided.
"""

import numpy as np

from ecg_keras.bootstrap import f1_scores, interval, ratio

CLASSES = ("N", "S", "V", "F", "Q")


def aami_block(y, predicted, classes, *, records=None, draws=None):
    """Figures for S and V as ANSI/AAMI EC57 names them.

    Sensitivity, positive predictivity, false positive rate and F1 count one class against all
    others. EC57 and de Chazal et al. 2004 do not count fusion and unknown beats called V, nor unknown
    beats called S, as false: where F or Q are among the classes, the ``_ec57`` values follow them.

    Returns
    -------
    dict
        ``"S"`` and ``"V"``: dicts of the figures, with ``ci95`` where `draws` are given;
        ``per_record``: a row per recording, or None.
    """
    y, predicted, classes = np.asarray(y), np.asarray(predicted), tuple(classes)
    block = {}
    for name, exempt in (("S", "Q"), ("V", "FQ")):
        i = classes.index(name)
        tp, fp = int(((y == i) & (predicted == i)).sum()), int(((y != i) & (predicted == i)).sum())
        positives = int((y == i).sum())
        row = {
            "sensitivity": ratio(tp, positives),
            "positive_predictivity": ratio(tp, tp + fp, none=0.0 if positives else None),
            "false_positive_rate": ratio(fp, len(y) - positives),
            "f1": ratio(2 * tp, positives + tp + fp) if positives else None,
            "support": positives,
        }
        exempt = [classes.index(other) for other in exempt if other in classes]
        if exempt:
            spared = np.isin(y, exempt) & (predicted == i)
            fp, negatives = fp - int(spared.sum()), len(y) - positives - int(spared.sum())
            row["positive_predictivity_ec57"] = ratio(tp, tp + fp, none=0.0 if positives else None)
            row["false_positive_rate_ec57"] = ratio(fp, negatives)
        if draws and "tp" in draws:
            tp, fp, fn = (draws[key][:, i] for key in ("tp", "fp", "fn"))
            with np.errstate(invalid="ignore", divide="ignore"):
                row["ci95"] = {
                    "sensitivity": interval(tp / (tp + fn)),
                    "positive_predictivity": interval(tp / (tp + fp)),
                    "f1": interval(f1_scores(tp, fp, fn)),
                }
        block[name] = row
    block["per_record"] = None
    if records is not None:
        records = np.asarray(records).astype(str)
        block["per_record"] = [
            _record_row(record, y[records == record], predicted[records == record], classes)
            for record in np.unique(records)
        ]
    return block


def _record_row(record, y, predicted, classes):
    """Labels and predictions of one recording to its row of the AAMI table."""
    row = {"record": str(record), "n": len(y), "accuracy": float((y == predicted).mean())}
    row["majority_accuracy"] = float(np.bincount(y).max() / len(y))
    for name in ("N", "S", "V"):
        i = classes.index(name)
        tp = int(((y == i) & (predicted == i)).sum())
        row[f"{name}_support"] = int((y == i).sum())
        row[f"{name}_sensitivity"] = ratio(tp, (y == i).sum())
        row[f"{name}_positive_predictivity"] = ratio(tp, (predicted == i).sum())
    return row
