"""What a careful person would see in the data is found and said."""

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import to_spectrograms
from ecg_keras.plots import png
from ecg_keras.report import inspect, plot_labelled

pytestmark = pytest.mark.numeric


def test_clean_parts_give_no_finding():
    parts = [toy_dataset(n=90, seed=seed) for seed in range(3)]
    found = inspect(*parts)
    assert found["findings"] == []
    assert found["parts"]["val"]["shape"] == [187, 1] and found["parts"]["val"][
        "duration_s"
    ] == pytest.approx(187 / 125)
    assert found["shared_rows"] == {"train, val": 0, "train, test": 0, "val, test": 0}


def says(found, words):
    return any(words in finding for finding in found["findings"])


def test_rows_in_two_parts_are_counted():
    train, test = toy_dataset(n=90), toy_dataset(n=90, seed=1)
    leaked = test.replace(x=np.concatenate([train.x[:4], test.x[4:]]))
    found = inspect(train=train, test=leaked)
    assert found["shared_rows"]["train, test"] == 4 and says(
        found, "4 rows are in both train and test"
    )


def test_shared_patients_are_counted():
    found = inspect(
        train=toy_dataset(n=90, patients=True), test=toy_dataset(n=90, seed=1, patients=True)
    )
    assert found["shared_patients"] == {"train, test": 10} and says(
        found, "10 patients are in both"
    )


def test_dead_and_doubled_leads_are_named():
    x = toy_dataset(n=90, leads=3).x.copy()
    x[:7, :, 1] = 0.25
    found = inspect(train=toy_dataset(n=90, leads=3).replace(x=x))
    assert found["parts"]["train"]["constant_leads"] == {"L0": 0, "L1": 7, "L2": 0}
    assert says(found, "L1 does not move in 7 of 90 rows")
    x[:, :, 2] = x[:, :, 0]
    assert says(inspect(train=toy_dataset(n=90, leads=3).replace(x=x)), "L0 = L2")


def test_absent_and_rare_classes_are_named():
    ds = toy_dataset(n=90)
    found = inspect(
        train=ds, test=ds[np.r_[np.flatnonzero(ds.y == 0), np.flatnonzero(ds.y == 1)[:3]]]
    )
    assert says(found, "test: no row of V") and says(found, "few rows of S (3)")


def test_rows_sorted_by_class_are_noticed():
    ds = toy_dataset(n=300)
    order = np.argsort(ds.y, kind="stable")
    assert says(inspect(test=ds[order]), "sorted by class")
    assert not says(inspect(test=ds[np.random.default_rng(0).permutation(300)]), "sorted by class")


def test_a_part_scaled_otherwise_is_noticed():
    train, test = toy_dataset(n=90), toy_dataset(n=90, seed=1)
    assert says(inspect(train=train, test=test.replace(x=1000 * test.x)), "scaled alike")


def test_copies_in_a_part_are_counted():
    ds = toy_dataset(n=90)
    assert inspect(test=ds[np.r_[np.arange(90), 0, 0, 5]])["parts"]["test"]["duplicates"] == 3


def test_it_prints_and_shows_itself():
    found = inspect(train=toy_dataset(n=90, leads=2), test=toy_dataset(n=30, leads=2, seed=1))
    assert "shape of a row" in str(found) and "! test: few rows" in str(found)
    assert "<table>" in found._repr_html_() and "few rows" in found._repr_html_()


def test_multi_label_and_single_part():
    found = inspect(test=toy_dataset(n=90, multi_label=True))
    assert (
        found["parts"]["test"]["class_counts"] == {"N": 30, "S": 30, "V": 30}
        and found["shared_rows"] == {}
    )
    with pytest.raises(ValueError, match="at least one"):
        inspect()


def test_labels_stand_beside_rows():
    ds = toy_dataset(n=30)
    fig = plot_labelled(ds, per_class=2)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert len(titles) == 6 and titles[0].startswith("N (row")
    for title in titles:
        name, row = title.rstrip(")").split(" (row ")
        assert ds.classes[ds.y[int(row)]] == name
    assert png(fig)[1:4] == b"PNG"


def test_images_and_multi_label_rows_are_drawn_too():
    ds = toy_dataset(n=30, multi_label=True)
    both = ds.y.copy()
    both[:, :2] = 1
    images = to_spectrograms(ds.replace(y=both))
    fig = plot_labelled(images, per_class=1)
    assert fig.axes[0].get_title(loc="left").startswith("N+S") and len(fig.axes[0].images) == 1
    found = inspect(train=images)["parts"]["train"]
    assert found["duration_s"] is None and found["channels"] == "L0" and found["label_runs"] is None
    three = images.replace(x=np.repeat(images.x, 3, axis=3))
    assert inspect(train=three)["parts"]["train"]["channels"] == "channel 0, channel 1, channel 2"
