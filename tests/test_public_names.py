"""Every public name is there and says how it is used."""

import inspect

import pytest

import ecg_keras


@pytest.mark.parametrize("name", ecg_keras.__all__)
def test_a_public_name_imports_and_shows_an_example(name):
    value = getattr(ecg_keras, name)
    if isinstance(value, dict):
        assert value
        return
    function = inspect.unwrap(value)  # a callable module's
    assert callable(function) and function.__name__ == name
    assert ">>> " in inspect.getdoc(function), f"{name} has no example"
