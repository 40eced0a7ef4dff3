"""Families for beats of unseen patients: shapes, seeds, saving, and what each input does."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras.fused_models import rhythm
from ecg_keras.image_models import signal_to_image


@pytest.fixture
def like():
    """Beats of two leads with the typical beat beside them."""
    ds = toy_dataset(n=48, leads=4, samples=125)
    return ds.replace(leads=("MLII", "V1", "MLII typical", "V1 typical"))


SMALL = {"filters": (4, 8), "units": 16, "joint_units": 8, "shape_units": 4, "members": 2}


def test_output_is_a_probability_of_each_class(like):
    y = rhythm(like, **SMALL).predict(like.inputs(["signal", "metadata"]), verbose=0)
    assert y.shape == (48, 3)
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-5)


def test_the_beat_is_compared_with_the_typical_beat(like):
    difference = keras.Model(*_ends(rhythm(like, **SMALL), "with_difference"))
    y = np.asarray(difference(like.x))
    np.testing.assert_allclose(y[:, :, 4:], like.x[:, :, :2] - like.x[:, :, 2:], atol=1e-6)


def _ends(model, name):
    return model.inputs[0], model.get_layer(name).output


def test_without_filters_only_the_metadata_decide(like):
    model = rhythm(like, **SMALL | {"filters": ()})
    inputs = like.inputs(["signal", "metadata"])
    y = model.predict(inputs, verbose=0)
    np.testing.assert_array_equal(y, model.predict(inputs | {"signal": 0 * like.x}, verbose=0))
    other = inputs | {"metadata": like.metadata[::-1].copy()}
    assert not np.allclose(y, model.predict(other, verbose=0))


def test_an_absurd_feature_moves_the_answer_no_further_than_the_limit(like):
    model = rhythm(like, **SMALL, limit=3.0)
    far, further = (like.replace(metadata=like.metadata + shift) for shift in (1e4, 1e8))
    one, two = (
        model.predict(ds.inputs(["signal", "metadata"]), verbose=0) for ds in (far, further)
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_members_differ_and_are_averaged(like):
    model = rhythm(like, **SMALL)
    members = [keras.Model(model.inputs, model.get_layer(f"member_{i}").output) for i in range(2)]
    one, two = (np.asarray(m([like.x, like.metadata])) for m in members)
    assert not np.allclose(one, two)
    np.testing.assert_allclose(
        np.asarray(model([like.x, like.metadata])), (one + two) / 2, atol=1e-5
    )


@pytest.mark.parametrize("family", [rhythm, signal_to_image])
def test_same_seed_same_weights(like, family):
    like = like if family is rhythm else toy_dataset(n=12)
    options = SMALL if family is rhythm else {"filters": (2, 2, 2), "dense_units": 4}
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        weights.append(family(like, **options).get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("family", [rhythm, signal_to_image])
def test_a_saved_model_answers_the_same(like, family, tmp_path):
    ds = like if family is rhythm else toy_dataset(n=12)
    options = SMALL if family is rhythm else {"filters": (2, 2, 2), "dense_units": 4}
    model = family(ds, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = ds.inputs([tensor.name for tensor in model.inputs])
    inputs = inputs if len(inputs) > 1 else ds.x
    np.testing.assert_allclose(
        model.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0), atol=1e-6
    )


def test_signal_to_image_is_the_published_recipe():
    model = signal_to_image(toy_dataset(n=6))
    assert model.get_layer("spectrogram").output.shape == (None, 128, 128, 3)
    kinds = [
        type(layer).__name__
        for layer in model.layers
        if not layer.name.startswith(("spectrogram", "features", "signal"))
    ]
    stage = ["Conv2D", "BatchNormalization", "MaxPooling2D"]
    assert kinds == [*stage * 3, "Flatten", "Dense", "Dropout", "Dense"]


def test_an_image_does_not_depend_on_its_batch():
    ds = toy_dataset(n=6)
    image = keras.Model(*_ends(signal_to_image(ds), "spectrogram"))
    alone, among = (
        np.asarray(image(ds.x[:1])),
        np.asarray(image(ds.x * np.array([1] + [1e3] * 5)[:, None, None])),
    )
    np.testing.assert_allclose(alone[0], among[0], atol=1e-5)


def test_metadata_are_needed(like):
    with pytest.raises(ValueError, match="rhythm needs metadata"):
        rhythm(like.replace(metadata=None, metadata_names=None))


def test_misspelled_option_is_refused(like):
    with pytest.raises(TypeError, match="droput"):
        rhythm(like, droput=0.5)


def test_trained_on_some_records_and_measured_on_others_by_the_saved_file(tmp_path):
    """The whole way: records, fit, a file, and other records prepared as the file says."""
    pytest.importorskip("wfdb")
    from ecg_keras import fit_and_report
    from ecg_keras.demo import write_demo_records
    from ecg_keras.layers import model_card
    from ecg_keras.mitbih_records import load_beats, load_mitbih_records
    from ecg_keras.presets import PRESETS
    from ecg_keras.saved_models import load_model, predict

    write_demo_records(tmp_path / "records", n_patients=6, duration_s=60)
    settings = PRESETS["mitbih_records"]["rhythm"]["load"] | {
        "split": "patient",
        "val_records": None,
    }
    parts = load_mitbih_records(tmp_path / "records", **settings)
    model = rhythm(parts[0], filters=(), members=2)
    fit_and_report(model, *parts, out_dir=tmp_path / "out", epochs=1, progress=False)
    saved = load_model(tmp_path / "out" / "model.keras")
    card = model_card(saved)
    again = load_beats(tmp_path / "records", sorted(set(parts[2].records)), **card["preparation"])
    np.testing.assert_allclose(predict(saved, again), predict(model, parts[2]), atol=1e-5)
