"""What this package uses of Keras's private graph is still there; each test names what moved."""

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import build_model
from ecg_keras.keras_graph import feature_maps, forward, output_kind, producer, producers, readers

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def network():
    """Two convolutions side by side on one input, joined."""
    signal = keras.Input((16, 1), name="signal")
    left = keras.layers.Conv1D(2, 3, name="left")(signal)
    right = keras.layers.Conv1D(2, 3, name="right")(signal)
    joined = keras.layers.Add(name="joined")([left, right])
    x = keras.layers.GlobalAveragePooling1D(name="pooled")(joined)
    return keras.Model(signal, keras.layers.Dense(2, activation="softmax", name="out")(x))


def test_keras_tensors_know_the_layer_that_made_them(network):
    joined = network.get_layer("joined")
    assert producer(joined.output) is joined, "KerasTensor._keras_history.operation has moved"


def test_keras_layers_know_the_tensors_they_take(network):
    found = producers(network.get_layer("joined"))
    wanted = [network.get_layer(name) for name in ("left", "right")]
    assert found == wanted, "Layer._inbound_nodes[0].input_tensors has moved"


def test_keras_layers_know_the_layers_that_take_their_output(network):
    found = {layer.name for layer in readers(network.inputs[0])}
    assert found == {"left", "right"}, "Operation._outbound_nodes[...].operation has moved"


def test_the_call_of_a_layer_can_be_replaced_on_the_layer_itself(network):
    layer = network.get_layer("left")
    x = np.ones((1, 16, 1), np.float32)
    before = keras.ops.convert_to_numpy(layer(x))
    call = layer.call
    layer.call = lambda *args, **kwargs: call(*args, **kwargs) + 1
    try:
        after = keras.ops.convert_to_numpy(layer(x))
    finally:
        layer.__dict__.pop("call", None)
    np.testing.assert_allclose(
        after, before + 1, err_msg="Layer.__call__ no longer calls self.call"
    )
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), before)


def test_logits_are_those_whose_softmax_the_network_gives(network):
    x = np.random.default_rng(0).normal(size=(3, 16, 1)).astype(np.float32)
    logits = forward(network)([x])
    assert output_kind(network) == "softmax"
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, network.predict_on_batch(x), atol=1e-6)  # share


def test_each_branch_of_a_hybrid_has_a_map():
    ds = toy_dataset(12, samples=187)
    model = build_model("hybrid", like=ds, branches=("time", "spectrogram"))
    maps = feature_maps(model, None, duration_s=187 / 125)
    assert [m.kind for m in maps] == ["time", "image"] and [m.n_crops for m in maps] == [1, 1]
