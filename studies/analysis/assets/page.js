// What the page does: draws charts when they come near, links selections of runs over all of them, saves figures,
// lists runs, and, when served, takes in what is new. `THEMES` and `vegaEmbed` stand before this.
(() => {
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 560px)");
const MANY = 2500;       // rows from which a chart is drawn as pixels: that many elements would make the page slow
const FEW_RUNS = 200;    // rows of the list of runs that are made at once
const WIDTH = THEMES.width;
const one = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// ---- tables: columns on the page, rows for charts and files

let encoded = new Map();
function columns(name) {
  if (!encoded.has(name)) {
    const script = all("script[data-rows]").find(s => s.dataset.rows === name);
    encoded.set(name, JSON.parse(script.textContent));
  }
  return encoded.get(name);
}
const unpacked = values => Array.isArray(values) ? values : values.at.map(k => values.of[k]);
function rows(name) {
  const table = columns(name);
  const made = Array.from({length: table.rows}, () => ({}));
  for (const [field, packed] of Object.entries(table.columns)) {
    const values = unpacked(packed);
    for (let k = 0; k < made.length; k++) made[k][field] = values[k];
  }
  return made;
}
function tablesOf(spec, found = []) {
  if (Array.isArray(spec)) spec.forEach(part => tablesOf(part, found));
  else if (spec && typeof spec === "object") {
    const name = spec.data?.name;
    if (typeof name === "string" && name.startsWith("rows-") && !found.includes(name)) found.push(name);
    Object.values(spec).forEach(part => tablesOf(part, found));
  }
  return found;
}

// ---- charts

const drawn = new Map();   // a chart's place -> {view, finalize, spec, tables}
const specOf = place => JSON.parse(place.nextElementSibling.textContent);
function theme() {
  const {config} = dark.matches ? THEMES.dark : THEMES.light;
  const small = narrow.matches
    ? {axis: {...config.axis, tickCount: 3}, legend: {...config.legend, columns: 3}} : {};
  return {...config, ...small, font: getComputedStyle(document.body).fontFamily};
}
function withRows(spec, tables) {
  return {...spec, datasets: Object.fromEntries(tables.map(name => [name, rows(name)]))};
}
async function embed(place, spec, tables, options) {
  return vegaEmbed(place, withRows(spec, tables), {actions: false, ...options});
}
const hasSignal = (view, name) => { try { view.signal(name); return true; } catch { return false; } };
// What a reader chose in a chart: menus, legends, brushes.
function choices({view, spec}) {
  const menus = allParams(spec).filter(p => p.bind?.input).map(p => p.name);
  const signals = name => menus.includes(name) || /^brush_[xy]$/.test(name);
  return view.getState({signals, data: name => /_store$/.test(name || ""), recurse: false});
}
function allParams(spec, found = []) {
  found.push(...(spec.params || []));
  for (const key of ["layer", "hconcat", "vconcat", "concat"]) (spec[key] || []).forEach(s => allParams(s, found));
  if (spec.spec) allParams(spec.spec, found);
  return found;
}
// Lines are an element each, however many rows they have.
function elements(spec, tables) {
  const size = spec.mark?.type === "line" ? 0 : tables.reduce((sum, name) => sum + columns(name).rows, 0);
  return size > MANY ? "canvas" : "svg";
}
async function draw(place, kept) {
  const spec = specOf(place), tables = tablesOf(spec), before = drawn.get(place);
  const chosen = kept || (before && choices(before));
  const result = await embed(place, spec, tables, {config: theme(), renderer: elements(spec, tables)});
  before?.finalize();
  const chart = {view: result.view, finalize: () => result.finalize(), spec, tables};
  drawn.set(place, chart);
  if (chosen) { try { chart.view.setState(chosen); } catch { /* what was chosen is no longer there */ } }
  listen(place, chart);
  if (picked && hasSignal(chart.view, "picked")) chart.view.signal("picked", picked);
  await chart.view.runAsync();
  place.dataset.drawn = "";
  place.dataset.ground = dark.matches ? "dark" : "light";
}
const near = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) if (isIntersecting) { near.unobserve(target); draw(target); }
}, {rootMargin: "600px"});
const redraw = () => Promise.all([...drawn.keys()].map(place => draw(place)));
for (const query of [dark, narrow]) query.addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  all(".note details").forEach(part => { part.open = true; });
  all(".chart").filter(p => !drawn.has(p)).forEach(p => draw(p));
});
window.drawAll = () => Promise.all(all(".chart").filter(p => !drawn.has(p)).map(p => draw(p)));

