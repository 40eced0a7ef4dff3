"""Export a saved model to other runtimes; each file is run and compared before it gets its name.

Conventions
-----------
An exported file takes what the saved model takes: raw signals float32 (batch, samples, leads) as
``signal``, and ``metadata`` (batch, columns) where the model has it. It returns ``probabilities``
(batch, classes). The batch is of any size. Inside it carries the model's card as JSON, without
names of patients: in the metadata of an ONNX file; in a LiteRT file as card.json (such a file is
a zip archive too); in the folder of a SavedModel as assets.extra/card.json.

A decision is the class of the highest probability, or, in a multi-label task, whether a
probability reaches its class's threshold. The figure is macro-F1, or macro-AUC in a multi-label
task; its change is that of the file minus that of the Keras model, on the same rows.
"""

import contextlib
import json
import logging
import os
import pathlib
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import dataclass

import keras
import numpy as np
from markupsafe import Markup

import ecg_keras
from ecg_keras import pages
from ecg_keras._checks import CallableModule, check_option, require
from ecg_keras.batches import keras_inputs
from ecg_keras.dataset import ECGDataset
from ecg_keras.demo import simulate_patient
from ecg_keras.layers import Standardize, model_card
from ecg_keras.metrics import macro_auc, macro_f1
from ecg_keras.saved_models import check_card, check_unseen, predict
from ecg_keras.storage import atomic_path

_EQUAL = 0.9999  # least share of equal decisions of a format that keeps float32
_EQUAL_MADE = 0.99  # of the smaller formats, where no labels say what a difference costs
_LOSS = 0.005  # most of the figure that a smaller format may lose
_MOST_ROWS = 10_000  # compared; enough to see one different decision in as many
_CALIBRATION_ROWS = 500
_MADE_ROWS = 300
_TIMED = 200  # calls of one row
_BATCH = 64
_OPSET = 17
_CARD = "card.json"
_KEY = "ecg_keras_card"  # of an ONNX file's metadata
_SAVED_MODEL = {  # every file of the folder that TensorFlow writes, and the card
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    f"assets.extra/{_CARD}",
}


@dataclass(frozen=True)
class Exported:
    """A file for another runtime, and how it compares with the Keras model.

    Parameters
    ----------
    path : pathlib.Path
        The file, or the folder of a SavedModel.
    format : str
        One of `FORMATS`.
    figures : dict
        ``rows`` and ``rows_from``: on what both were run; ``figure``: macro_f1 or macro_auc, with
        its value by ``keras`` and by ``exported`` and their ``change`` (all None for made rows);
        ``largest_difference`` in probability; ``equal_decisions``, a share; ``size_bytes``;
        ``latency_ms``, the median of one row on one thread (a SavedModel: TensorFlow's threads).
    card : dict
        What the file carries.
    notes : tuple of str
        What a reader has to know.
    """

    path: pathlib.Path
    format: str
    figures: dict
    card: dict
    notes: tuple = ()

    def rows(self):
        """Names and values of the table."""
        found, digits = self.figures, pages.decimal
        rows = [
            ("file", str(self.path)),
            ("format", self.format),
            ("compared on", f"{found['rows']:,} {found['rows_from']}"),
            ("largest difference in probability", f"{found['largest_difference']:.2g}"),
            ("equal decisions", f"{100 * found['equal_decisions']:.4g} %"),
        ]
        if found["change"] is not None:
            name = found["figure"].replace("macro_f1", "macro-F1").replace("macro_auc", "macro-AUC")
            rows.append(
                (
                    f"{name}: Keras, file, change",
                    f"{digits(found['keras'], 4)}, {digits(found['exported'], 4)}, "
                    f"{found['change']:+.4f}",
                )
            )
        rows.append(("size", f"{found['size_bytes'] / 1000:,.0f} kB"))
        rows.append(("one row", f"{found['latency_ms']:.3g} ms"))
        return rows

    def __str__(self):
        width = max(len(name) for name, _ in self.rows())
        lines = [f"{name:<{width}}  {value}" for name, value in self.rows()]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self):
        """The table, for notebooks."""
        table = pages.table(("", ""), self.rows(), numbers_from=2)
        return Markup(table) + Markup().join(map(pages.paragraph, self.notes))


