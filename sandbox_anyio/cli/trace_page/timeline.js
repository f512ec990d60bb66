// The picture: one row for each lane (operations share rows where they do not overlap, and so do
// lanes of a kind of which there are many), drawn on a canvas as large as the window, so that its cost depends on what is seen.

const ROW = 36, WORDS = 16, AXIS_HEIGHT = 30, LABELS = 190, MARGIN = 60;
const FONT = '12px system-ui, "Segoe UI", "Noto Sans", sans-serif';
const BOLD = `600 ${FONT}`;
const canvas = byId("canvas"), pane = byId("timeline"), space = byId("space");
const pen = canvas.getContext("2d");
const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { from: 0, scale: 1, width: 0, height: 0, least: 1 };
let colours = {}, shapes = [], planned = false;

const MANY_LANES = 30;
const PLURALS = { flow: "operations", command: "commands", tunnel: "tunnels", stream: "streams",
  websocket: "WebSockets", http: "connections" };

function rowsOfLanes() {
  const byLane = DATA.lanes.map(() => []), counts = {}, shared = {};
  for (const event of EVENTS) byLane[event.lane].push(event);
  for (const lane of DATA.lanes) counts[lane.kind] = (counts[lane.kind] || 0) + 1;
  const first = [], middle = [], last = [];
  DATA.lanes.forEach((lane, index) => {
    const events = byLane[index];
    if (!events.length) return;
    const place = lane.kind === "flow" ? first : ["http", "network"].includes(lane.kind) ? last : middle;
    if (lane.kind !== "flow" && (counts[lane.kind] <= MANY_LANES || !PLURALS[lane.kind])) {
      place.push({ label: lane.name, sub: lane.title, events });
      return;
    }
    const rows = shared[lane.kind] || (shared[lane.kind] = []);
    const end = events.reduce((most, event) => Math.max(most, event.end), events[0].at);
    let row = rows.find((one) => one.end <= events[0].at);
    if (!row) {
      row = { label: rows.length ? "" : PLURALS[lane.kind], sub: "", events: [], shared: true };
      rows.push(row);
      place.push(row);
    }
    row.end = end;
    for (const event of events) row.events.push(event);
  });
  return [...first, ...middle, ...last];
}
const ALL_ROWS = rowsOfLanes();
const rowOf = new Map();
for (const row of ALL_ROWS) {
  row.longest = row.events.reduce((most, event) => Math.max(most, event.to - event.from), 0);
  row.level = row.events.reduce((least, event) => Math.min(least, event.level), ALL);
  row.height = ROW + (row.events.some(speaks) ? WORDS : 0);
  for (const event of row.events) rowOf.set(event.index, row);
}

// What is said in words under its row, wherever there is room.
function speaks(event) {
  return isFailedRequest(event) || isReconnect(event) || isFailure(event);
}

// The rows in which something is shown, and where.
let ROWS = [], depth = 0;
function layOut() {
  ROWS = ALL_ROWS.filter((row) => row.level <= Math.min(state.level, FRAMES));
  depth = AXIS_HEIGHT;
  for (const row of ROWS) { row.top = depth; depth += row.height; }
  depth += 6;
}

const xOf = (place) => LABELS + (place - view.from) * view.scale;
const whole = () => (view.width - LABELS - MARGIN) / AXIS.length;

function measureUp() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "panel", "ink", "dim", "line", "plain", "good", "odd", "bad", "frame",
    "bar", "good-bar", "odd-bar", "bad-bar", "gap", "pick", "stripe"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  layOut();
  space.style.height = `${depth}px`;
  const before = view.width ? view.scale / view.least : 1;
  view.width = pane.clientWidth;
  view.height = Math.min(pane.clientHeight, depth);
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(view.width * ratio);
  canvas.height = Math.round(view.height * ratio);
  canvas.style.height = `${view.height}px`;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  view.least = whole();
  view.scale = Math.max(view.least * before, view.least);
  plan();
}

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; draw(); });
}

function clamp() {
  view.scale = Math.min(Math.max(view.scale, view.least), view.least * 1e6);
  const seen = (view.width - LABELS - MARGIN) / view.scale;
  view.from = Math.min(Math.max(view.from, 0), Math.max(0, AXIS.length - seen));
}