// ---- runs that are picked: one set for all charts, the list and the bar

let picked = null;    // null, or {id: true}
function pick(ids, from = null) {
  picked = ids && ids.length ? Object.fromEntries(ids.map(id => [id, true])) : null;
  for (const [place, {view}] of drawn) {
    if (place !== from && hasSignal(view, "brush_x")) {
      for (const name of ["brush_x", "brush_y"]) if (hasSignal(view, name)) view.signal(name, []);
    }
    if (hasSignal(view, "picked")) view.signal("picked", picked);
    view.runAsync();
  }
  showBar();
  fillRuns();
}
function listen(place, {view, spec, tables}) {
  if (hasSignal(view, "brush")) {
    let waiting = false, own = null;
    view.addSignalListener("brush", (_, area) => {
      own = area;
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        const fields = Object.entries(own || {}).filter(([, range]) => Array.isArray(range) && range[0] !== range[1]);
        if (fields.length) pick(inside(tables, fields), place);
        else if (place.dataset.brushed) pick(null, place);
        place.dataset.brushed = fields.length ? "yes" : "";
      });
    });
    place.classList.add("brushed");
  }
  if (hasSignal(view, "picked")) {
    view.addEventListener("click", (event, item) => {
      const id = item?.datum?.id ?? item?.items?.[0]?.datum?.id;
      if (typeof id !== "string") return;
      const now = new Set(picked ? Object.keys(picked) : []);
      if (event.shiftKey || event.ctrlKey || event.metaKey) now.has(id) ? now.delete(id) : now.add(id);
      else if (now.size === 1 && now.has(id)) now.clear();
      else { now.clear(); now.add(id); }
      pick([...now]);
    });
  }
}
function inside(tables, fields) {
  const found = new Set();
  for (const name of tables) {
    const table = columns(name).columns;
    if (!table.id || !fields.every(([field]) => table[field])) continue;
    const ids = unpacked(table.id), values = fields.map(([field]) => unpacked(table[field]));
    const ends = fields.map(([, range]) => [Math.min(...range), Math.max(...range)]);
    ids.forEach((id, k) => {
      if (ends.every(([low, high], j) => values[j][k] !== null && values[j][k] >= low && values[j][k] <= high))
        found.add(id);
    });
  }
  return [...found];
}
function showBar() {
  const bar = one("#picked");
  if (!bar) return;
  bar.hidden = !picked;
  if (!picked) return;
  const {ids, names} = runs(), chosen = ids.map((id, k) => k).filter(k => picked[ids[k]]);
  const listed = chosen.slice(0, 3).map(k => names[k]).join(" · ") + (chosen.length > 3 ? " · …" : "");
  one("b", bar).textContent = `${chosen.length} of ${ids.length} runs selected`;
  one("span", bar).textContent = listed;
}
addEventListener("keydown", event => { if (event.key === "Escape" && picked) pick(null); });
addEventListener("click", event => {
  const button = event.target.closest?.("[data-do]");
  if (button?.dataset.do === "clear") { pick(null); const find = one("#find"); if (find) find.value = ""; }
  if (button?.dataset.do === "list") {
    const list = one("#run-list");
    list.open = true;
    listing.only = true;
    fillRuns();
    list.scrollIntoView();
  }
});
let typing = 0;
addEventListener("input", event => {
  if (event.target.id !== "find") return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean), {ids, names, states} = runs();
    pick(words.length
      ? ids.filter((id, k) => words.every(w => `${names[k]} ${id} ${states[k]}`.toLowerCase().includes(w))) : null);
    one("#found").textContent = words.length && !picked ? "No run has that in its name." : "";
  }, 150);
});

// ---- the list of runs

