"""Beats and runs are counted as the standard's own programs count them, to the last digit."""

import json
import random
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from chromium import open_page
from conftest import real_data

from ecg_keras.__main__ import main
from ecg_keras.ec57 import (
    _CELLS,
    _beat_by_beat,
    _classes,
    _read_annotations,
    _run_by_run,
    ec57,
)
from ecg_keras.recordings import ANNOTATION_CODES, _wide_bytes

module = sys.modules["ecg_keras.ec57"]

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
    return {name: int(row[name]) for name in _CELLS if row[name]}


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
    assert all(ANNOTATION_CODES[code] == symbol for code, symbol in known.items() if symbol != " ")


HEADER = "{0} 1 {1} {2}\n{0}.dat 16 200 16 0 0 0 0 II\n"


def write_annotations(path, items, *, fs=None, ended=True):
    """Write (sample, symbol) or (sample, symbol, subtype, text) in MIT format."""
    notes = [(0, '"', 0, f"## time resolution: {fs:g}")] if fs else []
    words, before = [], 0
    for sample, symbol, *more in [*notes, *items]:
        subtype, text = more or (0, "")
        jump = sample - before
        words += [
            59 << 10,
            jump >> 16 & 0xFFFF,
            jump & 0xFFFF,
            ANNOTATION_CODES.index(symbol) << 10,
        ]
        words += [61 << 10 | subtype] if subtype else []
        if text:
            raw = text.encode() + b"\0" * (len(text) % 2)
            words += [63 << 10 | len(text), *np.frombuffer(raw, "<u2").tolist()]
        before = sample
    path.write_bytes(np.array(words + [0] * ended, "<u2").tobytes())


def test_the_window_is_rounded_up_and_counts_itself():
    # 150 ms at 250 Hz are 37.5 samples
    assert cells(compared([(500, "N"), (1000, "N")], [(500, "N"), (1038, "N")])) == {"Nn": 2}
    far = compared([(500, "N"), (1000, "N")], [(500, "N"), (1039, "N"), (1500, "N")], stop_s=8)
    assert cells(far) == {"Nn": 1, "No": 1, "On": 2}


def test_the_nearer_of_two_candidates_is_paired():
    found = compared([(500, "N"), (1000, "V")], [(500, "N"), (980, "N"), (1005, "V")])
    assert cells(found) == {"Nn": 1, "On": 1, "Vv": 1}
    missed = compared([(500, "N"), (980, "N"), (1005, "V")], [(500, "N"), (1000, "V")])
    assert cells(missed) == {"Nn": 1, "No": 1, "Vv": 1}


def test_a_beat_between_two_goes_to_the_one_that_has_no_better():
    # G. Moody's example of 2002: 32 samples to either, but the second has one at 25
    ref, new = [(300, "N"), (1096, "N"), (1160, "V")], [(300, "N"), (1128, "N"), (1185, "V")]
    assert cells(compared(ref, new, window_s=0.148)) == {"Nn": 2, "Vv": 1}
    assert cells(compared(new, ref, window_s=0.148)) == {"Nn": 2, "Vv": 1}


def test_beats_about_the_start_are_neither_lost_nor_counted_twice():
    early = compared([(1002, "V"), (1300, "N")], [(998, "V"), (1300, "N")], start_s=4)
    assert cells(early) == {"Vv": 1, "Nn": 1}
    late = compared([(995, "V"), (1300, "N")], [(1003, "V"), (1300, "N")], start_s=4)
    assert cells(late) == {"Nn": 1}


def test_found_beats_in_reference_flutter_are_not_counted():
    beats = [(500, "N"), (1500, "N"), (1750, "N")]
    flutter = [(600, "["), (700, "!"), (900, "!"), (1400, "]")]
    extra = [(800, "V"), (1000, "V")]
    result = compared(sorted(beats + flutter), sorted(beats + extra))
    assert cells(result) == {"Nn": 3} and not len(result.mismatches)
    assert result.run_matrices["record", "V"][0][6, 2] == 1  # a long run, of which 2 are found
    other = compared(sorted(beats + extra), sorted(beats + flutter))
    assert cells(other) == {"Nn": 3, "Vo": 2}  # what the found side calls flutter hides nothing


