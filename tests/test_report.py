import csv
import html.parser
import io
import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest
from chromium import open_page
from conftest import toy_dataset

from ecg_keras.metrics import evaluate
from ecg_keras.plots import plot_signal, png
from ecg_keras.report import (
    Report,
    _aami,
    _draw_row,
    _notes,
    _processor,
    check_run_folder,
    device,
    families_table,
    peak_rss_mb,
    record_result,
    results_table,
    versions,
    write_report,
)
from ecg_keras.spectrograms import to_spectra, to_spectrograms

pytestmark = pytest.mark.numeric

SECTIONS = [
    "headline",
    "notes",
    "data",
    "settings",
    "training",
    "results",
    "pictures",
    "reproducibility",
]


def guesses(ds, seed=0, skill=2.0):
    """Probabilities that are often right."""
    rng = np.random.default_rng(seed)
    truth = ds.y if ds.multi_label else np.eye(len(ds.classes))[ds.y]
    logits = rng.normal(size=truth.shape) + skill * truth - (1 if ds.multi_label else 0)
    return (
        1 / (1 + np.exp(-logits))
        if ds.multi_label
        else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    )


def numbers_of(train, val, test, probabilities, **more):
    measure = lambda ds, p: evaluate(
        ds.y, p, ds.classes, patients=ds.patients, records=ds.records, n_boot=100
    )
    return {
        "task": "multi-label" if test.multi_label else "single-label",
        "source": test.source,
        "synthetic": test.synthetic,
        "model": "toy",
        "n_parameters": 1234,
        "classes": list(test.classes),
        "seed": 0,
        "backend": "none",
        "device": "test",
        "versions": {"python": "3"},
        "seconds": {"load": 0.1, "fit": 12.5},
        "peak_rss_mb": 100.0,
        "epochs_run": 3,
        "best_epoch": 2,
        "settings": {"epochs": 3, "majority_share": 0.4162194693665467, "augment": []},
        "command": "ecg-keras train <toy> & more",
        "val": measure(val, probabilities["val"]),
        "test": measure(test, probabilities["test"]),
    } | more


HISTORY = [
    {"epoch": i, "loss": 1 / i, "val_loss": 1.1 / i, "val_macro_f1": 0.5 + 0.1 * i}
    for i in (1, 2, 3)
]


def write(folder, parts=None, seed=0, sections=(), **more):
    if parts is None:
        parts = [toy_dataset(n=90, seed=i, patients=True) for i in range(3)]
        parts = [
            part.replace(
                patients=[f"{i}-{name}" for name in part.patients],
                records=part.patients,
                notes=("Toy <rows>.",),
            )
            for i, part in enumerate(parts)
        ]
    train, val, test = parts
    probabilities = {"val": guesses(val), "test": guesses(test, seed=seed)}
    numbers = numbers_of(train, val, test, probabilities, **more)
    return write_report(
        folder,
        numbers,
        train=train,
        val=val,
        test=test,
        history=HISTORY,
        probabilities=probabilities,
        sections=sections,
    )


@pytest.fixture(scope="module")
def signals_run(tmp_path_factory):
    """A run on signals of known patients, classes N, S and V, with an explanation."""
    picture = png(plot_signal(np.sin(np.arange(50)), fs=10))
    return write(
        tmp_path_factory.mktemp("run") / "signals",
        sections=[("Explanations", "<p>Why.</p>", {"what_decided": picture})],
    )


@pytest.fixture(scope="module")
def images_run(tmp_path_factory):
    parts = [to_spectrograms(toy_dataset(n=90, seed=i)) for i in range(3)]
    return write(tmp_path_factory.mktemp("run") / "images", parts)


@pytest.fixture(scope="module")
def multi_label_run(tmp_path_factory):
    parts = [
        toy_dataset(n=90, seed=i, leads=12, fs=100.0, samples=300, multi_label=True)
        for i in range(3)
    ]
    parts = [part.replace(source="a registry", classes=("A/B", "<C>", "D")) for part in parts]
    return write(tmp_path_factory.mktemp("run") / "multi", parts)


