"""Find the feature maps of a network, whichever branch or nested model they lie in.

Conventions
-----------
Families pass the last feature map of each branch through a layer named ``features`` before
pooling. A map lies over time (batch, positions, channels), over an image (batch, freqs, frames,
channels), or over the frequencies of a spectrum (batch, positions, channels).
"""

from dataclasses import dataclass

import keras
import numpy as np

from ecg_keras.crops import Crops
from ecg_keras.layers import REPRESENTATIONS

_COLUMNS = 12  # of an image's map: earlier maps have more, but know less of the class
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


@dataclass(frozen=True)
class Map:
    """A layer whose output Grad-CAM reads, and what its axes are."""

    layer: keras.layers.Layer
    kind: str  # "time", "image" or "frequency"
    grid: object  # geometry of the image or spectrum it was made from, or None
    branch: str  # nested model it lies in, or ""
    crops: object = (
        None  # the `Crops` layer that feeds the branch, if it sees crops of what the network takes
    )

    @property
    def n_crops(self):
        """Maps per row of what the network takes."""
        return 1 if self.crops is None else len(self.crops.starts)

    @property
    def extent(self):
        """Where the map begins and ends on each axis of what the branch takes, as shares: convolutions without padding trim it."""
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
            layer = source._keras_history.operation
            if isinstance(layer, keras.layers.InputLayer) or isinstance(
                layer, tuple(REPRESENTATIONS.values())
            ):
                break
        return places / np.array([[n or 1] for n in layer.output.shape[1:-1]])


def feature_maps(network, grid, *, step_s=None, duration_s=None):
    """Find the last feature map of each branch, also in models nested in `network`.

    Parameters
    ----------
    network : keras.Model
        Its branches pass a layer named ``features`` before pooling; of one that does not, the last convolution counts.
    grid : grid or None
        Geometry of the network's input, if it is no signal.
    step_s : float, optional
        Go back from the last map to one whose positions lie at most this far apart, or that has 12 columns if
        it is one of an image; None takes the last.
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
    kind = (
        "time"
        if grid is None
        else ("frequency" if type(grid).__name__ == "SpectrumGrid" else "image")
    )
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
            crops = layer._inbound_nodes[0].input_tensors[0]._keras_history.operation
            crops = crops if isinstance(crops, Crops) else None
            seen_s = (
                duration_s
                if crops is None or duration_s is None
                else duration_s * crops.length / crops.input.shape[1]
            )
            inside = feature_maps(layer, grid, step_s=step_s, duration_s=seen_s)
            found += [Map(m.layer, m.kind, m.grid, m.branch or layer.name, crops) for m in inside]
    return found


def _window(layer):
    """Kernel or window of a convolution or pooling layer, per axis."""
    return layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size


def _finer(network, last, positions):
    """The deepest layer up to `last` that everything passes and whose map has that many positions over time."""
    order = [
        layer
        for layer in network.layers
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
    ]
    shape = last.output.shape
    positions = _COLUMNS if len(shape) == 4 else positions
    best = last
    for layer in order[: order.index(last) + 1][::-1]:
        same = len(layer.output.shape) == len(shape) and not isinstance(
            layer, tuple(REPRESENTATIONS.values())
        )
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
        if isinstance(operation, keras.layers.InputLayer) or isinstance(
            operation, tuple(REPRESENTATIONS.values())
        ):
            return False
        nodes = operation._inbound_nodes
        open_ += [
            tensor._keras_history.operation for node in nodes[:1] for tensor in node.input_tensors
        ]
    return True
