import dataclasses
import inspect
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import build_model, fit_and_report, to_spectrograms, training
from ecg_keras.batches import TrainBatches
from ecg_keras.dataset import Scaler, balance_train
from ecg_keras.layers import crop_starts, model_card
from ecg_keras.saved_models import load_model, predict
from ecg_keras.training import Epochs, FitOptions, evaluate_and_report, fit

pytestmark = pytest.mark.usefixtures("without_drawing")

FILES = {"report.html", "report.json", "model.keras", "history.csv", "predictions.csv"}


def parts(**options):
    return tuple(toy_dataset(n=n, seed=seed, **options) for n, seed in ((120, 0), (45, 1), (60, 2)))


def small(like, seed=0):
    """A network of one convolution, with dropout: its graph is traced in a second."""
    keras.utils.set_random_seed(seed)
    return build_model("cnn1d", like=like, filters=(4,), dropout=0.1)


def on_images(like):
    """A network that takes images or makes them of signals."""
    keras.utils.set_random_seed(0)
    return build_model("cnn2d", like=like, filters=(8, 16), dropout=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run and its report, for tests that only read it."""
    folder, (train, val, test) = tmp_path_factory.mktemp("run"), parts()
    options = {"epochs": 8, "batch_size": 16, "progress": False}
    return folder, fit_and_report(on_images(train), train, val, test, out_dir=folder, **options)


def test_a_run_learns_and_leaves_every_file(run):
    folder, report = run
    assert report["test"]["accuracy"] > 0.8 > report["test"]["majority_accuracy"]
    assert {file.name for file in folder.iterdir()} >= FILES
    assert not (folder / "checkpoint").exists()
    written = json.loads((folder / "report.json").read_text())
    known = "task source synthetic model n_parameters classes seed backend device versions seconds"
    for key in (*known.split(), "peak_rss_mb", "epochs_run", "test", "val"):
        assert written[key] not in (None, ""), key
    assert set(written["seconds"]) >= {"load", "transform", "fit", "evaluate"}
    assert written["test"]["n"] == 60 and written["epochs_run"] == 8


def test_images_and_standardised_signals_are_served_raw(tmp_path):
    raw = parts()
    scaler = Scaler(raw[0].x.mean(axis=0), raw[0].x.std(axis=0))
    scaled = [part.replace(x=scaler.apply(part.x), scaler=scaler) for part in raw]
    train, val, test = map(to_spectrograms, scaled)
    model = on_images(train)
    fit_and_report(model, train, val, test, out_dir=tmp_path, epochs=1, progress=False)
    loaded = load_model(tmp_path / "model.keras")
    card = model_card(loaded)
    np.testing.assert_allclose(predict(loaded, raw[2]), predict(model, test), atol=1e-5)
    assert (
        card["classes"] == ["N", "S", "V"]
        and card["fs"] == 125
        and card["n_samples"] == 187
        and card["leads"] == ["L0"]
    )


def test_evaluating_the_saved_file_gives_the_reported_figures(run, tmp_path):
    folder, report = run
    test = parts()[2]
    again = evaluate_and_report(folder / "model.keras", test, out_dir=tmp_path / "b")
    assert again["test"]["confusion"] == report["test"]["confusion"]
    assert (tmp_path / "b" / "report.html").exists() and again["model_file"] == "model.keras"
    model = load_model(folder / "model.keras")
    assert evaluate_and_report(model, test, out_dir=tmp_path / "c")["test"] == again["test"]
    other = "the data set has fs 100.0, the model was trained with 125.0"
    with pytest.raises(ValueError, match=other):
        evaluate_and_report(model, test.replace(fs=100), out_dir=tmp_path / "d")
    with pytest.raises(ValueError, match="carries no card; give one that fit_and_report saved"):
        evaluate_and_report(small(test), test, out_dir=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_multi_label_thresholds_come_from_val_and_travel(tmp_path):
    train, val, test = parts(multi_label=True)
    report = fit_and_report(
        small(train), train, val, test, out_dir=tmp_path, epochs=2, progress=False
    )
    assert (
        report["task"] == "multi-label"
        and report["val"]["thresholds"] == report["test"]["thresholds"]
    )
    np.testing.assert_allclose(
        model_card(load_model(tmp_path / "model.keras"))["thresholds"],
        report["test"]["thresholds"],
    )


@pytest.mark.slow
def test_crops_are_averaged_in_and_out_of_the_saved_model(tmp_path):
    train, val, test = parts()
    model = small(train.replace(x=train.x[:, :100]))
    fit_and_report(model, train, val, test, out_dir=tmp_path, epochs=1, progress=False)
    by_hand = np.mean(
        [predict(model, test.replace(x=test.x[:, s : s + 100])) for s in crop_starts(187, 100)],
        axis=0,
    )
    np.testing.assert_allclose(predict(model, test), by_hand, atol=1e-6)
    np.testing.assert_allclose(
        predict(load_model(tmp_path / "model.keras"), test), by_hand, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smote", "class_weight", "sampler"])
def test_every_way_of_balancing_trains(tmp_path, method):
    train, val, test = parts()
    train = balance_train(train[np.r_[0:60, 60:120:3]], method)
    report = fit_and_report(
        small(train), train, val, test, out_dir=tmp_path, epochs=1, progress=False
    )
    assert report["settings"]["balance"] == method


def tiny(like):
    """A network of a few weights, for trainings whose figures do not matter."""
    keras.utils.set_random_seed(0)
    return build_model("cnn1d", like=like, filters=(2,), dropout=0.0)


def fit_tiny(folder, *, model=None, train=None, **options):
    """A short training; returns the network and its epochs."""
    model = model or tiny(parts()[0])
    train, val = train or parts()[0], parts()[1]
    return model, fit(model, train, val, folder=folder, batch_size=16, progress=False, **options)


def told(monkeypatch, figures):
    """Make the validation say these figures, one an epoch."""
    values = iter(figures)
    known = {"val_loss": 1.0, "val_macro_auc": 0.5}
    monkeypatch.setattr(Epochs, "_validated", lambda self: known | {"val_macro_f1": next(values)})


@pytest.mark.slow
@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 1.5])
def test_cosine_rises_in_a_line_and_falls_to_a_hundredth(tmp_path, warmup_epochs):
    options = {"epochs": 4, "learning_rate": 0.01, "warmup_epochs": warmup_epochs}
    _, history = fit_tiny(tmp_path, **options)
    n = 8  # steps of an epoch: 120 rows by 16
    first = int(warmup_epochs * n)
    for row in history.rows:
        step = row["epoch"] * n
        part = (step - first) / (4 * n - first)
        share = step / first if step < first else 0.01 + 0.99 * (1 + np.cos(np.pi * part)) / 2
        assert row["learning_rate"] == pytest.approx(0.01 * share, rel=1e-4)


@pytest.mark.slow
def test_a_plateau_halves_the_rate_after_every_two_epochs_without_a_better_figure(
    tmp_path, monkeypatch
):
    told(monkeypatch, [0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5])
    options = {"schedule": "plateau", "epochs": 9, "patience": 9, "learning_rate": 0.008}
    _, history = fit_tiny(tmp_path, **options)
    rates = [0.008, 0.008, 0.008, 0.004, 0.004, 0.002, 0.002, 0.002, 0.001]
    np.testing.assert_allclose([row["learning_rate"] for row in history.rows], rates, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"schedule": "constant", "patience": 2}, 4),
        ({"schedule": "constant"}, 7),  # 5 by default
        ({"schedule": "cosine", "patience": 3}, 5),
        ({"schedule": "cosine"}, 8),  # to the end by default
    ],
)
def test_patience_stops_after_so_many_epochs_without_a_better_figure(
    tmp_path, monkeypatch, options, epochs
):
    told(monkeypatch, [0.5, 0.6, *[0.55] * 6])
    _, history = fit_tiny(tmp_path, epochs=8, warmup_epochs=0, **options)
    assert (history.done, history.best_row, history.finished) == (epochs, 1, True)
    if options["schedule"] == "constant":
        assert {row["learning_rate"] for row in history.rows} == {np.float32(3e-3)}
    _, again = fit_tiny(tmp_path, epochs=8, warmup_epochs=0, **options)  # nothing left to do
    assert again.rows == history.rows


@pytest.mark.slow
def test_averaged_weights_are_the_moving_average_over_the_steps(tmp_path):
    steps = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights = self.model.trainable_variables
            steps.append([keras.ops.convert_to_numpy(weight).copy() for weight in weights])

    model, history = fit_tiny(tmp_path, epochs=2, ema=0.9, monitor="loss", callbacks=[Steps()])
    average = steps[0]
    for weights in steps[1 : 8 * (history.best_row + 1)]:
        average = [0.9 * old + 0.1 * new for old, new in zip(average, weights)]
    for kept, wanted in zip(model.trainable_variables, average):
        np.testing.assert_allclose(kept, wanted, atol=1e-6)


def test_label_smoothing_spreads_a_share_of_the_target_over_the_classes(tmp_path):
    model, history = fit_tiny(tmp_path, epochs=1, label_smoothing=0.3)
    val = parts()[1]
    targets = 0.7 * np.eye(3)[val.y] + 0.3 / 3
    loss = -(targets * np.log(predict(model, val))).sum(axis=1).mean()
    assert history.rows[0]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_what_is_left_open_is_chosen_for_the_train_part():
    train = parts()[0][np.r_[0:120:3, 1:30:3, 2:30:3]]  # 40 of N, 10 of S, 10 of V
    chosen = FitOptions(augment=("noise",)).settings(train)
    assert list(chosen) == [*"epochs batch_size learning_rate weight_decay schedule".split(),
        *"warmup_epochs label_smoothing class_weight_power majority_share monitor".split(),
        *"patience ema augment mixup balance seed".split()]  # fmt: skip
    assert chosen["class_weight_power"] == 0.1 and chosen["majority_share"] == 1.0
    assert (chosen["monitor"], chosen["patience"], chosen["balance"]) == ("macro_f1", None, None)
    assert json.loads(json.dumps(chosen)) == chosen
    rare = FitOptions(schedule="plateau").settings(train[np.r_[0:40, 40:44, 50:54]])
    assert rare["majority_share"] == 2 * 8 / 40 and rare["patience"] == 5
    weighted = FitOptions().settings(balance_train(train, "class_weight"))
    assert weighted["class_weight_power"] == 0.5 and weighted["majority_share"] == 1.0
    drawn = FitOptions().settings(balance_train(train, "sampler"))
    assert drawn["class_weight_power"] == 0.0 and drawn["balance"] == "sampler"
    several = FitOptions().settings(parts(multi_label=True)[0])
    assert (several["class_weight_power"], several["majority_share"]) == (0.0, 1.0)
    assert several["monitor"] == "macro_auc"
    given = FitOptions(class_weight_power=0, majority_share=0.3, monitor="loss", patience=4)
    given = given.settings(train)
    assert (given["class_weight_power"], given["majority_share"]) == (0, 0.3)
    assert (given["monitor"], given["patience"]) == ("loss", 4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got str"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"schedule": "cosin"}, "schedule='cosin' is not known; choose one of 'cosine'"),
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1, got 1.0"),
        ({"class_weight_power": -0.5}, "class_weight_power must be at least 0"),
        ({"majority_share": 0}, "majority_share must be above 0"),
        ({"majority_share": 1.5}, "majority_share must be at most 1, got 1.5"),
        ({"monitor": "f1"}, "monitor='f1' is not known; choose one of 'auto', 'macro_f1'"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"ema": 1}, "ema must be below 1, got 1"),
        ({"ema": float("nan")}, "ema must be at least 0, got nan"),
        ({"augment": ["nois"]}, "augment='nois' is not known; choose one of 'amplitude'"),
        ({"augment": "noise"}, r"augment must be a sequence of names: \('noise',\)"),
        ({"mixup": -1}, "mixup must be at least 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(option, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FitOptions(**option)


def test_every_option_stands_in_the_signatures():
    fields = {field.name: field.default for field in dataclasses.fields(FitOptions)}
    for function in (fit, fit_and_report):
        shown = inspect.signature(function).parameters
        assert fields.items() <= {name: part.default for name, part in shown.items()}.items()
        assert "options" not in shown and shown["epochs"].kind is shown["epochs"].KEYWORD_ONLY
    assert all(f"    {name} : " in FitOptions.__doc__ for name in fields)


@pytest.mark.slow
def test_averaged_weights_are_what_is_validated_and_kept(tmp_path, monkeypatch):
    at_validation, at_the_end = [], []
    validated, stop_or_not = Epochs._validated, Epochs._slow_down_or_stop

    def seen(self):
        at_validation.append([weight.copy() for weight in self.model.get_weights()])
        return validated(self)

    def after(self):
        at_the_end.append([weight.copy() for weight in self.model.get_weights()])
        stop_or_not(self)

    monkeypatch.setattr(Epochs, "_validated", seen)
    monkeypatch.setattr(Epochs, "_slow_down_or_stop", after)
    train, val, test = parts()
    model = small(train)
    fit_and_report(
        model, train, val, test, out_dir=tmp_path, epochs=1, batch_size=16, ema=0.99, progress=False
    )
    for kept, averaged in zip(model.get_weights(), at_validation[0]):
        np.testing.assert_array_equal(kept, averaged)
    assert any(
        np.abs(raw - kept).max() > 1e-4 for raw, kept in zip(at_the_end[0], model.get_weights())
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("figures", "options", "kept_epoch"),
    [
        ([0.3, 0.9, 0.5], {}, 2),
        ([0.900, 0.904, 0.901], {}, 3),  # as good as each other: the last
        ([0.900, 0.904, 0.898], {}, 2),  # too far below the best
        ([0.900, 0.904, 0.901], {"schedule": "constant"}, 2),
        ([0.900, 0.904, 0.901], {"monitor": "loss"}, 1),
    ],
)
def test_the_epoch_with_the_best_validation_figure_is_kept(
    tmp_path, monkeypatch, figures, options, kept_epoch
):
    values, seen = iter(figures), []

    def validated(self):
        seen.append([weight.copy() for weight in self.model.get_weights()])
        figure = next(values)
        return {"val_loss": figure, "val_macro_f1": figure, "val_macro_auc": 0.5}

    monkeypatch.setattr(Epochs, "_validated", validated)
    train, val, test = parts()
    model = small(train)
    report = fit_and_report(
        model, train, val, test, out_dir=tmp_path, epochs=3, progress=False, **options
    )
    assert report["best_epoch"] == kept_epoch
    for kept, wanted in zip(model.get_weights(), seen[kept_epoch - 1]):
        np.testing.assert_array_equal(kept, wanted)


RUN = """
    import sys, keras
    sys.path[:0] = {paths!r}
    from test_training import parts, small
    from ecg_keras import fit_and_report
    train, val, test = parts()
    options = dict(out_dir=sys.argv[1], epochs=6, batch_size=16, progress=False)
    fit_and_report(small(train), train, val, test, **options)
"""


@pytest.mark.slow
def test_killed_and_called_again_it_goes_on_after_the_last_finished_epoch(tmp_path):
    here = pathlib.Path(__file__).parent
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN.format(paths=[str(here), str(here.parent)])))
    state = tmp_path / "killed" / "checkpoint" / "state.json"
    kills = 0
    for epochs_to_wait_for in (1, 3):
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "killed")],
            env=os.environ | {"MPLBACKEND": "agg"},
        )
        while process.poll() is None:
            if state.exists() and len(json.loads(state.read_text())["rows"]) >= epochs_to_wait_for:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
        if not state.exists():
            pytest.skip("the run ended before it could be killed")
    assert kills >= 1
    finished = json.loads(state.read_text())["rows"]
    train, val, test = parts()
    report = fit_and_report(
        small(train),
        train,
        val,
        test,
        out_dir=tmp_path / "killed",
        epochs=6,
        batch_size=16,
        progress=False,
    )
    assert report["epochs_run"] == 6
    lines = (tmp_path / "killed" / "history.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == [1, 2, 3, 4, 5, 6]
    losses = [float(line.split(",")[1]) for line in lines]
    assert losses[: len(finished)] == [row["loss"] for row in finished]
    straight = fit(
        small(train),
        train,
        val,
        folder=tmp_path / "straight",
        epochs=6,
        batch_size=16,
        progress=False,
    )
    np.testing.assert_allclose(
        losses, [row["loss"] for row in straight.rows], rtol=2e-3
    )  # threads add in another order


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "ema"), [(1, 0.0), (3, 0.9)])
def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path, stop, ema):
    train, val, _ = parts()
    options = {"epochs": 6, "batch_size": 16, "ema": ema, "progress": False}
    straight, stopped, resumed = small(train), small(train), small(train)
    before = fit(straight, train, val, folder=tmp_path / "straight", **options)
    half = fit(stopped, train, val, folder=tmp_path / "stopped", until=stop, **options)
    after = fit(resumed, train, val, folder=tmp_path / "stopped", **options)
    assert after.best_row == before.best_row and after.done == 6
    assert after.rows[:stop] == half.rows  # with their seconds: they were not run again
    for one, other in zip(resumed.get_weights(), straight.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_epoch_drops_the_same_units_whether_resumed_or_not():
    train, val, _ = parts()
    model = small(train)
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    folder = tempfile.mkdtemp()
    settings = FitOptions(epochs=3, seed=5).settings(train)
    model.compile("sgd", "categorical_crossentropy")
    epochs = Epochs(
        model,
        TrainBatches(train, ["signal"], batch_size=16),
        val,
        pathlib.Path(folder),
        "key",
        settings,
    )
    epochs.set_model(model)
    seen = []
    for epoch in (0, 1, 1):
        epochs.on_epoch_begin(epoch)
        seen.append([keras.ops.convert_to_numpy(state).tolist() for state in states])
    assert states and seen[0] != seen[1] == seen[2]


@pytest.fixture
def explaining(monkeypatch):
    """Sets the section of explanations; returns the files in a folder each time it is asked for."""
    folders = []

    def use(folder, outcome):
        def section(*args, **options):
            folders.append({file.name for file in folder.iterdir()})
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr("ecg_keras.explain.report_section", section)
        return folders

    return use


@pytest.mark.slow
def test_a_report_is_whole_before_anything_is_explained(tmp_path, monkeypatch, explaining):
    from ecg_keras import report as module

    drawn, draw = [], module._data_pictures
    monkeypatch.setattr(module, "_data_pictures", lambda *parts: drawn.append(1) or draw(*parts))
    folders = explaining(tmp_path, ("What decided", "<p>Because.</p>", {"why": b"PNG"}))
    train, val, test = parts()
    options = {"out_dir": tmp_path, "epochs": 1, "progress": False, "explain": True}
    report = fit_and_report(small(train), train, val, test, **options)
    assert folders[0] >= FILES and len(drawn) == 1
    assert (tmp_path / "why.png").read_bytes() == b"PNG"
    page = report.page.read_text()
    assert "Because." in page and "not finished" not in page
    seconds = json.loads((tmp_path / "report.json").read_text())["seconds"]
    assert seconds["explain"] >= 0 and report["seconds"] == seconds
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.slow
def test_explanations_that_fail_leave_the_report_and_say_why(tmp_path, explaining):
    train, val, test = parts()
    options = {"out_dir": tmp_path, "epochs": 1, "progress": False, "explain": True}
    folders = explaining(tmp_path, RuntimeError("no <memory> left\ntraceback"))
    with pytest.warns(UserWarning, match="There are no explanations: RuntimeError: no <memory>"):
        report = fit_and_report(small(train), train, val, test, **options)
    page = report.page.read_text()
    assert "There are no explanations: RuntimeError: no &lt;memory&gt; left</p>" in page
    assert folders[0] >= FILES and not (tmp_path / "checkpoint").exists()
    again = tmp_path / "again"
    folders = explaining(again, RuntimeError("no <memory> left\ntraceback"))
    with pytest.warns(UserWarning, match="There are no explanations"):
        report = evaluate_and_report(tmp_path / "model.keras", test, out_dir=again, explain=True)
    assert folders[-1] >= {"report.html", "report.json", "predictions.csv"}
    assert "no &lt;memory&gt; left" in report.page.read_text() and report["test"]["n"] == 60


@pytest.mark.slow
def test_a_run_stopped_while_it_explains_is_reported_and_goes_on_there(
    tmp_path, monkeypatch, explaining
):
    train, val, test = parts()
    options = {"out_dir": tmp_path, "epochs": 1, "progress": False, "explain": True}
    explaining(tmp_path, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit_and_report(small(train), train, val, test, **options)
    assert {file.name for file in tmp_path.iterdir()} >= FILES
    first = json.loads((tmp_path / "report.json").read_text())
    assert "explanations were not finished" in (tmp_path / "report.html").read_text()
    explaining(tmp_path, ("What decided", "<p>Because.</p>", {}))
    monkeypatch.setattr(keras.Model, "fit", None)  # nothing is trained again
    report = fit_and_report(small(train), train, val, test, **options)
    assert report["test"] == first["test"] and "Because." in report.page.read_text()


@pytest.mark.slow
def test_a_family_that_no_method_explains_gets_its_report(tmp_path):
    train, val, test = parts()
    model = build_model("rhythm", like=train, filters=(), members=2)
    report = fit_and_report(
        model, train, val, test, out_dir=tmp_path, epochs=1, progress=False, explain=True
    )
    assert "SHAP was left out: the model says the same" in report.page.read_text()


@pytest.mark.slow
def test_another_setting_does_not_go_on_from_an_old_state(tmp_path, monkeypatch):
    train, val, test = parts()

    def stop(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ecg_keras.training.write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_and_report(
                small(train), train, val, test, out_dir=tmp_path, epochs=2, progress=False
            )
    assert (tmp_path / "checkpoint" / "state.json").exists()
    report = fit_and_report(
        small(train), train, val, test, out_dir=tmp_path, epochs=1, seed=7, progress=False
    )
    assert report["epochs_run"] == 1


def contents(folder):
    """Files of a folder and below, with their bytes."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def fit_briefly(model, folder, *, seed=0, **options):
    train, val, _ = parts()
    options = {"epochs": 3, "until": 1, "batch_size": 16, "progress": False} | options
    return fit(model, train, val, folder=folder, seed=seed, **options)


@pytest.mark.parametrize(
    "name", ["thesis.docx", "state.json", "best-1.weights.h5", "data/signals.csv"]
)
def test_a_fit_keeps_off_a_folder_with_files_of_others(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"rows": 3}')
    (tmp_path / ".DS_Store").write_text("hidden files are left alone")
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=f"{name.split('/')[0]} was not written by .*another folder"
    ):
        fit_briefly(small(parts()[0]), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_another_run_s_checkpoint_is_replaced_file_by_file(tmp_path):
    train = parts()[0]
    fit_briefly(small(train), tmp_path, until=2)
    (tmp_path / ".best-3.weights-abc123_x.weights.h5").write_text("torn")
    (tmp_path / ".state-abc123_x.json").write_text("torn")
    (tmp_path / ".hidden").write_text("mine")
    assert len(fit_briefly(small(train), tmp_path, seed=1).rows) == 1
    assert set(contents(tmp_path)) == {
        "state.json",
        "best-1.weights.h5",
        "last-1.weights.h5",
        ".hidden",
    }


@pytest.mark.slow
def test_a_run_killed_in_its_first_epoch_or_while_it_is_cleared_starts_anew(tmp_path, monkeypatch):
    train = parts()[0]

    write = Epochs._write_state

    def killed(self, *args):
        if self.rows:
            raise KeyboardInterrupt
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Epochs, "_write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_briefly(small(train), tmp_path)
    assert (tmp_path / "best-1.weights.h5").exists()
    assert len(fit_briefly(small(train), tmp_path).rows) == 1
    (tmp_path / "best-1.weights.h5").unlink()
    assert len(fit_briefly(small(train), tmp_path).rows) == 1


@pytest.mark.slow
def test_only_our_files_of_a_finished_checkpoint_are_removed(tmp_path, monkeypatch):
    train, val, test = parts()
    write = training.write_report

    def noted(*args, **options):
        (tmp_path / "checkpoint" / "notes.txt").write_text("written while it ran")
        return write(*args, **options)

    monkeypatch.setattr(training, "write_report", noted)
    (tmp_path / "notes.txt").write_text("mine")
    fit_and_report(small(train), train, val, test, out_dir=tmp_path, epochs=1, progress=False)
    assert [file.name for file in (tmp_path / "checkpoint").iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["report.html", "report.json", "model.keras", "history.csv", "roc.png", "signal_V.png"]
)
def test_a_report_replaces_no_file_of_others_and_says_so_before_training(tmp_path, name):
    train, val, test = parts()
    model = small(train)
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"{name} was not written by .*another out_dir"):
        fit_and_report(model, train, val, test, out_dir=tmp_path, epochs=1, progress=False)
    assert contents(tmp_path) == {name: b'{"mine": 1}'}


