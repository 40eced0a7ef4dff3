"""Models saved by earlier versions load and say the same."""

import pathlib

import numpy as np
import pytest

SAVED = pathlib.Path(__file__).parent / "saved"


@pytest.mark.numeric
@pytest.mark.parametrize("file", sorted(SAVED.glob("*.keras")), ids=lambda file: file.stem)
def test_a_model_saved_by_an_earlier_version_says_the_same(file):
    import keras

    import ecg_keras.layers  # noqa: F401 - registers the layers

    stored = np.load(file.with_suffix(".npz"))
    model = keras.saving.load_model(file)
    found = model.predict_on_batch({name: stored[name] for name in ("signal", "metadata")})
    np.testing.assert_allclose(found, stored["probabilities"], atol=1e-5)  # of probability
