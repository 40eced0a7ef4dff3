"""Families that join several views: hybrid, multimodal, and rhythm for patients never seen."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from families import SMALL, call

from ecg_keras import build_model
from ecg_keras.fused_models import rhythm
from ecg_keras.layers import crop_starts, model_card
from ecg_keras.saved_models import predict, save_served

RHYTHM = {"filters": (4, 8), "units": 16, "joint_units": 8, "shape_units": 4, "members": 2}


@pytest.fixture(scope="module")
def beats():
    """Twelve beats of one lead, three classes."""
    return toy_dataset(12)


@pytest.fixture(scope="module")
def records():
    """Six ten-second records of twelve leads, several classes at once."""
    return toy_dataset(6, samples=1000, leads=12, fs=100.0, multi_label=True)


@pytest.fixture
def like():
    """Beats of two leads with the typical beat beside them."""
    ds = toy_dataset(n=48, leads=4, samples=125)
    return ds.replace(leads=("MLII", "V1", "MLII typical", "V1 typical"))


def test_metadata_is_standardised_by_the_train_rows(beats):
    model = build_model("multimodal", like=beats, **SMALL["multimodal"])
    layer = model.get_layer("metadata_branch").get_layer("standardize")
    np.testing.assert_allclose(np.asarray(layer(beats.metadata)).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(layer(beats.metadata)).std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("name", ("multimodal", "hybrid"))
def test_a_data_set_without_metadata_leaves_that_branch_out(name, beats):
    model = build_model(name, like=beats.replace(metadata=None, metadata_names=None), **SMALL[name])
    assert [tensor.name for tensor in model.inputs] == ["signal"]


def test_hybrid_starts_from_models_trained_alone(beats):
    alone = build_model("resnet1d", like=beats, filters=(8, 16), stem_filters=8, dropout=0.0)
    images = build_model("vgg2d", like=beats, filters=(8,), dense_units=(6,))
    for model in (alone, images):
        for weight in model.weights:
            weight.assign(np.random.default_rng(0).uniform(0.02, 0.06, weight.shape))
    trained = {"time": alone, "spectrogram": images}
    model = build_model(
        "hybrid", like=beats, branches=tuple(trained), trained=trained, fusion="mean"
    )
    log = np.log(call(alone, beats)), np.log(call(images, beats))
    mean = np.exp((log[0] + log[1]) / 2)
    np.testing.assert_allclose(
        call(model, beats), mean / mean.sum(axis=1, keepdims=True), atol=1e-4
    )
    before = alone.get_weights()
    model.get_layer("time").set_weights(
        [0 * weight for weight in model.get_layer("time").get_weights()]
    )
    assert all(
        np.array_equal(a, b) for a, b in zip(before, alone.get_weights())
    )  # a copy, not the model itself


def test_branches_count_as_much_in_the_mean_as_their_weights_say(beats):
    networks = {"time": "resnet1d", "spectrum": "fft_transformer"}
    trained = {
        view: build_model(name, like=beats, **SMALL[name]) for view, name in networks.items()
    }
    logits = [np.log(call(model, beats)) for model in trained.values()]
    model = build_model(
        "hybrid",
        like=beats,
        branches=tuple(trained),
        trained=trained,
        fusion="mean",
        weights={"time": 3},
    )
    mean = np.exp(0.75 * logits[0] + 0.25 * logits[1])
    np.testing.assert_allclose(
        call(model, beats), mean / mean.sum(axis=1, keepdims=True), atol=1e-5
    )
    for weights, fusion in (({"time": 3}, "concatenate"), ({"time": 0}, "mean")):
        with pytest.raises(ValueError, match="weights are positive numbers"):
            build_model(
                "hybrid", like=beats, branches=tuple(trained), fusion=fusion, weights=weights
            )


def test_hybrid_freezes_trained_branches(beats):
    alone = build_model("resnet1d", like=beats, **SMALL["resnet1d"])
    model = build_model(
        "hybrid", like=beats, branches=("time", "metadata"), trained={"time": alone}, freeze=True
    )
    assert not model.get_layer("time").trainable_weights and model.trainable_weights


def test_hybrid_refuses_what_does_not_fit(beats, records):
    needs = "branch 'time' needs a model with the one input signal .187, 1., got signal .1000, 12."
    with pytest.raises(ValueError, match=needs):
        build_model(
            "hybrid",
            like=beats,
            branches=("time",),
            trained={"time": build_model("resnet1d", like=records)},
        )
    two = build_model(
        "resnet1d", like=beats.replace(y=beats.y % 2, classes="NV"), **SMALL["resnet1d"]
    )
    with pytest.raises(ValueError, match="a trained model of the same 3 classes, got one of 2"):
        build_model("hybrid", like=beats, branches=("time",), trained={"time": two}, fusion="mean")
    with pytest.raises(ValueError, match="branch='tame' is not known"):
        build_model("hybrid", like=beats, branches=("tame",))
    with pytest.raises(ValueError, match="at least one of time"):
        build_model("hybrid", like=beats, branches=("metadata",))


def test_hybrid_takes_a_saved_model(records, tmp_path):
    alone = build_model("resnet1d", like=records, crop_s=2.5, **SMALL["resnet1d"])
    save_served(tmp_path / "model.keras", alone, records)
    options = {
        "branches": ("time",),
        "trained": {"time": str(tmp_path / "model.keras")},
        "fusion": "mean",
        "dropout": 0.0,
    }
    model = build_model("hybrid", like=records, crop_s=2.5, **options)
    np.testing.assert_allclose(predict(model, records), predict(alone, records), atol=1e-5)


def test_branches_that_are_kept_join_only_outside_training(beats):
    model = build_model(
        "hybrid", like=beats, branches=("time", "minirocket"), fusion="mean", dropout=0.0
    )
    alone = keras.Model(model.input, model.get_layer("time_logits").output)
    kept = keras.Model(model.input, model.get_layer("minirocket_logits").output)
    assert (
        not model.get_layer("minirocket").trainable_weights
        and not model.get_layer("minirocket_logits").trainable_weights
    )
    soft = keras.ops.softmax
    expected = soft((alone(beats.x, training=False) + kept(beats.x, training=False)) / 2)
    np.testing.assert_allclose(call(model, beats), keras.ops.convert_to_numpy(expected), atol=1e-5)
    before = model.get_layer("time").get_weights()
    inside = keras.ops.convert_to_numpy(model(beats.x, training=True))
    model.get_layer("time").set_weights(before)
    np.testing.assert_allclose(
        inside, keras.ops.convert_to_numpy(soft(alone(beats.x, training=True))), atol=1e-5
    )


def test_a_branch_of_crops_says_the_mean_over_them():
    ds = toy_dataset(6, samples=500)
    options = {"crop_s": 1.6, "filters": (4, 8), "dropout": 0.0}
    model = build_model(
        "hybrid", like=ds, branches=("time",), options={"time": options}, fusion="mean", dropout=0.0
    )
    branch, dense = model.get_layer("time"), model.get_layer("time_logits")
    starts = crop_starts(500, 200)
    crops = [
        keras.ops.convert_to_numpy(dense(branch(ds.x[:, start : start + 200]))) for start in starts
    ]
    logits = keras.ops.convert_to_numpy(keras.Model(model.inputs, dense.output)(ds.x))
    np.testing.assert_allclose(logits, np.mean(crops, axis=0), atol=1e-4)
    assert len(starts) > 2 and not np.allclose(crops[0], crops[1], atol=1e-3)


def test_output_is_a_probability_of_each_class(like):
    y = rhythm(like, **RHYTHM).predict(like.inputs(["signal", "metadata"]), verbose=0)
    assert y.shape == (48, 3)
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-5)


def test_the_beat_is_compared_with_the_typical_beat(like):
    difference = keras.Model(*_ends(rhythm(like, **RHYTHM), "with_difference"))
    y = np.asarray(difference(like.x))
    np.testing.assert_allclose(y[:, :, 4:], like.x[:, :, :2] - like.x[:, :, 2:], atol=1e-6)


def _ends(model, name):
    return model.inputs[0], model.get_layer(name).output


def test_without_filters_only_the_metadata_decide(like):
    model = rhythm(like, **RHYTHM | {"filters": ()})
    inputs = like.inputs(["signal", "metadata"])
    y = model.predict(inputs, verbose=0)
    np.testing.assert_array_equal(y, model.predict(inputs | {"signal": 0 * like.x}, verbose=0))
    other = inputs | {"metadata": like.metadata[::-1].copy()}
    assert not np.allclose(y, model.predict(other, verbose=0))


def test_an_absurd_feature_moves_the_answer_no_further_than_the_limit(like):
    model = rhythm(like, **RHYTHM, limit=3.0)
    far, further = (like.replace(metadata=like.metadata + shift) for shift in (1e4, 1e8))
    one, two = (
        model.predict(ds.inputs(["signal", "metadata"]), verbose=0) for ds in (far, further)
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_members_differ_and_are_averaged(like):
    model = rhythm(like, **RHYTHM)
    members = [keras.Model(model.inputs, model.get_layer(f"member_{i}").output) for i in range(2)]
    one, two = (np.asarray(m([like.x, like.metadata])) for m in members)
    assert not np.allclose(one, two)
    np.testing.assert_allclose(
        np.asarray(model([like.x, like.metadata])), (one + two) / 2, atol=1e-5
    )


def test_same_seed_same_weights_and_a_saved_model_answers_the_same(like, tmp_path):
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        models.append(rhythm(like, **RHYTHM))
    for a, b in zip(*(model.get_weights() for model in models)):
        np.testing.assert_array_equal(a, b)
    models[0].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = like.inputs(["signal", "metadata"])
    found = [model.predict(inputs, verbose=0) for model in (models[0], loaded)]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_metadata_are_needed(like):
    with pytest.raises(ValueError, match="rhythm needs metadata"):
        rhythm(like.replace(metadata=None, metadata_names=None))


def test_trained_on_some_records_and_measured_on_others_by_the_saved_file(tmp_path):
    """The whole way: records, fit, a file, and other records prepared as the file says."""
    pytest.importorskip("wfdb")
    from ecg_keras import fit_and_report
    from ecg_keras.demo import write_demo_records
    from ecg_keras.mitbih_records import load_beats, load_mitbih_records
    from ecg_keras.presets import PRESETS
    from ecg_keras.saved_models import load_model

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
