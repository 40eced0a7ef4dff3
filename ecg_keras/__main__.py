"""Run the package from the command line: ``ecg-keras`` or ``python -m ecg_keras``."""

import argparse
import ast
import inspect
import os
import sys

import ecg_keras

SOURCES = {  # its loader; what loads one part of it, and by which keyword
    "mitbih_csv": ("load_mitbih_csv", None, None),
    "mitbih_records": ("load_mitbih_records", "load_beats", "records"),
    "ptbxl": ("load_ptbxl", "load_ptbxl_part", "folds"),
    "demo": ("load_demo", None, None),
}


def main(arguments=None):
    """Run one command; returns 0, or 2 after a mistake of the user's, told in a line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a terminal is for the run's own words
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
        # with one thread, Keras's fit can wait for itself for ever
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
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
    from ecg_keras import MODELS, build_model, fit_and_report

    load = _loader(options.source)
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
    loading |= _given(options, "balance", "split", "folds", "seed")
    fitting |= _given(options, "epochs", "seed")
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
    from ecg_keras import evaluate_and_report, load_model, model_card

    model = load_model(options.model)
    test = _test_part(options, model_card(model))
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
    from ecg_keras.layers import model_card
    from ecg_keras.saved_models import check_card, check_unseen, load_model

    model = load_model(options.model)
    card = model_card(model)
    ds = _test_part(options, card)
    check_card(card, ds)
    if note := check_unseen(model, ds, allow_seen=options.allow_seen)["note"]:
        ds = ds.replace(notes=(*ds.notes, note))
    methods = options.methods and tuple(options.methods.split(","))
    explain_rows(
        model, ds, rows=options.rows, methods=methods, target=options.target, out_dir=options.out
    )
    print(os.path.join(options.out, "explanations.html"))


def annotate(options):
    """Find and classify the beats of recordings; write annotations, tables and a page for each."""
    keywords = {"fs": options.fs, "lead": options.lead and options.lead.split(",")}
    keywords |= {"unit": options.unit, "causal": options.causal}
    first = options.recording[0]
    if len(options.recording) == 1 and (not os.path.isdir(first) or os.path.isfile(first + ".hea")):
        from ecg_keras.annotate import annotate as annotate_one

        print(annotate_one(options.model, first, out_dir=options.out, **keywords))
        print(os.path.join(options.out, "record.html"))
        return
    from ecg_keras.annotate import annotate_folder

    table = annotate_folder(
        options.model,
        options.recording,
        options.out,
        workers=options.workers,
        backend=options.backend,
        recursive=options.recursive,
        **keywords,
    )
    left = table[table["why"] != ""]
    print(f"{len(table) - len(left)} of {len(table)} recordings annotated")
    for path, why in left[["path", "why"]].values:
        print(f"not annotated: {path}: {why}", file=sys.stderr)
    print(os.path.join(options.out, "index.html"))


def stream(options):
    """Read samples from stdin or a socket as they are recorded; write a JSON line per beat."""
    from ecg_keras.streams import stream as read_stream

    read_stream(
        options.model,
        fs=options.fs,
        leads=options.leads and options.leads.split(","),
        lead=options.lead and options.lead.split(","),
        unit=options.unit,
        port=options.port,
        format=options.format,
    )


def export(options):
    """Write a saved model for another runtime, once it decides there as it does in Keras."""
    from ecg_keras import load_model, model_card
    from ecg_keras.export import export as export_model

    model = load_model(options.model)
    check = options.source and _test_part(options, model_card(model))
    print(export_model(model, options.out, format=options.format, check=check))


def tune(options):
    """Search model and training settings, then train the winner and report it on the test part."""
    from ecg_keras.search import search

    loading = _given(options, "balance", "split", "folds", "seed")
    train, val, test = _loader(options.source)(**_data(options), **loading)
    keywords = _given(options, "hours", "max_trials", "epochs", "workers", "seed")
    keywords |= {"model": options.model, "strategy": options.strategy, "fresh": options.fresh}
    keywords |= dict(map(_assignment, options.set))
    best = search(train, val, test=test, out_dir=options.out, **keywords)
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
    """Write one file that carries the package, to paste into Kaggle, and its description."""
    from ecg_keras.bundle import write_bundle

    print(write_bundle(options.out, username=options.username))


def make_mitbih_csv(options):
    """Write the Kaggle form of raw records, and a third file that names each row's record."""
    from ecg_keras.mitbih_csv import make_mitbih_csv as make

    print(make(options.records_dir, options.out_dir))


def models(options):
    """List the trained models that come with the package, or print the card of one."""
    from ecg_keras import list_pretrained, load_model, model_card

    if options.name:
        print(model_card(load_model(options.name)))
    else:
        print(list_pretrained().T.to_string())