def test_shutdowns_make_class_x_and_are_timed():
    beats = [(500 * i, "N") for i in range(1, 9)]
    gone = [(1400, "~", 0x30, ""), (2600, "~", 0, "")]
    kept = [beat for beat in beats if not 1400 <= beat[0] <= 2600]
    found = compared(beats, sorted(kept + gone))
    assert cells(found) == {"Nn": 5, "Nx": 3}
    assert found.shutdowns.iloc[0][["n_N", "seconds"]].tolist() == [8, 5]  # 4.8 s
    assert "  37.50  37.50      -" in found.text("shutdowns")
    assert cells(compared(sorted(kept + gone), beats)) == {"Nn": 5, "Xn": 3}
    ectopic = [(time, "A" if time == 2000 else symbol) for time, symbol in beats]
    lines = compared(ectopic, sorted(kept + gone)).record_text("record").splitlines()
    assert "  Beats missed in shutdown:  25.00% (2/8)" in lines  # the program leaves S out here
    assert "      S missed in shutdown: 100.00% (1/1)" in lines
    half = [(1400, "~", 0x10, ""), (2600, "~", 0, "")]  # one of two signals
    assert cells(compared(beats, sorted(kept + half))) == {"Nn": 5, "No": 3}


def test_a_single_mark_of_a_shutdown_spans_from_beat_to_beat():
    beats = [(500 * i, "N") for i in range(1, 9)]
    new = [(500, "N"), (1000, "N"), (1800, "~", 0x30, ""), (3000, "N"), (3500, "N"), (4000, "N")]
    result = compared(beats, new)
    assert cells(result) == {"Nn": 5, "Nx": 3}
    assert result.shutdowns["seconds"][0] == 8  # (3000 - 38) - (1000 + 38) samples are 7.7 s


def test_an_open_shutdown_lasts_to_the_end():
    beats = [(500 * i, "N") for i in range(1, 9)]
    cut = [*beats[:4], (2100, "~", 0x30, "")]
    result = compared(beats, cut, stop_s=20)
    assert result.shutdowns["seconds"][0] == 12  # 11.6 s
    assert cells(result) == {"Nn": 4, "Nx": 4}
    assert cells(compared(cut, beats, stop_s=20)) == {"Nn": 4, "Xn": 4}
    again = sorted([*cut, (600, "~", 0x30, ""), (700, "~", 0, "")])
    # the program still has the end of the earlier shutdown in mind
    assert cells(compared(beats, again, stop_s=20)) == {"Nn": 4, "No": 4}


def test_f_and_q_called_v_are_no_false_vebs():
    ref = [(500 * i, s) for i, s in enumerate("NVFQAFV/", 1)]
    new = [(500 * i, s) for i, s in enumerate("NVVVSSNS", 1)]
    row = compared(ref, new).beats.iloc[0]
    assert (row["v_se"], row["v_pp"]) == (1 / 2, 1)
    assert (row["s_se"], row["s_pp"]) == (1, 1 / 2)  # F called S is false, Q called S is not
    assert compared(ref, new).gross["s_pp"] == 1  # as sumstats has it
    line = compared(ref, new).text("beats", summed=False).splitlines()
    assert dict(zip(line[0].split(), line[1].split()))["Fs'"] == "2"  # F and Q together


@pytest.mark.parametrize("escape, expected", [("S", {"Nn": 3, "Sn": 3}), ("N", {"Nn": 6})])
def test_escape_beats_count_as_asked(escape, expected):
    ref = [(500 * i, s) for i, s in enumerate("NLBejn", 1)]
    new = [(500 * i, "N") for i in range(1, 7)]
    assert cells(compared(ref, new, escape_beats=escape)) == expected


def test_paced_learning_and_r_on_t_beats_have_their_class():
    symbols = "/f?QrE!"
    ref = [(500 * i, s) for i, s in enumerate("N" + symbols, 1)]
    result = compared(ref, ref)
    assert cells(result) == {"Nn": 1, "Qq": 4, "Vv": 2}  # a flutter wave is of no class


