"""Filters, R peaks, windows and RR features: signals with known answers, and real records."""

import re

import numpy as np
import pytest
from conftest import real_data
from scipy import signal

from ecg_keras.recordings import _wide_bytes, read_recording
from ecg_keras.signals import (
    QUALITY,
    bandpass,
    beat_windows,
    fibrillation,
    match_peaks,
    normalize,
    notch,
    r_peaks,
    resample,
    rr_features,
    rr_intervals,
    signal_quality,
)

pytestmark = pytest.mark.numeric


def sine(hz, fs, seconds=20.0):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * fs)) / fs)


def spikes(beats_s, fs, seconds, width_s=0.02, heights=None):
    """Gaussian bumps at given times, in a recording of `seconds`."""
    t = np.arange(int(seconds * fs)) / fs
    heights = np.ones(len(beats_s)) if heights is None else heights
    return sum(h * np.exp(-0.5 * ((t - b) / width_s) ** 2) for b, h in zip(beats_s, heights))


@pytest.mark.parametrize("fs", [125, 360, 500])
def test_bandpass_keeps_the_ecg_and_drops_drift_and_noise(fs):
    inner = slice(5 * fs, -5 * fs)
    for hz, share in ((0.05, 0.01), (0.5, 0.5), (10, 1.0), (40, 0.5), (55, 0.1)):
        gain = bandpass(sine(hz, fs), fs=fs)[inner].std() / sine(hz, fs)[inner].std()
        assert gain <= share + 0.05 if hz in (0.05, 55) else abs(gain - share) < 0.05, hz


def test_bandpass_moves_nothing_in_time():
    bump = spikes([5.0], 250, 10)
    assert bandpass(bump, fs=250).argmax() == bump.argmax()


def test_bandpass_agrees_with_scipy():
    x = np.random.default_rng(0).standard_normal((1000, 2))
    sos = signal.butter(3, [0.5, 40], "bandpass", fs=360, output="sos")
    np.testing.assert_allclose(bandpass(x, fs=360), signal.sosfiltfilt(sos, x, axis=0), atol=1e-9)


def test_notch_takes_mains_and_leaves_its_neighbours():
    inner = slice(2000, -2000)
    assert notch(sine(60, 360), fs=360, mains_hz=60)[inner].std() < 0.01
    assert notch(sine(50, 360), fs=360, mains_hz=60)[inner].std() > 0.69


@pytest.mark.parametrize("fs, to_fs", [(360, 125), (250, 500), (257, 125)])
def test_resample_keeps_time_and_frequency(fs, to_fs):
    got = resample(sine(7, fs), fs=fs, to_fs=to_fs)
    want = sine(7, to_fs)
    n = min(len(got), len(want))
    np.testing.assert_allclose(got[to_fs : n - to_fs], want[to_fs : n - to_fs], atol=0.01)  # of 1


def test_resample_to_the_same_rate_changes_nothing():
    np.testing.assert_array_equal(resample(sine(7, 360), fs=360, to_fs=360), sine(7, 360))


def test_resample_does_not_alias():
    assert abs(resample(sine(150, 500), fs=500, to_fs=125)[250:-250]).max() < 0.01


@pytest.mark.parametrize("fs", [100, 250, 360, 1000])
def test_r_peaks_are_found_at_any_rate_also_at_the_start(fs):
    beats = np.arange(0.4, 59, 0.8)
    found = r_peaks(spikes(beats, fs, 60, 0.015), fs=fs)
    assert len(found) == len(beats)
    assert abs(found / fs - beats).max() <= max(0.005, 1 / fs)


def test_r_peaks_do_not_depend_on_unit_sign_or_offset():
    x = spikes(np.cumsum(np.random.default_rng(1).uniform(0.6, 1.0, 60)), 250, 60)
    for other in (1000 * x, -x, x + 5):
        np.testing.assert_array_equal(r_peaks(other, fs=250), r_peaks(x, fs=250))


def test_a_broad_t_wave_is_no_beat_and_a_low_beat_is_one():
    beats = np.arange(1, 59, 1.0)
    heights = np.where(np.arange(len(beats)) % 7 == 3, 0.5, 1.0)  # every seventh half as high
    x = spikes(beats, 250, 60, 0.012, heights) + spikes(beats + 0.3, 250, 60, 0.06, 0.5 * heights)
    found = r_peaks(x, fs=250)
    assert (
        len(match_peaks(np.round(beats * 250), found, fs=250, tolerance_s=0.02))
        == len(beats)
        == len(found)
    )


def test_a_second_silent_or_noisy_lead_changes_nothing():
    beats = np.arange(1, 59, 0.9)
    x = spikes(beats, 250, 60)
    noisy = 0.5 * np.random.default_rng(0).standard_normal(len(x))
    for other in (np.zeros(len(x)), noisy):
        np.testing.assert_array_equal(
            r_peaks(np.column_stack([x, other]), fs=250), r_peaks(x, fs=250)
        )


def test_no_beats_in_a_constant_signal():
    assert len(r_peaks(np.full(5000, 3.0), fs=250)) == 0


