import argparse
import csv
import json
import subprocess
import sys

import pytest

from ecg_keras.__main__ import _preset, main
from ecg_keras.demo import write_demo_csv, write_demo_records
from ecg_keras.layers import model_card
from ecg_keras.mitbih_csv import make_mitbih_csv
from ecg_keras.presets import PRESETS
from ecg_keras.saved_models import load_model

pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo_csv(folder, n_beats=300)
    return folder


def test_train_then_evaluate(demo, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    words = ["--source", "mitbih-csv", "--data", str(demo)]
    given = ["--model", "cnn2d", "--epochs", "1", "--balance", "class_weight", "--seed", "3"]
    for option in ("filters=(4, 8)", "val_fraction=0.2", "batch_size=32"):
        given += ["--set", option]
    assert main(["train", *words, "--out", str(run), *given]) == 0
    report = json.loads((run / "report.json").read_text())
    assert (
        report["seed"] == 3
        and report["settings"]["batch_size"] == 32
        and report["settings"]["balance"] == "class_weight"
    )
    assert report["val"]["n"] in range(45, 51) and report["synthetic"]
    assert main(["evaluate", *words, "--model", str(run / "model.keras"), "--out", str(again)]) == 0
    assert (
        json.loads((again / "report.json").read_text())["test"]["confusion"]
        == report["test"]["confusion"]
    )
    assert "SYNTHETIC DATA" in capsys.readouterr().out


@pytest.fixture(scope="module")
def of_patients(tmp_path_factory):
    """CSV files with the patient of every row beside them."""
    folder = tmp_path_factory.mktemp("of_patients")
    write_demo_records(folder / "records", n_patients=8, duration_s=60)
    make_mitbih_csv(folder / "records", folder / "csv")
    return folder / "csv"


@pytest.mark.slow
def test_a_saved_model_is_measured_on_the_test_part_of_its_own_split(of_patients, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["--source", "mitbih-csv", "--data", str(of_patients)]
    fast = ["--model", "cnn1d", "--preset", "none", "--epochs", "1", "--set", "filters=(4, 8)"]
    split = ["--split", "patient", "--seed", "5"]
    assert main(["train", *words, *fast, *split, "--out", str(run)]) == 0
    card = model_card(load_model(run / "model.keras"))
    assert card["split"] == {
        "loader": "load_mitbih_csv",
        "split": "patient",
        "val_fraction": 0.1,
        "seed": 5,
    }
    words += ["--model", str(run / "model.keras")]
    assert main(["evaluate", *words, "--out", str(out)]) == 0
    with open(out / "predictions.csv") as file:
        tested = {row["patient"] for row in csv.DictReader(file)}
    assert tested and not tested & set(card["patients"])
    mine, again = (json.loads((folder / "report.json").read_text()) for folder in (run, out))
    assert again["test"]["confusion"] == mine["test"]["confusion"]
    assert again["seen"]["rows"] == 0 and not again["seen"]["too_many"]
    capsys.readouterr()
    for other in (["--split", "files"], ["--seed", "6"]):
        for command in (["evaluate"], ["explain", "--methods", "lime", "--rows", "0"]):
            assert main([*command, *words, *other, "--out", str(tmp_path / "no")]) == 2
            error = capsys.readouterr().err
            assert "trained on" in error and "--allow-seen" in error
    assert not (tmp_path / "no").exists()
    anyway = [*words, "--split", "files", "--allow-seen", "--out", str(tmp_path / "anyway")]
    assert main(["explain", *anyway, "--methods", "lime", "--rows", "0"]) == 0
    assert (
        "ones the model was trained on" in (tmp_path / "anyway" / "explanations.html").read_text()
    )
    assert main(["evaluate", *anyway]) == 0
    assert "ROWS IT WAS TRAINED ON" in capsys.readouterr().out
    assert json.loads((tmp_path / "anyway" / "report.json").read_text())["seen"]["too_many"]


@pytest.mark.slow
def test_the_demo_set_is_that_of_the_model_too(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    fast = ["--model", "cnn1d", "--preset", "none", "--epochs", "1", "--set", "filters=(4, 8)"]
    words = ["train", "--source", "demo", "--set", "n_beats=200", "--seed", "3", *fast]
    assert main([*words, "--out", str(run)]) == 0
    words = ["--source", "demo", "--model", str(run / "model.keras"), "--out", str(out)]
    assert main(["evaluate", *words]) == 0
    mine, again = (json.loads((folder / "report.json").read_text()) for folder in (run, out))
    assert again["test"]["n"] == 40 and again["test"]["confusion"] == mine["test"]["confusion"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--source", "mitbih-csv", "--data", "nowhere"], "nowhere: no such folder"),
        (
            ["train", "--source", "demo", "--model", "cnn3d"],
            "name='cnn3d' is not known|model='cnn3d' is not known",
        ),
        (
            ["train", "--source", "demo", "--set", "droput=0.5"],
            "--set droput: neither the loader, nor cnn2d",
        ),
        (["train", "--source", "demo", "--set", "droput"], "expected option=value"),
        (["train", "--source", "demo", "--balance", "smot"], "balance='smot' is not known"),
        (
            ["evaluate", "--source", "demo", "--model", "none.keras"],
            "none.keras: no such model file",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, words, message):
    assert main([*words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    import re

    assert re.search(message, error)


def test_an_unknown_word_is_exit_code_2():
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2


def test_demo_writes_both_files(tmp_path):
    assert main(["demo", str(tmp_path)]) == 0
    assert {"mitbih_train.csv", "mitbih_test.csv", "SYNTHETIC.txt"} <= {
        file.name for file in tmp_path.iterdir()
    }


def test_import_is_light_and_says_nothing():
    code = (
        "import sys, ecg_keras; heavy = {'tensorflow', 'keras', 'jax', 'torch', 'matplotlib', "
        "'pandas', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""


def test_a_model_brings_its_own_settings_unless_told_otherwise(tmp_path, capsys):
    words = ["train", "--source", "mitdb", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*words, "--model", "rhythm"]) == 2
    assert "--preset rhythm" in capsys.readouterr().out
    assert main([*words, "--model", "rhythm", "--preset", "none"]) == 2
    assert "--preset" not in capsys.readouterr().out
    assert main([*words, "--preset", "rythm"]) == 2
    assert "'rhythm'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "family"),
    sorted(
        {
            (source, preset["model"]["name"])
            for source in PRESETS
            for preset in PRESETS[source].values()
        }
    ),
)
def test_each_family_finds_its_own_settings(source, family, capsys):
    given = [
        f"{need}={{}}" for preset in PRESETS[source].values() for need in preset.get("needs", ())
    ]
    found = _preset(argparse.Namespace(source=source, model=family, preset=None, set=given))
    assert found["model"]["name"] == family
    assert "with the settings of --preset " in capsys.readouterr().out


def test_a_variant_is_used_only_by_its_name():
    found = lambda source, model, preset: _preset(
        argparse.Namespace(source=source, model=model, preset=preset, set=[])
    )
    known = PRESETS["mitbih_csv"]
    assert found("mitbih_csv", "resnet1d", None) is known["resnet1d"]
    assert found("mitbih_csv", "resnet1d", "resnet1d_fast") is known["resnet1d_fast"]
    assert found("ptbxl", "hybrid", None) == {}  # hybrid_best is one of many hybrids


def test_settings_for_branches_trained_before_are_not_used_without_them(tmp_path, capsys):
    words = [
        "train",
        "--source",
        "mitbih-csv",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--preset", "hybrid"]) == 2
    assert "trained already; give them with --set trained=" in capsys.readouterr().err
    assert main([*words, "--model", "hybrid"]) == 2  # no data in tmp_path
    assert "--preset" not in capsys.readouterr().out
    assert main([*words, "--model", "hybrid", "--set", "trained={'time': 'time.keras'}"]) == 2
    assert "--preset hybrid" in capsys.readouterr().out
