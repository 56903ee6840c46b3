// Where things stand in a plot of latency against energy: axes, paths, labels. Numbers in, pixels out.

const MARGIN = { left: 62, right: 14, top: 26, bottom: 42 };

/** A number moved into a range. */
function within(value, [low, high]) {
  return Math.min(Math.max(value, low), high);
}

/**
 * Where numbers stand in the plot, in pixels.
 * @param {Object} view - a FrontView
 * @param {number} width
 * @param {number} height
 */
function placement(view, width, height) {
  const [left, right] = [MARGIN.left, Math.max(width - MARGIN.right, MARGIN.left + 40)];
  const [top, bottom] = [MARGIN.top, Math.max(height - MARGIN.bottom, MARGIN.top + 40)];
  const along = (axis, value, start, stop) => start + ((value - axis.low) / (axis.high - axis.low)) * (stop - start);
  const back = (axis, px, start, stop) => axis.low + ((px - start) / (stop - start)) * (axis.high - axis.low);
  return {
    left, right, top, bottom,
    x: (value) => within(along(view.latency, value, left, right), [left, right]),
    y: (value) => within(along(view.energy, value, bottom, top), [top, bottom]),
    latencyAt: (px) => back(view.latency, px, left, right),
    energyAt: (px) => back(view.energy, px, bottom, top),
  };
}

/** A number with its unit. */
function said(axis, value) {
  const number = Number((value / axis.scale).toPrecision(5));
  return `${number.toLocaleString("en-US", { maximumFractionDigits: 6 })} ${axis.unit}`;
}

/** A path through corners. */
function path(at, corners) {
  return corners.map(([s, j], index) => `${index ? "L" : "M"}${at.x(s).toFixed(1)},${at.y(j).toFixed(1)}`).join("");
}

/**
 * Places labels so that none covers a line or another label, or comes near another point than its own; what finds no
 * room is left out.
 * @param {Array} wanted - per point `{x, y, texts}`, texts from long to short
 * @param {Array} taken - boxes `[left, top, right, bottom]`
 * @param {Array} frame - the box they stay in
 * @param {function(string): number} widthOf
 * @returns {Array} per label `{x, y, anchor, text}` or null
 */
function placeLabels(wanted, taken, frame, widthOf) {
  const occupied = [...taken];
  const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const inside = (box) => box[0] >= frame[0] && box[1] >= frame[1] && box[2] <= frame[2] && box[3] <= frame[3];
  const spots = [
    [8, -10, "start"], [11, 4, "start"], [-8, 18, "end"], [-11, 4, "end"], [8, 18, "start"],
    [0, -13, "middle"], [-8, -10, "end"], [0, 22, "middle"],
  ];
  return wanted.map(({ x, y, texts }, own) => {
    const dots = wanted.map((each, index) => [each.x, each.y, index === own ? 5 : 9]);
    for (const text of texts) {
      const width = widthOf(text);
      for (const [dx, dy, anchor] of spots) {
        const start = x + dx - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
        const box = [start - 2, y + dy - 11, start + width + 2, y + dy + 4];
        if (!inside(box) || occupied.some((other) => meets(box, other))) continue;
        if (dots.some(([cx, cy, r]) => meets(box, [cx - r, cy - r, cx + r, cy + r]))) continue;
        occupied.push(box);
        return { x: x + dx, y: y + dy, anchor, text };
      }
    }
    return null;
  });
}

/** Thin boxes over the straight pieces of a line that runs up and across only. */
function boxesAlong(at, corners) {
  return corners.slice(1).map(([s, j], index) => {
    const [x1, x2] = [at.x(corners[index][0]), at.x(s)].sort((a, b) => a - b);
    const [y1, y2] = [at.y(corners[index][1]), at.y(j)].sort((a, b) => a - b);
    return [x1 - 1, y1 - 1, x2 + 1, y2 + 1];
  });
}
