"""Measure the page of a recording: size, time and memory to write it, time to open it in Chromium.

    python tests/bench/record_page.py MITDB_DIR
    python tests/bench/record_page.py MITDB_DIR --picture mitbih_beats 106

Records are those of MIT-BIH (two leads, 360 Hz): one of 30 minutes as it is, and 24 hours made of
48 of them one after the other, read in blocks. Beats are the reference's, with invented
probabilities and marks of waves: nothing here says how well a model reads. Writing is measured in
a process of its own, without Keras; opening in a fresh headless Chromium by its own clock, from the
request of the file to the first view at full detail, and up to the last strip; the median of three.
Writes outputs/record_page/speed.json. With --picture it draws the README's instead: the page of one
record as that model reads it, at its first bigeminy, as outputs/record_page/record.png.
"""

import argparse
import functools
import http.server
import json
import pathlib
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types

import numpy as np
import pandas as pd

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
OUT = pathlib.Path("outputs/record_page")
SHOW = """<script>ecg.ready.then(() => {
  const kind = document.getElementById("kind");
  kind.value = "ebigeminy";
  kind.dispatchEvent(new Event("change"));
  ecg.next();
});</script></body>"""
LENGTHS = {"30 minutes": ("106",), "24 hours": None}
TELL = """<script>ecg.ready.then(async (first) => {
  await ecg.strips;
  const body = JSON.stringify({first, all: performance.now(), text: document.title});
  fetch("http://127.0.0.1:PORT/", {method: "POST", mode: "no-cors", body});
});</script></body>"""


class Joined:
    """Recordings one after the other, as one."""

    def __init__(self, name, parts):
        self.name, self.parts, self.start, self.notes = name, parts, None, ()
        self.fs, self.leads = parts[0].fs, parts[0].leads
        self.ends = np.cumsum([part.n_samples for part in parts])
        self.n_samples = int(self.ends[-1])

    def read(self, start, stop):
        blocks = []
        for part, end in zip(self.parts, self.ends):
            first = end - part.n_samples
            low, high = max(start, first), min(stop, end)
            if low < high:
                blocks.append(part.read(int(low - first), int(high - first)))
        return np.concatenate(blocks)


def opened(directory, names):
    """The recordings of these names, joined."""
    from ecg_keras.recordings import open_recording

    known = {name: open_recording(pathlib.Path(directory) / name) for name in set(names)}
    return Joined(" ".join(names[:3]), [known[name] for name in names])


