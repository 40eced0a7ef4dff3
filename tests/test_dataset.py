"""The data set checks itself; parts are split without leaks; only a train part is balanced."""

import dataclasses
import hashlib

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ECGDataset, split_dataset, to_spectrograms
from ecg_keras.batches import Neighbours, TrainBatches
from ecg_keras.dataset import (
    Balance,
    Scaler,
    balance_train,
    check_parts,
    draw_patients,
    representative,
    representative_rows,
    split,
)

pytestmark = pytest.mark.numeric


def dataset(**fields):
    base = {"x": np.zeros((4, 10, 1)), "y": [0, 0, 1, 1], "classes": ("N", "V"), "fs": 100.0}
    return ECGDataset(**(base | fields))


def test_types_and_shapes_are_settled_once():
    ds = dataset(x=np.zeros((4, 10)), y=np.array([0.0, 0, 1, 1]), leads="MLII")
    assert ds.x.shape == (4, 10, 1) and ds.x.dtype == np.float32
    assert ds.y.dtype == np.int64 and ds.leads == ("MLII",) and ds.n_samples == 10


def test_rows_keep_what_belongs_to_them():
    ds = toy_dataset(n=12, patients=True)
    picked = ds[ds.y == 1]
    rows = np.flatnonzero(ds.y == 1)
    np.testing.assert_array_equal(picked.x, ds.x[rows])
    np.testing.assert_array_equal(picked.patients, ds.patients[rows])
    np.testing.assert_array_equal(picked.metadata, ds.metadata[rows])
    assert len(ds[3]) == 1 and len(ds[2:5]) == 3


def test_a_data_set_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset().fs = 3.0


def test_counts_of_single_and_multi_label():
    assert dataset().class_counts() == {"N": 2, "V": 2}
    assert dataset(y=[[1, 1], [1, 0], [0, 0], [0, 1]]).class_counts() == {"N": 2, "V": 2}
    assert dataset(y=[[1, 1], [1, 0], [0, 0], [0, 1]]).multi_label


def test_summary_and_notebook_table_name_size_rate_and_classes():
    assert (
        dataset().summary() == "4 rows of 10 samples x 1 lead (0.10 s at 100 Hz); N 2, V 2; unknown"
    )
    assert "<td>V</td><td style='text-align:right'>2</td>" in dataset(source="<b>")._repr_html_()
    assert "&lt;b&gt;" in dataset(source="<b>")._repr_html_()


