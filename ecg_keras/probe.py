"""Open a trained network for questions: what it sees of each row, its log-odds, its feature maps and their gradients.

Conventions
-----------
A row's view is what is perturbed and explained: the image where the network
looks at one image of the signal and nothing else, else the signal (samples, leads)
or spectrum. The score of a class is its log-odds in nats: of softmax logits z,
``z_c - log(sum of exp(z_k) over the other k)``; of a sigmoid, its logit. It grows without
bound where a probability saturates, and says what speaks for a class against the others.
"""

import contextlib
from dataclasses import dataclass

import keras
import numpy as np

from ecg_keras.layers import REPRESENTATIONS, model_card
from ecg_keras.serving import check_card, check_fits, crop_length, crop_starts

_BATCH_BYTES = 48e6  # of rows given to a network at once
_LIMIT = 1e-7  # probabilities averaged over crops stay this far from 0 and 1
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


class Probe:
    """A trained network and rows as it sees them.

    Parameters
    ----------
    model : keras.Model
        A network as `build_model` makes it, or a saved model, which takes raw signals.
    ds : ECGDataset
        Rows in the form the model takes.

    Attributes
    ----------
    network : keras.Model
        From the view (and metadata) to probabilities.
    x : float32, shape (n, ...)
        The view of each row.
    signals : float32, shape (n, samples, leads), or None
        The rows as signals; None where `ds` holds only images or spectra.
    grid : grid or None
        Geometry of the view, if it is no signal.

    Raises
    ------
    ValueError
        If the rows do not fit the model: another shape, rate, lead or class.
    """

    def __init__(self, model, ds):
        card = model_card(model)
        self.classes, self.multi_label = ds.classes, ds.multi_label
        self.fs, self.leads, self.n_samples, self.unit = ds.fs, ds.leads, ds.n_samples, ds.unit
        self.name, self.y, self.metadata = model.name, ds.y, ds.metadata
        self.signals = ds.x if ds.grid is None else None
        if card is not None:
            check_card(card, ds)
            ds, model = _prepared(model, ds), model.get_layer("network")
        check_fits(model, ds)
        self.length = crop_length(model, ds)
        self.starts = None if self.length is None else crop_starts(ds.x.shape[1], self.length)
        self.names = [tensor.name for tensor in model.inputs]
        self.network = keras.Model(list(model.inputs), model.outputs[0])
        self.x, self.grid = ds.x, ds.grid
        if self.length is None and self.grid is None:
            self._look_at_the_image(ds)
        if "metadata" not in self.names:
            self.metadata = None
        self._run, self._back = None, {}

    def _look_at_the_image(self, ds):
        """Where one layer turns the whole signal into the image the network looks at, make that image the view."""
        at = self.names.index("signal") if "signal" in self.names else None
        if at is None:
            return
        signal = self.network.inputs[at]
        readers = {node.operation for node in signal._keras_history.operation._outbound_nodes}
        layer = next(iter(readers)) if len(readers) == 1 else None
        if isinstance(layer, tuple(REPRESENTATIONS.values())):
            from ecg_keras.spectrograms import represent

            inputs = list(self.network.inputs)
            inputs[at] = layer.output
            self.network = keras.Model(inputs, self.network.outputs[0])
            ds = represent(ds, layer.grid)
            self.x, self.grid = ds.x, ds.grid

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """The same network with some of the rows; what is compiled is shared."""
        part = object.__new__(Probe)
        part.__dict__.update(self.__dict__)
        for name in ("x", "y", "signals", "metadata"):
            value = getattr(self, name)
            setattr(part, name, None if value is None else value[rows])
        part._run = self._runner()
        return part

    def replaced(self, network, ds):
        """A probe of another network of the same form, and rows `ds` of the same view."""
        part = object.__new__(Probe)
        part.__dict__.update(self.__dict__)
        part.network, part._run, part._back = network, None, {}
        part.x, part.y, part.metadata, part.signals = ds.x, ds.y, ds.metadata, None
        part.n_samples = ds.n_samples
        part.length = part.starts = None
        return part

    @property
    def is_images(self):
        """True where the view has a frequency and a time axis."""
        return self.x.ndim == 4

    @property
    def is_spectra(self):
        """True where the view has a frequency axis and none of time."""
        return self.grid is not None and self.x.ndim == 3

    @property
    def freqs_hz(self):
        """Frequency of each row of the view, in Hz, or None."""
        if self.grid is None:
            return None
        return np.asarray(self.grid.freqs_hz(self.n_samples) if callable(self.grid.freqs_hz) else self.grid.freqs_hz)

    @property
    def times_s(self):
        """Time of each column of the image from the signal's first sample, in s, or None."""
        return np.asarray(self.grid.times_s(self.n_samples)) if self.is_images else None

    def log_odds(self, x=None, metadata=None):
        """Scores of rows of the view.

        Parameters
        ----------
        x : float, shape (m, ...), optional
            Rows of the view; the probe's own where not given.
        metadata : float, shape (m, columns), optional
            Their metadata; that of the probe's own rows where `x` is not given.

        Returns
        -------
        scores : float64, shape (m, classes)
        """
        x, metadata = (self.x, self.metadata) if x is None else (x, metadata)
        if self.length is None:
            return self._from_logits(self._logits(x, metadata))
        total = 0
        for start in self.starts:
            scores = self._from_logits(self._logits(x[:, start : start + self.length], metadata))
            total = total + 1 / (1 + np.exp(-scores))
        mean = np.clip(total / len(self.starts), _LIMIT, 1 - _LIMIT)
        return np.log(mean) - np.log1p(-mean)

    def probabilities(self, x=None, metadata=None):
        """Probabilities of rows of the view, float64 (m, classes)."""
        return 1 / (1 + np.exp(-self.log_odds(x, metadata)))

    def _logits(self, x, metadata):
        """What the last layer gives before its activation, float64 (m, classes), in batches."""
        run, parts = self._runner(), []
        step = int(np.clip(_BATCH_BYTES // (4 * max(x[:1].size, 1)), 16, 2048))
        for first in range(0, len(x), step):
            parts.append(run(self.feed(x[first : first + step], None if metadata is None else metadata[first : first + step])))
        return np.concatenate(parts).astype(np.float64)

    def feed(self, x, metadata):
        """Arrays in the order of the network's inputs."""
        given = {"metadata": metadata}
        return [np.ascontiguousarray(given.get(name, x), np.float32) for name in self.names]

    def _runner(self):
        """The compiled network without its last activation, made once."""
        if self._run is None:
            self._run = _forward(self.network)
        return self._run

    def _from_logits(self, logits):
        """Logits (m, classes) to log-odds (m, classes)."""
        kind = output_kind(self.network)
        if kind == "sigmoid":
            return logits
        if kind is None:  # probabilities of an unknown kind
            p = np.clip(logits, _LIMIT, 1 - _LIMIT)
            return np.log(p) - np.log1p(-p)
        others = np.where(np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :])  # (m, class, other)
        top = others.max(axis=2)
        return logits - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2))

    def headed(self, inputs, output):
        """A function from arrays at inner tensors of the network to log-odds."""
        run = _forward(keras.Model(inputs, output))
        return lambda arrays: self._from_logits(run([np.asarray(a, np.float32) for a in arrays]).astype(np.float64))

    def maps_and_gradients(self, layers, x, metadata, targets):
        """Feature maps and the gradients of each row's own score with respect to them.

        Parameters
        ----------
        layers : sequence of keras layers
            Layers of the network, or of models nested in it.
        x, metadata : float
            Rows the network takes: of a network that takes crops, crops.
        targets : int, shape (m,)
            The class of each row whose score is asked for.

        Yields
        ------
        rows : slice
            Which rows the arrays belong to.
        maps, gradients : list of float32, shape (rows, ..., channels)
            One array per layer.
        """
        key = tuple(id(layer) for layer in layers)
        if key not in self._back:  # compiled once, also for parts of the rows
            self._back[key] = _backward(self.network, layers, output_kind(self.network))
        run = self._back[key]
        chosen = np.eye(len(self.classes), dtype=np.float32)[targets]
        step = int(np.clip(_BATCH_BYTES // (16 * sum(_size(layer.output.shape) for layer in layers)), 8, 256))
        step = min(step, max(len(x), 1))
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            back = slice(max(0, rows.stop - step), rows.stop)  # a full batch from the end: nothing compiles twice
            maps, gradients = run(self.feed(x[back], None if metadata is None else metadata[back]), chosen[back])
            keep = slice(rows.start - back.start, None)
            yield rows, [np.asarray(a)[keep] for a in maps], [np.asarray(a)[keep] for a in gradients]

    @contextlib.contextmanager
    def other_weights(self, seed=0):
        """Give the network freshly drawn weights for as long as the context lasts."""
        kept = self.network.get_weights()
        keras.utils.set_random_seed(seed)
        try:
            self.network.set_weights(keras.models.clone_model(self.network).get_weights())
            yield self
        finally:
            self.network.set_weights(kept)


def _prepared(model, ds):
    """Raw rows as the network inside a saved model takes them; rows that are so already stay."""
    from ecg_keras.dataset import Scaler
    from ecg_keras.spectrograms import represent

    layers = {layer.name: layer for layer in model.layers}
    if ds.grid is not None or ds.scaler is not None:
        return ds
    if "standardize" in layers:
        scaler = Scaler(layers["standardize"].mean, layers["standardize"].scale)
        ds = ds.replace(x=scaler.apply(ds.x), scaler=scaler)
    return represent(ds, layers["representation"].grid) if "representation" in layers else ds


@dataclass(frozen=True)
class Map:
    """A layer whose output Grad-CAM reads, and what its axes are."""

    layer: keras.layers.Layer
    kind: str  # "time", "image" or "frequency"
    grid: object  # geometry of the image or spectrum it was made from, or None
    branch: str  # nested model it lies in, or ""


def feature_maps(network, grid, *, step_s=None, duration_s=None):
    """Find the last feature map of each branch, also in models nested in `network`.

    Parameters
    ----------
    network : keras.Model
        Its branches pass a layer named ``features`` before pooling; of one that does not, the last convolution counts.
    grid : grid or None
        Geometry of the network's input, if it is no signal.
    step_s : float, optional
        Go back from the last map to one whose positions lie at most this far apart, but to none finer
        than every second column of an image; None takes the last.
    duration_s : float
        Length of what the network sees, in s.

    Returns
    -------
    maps : list of Map
        Empty for a network without convolutions.
    """
    found = []
    for layer in network.layers:
        if isinstance(layer, tuple(REPRESENTATIONS.values())):
            grid = layer.grid
    kind = "time" if grid is None else ("frequency" if type(grid).__name__ == "SpectrumGrid" else "image")
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
            inside = feature_maps(layer, grid, step_s=step_s, duration_s=duration_s)
            found += [Map(m.layer, m.kind, m.grid, m.branch or layer.name) for m in inside]
    return found


def _finer(network, last, positions):
    """The deepest layer up to `last` that everything passes and whose map has that many positions over time."""
    order = [layer for layer in network.layers if not isinstance(layer, (keras.Model, keras.layers.InputLayer))]
    shape = last.output.shape
    images = [layer.output.shape for layer in network.layers if isinstance(layer, tuple(REPRESENTATIONS.values()))]
    images = images or [tensor.shape for tensor in network.inputs]
    widths = [s[-2] for s in images if len(s) == len(shape)]
    if len(shape) == 4 and widths and widths[0]:
        positions = min(positions, widths[0] / 2)
    best = last
    for layer in order[: order.index(last) + 1][::-1]:
        same = len(layer.output.shape) == len(shape) and not isinstance(layer, tuple(REPRESENTATIONS.values()))
        if not same or not _all_pass(last, layer):
            continue
        best = layer
        if layer.output.shape[-2] is None or layer.output.shape[-2] >= positions:
            break
    return best


def _all_pass(last, layer):
    """True if every path from the inputs to `last` passes `layer`."""
    seen, open_ = set(), [last]
    while open_:
        operation = open_.pop()
        if operation is layer or id(operation) in seen:
            continue
        seen.add(id(operation))
        if isinstance(operation, keras.layers.InputLayer) or isinstance(operation, tuple(REPRESENTATIONS.values())):
            return False
        nodes = operation._inbound_nodes
        open_ += [tensor._keras_history.operation for node in nodes[:1] for tensor in node.input_tensors]
    return True


def output_kind(network):
    """"softmax" or "sigmoid", by the activation of the layer that gives the output; None for another."""
    activation = getattr(network.outputs[0]._keras_history.operation, "activation", None)
    return {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}.get(activation)


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


def _forward(network):
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
                return network.stateless_call(trained, fixed, inputs, training=False)[0].astype("float32")

        def padded(inputs):
            n = len(inputs[0])
            room = max(16, 1 << (n - 1).bit_length())  # few shapes to compile for
            inputs = [np.concatenate([array, np.zeros((room - n, *array.shape[1:]), np.float32)]) for array in inputs]
            return np.asarray(run(*_values(network), inputs))[:n]

        return padded

    def run(inputs):
        with _without_activation(network):
            return keras.ops.convert_to_numpy(network([keras.ops.convert_to_tensor(a) for a in inputs], training=False))

    return run


def _backward(network, layers, kind):
    """A function from a list of arrays and one-hot targets to feature maps and gradients of the targets' log-odds.

    The one place where a backend's own differentiation is used.
    """

    def total(logits, chosen):
        """Sum over rows of the chosen class's log-odds; rows do not mix, so each row's gradient is its own."""
        ops = keras.ops
        logits = ops.cast(logits, "float32")
        score = ops.sum(logits * chosen, axis=1)
        if kind == "softmax":
            score = score - ops.logsumexp(logits - 1e9 * chosen, axis=1)
        elif kind is None:
            score = ops.log(score + _LIMIT) - ops.log(1 - score + _LIMIT)
        return ops.sum(score)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run(inputs, chosen):
            maps = [None] * len(layers)
            with tf.GradientTape() as tape:

                def keep(i, output):
                    tape.watch(output)
                    maps[i] = output
                    return output

                with _tapped(layers, keep), _without_activation(network):
                    score = total(network(inputs, training=False), chosen)
            return maps, tape.gradient(score, maps, unconnected_gradients="zero")

        return lambda inputs, chosen: run([tf.convert_to_tensor(a) for a in inputs], tf.convert_to_tensor(chosen))
    if backend == "jax":
        import jax

        def score(deltas, values, inputs, chosen):
            maps = [None] * len(layers)

            def keep(i, output):  # a zero added to the map: its gradient is the map's
                maps[i] = output
                return output + deltas[i]

            with _tapped(layers, keep), _without_activation(network):
                logits, _ = network.stateless_call(*values, inputs, training=False)
            return total(logits, chosen), maps

        graph = jax.jit(jax.grad(score, has_aux=True))

        def run(inputs, chosen):
            n = len(chosen)
            deltas = [np.zeros((n, *layer.output.shape[1:]), np.float32) for layer in layers]
            gradients, maps = graph(deltas, _values(network), inputs, chosen)
            return maps, gradients

        return run

    import torch

    def run(inputs, chosen):
        maps = [None] * len(layers)

        def keep(i, output):
            maps[i] = output if output.requires_grad else output.requires_grad_()
            return maps[i]

        with torch.enable_grad(), _tapped(layers, keep), _without_activation(network):
            logits = network([keras.ops.convert_to_tensor(a) for a in inputs], training=False)
            gradients = torch.autograd.grad(total(logits, keras.ops.convert_to_tensor(chosen)), maps)
        return [m.detach().cpu().numpy() for m in maps], [g.cpu().numpy() for g in gradients]

    return run


def _values(network):
    """Trained and fixed weights, as JAX arrays."""
    return (
        [variable.value for variable in network.trainable_variables],
        [variable.value for variable in network.non_trainable_variables],
    )


def _size(shape):
    """Entries of one row."""
    return int(np.prod([n or 1 for n in shape[1:]]))
