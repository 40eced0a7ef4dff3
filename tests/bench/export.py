"""Export models to every format, run each file, and compare it with the Keras model.

    python tests/bench/export.py [--families NAME ...] [--formats NAME ...]
    python tests/bench/export.py --pretrained --data DIR

The first trains each family for three epochs on the synthetic demo set and compares on its 1,000
test beats: outputs/export/families.csv. The second takes the models that the package ships and
real rows: the test file of the heartbeat CSV, fold 9 of PTB-XL, and beats of DS1 and of SVDB, which
`mitbih_beats` was trained on. What is measured are differences between runtimes, not how well a
model works: outputs/export/pretrained.csv. DIR holds ptbxl/, mitdb/, svdb/ and heartbeat/ (the two
CSV files, or --heartbeat names their folder).

A file that is refused has a row with the reason. Times are of one row in one thread.
"""

import argparse
import importlib.metadata
import os
import pathlib
import tempfile

import keras
import pandas as pd

from ecg_keras import build_model, export, fit_and_report, load_demo, load_model, model_card
from ecg_keras.export import FORMATS
from ecg_keras.mitbih_csv import load_mitbih_csv
from ecg_keras.mitbih_records import DS1, load_wfdb_beats
from ecg_keras.models import MODELS
from ecg_keras.ptbxl import load_ptbxl_part
from ecg_keras.report import device, versions
from ecg_keras.storage import write_json, write_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "export"
SEED = 0
EPOCHS = 3
FORMATS_OF = ("onnx", "saved_model", "litert", "litert_float16", "litert_dynamic", "litert_int8")
RUNTIMES = ("onnx", "onnxruntime", "tf2onnx", "ai-edge-litert")
COMMANDS = {
    "families": "python tests/bench/export.py",
    "pretrained": "python tests/bench/export.py --pretrained --data DIR",
}
COLUMNS = (
    "model parameters format rows figure keras exported change equal_decisions "
    "largest_difference size_kb latency_ms refused"
).split()


def family_models(names):
    """Each family, trained on the demo set: name, saved model, rows to compare on."""
    parts = load_demo(n_beats=5000, seed=SEED)
    for name in names:
        train, val, test = parts
        if name == "rhythm":
            train, val, test = (with_features(part) for part in parts)
        keras.utils.set_random_seed(SEED)
        with tempfile.TemporaryDirectory() as folder:
            model = build_model(name, like=train)
            fit_and_report(model, train, val, test, out_dir=folder, epochs=EPOCHS, seed=SEED)
            yield name, load_model(pathlib.Path(folder) / "model.keras"), test


def with_features(ds):
    """A data set with the mean and the range of each row as its metadata."""
    columns = [ds.x.mean(axis=(1, 2)), ds.x.max(axis=(1, 2)) - ds.x.min(axis=(1, 2))]
    return ds.replace(metadata=list(zip(*columns)), metadata_names=("mean", "range"))


def shipped_models(data, heartbeat):
    """Each model that the package ships: name, model, real rows."""
    model = load_model("heartbeat_csv")
    yield "heartbeat_csv", model, load_mitbih_csv(heartbeat)[2]
    model = load_model("ptbxl_superclasses")
    preparation = model_card(model)["preparation"]
    yield "ptbxl_superclasses", model, load_ptbxl_part(data / "ptbxl", folds="9", **preparation)
    model = load_model("mitbih_beats")
    sources = [(data / "mitdb", DS1), (data / "svdb", None)]
    yield "mitbih_beats", model, load_wfdb_beats(sources, **model_card(model)["preparation"])


def rows_of(name, model, check, formats):
    """A row of the table per format."""
    for format in formats:
        row = {"model": name, "parameters": model.count_params(), "format": format}
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = pathlib.Path(folder) / f"model{FORMATS[format][0]}"
                found = export(model, path, format=format, check=check, seed=SEED).figures
            except ValueError as error:
                row["refused"] = str(error)
            else:
                row |= {key: value for key, value in found.items() if key in COLUMNS}
                row["size_kb"] = found["size_bytes"] / 1000
        print(row, flush=True)
        yield row


def where(name):
    """What the figures depend on."""
    runtimes = {name: importlib.metadata.version(name) for name in RUNTIMES}
    found = {"command": COMMANDS[name], "seed": SEED, "device": device(), "cores": os.cpu_count()}
    return found | {"versions": versions() | runtimes}


def main():
    """Export, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--formats", nargs="+", default=FORMATS_OF, choices=FORMATS)
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--heartbeat", type=pathlib.Path)
    options = parser.parse_args()
    if options.pretrained and options.data is None:
        parser.error("--pretrained needs --data")
    name = "pretrained" if options.pretrained else "families"
    if options.pretrained:
        models = shipped_models(options.data, options.heartbeat or options.data / "heartbeat")
    else:
        models = family_models(options.families)
    rows = []
    for model in models:
        rows += rows_of(*model, options.formats)
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_text(OUT / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
        keras.backend.clear_session()
    write_json(OUT / f"{name}.json", where(name))
    print(table.drop(columns="refused").to_string(index=False))


if __name__ == "__main__":
    main()
