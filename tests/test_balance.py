import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ECGDataset
from ecg_keras.batches import Neighbours, TrainBatches
from ecg_keras.dataset import balance_train

pytestmark = pytest.mark.numeric


def unbalanced(**fields):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [80, 20, 10])
    x = rng.normal(size=(110, 30)) + 5 * y[:, None]
    return ECGDataset(x, y, classes="NSV", fs=10, **fields)


def test_smote_evens_the_classes_and_keeps_the_measured_rows_first():
    train = unbalanced()
    made = balance_train(train, "smote")
    assert made.class_counts() == {"N": 80, "S": 80, "V": 80}
    np.testing.assert_array_equal(made.x[:110], train.x)
    assert made.balance.resampled and made.balance.counts_before == {"N": 80, "S": 20, "V": 10}


def test_smote_rows_lie_between_rows_of_their_class():
    train = unbalanced()
    made = balance_train(train, "smote")
    extra = made.x[110:][made.y[110:] == 2][:, :, 0]
    mine = train.x[train.y == 2][:, :, 0]
    for row in extra[:5]:  # on a segment between two: distances add up to the segment's length
        to_row = np.linalg.norm(mine - row, axis=1)
        between = np.linalg.norm(mine[:, None] - mine[None], axis=-1)
        off = to_row[:, None] + to_row[None] - between
        np.fill_diagonal(off, np.inf)
        assert off.min() < 1e-3  # in units of x


def test_caps_limit_both_ends():
    made = balance_train(unbalanced(), "smote", caps={"N": 50, "V": 30})
    assert made.class_counts() == {"N": 50, "S": 50, "V": 30}


def test_tomek_links_are_gone():
    rng = np.random.default_rng(1)
    train = ECGDataset(rng.normal(size=(100, 3)), np.arange(100) % 4 == 0, classes="NV", fs=10)
    made = balance_train(train, "smote-tomek")
    flat = made.x[:, :, 0]
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    nearest = gaps.argmin(axis=1)
    mutual = nearest[nearest] == np.arange(len(flat))
    n_links = (mutual & (made.y != made.y[nearest])).sum()
    assert len(made) < 150 and n_links < 75 // 2


def test_patients_of_measured_rows_are_still_known():
    made = balance_train(unbalanced(patients=np.arange(110) // 10), "smote")
    assert list(made.patients[:110]) == [str(i // 10) for i in range(110)]
    assert set(made.patients[110:]) == {"(made)"}


def test_weights_and_draws_add_no_rows():
    for method in ("class_weight", "sampler"):
        made = balance_train(unbalanced(), method)
        assert len(made) == 110 and not made.balance.resampled


def test_class_weights_follow_the_power_and_average_one():
    batches = TrainBatches(unbalanced(), ["signal"], batch_size=110, class_weight_power=0.5)
    _, targets, weights = batches[0]
    by_class = [weights[targets[:, k] == 1].mean() for k in range(3)]
    assert abs(by_class[1] / by_class[0] - 2) < 1e-5  # sqrt(80 / 20)
    assert abs(weights.mean() - 1) < 1e-6


def test_the_sampler_draws_classes_alike_and_stays_inside_a_class():
    train = balance_train(unbalanced(), "sampler")
    batches = TrainBatches(train, ["signal"], batch_size=32, sampler=True)
    inputs, targets = zip(*[(batches[i][0], batches[i][1]) for i in range(len(batches))])
    x, y = np.concatenate(inputs), np.concatenate(targets).argmax(axis=1)
    assert np.all(np.abs(np.bincount(y) - 110 / 3) < 20)
    for label in range(3):
        mine = train.x[train.y == label]
        assert (x[y == label] >= mine.min(axis=0) - 1e-5).all() and (
            x[y == label] <= mine.max(axis=0) + 1e-5
        ).all()
    rare = x[y == 2][:, :, 0]
    assert not any((np.abs(train.x[:, :, 0] - row).max(axis=1) < 1e-7).any() for row in rare[:10])


def test_neighbours_are_the_nearest_of_the_same_class():
    train = unbalanced()
    near = Neighbours(train, k=3).near
    rows = np.flatnonzero(train.y == 2)
    flat = train.x[rows][:, :, 0]
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert set(near[rows[0]]) == set(rows[np.argsort(gaps[0])[:3]])
    assert (near[train.y == 0] == -1).all()


@pytest.mark.parametrize(
    ("method", "caps", "message"),
    [
        ("smot", None, "balance='smot' is not known; choose one of None, 'smote'"),
        (None, {"N": 5}, "choose a balance method"),
        ("smote", {"X": 5}, "'X' is not known"),
        ("smote", {"N": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_balanced_is_refused(method, caps, message):
    with pytest.raises(ValueError, match=message):
        balance_train(unbalanced(), method, caps=caps)


def test_too_few_rows_for_smote_says_which_class():
    train = unbalanced()
    with pytest.raises(ValueError, match=r"too few of V \(3\)"):
        balance_train(train[np.r_[0:100, 100:103]], "smote")


def test_multi_label_rows_are_not_balanced():
    with pytest.raises(ValueError, match="one class per row"):
        balance_train(toy_dataset(multi_label=True), "smote")
