// Devices as cards and contention domains as bars, drawn from a MapView (dora_nb/explorer/views/map.py), which holds
// every number, sentence and default place; common.js stands in front of this text.

const NARROW_PX = 760; // below this the narrow layout is used
const DRAG_PX = 4; // a pointer that moves less than this clicks
const STEP = 0.02; // of the map's width and height, with Shift and an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** A place kept within the map. */
function within([x, y]) {
  return [Math.min(Math.max(x, 0.02), 0.98), Math.min(Math.max(y, 0.04), 0.96)];
}

/** A figure with its name above a bar of how much of the whole it is. */
function gauge({ name, share, short }) {
  const filled = el("i", { class: share > 1 && "dora-over", style: `width:${100 * Math.min(share, 1)}%` });
  return el("div", { class: "dora-gauge" }, el("span", {}, name), el("span", {}, short), el("div", { class: "dora-track" }, filled));
}

/** Where a line meets a bar or a card: the point of it nearest to `x`. */
function nearest(node, x) {
  return Math.min(Math.max(x, node.x - node.width / 2), node.x + node.width / 2);
}

/** The map of one widget. */
class NetworkMap {
  constructor(model, host) {
    this.model = model;
    this.serial = 0;
    this.nodes = new Map(); // by id: {element, kind, x, y, width} in pixels
    this.build(host);
    this.undo = [hideStatic(model), ...this.listen()];
  }

  get view() {
    return this.model.get("view");
  }

  build(host) {
    this.summary = el("div", {});
    this.again = el("button", { class: "dora-map-again", type: "button", title: "Put every device and domain back to where it stood at first" }, "Arrange");
    this.wires = svg("svg", { class: "dora-map-wires", "aria-hidden": "true" });
    this.tip = el("div", { class: "dora-tip", hidden: true });
    // JupyterLab would take the arrow keys and Enter for itself.
    this.area = el("div", { class: "dora-map-area", role: "group", "data-lm-suppress-shortcuts": "true" }, this.wires, this.tip);
    this.hint = el("div", { class: "dora-map-hint" });
    this.spoken = el("div", { class: "dora-spoken", "aria-live": "polite" });
    this.root = el("div", { class: "dora-nb dora-map" }, el("div", { class: "dora-map-head" }, this.summary, this.again), this.area, this.hint, this.spoken);
    host.append(this.root);
  }