const listing = {sort: null, up: true, every: false, only: false};
let table = null;
function runs() {
  if (!table) {
    const script = one("#runs-data");
    const raw = script ? JSON.parse(script.textContent) : {head: [], table: {rows: 0, columns: {}}};
    const values = Object.fromEntries(Object.entries(raw.table.columns).map(([k, v]) => [k, unpacked(v)]));
    table = {head: raw.head, values, ids: values.id || [], names: values.run || [], states: values.state || []};
  }
  return table;
}
const SUFFIXES = [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]];
function shown(value, kind) {
  if (value === null || value === undefined) return "–";
  if (kind === "quantity") {
    const [suffix, unit] = SUFFIXES.find(([, size]) => Math.abs(value) >= 0.9995 * size) || ["", 1];
    return `${Number((value / unit).toPrecision(3))}${suffix}`;
  }
  if (kind === "power") return value.toExponential(2);
  if (kind === "nats") return value.toFixed(3);
  if (kind === "share") return `${(100 * value).toFixed(1)} %`;
  if (kind === "count") return value.toLocaleString("en");
  return String(value);
}
function fillRuns() {
  const list = one("#run-list");
  if (!list?.open) return;
  const {head, values, ids, names} = runs();
  const host = one(".runs", list);
  const focus = host.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  let order = ids.map((_, k) => k);
  if (listing.sort) {
    const by = values[listing.sort], sign = listing.up ? 1 : -1;
    order.sort((a, b) => (by[a] === null) - (by[b] === null) ||
      sign * (typeof by[a] === "number" ? by[a] - by[b] : String(by[a]).localeCompare(String(by[b]))));
  }
  const only = listing.only && picked;
  if (only) order = order.filter(k => picked[ids[k]]);
  const cut = listing.every ? order : order.slice(0, FEW_RUNS);
  const headings = head.map(({key, title, kind}) => {
    const button = make("button", {type: "button", "data-key": `sort-${key}`}, title);
    button.onclick = () => {
      listing.up = listing.sort === key ? !listing.up : true;
      listing.sort = key;
      fillRuns();
    };
    const cell = make("th", {class: kind === "text" ? "" : "number", scope: "col"}, button);
    if (listing.sort === key) cell.setAttribute("aria-sort", listing.up ? "ascending" : "descending");
    return cell;
  });
  const body = cut.map(k => {
    const box = make("input", {type: "checkbox", "data-key": `run-${ids[k]}`, "aria-label": `Select ${names[k]}`});
    box.checked = Boolean(picked?.[ids[k]]);
    box.onchange = () => {
      const now = new Set(picked ? Object.keys(picked) : []);
      box.checked ? now.add(ids[k]) : now.delete(ids[k]);
      pick([...now]);
    };
    const cells = head.map(({key, kind}) => {
      const cell = make("td", kind === "text" ? {} : {class: "number"}, shown(values[key][k], kind));
      if (key === "run") cell.append(make("small", {}, ids[k]));
      return cell;
    });
    return make("tr", picked?.[ids[k]] ? {class: "picked"} : {}, make("td", {}, make("label", {class: "tick"}, box)),
      ...cells);
  });
  const filter = make("input", {type: "checkbox", "data-key": "only"});
  filter.checked = listing.only;
  filter.onchange = () => { listing.only = filter.checked; fillRuns(); };
  const top = make("tr", {}, make("th", {}, make("span", {class: "hidden"}, "selected")), ...headings);
  const parts = [
    make("label", {class: "only"}, filter, " Only selected runs, where some are"),
    make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs"},
      make("table", {}, make("thead", {}, top), make("tbody", {}, ...body))),
  ];
  if (cut.length < order.length) {
    const more = make("button", {type: "button", class: "plain"}, `Show all ${order.length.toLocaleString("en")}`);
    more.onclick = () => { listing.every = true; fillRuns(); };
    parts.push(more);
  }
  host.replaceChildren(...parts);
  if (focus) all("[data-key]", host).find(e => e.dataset.key === focus)?.focus();
}
addEventListener("toggle", event => { if (event.target.id === "run-list") fillRuns(); }, true);

// ---- figures as files

