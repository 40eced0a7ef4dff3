"""Save a trained network as a file that takes raw signals; load it, and run it.

Conventions
-----------
A trained network takes what it was trained on: signals, crops of them, images, metadata. The saved
model takes raw signals (batch, samples, leads) and returns probabilities (batch, classes):
standardisation, cropping and images happen inside. Its card, see `layers.model_card`, says what it
needs and what it was trained on.
"""

import hashlib
import io
import json
import pathlib
import shutil
import zipfile

import keras
import numpy as np

from ecg_keras._checks import check_positive, check_signals
from ecg_keras.batches import keras_inputs
from ecg_keras.dataset import MADE, ECGDataset
from ecg_keras.layers import (
    Card,
    Crops,
    MeanOfCrops,
    Standardize,
    card_layer,
    crop_length,
    crop_starts,
    model_card,
    representation,
)
from ecg_keras.recordings import OpenRecording, choose_leads, open_recording
from ecg_keras.signals import fill_gaps, resample
from ecg_keras.storage import atomic_path, write_json

_SHIPPED = pathlib.Path(__file__).parent  # of the pretrained models and of their list
_LIST = "pretrained.json"
_MOST_ROWS = 4096  # digests of rows that a pretrained model keeps, 4 bytes each
# options that Keras 3.15 writes and 3.13 refuses, and the values with which they change nothing
_NEW_OPTIONS = {
    "input_axes": None,
    "output_axes": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    "sliding_window": None,
    "use_gate": False,
}
_MOST_SEEN = 0.01  # share of rows trained on that is still measured, see `check_unseen`


def load_model(path):
    """Load a model that `fit_and_report` saved.

    Parameters
    ----------
    path : path or str
        A model.keras; or the name of a pretrained model (`list_pretrained`), where no file has
        this name.

    Returns
    -------
    keras.Model
        Takes raw signals: give them to `predict`. Its card, a dict, is ``model_card(model)``:
        classes, task, fs (Hz), leads, unit, n_samples, metadata_names, thresholds; and of the train
        part source, preparation, split (see `ECGDataset.split_by`) and patients (None where it
        names none). Files of older versions lack split and patients.

    Raises
    ------
    ValueError
        If the file is not there, not a Keras file, or carries no card.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import ECGDataset, build_model, load_model, model_card
    >>> ds = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> file = tempfile.mkdtemp() + "/model.keras"
    >>> _ = save_served(file, build_model("cnn2d", like=ds, filters=(4, 8)), ds)
    >>> model_card(load_model(file))["classes"]
    ['N', 'V']
    """
    given, path = path, model_file(path)
    if path != pathlib.Path(given):
        return load_pretrained(given)
    try:
        model = keras.saving.load_model(path)
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(
            f"{path}: not a Keras model that can be read ({str(error).splitlines()[0][:200]})."
        ) from error
    if model_card(model) is None:
        raise ValueError(
            f"{path}: carries no classes and sampling rate; give a model.keras written by "
            "fit_and_report."
        )
    return model


def model_file(model):
    """The file of a model that is given by its path, or by the name of one that ships.

    Raises
    ------
    ValueError
        If there is neither.
    """
    path, name = pathlib.Path(model), str(model).replace("-", "_")
    if path.is_file():
        return path
    if name in _shipped():
        return _SHIPPED / f"pretrained_{name}.keras"
    raise ValueError(
        f"{path}: no such model file; fit_and_report writes one as model.keras. Names of "
        f"pretrained models are {', '.join(_shipped())}."
    )