def export(model, path, *, format="onnx", check=None, seed=0):
    """Write a saved model for another runtime, once it decides there as it does in Keras.

    The file is written under a temporary name and run. Only one that agrees gets its name.

    Parameters
    ----------
    model : keras.Model
        A saved model, as `load_model` or `load_pretrained` returns it. Any family.
    path : path
        A name that ends with .onnx or .tflite, in a folder that exists; for a SavedModel the name
        of a folder. An older export is replaced, anything else is not.
    format : {"onnx", "saved_model", "litert", "litert_float16", "litert_dynamic", "litert_int8"}
        "onnx" (ONNX Runtime), "saved_model" (TensorFlow) and "litert" (phones) keep float32.
        "litert_float16" halves the weights. "litert_dynamic" has int8 weights and computes in
        float. "litert_int8" computes in int8 too, where an operation has it; input and output stay
        float32.
    check : ECGDataset, optional
        Raw signals with labels to compare on, as the model's card describes them; of more than
        10,000 rows so many are drawn. They may be rows that the model was trained on: what is
        measured is a difference. Rows are made by the simulator by default: these have no labels,
        so that there is no figure. "litert_int8" needs rows: up to 500 of them, at most half,
        calibrate it and are not counted.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    Exported
        Prints as a table of differences, size and latency.

    Raises
    ------
    ValueError
        If the file would decide otherwise: a float32 format with fewer than 99.99 % equal
        decisions, a smaller one that loses more than 0.005 of the figure (with made rows: that has
        fewer than 99 % equal decisions); if the runtime lacks an operation of the model; if the
        model has no card; if the path is no place for such a file. Then no file is left.
    ImportError
        If a library is missing; names the extra.

    Notes
    -----
    Full int8 is the format that breaks networks: of a published 12-lead one it left a macro-AUC of
    0.51 of 0.89. So it is judged by its figure and not by its size.

    Examples
    --------
    >>> import tempfile
    >>> from ecg_keras import ECGDataset, build_model
    >>> from ecg_keras.saved_models import served
    >>> ds = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> model = served(build_model("cnn1d", like=ds, filters=(4, 8)), ds)
    >>> found = export(model, tempfile.mkdtemp() + "/beats", format="saved_model")
    >>> found.figures["equal_decisions"], found.card["classes"]
    (1.0, ['N', 'V'])
    """
    format = check_option("format", format, FORMATS)
    suffix, write, run_file = FORMATS[format]
    card = model_card(model)
    if card is None:
        raise ValueError(
            "export takes a saved model with its card, got a network without one; give "
            "load_model('.../model.keras')."
        )
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"export needs the TensorFlow backend, this is {keras.config.backend()}; the same "
            "model.keras opens there: start Python with KERAS_BACKEND=tensorflow."
        )
    path = _checked_path(path, suffix)
    _check_installed(suffix)
    rows, calibration, notes = _rows(model, card, check, format, seed)
    arrays = rows.inputs([tensor.name for tensor in model.inputs])
    expected = predict(model, rows)
    told = {key: value for key, value in card.items() if key != "patients"}
    told |= {"format": format, "written_by": f"ecg_keras {ecg_keras.__version__}"}
    with _new(path) as part:
        with _quiet():
            write(part, model, told, calibration)
            run = run_file(part)
            got = np.concatenate(
                [
                    run({name: array[start : start + _BATCH] for name, array in arrays.items()})
                    for start in range(0, len(rows), _BATCH)
                ]
            )
            latency_ms = _latency_ms(run, arrays)
        figures = _compared(rows, expected, got, card, labelled=check is not None)
        figures |= {"size_bytes": _size(part), "latency_ms": latency_ms}
        _judge(figures, format)
    return Exported(path, format, figures, told, notes)


def read_card(path):
    """The card that an exported file carries; None for a file that `export` did not write.

    Examples
    --------
    >>> read_card("setup.cfg") is None
    True
    """
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            text = (path / "assets.extra" / _CARD).read_text(encoding="utf-8")
        elif path.suffix == ".onnx":
            onnx = require("onnx", "onnx")
            held = onnx.load(path, load_external_data=False).metadata_props
            text = {entry.key: entry.value for entry in held}[_KEY]
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(_CARD).decode()
        card = json.loads(text)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    except Exception as error:
        if type(error).__name__ == "DecodeError":  # protobuf's, whichever version is there
            return None
        raise
    return card if isinstance(card, dict) and "written_by" in card else None


