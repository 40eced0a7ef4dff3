"""Build a model family for data shaped like a given data set.

Conventions
-----------
A family is one function from a data set to an uncompiled functional
`keras.Model`. Inputs are named ``signal`` (samples, leads), ``image`` (freqs,
frames, leads) or ``metadata`` (columns); the output ``probabilities`` has one
unit per class, softmax for single-label and sigmoid for multi-label data.
"""

from ecg_keras._checks import check_option
from ecg_keras.fused_models import hybrid, multimodal, rhythm, signal_to_image
from ecg_keras.image_models import cnn2d, resnet2d, scalogram_cnn, vgg2d
from ecg_keras.layers import in_crops
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
    "multimodal": multimodal,
    "hybrid": hybrid,
    "rhythm": rhythm,
    "signal_to_image": signal_to_image,
}


def build_model(name, *, like, crop_s=None, **options):
    """Build one of `MODELS` for data shaped like `like`; `options` go to that function unchanged.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    like : ECGDataset
        Gives input shapes, class count, single- or multi-label, and the train statistics of metadata.
    crop_s : float, optional
        Build for stretches of this many seconds of the signals. Such a model is trained on random
        stretches, and its probabilities for a whole signal are averaged over stretches that overlap by half.
    **options
        Keywords of that family; a misspelled one is a TypeError.

    Returns
    -------
    keras.Model
        Uncompiled, with an attribute-free functional graph that saves and loads.

    Examples
    --------
    >>> import numpy as np
    >>> from ecg_keras import ECGDataset
    >>> like = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes="NV", fs=125)
    >>> build_model("cnn2d", like=like, filters=(8, 16)).output_shape
    (None, 2)
    """
    check_option("name", name, MODELS)
    if crop_s is not None:
        like = in_crops(like, crop_s)
    return MODELS[name](like, **options)
