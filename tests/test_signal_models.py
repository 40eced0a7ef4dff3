"""Families along one axis: spectra, MiniRocket's readout, and decision trees."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from families import SMALL, call
from sklearn.ensemble import GradientBoostingClassifier

from ecg_keras import build_model
from ecg_keras.layers import Trees
from ecg_keras.saved_models import predict
from ecg_keras.signal_models import _BOOSTING, _boosted, _ridge, _sizes
from ecg_keras.spectrograms import to_spectra

pytestmark = pytest.mark.numeric


def numpy(tensor):
    """A tensor of any backend as an array."""
    return keras.ops.convert_to_numpy(tensor)


def test_spectra_as_data_and_inside_the_model_agree():
    beats = toy_dataset(12)
    spectra = to_spectra(beats)
    keras.utils.set_random_seed(0)
    outside = build_model("fft_transformer", like=spectra, **SMALL["fft_transformer"])
    keras.utils.set_random_seed(0)
    inside = build_model("fft_transformer", like=beats, **SMALL["fft_transformer"])
    np.testing.assert_allclose(call(inside, beats), call(outside, spectra), atol=1e-4)


def test_minirocket_tells_sines_apart_without_training():
    train, test = toy_dataset(120, seed=1), toy_dataset(60, seed=2)
    assert (call(build_model("minirocket", like=train), test).argmax(axis=1) == test.y).mean() > 0.9


@pytest.mark.parametrize("n", [20, 200])  # fewer rows than features, and more
def test_the_readout_is_the_ridge_regression_of_standardised_features(n):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (n, 40, 1)).astype(np.float32)
    targets = rng.integers(0, 2, (n, 3)).astype(float)
    inputs = keras.Input((40, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    weights, intercept = _ridge(model, x, targets, 3e-4)
    z = x[..., 0].astype(float)
    z = (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-6)
    normal = z.T @ z + 3e-4 * z.size * np.eye(40)  # the normal equations
    exact = z @ np.linalg.solve(normal, z.T @ (targets - targets.mean(axis=0)))
    np.testing.assert_allclose(
        x[..., 0] @ weights + intercept, exact + targets.mean(axis=0), atol=1e-4
    )


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