def test_two_orders_have_two_fingerprints():
    ds = toy_dataset(n=30)
    assert (
        ds.fingerprint() == toy_dataset(n=30).fingerprint() != ds[np.arange(30)[::-1]].fingerprint()
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": np.zeros(4)}, r"x must have shape .* got \(4,\)"),
        (
            {"x": np.full((4, 10), np.nan)},
            r"x has NaN or infinite samples in 4 of 4 rows \(first at row 0\)",
        ),
        ({"y": [0, 1]}, "one label for each of the 4 rows of x, got 2"),
        ({"y": [0, 1, 2, 0]}, r"0 to 1 \(N, V\), got 2 at row 2"),
        ({"y": [0, 1, 0.5, 0]}, "got 0.5 at row 2"),
        ({"y": np.full((4, 2), 2)}, "only 0 and 1"),
        ({"y": np.zeros((4, 3))}, "2 columns, one per class, got 3"),
        ({"classes": ("N", "N")}, "two different names"),
        ({"fs": 0}, "fs must be the sampling rate in Hz, above 0, got 0"),
        ({"leads": ("I", "II")}, r"leads has 2 names \(I, II\), but x has 1"),
        ({"patients": ["a"]}, "patients must name one for each of the 4 rows"),
        (
            {"digests": [1, 2]},
            r"digests must have one for each of the 4 rows of x, got shape \(2,\)",
        ),
        ({"metadata": np.zeros((4, 2))}, "belong together"),
        (
            {"metadata": np.zeros((4, 2)), "metadata_names": ("age",)},
            r"shape \(4, 1\).* got \(4, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataset(**fields)


def test_text_is_not_a_signal():
    with pytest.raises(TypeError, match="x must hold real numbers"):
        dataset(x=[["a"] * 10] * 4)


def test_an_input_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="input 'metadata', which this data set does not hold"):
        dataset().inputs(["signal", "metadata"])


def test_resampled_rows_are_refused_as_test_part():
    train, made = dataset(), dataset(balance=Balance("smote", {"N": 2}))
    check_parts(made, train, train)
    with pytest.raises(ValueError, match="test is marked as balanced by 'smote'"):
        check_parts(train, train, made)


def test_a_patient_in_two_parts_is_refused():
    train, val = dataset(patients=list("aabb")), dataset(patients=list("ccdd"))
    check_parts(train, val, dataset(patients=list("eeff")))
    with pytest.raises(ValueError, match=r"train and test share 1 patients \(b"):
        check_parts(train, val, dataset(patients=list("bbff")))


def test_parts_of_other_shape_or_classes_are_refused():
    with pytest.raises(ValueError, match="val has classes"):
        check_parts(dataset(), dataset(classes=("N", "S")), dataset())
    with pytest.raises(ValueError, match="at 50 Hz, train has .* at 100 Hz"):
        check_parts(dataset(), dataset(), dataset(fs=50))
    with pytest.raises(ValueError, match="val has no rows"):
        check_parts(dataset(), dataset()[[]], dataset())


def test_a_digest_is_that_of_the_raw_row_whatever_it_becomes():
    ds = toy_dataset(n=12)
    own = [hashlib.blake2b(row.tobytes(), digest_size=8).digest()[:4] for row in ds.x]
    expected = np.array([int.from_bytes(digest) for digest in own], np.uint32)
    np.testing.assert_array_equal(ds.row_digests(), expected)
    images = to_spectrograms(ds)
    assert ds.digests is None and images.digests.dtype == np.uint32
    np.testing.assert_array_equal(images[[3, 1]].row_digests(), expected[[3, 1]])
    np.testing.assert_array_equal(ds[[3, 1]].row_digests(), expected[[3, 1]])


def test_rows_that_are_no_longer_raw_do_not_pass_for_raw_ones():
    ds = toy_dataset(n=12)
    assert to_spectrograms(ds).replace(digests=None).row_digests() is None
    assert ds.replace(scaler=Scaler(np.float32(0), np.float32(1))).row_digests() is None


def test_resampling_keeps_the_digests_of_the_measured_rows():
    train = toy_dataset(n=60)[np.r_[0:45, 45:60:3]]
    made = balance_train(train, "smote", caps={"N": 18})  # of 20; S and V have 15
    digests = made.row_digests()
    measured = np.flatnonzero(digests)
    assert (len(digests), len(measured)) == (3 * 18, 18 + 2 * 15)
    assert set(digests[measured]) < set(train.row_digests())
    np.testing.assert_array_equal(
        made[measured].replace(digests=None).row_digests(), digests[measured]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"y": np.zeros((4, 2, 1))}, r"shape \(n,\) or \(n, classes\), got \(4, 2, 1\)"),
        ({"metadata": np.full((4, 1), np.nan), "metadata_names": ("age",)}, "4 of 4 rows"),
    ],
)
def test_labels_and_metadata_of_a_strange_form_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataset(**fields)


def test_a_part_that_is_no_data_set_is_refused():
    with pytest.raises(TypeError, match="val must be an ECGDataset, got ndarray"):
        check_parts(dataset(), np.zeros(3), dataset())


def test_images_and_spectra_say_what_they_are():
    ds = toy_dataset(n=6, patients=True)
    images = to_spectrograms(ds)
    assert images.is_images and "6 rows of 17 x 32 x 1 images; 2 patients;" in images.summary()
    assert repr(images) == f"<ECGDataset: {images.summary()}>"
    assert "(spectra)" in ds.replace(grid=images.grid, n_samples=187).summary()


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


def test_three_parts_share_no_row_and_keep_the_share_of_each_class():
    y = np.repeat([0, 1, 2], [1600, 300, 100])
    ds = ECGDataset(np.arange(2000.0)[:, None] * np.ones(5), y, classes="NSV", fs=10)
    parts = split_dataset(ds, val_fraction=0.1, test_fraction=0.2)
    counts = [list(part.class_counts().values()) for part in parts]
    np.testing.assert_allclose(counts, [[1120, 210, 70], [160, 30, 10], [320, 60, 20]], atol=1)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([part.x[:, 0, 0] for part in parts])), np.arange(2000)
    )
    rest, test = split(ds, 0.2)
    np.testing.assert_array_equal(parts[2].x, test.x)
    np.testing.assert_array_equal(parts[1].x, split(rest, 0.125)[1].x)


