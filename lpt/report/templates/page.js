"use strict";
let plots = []; // as `unpack` finds them
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map(); // figure element -> its plot

// --- light and dark ---------------------------------------------------------------------------------------------

function colour(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function themed(plot) {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--faint") };
  const narrow = window.innerWidth < 700;
  const legend = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, groupclick: "togglegroup" };
  return {
    ...plot.layout,
    xaxis: { ...plot.layout.xaxis, ...axis },
    yaxis: { ...plot.layout.yaxis, ...axis },
    font: { color: colour("--text"), family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: narrow ? 50 : 70, r: narrow ? 10 : 30, t: 30, b: 60 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--text") },
    legend,
  };
}

// What stands for each colour on a dark page: as far apart there, by lightness too.
const onDark = {
  "#0072B2": "#5b8cff", "#D55E00": "#ff8a4c", "#009E73": "#19c795", "#CC79A7": "#ee9fd0",
  "#E69F00": "#ffd23f", "#56B4E9": "#9be8ff", "#000000": "#e4e7eb",
};

function shaded(trace) {
  const found = { ...trace };
  if (root.dataset.theme !== "dark") return found;
  if (onDark[trace.fillcolor]) found.fillcolor = onDark[trace.fillcolor];
  for (const part of ["line", "marker", "error_y"]) {
    const shade = trace[part] && onDark[trace[part].color];
    if (shade) found[part] = { ...trace[part], color: shade };
  }
  return found;
}

function setTheme(name) {
  root.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "light" : "dark";
  for (const figure of drawn.keys()) update(figure);
}

function stored(value) {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null; // some browsers keep nothing for a page from disk
  }
}

document.getElementById("theme").addEventListener("click", () => {
  const name = root.dataset.theme === "dark" ? "light" : "dark";
  stored(name);
  setTheme(name);
});
dark.addEventListener("change", () => stored() || setTheme(dark.matches ? "dark" : "light"));

// Only buttons that keep everything on this machine.
const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

// --- figures ----------------------------------------------------------------------------------------------------

// The figure as its tools and the theme want it; what was hidden by a click in the legend stays hidden.
function update(figure) {
  const plot = drawn.get(figure);
  const div = figure.querySelector(".plot");
  const hidden = new Set((div.data || []).filter((t) => t.visible === "legendonly").map((t) => t.legendgroup));
  const tool = (name) => figure.querySelector(`.tools [name=${name}]`);
  const choice = tool("choice")?.value;
  const spread = tool("spread")?.checked ?? true;
  for (const trace of plot.data) {
    const chosen = trace.meta.choice === null || trace.meta.choice === choice;
    const wanted = chosen && (spread || !trace.meta.spread);
    trace.visible = wanted && hidden.has(trace.legendgroup) ? "legendonly" : wanted;
    if (trace.error_y) trace.error_y.visible = spread;
  }
  if (plot.log) plot.layout.yaxis = tool("log").checked ? plot.logarithmic : { ...plot.logarithmic, type: "linear", dtick: null };
  return Plotly.react(div, plot.data.map(shaded), themed(plot), config);
}

function addTool(tools, text, element, figure) {
  const label = document.createElement("label");
  const words = document.createTextNode(text);
  label.append(...(element.type === "checkbox" ? [element, words] : [words, element]));
  element.addEventListener("change", () => update(figure));
  tools.append(label);
}

function checkbox(name) {
  return Object.assign(document.createElement("input"), { type: "checkbox", name, checked: true });
}

function draw(figure) {
  const plot = plots[figure.dataset.plot];
  const tools = figure.querySelector(".tools");
  drawn.set(figure, plot);
  plot.logarithmic = plot.layout.yaxis;
  if (plot.choices.length) {
    const select = Object.assign(document.createElement("select"), { name: "choice" });
    for (const choice of plot.choices) select.add(new Option(choice, choice));
    addTool(tools, "Show", select, figure);
  }
  if (plot.log) addTool(tools, "logarithmic", checkbox("log"), figure);
  if (plot.spread) addTool(tools, "spread", checkbox("spread"), figure);
  if (plot.zeros) tools.append("Zeros lie on the dotted line.");
  const div = figure.querySelector(".plot");
  if (plot.kind === "heatmap") div.style.height = `${Math.max(416, 130 + 22 * plot.rows)}px`;
  div.setAttribute("role", "img");
  div.setAttribute("aria-label", plot.title);
  update(figure);
}

// --- the page ---------------------------------------------------------------------------------------------------

async function copy(button) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "copied";
  setTimeout(() => (button.textContent = "copy"), 1500);
}

for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
// Sort a table by a column: numbers by their size, what has none last; a second click turns it round.
function sort(head) {
  const rows = [...head.closest("table").tBodies[0].rows];
  const column = [...head.parentNode.cells].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  const key = (row) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,(?=\d{3})/g, "").replace("\u2212", "-"));
    return { text, number, none: text === "" || row.cells[column].classList.contains("none") };
  };
  const keys = new Map(rows.map((row) => [row, key(row)]));
  const numbers = [...keys.values()].every((k) => k.none || !Number.isNaN(k.number));
  rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x.none !== y.none) return x.none - y.none;
    const order = numbers ? x.number - y.number : x.text.localeCompare(y.text, undefined, { numeric: true });
    return down ? -order : order;
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  head.closest("table").tBodies[0].append(...rows);
}

for (const head of document.querySelectorAll(".sortable th")) {
  head.tabIndex = 0;
  head.title = "sort";
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", (event) => event.key === "Enter" && sort(head));
}

// An arrow where a table goes on to the right.
for (const frame of document.querySelectorAll(".frame")) {
  const table = frame.firstElementChild;
  const look = () => frame.classList.toggle("more", table.scrollLeft + table.clientWidth < table.scrollWidth - 2);
  table.addEventListener("scroll", look);
  new ResizeObserver(look).observe(table);
}

// The figures and the plotting library lie in the page packed by gzip.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function unpack() {
  plots = JSON.parse(await unpacked("plots"));
  const script = document.createElement("script");
  script.textContent = await unpacked("library");
  document.head.append(script);
}

if (window.innerWidth < 960) document.querySelector("nav details").open = false;
setTheme(stored() || (dark.matches ? "dark" : "light"));
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  },
  { rootMargin: "600px" },
);
if (document.querySelector("figure")) {
  unpack().then(
    () => document.querySelectorAll("figure").forEach((figure) => seen.observe(figure)),
    () => document.querySelectorAll(".plot").forEach((div) => (div.textContent = "This browser cannot unpack the figures: take one of 2023 or later.")),
  );
}