  listen() {
    const { model, area } = this;
    const changes = { view: () => this.draw(), switched_off: () => this.mark(), positions: () => this.place() };
    const heard = Object.entries(changes).map(([name, act]) => {
      const whenChanged = () => {
        act();
        painted(this.root, ++this.serial);
      };
      model.on(`change:${name}`, whenChanged);
      return () => model.off(`change:${name}`, whenChanged);
    });
    const sized = new ResizeObserver(() => this.place());
    sized.observe(area);
    this.again.addEventListener("click", () => this.set("positions", {}));
    area.addEventListener("pointerdown", (event) => this.press(event));
    area.addEventListener("pointermove", (event) => this.move(event));
    area.addEventListener("pointerup", (event) => this.release(event));
    area.addEventListener("pointercancel", () => this.drop());
    area.addEventListener("pointerleave", () => this.showTip(null));
    area.addEventListener("keydown", (event) => this.key(event));
    area.addEventListener("focusin", (event) => this.focused(event));
    area.addEventListener("focusout", () => this.showTip(null));
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

  draw() {
    const { view } = this;
    if (!view?.devices) return;
    this.area.setAttribute("aria-label", `${view.title}. Arrow keys go from one to the next, Enter switches a device off or on, Shift and arrow keys move it.`);
    this.summary.replaceChildren(...(view.label ? [el("b", {}, view.label), ". "] : []), view.summary);
    this.hint.textContent = "A click or Enter switches a device off or on; drag it, or press Shift and an arrow key, to move it.";
    const wanted = [...view.domains.map((each) => [each, "bar"]), ...view.devices.map((each) => [each, "card"])];
    const ids = new Set(wanted.map(([each]) => each.id));
    for (const [id, node] of this.nodes) {
      if (ids.has(id)) continue;
      node.element.remove();
      this.nodes.delete(id);
    }
    for (const [each, kind] of wanted) this.fill(this.node(each.id, kind), each);
    if (![...this.nodes.values()].some(({ element }) => element.tabIndex === 0)) {
      this.nodes.get(view.devices[0].id).element.tabIndex = 0;
    }
    this.mark();
    this.place();
  }

  // An element stays the same as long as there is something of its name, so that redrawing never takes the focus away.
  node(id, kind) {
    const found = this.nodes.get(id);
    if (found?.kind === kind) return found;
    found?.element.remove();
    const role = kind === "card" ? "switch" : "img";
    const element = el("div", { class: `dora-node dora-${kind}`, role, tabindex: -1, "data-id": id });
    this.area.insertBefore(element, this.tip);
    const node = { id, kind, element, x: 0, y: 0, width: 0 };
    this.nodes.set(id, node);
    return node;
  }

  fill(node, each) {
    node.lines = each.lines;
    node.element.classList.toggle("dora-used", each.used);
    if (node.kind === "card") {
      node.element.replaceChildren(
        el("div", { class: "dora-name" }, each.id),
        el("div", {}, each.work || "\u00a0"),
        el("div", { class: "dora-samples" }, each.samples || "\u00a0"),
        el("div", { class: "dora-gauges" }, each.gauges.map(gauge)));
      return;
    }
    const share = Math.min(each.airtime?.share ?? 0, 1);
    node.element.replaceChildren(
      el("span", { class: "dora-fill", style: `width:${100 * share}%` }),
      el("span", { class: "dora-name" }, each.id),
      each.airtime && el("span", { class: "dora-short" }, el("span", { class: "dora-held" }, `${each.held} `), each.airtime.short));
    node.element.setAttribute("aria-label", each.lines.join("; "));
  }

  /** Which devices are switched off; what the person clicked shows at once, before there is a plan without it. */
  mark() {
    const off = new Set(this.model.get("switched_off"));
    for (const node of this.nodes.values()) {
      if (node.kind !== "card") continue;
      const on = !off.has(node.id);
      node.element.classList.toggle("dora-off", !on);
      node.element.setAttribute("aria-checked", String(on));
      node.element.setAttribute("aria-label", `${node.lines.join("; ")}${on ? "" : "; switched off"}`);
    }
    this.showTip(this.told);
  }

  place() {
    const { view, area } = this;
    if (!view?.devices) return;
    const width = area.clientWidth || this.root.clientWidth;
    if (!width) return;
    const narrow = width < NARROW_PX;
    const layout = narrow ? view.narrow : view.wide;
    area.classList.toggle("dora-narrow", narrow);
    area.style.height = `${layout.height_px}px`;
    const moved = this.model.get("positions");
    this.again.classList.toggle("dora-hidden", !Object.keys(moved).length);
    for (const node of this.nodes.values()) {
      const home = layout.places[node.id];
      const [x, y] = within(this.dragged?.id === node.id ? this.dragged.at : moved[node.id] ?? [home.x, home.y]);
      Object.assign(node, { share: [x, y], x: x * width, y: y * layout.height_px, width: home.width * width });
      node.element.style.left = `${100 * x}%`;
      node.element.style.top = `${100 * y}%`;
      if (node.kind === "bar") node.element.style.width = `${100 * home.width}%`;
    }
    this.drawWires();
  }

  drawWires() {
    this.wires.replaceChildren(...this.view.wires.flatMap((wire) => this.wire(wire)));
  }

  wire({ member, domain, label, width_px, used }) {
    const [here, there] = [this.nodes.get(member), this.nodes.get(domain)];
    const [x1, x2] = [nearest(here, there.x), nearest(there, here.x)];
    const [y1, y2] = [here.y, there.y];
    const line = svg("line", { x1, y1, x2, y2, "stroke-width": width_px, class: used && "dora-used" });
    const level = Math.abs(y1 - y2) < 40;
    const place = level
      ? { x: (x1 + x2) / 2, y: Math.min(y1, y2) - 19, "text-anchor": "middle" }
      : { x: x2 + (x1 - x2) * 0.15 + 6, y: y2 + Math.sign(y1 - y2) * 40 + 4 };
    return [line, svg("text", place, label)];
  }

  // Switching off and on.

  toggle(id) {
    const off = this.model.get("switched_off");
    const on = off.includes(id);
    if (!on && off.length + 1 >= this.view.devices.length) {
      this.say(`${id} stays on: one device has to`);
      return;
    }
    this.set("switched_off", on ? off.filter((each) => each !== id) : [...off, id]);
    this.say(`${id} switched ${on ? "on" : "off"}`);
  }

  say(words) {
    this.spoken.textContent = words;
    this.hint.textContent = `${words}.`;
  }

  // Pointer.

  nodeAt(event) {
    return this.nodes.get(event.target.closest?.(".dora-node")?.dataset.id);
  }

  press(event) {
    const node = this.nodeAt(event);
    if (!node || event.button) return;
    this.pressed = { node, x: event.clientX, y: event.clientY, from: node.share };
    node.element.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.pressed) return this.showTip(this.nodeAt(event) ?? null);
    const { node, x, y, from } = this.pressed;
    const by = [event.clientX - x, event.clientY - y];
    if (!this.dragged && Math.hypot(...by) < DRAG_PX) return;
    node.element.classList.add("dora-moving");
    this.showTip(null);
    this.dragged = { id: node.id, at: within([from[0] + by[0] / this.area.clientWidth, from[1] + by[1] / this.area.clientHeight]) };
    this.place();
  }

