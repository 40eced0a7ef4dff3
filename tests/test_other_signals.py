"""Windows of EEG and EMG go the same way as ECG: build, fit, report, explain, save, export."""

import json

import numpy as np
import pytest

from ecg_keras import (
    ECGDataset,
    build_model,
    load_model,
    model_card,
    predict,
    split_dataset,
    to_spectrograms,
)

PEOPLE = 12


def eeg(n=240, fs=250, seed=0):
    """Two seconds of four channels, in uV: alpha (10 Hz) behind, or beta (20 Hz) in front."""
    rng = np.random.default_rng(seed)
    t, y = np.arange(2 * fs) / fs, np.arange(n) % 2
    noise = rng.standard_normal((n, len(t), 4)).cumsum(axis=1)  # slow drifts, as the skin's
    x = noise - noise.mean(axis=1, keepdims=True) + 4 * rng.standard_normal(noise.shape)
    for row, label in enumerate(y):
        wave = np.sin(2 * np.pi * (10, 20)[label] * t + rng.uniform(0, 2 * np.pi))
        x[row, :, (2, 3) if label == 0 else (0, 1)] += rng.uniform(12, 25) * wave
    return ECGDataset(
        x,
        y,
        classes=("eyes closed", "task"),
        fs=fs,
        leads=("F3", "F4", "O1", "O2"),
        unit="uV",
        modality="EEG",
        patients=np.arange(n) // 2 % PEOPLE,
        source="synthetic EEG",
    )


def emg(n=240, fs=1000, seed=0):
    """Half a second of two muscles, in mV: a burst of noise of 20 to 250 Hz in one of them."""
    from scipy.signal import butter, sosfilt

    rng = np.random.default_rng(seed)
    t, y = np.arange(fs // 2) / fs, np.arange(n) % 3
    band = butter(4, (20, 250), "bandpass", fs=fs, output="sos")
    x = 0.02 * rng.standard_normal((n, len(t), 2))
    for row, label in enumerate(y):
        if label:
            burst = sosfilt(band, rng.standard_normal(len(t)))
            x[row, :, label - 1] += 0.4 * burst * (np.abs(t - rng.uniform(0.15, 0.35)) < 0.1)
    return ECGDataset(
        x,
        y,
        classes=("rest", "flex", "extend"),
        fs=fs,
        leads=("flexor", "extensor"),
        modality="EMG",
        patients=np.arange(n) // 3 % PEOPLE,
        source="synthetic EMG",
    )


@pytest.mark.slow
@pytest.mark.parametrize("make, family", [(eeg, "cnn1d"), (emg, "cnn2d")])
def test_windows_of_other_signals_are_learnt_explained_and_exported(
    make, family, tmp_path, without_drawing
):
    import keras

    from ecg_keras.explain import explain
    from ecg_keras.export import export, read_card
    from ecg_keras.training import fit_and_report

    raw = split_dataset(make(), val_fraction=0.2, test_fraction=0.2)
    parts = [to_spectrograms(part) for part in raw] if family == "cnn2d" else raw
    keras.utils.set_random_seed(0)
    model = build_model(family, like=parts[0], filters=(16, 32))
    report = fit_and_report(model, *parts, out_dir=tmp_path / "run", epochs=8, batch_size=32)
    assert report["test"]["macro_f1"] > 0.9
    page = (tmp_path / "run" / "report.html").read_text()
    assert raw[0].leads[0] in page or family == "cnn2d"
    assert "beat" not in words(page) and "ECG" not in words(page)

    saved = load_model(tmp_path / "run" / "model.keras")
    card, test = model_card(saved), raw[2]
    assert (card["modality"], card["unit"]) == (test.modality, test.unit)
    assert (predict(saved, test.x, fs=test.fs).argmax(axis=1) == test.y).mean() > 0.9

    explain(saved, test, methods=("gradcam",), out_dir=tmp_path / "why", check_rows=9, plant=False)
    found = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert not found["checks"]["qrs"]
    page = (tmp_path / "why" / "explanations.html").read_text()
    assert "R peak" not in page and "beat" not in words(page)

    exported = export(saved, tmp_path / "model", format="saved_model", check=test)
    assert exported.figures["equal_decisions"] == 1
    assert read_card(exported.path)["modality"] == test.modality


def words(page):
    """What a page says: without its style and pictures."""
    import re

    page = re.sub(r"<style.*?</style>|<script.*?</script>|data:[^\"]+", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", page).replace("ECG_KERAS", "").replace("ecg_keras", "")


def test_no_waves_are_lettered_and_no_r_peaks_averaged(monkeypatch):
    from ecg_keras import explain, plots

    looked = []
    monkeypatch.setattr(plots, "find_waves", lambda *args, **options: looked.append(1) or [])
    ds = eeg(24)
    model = build_model("cnn1d", like=ds, filters=(8, 8))
    for other, n in ((ds, 0), (ds.replace(modality="ECG"), 1)):
        looked.clear()
        found = explain(model, other, rows=[0], methods=("gradcam",), check_rows=0)
        from ecg_keras.explain import row_pictures

        row_pictures(found)
        assert len(looked) == n


def test_a_channel_without_a_name_is_named_by_the_signal_and_others_are_kept():
    one = ECGDataset(np.zeros((4, 50)), [0, 1, 0, 1], classes="ab", fs=100, modality="EEG")
    assert one.leads == ("EEG",)
    assert one.replace(leads=("Cz",))[:2].leads == ("Cz",)
    with pytest.raises(TypeError, match="modality must be a name"):
        one.replace(modality=None)


def test_annotate_refuses_a_model_of_another_signal():
    from ecg_keras import annotate
    from ecg_keras.saved_models import served

    ds = eeg(8)
    model = served(build_model("cnn1d", like=ds, filters=(4,)), ds)
    with pytest.raises(ValueError, match="the model reads EEG"):
        annotate(model, np.zeros((5000, 4)), fs=250)
