// The timeline of a plan or a run. Python (explorer/widgets/gantt.py) sends the bars as arrays and a head with all the
// words; gantt_bars.js reads them, gantt_drawing.js draws them; common.js stands in front of all.

const REACH_PX = 4; // how near the pointer counts as on a bar
const ZOOM = 1.5; // of one press on + or -
const KEYS =
  "Arrow keys go from bar to bar, with Shift along the time axis; plus and minus zoom, Home shows everything, Escape picks nothing.";
const HINT = "Drag to move, Ctrl + wheel to zoom, arrow keys from bar to bar";

class Gantt {
  constructor(model, host) {
    this.model = model;
    this.span = null; // seconds shown, null: everything
    this.subject = null;
    this.hovered = -1;
    this.tallest = 0;
    this.dragged = null;
    this.probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    this.build(host);
    this.undo = [hideStatic(model), ...this.listen()];
    this.read();
  }

  build(host) {
    const button = (text, label, act) => el("button", { type: "button", title: label, "aria-label": label, onclick: act }, text);
    this.title = el("div", { class: "dora-gantt-title" });
    this.legend = el("div", { class: "dora-gantt-legend" });
    this.base = el("canvas", { "aria-hidden": "true" });
    this.overlay = el("canvas", { "aria-hidden": "true" });
    this.tip = el("div", { class: "dora-tip", hidden: true });
    this.plot = el(
      "div",
      // JupyterLab would take the arrow keys for itself.
      { class: "dora-gantt-plot", tabindex: 0, role: "application", "aria-roledescription": "timeline", "data-lm-suppress-shortcuts": true },
      this.base, this.overlay, this.tip,
    );
    this.status = el("div", { class: "dora-gantt-status", "aria-live": "polite" });
    this.table = el("table");
    this.root = el(
      "div", { class: "dora-nb dora-gantt" },
      el(
        "div", { class: "dora-gantt-top" }, this.title,
        el(
          "div", { class: "dora-gantt-buttons", role: "group", "aria-label": "Zoom" },
          button("\u2212", "Zoom out", () => this.zoom(1 / ZOOM)),
          button("+", "Zoom in", () => this.zoom(ZOOM)),
          button("whole", "Show everything", () => this.look(null)),
        ),
      ),
      this.legend, this.plot, this.status,
      el("details", { class: "dora-gantt-table" }, el("summary", {}, "Lanes as a table"), el("div", {}, this.table)),
    );
    host.append(this.root);
  }

  listen() {
    const { model, plot } = this;
    const heard = {
      "change:tick": () => this.read(),
      "change:title": () => this.write(),
      "change:picked": () => {
        this.mark();
        this.say();
      },
    };
    for (const [name, act] of Object.entries(heard)) model.on(name, act);
    const sized = new ResizeObserver(() => this.resize());
    sized.observe(plot);
    plot.addEventListener("pointerdown", (event) => this.press(event));
    plot.addEventListener("pointermove", (event) => this.move(event));
    plot.addEventListener("pointerup", (event) => this.release(event));
    plot.addEventListener("pointercancel", () => (this.dragged = null));
    plot.addEventListener("pointerleave", () => this.hover(-1));
    plot.addEventListener("dblclick", () => this.look(null));
    plot.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    plot.addEventListener("keydown", (event) => this.key(event));
    return [
      () => Object.entries(heard).forEach(([name, act]) => model.off(name, act)),
      () => sized.disconnect(),
      onTheme(this.root, () => this.draw()),
    ];
  }

  end() {
    for (const each of this.undo) each();
  }

  // ------------------------------------------------------------------ what is shown

  /** Takes what the kernel sent, and draws it. */
  read() {
    const { model } = this;
    this.head = model.get("_head");
    if (this.subject !== model.get("_subject")) {
      this.subject = model.get("_subject");
      this.span = null;
    }
    if (!this.head.lanes) return this.write();
    this.bars = readBars(model);
    this.idle = readIdle(model);
    this.rows = rowsOf(this.head, this.bars);
    this.hovered = -1;
    this.write();
    this.draw();
  }

