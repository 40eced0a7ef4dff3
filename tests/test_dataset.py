import dataclasses
import hashlib

import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ECGDataset, to_spectrograms
from ecg_keras.dataset import Balance, Scaler, balance_train, check_parts

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