def _checked_path(path, suffix):
    """`path`, where such a file may be written."""
    path = pathlib.Path(path)
    if path.suffix != suffix:
        ending = f"a name that ends with {suffix}" if suffix else "the name of a folder, no suffix"
        raise ValueError(f"path must be {ending} for this format, got {path.name}.")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder; make it first.")
    if not path.exists():
        return path
    ours = path.is_dir() == (suffix == "") and read_card(path) is not None
    if ours and path.is_dir():
        files = {file for file in path.rglob("*") if not file.is_dir()}
        ours = {file.relative_to(path).as_posix() for file in files} <= _SAVED_MODEL
    if not ours:
        raise ValueError(
            f"{path} was not written by export, which would replace it; move it, or give another "
            "name."
        )
    return path


def _check_installed(suffix):
    """Refuse at once where a library is missing that would be needed after the conversion."""
    if suffix == ".onnx":
        require("onnx", "onnx")
        require("tf2onnx", "onnx")
        require("onnxruntime", "onnx")
    if suffix == ".tflite":
        require("ai_edge_litert", "litert")


@contextlib.contextmanager
def _new(path):
    """Yield a temporary path, which becomes `path` if the block ends well; a folder has none."""
    if path.suffix:
        with atomic_path(path) as part:
            yield part
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        part, old = pathlib.Path(folder) / "new", pathlib.Path(folder) / "old"
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)


