"""Model families that join several views of one ECG, or numbers beside it.

Conventions
-----------
A family is one function from a data set to an uncompiled `keras.Model`, as `models.py` says.

In `multimodal` and `hybrid` each view is a branch: a model of its own, nested under the view's
name, from the raw signal to one vector. Views are made inside, so they cannot come from different
beats. `rhythm` takes beats, with or without the recording's typical beat in further leads, and
the metadata of `beats.describe_beats`.
"""

import keras
from keras import layers, ops

from ecg_keras._checks import check_option
from ecg_keras.blocks import (
    classifier,
    in_crops,
    mean_and_maximum,
    metadata_input,
    pooled,
    signal_input,
    transformed,
    transformer_encoder,
)
from ecg_keras.grids import SpectrumGrid
from ecg_keras.image_models import cnn2d, scalogram_cnn
from ecg_keras.keras_graph import producer
from ecg_keras.layers import Crops, LateMean, MeanOfCrops, crop_starts
from ecg_keras.signal_models import beat_forest, fft_transformer, minirocket, resnet1d

BRANCHES = {
    "time": resnet1d,
    "spectrum": fft_transformer,
    "spectrogram": cnn2d,
    "scalogram": scalogram_cnn,
    "minirocket": minirocket,
    "forest": beat_forest,
}
_FITTED = ("minirocket", "forest")  # by their functions, not by gradient descent
_TINY = 1e-7  # keeps a logarithm finite


def multimodal(
    like,
    *,
    filters=(32, 64),
    kernel_size=7,
    width=64,
    depth=1,
    heads=4,
    metadata_units=(16,),
    dense_units=(64,),
    block_dropout=0.1,
    dropout=0.3,
    grid=None,
):
    """Joins signal and spectrum, each seen by its own encoder, and metadata.

    The encoders are those of `fft_transformer`; the metadata pass through dense layers.

    Parameters
    ----------
    like : ECGDataset
        Signals; where it has no metadata, that branch is left out.
    filters, kernel_size : sequence of int and int
        Convolution blocks of the two signal branches; each halves the length.
    width, depth, heads : int
        Values per position, blocks and heads of each encoder; it sees at most 128 positions.
    metadata_units, dense_units : sequence of int
        Dense layers on metadata, and after the branches are joined.
    block_dropout, dropout : float
        Dropout inside the encoders, and around the last dense layers.
    grid : SpectrumGrid, optional
        Geometry of the spectrum.

    Notes
    -----
    Input: several views

    Source: own, with the encoder of Vaswani et al. 2017, NeurIPS

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> multimodal(train, width=16).output_shape
    (None, 5)
    """
    signal = signal_input(like, "multimodal")
    options = {
        "filters": filters,
        "kernel_size": kernel_size,
        "width": width,
        "depth": depth,
        "heads": heads,
    }
    embeddings = []
    for name in ("time", "spectrum"):
        inputs = x = keras.Input(signal.shape[1:], name="signal")
        x = transformed(x, grid or SpectrumGrid(like.fs)) if name == "spectrum" else x
        x = pooled(transformer_encoder(x, **options, dropout=block_dropout))
        embeddings.append(keras.Model(inputs, x, name=name)(signal))
    inputs = [signal]
    if like.metadata is not None:
        metadata, embedding = _metadata_branch(like, metadata_units)
        inputs, embeddings = [signal, metadata], [*embeddings, embedding]
    x = layers.Concatenate(name="fused")(embeddings)
    outputs = classifier(x, like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs if len(inputs) > 1 else signal, outputs, name="multimodal")


