"""Measure one setting for the Kaggle 'heartbeat' CSVs without their test file.

    python tests/bench/heartbeat_choices.py --data DIR --preset resnet1d [--seed 0] [option=value]

Trains the preset, with the options changed that are given, on nine tenths of the training rows.
Prints accuracy and macro-F1 on the validation rows, which choose the epoch, and on the other
tenth, which chooses nothing. The test file is not looked at.

outputs/heartbeat_choices.csv has what was tried so, at the last epoch: accuracy and macro-F1 over
validation and held-out rows together, and over the held-out rows alone. Its rows change these
settings, all with label smoothing 0.02:

- resnet1d with filters (32, 64, 96, 128), stem_strides 3, the default majority_share, batches of
  256, rate 4e-3, weight decay 0.03, ema 0.998;
- resnet1d_fast with filters (32, 64, 96), kernel 5, rate 6e-3.

The last two rows are today's resnet1d, which search_heartbeat.py found, at its best epoch as
printed here.
"""

import argparse
import inspect
import tempfile


def main():
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", metavar="option=value")
    options = parser.parse_args()

    import keras

    from ecg_keras import build_model, fit_and_report, load_mitbih_csv
    from ecg_keras.__main__ import _assignment
    from ecg_keras.dataset import split
    from ecg_keras.presets import find_preset

    preset = find_preset("mitbih_csv", options.preset)
    building, fitting = dict(preset["model"]), dict(preset["fit"])
    for name, value in map(_assignment, options.options):
        chosen = fitting if name in inspect.signature(fit_and_report).parameters else building
        chosen[name] = value
    train, val, _ = load_mitbih_csv(options.data)
    train, held_out = split(train, 0.1, seed=7)
    keras.utils.set_random_seed(options.seed)
    model = build_model(building.pop("name"), like=train, **building)
    with tempfile.TemporaryDirectory() as folder:
        report = fit_and_report(
            model, train, val, held_out, out_dir=folder, seed=options.seed, explain=False, **fitting
        )
    for part, rows in (("validation", report["val"]), ("held out", report["test"])):
        print(f"{part}: accuracy {100 * rows['accuracy']:.2f} %, macro-F1 {rows['macro_f1']:.4f}")
    print(f"fit {report['seconds']['fit']:.0f} s, {report['n_parameters']:,} parameters")


if __name__ == "__main__":
    main()
