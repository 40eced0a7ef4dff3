// Draws the page of a recording; record_page.py says how the data are packed. Times are in seconds,
// sizes in CSS pixels: 96 of them are an inch, so that a print at full size is true to the mm.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const meta = JSON.parse($("meta").textContent);
  const MM = 96 / 25.4, MISSING = -32768;
  const FS = meta.fs / meta.factor; // of the signal on this page
  const DURATION = meta.samples / FS, LEADS = meta.leads.length;
  const TOP = 38, AXIS = 20, EVENTS = 34; // rows above and below the lanes
  const MARKS = ["p_on", "p_peak", "p_off", "qrs_on", "qrs_off", "t_on", "t_peak", "t_off"];
  const MOST_ROWS = 500; // of the list of events
  const ecg = $("ecg"), over = $("overview");
  const startOfDay = meta.start ? meta.start.slice(11, 19).split(":").reduce((t, v) => 60 * t + +v, 0) : 0;
  const odd = (name) => name !== meta.normal && name !== "", abnormal = (name) => odd(name) && name !== "?";

  // ---------------------------------------------------------------- unpacking
  async function unpack(text) {
    const raw = atob(text.trim()), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
    writer.write(bytes);
    writer.close();
    return new Uint8Array(await new Response(stream.readable).arrayBuffer());
  }

  function columnsOf(bytes, columns) { // zigzag differences, low bytes first, to Int16Arrays
    const total = bytes.length / 2, n = total / columns, found = [];
    for (let c = 0; c < columns; c++) {
      const x = new Int16Array(n);
      for (let i = 0, k = c * n, v = 0; i < n; i++, k++) {
        const z = bytes[k] | (bytes[total + k] << 8);
        x[i] = v = ((v + ((z >>> 1) ^ -(z & 1))) << 16) >> 16;
      }
      found.push(x);
    }
    return found;
  }

  const chunks = new Map(), MOST_CHUNKS = 240;
  const N_CHUNKS = Math.ceil(meta.samples / meta.chunk);
  function chunk(number) { // its columns, or undefined while it is being unpacked
    const held = chunks.get(number);
    if (held) return held.columns;
    chunks.set(number, { wait: fetchChunk(number) });
    return undefined;
  }
  async function fetchChunk(number) {
    const columns = columnsOf(await unpack($("c" + number).textContent), LEADS);
    chunks.set(number, { columns });
    for (const old of chunks.keys()) {
      if (chunks.size <= MOST_CHUNKS) break;
      const second = (old * meta.chunk) / FS;
      if (chunks.get(old).columns && (second > view.start + span() + 120 || second < view.start - 120)) chunks.delete(old);
    }
    redraw();
    return columns;
  }
  async function need(first, last) { // all chunks of these samples
    for (let k = Math.max(0, Math.floor(first / meta.chunk)); k <= Math.min(N_CHUNKS - 1, Math.floor(last / meta.chunk)); k++) {
      if (!chunks.has(k)) chunk(k);
      const held = chunks.get(k);
      if (held.wait) await held.wait;
    }
  }
  function valueAt(sample, lead) { // mV at a sample of this page; NaN where unknown
    const k = Math.floor(sample / meta.chunk), columns = sample >= 0 && sample < meta.samples ? chunk(k) : undefined;
    const v = columns ? columns[lead][sample - k * meta.chunk] : MISSING;
    return v === MISSING ? NaN : v * meta.step;
  }
  function baseline(t, lead) { // slow middle of the trace, in mV: medians of minutes, joined by lines
    const at = (t * FS) / meta.chunk - 0.5, k = Math.max(0, Math.min(N_CHUNKS - 1, Math.floor(at)));
    const a = meta.medians[k][lead], b = meta.medians[Math.min(N_CHUNKS - 1, k + 1)][lead];
    return a + (b - a) * Math.max(0, Math.min(1, at - k));
  }

  // ---------------------------------------------------------------- what is known
  let low = [], high = []; // per lead, one value a bin
  let beats = { n: 0, time: [], rr: [], cls: [], why: [], sure: [] };
  let minutes = []; // per minute: rate and beats of each class
  let stops = []; // [seconds, beat or -1, kind]

  function readBeats(bytes) {
    const n = meta.beats, buffer = bytes.buffer;
    const sample = new Int32Array(buffer, 0, n), rr = new Uint16Array(buffer, 4 * n, n);
    let at = 6 * n, marks = null;
    if (meta.waves) {
      marks = MARKS.map((_, i) => new Int16Array(buffer, at + 2 * n * i, n));
      at += 2 * n * MARKS.length;
    }
    const bytesOf = (i) => new Uint8Array(buffer, at + n * i, n);
    const time = Float64Array.from(sample, (s) => s / meta.fs);
    beats = { n, sample, time, rr, marks, cls: bytesOf(0), why: bytesOf(1), sure: bytesOf(2) };
    minutes = Array.from({ length: Math.ceil(DURATION / 60) }, () => ({ sum: 0, n: 0, of: new Uint32Array(meta.classes.length) }));
    for (let i = 0; i < n; i++) {
      const minute = minutes[Math.min(minutes.length - 1, Math.floor(time[i] / 60))];
      minute.of[beats.cls[i]]++;
      if (rr[i] && meta.classes[beats.cls[i]] !== "?") { minute.sum += rr[i]; minute.n++; }
    }
  }
  const mark = (name, beat) => {
    const v = beats.marks ? beats.marks[MARKS.indexOf(name)][beat] : MISSING;
    return v === MISSING ? NaN : beats.time[beat] + v / meta.fs;
  };
  function lowerBound(values, wanted) { // first index with values[i] >= wanted
    let a = 0, b = values.length;
    while (a < b) { const m = (a + b) >> 1; if (values[m] < wanted) a = m + 1; else b = m; }
    return a;
  }

  // ---------------------------------------------------------------- view
  const view = { start: 0, pxPerS: 25 * MM, gain: 10 };
  let reached = null, calipers = null, measuring = false, showMarks = true, chosen = -1, printing = false;
  let lane = 170, width = 1000, queued = false, drawn = null, allDrawn = null;
  const ready = new Promise((done) => { drawn = done; }), allStrips = new Promise((done) => { allDrawn = done; });
  const span = () => width / view.pxPerS;
  const speed = () => view.pxPerS / MM;
  const xOf = (t) => (t - view.start) * view.pxPerS;
  const tOf = (x) => view.start + x / view.pxPerS;
  const middle = (lead) => TOP + lane * (lead + 0.55);
  const yOf = (mv, lead) => middle(lead) - (mv - baseline(view.start + span() / 2, lead)) * view.gain * MM;
  function keepInside() {
    const least = width / Math.max(DURATION, 1), most = 250 * MM;
    view.pxPerS = Math.max(Math.min(least, 25 * MM), Math.min(most, view.pxPerS));
    view.start = Math.max(0, Math.min(DURATION - span(), view.start));
    if (span() > DURATION) view.start = 0;
  }
  function zoom(factor, x = width / 2) {
    const t = tOf(x);
    view.pxPerS *= factor;
    keepInside();
    view.start = t - x / view.pxPerS;
    changed();
  }
  function move(seconds) { view.start += seconds; changed(); }
  function go(t, beat = -1) { // the middle of the view to a time
    if (speed() < 8) view.pxPerS = 25 * MM;
    view.start = t - span() / 2;
    chosen = beat;
    changed();
    reached = [view.start, t]; // near an end of the recording t is not in the middle
  }
  function changed() { keepInside(); redraw(); }
  function redraw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; draw(); });
  }

  // ---------------------------------------------------------------- drawing
  let ink = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement), get = (name) => style.getPropertyValue(name).trim();
    ink = { paper: get("--paper"), fine: get("--fine"), bold: get("--bold"), trace: get("--trace"), quiet: get("--quiet"), text: get("--ink"), shade: get("--shade") };
    ink.dark = !printing && matchMedia("(prefers-color-scheme: dark)").matches;
    if (printing) Object.assign(ink, { paper: "#ffffff", fine: "#ececec", bold: "#cfcfcf", trace: "#000", quiet: "#444", text: "#000", shade: "#0000001f" });
    ink.of = meta.classes.map((name) => lighter(meta.colours[name] || "#6b7782"));
  }
  function lighter(colour) { // for dark paper
    if (!ink.dark) return colour;
    return "#" + [1, 3, 5].map((i) => Math.round(0.55 * parseInt(colour.slice(i, i + 2), 16) + 0.45 * 255).toString(16).padStart(2, "0")).join("");
  }
  function pen(canvas, height) { // a context of the canvas at the screen's resolution
    const w = canvas.clientWidth || 700, ratio = printing ? 3 : Math.min(3, devicePixelRatio || 1);
    if (height) canvas.style.height = height + "px";
    const h = height || canvas.clientHeight;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = ink.paper;
    c.fillRect(0, 0, w, h);
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "alphabetic";
    return [c, w, h];
  }
  const tint = (of, alpha) => (of < 0 ? "#808080" : ink.of[of]) + alpha;
  function lines(c, colour, thickness, paths) {
    c.strokeStyle = colour;
    c.lineWidth = thickness;
    c.beginPath();
    paths();
    c.stroke();
  }
  function paper(c, w, top, bottom, start, pxPerS) { // squares of 1 and 5 mm, or seconds from afar
    const mm = MM, perS = pxPerS / MM;
    const standard = [12.5, 25, 50].find((v) => Math.abs(v - perS) < 0.01);
    let fine = standard ? 1 / standard : 0.04;
    let bold = 5 * fine;
    const steps = [0.2, 1, 5, 15, 60, 300, 900, 3600, 14400];
    while (fine * pxPerS < 3.2) { fine = bold; bold = steps.find((s) => s > fine * 1.01) || fine * 4; }
    for (const [step, up, colour, thick] of [[fine, mm, ink.fine, 0.7], [bold, 5 * mm, ink.bold, 0.9]]) {
      lines(c, colour, thick, () => {
        for (let k = Math.ceil(start / step); (k * step - start) * pxPerS <= w; k++) {
          const x = (k * step - start) * pxPerS;
          c.moveTo(x, top);
          c.lineTo(x, bottom);
        }
        for (let y = top; y <= bottom + 0.1; y += up) { c.moveTo(0, y); c.lineTo(w, y); }
      });
    }
  }
  function clock(t, digits = 0) {
    const scale = 10 ** digits, whole = Math.floor(Math.max(0, t) * scale + 1e-6), s = Math.floor(whole / scale) + startOfDay;
    const two = (v) => String(v).padStart(2, "0");
    const hour = Math.floor(s / 3600);
    const text = `${meta.start ? two(hour % 24) : hour}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    return (digits ? text + "." + String(whole % scale).padStart(digits, "0") : text) + (meta.start && hour > 23 ? ` (day ${Math.floor(hour / 24) + 1})` : "");
  }
  function trace(c, lead, from, to, x, y) { // the line of one lead between two times
    const first = Math.max(0, Math.floor(from * FS)), last = Math.min(meta.samples - 1, Math.ceil(to * FS));
    let open = false;
    for (let i = first, k = -1, end = -1, column = null, zero = 0; i <= last; i++) {
      if (i >= end || k < 0) {
        k = Math.floor(i / meta.chunk);
        zero = k * meta.chunk;
        end = zero + meta.chunk;
        const columns = chunk(k);
        if (!columns) { i = end - 1; open = false; continue; }
        column = columns[lead];
      }
      const v = column[i - zero];
      if (v === MISSING) { open = false; continue; }
      if (open) c.lineTo(x(i / FS), y(v * meta.step)); else c.moveTo(x(i / FS), y(v * meta.step));
      open = true;
    }
  }
  function columnsOfPixels(c, lead, y) { // from afar: lowest to highest of every pixel
    const perPixel = 1 / view.pxPerS, binS = meta.bin / FS, coarse = perPixel >= binS * 0.75;
    for (let x = 0; x < width; x++) {
      const from = tOf(x), to = from + perPixel;
      if (from >= DURATION) break;
      let least = Infinity, most = -Infinity;
      if (coarse) {
        const a = Math.floor(from / binS), b = Math.min(low[lead].length - 1, Math.max(a, Math.ceil(to / binS) - 1));
        for (let i = a; i <= b; i++) {
          if (low[lead][i] === MISSING) continue;
          least = Math.min(least, low[lead][i]);
          most = Math.max(most, high[lead][i]);
        }
      } else {
        const a = Math.floor(from * FS), b = Math.min(meta.samples - 1, Math.ceil(to * FS));
        for (let i = a; i <= b;) {
          const k = Math.floor(i / meta.chunk), columns = chunk(k), zero = k * meta.chunk;
          const end = Math.min(b, zero + meta.chunk - 1);
          for (; columns && i <= end; i++) {
            const v = columns[lead][i - zero];
            if (v === MISSING) continue;
            if (v < least) least = v;
            if (v > most) most = v;
          }
          i = end + 1;
        }
      }
      if (least <= most) { c.moveTo(x + 0.5, y(most * meta.step) - 0.4); c.lineTo(x + 0.5, y(least * meta.step) + 0.4); }
    }
  }
  function shaded(c, x0, x1, y0, y1, text) { // a stretch that was not read: grey, hatched, with the reason
    x0 = Math.max(-20, x0);
    x1 = Math.min(width + 20, Math.max(x1, x0 + 1.5));
    c.fillStyle = ink.shade;
    c.fillRect(x0, y0, x1 - x0, y1 - y0);
    c.save();
    c.beginPath();
    c.rect(x0, y0, x1 - x0, y1 - y0);
    c.clip();
    lines(c, ink.shade, 1, () => {
      for (let x = Math.floor((x0 - (y1 - y0)) / 12) * 12; x < x1; x += 12) { c.moveTo(x, y1); c.lineTo(x + y1 - y0, y0); }
    });
    c.restore();
    if (x1 - Math.max(0, x0) > c.measureText(text).width + 8) {
      c.fillStyle = ink.text;
      c.textAlign = "left";
      c.fillText(text, Math.max(0, x0) + 5, y1 - 6);
    }
  }

  function draw() {
    lane = LEADS > 6 ? 84 : LEADS > 3 ? 110 : LEADS === 1 ? 227 : innerWidth < 640 ? 152 : 170;
    width = ecg.clientWidth || 700;
    keepInside();
    const [c, w, h] = pen(ecg, TOP + lane * LEADS + EVENTS + AXIS);
    const bottom = TOP + lane * LEADS, from = view.start, to = from + span();
    paper(c, w, TOP, bottom, from, view.pxPerS);
    for (const s of meta.spans) {
      if (s.stop_s < from || s.start_s > to) continue;
      const lead = meta.leads.indexOf(s.lead);
      if (s.lead && lead < 0) continue;
      const [y0, y1] = s.lead ? [TOP + lane * lead, TOP + lane * (lead + 1)] : [TOP, bottom];
      shaded(c, xOf(s.start_s), xOf(s.stop_s), y0, y1, s.why);
    }
    for (const e of meta.events) {
      if (e.kind !== "flutter" || e.stop_s < from || e.start_s > to) continue;
      c.fillStyle = tint(meta.classes.indexOf(e.class), "1f");
      c.fillRect(xOf(e.start_s), TOP, (e.stop_s - e.start_s) * view.pxPerS, bottom - TOP);
    }
    const perPixel = FS / view.pxPerS, afar = perPixel > 4;
    const first = lowerBound(beats.time, from - 1), last = lowerBound(beats.time, to + 1);
    const apart = last - first > 1 ? w / Math.max(1, last - first) : 99;
    c.save();
    c.beginPath();
    c.rect(0, afar ? TOP : 0, w, bottom);
    c.clip();
    for (let lead = 0; lead < LEADS; lead++) {
      const y = (mv) => yOf(mv, lead);
      if (afar) lines(c, ink.trace, 1, () => columnsOfPixels(c, lead, y));
      else {
        c.lineJoin = "round";
        lines(c, ink.trace, 1.25, () => trace(c, lead, from - 0.05, to + 0.05, xOf, y));
        for (let i = first; i < last; i++) { // the QRS of other classes in their colour
          if (!odd(meta.classes[beats.cls[i]])) continue;
          lines(c, ink.of[beats.cls[i]], 1.9, () => trace(c, lead, beats.time[i] - 0.13, beats.time[i] + 0.22, xOf, y));
        }
      }
      c.fillStyle = ink.text;
      c.textAlign = "left";
      c.font = "bold 13px system-ui, sans-serif";
      const label = c.measureText(meta.leads[lead]).width;
      c.save();
      c.globalAlpha = 0.8;
      c.fillStyle = ink.paper;
      c.fillRect(3, TOP + lane * lead + 4, label + 8, 18);
      c.restore();
      c.fillText(meta.leads[lead], 7, TOP + lane * lead + 18);
      const mv = view.gain * MM; // the length of 1 mV
      lines(c, ink.quiet, 2, () => { const y = middle(lead) + mv / 2; c.moveTo(8, y); c.lineTo(4, y); c.lineTo(4, y - mv); c.lineTo(8, y - mv); });
    }
    c.restore();
    drawBeats(c, first, last, apart, bottom);
    if (meta.windows.start.length) drawWindows(c, from, to);
    if (beats.marks && showMarks && apart > 34) drawMarks(c, first, last);
    drawEvents(c, from, to, bottom);
    drawAxis(c, from, to, bottom + EVENTS);
    if (calipers) drawCalipers(c, bottom);
    drawOverview();
    tell(first, last, from, to);
  }
  function drawBeats(c, first, last, apart, bottom) {
    c.textAlign = "center";
    for (let i = first; i < last; i++) {
      const x = xOf(beats.time[i]), name = meta.classes[beats.cls[i]], other = odd(name);
      const colour = other ? ink.of[beats.cls[i]] : ink.quiet;
      if (apart > 11 || other) {
        lines(c, colour, other && apart < 6 ? 1 : 1.2, () => { c.moveTo(x, 17); c.lineTo(x, apart > 11 ? 22 : 30); });
      }
      if (other && apart > 11 && name !== "?") {
        c.save();
        c.globalAlpha = 0.3;
        c.setLineDash([3, 3]);
        lines(c, colour, 1, () => { c.moveTo(x, TOP); c.lineTo(x, bottom); });
        c.restore();
      }
      if (i === chosen) {
        c.save();
        c.globalAlpha = 0.13;
        c.fillStyle = colour;
        c.fillRect(x - 0.2 * view.pxPerS, 0, 0.5 * view.pxPerS, bottom);
        c.restore();
      }
      if (apart > 11 && name) {
        c.font = other ? "bold 14px system-ui, sans-serif" : "13px system-ui, sans-serif";
        c.fillStyle = colour;
        c.fillText(name, x, 13);
      }
      if (beats.rr[i] && (beats.rr[i] / 1000) * view.pxPerS > 34) { // between the two beats
        c.font = "11px system-ui, sans-serif";
        c.fillStyle = ink.quiet;
        c.fillText(beats.rr[i], x - (beats.rr[i] / 2000) * view.pxPerS, 32);
      }
    }
    c.font = "12px system-ui, sans-serif";
  }
  function drawWindows(c, from, to) {
    const said = meta.windows;
    c.textAlign = "left";
    for (let i = lowerBound(said.stop, from); i < said.start.length && said.start[i] < to; i++) {
      const x = xOf(said.start[i]), x1 = xOf(said.stop[i]);
      lines(c, ink.quiet, 1, () => { c.moveTo(x, 2); c.lineTo(x, TOP); });
      c.fillStyle = ink.text;
      const p = said.p[i].map((v, k) => `${meta.classes[k]} ${v ?? "?"} %`).join("  ");
      for (const text of [`${said.said[i] || "none"}   (${p})`, said.said[i] || "none"]) {
        if (c.measureText(text).width < x1 - Math.max(0, x) - 8) { c.fillText(text, Math.max(0, x) + 5, 13); break; }
      }
    }
  }
  function drawMarks(c, first, last) {
    const y = TOP + lane * (meta.lead + 1) - 10;
    c.textAlign = "center";
    c.font = "11px system-ui, sans-serif";
    for (let i = first; i < last; i++) {
      for (const [name, on, off] of [["P", "p_on", "p_off"], ["QRS", "qrs_on", "qrs_off"], ["T", "t_on", "t_off"]]) {
        const a = xOf(mark(on, i)), b = xOf(mark(off, i));
        if (!(b > a)) continue;
        lines(c, ink.text, 1.2, () => { c.moveTo(a, y - 4); c.lineTo(a, y); c.lineTo(b, y); c.lineTo(b, y - 4); });
        c.fillStyle = ink.text;
        if (b - a > c.measureText(name).width - 2) c.fillText(name, (a + b) / 2, y - 4);
      }
    }
    c.font = "12px system-ui, sans-serif";
  }
  const RHYTHM = ["bigeminy", "trigeminy", "bradycardia", "tachycardia", "flutter"];
  function drawEvents(c, from, to, bottom) {
    const free = [-1e9, -1e9]; // where the text of each row ends
    c.textAlign = "left";
    for (const e of meta.events) {
      if (e.stop_s < from || e.start_s > to) continue;
      const row = RHYTHM.includes(e.kind) ? 1 : 0, y = bottom + 4 + 15 * row;
      const a = Math.max(2, xOf(e.start_s)), b = Math.max(a + 3, Math.min(width - 2, xOf(e.stop_s)));
      const of = meta.classes.indexOf(e.class), colour = of < 0 ? ink.text : ink.of[of];
      lines(c, colour, 3, () => { c.moveTo(a, y); c.lineTo(b, y); });
      const wide = c.measureText(e.text).width, x = Math.min(a, width - wide - 2);
      if (x > free[row] + 8 && view.pxPerS > 8) {
        c.fillStyle = colour;
        c.fillText(e.text, x, y + 12);
        free[row] = x + wide;
      }
    }
  }
  const TICKS = [0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600];
  function drawAxis(c, from, to, y) {
    const step = TICKS.find((s) => s * view.pxPerS > (s < 1 ? 84 : 72)) || 43200;
    c.fillStyle = ink.quiet;
    c.textAlign = "center";
    for (let k = Math.ceil((from + startOfDay) / step); k * step - startOfDay <= to; k++) {
      const t = k * step - startOfDay, x = xOf(t);
      lines(c, ink.quiet, 1, () => { c.moveTo(x, y); c.lineTo(x, y + 4); });
      if (x > 24 && x < width - 24) c.fillText(clock(t, step < 1 ? 1 : 0), x, y + 16);
    }
  }
  function drawCalipers(c, bottom) {
    const { t0, t1, y0, y1 } = calipers, a = xOf(t0), b = xOf(t1), ms = Math.abs(t1 - t0) * 1000;
    const mv = Math.abs(y1 - y0) / (view.gain * MM);
    c.save();
    c.globalAlpha = 0.1;
    c.fillStyle = ink.text;
    c.fillRect(Math.min(a, b), TOP, Math.abs(b - a), bottom - TOP);
    c.restore();
    lines(c, ink.text, 1.2, () => {
      for (const x of [a, b]) { c.moveTo(x, TOP); c.lineTo(x, bottom); }
      for (const y of [y0, y1]) { c.moveTo(Math.min(a, b), y); c.lineTo(Math.max(a, b), y); }
    });
    const text = `${ms.toFixed(0)} ms` + (ms > 0 ? `   ${(60000 / ms).toFixed(0)} per minute` : "") + `   ${mv.toFixed(2)} mV`;
    c.font = "bold 13px system-ui, sans-serif";
    const wide = c.measureText(text).width + 12, x = Math.max(2, Math.min(width - wide - 2, (a + b - wide) / 2));
    c.fillStyle = ink.text;
    c.fillRect(x, TOP + 3, wide, 20);
    c.fillStyle = ink.paper;
    c.textAlign = "left";
    c.fillText(text, x + 6, TOP + 17);
    c.font = "12px system-ui, sans-serif";
  }

  function drawOverview() {
    const [c, w, h] = pen(over), axis = h - 16, split = Math.round(axis * 0.52);
    const scale = w / DURATION;
    for (const s of meta.spans) {
      if (s.lead) continue;
      c.fillStyle = ink.shade;
      c.fillRect(s.start_s * scale, 0, Math.max(1, (s.stop_s - s.start_s) * scale), axis);
    }
    for (const e of meta.events) {
      if (e.kind !== "flutter") continue;
      c.fillStyle = tint(meta.classes.indexOf(e.class), "48");
      c.fillRect(e.start_s * scale, 0, Math.max(1.5, (e.stop_s - e.start_s) * scale), axis);
    }
    if (meta.windows.start.length) windowsOverview(c, scale, axis);
    else minutesOverview(c, w, scale, axis, split);
    const step = TICKS.find((s) => s >= 60 && s * scale > 64) || 86400;
    c.fillStyle = ink.quiet;
    c.textAlign = "center";
    for (let k = Math.ceil(startOfDay / step); k * step - startOfDay <= DURATION; k++) {
      const t = k * step - startOfDay, x = t * scale;
      lines(c, ink.quiet, 1, () => { c.moveTo(x, axis); c.lineTo(x, axis + 3); });
      if (x > 22 && x < w - 22) c.fillText(clock(t).replace(/:00( |$)/, "$1"), x, h - 3);
    }
    const x = view.start * scale, wide = Math.max(3, span() * scale);
    c.fillStyle = ink.dark ? "#ffffff2b" : "#1b2a3a22";
    c.fillRect(x, 0, wide, axis);
    lines(c, ink.text, 1.4, () => c.rect(x, 0.7, wide, axis - 1.4));
    over.setAttribute("aria-valuemax", Math.round(DURATION));
    over.setAttribute("aria-valuenow", Math.round(view.start));
    over.setAttribute("aria-valuetext", clock(view.start));
  }
  function minutesOverview(c, w, scale, axis, split) {
    const group = Math.max(1, Math.ceil(1.6 / (60 * scale))), bars = []; // whole minutes per bar
    for (let i = 0; i < minutes.length; i += group) {
      const part = minutes.slice(i, i + group), n = part.reduce((s, m) => s + m.n, 0);
      bars.push({
        t: 60 * i,
        rate: n ? (60000 * n) / part.reduce((s, m) => s + m.sum, 0) : NaN,
        of: meta.classes.map((_, k) => part.reduce((s, m) => s + m.of[k], 0) / part.length),
      });
    }
    const rates = bars.map((b) => b.rate).filter(Number.isFinite);
    if (!rates.length) return;
    const least = Math.min(50, Math.floor(Math.min(...rates) / 10) * 10), most = Math.max(100, Math.ceil(Math.max(...rates) / 10) * 10);
    const y = (rate) => 5 + ((most - rate) / (most - least)) * (split - 12);
    for (const rate of [least, most]) lines(c, ink.bold, 1, () => { c.moveTo(0, y(rate)); c.lineTo(w, y(rate)); });
    lines(c, ink.trace, 1.4, () => {
      let open = false;
      for (const bar of bars) {
        if (!Number.isFinite(bar.rate)) { open = false; continue; }
        const a = bar.t * scale, b = Math.min(w, (bar.t + 60 * group) * scale);
        if (open) c.lineTo(a, y(bar.rate)); else c.moveTo(a, y(bar.rate));
        c.lineTo(b, y(bar.rate));
        open = true;
      }
    });
    const others = meta.classes.map((name, k) => k).filter((k) => odd(meta.classes[k]));
    const tallest = Math.max(4, ...bars.map((b) => others.reduce((s, k) => s + b.of[k], 0)));
    for (const bar of bars) {
      let base = axis;
      for (const k of others) {
        const tall = (bar.of[k] / tallest) * (axis - split - 4);
        c.fillStyle = ink.of[k];
        c.fillRect(bar.t * scale + 0.3, base - tall, Math.max(1, Math.min(60 * group, DURATION - bar.t) * scale - 0.6), tall);
        base -= tall;
      }
    }
    lines(c, ink.bold, 1, () => { c.moveTo(0, split); c.lineTo(w, split); });
    c.textAlign = "right";
    c.font = "11px system-ui, sans-serif";
    for (const [text, at] of [[most, y(most) + 10], [least, y(least) - 2], [Math.round(tallest), split + 11]]) {
      c.fillStyle = ink.paper + "cc";
      c.fillRect(w - 46, at - 9, 45, 11);
      c.fillStyle = ink.quiet;
      c.fillText(text + "/min", w - 4, at);
    }
  }
  function windowsOverview(c, scale, axis) {
    const said = meta.windows, tall = axis / said.p[0].length;
    for (let i = 0; i < said.start.length; i++) {
      said.p[i].forEach((p, k) => {
        c.globalAlpha = (p || 0) / 100;
        c.fillStyle = ink.of[k];
        c.fillRect(said.start[i] * scale, k * tall + 1, Math.max(1, (said.stop[i] - said.start[i]) * scale - 0.5), tall - 2);
      });
    }
    c.globalAlpha = 1;
    c.textAlign = "left";
    c.strokeStyle = ink.paper;
    c.lineWidth = 3;
    said.p[0].forEach((_, k) => {
      c.fillStyle = ink.text;
      c.strokeText(meta.classes[k], 4, k * tall + tall / 2 + 4);
      c.fillText(meta.classes[k], 4, k * tall + tall / 2 + 4);
    });
  }

  // ---------------------------------------------------------------- words under the trace
  let telling = 0;
  function tell(first, last, from, to) {
    const all = [$("speed"), $("gain")], known = [12.5, 25, 50].find((v) => Math.abs(v - speed()) < 0.01);
    all[0].querySelector("[value=free]").hidden = !!known;
    all[0].value = known ? String(known) : "free";
    all[0].querySelector("[value=free]").textContent = `${speed() < 1 ? speed().toPrecision(1) : speed().toFixed(1)} mm/s`;
    all[1].value = String(view.gain);
    clearTimeout(telling);
    const say = () => {
      const counts = new Map();
      let sum = 0, n = 0;
      for (let i = lowerBound(beats.time, from); i < beats.n && beats.time[i] <= to; i++) {
        const name = meta.classes[beats.cls[i]];
        counts.set(name, (counts.get(name) || 0) + 1);
        if (beats.rr[i]) { sum += beats.rr[i]; n++; }
      }
      let text = `${clock(from, span() < 60 ? 1 : 0)} to ${clock(Math.min(to, DURATION), span() < 60 ? 1 : 0)}`;
      if (n) text += ` \u00b7 heart rate ${((60000 * n) / sum).toFixed(0)}`;
      if (counts.size) text += " \u00b7 " + [...counts].map(([name, k]) => `${k} ${name || "beats"}`).join(", ");
      $("status").textContent = text;
      $("beat").textContent = chosen < 0 ? "Click a beat for its figures." : aboutBeat(chosen);
    };
    if (printing) say(); else telling = setTimeout(say, 120); // not at every step of a drag
  }
  function aboutBeat(i) {
    const name = meta.classes[beats.cls[i]], parts = [`Beat ${i + 1} of ${beats.n.toLocaleString("en")} at ${clock(beats.time[i], 2)}`];
    if (name) parts.push(name === "?" ? `not classified: ${meta.why[beats.why[i]] || "unknown"}` : `class ${name}` + (beats.sure[i] < 255 ? `, p ${(beats.sure[i] / 100).toFixed(2)}` : ""));
    const rr = beats.rr[i], next = i + 1 < beats.n ? beats.rr[i + 1] : 0;
    if (rr) parts.push(`RR ${rr} ms before (${(60000 / rr).toFixed(0)} per minute)`);
    if (next) parts.push(`${next} ms after`);
    const between = (a, b) => Math.round((mark(b, i) - mark(a, i)) * 1000);
    const qt = between("qrs_on", "t_off");
    for (const [label, ms] of [["PR", between("p_on", "qrs_on")], ["QRS", between("qrs_on", "qrs_off")], ["QT", qt], ["QTc (Bazett)", rr ? Math.round(qt / Math.sqrt(rr / 1000)) : NaN]]) {
      if (Number.isFinite(ms)) parts.push(`${label} ${ms} ms`);
    }
    return parts.join(" \u00b7 ");
  }

  // ---------------------------------------------------------------- previous and next
  function fillStops() {
    const kinds = [["any", "abnormal beat or event"]];
    for (const name of meta.classes) {
      const text = meta.windows.start.length ? `window ${name}` : `beat ${name}`;
      if (odd(name)) kinds.push(["c" + name, name === "?" ? "not classified" : text]);
    }
    if (meta.events.length) kinds.push(["events", "event"]);
    for (const kind of [...new Set(meta.events.map((e) => e.kind))]) kinds.push(["e" + kind, kind.replace("_", " ")]);
    for (const [value, text] of kinds) $("kind").append(new Option(text, value));
    setStops();
    $("kind").addEventListener("change", setStops);
  }
  function setStops() {
    const kind = $("kind").value;
    stops = [];
    for (let i = 0; i < beats.n; i++) {
      const name = meta.classes[beats.cls[i]];
      if (kind === "any" ? abnormal(name) : kind === "c" + name) stops.push([beats.time[i], i]);
    }
    for (const e of meta.events) if (kind === "any" || kind === "events" || kind === "e" + e.kind) stops.push([e.start_s, -1]);
    const said = meta.windows;
    said.start.forEach((t, i) => {
      const names = said.said[i].split(" ").filter(Boolean);
      if (kind === "any" ? names.some(abnormal) : names.some((name) => kind === "c" + name)) stops.push([(t + said.stop[i]) / 2, -1]);
    });
    stops.sort((a, b) => a[0] - b[0]);
  }
  function jump(direction) {
    const ends = view.start <= 0 ? -1 : view.start >= DURATION - span() - 1e-6 ? DURATION + 1 : view.start + span() / 2;
    const here = reached && reached[0] === view.start ? reached[1] : ends;
    const to = direction > 0 ? stops.find((s) => s[0] > here + 0.02) : stops.findLast((s) => s[0] < here - 0.02);
    if (!to) { $("status").textContent = direction > 0 ? "No more after this." : "None before this."; return; }
    let beat = to[1];
    if (beat < 0) { beat = lowerBound(beats.time, to[0] - 0.01); if (!(Math.abs(beats.time[beat] - to[0]) < 0.02)) beat = -1; }
    go(to[0], beat);
  }

  // ---------------------------------------------------------------- list of events
  function fillList() {
    if (!$("list")) return;
    const kinds = new Map();
    for (const e of meta.events) { const key = `${e.kind} ${e.class}`.trim(); kinds.set(key, (kinds.get(key) || 0) + 1); }
    $("filter").append(new Option(`all (${meta.events.length})`, ""));
    for (const [key, n] of kinds) $("filter").append(new Option(`${key.replace("_", " ")} (${n})`, key));
    $("filter").addEventListener("change", listEvents);
    listEvents();
  }
  function listEvents() {
    const wanted = $("filter").value, shown = meta.events.filter((e) => !wanted || `${e.kind} ${e.class}`.trim() === wanted);
    $("count").textContent = shown.length > MOST_ROWS ? `the first ${MOST_ROWS} of ${shown.length}; previous and next reach all` : "";
    $("list").replaceChildren(...shown.slice(0, MOST_ROWS).map((e) => {
      const row = document.createElement("tr"), button = document.createElement("button");
      button.className = "at";
      button.dataset.s = e.start_s;
      button.textContent = clock(e.start_s);
      row.insertCell().append(button);
      row.insertCell().textContent = e.text;
      for (const text of [(e.stop_s - e.start_s).toFixed(1), e.n_beats || "", e.rate_bpm ? e.rate_bpm.toFixed(0) : ""]) {
        const cell = row.insertCell();
        cell.className = "n";
        cell.textContent = text;
      }
      return row;
    }));
  }

  // ---------------------------------------------------------------- strips
  async function drawStrips() {
    for (const canvas of document.querySelectorAll("canvas.strip")) {
      const t = +canvas.dataset.s;
      await need((t - 6) * FS, (t + 6) * FS);
      strip(canvas, t);
    }
  }
  function strip(canvas, t) {
    const [c, w, h] = pen(canvas), perS = 25 * MM, from = t - w / perS / 2, lead = meta.lead;
    paper(c, w, 0, h, from, perS);
    let least = Infinity, most = -Infinity;
    for (let i = Math.floor(Math.max(0, t - 1) * FS); i < (t + 1) * FS && i < meta.samples; i++) {
      const v = valueAt(i, lead);
      if (v < least) least = v;
      if (v > most) most = v;
    }
    if (!(least <= most)) return;
    const zero = (least + most) / 2, x = (s) => (s - from) * perS, y = (mv) => h / 2 + 5 - (mv - zero) * 10 * MM;
    c.lineJoin = "round";
    lines(c, ink.trace, 1.2, () => trace(c, lead, from, from + w / perS, x, y));
    c.textAlign = "center";
    for (let i = lowerBound(beats.time, from); i < beats.n && beats.time[i] < from + w / perS; i++) {
      const other = odd(meta.classes[beats.cls[i]]);
      if (other) lines(c, ink.of[beats.cls[i]], 1.8, () => trace(c, lead, beats.time[i] - 0.13, beats.time[i] + 0.22, x, y));
      c.font = other ? "bold 13px system-ui, sans-serif" : "12px system-ui, sans-serif";
      c.fillStyle = other ? ink.of[beats.cls[i]] : ink.quiet;
      c.strokeStyle = ink.paper;
      c.lineWidth = 3;
      c.strokeText(meta.classes[beats.cls[i]], x(beats.time[i]), 13);
      c.fillText(meta.classes[beats.cls[i]], x(beats.time[i]), 13);
    }
    c.textAlign = "left";
    c.fillStyle = ink.quiet;
    c.fillText(meta.leads[lead], 5, h - 6);
  }
  function strips() { for (const canvas of document.querySelectorAll("canvas.strip")) strip(canvas, +canvas.dataset.s); }

  // ---------------------------------------------------------------- hands
  const pointers = new Map();
  let pinch = null, drag = null;
  const place = (event, canvas) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left - 1, event.clientY - box.top - 1]; };
  ecg.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    const [x, y] = place(event, ecg);
    ecg.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, x);
    if (pointers.size === 2) { drag = null; const [a, b] = [...pointers.values()]; pinch = Math.abs(a - b) || 1; return; }
    if (measuring || event.shiftKey) { calipers = { t0: tOf(x), t1: tOf(x), y0: y, y1: y }; drag = { calipers: true }; }
    else drag = { x, start: view.start, moved: false };
  });
  ecg.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const [x, y] = place(event, ecg);
    pointers.set(event.pointerId, x);
    if (pinch && pointers.size === 2) {
      const [a, b] = [...pointers.values()], apart = Math.abs(a - b) || 1;
      zoom(apart / pinch, (a + b) / 2);
      pinch = apart;
    } else if (drag && drag.calipers) { calipers.t1 = tOf(x); calipers.y1 = y; redraw(); }
    else if (drag) {
      if (Math.abs(x - drag.x) > 3) drag.moved = true;
      view.start = drag.start - (x - drag.x) / view.pxPerS;
      changed();
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    ecg.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size < 2) pinch = null;
      if (drag && !drag.calipers && !drag.moved && kind === "pointerup") choose(tOf(place(event, ecg)[0]));
      drag = null;
    });
  }
  function choose(t) {
    const i = lowerBound(beats.time, t), near = [i - 1, i].filter((k) => k >= 0 && k < beats.n);
    near.sort((a, b) => Math.abs(beats.time[a] - t) - Math.abs(beats.time[b] - t));
    chosen = near.length && Math.abs(beats.time[near[0]] - t) * view.pxPerS < 60 ? near[0] : -1;
    redraw();
  }
  ecg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const size = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(((event.deltaX || event.deltaY) * size) / view.pxPerS);
    else zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * size)) / 400), place(event, ecg)[0]);
  }, { passive: false });
  const seek = (event) => { view.start = (place(event, over)[0] / over.clientWidth) * DURATION - span() / 2; chosen = -1; changed(); };
  over.addEventListener("pointerdown", (event) => { over.setPointerCapture(event.pointerId); seek(event); });
  over.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
  $("speed").addEventListener("change", (event) => setSpeed(+event.target.value));
  $("gain").addEventListener("change", (event) => { view.gain = +event.target.value; redraw(); });
  function setSpeed(mm) { const t = tOf(width / 2); view.pxPerS = mm * MM; keepInside(); view.start = t - span() / 2; changed(); }
  const DO = {
    next: () => jump(1), previous: () => jump(-1), in: () => zoom(1.5), out: () => zoom(1 / 1.5),
    all: () => { view.pxPerS = width / DURATION; view.start = 0; changed(); },
    marks: () => { showMarks = !showMarks; press("marks", showMarks); redraw(); },
    calipers: () => {
      measuring = !measuring;
      press("calipers", measuring);
      ecg.classList.toggle("measure", measuring);
      const t = view.start + span() / 2, y = middle(0);
      calipers = measuring ? { t0: t - 0.4, t1: t + 0.4, y0: y, y1: y - view.gain * MM } : null;
      redraw();
    },
    print: () => window.print(),
  };
  const press = (name, on) => document.querySelector(`[data-do=${name}]`)?.setAttribute("aria-pressed", String(on));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do], [data-s]");
    if (!button) return;
    if (button.dataset.do) { DO[button.dataset.do](); return; }
    const t = +button.dataset.s, beat = lowerBound(beats.time, t - 0.01);
    go(t, Math.abs(beats.time[beat] - t) < 0.02 ? beat : -1);
    $("trace").scrollIntoView({ behavior: "auto", block: "start" });
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea")) return;
    const screen = span() * 0.9, on = event.target.closest(".viewer canvas"), free = on || !event.target.closest(".scroll, details");
    const letters = { n: DO.next, p: DO.previous, "+": DO.in, "=": DO.in, "-": DO.out, c: DO.calipers, m: DO.marks, 0: DO.all, 1: () => setSpeed(25) };
    const arrows = event.shiftKey && calipers
      ? { ArrowLeft: () => { calipers.t1 -= 0.01; redraw(); }, ArrowRight: () => { calipers.t1 += 0.01; redraw(); } }
      : { ArrowLeft: () => move(-span() / 8), ArrowRight: () => move(span() / 8) };
    if (event.key === "Home" || event.key === "End") reached = null;
    const pages = { PageUp: () => move(-screen), PageDown: () => move(screen), Home: () => move(-Infinity), End: () => { view.start = DURATION; changed(); } };
    if (event.key === "Escape" && (calipers || measuring)) { if (measuring) DO.calipers(); calipers = null; redraw(); return; }
    const action = letters[event.key] || (free && arrows[event.key]) || (on && pages[event.key]);
    if (!action) return;
    event.preventDefault();
    action();
  });
  new ResizeObserver(() => { redraw(); strips(); }).observe($("trace"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); strips(); });
  for (const [kind, on] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(kind, () => { // canvases get the size that they have on paper
      const t = view.start;
      printing = on;
      document.body.classList.toggle("printing", on);
      readColours();
      draw();
      strips();
      view.start = t;
    });
  }

  // ---------------------------------------------------------------- start
  async function start() {
    readColours();
    if (typeof DecompressionStream === "undefined") {
      $("status").textContent = "This browser cannot unpack the signal; one of 2023 or later can.";
      return;
    }
    const [bins, packed] = await Promise.all([unpack($("o").textContent), meta.beats ? unpack($("b").textContent) : null]);
    const columns = columnsOf(bins, 2 * LEADS);
    low = columns.slice(0, LEADS);
    high = columns.slice(LEADS);
    if (packed) readBeats(packed);
    fillStops();
    fillList();
    draw();
    await need(view.start * FS, (view.start + span()) * FS);
    draw();
    drawn(performance.now());
    await drawStrips();
    allDrawn();
  }
  // For tests and for the console: what is shown, and where a sample of the recording is drawn.
  window.ecg = {
    ready, // milliseconds after which the first view was complete
    strips: allStrips, // resolved when they are drawn
    view, go, zoom, move, next: () => jump(1), previous: () => jump(-1),
    get beats() { return beats; },
    get calipers() { return calipers; },
    get chosen() { return chosen; },
    meta,
    settle: async () => { keepInside(); await need(view.start * FS, (view.start + span()) * FS); draw(); },
    valueAt: (sample, lead) => valueAt(Math.round(sample / meta.factor), lead), // mV
    pixelOf: (sample, lead) => { // CSS pixels on the canvas #ecg
      const at = Math.round(sample / meta.factor);
      return { x: xOf(at / FS), y: yOf(valueAt(at, lead), lead) };
    },
  };
  start();
})();
