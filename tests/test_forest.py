"""Average beats and decision trees inside a network, and branches that see crops."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier

from ecg_keras import build_model
from ecg_keras.layers import _NODE, AverageBeat, Crops, MeanOfCrops, Trees, crop_starts
from ecg_keras.saved_models import predict
from ecg_keras.signal_models import _BOOSTING, _boosted, _sizes

pytestmark = pytest.mark.numeric


def numpy(tensor):
    """A tensor of any backend as an array."""
    return keras.ops.convert_to_numpy(tensor)


def test_trees_say_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 2, (300, 2))
    forests = [
        ExtraTreesClassifier(7, min_samples_leaf=4, random_state=0).fit(x, column) for column in y.T
    ]
    trees = [tree.tree_ for forest in forests for tree in forest.estimators_]
    layer = Trees(2, 7, max(t.node_count for t in trees), max(t.max_depth for t in trees))
    fresh = rng.normal(size=(50, 6)).astype(np.float32)
    layer(fresh)
    shares = lambda tree: tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
    layer.plant(
        [[(tree.tree_, shares(tree.tree_)) for tree in forest.estimators_] for forest in forests]
    )
    p = np.stack([forest.predict_proba(fresh)[:, 1] for forest in forests], axis=1).clip(
        1e-3, 1 - 1e-3
    )
    np.testing.assert_allclose(numpy(layer(fresh)), np.log(p / (1 - p)), atol=1e-4)


def test_boosted_trees_say_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 2, (300, 2))
    y[:, 1] = 0  # a class that no row has
    grown = [_boosted(x, column, 9, _BOOSTING, 5) for column in y.T]
    layer = Trees(*_sizes(grown), boosted=True)
    fresh = rng.normal(size=(50, 6)).astype(np.float32)
    layer(fresh)
    layer.plant(grown)
    forest = GradientBoostingClassifier(n_estimators=9, random_state=5, **_BOOSTING).fit(x, y[:, 0])
    said = numpy(layer(fresh))
    np.testing.assert_allclose(said[:, 0], forest.decision_function(fresh), atol=1e-5)
    np.testing.assert_allclose(said[:, 1], np.log(0.001 / 0.999), atol=1e-4)


def test_boosted_trees_start_from_the_share_of_a_class_however_rare():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 2)).astype(np.float32), np.arange(3000) < 1
    grown = [_boosted(x, y.astype(int), 2, _BOOSTING, 5)]
    layer = Trees(*_sizes(grown), boosted=True)
    layer(x)
    layer.plant(grown)
    forest = GradientBoostingClassifier(n_estimators=2, random_state=5, **_BOOSTING).fit(x, y)
    np.testing.assert_allclose(numpy(layer(x))[:, 0], forest.decision_function(x), atol=1e-4)


def test_trees_are_saved_by_name(tmp_path, monkeypatch):
    beats = toy_dataset(30)
    model = build_model("beat_forest", like=beats, trees=3, boosted=2)
    before = predict(model, beats)
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr(
        "ecg_keras.layers._NODE", dict(reversed(_NODE.items()))
    )  # as if the order had changed since
    np.testing.assert_allclose(
        predict(keras.saving.load_model(tmp_path / "model.keras"), beats), before, atol=1e-6
    )


def beats_of_a_known_shape(fs, *, noise=0.0, seconds=10):
    """Three records of two leads: a sharp R at known times, and a T wave of 0.3 that is not to be taken for one."""
    rng, t = np.random.default_rng(0), np.arange(round(seconds * fs)) / fs
    x, times = np.zeros((3, len(t), 2)), []
    for row, period in enumerate((0.6, 0.85, 1.3)):
        times.append(np.arange(0.5, seconds - 0.6, period))
        for r in times[-1]:
            wave = np.exp(-0.5 * ((t - r) / 0.012) ** 2) + 0.3 * np.exp(
                -0.5 * ((t - r - 0.25) / 0.04) ** 2
            )
            x[row] += wave[:, None] * (1.0, -0.5)
    return (x + 0.2 + noise * rng.normal(size=x.shape)).astype(np.float32), times


@pytest.mark.parametrize("fs", [100.0, 500.0])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_average_beat_has_the_shape_of_every_beat(fs, noise):
    x, _ = beats_of_a_known_shape(fs, noise=noise)
    found = numpy(AverageBeat(fs)(x))
    assert (
        found.shape == (3, 2 * (70 + 68)) == (3, AverageBeat(fs).compute_output_shape(x.shape)[1])
    )
    beat = found[:, :140].reshape(3, 70, 2)
    assert (np.abs(beat[:, :, 0].argmax(axis=1) - 25) <= 1).all()
    assert (beat[:, 24:27, 0].max(axis=1) > 0.75).all() and (
        beat[:, 24:27, 1].min(axis=1) < -0.37
    ).all()
    np.testing.assert_allclose(
        beat[:, 48:52, 0].mean(axis=1), 0.3, atol=0.04
    )  # the T wave, above the level before QRS
    slopes = found[:, 140:].reshape(3, 68, 2)
    np.testing.assert_allclose(slopes, beat[:, 2:] - beat[:, :-2], atol=1e-5)


def test_an_average_beat_does_not_depend_on_its_batch_and_bears_a_flat_line():
    x, _ = beats_of_a_known_shape(100.0, noise=0.05)
    x[2] = 0.0
    layer = AverageBeat(100.0)
    whole = numpy(layer(x))
    np.testing.assert_allclose(numpy(layer(x[1:2])), whole[1:2], atol=1e-6)
    assert not whole[2].any() and np.isfinite(whole).all()


def test_signals_too_short_for_an_average_are_refused():
    with pytest.raises(
        ValueError, match="average beat of 0.7 s needs signals at least twice as long, got 1 s"
    ):
        AverageBeat(100.0)(np.zeros((1, 100, 1), np.float32))


@pytest.mark.parametrize(
    "options", [{"trees": 30}, {"trees": 30, "boosted": 30}, {"trees": 0, "boosted": 30}]
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_forest_tells_the_classes_apart_as_it_is_built(multi_label, options):
    train, test = (toy_dataset(90, multi_label=multi_label, seed=seed) for seed in (0, 1))
    p = predict(build_model("beat_forest", like=train, **options), test)
    true = test.y.argmax(axis=1) if multi_label else test.y
    assert (p.argmax(axis=1) == true).mean() > 0.8


def test_a_forest_without_trees_is_refused():
    with pytest.raises(ValueError, match="trees of one kind or both, got trees=0 and boosted=0"):
        build_model("beat_forest", like=toy_dataset(30), trees=0)


def test_a_class_without_rows_is_never_said():
    ds = toy_dataset(30, multi_label=True)
    y = ds.y.copy()
    y[:, 2] = 0
    assert (
        predict(build_model("beat_forest", like=ds.replace(y=y), trees=3, boosted=3), ds)[
            :, 2
        ].max()
        < 0.01
    )


def test_a_branch_of_crops_says_the_mean_over_them():
    ds = toy_dataset(6, samples=500)
    options = {"crop_s": 1.6, "filters": (4, 8), "dropout": 0.0}
    model = build_model(
        "hybrid", like=ds, branches=("time",), options={"time": options}, fusion="mean", dropout=0.0
    )
    branch, dense = model.get_layer("time"), model.get_layer("time_logits")
    starts = crop_starts(500, 200)
    crops = [numpy(dense(branch(ds.x[:, start : start + 200]))) for start in starts]
    logits = numpy(keras.Model(model.inputs, dense.output)(ds.x))
    np.testing.assert_allclose(logits, np.mean(crops, axis=0), atol=1e-4)
    assert len(starts) > 2 and not np.allclose(crops[0], crops[1], atol=1e-3)


def test_training_sees_one_crop_from_a_random_start():
    x = np.arange(1000, dtype=np.float32).reshape(1, 100, 10).repeat(8, axis=0)[:, :, :1]
    layer, mean = Crops([0, 40], 60, random=True, seed=3), MeanOfCrops(2, random=True)
    first, second = (numpy(layer(x, training=True)) for _ in range(2))
    assert (
        first.shape == (8, 60, 1)
        and len(set(first[:, 0, 0])) > 2
        and not np.array_equal(first, second)
    )
    np.testing.assert_array_equal(np.diff(first[:, :, 0], axis=1), 10)
    assert numpy(mean(first, training=True)).shape == first.shape
    assert numpy(layer(x)).shape == (16, 60, 1)
