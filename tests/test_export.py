"""A saved model decides in other runtimes as it does in Keras, or no file is left."""

import json
import zipfile

import numpy as np
import pytest
from conftest import toy_dataset
from families import SMALL

from ecg_keras import build_model, model_card, predict
from ecg_keras.__main__ import main
from ecg_keras.export import FORMATS, export, read_card
from ecg_keras.saved_models import save_served, served

SUFFIX = {name: parts[0] for name, parts in FORMATS.items()}


@pytest.fixture(scope="module", autouse=True)
def _on_tensorflow():
    import keras

    if keras.config.backend() != "tensorflow":
        pytest.skip("export runs on the TensorFlow backend")


@pytest.fixture(scope="module")
def single():
    """A saved network of one lead, and rows."""
    ds = toy_dataset(120, samples=90)
    return served(build_model("cnn1d", like=ds, filters=(8, 8)), ds), ds


@pytest.fixture(scope="module")
def several():
    """A saved multi-label network of two leads and metadata, and rows."""
    ds = toy_dataset(120, samples=90, leads=2, multi_label=True)
    model = build_model("rhythm", like=ds, **SMALL["rhythm"])
    return served(model, ds, thresholds=(0.4, 0.5, 0.6)), ds


def needs(format):
    for module in {".onnx": ("tf2onnx", "onnxruntime"), ".tflite": ("ai_edge_litert",)}.get(
        SUFFIX[format], ()
    ):
        pytest.importorskip(module)


def run_by_its_own_runtime(path, arrays):
    """What a user of the file does, without this package."""
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).run(["probabilities"], arrays)[0]
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        serve = Interpreter(str(path)).get_signature_runner()
        return serve(**arrays)["probabilities"]
    import tensorflow

    serve = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
    arrays = {name: tensorflow.constant(array) for name, array in arrays.items()}
    return serve(**arrays)["probabilities"].numpy()


@pytest.mark.parametrize("format", ["onnx", "saved_model", "litert"])
def test_a_file_takes_raw_signals_and_metadata_and_gives_the_same_probabilities(
    format, several, tmp_path
):
    needs(format)
    model, ds = several
    found = export(model, tmp_path / f"m{SUFFIX[format]}", format=format, check=ds)
    assert found.figures["rows"] == 120 and found.figures["equal_decisions"] == 1
    assert found.figures["figure"] == "macro_auc" and abs(found.figures["change"]) < 1e-3
    assert found.figures["size_bytes"] > 1000 and found.figures["latency_ms"] > 0
    for n in (1, 7):
        arrays = {"signal": ds.x[:n], "metadata": ds.metadata[:n]}
        got = run_by_its_own_runtime(found.path, arrays)
        np.testing.assert_allclose(got, predict(model, ds[:n]), atol=1e-5)  # probability
    assert [file.name for file in tmp_path.iterdir()] == [found.path.name]  # nothing beside it


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "saved_model", "litert"])
def test_a_file_carries_the_card_without_names_of_patients(format, single, tmp_path):
    needs(format)
    model, ds = single
    path = tmp_path / f"m{SUFFIX[format]}"
    if format == "onnx":
        ds = ds.replace(patients=["Ann"] * len(ds))
        model = served(build_model("cnn1d", like=ds, filters=(8,)), ds)
    export(model, path, format=format)
    if format == "litert":  # by the standard library alone
        card = json.loads(zipfile.ZipFile(path).read("card.json"))
    else:
        card = read_card(path)
    for name in ("classes", "fs", "leads", "unit", "n_samples", "metadata_names", "thresholds"):
        assert card[name] == model_card(model)[name], name
    assert card["written_by"].startswith("ecg_keras ") and "Ann" not in json.dumps(card)


def test_made_rows_are_told_and_have_no_figure(single, tmp_path):
    model, _ = single
    found = export(model, tmp_path / "m", format="saved_model")
    assert found.figures["keras"] is None and "simulator" in found.figures["rows_from"]
    assert "no labels" in str(found) and "macro-F1" not in str(found)


@pytest.mark.slow
def test_the_result_is_a_table(single, tmp_path):
    model, ds = single
    found = export(model, tmp_path / "m", format="saved_model", check=ds)
    assert "macro-F1: Keras, file, change" in str(found)
    html = found._repr_html_()
    assert "<table" in html and "equal decisions" in html


def changed(monkeypatch, change):
    """The runtimes give other probabilities than Keras."""
    from ecg_keras import export as module

    for name, (suffix, write, run) in FORMATS.items():

        def other(path, run=run):
            known = run(path)
            return lambda arrays: change(known(arrays))

        monkeypatch.setitem(module.FORMATS, name, (suffix, write, other))