def compare(options):
    """Put finished runs side by side."""
    from ecg_keras.compare import compare as put_side_by_side

    put_side_by_side(options.runs, options.out)
    print(os.path.join(options.out, "compare.html"))


def ec57(options):
    """Compare found beats with a reference, beat by beat and run by run (ANSI/AAMI EC57)."""
    from ecg_keras.ec57 import ec57 as compare_beats

    result = compare_beats(
        options.reference,
        options.found,
        reference_extension=options.reference_extension,
        found_extension=options.found_extension,
        records=options.records and options.records.split(","),
        fs=options.fs,
        start_s=options.start,
        stop_s=options.stop,
        window_s=options.window,
        escape_beats=options.escape_beats,
        out_dir=options.out,
    )
    print(result.text(), end="")
    for name, why in result.missing:
        print(f"not compared: {name}, {why}", file=sys.stderr)
    if options.out:
        print(os.path.join(options.out, "ec57.html"))


def _loader(source):
    """The function that loads the three parts of a source."""
    return getattr(ecg_keras, SOURCES[source][0])


def _data(options):
    """The loader's first argument; the demo set has none."""
    return {} if options.source == "demo" else {"directory": options.data}


def _given(options, *names):
    """Options that were given, as keywords."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _test_part(options, card):
    """The test part of the model's own split, or the rows named; prepared as its own were."""
    loader, of_part, chosen = SOURCES[options.source]
    given = _given(options, "split", "seed")
    if of_part is None:
        split = dict(card.get("split") or {})
        own = split.pop("loader", None) == loader
        return _loader(options.source)(**_data(options), **(split if own else {}) | given)[2]
    if given:
        raise ValueError(
            f"--{next(iter(given))} is not for --source {options.source}, which takes --{chosen}."
        )
    value = getattr(options, chosen)
    if value is None:
        raise ValueError(f"--source {options.source} needs --{chosen}: which to take.")
    value = value.split(",") if chosen == "records" else value
    load = getattr(ecg_keras, of_part)
    return load(options.data, **{chosen: value}, **card["preparation"] or {})


def _preset(options):
    """Ready settings ("load", "model" and "fit"): those named, else those of the model."""
    from ecg_keras.presets import PRESETS, find_preset

    if options.preset == "none":
        return {}
    given = {_assignment(text)[0] for text in options.set}
    if options.preset is not None:
        preset = find_preset(options.source, options.preset)
        for key in preset.get("needs", ()):
            if key not in given:
                raise ValueError(
                    f"--preset {options.preset} goes on from models that are trained already; "
                    f"give them with --set {key}=..."
                )
        return preset
    preset = PRESETS.get(options.source, {}).get(options.model)
    if preset is None or not given.issuperset(preset.get("needs", ())):
        return {}
    print(f"with the settings of --preset {options.model} (--preset none for the plain defaults)")
    return preset


def _name(text):
    """A name as it is spelled in Python; the command line takes hyphens too."""
    return text.replace("-", "_")


def _unit(text):
    """A unit's name, or a number of mV."""
    try:
        return float(text)
    except ValueError:
        return text