def annotated(directory, names):
    """An annotation of the reference's beats, as plain values that another process can load."""
    from ecg_keras.annotate import Reading, finish
    from ecg_keras.recordings import read_recording

    source, classes = opened(directory, names), list("NSVFQ")
    known = {name: read_recording(directory, name, lead=None) for name in set(names)}
    firsts = source.ends - [part.n_samples for part in source.parts]
    peaks = np.concatenate([known[name].peaks + first for name, first in zip(names, firsts)])
    said = np.concatenate([[classes.index(c) for c in known[name].aami] for name in names])
    rng = np.random.default_rng(0)
    p = np.full((len(peaks), 5), 0.01, np.float32)
    p[np.arange(len(peaks)), said] = rng.uniform(0.7, 1, len(peaks))
    seconds = -(-source.n_samples // int(source.fs))
    nothing = np.zeros(seconds, bool)
    states = (rng.random((seconds, 2)) < 0.002).astype(np.int8)
    why = np.full(len(peaks), "", object)
    read = Reading([0, 1], peaks, p, why, states, nothing)
    found = finish(source, {"classes": classes, "name": "reference"}, read, [])
    offsets = {"p_on": -0.2, "p_peak": -0.16, "p_off": -0.11, "qrs_on": -0.05, "qrs_off": 0.05}
    offsets |= {"t_on": 0.15, "t_peak": 0.25, "t_off": 0.33}
    waves = {"r": peaks}
    for name, at in offsets.items():
        waves[name] = peaks + np.rint(source.fs * (at + rng.normal(0, 0.008, len(peaks)))).astype(
            int
        )
    names = "beats events spans windows summary card notes".split()
    values = {name: getattr(found, name) for name in names}
    return types.SimpleNamespace(**values), pd.DataFrame(waves).astype("Int64")


def write_here(directory, names, pickled, path):
    """Write the page and print seconds, MB held at most, and MB before."""
    from ecg_keras.record_page import write_record_page

    def held_mb():  # not by getrusage, which counts what the parent held before exec
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6

    found, waves = pickle.loads(pathlib.Path(pickled).read_bytes())
    source = opened(directory, names)
    source.read(0, 1000)
    before, start, cpu = held_mb(), time.perf_counter(), time.process_time()
    write_record_page(path, source, found, waves=waves)
    told = {"write_s": time.perf_counter() - start, "write_cpu_s": time.process_time() - cpu}
    print(json.dumps(told | {"peak_mb": held_mb(), "peak_mb_before": before}))


def open_once(path):
    """Milliseconds that Chromium's own clock shows at the first view and at the last strip."""
    told, done = [], threading.Event()

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        log_message = functools.partialmethod(lambda self, *said: None)

    server = http.server.HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = path.with_name("told.html")
        text = path.read_text(encoding="utf-8")
        tell = TELL.replace("PORT", str(server.server_port))
        page.write_text(tell.join(text.rsplit("</body>", 1)), encoding="utf-8")
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --window-size=1280,900"
        program = shutil.which("chromium") or shutil.which("google-chrome")
        command = [
            program,
            *flags.split(),
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        browser = subprocess.Popen(
            [*command, page.as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert done.wait(120), "Chromium told nothing"
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            server.server_close()
    return told[0]


def draw(directory, model, name):
    """The first screen of a record's page as a PNG of 96 colours."""
    from PIL import Image

    from ecg_keras import waves
    from ecg_keras.annotate import annotate
    from ecg_keras.record_page import write_record_page
    from ecg_keras.recordings import open_recording

    source = open_recording(pathlib.Path(directory) / name)
    found, marks = annotate(model, source), None
    if hasattr(waves, "delineate"):
        x = source.read(0, source.n_samples)
        marks = waves.delineate(x[:, 0], fs=source.fs, peaks=found.beats["sample"].to_numpy())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        page = write_record_page(folder / "record.html", source, found, waves=marks)
        text = page.read_text(encoding="utf-8")
        page.write_text(SHOW.join(text.rsplit("</body>", 1)), encoding="utf-8")
        flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,866"
        picture = folder / "page.png"
        command = [PROGRAM, *flags.split(), f"--user-data-dir={folder / 'profile'}"]
        command += ["--virtual-time-budget=5000", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        OUT.mkdir(parents=True, exist_ok=True)
        Image.open(picture).convert("RGB").quantize(96).save(OUT / "record.png", optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--write", nargs=3, metavar=("NAMES", "PICKLE", "PAGE"))
    parser.add_argument("--picture", nargs=2, metavar=("MODEL", "RECORD"))
    options = parser.parse_args()
    if options.picture:
        draw(options.directory, *options.picture)
        return
    if options.write:
        names, pickled, page = options.write
        write_here(options.directory, names.split(), pickled, page)
        return
    from ecg_keras.recordings import list_records
    from ecg_keras.report import versions
    from ecg_keras.storage import write_json

    results = {}
    for length, names in LENGTHS.items():
        if names is None:
            every = list_records(options.directory)
            every = [name for name in every if name not in ("114",)]  # its leads are swapped
            names = [every[i % len(every)] for i in range(48)]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            made = annotated(options.directory, names)
            (folder / "made").write_bytes(pickle.dumps(made))
            page = folder / "record.html"
            arguments = ["--write", " ".join(names), str(folder / "made"), str(page)]
            command = [sys.executable, __file__, options.directory, *arguments]
            told = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(told.stdout.splitlines()[-1])
            row |= {"page_mb": page.stat().st_size / 1e6, "beats": len(made[0].beats)}
            seen = [open_once(page) for _ in range(3)]
            row["first_view_s"] = statistics.median(one["first"] for one in seen) / 1000
            row["last_strip_s"] = statistics.median(one["all"] for one in seen) / 1000
            row["slowest_first_view_s"] = max(one["first"] for one in seen) / 1000
        results[length] = {name: round(value, 3) for name, value in row.items()}
        print(length, results[length], flush=True)
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True)
    results["chromium"] = " ".join(told.stdout.split()[:2])
    results["versions"] = versions()
    results["command"] = f"python tests/bench/record_page.py {pathlib.Path(options.directory).name}"
    write_json(OUT / "speed.json", results)


if __name__ == "__main__":
    main()
