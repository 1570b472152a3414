"use strict";
// the library is packed: unpacked here once, it need not be fetched from anywhere
async function unpacked(id) {
  const packed = atob(document.getElementById(id).textContent.trim());
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
}

// paper has another width than the screen: with a view box the drawing can be scaled to it
function fitted(plot) {
  for (const drawing of plot.querySelectorAll(".main-svg")) {
    const { width, height } = plot._fullLayout;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.style.setProperty("--ratio", `${width} / ${height}`);
  }
}

async function draw() {
  const plots = document.querySelectorAll(".plot");
  if (!plots.length) return;
  const library = document.createElement("script");
  library.textContent = await unpacked("library");
  document.head.append(library);
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // a finger that scrolls the page must not zoom into a figure
  const pointer = matchMedia("(hover: hover)").matches;
  const dragmode = pointer ? "zoom" : false;
  const displayModeBar = pointer ? "hover" : false;
  const options = { responsive: true, displaylogo: false, displayModeBar };
  for (const plot of plots) {
    const { data, layout } = figures[plot.dataset.figure];
    plot.textContent = "";
    await Plotly.newPlot(plot, data, { dragmode, ...layout }, options);
    fitted(plot);
    plot.on("plotly_afterplot", () => fitted(plot));
  }
}

// numbers by size, all else by letter, dashes always last
function sorted(rows, column, falling) {
  const key = (row) => row.cells[column].textContent;
  const number = (text) => parseFloat(text.replace(/^\+/, ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y) && x !== y) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const known = rows.filter((row) => key(row) !== "-");
  known.sort((a, b) => (falling ? -1 : 1) * compare(key(a), key(b)));
  return [...known, ...rows.filter((row) => key(row) === "-")];
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const heading = button.closest("th");
  const falling = heading.getAttribute("aria-sort") !== "descending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = heading.closest("table").tBodies[0];
  body.append(...sorted([...body.rows], heading.cellIndex, falling));
});

draw().then(
  () => document.documentElement.setAttribute("data-drawn", "yes"),
  (error) => {
    for (const plot of document.querySelectorAll(".plot:not(.js-plotly-plot)")) {
      plot.textContent = `This browser cannot draw the figures: ${error}`;
    }
  },
);
