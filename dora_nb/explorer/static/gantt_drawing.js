// How a timeline is drawn on a canvas; gantt.js says when and what. Lengths are CSS pixels, times seconds.

const NUMBER_FONT_PX = 10;
const LABEL_FONT_PX = 11;
const APART_PX = 0.5; // between neighbours that are wide enough

/**
 * Where lanes and times stand.
 * @param {{lanes: Array, measured: boolean}} head
 * @param {number} width - of the canvas
 * @param {number} gutter - for the names of the lanes
 * @param {[number, number]} span - first and last second shown
 */
function layoutOf(head, width, gutter, span) {
  const lanes = head.lanes.length;
  const laneHeight = lanes <= 10 ? 30 : Math.max(16, Math.floor(300 / lanes));
  const left = gutter, right = width - 14, top = 4;
  const padding = Math.max(2, Math.round(laneHeight / 8));
  const whole = laneHeight - 2 * padding;
  const half = Math.floor((whole - 1) / 2);
  const perSecond = (right - left) / (span[1] - span[0]);
  return {
    width, left, right, top, laneHeight, span, perSecond,
    floor: top + lanes * laneHeight,
    height: top + lanes * laneHeight + 40,
    sides: head.measured ? 2 : 1,
    x: (seconds) => left + (seconds - span[0]) * perSecond,
    seconds: (x) => span[0] + (x - left) / perSecond,
    /** Top and height of bars: predicted ones in the upper half of a lane where there are measured ones below. */
    box: (lane, measured) => {
      const y = top + lane * laneHeight + padding;
      return head.measured ? [measured ? y + whole - half : y, half] : [y, whole];
    },
  };
}

/** Round numbers between two, at most so many: `{step, values}`. */
function roundNumbers(from, to, most) {
  const least = (to - from) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= least * (1 - 1e-9));
  const values = [];
  for (let index = Math.ceil(from / step - 1e-9); index * step <= to + step * 1e-9; index++) values.push(index * step || 0); // never -0
  return { step, values };
}

/** The unit in which times up to this are shown, and its seconds. */
function timeUnit(largest) {
  return largest >= 1 ? { scale: 1, unit: "s" } : largest >= 1e-3 ? { scale: 1e-3, unit: "ms" } : { scale: 1e-6, unit: "us" };
}

const formats = new Map(); // making one takes longer than using it a hundred times

/** A number with so many decimals, in groups of three digits. */
function decimal(value, decimals) {
  if (!formats.has(decimals)) {
    formats.set(decimals, new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
  }
  return formats.get(decimals).format(value);
}

/** A duration with three significant digits, as `format_seconds` of units.py writes it. */
function durationWords(seconds) {
  const { scale, unit } = seconds === 0 ? timeUnit(1) : timeUnit(seconds);
  const shown = seconds / scale;
  const decimals = shown === 0 ? 0 : Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(shown)))));
  return `${shown.toLocaleString("en-US", { maximumFractionDigits: decimals })} ${unit}`;
}

/** Red, green, blue and opacity of any CSS colour, 0 to 255. */
function channels(pen, colour) {
  pen.canvas.width = pen.canvas.height = 1;
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  return pen.getImageData(0, 0, 1, 1).data;
}

/** A text cut in its middle to fit. */
function shortened(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  for (let kept = text.length - 1; kept > 2; kept--) {
    const cut = `${text.slice(0, Math.ceil(kept / 2))}\u2026${text.slice(text.length - Math.floor(kept / 2))}`;
    if (pen.measureText(cut).width <= width) return cut;
  }
  return text.slice(0, 1);
}

/**
 * How much of every column of pixels is covered by what is narrower than one, row by row, in which mix of colours: so
 * that a thousand slivers look neither like nothing nor like one solid bar.
 */
class Coverage {
  constructor(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.sums = new Float32Array(columns * rows * 4);
    this.used = new Uint8Array(rows);
  }

  /** Covers a row from one place to another, in columns. */
  add(row, from, to, [red, green, blue, opacity]) {
    const { columns, sums } = this;
    this.used[row] = 1;
    const last = Math.min(columns, Math.ceil(to));
    for (let column = Math.max(0, Math.floor(from)); column < last; column++) {
      const part = ((Math.min(to, column + 1) - Math.max(from, column)) * opacity) / 255;
      const at = 4 * (row * columns + column);
      sums[at] += part * red;
      sums[at + 1] += part * green;
      sums[at + 2] += part * blue;
      sums[at + 3] += part;
    }
  }

