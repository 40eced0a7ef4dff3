"""The page of a recording: what it holds, and what Chromium shows of it."""

import base64
import json
import re
import types
import zlib

import numpy as np
import pandas as pd
import pytest
from chromium import open_page

from ecg_keras import record_page
from ecg_keras.demo import simulate_patient
from ecg_keras.record_page import write_record_page
from ecg_keras.recordings import open_recording

pytestmark = pytest.mark.numeric

FS = 360.0
EVIL = "</script><script>window.evil=1</script>&<!--"
MM = 96 / 25.4  # CSS pixels
WAVES_MS = {"p_on": -200, "p_peak": -160, "p_off": -110, "qrs_on": -50, "qrs_off": 40}
WAVES_MS |= {"t_on": 150, "t_peak": 250, "t_off": 330}
WAIT = "await ecg.ready; await ecg.strips;"

DRIVE = """
const found = {}, canvas = document.getElementById("ecg"), wide = canvas.clientWidth;
const key = (key, target = document.body) =>
  target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const middle = () => ecg.view.start + wide / ecg.view.pxPerS / 2;
found.wide = wide;
found.first = {...ecg.view};

for (const t of [10, 80, AT / 360]) { ecg.go(t); await ecg.settle(); }
const known = (v) => (Number.isNaN(v) ? null : v);
found.values = [100, 3600, 3625, AT, 32399].map((s) => [0, 1].map((l) => known(ecg.valueAt(s, l))));
found.points = [0, 1].map((lead) => [AT, AT + 40].map((s) => ecg.pixelOf(s, lead)));
const ratio = canvas.width / wide, across = canvas.width;
const dots = canvas.getContext("2d").getImageData(0, 0, across, canvas.height).data;
const darkest = (x, y) => { // colour of the darkest pixel within one of here
  const near = [];
  for (const dx of [-1, 0, 1]) for (const dy of [-1, 0, 1]) {
    const i = 4 * (Math.round(y * ratio + dy) * across + Math.round(x * ratio + dx));
    near.push([...dots.slice(i, i + 3)]);
  }
  return near.reduce((best, one) => (one[1] < best[1] ? one : best));
};
const peak = ecg.pixelOf(AT, 0);
found.drawn = darkest(peak.x, peak.y);
const outwards = ecg.pixelOf(AT + 40, 0).y > peak.y ? -25 : 25;
found.beyond = darkest(peak.x + 6, peak.y + outwards);

key("Home", canvas);
found.home = ecg.view.start;
found.chosen = ["n", "n", "n", "p"].map((letter) => { key(letter); return ecg.chosen; });
await ecg.settle();
await new Promise((done) => setTimeout(done, 300));
found.beat = document.getElementById("beat").textContent;
const kind = document.getElementById("kind");
kind.value = "cV";
kind.dispatchEvent(new Event("change"));
key("Home", canvas);
key("n");
found.ventricular = ecg.chosen;
key("End", canvas);
found.end = middle() + wide / ecg.view.pxPerS / 2;
key("n");
found.last = document.getElementById("status").textContent;

ecg.go(45);
const before = ecg.view.start;
key("ArrowRight");
found.moved = ecg.view.start - before;
for (const sign of "++") key(sign);
found.zoomed = ecg.view.pxPerS;
key("1");
found.back = ecg.view.pxPerS;
const box = canvas.getBoundingClientRect(), time = (x) => ecg.view.start + x / ecg.view.pxPerS;
const held = time(300), mouse = {clientX: box.left + 301, clientY: box.top + 50};
canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, cancelable: true, ...mouse}));
found.wheel = [ecg.view.pxPerS, held - time(300)];
key("1");
canvas.setPointerCapture = () => {}; // of a pointer that is none
const drag = (from, to, more = {}) => {
  for (const [type, [x, y]] of [["down", from], ["move", to], ["up", to]]) {
    const at = {clientX: box.left + 1 + x, clientY: box.top + 1 + y};
    canvas.dispatchEvent(new PointerEvent("pointer" + type, {pointerId: 1, ...at, ...more}));
  }
};
drag([200, 100], [294.488, 62.205], {shiftKey: true});
found.calipers = {...ecg.calipers};
key("Escape");
found.gone = ecg.calipers;
const start = ecg.view.start;
drag([400, 100], [300, 100]);
found.dragged = ecg.view.start - start;
document.querySelector("#list button").click();
found.event = middle();
dispatchEvent(new Event("beforeprint"));
found.print = canvas.clientWidth;
dispatchEvent(new Event("afterprint"));
key("0");
found.all = ecg.view.pxPerS * 90 / wide;
return found;
"""


