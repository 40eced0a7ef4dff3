"""Arguments are checked with clear errors; a module with its function's name is callable."""

import dataclasses
import inspect
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import ecg_keras
from ecg_keras._checks import (
    CallableModule,
    check_finite,
    check_fraction,
    check_option,
    check_positive,
    check_signal_shape,
    check_signals,
    keywords_of,
    require,
)

pytestmark = pytest.mark.numeric


def test_an_option_is_returned_and_another_one_lists_them_all():
    assert check_option("balance", None, (None, "smote")) is None
    with pytest.raises(
        ValueError, match="name='cnn3d' is not known; choose one of 'cnn1d', 'cnn2d'"
    ):
        check_option("name", "cnn3d", {"cnn1d": 1, "cnn2d": 2})
    with pytest.raises(ValueError, match="sampling_rate=250 is not known; choose one of 100, 500"):
        check_option("sampling_rate", 250, (100, 500))


@pytest.mark.parametrize("old", ["ds1-ds2", "ds1"])
def test_an_old_spelling_gives_the_new_one_and_warns_where_the_user_called(old):
    def load(split):
        return check_option("split", split, ("ds1_ds2",), renamed={"ds1": "ds1_ds2"})

    with pytest.warns(DeprecationWarning, match=f"split='{old}' is spelled 'ds1_ds2' now") as told:
        assert load(old) == "ds1_ds2"
    assert told[0].filename == __file__


def test_a_new_spelling_does_not_warn(recwarn):
    check_option("split", "ds1_ds2", ("ds1_ds2", "patient"), renamed={"ds1": "ds1_ds2"})
    assert not recwarn.list


@pytest.mark.parametrize("value", [True, "3", None])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=f"n must be a number, got {type(value).__name__}"):
        check_positive("n", value)


def test_numbers_have_their_limits():
    assert check_positive("n", np.float32(0.5)) == 0.5
    assert check_positive("n", 0, zero=True) == 0 and check_fraction("part", 0.5) == 0.5
    for value in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="n must be above 0, got"):
            check_positive("n", value)
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        check_positive("n", -1, zero=True)
    with pytest.raises(ValueError, match="part must lie between 0 and 1, got 1"):
        check_fraction("part", 1)


def test_signals_get_their_lead_axis():
    x = np.zeros((2, 5), np.float32)
    assert check_signals("x", x).shape == (2, 5, 1) and np.shares_memory(check_signals("x", x), x)
    with pytest.raises(ValueError, match=r"got \(5,\); add the batch axis with x\[None, :\]"):
        check_signals("x", x[0])
    with pytest.raises(ValueError, match=r"got \(1, 1, 2, 5\)"):
        check_signals("x", x[None, None])


def test_rows_that_are_not_finite_are_counted():
    x = np.zeros((4, 5))
    x[[1, 3], 2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"in 2 of 4 beats \(first at row 1\)"):
        check_finite("x", x)
    large = np.full((2, 2), 1e308)  # finite, but its sum is not
    assert check_finite("x", large) is large


def test_a_layer_refuses_what_is_no_signal():
    check_signal_shape(object(), (None, 187, 1))
    with pytest.raises(ValueError, match=r"object takes signals .* got \(None, None, 1\)"):
        check_signal_shape(object(), (None, None, 1))


def test_an_absent_package_names_the_extra_that_has_it(monkeypatch, tmp_path):
    with pytest.raises(ImportError, match=r"pip install 'ecg_keras\[tune\]'"):
        require("no_such_package.part", "tune")
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="No module named 'no_such_package'"):
        require("broken_package", "tune")  # it is there, another one is not
    assert require("json", "tune").loads("1") == 1


@dataclasses.dataclass(frozen=True)
class _Fit:
    epochs: int = 3
    rate: float = 0.1


@keywords_of(_Fit)
def _fit(model, *, out_dir=None, **options):
    """A model and a `_Fit`."""
    return model, out_dir, _Fit(**options)


def test_a_signature_shows_the_fields_after_the_function_s_own_keywords():
    assert str(inspect.signature(_fit)) == "(model, *, out_dir=None, epochs=3, rate=0.1)"
    assert (
        _fit("m", rate=0.5) == ("m", None, _Fit(3, 0.5)) and _fit.__doc__ == "A model and a `_Fit`."
    )
    with pytest.raises(TypeError, match="rat"):
        _fit("m", rat=0.5)


def test_a_callable_module_is_a_module_with_the_signature_of_its_function():
    module = CallableModule("package.double")
    module.double = lambda x, *, times=2: times * x
    assert isinstance(module, types.ModuleType)
    assert module(3) == 6 and module(3, times=3) == 9
    assert str(inspect.signature(module)) == "(x, *, times=2)"


_PROOF = """
import ecg_keras, inspect, types
for module, function in ((m, m.compare), (ecg_keras.compare, m.compare)):
    assert isinstance(module, types.ModuleType) and module is m
    assert inspect.signature(module) == inspect.signature(function)
try:
    ecg_keras.compare()
except TypeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "eager"),
    [
        ("import ecg_keras.compare as m", ""),
        ("import ecg_keras; ecg_keras.compare; import ecg_keras.compare as m", ""),
        ("import ecg_keras.compare as m; from ecg_keras import compare; assert compare is m", ""),
        ("import ecg_keras; import ecg_keras.compare as m", "1"),
    ],
)
def test_a_module_with_its_function_s_name_is_both(imports, eager):
    done = subprocess.run(
        [sys.executable, "-c", imports + _PROOF],
        env=os.environ | {"EAGER_IMPORT": eager},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "missing 2 required positional arguments: 'run_dirs' and 'out_dir'" in done.stdout


def test_every_public_function_with_its_module_s_name_is_such_a_module():
    folder = pathlib.Path(ecg_keras.__file__).parent
    same = [name for name in ecg_keras.__all__ if (folder / f"{name}.py").is_file()]
    assert {"compare", "explain", "search"} <= set(same)
    for name in same:
        assert isinstance(getattr(ecg_keras, name), CallableModule), name