  release() {
    const { node } = this.pressed ?? {};
    const at = this.dragged?.at;
    this.drop();
    if (at) this.moveTo(node.id, at);
    else if (node?.kind === "card") this.toggle(node.id);
  }

  drop() {
    this.pressed?.node.element.classList.remove("dora-moving");
    this.pressed = this.dragged = null;
  }

  moveTo(id, at) {
    this.set("positions", { ...this.model.get("positions"), [id]: at });
  }

  // Keyboard.

  key(event) {
    const node = this.nodeAt(event);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) this.moveTo(node.id, within(node.share.map((each, axis) => each + STEP * arrow[axis])));
    else if (arrow) this.neighbour(node, arrow)?.element.focus();
    else if (event.key === "Escape") this.showTip(null);
    else if ((event.key === "Enter" || event.key === " ") && node.kind === "card") this.toggle(node.id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The nearest one in a direction; what lies aside counts as twice as far. */
  neighbour(node, [dx, dy]) {
    const far = (other) => {
      const along = (other.x - node.x) * dx + (other.y - node.y) * dy;
      const aside = dx ? Math.abs(other.y - node.y) : Math.max(0, Math.abs(other.x - node.x) - (other.width + node.width) / 2);
      return along > 1 ? along + 2 * aside : Infinity;
    };
    const others = [...this.nodes.values()].filter((other) => far(other) < Infinity);
    return others.sort((a, b) => far(a) - far(b))[0];
  }

  focused(event) {
    const node = this.nodeAt(event);
    if (!node) return;
    for (const { element } of this.nodes.values()) element.tabIndex = element === node.element ? 0 : -1;
    if (node.element.matches(":focus-visible")) this.showTip(node);
  }

  // What is said about one of them.

  showTip(node) {
    this.told = node;
    this.tip.hidden = !node;
    if (!node) return;
    this.tip.textContent = node.lines.join("\n");
    const { clientWidth, clientHeight } = this.area;
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const box = node.element.getBoundingClientRect();
    const frame = this.area.getBoundingClientRect();
    const [left, right, top] = [box.left - frame.left, box.right - frame.left, box.top - frame.top];
    const beside = right + 6 + width <= clientWidth ? right + 6 : left - 6 - width;
    this.tip.style.left = `${Math.max(0, beside)}px`;
    this.tip.style.top = `${Math.max(0, Math.min(top, clientHeight - height))}px`;
  }
}

function render({ model, el: host }) {
  const map = new NetworkMap(model, host);
  map.draw();
  painted(map.root, map.serial);
  return () => map.close();
}

export default { render };
