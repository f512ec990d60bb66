// The same in words: a list that holds only the rows that are seen, and the details of one event.

const ROW_HEIGHT = 24, SPARE = 12, MOST_LINES = 40;
const list = byId("list"), rows = byId("rows"), details = byId("details");

function fillList() {
  const count = state.shown.length;
  rows.style.height = `${count * ROW_HEIGHT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - SPARE);
  const end = Math.min(count, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + SPARE);
  const made = [];
  for (let i = first; i < end; i += 1) made.push(rowFor(state.shown[i], i, count));
  if (!count) {
    const empty = make("p", "Nothing matches. Clear the search, or show frames (f).");
    empty.id = "empty";
    made.push(empty);
  }
  rows.replaceChildren(...made);
  const picked = byId(`event-${state.selected}`);
  if (picked) list.setAttribute("aria-activedescendant", picked.id);
  else list.removeAttribute("aria-activedescendant");
}

function rowFor(event, place, count) {
  const row = make("div", undefined, `row ${event.kind} ${event.mood}${event.level > MAIN ? " later" : ""}`);
  row.id = `event-${event.index}`;
  row.style.top = `${place * ROW_HEIGHT}px`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", String(event.index === state.selected));
  row.setAttribute("aria-posinset", String(place + 1));
  row.setAttribute("aria-setsize", String(count));
  row.append(
    make("span", event.at.toFixed(3), "at"),
    make("span", DATA.lanes[event.lane].name, "lane"),
    make("span", MARKS[event.kind] || "\u00b7", "mark"),
    make("span", event.summary, "what"),
  );
  row.addEventListener("click", () => select(event.index));
  return row;
}

function bringRowIntoView(event) {
  const place = state.shown.findIndex((one) => one.index === event.index);
  if (place < 0) return;
  const top = place * ROW_HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
}

// --- details ---------------------------------------------------------------------------

function showDetails(event) {
  const lane = DATA.lanes[event.lane];
  const parts = [make("h2", event.summary)];
  const took = event.until === null ? "" : `, for ${seconds(event.until - event.at)}`;
  parts.push(make("p", `at ${event.at.toFixed(6)} s${took}`));
  parts.push(make("p", `${event.kind} in ${lane.name}${lane.title === lane.name ? "" : `: ${lane.title}`}`));
  const texts = [];
  for (const [name, value] of Object.entries(event.details)) {
    if (value === null || value === "") continue;
    if (typeof value === "object" || String(value).length > 60 || String(value).includes("\n")) texts.push([name, value]);
    else parts.push(make("p", `${name}: ${value}`));
  }
  for (const [name, value] of texts) parts.push(make("h3", name), pretty(value));
  const numbers = event.lines.slice(0, MOST_LINES);
  for (const number of numbers) {
    parts.push(make("h3", `line ${number} of the file`), pretty(JSON.parse(DATA.lines[number] || "null")));
  }
  const more = event.lines.length - numbers.length;
  if (more > 0) parts.push(make("p", `and ${more} more lines`));
  details.replaceChildren(...parts);
  details.scrollTop = 0;
}

function pretty(value) {
  return make("pre", typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

let waiting = false;
list.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; fillList(); });
});
new ResizeObserver(fillList).observe(list);

state.views.push({
  changed: fillList,
  selected(event) { bringRowIntoView(event); fillList(); showDetails(event); },
});