  /** All words around the figure. */
  write() {
    const { head, bars, idle } = this;
    this.title.textContent = this.title.title = this.model.get("title");
    if (!bars) {
      this.legend.replaceChildren("nothing to show");
      return;
    }
    const sides = head.measured ? "; predicted in the upper half of each lane, measured in the lower half" : "";
    this.plot.setAttribute("aria-label", `${this.model.get("title")}: ${bars.count.toLocaleString("en-US")} bars on ${head.lanes.length} lanes${sides}. ${KEYS}`);
    const present = new Set(head.kinds.map((kind) => kind.group));
    const entry = (mark, text, colour) =>
      el("span", { class: "dora-gantt-entry" }, el("span", { class: `dora-gantt-mark ${mark}`, style: colour && `background:${colour}` }), text);
    const entries = head.groups.map((group, index) => present.has(index) && entry("", group.label, group.colour));
    if (bars.flags.some((flags) => flags & CRITICAL)) entries.push(entry("dora-gantt-critical", "critical path"));
    if (idle.count) entries.push(entry("dora-gantt-bubble", "bubble: the device waits"));
    if (head.measured) entries.push(el("span", { class: "dora-gantt-entry" }, "above: predicted, below: measured"));
    this.legend.replaceChildren(...entries.filter(Boolean));
    this.keepLegend();
    const row = (cells, tag) => el("tr", {}, cells.map((cell, index) => el(tag, { scope: tag === "th" ? "col" : null, class: index < 2 ? "dora-gantt-left" : null }, cell)));
    this.table.replaceChildren(el("thead", {}, row(head.heading, "th")), el("tbody", {}, head.rows.map((cells) => row(cells, "td"))));
    this.say();
  }

  /** The line below the figure: what is picked, or how to. */
  say() {
    const picked = this.picked;
    this.status.textContent = picked < 0 ? HINT : this.words(picked).join("; ");
    this.status.classList.toggle("dora-gantt-hint", picked < 0);
  }