function zoom(factor, x = LABELS + (view.width - LABELS) / 2) {
  const under = view.from + (x - LABELS) / view.scale;
  view.scale *= factor;
  clamp();
  view.from = under - (x - LABELS) / view.scale;
  clamp();
  plan();
}

function pan(pixels) { view.from += pixels / view.scale; clamp(); plan(); }
function fit() { view.from = 0; view.scale = view.least; plan(); }

// --- drawing ---------------------------------------------------------------------------

function draw() {
  const started = performance.now();
  shapes = [];
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, view.width, view.height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  const top = pane.scrollTop;
  const seen = ROWS.filter((row) => row.top + row.height > top + AXIS_HEIGHT && row.top < top + view.height);
  pen.save();
  pen.beginPath();
  pen.rect(0, AXIS_HEIGHT, view.width, view.height - AXIS_HEIGHT);
  pen.clip();
  for (const row of seen) drawStripe(row, row.top - top);
  drawBreaks();
  pen.save();
  pen.beginPath();
  pen.rect(LABELS, AXIS_HEIGHT, view.width - LABELS, view.height - AXIS_HEIGHT);
  pen.clip();
  for (const row of seen) drawRow(row, row.top - top);
  pen.restore();
  for (const row of seen) drawLabel(row, row.top - top);
  pen.restore();
  drawAxis();
  canvas.dataset.drawn = String(shapes.length);
  canvas.dataset.took = (performance.now() - started).toFixed(1);
}

function drawStripe(row, y) {
  if (ROWS.indexOf(row) % 2) {
    pen.fillStyle = colours.stripe;
    pen.fillRect(0, y, view.width, row.height);
  }
}

function drawLabel(row, y) {
  pen.fillStyle = colours.ink;
  pen.font = BOLD;
  pen.fillText(cut(row.label, LABELS - 20), 12, y + (row.sub && row.sub !== row.label ? 12 : 18));
  pen.font = FONT;
  if (row.sub && row.sub !== row.label) {
    pen.fillStyle = colours.dim;
    pen.fillText(cut(row.sub, LABELS - 20), 12, y + 26);
  }
}

function cut(text, width) {
  if (pen.measureText(text).width <= width) return text;
  let low = 0, high = Math.min(text.length, 200);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (pen.measureText(`${text.slice(0, middle)}\u2026`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low > 1 ? `${text.slice(0, low)}\u2026` : "";
}

function drawBreaks() {
  for (const gap of AXIS.breaks) {
    const x = xOf(placeOf(gap.from)), to = xOf(placeOf(gap.to));
    if (to < LABELS || x > view.width) continue;
    pen.fillStyle = colours.gap;
    pen.fillRect(Math.max(x, LABELS), AXIS_HEIGHT, to - Math.max(x, LABELS), view.height);
  }
}

function drawAxis() {
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, view.width, AXIS_HEIGHT);
  pen.strokeStyle = colours.line;
  line(0, AXIS_HEIGHT - 0.5, view.width, AXIS_HEIGHT - 0.5);
  pen.textAlign = "center";
  let free = LABELS - 20;
  for (const gap of AXIS.breaks) free = drawBreakMark(gap, free);
  let last = LABELS - 60;
  const taken = AXIS.breaks.map((gap) => [xOf(placeOf(gap.from)) - 30, xOf(placeOf(gap.to)) + 30]);
  for (let i = 1; i < AXIS.at.length; i += 1) {
    last = drawTicks(AXIS.at[i - 1], AXIS.at[i], last, taken);
  }
  pen.textAlign = "left";
}

function drawBreakMark(gap, free) {
  const from = xOf(placeOf(gap.from)), to = xOf(placeOf(gap.to)), x = (from + to) / 2;
  if (to < LABELS || from > view.width) return free;
  pen.strokeStyle = colours.dim;
  pen.beginPath();
  for (const shift of [-2.5, 2.5]) {
    for (let y = AXIS_HEIGHT - 6; y < view.height; y += 12) {
      pen.moveTo(x + shift - 3, y);
      pen.lineTo(x + shift + 3, y + 6);
      pen.lineTo(x + shift - 3, y + 12);
    }
  }
  pen.globalAlpha = 0.45;
  pen.stroke();
  pen.globalAlpha = 1;
  const text = `\u2943 ${seconds(gap.to - gap.from)}`.replace("\u2943", "//");
  const half = pen.measureText(text).width / 2;
  if (x - half < free) return free;
  pen.fillStyle = colours.dim;
  pen.font = `italic ${FONT}`;
  pen.fillText(text, x, 10);
  pen.font = FONT;
  return x + half + 8;
}

function drawTicks(from, to, last, taken) {
  const x0 = xOf(placeOf(from)), x1 = xOf(placeOf(to));
  const perSecond = (x1 - x0) / (to - from);
  if (!(to > from) || x1 < LABELS || x0 > view.width) return last;
  if (taken.some(([a, b]) => Math.abs(a + 30 - x0) < 1 && Math.abs(b - 30 - x1) < 1)) return last;
  const rough = 90 / perSecond, power = 10 ** Math.floor(Math.log10(rough));
  const stride = power * ([1, 2, 5, 10].find((one) => one * power >= rough) || 10);
  const seen = timeAt(view.from);
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(stride))));
  for (let i = Math.ceil(Math.max(from, seen) / stride); i * stride <= to; i += 1) {
    const x = xOf(placeOf(i * stride));
    if (x > view.width) break;
    if (x < LABELS || x - last < 70) continue;
    last = x;
    pen.strokeStyle = colours.line;
    line(x, AXIS_HEIGHT - 6, x, AXIS_HEIGHT);
    pen.fillStyle = colours.dim;
    pen.fillText(`${(i * stride).toFixed(digits)} s`, x, 20);
  }
  return last;
}

