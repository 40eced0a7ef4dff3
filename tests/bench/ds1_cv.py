"""Measure models on MIT-BIH patients they have not seen: 5 folds of whole patients inside DS1.

    python tests/bench/ds1_cv.py rhythm DIR [--seeds 0,1] [--folds 0,1,2,3,4] [--set filters=()]
    python tests/bench/ds1_cv.py signal_to_image DIR --most-per-class 60 --set epochs=4

The settings are those of the preset of that name; ``--set`` changes keywords of the model, of
fitting or of preparing beats. Every beat of every DS1 patient is tested once per seed, by a model
that has not seen the patient. DS2 is not touched. Writes outputs/ds1_cv/NAME.json; a run that is
killed goes on with the folds that are missing.
"""

import argparse
import ast
import dataclasses
import inspect
import json
import os
import pathlib
import shutil
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from ecg_keras import beats, mitbih_records, signals
from ecg_keras.dataset import draw_patients
from ecg_keras.mitbih_records import DS1, BeatPreparation, fold_patients, thinned
from ecg_keras.models import MODELS
from ecg_keras.presets import PRESETS
from ecg_keras.report import peak_rss_mb, versions
from ecg_keras.saved_models import predict
from ecg_keras.storage import (
    cache_folder,
    file_stamp,
    fingerprint,
    read_cache,
    write_cache,
    write_json,
)
from ecg_keras.training import fit

N_FOLDS = 5
PREPARED = {field.name for field in dataclasses.fields(BeatPreparation)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=PRESETS["mitbih_records"])
    parser.add_argument("directory")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--name", help="of the result file, by default the preset's")
    parser.add_argument(
        "--most-per-class", type=int, help="train beats of a class and record, at most"
    )
    parser.add_argument(
        "--test-at-most",
        type=int,
        help="test beats of a class and record, drawn at random and weighted back; by default all",
    )
    parser.add_argument(
        "--train-without", help="symbols left out of train; by default the preset's"
    )
    parser.add_argument(
        "--features-without", default="", help="prefixes of metadata columns to leave out, by comma"
    )
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    options = parser.parse_args()
    preset = PRESETS["mitbih_records"][options.preset]
    changes = {
        key: _literal(value) for key, value in (given.split("=", 1) for given in options.set)
    }
    family = MODELS[preset["model"]["name"]]
    modelling = {key: value for key, value in preset["model"].items() if key != "name"}
    modelling |= {
        key: value for key, value in changes.items() if key in inspect.signature(family).parameters
    }
    fitting = preset["fit"] | {
        key: value for key, value in changes.items() if key in inspect.signature(fit).parameters
    }
    preparation = {key: value for key, value in preset["load"].items() if key in PREPARED}
    preparation |= {key: value for key, value in changes.items() if key in PREPARED}
    if unknown := set(changes) - set(modelling) - set(fitting) - set(preparation):
        parser.error(f"--set: unknown {', '.join(unknown)}")
    without = (
        preset["load"].get("train_without", "")
        if options.train_without is None
        else options.train_without
    )
    start = time.perf_counter()
    ds, symbols = load(options.directory, BeatPreparation(**preparation))
    usable = ~np.isin(symbols, list(without))
    if options.features_without:
        kept = [
            i
            for i, name in enumerate(ds.metadata_names)
            if not name.startswith(tuple(options.features_without.split(",")))
        ]
        ds = ds.replace(
            metadata=ds.metadata[:, kept], metadata_names=[ds.metadata_names[i] for i in kept]
        )
    load_s = time.perf_counter() - start
    path = pathlib.Path("outputs/ds1_cv") / f"{options.name or options.preset}.json"
    settings = {"model": modelling, "fit": fitting, "load": preparation, "train_without": without}
    settings |= {
        "most_per_class": options.most_per_class,
        "features_without": options.features_without,
        "test_at_most": options.test_at_most,
    }
    result = {
        "command": "python tests/bench/ds1_cv.py "
        + " ".join(os.sys.argv[1:]).replace(options.directory, "DIR"),
        "data": ds.source + ", the 22 DS1 records; " + ds.notes[0],
        "protocol": f"{N_FOLDS} folds of whole patients, validation patients cut off train, "
        + (
            "every test beat counted"
            if options.test_at_most is None
            else f"at most {options.test_at_most} test beats of a class and record, weighted"
        ),
        "settings": json.loads(json.dumps(settings, default=str)),
        "versions": versions(),
        "cores": len(os.sched_getaffinity(0)),
        "runs": [],
    }
    if path.exists() and (old := json.loads(path.read_text()))["settings"] == result["settings"]:
        result["runs"] = old["runs"]
    done = {(run["seed"], run["fold"]) for run in result["runs"]}
    for seed in map(int, options.seeds.split(",")):
        for fold in map(int, options.folds.split(",")):
            if (seed, fold) not in done:
                run = measure(
                    ds,
                    usable,
                    family,
                    modelling,
                    fitting,
                    fold,
                    seed,
                    options.most_per_class,
                    options.test_at_most,
                )
                result["runs"].append(
                    {"seed": seed, "fold": fold, "load_s": round(load_s, 1)} | run
                )
                print(
                    seed,
                    fold,
                    run["records"],
                    {
                        key: round(run[key], 3)
                        for key in ("macro_f1", "S_se", "S_pp", "V_se", "V_pp")
                    },
                    flush=True,
                )
                result["peak_rss_mb"] = peak_rss_mb()
                write_json(path, result | {"summary": summary(result["runs"])})
    result["summary"] = summary(result["runs"])
    write_json(path, result)
    print(json.dumps(result["summary"], indent=1))


