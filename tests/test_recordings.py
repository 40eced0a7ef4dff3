"""Recordings of any source in mV; WFDB records with beats; clear words about damaged files."""

import os

import numpy as np
import pandas as pd
import pytest
from conftest import real_data

pytest.importorskip("wfdb")

from ecg_keras.beats import aami_classes
from ecg_keras.mitbih_csv import make_mitbih_csv
from ecg_keras.mitbih_records import load_beats
from ecg_keras.recordings import open_recording, read_recording

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


# open_recording: any source, in millivolts


def ecg(seconds=20, fs=250, leads=2):
    """A spike of 1 mV every 0.8 s, and some noise; (samples, leads) in mV."""
    t = np.arange(int(seconds * fs)) / fs
    x = np.exp(-0.5 * ((t % 0.8 - 0.4) / 0.012) ** 2) + 0.1 * np.sin(2 * np.pi * 0.3 * t)
    noise = 0.01 * np.random.default_rng(0).standard_normal((len(t), leads))
    return x[:, None] * np.linspace(1, 0.6, leads) + noise


def whole(opened):
    return opened.read(0, opened.n_samples)


def write_wfdb(folder, name, x, fs=250, leads=("MLII", "V1"), fmt="16", units=None, gain=2000.0):
    wfdb = pytest.importorskip("wfdb")
    n = x.shape[1]
    options = {"fmt": [fmt] * n, "adc_gain": [gain] * n, "baseline": [0] * n}
    wfdb.wrsamp(
        name, fs, units or ["mV"] * n, list(leads), p_signal=x, write_dir=str(folder), **options
    )
    return folder / name


@pytest.mark.parametrize("fmt, gain", [("212", 200), ("16", 2000), ("24", 2000), ("80", 50)])
@pytest.mark.parametrize("ending", ["", ".hea", ".dat"])
def test_wfdb_formats_are_read_in_blocks_as_wfdb_reads_them(tmp_path, fmt, gain, ending):
    path = write_wfdb(tmp_path, "a", ecg(), fmt=fmt, gain=float(gain))
    opened = open_recording(f"{path}{ending}")
    assert (opened.name, opened.fs, opened.leads) == ("a", 250, ("MLII", "V1"))
    np.testing.assert_allclose(whole(opened), ecg(), atol=0.6 / gain)  # mV, half a step
    np.testing.assert_array_equal(opened.read(1001, 1333), whole(opened)[1001:1333])
    assert opened.read(5, 5).shape == (0, 2) and opened.read(0, 9).dtype == np.float32


def test_a_lead_is_found_by_what_it_is_called_elsewhere(tmp_path):
    path = write_wfdb(tmp_path, "a", ecg(), leads=("ECG V5", "MLII"))
    assert open_recording(path, leads="ii").leads == ("MLII",)
    opened = open_recording(path, leads=["II", "Lead V5"])
    np.testing.assert_array_equal(whole(opened), whole(open_recording(path))[:, ::-1])
    assert open_recording(opened, leads="V5").leads == ("ECG V5",)
    with pytest.raises(ValueError, match="lead 'V1' is absent; it has ECG V5, MLII"):
        open_recording(path, leads="V1")


def test_units_of_a_header_become_millivolts(tmp_path):
    x = ecg()
    path = write_wfdb(tmp_path, "a", x * [1e3, 1e-3], units=["uV", "V"], gain=1.0, fmt="32")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("1.0(0)/V", "1000000(0)/V"))
    wfdb = pytest.importorskip("wfdb")
    digits = np.round(x * [1e3, 1e3]).astype(int)
    options = {"fmt": ["32"] * 2, "adc_gain": [1.0, 1e6], "baseline": [0, 0]}
    wfdb.wrsamp(
        "a", 250, ["uV", "V"], ["I", "II"], d_signal=digits, write_dir=str(tmp_path), **options
    )
    opened = open_recording(path)
    np.testing.assert_allclose(whole(opened), x, atol=6e-4)  # mV, half a step
    assert "I was converted from uV to mV." in opened.notes


def segments(folder, gap=500):
    """Two segments of 5 s, the second with one lead only, and a gap between them."""
    x = ecg(10)
    write_wfdb(folder, "p1", x[:1250])
    write_wfdb(folder, "p2", x[1250:, :1], leads=("MLII",))
    layout = "layout 2 250 0\n~ 0 2000(0)/mV 16 0 0 0 0 MLII\n~ 0 2000(0)/mV 16 0 0 0 0 V1\n"
    (folder / "layout.hea").write_text(layout)
    (folder / "m.hea").write_text(f"m/4 2 250 {2500 + gap}\nlayout 0\np1 1250\n~ {gap}\np2 1250\n")
    return folder / "m", x


