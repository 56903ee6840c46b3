// The trade-off between latency and energy: plans to pick and compare, limits to drag. Drawn from a FrontView
// (dora_nb/explorer/views/front.py), which holds every number and sentence; common.js, plot.js and limit_line.js stand
// in front of this text.

const POINT_PX = 5.5;
const REACH_PX = 14; // how near a click counts as on a point

/** A plan in one sentence. */
function spoken(point) {
  return point.lines.join("; ");
}

class ParetoPlot {
  constructor(model, host) {
    this.model = model;
    this.id = `dora-pareto-${Math.random().toString(36).slice(2)}`;
    this.serial = 0;
    this.view = null; // the view that is drawn
    this.dragging = false;
    this.measure = document.createElement("canvas").getContext("2d");
    this.build(host);
    this.undo = [hideStatic(model), ...this.listen()];
  }

  // Everything that can have the focus is made once, so that redrawing never takes the focus away.
  build(host) {
    const names = ["areas", "grid", "lines", "bound", "baselines", "labels"];
    this.layers = Object.fromEntries(names.map((name) => [name, svg("g", { class: `dora-${name}` })]));
    const { areas, grid, lines, bound, baselines, labels } = this.layers;
    labels.setAttribute("aria-hidden", "true");
    const help = "Plans. Arrow keys pick one; with shift, one to compare it with.";
    this.points = svg("g", { class: "dora-points", role: "listbox", tabindex: 0, "aria-label": help });
    this.limits = LIMITS.map((limit) => new LimitLine(limit, this.model, (begins) => this.drag(begins)));
    const handles = this.limits.map((each) => each.node);
    const definitions = svg("defs", {}, hatch(`${this.id}-hatch`));
    const layers = [definitions, areas, grid, lines, bound, baselines, handles, this.points, labels];
    this.picture = svg("svg", { role: "group" }, layers);
    this.tip = el("div", { class: "dora-tip", hidden: true });
    this.plot = el("div", { class: "dora-pareto-plot" }, this.picture, this.tip);
    this.notes = el("div", { class: "dora-pareto-notes" });
    this.spoken = el("div", { class: "dora-spoken", "aria-live": "polite" });
    this.root = el("div", { class: "dora-nb dora-pareto" }, legend(this.id), this.plot, this.notes, this.spoken);
    host.append(this.root);
  }

  listen() {
    const redraw = { view: () => this.draw(), selected: () => this.redraw(), compared: () => this.redraw() };
    for (const { trait } of LIMITS) redraw[trait] = () => this.redraw();
    redraw.bound = () => this.drawBound();
    const heard = Object.entries(redraw).map(([name, act]) => {
      const whenChanged = () => {
        act();
        painted(this.root, ++this.serial);
      };
      this.model.on(`change:${name}`, whenChanged);
      return () => this.model.off(`change:${name}`, whenChanged);
    });
    const sized = new ResizeObserver(() => this.draw());
    sized.observe(this.plot);
    this.picture.addEventListener("pointermove", (event) => this.hover(event));
    this.picture.addEventListener("pointerleave", () => this.hideTip());
    this.points.addEventListener("click", (event) => this.click(event));
    this.points.addEventListener("keydown", (event) => this.key(event));
    return [...heard, () => sized.disconnect()];
  }

