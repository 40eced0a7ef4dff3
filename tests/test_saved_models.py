"""A saved model knows the rows it was trained on, and loads after `import ecg_keras` alone."""

import io
import json
import os
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import toy_dataset

from ecg_keras import (
    build_model,
    list_pretrained,
    load_pretrained,
    saved_models,
    to_spectrograms,
)
from ecg_keras.__main__ import main
from ecg_keras.dataset import Scaler, balance_train
from ecg_keras.layers import Card, model_card
from ecg_keras.saved_models import check_unseen, load_model, predict, save_served, served
from ecg_keras.training import evaluate_and_report

pytestmark = pytest.mark.usefixtures("without_drawing")


def saved(folder, train, **options):
    """The file of an untrained network that was told it was trained on `train`."""
    keras.utils.set_random_seed(0)
    model = build_model("cnn2d", like=train, filters=(4, 8))
    save_served(folder / "model.keras", model, train, **options)
    return folder / "model.keras"


def scaled(ds):
    """The data set as a loader standardises it."""
    scaler = Scaler(ds.x.mean(axis=0), ds.x.std(axis=0))
    return ds.replace(x=scaler.apply(ds.x), scaler=scaler, digests=ds.row_digests())


@pytest.mark.parametrize(
    "prepared",
    [
        lambda ds: ds,
        to_spectrograms,
        lambda ds: to_spectrograms(scaled(ds)),
        lambda ds: balance_train(ds, "smote"),
        lambda ds: balance_train(to_spectrograms(ds), "smote"),
        lambda ds: to_spectrograms(balance_train(ds, "smote")),
    ],
    ids=["raw", "images", "scaled images", "smote", "smote of images", "images of smote"],
)
def test_the_file_knows_the_raw_rows_it_was_trained_on(tmp_path, prepared):
    raw, other = toy_dataset()[np.r_[0:45, 45:60:3]], toy_dataset(n=40, seed=1)
    model = load_model(saved(tmp_path, prepared(raw)))
    mixed = raw.replace(x=np.concatenate([raw.x[:20], other.x[:30]]))
    seen = check_unseen(model, mixed, allow_seen=True)
    assert (seen["rows"], seen["patients"], seen["too_many"]) == (20, [], True)
    assert check_unseen(model, other) == {
        "rows": 0,
        "patients": [],
        "too_many": False,
        "note": None,
    }


def test_the_rows_are_no_weights_and_take_four_bytes_each(tmp_path):
    keras.utils.set_random_seed(0)
    few = toy_dataset(n=600, samples=40)
    network = build_model("cnn1d", like=few, filters=(4, 8))
    sizes = {}
    for n in (60, 600):
        whole = save_served(tmp_path / f"{n}.keras", network, few[:n])
        assert whole.count_params() == network.count_params() and len(whole.weights) == len(
            network.weights
        )
        sizes[n] = (tmp_path / f"{n}.keras").stat().st_size
    assert 4 * 540 <= sizes[600] - sizes[60] <= 6 * 540
    card = next(layer for layer in whole.layers if isinstance(layer, Card))
    assert card.rows.dtype == np.uint32 and (np.diff(card.rows) > 0).all()
    assert "rows" not in json.dumps(card.get_config())


