// The bars of a timeline as the kernel sends them, row by row, and which of them is where. Times are seconds.

const CRITICAL = 1, MEASURED = 2, ARRIVAL_UNKNOWN = 4; // bits of a bar's flags
const LOOKED_AT = 64; // bars of a row that may have begun before a moment and still last

/** A Bytes trait as numbers. */
function numbers(model, trait, Type) {
  const data = model.get(trait);
  return new Type(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
}

function readBars(model) {
  const start = numbers(model, "_start_s", Float64Array);
  return {
    count: start.length,
    start,
    duration: numbers(model, "_duration_s", Float32Array),
    lane: numbers(model, "_lane", Uint16Array),
    kind: numbers(model, "_kind", Uint8Array),
    stage: numbers(model, "_stage", Int16Array),
    microBatch: numbers(model, "_micro_batch", Int32Array),
    flags: numbers(model, "_flags", Uint8Array),
  };
}

function readIdle(model) {
  const start = numbers(model, "_idle_start_s", Float64Array);
  return {
    count: start.length,
    start,
    duration: numbers(model, "_idle_duration_s", Float32Array),
    lane: numbers(model, "_idle_lane", Uint16Array),
    flags: numbers(model, "_idle_flags", Uint8Array),
  };
}

/** The bars of every row, by start: a lane is one row, or two where there are measured bars. */
function rowsOf(head, bars) {
  const sides = head.measured ? 2 : 1;
  const rows = head.lanes.map(() => []).flatMap((row) => (sides === 2 ? [row, []] : [row]));
  for (let index = 0; index < bars.count; index++) {
    rows[bars.lane[index] * sides + (bars.flags[index] & MEASURED ? 1 : 0)].push(index);
  }
  return rows;
}

/** How many bars of a row start before a second. */
function firstAfter(row, start, seconds) {
  let [low, high] = [0, row.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (start[row[middle]] <= seconds) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The bar of a row that lasts at a moment, the one that began last if there are several; else the nearest.
 * @param {number} reach - seconds that it may be away
 * @returns {number} -1: none
 */
function barAt(bars, row, seconds, reach) {
  const ahead = firstAfter(row, bars.start, seconds);
  let nearest = -1, least = reach;
  for (let place = Math.min(ahead, row.length - 1); place >= Math.max(0, ahead - LOOKED_AT); place--) {
    const index = row[place];
    const away = Math.max(bars.start[index] - seconds, seconds - bars.start[index] - bars.duration[index], 0);
    if (away < least || (nearest < 0 && away <= least)) [nearest, least] = [index, away];
    if (away === 0) break;
  }
  return nearest;
}