def test_segments_of_a_variable_layout_are_joined_and_gaps_are_nan(tmp_path):
    path, x = segments(tmp_path)
    opened = open_recording(path)
    y = whole(opened)
    assert opened.leads == ("MLII", "V1") and y.shape == (3000, 2)
    assert "2 segments; 2 s between them are missing." in opened.notes
    np.testing.assert_allclose(y[:1250], x[:1250], atol=3e-4)
    np.testing.assert_allclose(y[1750:, 0], x[1250:, 0], atol=3e-4)
    assert np.isnan(y[1250:1750]).all() and np.isnan(y[1750:, 1]).all()
    np.testing.assert_array_equal(opened.read(1200, 1800), y[1200:1800])


def test_segments_of_a_fixed_layout_are_joined(tmp_path):
    x = ecg(10)
    for name, part in (("p1", x[:1250]), ("p2", x[1250:])):
        write_wfdb(tmp_path, name, part)
    (tmp_path / "m.hea").write_text("m/2 2 250 2500\np1 1250\np2 1250\n")
    np.testing.assert_allclose(whole(open_recording(tmp_path / "m")), x, atol=3e-4)
    (tmp_path / "p2.dat").unlink()
    with pytest.raises(ValueError, match="p2.dat is missing"):
        open_recording(tmp_path / "m")


def test_leads_of_several_rates_get_the_highest(tmp_path):
    """Two frames of 4 and 2 samples, as monitors write them; breathing is left out."""
    wfdb = pytest.importorskip("wfdb")
    t = np.arange(4000) / 250
    fast, slow = np.sin(2 * np.pi * t), np.cos(2 * np.pi * t[::2])
    wfdb.Record(
        record_name="f",
        n_sig=3,
        fs=62.5,
        sig_len=1000,
        samps_per_frame=[4, 2, 1],
        e_d_signal=[np.round(of * 2000).astype(int) for of in (fast, slow, t[::4] / 100)],
        file_name=["f.dat"] * 3,
        fmt=["16"] * 3,
        adc_gain=[2000.0] * 3,
        baseline=[0] * 3,
        units=["mV", "mV", "mV"],
        sig_name=["II", "V", "RESP"],
        adc_res=[16] * 3,
        adc_zero=[0] * 3,
        init_value=[0] * 3,
        checksum=[0] * 3,
        block_size=[0] * 3,
        byte_offset=[None] * 3,
        skew=[None] * 3,
    ).wrsamp(write_dir=str(tmp_path), expanded=True)
    opened = open_recording(tmp_path / "f")
    assert (opened.leads, opened.fs) == (("II",), 250)
    np.testing.assert_allclose(whole(opened)[:, 0], fast, atol=3e-4)
    both = open_recording(tmp_path / "f", leads=("II", "V"))
    np.testing.assert_allclose(whole(both)[:3998, 1], np.cos(2 * np.pi * t)[:3998], atol=2e-3)
    np.testing.assert_array_equal(both.read(1001, 1010), whole(both)[1001:1010])


def table(fs=250, seconds=20):
    x = ecg(seconds, fs)
    return pd.DataFrame({"t": np.arange(len(x)) / fs, "II": x[:, 0], "V1": x[:, 1]}), x


@pytest.mark.parametrize("kind", ["csv", "csv no names", "spaces", "semicolons", "parquet"])
def test_tables_are_read_from_files(tmp_path, kind):
    df, x = table()
    path = tmp_path / f"rec.{'parquet' if kind == 'parquet' else 'csv'}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        df.to_parquet(path)
    elif kind == "spaces":
        np.savetxt(path, df.to_numpy())
    elif kind == "semicolons":
        df.to_csv(path, index=False, sep=";", decimal=",")
    else:
        df.to_csv(path, index=False, header=kind == "csv")
    opened = open_recording(path)
    names = ("ECG1", "ECG2") if kind in ("spaces", "csv no names") else ("II", "V1")
    assert (opened.name, opened.fs, opened.leads) == ("rec", 250, names)
    np.testing.assert_allclose(whole(opened), x, atol=1e-6)


def test_a_watch_writes_its_rate_unit_and_lead_above_the_samples(tmp_path):
    x = ecg(10, 512, 1)[:, 0]
    head = "Name,A\nRecorded Date,2024-01-05 10:11:12 +0100\nSample Rate,512 hertz\n\n\n"
    lines = "".join(f"{1000 * value:.3f}\n" for value in x)
    (tmp_path / "watch.csv").write_text(head + "Lead,Lead I\nUnit,µV\n\n" + lines, "utf-8")
    opened = open_recording(tmp_path / "watch.csv")
    assert (opened.fs, opened.leads, opened.n_samples) == (512, ("Lead I",), len(x))
    np.testing.assert_allclose(whole(opened)[:, 0], x, atol=1e-5)


