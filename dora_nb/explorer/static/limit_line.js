// A limit in the plot of latency against energy: a line to drag, or to move with the keys while it has the focus.
// Stands behind common.js and plot.js.

const LINE_REACH_PX = 8; // how near the pointer counts as on the line

/** How a line of each limit is named and moved; an upright one is moved sideways. */
const LIMITS = [
  { trait: "latency_limit_s", axis: "latency", words: "latency_limit_words", upright: true },
  { trait: "energy_limit_j", axis: "energy", words: "energy_limit_words", upright: false },
];

class LimitLine {
  /**
   * @param {Object} limit - one of LIMITS
   * @param {Object} model - holds the limit; null: there is none, and the line waits at the end of its axis
   * @param {function(boolean): void} onDrag - called when dragging begins and ends
   */
  constructor(limit, model, onDrag) {
    this.limit = limit;
    this.model = model;
    const orientation = limit.upright ? "horizontal" : "vertical";
    this.node = svg("g", { class: "dora-handle", role: "slider", tabindex: 0, "aria-orientation": orientation });
    this.listen(onDrag);
  }

  get value() {
    return this.model.get(this.limit.trait) ?? null;
  }

  set value(value) {
    this.model.set(this.limit.trait, value);
    this.model.save_changes();
  }

  listen(onDrag) {
    const { node } = this;
    node.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.axis) return;
      node.setPointerCapture(event.pointerId);
      node.focus({ preventScroll: true });
      onDrag(true);
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const { left, top } = node.ownerSVGElement.getBoundingClientRect();
      this.move(this.limit.upright ? this.at.latencyAt(event.clientX - left) : this.at.energyAt(event.clientY - top));
    });
    node.addEventListener("lostpointercapture", () => onDrag(false));
    node.addEventListener("keydown", (event) => this.key(event));
  }

  /** Sets the limit to a whole number of the axis's steps, on the axis. */
  move(value) {
    const { low, high, step } = this.axis;
    const whole = Math.round(within(value, [Math.max(low, step), high]) / step) * step;
    if (whole !== this.value) this.value = Number(whole.toPrecision(12));
  }

  key(event) {
    if (!this.axis) return;
    const { low, high, step, ticks } = this.axis;
    const now = this.value ?? high;
    const far = ticks[1][0] - ticks[0][0];
    const to = {
      ArrowRight: now + step,
      ArrowUp: now + step,
      ArrowLeft: now - step,
      ArrowDown: now - step,
      PageUp: now + far,
      PageDown: now - far,
      Home: low,
      End: high,
    }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.value = null;
    else if (to === undefined) return;
    else this.move(to);
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * Draws the line where the limit is.
   * @param {Object} view - a FrontView
   * @param {Object} at - its placement
   * @returns {Array} boxes that labels keep out of
   */
  draw(view, at) {
    this.axis = view[this.limit.axis];
    this.at = at;
    const { axis, value, node } = this;
    const shown = value ?? axis.high;
    const outside = shown > axis.high || shown < axis.low;
    const name = view[this.limit.words];
    const words = value === null ? `no ${name}` : `${name} ${said(axis, value)}${outside ? ", off this plot" : ""}`;
    const parts = this.limit.upright ? upright(at, at.x(shown), words) : level(at, at.y(shown), words);
    const [x1, y1, x2, y2] = parts.line;
    node.classList.toggle("dora-none", value === null);
    node.replaceChildren(
      reachOf(parts.reach),
      reachOf(parts.gripReach),
      svg("line", { x1, y1, x2, y2, class: "dora-limit" }),
      svg("path", { d: parts.grip, class: "dora-grip" }),
      svg("text", { ...parts.label, "aria-hidden": "true" }, words),
    );
    const attributes = {
      "data-tip": `${words[0].toUpperCase()}${words.slice(1)}. Drag it, or use the arrow keys; Delete removes it.`,
      "aria-label": `${name}; Delete removes it`,
      "aria-valuemin": axis.low / axis.scale,
      "aria-valuemax": axis.high / axis.scale,
      "aria-valuenow": within(shown, [axis.low, axis.high]) / axis.scale,
      "aria-valuetext": words,
    };
    for (const [attribute, text] of Object.entries(attributes)) node.setAttribute(attribute, text);
    return [[x1 - 2, y1 - 2, x2 + 2, y2 + 2], ...parts.taken];
  }
}

/** The parts of an upright line; its label and its grip are above the plot. */
function upright(at, x, words) {
  const fits = x + 10 + 6.4 * words.length < at.right + MARGIN.right;
  return {
    line: [x, at.top - 4, x, at.bottom],
    reach: [Math.max(x - LINE_REACH_PX, at.left), at.top, Math.min(x + LINE_REACH_PX, at.right), at.bottom],
    grip: `M${x - 5},${at.top - 8}h10l-5,7z`,
    gripReach: [x - 11, at.top - 16, x + 11, at.top],
    label: { x: fits ? x + 9 : x - 9, y: at.top - 9, "text-anchor": fits ? "start" : "end" },
    taken: [],
  };
}

/** The parts of a level line; its label is at its right end, below it where it is at the top. */
function level(at, y, words) {
  const below = y - at.top < 18;
  const label = { x: at.right - 4, y: below ? y + 14 : y - 5, "text-anchor": "end" };
  return {
    line: [at.left, y, at.right, y],
    reach: [at.left, Math.max(y - LINE_REACH_PX, at.top), at.right, Math.min(y + LINE_REACH_PX, at.bottom)],
    grip: `M${at.right + 8},${y - 5}v10l-7,-5z`,
    gripReach: [at.right, y - 11, at.right + 16, y + 11],
    label,
    taken: [[at.right - 6.4 * words.length, label.y - 11, at.right, label.y + 4]],
  };
}

function reachOf([x, y, right, bottom]) {
  return svg("rect", { x, y, width: right - x, height: bottom - y, class: "dora-reach" });
}
