"""Real data for tests, and small data sets whose answer is known."""

import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
_cache = tempfile.TemporaryDirectory(prefix="ecg_keras-")  # of examples, which have no fixture
os.environ["ECG_KERAS_CACHE"] = _cache.name


def real_data(name):
    """A folder of real data, or skip: ECG_KERAS_REAL_DATA, else shared/data beside the checkout."""
    root = os.environ.get("ECG_KERAS_REAL_DATA")
    root = pathlib.Path(root) if root else pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not (root / name).is_dir():
        pytest.skip(f"real data absent: {root / name} (set ECG_KERAS_REAL_DATA)")
    return root / name


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Caches of a test stay in its own folder."""
    monkeypatch.setenv("ECG_KERAS_CACHE", str(tmp_path / "cache"))


def toy_dataset(
    n=60, n_classes=3, samples=187, leads=1, fs=125.0, multi_label=False, patients=False, seed=0
):
    """Noisy sines whose frequency tells the class: 4, 9, 14 ... Hz."""
    from ecg_keras import ECGDataset

    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    t = np.arange(samples) / fs
    phase = rng.uniform(0, 2 * np.pi, (n, 1, leads))
    x = np.sin(2 * np.pi * (4 + 5 * labels)[:, None, None] * t[None, :, None] + phase)
    x = x + 0.1 * rng.standard_normal(x.shape)
    return ECGDataset(
        x,
        np.eye(n_classes)[labels] if multi_label else labels,
        classes=tuple("NSVFQ"[:n_classes]),
        fs=fs,
        leads=tuple(f"L{i}" for i in range(leads)),
        patients=[f"p{i // n_classes % 10}" for i in range(n)] if patients else None,
        metadata=np.column_stack([rng.normal(60, 10, n), labels % 2]),
        metadata_names=("age", "sex"),
        source="synthetic sines",
    )


@pytest.fixture(scope="session", params=["cnn1d", "cnn2d"])
def trained(request):
    """A network that tells planted rows from plain ones, and 60 other rows."""
    import keras

    from ecg_keras import build_model
    from ecg_keras.faithfulness import planted

    train, test = planted(352), planted(60, seed=1)
    keras.utils.set_random_seed(0)
    model = build_model(request.param, like=train, filters=(16, 32, 48))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.AdamW(3e-3), loss, metrics=["accuracy"])
    model.fit(train.x, train.y, batch_size=32, epochs=7, verbose=0)
    assert model.evaluate(test.x, test.y, verbose=0)[1] > 0.95
    return model, test


@pytest.fixture
def toy():
    """Sixty noisy sines of three classes."""
    return toy_dataset()


@pytest.fixture(scope="session")
def written_records(tmp_path_factory):
    """A folder of ten synthetic records of a minute, to read."""
    pytest.importorskip("wfdb")
    from ecg_keras.demo import write_demo_records

    folder = tmp_path_factory.mktemp("records")
    write_demo_records(folder, n_patients=10, duration_s=60)
    return folder


@pytest.fixture
def records_to_damage(written_records, tmp_path):
    """A copy of `written_records`, to change."""
    return shutil.copytree(written_records, tmp_path / "records")


def draw_nothing(monkeypatch):
    """Every picture is a white dot: drawing takes more than half of the time of a small report."""
    from matplotlib.figure import Figure

    from ecg_keras import plots

    pixel = plots.png(Figure((0.1, 0.1)))
    monkeypatch.setattr(plots, "png", lambda drawn, **options: pixel)


@pytest.fixture
def without_drawing(monkeypatch):
    """Pictures are not drawn."""
    draw_nothing(monkeypatch)
