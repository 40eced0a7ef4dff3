"""Run a network to its logits, and differentiate its score by its inner feature maps, on each backend.

Conventions
-----------
Functions made here take a list of float32 arrays in the order of the network's inputs. They are
compiled once and read the network's weights at each call. Gradients are of a class's
log-odds, as `probe.py` defines them.
"""

import contextlib

import keras
import numpy as np

LIMIT = 1e-7  # probabilities stay this far from 0 and 1 before their logarithm is taken


def output_kind(network):
    """ "softmax" or "sigmoid", by the activation of the layer that gives the output; None for another."""
    activation = getattr(network.outputs[0]._keras_history.operation, "activation", None)
    return {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}.get(
        activation
    )


def forward(network):
    """A function from a list of arrays to logits, compiled; reads the weights at each call."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        shapes = [tf.TensorSpec([None, *tensor.shape[1:]], tf.float32) for tensor in network.inputs]

        @tf.function(input_signature=[shapes])
        def run(inputs):
            with _without_activation(network):
                return tf.cast(network(inputs, training=False), tf.float32)

        return lambda inputs: run([tf.convert_to_tensor(array) for array in inputs]).numpy()
    if backend == "jax":
        import jax

        @jax.jit
        def run(trained, fixed, inputs):
            with _without_activation(network):
                return network.stateless_call(trained, fixed, inputs, training=False)[0].astype(
                    "float32"
                )

        def padded(inputs):
            n = len(inputs[0])
            room = max(16, 1 << (n - 1).bit_length())  # few shapes to compile for
            inputs = [
                np.concatenate([array, np.zeros((room - n, *array.shape[1:]), np.float32)])
                for array in inputs
            ]
            return np.asarray(run(*_values(network), inputs))[:n]

        return padded

    def run(inputs):
        with _without_activation(network):
            return keras.ops.convert_to_numpy(
                network([keras.ops.convert_to_tensor(a) for a in inputs], training=False)
            )

    return run


def backward(network, layers, crops, kind, view):
    """Make the function that differentiates the targets' log-odds by feature maps and by one of the inputs.

    The one place where a backend's own differentiation is used.

    Parameters
    ----------
    network : keras.Model
    layers : sequence of keras layers
        Whose outputs are the feature maps.
    crops : sequence of int
        Maps of each layer per row.
    kind : {"softmax", "sigmoid", None}
        What the network ends in.
    view : int
        Number of the input.

    Returns
    -------
    function
        From a list of arrays and one-hot targets (n, classes) to the maps, their gradients and the input's gradient.
    """

    def total(logits, chosen):
        """Sum over rows of the chosen class's log-odds; rows do not mix, so each row's gradient is its own."""
        ops = keras.ops
        logits = ops.cast(logits, "float32")
        score = ops.sum(logits * chosen, axis=1)
        if kind == "softmax":
            score = score - ops.logsumexp(logits - 1e9 * chosen, axis=1)
        elif kind is None:
            score = ops.log(score + LIMIT) - ops.log(1 - score + LIMIT)
        return ops.sum(score)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run(inputs, chosen):
            maps = [None] * len(layers)
            with tf.GradientTape() as tape:
                tape.watch(inputs[view])

                def keep(i, output):
                    tape.watch(output)
                    maps[i] = output
                    return output

                with _tapped(layers, keep), _without_activation(network):
                    score = total(network(inputs, training=False), chosen)
            *gradients, slope = tape.gradient(
                score, [*maps, inputs[view]], unconnected_gradients="zero"
            )
            return maps, gradients, slope

        return lambda inputs, chosen: run(
            [tf.convert_to_tensor(a) for a in inputs], tf.convert_to_tensor(chosen)
        )
    if backend == "jax":
        import jax

        def score(deltas, seen, values, inputs, chosen):
            maps = [None] * len(layers)
            inputs = [seen if i == view else array for i, array in enumerate(inputs)]

            def keep(i, output):  # a zero added to the map: its gradient is the map's
                maps[i] = output
                return output + deltas[i]

            with _tapped(layers, keep), _without_activation(network):
                logits, _ = network.stateless_call(*values, inputs, training=False)
            return total(logits, chosen), maps

        graph = jax.jit(jax.grad(score, argnums=(0, 1), has_aux=True))

        def run(inputs, chosen):
            n = len(chosen)
            deltas = [
                np.zeros((n * k, *layer.output.shape[1:]), np.float32)
                for layer, k in zip(layers, crops)
            ]
            (gradients, slope), maps = graph(deltas, inputs[view], _values(network), inputs, chosen)
            return maps, gradients, slope

        return run

    import torch

    def run(inputs, chosen):
        maps = [None] * len(layers)

        def keep(i, output):
            maps[i] = output if output.requires_grad else output.requires_grad_()
            return maps[i]

        with torch.enable_grad(), _tapped(layers, keep), _without_activation(network):
            tensors = [keras.ops.convert_to_tensor(a) for a in inputs]
            tensors[view].requires_grad_()
            score = total(network(tensors, training=False), keras.ops.convert_to_tensor(chosen))
            gradients = torch.autograd.grad(score, [*maps, tensors[view]])
        *gradients, slope = [g.cpu().numpy() for g in gradients]
        return [m.detach().cpu().numpy() for m in maps], gradients, slope

    return run


@contextlib.contextmanager
def _without_activation(network):
    """Take the activation off the output layer while a function is traced."""
    layer = network.outputs[0]._keras_history.operation
    if output_kind(network) is None:
        yield
        return
    kept, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = kept


@contextlib.contextmanager
def _tapped(layers, tap):
    """Pass each layer's output through ``tap(i, output)`` while a function is traced."""

    def tapped(i, layer):
        call = layer.call
        layer.call = lambda *args, **kwargs: tap(i, call(*args, **kwargs))

    try:
        for i, layer in enumerate(layers):
            tapped(i, layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)


def _values(network):
    """Trained and fixed weights, as JAX arrays."""
    return (
        [variable.value for variable in network.trainable_variables],
        [variable.value for variable in network.non_trainable_variables],
    )
