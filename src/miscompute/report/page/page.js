"use strict";

// Charts are Vega-Lite's, whose source is above. This script unpacks the data, fills the table and feeds the charts.
const PAGE_ROWS = 20;
const MOST_CHOICES = 200; // values of a column that a filter lists
const ANY = "";

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Draw a specification into a place, as wide as it is: charts are drawn again where that changes.
const drawn = new Map();

async function draw(place, specification, widen, clicked) {
  if (!place.clientWidth) return; // not shown
  const specified = widen(structuredClone(specification), place.clientWidth);
  drawn.get(place)?.finalize();
  const inner = element("div");
  place.replaceChildren(inner);
  const result = await vegaEmbed(inner, specified, {
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    config: { font: "system-ui, sans-serif", axis: { labelFontSize: 11, titleFontSize: 12 }, legend: { labelFontSize: 11.5 } },
  });
  drawn.set(place, result);
  if (clicked) result.view.addEventListener("click", (_, item) => item?.datum && clicked(item.datum));
}

function whenResized(act) {
  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(act, 150);
  });
}

// The table: rows that the filters leave, sorted, a page at a time.
class Rows {
  constructor(data, chosen) {
    this.data = data;
    this.chosen = chosen;
    this.columns = data.columns;
    this.visible = data.columns.filter(({ name }) => name !== "family"); // the outcome's mark says it
    this.at = 0;
    this.sorted = { column: this.columns.find(({ name }) => name === "outcome"), down: false }; // the worst first
    this.filters = new Map(); // column -> value, as the table writes it
    this.search = "";
    this.fillFilters();
    this.fillHead();
    document.getElementById("previous").onclick = () => this.turn(-PAGE_ROWS);
    document.getElementById("next").onclick = () => this.turn(PAGE_ROWS);
    this.find();
  }

  value(column, row) {
    const cell = column.cells[row];
    return cell === null || cell === undefined ? null : column.kind === "word" ? column.words[cell] : cell;
  }

  fillFilters() {
    const form = document.getElementById("filters");
    form.onsubmit = (event) => event.preventDefault();
    const search = element("input", { type: "search", placeholder: "words of a fault" });
    search.oninput = () => { this.search = search.value.toLowerCase(); this.find(); };
    form.append(element("label", {}, element("span", {}, "fault has"), search));
    this.selects = new Map();
    for (const name of this.data.filters) {
      const column = this.columns.find((one) => one.name === name);
      if (!column) continue;
      const seen = new Set(column.cells);
      const values = [...seen].sort((a, b) => a - b).map((cell) => (cell === null ? "-" : String(column.kind === "word" ? column.words[cell] : cell)));
      if (values.length < 2 || values.length > MOST_CHOICES) continue;
      const select = element("select", {}, element("option", { value: ANY }, "any"), ...values.map((value) => element("option", { value }, value)));
      select.onchange = () => this.filter(name, select.value);
      this.selects.set(name, select);
      form.append(element("label", {}, element("span", {}, name), select));
    }
  }

  filter(name, value) {
    if (value === ANY) this.filters.delete(name);
    else this.filters.set(name, value);
    const select = this.selects.get(name);
    if (select) select.value = value;
    this.find();
  }

  fillHead() {
    const heads = this.visible.map((column) => {
      const button = element("button", { type: "button", title: `sort by ${column.name}` }, column.name);
      button.onclick = () => {
        this.sorted = { column, down: this.sorted.column === column && !this.sorted.down };
        this.find();
      };
      return element("th", { scope: "col" }, button);
    });
    document.querySelector("#rows thead").append(element("tr", {}, ...heads));
  }

  find() {
    const texts = this.columns.filter((column) => column.kind === "text");
    const wanted = [...this.filters].map(([name, value]) => [this.columns.find((column) => column.name === name), value]);
    const matches = (row) =>
      wanted.every(([column, value]) => String(this.value(column, row) ?? "-") === value) &&
      (!this.search || texts.some((column) => column.cells[row]?.toLowerCase().includes(this.search)));
    this.order = this.data.names.map((_, row) => row).filter(matches);
    const { column, down } = this.sorted;
    if (column) {
      const sign = down ? -1 : 1;
      const compare = column.kind === "text" ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : (a, b) => a - b;
      this.order.sort((a, b) => {
        const [one, other] = [column.cells[a], column.cells[b]];
        if (one === null || other === null) return (one === null) - (other === null); // what has none is last
        return sign * compare(one, other);
      });
    }
    this.at = 0;
    this.show();
  }

