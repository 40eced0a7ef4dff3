"""Model families: shapes from the data, probabilities, saving, precision, refusals."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import ECGDataset
from ecg_keras.layers import MiniRocket, Positions, model_card
from ecg_keras.models import MODELS, build_model
from ecg_keras.saved_models import check_fits, load_model, predict, save_served
from ecg_keras.spectrograms import to_scalograms, to_spectra, to_spectrograms

IMAGE_FAMILIES = ("cnn2d", "vgg2d", "resnet2d", "scalogram_cnn")
SMALL = {
    "cnn1d": {"filters": (8, 8)},
    "resnet1d": {"filters": (8, 8), "stem_filters": 8},
    "fft_transformer": {"filters": (8,), "width": 16, "depth": 1},
    "minirocket": {"n_biases": 1},
    "beat_forest": {"trees": 3},
    "cnn2d": {"filters": (8, 8)},
    "vgg2d": {"filters": (8, 8), "dense_units": (8,)},
    "resnet2d": {"filters": (8, 8), "blocks": 1},
    "scalogram_cnn": {"filters": (8, 8)},
    "multimodal": {"filters": (8,), "width": 16},
    "hybrid": {"branches": ("time", "spectrum", "metadata")},
    "rhythm": {"filters": (4,), "units": 8, "members": 2},
    "signal_to_image": {"filters": (2, 2), "dense_units": 4},
}


@pytest.fixture(scope="module")
def beats():
    """Twelve beats of one lead, three classes."""
    return toy_dataset(12)


@pytest.fixture(scope="module")
def records():
    """Six ten-second records of twelve leads, several classes at once."""
    return toy_dataset(6, samples=1000, leads=12, fs=100.0, multi_label=True)


def _inputs(model, ds):
    """What a model eats: the array itself where it has one input."""
    arrays = ds.inputs([tensor.name for tensor in model.inputs])
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _call(model, ds):
    """Probabilities of a model for a data set, without a compiled loop."""
    return keras.ops.convert_to_numpy(model(_inputs(model, ds), training=False))


@pytest.mark.parametrize("name", MODELS)
def test_beats_get_probabilities_that_sum_to_one(name, beats):
    outputs = _call(build_model(name, like=beats, **SMALL[name]), beats)
    assert outputs.shape == (12, 3) and outputs.dtype == np.float32
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_twelve_leads_and_several_classes_at_once(name, records):
    model = build_model(name, like=records, **SMALL[name])
    assert model.get_layer("probabilities").activation is keras.activations.sigmoid
    outputs = _call(model, records)
    assert outputs.shape == (6, 3) and ((outputs > 0) & (outputs < 1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_default_options_build_for_five_thousand_samples(name):
    like = toy_dataset(2, n_classes=2, samples=5000, leads=12, fs=500.0)
    assert build_model(name, like=like).output_shape == (None, 2)


@pytest.mark.parametrize("name", MODELS)
def test_save_load_and_predict_agree(name, beats, tmp_path):
    model = build_model(name, like=beats, **SMALL[name])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(_call(again, beats), _call(model, beats), atol=1e-6)
    np.testing.assert_allclose(
        again.predict(_inputs(again, beats), verbose=0), _call(model, beats), atol=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_file_that_users_get_agrees_with_the_network_it_was_made_of(name, records, tmp_path):
    model = build_model(name, like=records, **SMALL[name])
    save_served(tmp_path / "model.keras", model, records)
    loaded = load_model(tmp_path / "model.keras")
    card = model_card(loaded)
    np.testing.assert_allclose(predict(loaded, records), predict(model, records), atol=1e-5)
    assert card["metadata_names"] == (
        ["age", "sex"] if "metadata" in [tensor.name for tensor in model.inputs] else None
    )


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_gives_same_weights(name, beats):
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        weights.append(build_model(name, like=beats, **SMALL[name]).get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights))


@pytest.mark.parametrize("name", MODELS)
def test_a_step_under_mixed_precision_is_finite_and_ends_in_float32(name, beats):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model(name, like=beats, **SMALL[name])
        model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
        loss = model.train_on_batch(_inputs(model, beats), beats.y)
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


@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_image_families_see_the_same_in_images_as_in_signals(name, beats):
    images = to_scalograms(beats) if name == "scalogram_cnn" else to_spectrograms(beats)
    keras.utils.set_random_seed(0)
    from_images = build_model(name, like=images, **SMALL[name])
    keras.utils.set_random_seed(0)
    from_signals = build_model(name, like=beats, **SMALL[name])
    assert [tensor.name for tensor in from_images.inputs] == ["image"]
    np.testing.assert_allclose(_call(from_signals, beats), _call(from_images, images), atol=1e-4)


def test_spectra_as_data_and_inside_the_model_agree(beats):
    spectra = to_spectra(beats)
    keras.utils.set_random_seed(0)
    outside = build_model("fft_transformer", like=spectra, **SMALL["fft_transformer"])
    keras.utils.set_random_seed(0)
    inside = build_model("fft_transformer", like=beats, **SMALL["fft_transformer"])
    np.testing.assert_allclose(_call(inside, beats), _call(outside, spectra), atol=1e-4)


def test_attention_sees_few_positions_of_a_long_record():
    like = toy_dataset(2, n_classes=2, samples=5000, fs=500.0)
    model = build_model("multimodal", like=like, filters=(8,), width=16)
    for branch in ("time", "spectrum"):
        assert model.get_layer(branch).get_layer("features").output.shape[1] <= 128


def test_positions_tell_the_order():
    x = keras.random.normal((1, 10, 16), seed=0)
    moved = np.asarray(Positions()(x))
    assert np.abs(moved - np.asarray(Positions()(x[:, ::-1]))[:, ::-1]).max() > 0.5


def test_metadata_is_standardised_by_the_train_rows(beats):
    model = build_model("multimodal", like=beats, **SMALL["multimodal"])
    layer = model.get_layer("metadata_branch").get_layer("standardize")
    np.testing.assert_allclose(np.asarray(layer(beats.metadata)).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(layer(beats.metadata)).std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("name", ("multimodal", "hybrid"))
def test_a_data_set_without_metadata_leaves_that_branch_out(name, beats):
    model = build_model(name, like=beats.replace(metadata=None, metadata_names=None), **SMALL[name])
    assert [tensor.name for tensor in model.inputs] == ["signal"]


def test_the_last_feature_map_of_a_family_is_named(beats):
    for name in set(MODELS) - {
        "minirocket",
        "beat_forest",
    }:  # which have no map that one could look at
        model = build_model(name, like=beats, **SMALL[name])
        models = [model] + [
            layer
            for layer in model.layers
            if isinstance(layer, keras.Model) and layer.name != "metadata_branch"
        ]
        assert any("features" in [layer.name for layer in part.layers] for part in models), name


def test_a_flattened_map_keeps_its_places(beats):
    pooled, flat = (
        build_model("resnet1d", like=beats, filters=(4, 8), pooling=how)
        for how in ("mean", "flatten")
    )
    length, channels = pooled.get_layer("features").output.shape[1:]
    assert pooled.get_layer("probabilities").kernel.shape[0] == channels == 8
    assert flat.get_layer("probabilities").kernel.shape[0] == length * channels
    with pytest.raises(ValueError, match="flatten"):
        build_model("resnet1d", like=beats, pooling="flat")


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
    log = np.log(_call(alone, beats)), np.log(_call(images, beats))
    mean = np.exp((log[0] + log[1]) / 2)
    np.testing.assert_allclose(
        _call(model, beats), mean / mean.sum(axis=1, keepdims=True), atol=1e-4
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
    logits = [np.log(_call(model, beats)) for model in trained.values()]
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
        _call(model, beats), mean / mean.sum(axis=1, keepdims=True), atol=1e-5
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
    with pytest.raises(
        ValueError,
        match="branch 'time' needs a model with the one input signal .187, 1., got signal .1000, 12.",
    ):
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


def test_minirocket_counts_positive_values_of_its_kernels():
    x = np.random.default_rng(0).normal(size=(4, 100, 3)).astype(np.float32)
    layer = MiniRocket([1, 4], n_biases=2, seed=3)
    layer.adapt(x)
    shares = keras.ops.convert_to_numpy(layer(x)).reshape(4, 2, 2, 84)
    for i, dilation in enumerate(layer.dilations):
        kernel = keras.ops.convert_to_numpy(layer.kernels)[i, :, :, 40]  # (9, leads)
        assert sorted(set(kernel[:, kernel.any(axis=0)].ravel())) == [-1, 2]
        padded = np.pad(x, ((0, 0), (4 * dilation, 4 * dilation), (0, 0)))
        values = sum(
            padded[:, tap * dilation : tap * dilation + 100] @ kernel[tap] for tap in range(9)
        )
        for j in range(2):
            bias = float(keras.ops.convert_to_numpy(layer.biases)[i, j, 40])
            np.testing.assert_allclose(
                shares[:, i, j, 40], (values > bias).mean(axis=1), atol=0.011
            )  # one sample


def test_minirocket_tells_sines_apart_without_training():
    train, test = toy_dataset(120, seed=1), toy_dataset(60, seed=2)
    assert (
        _call(build_model("minirocket", like=train), test).argmax(axis=1) == test.y
    ).mean() > 0.9


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
    np.testing.assert_allclose(_call(model, beats), keras.ops.convert_to_numpy(expected), atol=1e-5)
    before = model.get_layer("time").get_weights()
    inside = keras.ops.convert_to_numpy(model(beats.x, training=True))
    model.get_layer("time").set_weights(before)
    np.testing.assert_allclose(
        inside, keras.ops.convert_to_numpy(soft(alone(beats.x, training=True))), atol=1e-5
    )