def hybrid(
    like,
    *,
    branches=("time", "spectrum", "spectrogram", "scalogram", "metadata"),
    options=None,
    trained=None,
    freeze=False,
    fusion="concatenate",
    weights=None,
    metadata_units=(16,),
    dense_units=(),
    dropout=0.3,
):
    """Joins any views of one ECG, each seen by the network of another family.

    Parameters
    ----------
    like : ECGDataset
        Signals; "metadata" is left out where it has none.
    branches : sequence of str
        Views to join, each with its network: "time" (`resnet1d`), "spectrum" (`fft_transformer`),
        "spectrogram" (`cnn2d`), "scalogram" (`scalogram_cnn`), "minirocket" (`minirocket`),
        "forest" (`beat_forest`), and "metadata" (dense layers).
    options : dict of dict, optional
        Branch name to the keywords of its family. With ``crop_s`` among them, the branch sees
        stretches of that many seconds: in training one from a random start, else the average over
        stretches that overlap by half.
    trained : dict of keras.Model or path, optional
        Branch name to a model trained alone on the same signals (or its model.keras), of any
        options or family. The branch becomes a copy of it, weights included, up to what its
        classifier takes.
    freeze : bool, default False
        Keep trained branches as they are, and train only the rest. "minirocket" and "forest" are
        always kept.
    fusion : {"concatenate", "mean"}
        Join the branches' vectors and classify them once; or let each branch classify and
        average their logits, as an ensemble does. With "mean" a trained branch keeps its own
        classifier, and branches that are kept as they are join only outside training
        (`layers.LateMean`).
    weights : dict of float, optional
        Branch name to how much it counts in the mean; 1 for those not named ("mean" only).
    metadata_units, dense_units : sequence of int
        Dense layers on metadata, and before the output ("concatenate" only).
    dropout : float, default 0.3
        Dropout before the output.

    Notes
    -----
    Input: several views

    Source: own

    Examples
    --------
    >>> from ecg_keras.demo import load_demo
    >>> train, val, test = load_demo()
    >>> hybrid(train, branches=("time", "spectrum")).output_shape
    (None, 5)
    """
    check_option("fusion", fusion, ("concatenate", "mean"))
    branches = tuple(branches)
    trained = {name: _network(model) for name, model in (trained or {}).items()}
    options, weights = dict(options or {}), dict(weights or {})
    for name in (*branches, *trained, *options, *weights):
        check_option("branch", name, (*BRANCHES, "metadata"))
    known, given = set(BRANCHES), set(branches)
    if not given & known or len(given) != len(branches) or set(trained) - given:
        raise ValueError(
            f"branches must be different names with at least one of {', '.join(BRANCHES)}, and "
            f"trained models belong to one of them; got branches={branches}, "
            f"trained for {tuple(trained)}."
        )
    if weights and (fusion != "mean" or not all(value > 0 for value in weights.values())):
        raise ValueError(
            "weights are positive numbers of the branches of fusion='mean'; "
            f"got {weights} with fusion={fusion!r}."
        )
    signal = signal_input(like, "hybrid")
    fixed = {name for name in branches if name in _FITTED or (freeze and name in trained)}
    inputs, embeddings, logits, frozen, counts = [signal], [], [], [], []
    for name in branches:
        whole = None  # the model whose classifier the branch keeps
        if name == "metadata":
            if like.metadata is None:
                continue
            metadata, embedding = _metadata_branch(like, metadata_units)
            inputs.append(metadata)
        else:
            own = dict(options.get(name, {}))
            crop_s = own.pop("crop_s", None)
            seen = like if crop_s is None else in_crops(like, crop_s)
            model = trained[name] if name in trained else BRANCHES[name](seen, **own)
            branch = _branch(name, model, seen.x.shape[1:], copy=name in trained)
            branch.trainable = name not in fixed
            embedding = _over_crops(branch, signal, name)
            whole = model if name in trained or name in _FITTED else None
        if name in fixed:
            frozen.append(len(embeddings))
        embeddings.append(embedding)
        counts.append(weights.get(name, 1.0))
        if fusion == "mean":
            logits.append(_logits(embedding, like, name, whole, dropout, name in fixed))
    if fusion == "mean":
        x = LateMean(frozen, counts, name="fused", dtype="float32")(logits)
        activation = "sigmoid" if like.multi_label else "softmax"
        outputs = layers.Activation(activation, dtype="float32", name="probabilities")(x)
    else:
        x = layers.Concatenate(name="fused")(embeddings) if len(embeddings) > 1 else embeddings[0]
        outputs = classifier(x, like, dense_units=dense_units, dropout=dropout)
    return keras.Model(inputs if len(inputs) > 1 else signal, outputs, name="hybrid")


