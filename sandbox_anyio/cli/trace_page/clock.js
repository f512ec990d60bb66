// From time to places on the axis. Where nothing begins or ends for long, the axis is broken:
// the gap is drawn narrower than it was, and marked.

const MOST_BREAKS = 40;

function makeAxis() {
  const times = new Float64Array(EVENTS.length * 2 + 2);
  let count = 0;
  for (const event of EVENTS) {
    if (event.level < ALL) { times[count++] = event.at; times[count++] = event.end; }
  }
  times[count++] = 0;
  times[count++] = DATA.seconds;
  const sorted = times.slice(0, count).sort();
  const limit = longest(sorted);
  const at = [sorted[0]], place = [0], breaks = [];
  const mark = (time, width) => { place.push(place[place.length - 1] + width); at.push(time); };
  for (let i = 1; i < sorted.length; i += 1) {
    if (sorted[i] - sorted[i - 1] > limit * 1.5) {
      mark(sorted[i - 1], sorted[i - 1] - at[at.length - 1]);
      mark(sorted[i], limit);
      breaks.push({ from: sorted[i - 1], to: sorted[i] });
    }
  }
  mark(sorted[sorted.length - 1], sorted[sorted.length - 1] - at[at.length - 1]);
  return { at, place, breaks, length: Math.max(place[place.length - 1], 1e-6) };
}

// The longest gap that is drawn as it is: a small part of the whole, and longer than most.
function longest(sorted) {
  const gaps = [];
  for (let i = 1; i < sorted.length; i += 1) {
    const gap = sorted[i] - sorted[i - 1];
    if (gap > 0) gaps.push(gap);
  }
  if (gaps.length < 2) return Infinity;
  gaps.sort((a, b) => a - b);
  const usual = gaps[Math.floor(gaps.length * 0.75)];
  let limit = Infinity;
  for (let round = 0; round < 8; round += 1) {
    let sum = 0;
    for (const gap of gaps) sum += Math.min(gap, limit);
    limit = Math.max(sum / 12, usual * 2, 0.001);
  }
  const over = gaps.filter((gap) => gap > limit * 1.5);
  return over.length > MOST_BREAKS ? over[over.length - MOST_BREAKS] : limit;
}

const AXIS = makeAxis();

function between(value, from, to) {
  let low = 0, high = from.length - 1;
  if (value <= from[0]) return to[0] + (value - from[0]);
  if (value >= from[high]) return to[high] + (value - from[high]);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] <= value) low = middle; else high = middle;
  }
  const span = from[high] - from[low];
  return span ? to[low] + ((value - from[low]) / span) * (to[high] - to[low]) : to[low];
}

const placeOf = (time) => between(time, AXIS.at, AXIS.place);
const timeAt = (place) => between(place, AXIS.place, AXIS.at);
for (const event of EVENTS) { event.from = placeOf(event.at); event.to = placeOf(event.end); }
