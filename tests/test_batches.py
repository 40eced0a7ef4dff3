import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import to_spectrograms
from ecg_keras.batches import (
    AUGMENTATIONS,
    TrainBatches,
    augment,
    lead_dropout,
    lead_polarity,
    time_shift,
    time_stretch,
)

pytestmark = pytest.mark.numeric
FS = 125.0


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own():
    train = toy_dataset(n=50)
    batches = TrainBatches(train, ["signal"], batch_size=16)
    first = np.concatenate([batches[i][0] for i in range(len(batches))])
    batches.go_to(1)
    second = np.concatenate([batches[i][0] for i in range(len(batches))])
    assert len(first) == 50 and not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first.ravel()), np.sort(train.x.ravel()))
    np.testing.assert_array_equal(np.sort(first.ravel()), np.sort(second.ravel()))


@pytest.mark.parametrize(
    "n, sizes", [(33, [11, 11, 11]), (32, [16, 16]), (5, [5]), (34, [12, 11, 11])]
)
def test_rows_left_over_make_no_small_batch(n, sizes):
    batches = TrainBatches(toy_dataset(n), ["signal"], batch_size=16)
    assert [len(batches[i][0]) for i in range(len(batches))] == sizes


def test_a_resumed_epoch_has_the_same_batches():
    options = {
        "batch_size": 16,
        "augment": ("amplitude", "noise"),
        "mixup": 0.2,
        "crop_samples": 100,
        "seed": 4,
    }
    straight = TrainBatches(toy_dataset(), ["signal"], **options)
    straight.go_to(1)
    straight.go_to(2)
    resumed = TrainBatches(toy_dataset(), ["signal"], **options)
    resumed.go_to(2)
    for one, other in zip(straight[1], resumed[1]):
        np.testing.assert_array_equal(one, other)


def test_crops_are_stretches_of_their_signal():
    train = toy_dataset()
    x, _, _ = TrainBatches(train, ["signal"], batch_size=8, crop_samples=50)[0]
    windows = np.lib.stride_tricks.sliding_window_view(train.x[:, :, 0], 50, axis=1)
    assert x.shape == (8, 50, 1)
    assert all((np.abs(windows - row[:, 0]).max(axis=-1) == 0).any() for row in x)


def test_mixed_targets_are_shares_that_sum_to_one():
    _, targets, _ = TrainBatches(toy_dataset(), ["signal"], batch_size=60, mixup=1.0)[0]
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert ((targets > 0.1) & (targets < 0.9)).any()


def test_several_inputs_come_as_a_dict_and_one_as_an_array():
    inputs, _, _ = TrainBatches(toy_dataset(), ["signal", "metadata"], batch_size=8)[0]
    assert {name: array.shape for name, array in inputs.items()} == {
        "signal": (8, 187, 1),
        "metadata": (8, 2),
    }
    assert TrainBatches(toy_dataset(), ["signal"], batch_size=8)[0][0].shape == (8, 187, 1)


def test_a_crop_longer_than_the_signal_is_refused():
    with pytest.raises(ValueError, match=r"crop_samples=200 is longer than the signals \(187"):
        TrainBatches(toy_dataset(), ["signal"], batch_size=8, crop_samples=200)


def test_weights_by_class_need_one_class_per_row():
    with pytest.raises(ValueError, match="multi-label, use 0"):
        TrainBatches(
            toy_dataset(multi_label=True), ["signal"], batch_size=8, class_weight_power=0.5
        )


def test_a_share_of_the_largest_class_takes_turns():
    train = toy_dataset(n=90)
    train = train[
        np.flatnonzero((train.y == 0) | (np.arange(90) < 30))
    ]  # 30 of N, 10 of S, 10 of V
    batches = TrainBatches(train, ["signal"], batch_size=100, majority_share=0.5)
    seen = []
    for epoch in range(2):
        batches.go_to(epoch)
        x, targets, _ = batches[0]
        assert targets.sum(axis=0).tolist() == [15, 10, 10]
        seen.append({row.tobytes() for row in x[targets[:, 0] == 1]})
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 30


