"""ECG classification in Keras, from a public file to an honest report.

Four functions are the whole of the main job::

    from ecg_keras import load_mitbih_csv, to_spectrograms, build_model, fit_and_report

Nothing heavy is imported until a function needs it.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "ECGDataset": "dataset",
    "ScalogramGrid": "grids",
    "SpectrogramGrid": "grids",
    "SpectrumGrid": "grids",
    "build_model": "models",
    "fit_and_report": "training",
    "load_mitbih_csv": "mitbih",
    "load_ptbxl": "ptbxl",
    "load_ptbxl_part": "ptbxl",
    "to_scalograms": "spectrograms",
    "to_spectra": "spectrograms",
    "search": "search",
    "to_spectrograms": "spectrograms",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"ecg_keras.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ecg_keras' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])