@pytest.mark.slow
def test_a_report_takes_a_folder_with_other_files_and_one_of_an_older_or_killed_run(
    tmp_path, monkeypatch
):
    train, val, test = parts()
    for name in ("notes.txt", "data.csv", "photo.png"):
        (tmp_path / name).write_text("mine")
    run = lambda: fit_and_report(
        small(train), train, val, test, out_dir=tmp_path, epochs=1, progress=False
    )

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert (tmp_path / "model.keras").exists() and not (tmp_path / "report.json").exists()
    run()
    (tmp_path / "roc.png").write_bytes(b"old")
    run()
    assert (tmp_path / "roc.png").read_bytes() != b"old"
    for name in ("notes.txt", "data.csv", "photo.png"):
        assert (tmp_path / name).read_text() == "mine"


def test_an_evaluation_replaces_no_file_of_others(run, tmp_path):
    test, other = parts()[2], tmp_path / "other"
    other.mkdir()
    shutil.copy(run[0] / "model.keras", other)
    (other / "predictions.csv").write_text("mine")
    with pytest.raises(ValueError, match="predictions.csv was not written by"):
        evaluate_and_report(other / "model.keras", test, out_dir=other)
    assert set(contents(other)) == {"model.keras", "predictions.csv"}
    (other / "predictions.csv").unlink()
    evaluate_and_report(other / "model.keras", test, out_dir=other)
    evaluate_and_report(other / "model.keras", test, out_dir=other)


