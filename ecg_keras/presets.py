"""Settings that the figures of README.md and outputs/ were made with, by name, per data source.

Conventions
-----------
A preset is a dict of keywords: "load" of the loader, "model" of `build_model` (name included), "fit" of `fit_and_report`.
Options of `build_model` that only the caller has, as models trained before, are named under "needs".
``ecg-keras train --preset NAME`` uses one, and so does ``--model NAME`` where the source has one of that model and
nothing it needs is missing.
"""

_BEAT_FIT = {"batch_size": 256, "learning_rate": 4e-3}
_BEATS = {
    "heartbeat-cnn1d": {"model": {"name": "cnn1d"}, "fit": {**_BEAT_FIT, "epochs": 12}},
    "heartbeat-resnet1d": {  # found by a search of an hour
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
    "heartbeat-resnet1d-fast": {
        "model": {"name": "resnet1d", "stem_strides": 3, "filters": (32, 64, 96), "kernel_size": 5},
        "fit": {
            **_BEAT_FIT,
            "epochs": 9,
            "learning_rate": 6e-3,
            "label_smoothing": 0.05,
            "majority_share": 0.4,
        },
    },
    "heartbeat-fft_transformer": {
        "model": {"name": "fft_transformer"},
        "fit": {**_BEAT_FIT, "epochs": 12, "learning_rate": 1e-3},
    },
    "heartbeat-minirocket": {
        "model": {"name": "minirocket"},
        "fit": {"epochs": 1, "learning_rate": 1e-5},
    },
    "heartbeat-beat_forest": {
        "model": {"name": "beat_forest", "trees": 20},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "heartbeat-cnn2d": {"model": {"name": "cnn2d"}, "fit": {}},
    "heartbeat-vgg2d": {"model": {"name": "vgg2d"}, "fit": {**_BEAT_FIT, "epochs": 8}},
    "heartbeat-resnet2d": {"model": {"name": "resnet2d"}, "fit": {**_BEAT_FIT, "epochs": 8}},
    "heartbeat-scalogram_cnn": {
        "model": {"name": "scalogram_cnn"},
        "fit": {**_BEAT_FIT, "epochs": 8},
    },
    "heartbeat-multimodal": {
        "model": {"name": "multimodal"},
        "fit": {**_BEAT_FIT, "epochs": 12, "learning_rate": 1e-3},
    },
    "heartbeat-hybrid": {
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
    "ptbxl-best": {
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
    "ptbxl-cnn1d": {"model": {"name": "cnn1d", "crop_s": _CROP_S}, "fit": _PTBXL_FIT},
    "ptbxl-resnet1d": {
        "model": {"name": "resnet1d", **_PTBXL_TIME},
        "fit": {**_PTBXL_FIT, "epochs": 30},
    },
    "ptbxl-fft_transformer": {
        "model": {"name": "fft_transformer", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "learning_rate": 1e-3},
    },
    "ptbxl-minirocket": {
        "model": {"name": "minirocket"},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "ptbxl-beat_forest": {
        "model": {"name": "beat_forest"},
        "fit": {"epochs": 1, "learning_rate": 1e-6},
    },
    "ptbxl-cnn2d": {
        "model": {"name": "cnn2d", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": _PTBXL_FIT,
    },
    "ptbxl-vgg2d": {
        "model": {"name": "vgg2d", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "epochs": 12},
    },
    "ptbxl-resnet2d": {
        "model": {"name": "resnet2d", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": {**_PTBXL_FIT, "epochs": 12},
    },
    "ptbxl-scalogram_cnn": {
        "model": {"name": "scalogram_cnn", "crop_s": _CROP_S, "dropout": 0.5},
        "fit": _PTBXL_FIT,
    },
    "ptbxl-multimodal": {
        "model": {"name": "multimodal", "crop_s": _CROP_S},
        "fit": {**_PTBXL_FIT, "learning_rate": 1e-3},
    },
    "ptbxl-hybrid": {
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
    "signal-to-image": {
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
            "split": "ds1-ds2",
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
PRESETS = {"mitbih-csv": _BEATS, "ptbxl": _PTBXL, "mitdb": _RECORDS}
