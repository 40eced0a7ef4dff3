"""Read and run a network's graph: its logits, its inner feature maps and their gradients.

Conventions
-----------
All use of Keras's private graph is in this module: `producer`, `producers`, `readers`, `_tapped`.
Functions made here take a list of float32 arrays in the order of the network's inputs. They are
compiled once and read the network's weights at each call. Gradients are of a class's log-odds, as
`attribution.py` defines them.

Families pass the last feature map of each branch through a layer named ``features`` before pooling.
A map lies over time (batch, positions, channels), over an image (batch, freqs, frames, channels),
or over the frequencies of a spectrum (batch, positions, channels).
"""

import contextlib
from dataclasses import dataclass

import keras
import numpy as np

from ecg_keras.grids import SpectrumGrid
from ecg_keras.layers import REPRESENTATIONS, Crops

LIMIT = 1e-7  # probabilities stay this far from 0 and 1 before their logarithm is taken
_COLUMNS = 12  # of an image's map: earlier maps have more, but know less of the class
_IMAGES = tuple(REPRESENTATIONS.values())
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


def feature_maps(network, grid, *, step_s=None, duration_s=None):
    """Find the last feature map of each branch, also in models nested in `network`.

    Parameters
    ----------
    network : keras.Model
        Its branches pass a layer named ``features`` before pooling; of one that does not, the last
        convolution counts.
    grid : grid or None
        Geometry of the network's input, if it is no signal.
    step_s : float, optional
        Go back from the last map to one whose positions lie at most this far apart, or that has 12
        columns if it is one of an image; None takes the last.
    duration_s : float
        Length of what the network sees, in s.

    Returns
    -------
    maps : list of Map
        Empty for a network without convolutions.
    """
    found = []
    for layer in network.layers:
        if isinstance(layer, _IMAGES):
            grid = layer.grid
    kind = {type(None): "time", SpectrumGrid: "frequency"}.get(type(grid), "image")
    own = [layer for layer in network.layers if layer.name == "features"]
    if not own:
        own = [layer for layer in network.layers if isinstance(layer, _CONVOLUTIONS)]
    if own:
        layer = own[-1]
        if step_s is not None and kind != "frequency":
            layer = _finer(network, layer, duration_s / step_s)
        found.append(Map(layer, kind, grid, ""))
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            first = producers(layer)[0]
            crops, seen_s = first if isinstance(first, Crops) else None, duration_s
            if crops is not None and duration_s is not None:
                seen_s = duration_s * crops.length / crops.input.shape[1]
            inside = feature_maps(layer, grid, step_s=step_s, duration_s=seen_s)
            found += [Map(m.layer, m.kind, m.grid, m.branch or layer.name, crops) for m in inside]
    return found


def _finer(network, last, positions):
    """The deepest layer up to `last` that all pass and whose map has that many positions."""
    order = [
        layer
        for layer in network.layers
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
    ]
    shape = last.output.shape
    positions = _COLUMNS if len(shape) == 4 else positions
    best = last
    for layer in order[: order.index(last) + 1][::-1]:
        same = len(layer.output.shape) == len(shape) and not isinstance(layer, _IMAGES)
        if not same or not _all_pass(last, layer):
            continue
        best = layer
        if layer.output.shape[-2] is None or layer.output.shape[-2] >= positions:
            break
    return best


def _all_pass(last, layer):
    """True if every path from the inputs to `last` passes `layer`."""
    seen, to_visit = set(), [last]
    while to_visit:
        operation = to_visit.pop()
        if operation is layer or id(operation) in seen:
            continue
        seen.add(id(operation))
        if isinstance(operation, keras.layers.InputLayer) or isinstance(operation, _IMAGES):
            return False
        to_visit += producers(operation)
    return True


@dataclass(frozen=True)
class Map:
    """A layer whose output Grad-CAM reads, and what its axes are."""

    layer: keras.layers.Layer
    kind: str  # "time", "image" or "frequency"
    grid: object  # geometry of the image or spectrum it was made from, or None
    branch: str  # nested model it lies in, or ""
    crops: object = None  # the `Crops` layer that feeds the branch, if it sees crops

    @property
    def n_crops(self):
        """Maps per row of what the network takes."""
        return 1 if self.crops is None else len(self.crops.starts)

    @property
    def extent(self):
        """Where the map begins and ends on each axis of what the branch takes, as shares.

        Convolutions without padding make it shorter than that.
        """
        layer, places = self.layer, np.array([[0.0, n or 1] for n in self.layer.output.shape[1:-1]])
        while True:
            source = layer.input[0] if isinstance(layer.input, (list, tuple)) else layer.input
            before, after = (
                np.array([[n or 1] for n in tensor.shape[1:-1]], float)
                for tensor in (source, layer.output)
            )
            if len(before) != len(after):
                break
            if getattr(layer, "padding", None) == "valid" and hasattr(layer, "strides"):
                steps, sizes = (
                    np.reshape(value, (-1, 1)) for value in (layer.strides, _window(layer))
                )
                places = places * steps + (sizes - steps) / 2
            else:
                places = places * before / after
            layer = producer(source)
            if isinstance(layer, keras.layers.InputLayer) or isinstance(layer, _IMAGES):
                break
        return places / np.array([[n or 1] for n in layer.output.shape[1:-1]])


def _window(layer):
    """Kernel or window of a convolution or pooling layer, per axis."""
    return layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size


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
    """Make the function that differentiates log-odds by feature maps and by one of the inputs.

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
        From a list of arrays and one-hot targets (n, classes) to the maps, their gradients and the
        gradient of the input.
    """

    def total(logits, chosen):
        """Sum over rows of the chosen class's log-odds; a row's gradient is its own."""
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
    layer = producer(network.outputs[0])
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


def output_kind(network):
    """The activation of the output layer: "softmax", "sigmoid", or None for another."""
    activation = getattr(producer(network.outputs[0]), "activation", None)
    return {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}.get(
        activation
    )


def producer(tensor):
    """The layer whose output a tensor of a functional model is."""
    return tensor._keras_history.operation


def producers(layer):
    """The layers whose outputs a layer takes, where it was first called."""
    return [producer(tensor) for tensor in layer._inbound_nodes[0].input_tensors]


def readers(tensor):
    """The layers that take a tensor, as a set."""
    return {node.operation for node in producer(tensor)._outbound_nodes}