def load(directory, preparation):
    """DS1 as a data set and its symbols; kept in the cache, as many runs ask for the same."""
    path = cache_folder() / "ds1_cv" / (fingerprint(dataclasses.asdict(preparation)) + ".bin")
    key = [file_stamp(pathlib.Path(module.__file__)) for module in (beats, mitbih_records, signals)]
    if (kept := read_cache(path, key)) is not None:
        few, _ = mitbih_records.beat_rows(directory, DS1[:1], preparation)
        symbols, counts = kept.pop("symbols"), str(bytes(kept.pop("note")), "utf-8")
        kept = {
            name: values.astype(str) if name in ("records", "patients") else values
            for name, values in kept.items()
        }
        return few.replace(**kept, notes=(counts,)), symbols.astype(str)
    ds, symbols = mitbih_records.beat_rows(directory, DS1, preparation)
    arrays = {
        "x": ds.x,
        "y": ds.y,
        "records": ds.records.astype("S8"),
        "patients": ds.patients.astype("S8"),
    }
    arrays |= {"metadata": ds.metadata} if ds.metadata is not None else {}
    arrays |= {
        "symbols": symbols.astype("S1"),
        "note": np.frombuffer(ds.notes[0].encode(), np.uint8),
    }
    write_cache(path, key, arrays)
    return ds, symbols


def measure(ds, usable, family, modelling, fitting, fold, seed, most, most_test):
    """Train on all folds but one, measure on that one."""
    in_test = np.isin(ds.patients, fold_patients(ds, fold, n_folds=N_FOLDS))
    rest = ds[~in_test]
    in_val = np.isin(ds.patients, draw_patients(rest, 0.1, seed=seed))
    train, val, test = thinned(ds[~in_test & ~in_val & usable], most, seed), ds[in_val], ds[in_test]
    val = thinned(val, most and 3 * most, seed)
    keras.utils.set_random_seed(seed)
    model = family(train, **modelling)
    folder = tempfile.mkdtemp()
    start = time.perf_counter()
    history = fit(model, train, val, folder=folder, seed=seed, progress=False, **fitting)
    fit_s = time.perf_counter() - start
    shutil.rmtree(folder)
    confusion = confusions(model, test, thinned(test, most_test, seed))
    keras.backend.clear_session()
    return figures(np.sum(list(confusion.values()), axis=0)) | {
        "records": " ".join(confusion),
        "val_records": " ".join(np.unique(val.records)),
        "n_train": len(train),
        "best_epoch": history.best_row + 1,
        "fit_s": round(fit_s, 1),
        "n_parameters": model.count_params(),
        "confusion": confusion,
    }


def confusions(model, test, sample):
    """A 3 x 3 table (true, predicted) per record; of a sample, scaled to the record's counts."""
    predicted = np.concatenate(
        [
            predict(model, sample[i : i + 2048], batch_size=256).argmax(axis=1)
            for i in range(0, len(sample), 2048)
        ]
    )
    tables = {}
    for record in np.unique(test.records):
        rows = sample.records == record
        table = np.bincount(3 * sample.y[rows] + predicted[rows], minlength=9).reshape(3, 3)
        true = np.bincount(test.y[test.records == record], minlength=3)
        tables[str(record)] = (
            (table * (true / table.sum(axis=1).clip(1))[:, None]).round(2).tolist()
        )
    return tables


def figures(confusion):
    """A 3 x 3 table (true, predicted) of N, S, V to the figures asked for."""
    confusion = np.asarray(confusion)
    right = confusion.diagonal()
    se, pp = right / confusion.sum(axis=1).clip(1), right / confusion.sum(axis=0).clip(1)
    f1 = 2 * right / (confusion.sum(axis=0) + confusion.sum(axis=1)).clip(1)
    named = {
        f"{name}_{key}": values[i]
        for i, name in enumerate("NSV")
        for key, values in (("se", se), ("pp", pp), ("f1", f1))
    }
    return {"macro_f1": f1.mean(), "accuracy": right.sum() / confusion.sum()} | named


def summary(runs):
    """Mean and deviation over folds (mean of seeds), and figures of all beats pooled per seed."""
    keys = [key for key in runs[0] if key[:2] in ("ma", "ac", "N_", "S_", "V_")]
    folds = {
        fold: [run for run in runs if run["fold"] == fold]
        for fold in sorted({run["fold"] for run in runs})
    }
    by_fold = {
        key: [np.mean([run[key] for run in part]) for part in folds.values()] for key in keys
    }
    pooled = []
    for seed in sorted({run["seed"] for run in runs}):
        tables = [
            table for run in runs if run["seed"] == seed for table in run["confusion"].values()
        ]
        if len([run for run in runs if run["seed"] == seed]) == N_FOLDS:
            pooled.append(figures(np.sum(tables, axis=0)))
    return {
        "mean_of_folds": {key: float(np.mean(values)) for key, values in by_fold.items()},
        "sd_of_folds": {key: float(np.std(values)) for key, values in by_fold.items()},
        "pooled": {key: float(np.mean([row[key] for row in pooled])) for key in keys}
        if pooled
        else None,
        "pooled_sd_of_seeds": {key: float(np.std([row[key] for row in pooled])) for key in keys}
        if pooled
        else None,
        "seeds": len({run["seed"] for run in runs}),
        "fit_s_mean": float(np.mean([run["fit_s"] for run in runs])),
    }


def _literal(value):
    """Text to a Python value where it is one."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


if __name__ == "__main__":
    main()