@contextlib.contextmanager
def _quiet():
    """Converters tell pages of their own steps; what matters is raised."""
    names = ("tf2onnx", "tensorflow", "absl")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # TensorFlow's on its own interpreter
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _rows(model, card, check, format, seed):
    """Rows to compare on, rows to calibrate by or None, and notes on both."""
    notes, calibration = [], None
    if check is None:
        if format == "litert_int8":
            raise ValueError(
                "litert_int8 is calibrated by rows and judged by its figure on them: give "
                "check=ECGDataset (--source); litert_dynamic and litert_float16 need none."
            )
        notes.append(
            "Compared on made rows, which have no labels: give check (--source) for the figure."
        )
        return _made_rows(model, card, seed), None, tuple(notes)
    if not isinstance(check, ECGDataset):
        raise TypeError(f"check must be an ECGDataset, got {type(check).__name__}.")
    check_card(card, check)
    if check.grid is not None or check.scaler is not None:
        raise ValueError("check must hold raw signals; give them as the loader does by itself.")
    if len(check) < 2:
        raise ValueError(f"check must have at least 2 rows, got {len(check)}.")
    order = np.random.default_rng(seed).permutation(len(check))
    if format == "litert_int8":
        n = min(_CALIBRATION_ROWS, len(check) // 2)
        calibration, order = check[np.sort(order[:n])], order[n:]
        notes.append(f"{n:,} other rows calibrated it.")
    check = check[np.sort(order[:_MOST_ROWS])]
    if note := check_unseen(model, check, allow_seen=True)["note"]:
        notes.append(f"{note} The change is a difference between two runtimes all the same.")
    return check, calibration, tuple(notes)


def _made_rows(model, card, seed):
    """Windows of simulated patients in the form of a model's rows, with some labels."""
    rng = np.random.default_rng(seed)
    n_samples, n_leads, fs = card["n_samples"], len(card["leads"]), card["fs"]
    x = np.empty((_MADE_ROWS, n_samples, n_leads), np.float32)
    patients = [
        simulate_patient(number, duration_s=60 + 2 * n_samples / fs, fs=fs, seed=seed).signal
        for number in range(8)
    ]
    for row in x:
        signal = patients[rng.integers(8)]
        start = rng.integers(len(signal) - n_samples)
        row[:] = signal[start : start + n_samples, np.arange(n_leads) % signal.shape[1]]
        row *= rng.uniform(0.3, 2.0, n_leads)
    if card["unit"] == "0..1":
        x -= x.min(axis=1, keepdims=True)
        x /= x.max(axis=1, keepdims=True)
    metadata = None
    if card["metadata_names"]:
        width = len(card["metadata_names"])
        fitted = [layer for layer in _layers(model) if isinstance(layer, Standardize)]
        fitted = [layer for layer in fitted if np.shape(layer.mean) == (width,)]
        metadata = rng.normal(size=(_MADE_ROWS, width))
        metadata = metadata * fitted[0].scale + fitted[0].mean if fitted else metadata
    y = np.zeros(_MADE_ROWS, np.int64)
    return ECGDataset(
        x,
        y[:, None] * np.zeros(len(card["classes"])) if card["task"] == "multi-label" else y,
        classes=card["classes"],
        fs=fs,
        leads=card["leads"],
        unit=card["unit"],
        modality=card.get("modality", "ECG"),
        metadata=metadata,
        metadata_names=card["metadata_names"] if card["metadata_names"] else None,
        source="synthetic rows of the simulator",
    )


def _layers(model):
    """All layers of a model, those of models inside it too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _compared(rows, expected, got, card, *, labelled):
    """The figures of `Exported`, but for size and latency."""
    multi = card["task"] == "multi-label"
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise ValueError("the exported file gives no probabilities; no file was left.")
    if multi:
        thresholds = np.asarray(card["thresholds"] or [0.5] * len(card["classes"]), np.float32)
        equal = (got >= thresholds) == (expected >= thresholds)
    else:
        equal = got.argmax(axis=1) == expected.argmax(axis=1)
    values = {"keras": None, "exported": None, "change": None}
    if labelled:
        figure = macro_auc if multi else macro_f1
        values["keras"], values["exported"] = figure(rows.y, expected), figure(rows.y, got)
        known = values["keras"] is not None  # macro-AUC needs a class with rows and without
        values["change"] = values["exported"] - values["keras"] if known else None
    return {
        "rows": len(rows),
        "rows_from": f"rows ({rows.source})",
        "figure": "macro_auc" if multi else "macro_f1",
        **values,
        "largest_difference": float(np.abs(got - expected).max()),
        "equal_decisions": float(equal.mean()),
    }


def _judge(figures, format):
    """Refuse a file that decides otherwise than the Keras model."""
    equal, change = figures["equal_decisions"], figures["change"]
    if format in ("onnx", "saved_model", "litert"):
        if equal < _EQUAL:
            raise ValueError(
                f"{format} decides {100 * (1 - equal):.3g} % of {figures['rows']:,} rows otherwise "
                f"than Keras (largest difference {figures['largest_difference']:.2g}), more than "
                f"{100 * (1 - _EQUAL):.2g} %; no file was left."
            )
    elif change is None and equal < _EQUAL_MADE:
        raise ValueError(
            f"{format} decides {100 * (1 - equal):.3g} % of {figures['rows']:,} rows without "
            "labels otherwise than Keras; give check=ECGDataset (--source), to compare the figure."
        )
    elif change is not None and change < -_LOSS:
        other = [name for name in ("litert_dynamic", "litert_float16") if name != format]
        raise ValueError(
            f"{format} loses {-change:.4f} of {figures['figure']} ({figures['keras']:.4f} to "
            f"{figures['exported']:.4f}), more than {_LOSS}; no file was left. "
            f"{' or '.join(other)} may do."
        )


def _latency_ms(run, arrays):
    """Median time of one row, in ms."""
    seconds = []
    for number in range(_TIMED + 10):
        row = number % len(next(iter(arrays.values())))
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        start = time.perf_counter()
        run(one)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[10:]))  # the first ones prepare the runtime


def _size(path):
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _call(model):
    """The model as a function of one tensor per input, in the order of the model's inputs."""
    names = [tensor.name for tensor in model.inputs]
    import tensorflow

    signature = [
        tensorflow.TensorSpec((None, *tensor.shape[1:]), "float32", name=tensor.name)
        for tensor in model.inputs
    ]

    def call(*tensors):
        given = keras_inputs(dict(zip(names, tensors)))
        return {"probabilities": model(given, training=False)}

    return call, signature


def _write_saved_model(path, model, card, calibration=None):
    """TensorFlow's own folder, with the card in assets.extra, which TensorFlow leaves alone."""
    call, signature = _call(model)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", call, input_signature=signature)
    archive.write_out(str(path), verbose=False)
    if (path / "assets").is_dir() and not any((path / "assets").iterdir()):
        (path / "assets").rmdir()
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / _CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def _write_onnx(path, model, card, calibration=None):
    """An ONNX file by tf2onnx; refuses operations that ONNX lacks."""
    import onnx
    import tensorflow
    import tf2onnx

    call, signature = _call(model)
    proto, _ = tf2onnx.convert.from_function(
        tensorflow.function(call, input_signature=signature, autograph=False),
        signature,
        opset=_OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    lacking = {node.op_type for node in proto.graph.node if not node.domain}
    lacking = sorted(name for name in lacking if not onnx.defs.has(name))
    if lacking:
        raise ValueError(f"ONNX lacks operations of this model: {', '.join(lacking)}.")
    _keep_sizes(proto.graph, onnx)
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    entry = proto.metadata_props.add()
    entry.key, entry.value = _KEY, json.dumps(card)
    onnx.save(proto, path)


def _keep_sizes(graph, onnx):
    """Raise the scales of resized images by one float32 step.

    The runtime rounds ``size * scale`` down, and 47 * float32(128 / 47) is below 128.
    """
    names = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    for tensor in graph.initializer:
        if tensor.name in names:
            scales = onnx.numpy_helper.to_array(tensor)
            raised = np.where(scales == 1, scales, np.nextafter(scales, np.float32(np.inf)))
            tensor.CopyFrom(onnx.numpy_helper.from_array(raised, tensor.name))


def _erfc(graph, node, name, args):
    """The complement of the error function, in Keras's GELU, as ``1 - Erf(x)``."""
    erf = graph.make_node("Erf", node.input, name=f"{name}_erf")
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    shapes, dtypes = node.output_shapes, node.output_dtypes
    outputs = node.output
    graph.remove_node(name)
    graph.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=name,
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
    )


def _write_litert(path, model, card, calibration=None, *, kind=None):
    """A LiteRT file, float32 or one of the smaller kinds; the card is appended as a zip archive."""
    import tensorflow

    lite = tensorflow.lite
    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(pathlib.Path(folder) / "model", model, card)
        converter = lite.TFLiteConverter.from_saved_model(os.path.join(folder, "model"))
        if kind is not None:
            converter.optimizations = [lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tensorflow.float16]
        if kind == "int8":
            converter.representative_dataset = lambda: _single(model, calibration)
            kinds = lite.OpsSet.TFLITE_BUILTINS_INT8, lite.OpsSet.TFLITE_BUILTINS
            converter.target_spec.supported_ops = [*kinds]
        try:
            content = converter.convert()
        except Exception as error:
            if type(error).__name__ != "ConverterError":  # TensorFlow's, in a private module
                raise
            raise ValueError(
                f"LiteRT lacks operations of this model: {_first_sentence(error)}"
            ) from None
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_CARD, json.dumps(card, indent=1))


