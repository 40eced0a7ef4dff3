import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras.dataset import typical, typical_rows

pytestmark = pytest.mark.numeric


def test_typical_rows_are_of_their_class_and_not_the_outlier():
    x = np.zeros((30, 8, 1)) + np.linspace(0, 0.1, 30)[:, None, None]
    x[3] += 50
    ds = toy_dataset(n=30, samples=8).replace(x=x)
    rows = typical_rows(ds)
    assert list(rows) == ["N", "S", "V"] and 3 not in rows.values()
    assert all(ds.classes[ds.y[row]] == name for name, row in rows.items())
    assert list(typical_rows(ds, most=2)) == ["N", "S"]
    part = typical(ds)
    assert len(part) == 3 and sorted(part.y) == [0, 1, 2]


def test_multi_label_rows_with_one_class_are_preferred():
    ds = toy_dataset(n=30, multi_label=True)
    y = ds.y.copy()
    y[:27, 1] = 1
    rows = typical_rows(ds.replace(y=y))
    assert y[rows["S"]].sum() == 1 and rows["N"] >= 27 and rows["V"] >= 27


def test_classes_without_rows_are_left_out():
    ds = toy_dataset(n=30)
    assert list(typical_rows(ds[ds.y != 1])) == ["N", "V"]