def _source(text):
    """The name of a source; mitbih_records was called mitdb before 0.2.0."""
    return {"mitdb": "mitbih_records"}.get(text, _name(text))


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
        f"--set {key}: neither the loader, nor {name}, nor fit_and_report has it; "
        f"they have {', '.join(keywords)}."
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

    def sourced(part, *, whole, needed=True):
        part.add_argument(
            "--source", required=needed, type=_source, choices=SOURCES, help="which data set"
        )
        part.add_argument(
            "--data",
            metavar="DIR",
            help="its folder (mitbih_csv looks in ECG_KERAS_DATA and on Kaggle too)",
        )
        part.add_argument(
            "--folds",
            help="PTB-XL: train/val/test, as in 1-8/9/10" if whole else "PTB-XL: as in 10 or 9-10",
        )
        if whole:
            part.add_argument(
                "--split",
                type=_name,
                help="mitbih_records: ds1_ds2, patient, kfold ...; mitbih_csv: files or patient",
            )
            part.add_argument(
                "--balance", type=_name, help="smote, smote_tomek, class_weight or sampler"
            )
            part.add_argument("--seed", type=int)
        else:
            part.add_argument("--records", help="mitbih_records: names, as in 100,103,105")
            part.add_argument(
                "--split", type=_name, help="mitbih_csv: by default that of the model"
            )
            part.add_argument("--seed", type=int, help="of the split; by default that of the model")
            if needed:
                part.add_argument(
                    "--allow-seen",
                    action="store_true",
                    help="take rows that the model was trained on too; the page says so",
                )

    part = command(train)
    sourced(part, whole=True)
    part.add_argument("--model", type=_name, help="a model family (default cnn2d, or the preset's)")
    part.add_argument(
        "--preset",
        type=_name,
        help="ready settings, as in rhythm for mitbih_records; by default the model's own; or none",
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
    part.add_argument("--model", required=True, metavar="FILE", help="a model.keras, or a name")
    part.add_argument("--out", required=True, metavar="DIR")
    part.add_argument("--explain", action="store_true", help="add pictures of what decided")

    part = command(explain)
    sourced(part, whole=False)
    part.add_argument("--model", required=True, metavar="FILE", help="a model.keras, or a name")
    part.add_argument("--out", required=True, metavar="DIR")
    part.add_argument("--methods", help="as in gradcam,shap,lime; by default all that apply")
    part.add_argument("--target", default="predicted", help="predicted, true or a class")
    part.add_argument(
        "--rows",
        type=lambda text: [int(row) for row in text.split(",")],
        help="row numbers, as in 0,17",
    )

    part = command(export)
    sourced(part, whole=False, needed=False)
    part.add_argument("--model", required=True, metavar="FILE", help="a model.keras, or a name")
    part.add_argument(
        "--out", required=True, metavar="FILE", help="a name.onnx or name.tflite, or a folder"
    )
    part.add_argument(
        "--format",
        type=_name,
        default="onnx",
        help="onnx, saved_model, litert, litert_float16, litert_dynamic or litert_int8",
    )

    part = command(annotate)
    part.add_argument(
        "recording",
        nargs="+",
        metavar="RECORD",
        help="WFDB records, CSV, Parquet or EDF files, or folders of them",
    )
    part.add_argument("--model", default="mitbih_beats", help="a model.keras, or a name")
    part.add_argument("--out", required=True, metavar="DIR")
    part.add_argument("--fs", type=float, help="sampling rate in Hz, where the file has none")
    part.add_argument("--lead", help="which lead, or leads, to read, as in II or II,V1")
    part.add_argument(
        "--unit", type=_unit, help="of a file that has none: mV, uV, V or mV per unit"
    )
    part.add_argument(
        "--causal", action="store_true", help="use only what a stream knows when it decides"
    )
    part.add_argument("--workers", type=int, default=1, help="processes for several recordings")
    part.add_argument(
        "--backend", default="loky", choices=("loky", "ray", "dask"), help="what runs the workers"
    )
    part.add_argument(
        "--recursive", action="store_true", help="look into the folders of a folder too"
    )

    part = command(stream)
    part.add_argument("--model", default="mitbih_beats", help="a model.keras, or a name")
    part.add_argument("--fs", type=float, required=True, help="sampling rate in Hz")
    part.add_argument("--leads", help="names of the columns, as in II,V1")
    part.add_argument("--lead", help="which of them to read; by default as in annotate")
    part.add_argument(
        "--unit", type=_unit, help="mV (the default), uV, V or mV per unit, as in 0.005"
    )
    part.add_argument("--port", type=int, help="listen at this port of 127.0.0.1; default: stdin")
    part.add_argument(
        "--format",
        default="text",
        choices=("text", "int16", "float32"),
        help="one line a sample (CSV or JSON), or raw little-endian numbers",
    )

    part = command(tune)
    sourced(part, whole=True)
    part.add_argument("--model", type=_name, default="cnn2d")
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

    part = command(models)
    part.add_argument("--name", help="print the whole card of this model (or of a model.keras)")

    part = command(compare)
    part.add_argument("runs", nargs="+", metavar="RUN")
    part.add_argument("--out", required=True, metavar="DIR")

    part = command(ec57)
    part.add_argument("reference", metavar="REFERENCE_DIR", help="or one annotation file")
    part.add_argument("found", metavar="FOUND_DIR", help="or one annotation file")
    part.add_argument("--out", metavar="DIR", help="folder for pages, tables and JSON")
    part.add_argument("--reference-extension", default="atr", help="of its files (default atr)")
    part.add_argument("--found-extension", default="ecg", help="of its files (default ecg)")
    part.add_argument("--records", help="only these, as in 100,103,105")
    part.add_argument("--fs", type=float, help="rate in Hz where no file tells it")
    part.add_argument(
        "--start", type=float, default=300.0, metavar="S", help="seconds into the record (300)"
    )
    part.add_argument("--stop", type=float, metavar="S", help="seconds; 0: where either side ends")
    part.add_argument(
        "--window", type=float, default=0.15, metavar="S", help="of a pair, in seconds (0.15)"
    )
    part.add_argument(
        "--escape-beats", default="S", choices=("S", "N"), help="what e, j and n count as"
    )

    part = command(demo)
    part.add_argument("directory", metavar="DIR")
    part.add_argument("--records", action="store_true", help="WFDB records instead of CSV files")
    part.add_argument("--seed", type=int)

    part = command(download)
    part.add_argument("name", type=_source, choices=tuple(SOURCES)[:3])
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
