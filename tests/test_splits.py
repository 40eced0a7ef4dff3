import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ECGDataset
from ecg_keras.dataset import balance_train, draw_patients, split

pytestmark = pytest.mark.numeric


def test_each_class_keeps_its_share():
    ds = ECGDataset(np.zeros((1000, 5)), np.repeat([0, 1, 2], [900, 90, 10]), classes="NSV", fs=10)
    rest, part = ds.split(0.1, seed=3)
    assert part.class_counts() == {"N": 90, "S": 9, "V": 1}
    assert len(rest) + len(part) == 1000


def test_rows_fall_on_one_side_only():
    ds = ECGDataset(np.arange(100.0)[:, None] * np.ones(5), np.arange(100) % 2, classes="NV", fs=10)
    rest, part = split(ds, 0.25)
    assert np.intersect1d(rest.x[:, 0], part.x[:, 0]).size == 0


def test_patients_stay_whole():
    rest, part = split(toy_dataset(n=90, patients=True), 0.3)
    assert np.intersect1d(rest.patients, part.patients).size == 0
    assert len(np.unique(part.patients)) == 3


def test_drawn_patients_hold_all_classes():
    ds = ECGDataset(
        np.zeros((40, 5)),
        [0] * 32 + [1] * 8,
        classes="NV",
        fs=10,
        patients=[i % 8 for i in range(32)] + [0, 1] * 4,
    )
    chosen = np.isin(ds.patients, draw_patients(ds, 0.5))
    assert 0 < ds.y[chosen].sum() < 8  # V beats are of two patients; one on each side


def test_same_seed_same_rows():
    ds = toy_dataset(n=90)
    np.testing.assert_array_equal(split(ds, 0.2, seed=5)[1].x, split(ds, 0.2, seed=5)[1].x)
    assert not np.array_equal(split(ds, 0.2, seed=5)[1].x, split(ds, 0.2, seed=6)[1].x)


def test_resampled_rows_are_not_split():
    ds = toy_dataset(n=60)
    with pytest.raises(ValueError, match="split first, then balance"):
        split(balance_train(ds[:50], "smote"), 0.1)


def test_patients_that_are_not_known_cannot_be_kept_whole():
    with pytest.raises(ValueError, match="names its patients"):
        split(toy_dataset(), 0.1, by="patients")
