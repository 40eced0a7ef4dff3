"""Show that a change of the code changed no figure: train four networks, compare every bit.

    python tests/bench/unchanged.py record FILE --heartbeat DIR --mitdb DIR --ptbxl DIR
    python tests/bench/unchanged.py compare FILE --heartbeat DIR --mitdb DIR --ptbxl DIR

`record` is run at the commit before a change, `compare` at the one after it, on the same machine
with the same versions. Each network is trained for two epochs with seed 0 on real data; what is
recorded is the SHA-256 of its weights and of predictions.csv, and the test figures. Only public
names that both commits have are used.
"""

import argparse
import hashlib
import json
import pathlib
import platform
import sys
import tempfile


def heartbeat(folder):
    """Train, validation and test part of the CSV files."""
    from ecg_keras import load_mitbih_csv

    return load_mitbih_csv(folder)


def images(folder):
    """The same as spectrograms."""
    from ecg_keras import to_spectrograms

    return tuple(to_spectrograms(part) for part in heartbeat(folder))


def records(folder):
    """Raw records, fold 0 of 5 by patient, as the preset `rhythm` takes them."""
    from ecg_keras import load_mitbih_records

    return load_mitbih_records(
        folder,
        split="kfold",
        records="ds1",
        classes="aami3",
        lead=("MLII", "other"),
        typical=True,
        train_without="a",
        val_records=("205", "220"),
    )


def ptbxl(folder):
    """Folds 1-7, 8 and 9."""
    from ecg_keras import load_ptbxl

    return load_ptbxl(folder, folds="1-7/8/9")


RUNS = {
    "cnn2d": ("heartbeat", images, {}, {}),
    "resnet1d_fast": (
        "heartbeat",
        heartbeat,
        {"name": "resnet1d", "stem_strides": 3, "filters": (32, 64, 96), "kernel_size": 5},
        {
            "batch_size": 256,
            "learning_rate": 6e-3,
            "label_smoothing": 0.05,
            "majority_share": 0.4,
        },
    ),
    "rhythm": (
        "mitdb",
        records,
        {"filters": ()},
        {
            "batch_size": 512,
            "learning_rate": 2e-3,
            "weight_decay": 0.02,
            "label_smoothing": 0.05,
            "class_weight_power": 0.1,
        },
    ),
    "ptbxl_resnet1d": (
        "ptbxl",
        ptbxl,
        {
            "name": "resnet1d",
            "stem_strides": 2,
            "filters": (32, 64, 128, 256),
            "dropout": 0.5,
            "crop_s": 2.5,
        },
        {
            "batch_size": 64,
            "learning_rate": 3e-3,
            "weight_decay": 0.02,
            "warmup_epochs": 2,
            "mixup": 0.3,
            "augment": ("lead_dropout",),
        },
    ),
}


def digests(name, folders):
    """Train one network for two epochs; returns what must not change."""
    import keras

    from ecg_keras import build_model, fit_and_report

    data, load, model_options, fit_options = RUNS[name]
    parts = load(folders[data])
    keras.utils.set_random_seed(0)
    options = {"name": name} | model_options
    model = build_model(options.pop("name"), like=parts[0], **options)
    with tempfile.TemporaryDirectory() as out:
        report = fit_and_report(
            model, *parts, out_dir=out, epochs=2, seed=0, progress=False, **fit_options
        )
        predictions = hashlib.sha256(
            (pathlib.Path(out) / "predictions.csv").read_bytes()
        ).hexdigest()
    weights = hashlib.sha256()
    for array in model.get_weights():
        weights.update(array.tobytes())
    figures = {key: report["test"][key] for key in ("accuracy", "macro_f1", "macro_auc", "n")}
    return {"weights": weights.hexdigest(), "predictions": predictions, "test": figures}


def main():
    """Record, or compare and end with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=pathlib.Path)
    for name in ("heartbeat", "mitdb", "ptbxl"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--only", nargs="+", default=tuple(RUNS), choices=RUNS)
    options = parser.parse_args()
    found = {}
    for name in options.only:
        found[name] = digests(name, vars(options))
        print(name, json.dumps(found[name]), flush=True)
    if options.what == "record":
        from importlib import metadata

        versions = {
            name: metadata.version(name) for name in ("keras", "tensorflow", "numpy", "scipy")
        }
        made = {
            "python": platform.python_version(),
            "machine": platform.processor() or platform.machine(),
        }
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(
            json.dumps({"made_with": made | versions, "runs": found}, indent=1) + "\n"
        )
        return 0
    before = json.loads(options.file.read_text())["runs"]
    same = {name: before[name] == found[name] for name in found}
    for name, equal in same.items():
        print(f"{name}: {'equal to the last bit' if equal else 'DIFFERS'}")
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