def test_runs_are_of_v_and_f_end_with_q_and_with_the_file():
    letters = "NVFNVQVNNVVVVVV"
    ref = [(300 * i, s) for i, s in enumerate(letters, 1)]
    se, pp = compared(ref, ref).run_matrices["record", "V"]
    assert se[2, 2] == 1 and se[1, 1] == 2 and se[6, 6] == 1 and se.sum() == 4
    np.testing.assert_array_equal(se, pp)


def test_atrial_fibrillation_is_a_long_run_of_s():
    ref = [(250, "N"), (400, "+", 0, "(AFIB"), (500, "N"), (750, "N"), (900, "+", 0, "(N")]
    ref += [(1000, "N"), (1300, "N"), (1600, "A"), (1900, "N")]
    new = [(250, "N"), (500, "A"), (750, "A"), (1000, "N"), (1300, "N"), (1900, "N")]
    se, pp = compared(ref, new).run_matrices["record", "S"]
    assert se[6, 2] == 1 and se[1, 0] == 1 and se.sum() == 2
    assert pp[6, 2] == 1 and pp.sum() == 1


def test_the_longest_run_near_a_run_is_what_it_is_compared_with():
    ref = [(300 * i, s) for i, s in enumerate("NVVVVNN", 1)]
    new = [(300 * i, s) for i, s in enumerate("NVNVVNN", 1)]
    result = compared(ref, new)
    se, pp = result.run_matrices["record", "V"]
    assert se[4, 2] == 1 and se.sum() == 1
    assert pp[1, 1] == 1 and pp[2, 2] == 1  # each found run sees only what it spans
    row = result.runs.iloc[0]
    assert (row["STs"], row["SFN"], row["CTp"], row["CFP"]) == (0, 1, 1, 0)


def test_nothing_found_has_no_figures_where_they_mean_nothing():
    ref = [(500 * i, s) for i, s in enumerate("NVN", 1)]
    result = compared(ref, [], stop_s=10)
    assert cells(result) == {"No": 2, "Vo": 1} and not len(result.runs)
    line = result.text("beats", summed=False).splitlines()[1]
    assert line.split()[-7:] == ["0.00", "-", "0.00", "-", "-", "-", "-"]
    assert line.endswith("      -      -      -     -")
    assert result.text("runs_v").endswith("Summary of results from 0 records\n")
    average = result.text("beats").splitlines()[5]
    assert average.split() == ["Average", "0.00", "-", "0.00", "-", "-", "-", "-"]
    assert "no figures of runs" in result.notes[0]
    both = compared([], [], stop_s=10)
    assert cells(both) == {} and np.isnan(both.gross["q_se"])


def test_the_end_is_the_header_s_or_that_of_either_side(tmp_path):
    ref = [(500 * i, "N") for i in range(1, 9)]
    write_annotations(tmp_path / "r.atr", ref)
    write_annotations(tmp_path / "r.ecg", ref[:4] + [(9000, "V"), (9500, "V")])
    (tmp_path / "r.hea").write_text(HEADER.format("r", 250, 5000))
    assert cells(ec57(tmp_path, tmp_path, start_s=0)) == {"Nn": 4, "No": 4}
    assert cells(ec57(tmp_path, tmp_path, start_s=0, stop_s=40)) == {"Nn": 4, "No": 4, "Ov": 2}
    assert cells(ec57(tmp_path, tmp_path, start_s=0, stop_s=10)) == {"Nn": 4, "No": 1}
    assert cells(ec57(tmp_path, tmp_path, start_s=0, stop_s=0)) == {"Nn": 4, "No": 4}
    (tmp_path / "r.hea").unlink()
    open_end = ec57(tmp_path / "r.atr", tmp_path / "r", start_s=0, fs=250)
    assert cells(open_end) == {"Nn": 4, "No": 4}


def test_files_may_lie_in_folders_of_their_own(tmp_path):
    ref, new = tmp_path / "ref", tmp_path / "found"
    for name in "ab":
        (new / name).mkdir(parents=True)
        ref.mkdir(exist_ok=True)
        for file in (ref / f"{name}.atr", new / name / f"{name}.ecg"):
            write_annotations(file, [(500, "N"), (1000, "N")], fs=250)
    assert ec57(ref, new, start_s=0).beats["Nn"].tolist() == [2, 2]


