"""R peaks and waves on signals whose peaks are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import real_data

from ecg_keras.demo import simulate_patient
from ecg_keras.plots import aligned
from ecg_keras.recordings import _wide_bytes
from ecg_keras.signals import r_peaks, resample
from ecg_keras.waves import delineate, find_waves, intervals, row_peaks

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("patient", [0, 3, 7])  # 7 is paced
def test_peaks_of_a_simulated_patient_are_found(patient):
    recording = simulate_patient(patient, duration_s=60, fs=250)
    inner = recording.peaks[(recording.peaks > 50) & (recording.peaks < len(recording.signal) - 50)]
    found = r_peaks(recording.signal, fs=250)
    near = np.abs(found[:, None] - inner).min(axis=0)
    assert (near <= 0.1 * 250).mean() > 0.95  # within 100 ms
    assert len(found) < 1.1 * len(recording.peaks)


def test_a_peak_at_the_edge_is_found_and_padding_is_not():
    t = np.arange(187) / 125
    beat = np.exp(-0.5 * (t / 0.015) ** 2) + np.exp(-0.5 * ((t - 0.8) / 0.015) ** 2) + 0.2
    beat[t > 1.0] = 0  # as the Kaggle files pad
    assert r_peaks(beat, fs=125).tolist() == [0, 100]


def test_size_and_sign_do_not_matter():
    recording = simulate_patient(1, duration_s=20, fs=125)
    own = r_peaks(recording.signal, fs=125)
    np.testing.assert_array_equal(r_peaks(-40 * recording.signal, fs=125), own)


def test_a_flat_row_has_no_peaks():
    assert len(r_peaks(np.zeros(500), fs=125)) == 0
    assert find_waves(np.zeros(500), fs=125) == []


def test_beats_are_aligned_on_the_place_they_were_cut_by():
    rng = np.random.default_rng(0)
    rows = np.zeros((20, 250, 1))
    rows[:, 100] = 1  # where the rows are cut
    rows[np.arange(20), rng.integers(170, 230, 20)] = 1  # the next beat
    peaks = row_peaks(rows, fs=125)
    assert peaks == [[100]] * 20
    cut = aligned(rows[:, :, 0], peaks, before=3, after=3)
    np.testing.assert_array_equal(cut.argmax(axis=1), 3)


def test_records_are_aligned_on_every_peak():
    recording = simulate_patient(0, duration_s=20, fs=125)
    peaks = row_peaks(recording.signal[None], fs=125)
    assert len(peaks[0]) > 15


def test_fs_must_be_positive():
    with pytest.raises(ValueError, match="fs must be above 0"):
        r_peaks(np.zeros(100), fs=0)


def test_rows_too_short_or_too_slow_for_r_peaks_have_none():
    rows = np.ones((3, 20))
    rows[:, 10] = 5
    assert find_waves(rows[0], fs=125) == []
    assert [len(own) for own in row_peaks(rows, fs=125)] == [0, 0, 0]
    assert find_waves(np.sin(np.arange(640)), fs=32) == []


def test_waves_are_found_at_their_places_and_given_peaks_are_kept():
    t = np.arange(250) / 250
    bump = lambda at, wide, tall: tall * np.exp(-0.5 * ((t - at) / wide) ** 2)
    beat = bump(0.34, 0.02, 0.15) + bump(0.5, 0.01, 1) + bump(0.54, 0.008, -0.25)
    beat += bump(0.8, 0.04, -0.3)
    for row in (beat, -beat, np.column_stack([0.1 * beat, beat])):
        (waves,) = find_waves(row, fs=250)
        assert {name: at / 250 for name, at in waves.items()} == pytest.approx(
            {"R": 0.5, "S": 0.54, "P": 0.34, "T": 0.8}, abs=0.013
        )
    assert find_waves(beat, fs=250, peaks=[125])[0]["R"] == 125


# of `beats_of`: where each wave begins and ends, in s from R
KNOWN_S = {"p": (-0.2, -0.1), "qrs": (-0.045, 0.045), "t": (0.18, 0.4)}


def beats_of(fs, *, rr_s=0.9, n=12, p=0.15, seed=0):
    """A lead of beats whose waves begin and end at known places, and their R peaks in samples."""
    t = np.arange(round(rr_s * (n + 1) * fs)) / fs
    peaks_s = rr_s * np.arange(1, n + 1)
    x = 0.004 * np.random.default_rng(seed).standard_normal(len(t))
    for peak_s in peaks_s:
        for wave, tall in (("p", p), ("t", 0.3)):
            on, off = KNOWN_S[wave]
            phase = np.clip((t - peak_s - on) / (off - on), 0, 1)
            x += tall * np.sin(np.pi * phase) ** 2
        x += np.interp(t - peak_s, [-0.045, -0.03, 0, 0.025, 0.045], [0, -0.1, 1, -0.2, 0])
    return x, np.rint(peaks_s * fs).astype(int)


def seconds_from_r(waves, name, fs):
    """Median of a mark over the inner beats, in s from R; NaN where no beat has it."""
    return float(np.median((waves[name] - waves["r"]).iloc[1:-1].dropna().to_numpy(float)) / fs)


@pytest.mark.parametrize("fs", [100, 250, 360, 1000])
def test_onsets_and_ends_are_where_they_were_put_at_any_rate(fs):
    x, peaks = beats_of(fs)
    waves = delineate(x, fs=fs)
    assert np.abs(waves["r"].to_numpy(float) - peaks).max() <= 0.02 * fs
    assert waves.iloc[1:-1].notna().all(axis=None)
    for wave, (on, off) in KNOWN_S.items():
        # the ends of a smooth wave are soft: 50 ms for P and T, 25 ms for QRS
        soft = 0.025 if wave == "qrs" else 0.05
        assert seconds_from_r(waves, wave + "_on", fs) == pytest.approx(on, abs=soft)
        assert seconds_from_r(waves, wave + "_off", fs) == pytest.approx(off, abs=soft)
    assert seconds_from_r(waves, "p_peak", fs) == pytest.approx(-0.15, abs=0.02)
    assert seconds_from_r(waves, "t_peak", fs) == pytest.approx(0.29, abs=0.02)


def test_amplitude_and_drift_do_not_matter():
    x, _ = beats_of(250)
    own = delineate(x, fs=250)
    pd.testing.assert_frame_equal(delineate(5000 * x, fs=250), own)
    moved = delineate(x + 0.3 * np.sin(2 * np.pi * 0.1 * np.arange(len(x)) / 250), fs=250) - own
    assert moved.iloc[1:-1].abs().max(axis=None) <= 0.03 * 250


def test_an_inverted_lead_has_its_waves():
    x, _ = beats_of(250)
    waves = delineate(-x, fs=250)
    assert waves.iloc[1:-1].notna().all(axis=None)
    assert seconds_from_r(waves, "t_peak", 250) == pytest.approx(0.29, abs=0.03)


def test_a_fibrillating_atrium_has_no_p_wave():
    wfdb = pytest.importorskip("wfdb")
    path, stop = str(real_data("mitdb") / "203"), 180 * 360
    signal, _ = wfdb.rdsamp(path, sampto=stop, channels=[0])  # atrial fibrillation
    waves = delineate(signal[:, 0], fs=360)
    assert waves["p_peak"].notna().mean() < 0.2
    assert waves["t_peak"].notna().mean() > 0.8
    signal, _ = wfdb.rdsamp(str(real_data("mitdb") / "101"), sampto=stop, channels=[0])  # sinus
    assert delineate(signal[:, 0], fs=360)["p_peak"].notna().mean() > 0.95


def test_waves_stand_in_order_and_belong_to_one_beat():
    recording = simulate_patient(3, duration_s=60, fs=360)
    waves = delineate(recording.signal, fs=360)
    order = ["p_on", "p_peak", "p_off", "qrs_on", "qrs_off", "t_on", "t_peak", "t_off"]
    for _, beat in waves.iterrows():
        there = beat[order].dropna().to_numpy(int)
        assert (np.diff(there) >= 0).all()
    for name in ("p_on", "qrs_on", "t_off"):
        assert (np.diff(waves[name].dropna().to_numpy(int)) > 0).all()
    assert waves["qrs_on"].notna().mean() > 0.95


def test_given_peaks_are_kept_and_a_beat_with_nothing_on_it_has_no_waves():
    x, peaks = beats_of(250)
    x[peaks[5] - 150 : peaks[5] + 150] = x[peaks[5] - 150]
    waves = delineate(x, fs=250, peaks=peaks)
    assert waves["r"].tolist() == peaks.tolist()
    assert pd.isna(waves["qrs_on"][5])
    assert waves["qrs_on"].notna().sum() == len(peaks) - 1


def test_missing_and_flat_stretches_have_no_marks():
    x, peaks = beats_of(250)
    x[peaks[4] - 60 : peaks[6] + 120] = np.nan
    waves = delineate(x, fs=250)
    marks = waves.stack().dropna().to_numpy(int)
    assert not np.isnan(x[marks]).any()
    assert len(waves) == len(peaks) - 3
    assert len(delineate(np.full(2500, np.nan), fs=250)) == 0
    assert len(delineate(np.ones((2500, 2)), fs=250)) == 0
    kept = delineate(np.ones(2500), fs=250, peaks=[700])
    assert kept["r"].tolist() == [700]
    assert kept.drop(columns="r").isna().all(axis=None)


def test_leads_vote_and_an_empty_lead_has_no_voice():
    x, _ = beats_of(250)
    own = delineate(x, fs=250)
    empty = np.full(len(x), np.nan)
    found = delineate(np.column_stack([x, empty, np.zeros(len(x))]), fs=250)
    pd.testing.assert_frame_equal(found, own)


def test_long_recordings_are_read_in_pieces_without_a_seam():
    x, _ = beats_of(250, n=100)  # over one piece of 65 s
    waves = delineate(x, fs=250)
    assert waves.iloc[1:-1].notna().all(axis=None)
    for name in ("p_on", "qrs_off", "t_off"):
        apart = (waves[name] - waves["r"]).iloc[1:-1].to_numpy(float)
        assert np.ptp(apart) <= 0.04 * 250


def test_intervals_are_those_of_the_marks():
    waves = pd.DataFrame(
        {
            "r": [500, 1000, 1320],
            "p_on": [420, pd.NA, 1240],
            "qrs_on": [480, 980, 1300],
            "qrs_off": [530, 1030, 1350],
            "t_off": [680, 1180, pd.NA],
        },
        dtype="Int64",
    )
    found = intervals(waves, fs=500)
    np.testing.assert_allclose(found["pr_ms"], [120, np.nan, 120])
    np.testing.assert_allclose(found["qrs_ms"], [100, 100, 100])
    np.testing.assert_allclose(found["rr_ms"], [np.nan, 1000, 640])
    np.testing.assert_allclose(found["qtc_bazett_ms"], [np.nan, 400, np.nan])
    short = intervals(waves.assign(t_off=[680, 1180, 1500]).astype("Int64"), fs=500).iloc[2]
    assert short["qtc_bazett_ms"] == pytest.approx(400 / 0.8)
    assert short["qtc_fridericia_ms"] == pytest.approx(400 / 0.64 ** (1 / 3))


def test_marks_of_cardiologists_are_met():
    wfdb = pytest.importorskip("wfdb")
    folder = real_data("ludb") / "data"
    own, _ = wfdb.rdsamp(str(folder / "1"), channel_names=["ii"])
    with _wide_bytes():
        known = wfdb.rdann(str(folder / "1"), "ii")
    for signal, fs in ((own, 500), (resample(own, fs=500, to_fs=128), 128)):
        waves = delineate(signal, fs=fs)
        for symbol, name in (("p", "p_peak"), ("N", "r"), ("t", "t_peak")):
            at = known.sample[np.array(known.symbol) == symbol] / 500
            found = waves[name].dropna().to_numpy(float) / fs
            assert np.abs(at[:, None] - found).min(axis=1).max() < 0.06


@pytest.mark.parametrize(
    "change, words",
    [
        ({"fs": 20}, "at least 50 Hz"),
        ({"x": np.full(500, np.inf)}, "infinite"),
        ({"x": np.zeros(10)}, "at least 0.2 s"),
        ({"x": np.zeros((2, 500, 1))}, "shape"),
        ({"peaks": [30, 900]}, "peaks must rise within 0 to 499"),
    ],
)
def test_what_cannot_be_delineated_is_refused(change, words):
    options = {"x": np.zeros(500), "fs": 250} | change
    with pytest.raises(ValueError, match=words):
        delineate(options.pop("x"), **options)