def test_r_peaks_on_real_records():
    folder = real_data("mitdb")
    pytest.importorskip("wfdb")
    for name in ("101", "119", "209"):  # clean; ventricular trigeminy; atrial runs
        record = read_recording(folder, name)
        beats = record.peaks
        found = r_peaks(record.signal, fs=record.fs)
        pairs = match_peaks(beats, found, fs=record.fs)
        assert len(pairs) >= 0.997 * len(beats) and len(pairs) >= 0.997 * len(found), name
        assert np.median(abs(beats[pairs[:, 0]] - found[pairs[:, 1]])) / record.fs <= 0.025


@pytest.mark.parametrize("first_s", [0.0, 0.02, 0.1, 0.25, 0.4])
def test_r_peaks_of_a_row_are_found_wherever_it_is_cut(first_s):
    x = spikes([first_s, first_s + 0.8], 125, first_s + 1.0, 0.015)
    x += 0.2 * spikes([first_s + 0.3], 125, first_s + 1.0, 0.05)  # a T wave
    row = np.pad(x + 0.1, (0, 60))  # zeros at the end, as in the Kaggle files
    np.testing.assert_allclose(r_peaks(row, fs=125) / 125, [first_s, first_s + 0.8], atol=0.009)


def test_a_row_that_is_all_padding_or_nearly_has_no_peaks():
    row = np.zeros(187)
    assert r_peaks(row, fs=125).tolist() == []
    row[:20] = 1.0  # 160 ms
    assert r_peaks(row, fs=125).tolist() == []


def test_r_peaks_of_rows_of_real_records_are_found():
    """Rows cut by their R peak, and rows that end with zeros; a peak counts within 100 ms."""
    folder = real_data("mitdb")
    pytest.importorskip("wfdb")
    paired = wanted = found = 0
    for name in ("101", "119", "208"):
        record = read_recording(folder, name)
        x = resample(record.signal[:, 0], fs=360, to_fs=125)
        peaks = np.round(record.peaks * 125 / 360).astype(int)
        for first in peaks[50:-50:40]:
            row = np.pad(x[first : first + 125] - x.min() + 0.1, (0, 62))
            beats = peaks[(peaks >= first) & (peaks < first + 125)] - first
            got = r_peaks(row, fs=125)
            paired += len(match_peaks(beats, got, fs=125, tolerance_s=0.1))
            wanted, found = wanted + len(beats), found + len(got)
    # beats cut through by the row's end are missed
    assert wanted > 300 and paired >= 0.93 * wanted and paired >= 0.97 * found


def test_match_peaks_agrees_with_wfdb():
    processing = pytest.importorskip("wfdb.processing")
    rng = np.random.default_rng(0)
    for _ in range(20):
        reference = np.cumsum(rng.integers(60, 140, 200))
        found = reference + rng.integers(-12, 13, 200)
        found = np.unique(np.append(found[rng.random(200) > 0.1], rng.integers(0, 20000, 20)))
        pairs = match_peaks(reference, found, fs=100, tolerance_s=0.15)
        theirs = processing.compare_annotations(reference, found, 15)
        assert len(pairs) == theirs.tp
        np.testing.assert_array_equal(pairs[:, 0], theirs.matched_ref_inds)
        np.testing.assert_array_equal(found[pairs[:, 1]], theirs.matched_test_sample)


def test_match_peaks_takes_each_peak_once_and_the_nearest():
    pairs = match_peaks([100, 110], [90, 104, 111], fs=100, tolerance_s=0.15)
    assert pairs.tolist() == [[0, 1], [1, 2]]
    assert match_peaks([], [5], fs=100).shape == (0, 2)


def test_windows_hold_the_peak_at_its_place_and_the_ends_beyond():
    x = np.column_stack([np.arange(100.0), -np.arange(100.0)])
    windows = beat_windows(x, [50, 2, 99], fs=100, before_s=0.05, after_s=0.1)
    assert windows.shape == (3, 15, 2) and windows.dtype == np.float32
    np.testing.assert_array_equal(windows[:, 5, 0], [50, 2, 99])
    assert (windows[1, :4, 0] == [0, 0, 0, 0]).all() and (windows[2, 5:, 1] == -99).all()


def test_normalize_gives_every_lead_a_qrs_of_one():
    beats = np.arange(1, 20, 0.8)
    x = spikes(beats, 250, 20)
    y = normalize(np.column_stack([3 * x + 7, -0.1 * x]), np.round(beats * 250).astype(int), fs=250)
    np.testing.assert_allclose([y[:, 0].max(), y[:, 1].min()], [1, -1], atol=0.02)


def test_rr_features_of_an_early_beat():
    peaks = np.cumsum(
        [0] + [100] * 20 + [60, 140] + [100] * 20
    )  # one beat 40 % early, then a full pause
    features, names = rr_features(peaks, fs=100)
    early = dict(zip(names, features[21]))
    assert early["rr_prev"] == pytest.approx(0.6) and early["rr_next"] == pytest.approx(1.4)
    assert early["rr_prev/local"] == early["rr_prev/record"] == pytest.approx(np.log(0.6))
    assert early["rr_prev/next"] == pytest.approx(np.log(0.6 / 1.4))