function line(x, y, to, down) {
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(to, down);
  pen.stroke();
}

function drawRow(row, y) {
  const seenTo = view.from + (view.width - LABELS) / view.scale;
  const begin = firstAfter(row.events, view.from - row.longest);
  const last = { operation: -1, label: -1, words: -1, marks: {} };
  const visible = [];
  for (let i = begin; i < row.events.length && row.events[i].from <= seenTo; i += 1) {
    const event = row.events[i];
    if (event.level <= state.level && event.level < ALL && event.to >= view.from) visible.push(event);
  }
  const operations = visible.filter((event) => event.kind === "operation");
  operations.forEach((event, i) => drawOperation(event, operations[i + 1], y, last, row));
  // What stands out is drawn last, above the rest.
  for (const event of visible) if (!isTrouble(event)) drawEvent(event, y, last, row);
  for (const event of visible) if (isTrouble(event)) drawEvent(event, y, last, row);
  for (const event of visible) if (speaks(event)) say(event, y + ROW, last);
}

// Under the row, with a line to where it happened.
function say(event, y, last) {
  const x = Math.max(xOf(event.from), LABELS + 2);
  if (x < last.words) return;
  const text = `${MARKS[event.kind === "request" ? "trouble" : event.kind] || "\u2716"} ${event.summary}`;
  pen.font = BOLD;
  const shown = cut(text, Math.min(620, view.width - x - 12));
  pen.globalAlpha = matches(event) ? 1 : 0.3;
  pen.strokeStyle = pen.fillStyle = colourOf(event);
  line(x, y - 12, x, y + 8);
  pen.fillText(shown, x + 4, y + 5);
  last.words = x + pen.measureText(shown).width + 14;
  shape(event, x, y - 4, last.words - x - 8, WORDS - 2);
  pen.font = FONT;
  pen.globalAlpha = 1;
}

function firstAfter(events, place) {
  let low = 0, high = events.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle].from < place) low = middle + 1; else high = middle;
  }
  return low;
}

function colourOf(event) {
  return colours[event.mood || (event.level === FRAMES ? "frame" : "plain")];
}

function drawOperation(event, following, y, last, row) {
  const x = xOf(event.from), width = Math.max(xOf(event.to) - x, 3);
  if (x + width < last.operation + 2 && width < 4) return;
  last.operation = x + width;
  pen.globalAlpha = matches(event) ? 1 : 0.3;
  pen.fillStyle = colours[`${event.mood || ""}${event.mood ? "-bar" : "bar"}`] || colours.bar;
  pen.strokeStyle = colourOf(event);
  box(x, y + 3, width, ROW - 6);
  const room = (following ? xOf(following.from) : view.width) - Math.max(x, LABELS) - 8;
  if (room > 24 && row.shared) {
    pen.fillStyle = colours.ink;
    pen.fillText(cut(event.summary, room), Math.max(x, LABELS) + 4, y + 11);
  }
  pen.globalAlpha = 1;
  shape(event, x, y + 3, width, ROW - 6);
}