  close() {
    for (const each of this.undo) each();
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  // Drawing.

  /** Everything; but while a limit is dragged the axes stand still. */
  draw() {
    const view = this.model.get("view");
    if (this.dragging || !view?.points || !this.plot.clientWidth) return;
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    this.view = view;
    this.at = placement(view, width, height);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.setAttribute("aria-label", view.title);
    this.layers.areas.replaceChildren(...this.areas(view));
    this.layers.grid.replaceChildren(...this.grid(view));
    this.layers.lines.replaceChildren(
      svg("path", { class: "dora-front", d: path(this.at, view.dominated) }),
      svg("path", { class: "dora-proven", d: path(this.at, view.proven) }),
    );
    this.layers.baselines.replaceChildren(...view.baselines.map((each) => this.baseline(each)));
    this.points.replaceChildren(...view.points.map((each, index) => this.point(each, index)));
    this.notes.textContent = view.notes.join(" \u00b7 ");
    this.drawBound();
    this.redraw();
    if (!this.serial) painted(this.root, ++this.serial);
  }

  /** What a person can change: the limits and what is picked, and with both the places of the labels. */
  redraw() {
    if (!this.view) return;
    const taken = this.limits.flatMap((each) => each.draw(this.view, this.at));
    this.mark();
    this.label(taken);
  }

  areas(view) {
    const { at } = this;
    const corners = view.dominated;
    const shapes = [];
    if (corners.length) {
      const d = `M${at.x(corners[0][0])},${at.top}L${path(at, corners).slice(1)}H${at.right}V${at.top}Z`;
      const tip = "Dominated: one of the plans is at least as fast and takes no more energy.";
      shapes.push(svg("path", { class: "dora-dominated", d, "data-tip": tip }));
    }
    if (view.proven.length) {
      const d = `M${at.left},${at.y(view.proven[0][1])}L${path(at, view.proven).slice(1)}V${at.bottom}H${at.left}Z`;
      const fill = `url(#${this.id}-hatch)`;
      shapes.push(svg("path", { class: "dora-impossible", d, fill, "data-tip": view.proven_words }));
    }
    return shapes;
  }

  grid(view) {
    const { at } = this;
    const line = (x1, y1, x2, y2, name) => svg("line", { x1, y1, x2, y2, class: name });
    const text = (x, y, anchor, content, more = {}) =>
      svg("text", { x, y, "text-anchor": anchor, "aria-hidden": "true", ...more }, content);
    const middle = (at.top + at.bottom) / 2;
    const apart = (at.right - at.left) / view.latency.ticks.length; // px; labels of ticks need about 40
    const shown = (index) => apart >= 40 || index % 2 === 0;
    return [
      ...view.latency.ticks.flatMap(([value, label], index) => [
        line(at.x(value), at.bottom, at.x(value), at.top, "dora-tick"),
        shown(index) && text(at.x(value), at.bottom + 16, "middle", label),
      ]),
      ...view.energy.ticks.flatMap(([value, label]) => [
        line(at.left, at.y(value), at.right, at.y(value), "dora-tick"),
        text(at.left - 7, at.y(value) + 4, "end", label),
      ]),
      line(at.left, at.bottom, at.right, at.bottom, "dora-axis"),
      line(at.left, at.bottom, at.left, at.top, "dora-axis"),
      text((at.left + at.right) / 2, at.bottom + 35, "middle", view.latency.title, { class: "dora-title" }),
      text(14, middle, "middle", view.energy.title, { class: "dora-title", transform: `rotate(-90 14 ${middle})` }),
    ].filter(Boolean);
  }

  baseline(each) {
    const [cx, cy] = [this.at.x(each.latency_s), this.at.y(each.energy_j)];
    return svg("g", { role: "img", "aria-label": spoken(each) },
      svg("circle", { cx, cy, r: POINT_PX - 0.5, class: "dora-baseline" }));
  }

  point(each, index) {
    const [cx, cy] = [this.at.x(each.latency_s), this.at.y(each.energy_j)];
    return svg("g", { role: "option", id: `${this.id}-${index}`, class: "dora-point", "aria-label": spoken(each) },
      svg("circle", { cx, cy, r: REACH_PX, class: "dora-reach" }),
      svg("circle", { cx, cy, r: POINT_PX + 5, class: "dora-ring" }),
      svg("circle", { cx, cy, r: POINT_PX, class: "dora-dot" }));
  }

  /** What a solve under way has proven by now. */
  drawBound() {
    const [corners, words] = [this.model.get("bound"), this.model.get("bound_words")];
    if (!this.view || !corners.length) {
      this.layers.bound.replaceChildren();
      return;
    }
    const { at } = this;
    const [[left_s, top_j], [right_s]] = [corners[0], corners.at(-1)];
    const d = `${path(at, corners)}${at.x(right_s) < at.right ? `V${at.bottom}` : ""}`;
    // Above a level line; beside an upright one, below the places of the labels of limits.
    const upright = left_s === right_s;
    const place = { x: at.x(left_s) + 5, y: upright ? at.top + 14 : Math.min(at.y(top_j), at.bottom) - 5 };
    this.layers.bound.replaceChildren(
      svg("path", { d, class: "dora-reach", "data-tip": words }),
      svg("path", { d, class: "dora-bound" }),
      svg("text", { ...place, "aria-hidden": "true" }, words),
    );
  }

  /** What is picked, compared and beyond a limit. */
  mark() {
    const { model, view } = this;
    const [selected, compared] = [model.get("selected"), model.get("compared")];
    const [most_s, most_j] = LIMITS.map(({ trait }) => (model.get(trait) ?? Infinity) * (1 + 1e-9));
    view.points.forEach((each, index) => {
      const node = this.points.children[index];
      // Which other limits are missed the kernel says; these two are looked at here, so that dragging shows at once.
      const others = each.missed.filter((term) => term !== "latency" && term !== "energy");
      node.classList.toggle("dora-beyond", each.latency_s > most_s || each.energy_j > most_j || others.length > 0);
      node.classList.toggle("dora-picked", index === selected);
      node.classList.toggle("dora-compared", index === compared);
      node.setAttribute("aria-selected", String(index === selected));
    });
    const [picked, other] = [view.points[selected], view.points[compared]];
    if (picked) this.points.setAttribute("aria-activedescendant", `${this.id}-${selected}`);
    else this.points.removeAttribute("aria-activedescendant");
    const sentences = [picked && `Picked: ${spoken(picked)}.`, other && `Compared with: ${spoken(other)}.`];
    const about = sentences.filter(Boolean).join(" ");
    if (about !== this.spoken.textContent) this.spoken.textContent = about;
  }

  label(limits) {
    const { at, view } = this;
    const style = getComputedStyle(this.picture);
    this.measure.font = `${style.fontSize} ${style.fontFamily}`;
    const widthOf = (text) => this.measure.measureText(text).width;
    const wanted = ({ latency_s, energy_j, mark, label }) => ({
      x: at.x(latency_s),
      y: at.y(energy_j),
      texts: [`${mark} ${label}`, mark],
    });
    // The picked plan chooses its place first.
    const order = [this.model.get("selected"), this.model.get("compared")];
    const first = view.points.filter((_, index) => order.includes(index));
    const drawn = [...first, ...view.points.filter((each) => !first.includes(each)), ...view.baselines];
    const taken = [...boxesAlong(at, view.dominated), ...boxesAlong(at, view.proven), ...limits];
    const frame = [at.left + 2, at.top + 1, at.right, at.bottom - 2];
    const placed = placeLabels(drawn.map(wanted), taken, frame, widthOf);
    this.layers.labels.replaceChildren(
      ...placed.flatMap((label, index) => {
        if (!label) return [];
        const name = index < view.points.length ? "dora-label" : "dora-label dora-faint";
        return [svg("text", { x: label.x, y: label.y, "text-anchor": label.anchor, class: name }, label.text)];
      }),
    );
  }

  // Picking.

  click(event) {
    const index = this.view.points.indexOf(this.nearest(event, this.view.points));
    if (index < 0) return;
    if (event.shiftKey) this.compare(index);
    else this.pick(index);
  }

  /** Of some points the nearest to the pointer, if it is near enough. */
  nearest(event, points) {
    const { left, top } = this.picture.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const away = points.map((each) => Math.hypot(this.at.x(each.latency_s) - x, this.at.y(each.energy_j) - y));
    const least = Math.min(...away);
    return least <= REACH_PX ? points[away.indexOf(least)] : undefined;
  }

  pick(index) {
    if (this.model.get("compared") === index) this.model.set("compared", -1);
    this.set("selected", index);
  }

  compare(index) {
    const off = index === this.model.get("compared") || index === this.model.get("selected");
    this.set("compared", off ? -1 : index);
  }

  key(event) {
    const last = this.view ? this.view.points.length - 1 : -1;
    const [selected, compared] = [this.model.get("selected"), this.model.get("compared")];
    const from = event.shiftKey && compared >= 0 ? compared : selected;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    let to = step ? from + step : { Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.set("compared", -1);
    else if (to === undefined || last < 0) return;
    else if (event.shiftKey) {
      if (to === selected && step) to += step; // a plan is not compared with itself
      if (to >= 0 && to <= last && to !== selected) this.set("compared", to);
    } else this.pick(within(to, [0, last]));
    this.hideTip();
    event.preventDefault();
    event.stopPropagation();
  }

  drag(begins) {
    this.dragging = begins;
    if (begins) this.hideTip();
    else this.draw();
  }

  // Tooltips.

  hover(event) {
    if (!this.view) return;
    const near = this.nearest(event, [...this.view.points, ...this.view.baselines]);
    const about = event.target.closest("[data-tip]")?.getAttribute("data-tip");
    const text = near ? near.lines.join("\n") : about;
    if (!text || this.dragging) {
      this.hideTip();
      return;
    }
    this.tip.textContent = text;
    this.tip.hidden = false;
    const box = this.plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const left = x + 14 + this.tip.offsetWidth > box.width ? x - 14 - this.tip.offsetWidth : x + 14;
    const top = y + 14 + this.tip.offsetHeight > box.height ? y - 10 - this.tip.offsetHeight : y + 14;
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.max(0, top)}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }
}

/** Oblique lines over what no plan can reach. */
function hatch(id) {
  const turned = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return svg("pattern", { id, width: 7, height: 7, ...turned }, svg("line", { y2: 7, class: "dora-hatch" }));
}

/** What the marks mean; always the same entries, so that nothing below ever moves. */
function legend(id) {
  const entry = (words, ...marks) =>
    el("span", { class: "dora-entry" }, svg("svg", { width: 22, height: 12, "aria-hidden": "true" }, marks), words);
  const circle = (r, name) => svg("circle", { cx: 11, cy: 6, r, class: name });
  const area = (attributes) => svg("rect", { width: 22, height: 12, ...attributes });
  const hatched = area({ fill: `url(#${id}-hatch)` });
  const hint = "Click picks, shift+click compares; limits can be dragged.";
  return el(
    "div",
    { class: "dora-pareto-legend" },
    entry("plan", circle(5, "dora-dot")),
    entry("picked", circle(3, "dora-dot"), circle(5.2, "dora-ring dora-ring-picked")),
    entry("compared", circle(3, "dora-dot"), circle(5.2, "dora-ring dora-ring-compared")),
    entry("baseline", circle(4.5, "dora-baseline")),
    entry("limit", svg("line", { x2: 22, y1: 6, y2: 6, class: "dora-limit" })),
    entry("dominated", area({ class: "dora-dominated" })),
    entry("proven: no plan", hatched, svg("path", { d: "M0,1H22", class: "dora-proven" })),
    el("span", { class: "dora-entry dora-hint" }, hint),
  );
}

function render({ model, el: host }) {
  const plot = new ParetoPlot(model, host);
  plot.draw();
  return () => plot.close();
}

export default { render };
