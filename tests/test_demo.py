"""The synthetic set has the physics it claims, and is never mistaken for measured data."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp

from ecg_keras import demo
from ecg_keras.beats import AAMI_CLASSES

pytestmark = pytest.mark.numeric


def test_closed_form_agrees_with_the_integrated_equation():
    waves = demo._NORMAL[None]  # one beat
    times = np.arange(360) / 360
    drawn = demo._draw(np.array([0.5]), waves, 1.0, 360, 360)[:, 0]
    angle, width, amplitude = demo._NORMAL[:, :3].T

    def speed(
        t, _
    ):  # dz/dt of McSharry et al. (2003), equation (1), without the pull to the baseline
        delta = 2 * np.pi * (t - 0.5) - angle
        a = amplitude * 2 * np.pi / width**2
        return -np.sum(a * delta * np.exp(-0.5 * (delta / width) ** 2))

    z = solve_ivp(speed, (0, 1), [0.0], t_eval=times, max_step=1e-3, rtol=1e-8).y[0]
    np.testing.assert_allclose(drawn, z, atol=2e-3)  # mV


def test_ventricular_beats_are_early_with_a_full_pause():
    recording = demo.simulate_patient(2, duration_s=600, fs=360)
    rr = np.diff(recording.peaks) / 360
    kinds = recording.aami[1:-1]
    before, after = rr[:-1], rr[1:]
    usual = np.median(before[kinds == "N"])
    early = kinds == "V"
    assert early.sum() > 10
    assert before[early].max() < 0.95 * usual
    assert abs((before + after)[early].mean() / usual - 2) < 0.06  # two usual intervals


def test_ventricular_complex_is_wider_than_normal():
    recording = demo.simulate_patient(2, duration_s=600, fs=360)
    around = np.arange(-45, 46)  # 125 ms on either side
    halves = {}
    for kind in "NV":
        peaks = recording.peaks[recording.aami == kind][1:-1]
        beat = recording.signal[peaks[:, None] + around, 0].mean(axis=0)
        beat = np.abs(beat - np.median(beat))
        halves[kind] = np.mean(beat > 0.5 * beat.max())
    assert halves["V"] > 1.5 * halves["N"]


def test_paced_patients_have_only_spiked_beats():
    paced = demo.simulate_patient(7, duration_s=30)
    assert set(paced.aami) == {"Q"}
    spike = np.abs(np.diff(paced.signal[:, 0])).max()
    others = [
        np.abs(np.diff(demo.simulate_patient(p, duration_s=30).signal[:, 0])).max()
        for p in range(4)
    ]
    assert spike > np.median(others)


def test_patients_differ_and_a_seed_repeats():
    one, again, other = (demo.simulate_patient(patient, seed=3) for patient in (0, 0, 1))
    np.testing.assert_array_equal(one.signal, again.signal)
    assert np.corrcoef(one.signal[:, 0], other.signal[:, 0])[0, 1] < 0.9


def test_csv_has_the_form_of_the_kaggle_files(tmp_path):
    folder = demo.write_demo_csv(tmp_path / "demo", n_beats=1000)
    parts = [
        pd.read_csv(folder / f"mitbih_{part}.csv", header=None).to_numpy()
        for part in ("train", "test")
    ]
    assert [part.shape for part in parts] == [(800, 188), (200, 188)]
    for part in parts:
        x, y = part[:, :-1], part[:, -1]
        assert x.min() == 0 and x.max() == 1
        assert set(y) == {0, 1, 2, 3, 4}
        assert (x[:, -1] == 0).mean() > 0.9  # padded
        assert (y == 0).mean() == pytest.approx(0.8, abs=0.01)
    assert "not measured" in (folder / "SYNTHETIC.txt").read_text()


def test_the_marker_is_there_before_any_file(tmp_path, monkeypatch):
    def killed(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.np, "savetxt", killed)
    with pytest.raises(KeyboardInterrupt):
        demo.write_demo_csv(tmp_path, n_beats=40)
    assert [file.name for file in tmp_path.iterdir()] == ["SYNTHETIC.txt"]


def test_same_seed_writes_the_same_file(tmp_path):
    texts = [
        (
            demo.write_demo_csv(tmp_path / str(i), n_beats=40, seed=seed) / "mitbih_train.csv"
        ).read_text()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_classes_can_be_told_apart_but_not_all(tmp_path):
    from sklearn.neighbors import KNeighborsClassifier

    folder = demo.write_demo_csv(tmp_path)
    train, test = (
        pd.read_csv(folder / f"mitbih_{part}.csv", header=None).to_numpy()
        for part in ("train", "test")
    )
    accuracy = (
        KNeighborsClassifier(5).fit(train[:, :-1], train[:, -1]).score(test[:, :-1], test[:, -1])
    )
    assert 0.85 < accuracy < 0.99  # always N: 0.80


def test_demo_set_loads_and_says_it_is_synthetic():
    train, val, test = demo.load_demo(n_beats=400)
    assert all(part.synthetic for part in (train, val, test))
    assert train.classes == AAMI_CLASSES
    assert (len(train) + len(val), len(test)) == (320, 80)
    assert (
        demo.load_demo(n_beats=400, balance="smote")[0].class_counts()["F"]
        > train.class_counts()["F"]
    )


def test_records_read_back_as_they_were_made(tmp_path):
    pytest.importorskip("wfdb")
    from ecg_keras.recordings import read_recording

    names = demo.write_demo_records(tmp_path, n_patients=8, duration_s=30)
    assert (tmp_path / "RECORDS").read_text().split() == list(names)
    symbols = set()
    for patient, name in enumerate(names):
        read = read_recording(tmp_path, name, lead=None)
        made = demo.simulate_patient(patient, duration_s=30, fs=360)
        assert (read.fs, read.leads, read.unit, read.synthetic) == (360, ("MLII", "V1"), "mV", True)
        np.testing.assert_allclose(
            read.signal, made.signal, atol=0.0026
        )  # mV, half a step of the converter
        np.testing.assert_array_equal(read.peaks, made.peaks)
        np.testing.assert_array_equal(read.symbols, made.symbols)
        symbols |= set(read.symbols)
    assert {"N", "V", "/"} <= symbols <= set("NAVF/")


def test_measured_files_are_not_overwritten(tmp_path):
    (tmp_path / "mitbih_test.csv").write_text("0.5,1\n")
    with pytest.raises(ValueError, match="not synthetic"):
        demo.write_demo_csv(tmp_path)


def test_too_few_beats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 40"):
        demo.write_demo_csv(tmp_path, n_beats=20)