def annotated(patient, **changes):
    """An annotation of the beats that were simulated, with an event and unreadable stretches."""
    time = patient.peaks / patient.fs
    label = np.asarray(patient.aami)
    beats = pd.DataFrame({"sample": patient.peaks, "time_s": time, "class": label, "why": ""})
    for name in "NSVFQ":
        beats[f"p_{name}"] = np.where(label == name, 0.9, 0.025)
    beats["rr_before_s"] = np.append(np.nan, np.diff(time))
    beats["quality"] = 1.0
    event = ["run", "V", time[20], time[23], 4, 150.0, "run of 4 V beats"]
    names = ["kind", "class", "start_s", "stop_s", "n_beats", "rate_bpm", "text"]
    spans = pd.DataFrame([[40.0, 45.0, "V1", "flat"]], columns=["start_s", "stop_s", "lead", "why"])
    summary = {"leads_read": ["MLII"], "duration_s": 90.0, "analysable": 0.95, "model": "toy"}
    summary["beats"] = {name: int((label == name).sum()) for name in "NSVFQ"}
    summary["burden"] = {name: n / len(label) for name, n in summary["beats"].items()}
    parts = {"beats": beats, "events": pd.DataFrame([event], columns=names), "spans": spans}
    parts |= {"windows": pd.DataFrame(), "summary": summary, "notes": ("a note",)}
    parts["card"] = {"classes": list("NSVFQ"), "patients": ["a", "b"], "must_not": "be trusted"}
    return types.SimpleNamespace(**(parts | changes))


@pytest.fixture(scope="module")
def patient():
    """A minute and a half of two leads; nothing was recorded in 70 ms of the second."""
    found = simulate_patient(2, duration_s=90, fs=FS)
    found.signal[3600:3625, 1] = np.nan
    return found


@pytest.fixture(scope="module")
def page(patient, tmp_path_factory):
    """The page of that patient, with waves."""
    path = tmp_path_factory.mktemp("page") / "record.html"
    waves = {"r": patient.peaks + 3}  # not exactly the beats' own
    waves |= {name: patient.peaks + round(ms * FS / 1000) for name, ms in WAVES_MS.items()}
    waves = pd.DataFrame(waves).astype("Int64")
    waves.loc[::2, ["p_on", "p_peak", "p_off"]] = pd.NA
    recording = open_recording(patient.signal, fs=FS, leads=patient.leads, name="Mr <b>X</b>")
    return write_record_page(path, recording, annotated(patient), waves=waves)


