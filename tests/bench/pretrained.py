"""Train a model that the package ships, measure it, and write its file, card and checksum.

    python tests/bench/pretrained.py heartbeat_csv --data DIR
    python tests/bench/pretrained.py ptbxl_superclasses --data DIR

Runs go into outputs/scratch/pretrained/, and a finished one is not trained again; figures, measured
with the file that ships, into outputs/pretrained/NAME.json. Files of any Keras are made readable by
the oldest that the package takes. `mitbih_beats` is made by mitbih_beats.py.
"""

import argparse
import json
import pathlib
import tempfile

import keras

from ecg_keras import build_model, fit_and_report, load_mitbih_csv, load_model, predict
from ecg_keras.dataset import split
from ecg_keras.layers import model_card
from ecg_keras.metrics import evaluate
from ecg_keras.presets import find_preset
from ecg_keras.ptbxl import load_ptbxl, load_ptbxl_part
from ecg_keras.report import device, versions
from ecg_keras.saved_models import write_pretrained

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "outputs" / "scratch" / "pretrained"
SEED = 0
# filters, for the room in the one-file bundle; no other choice was made
BEATS = (24, 40, 64)  # the preset has (32, 64, 96)
NARROW = (16, 24, 48, 64)  # the preset has (32, 64, 128, 256)
PHYSIONET = (
    "A. Goldberger et al., 'PhysioBank, PhysioToolkit, and PhysioNet', Circulation 101(23), 2000"
)
NOT_FOR = (
    "Diagnosis, monitoring or any decision about a person: it is no medical device. Other leads, "
    "rates or amplitudes than those named."
)


def figures_of(model, ds, on):
    """Accuracy, macro-F1 and macro-AUC with intervals, as a card has them; and all figures."""
    found = evaluate(ds.y, predict(model, ds), ds.classes, patients=ds.patients, seed=SEED)
    names = ["macro_auc"] if ds.multi_label else ["accuracy", "macro_f1", "macro_auc"]
    return [
        {"name": name, "value": found[name], "interval": found["ci95"][name], "on": on}
        for name in names
    ], found


def trained(run, preset, filters, train, val, test):
    """The saved model of a preset with other filters."""
    out = SCRATCH / run
    if not (out / "model.keras").is_file():
        keras.utils.set_random_seed(SEED)
        model = build_model(**preset["model"] | {"filters": filters}, like=train)
        fit_and_report(model, train, val, test, out_dir=out, seed=SEED, **preset["fit"])
    return load_model(out / "model.keras")


def heartbeat_csv(data):
    """A narrower resnet1d_fast on the two CSV files."""
    parts = load_mitbih_csv(data)
    preset = find_preset("mitbih_csv", "resnet1d_fast")
    saved = trained("heartbeat_csv", preset, BEATS, *parts)
    about = {
        "reads": "one beat from its R peak on, as Kaggle's heartbeat CSVs have it",
        "trained_on": "MIT-BIH CSV, train file",
        "purpose": "Try, teach and compare: the class of a beat cut as in the Kaggle files.",
        "data": "MIT-BIH Arrhythmia Database, 109,494 beats of 47 people in the form of the CSVs.",
        "licence": "ODC-BY 1.0 (data), Apache-2.0 (model)",
        "citation": "G. B. Moody, R. G. Mark, 'The impact of the MIT-BIH Arrhythmia Database', "
        "IEEE EMB 20(3), 2001; M. Kachuee et al., ICHI 2018; " + PHYSIONET,
        "protocol": "The files' own division by beat, a tenth of train for validation, seed 0. The "
        "files share patients, so the figures say nothing about new people.",
        "never_shown": "The test file. No patient is unseen: all 47 are in the train file.",
        "not_for": NOT_FOR + " Claims about patients it has not seen.",
    }
    return saved, about, parts[2], "test file, counted once, patients mixed"


def ptbxl_superclasses(data):
    """A narrow resnet1d: counted on fold 9 when trained on 1-7; shipped when trained on 1-8."""
    preset = find_preset("ptbxl", "resnet1d")
    counted = figures_of(
        trained("ptbxl_counted", preset, NARROW, *load_ptbxl(data, folds="1-7/8/9")),
        load_ptbxl_part(data, folds="9"),
        "fold 9, counted: the same network trained on folds 1-7, epoch chosen on 8",
    )[0]
    train, val = (load_ptbxl_part(data, folds=folds) for folds in ("1-8", "9"))
    chosen_on, rest = split(val, 0.2, by="patients", seed=SEED)
    saved = trained("ptbxl_superclasses", preset, NARROW, train, chosen_on, rest)
    about = {
        "reads": "ten seconds of twelve leads",
        "trained_on": "PTB-XL, folds 1-8",
        "purpose": "Screening of research data: NORM, MI, STTC, CD and HYP, several at once.",
        "data": "PTB-XL 1.0.3, 2,664 of its 21,799 records, at 100 Hz.",
        "licence": "CC BY 4.0 (data), Apache-2.0 (model)",
        "citation": "P. Wagner et al., 'PTB-XL, a large publicly available electrocardiography "
        "dataset', Scientific Data 7:154, 2020; " + PHYSIONET,
        "protocol": "Trained on folds 1-8 of whole patients, seed 0, epoch chosen on four fifths "
        "of fold 9. The figure is that of the same network trained on folds 1-7.",
        "never_shown": "Fold 10, and the other records of PTB-XL.",
        "not_for": NOT_FOR,
        "figures": counted,
    }
    return saved, about, val, "fold 9, chosen-on: the epoch was chosen there"


def main():
    """Make one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("heartbeat_csv", "ptbxl_superclasses"))
    parser.add_argument("--data", required=True, metavar="DIR")
    options = parser.parse_args()
    make = {"heartbeat_csv": heartbeat_csv, "ptbxl_superclasses": ptbxl_superclasses}
    model, about, rows, on = make[options.name](options.data)
    before, _ = figures_of(model, rows, on)
    counted = about.get("figures", [])
    with tempfile.TemporaryDirectory() as out:  # the card has the figures of the file that ships
        small = write_pretrained(
            model, options.name, about | {"figure": "", "figures": []}, folder=out
        )
        shipped, whole = figures_of(load_model(small), rows, on)
    about["figures"] = [*counted, *shipped]
    first = about["figures"][0]
    about["figure"] = ", ".join(
        f"{figure['name'].replace('_', ' ')} {figure['value']:.3f}"
        for figure in about["figures"]
        if figure["on"] == first["on"]
    )
    path = write_pretrained(model, options.name, about, check=rows)
    written = {
        "command": f"python tests/bench/pretrained.py {options.name} --data DIR",
        "seed": SEED,
        "before_float16": before,
        "shipped": shipped,
        "per_class": whole["per_class"],
        "bytes": path.stat().st_size,
        "parameters": model.count_params(),
        "card": dict(model_card(load_model(options.name))) | {"patients": None},
        "device": device(),
        "versions": versions(),
    }
    out = ROOT / "outputs" / "pretrained" / f"{options.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(written, indent=1, default=float) + "\n")
    print(json.dumps({key: written[key] for key in ("shipped", "bytes", "parameters")}, indent=1))


if __name__ == "__main__":
    main()