def test_rows_it_was_trained_on_are_refused_before_anything_is_written(tmp_path):
    train, test = toy_dataset(), toy_dataset(n=40, seed=1)
    file = saved(tmp_path, train)
    leaked = test.replace(x=np.concatenate([train.x[:10], test.x[10:]]))
    with pytest.raises(
        ValueError, match=r"10 of 40 rows .* trained on.*allow_seen=True.*--allow-seen"
    ):
        evaluate_and_report(file, leaked, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_deliberately_measured_rows_are_marked_wherever_figures_stand(tmp_path):
    train = toy_dataset(patients=True)
    report = evaluate_and_report(
        saved(tmp_path, train), train[:30], out_dir=tmp_path / "out", allow_seen=True
    )
    written = json.loads((tmp_path / "out" / "report.json").read_text())["seen"]
    assert written["rows"] == 30 and written["too_many"] and len(written["patients"]) == 10
    page = (tmp_path / "out" / "report.html").read_text()
    banner = page.split('role="alert">')[1].split("</p>")[0]
    assert "was trained on" in banner and "ynthetic" in banner  # both warnings stand
    assert "30 of 30 rows" in page
    assert "TRAINED ON" in report.summary() and "trained on" in report._repr_html_()


def test_a_few_copies_are_counted_and_said(tmp_path):
    train, test = toy_dataset(), toy_dataset(n=300, seed=1)
    test = test.replace(x=np.concatenate([train.x[:3], test.x[3:]]))
    report = evaluate_and_report(saved(tmp_path, train), test, out_dir=tmp_path / "out")
    assert report["seen"]["rows"] == 3 and not report["seen"]["too_many"]
    assert "3 of 300 rows are equal to rows" in (tmp_path / "out" / "report.html").read_text()
    assert "TRAINED ON" not in report.summary()


def test_other_rows_of_a_patient_it_was_trained_on_are_refused(tmp_path):
    train = toy_dataset(patients=True).replace(source="Hospital A, 2020")
    model = load_model(saved(tmp_path, train))
    card = model_card(model)
    assert card["patients"] == sorted({f"p{i}" for i in range(10)})
    ids = ["p3"] + ["q1"] * 199
    later = toy_dataset(n=200, seed=1).replace(patients=ids, source="Hospital A, 2021")
    with pytest.raises(ValueError, match=r"1 of 200 rows .*patients .*\(p3\)"):
        check_unseen(model, later)
    elsewhere = later.replace(source="Hospital B, 2021")  # its own p3
    assert check_unseen(model, elsewhere)["rows"] == 0


def test_patients_are_found_by_their_rows_where_the_model_knows_rows_only(tmp_path):
    known = toy_dataset(patients=True)
    model = load_model(saved(tmp_path, known.replace(patients=None)))
    card = model_card(model)
    assert card["patients"] is None
    with pytest.raises(ValueError, match="60 of 60 rows .*p0, p1, p2, p3, p4 and 5 more"):
        check_unseen(model, known)


def test_rows_made_by_smote_are_of_no_patient(tmp_path):
    train = balance_train(toy_dataset(patients=True)[np.r_[0:45, 45:60:3]], "smote")
    assert "(made)" in train.patients
    assert "(made)" not in model_card(load_model(saved(tmp_path, train)))["patients"]


def test_a_file_from_before_rows_were_kept_loads_and_says_what_it_does_not_know(tmp_path):
    train, test = toy_dataset(), toy_dataset(n=40, seed=1)
    old = load_model(saved(tmp_path, train))
    layer = next(layer for layer in old.layers if isinstance(layer, Card))
    layer.rows = None
    for name in ("patients", "split"):
        del layer.info[name]
    old.save(tmp_path / "old.keras")
    report = evaluate_and_report(tmp_path / "old.keras", train, out_dir=tmp_path / "out")
    assert report["seen"]["rows"] is None and not report["seen"]["too_many"]
    assert (
        "does not say which rows it was trained on"
        in (tmp_path / "out" / "report.html").read_text()
    )
    images = to_spectrograms(train).replace(digests=None)  # a part that does not know its raw rows
    model = load_model(saved(tmp_path, images))
    card = model_card(model)
    assert card["split"] is None and check_unseen(model, test)["rows"] is None


@pytest.fixture(scope="module")
def two_leads(tmp_path_factory):
    """A saved model that takes 187 samples of two leads, and rows for it."""
    rows = toy_dataset(n=12, leads=2)
    return load_model(saved(tmp_path_factory.mktemp("two"), rows)), rows


def test_an_array_gets_the_probabilities_of_a_data_set(two_leads, tmp_path):
    model, rows = two_leads
    wanted = predict(model, rows)
    assert wanted.shape == (12, 3) and wanted.dtype == np.float32
    np.testing.assert_allclose(wanted.sum(axis=1), 1, atol=1e-5)
    for data, fs in ((rows.x, None), (rows.x.astype(float), 125), (rows, 125.0)):
        np.testing.assert_array_equal(predict(model, data, fs=fs), wanted)
    np.testing.assert_allclose(predict(model, rows.x, batch_size=8)[8:], wanted[8:], atol=1e-6)
    one_lead = toy_dataset(multi_label=True)
    model = load_model(saved(tmp_path, one_lead))
    wanted = predict(model, one_lead)
    np.testing.assert_array_equal(predict(model, one_lead.x[:, :, 0], fs=125), wanted)


def test_signals_that_a_saved_model_does_not_take_are_refused(two_leads):
    model, rows = two_leads
    need = r"187 samples x 2 leads \(L0, L1\) at 125 Hz, got rows of shape "
    for data, message in (
        (rows.x[:, :100], need + r"\(100, 2\)"),
        (rows.x[:, :, 0], need + r"\(187, 1\)"),
        (rows.replace(x=rows.x[:, :100], digests=None, n_samples=None), need + r"\(100, 2\)"),
        (rows.x[0, :, 0], r"add the batch axis with data\[None, :\]"),
        (np.where(rows.x > 0.9, np.nan, rows.x), "data has NaN or infinite samples in"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(model, data)
    for data, fs in ((rows.x, 360), (rows, 360), (rows.replace(fs=360), None)):
        with pytest.raises(ValueError, match="sampled at 360 Hz, the model takes 125 Hz"):
            predict(model, data, fs=fs)


def test_an_array_needs_a_card_and_no_metadata(tmp_path):
    rows = toy_dataset()
    keras.utils.set_random_seed(0)
    network = build_model("multimodal", like=rows)
    with pytest.raises(TypeError, match="network without a card takes an ECGDataset, got ndarray"):
        predict(network, rows.x)
    save_served(tmp_path / "model.keras", network, rows)
    model = load_model(tmp_path / "model.keras")
    assert predict(model, rows).shape == (60, 3)
    with pytest.raises(ValueError, match=r"takes metadata too \(age, sex\); give an ECGDataset"):
        predict(model, rows.x)


def test_what_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such model file; fit_and_report writes one"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "notes.keras").write_text("mine")
    with pytest.raises(ValueError, match="notes.keras: not a Keras model that can be read"):
        load_model(tmp_path / "notes.keras")
    build_model("cnn2d", like=toy_dataset(), filters=(4, 8)).save(tmp_path / "network.keras")
    with pytest.raises(ValueError, match="network.keras: carries no classes and sampling rate"):
        load_model(tmp_path / "network.keras")


def test_a_file_that_would_differ_from_its_network_is_not_written(tmp_path):
    train = toy_dataset()
    network = build_model("cnn2d", like=train, filters=(4, 8))
    with pytest.raises(ValueError, match="differs from the trained one by .*nothing was saved"):
        save_served(tmp_path / "model.keras", network, train, tolerance=-1)
    assert not list(tmp_path.glob("*.keras"))


def run_python(code, backend="tensorflow", *arguments):
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def every_layer(tmp_path_factory):
    """A saved model that has a layer of the package's own at every step."""
    folder = tmp_path_factory.mktemp("saved")
    train = scaled(toy_dataset())
    short = train.replace(x=train.x[:, :100], digests=None)
    model = build_model("cnn2d", like=short, filters=(4, 8))
    save_served(folder / "model.keras", model, train)
    return folder / "model.keras"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "backend"),
    [
        ("import ecg_keras, keras", "tensorflow"),
        ("import keras, ecg_keras", "tensorflow"),
        ("import ecg_keras; from keras import saving; import keras", "jax"),
        ("import keras, ecg_keras", "jax"),
        ("import ecg_keras.layers, keras", "jax"),  # imports Keras, and so the layers, half-way
    ],
)
def test_a_saved_model_loads_after_import_ecg_keras_alone(every_layer, imports, backend):
    if backend == "jax":
        pytest.importorskip("jax")
    code = (
        f"{imports}, sys\nmodel = keras.saving.load_model(sys.argv[1], safe_mode=True)\n"
        "print(model.output_shape)"
    )
    assert run_python(code, backend, every_layer) == "(None, 3)"


@pytest.mark.slow
def test_importing_the_package_alone_brings_no_backend():
    code = (
        "import sys, ecg_keras\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'ecg_keras.layers'} & set(sys.modules)))\n"
        "import keras; print('ecg_keras.layers' in sys.modules)"
    )
    assert run_python(code).splitlines() == ["[]", "True"]


def test_without_keras_the_package_still_imports(tmp_path):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text("raise ImportError('no backend here')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import ecg_keras
try:
    import keras
except ImportError as error:
    print(error)
print(ecg_keras.ECGDataset.__name__)
"""
    assert run_python(code).splitlines() == ["no backend here", "ECGDataset"]


ABOUT = {
    key: f"the {key}"
    for key in "reads trained_on purpose data licence citation protocol figure not_for".split()
} | {
    "never_shown": "nobody",
    "figures": [{"name": "accuracy", "value": 0.5, "interval": [0.4, 0.6], "on": "toy rows"}],
}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder that ships one small model, and the model."""
    rows = toy_dataset(n=12)
    model = served(build_model("cnn1d", like=rows, filters=(4,)), rows)
    monkeypatch.setattr(saved_models, "_SHIPPED", tmp_path)
    saved_models.write_pretrained(model, "toy_model", ABOUT, folder=tmp_path, check=rows)
    return tmp_path, model, rows


def test_a_pretrained_model_is_found_by_its_name_and_told_in_a_table(shipped):
    _, model, rows = shipped
    for name in ("toy_model", "toy-model"):
        found = predict(load_pretrained(name), rows)
        np.testing.assert_allclose(found, predict(model, rows), atol=2e-3)  # of probability
    assert model_card(load_model("toy_model"))["purpose"] == "the purpose"
    table = list_pretrained()
    assert table.index.tolist() == ["toy_model"] and table["classes"].tolist() == ["N S V"]
    card = model_card(load_pretrained("toy_model"))
    assert "accuracy     0.5 (95 % interval 0.4 to 0.6), toy rows" in str(card)
    assert "the citation" in card._repr_html_()


def test_a_damaged_or_unknown_pretrained_model_is_one_sentence(shipped):
    folder = shipped[0]
    with pytest.raises(ValueError, match="no pretrained model 'other'; there is toy_model"):
        load_pretrained("other")
    path = folder / "pretrained_toy_model.keras"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="checksum differs"):
        load_pretrained("toy_model")


def test_matrices_are_stored_in_half_the_room_and_read_as_float32(shipped):
    folder, model, _ = shipped
    with zipfile.ZipFile(folder / "pretrained_toy_model.keras") as file:
        weights = h5py.File(io.BytesIO(file.read("model.weights.h5")))
    kinds = set()
    weights.visititems(
        lambda _, item: (
            kinds.add((getattr(item, "dtype", None), item.ndim > 1))
            if isinstance(item, h5py.Dataset)
            else None
        )
    )
    assert (np.dtype("f2"), True) in kinds and (np.dtype("f4"), True) not in kinds
    assert {weight.dtype for weight in load_pretrained("toy_model").weights} == {
        weight.dtype for weight in model.weights
    }


def test_a_sample_of_the_rows_tells_seen_ones_from_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_models, "_MOST_ROWS", 30)
    train, new = toy_dataset(n=240), toy_dataset(n=240, seed=1)
    path = saved_models.write_pretrained(saved(tmp_path, train), "toy", ABOUT, folder=tmp_path)
    model = load_model(path)
    with pytest.raises(ValueError, match=r"30 of 240 rows \(30 could be compared, as"):
        check_unseen(model, train)
    mixed = new.replace(x=np.concatenate([train.x[:60], new.x[60:]]))
    assert 2 <= check_unseen(model, mixed, allow_seen=True)["rows"] <= 16
    assert check_unseen(model, new) == {"rows": 0, "patients": [], "too_many": False, "note": None}


