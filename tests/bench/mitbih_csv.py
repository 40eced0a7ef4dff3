"""Measure the notebook recipe and the package's four calls, one after the other, on the same files.

    python tests/bench/mitbih_csv.py DIR [--seeds 0 1 2] [--rows N]

Each run is a process of its own with an empty cache, measured from outside: wall time from start
to end, imports and report included, and the process's peak resident memory. Figures go to
outputs/mitbih_csv/: recipe.json, a folder with report.json and history.csv per seed, and
comparison.json with the command, the commit and the machine.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measured(command):
    """Run a command; returns its wall time in s and its peak resident memory in MB."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "ECG_KERAS_CACHE": cache})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} ended with exit code {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / 1024


def four_calls(directory, out_dir, *, seed, model, balance, epochs):
    """What the package's user does."""
    import keras

    from ecg_keras import build_model, fit_and_report, load_mitbih_csv, to_spectrograms

    keras.utils.set_random_seed(seed)
    train, val, test = load_mitbih_csv(directory, balance=balance, seed=seed)
    train, val, test = (to_spectrograms(part) for part in (train, val, test))
    network = build_model(model, like=train)
    options = {} if epochs is None else {"epochs": epochs}
    fit_and_report(network, train, val, test, out_dir=out_dir, seed=seed, **options)


def subset(directory, rows):
    """A folder with every k-th line of both files: about `rows` of train, a quarter of test."""
    folder = pathlib.Path(tempfile.mkdtemp())
    for name, n in (("mitbih_train.csv", rows), ("mitbih_test.csv", rows // 4)):
        lines = (pathlib.Path(directory) / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:: max(1, len(lines) // n)]))
    return folder


def compare(options):
    """Run both, store and print their figures."""
    options.out.mkdir(parents=True, exist_ok=True)
    data = pathlib.Path(options.data).resolve()
    data = str(subset(data, options.rows) if options.rows else data)
    seeds = options.seeds if options.only != "recipe" else ()
    recipe = run_recipe(data, options) if options.only != "package" else None
    runs = [run_package(data, seed, options) for seed in seeds]

    result = {"recipe": recipe, "package": runs, "package_mean": means(runs), "machine": machine()}
    arguments = ["DIR" if argument == options.data else argument for argument in sys.argv[1:]]
    result["command"] = " ".join(["python tests/bench/mitbih_csv.py", *arguments])
    if recipe and runs:
        share = lambda name: result["package_mean"][name]["mean"] / recipe[name]
        result["share_of_wall_time"] = share("wall_s")
        result["share_of_memory"] = share("peak_rss_mb")
        print(
            f"The package took {100 * share('wall_s'):.1f} % of the recipe's wall time "
            f"and {100 * share('peak_rss_mb'):.1f} % of its peak memory."
        )
    (options.out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n")


def run_recipe(data, options):
    """The notebook recipe: its figures, wall time and memory, also in recipe.json."""
    file = options.out / "recipe.json"
    command = [sys.executable, str(ROOT / "tests/bench/seed_recipe.py"), data, "--out", str(file)]
    seconds, rss_mb = measured([*command, "--epochs", str(options.recipe_epochs)])
    recipe = {**json.loads(file.read_text()), "wall_s": seconds, "peak_rss_mb": rss_mb}
    file.write_text(json.dumps(recipe, indent=1) + "\n")
    show("recipe", recipe)
    return recipe


def run_package(data, seed, options):
    """The package's four calls with one seed: figures, wall time and memory; keeps its report."""
    folder = ROOT / "outputs" / "scratch" / options.out.name / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), data]
    command += ["--four-calls", str(folder), "--seeds", str(seed), "--model", options.model]
    command += [] if options.balance is None else ["--balance", options.balance]
    command += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    seconds, rss_mb = measured(command)
    kept = options.out / f"seed{seed}"
    kept.mkdir(exist_ok=True)
    for name in ("report.json", "history.csv"):
        shutil.copy(folder / name, kept / name)
    test = json.loads((folder / "report.json").read_text())["test"]
    figures = {name: test[name] for name in ("accuracy", "macro_f1", "majority_accuracy")}
    run = {"seed": seed, **figures, "wall_s": seconds, "peak_rss_mb": rss_mb}
    show(f"package, seed {seed}", run)
    return run


def means(runs):
    """Mean and standard deviation of every figure over the seeds."""
    names = ("accuracy", "macro_f1", "wall_s", "peak_rss_mb") if runs else ()
    values = {name: [run[name] for run in runs] for name in names}
    return {
        name: {
            "mean": statistics.mean(v),
            "sd": statistics.stdev(v) if len(v) > 1 else None,
            "n": len(v),
        }
        for name, v in values.items()
    }


def machine():
    """What the figures were made on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    names = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "commit": commit,
        "versions": {name: version(name) for name in names},
    }


def show(name, figures):
    """Print one run as a line."""
    print(
        f"{name}: accuracy {100 * figures['accuracy']:.2f} % (always the largest class: "
        f"{100 * figures['majority_accuracy']:.2f} %), macro-F1 {figures['macro_f1']:.4f}, "
        f"{figures['wall_s']:.0f} s, {figures['peak_rss_mb']:.0f} MB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of mitbih_train.csv and mitbih_test.csv")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "outputs" / "mitbih_csv")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the package's runs"
    )
    parser.add_argument(
        "--rows", type=int, help="take about this many train rows, to try the script"
    )
    parser.add_argument("--only", choices=("recipe", "package"))
    parser.add_argument("--recipe-epochs", type=int, default=10)
    parser.add_argument("--model", default="cnn2d")
    parser.add_argument("--balance", help="as in load_mitbih_csv; default: its default")
    parser.add_argument("--epochs", type=int, help="default: that of fit_and_report")
    parser.add_argument(
        "--four-calls", type=pathlib.Path, metavar="DIR", help="run the package once, into DIR"
    )
    options = parser.parse_args()
    if options.four_calls:
        four_calls(
            options.data,
            options.four_calls,
            seed=options.seeds[0],
            model=options.model,
            balance=options.balance,
            epochs=options.epochs,
        )
    else:
        options.out = options.out.resolve()
        compare(options)


if __name__ == "__main__":
    main()