  /** A bar in words, line by line. */
  words(index) {
    const { bars, head } = this;
    const kind = head.kinds[bars.kind[index]], flags = bars.flags[index];
    const stage = bars.stage[index] < 0 ? "hosted first layer" : `stage ${bars.stage[index]}`;
    const turn = kind.turn ? `, ${kind.turn} ${bars.microBatch[index]}` : "";
    const start = bars.start[index], seconds = bars.duration[index];
    const { scale, unit } = timeUnit(head.end_s);
    const decimals = Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.max(seconds / scale, 1e-9)))));
    const times = `${decimal(start / scale, decimals)} to ${decimal((start + seconds) / scale, decimals)} ${unit} (${durationWords(seconds)})`;
    const lines = [`${kind.name}, ${stage}${turn}`, `${head.lanes[bars.lane[index]].name}, ${times}${head.measured ? (flags & MEASURED ? ", measured" : ", predicted") : ""}`];
    if (flags & CRITICAL) lines.push("on the critical path");
    if (flags & ARRIVAL_UNKNOWN) lines.push("fetched later: when it arrived is not known");
    return lines;
  }

  get picked() {
    const picked = this.model.get("picked");
    return this.bars && picked < this.bars.count ? picked : -1;
  }

  // ------------------------------------------------------------------ drawing

  /** Draws everything anew. */
  draw() {
    const width = this.plot.clientWidth;
    if (!this.bars || width === 0) return;
    const dpr = window.devicePixelRatio || 1;
    const theme = this.theme();
    const pen = this.base.getContext("2d");
    pen.font = `${LABEL_FONT_PX}px ${theme.font}`;
    const longest = Math.max(...this.head.lanes.map((lane) => pen.measureText(lane.name).width), 0);
    const gutter = Math.round(Math.min(longest + 14, width * 0.28) * dpr) / dpr;
    this.at = layoutOf(this.head, width, gutter, this.shown());
    this.tallest = Math.max(this.tallest, this.at.height); // a plan with fewer lanes moves nothing on the page
    this.plot.style.height = `${this.tallest}px`;
    for (const canvas of [this.base, this.overlay]) {
      [canvas.width, canvas.height] = [Math.round(width * dpr), Math.round(this.at.height * dpr)];
      [canvas.style.width, canvas.style.height] = [`${width}px`, `${this.at.height}px`];
      canvas.getContext("2d").setTransform(dpr, 0, 0, dpr, 0, 0);
    }
    drawFrame(pen, this.at, this.head, theme);
    drawBars(pen, this.at, this.head, this.bars, this.idle, theme, dpr);
    this.mark();
    const tick = this.model.get("tick");
    if (this.painted !== tick) painted(this.root, tick);
    this.painted = tick;
  }

  resize() {
    if (this.plot.clientWidth === this.at?.width) return;
    this.legend.style.minHeight = "";
    this.keepLegend();
    this.draw();
  }

  /** Fewer entries in the legend move nothing on the page. */
  keepLegend() {
    this.legend.style.minHeight = `${this.legend.offsetHeight}px`;
  }

  theme() {
    const own = colours(this.root);
    const shade = (colour, opacity) => {
      const [red, green, blue] = channels(this.probe, colour);
      return [red, green, blue, 255 * opacity];
    };
    const hatch = shade(own.faint, 0.35);
    return {
      ...own,
      font: getComputedStyle(this.root).fontFamily,
      groups: this.head.groups.map((group) => shade(group.colour, 1)),
      edge: shade(own.ink, 1),
      bubble: shade(own.faint, 0.06),
      hatch: `rgba(${hatch[0]}, ${hatch[1]}, ${hatch[2]}, ${hatch[3] / 255})`,
    };
  }

  /** Outlines the bar under the pointer and the one picked. */
  mark() {
    const pen = this.overlay.getContext("2d");
    pen.clearRect(0, 0, this.overlay.width, this.overlay.height);
    if (!this.at) return;
    const own = colours(this.root);
    if (this.hovered >= 0 && this.hovered !== this.picked) this.outline(pen, this.hovered, own.faint, own.paper, 1.5);
    if (this.picked >= 0) this.outline(pen, this.picked, own.limit, own.paper, 2.5);
  }

  outline(pen, index, colour, paper, thick) {
    const { at, bars } = this;
    const x = Math.max(at.x(bars.start[index]), at.left - 8);
    const end = Math.min(at.x(bars.start[index] + bars.duration[index]), at.right + 8);
    if (end < at.left || x > at.right) return;
    const [y, height] = at.box(bars.lane[index], (bars.flags[index] & MEASURED) !== 0);
    const width = Math.max(end - x, 2);
    for (const [stroke, line, apart] of [[paper, thick + 2, thick / 2], [colour, thick, thick / 2]]) {
      pen.strokeStyle = stroke;
      pen.lineWidth = line;
      pen.strokeRect(x - apart, y - apart, width + 2 * apart, height + 2 * apart);
    }
  }

  // ------------------------------------------------------------------ zooming and moving

  /** First and last second shown. */
  shown() {
    const end = this.head.end_s > 0 ? this.head.end_s : 1;
    return this.span ?? [0, end];
  }

  /** Shows a stretch of time, or everything. */
  look(span) {
    if (!this.bars) return;
    const end = this.head.end_s > 0 ? this.head.end_s : 1;
    if (span) {
      const seconds = Math.max(span[1] - span[0], end * 1e-7);
      const from = Math.min(Math.max(span[0], 0), Math.max(end - seconds, 0));
      span = seconds >= end * (1 - 1e-9) ? null : [from, from + seconds];
    }
    this.span = span;
    this.hover(-1);
    this.draw();
  }

  /** Zooms around a second; around what is picked, or the middle, where none is named. */
  zoom(factor, around = null) {
    if (!this.bars) return;
    const [from, to] = this.shown();
    if (around === null) {
      const picked = this.picked;
      const middle = picked < 0 ? -1 : this.bars.start[picked] + this.bars.duration[picked] / 2;
      around = middle >= from && middle <= to ? middle : (from + to) / 2;
    }
    this.look([around - (around - from) / factor, around + (to - around) / factor]);
  }

  /** Moves along the axis by a share of what is shown. */
  shift(share) {
    const [from, to] = this.shown();
    this.look([from + share * (to - from), to + share * (to - from)]);
  }

  // ------------------------------------------------------------------ the pointer

  press(event) {
    if (event.button !== 0 || !this.bars) return;
    this.dragged = { x: event.clientX, span: this.shown(), moved: false };
    this.plot.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.bars) return;
    const drag = this.dragged;
    if (!drag) return this.hover(this.find(event), event);
    const distance = event.clientX - drag.x;
    if (!drag.moved && Math.abs(distance) < 4) return;
    drag.moved = true;
    const seconds = distance / this.at.perSecond;
    if (this.span) this.look([drag.span[0] - seconds, drag.span[1] - seconds]);
  }

  release(event) {
    const drag = this.dragged;
    this.dragged = null;
    if (drag && !drag.moved) this.pick(this.find(event));
  }

  wheel(event) {
    if (!this.bars) return;
    const zooms = event.ctrlKey || event.metaKey || this.plot.matches(":focus");
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      if (!this.span) return;
      event.preventDefault();
      this.shift((event.deltaX || event.deltaY) / (this.at.right - this.at.left));
    } else if (zooms && (this.span || event.deltaY < 0)) {
      event.preventDefault(); // else the page scrolls, as it does when there is nothing left to zoom out
      const rate = event.ctrlKey && Math.abs(event.deltaY) < 50 ? 1.01 : 1.002; // two fingers on a pad: many small turns
      this.zoom(rate ** -Math.max(-400, Math.min(400, event.deltaY)), this.at.seconds(this.place(event)[0]));
    }
  }

  place(event) {
    const box = this.plot.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** The bar at the pointer, or -1. */
  find(event) {
    const { at, bars, rows, head } = this;
    const [x, y] = this.place(event);
    const lane = Math.floor((y - at.top) / at.laneHeight);
    if (lane < 0 || lane >= head.lanes.length || x < at.left || x > at.right) return -1;
    const lower = head.measured && y >= at.box(lane, true)[0];
    return barAt(bars, rows[lane * at.sides + (lower ? 1 : 0)], at.seconds(x), REACH_PX / at.perSecond);
  }

  hover(index, event = null) {
    if (index !== this.hovered) {
      this.hovered = index;
      if (this.at) this.mark();
    }
    this.tip.hidden = index < 0;
    this.plot.style.cursor = index >= 0 ? "pointer" : this.span ? "grab" : "default";
    if (index < 0 || !event) return;
    this.tip.textContent = this.words(index).join("\n");
    const [x, y] = this.place(event);
    const { offsetWidth, offsetHeight } = this.tip;
    const beside = x + 14 + offsetWidth > this.plot.clientWidth ? x - 14 - offsetWidth : x + 14;
    this.tip.style.left = `${Math.max(0, beside)}px`;
    this.tip.style.top = `${y + 18 + offsetHeight > this.tallest + 20 ? y - 12 - offsetHeight : y + 18}px`;
  }

  // ------------------------------------------------------------------ the keyboard

  key(event) {
    if (!this.bars || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      ArrowLeft: () => (event.shiftKey ? this.shift(-0.25) : this.along(-1)),
      ArrowRight: () => (event.shiftKey ? this.shift(0.25) : this.along(1)),
      ArrowUp: () => this.across(-1),
      ArrowDown: () => this.across(1),
      "+": () => this.zoom(ZOOM),
      "=": () => this.zoom(ZOOM),
      "-": () => this.zoom(1 / ZOOM),
      Home: () => this.look(null),
      Escape: () => this.pick(-1),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }

  rowOf(index) {
    return this.bars.lane[index] * (this.head.measured ? 2 : 1) + (this.bars.flags[index] & MEASURED ? 1 : 0);
  }

  /** Picks the next bar of the same row; the first one shown where none is picked. */
  along(direction) {
    const picked = this.picked;
    if (picked < 0) return this.pickFirst();
    const row = this.rows[this.rowOf(picked)];
    const next = row[row.indexOf(picked) + direction];
    if (next !== undefined) this.pick(next);
  }

  /** Picks the bar at about the same time in the next row that has any. */
  across(direction) {
    const { bars, rows, picked } = this;
    if (picked < 0) return this.pickFirst();
    let row = this.rowOf(picked) + direction;
    while (rows[row] && rows[row].length === 0) row += direction;
    if (rows[row]) this.pick(barAt(bars, rows[row], bars.start[picked] + bars.duration[picked] / 2, Infinity));
  }

  pickFirst() {
    const from = this.shown()[0];
    const row = this.rows.find((each) => each.length > 0);
    if (row) this.pick(row[Math.min(firstAfter(row, this.bars.start, from - 1e-12), row.length - 1)]);
  }

  /** Picks a bar, and brings it into sight. */
  pick(index) {
    this.model.set("picked", index);
    this.model.save_changes();
    if (index < 0) return;
    const { start, duration } = this.bars;
    const [from, to] = this.shown();
    const middle = start[index] + duration[index] / 2;
    if (middle < from || middle > to) this.look([middle - (to - from) / 2, middle + (to - from) / 2]);
  }
}

export default {
  render({ model, el: host }) {
    const gantt = new Gantt(model, host);
    return () => gantt.end();
  },
};
