"""ECG classification in Keras, from a public file to an honest report.

Four functions are the whole of the main job::

    from ecg_keras import load_mitbih_csv, to_spectrograms, build_model, fit_and_report

Nothing heavy is imported until a function needs it. As soon as Keras is there, the layers of this
package are registered with it: after ``import ecg_keras``, ``keras.saving.load_model`` opens a
saved model.
"""

import importlib
import sys
import types

import wrapt

__version__ = "0.1.0"

_HOMES = {
    "build_model": "models",
    "compare": "compare",
    "ECGDataset": "dataset",
    "explain": "explain",
    "fit_and_report": "training",
    "inspect": "inspection",
    "load_beats": "mitbih_records",
    "load_mitbih_csv": "mitbih_csv",
    "load_mitbih_records": "mitbih_records",
    "load_ptbxl": "ptbxl",
    "load_ptbxl_part": "ptbxl",
    "model_card": "layers",
    "ScalogramGrid": "grids",
    "search": "search",
    "SpectrogramGrid": "grids",
    "SpectrumGrid": "grids",
    "to_scalograms": "spectrograms",
    "to_spectra": "spectrograms",
    "to_spectrograms": "spectrograms",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"ecg_keras.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ecg_keras' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])


class _Package(types.ModuleType):
    """Gives `explain`, `search` and `compare` as functions, also after the modules of those names were imported."""

    def __setattr__(self, name, value):
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
# at once where Keras is imported already, else when its import has ended: the layers need all of it
wrapt.register_post_import_hook(lambda keras: importlib.import_module("ecg_keras.layers"), "keras")