def test_gaps_between_times_are_nan_and_told():
    df, x = table()
    opened = open_recording(df.drop(range(1000, 1400)))
    y = whole(opened)
    assert np.isnan(y[1000:1400]).all() and "1 gaps, 1.6 s together, are NaN." in opened.notes
    kept = np.r_[:1000, 1400 : len(x)]
    np.testing.assert_allclose(y[kept], x[kept], atol=1e-6)


@pytest.mark.parametrize("fs", [360, 250])
def test_times_rounded_to_milliseconds_give_the_true_rate(fs):
    df, x = table(fs)
    opened = open_recording(df.assign(t=df.t.round(3)))
    assert opened.fs == fs
    np.testing.assert_allclose(whole(opened), x, atol=1e-6)


def test_uneven_steps_are_put_on_an_even_grid():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.5, 1.5, 5000)) / 250
    opened = open_recording(pd.DataFrame({"t": t, "II": np.sin(2 * np.pi * t)}))
    assert any("uneven" in note for note in opened.notes)
    at = t[0] + np.arange(opened.n_samples) / opened.fs
    np.testing.assert_allclose(whole(opened)[:, 0], np.sin(2 * np.pi * at), atol=0.02)  # of 1


@pytest.mark.parametrize("kind", ["column", "index", "ms", "epoch"])
def test_times_may_be_dates_or_counts_of_milliseconds(kind):
    df, x = table()
    moments = pd.Timestamp("2024-03-01 10:00") + pd.to_timedelta(df.t, unit="s")
    if kind == "column":
        df = df.assign(t=moments.astype(str)).rename(columns={"t": "timestamp"})
    elif kind == "index":
        df = df.drop(columns="t").set_index(pd.DatetimeIndex(moments))
    elif kind == "ms":
        df = df.assign(t=1000 * df.t).rename(columns={"t": "time [ms]"})
    else:
        df = df.assign(t=1000 * df.t + 1.7092872e12).rename(columns={"t": "timestamp"})
    opened = open_recording(df)
    assert (opened.fs, opened.leads) == (250, ("II", "V1"))
    np.testing.assert_allclose(whole(opened), x, atol=1e-6)
    if kind != "ms":
        assert f"{opened.start:%Y-%m-%d %H:%M}" == "2024-03-01 10:00"


def write_edf(path, x, fs=250):
    pyedflib = pytest.importorskip("pyedflib")
    writer = pyedflib.EdfWriter(str(path), 3, file_type=pyedflib.FILETYPE_EDFPLUS)
    signals = {"ECG II": ("uV", fs, 1000 * x[:, 0]), "EEG Fp1": ("uV", 100, np.zeros(2000))}
    signals["ECG V1"] = ("mV", fs // 2, x[::2, 1].copy())
    for i, (label, (unit, rate, _)) in enumerate(signals.items()):
        most = 5000 if unit == "uV" else 5
        header = {"label": label, "dimension": unit, "sample_frequency": rate}
        header |= {"physical_max": most, "physical_min": -most, "transducer": ""}
        header |= {"digital_max": 32767, "digital_min": -32768, "prefilter": ""}
        writer.setSignalHeader(i, header)
    writer.writeSamples([values for *_, values in signals.values()])
    writer.writeAnnotation(1.0, -1, "note")
    writer.close()
    return path


def test_edf_gives_its_ecg_in_blocks(tmp_path):
    x = ecg()
    path = write_edf(tmp_path / "a.edf", x)
    opened = open_recording(path)
    assert (opened.fs, opened.leads) == (250, ("ECG II",)) and opened.start is not None
    np.testing.assert_allclose(whole(opened)[:, 0], x[:, 0], atol=2e-4)  # mV, a step
    np.testing.assert_array_equal(opened.read(777, 1234), whole(opened)[777:1234])
    both = open_recording(path, leads=("V1", "II"))
    np.testing.assert_allclose(whole(both)[::2, 0], x[::2, 1], atol=2e-4)
    np.testing.assert_array_equal(both.read(777, 1234), whole(both)[777:1234])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="cannot be read as EDF"):
        open_recording(path)


def test_arrays_take_a_rate_and_a_unit():
    x = ecg()
    assert open_recording(x, fs=250).leads == ("ECG1", "ECG2")
    opened = open_recording(x * 200 + 1024, fs=250, unit=1 / 200, leads=("II", "V1"), name="a")
    assert (opened.name, opened.leads) == ("a", ("II", "V1"))
    np.testing.assert_allclose(whole(opened) - 1024 / 200, x, atol=1e-5)
    x[7] = np.inf
    assert np.isnan(open_recording(x[:, 0], fs=250).read(7, 8)).all()
    with pytest.raises(ValueError, match="samples 0 to 5001 were asked for; it has 0 to 5000"):
        opened.read(0, 5001)


