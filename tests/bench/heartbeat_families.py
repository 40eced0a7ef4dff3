"""Train the model families on the Kaggle 'heartbeat' CSVs the same way and put them side by side.

    python tests/bench/heartbeat_families.py --data DIR [--families NAME ...] [--seeds 0 1 2]

As ptbxl_families.py does, with the presets of the source mitbih_csv. Results go to
outputs/heartbeat_FAMILY/ and outputs/heartbeat_families/. `cnn2d` is trained for the comparison
alone; its figures are those of mitbih_csv.py. Patients are mixed in these files, so figures are
those of people already seen.
"""

import argparse
import pathlib

from ptbxl_families import ROOT, keep, run

FAMILIES = (
    "cnn1d",
    "resnet1d_fast",
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
)


def main():
    """Train, keep, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--fresh", action="store_true", help="train again what is in outputs/scratch"
    )
    options = parser.parse_args()
    from ecg_keras.compare import compare

    scratch = ROOT / "outputs" / "scratch" / "heartbeat"
    first = []
    for family in options.families:
        runs = [
            run(
                "mitbih_csv",
                options.data.resolve(),
                family,
                seed,
                scratch=scratch,
                fresh=options.fresh,
            )[0]
            for seed in options.seeds
        ]
        if family != "cnn2d":  # mitbih_csv.py measures it
            keep(
                scratch,
                f"heartbeat_{family}",
                family,
                protocol="MIT-BIH CSV, patients mixed",
                script=pathlib.Path(__file__).resolve(),
            )
        first.append(runs[0])
    if len(first) > 1:
        compare(first, ROOT / "outputs" / "heartbeat_families")


if __name__ == "__main__":
    main()
