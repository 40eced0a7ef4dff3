"""Augmentations: what they change, what they leave, and that rows do not mix."""

import numpy as np
import pytest

from ecg_keras.batches import (
    AUGMENTATIONS,
    augment,
    lead_dropout,
    lead_polarity,
    time_shift,
    time_stretch,
)

pytestmark = pytest.mark.numeric
FS = 125.0


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
