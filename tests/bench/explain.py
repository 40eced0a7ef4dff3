"""Explain a trained heartbeat model, check the explanations, time them, and draw the V beats.

    python tests/bench/explain.py MODEL_FILE DIR OUT [--check-rows 60]

DIR holds the files of the Kaggle form of the MIT-BIH database; rows of its test part are explained.
OUT gets explanations.json (figures of every check), explain.json (times and machine), v_beats.png
and removal.png; the page with all pictures goes to outputs/scratch/explain.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import sys
import time

import numpy as np

from ecg_keras import load_mitbih_csv, plots
from ecg_keras.attribution import Probe, balanced_rows, gradcam, lime, replacement, shap
from ecg_keras.explain import BEFORE_S, QRS_S, around_r, explain, verdicts
from ecg_keras.layers import model_card
from ecg_keras.saved_models import load_model, predict

ROOT = pathlib.Path(__file__).resolve().parents[2]
V_ROWS = {"gradcam": 200, "shap": 40, "lime": 40}


def timed(model, test, seed):
    """Seconds of each method, compilation included: on the wall, and of all cores together."""
    rows = balanced_rows(test.y, 1000, seed=seed)
    targets, seconds = test.y[rows], {}
    for name, method, n in (("gradcam", gradcam, 1000), ("shap", shap, 15), ("lime", lime, 15)):
        probe = Probe(model, test[rows[:n]])
        start, busy = time.perf_counter(), time.process_time()
        method(probe, targets[:n])
        seconds[f"{name}_{n}_rows"] = {
            "wall": time.perf_counter() - start,
            "cpu": time.process_time() - busy,
        }
    return seconds


def v_beats(model, test, scores, background, seed):
    """Average attribution of V beats around R as a figure; its share in the QRS per method."""
    v = test.classes.index("V")
    rows = np.random.default_rng(seed).permutation(
        np.flatnonzero((test.y == v) & (scores.argmax(axis=1) == v))
    )
    fill, curves, shares = replacement(background), {}, {}
    for name, method, options in (
        ("gradcam", gradcam, {}),
        ("shap", shap, {"background": background.x[:8]}),
        ("lime", lime, {"background": fill[None]}),
    ):
        own = rows[: V_ROWS[name]]
        found = method(Probe(model, test[own]), np.full(len(own), v), **options)
        signal, values, share = around_r(found.signal, test.x[own], fs=test.fs, seed=seed)
        curves.setdefault("signal", signal)
        curves[name], shares[name] = values, share
    look = {"fs": test.fs, "unit": test.unit, "before": round(BEFORE_S * test.fs), "qrs_s": QRS_S}
    return plots.plot_averages({"V": curves}, **look), shares


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model.keras of raw beats")
    parser.add_argument("data", help="folder of mitbih_train.csv and mitbih_test.csv")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--check-rows", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-plant", action="store_true", help="leave out the training on planted beats"
    )
    options = parser.parse_args()
    model = load_model(options.model)
    card = model_card(model)
    _, _, test = load_mitbih_csv(options.data)
    scores = predict(model, test)
    seconds = timed(model, test, options.seed)
    for name, value in seconds.items():
        print(f"{name}: {value['wall']:.1f} s, {value['cpu']:.1f} s of processor time", flush=True)
    background = Probe(model, test[balanced_rows(test.y, 200, seed=options.seed + 1)])
    figure, shares = v_beats(model, test, scores, background, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "v_beats.png").write_bytes(plots.png(figure, dpi=110))
    print(
        "V, share of positive attribution in the QRS:",
        {k: round(s["mean"], 2) for k, s in shares.items()},
        flush=True,
    )
    page = ROOT / "outputs" / "scratch" / "explain" / options.out.name
    found = explain(
        model,
        test,
        out_dir=page,
        check_rows=options.check_rows,
        plant=not options.no_plant,
        seed=options.seed,
    )
    shutil.copy(page / "explanations.json", options.out / "explanations.json")
    shutil.copy(page / "explained_removal.png", options.out / "removal.png")
    failures = verdicts(found)
    result = {
        "model": card["model"],
        "data": card["source"],
        "test_accuracy": float((scores.argmax(axis=1) == test.y).mean()),
        "seconds": seconds,
        "v_beats_qrs": shares,
        "failures": failures,
        "command": " ".join(["python tests/bench/explain.py MODEL_FILE DIR OUT", *sys.argv[4:]]),
        "cpus": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
    }
    (options.out / "explain.json").write_text(json.dumps(result, indent=1) + "\n")
    for name in found.attributions:
        gain = found.checks["removal"][name]["deletion_gain"]
        interval = [round(value, 3) for value in gain["ci95"]]
        print(
            name,
            "deletion gain",
            round(gain["mean"], 3),
            interval,
            "fails:",
            failures[name] or "nothing",
        )


if __name__ == "__main__":
    main()
