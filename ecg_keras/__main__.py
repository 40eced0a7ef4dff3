"""The command line: ``ecg-keras`` or ``python -m ecg_keras``. It calls the package's functions and holds no logic."""

import argparse
import ast
import importlib
import inspect
import os
import sys

LOADERS = {
    "mitbih-csv": ("mitbih_csv", "load_mitbih_csv"),
    "mitdb": ("mitbih_records", "load_mitbih_records"),
    "ptbxl": ("ptbxl", "load_ptbxl"),
    "demo": ("demo", "load_demo"),
}
PARTS = {"mitdb": ("mitbih_records", "load_beats"), "ptbxl": ("ptbxl", "load_ptbxl_part")}


def main(arguments=None):
    """Run one command; returns 0, or 2 after a mistake of the user's, told in a line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a terminal is for the run's own words
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
        os.environ.setdefault(
            "TF_NUM_INTEROP_THREADS", "2"
        )  # with one, Keras's fit can wait for itself for ever
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if os.environ.get("ECG_KERAS_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130
    return 0


def train(options):
    """Load, build, fit and report."""
    from ecg_keras import build_model, fit_and_report
    from ecg_keras.models import MODELS

    load = _function(*LOADERS[options.source])
    preset = _preset(options)
    loading, fitting = dict(preset.get("load", {})), dict(preset.get("fit", {}))
    modelling = dict(preset.get("model", {}))
    name = options.model or modelling.pop("name", "cnn2d")
    modelling.pop("name", None)
    if name != preset.get("model", {}).get("name", name):
        modelling = {}  # a preset's model options are for its own family
    for given in options.set:
        key, value = _assignment(given)
        _place(key, name, load, MODELS, loading, fitting, modelling)[key] = value
    for key in ("balance", "split", "folds", "seed"):
        if getattr(options, key) is not None:
            loading[key] = getattr(options, key)
    for key in ("epochs", "seed"):
        if getattr(options, key) is not None:
            fitting[key] = getattr(options, key)
    parts = load(**_data(options), **loading)
    for part in parts:
        print(part.summary())
    import keras

    keras.utils.set_random_seed(fitting.get("seed", 0))
    model = build_model(name, like=parts[0], **modelling)
    report = fit_and_report(model, *parts, out_dir=options.out, explain=options.explain, **fitting)
    print(report.summary())


def evaluate(options):
    """Measure a saved model on a data set it has not seen."""
    from ecg_keras.saved_models import load_served
    from ecg_keras.training import evaluate_and_report

    test = _test_part(options, load_served(options.model)[1])
    print(test.summary())
    report = evaluate_and_report(
        options.model,
        test,
        out_dir=options.out,
        explain=options.explain,
        allow_seen=options.allow_seen,
    )
    print(report.summary())


def explain(options):
    """Draw what decided for rows of a data set."""
    from ecg_keras.explain import explain as explain_rows
    from ecg_keras.saved_models import check_card, check_unseen, load_served

    model, card = load_served(options.model)
    ds = _test_part(options, card)
    check_card(card, ds)
    if note := check_unseen(model, ds, allow_seen=options.allow_seen)["note"]:
        ds = ds.replace(notes=(*ds.notes, note))
    methods = options.methods and tuple(options.methods.split(","))
    explain_rows(
        model, ds, rows=options.rows, methods=methods, target=options.target, out_dir=options.out
    )
    print(os.path.join(options.out, "explanations.html"))


def tune(options):
    """Search model and training settings, then train the winner and report it on the test part."""
    from ecg_keras.search import search

    load = _function(*LOADERS[options.source])
    loading = {"balance": options.balance} if options.balance else {}
    loading |= {
        key: getattr(options, key)
        for key in ("split", "folds", "seed")
        if getattr(options, key) is not None
    }
    parts = load(**_data(options), **loading)
    keywords = {
        "model": options.model,
        "out_dir": options.out,
        "strategy": options.strategy,
        "fresh": options.fresh,
    }
    for key in ("hours", "max_trials", "epochs", "workers", "seed"):
        if getattr(options, key) is not None:
            keywords[key] = getattr(options, key)
    best = search(
        parts[0], parts[1], test=parts[2], **keywords, **dict(map(_assignment, options.set))
    )
    print(best.leaderboard.head(10).to_string(index=False))


def demo(options):
    """Write the synthetic demo set."""
    from ecg_keras.demo import write_demo_csv, write_demo_records

    write = write_demo_records if options.records else write_demo_csv
    write(options.directory, seed=options.seed or 0)
    print(f"synthetic demo set in {options.directory}")


def download(options):
    """Fetch a public data set."""
    from ecg_keras.download import download as fetch

    print(fetch(options.name, options.directory, sampling_rate=options.sampling_rate))


def bundle(options):
    """Write one file that carries the package and works pasted alone, and Kaggle's description of it."""
    from ecg_keras.bundle import write_bundle

    print(write_bundle(options.out, username=options.username))