def test_rows_weigh_by_a_power_of_what_an_epoch_holds_of_their_class():
    train = toy_dataset(n=90)
    train = train[np.flatnonzero((train.y == 0) | (np.arange(90) < 30))]  # 30 of N, 10 of S and V
    options = {"batch_size": 100, "class_weight_power": 0.5, "majority_share": 0.6}
    _, targets, weights = TrainBatches(train, ["signal"], **options)[0]
    counts = np.array([18, 10, 10])
    wanted = counts**-0.5 * 38 / (counts * counts**-0.5).sum()
    np.testing.assert_allclose(weights, targets @ wanted, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_what_images_and_several_labels_cannot_have_is_refused():
    several = toy_dataset(multi_label=True)
    with pytest.raises(ValueError, match="majority_share needs one class per row.*use 1"):
        TrainBatches(several, ["signal"], batch_size=8, majority_share=0.5)
    with pytest.raises(ValueError, match="class-balanced sampler needs one class per row"):
        TrainBatches(several, ["signal"], batch_size=8, sampler=True)
    images = to_spectrograms(toy_dataset(n=8))
    with pytest.raises(ValueError, match="augment changes signals, and train holds images"):
        TrainBatches(images, ["image"], batch_size=8, augment=("noise",))


@pytest.fixture
def x():
    rng = np.random.default_rng(3)
    t = np.arange(250) / FS
    rows = np.sin(2 * np.pi * rng.uniform(2, 9, (8, 1, 2)) * t[None, :, None])
    return rows.astype(np.float32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_type_and_input_are_kept(name, x):
    before = x.copy()
    y = augment(x, [name], np.random.default_rng(0), fs=FS)
    assert y.shape == x.shape and y.dtype == np.float32
    assert np.isfinite(y).all() and not np.array_equal(y, x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_seed_same_result(name, x):
    one, two, other = (augment(x, name, np.random.default_rng(seed), fs=FS) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_row_does_not_depend_on_its_batch(name, x):
    loud = x * np.array([1] + [100] * 7, np.float32)[:, None, None]
    one, two = (augment(rows, name, np.random.default_rng(1), fs=FS) for rows in (x, loud))
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_strength_follows_the_unit_of_the_signal(name, x):
    one, two = (augment(rows, name, np.random.default_rng(1), fs=FS) for rows in (x, 1000 * x))
    np.testing.assert_allclose(1000 * one, two, rtol=1e-4, atol=1e-2)  # of 1000


def test_stretch_moves_an_event_towards_or_from_the_middle():
    x = np.zeros((200, 251, 1), np.float32)
    x[:, 225] = 1  # 100 samples right of the middle
    peak = time_stretch(x, np.random.default_rng(0), fs=FS, most=0.1).argmax(axis=1)[:, 0] - 125
    assert peak.min() >= 90 and peak.max() <= 112 and peak.std() > 3


def test_shift_is_bounded_in_seconds():
    x = np.zeros((200, 500, 1), np.float32)
    x[:, 250] = 1
    peak = time_shift(x, np.random.default_rng(0), fs=500, most_s=0.02).argmax(axis=1)[:, 0]
    assert abs(peak - 250).max() <= 10 and peak.std() > 3


def test_polarity_only_changes_signs(x):
    y = lead_polarity(x, np.random.default_rng(0), fs=FS)
    np.testing.assert_array_equal(abs(y), abs(x))


def test_dropout_leaves_a_lead_in_every_row(x):
    y = lead_dropout(x, np.random.default_rng(0), fs=FS, share=1.0)
    assert ((abs(y).max(axis=1) == 0).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(
        lead_dropout(x[:, :, :1], np.random.default_rng(0), fs=FS, share=1.0), x[:, :, :1]
    )


def test_no_names_change_nothing(x):
    assert augment(x, [], np.random.default_rng(0), fs=FS) is x


def test_unknown_name_is_refused(x):
    with pytest.raises(
        ValueError, match="augmentation='nois' is not known; choose one of 'amplitude'"
    ):
        augment(x, ["nois"], np.random.default_rng(0), fs=FS)
