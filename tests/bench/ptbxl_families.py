"""Train every model family on PTB-XL the same way and put them side by side.

    python tests/bench/ptbxl_families.py --data DIR [--folds 1-7/8/9] [--families NAME ...]
                                         [--seeds 0 1 2]

Each run is the command line in a process of its own, with the preset of that name and nothing
else; `hybrid` starts from the branches trained here with the same seed. Whole runs go to
outputs/scratch/ptbxl/, report.json and history.csv of each to outputs/ptbxl_FAMILY/seedN/, a row
per family (all its finished seeds) to outputs/results.csv, and the comparison of the first seed's
runs to outputs/ptbxl_families/. The test part decides nothing.
"""

import argparse
import pathlib
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = (
    "cnn1d",
    "resnet1d",
    "fft_transformer",
    "minirocket",
    "beat_forest",
    "cnn2d",
    "vgg2d",
    "resnet2d",
    "scalogram_cnn",
    "multimodal",
    "hybrid",
    "hybrid_best",
)
BRANCHES = {
    "time": "resnet1d",
    "spectrum": "fft_transformer",
    "spectrogram": "cnn2d",
    "scalogram": "scalogram_cnn",
    "minirocket": "minirocket",
    "forest": "beat_forest",
}


def run(source, data, family, seed, *, folds=None, scratch, fresh=False):
    """Train one preset with one seed, unless that is done; returns the folder and the command."""
    from ecg_keras.presets import find_preset

    out = scratch / family / f"seed{seed}"
    command = [
        sys.executable,
        "-m",
        "ecg_keras",
        "train",
        "--source",
        source,
        "--data",
        str(data),
        "--preset",
        family,
    ]
    command += ["--seed", str(seed), "--out", str(out)]
    if folds:
        command += ["--folds", folds]
    if family == "hybrid":
        views = [
            view for view in find_preset(source, family)["model"]["branches"] if view != "metadata"
        ]
        models = {
            view: scratch.relative_to(ROOT) / BRANCHES[view] / f"seed{seed}" / "model.keras"
            for view in views
        }
        command += ["--set", f"trained={ {view: str(path) for view, path in models.items()} }"]
    if fresh or not (out / "report.json").is_file():
        subprocess.run(command, cwd=ROOT, check=True)
    return out, command


def keep(scratch, name, family, *, protocol, script):
    """Copy what the repository keeps of a family's runs, and write their row of results.csv."""
    from ecg_keras.report import record_result

    runs = sorted(file.parent for file in (scratch / family).glob("seed*/report.json"))
    for out in runs:
        folder = ROOT / "outputs" / name / out.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("report.json", "history.csv"):
            shutil.copy(out / file, folder / file)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    command = shlex.join(["python", str(script.relative_to(ROOT)), "--families", family])
    return record_result(
        ROOT / "outputs" / "results.csv",
        runs,
        protocol=protocol,
        command=command,
        commit=commit,
        model=family,
    )


def main():
    """Train, keep, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--folds", default="1-7/8/9")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--fresh", action="store_true", help="train again what is in outputs/scratch"
    )
    options = parser.parse_args()
    from ecg_keras.compare import compare

    scratch = ROOT / "outputs" / "scratch" / "ptbxl" / options.folds.replace("/", "_")
    first = []
    for family in options.families:
        runs = [
            run(
                "ptbxl",
                options.data.resolve(),
                family,
                seed,
                folds=options.folds,
                scratch=scratch,
                fresh=options.fresh,
            )[0]
            for seed in options.seeds
        ]
        protocol = f"PTB-XL superclasses at 100 Hz, folds {options.folds} of 2,664 records"
        other = "" if options.folds == "1-7/8/9" else "_" + options.folds.replace("/", "_")
        keep(
            scratch,
            f"ptbxl_{family}{other}",
            family,
            protocol=protocol,
            script=pathlib.Path(__file__).resolve(),
        )
        first.append(runs[0])
    if len(first) > 1:
        compare(first, ROOT / "outputs" / "ptbxl_families")


if __name__ == "__main__":
    main()