  /** One line of pixels a row. */
  picture() {
    const { columns, rows, sums } = this;
    const image = new ImageData(columns, rows);
    for (let at = 0; at < sums.length; at += 4) {
      const part = sums[at + 3];
      if (part === 0) continue;
      for (let channel = 0; channel < 3; channel++) image.data[at + channel] = sums[at + channel] / part;
      image.data[at + 3] = 255 * Math.min(1, part);
    }
    const canvas = new OffscreenCanvas(columns, rows);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
}

/** Stretches the rows of a coverage over boxes `[y, height]`. */
function stretch(pen, coverage, at, dpr, boxes) {
  if (!coverage.used.some(Boolean)) return;
  const picture = coverage.picture();
  pen.imageSmoothingEnabled = false;
  coverage.used.forEach((used, row) => {
    if (!used) return;
    for (const [y, height] of boxes(row)) pen.drawImage(picture, 0, row, coverage.columns, 1, at.left, y, coverage.columns / dpr, height);
  });
}

/** Diagonal lines for the times in which a device waits. */
function hatching(pen, colour, dpr) {
  const size = Math.round(6 * dpr);
  const tile = new OffscreenCanvas(size, size);
  const own = tile.getContext("2d");
  own.strokeStyle = colour;
  own.lineWidth = dpr;
  for (const shift of [-size, 0, size]) {
    own.moveTo(shift, size);
    own.lineTo(shift + size, 0);
  }
  own.stroke();
  const pattern = pen.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / dpr));
  return pattern;
}

/** The times axis with round numbers, and the lanes with their names. */
function drawFrame(pen, at, head, theme) {
  const { scale, unit } = timeUnit(head.end_s);
  pen.font = `${LABEL_FONT_PX}px ${theme.font}`;
  const [from, to] = at.span.map((seconds) => seconds / scale);
  const fine = Math.max(0, Math.ceil(-Math.log10((to - from) / 10)));
  const label = pen.measureText(decimal(to, Math.min(fine, 12))).width + 22;
  const { step, values } = roundNumbers(from, to, Math.min(10, Math.floor((at.right - at.left) / label)));
  const decimals = Math.min(12, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)));
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  for (const value of values) {
    const x = Math.round(at.x(value * scale)) + 0.5;
    line(pen, x, at.top, x, at.floor + 4, theme.line, 0.5);
    const text = decimal(value, decimals);
    pen.fillStyle = theme.faint;
    pen.fillText(text, Math.min(x, at.width - pen.measureText(text).width / 2), at.floor + 17);
  }
  pen.fillText(`time (${unit})`, (at.left + at.right) / 2, at.floor + 34);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  head.lanes.forEach((lane, index) => {
    const y = at.top + index * at.laneHeight;
    const first = lane.sort === "medium" && index > 0 && head.lanes[index - 1].sort === "device";
    line(pen, first ? 0 : at.left, y + 0.5, at.right, y + 0.5, first ? theme.faint : theme.line, first ? 0.8 : 0.5);
    pen.fillStyle = lane.sort === "device" ? theme.ink : theme.faint;
    pen.fillText(shortened(pen, lane.name, at.left - 12), at.left - 8, y + at.laneHeight / 2);
  });
  line(pen, at.left, at.floor + 0.5, at.right, at.floor + 0.5, theme.faint, 0.8);
}

function line(pen, x1, y1, x2, y2, colour, opacity) {
  pen.globalAlpha = opacity;
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
  pen.globalAlpha = 1;
}

