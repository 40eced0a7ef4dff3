"""Search on the Kaggle 'heartbeat' CSVs, then train winner and default on all rows.

    python tests/bench/search_heartbeat.py --data DIR [--model cnn2d] [--hours 1] [--rows 20000]
        [--set OPTION=VALUE ...]
    python tests/bench/search_heartbeat.py --data DIR --model cnn2d --retrain [--seeds 0 1 2]

The first command searches. Trials train on a stratified part of the training rows (`--rows`) and
are measured on a part of the validation rows. The second command reads result.json and trains the
winner and the family's default on all training rows, several seeds each, for the epochs that
`fit_and_report` takes by default. It measures them on the test rows. Seeds that are there already
are not trained again. Results are in outputs/search_MODEL/: leaderboard.csv, search.html and
result.json, with the share of the workers' wall time that went into training. Patients are mixed
in these files, so figures are those of people already seen.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def part_of(train, rows, seed):
    """A stratified part of a data set."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    if rows >= len(train):
        return train
    kept, _ = train_test_split(
        np.arange(len(train)), train_size=rows, stratify=train.y, random_state=seed
    )
    return train[np.sort(kept)]


def trained(model, parts, model_options, fit_options, seed, work):
    """Figures of one setting and seed, as a dict."""
    import keras

    from ecg_keras import build_model, fit_and_report

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    network = build_model(model, like=parts[0], **model_options)
    report = fit_and_report(network, *parts, out_dir=work / f"seed{seed}", seed=seed, **fit_options)
    row = {
        "seed": seed,
        **{name: report["test"][name] for name in ("accuracy", "macro_f1", "macro_auc")},
    }
    row |= {"val_macro_f1": report["val"]["macro_f1"], "fit_seconds": report["seconds"]["fit"]}
    print(row, flush=True)
    return row | {"cores": len(os.sched_getaffinity(0)), "parameters": int(network.count_params())}


def keep(file, name, rows):
    """Add the runs of a setting to result.json, with mean and deviation."""
    result = json.loads(file.read_text())
    scores = [row["macro_f1"] for row in rows]
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    result[name] = {"test_macro_f1": statistics.mean(scores), "sd": spread, "runs": rows}
    file.write_text(json.dumps(result, indent=1) + "\n")


def searched(options, train, val, work):
    """Search for `options.hours`; returns what result.json says of it."""
    from ecg_keras.__main__ import _assignment
    from ecg_keras.search import search

    narrowed = dict(map(_assignment, options.set))
    best = search(
        part_of(train, options.rows, 0),
        part_of(val, options.val_rows, 0),
        model=options.model,
        out_dir=work,
        hours=options.hours,
        strategy=options.strategy,
        epochs=options.epochs,
        workers=options.workers,
        renew_after=20,
        **narrowed,
    )
    ended = json.loads((work / "ended.json").read_text())
    return {
        "command": shlex.join(["python", "tests/bench/search_heartbeat.py", *sys.argv[1:]]).replace(
            options.data, "DIR"
        ),
        "machine": f"{os.cpu_count()} cores, {options.workers} workers",
        "data": f"MIT-BIH beats as CSV, {options.rows:,} of {len(train):,} training rows, "
        f"{min(options.val_rows, len(val)):,} of {len(val):,} validation rows; patients mixed",
        "hours": options.hours,
        "trials": ended["trials"],
        "failed": ended["failed"],
        "training_share": ended["training_share"],
        "seconds": ended["seconds"],
        "best_value": best.value,
        "epochs": options.epochs,
        "code": best.code(),
        "model_options": ended["model_options"],
        "fit_options": ended["fit_options"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="cnn2d")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--val-rows", type=int, default=12000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--strategy", default="hyperband")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="as `ecg-keras tune --set`",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train the winner and the default, instead of searching",
    )
    parser.add_argument(
        "--only", choices=("winner", "default"), help="with --retrain: one of the two"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "outputs" / "scratch")
    options = parser.parse_args()

    from ecg_keras import load_mitbih_csv
    from ecg_keras.search_space import from_json

    out = options.out or ROOT / "outputs" / f"search_{options.model}"
    work = options.work / f"search_{options.model}"
    train, val, test = parts = load_mitbih_csv(options.data)
    out.mkdir(parents=True, exist_ok=True)
    if not options.retrain:
        result = searched(options, train, val, work)
        for name in ("leaderboard.csv", "search.html"):
            shutil.copy(work / name, out / name)
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))
        return
    result = json.loads((out / "result.json").read_text())
    chosen = {
        "winner": (from_json(result["model_options"]), result["fit_options"]),
        "default": ({}, {}),
    }
    for name in [options.only] if options.only else chosen:
        model_options, fit_options = chosen[name]
        fit_options = {key: value for key, value in fit_options.items() if key != "epochs"}
        rows = result.get(name, {}).get("runs", [])
        for seed in sorted({*options.seeds} - {row["seed"] for row in rows}):
            row = trained(options.model, parts, model_options, fit_options, seed, work / name)
            rows = sorted([*rows, row], key=lambda row: row["seed"])
            keep(out / "result.json", name, rows)


if __name__ == "__main__":
    main()
