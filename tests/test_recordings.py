"""WFDB recordings: leads by name, symbols to classes, and clear words about damaged files."""

import numpy as np
import pytest
from conftest import real_data

pytest.importorskip("wfdb")

from ecg_keras.beats import aami_classes
from ecg_keras.mitbih_csv import make_mitbih_csv
from ecg_keras.mitbih_records import load_beats
from ecg_keras.recordings import read_recording

pytestmark = pytest.mark.numeric


def test_symbols_follow_aami():
    assert "".join(aami_classes(list("NLRejAaJSVEF/fQ"))) == "NNNNNSSSSVVFQQQ"
    with pytest.raises(ValueError, match="symbol='x'"):
        aami_classes(["x"])


def test_lead_is_taken_by_name_not_by_place(records_to_damage):
    header = records_to_damage / "demo003.hea"
    straight = read_recording(records_to_damage, "demo003", lead="V1").signal
    lines = header.read_text().replace(" MLII", " X").replace(" V1", " MLII").replace(" X", " V1")
    header.write_text(lines)
    swapped = read_recording(records_to_damage, "demo003", lead="MLII")
    np.testing.assert_array_equal(swapped.signal, straight)
    assert read_recording(records_to_damage, "demo003", lead=("MLII", "other")).leads == (
        "MLII",
        "V1",
    )


