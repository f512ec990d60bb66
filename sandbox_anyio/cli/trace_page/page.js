// The frame around both: the heading, the search box, the keys.

byId("name").textContent = DATA.name;
byId("headline").textContent = DATA.headline;

function chip(count, one, many, mood, wanted) {
  if (!count) return [];
  const button = make("button", `${count} ${count === 1 ? one : many}`, mood);
  button.title = "Press for the next one";
  button.addEventListener("click", () => next(wanted, 1));
  return [button];
}

const countOf = (wanted) => EVENTS.filter(wanted).length;
const chips = [
  ...chip(countOf(isFailure), "\u2716 failure", "\u2716 failures", "bad", isFailure),
  ...chip(countOf(isFailedRequest), "\u2716 failed request", "\u2716 failed requests", "bad", isFailedRequest),
  ...chip(countOf(isRetry), "\u21bb retry", "\u21bb retries", "odd", isRetry),
  ...chip(countOf(isReconnect), "\u27f2 reconnect", "\u27f2 reconnects", "odd", isReconnect),
];
if (!chips.length) chips.push(make("button", "\u2713 no trouble", "good"));
byId("chips").replaceChildren(...chips);

function legend(mark, text, mood) {
  const item = make("span");
  const shown = make("b", `${mark} `);
  shown.style.color = `var(--${mood})`;
  item.append(shown, make("span", text));
  return item;
}
byId("legend").replaceChildren(
  legend("\u25ac", "request, connection", "plain"),
  legend("\u25ac \u2716", "failed", "bad"),
  legend("\u25a8 \u21bb", "waits to try again", "odd"),
  legend("\u25a8 \u27f2", "cut, attaches again", "odd"),
  legend("\u25cf", "output or data", "plain"),
  legend("\u25ae", "end", "good"),
  legend("\u25b2 \u25bc", "frame out, frame in", "frame"),
  legend("//", "a pause, drawn shorter than it was", "dim"),
);

const search = byId("search"), level = byId("level");
search.addEventListener("input", () => { state.words = search.value.trim().toLowerCase(); choose(); });
level.addEventListener("change", () => { state.level = Number(level.value); choose(); });
byId("in").addEventListener("click", () => zoom(1.6));
byId("out").addEventListener("click", () => zoom(1 / 1.6));
byId("fit").addEventListener("click", fit);

const KEYS = {
  ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
  PageDown: () => step(15), PageUp: () => step(-15),
  Home: () => step(-EVENTS.length), End: () => step(EVENTS.length),
  n: () => next(isTrouble, 1), p: () => next(isTrouble, -1),
  "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: fit,
  ArrowLeft: () => pan(-120), ArrowRight: () => pan(120),
  "/": () => search.focus(), Enter: () => details.focus(),
  f: () => { level.value = String(state.level === MAIN ? FRAMES : MAIN); level.dispatchEvent(new Event("change")); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === "Escape") {
    search.value = state.words = "";
    choose();
    list.focus();
    return;
  }
  if (typing && event.key !== "Enter") return;
  if (typing) { step(1); list.focus(); event.preventDefault(); return; }
  if (event.target instanceof HTMLButtonElement && event.key === "Enter") return;
  if (event.target === details && !["n", "p", "f", "/", "j", "k"].includes(event.key)) return;
  const act = KEYS[event.key];
  if (act) { act(); event.preventDefault(); }
});

details.replaceChildren(make("p", "Choose an event to see all of it: press it in either place, step with the arrow keys, or go from trouble to trouble with n."));
choose();
document.documentElement.dataset.ready = "yes";