def test_one_row_decided_otherwise_is_refused_and_no_file_is_left(single, tmp_path, monkeypatch):
    model, ds = single
    turn = lambda p: np.concatenate([p[:1, [1, 2, 0]], p[1:]])
    changed(monkeypatch, turn)
    with pytest.raises(ValueError, match="of 120 rows otherwise than Keras"):
        export(model, tmp_path / "m", format="saved_model", check=ds)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_that_loses_too_much_is_refused_with_what_may_do(single, tmp_path, monkeypatch):
    needs("litert_int8")
    _, ds = single
    wanted = np.eye(3, dtype=np.float32)[ds.y]
    from ecg_keras import export as module

    monkeypatch.setattr(module, "predict", lambda model, rows: wanted[: len(rows)])
    monkeypatch.setattr(module, "_rows", lambda model, card, check, *rest: (check, check[:20], ()))
    model, _ = single
    with pytest.raises(ValueError, match="litert_dynamic or litert_float16 may do"):
        export(model, tmp_path / "m.tflite", format="litert_int8", check=ds)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_calibrated_by_rows_that_are_not_counted(single, tmp_path):
    needs("litert_int8")
    model, ds = single
    from ecg_keras.export import _rows

    rows, calibration, notes = _rows(model, model_card(model), ds, "litert_int8", 0)
    assert len(rows) == len(calibration) == 60 and "60 other rows" in notes[0]
    assert not {row.tobytes() for row in rows.x} & {row.tobytes() for row in calibration.x}
    with pytest.raises(ValueError, match="litert_dynamic and litert_float16 need none"):
        export(model, tmp_path / "m.tflite", format="litert_int8")


@pytest.mark.slow
def test_smaller_formats_are_smaller_and_near(tmp_path):
    needs("litert")
    import keras

    keras.utils.set_random_seed(0)
    ds = toy_dataset(300)
    model = build_model("cnn1d", like=ds, filters=(32, 64))
    model.compile(keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy")
    model.fit(ds.x, ds.y, epochs=6, verbose=0)
    model = served(model, ds)
    whole = export(model, tmp_path / "m.tflite", format="litert", check=ds)
    assert whole.figures["largest_difference"] < 1e-5 and whole.figures["keras"] > 0.95
    for format in ("litert_float16", "litert_dynamic", "litert_int8"):
        found = export(model, tmp_path / "s.tflite", format=format, check=ds).figures
        assert found["size_bytes"] < 0.7 * whole.figures["size_bytes"], format
        assert found["change"] >= -0.005, format
        assert found["largest_difference"] > whole.figures["largest_difference"], format


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "litert"])
@pytest.mark.parametrize("family", ["fft_transformer", "beat_forest", "signal_to_image"])
def test_gelu_trees_and_resized_images_decide_the_same(family, format, tmp_path):
    # tests/bench/export.py has every family in every format
    needs(format)
    ds = toy_dataset(60)
    model = served(build_model(family, like=ds, **SMALL[family]), ds)
    found = export(model, tmp_path / f"m{SUFFIX[format]}", format=format, check=ds)
    assert found.figures["largest_difference"] < 1e-4  # probability


@pytest.mark.slow
def test_an_older_export_is_replaced_and_other_files_are_not(single, tmp_path):
    needs("onnx")
    model, _ = single
    export(model, tmp_path / "m.onnx")
    first = (tmp_path / "m.onnx").stat().st_ino
    export(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_ino != first
    export(model, tmp_path / "m", format="saved_model")
    export(model, tmp_path / "m", format="saved_model")
    (tmp_path / "m" / "mine.txt").write_text("mine")
    (tmp_path / "other.onnx").write_bytes(b"\x08\x01 not a model")
    for name, format in (("m", "saved_model"), ("other.onnx", "onnx")):
        with pytest.raises(ValueError, match="was not written by export"):
            export(model, tmp_path / name, format=format)
    assert (tmp_path / "m" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name, format, told",
    [
        ("m.onnx", "torchscript", "format='torchscript' is not known"),
        ("m.tflite", "onnx", "a name that ends with .onnx"),
        ("m.onnx", "saved_model", "the name of a folder"),
        ("none/m.onnx", "onnx", "no such folder"),
    ],
)
def test_a_wrong_format_or_path_is_refused(name, format, told, single, tmp_path):
    with pytest.raises(ValueError, match=told):
        export(single[0], tmp_path / name, format=format)


def test_wrong_models_and_rows_are_refused(single, tmp_path):
    model, ds = single
    network = build_model("cnn1d", like=ds, filters=(8,))
    with pytest.raises(ValueError, match="a network without one"):
        export(network, tmp_path / "m", format="saved_model")
    with pytest.raises(ValueError, match="the data set has fs 250"):
        export(model, tmp_path / "m", format="saved_model", check=ds.replace(fs=250))
    with pytest.raises(TypeError, match="check must be an ECGDataset"):
        export(model, tmp_path / "m", format="saved_model", check=ds.x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "format, module, extra",
    [("onnx", "tf2onnx", "onnx"), ("litert", "ai_edge_litert", "litert")],
)
def test_a_missing_library_names_its_extra(format, module, extra, single, tmp_path, monkeypatch):
    needs(format)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"ecg_keras\[{extra}\]"):
        export(single[0], tmp_path / f"m{SUFFIX[format]}", format=format)


@pytest.mark.slow
def test_the_command_line_exports(tmp_path, capsys):
    from ecg_keras import load_demo

    train, _, _ = load_demo(n_beats=400)
    save_served(tmp_path / "model.keras", build_model("cnn1d", like=train, filters=(8,)), train)
    words = ["export", "--model", str(tmp_path / "model.keras"), "--format", "saved-model"]
    source = ["--source", "demo"]
    assert main([*words, *source, "--out", str(tmp_path / "m")]) == 0
    assert "macro-F1" in capsys.readouterr().out and (tmp_path / "m" / "saved_model.pb").exists()
    assert main([*words, "--out", str(tmp_path / "none" / "m")]) == 2
    assert "no such folder" in capsys.readouterr().err