def test_files_of_another_rate_are_brought_to_the_record_s(tmp_path):
    write_annotations(tmp_path / "r.atr", [(100, "N"), (365, "V"), (700, "N")])
    write_annotations(tmp_path / "r.ecg", [(72, "N"), (263, "V"), (504, "N")], fs=180)
    (tmp_path / "r.hea").write_text(HEADER.format("r", "250/360(0)", 5000))
    result = ec57(tmp_path, tmp_path, start_s=0)
    # 263 / 180 s are 365.28 samples, which are 365
    assert cells(result) == {"Nn": 2, "Vv": 1} and result.beats["rr_rms_ms"][0] == 0
    arrays = [([1000, 2001], ["N", "N"], 250), ([2000, 4001], ["N", "N"], 500)]
    assert ec57(*arrays, start_s=0).beats["rr_rms_ms"][0] == 0  # 2000.5 is 2001


def test_a_file_without_its_end_mark_loses_its_last_annotation_as_in_wfdb(tmp_path):
    ref = [(500 * i, "N") for i in range(1, 5)]
    write_annotations(tmp_path / "r.atr", ref, fs=250)
    write_annotations(tmp_path / "r.ecg", ref, fs=250, ended=False)
    result = ec57(tmp_path, tmp_path, start_s=0)
    assert cells(result) == {"Nn": 3, "No": 1} and "no end mark" in result.notes[0]


def test_annotations_are_read_as_wfdb_reads_them(tmp_path):
    wfdb = pytest.importorskip("wfdb", minversion="4.2")  # older ones cannot write it
    sample = np.array([70000, 70001, 200000, 200300])
    texts = ["", "(AFIB", "", "odd"]
    subtypes = np.array([0, 0, 0x33, 0])
    wfdb.wrann(
        "r", "ecg", sample, list("N+~V"), subtypes, aux_note=texts, fs=250, write_dir=str(tmp_path)
    )
    side = _read_annotations(tmp_path / "r.ecg")
    assert side.fs == 250
    kept = [item for item in side.items if item[0]]
    assert [item[0] for item in kept] == sample.tolist()
    assert [item[1] for item in kept] == list("N+~V")
    assert [item[2] for item in kept] == subtypes.tolist()
    assert [item[3].rstrip("\0") for item in kept] == texts


# of the cells, of 100 times the RMS error of RR as a whole number, of seconds in shutdown
EXPECTED_TOTAL = """
410 54 42 40 7 245 4 40 306 35 27 5 177 6 32 34 292 33 4 173 8 19 22 17
139 5 83 3 21 18 10 13 120 86 0 131 97 111 51 49 5 3 2 1 1 8887897 159
"""
EXPECTED_RUNS = {  # sensitivity matrix, then the one of positive predictivity
    "V": """
0 0 0 0 0 0 0 116 295 24 3 0 0 200 8 36 56 1 0 0 65 1 5 8 10 1 0 23
0 1 1 6 2 0 7 0 0 0 0 2 0 3 170 6 2 0 1 0 151 0 97 6 1 0 0 135
0 259 48 13 1 0 3 0 15 45 7 3 1 1 0 2 3 11 3 0 1 0 0 0 1 3 1 0
0 0 0 0 1 0 0 0 183 62 25 8 4 170
""",
    "S": """
0 0 0 0 0 0 0 157 307 8 1 0 0 47 9 59 55 2 0 0 29 0 2 8 3 0 0 15
0 0 1 3 0 0 3 0 0 0 2 0 0 3 80 6 1 0 0 0 67 0 107 10 0 0 0 65
0 302 37 3 0 0 1 0 16 56 7 1 0 2 0 2 3 6 1 0 0 0 0 0 2 1 0 0
0 0 0 0 0 0 0 0 54 25 9 5 2 64
""",
}


def random_annotations(draw, n=40):
    """Beats, noise, flutter and rhythm marks at random, some of them dense."""
    time, items = int(300 * draw()), []
    for _ in range(int(n * draw())):
        time += (0, 5, 20, 37, 38, 75, 150, 250)[int(8 * draw())]
        symbol = "NNNVVFAQe!~~[]++"[int(16 * draw())]
        subtype = (0, 0x30, 0x31, 0x10)[int(4 * draw())] if symbol == "~" else 0
        text = ("(AFIB", "(VFL", "(N", "")[int(4 * draw())] if symbol == "+" else ""
        items.append((time, symbol, subtype, text))
    return items


