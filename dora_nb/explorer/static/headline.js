// The first lines of the explorer, and how incumbent and bound come together (dora_nb/explorer/widgets/headline.py);
// common.js stands in front of this text.

const PATIENCE_MS = 1000; // how long an answer of the kernel may take before people are told why they wait
const BUSY = "The kernel is at work on a cell. What is changed here is taken up as soon as that is over.";

const CHART = { width: 168, height: 34, inset: 3 };

/** A line that stays at each number until the next one comes. */
function steps(points) {
  return points.map(([x, y], index) => (index ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `M${x.toFixed(1)},${y.toFixed(1)}`)).join("");
}

/** The chart of a solve; empty before anything is known. */
function chart(moments, goingOn) {
  const { width, height, inset } = CHART;
  const known = moments.flatMap(({ incumbent, bound }) => [incumbent, bound]).filter((each) => each !== null);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "dora-solve", "aria-hidden": "true" });
  if (!known.length) return picture;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const last = moments.at(-1).wall_s || 1;
  const x = (seconds) => inset + (seconds / last) * (width - 2 * inset) * (goingOn ? 0.85 : 1);
  const y = (value) => height - inset - (high > low ? (value - low) / (high - low) : 0.5) * (height - 2 * inset);
  for (const name of ["bound", "incumbent"]) {
    const points = moments.filter((each) => each[name] !== null).map((each) => [x(each.wall_s), y(each[name])]);
    if (!points.length) continue;
    const [right, at] = points.at(-1);
    const end = goingOn ? width - inset : Math.max(right, x(last));
    picture.append(svg("path", { class: `dora-${name}`, d: `${steps(points)}H${end.toFixed(1)}` }));
    picture.append(svg("circle", { class: `dora-${name}`, cx: end, cy: at, r: 2 }));
  }
  return picture;
}

/** Gives the controls of the explorer around `root` the spoken names that ipywidgets leaves out. */
function nameControls(root) {
  const explorer = root.closest(".dora-explorer");
  if (!explorer) return;
  for (const control of explorer.querySelectorAll(".jupyter-widgets:not([data-named])")) {
    const label = control.querySelector(":scope > .widget-label")?.textContent.trim();
    if (!label) continue;
    const targets = control.querySelectorAll(".noUi-handle, input, select, textarea, .widget-readout");
    if (!targets.length) continue;
    for (const target of targets) target.setAttribute("aria-label", label);
    control.setAttribute("data-named", "");
  }
}

/**
 * Tells whether the kernel hears what is changed in the explorer: while it runs a cell, it does not.
 * @param {Object} model - of the headline, which answers every message
 * @param {Element} explorer
 * @param {function(boolean): void} tell - whether it lets people wait
 * @returns {function(): void} ends it
 */
function listenForKernel(model, explorer, tell) {
  let asked = 0;
  let timer = null;
  const ask = () => {
    if (timer !== null) return;
    timer = setTimeout(() => tell(true), PATIENCE_MS);
    model.send({ asked: ++asked });
  };
  const answer = ({ answered }) => {
    if (answered !== asked) return;
    clearTimeout(timer);
    timer = null;
    tell(false);
  };
  for (const kind of ["pointerup", "keyup"]) explorer.addEventListener(kind, ask);
  model.on("msg:custom", answer);
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", answer);
    for (const kind of ["pointerup", "keyup"]) explorer.removeEventListener(kind, ask);
  };
}

export default {
  render({ model, el: host }) {
    const question = el("div", { class: "dora-question" });
    const plan = el("div", { class: "dora-plan", role: "status" });
    const sentence = el("div", { class: "dora-sentence", role: "status" });
    const problem = el("div", { class: "dora-problem", role: "alert" });
    const picture = el("div", { class: "dora-chart" });
    const solve = el("div", { class: "dora-solving" }, sentence, picture);
    const root = el("div", { class: "dora-nb dora-headline" }, question, plan, solve, problem);
    host.append(root);
    const shows = hideStatic(model);
    let serial = 0;
    let busy = false;
    let deaf = () => {};

    const draw = () => {
      const state = model.get("state");
      const goingOn = ["running", "checking", "relaxing"].includes(state);
      const [first, ...rest] = model.get("question");
      question.replaceChildren(el("strong", {}, first ?? ""), ...rest.map((line) => el("div", {}, line)));
      plan.textContent = model.get("plan");
      plan.classList.toggle("dora-breaks", !model.get("keeps"));
      const said = busy ? BUSY : model.get("sentence");
      if (sentence.textContent !== said) sentence.textContent = said;
      problem.textContent = model.get("problem");
      root.dataset.state = state;
      root.setAttribute("aria-busy", String(goingOn));
      picture.classList.toggle("dora-empty", !model.get("moments").length);
      picture.replaceChildren(chart(model.get("moments"), goingOn));
      painted(root, ++serial);
    };
    model.on("change", draw);
    draw();

    const observer = new MutationObserver(() => nameControls(root));
    requestAnimationFrame(() => {
      const explorer = root.closest(".dora-explorer");
      if (explorer) {
        observer.observe(explorer, { childList: true, subtree: true });
        deaf = listenForKernel(model, explorer, (waits) => {
          if (waits === busy) return;
          busy = waits;
          draw();
        });
      }
      nameControls(root);
    });
    return () => {
      observer.disconnect();
      deaf();
      model.off("change", draw);
      shows();
    };
  },
};
