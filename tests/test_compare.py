import csv
import json
import pathlib
import shutil

import pytest
from chromium import open_page
from conftest import draw_nothing, toy_dataset
from test_report import write

from ecg_keras.compare import _short_names, compare

# `comparison` is drawn all the same: a fixture of the module is made before that of a test.
pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("without_drawing")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same rows, one on others."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        write(folder / "first")
        write(folder / "second", seed=1)
        write(folder / "other", [toy_dataset(n=60, seed=i) for i in range(3)])
    return folder


@pytest.fixture(scope="module")
def comparison(runs, tmp_path_factory):
    return compare(
        [runs / name for name in ("first", "second", "other")],
        tmp_path_factory.mktemp("out"),
        n_boot=200,
    )


def test_runs_on_the_same_rows_are_paired_and_others_are_not(comparison):
    assert [(pair["a"], pair["b"]) for pair in comparison["pairs"]] == [("first", "second")]
    assert {(pair["a"], pair["b"]) for pair in comparison["unpaired"]} == {
        ("first", "other"),
        ("second", "other"),
    }
    assert all("test rows differ: 90 and 60" in pair["reason"] for pair in comparison["unpaired"])


def test_a_difference_is_that_of_the_reports(comparison, runs):
    figures = {row["run"]: row for row in comparison["runs"]}
    for name in ("accuracy", "macro_f1", "macro_auc"):
        pair = comparison["pairs"][0][name]
        assert pair["difference"] == pytest.approx(
            figures["second"][name] - figures["first"][name], abs=1e-9
        )
        assert pair["ci95"][0] <= pair["difference"] <= pair["ci95"][1] and 0 < pair["p"] <= 1


def test_files_agree_with_each_other(comparison):
    stored = json.loads((comparison.out_dir / "compare.json").read_text())
    with open(comparison.out_dir / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [row["run"] for row in stored["runs"]]
    assert (
        float(rows[0]["macro_f1"]) == stored["runs"][0]["macro_f1"] >= stored["runs"][1]["macro_f1"]
    )


def test_a_notebook_shows_the_table_of_the_page(comparison):
    shown = comparison._repr_html_()
    assert shown.count("<tr>") == 4 and shown in comparison.page.read_text()


@pytest.mark.parametrize("width", [1200, 390])
def test_chromium_shows_the_page(comparison, width):
    seen = open_page(comparison.page, width=width)
    assert seen["errors"] == [] and seen["failed_images"] == [] and seen["requests"] == []
    assert seen["sections"] == ["runs", "notes", "differences", "pictures", "cost"]
    assert len(seen["images"]) == 6 and seen["overflow"] <= 0
    assert (
        "Not paired, test rows differ: 90 and 60: first and other; second and other."
        in seen["text"]
    )


def copy_of(run, folder, change=None):
    """A copy of a run, its report and predictions changed by ``change(report, rows)``."""
    shutil.copytree(run, folder)
    if change is not None:
        report = json.loads((folder / "report.json").read_text())
        with open(folder / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        rows = change(report, rows) or rows
        (folder / "report.json").write_text(json.dumps(report))
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda report, rows: rows[::-1], "another order"),
        (
            lambda report, rows: [row | {"patient": "x"} for row in rows],
            "patients of the test rows differ",
        ),
        (lambda report, rows: rows[:-1], "does not fit report.json"),
        (lambda report, rows: report.update(classes=["N", "S", "X"]), "does not fit report.json"),
    ],
)
def test_other_rows_are_not_paired(runs, tmp_path, change, reason):
    result = compare(
        [runs / "first", copy_of(runs / "first", tmp_path / "copy", change)],
        tmp_path / "out",
        n_boot=20,
    )
    assert (
        result["pairs"] == []
        and reason in result["unpaired"][0]["reason"]
        and len(result["runs"]) == 2
    )


def test_a_run_without_predictions_is_listed_but_not_paired(runs, tmp_path):
    bare = copy_of(runs / "first", tmp_path / "bare")
    (bare / "predictions.csv").unlink()
    result = compare([runs / "first", bare], tmp_path / "out", n_boot=20)
    assert len(result["runs"]) == 2 and "predictions.csv" in result["unpaired"][0]["reason"]


def test_multi_label_runs_are_ordered_by_auc(tmp_path):
    first = write(
        tmp_path / "first", [toy_dataset(n=60, seed=i, multi_label=True) for i in range(3)]
    ).out_dir
    second = copy_of(
        first,
        tmp_path / "second",
        lambda report, rows: report["test"].update(macro_f1=0.0, macro_auc=1.0),
    )
    result = compare([first, second], tmp_path / "out", n_boot=20)
    assert [row["run"] for row in result["runs"]] == ["second", "first"]
    assert result._repr_html_() in result.page.read_text()  # macro-AUC first there too
    assert (
        result["pairs"][0]["macro_auc"]["difference"] == 0
    )  # from the predictions, which are the same


def test_names_keep_what_differs_and_lose_what_all_share():
    short = lambda *paths: _short_names([pathlib.Path("/runs") / path for path in paths])
    assert short("a/seed0", "b/seed0") == ["a", "b"]
    assert short("a/seed0", "b/seed0", "b/seed1") == ["a/seed0", "b/seed0", "b/seed1"]
    assert short("a/x/seed0", "b/x/seed0") == ["a/x", "b/x"]


def test_folders_of_one_name_are_told_apart(runs, tmp_path):
    folders = [copy_of(runs / "first", tmp_path / name / "run") for name in ("a", "b")]
    result = compare(folders, tmp_path / "out", n_boot=20)
    assert {row["run"] for row in result["runs"]} == {"a", "b"}
    assert result["pairs"][0]["accuracy"] == {"difference": 0.0, "ci95": [0.0, 0.0], "p": 1.0}


def test_wrong_folders_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        compare([runs / "first"], tmp_path)
    with pytest.raises(ValueError, match="not a finished run"):
        compare([runs / "first", tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="twice"):
        compare([runs / "first", runs / "first"], tmp_path / "out")


def test_files_of_others_are_not_replaced(runs, tmp_path):
    both = [runs / "first", runs / "second"]
    (tmp_path / "compare_cost.png").write_text("mine")
    with pytest.raises(ValueError, match="compare_cost.png was not written by .*another out_dir"):
        compare(both, tmp_path, n_boot=10)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "compare_cost.png").rename(tmp_path / "cost.png")
    for _ in range(2):
        compare(both, tmp_path, n_boot=10)
    assert (tmp_path / "cost.png").read_text() == "mine"


def test_all_pairs_of_three_runs_are_folded_away(runs, tmp_path):
    third = copy_of(runs / "second", tmp_path / "third")
    result = compare([runs / "first", runs / "second", third], tmp_path / "out", n_boot=20)
    page = result.page.read_text()
    assert "<summary>All 3 pairs</summary>" in page
    best = result["runs"][0]["run"]
    before = page[: page.index("<summary>")]
    assert before.count(f" - {best}</td>") == 2, "the differences to the best are shown first"


def test_other_classes_are_not_paired(runs, tmp_path):
    def rename(report, rows):
        report["classes"] = ["N", "S", "X"]
        new = lambda label: label.replace("V", "X")
        return [{new(name): new(value) for name, value in row.items()} for row in rows]

    other = copy_of(runs / "first", tmp_path / "other", rename)
    result = compare([runs / "first", other], tmp_path / "out", n_boot=20)
    assert result["unpaired"][0]["reason"] == "classes differ: N, S, V and N, S, X"