def altered(items, draw):
    """Some dropped, some moved, some renamed."""
    moved = [
        (max(0, time + (0, 0, 0, 1, -20, 37, -38, 39)[int(8 * draw())]), symbol, *more)
        for time, symbol, *more in items
        if draw() > 0.1
    ]
    return sorted(
        (time, "NVAF"[int(4 * draw())], *more) if symbol in "NVFAQe" and draw() > 0.8 else item
        for item in moved
        for time, symbol, *more in [item]
    )


def test_random_annotations_are_counted_as_the_programs_count_them():
    # sums over 400 pairs, as a transcript in C of bxb's and rxr's loops (2020) gave them
    draw = random.Random(0).random
    total, runs = np.zeros(47, int), {"V": np.zeros((2, 7, 7), int), "S": np.zeros((2, 7, 7), int)}
    for _ in range(400):
        ref = random_annotations(draw)
        new = altered(ref, draw)
        start, stop = (0, 1, 500)[int(3 * draw())], (-1, 0, 3000)[int(3 * draw())]
        counts, error, shut, _ = _beat_by_beat(ref, new, _classes("S"), 250, start, stop, 38)
        total += [*counts.values(), int(100 * np.nan_to_num(error)), shut]
        for kind, pair in _run_by_run(ref, new, _classes("S"), start, stop, 38).items():
            runs[kind] += pair
    assert total.tolist() == [int(n) for n in EXPECTED_TOTAL.split()]
    for kind, matrices in runs.items():
        assert matrices.ravel().tolist() == [int(n) for n in EXPECTED_RUNS[kind].split()]


def test_a_shift_in_time_changes_nothing():
    draw = random.Random(1).random
    for _ in range(100):
        ref = [(item[0] + 1, *item[1:]) for item in random_annotations(draw)]
        new = altered(ref, draw)
        moved = [[(item[0] + 777, *item[1:]) for item in side] for side in (ref, new)]
        one = _beat_by_beat(ref, new, _classes("S"), 250, 400, 3000, 38)
        other = _beat_by_beat(*moved, _classes("S"), 250, 1177, 3777, 38)
        assert one[0] == other[0]


