"""Beats and runs are counted as the standard's own programs count them, to the last digit."""

import numpy as np
import pytest
from conftest import real_data

from ecg_keras.ec57 import _CODES, ec57

pytestmark = pytest.mark.numeric

FS = 250.0


def compared(reference, found, **options):
    """Compare lists of (sample, symbol) or (sample, symbol, subtype, text) at 250 Hz from 0."""
    options = {"start_s": 0} | options
    return ec57(annotated(reference), annotated(found), **options)


class annotated:
    """Annotations as `wfdb.rdann` gives them."""

    def __init__(self, items, fs=FS):
        self.sample = np.array([item[0] for item in items], int)
        self.symbol = [item[1] for item in items]
        self.subtype = [item[2] if len(item) > 2 else 0 for item in items]
        self.aux_note = [item[3] if len(item) > 3 else "" for item in items]
        self.fs = fs


def cells(result):
    """Cells of the matrix that are not 0."""
    row = result.beats.iloc[0]
    return {name: int(row[name]) for name in row.index if len(name) == 2 and row[name]}


@pytest.fixture(scope="module")
def real():
    """Four records of DS1 against altered annotations, and what the programs print of them."""
    printed = real_data("ec57")
    return ec57(real_data("mitdb"), printed, found_extension="tst"), printed


@pytest.mark.parametrize("table", ["beats", "shutdowns", "runs_v", "runs_s"])
def test_lines_and_sums_are_what_the_programs_print(real, table):
    result, printed = real
    assert result.text(table, summed=False) == (printed / f"{table}.txt").read_text()
    assert result.text(table) == (printed / f"{table}_summed.txt").read_text()


@pytest.mark.parametrize("program", ["bxb", "rxr"])
@pytest.mark.parametrize("record", ["106", "201", "207", "208"])
def test_matrices_of_a_record_are_what_the_programs_print(real, program, record):
    result, printed = real
    assert result.record_text(record, program) == (printed / f"{record}.{program}.txt").read_text()


def test_from_the_start_as_the_programs_do(real):
    printed = real[1]
    result = ec57(real_data("mitdb"), printed, found_extension="tst", start_s=0)
    assert result.text("beats") == (printed / "beats_from_start_summed.txt").read_text()


def test_the_codes_of_annotation_files_are_those_of_wfdb():
    annotation = pytest.importorskip("wfdb.io.annotation")
    known = {label.label_store: label.symbol for label in annotation.ann_labels}
    assert all(_CODES[code] == symbol for code, symbol in known.items() if symbol != " ")
