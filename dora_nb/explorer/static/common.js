// Shared by all widgets: base.py puts this text in front of each widget's own module (anywidget sends one module each),
// so a widget uses these functions without importing them.

/**
 * Builds an HTML element.
 * @param {string} tag
 * @param {Object} attributes - null, undefined and false are left out, true is an empty attribute; a function under
 *   "onclick" and the like becomes a listener.
 * @param {...(Node|string|number|null|Array)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/**
 * Builds an SVG element; otherwise as `el`.
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/**
 * Hides the static form that stands for this widget where there is no kernel (`class Shown` in widgets/base.py).
 * @param {Object} model - the widget's model, as anywidget gives it to `render`
 * @returns {function(): void} shows it again; for the function that `render` returns
 */
export function hideStatic(model) {
  const found = [...document.querySelectorAll(`[data-static-for="${CSS.escape(model.get("static_id"))}"]`)];
  for (const each of found) each.style.display = "none";
  return () => {
    for (const each of found) each.style.display = "";
  };
}

/**
 * The theme's colours as they are now, for a canvas. Variables of `.dora-nb` in theme.css, so `--dora-ink` is `ink`.
 * @param {Element} root - the widget's root element, in the page
 * @param {...string} names - further variables without `--dora-`
 * @returns {Object<string, string>}
 */
export function colours(root, ...names) {
  const style = getComputedStyle(root);
  const all = ["ink", "faint", "line", "paper", "hover", "accent", "limit", ...names];
  return Object.fromEntries(all.map((name) => [name, style.getPropertyValue(`--dora-${name}`).trim()]));
}

/**
 * Calls `redraw` whenever the page changes between light and dark.
 * @param {Element} root - the widget's root element
 * @param {function(): void} redraw
 * @returns {function(): void} ends it
 */
export function onTheme(root, redraw) {
  // JupyterLab sets the attribute just before its style sheet applies: draw in the frame behind.
  const later = () => requestAnimationFrame(() => root.isConnected && redraw());
  const observer = new MutationObserver(later);
  const watched = { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] };
  for (const each of [document.body, document.documentElement]) observer.observe(each, watched);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", later);
  return () => {
    observer.disconnect();
    dark.removeEventListener("change", later);
  };
}

/**
 * Notes on the root element, once the browser has painted, what it has painted.
 * @param {Element} root
 * @param {number|string} serial - which update
 */
export function painted(root, serial) {
  requestAnimationFrame(() => requestAnimationFrame(() => root.setAttribute("data-painted", String(serial))));
}
