"""Small options of every model family, and how a test calls a model."""

import keras

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


def inputs_of(model, ds):
    """What a model takes of a data set: the array itself where it has one input."""
    arrays = ds.inputs([tensor.name for tensor in model.inputs])
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def call(model, ds):
    """Probabilities of a model for a data set, without a compiled loop."""
    return keras.ops.convert_to_numpy(model(inputs_of(model, ds), training=False))
