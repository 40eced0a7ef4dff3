"""Geometry of images and spectra: axes, and options that are refused."""

import dataclasses

import numpy as np
import pytest

from ecg_keras import ScalogramGrid, SpectrogramGrid, SpectrumGrid

pytestmark = pytest.mark.numeric
FS = 125.0


def test_axes_follow_the_size():
    grid = SpectrogramGrid(FS, size=(128, 96))
    assert grid.freqs_hz.shape == (128,) and grid.times_s(187).shape == (96,)
    assert grid.freqs_hz[-1] == FS / 2
    grid = ScalogramGrid(FS, size=(64, 20))
    assert grid.freqs_hz.shape == (64,) and grid.times_s(187).shape == (20,)
    np.testing.assert_allclose(grid.freqs_hz[[0, -1]], [1, 40])


def test_frames_start_or_have_their_middle_at_the_first_sample():
    centred, plain = (SpectrogramGrid(FS, center=center) for center in (True, False))
    assert centred.times_s(187)[0] == 0 and plain.times_s(187)[0] == 16 / FS
    assert centred.n_frames(187) == 32 and plain.n_frames(187) == 26


def test_a_grid_is_made_again_from_its_fields():
    for grid in (SpectrogramGrid(FS, size=(8, 9)), ScalogramGrid(FS), SpectrumGrid(FS)):
        assert type(grid)(**dataclasses.asdict(grid)) == grid


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="hop_length must be a whole number"):
        SpectrogramGrid(FS, hop_length=0)
    with pytest.raises(ValueError, match="frame_length must be a whole number, at least 4, got 3"):
        SpectrogramGrid(FS, frame_length=3)
    with pytest.raises(ValueError, match="size must be .height, width. in pixels, got .16,"):
        ScalogramGrid(FS, size=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high_hz": 70.0}, "below fs / 2 = 62.5 Hz, got 1 to 70 Hz"),
        ({"low_hz": 50.0}, "frequencies must rise"),
        ({"n_freqs": 1}, "n_freqs must be a whole number, at least 2, got 1"),
        ({"hop_length": 0}, "hop_length"),
    ],
)
def test_wrong_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScalogramGrid(FS, **options)


def test_a_spectrum_of_few_rows_is_refused():
    with pytest.raises(ValueError, match="resolution_hz must be above 0"):
        SpectrumGrid(FS, resolution_hz=0.0)
    with pytest.raises(ValueError, match="less than 4 rows; choose a finer resolution_hz"):
        SpectrumGrid(FS, resolution_hz=30.0).n_freqs(187)
