"""R peaks and waves on signals whose peaks are known."""

import numpy as np
import pytest

from ecg_keras.demo import simulate_patient
from ecg_keras.plots import aligned
from ecg_keras.signals import r_peaks
from ecg_keras.waves import find_waves, row_peaks

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