/** Bubbles, bars, the critical path and the numbers of micro-batches, in that order. */
function drawBars(pen, at, head, bars, idle, theme, dpr) {
  const rows = head.lanes.length * at.sides;
  const rowOf = (lane, flags) => lane * at.sides + (flags & MEASURED ? 1 : 0);
  const boxes = Array.from({ length: rows }, (_, row) => at.box(Math.floor(row / at.sides), row % at.sides));
  const columns = Math.max(1, Math.round((at.right - at.left) * dpr));
  const [slivers, edges] = [new Coverage(columns, rows), new Coverage(columns, rows)];
  const narrow = 2 / dpr;
  pen.save();
  pen.beginPath();
  pen.rect(at.left, 0, at.right - at.left, at.floor);
  pen.clip();

  pen.fillStyle = hatching(pen, theme.hatch, dpr);
  for (let index = 0; index < idle.count; index++) {
    const x = at.x(idle.start[index]), end = at.x(idle.start[index] + idle.duration[index]);
    if (end < at.left || x > at.right) continue;
    const row = rowOf(idle.lane[index], idle.flags[index]);
    if (end - x < 3) slivers.add(row, (x - at.left) * dpr, (end - at.left) * dpr, theme.bubble);
    else pen.fillRect(x, boxes[row][0], end - x, boxes[row][1]);
  }

  const wide = head.groups.map(() => []); // [x, end, bar] of bars that are seen as such
  for (let index = 0; index < bars.count; index++) {
    const x = Math.max(at.x(bars.start[index]), at.left - 4);
    const end = Math.min(at.x(bars.start[index] + bars.duration[index]), at.right + 4);
    if (end < at.left || x > at.right) continue;
    const group = head.kinds[bars.kind[index]].group;
    if (end - x >= narrow) {
      wide[group].push([x, end, index]);
      continue;
    }
    const row = rowOf(bars.lane[index], bars.flags[index]);
    const [from, to] = [(x - at.left) * dpr, (end - at.left) * dpr];
    slivers.add(row, from, to, theme.groups[group]);
    if (bars.flags[index] & CRITICAL) edges.add(row, from, to, theme.edge);
  }
  stretch(pen, slivers, at, dpr, (row) => [boxes[row]]);
  wide.forEach((found, group) => {
    pen.fillStyle = head.groups[group].colour;
    for (const [x, end, index] of found) {
      const [y, height] = boxes[rowOf(bars.lane[index], bars.flags[index])];
      pen.fillRect(x, y, end - x - (end - x > 3 ? APART_PX : 0), height);
    }
  });

  const thick = at.sides === 2 ? 1.5 : 2;
  stretch(pen, edges, at, dpr, (row) => rims(boxes[row], thick));
  pen.fillStyle = theme.ink;
  for (const [x, end, index] of wide.flat()) {
    if (!(bars.flags[index] & CRITICAL)) continue;
    const box = boxes[rowOf(bars.lane[index], bars.flags[index])];
    const width = end - x - (end - x > 3 ? APART_PX : 0);
    for (const [y, height] of rims(box, thick)) pen.fillRect(x, y, width, height);
    if (width < 8) continue;
    pen.fillRect(x, box[0], 1, box[1]);
    pen.fillRect(x + width - 1, box[0], 1, box[1]);
  }
  drawNumbers(pen, at, head, bars, wide, (index) => boxes[rowOf(bars.lane[index], bars.flags[index])], theme);
  pen.restore();
}

/** The upper and the lower edge of a box. */
function rims([y, height], thick) {
  return [[y, thick], [y + height - thick, thick]];
}

/** The micro-batch on every bar that has room for it; of measured transfers that overlap, on the first. */
function drawNumbers(pen, at, head, bars, wide, boxOf, theme) {
  pen.font = `${NUMBER_FONT_PX}px ${theme.font}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  const digit = pen.measureText("0").width;
  const written = new Map();
  wide.forEach((found, group) => {
    pen.fillStyle = head.groups[group].ink;
    for (const [x, end, index] of found) {
      const text = String(bars.microBatch[index]);
      const width = digit * text.length;
      if (!head.kinds[bars.kind[index]].numbered || end - x < width + 7) continue;
      const [y, height] = boxOf(index);
      if (height < NUMBER_FONT_PX) continue;
      const middle = (Math.max(x, at.left) + Math.min(end, at.right)) / 2;
      const row = written.get(y) ?? [];
      if (row.some(([other, half]) => Math.abs(other - middle) < half + width / 2 + 1)) continue;
      written.set(y, [...row, [middle, width / 2]]);
      pen.fillText(text, middle, y + height / 2 + 0.5);
    }
  });
}