  turn(rows) {
    this.at = Math.max(0, Math.min(this.at + rows, this.order.length - 1));
    this.show();
  }

  show() {
    const shown = this.order.slice(this.at, this.at + PAGE_ROWS);
    const body = shown.map((row) => {
      const cells = this.visible.map((column, place) => {
        const value = this.value(column, row);
        const text = value === null ? "" : String(value);
        if (place === 0) return element("td", {}, element("button", { type: "button", title: "draw its curves" }, text));
        if (column.name === "outcome") {
          const family = this.data.families[text] ?? "";
          return element("td", {}, element("span", { class: "family", "data-family": family }, text));
        }
        return element("td", column.kind === "number" ? { class: "number" } : {}, text);
      });
      const line = element("tr", { "aria-selected": String(row === this.selected) }, ...cells);
      line.onclick = () => this.chosen(row);
      return line;
    });
    document.querySelector("#rows tbody").replaceChildren(...body);
    document.querySelectorAll("#rows thead th").forEach((head, place) => {
      const here = this.visible[place] === this.sorted.column;
      head.setAttribute("aria-sort", here ? (this.sorted.down ? "descending" : "ascending") : "none");
    });
    const [all, found] = [this.data.names.length, this.order.length].map((number) => number.toLocaleString("en"));
    const range = this.order.length ? `rows ${(this.at + 1).toLocaleString("en")} to ${(this.at + shown.length).toLocaleString("en")} of ` : "";
    document.getElementById("found").textContent = `${range}${found}${found === all ? "" : `, of ${all} in all`}`;
    document.getElementById("previous").disabled = this.at === 0;
    document.getElementById("next").disabled = this.at + PAGE_ROWS >= this.order.length;
  }

  select(row) {
    this.selected = row;
    const place = this.order.indexOf(row);
    if (place >= 0) this.at = place - (place % PAGE_ROWS);
    this.show();
  }
}

// The curves of one trial, and the golden runs of its setting.
class Curves {
  constructor(data) {
    this.data = data;
    this.row = null;
  }

  points(place) {
    const [steps, ...columns] = this.data.curves[place];
    return this.data.steps[steps].map((step, at) => [step, ...columns.map((column) => column[at])]);
  }

  datasets() {
    const [training, faulty, healthy] = this.data.series;
    const run = [];
    const golden = [];
    const place = this.data.curve[this.row];
    for (const [step, train, onFaulty, onHealthy, loss] of place === null ? [] : this.points(place)) {
      run.push({ what: "accuracy", curve: training, step, value: train }, { what: "accuracy", curve: faulty, step, value: onFaulty });
      run.push({ what: "accuracy", curve: healthy, step, value: onHealthy });
      if (loss !== null) run.push({ what: "loss", curve: training, step, value: loss });
    }
    for (const [name, at] of Object.entries(this.data.golden[this.data.setting[this.row]] ?? {})) {
      for (const [step, , , value, loss] of this.points(at)) {
        golden.push({ what: "accuracy", name, step, value });
        if (loss !== null) golden.push({ what: "loss", name, step, value: loss });
      }
    }
    return { run, golden, marks: this.marks() };
  }

  fact(name) {
    const column = this.data.columns.find((one) => one.name === name);
    return column ? column.cells[this.row] : null;
  }

  marks() {
    const found = [
      ["first in step", "the fault first changes a value", "#999999", "no"],
      ["golden again after", "all is golden again", "#2b6cb0", "yes"],
      ["crash in step", "INF or NaN", "#000000", "yes"],
    ];
    return found.flatMap(([name, said, color, dash]) => {
      const step = this.fact(name);
      return step === null ? [] : [{ step, said, color, dash }];
    });
  }