def test_three_parts_share_no_patient_where_patients_are_known():
    ds = toy_dataset(n=90, patients=True)
    parts = split_dataset(ds, val_fraction=0.2, test_fraction=0.3)
    check_parts(*parts)
    assert [len(np.unique(part.patients)) for part in parts] == [5, 2, 3]
    by_rows = split_dataset(ds, by="rows", seed=1)
    assert np.intersect1d(by_rows[0].patients, by_rows[2].patients).size


def test_parts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"sum must be below 1, got 0\.5 \+ 0\.5"):
        split_dataset(toy_dataset(), val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ValueError, match="test_fraction must be above 0, got 0"):
        split_dataset(toy_dataset(), test_fraction=0)


def test_a_misspelled_way_to_split_is_refused():
    with pytest.raises(ValueError, match="by='patient' is not known; choose one of 'auto'"):
        split(toy_dataset(n=90, patients=True), 0.1, by="patient")


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
    made = balance_train(train, "smote_tomek")
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


def test_the_old_spelling_of_smote_tomek_still_works():
    with pytest.warns(DeprecationWarning, match="'smote-tomek' is spelled 'smote_tomek' now"):
        assert balance_train(unbalanced(), "smote-tomek").balance.method == "smote_tomek"


def test_rows_balanced_once_are_not_balanced_again():
    made = balance_train(unbalanced(), "class_weight")
    with pytest.raises(ValueError, match="balanced by 'class_weight' already"):
        balance_train(made, "smote")


def test_metadata_is_interpolated_with_the_signal():
    y = np.repeat([0, 1], [20, 10])
    x = np.random.default_rng(0).normal(size=(30, 4))
    train = ECGDataset(x, y, classes="NV", fs=10, metadata=x[:, :1], metadata_names=("first",))
    made = balance_train(train, "smote")
    assert len(made) == 40
    np.testing.assert_allclose(made.metadata[:, 0], made.x[:, 0, 0], atol=1e-6)


def test_representative_rows_are_of_their_class_and_not_the_outlier():
    x = np.zeros((30, 8, 1)) + np.linspace(0, 0.1, 30)[:, None, None]
    x[3] += 50
    ds = toy_dataset(n=30, samples=8).replace(x=x)
    rows = representative_rows(ds)
    assert list(rows) == ["N", "S", "V"] and 3 not in rows.values()
    assert all(ds.classes[ds.y[row]] == name for name, row in rows.items())
    assert list(representative_rows(ds, most=2)) == ["N", "S"]
    part = representative(ds)
    assert len(part) == 3 and sorted(part.y) == [0, 1, 2]


def test_multi_label_rows_with_one_class_are_preferred():
    ds = toy_dataset(n=30, multi_label=True)
    y = ds.y.copy()
    y[:27, 1] = 1
    rows = representative_rows(ds.replace(y=y))
    assert y[rows["S"]].sum() == 1 and rows["N"] >= 27 and rows["V"] >= 27


def test_classes_without_rows_are_left_out():
    ds = toy_dataset(n=30)
    assert list(representative_rows(ds[ds.y != 1])) == ["N", "V"]


def test_standardising_takes_the_statistics_it_is_given():
    x = np.array([[[1.0], [2.0]], [[3.0], [6.0]]])
    made = Scaler(np.float32([[2], [4]]), np.float32([[1], [2]])).apply(x)
    np.testing.assert_array_equal(made[:, :, 0], [[-1, -1], [1, 1]])
    assert made.dtype == np.float32


def test_combinations_of_labels_keep_their_share():
    y = np.repeat([[1, 0], [1, 1], [0, 0]], [200, 100, 40], axis=0)
    ds = ECGDataset(np.zeros((340, 5)), y, classes="NV", fs=10)
    part = ds.split(0.1)[1].y
    assert [(part == kind).all(axis=1).sum() for kind in ([1, 0], [1, 1], [0, 0])] == [20, 10, 4]


def test_one_patient_cannot_be_divided():
    with pytest.raises(ValueError, match="1 patient cannot be divided"):
        split(toy_dataset().replace(patients=["p"] * 60), 0.2)