def _metadata_branch(like, units):
    """The metadata input, and its vector from dense layers nested under "metadata_branch"."""
    metadata, x = metadata_input(like)
    for n in units:
        x = layers.Dense(n, activation="relu")(x)
    outer = keras.Input(metadata.shape[1:], name="metadata")
    return outer, keras.Model(metadata, x, name="metadata_branch")(outer)


def _network(model):
    """The network inside a saved model, or the model itself."""
    if not isinstance(model, keras.Model):
        model = keras.saving.load_model(model, compile=False)
    return next((layer for layer in model.layers if layer.name == "network"), model)


def _over_crops(branch, signal, name):
    """What a branch says of the signal, or of crops of it where it takes less."""
    length = branch.input_shape[1]
    if length == signal.shape[1]:
        return branch(signal)
    starts = crop_starts(signal.shape[1], length)
    crops = Crops(starts, length, random=True, name=f"{name}_crops")(signal)
    return MeanOfCrops(len(starts), random=True, name=f"{name}_mean")(branch(crops))


def _branch(name, model, shape, *, copy):
    """A model up to what its classifier takes, renamed; a copy of it where it was trained."""
    if [tensor.name for tensor in model.inputs] != ["signal"] or model.input_shape[1:] != shape:
        found = ", ".join(f"{tensor.name} {tuple(tensor.shape[1:])}" for tensor in model.inputs)
        raise ValueError(
            f"branch {name!r} needs a model with the one input signal {tuple(shape)}, got {found}; "
            "train it on the same signals, with the image layer inside; one of crops needs its "
            "crop_s in options."
        )
    branch = keras.Model(model.inputs[0], _before_classifier(model, name), name=name)
    if copy:
        twin = keras.models.clone_model(branch)
        twin.set_weights(branch.get_weights())
        branch = keras.Model(twin.inputs[0], twin.outputs[0], name=name)
    return branch


def _before_classifier(model, name):
    """The vector that a model classifies, before dropout, for which the fusion has its own."""
    try:
        x = model.get_layer("probabilities").input
    except ValueError:
        raise ValueError(
            f"branch {name!r}: the model {model.name!r} has no layer 'probabilities'; "
            "give one that build_model made."
        ) from None
    while isinstance(operation := producer(x), layers.Dropout):
        x = operation.input
    return x


def _logits(embedding, like, name, whole, dropout, fixed):
    """What a branch alone says: its trained classifier, or a new one."""
    dense = layers.Dense(len(like.classes), dtype="float32", name=f"{name}_logits")
    if whole is None:
        return dense(layers.Dropout(dropout)(embedding) if dropout else embedding)
    head = whole.get_layer("probabilities")
    if head.kernel.shape[-1] != len(like.classes):
        raise ValueError(
            f"branch {name!r}: fusion='mean' needs a trained model of the same {len(like.classes)} "
            f"classes, got one of {head.kernel.shape[-1]}; train it on the same data, or join with "
            "fusion='concatenate'."
        )
    outputs = dense(layers.Dropout(dropout)(embedding) if dropout and not fixed else embedding)
    dense.set_weights(head.get_weights())
    dense.trainable = not fixed
    return outputs