REFUSED = {
    "likely microvolts or raw counts.*unit='uV'": lambda x: (x * 1000, {"fs": 250}),
    "by unit='mV'": lambda x: (x * 200 + 1024, {"fs": 250, "unit": "mV"}),
    "likely volts": lambda x: (x / 1000, {"fs": 250}),
    "give fs": lambda x: (x, {}),
    "x.T": lambda x: (x.T, {"fs": 250}),
    "at least 2 s": lambda x: (x[:400], {"fs": 250}),
    "every sample is NaN": lambda x: (x * np.nan, {"fs": 250}),
    "unit='mmHg' is not known": lambda x: (x, {"fs": 250, "unit": "mmHg"}),
    "name each of the 2 columns": lambda x: (x, {"fs": 250, "leads": ("I", "II", "III")}),
    "must be a path, a table or numbers": lambda x: ([["a", "b"]], {"fs": 250}),
    "a sampling rate of 1e\\+06 Hz": lambda x: (x, {"fs": 1e6}),
    "no column of times .it has II.": lambda x: (pd.DataFrame({"II": x[:, 0]}), {}),
    "none of its columns holds numbers": lambda x: (pd.DataFrame({"II": ["a"] * 900}), {"fs": 250}),
    "fs=100 contradicts": lambda x: (table()[0], {"fs": 100}),
    "milliseconds": lambda x: (table()[0].assign(t=table()[0].t * 1000), {}),
    "goes back at row 1": lambda x: (table()[0].assign(t=-table()[0].t), {}),
    "jumps by": lambda x: (table()[0].assign(t=[*table()[0].t[:-1], 1e7]), {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_recording_is_refused_in_a_sentence(message):
    recording, options = REFUSED[message](ecg())
    with pytest.raises(ValueError, match=message):
        open_recording(recording, **options)


def test_files_that_are_no_recording_are_refused(tmp_path):
    write_wfdb(tmp_path, "a", ecg())
    for name, content in {"e.csv": b"", "w.txt": b"hello\nworld\n", "b.bin": b"\0\1" * 99}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="expected a WFDB record"):
            open_recording(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder, not a recording; it holds the records a"):
        open_recording(tmp_path)
    with pytest.raises(ValueError, match="there is no such recording; .* holds the records a"):
        open_recording(tmp_path / "b")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="p.parquet: cannot be read"):
        pytest.importorskip("pyarrow")
        open_recording(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    "old, new, message",
    [
        (" 5000", " 1000000000000", "days long"),
        (" 5000", " 90000", "truncated"),
        (" 250 ", " 0 ", "0 Hz"),
        ("2000.0(0)", "-2000.0(0)", "a gain of -2000"),
        ("/mV", "/mmHg", "none of its channels is an ECG in volts"),
    ],
)
def test_headers_of_nonsense_are_refused_before_anything_is_read(tmp_path, old, new, message):
    path = write_wfdb(tmp_path, "a", ecg())
    header = path.with_suffix(".hea")
    assert old in header.read_text()
    header.write_text(header.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        open_recording(path)


def test_a_gain_of_0_is_200_units_per_mv_and_told(tmp_path):
    path = write_wfdb(tmp_path, "a", ecg(), gain=200.0)  # half of SVDB's headers say 0
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("200.0(0)", "0(0)", 1))
    opened = open_recording(path)
    np.testing.assert_allclose(whole(opened), ecg(), atol=0.6 / 200)
    assert any("MLII a gain of 0, not calibrated" in note for note in opened.notes)


def test_pipes_and_files_of_holes_are_refused(tmp_path):
    path = write_wfdb(tmp_path, "a", ecg())
    data = path.with_suffix(".dat")
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(ValueError, match="a.dat: is not a regular file"):
        open_recording(path)
    data.unlink()
    with data.open("wb") as file:
        file.truncate(400_000_000)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 5000", " 100000000"))
    with pytest.raises(ValueError, match="mostly holes"):
        open_recording(path)


def test_a_real_record_is_as_wfdb_reads_it():
    wfdb = pytest.importorskip("wfdb")
    path = real_data("mitdb") / "114"
    opened = open_recording(path, leads="II")
    want = wfdb.rdrecord(str(path), channel_names=["MLII"]).p_signal
    np.testing.assert_allclose(whole(opened), want, atol=1e-6)