def _first_sentence(error):
    """The line of a converter's error that names what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "needs op" in line.lower() or "op(s)" in line.lower()]
    return (named or lines or ["no reason given."])[0][:300]


def _single(model, ds):
    """Rows of a data set one by one, by the names of the model's inputs."""
    arrays = ds.inputs([tensor.name for tensor in model.inputs])
    for row in range(len(ds)):
        yield {name: array[row : row + 1] for name, array in arrays.items()}


def _run_saved_model(path):
    """The function of a SavedModel: arrays by name to probabilities."""
    import tensorflow

    loaded = tensorflow.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def run(arrays, _alive=loaded):
        given = {name: tensorflow.constant(array) for name, array in arrays.items()}
        return serve(**given)["probabilities"].numpy()

    return run


def _run_onnx(path):
    """The function of an ONNX file in ONNX Runtime, on one thread."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(["probabilities"], arrays)[0]


def _run_litert(path):
    """The function of a LiteRT file in its interpreter, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    serve = interpreter.get_signature_runner()
    return lambda arrays: serve(**arrays)["probabilities"]


def _small(kind):
    """`_write_litert` for one of the smaller kinds."""
    return lambda *args: _write_litert(*args, kind=kind)


FORMATS = {  # suffix, what writes it, what opens it
    "onnx": (".onnx", _write_onnx, _run_onnx),
    "saved_model": ("", _write_saved_model, _run_saved_model),
    "litert": (".tflite", _write_litert, _run_litert),
    "litert_float16": (".tflite", _small("float16"), _run_litert),
    "litert_dynamic": (".tflite", _small("dynamic"), _run_litert),
    "litert_int8": (".tflite", _small("int8"), _run_litert),
}

sys.modules[__name__].__class__ = CallableModule
