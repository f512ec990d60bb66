"use strict";
// What the page shows. Everything in it was written by somebody else: it is only ever given to
// textContent and fillText, never to anything that reads HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const [MAIN, FRAMES, ALL] = [0, 1, 2];
const FIELDS = ["at", "until", "lane", "kind", "level", "mood", "summary", "details", "lines"];
const EVENTS = DATA.events.map((row, index) => {
  const event = { index };
  FIELDS.forEach((name, place) => { event[name] = row[place]; });
  event.end = event.until === null ? event.at : event.until;
  return event;
});
const MARKS = {
  operation: "\u25b6", request: "\u21c4", exchange: "\u21c4", wait: "\u21bb", reconnect: "\u27f2", attach: "\u2937",
  connect: "\u2022", started: "\u2022", output: "\u00b7", input: "\u203a", exit: "\u25a0", stream: "\u2022",
  data: "\u2195", message: "\u2195", trouble: "\u2716", lost: "\u26a1", frame: "\u25c7", bytes: "\u25cb",
};

const byId = (id) => document.getElementById(id);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function seconds(value) {
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(2)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
}

const isFailedRequest = (event) => event.kind === "request" && event.mood === "bad";
const isRetry = (event) => event.kind === "wait" && event.mood === "odd";
const isReconnect = (event) => event.kind === "reconnect";
const isFailure = (event) => event.level === MAIN && event.mood === "bad" &&
  !["request", "operation"].includes(event.kind);
const isTrouble = (event) => event.level === MAIN && event.kind !== "operation" &&
  (isFailedRequest(event) || isRetry(event) || isReconnect(event) || isFailure(event) ||
    (event.kind === "exit" && event.mood === "odd"));

// What is shown, and what is selected. `views` are told of every change.
const state = { level: MAIN, words: "", shown: [], selected: -1, views: [] };

function searchable(event) {
  if (event.text === undefined) {
    const lane = DATA.lanes[event.lane];
    event.text = `${lane.name} ${lane.title} ${event.kind} ${event.summary}`.toLowerCase();
  }
  return event.text;
}

function matches(event) {
  return !state.words || searchable(event).includes(state.words);
}

function choose() {
  state.shown = EVENTS.filter((event) => event.level <= state.level && matches(event));
  state.views.forEach((view) => view.changed());
}

function select(index, { reveal = true } = {}) {
  if (index < 0 || index >= EVENTS.length) return;
  const event = EVENTS[index];
  if (event.level > state.level) {
    state.level = event.level;
    byId("level").value = String(event.level);
    choose();
  }
  state.selected = index;
  state.views.forEach((view) => view.selected(event, reveal));
}

function step(by) {
  if (!state.shown.length) return;
  let place = state.shown.findIndex((event) => event.index >= state.selected);
  if (state.selected < 0) place = by > 0 ? -1 : state.shown.length;
  else if (place < 0) place = state.shown.length;
  const wanted = Math.min(state.shown.length - 1, Math.max(0, place + by));
  select(state.shown[wanted].index);
}

function next(wanted, by) {
  const count = EVENTS.length;
  for (let i = 1; i <= count; i += 1) {
    const from = state.selected < 0 && by < 0 ? 0 : state.selected;
    const index = (((from + by * i) % count) + count) % count;
    if (wanted(EVENTS[index])) { select(index); return; }
  }
}
