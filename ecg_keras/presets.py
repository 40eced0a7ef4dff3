"""Settings that the published figures were made with, by data source and name.

Conventions
-----------
A preset is a dict of keywords: "load" for the loader, "model" for `build_model` (with its name) and
"fit" for `fit_and_report`; what is absent has its default. "needs" names options of the model that
only the caller has, such as models trained before. A preset has the name of its model family, with
a variant where there are two: ``PRESETS["mitbih_csv"]["resnet1d_fast"]``.

``ecg-keras train --preset NAME`` uses a preset. So does ``--model NAME`` where the source has one
of this name and nothing that it needs is missing.
"""

import warnings

from ecg_keras._checks import check_option

_BEAT_FIT = {"batch_size": 256, "learning_rate": 4e-3}
_BEATS = {
    "cnn1d": {"model": {"name": "cnn1d"}, "fit": {**_BEAT_FIT, "epochs": 12}},
    "resnet1d": {  # found by a search of an hour
        "model": {
            "name": "resnet1d",
            "filters": (64, 128, 96, 96),
            "kernel_size": 3,
            "blocks": 2,
            "stem_kernel": 7,
            "dense_units": (64,),
            "dropout": 0.0,
        },
        "fit": {
            "epochs": 12,
            "batch_size": 64,
            "learning_rate": 0.01,
            "weight_decay": 8e-4,
            "label_smoothing": 0.08,
        },
    },
    "resnet1d_fast": {
        "model": {"name": "resnet1d", "stem_strides": 3, "filters": (32, 64, 96), "kernel_size": 5},
        "fit": {
            **_BEAT_FIT,
            "epochs": 9,
            "learning_rate": 6e-3,
            "label_smoothing": 0.05,
            "majority_share": 0.4,
        },
    },
    "fft_transformer": {
        "model": {"name": "fft_transformer"},
        "fit": {**_BEAT_FIT, "epochs": 12, "learning_rate": 1e-3},
    },
    "minirocket": {
        "model": {"name": "minirocket"},
        "fit": {"epochs": 1, "learning_rate": 1e-5},
    },
    "beat_forest": {
        "model": {"name": "beat_forest", "trees": 20},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "cnn2d": {"model": {"name": "cnn2d"}, "fit": {}},
    "vgg2d": {"model": {"name": "vgg2d"}, "fit": {**_BEAT_FIT, "epochs": 8}},
    "resnet2d": {"model": {"name": "resnet2d"}, "fit": {**_BEAT_FIT, "epochs": 8}},
    "scalogram_cnn": {
        "model": {"name": "scalogram_cnn"},
        "fit": {**_BEAT_FIT, "epochs": 8},
    },
    "multimodal": {
        "model": {"name": "multimodal"},
        "fit": {**_BEAT_FIT, "epochs": 12, "learning_rate": 1e-3},
    },
    "hybrid": {
        "needs": ("trained",),
        "model": {
            "name": "hybrid",
            "branches": ("time", "spectrogram", "scalogram"),
            "fusion": "mean",
            "weights": {"time": 4},  # by the validation rows
        },
        "fit": {**_BEAT_FIT, "epochs": 1, "learning_rate": 1e-4},
    },
}
_CROP_S = 2.5  # what networks see at a time: two to four beats
_PTBXL_FIT = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "weight_decay": 0.02,
    "warmup_epochs": 2,
    "mixup": 0.3,
    "augment": ("lead_dropout",),
}
_PTBXL_RESNET1D = {"stem_strides": 2, "filters": (32, 64, 128, 256), "dropout": 0.5}
_PTBXL_TIME = {**_PTBXL_RESNET1D, "crop_s": _CROP_S}
_PTBXL = {
    "hybrid_best": {
        "model": {
            "name": "hybrid",
            "branches": ("time", "minirocket", "forest"),
            "fusion": "mean",
            "options": {"time": _PTBXL_TIME, "forest": {"boosted": 400}},
            "weights": {"forest": 3},  # by cross-validation over folds 1-8
            "dropout": 0.5,
        },
        "fit": {**_PTBXL_FIT, "epochs": 30},
    },
    "cnn1d": {"model": {"name": "cnn1d", "crop_s": _CROP_S}, "fit": _PTBXL_FIT},
    "resnet1d": {
        "model": {"name": "resnet1d", **_PTBXL_TIME},
        "fit": {**_PTBXL_FIT, "epochs": 30},
    },
    "fft_transformer": {
        "model": {"name": "fft_transformer", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "learning_rate": 1e-3},
    },
    "minirocket": {
        "model": {"name": "minirocket"},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "beat_forest": {
        "model": {"name": "beat_forest"},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "cnn2d": {
        "model": {"name": "cnn2d", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": _PTBXL_FIT,
    },
    "vgg2d": {
        "model": {"name": "vgg2d", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "epochs": 12},
    },
    "resnet2d": {
        "model": {"name": "resnet2d", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": {**_PTBXL_FIT, "epochs": 12},
    },
    "scalogram_cnn": {
        "model": {"name": "scalogram_cnn", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": _PTBXL_FIT,
    },
    "multimodal": {
        "model": {"name": "multimodal", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "learning_rate": 1e-3},
    },
    "hybrid": {
        "needs": ("trained",),
        "model": {
            "name": "hybrid",
            "branches": (
                "time",
                "spectrum",
                "spectrogram",
                "scalogram",
                "minirocket",
                "forest",
                "metadata",
            ),
            "fusion": "mean",
            "weights": {
                "spectrum": 0.3,
                "spectrogram": 0.5,
                "scalogram": 0.5,
                "metadata": 0.3,
                "forest": 3,
            },  # by fold 8
            "options": {"time": _PTBXL_TIME}
            | {name: {"crop_s": _CROP_S} for name in ("spectrum", "spectrogram", "scalogram")},
        },
        "fit": {**_PTBXL_FIT, "epochs": 2, "learning_rate": 2e-4},
    },
}
_RECORDS = {
    "signal_to_image": {
        "load": {
            "split": "patient",
            "classes": "aami3",
            "window_s": (0.4, 0.624),
            "features": None,
        },
        "model": {"name": "signal_to_image"},
        "fit": {"epochs": 5, "learning_rate": 1e-3, "label_smoothing": 0.0},
    },
    "rhythm": {
        "load": {
            "split": "ds1_ds2",
            "classes": "aami3",
            "lead": ("MLII", "other"),
            "typical": True,
            "train_without": "a",
            "val_records": ("205", "220"),  # beats of kinds that other DS1 patients have too
        },
        "model": {"name": "rhythm", "filters": ()},
        "fit": {
            "epochs": 10,
            "batch_size": 512,
            "learning_rate": 2e-3,
            "weight_decay": 0.02,
            "label_smoothing": 0.05,
            "class_weight_power": 0.1,
        },
    },
}
PRESETS = {"mitbih_csv": _BEATS, "ptbxl": _PTBXL, "mitbih_records": _RECORDS}
# how names were spelled before 0.2.0, hyphens apart
_OLD_NAMES = {"mitdb": "mitbih_records", "best": "hybrid_best"}
_OLD_PREFIXES = {"mitbih_csv": "heartbeat_", "ptbxl": "ptbxl_"}


def find_preset(source, name):
    """The preset of a source with a name: a dict of "load", "model" and "fit" keywords.

    Parameters
    ----------
    source : {"mitbih_csv", "ptbxl", "mitbih_records"}
        A key of `PRESETS`.
    name : str
        A key of ``PRESETS[source]``. Spellings of before 0.2.0, such as "heartbeat-cnn2d" or
        "ptbxl-best", work until 0.3.0, with a DeprecationWarning.

    Raises
    ------
    ValueError
        If the source has no presets, or none of this name.

    Examples
    --------
    >>> find_preset("mitbih_csv", "cnn1d")["model"]
    {'name': 'cnn1d'}
    """
    source = _key("source", source, PRESETS)
    return PRESETS[source][_key("preset", name, PRESETS[source], _OLD_PREFIXES.get(source, ""))]


def _key(what, name, options, old_prefix=""):
    """The key of `options` that is meant by `name`, which may be an old spelling."""
    if isinstance(name, str) and name not in options:
        plain = name.replace("-", "_").removeprefix(old_prefix)
        now = _OLD_NAMES.get(plain, plain)
        if now in options:
            warnings.warn(
                f"{what}={name!r} is called {now!r} now; the old name ends with 0.3.0.",
                DeprecationWarning,
                stacklevel=3,
            )
            return now
    return check_option(what, name, options)