def list_pretrained():
    """The models that come with the package, one per row.

    Returns
    -------
    DataFrame
        Indexed by name; ``reads``, ``classes``, ``fs`` (Hz), ``leads``, ``trained_on``,
        ``figure``, ``kilobytes``, ``licence``. The whole story of one is
        ``model_card(load_pretrained(name))``.

    Examples
    --------
    >>> list_pretrained().columns[:3].tolist()
    ['reads', 'classes', 'fs']
    """
    import pandas as pd

    columns = "reads classes fs leads trained_on figure kilobytes licence".split()
    rows = {
        name: [
            about["reads"],
            " ".join(about["classes"]),
            about["fs"],
            " ".join(about["leads"]),
            about["trained_on"],
            about["figure"],
            round(about["bytes"] / 1000),
            about["licence"],
        ]
        for name, about in _shipped().items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("name")


def load_pretrained(name):
    """Load a model that comes with the package.

    Parameters
    ----------
    name : str
        As `list_pretrained` shows it; hyphens for underscores are taken too.

    Returns
    -------
    keras.Model
        As `load_model` gives it. Its card also says its purpose, data, licence, citation, protocol,
        figures, what it was never shown and what it must not be used for.

    Raises
    ------
    ValueError
        If there is no model of this name, or its file is damaged.

    Examples
    --------
    >>> load_pretrained("mona_lisa")
    Traceback (most recent call last):
        ...
    ValueError: there is no pretrained model 'mona_lisa'; there is ...
    """
    known = _shipped()
    key = str(name).replace("-", "_")
    if key not in known:
        raise ValueError(f"there is no pretrained model {name!r}; there is {', '.join(known)}.")
    path = _SHIPPED / f"pretrained_{key}.keras"
    if not path.is_file() or _sha256(path) != known[key]["sha256"]:
        raise ValueError(
            f"{path} is missing, or is not the file that was shipped (its checksum differs); "
            "install the package again (the one-file bundle has the models of beats only)."
        )
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def _shipped():
    """The list of pretrained models, by name."""
    path = _SHIPPED / _LIST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sha256(path):
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_pretrained(model, name, about, *, folder=_SHIPPED, check=None):
    """Make a trained model one that the package ships: small, with a whole card, and checksummed.

    Parameters
    ----------
    model : keras.Model or path
        A saved model.
    name : str
        Its name, an identifier.
    about : dict
        What is added to its card: ``reads`` and ``trained_on`` (short, for the list), ``purpose``,
        ``data``, ``licence``, ``citation``, ``protocol``, ``figure`` (short), ``figures`` (list of
        dicts with ``name``, ``value``, ``interval`` and ``on``), ``never_shown``, ``not_for``.
    folder : path, optional
        Where to write; by default the package itself.
    check : ECGDataset, optional
        Rows on which the shipped model must decide as the given one (99.9 %). Its matrices are
        stored as float16, in half the room; Keras reads them as float32.

    Returns
    -------
    pathlib.Path
        ``pretrained_NAME.keras``; its line in pretrained.json is written too.

    Raises
    ------
    ValueError
        If `about` lacks an entry, or float16 changes decisions.
    """
    needed = "reads trained_on purpose data licence citation protocol figure figures never_shown"
    if absent := [key for key in (*needed.split(), "not_for") if key not in about]:
        raise ValueError(f"the card of a pretrained model needs {', '.join(absent)}.")
    model = load_model(model) if isinstance(model, (str, pathlib.Path)) else model
    whole = None if check is None else predict(model, check)
    layer = card_layer(model)
    own = {key: value for key, value in layer.info.items() if key not in about}
    layer.info = {"name": name, **about} | own
    layer.keep_rows(_MOST_ROWS)
    path = pathlib.Path(folder) / f"pretrained_{name}.keras"
    with atomic_path(path) as part:
        model.save(part)
        _make_portable(part, packed=True)
        if check is not None:
            shipped = predict(keras.saving.load_model(part, compile=False), check)
            same = (shipped.argmax(axis=1) == whole.argmax(axis=1)).mean()
            if same < 0.999:
                raise ValueError(f"float16 weights change {1 - same:.2%} of the decisions.")
    listed = pathlib.Path(folder) / _LIST
    known = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    short = {key: about[key] for key in ("reads", "trained_on", "figure", "licence")}
    short |= {key: layer.info[key] for key in ("classes", "fs", "leads")}
    known[name] = {**short, "bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_json(listed, dict(sorted(known.items())))
    return path


def _halved(content):
    """A file of weights (HDF5) with its float32 matrices as float16; vectors stay exact."""
    import h5py  # comes with Keras, which writes these files

    memory = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(memory, "w", libver="latest") as new:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                matrix = item.ndim > 1 and item.dtype == np.float32
                values = item[()]
                made = new.create_dataset(name, data=values.astype("f2") if matrix else values)
            else:
                made = new.require_group(name)
            made.attrs.update(item.attrs)

        old.visititems(copy)
        new.attrs.update(old.attrs)
    return memory.getvalue()


def _make_portable(path, *, packed=False):
    """Leave out of a .keras file what only newer Keras knows; pack it smaller where asked."""
    copy = path.with_name(path.name + ".zip")
    try:
        kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for item in old.namelist():
                content = old.read(item)
                if item == "config.json":
                    content = json.dumps(_plain_options(json.loads(content))).encode()
                elif packed and item == "model.weights.h5":
                    content = _halved(content)
                entry = zipfile.ZipInfo(item)  # dated 1980: the same model gives the same bytes
                entry.compress_type = kind
                new.writestr(entry, content, compresslevel=9)
        shutil.copyfile(copy, path)
    finally:
        copy.unlink(missing_ok=True)


def _plain_options(config):
    """A model's config without options of newer Keras that change nothing."""
    if isinstance(config, list):
        return [_plain_options(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _plain_options(value)
        for key, value in config.items()
        if key not in _NEW_OPTIONS or value != _NEW_OPTIONS[key]
    }


def predict(model, data, *, fs=None, batch_size=256):
    """Probabilities of each class for signals.

    Parameters
    ----------
    model : keras.Model
        A saved model, as `load_model` returns it, or a network as `build_model` makes it.
    data : ECGDataset, float array (n, samples, leads) or (n, samples), path or OpenRecording
        For a saved model raw signals, in the unit and the order of leads of its card. Of a
        recording (`recordings.open_recording`), each window of the model's length is a row; the
        last one ends where the recording ends. Beats of recordings need `annotate`. For a network
        a data set in the form that it takes; longer signals are cut in overlapping crops whose
        probabilities are averaged.
    fs : float, optional
        Sampling rate of an array, in Hz, to be compared with the card's. A data set has its own.
    batch_size : int, default 256
        Rows at once; less for long records, so that a batch stays below about 64 MB.

    Returns
    -------
    probabilities : float32, shape (n, classes)

    Raises
    ------
    ValueError
        If `data` has another rate, another number of samples or leads, or other inputs than the
        model needs; says both.
    TypeError
        If an array is given to a network, which does not say what it takes.

    Examples
    --------
    >>> from ecg_keras import ECGDataset, build_model, predict
    >>> ds = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> predict(build_model("cnn2d", like=ds, filters=(4, 8)), ds).shape
    (4, 2)
    """
    card = model_card(model)
    if isinstance(data, (str, pathlib.Path, OpenRecording)):
        return predict_windows(model, open_recording(data, fs=fs), batch_size=batch_size)[1]
    if card is not None:
        data = _raw_signals(card, data, fs)
    elif not isinstance(data, ECGDataset):
        raise TypeError(
            f"a network without a card takes an ECGDataset, got {type(data).__name__}; for an "
            "array give a saved model, as load_model returns it."
        )
    check_fits(model, data)
    arrays = data.inputs([tensor.name for tensor in model.inputs])
    batch_size = int(np.clip(64e6 // (4 * data.x[:1].size), 8, batch_size))
    length = crop_length(model, data)
    if length is None:
        return _run(model, arrays, batch_size)
    total = 0
    starts = crop_starts(data.x.shape[1], length)
    for start in starts:
        crops = {**arrays, "signal": arrays["signal"][:, start : start + length]}
        total = total + _run(model, crops, batch_size)
    return total / len(starts)


def predict_windows(model, recording, columns=None, *, batch_size=256):
    """Run a saved model on each stretch of its own length of a recording.

    Parameters
    ----------
    model : keras.Model
        A saved model that reads whole records.
    recording : OpenRecording
        In any rate; longer than the model's rows.
    columns : sequence of int, optional
        Of the model's leads in the recording; by default found by their names.
    batch_size : int, default 256

    Returns
    -------
    starts_s : float64, shape (n_windows,)
        Where each window starts; the last one ends with the recording.
    probabilities : float32, shape (n_windows, classes)

    Raises
    ------
    ValueError
        If the recording is shorter than a row, lacks a lead, or the model reads single beats.
    """
    card, fs = model_card(model), recording.fs
    if card is None:
        raise ValueError("a network without a card does not say what it reads of a recording.")
    if card["metadata_names"] or "window_s" in (card["preparation"] or {}):
        raise ValueError(
            "the model reads single beats; annotate(model, recording) finds them and runs it."
        )
    if columns is None:
        columns = choose_leads(recording.name, recording.leads, card["leads"])
    length = card["n_samples"] / card["fs"]
    if recording.n_samples < int(length * fs):
        raise ValueError(
            f"{recording.name}: lasts {recording.n_samples / fs:.4g} s, and the model reads "
            f"{length:g} s at once; give a longer recording."
        )
    last_s = max(0.0, (recording.n_samples - length * fs) / fs)
    starts_s = np.append(np.arange(0, last_s, length), last_s)
    parts = []
    for some in np.array_split(starts_s, int(np.ceil(len(starts_s) / batch_size))):
        rows = [_window(recording, columns, start_s, card) for start_s in some]
        parts.append(predict(model, np.stack(rows), batch_size=batch_size))
    return starts_s, np.concatenate(parts)


def _window(recording, columns, start_s, card):
    """One row (samples, leads) of a model, from `start_s` on, in its rate; gaps are bridged."""
    fs, length = recording.fs, card["n_samples"]
    around = 1.0  # s before and after, so that resampling has no edge where there is signal
    first = max(0, round((start_s - around) * fs))
    stop = min(recording.n_samples, round((start_s + length / card["fs"] + around) * fs))
    x = fill_gaps(recording.read(first, stop)[:, columns])
    x = resample(x, fs=fs, to_fs=card["fs"])
    begin = round((start_s - first / fs) * card["fs"])
    row = x[begin : begin + length]
    return np.pad(row, ((0, length - len(row)), (0, 0)), mode="edge").astype(np.float32)


def _raw_signals(card, data, fs):
    """A data set of what a saved model is to be run on, after comparing it with the card."""
    is_array = not isinstance(data, ECGDataset)
    fs = data.fs if fs is None and not is_array else fs
    if fs is not None and check_positive("fs", fs) != card["fs"]:
        raise ValueError(
            f"the signals are sampled at {fs:g} Hz, the model takes {card['fs']:g} Hz; resample "
            "them first."
        )
    x = check_signals("data", data) if is_array else data.x
    need = (card["n_samples"], len(card["leads"]))
    if x.shape[1:] != need:
        raise ValueError(
            f"the model takes rows of {need[0]} samples x {need[1]} leads "
            f"({', '.join(card['leads'])}) at {card['fs']:g} Hz, got rows of shape {x.shape[1:]}."
        )
    if not is_array:
        return data
    if card["metadata_names"]:
        raise ValueError(
            f"the model takes metadata too ({', '.join(card['metadata_names'])}); give an "
            "ECGDataset that has them."
        )
    y = _some_labels(len(x), card["classes"], card["task"] == "multi-label")
    return ECGDataset(x, y, classes=card["classes"], fs=card["fs"], leads=card["leads"])


def _some_labels(n, classes, multi_label):
    """Valid labels, for rows that only need some."""
    return np.zeros((n, len(classes)), np.float32) if multi_label else np.zeros(n, np.int64)


def _run(model, arrays, batch_size):
    """Probabilities as NumPy, a batch at a time: Keras's own predict would copy all rows first."""
    n = len(next(iter(arrays.values())))
    parts = []
    for start in range(0, n, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        parts.append(np.asarray(model.predict_on_batch(keras_inputs(batch))))
    return np.concatenate(parts)


def check_fits(model, ds):
    """Refuse a data set whose rows the model cannot take.

    Raises
    ------
    ValueError
        Names the input, the shape it got and the shape it needs.
    """
    inputs = {tensor.name: tensor for tensor in model.inputs}
    for name, array in ds.inputs(inputs).items():
        need, got = tuple(inputs[name].shape[1:]), array.shape[1:]
        longest = (got[0], *need[1:]) if name == "signal" and (need[0] or 0) <= got[0] else need
        if len(need) != len(got) or any(a not in (None, b) for a, b in zip(longest, got)):
            raise ValueError(
                f"the model's input {name!r} needs rows of shape {need}, the data set has {got}."
            )
    if model.output_shape[-1] != len(ds.classes):
        raise ValueError(
            f"the model has {model.output_shape[-1]} outputs, the data set {len(ds.classes)} "
            "classes."
        )


def save_served(path, model, like, *, thresholds=None, tolerance=1e-4):
    """Save the `served` model of a network, after checking that both give the same probabilities.

    The check runs eight raw rows of random signals through the saved and reloaded file, and through
    the functions that made the training rows and the network.

    Raises
    ------
    ValueError
        If any probability differs by more than `tolerance`; then no file is written.
    """
    whole = served(model, like, thresholds=thresholds)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(8, like.n_samples, len(like.leads))).cumsum(axis=1).astype(np.float32)
    raw = (raw - raw.min(axis=1, keepdims=True)) / np.ptp(raw, axis=1, keepdims=True)
    probe = like[np.arange(8) % len(like)].replace(
        x=raw,
        grid=None,
        scaler=None,
        balance=None,
        y=_some_labels(8, like.classes, like.multi_label),
    )
    rows = probe
    if like.scaler is not None:
        rows = rows.replace(x=like.scaler.apply(raw), scaler=like.scaler)
    if like.grid is not None:
        from ecg_keras.spectrograms import represent

        rows = represent(rows, like.grid)
    with atomic_path(path) as part:
        whole.save(part)
        _make_portable(part)
        loaded = keras.saving.load_model(part)
        gap = float(np.abs(predict(loaded, probe) - predict(model, rows)).max())
        if not gap <= tolerance:
            raise ValueError(
                f"the saved model differs from the trained one by {gap:.2g} in probability; "
                "nothing was saved."
            )
    return whole


def served(model, like, *, thresholds=None):
    """Put everything between raw signals and a trained network into one model.

    Parameters
    ----------
    model : keras.Model
        The trained network.
    like : ECGDataset
        A part it was trained on: says how raw signals became its rows.
    thresholds : sequence of float, optional
        Multi-label decisions, frozen.

    Returns
    -------
    keras.Model
        Inputs ``signal`` (raw, samples, leads) and, where the network has it, ``metadata``;
        the network inside is the layer called ``network``.
    """
    n_samples = like.n_samples
    inputs = {"signal": keras.Input((n_samples, len(like.leads)), name="signal")}
    x = inputs["signal"]
    if like.scaler is not None:
        x = Standardize(like.scaler.mean, like.scaler.scale, name="standardize", dtype="float32")(x)
    length = crop_length(model, like)
    crops = None if length is None else Crops(crop_starts(n_samples, length), length, name="crops")
    if crops is not None:
        x = crops(x)
    if like.grid is not None:
        x = representation(like.grid, name="representation", dtype="float32")(x)
    feeds = []  # a list in the network's order: Keras sorts a dict's names where it infers shapes
    for tensor in model.inputs:
        if tensor.name == "metadata":
            metadata = inputs["metadata"] = keras.Input(tensor.shape[1:], name="metadata")
            feeds.append(metadata if crops is None else crops.repeat(metadata))
        else:
            feeds.append(x)
    network = keras.Model(model.inputs, model.outputs[0], name="network")
    outputs = network(feeds if len(feeds) > 1 else x)
    if crops is not None:
        outputs = MeanOfCrops(len(crops.starts), name="average")(outputs)
    card = {
        "model": model.name,
        "classes": list(like.classes),
        "task": "multi-label" if like.multi_label else "single-label",
        "fs": like.fs,
        "leads": list(like.leads),
        "unit": like.unit,
        "modality": like.modality,
        "n_samples": n_samples,
        "metadata_names": list(like.metadata_names) if "metadata" in inputs else None,
        "thresholds": None if thresholds is None else [float(value) for value in thresholds],
        "source": like.source,
        "preparation": like.preparation,
        "split": like.split_by,
        "patients": None if like.patients is None else sorted({*like.patients.tolist()} - {MADE}),
    }
    outputs = Card(card, like.row_digests(), name="probabilities", dtype="float32")(outputs)
    return keras.Model(keras_inputs(inputs), outputs, name=model.name)


def check_card(card, ds):
    """Refuse a data set that is not what a saved model was trained on; says which field differs."""
    if card is None:
        raise ValueError("the model carries no card; give one that fit_and_report saved.")
    have = {
        "classes": list(ds.classes),
        "fs": ds.fs,
        "leads": list(ds.leads),
        "n_samples": ds.n_samples,
        "metadata_names": card["metadata_names"] and ds.metadata_names and list(ds.metadata_names),
    }
    for name, value in have.items():
        if card[name] != value:
            raise ValueError(
                f"the data set has {name} {value}, the model was trained with {card[name]}."
            )


def check_unseen(model, ds, *, allow_seen=False):
    """Refuse rows that a saved model was trained on, or rows of patients it was trained on.

    A row is known by its digest, a patient by name in data of the same source: the text of `source`
    up to its first comma.

    Parameters
    ----------
    model : keras.Model
        A saved model, as `load_model` returns it.
    ds : ECGDataset
        Raw signals to measure or explain.
    allow_seen : bool, default False
        Do not refuse them, only say it.

    Returns
    -------
    seen : dict
        ``rows``: how many rows of `ds` are such; None where the model does not say. ``patients``:
        whose they are. ``too_many``: True where they are refused. ``note``: a sentence for the
        reader, or None.

    Raises
    ------
    ValueError
        If it was trained on a patient of `ds`, or on more than 1 % of its rows: public files hold a
        few copies, and short digests meet by chance.
    """
    layer, digests = card_layer(model), ds.row_digests()
    patients = layer.info.get("patients")
    by_name = patients is not None and ds.patients is not None
    by_row = layer.rows is not None and digests is not None
    if not by_name and not by_row:
        note = "The model does not say which rows it was trained on, so these may be among them."
        return {"rows": None, "patients": [], "too_many": False, "note": note}
    # a pretrained model knows a sample of its rows: only rows that would be in it are compared
    compared = digests <= layer.known_to if by_row else np.ones(len(ds), bool)
    seen = np.isin(digests, layer.rows) if by_row else np.zeros(len(ds), bool)
    too_many = seen.sum() > _MOST_SEEN * compared.sum()
    if by_name and ds.source.split(",")[0] == layer.info["source"].split(",")[0]:
        known = np.isin(ds.patients, patients)
        seen, too_many = seen | known, too_many or known.any()
    whose = [] if ds.patients is None else np.unique(ds.patients[seen]).tolist()
    n = f"{seen.sum():,} of {len(ds):,} rows"
    if not compared.all():
        n += f" ({compared.sum():,} could be compared, as the model keeps a sample of its rows)"
    if not too_many:
        note = f"{n} are equal to rows the model was trained on." if seen.any() else None
    else:
        more = f" and {len(whose) - 5} more" if len(whose) > 5 else ""
        of = f", or of patients it was trained on ({', '.join(whose[:5])}{more})" if whose else ""
        note = f"{n} are ones the model was trained on{of}."
        if not allow_seen:
            raise ValueError(
                f"{note[:-1]}: they would say nothing about new ones. Give a part that it was not "
                "trained on, or do it deliberately with allow_seen=True (--allow-seen)."
            )
    return {"rows": int(seen.sum()), "patients": whose, "too_many": bool(too_many), "note": note}