def make_mitbih_csv(options):
    """Build the Kaggle-form CSV files from raw records, with a third file that names each row's record."""
    from ecg_keras.mitbih_csv import make_mitbih_csv as make

    print(make(options.records_dir, options.out_dir))


def compare(options):
    """Put finished runs side by side."""
    from ecg_keras.compare import compare as put_side_by_side

    put_side_by_side(options.runs, options.out)
    print(os.path.join(options.out, "compare.html"))


def _function(module, name):
    """A function of the package, imported when needed."""
    return getattr(importlib.import_module(f"ecg_keras.{module}"), name)


def _data(options):
    """The loader's first argument; the demo set has none."""
    return {} if options.source == "demo" else {"directory": options.data}


def _test_part(options, card):
    """The test part of the model's own split, or the rows named; prepared as its own were."""
    preparation = card["preparation"] or {}
    given = {name: getattr(options, name) for name in ("split", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.source not in PARTS:
        split = dict(card.get("split") or {})
        own = split.pop("loader", None) == LOADERS[options.source][1]
        load = _function(*LOADERS[options.source])
        return load(**_data(options), **(split if own else {}) | given)[2]
    chosen = {"mitdb": "records", "ptbxl": "folds"}[options.source]
    if given:
        raise ValueError(
            f"--{next(iter(given))} is not for --source {options.source}, which takes --{chosen}."
        )
    value = getattr(options, chosen)
    if value is None:
        raise ValueError(f"--source {options.source} needs --{chosen}: which to take.")
    value = value.split(",") if chosen == "records" else value
    return _function(*PARTS[options.source])(options.data, **{chosen: value}, **preparation)


def _preset(options):
    """Ready settings, a dict of "load", "model" and "fit": those named, else those of this model on this source."""
    from ecg_keras.presets import PRESETS, find_preset

    if options.preset == "none":
        return {}
    source = {"mitdb": "mitbih_records"}.get(options.source, options.source.replace("-", "_"))
    given = {_assignment(text)[0] for text in options.set}
    if options.preset is not None:
        preset = find_preset(source, options.preset.replace("-", "_"))
        for key in preset.get("needs", ()):
            if key not in given:
                raise ValueError(
                    f"--preset {options.preset} goes on from models that are trained already; "
                    f"give them with --set {key}=..."
                )
        return preset
    preset = PRESETS.get(source, {}).get(options.model)
    if preset is None or not given.issuperset(preset.get("needs", ())):
        return {}
    print(f"with the settings of --preset {options.model} (--preset none for the plain defaults)")
    return preset


def _assignment(text):
    """``"filters=(32, 64)"`` to ("filters", (32, 64)); what is no Python literal stays text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected option=value.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, tuple(value.split(",")) if "," in value else value


def _place(key, name, load, models, loading, fitting, modelling):
    """The settings an option belongs to: those of the function that has a keyword of that name."""
    from ecg_keras import fit_and_report
    from ecg_keras._checks import check_option

    check_option("model", name, models)
    places = {models[name]: modelling, fit_and_report: fitting, load: loading}
    for function, settings in places.items():
        if key in inspect.signature(function).parameters:
            return settings
    if key == "crop_s":
        return modelling
    keywords = sorted(
        {
            parameter.name
            for function in places
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
    )
    raise ValueError(
        f"--set {key}: neither the loader, nor {name}, nor fit_and_report has it; they have {', '.join(keywords)}."
    )


def _parser():
    """Every command and its options."""
    parser = argparse.ArgumentParser(
        prog="ecg-keras", description="ECG classification in Keras, honestly measured."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, name=None):
        part = commands.add_parser(
            name or function.__name__, help=function.__doc__, description=function.__doc__
        )
        part.set_defaults(run=function)
        return part

    def sourced(part, *, whole):
        part.add_argument("--source", required=True, choices=LOADERS, help="which data set")
        part.add_argument(
            "--data",
            metavar="DIR",
            help="its folder (mitbih-csv looks in ECG_KERAS_DATA and on Kaggle too)",
        )
        part.add_argument(
            "--folds",
            help="PTB-XL: train/val/test, as in 1-8/9/10" if whole else "PTB-XL: as in 10 or 9-10",
        )
        if whole:
            part.add_argument(
                "--split", help="mitdb: ds1-ds2, patient, kfold ...; mitbih-csv: files or patient"
            )
            part.add_argument("--balance", help="smote, smote-tomek, class_weight or sampler")
            part.add_argument("--seed", type=int)
        else:
            part.add_argument("--records", help="mitdb: names, as in 100,103,105")
            part.add_argument("--split", help="mitbih-csv: by default that of the model")
            part.add_argument("--seed", type=int, help="of the split; by default that of the model")
            part.add_argument(
                "--allow-seen",
                action="store_true",
                help="take rows that the model was trained on too; the page says so",
            )

    part = command(train)
    sourced(part, whole=True)
    part.add_argument("--model", help="a model family (default cnn2d, or the preset's)")
    part.add_argument(
        "--preset",
        help="ready settings, as in signal_to_image for mitdb; by default the model's own; or none",
    )
    part.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the report and the model"
    )
    part.add_argument("--epochs", type=int)
    part.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="any keyword of loader, model or fit",
    )
    part.add_argument("--explain", action="store_true", help="add pictures of what decided")

    part = command(evaluate)
    sourced(part, whole=False)
    part.add_argument("--model", required=True, metavar="FILE", help="a model.keras")
    part.add_argument("--out", required=True, metavar="DIR")
    part.add_argument("--explain", action="store_true", help="add pictures of what decided")

    part = command(explain)
    sourced(part, whole=False)
    part.add_argument("--model", required=True, metavar="FILE", help="a model.keras")
    part.add_argument("--out", required=True, metavar="DIR")
    part.add_argument("--methods", help="as in gradcam,shap,lime; by default all that apply")
    part.add_argument("--target", default="predicted", help="predicted, true or a class")
    part.add_argument(
        "--rows",
        type=lambda text: [int(row) for row in text.split(",")],
        help="row numbers, as in 0,17",
    )

    part = command(tune)
    sourced(part, whole=True)
    part.add_argument("--model", default="cnn2d")
    part.add_argument("--out", default="outputs/search", metavar="DIR")
    part.add_argument("--hours", type=float)
    part.add_argument("--max-trials", type=int)
    part.add_argument(
        "--strategy", default="hyperband", choices=("hyperband", "bayesian", "random")
    )
    part.add_argument("--epochs", type=int)
    part.add_argument("--workers", type=int)
    part.add_argument(
        "--fresh", action="store_true", help="start anew; an older search is moved aside"
    )
    part.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="fix or narrow part of the space",
    )

    part = command(compare)
    part.add_argument("runs", nargs="+", metavar="RUN")
    part.add_argument("--out", required=True, metavar="DIR")

    part = command(demo)
    part.add_argument("directory", metavar="DIR")
    part.add_argument("--records", action="store_true", help="WFDB records instead of CSV files")
    part.add_argument("--seed", type=int)

    part = command(download)
    part.add_argument("name", choices=("mitbih-csv", "mitdb", "ptbxl"))
    part.add_argument("directory", metavar="DIR")
    part.add_argument(
        "--sampling-rate",
        type=int,
        default=100,
        choices=(100, 500),
        help="ptbxl: which version, in Hz",
    )

    part = command(make_mitbih_csv, "make-mitbih-csv")
    part.add_argument("records_dir", metavar="RECORDS_DIR")
    part.add_argument("out_dir", metavar="OUT_DIR")

    part = command(bundle)
    part.add_argument("out", metavar="OUT")
    part.add_argument(
        "--username",
        default="INSERT_YOUR_USERNAME",
        help="your name on Kaggle, for kernel-metadata.json",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