def held(path, n_leads):
    """What a page holds: its meta data, and the signal in mV (samples, leads)."""
    text = path.read_text(encoding="utf-8")
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', text)[1])
    parts = []
    for packed in re.findall(r'id="c\d+">(.*?)</script>', text):
        bytes_ = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).astype(int)
        zigzag = (bytes_[: len(bytes_) // 2] + 256 * bytes_[len(bytes_) // 2 :]).reshape(
            n_leads, -1
        )
        steps = np.cumsum((zigzag >> 1) ^ -(zigzag & 1), axis=1).astype(np.int16).T
        parts.append(np.where(steps == -32768, np.nan, steps * 0.005))
    return meta, np.concatenate(parts)


def test_the_page_holds_the_signal_in_steps_of_5_microvolts(page, patient):
    meta, signal = held(page, 2)
    assert meta["factor"] == 1 and meta["leads"] == ["MLII", "V1"]
    np.testing.assert_allclose(signal, patient.signal, atol=0.0025001)
    assert page.stat().st_size < 1.5 * signal.size + 100_000


def test_a_long_recording_is_thinned_without_folding_fast_waves_down(
    tmp_path, patient, monkeypatch
):
    t = np.arange(90_000) / 1000
    x = np.stack([np.sin(2 * np.pi * 5 * t), np.sin(2 * np.pi * 180 * t)], axis=1)
    x[30_000:30_100] = np.nan
    monkeypatch.setattr(record_page, "_MOST_SAMPLES", 2 * 90 * 200)
    monkeypatch.setattr(record_page, "_BLOCK_CHUNKS", 1)
    recording = open_recording(x, fs=1000, leads=("a", "b"))
    found = annotated(patient, beats=pd.DataFrame(), spans=pd.DataFrame(), events=pd.DataFrame())
    path = write_record_page(tmp_path / "long.html", recording, found)
    meta, signal = held(path, 2)
    assert meta["factor"] == 5 and len(signal) == 18_000
    assert "it shows the signal at 200 Hz; it was read at 1000 Hz" in path.read_text()
    np.testing.assert_array_equal(np.isnan(signal[:, 0]), np.isnan(x[::5, 0]))
    inside = np.r_[20:5980, 6060:17_980]  # away from ends and the gap; a block ends at 12,000
    np.testing.assert_allclose(signal[inside, 0], x[::5, 0][inside], atol=0.02)
    assert np.abs(signal[inside, 1]).max() < 0.02


def test_of_many_leads_those_read_are_kept(tmp_path, patient, monkeypatch):
    monkeypatch.setattr(record_page, "_MOST_SAMPLES", 2 * 9000)
    x = np.random.default_rng(0).normal(0, 0.1, (9000, 12))
    recording = open_recording(x, fs=100, leads=[f"L{i}" for i in range(12)])
    summary = annotated(patient).summary | {"leads_read": ["L7"]}
    path = write_record_page(tmp_path / "a.html", recording, annotated(patient, summary=summary))
    meta, signal = held(path, 2)
    assert meta["leads"] == ["L0", "L7"] and meta["lead"] == 1
    np.testing.assert_allclose(signal[:, 1], x[:, 7], atol=0.0026)
    assert "2 of 12 leads" in path.read_text()


def test_a_recording_is_read_in_blocks_and_a_failure_leaves_the_old_page(tmp_path, patient):
    class Failing:
        name, fs, leads, n_samples, start, notes = "day", 128.0, ("II",), 128 * 86_400, None, ()
        asked = []

        def read(self, start, stop):
            self.asked.append(stop - start)
            if start > 128 * 3600:
                raise OSError("the disk is gone")
            return np.zeros((stop - start, 1), np.float32)

    (tmp_path / "record.html").write_text("old")
    with pytest.raises(OSError, match="disk"):
        write_record_page(tmp_path / "record.html", Failing(), annotated(patient))
    assert max(Failing.asked) <= 128 * 601
    assert [file.name for file in tmp_path.iterdir()] == ["record.html"]
    assert (tmp_path / "record.html").read_text() == "old"


def test_chromium_draws_the_trace_and_follows_keys_wheel_and_pointer(page, patient):
    label = np.asarray(patient.aami)
    odd = np.flatnonzero(label != "N")
    ventricular = np.flatnonzero(label == "V")
    at = int(patient.peaks[ventricular[1]])
    script = WAIT + DRIVE.replace("AT", str(at))
    seen = open_page(page, script=script)
    found = seen["result"]
    assert seen["errors"] == [] and seen["requests"] == [] and seen["overflow"] <= 0
    assert seen["title"] == "Mr <b>X</b>"
    assert {"summary", "strips", "events", "intervals", "model", "notes"} <= {*seen["sections"]}
    assert found["first"] == {"start": 0, "pxPerS": pytest.approx(25 * MM), "gain": 10}
    x = patient.signal[[100, 3600, 3625, at, 32399]].astype(float)
    for shown, true in zip(found["values"], x):
        assert [np.nan if v is None else v for v in shown] == pytest.approx(
            list(true), abs=0.0026, nan_ok=True
        )
    for lead, (one, two) in enumerate(found["points"]):  # 25 mm/s, 10 mm/mV, downwards
        assert two["x"] - one["x"] == pytest.approx(40 / FS * 25 * MM, abs=0.01)
        step_mv = patient.signal[at + 40, lead] - patient.signal[at, lead]
        assert two["y"] - one["y"] == pytest.approx(-step_mv * 10 * MM, abs=0.3)
    red, green, blue = found["drawn"]
    assert red > 140 and green < 90 and blue < 90, "the QRS of a V beat is not in its colour"
    assert found["beyond"][1] > 150, "there should be only paper here"
    assert found["home"] == 0
    stops = np.sort(np.append(patient.peaks[odd], patient.peaks[20]))[:3]
    places = [int(np.flatnonzero(patient.peaks == stop)[0]) for stop in stops]
    assert found["chosen"] == [*places, places[1]]
    of = label[places[1]]
    assert f"class {of}, p 0.90" in found["beat"] and "QRS 89 ms" in found["beat"]
    assert found["ventricular"] == ventricular[0]
    assert found["end"] == pytest.approx(90) and found["last"] == "No more after this."
    assert found["moved"] == pytest.approx(found["wide"] / (25 * MM) / 8)
    assert found["zoomed"] == pytest.approx(25 * MM * 2.25)
    assert found["back"] == pytest.approx(25 * MM)
    assert found["wheel"] == [pytest.approx(25 * MM * np.exp(0.5)), pytest.approx(0, abs=1e-6)]
    assert found["calipers"]["t1"] - found["calipers"]["t0"] == pytest.approx(1, abs=0.001)
    assert found["calipers"]["y0"] - found["calipers"]["y1"] == pytest.approx(10 * MM, abs=0.05)
    assert found["gone"] is None and found["dragged"] == pytest.approx(100 / (25 * MM))
    assert found["event"] == pytest.approx(patient.peaks[20] / FS, abs=0.01)
    assert found["print"] == pytest.approx(186 * MM, abs=3) and found["all"] == pytest.approx(1)
    assert re.search(r"PR\s+150 ms\s+150 to 150 ms", seen["text"])


def test_hostile_names_and_a_phone(tmp_path, patient):
    found = annotated(patient)
    found.beats["class"] = found.beats["class"].replace("V", EVIL)
    found.beats = found.beats.rename(columns={"p_V": f"p_{EVIL}"})
    found.events["text"], found.events["class"], found.spans["why"] = EVIL, EVIL, EVIL
    found.notes, found.card, found.summary["model"] = (EVIL,), {EVIL: EVIL}, EVIL
    recording = open_recording(patient.signal, fs=FS, leads=(EVIL, "V1"), name=EVIL)
    path = write_record_page(tmp_path / "record.html", recording, found)
    script = (
        f"{WAIT} ecg.next(); return [window.evil, document.querySelectorAll('#list tr').length];"
    )
    seen = open_page(path, width=390, height=800, script=script)
    assert seen["errors"] == [] and seen["overflow"] <= 0 and seen["width"] == 390
    assert seen["result"] == [None, 1] and seen["title"] == EVIL
    assert EVIL in seen["text"]


def test_a_model_of_windows_shows_them_with_their_probabilities(tmp_path):
    windows = pd.DataFrame(
        [
            [0.0, 10.0, 0.93, 0.08, "NORM"],
            [10.0, 20.0, 0.2, 0.81, "MI"],
            [20.0, 30.0, *[np.nan] * 2, "?"],
        ],
        columns=["start_s", "stop_s", "p_NORM", "p_MI", "classes"],
    )
    summary = {"windows": {"n": 3, "length_s": 10.0, "classes": {"NORM": 1, "MI": 1, "?": 1}}}
    summary["windows"]["mean_probability"] = {"NORM": 0.565, "MI": 0.445}
    nothing = pd.DataFrame()
    found = types.SimpleNamespace(beats=nothing, events=nothing, spans=nothing, windows=windows)
    found.summary, found.card, found.notes = summary, {}, ()
    x = np.random.default_rng(0).normal(0, 0.1, (3000, 12))
    recording = open_recording(x, fs=100, leads=[f"L{i}" for i in range(12)])
    path = write_record_page(tmp_path / "record.html", recording, found)
    middle = "ecg.view.start + document.getElementById('ecg').clientWidth / ecg.view.pxPerS / 2"
    seen = open_page(path, script=f"{WAIT} ecg.next(); return {middle};")
    assert seen["errors"] == [] and seen["result"] == pytest.approx(15)
    assert "windows" in seen["sections"] and "intervals" not in seen["sections"]
    assert re.search(r"0:00:10\s+MI\s+0.20\s+0.81", seen["text"])
    assert re.search(r"NORM\s+1\s+56.5 %", seen["text"])


def test_a_recording_of_nothing_opens(tmp_path):
    class Nothing:
        name, fs, leads, n_samples, start, notes = "x", 250.0, ("II",), 2500, None, ()

        def read(self, start, stop):
            return np.full((stop - start, 1), np.nan, np.float32)

    empty = pd.DataFrame()
    found = types.SimpleNamespace(beats=empty, events=empty, spans=empty, windows=empty)
    found.summary, found.card, found.notes = {}, {}, ()
    path = write_record_page(tmp_path / "record.html", Nothing(), found)
    seen = open_page(
        path, script=f"{WAIT} ecg.next(); ecg.zoom(0.01); await ecg.settle(); return 1;"
    )
    assert seen["errors"] == [] and seen["result"] == 1