def test_rr_features_compare_with_the_record_not_with_the_rate():
    peaks = np.cumsum(np.random.default_rng(0).integers(60, 120, 50))
    one, names = rr_features(peaks, fs=100)
    two, _ = rr_features(peaks, fs=150)  # everything faster by half
    relative = [i for i, name in enumerate(names) if "/" in name]
    np.testing.assert_allclose(one[:, relative], two[:, relative], atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bandpass(np.ones(500), fs=60), "fs / 2 = 30 Hz, got 0.5 to 40"),
        (lambda: bandpass([1.0, np.nan, 2.0], fs=250), "1 NaN or infinite samples of 3"),
        (lambda: bandpass(1.0, fs=250), "a time axis, got a single number"),
        (lambda: bandpass([1.0], fs=250), "at least 2 samples along axis 0, got 1"),
        (lambda: notch(np.ones(500), fs=90, mains_hz=50), "fs / 2 = 45 Hz, got 50"),
        (lambda: r_peaks(np.ones(40), fs=250), "at least 0.2 s (50 samples), got 40"),
        (lambda: r_peaks(np.ones(400), fs=0), "fs must be above 0"),
        (lambda: r_peaks(np.ones(400), fs=30), "at least 50 Hz, got 30"),
        (lambda: beat_windows(np.ones(10), [10], fs=100, before_s=0.1, after_s=0.1), "0 to 9"),
        (
            lambda: beat_windows(np.ones(10), [1], fs=1, before_s=0.1, after_s=0.1),
            "holds no sample",
        ),
        (lambda: normalize(np.ones((500, 1)), [100, 300], fs=100), "lead 0 is constant"),
        (lambda: rr_intervals([5], fs=100), "at least 2 R peaks, got 1"),
        (lambda: rr_intervals([5, 9, 9], fs=100), "beat 2 does not come after"),
    ],
)
def test_refusals_say_what_came(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def beating(seconds=40, fs=250.0, noise=0.0, seed=0):
    """A lead of narrow beats of 1 mV every 0.8 s, in mV."""
    t = np.arange(int(seconds * fs)) / fs
    x = np.exp(-0.5 * ((t % 0.8 - 0.4) / 0.012) ** 2)
    rng = np.random.default_rng(seed)
    slow = np.convolve(rng.normal(size=len(x)), np.ones(int(0.1 * fs)) / np.sqrt(0.1 * fs), "same")
    return (x + noise * slow)[:, None]


@pytest.mark.parametrize("fs", [125.0, 250.0, 360.0, 1000.0])
def test_each_second_gets_the_state_it_was_given(fs):
    x = beating(fs=fs)
    cut = lambda first, last: slice(int(first * fs), int(last * fs))
    x[cut(10, 15)] = np.nan
    x[cut(20, 25)] = 0.1
    wide = 8 * np.sin(2 * np.pi * np.arange(len(x)) / fs)[:, None]
    x[cut(30, 34)] = np.clip(wide[cut(30, 34)], -5, 5)
    states = signal_quality(x, fs=fs)[:, 0]
    names = [QUALITY[state] for state in states]
    assert names[:9] == ["good"] * 9 and names[10:15] == ["missing"] * 5
    assert names[20:25] == ["flat"] * 5 and names[30:34] == ["clipped"] * 4


def test_noise_that_hides_the_beats_is_told_and_noise_that_does_not_is_not():
    assert (signal_quality(beating(noise=0.02), fs=250) == 0).all()
    assert (signal_quality(beating(noise=1.0), fs=250) == QUALITY.index("noise")).mean() > 0.9


def test_quality_of_a_second_depends_on_what_is_near_it_only():
    x = np.concatenate([beating(20), beating(20, noise=1.0), beating(20)])
    whole, vf = signal_quality(x, fs=250), fibrillation(x, fs=250)
    for second in (15, 21, 38, 41):
        first = second - 10
        piece = x[first * 250 : (second + 3) * 250]
        assert signal_quality(piece, fs=250)[10] == whole[second]
        assert fibrillation(piece, fs=250)[10] == vf[second]


def test_flutter_is_found_in_the_record_that_has_it_and_nowhere_else():
    import wfdb

    folder = real_data("mitdb")
    with _wide_bytes():
        notes = wfdb.rdann(str(folder / "207"), "atr")
    marks = [(symbol, s / 360) for symbol, s in zip(notes.symbol, notes.sample) if symbol in "[]"]
    flutter = np.zeros(1806, bool)
    for (_, start), (_, stop) in zip(marks[::2], marks[1::2]):
        flutter[int(start) : int(stop) + 1] = True
    found = fibrillation(wfdb.rdrecord(str(folder / "207")).p_signal, fs=360)
    assert found[flutter[: len(found)]].mean() > 0.7 and not found[~flutter[: len(found)]].any()
    for name in ("106", "203", "223"):
        assert not fibrillation(wfdb.rdrecord(str(folder / name)).p_signal, fs=360).any()