function box(x, y, width, height) {
  pen.beginPath();
  pen.roundRect(x, y, width, height, Math.min(4, width / 2));
  pen.fill();
  pen.lineWidth = 1;
  pen.stroke();
}

function shape(event, x, y, width, height) {
  shapes.push({ event, x, y, width, height });
  if (event.index === state.selected) {
    pen.strokeStyle = colours.pick;
    pen.lineWidth = 2;
    pen.strokeRect(x - 2, y - 2, width + 4, height + 4);
    pen.lineWidth = 1;
  }
}

// Bars are for what takes time, marks for moments; trouble has its own shapes, and words.
function drawEvent(event, y, last, row) {
  if (event.kind === "operation") return;
  pen.globalAlpha = matches(event) ? 1 : 0.2;
  const middle = row.shared ? y + 24 : y + 18;
  if (isRetry(event) || isReconnect(event)) drawTrouble(event, y, last, middle);
  else if (["request", "exchange", "attach", "connect", "wait"].includes(event.kind)) drawBar(event, last, middle);
  else drawMark(event, last, middle);
  pen.globalAlpha = 1;
}

function drawBar(event, last, middle) {
  const x = xOf(event.from), width = Math.max(xOf(event.to) - x, 2.5), height = 13;
  const bad = event.mood === "bad";
  if (width < 3 && !event.mood && near(last, event.kind, x)) return;
  pen.fillStyle = pen.strokeStyle = colourOf(event);
  box(x, middle - height / 2, width, height);
  const status = event.details.status ? String(event.details.status) : "";
  const words = { request: status, exchange: status, attach: "", connect: bad ? "refused" : "", wait: "wait" }[event.kind];
  const failed = bad || event.details.status >= 400;
  note(event, failed ? `\u2716 ${words || "failed"}` : words, x, width, middle, last, failed && !speaks(event));
  shape(event, x, middle - height / 2, width, height);
}

// Words on a bar if they fit, else after it if they matter.
function note(event, text, x, width, middle, last, matters) {
  if (!text) return;
  pen.font = matters ? BOLD : FONT;
  const wide = pen.measureText(text).width;
  if (wide + 6 <= width) {
    pen.fillStyle = colours.panel;
    pen.fillText(text, x + Math.max(4, LABELS - x + 4), middle + 0.5);
  } else if (matters && x + width + 3 > last.label) {
    pen.fillStyle = colourOf(event);
    pen.fillText(text, x + width + 3, middle + 0.5);
    last.label = x + width + wide + 6;
  }
  pen.font = FONT;
}

function drawTrouble(event, y, last, middle) {
  const x = xOf(event.from), width = Math.max(xOf(event.to) - x, 12), height = 17;
  pen.save();
  pen.fillStyle = colours["odd-bar"];
  pen.strokeStyle = colours.odd;
  box(x, middle - height / 2, width, height);
  pen.clip();
  pen.globalAlpha *= 0.35;
  for (let i = -height; i < width; i += 7) line(x + i, middle + height / 2, x + i + height, middle - height / 2);
  pen.restore();
  pen.fillStyle = pen.strokeStyle = colours.odd;
  pen.lineWidth = 2;
  if (isReconnect(event)) {  // the line is cut here
    line(x, y + 2, x, y + ROW - 2);
    line(x - 4, middle - 8, x + 4, middle + 8);
  }
  pen.lineWidth = 1;
  const wait = seconds(event.end - event.at);
  const text = isReconnect(event) ? `\u27f2 ${wait}` : `\u21bb retry in ${wait}`;
  pen.font = BOLD;
  const wide = pen.measureText(text).width;
  const fits = wide + 8 <= width;
  pen.fillStyle = colours.odd;
  if (fits || width >= 16) pen.fillText(fits ? text : text[0], Math.max(x, LABELS) + 5, middle + 0.5);
  pen.font = FONT;
  shape(event, x, middle - height / 2, width, height);
}

