"""Features of beats: likeness to the typical beat, rhythm, and that each recording stands alone."""

import numpy as np
import pytest

from ecg_keras.beats import (
    AHEAD_S,
    BeatContext,
    BeatPreparation,
    beat_views,
    context_rhythm,
    describe_beats,
)

pytestmark = pytest.mark.numeric


@pytest.fixture
def recording():
    """Two leads at 125 Hz, 60 beats with P waves, every tenth 30 % early."""
    fs, rng = 125, np.random.default_rng(1)
    rr = np.where(np.arange(60) % 10 == 5, 0.56, 0.8) + 0.01 * rng.standard_normal(60)
    peaks_s = 1 + np.cumsum(rr)
    t = np.arange(int((peaks_s[-1] + 1) * fs))[:, None] / fs
    bumps = lambda at, width: np.exp(-0.5 * ((t - at) / width) ** 2).sum(axis=1)
    x = bumps(peaks_s, 0.012) + 0.2 * bumps(peaks_s - 0.16, 0.02)
    return np.column_stack([x, -0.5 * x]) + 0.01 * rng.standard_normal((len(t), 2)), peaks_s, fs


def test_an_early_beat_is_early_in_every_comparison(recording):
    x, peaks_s, fs = recording
    features, names, _ = describe_beats(x, peaks_s, fs=fs)
    assert features.dtype == np.float32 and np.isfinite(features).all()
    early = np.arange(60) % 10 == 5
    for name in ("rr_prev/near", "rr_prev/around_p75", "rr_prev/record", "rr_prev/before"):
        values = features[:, names.index(name)]
        np.testing.assert_allclose(values[early][1:], np.log(0.56 / 0.8), atol=0.1)
        assert values[~early][1:].min() > -0.1, name


def test_unit_does_not_matter_and_names_tell_leads(recording):
    x, peaks_s, fs = recording
    features, names, _ = describe_beats(x, peaks_s, fs=fs)
    louder, _, typical = describe_beats(1000 * x, peaks_s, fs=fs)
    np.testing.assert_allclose(louder, features, atol=0.02)  # small constants keep off zero
    assert {"qrs_like_0", "qrs_like_1", "p_like_1"} <= set(names) and "qrs_like_2" not in names
    assert len(set(names)) == len(names)
    assert typical(0.2, 0.4).shape == (75, 2)


def test_a_beat_of_another_shape_is_unlike_the_typical_one(recording):
    x, peaks_s, fs = recording
    odd = round(peaks_s[30] * fs)
    x[odd - 12 : odd + 13] = 0.8 * np.hanning(25)[:, None] * [-1, 1]  # wide, upside down
    features, names, _ = describe_beats(x, peaks_s, fs=fs)
    for lead in (0, 1):
        like = features[:, names.index(f"qrs_like_{lead}")]
        wide = features[:, names.index(f"width_more_{lead}")]
        assert like.argmin() == 30 and like[30] < 0 and np.median(like) > 0.95
        assert wide.argmax() == 30


def test_refusals_say_what_came(recording):
    x, peaks_s, fs = recording
    with pytest.raises(ValueError, match="at least 10 are needed, got 9"):
        describe_beats(x, peaks_s[:9], fs=fs)
    with pytest.raises(ValueError, match="R peaks must rise; beat 1 "):
        describe_beats(x, peaks_s[::-1], fs=fs)
    with pytest.raises(ValueError, match="peaks_s must lie in the recording's .* s, got 11"):
        describe_beats(x, peaks_s + 10, fs=fs)
    with pytest.raises(ValueError, match="fs must be above 0"):
        describe_beats(x, peaks_s, fs=0)


def test_the_typical_beat_is_a_late_one_where_most_are_early():
    """Runs of early beats after pauses: the typical beat has the P wave of those after a pause."""
    fs, t, rng = 125, 5.0, np.random.default_rng(0)
    peaks, p_waves = [], []
    for _ in range(30):
        for k in range(4):  # one beat after a pause, three early ones
            t += 1.2 if k == 0 else 0.45 + 0.01 * rng.standard_normal()
            peaks.append(t)
            p_waves.append(k == 0)
    time_s = np.arange(int((t + 5) * fs)) / fs
    bump = lambda at, width: np.exp(-0.5 * ((time_s - at) / width) ** 2)
    x = sum(bump(at, 0.012) + 0.2 * p * bump(at - 0.16, 0.02) for at, p in zip(peaks, p_waves))[
        :, None
    ]
    features, names, typical = describe_beats(x, peaks, fs=fs)
    assert typical(0.4, 0.5)[round(0.24 * fs), 0] > 0.15  # the P wave
    like = features[:, names.index("p_like_0")]
    assert like[np.array(p_waves)].min() > 0.9 > 0.5 > np.median(like[~np.array(p_waves)])


