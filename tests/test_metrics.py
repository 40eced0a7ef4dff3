import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as reference

from ecg_keras.metrics import (
    auc_scores,
    bootstrap,
    choose_thresholds,
    difference,
    evaluate,
    macro_auc,
    macro_f1,
)

pytestmark = pytest.mark.numeric


def predictions(n=600, n_classes=4, skill=1.5, seed=0):
    """Labels and probabilities that are right more often than not; the last class is rare."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n, p=np.r_[np.full(n_classes - 1, 0.95 / (n_classes - 1)), 0.05])
    logits = rng.normal(size=(n, n_classes)) + skill * np.eye(n_classes)[y]
    p = np.round(softmax(logits, axis=1), 3)  # with ties
    return y, p + (1 - p.sum(axis=1, keepdims=True)) / n_classes


def multi_label(n=500, n_classes=3, seed=1):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_classes)) < [0.5, 0.2, 0.05]).astype(int)
    return y, np.round(expit(rng.normal(size=y.shape) + 2 * y - 1), 2)


def test_single_label_figures_agree_with_scikit_learn():
    y, p = predictions()
    result, guess = evaluate(y, p, "abcd", n_boot=0), p.argmax(axis=1)
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(y, guess, average="macro"))
    assert result["macro_auc"] == pytest.approx(
        np.mean([reference.roc_auc_score(y == i, p[:, i]) for i in range(4)])
    )
    assert result["confusion"] == reference.confusion_matrix(y, guess).tolist()
    theirs = reference.classification_report(y, guess, target_names=list("abcd"), output_dict=True)
    for i, name in enumerate("abcd"):
        row = result["per_class"][name]
        for ours, key in (
            ("precision",) * 2,
            ("recall",) * 2,
            ("f1", "f1-score"),
            ("support",) * 2,
        ):
            assert row[ours] == pytest.approx(theirs[name][key])
        assert row["specificity"] == pytest.approx(reference.recall_score(y != i, guess != i))
    assert result["majority_accuracy"] == np.bincount(y).max() / len(y)
    assert macro_f1(y, p) == macro_f1(y, guess) == pytest.approx(result["macro_f1"])
    assert macro_auc(y, p) == pytest.approx(result["macro_auc"])


def test_multi_label_figures_agree_with_scikit_learn():
    y, p = multi_label()
    thresholds = [0.5, 0.4, 0.3]
    result, guess = evaluate(y, p, "abc", thresholds=thresholds, n_boot=0), p >= thresholds
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(y, guess, average="macro"))
    assert macro_f1(y, p, thresholds=thresholds) == pytest.approx(result["macro_f1"])
    assert result["macro_auc"] == pytest.approx(reference.roc_auc_score(y, p))
    assert result["confusion"] == reference.multilabel_confusion_matrix(y, guess).tolist()
    assert result["thresholds"] == thresholds and "aami" not in result
    assert result["majority_accuracy"] == np.unique(y, axis=0, return_counts=True)[1].max() / len(y)


def test_calibration_error_of_known_cases():
    y = np.zeros(100, int)
    y[:20] = 1
    assert evaluate(y, np.tile([0.8, 0.2], (100, 1)), "ab", n_boot=0)["ece"] == pytest.approx(
        0, abs=1e-9
    )
    assert evaluate(y, np.tile([1.0, 0.0], (100, 1)), "ab", n_boot=0)["ece"] == pytest.approx(0.2)


def test_an_absent_class_is_null_and_left_out():
    y, p = predictions()
    p = np.c_[p * 0.99, np.full(len(p), 0.01)]
    result = evaluate(y, p, "abcde", n_boot=50)
    assert result["per_class"]["e"]["recall"] is None and result["per_class"]["e"]["auc"] is None
    assert result["macro_f1"] == pytest.approx(
        evaluate(y, p[:, :4] / 0.99, "abcd", n_boot=0)["macro_f1"]
    )
    assert any("e has no row" in note for note in result["notes"])
    assert result["ci95"]["macro_auc"] is not None


def test_a_class_never_predicted_has_precision_zero_as_in_scikit_learn():
    result = evaluate([0, 0, 1], [[0.9, 0.1]] * 3, "ab", n_boot=0)
    assert result["per_class"]["b"]["precision"] == 0 and result["per_class"]["b"]["f1"] == 0
    assert any("never predicted" in note for note in result["notes"])


def test_interval_of_accuracy_is_that_of_a_proportion():
    y, p = predictions(n=2000)
    result = evaluate(y, p, "abcd")
    low, high = result["ci95"]["accuracy"]
    a = result["accuracy"]
    width = 2 * 1.96 * np.sqrt(a * (1 - a) / 2000)
    assert low < a < high and (high - low) == pytest.approx(width, rel=0.15)
    for name in ("macro_f1", "macro_auc"):
        low, high = result["ci95"][name]
        assert low < result[name] < high
    assert result["ci95_by"] == "rows"


def test_interval_of_auc_agrees_with_resampling_by_hand():
    y, p = predictions(n=300)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(250):
        rows = rng.integers(0, 300, 300)
        draws.append(
            np.mean(
                [
                    reference.roc_auc_score(y[rows] == i, p[rows, i])
                    for i in range(4)
                    if (y[rows] == i).any()
                ]
            )
        )
    np.testing.assert_allclose(
        evaluate(y, p, "abcd")["ci95"]["macro_auc"], np.percentile(draws, [2.5, 97.5]), atol=0.015
    )


def test_weighted_auc_agrees_with_scikit_learn():
    y, p = predictions(n=200)
    weights = np.random.default_rng(0).poisson(1, (200, 3)).astype(np.float32)
    ours = auc_scores(np.eye(4, dtype=bool)[y], p, weights)
    for i in range(4):
        for draw in range(3):
            theirs = reference.roc_auc_score(y == i, p[:, i], sample_weight=weights[:, draw])
            assert ours[i, draw] == pytest.approx(theirs, abs=1e-6)  # sums are float32


def test_patients_who_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 50)
    right = rng.random(1000) < np.repeat(np.tile([0.5, 0.95], 10), 50)
    y = rng.integers(0, 2, 1000)
    p = np.where(right[:, None], np.eye(2)[y], np.eye(2)[1 - y])
    by_row, by_patient = evaluate(y, p, "ab"), evaluate(y, p, "ab", patients=patients)
    width = lambda result: np.diff(result["ci95"]["accuracy"])[0]
    assert width(by_patient) > 2 * width(by_row)
    assert by_patient["n_patients"] == 20 and by_patient["ci95_by"] == "patients"
    assert np.diff(by_patient["ci95"]["macro_auc"])[0] > 2 * np.diff(by_row["ci95"]["macro_auc"])[0]


def test_one_patient_gives_no_interval():
    y, p = predictions(n=50)
    assert evaluate(y, p, "abcd", patients=["x"] * 50)["ci95"] == {
        "accuracy": None,
        "macro_f1": None,
        "macro_auc": None,
    }


def test_without_draws_there_is_no_p():
    y, p = predictions(n=50)
    once = bootstrap(y, p, patients=["x"] * 50)
    row = difference(once, once)["accuracy"]
    assert row == {"difference": 0.0, "ci95": None, "p": None}


def test_few_patients_are_told():
    y, p = predictions(n=60)
    result = evaluate(y, p, "abcd", patients=np.arange(60) % 3, n_boot=20)
    assert "intervals rest on 3 patients only; read them with care." in result["notes"]


def test_same_seed_same_intervals():
    y, p = predictions()
    assert evaluate(y, p, "abcd", seed=3)["ci95"] == evaluate(y, p, "abcd", seed=3)["ci95"]


def test_aami_block_counts_by_hand():
    #            N  N  N  N  S  S  V  V  F  Q
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4])
    guess = np.array([0, 0, 1, 2, 1, 0, 2, 2, 2, 1])
    block = evaluate(y, np.eye(5)[guess], "NSVFQ", records=["1"] * 5 + ["2"] * 5)["aami"]
    assert block["S"]["sensitivity"] == 0.5 and block["S"][
        "positive_predictivity"
    ] == pytest.approx(1 / 3)
    assert block["S"]["positive_predictivity_ec57"] == 0.5  # the Q beat called S is not counted
    assert block["S"]["false_positive_rate"] == pytest.approx(2 / 8)
    assert block["V"]["sensitivity"] == 1 and block["V"]["positive_predictivity"] == 0.5
    assert block["V"]["positive_predictivity_ec57"] == pytest.approx(2 / 3)
    assert block["V"]["false_positive_rate"] == pytest.approx(2 / 8)
    assert block["V"]["false_positive_rate_ec57"] == pytest.approx(1 / 7)
    assert block["V"]["f1"] == pytest.approx(2 / 3) and "f1" in block["V"]["ci95"]
    first = block["per_record"][0]
    assert (
        first["record"] == "1"
        and first["n"] == 5
        and first["accuracy"] == 0.6
        and first["V_sensitivity"] is None
    )


def test_aami_block_only_for_aami_classes():
    y, p = predictions(n_classes=3)
    assert "aami" in evaluate(y, p, "NSV", n_boot=0) and "aami" not in evaluate(
        y, p, "NSX", n_boot=0
    )


def test_no_threshold_has_a_higher_f1_than_the_chosen_one():
    y, p = multi_label()
    chosen = choose_thresholds(y, p)
    for i in range(3):
        precision, recall, _ = reference.precision_recall_curve(y[:, i], p[:, i])
        best = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-9))
        assert reference.f1_score(y[:, i], p[:, i] >= chosen[i]) == pytest.approx(best)
    assert choose_thresholds([[0], [0]], [[0.2], [0.7]]) == [0.5]


def test_a_threshold_does_not_part_equal_probabilities():
    assert choose_thresholds([[1], [0], [0], [0], [1]], [[0.5], [0.5], [0.5], [0.4], [0.4]]) == [
        0.2
    ]


def test_paired_bootstrap_sees_a_difference_that_single_intervals_hide():
    y, p = predictions(n=1500, skill=1.0, seed=2)
    better = p.copy()
    wrong = np.flatnonzero(p.argmax(axis=1) != y)[:30]
    better[wrong] = np.eye(4)[y[wrong]]
    a, b = evaluate(y, p, "abcd"), evaluate(y, better, "abcd")
    assert b["ci95"]["accuracy"][0] < a["ci95"]["accuracy"][1]  # they overlap
    row = difference(bootstrap(y, p), bootstrap(y, better))["accuracy"]
    assert row["difference"] == pytest.approx(30 / 1500) and row["ci95"][0] > 0 and row["p"] < 0.01
    same = difference(bootstrap(y, p), bootstrap(y, p))["macro_f1"]
    assert same["difference"] == 0 and same["ci95"] == [0, 0] and same["p"] == 1


@pytest.mark.parametrize(
    "y, p, options, words",
    [
        ([0, 1], [[0.5, 0.5, 0.0]] * 2, {}, "column per class"),
        ([0, 1, 1], [[0.5, 0.5]] * 2, {}, "2 predictions"),
        ([0, 2], [[0.5, 0.5]] * 2, {}, "class numbers 0 to 1"),
        ([0, 1], [[np.nan, 0.5]] * 2, {}, "diverged"),
        ([0, 1], [[4.0, -3.0]] * 2, {}, "softmax"),
        ([0, 1], [[0.9, 0.9]] * 2, {}, "sum to 1"),
        ([0, 1], [[0.5, 0.5]] * 2, {"thresholds": [0.5, 0.5]}, "multi-label"),
        ([[0, 1]], [[0.5, 0.5]], {"thresholds": [0.5]}, "one per class"),
        ([0, 1], [[0.5, 0.5]] * 2, {"patients": ["a"]}, "patients must .* each of the 2 rows"),
    ],
)
def test_wrong_input_is_refused(y, p, options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(y, p, "ab", **options)


def test_thresholds_need_a_probability_for_every_label():
    with pytest.raises(ValueError, match=r"\(n, classes\), got \(2,\) and \(2, 1\)"):
        choose_thresholds([0, 1], [[0.5], [0.5]])
    with pytest.raises(ValueError, match="records must name one for each of the 3 rows"):
        evaluate([0, 1, 2], np.eye(3), "NSV", records=["a"])