// What a spreadsheet would run as a formula is put behind a mark of text.
const guarded = text => /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = guarded(typeof value === "string" ? value : JSON.stringify(value));
  return /[",\n\r]/.test(text) || text === "" ? `"${text.replaceAll('"', '""')}"` : text;
}
function csv(tables) {
  const several = tables.length > 1, parts = tables.map(rows);
  const fields = [...new Set(tables.flatMap(name => Object.keys(columns(name).columns)))];
  let number = "table";
  while (fields.includes(number)) number += "_";
  const head = [...(several ? [number] : []), ...fields];
  const lines = parts.flatMap((part, k) =>
    part.map(row => [...(several ? [k + 1] : []), ...fields.map(field => row[field])].map(cell).join(",")));
  return [head.map(cell).join(","), ...lines, ""].join("\n");
}
async function picture(place, kind) {
  const spec = specOf(place), host = make("div", {style: "position:absolute;left:-99999px;top:0"});
  if (spec.width === "container") spec.width = WIDTH;
  document.body.append(host);
  try {
    const options = {config: THEMES.print.config, renderer: kind === "svg" ? "svg" : "canvas"};
    const {view, finalize} = await embed(host, spec, tablesOf(spec), options);
    const before = drawn.get(place);
    if (before) view.setState(choices(before));
    if (picked && hasSignal(view, "picked")) view.signal("picked", picked);
    await view.runAsync();
    const data = kind === "svg"
      ? new Blob([await view.toSVG()], {type: "image/svg+xml"})
      : await new Promise(async done => (await view.toCanvas(2)).toBlob(done, "image/png"));
    finalize();
    return data;
  } finally { host.remove(); }
}
addEventListener("click", async event => {
  const button = event.target.closest?.("button[data-save]");
  if (!button) return;
  const kind = button.dataset.save, place = one(".chart", button.closest(".figure"));
  const data = kind === "csv"
    ? new Blob([csv(tablesOf(specOf(place)))], {type: "text/csv;charset=utf-8"}) : await picture(place, kind);
  const url = URL.createObjectURL(data);
  make("a", {href: url, download: `${place.id}.${kind}`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});

// ---- where one is on the page

let marks = null;
function follow() {
  marks?.disconnect();
  const links = new Map(all("nav.sections a").map(link => [link.hash.slice(1), link]));
  marks = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) if (isIntersecting) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      const link = links.get(target.id), bar = link?.parentElement;
      link?.setAttribute("aria-current", "true");
      if (link) bar.scrollTo({left: link.offsetLeft - bar.clientWidth / 2 + link.clientWidth / 2});
    }
  }, {rootMargin: "-15% 0px -75% 0px"});
  all("main > section").forEach(part => marks.observe(part));
}

// ---- a served page takes in what is new, and stays where it was

function start(kept = new Map()) {
  all(".chart").forEach(place => {
    if (drawn.has(place)) return;
    const before = kept.get(place.id);
    if (before) { place.style.minHeight = `${before.height}px`; draw(place, before.chosen); } else near.observe(place);
  });
  follow();
  showBar();
  fillRuns();
}
// A folded part is known by its section and its place there.
function named(part) {
  const section = part.closest("section");
  return `${section?.id} ${all("details", section || document).indexOf(part)}`;
}
function takeIn(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html"), main = one("main"), next = one("main", fresh);
  const open = all("details[open]", main).map(named);
  const top = all("main > section").find(part => part.getBoundingClientRect().bottom > 60);
  const offset = top?.getBoundingClientRect().top, focus = document.activeElement?.id;
  const find = one("#find")?.value || "";
  const old = new Map([...drawn.keys()].map(place => [place.id, place])), kept = new Map();
  for (const place of all(".chart", next)) {
    const before = old.get(place.id);
    if (!before) continue;
    if (before.nextElementSibling.textContent === place.nextElementSibling.textContent) {
      place.replaceWith(before);
    } else {
      kept.set(place.id, {chosen: choices(drawn.get(before)), height: before.offsetHeight});
      drawn.get(before).finalize();
      drawn.delete(before);
    }
  }
  encoded = new Map();
  table = null;
  document.title = fresh.title || document.title;
  one("nav.sections").replaceWith(one("nav.sections", fresh));
  main.replaceWith(next);
  for (const place of drawn.keys()) if (!place.isConnected) { drawn.get(place).finalize(); drawn.delete(place); }
  all("details").forEach(part => { if (open.includes(named(part))) part.open = true; });
  if (one("#find")) one("#find").value = find;
  start(kept);
  const where = top?.id && document.getElementById(top.id);
  if (where) scrollBy(0, where.getBoundingClientRect().top - offset);
  if (focus) document.getElementById(focus)?.focus({preventScroll: true});
}
async function look(version) {
  const say = one("#live");
  try {
    const now = await (await fetch("version", {cache: "no-store"})).json();
    if (now.version !== version) {
      takeIn(await (await fetch("./", {cache: "no-store"})).text());
      version = now.version;
    }
    say.textContent = now.error ? `Live, but the last change could not be shown: ${now.error}` : `Live · ${now.made}`;
    say.classList.toggle("bad", Boolean(now.error));
  } catch {
    say.textContent = "No longer served: this is how it was last";
    say.classList.add("bad");
  }
  setTimeout(() => look(version), 1000);
}

start();
if (document.body.dataset.live) look(document.body.dataset.live);
})();
