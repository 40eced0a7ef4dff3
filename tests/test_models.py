"""What every model family keeps: shapes, probabilities, seeds, saving, precision, refusals."""

import inspect
import re

import keras
import numpy as np
import pytest
from conftest import toy_dataset
from families import SMALL, call, inputs_of

from ecg_keras import ECGDataset
from ecg_keras.layers import model_card
from ecg_keras.models import MODELS, build_model, families
from ecg_keras.saved_models import check_fits, load_model, predict, save_served
from ecg_keras.spectrograms import to_spectra, to_spectrograms


@pytest.fixture(scope="module")
def beats():
    """Twelve beats of one lead, three classes."""
    return toy_dataset(12)


@pytest.fixture(scope="module")
def records():
    """Six ten-second records of twelve leads, several classes at once."""
    return toy_dataset(6, samples=1000, leads=12, fs=100.0, multi_label=True)


@pytest.fixture(scope="module", params=MODELS)
def small(request, beats):
    """A family and a small model of it for beats."""
    return request.param, build_model(request.param, like=beats, **SMALL[request.param])


@pytest.fixture(scope="module", params=MODELS)
def multi_label(request, records):
    """A small model of each family for records of twelve leads with several classes."""
    return build_model(request.param, like=records, **SMALL[request.param])


def test_every_family_says_its_idea_its_input_and_its_source():
    kinds = ("signal", "spectrogram", "scalogram", "spectrum", "signal and metadata")
    rows = families()
    assert [row["name"] for row in rows] == list(MODELS)
    for row in rows:
        assert 20 < len(row["idea"]) <= 80 and row["idea"].endswith("."), row
        assert row["input"] in (*kinds, "several views"), row
        assert re.match(r"own\b|[A-Z].* (19|20)\d\d, \w", row["source"]), row


def test_build_model_names_every_family():
    named = re.findall(r'"(\w+)"', inspect.getdoc(build_model).split("like : ECGDataset")[0])
    assert set(named) == set(MODELS)


def test_beats_get_probabilities_that_sum_to_one(small, beats):
    outputs = call(small[1], beats)
    assert outputs.shape == (12, 3) and outputs.dtype == np.float32
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)


def test_save_load_and_predict_agree(small, beats, tmp_path):
    model = small[1]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(call(again, beats), call(model, beats), atol=1e-6)
    np.testing.assert_allclose(
        again.predict(inputs_of(again, beats), verbose=0), call(model, beats), atol=1e-5
    )


def test_the_last_feature_map_is_named(small):
    name, model = small
    models = [model] + [
        layer
        for layer in model.layers
        if isinstance(layer, keras.Model) and layer.name != "metadata_branch"
    ]
    named = any("features" in [layer.name for layer in part.layers] for part in models)
    # these two have no map that one could look at
    assert named == (name not in ("minirocket", "beat_forest"))


def test_twelve_leads_and_several_classes_at_once(multi_label, records):
    assert multi_label.get_layer("probabilities").activation is keras.activations.sigmoid
    outputs = call(multi_label, records)
    assert outputs.shape == (6, 3) and ((outputs > 0) & (outputs < 1)).all()


def test_the_file_that_users_get_agrees_with_the_network_it_was_made_of(
    multi_label, records, tmp_path
):
    model = multi_label
    save_served(tmp_path / "model.keras", model, records)
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, records), predict(model, records), atol=1e-5)
    assert model_card(loaded)["metadata_names"] == (
        ["age", "sex"] if "metadata" in [tensor.name for tensor in model.inputs] else None
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_default_options_build_for_five_thousand_samples(name):
    like = toy_dataset(2, n_classes=2, samples=5000, leads=12, fs=500.0)
    assert build_model(name, like=like).output_shape == (None, 2)


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_gives_same_weights(name, beats):
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        weights.append(build_model(name, like=beats, **SMALL[name]).get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_under_mixed_precision_is_finite_and_ends_in_float32(name, beats):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model(name, like=beats, **SMALL[name])
        model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
        loss = model.train_on_batch(inputs_of(model, beats), beats.y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(loss) and model.outputs[0].dtype == "float32"


@pytest.mark.parametrize("name", MODELS)
def test_misspelled_option_is_refused(name, beats):
    with pytest.raises(TypeError, match="droput"):
        build_model(name, like=beats, droput=0.5)


def test_unknown_family_is_refused(beats):
    with pytest.raises(
        ValueError, match="name='cnn3d' is not known; choose one of 'cnn1d', 'resnet1d'"
    ):
        build_model("cnn3d", like=beats)


def test_signal_families_refuse_images(beats):
    with pytest.raises(
        ValueError, match="resnet1d needs signals of shape .samples, leads.; like holds images"
    ):
        build_model("resnet1d", like=to_spectrograms(beats))
    with pytest.raises(ValueError, match="like holds images of shape .17, 32, 1."):
        build_model("fft_transformer", like=to_spectrograms(beats))
    with pytest.raises(ValueError, match="like holds spectra"):
        build_model("cnn2d", like=to_spectra(beats))


def test_a_data_set_that_does_not_fit_is_named(beats, records):
    model = build_model("multimodal", like=beats, **SMALL["multimodal"])
    check_fits(model, beats)
    with pytest.raises(
        ValueError,
        match=r"input 'signal' needs rows of shape \(187, 1\), the data set has \(1000, 12\)",
    ):
        check_fits(model, records)
    with pytest.raises(ValueError, match="input 'metadata', which this data set does not hold"):
        check_fits(model, beats.replace(metadata=None, metadata_names=None))
    two = ECGDataset(
        beats.x,
        beats.y % 2,
        classes="NV",
        fs=125,
        metadata=beats.metadata,
        metadata_names=beats.metadata_names,
    )
    with pytest.raises(ValueError, match="3 outputs, the data set 2 classes"):
        check_fits(model, two)


def test_crops_are_cut_to_length(records):
    model = build_model("resnet1d", like=records, crop_s=2.5, **SMALL["resnet1d"])
    assert model.input_shape == (None, 250, 12)
    with pytest.raises(
        ValueError, match="crop_s=20 needs signals of at least that length, got signals of 10 s"
    ):
        build_model("resnet1d", like=records, crop_s=20)
