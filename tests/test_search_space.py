"""Tests of the declared spaces: they hold the defaults, can be narrowed, and become options."""

import inspect

import pytest
from conftest import toy_dataset

from ecg_keras.grids import SpectrogramGrid
from ecg_keras.models import MODELS, build_model
from ecg_keras.search_space import FAMILIES, Choice, Range, declare
from ecg_keras.spectrograms import to_spectrograms
from ecg_keras.training import fit_and_report


def test_every_family_has_a_space():
    assert set(FAMILIES) == set(MODELS)


@pytest.mark.parametrize("model", list(MODELS))
def test_the_first_trial_is_the_default_model(toy, model):
    space = declare(model, toy)
    model_options, fit_options = space.options(space.decoded(space.hyperparameters().values))
    family = inspect.signature(MODELS[model]).parameters
    fitting = inspect.signature(fit_and_report).parameters
    grid = model_options.pop("grid", SpectrogramGrid(toy.fs))
    assert grid == SpectrogramGrid(toy.fs)
    assert model_options == {name: family[name].default for name in model_options}
    assert fit_options == {name: fitting[name].default for name in fit_options}
    varied = "learning_rate weight_decay schedule label_smoothing batch_size balance"
    assert set(varied.split()) <= set(fit_options)


def test_values_of_keras_tuner_build_a_model(toy):
    space = declare("cnn2d", toy, filters_1=[4], filters_2=[4, 8], n_blocks=(1, 2), dense=[0, 3])
    parameters = space.hyperparameters()
    values = {p.name: p.random_sample(7) for p in parameters.space} | {
        "n_blocks": 1,
        "dense": 3,
        "frame_length": 48,
    }
    model_options, _ = space.options(space.decoded(values))
    assert model_options["filters"] == (4,) and model_options["dense_units"] == (3,)
    assert model_options["grid"].frame_length == 48
    assert build_model("cnn2d", like=toy, **model_options).output_shape == (None, 3)


def test_what_is_pasted_has_three_digits_and_stays_in_its_range(toy):
    space = declare("cnn1d", toy, learning_rate=Range(0.00123456, 0.01, log=True))
    values = {
        "learning_rate": 0.009999999965,
        "weight_decay": 0.0008077074352,
        "dropout": 0.1 + 0.05,
    }
    for found in (space.decoded(values), space.options(values)[0] | space.options(values)[1]):
        names = ("learning_rate", "weight_decay", "dropout")
        assert [found[name] for name in names] == [0.01, 0.000808, 0.15]
    assert space.decoded({"learning_rate": 0.00123456})["learning_rate"] == 0.00123456


def test_filters_of_a_block_that_is_not_built_are_inactive(toy):
    space = declare("cnn1d", toy, n_blocks=[2, 3])
    parameters = space.hyperparameters()
    parameters.values = {"n_blocks": 2}
    active = {p.name for p in parameters.space if parameters.is_active(p)}
    assert {"filters_1", "filters_2"} <= active and "filters_3" not in active


def test_narrowing():
    toy = toy_dataset()
    narrowed = {"filters": (8, 16), "kernel_size": [5, 7], "dropout": (0.4, 0.5), "ema": 0.99}
    narrowed |= {"schedule": ("cosine", "constant"), "residual": [True, False]}
    narrowed |= {"learning_rate": Range(1e-4, 1e-3, log=True), "balance": "sampler"}
    space = declare("cnn2d", toy, **narrowed)
    assert space.fixed == {"filters": (8, 16), "ema": 0.99, "balance": "sampler"}
    assert space.entries["kernel_size"] == Choice((5, 7), 5)
    assert space.entries["dropout"] == Range(0.4, 0.5, step=0.05, default=0.4)
    assert space.entries["schedule"] == Choice(("cosine", "constant"), "cosine")
    assert space.entries["learning_rate"].default == 1e-4
    assert not [
        name for name in space.entries if "filters" in name or name in ("n_blocks", "balance")
    ]
    model_options, fit_options = space.options(space.decoded(space.hyperparameters().values))
    assert model_options["residual"] is True and model_options["filters"] == (8, 16)
    assert fit_options["ema"] == 0.99 and fit_options["balance"] == "sampler"


def test_fixing_the_grid_or_the_number_of_blocks_removes_what_they_stand_for(toy):
    grid = SpectrogramGrid(125.0, frame_length=32)
    space = declare("cnn2d", toy, grid=grid, n_blocks=3)
    assert "hop_length" not in space.entries and "filters_4" not in space.entries
    model_options, _ = space.options(space.defaults())
    assert model_options["grid"] is grid and model_options["filters"] == (32, 64, 96)


def test_ticks_are_values_that_can_be_tried_and_their_names_fit():
    names = lambda entry: [name for _, name in entry.ticks()]
    assert names(Range(2, 5, step=1)) == ["2", "5"] and names(Range(1, 3, step=1))[1] == "2"
    assert names(Range(0, 0.6, step=0.05)) == ["0", "0.3", "0.6"]
    assert names(Range(1e-4, 1e-2, log=True)) == ["0.0001", "0.001", "0.01"]
    assert names(Choice((None, "class_weight", "sampler"))) == ["none", "class_weight", "sampler"]
    assert max(map(len, names(Choice(("class_weight",) * 5)))) == 7


def test_what_does_not_apply_is_left_out():
    toy = toy_dataset()
    assert "frame_length" not in declare("cnn2d", to_spectrograms(toy)).entries
    many = declare("cnn1d", toy_dataset(multi_label=True)).entries
    assert "label_smoothing" not in many and "balance" not in many
    assert max(declare("cnn2d", toy_dataset(samples=70)).entries["frame_length"].values) <= 70


def test_refusals(toy):
    with pytest.raises(TypeError, match="'droput' is not an option of cnn1d"):
        declare("cnn1d", toy, droput=0.5)
    with pytest.raises(ValueError, match="name|model='cnn3d'"):
        declare("cnn3d", toy)
    with pytest.raises(ValueError, match="leaves nothing to choose"):
        declare("cnn1d", toy, kernel_size=[])


def test_training_has_the_same_defaults_with_and_without_a_report():
    from ecg_keras.training import fit

    with_report = inspect.signature(fit_and_report).parameters
    shared = {
        name: p.default
        for name, p in inspect.signature(fit).parameters.items()
        if name in with_report
    }
    assert len(shared) > 10 and shared == {name: with_report[name].default for name in shared}
