"""Open a page in headless Chromium and say what a visitor would see and what went wrong.

The page is copied beside itself with a few lines of script that write what they observe into
the document; Chromium prints that document and its console. Nothing but Chromium is needed.
"""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars "
    "--enable-logging=stderr --virtual-time-budget=5000"
).split()

_LEAST_WIDTH = 500  # pixels; Chromium makes no narrower window

_FIRST = """<script>
window.__errors = [];
addEventListener('error', e => __errors.push(
  e.message || 'failed to load ' + String(e.target.src || e.target.href).slice(0, 200)), true);
addEventListener('unhandledrejection', e => __errors.push('unhandled rejection: ' + e.reason));
const __error = console.error;
console.error = (...a) => { __errors.push(a.join(' ')); __error(...a); };
</script>"""

_LAST = """<script>
addEventListener('load', () => setTimeout(async () => {
  let result = null;
  try { result = await (async () => { SCRIPT })(); } catch (e) { __errors.push('script: ' + e); }
  const seen = {
    result,
    title: document.title,
    headings: [...document.querySelectorAll('h1, h2, h3')].map(h => h.textContent),
    sections: [...document.querySelectorAll('section[id]')].map(s => s.id),
    images: [...document.images].map(i => (
      {alt: i.alt, width: i.naturalWidth, shown: i.getBoundingClientRect().width})),
    requests: performance.getEntriesByType('resource').map(r => r.name)
      .filter(n => !n.startsWith('data:')),
    overflow: document.documentElement.scrollWidth - innerWidth,
    width: innerWidth,
    text: document.body.innerText,
    errors: __errors,
  };
  const out = document.createElement('pre');
  out.id = '__seen'; out.textContent = JSON.stringify(seen);
  top.document.body.append(out);
}, SETTLE));
</script>"""


def open_page(path, *, width=1200, height=900, settle_ms=200, script=""):
    """Open an HTML file and return what was seen, after `script` (the body of an async function).

    Returns a dict: ``result`` (what the script returned), ``title, headings, sections`` (ids),
    ``images`` (alt, natural width, shown width), ``failed_images`` (their alt), ``requests``
    (addresses fetched), ``overflow`` (pixels that the page is wider than the window), ``text`` (as
    a visitor reads it) and ``errors`` (of scripts, of the console, of loading). Frames are not
    drawn while the script runs: it must not wait for requestAnimationFrame.
    Skips the test where there is no Chromium.
    """
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if name and (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium, or set CHROMIUM to its path)")
    path = pathlib.Path(path).resolve()
    source = path.read_text(encoding="utf-8")
    assert "<head>" in source and "</body>" in source, f"{path} is not a whole page"
    watched = source.replace("<head>", "<head>" + _FIRST, 1)
    before, after = watched.rsplit("</body>", 1)
    last = _LAST.replace("SETTLE", str(settle_ms)).replace("SCRIPT", script)
    watched = before + last + "</body>" + after
    if width < _LEAST_WIDTH:  # of a window; a frame may be as narrow as a phone
        style = f"width:{width}px;height:{height}px;border:0"
        frame = f'<iframe style="{style}" srcdoc="{html.escape(watched)}"></iframe>'
        watched = f"<!doctype html><html><body>{frame}</body></html>"
    copy = path.with_name(f".watched-{path.name}")
    copy.write_text(watched, encoding="utf-8")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        try:
            run = subprocess.run(
                [
                    program,
                    *_FLAGS,
                    f"--user-data-dir={profile}",
                    f"--window-size={width},{height}",
                    "--dump-dom",
                    copy.as_uri(),
                ],
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            copy.unlink()
    found = re.search(r'<pre id="__seen">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, f"Chromium printed no page: {run.stderr[-2000:]}"
    seen = json.loads(html.unescape(found.group(1)))
    seen["errors"] += re.findall(r'CONSOLE.*?\] "(.*)"', run.stderr)
    seen["failed_images"] = [image["alt"] for image in seen["images"] if not image["width"]]
    return seen
