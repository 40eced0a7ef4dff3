"""From the MIT-BIH beats to an honest report, in four calls.

Paste it into a Kaggle notebook with the data set shayanfazeli/heartbeat attached, or run
`python kaggle_kernel.py`. Without data it runs on synthetic beats, and says so. Every constant can
be set by an environment variable: ECG_KERAS_ and its name.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from importlib import metadata, util

ENV = os.environ.get
DATA = ENV("ECG_KERAS_DATA")  # folder of the CSV files; by default looked for among the inputs
OUT = ENV("ECG_KERAS_OUT", "outputs/mitbih")
MODEL = ENV("ECG_KERAS_MODEL", "cnn2d")
EPOCHS = ENV("ECG_KERAS_EPOCHS")  # by default what the package was measured with
BALANCE = ENV("ECG_KERAS_BALANCE") or None  # smote, smote_tomek, class_weight or sampler
SEED = int(ENV("ECG_KERAS_SEED", "0"))
SEARCH_HOURS = float(ENV("ECG_KERAS_SEARCH_HOURS", "0"))  # above 0: search for a better model first
EXPLAIN = ENV("ECG_KERAS_EXPLAIN", "1") == "1"  # pictures of what decided, in the report
INPUTS = pathlib.Path(ENV("ECG_KERAS_INPUTS", "/kaggle/input"))
PACKAGE = ENV("ECG_KERAS_PACKAGE", "ecg_keras")  # what pip installs: a name or a git address


def find_package():
    """Make ecg_keras importable: an attached wheel or source folder, else pip. Replaces nothing."""
    if util.find_spec("ecg_keras"):
        return
    if wheels := sorted(INPUTS.rglob("ecg_keras-*.whl")):
        sys.path.insert(0, tempfile.mkdtemp())
        zipfile.ZipFile(wheels[-1]).extractall(sys.path[0])
    elif sources := sorted(INPUTS.rglob("ecg_keras/__init__.py")):
        sys.path.insert(0, str(sources[0].parents[1]))
    else:
        there = [dist for dist in metadata.distributions() if dist.name and dist.version]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as frozen:
            frozen.write("".join(sorted({f"{dist.name}=={dist.version}\n" for dist in there})))
            frozen.flush()
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint"]
            subprocess.run([*command, frozen.name, PACKAGE], check=True)


def main():
    """Load, transform, build, fit and report; search first where hours are given."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leaves memory to search workers
    find_package()
    import keras

    import ecg_keras
    from ecg_keras import build_model, fit_and_report, load_mitbih_csv, to_spectrograms

    data = DATA or (INPUTS if any(INPUTS.rglob("mitbih_*.csv*")) else None)
    load = partial(load_mitbih_csv, data) if data else ecg_keras.load_demo
    parts = train, val, test = load(balance=BALANCE, seed=SEED)
    note = "SYNTHETIC beats, not measured: the figures say nothing about patients. "
    note = note if train.synthetic else ""
    print(note + train.summary(), flush=True)
    model_options, fit_options = {}, {"seed": SEED} | ({"epochs": int(EPOCHS)} if EPOCHS else {})
    if SEARCH_HOURS:
        place = {"out_dir": f"{OUT}/search", "previous": INPUTS}
        best = ecg_keras.search(train, val, model=MODEL, hours=SEARCH_HOURS, **place, **fit_options)
        model_options, fit_options = best.model_options, best.fit_options | fit_options
    elif MODEL == "cnn2d":  # images made once; the other families take signals
        parts = tuple(to_spectrograms(part) for part in parts)
    keras.utils.set_random_seed(SEED)
    beats, (train, val, test) = test, parts  # pictures of what decided are drawn on the beats
    model = build_model(MODEL, like=train, **model_options)
    report = fit_and_report(
        model, train, val, test, out_dir=OUT, explain=beats if EXPLAIN else False, **fit_options
    )
    figures = report["test"]
    print(
        f"{note}Test accuracy {100 * figures['accuracy']:.2f} % (always the largest class: "
        f"{100 * figures['majority_accuracy']:.2f} %), macro-F1 {figures['macro_f1']:.4f}. "
        f"Report: {OUT}/report.html"
    )


if __name__ == "__main__":
    main()
