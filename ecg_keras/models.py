"""All model families by name, and the call that builds one for a data set.

Conventions
-----------
A family is one function from a data set to an uncompiled functional `keras.Model`. Inputs are named
``signal`` (samples, leads), ``image`` (freqs, frames, leads) or ``metadata`` (columns). The output
``probabilities`` has one unit per class: softmax for single-label and sigmoid for multi-label data.

The first line of a family's docstring is its idea; its Notes say what it sees and where it comes
from. `families` reads them.
"""

import inspect
import re

from ecg_keras._checks import check_option
from ecg_keras.blocks import in_crops
from ecg_keras.fused_models import hybrid, multimodal, rhythm
from ecg_keras.image_models import cnn2d, resnet2d, scalogram_cnn, signal_to_image, vgg2d
from ecg_keras.signal_models import beat_forest, cnn1d, fft_transformer, minirocket, resnet1d

MODELS = {
    "cnn1d": cnn1d,
    "resnet1d": resnet1d,
    "fft_transformer": fft_transformer,
    "minirocket": minirocket,
    "beat_forest": beat_forest,
    "cnn2d": cnn2d,
    "vgg2d": vgg2d,
    "resnet2d": resnet2d,
    "scalogram_cnn": scalogram_cnn,
    "signal_to_image": signal_to_image,
    "multimodal": multimodal,
    "hybrid": hybrid,
    "rhythm": rhythm,
}


def build_model(name, *, like, crop_s=None, **options):
    """Build one of `MODELS` for data shaped like `like`; `options` go to that function unchanged.

    Parameters
    ----------
    name : str
        A key of `MODELS`: "cnn1d", "resnet1d", "fft_transformer", "minirocket" or "beat_forest" on
        signals; "cnn2d", "vgg2d", "resnet2d", "scalogram_cnn" or "signal_to_image" on images;
        "multimodal", "hybrid" or "rhythm" on several inputs. ``help(MODELS[name])`` shows the
        options of a family.
    like : ECGDataset
        Gives input shapes, class count, single- or multi-label, and train statistics of metadata.
    crop_s : float, optional
        Build for stretches of this many seconds of the signals. Such a model is trained on random
        stretches. Its probabilities for a whole signal are averaged over stretches that overlap by
        half.
    **options
        Keywords of that family; a misspelled one is a TypeError.

    Returns
    -------
    keras.Model
        Uncompiled. It is a functional graph without attributes of its own, which saves and loads.

    Raises
    ------
    ValueError
        If the name is not known, or the family does not fit the data.

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> like = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> build_model("cnn2d", like=like, filters=(8, 16)).output_shape
    (None, 2)
    """
    name = check_option("name", name, MODELS)
    if crop_s is not None:
        like = in_crops(like, crop_s)
    return MODELS[name](like, **options)


def families():
    """What each family is, as its docstring says.

    Returns
    -------
    list of dict
        For each of `MODELS` "name", "input" (what the network sees), "idea" and "source".

    Examples
    --------
    >>> families()[1]["name"], families()[1]["input"]
    ('resnet1d', 'signal')
    """
    rows = []
    for name, family in MODELS.items():
        doc = inspect.getdoc(family)
        kind, source = (
            re.search(rf"^{word}: (.+?)\n\n", doc, re.DOTALL | re.MULTILINE)[1].replace("\n", " ")
            for word in ("Input", "Source")
        )
        idea = doc.splitlines()[0]
        rows.append({"name": name, "input": kind, "idea": idea, "source": source})
    return rows