  async show(row) {
    this.row = row;
    const facts = [];
    for (const column of this.data.columns) {
      const cell = column.cells[row];
      if (cell === null || cell === "") continue;
      const text = String(column.kind === "word" ? column.words[cell] : cell);
      const rule = column.name === "outcome" && this.data.rules[text] ? `: ${this.data.rules[text]}` : "";
      facts.push(element("dt", {}, column.name), element("dd", {}, text + rule));
    }
    if (this.data.replay) {
      facts.push(element("dt", {}, "again, with a finer curve"));
      facts.push(element("dd", {}, element("code", {}, this.data.replay + this.data.names[row])));
    }
    document.getElementById("curve-facts").replaceChildren(...facts);
    const fault = this.fact("fault");
    document.getElementById("curve-title").textContent = `${this.data.names[row]}${fault ? `: ${fault}` : ""}`;
    await this.draw();
  }

  async draw() {
    if (this.row === null) return;
    const specification = { ...this.data.charts.trial, datasets: this.datasets() };
    await draw(document.getElementById("curve-chart"), specification, (one, width) => {
      for (const panel of one.vconcat) panel.width = Math.max(160, Math.min(width, 640) - 110);
      one.config = { ...one.config, legend: { columns: width < 480 ? 1 : 2 } };
      return one;
    });
  }
}

// Charts of rates: one axis at a time; families or classes.
class By {
  constructor(data, chosen) {
    this.data = data;
    this.chosen = chosen;
    this.form = document.getElementById("by-choices");
    if (!this.form) return;
    this.form.hidden = false;
    this.form.onchange = () => this.draw();
  }

  async draw() {
    if (!this.form) return;
    const { axis, level } = Object.fromEntries(new FormData(this.form));
    const isShown = (name) => this.data.order.family.includes(name) === (level === "families");
    for (const place of document.querySelectorAll("#by .axis")) place.hidden = place.dataset.axis !== axis;
    const specification = this.data.charts.by[axis];
    if (!specification) return;
    const place = document.querySelector(`#by .axis[data-axis="${CSS.escape(axis)}"] .chart`);
    const clicked = ({ label, outcome }) => label !== undefined && this.chosen(axis, String(label), outcome);
    await draw(place, specification, (one, width) => {
      const values = one.datasets[one.data.name].filter(({ outcome }) => isShown(outcome));
      const labels = new Set(values.map(({ label }) => label)).size;
      one.datasets[one.data.name] = values;
      one.spec.width = Math.max(160, Math.min(width - 100, 1000, 70 * labels + 100));
      one.facet.sort = one.facet.sort.filter(isShown);
      return { ...one, title: undefined }; // the page has said it
    }, clicked);
  }
}

async function main() {
  const data = await unpack(document.getElementById("data").textContent);
  const curves = new Curves(data);
  const choose = async (row) => {
    rows.select(row);
    history.replaceState(null, "", `#trial=${encodeURIComponent(data.names[row])}`);
    await curves.show(row);
  };
  const rows = new Rows(data, choose);
  const by = new By(data, (axis, label, outcome) => {
    rows.filter(axis, label);
    const isFamily = data.order.family.includes(outcome);
    rows.filter("family", isFamily ? outcome : ANY);
    rows.filter("outcome", isFamily ? ANY : outcome);
    document.getElementById("trials").scrollIntoView();
  });
  const outcomes = async () => {
    const place = document.getElementById("outcomes-chart");
    if (!place) return;
    await draw(place, data.charts.outcomes, (one, width) => {
      // The table beside it has title and numbers.
      const layer = one.layer.filter(({ mark }) => mark.type !== "text");
      return { ...one, layer, title: undefined, width: Math.max(140, Math.min(width, 760) - 185) };
    });
  };
  const all = async () => { await outcomes(); await by.draw(); await curves.draw(); };
  await all();
  whenResized(all);
  const named = () => data.names.indexOf(decodeURIComponent(location.hash.replace(/^#trial=/, "")));
  addEventListener("hashchange", () => named() >= 0 && choose(named()));
  if (data.names.length) await choose(named() >= 0 ? named() : rows.order[0]);
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  console.error(error);
  const problem = document.getElementById("problem");
  problem.textContent = `The page could not be filled: ${error}. It needs a browser of 2023 or newer.`;
  problem.hidden = false;
});