function near(last, kind, x) {
  if (x - (last.marks[kind] ?? -9) < 2) return true;
  last.marks[kind] = x;
  return false;
}

function drawMark(event, last, middle) {
  const x = xOf(event.from);
  const failed = isFailure(event), ends = event.kind === "exit";
  const inward = event.details.direction === "in";
  const frame = ["frame", "bytes"].includes(event.kind);
  const trouble = failed || (frame && event.mood === "bad");
  if (!trouble && !ends && near(last, frame ? `${event.kind}${inward}` : event.kind, x)) return;
  pen.fillStyle = pen.strokeStyle = colourOf(event);
  let width = 8, y = middle - 4;
  pen.beginPath();
  if (trouble || event.kind === "lost") {
    pen.lineWidth = 2.5;
    line(x - 5, middle - 5, x + 5, middle + 5);
    line(x - 5, middle + 5, x + 5, middle - 5);
    pen.lineWidth = 1;
  } else if (frame) {  // out points up, in points down
    y = inward ? middle + 7 : middle - 15;
    const tip = inward ? y + 7 : y, base = inward ? y : y + 7;
    pen.moveTo(x, tip); pen.lineTo(x - 4, base); pen.lineTo(x + 4, base);
    pen.fill();
  } else if (ends) {
    pen.fillRect(x - 3, middle - 11, 6, 22);
  } else if (event.kind === "output" || event.kind === "data" || event.kind === "message") {
    pen.arc(x, middle, 3, 0, 7);
    pen.fill();
  } else {
    pen.moveTo(x, middle - 5); pen.lineTo(x + 5, middle); pen.lineTo(x, middle + 5); pen.lineTo(x - 5, middle);
    pen.fill();
  }
  if (ends) note(event, event.details.exit_code === undefined ? "" : `exit ${event.details.exit_code}`, x, 4, middle, last, true);
  shape(event, x - width / 2, y, width, 8);
}

// --- hands -----------------------------------------------------------------------------

function under(x, y) {
  let found = null, best = 7;
  for (let i = shapes.length - 1; i >= 0; i -= 1) {
    const one = shapes[i];
    const away = Math.max(one.x - x, x - one.x - one.width, 0) + Math.max(one.y - y, y - one.y - one.height, 0);
    if (away === 0 && one.event.kind !== "operation") return one.event;
    const cost = away + (one.event.kind === "operation" ? 6 : 0);
    if (cost < best) { best = cost; found = one.event; }
  }
  return found;
}

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  drag = { x: event.offsetX, y: event.offsetY, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) {
    const found = under(event.offsetX, event.offsetY);
    canvas.title = found ? `${found.at.toFixed(3)} s  ${found.summary}`.slice(0, 300) : "";
    canvas.style.cursor = found ? "pointer" : "default";
    return;
  }
  if (Math.abs(event.offsetX - drag.x) > 3) drag.moved = true;
  if (drag.moved) { pan(drag.x - event.offsetX); drag.x = event.offsetX; }
});
canvas.addEventListener("pointerup", (event) => {
  const found = drag && !drag.moved ? under(event.offsetX, event.offsetY) : null;
  drag = null;
  if (found) select(found.index);
});
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("wheel", (event) => {
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), event.offsetX);
  } else if (event.deltaX || event.shiftKey) {
    event.preventDefault();
    pan(event.deltaX || event.deltaY);
  }
}, { passive: false });
pane.addEventListener("scroll", plan);
new ResizeObserver(measureUp).observe(pane);
dark.addEventListener("change", measureUp);

function bringIntoView(event) {
  const x = xOf(event.from);
  if (x < LABELS || x > view.width - 40) {
    view.from = event.from - (view.width - LABELS) / 3 / view.scale;
    clamp();
  }
  const row = rowOf.get(event.index);
  if (!ROWS.includes(row)) return;
  if (row.top - AXIS_HEIGHT < pane.scrollTop) pane.scrollTop = row.top - AXIS_HEIGHT;
  else if (row.top + row.height > pane.scrollTop + view.height) pane.scrollTop = row.top + row.height - view.height;
}

state.views.push({
  changed: measureUp,
  selected(event, reveal) { if (reveal) bringIntoView(event); plan(); },
});
