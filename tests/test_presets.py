"""Presets: their names, their values, and the spellings of before."""

import inspect
import subprocess
import sys

import pytest

from ecg_keras.presets import PRESETS, find_preset

ALL = [(source, name) for source, presets in PRESETS.items() for name in presets]


def test_the_settings_behind_published_figures_stay():
    assert find_preset("mitbih_csv", "resnet1d_fast") == {
        "model": {"name": "resnet1d", "stem_strides": 3, "filters": (32, 64, 96), "kernel_size": 5},
        "fit": {
            "epochs": 9,
            "batch_size": 256,
            "learning_rate": 0.006,
            "label_smoothing": 0.05,
            "majority_share": 0.4,
        },
    }
    time = {"stem_strides": 2, "filters": (32, 64, 128, 256), "dropout": 0.5, "crop_s": 2.5}
    assert find_preset("ptbxl", "hybrid_best") == {
        "model": {
            "name": "hybrid",
            "branches": ("time", "minirocket", "forest"),
            "fusion": "mean",
            "options": {"time": time, "forest": {"boosted": 400}},
            "weights": {"forest": 3},
            "dropout": 0.5,
        },
        "fit": {
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 0.003,
            "weight_decay": 0.02,
            "warmup_epochs": 2,
            "mixup": 0.3,
            "augment": ("lead_dropout",),
        },
    }


@pytest.mark.parametrize(("source", "name"), ALL)
def test_presets_are_named_after_their_family_and_have_options_that_exist(source, name):
    from ecg_keras import fit_and_report
    from ecg_keras.models import MODELS

    preset = PRESETS[source][name]
    options = dict(preset["model"])
    family = options.pop("name")
    assert name == family or name.startswith(f"{family}_")
    options.pop("crop_s", None)
    known = set(inspect.signature(MODELS[family]).parameters)
    assert set(options) | set(preset.get("needs", ())) <= known
    assert set(preset["fit"]) <= set(inspect.signature(fit_and_report).parameters)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("mitbih_csv", "heartbeat-cnn2d"), ("mitbih_csv", "cnn2d")),
        (("mitbih-csv", "cnn2d"), ("mitbih_csv", "cnn2d")),
        (("mitbih_csv", "heartbeat-resnet1d-fast"), ("mitbih_csv", "resnet1d_fast")),
        (("ptbxl", "ptbxl-best"), ("ptbxl", "hybrid_best")),
        (("ptbxl", "ptbxl-fft_transformer"), ("ptbxl", "fft_transformer")),
        (("mitdb", "rhythm"), ("mitbih_records", "rhythm")),
        (("mitbih_records", "signal-to-image"), ("mitbih_records", "signal_to_image")),
    ],
)
def test_old_spellings_work_with_a_warning_that_names_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"is called '{new[old[0] in PRESETS]}' now"):
        found = find_preset(*old)
    assert found is PRESETS[new[0]][new[1]]


def test_names_of_today_give_no_warning(recwarn):
    for source, name in ALL:
        assert find_preset(source, name) is PRESETS[source][name]
    assert not recwarn.list


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="source='demo' is not known; choose one of 'mitbih_csv'"):
        find_preset("demo", "cnn2d")
    with pytest.raises(ValueError, match="preset='rythm' is not known; .*'rhythm'"):
        find_preset("mitbih_records", "rythm")
    with pytest.raises(ValueError, match="preset='ptbxl-cnn1d' is not known"):
        find_preset("mitbih_csv", "ptbxl-cnn1d")  # another source's


def test_presets_are_found_without_keras():
    code = (
        "import sys; from ecg_keras.presets import find_preset; find_preset('ptbxl', 'cnn1d');"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