@pytest.mark.slow
def test_a_killed_run_does_not_go_on_from_other_first_weights(tmp_path, capsys):
    train = parts()[0]
    fit_briefly(small(train), tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    other = small(train, seed=1)
    history = fit_briefly(other, tmp_path, until=2)
    told = capsys.readouterr().out
    assert told.count("starts from other weights than the killed run") == 1
    assert "keras.utils.set_random_seed" in told
    assert history.rows[0]["loss"] != state["rows"][0]["loss"] and len(history.rows) == 2
    assert fit_briefly(small(train, seed=1), tmp_path).rows == history.rows  # goes on
    fit_briefly(small(train, seed=1), tmp_path, batch_size=32)  # differs by more: nothing to tell
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_same_network_goes_on_after_a_stop_or_an_interrupt(tmp_path, capsys):
    train = parts()[0]
    model, seen = small(train), []

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if len(seen) == 3:
                raise KeyboardInterrupt

    first = fit_briefly(model, tmp_path).rows[0]
    with pytest.raises(KeyboardInterrupt):
        fit_briefly(model, tmp_path, until=2, callbacks=[Interrupt()])
    assert fit_briefly(model, tmp_path, until=2).rows[0] == first
    assert capsys.readouterr().out == ""
    model.set_weights(small(train, seed=1).get_weights())
    assert fit_briefly(model, tmp_path, until=2).rows[0] != first
    assert "other weights" in capsys.readouterr().out


def test_parts_that_share_a_patient_are_refused(tmp_path):
    train, val, test = parts(patients=True)
    with pytest.raises(ValueError, match="share 10 patients"):
        fit_and_report(small(train), train, val, test, out_dir=tmp_path, epochs=1)


def test_a_model_of_another_shape_is_refused(tmp_path):
    train, val, test = parts()
    model = small(train.replace(x=np.zeros((120, 250, 1))))
    with pytest.raises(
        ValueError,
        match=r"input 'signal' needs rows of shape \(250, 1\), the data set has \(187, 1\)",
    ):
        fit_and_report(model, train, val, test, out_dir=tmp_path, epochs=1)


def test_misspelled_options_are_refused(tmp_path):
    train, val, test = parts()
    with pytest.raises(TypeError, match="droput"):
        build_model("cnn2d", like=train, droput=0.5)
    for wrong in ({"epoch": 1}, {"pateince": 2}):
        with pytest.raises(TypeError, match=next(iter(wrong))):  # before anything else
            fit_and_report(None, None, None, None, out_dir=tmp_path / "out", **wrong)
        with pytest.raises(TypeError, match=next(iter(wrong))):
            fit(None, None, None, folder=tmp_path / "out", **wrong)
    with pytest.raises(ValueError, match="schedule='cosin' is not known"):
        fit_and_report(None, None, None, None, out_dir=tmp_path / "out", schedule="cosin")
    with pytest.raises(ValueError, match="until must be at least 1, got 0"):
        fit(small(train), train, val, folder=tmp_path / "out", until=0)
    assert not (tmp_path / "out").exists()