def test_records_on_one_side_only_are_listed():
    one = ([500, 1000], ["N", "N"], 250)
    result = ec57({"a": one, "b": one}, {"a": one, "c": one}, start_s=0)
    assert result.beats["record"].tolist() == ["a"]
    assert result.missing == (("b", "no found annotations"), ("c", "no reference annotations"))
    assert "no found annotations: b (1)" in result.notes[0]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: shutil.rmtree(f / "found"), "there is no folder"),
        (lambda f: (f / "found" / "r.ecg").rename(f / "found" / "s.ecg"), "no record is in both"),
        (lambda f: (f / "found" / "r.ecg").unlink(), "holds 0 files"),
        (lambda f: (f / "ref" / "r.hea").unlink(), "sampling rate is not known"),
        (lambda f: (f / "ref" / "r.hea").write_text("words"), "no WFDB header"),
        (lambda f: (f / "found" / "r.ecg").write_text("sample,class"), "it is text"),
        (lambda f: (f / "found" / "r.ecg").write_bytes(b"\0\xe0" * 9), "in MIT format"),
        (
            lambda f: (f / "ref" / "r.hea").write_text(HEADER.format("r", 250, 900)),
            "ends before",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(tmp_path, capsys, change, words):
    for side, ending in (("ref", "atr"), ("found", "ecg")):
        (tmp_path / side).mkdir()
        write_annotations(tmp_path / side / f"r.{ending}", [(500, "N"), (1000, "N")])
    (tmp_path / "ref" / "r.hea").write_text(HEADER.format("r", 250, 90000))
    command = ["ec57", str(tmp_path / "ref"), str(tmp_path / "found")]
    command += ["--out", str(tmp_path / "out")]
    change(tmp_path)
    assert main(command) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_misuse_is_refused():
    one = ([500, 1000], ["N", "N"], 250)
    with pytest.raises(ValueError, match="stop_s=3 is before start_s=4"):
        ec57(one, one, start_s=4, stop_s=3)
    with pytest.raises(ValueError, match="escape_beats='X'"):
        ec57(one, one, escape_beats="X")
    with pytest.raises(ValueError, match="both be"):
        ec57(one, {"a": one})
    with pytest.raises(ValueError, match="symbol"):
        ec57(one, ([500], ["Z"], 250))
    with pytest.raises(ValueError, match="a symbol each"):
        ec57(one, ([500], ["N", "N"], 250))
    with pytest.raises(TypeError, match="got int"):
        ec57(one, 3)


def test_the_command_prints_the_lines_and_writes_every_file(tmp_path, capsys):
    ref, new = tmp_path / "ref", tmp_path / "found"
    for folder in (ref, new):
        folder.mkdir()
    for name in ("a", "b"):
        write_annotations(ref / f"{name}.atr", [(500 * i, "N") for i in range(1, 9)], fs=250)
        write_annotations(new / f"{name}.x", [(500 * i, "NV"[i == 3]) for i in range(1, 8)], fs=250)
    out = tmp_path / "out"
    command = ["ec57", str(ref), str(new), "--found-extension", "x", "--start", "0"]
    assert main([*command, "--out", str(out)]) == 0
    result = ec57(ref, new, found_extension="x", start_s=0)
    assert result.text() in capsys.readouterr().out
    content = json.loads((out / "ec57.json").read_text())
    assert content["records"][0]["Nv"] == 1 and content["gross"]["s_se"] is None
    table = pd.read_csv(out / "ec57.csv")
    assert table["record"].tolist() == ["a", "b"] and table["No"].tolist() == [1, 1]
    assert len(pd.read_csv(out / "mismatches.csv")) == 4
    assert len(pd.read_csv(out / "ec57_runs.csv")) == 4
    page = (out / "mismatches.html").read_text()
    assert "4 disagreements" in page and "No signal beside the reference" in page
    assert main([*command, "--out", str(out)]) == 0  # its own files are replaced
    (out / "ec57.json").unlink()
    assert main([*command, "--out", str(out)]) == 2


@pytest.fixture(scope="module")
def drawn(written_records, tmp_path_factory):
    """Pages of three synthetic records with some beats dropped and renamed."""
    wfdb = pytest.importorskip("wfdb")
    out = tmp_path_factory.mktemp("drawn")
    found = {}
    for name in ("demo001", "demo002", "demo003"):
        with _wide_bytes():
            beats = wfdb.rdann(str(written_records / name), "atr")
        symbols = ["V" if i % 9 == 5 else s for i, s in enumerate(beats.symbol)]
        kept = [i for i in range(len(symbols)) if i % 11]
        found[name] = (beats.sample[kept], [symbols[i] for i in kept], 360)
    reference = {name: written_records / f"{name}.atr" for name in found}
    return ec57(reference, found, start_s=0, out_dir=out, strips=10), out


def test_strips_are_bounded_and_all_disagreements_are_told(drawn):
    result, out = drawn
    page = (out / "mismatches.html").read_text()
    assert page.count("<figure>") == 10
    assert f"{len(result.mismatches)} disagreements in 3 of 3 records" in page
    worst = result.mismatches["record"].value_counts()
    sections = re.findall(r'<section id="r-(\w+)"', page)
    assert [worst[name] for name in sections] == sorted(worst, reverse=True)


def test_a_page_of_strips_keeps_within_its_bytes(drawn, written_records, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAGE_BYTES", 20_000)
    result = drawn[0]
    one = result.records[0]
    page = module._mismatches_page(
        module.Comparison((one,), (), ("atr", "x"), {}),
        {one.name: _read_annotations(written_records / f"{one.name}.atr")},
        300,
    )
    assert 2 <= page.count("<figure>") < 20_000 / 3000
    assert len(page) < 40_000


@pytest.mark.slow
@pytest.mark.parametrize("page", ["ec57.html", "mismatches.html"])
def test_pages_open_on_a_phone(drawn, page):
    seen = open_page(drawn[1] / page, width=390)
    assert seen["errors"] == [] and seen["requests"] == [] and seen["overflow"] <= 0