def _context(recording, fs, **more):
    x, peaks_s, _ = recording
    peaks = np.round(peaks_s * fs).astype(int)
    return x[:, :1], peaks, BeatPreparation(features="context", lead="each", **more)


def test_context_rows_do_not_depend_on_how_a_recording_is_cut_into_calls(recording):
    x, peaks, preparation = _context(recording, 125)
    _, whole, names = beat_views(x, peaks, fs=125, preparation=preparation)
    context, parts = BeatContext(preparation, fs=125), []
    for first in range(0, 60, 7):
        new = peaks[first : first + 7]
        low, high = max(new[0] - 250, 0), new[-1] + 251
        following = peaks[first + 7] if first + 7 < 60 else None
        parts.append(context.rows(x[low:high], new, start=low, following=following)[1])
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=5e-3)  # logarithms of float32
    assert len(set(names)) == whole.shape[1] and np.isfinite(whole).all()


@pytest.mark.parametrize("fs", [128, 250, 360])
def test_context_rows_depend_on_minutes_before_and_two_seconds_after(fs, monkeypatch):
    for name, short in {"_LONG_S": 30, "_SHORT_S": 10, "_PACE_S": 40, "CONTEXT_S": 110}.items():
        monkeypatch.setattr(f"ecg_keras.beats.{name}", short)  # else it takes hours of beats
    rng, n = np.random.default_rng(2), 400
    rr = np.where(np.arange(n) % 10 == 5, 0.3, 0.45) + 0.01 * rng.standard_normal(n)
    peaks = np.round((1 + np.cumsum(rr)) * fs).astype(int)
    x = 0.02 * rng.standard_normal((peaks[-1] + 2 * fs, 1))
    for peak in peaks:
        x[peak - fs // 50 : peak + fs // 50 + 1] += 1.0
    preparation = BeatPreparation(features="context", lead="each")
    rows, metadata, _ = beat_views(x, peaks, fs=fs, preparation=preparation)
    beat = 380
    first, last = peaks[beat] - 110 * fs, round(peaks[beat] + AHEAD_S * fs) + 1
    inside = peaks[(peaks >= first) & (peaks < last)]
    part = beat_views(x[first:last], inside - first, fs=fs, preparation=preparation)
    own = int(np.flatnonzero(inside == peaks[beat])[0])
    np.testing.assert_allclose(part[0][own], rows[beat], atol=1e-5)
    np.testing.assert_allclose(part[1][own], metadata[beat], atol=1e-3)


def test_a_tachycardia_of_minutes_stays_faster_than_the_quarter_hour():
    peaks_s = np.cumsum(np.append(np.full(300, 0.8), np.full(600, 0.4)))
    columns = context_rhythm(peaks_s)
    assert abs(columns["rr_prev/p75_80"][-1]) < 0.01  # usual by now
    assert columns["rr_prev/slow"][-1] < -0.6


def test_context_rows_of_an_odd_beat(recording):
    x, peaks_s, fs = recording
    odd = round(peaks_s[30] * fs)
    x[odd - 12 : odd + 13] = 0.8 * np.hanning(25)[:, None] * [-1, 1]  # wide, upside down
    preparation = BeatPreparation(features="context", lead="each", typical=True)
    rows, features, names = beat_views(
        x[:, :1], np.round(peaks_s * fs).astype(int), fs=fs, preparation=preparation
    )
    of = lambda name: features[10:, names.index(name)]
    assert of("qrs_like").argmin() == 20 and of("width_half_more").argmax() == 20
    assert rows.shape == (60, 125, 2) and preparation.leads == ("each", "each typical")
    louder, same, _ = beat_views(
        1000 * x[:, :1], np.round(peaks_s * fs).astype(int), fs=fs, preparation=preparation
    )
    np.testing.assert_allclose(louder, rows, atol=1e-3)
    np.testing.assert_allclose(same, features, atol=0.05)  # small constants keep off zero


def test_context_of_no_beat_and_refusals(recording):
    x, peaks, preparation = _context(recording, 125)
    context = BeatContext(preparation, fs=125)
    rows, metadata, names = context.rows(x, [])
    assert rows.shape == (0, 125, 1) and metadata.shape == (0, len(names))
    context.rows(x, peaks[:5])
    with pytest.raises(ValueError, match="come after those given before"):
        context.rows(x, peaks[3:8])
    with pytest.raises(ValueError, match="must lie in signal, which holds samples 50 to 149"):
        BeatContext(preparation, fs=125).rows(x[:100], [10], start=50)
    with pytest.raises(ValueError, match="window_s must reach from 0.4 s"):
        BeatPreparation(features="context", window_s=(0.2, 0.6))
    x[5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        beat_views(x, peaks, fs=125, preparation=preparation)
