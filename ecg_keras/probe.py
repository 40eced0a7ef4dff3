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

import keras
import numpy as np

from ecg_keras.crops import crop_length, crop_starts
from ecg_keras.keras_graph import LIMIT, backward, forward, output_kind
from ecg_keras.layers import REPRESENTATIONS, model_card
from ecg_keras.saved_models import check_card, check_fits

_BATCH_BYTES = 48e6  # of rows given to a network at once


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
        return np.asarray(
            self.grid.freqs_hz(self.n_samples)
            if callable(self.grid.freqs_hz)
            else self.grid.freqs_hz
        )

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
        mean = np.clip(total / len(self.starts), LIMIT, 1 - LIMIT)
        return np.log(mean) - np.log1p(-mean)

    def probabilities(self, x=None, metadata=None):
        """Probabilities of rows of the view, float64 (m, classes)."""
        return 1 / (1 + np.exp(-self.log_odds(x, metadata)))

    def _logits(self, x, metadata):
        """What the last layer gives before its activation, float64 (m, classes), in batches."""
        run, parts = self._runner(), []
        step = int(np.clip(_BATCH_BYTES // (4 * max(x[:1].size, 1)), 16, 2048))
        for first in range(0, len(x), step):
            parts.append(
                run(
                    self.feed(
                        x[first : first + step],
                        None if metadata is None else metadata[first : first + step],
                    )
                )
            )
        return np.concatenate(parts).astype(np.float64)

    def feed(self, x, metadata):
        """Arrays in the order of the network's inputs."""
        given = {"metadata": metadata}
        return [np.ascontiguousarray(given.get(name, x), np.float32) for name in self.names]

    @property
    def _view(self):
        """Which of the network's inputs takes the view."""
        return next(i for i, name in enumerate(self.names) if name != "metadata")

    def _runner(self):
        """The compiled network without its last activation, made once."""
        if self._run is None:
            self._run = forward(self.network)
        return self._run

    def _from_logits(self, logits):
        """Logits (m, classes) to log-odds (m, classes)."""
        kind = output_kind(self.network)
        if kind == "sigmoid":
            return logits
        if kind is None:  # probabilities of an unknown kind
            p = np.clip(logits, LIMIT, 1 - LIMIT)
            return np.log(p) - np.log1p(-p)
        others = np.where(
            np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :]
        )  # (m, class, other)
        top = others.max(axis=2)
        return logits - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2))

    def headed(self, inputs, output):
        """A function from arrays at inner tensors of the network to log-odds."""
        run = forward(keras.Model(inputs, output))
        return lambda arrays: self._from_logits(
            run([np.asarray(a, np.float32) for a in arrays]).astype(np.float64)
        )

    def maps_and_gradients(self, found, x, metadata, targets):
        """Feature maps and the gradients of each row's own score with respect to them.

        Parameters
        ----------
        found : sequence of Map
            As `feature_maps` finds them.
        x, metadata : float
            Rows the network takes: of a network that takes crops, crops.
        targets : int, shape (m,)
            The class of each row whose score is asked for.

        Yields
        ------
        rows : slice
            Which rows the arrays belong to.
        maps, gradients : list of float32, shape (rows, crops, ..., channels)
            One array per map.
        slope : float32, shape of the rows of `x`
            Gradient with respect to `x` itself.
        """
        key = tuple(id(m.layer) for m in found)
        if key not in self._back:  # compiled once, also for parts of the rows
            layers, crops = [m.layer for m in found], [m.n_crops for m in found]
            self._back[key] = backward(
                self.network, layers, crops, output_kind(self.network), self._view
            )
        run = self._back[key]
        chosen = np.eye(len(self.classes), dtype=np.float32)[targets]
        step = int(
            np.clip(
                _BATCH_BYTES // (16 * sum(m.n_crops * _size(m.layer.output.shape) for m in found)),
                8,
                256,
            )
        )
        step = min(step, max(len(x), 1))
        for first in range(0, len(x), step):
            rows = slice(first, min(first + step, len(x)))
            back = slice(
                max(0, rows.stop - step), rows.stop
            )  # a full batch from the end: nothing compiles twice
            maps, gradients, slope = run(
                self.feed(x[back], None if metadata is None else metadata[back]), chosen[back]
            )
            keep = slice(rows.start - back.start, None)
            by_row = lambda a, m: np.reshape(a, (-1, m.n_crops, *a.shape[1:]))[keep]  # noqa: B023,E731
            yield (
                rows,
                list(map(by_row, maps, found)),
                list(map(by_row, gradients, found)),
                np.asarray(slope)[keep],
            )

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


def _size(shape):
    """Entries of one row."""
    return int(np.prod([n or 1 for n in shape[1:]]))