def damaged(folder, kind):
    """Damage record demo001 in one way."""
    header, data, notes = (folder / f"demo001.{ending}" for ending in ("hea", "dat", "atr"))
    if kind in ("hea", "dat", "atr"):
        (folder / f"demo001.{kind}").unlink()
    elif kind == "truncated":
        data.write_bytes(data.read_bytes()[:-5000])
    elif kind == "longer header":
        header.write_text(header.read_text().replace(" 21600", " 43200"))
    elif kind == "shorter header":
        header.write_text(header.read_text().replace(" 21600", " 10800"))
    elif kind == "fewer leads":
        lines = header.read_text().splitlines()
        header.write_text("\n".join([lines[0].replace("demo001 2", "demo001 1"), lines[1]]) + "\n")
    elif kind == "lead not described":
        header.write_text("\n".join(header.read_text().splitlines()[:2]) + "\n")
    elif kind == "annotation beyond":
        data.write_bytes(data.read_bytes()[: len(data.read_bytes()) // 2])
        header.write_text(header.read_text().replace(" 21600", " 10800"))
    elif kind == "constant":
        data.write_bytes(bytes(len(data.read_bytes())))
    elif kind == "noise for a header":
        header.write_bytes(bytes(range(200, 250)))
    elif kind == "noise for annotations":
        notes.write_bytes(b"\x00\x00")


MESSAGES = {
    "hea": "record 'demo001' is not in",
    "dat": "record demo001: demo001.dat is missing",
    "atr": "record demo001: demo001.atr is missing",
    "truncated": "record demo001: .* truncated",
    "longer header": "record demo001: .* 43200 samples.* truncated",
    "shorter header": "record demo001: .*longer than that",
    "fewer leads": "record demo001: .*1 leads of 21600 samples.*longer than that",
    "lead not described": "record demo001: ",
    "annotation beyond": "record demo001: annotation at .* beyond the end .* .10800 samples",
    "constant": "record demo001: lead MLII is constant",
    "noise for a header": "record demo001: ",
    "noise for annotations": "record demo001: ",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_damaged_records_are_named(records_to_damage, kind):
    damaged(records_to_damage, kind)
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        load_beats(records_to_damage, ["demo001"])
    ds = load_beats(records_to_damage, ["demo001", "demo002"], on_error="skip", features="rr")
    assert set(ds.records) == {"demo002"} and any("demo001" in note for note in ds.notes)


def annotate(folder, *late):
    """Add beats to record demo001 so many samples after its last one."""
    wfdb = pytest.importorskip("wfdb")
    beats = read_recording(folder, "demo001")
    samples = [*beats.peaks, *(len(beats.signal) - 1 + after for after in late)]
    symbols = [*beats.symbols, *("N" for _ in late)]
    wfdb.wrann("demo001", "atr", np.array(samples), symbol=symbols, write_dir=str(folder))


@pytest.mark.parametrize("after", [1, 360])  # the second: one second after the last sample
def test_an_annotation_just_after_the_last_sample_is_dropped_and_told(records_to_damage, after):
    before = load_beats(records_to_damage, ["demo001", "demo002"])
    annotate(records_to_damage, after)
    ds = load_beats(records_to_damage, ["demo001", "demo002"])
    np.testing.assert_array_equal(ds.x, before.x)
    np.testing.assert_array_equal(ds.metadata, before.metadata)
    told = "Annotations at or after the end of their recording, left out: 1 (demo001)."
    assert told in ds.notes and told not in before.notes
    assert "end of their recording, left out: 1" in make_mitbih_csv(
        records_to_damage, records_to_damage / "csv"
    )


@pytest.mark.parametrize("late", [[361], [1, 2]])
def test_annotations_far_beyond_the_end_or_many_are_of_another_file(records_to_damage, late):
    annotate(records_to_damage, *late)
    with pytest.raises(ValueError, match="record demo001: annotation at sample .* beyond the end"):
        load_beats(records_to_damage, ["demo001"])


def test_an_annotation_before_the_first_sample_is_refused(records_to_damage, monkeypatch):
    wfdb = pytest.importorskip("wfdb")
    read = wfdb.rdann

    def shifted(*args, **options):
        notes = read(*args, **options)
        notes.sample[0] = -3
        return notes

    monkeypatch.setattr(wfdb, "rdann", shifted)
    with pytest.raises(ValueError, match="record demo001: annotation at sample -3 "):
        load_beats(records_to_damage, ["demo001"])


def test_the_real_record_with_a_beat_at_its_end_is_read():
    ds = load_beats(real_data("svdb"), ["860"], lead="ECG1", features=None)
    assert "Annotations at or after the end of their recording, left out: 1 (860)." in ds.notes


def test_nan_in_a_signal_is_refused(records_to_damage):
    wfdb = pytest.importorskip("wfdb")
    record = wfdb.rdrecord(str(records_to_damage / "demo001"))
    record.p_signal[100:200, 0] = np.nan
    options = {
        "fmt": ["212", "212"],
        "adc_gain": [200, 200],
        "baseline": [0, 0],
        "write_dir": str(records_to_damage),
    }
    wfdb.wrsamp("demo001", 360, ["mV", "mV"], ["MLII", "V1"], p_signal=record.p_signal, **options)
    with pytest.raises(ValueError, match="record demo001: lead MLII .*NaN samples"):
        load_beats(records_to_damage, ["demo001"])


def test_folder_without_records_and_no_folder(tmp_path):
    with pytest.raises(ValueError, match="holds no WFDB records"):
        load_beats(tmp_path, ["100"])
    with pytest.raises(ValueError, match="no such folder"):
        load_beats(tmp_path / "absent", ["100"])


def test_real_record_114_has_its_mlii_second():
    folder = real_data("mitdb")
    recording = read_recording(folder, "114", lead=("MLII", "other"))
    assert recording.leads == ("MLII", "V5") and len(recording.peaks) == 1879


def test_stretches_of_flutter_are_read_and_one_may_be_open_at_the_end(records_to_damage):
    wfdb = pytest.importorskip("wfdb")
    beats = read_recording(records_to_damage, "demo001")
    assert beats.flutter == ()
    samples, symbols = [*beats.peaks, 5001, 6001, 20001], [*beats.symbols, "[", "]", "["]
    order = np.argsort(samples)
    wfdb.wrann(
        "demo001",
        "atr",
        np.array(samples)[order],
        symbol=list(np.array(symbols)[order]),
        write_dir=str(records_to_damage),
    )
    again = read_recording(records_to_damage, "demo001")
    assert again.flutter == ((5001, 6001), (20001, len(beats.signal) - 1))
    np.testing.assert_array_equal(again.peaks, beats.peaks)


def test_the_class_of_each_beat_is_that_of_its_symbol(written_records):
    recording = read_recording(written_records, "demo002")
    assert set(recording.aami) == {"N", "S", "V", "F"}
    np.testing.assert_array_equal(recording.aami == "S", recording.symbols == "A")


def test_a_lead_that_is_not_there_is_refused(records_to_damage):
    with pytest.raises(ValueError, match="lead 'V5' is absent; it has MLII, V1"):
        read_recording(records_to_damage, "demo001", lead="V5")
    with pytest.raises(ValueError, match="'other' asks for a second lead"):
        read_recording(records_to_damage, "demo001", lead=("MLII", "V1", "other"))


def test_a_header_without_samples_is_refused(records_to_damage):
    header = records_to_damage / "demo001.hea"
    header.write_text(header.read_text().replace(" 21600", " 0"))
    with pytest.raises(ValueError, match="record demo001: "):
        read_recording(records_to_damage, "demo001")