def test_a_file_goes_before_a_name(shipped, monkeypatch):
    folder, model, rows = shipped
    monkeypatch.chdir(saved(folder, rows).parent)
    (folder / "model.keras").rename(folder / "toy_model.keras")
    assert "purpose" not in model_card(load_model("toy_model.keras"))
    assert "purpose" in model_card(load_model("toy_model"))


def test_the_command_prints_the_table_and_a_card(shipped, capsys):
    assert main(["models"]) == 0
    assert "toy_model" in capsys.readouterr().out
    assert main(["models", "--name", "toy-model"]) == 0
    assert "not for      the not_for" in capsys.readouterr().out
    assert main(["models", "--name", "other"]) == 2
    assert "pretrained models are toy_model" in capsys.readouterr().err


def test_a_card_has_to_be_whole(shipped):
    folder, model, _ = shipped
    with pytest.raises(ValueError, match="needs licence"):
        saved_models.write_pretrained(
            model, "b", {key: ABOUT[key] for key in ABOUT if key != "licence"}, folder=folder
        )


def test_the_models_that_ship_load_and_say_what_they_are():
    for name in list_pretrained().index:
        card = model_card(load_pretrained(name))
        assert card["name"] == name and card["not_for"] and card["figures"]


def test_a_saved_file_holds_nothing_that_only_newer_keras_knows(tmp_path):
    rows = toy_dataset(n=12)
    save_served(tmp_path / "model.keras", build_model("resnet1d", like=rows, filters=(4,)), rows)
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = file.read("config.json").decode()
    assert not [name for name in saved_models._NEW_OPTIONS if f'"{name}"' in config]