@pytest.mark.usefixtures("without_drawing")
def test_a_system_without_resource_still_makes_a_report(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    memory = types.SimpleNamespace(peak_wset=123e6)  # what psutil says on Windows
    process = types.SimpleNamespace(memory_info=lambda: memory)
    psutil = types.SimpleNamespace(Process=lambda: process)
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert peak_rss_mb() == 123
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert peak_rss_mb() is None
    report = write(tmp_path, peak_rss_mb=peak_rss_mb())
    assert "peak memory" not in report.page.read_text()
    row = record_result(tmp_path / "results.csv", [tmp_path], protocol="p", command="c")
    assert row["peak_rss_mb"] == ""


def test_the_folder_holds_every_file_and_nothing_half_written(signals_run):
    names = {path.name for path in signals_run.out_dir.iterdir()}
    pictures = {
        "class_distribution",
        "labelled",
        "confusion",
        "roc",
        "precision_recall",
        "calibration",
        "curve_loss",
    }
    pictures |= {"curve_macro_f1", "what_decided"} | {
        f"{kind}_{name}" for kind in ("signal", "image") for name in "NSV"
    }
    assert names == {"report.json", "report.html", "history.csv", "predictions.csv"} | {
        f"{name}.png" for name in pictures
    }


def test_json_holds_what_was_given_and_the_inspection(signals_run):
    stored = json.loads((signals_run.out_dir / "report.json").read_text())
    assert stored["test"]["accuracy"] == signals_run["test"]["accuracy"] and stored["seed"] == 0
    assert stored["inspection"]["parts"]["test"]["rows"] == 90


def test_predictions_give_back_the_accuracy(signals_run, multi_label_run):
    for run in (signals_run, multi_label_run):
        with open(run.out_dir / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 90
        assert np.mean([row["true"] == row["predicted"] for row in rows]) == pytest.approx(
            run["test"]["accuracy"]
        )
        probabilities = np.array(
            [[float(row[f"p_{name}"]) for name in run["classes"]] for row in rows]
        )
        assert np.isfinite(probabilities).all()
    assert "patient" not in rows[0]


def test_predictions_name_patient_and_record(signals_run):
    with open(signals_run.out_dir / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["patient"] == "2-p0" and row["record"] == "p0" and row["row"] == "0"


class Outline(html.parser.HTMLParser):
    """Sections, addresses and open tags of a page."""

    void = {"meta", "link", "img", "br", "hr"}

    def __init__(self, text):
        super().__init__()
        self.sections, self.addresses, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "section":
            self.sections.append(attrs["id"])
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("run", ["signals_run", "images_run", "multi_label_run"])
def test_the_page_is_whole_and_refers_to_nothing_outside(run, request):
    page = Outline(request.getfixturevalue(run).page.read_text())
    assert page.open == []
    assert [name for name in page.sections if not name.startswith("section-")] == SECTIONS
    assert all(address.startswith(("data:", "#")) for address in page.addresses)


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("run", ["signals_run", "images_run", "multi_label_run"])
def test_chromium_shows_all_sections_and_images_without_an_error(run, width, request):
    report = request.getfixturevalue(run)
    seen = open_page(report.page, width=width)
    assert seen["errors"] == [] and seen["failed_images"] == [] and seen["requests"] == []
    assert [name for name in seen["sections"] if not name.startswith("section-")] == SECTIONS
    assert len(seen["images"]) == len(list(report.out_dir.glob("*.png")))
    assert seen["overflow"] <= 0, "the page is wider than the window"
    assert all(image["shown"] <= width for image in seen["images"])


def test_a_visitor_reads_the_majority_beside_the_accuracy(signals_run):
    text = open_page(signals_run.page)["text"]
    accuracy, majority = (
        f"{100 * signals_run['test'][name]:.1f} %" for name in ("accuracy", "majority_accuracy")
    )
    assert re.search(
        rf"{accuracy}\s+test accuracy.*?{majority}\s+always the largest class", text, re.DOTALL
    )
    assert "Toy <rows>." in text and "ecg-keras train <toy> & more" in text
    assert "AAMI report" in text and "Each recording" in text and "Explanations" in text
    assert re.search(r"majority share\s+0\.4162\s", text)


def test_synthetic_data_are_announced_and_measured_ones_are_not(signals_run, multi_label_run):
    assert (
        "Synthetic data" in signals_run.page.read_text()
        and "Synthetic data" not in multi_label_run.page.read_text()
    )
    assert "SYNTHETIC" in signals_run.summary() and "SYNTHETIC" not in multi_label_run.summary()
    assert "Synthetic data" in signals_run._repr_html_()


def test_multi_label_says_what_accuracy_means(multi_label_run):
    page = multi_label_run.page.read_text()
    assert "exact-match accuracy" in page and "&lt;C&gt;" in page and "<C>" not in page
    assert not (multi_label_run.out_dir / "confusion.png").exists()


@pytest.mark.usefixtures("without_drawing")
def test_a_saved_model_is_reported_without_train_and_val(tmp_path):
    test = toy_dataset(n=60)
    p = guesses(test)
    numbers = numbers_of(test, test, test, {"val": p, "test": p})
    del numbers["val"], numbers["best_epoch"]
    report = write_report(tmp_path, numbers, test=test, probabilities={"test": p})
    assert "training" not in Outline(report.page.read_text()).sections
    assert report["test"]["n"] == 60 and "<table" in report._repr_html_()


@pytest.mark.usefixtures("without_drawing")
def test_balancing_is_shown_before_and_after(tmp_path):
    from ecg_keras.dataset import Balance

    parts = [toy_dataset(n=90, seed=i) for i in range(3)]
    parts[0] = parts[0].replace(balance=Balance("smote", {"N": 30, "S": 5, "V": 2}))
    text = write(tmp_path, parts).page.read_text()
    assert "SMOTE" in text and "before and after balancing" in text


@pytest.mark.usefixtures("without_drawing")
def test_a_model_no_better_than_the_largest_class_is_told_apart(tmp_path):
    test = toy_dataset(n=60)
    p = np.tile([0.4, 0.3, 0.3], (60, 1))
    numbers = numbers_of(test, test, test, {"val": p, "test": p})
    assert (
        "not above that of always"
        in write_report(tmp_path, numbers, test=test, probabilities={"test": p}).page.read_text()
    )


def test_predictions_of_other_rows_are_refused(tmp_path):
    test = toy_dataset(n=60)
    with pytest.raises(ValueError, match=r"shape \(60, 3\).*got \(59, 3\)"):
        write_report(tmp_path, {}, test=test, probabilities={"test": guesses(test)[:59]})
    assert list(tmp_path.iterdir()) == []


def test_results_are_means_over_runs_and_rows_are_replaced(tmp_path):
    runs = []
    for i, accuracy in enumerate((0.9, 0.8)):
        numbers = {
            "model": "m",
            "n_parameters": 10,
            "device": "cpu",
            "source": "toy",
            "seconds": {"fit": 2.0},
        }
        numbers["test"] = {
            "accuracy": accuracy,
            "majority_accuracy": 0.7,
            "macro_f1": 0.5,
            "macro_auc": None,
            "n": 10,
        }
        numbers["test"]["ci95"] = {"accuracy": [accuracy - 0.1, accuracy + 0.05]}
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "report.json").write_text(json.dumps(numbers))
        runs.append(tmp_path / str(i))
    file = tmp_path / "results.csv"
    record_result(file, runs[:1], protocol="A", command="run it")
    record_result(file, runs[:1], protocol="B", command="run it")
    row = record_result(file, runs, protocol="A", command="run it", commit="abc")
    assert row["accuracy"] == "0.85" and float(row["accuracy_sd"]) == pytest.approx(
        np.std([0.9, 0.8], ddof=1), rel=1e-2
    )
    assert (row["accuracy_low"], row["accuracy_high"], row["macro_f1_low"]) == ("0.75", "0.9", "")
    record_result(file, runs[:1], protocol="A", command="run it", model="n")
    table = results_table(file).splitlines()
    assert (
        len(table) == 5
        and table[2]
        == "| A | `m` | 85.00 ± 7.07 % | 70.0 % | 0.500 ± 0.000 | - | 10 | 2 s | 2 seeds |"
    )
    assert [line.split(" | ")[:2] for line in table[3:]] == [["| ", "`n`"], ["| B", "`m`"]]
    assert table[4].startswith("| B | `m` | 90.00 (80.00 to 95.00) % |") and table[4].endswith(
        "| 1 seed |"
    )
    with pytest.raises(ValueError, match="no report.json"):
        record_result(file, [tmp_path / "none"], protocol="A", command="")
    with pytest.raises(ValueError, match="absent"):
        results_table(tmp_path / "none.csv")


def stored(folder, models):
    """A results.csv with one row per (protocol, model)."""
    for i, (protocol, model) in enumerate(models):
        figures = {"accuracy": 0.9, "majority_accuracy": 0.7, "macro_f1": 0.5, "n": 10}
        figures["macro_auc"] = 0.8 + i / 100
        numbers = {"model": model, "n_parameters": 1000 * (i + 1), "test": figures}
        run = folder / str(i)
        run.mkdir()
        (run / "report.json").write_text(json.dumps(numbers))
        record_result(folder / "results.csv", [run], protocol=protocol, command="")
    return folder / "results.csv"


def test_every_family_has_a_line_and_its_presets_below(tmp_path):
    families = [
        {"name": "net", "input": "signal", "idea": "A net: of knots.", "source": "own, with care"},
        {"name": "tree", "input": "beat", "idea": "Trees.", "source": "A, B and C 2006, Forests"},
        {"name": "new", "input": "image", "idea": "New, shiny.", "source": "A and B 2015, ICLR"},
    ]
    beats, records = "MIT-BIH CSV, patients mixed", "PTB-XL at 100 Hz"
    path = stored(
        tmp_path, [(beats, "net"), (records, "net"), (records, "tree"), (beats, "net_fast")]
    )
    assert families_table(families, path).splitlines()[2:] == [
        "| `net` | signal | A net (own) | 1,000 | 90.00 %, 0.500 | 0.810 |",
        "| `net_fast` |  | preset of `net` | 4,000 | 90.00 %, 0.500 | - |",
        "| `tree` | beat | Trees (A et al. 2006) | 3,000 | - | 0.820 |",
        "| `new` | image | New (A & B 2015) | - | - | - |",
    ]


def test_the_table_of_the_real_families_fits_a_line():
    from ecg_keras.models import MODELS, families

    table = families_table(families(), pathlib.Path(__file__).parents[1] / "outputs/results.csv")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 120
    named = [line.split("`")[1] for line in lines[2:]]
    assert set(named) == {*MODELS, "resnet1d_fast", "hybrid_best"}


def test_results_go_through_the_file_unchanged(tmp_path):
    text = 'protocol,model,repeats,n,note\nA,"a, ""b""",seeds,1,007\nB,NA,seeds,2,\n'
    file = tmp_path / "results.csv"
    file.write_text(text)
    stored(tmp_path, [("C", "m")])
    written = file.read_text().splitlines()
    assert written[0].startswith("protocol,model,repeats,n,note,synthetic,accuracy,")
    for old, new in zip(text.splitlines()[1:], written[1:]):
        assert new.startswith(old) and set(new.removeprefix(old)) == {","}


@pytest.mark.usefixtures("without_drawing")
def test_csv_files_are_those_of_the_csv_module(tmp_path):
    classes = ('a "quoted" one', "comma, in it", "NA")
    test = toy_dataset(n=60, patients=True).replace(classes=classes)
    p = guesses(test)
    numbers = numbers_of(test, test, test, {"val": p, "test": p})
    history = [
        {"epoch": 1, "loss": 0.1, "val_loss": None, "good": True},
        {"epoch": 2, "loss": np.float32(0.1), "val_loss": 1e-7, "more": 3},
    ]
    write_report(tmp_path, numbers, test=test, history=history, probabilities={"test": p})
    with open(tmp_path / "history.csv", newline="") as file:
        written = file.read()
    names = ["epoch", "loss", "val_loss", "good", "more"]
    assert written == as_csv([names, *([row.get(name) for name in names] for row in history)])
    names = ["row", "true", "predicted", *(f"p_{name}" for name in classes), "patient"]
    rows = [
        [i, classes[y], classes[scores.argmax()], *map("{:.8g}".format, scores), patient]
        for i, (y, scores, patient) in enumerate(zip(test.y, p, test.patients))
    ]
    assert (tmp_path / "predictions.csv").read_bytes() == as_csv([names, *rows]).encode()


def as_csv(rows):
    """Rows as Python's own module writes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def test_a_notebook_shows_the_figures_of_the_page(signals_run):
    shown = signals_run._repr_html_()
    assert shown.count("<tr>") == 7 and str(signals_run.page) in shown
    assert f"{100 * signals_run['test']['accuracy']:.1f} %" in shown
    table = shown[shown.index("<table>") :]
    assert table in signals_run.page.read_text()
    assert repr(signals_run) == f"<Report: {signals_run.summary()}>"


def test_a_row_of_a_spectrum_is_drawn_over_hz():
    axes = _draw_row(to_spectra(toy_dataset(n=6)), 0, "N")
    assert axes.get_xlabel() == "frequency (Hz)" and axes.get_title(loc="left") == "N: spectrum"


def test_an_interval_that_holds_the_majority_is_told():
    test = {"accuracy": 0.8, "majority_accuracy": 0.75, "ci95": {"accuracy": [0.7, 0.9]}}
    told = lambda: _notes({"test": test, "notes": ["<b>"]}, {}, {"findings": ["<b>"]})
    assert "reaches down to" in told() and told().count("&lt;b&gt;") == 1
    test["ci95"]["accuracy"][0] = 0.76
    assert "reaches down to" not in told()


def test_the_exemptions_of_ec57_stand_below_the_figures():
    row = {
        "sensitivity": 0.9,
        "positive_predictivity": 0.8,
        "false_positive_rate": 0.01,
        "f1": 0.85,
    }
    row |= {"positive_predictivity_ec57": 0.95, "false_positive_rate_ec57": 0.004, "support": 9}
    shown = _aami({"aami": {"S": row, "V": row}, "majority_accuracy": 0.9})
    assert shown.count("EC57 exemptions</td>") == 2 and ">95.0 %<" in shown and ">0.40 %<" in shown
    assert "de Chazal et al. 2004" in shown and "Each recording" not in shown


def test_rows_that_a_model_was_trained_on_are_announced():
    test = {"accuracy": 0.9, "majority_accuracy": 0.5, "n": 10}
    report = Report({"model": "m", "test": test, "seen": {"too_many": True}}, "run")
    assert report.summary().startswith("ROWS IT WAS TRAINED ON: m: test accuracy 90.0 %")
    assert "Not a test" in report._repr_html_()


def test_files_that_no_run_wrote_are_not_replaced(tmp_path):
    test = toy_dataset(n=6)
    check_run_folder(tmp_path, test, trained=True, explained=True)
    for name in ("signal_V.png", "roc.png", "explained_7.png", "model.keras"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ValueError, match=f"{name} was not written by"):
            check_run_folder(tmp_path, test, trained=True, explained=True)
        (tmp_path / name).unlink()
    (tmp_path / "model.keras").write_text("mine")
    check_run_folder(tmp_path, test)


def test_a_system_without_proc_still_names_its_processor(monkeypatch):
    def absent(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", absent)
    assert _processor()


def test_no_runs_have_no_mean(tmp_path):
    with pytest.raises(ValueError, match="run_dirs is empty"):
        record_result(tmp_path / "results.csv", [], protocol="A", command="")
    assert not list(tmp_path.iterdir())


def test_what_a_run_was_made_on_is_said():
    assert versions()["numpy"] == np.__version__ and "python" in versions()
    assert device() and peak_rss_mb() > 10


@pytest.mark.usefixtures("without_drawing")
def test_explanations_are_written_when_the_folder_is_finished(tmp_path):
    test = toy_dataset(n=60)
    p = guesses(test)
    numbers = numbers_of(test, test, test, {"val": p, "test": p})
    seen = []

    def explain():
        seen.append((tmp_path / "report.html").read_text())
        return "Why", "<p>Because.</p>", {"why": (b"PNG", "The reason.")}

    report = write_report(tmp_path, numbers, test=test, probabilities={"test": p}, explain=explain)
    assert "explanations were not finished" in seen[0] and "<p>Because.</p>" not in seen[0]
    page = report.page.read_text()
    assert "<p>Because.</p>" in page and "The reason." in page and "not finished" not in page
    assert (tmp_path / "why.png").read_bytes() == b"PNG"
    assert json.loads((tmp_path / "report.json").read_text())["seconds"]["explain"] >= 0


def test_report_is_a_dict_that_knows_its_folder():
    report = Report({"model": "m"}, "somewhere")
    assert (
        report["model"] == "m"
        and report.page == pathlib.Path("somewhere/report.html")
        and "somewhere" in repr(report)
    )