def rhythm(
    like,
    *,
    filters=(16, 24, 32),
    kernel_size=7,
    shape_units=32,
    units=128,
    joint_units=64,
    members=5,
    limit=3.0,
    dropout=0.3,
    shape_dropout=0.5,
):
    """Joins a beat with features of its rhythm, for patients never seen before.

    Dense layers on the features and a small CNN on the beat, joined; the mean of several such
    networks, called members.

    Parameters
    ----------
    like : ECGDataset
        Signals with metadata. Leads named ``... typical`` are taken as the typical beat, and the
        CNN sees the difference to it too.
    filters : sequence of int, default (16, 24, 32)
        Convolutions of stride 2; empty for a network that uses the metadata only.
    kernel_size : int, default 7
        Of the convolutions, in samples.
    shape_units, units, joint_units : int
        Dense units after the CNN, on the metadata, and where both meet.
    members : int, default 5
        Networks with weights of their own, trained together; their probabilities are averaged. On
        patients it has not seen, the macro-F1 of one network alone changes by several points with
        its seed.
    limit : float, default 3
        Metadata are squashed to this many standard deviations, so that an unusual patient does not
        lie far from all train rows.
    dropout, shape_dropout : float
        Dropout after the dense layers, and after the CNN.

    Raises
    ------
    ValueError
        If `like` holds no metadata, or images.

    Notes
    -----
    Input: signal and metadata

    Source: own

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> x, metadata = np.zeros((4, 125, 2)), {"metadata": np.eye(4), "metadata_names": "abcd"}
    >>> like = ECGDataset(x, [0, 1, 0, 1], classes="NV", fs=125, leads=("MLII", "V1"), **metadata)
    >>> rhythm(like, members=2).output_shape
    (None, 2)
    """
    signal = signal_input(like, "rhythm")
    if like.metadata is None:
        raise ValueError("rhythm needs metadata; load the beats with features='rhythm' (or 'rr').")
    metadata, numbers = metadata_input(like)
    numbers = limit * ops.tanh(numbers / limit)
    if filters:
        shape = _with_difference(signal, like.leads)
    else:  # the signal has no say, and stays an input all the same
        mean = ops.mean(layers.GlobalAveragePooling1D()(signal), axis=-1, keepdims=True)
        shape, numbers = None, numbers + 0 * mean
    outputs = []
    for number in range(members):
        x = layers.Dropout(dropout)(layers.Dense(units, activation="gelu")(numbers))
        if shape is not None:
            y = _shape_vector(shape, filters, kernel_size, named=number == 0)
            y = layers.Dense(shape_units, activation="gelu")(layers.Dropout(shape_dropout)(y))
            x = layers.Concatenate()([x, y])
        x = layers.Dropout(dropout)(layers.Dense(joint_units, activation="gelu")(x))
        outputs.append(classifier(x, like, name=f"member_{number}"))
    x = layers.Average(dtype="float32")(outputs) if members > 1 else outputs[0]
    # from the mean of probabilities to itself, by the activation that `probabilities` has elsewhere
    x = ops.log(x + _TINY) - ops.log(1 - x + _TINY) if like.multi_label else ops.log(x + _TINY)
    activation = "sigmoid" if like.multi_label else "softmax"
    x = layers.Activation(activation, dtype="float32", name="probabilities")(x)
    return keras.Model([signal, metadata], x, name="rhythm")


def _shape_vector(x, filters, kernel_size, *, named):
    """The vector that a small CNN makes of the beat; with `named`, by layers of the fixed names."""
    x = layers.GaussianNoise(0.05)(x)
    for n in filters:
        x = layers.Conv1D(n, kernel_size, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return pooled(x, "mean+max") if named else layers.Concatenate()(mean_and_maximum(x))


def _with_difference(signal, leads):
    """Beat leads, typical leads, and their difference where there are typical leads."""
    own = [i for i, lead in enumerate(leads) if not lead.endswith(" typical")]
    if 2 * len(own) != len(leads):
        return signal
    beat, typical = signal[:, :, : len(own)], signal[:, :, len(own) :]
    return layers.Concatenate(name="with_difference")([beat, typical, beat - typical])
