// The page of `figureground show`. It works from a file, without a server: browsers block `fetch` there, so data come as
// scripts that call `figureground.put`. All text is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const PEOPLE = ["not asked", "right", "wrong", "disagree", "can’t tell"]; // in the order of `people.STATES`
const FLAGGED = 8;
const SMALL = 128; // images below this edge are enlarged without smoothing, in pixels
const BINS = 40;
const KEPT_SCRIPTS = 40;
const ORDER = ""; // sorted as in the dataset
const EMPTY = {
  reject: "", split: "", foreground: "", background: "", votes: "", people: "", key: "", sort: "", order: "", size: "60",
  page: 1, image: null, scores: [],
};

let index = null; // what data/index.js says
let labels = null; // columns of all images, then of all rejects
let state = { ...EMPTY, scores: [] };
let rows = new Uint32Array(0); // the images that match, in order
let enlarged = null; // the key of the enlarged image
let written = null; // the hash that this page wrote last
let turn = 0; // of the last change; older ones, whose data come late, are dropped

// Loading

const promised = new Map();
const resolvers = new Map();

window.figureground = {
  put(name, value) {
    resolvers.get(name)?.(value);
    resolvers.delete(name);
  },
};

function load(name) {
  if (promised.has(name)) return promised.get(name);
  const script = document.createElement("script");
  const promise = new Promise((resolve, reject) => {
    const fail = () => {
      promised.delete(name);
      reject(new Error(`report/${name}.js is missing or damaged. Keep the folder “report” beside this page, or run figureground show again.`));
    };
    resolvers.set(name, resolve);
    script.addEventListener("error", fail);
    script.addEventListener("load", () => { script.remove(); if (resolvers.has(name)) fail(); });
  });
  script.src = `report/${name}.js`;
  document.head.append(script);
  promised.set(name, promise);
  if (name.startsWith("details/")) {
    const old = [...promised.keys()].filter((each) => each.startsWith("details/"));
    for (const each of old.slice(0, Math.max(0, old.length - KEPT_SCRIPTS))) promised.delete(each);
  }
  return promise;
}

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

function decode(column) {
  const text = atob(column.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new TYPES[column.type](bytes.buffer);
}

const scores = new Map();

async function score(name) {
  if (!scores.has(name)) scores.set(name, decode(await load(index.scores.find((each) => each.name === name).file)));
  return scores.get(name);
}

// Elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = make("option", {}, text);
    option.value = value;
    return option;
  }));
  select.closest("label").hidden = options.length < 2;
}

const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const number = (value) => (Number.isFinite(value) ? String(+value.toPrecision(4)) : "none");

function complain(error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
}

// The state of the page is in the address, by names, so that a view can be shared and still fits after an extension.

function writeHash() {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(EMPTY)) {
    if (name !== "scores" && name !== "image" && state[name] !== value) said.set(name, state[name]);
  }
  if (enlarged !== null) said.set("image", enlarged);
  for (const { name, low, high } of state.scores) said.append("score", `${low}:${high}:${name}`);
  written = said.size ? `#${said}` : "";
  // Replaced without navigating, since going to an empty fragment would scroll to the top.
  if (location.hash !== written) history.replaceState(null, "", written || location.href.split("#")[0]);
}

async function readHash() {
  const said = new URLSearchParams(location.hash.slice(1));
  const found = { ...EMPTY, scores: [] };
  for (const name of Object.keys(EMPTY)) {
    if (name !== "scores" && name !== "page" && name !== "image" && said.has(name)) found[name] = said.get(name);
  }
  for (const name of ["reject", "split", "foreground", "background", "votes", "people", "sort", "order", "size"]) {
    if (found[name] && ![...$(name).options].some((option) => option.value === found[name])) found[name] = EMPTY[name];
  }
  found.page = Math.max(1, parseInt(said.get("page"), 10) || 1);
  if (said.has("image")) {
    const row = (await load("data/keys")).indexOf(said.get("image"));
    found.image = row < 0 ? null : row;
  }
  for (const text of said.getAll("score")) {
    const match = /^([^:]*):([^:]*):([^]*)$/.exec(text);
    if (match && index.scores.some((each) => each.name === match[3])) {
      found.scores.push({ name: match[3], low: limit(match[1]), high: limit(match[2]) });
    }
  }
  return found;
}

const limit = (text) => (text !== "" && Number.isFinite(Number(text)) ? text : "");

// Filters and order

function position(names, name) {
  return name === "" ? -1 : names.find((each) => each[1] === name)?.[0] ?? -1;
}

async function matching() {
  const { split, foreground, background, reason, votes, people } = labels;
  const wanted = {
    split: state.split === "" ? -1 : index.splits.indexOf(state.split),
    foreground: position(index.foregrounds, state.foreground), background: position(index.backgrounds, state.background),
    votes: state.votes === "" ? -1 : Number(state.votes),
  };
  const flagged = state.people === "flagged";
  const says = flagged || state.people === "" ? -1 : PEOPLE.indexOf(state.people);
  const rejects = state.reject !== "";
  const reject = state.reject.startsWith("=") ? index.reasons.indexOf(state.reject.slice(1)) + 1 : 0;
  const ranges = await Promise.all(state.scores.map(async ({ name, low, high }) => ({
    values: await score(name), low: low === "" ? -Infinity : Number(low), high: high === "" ? Infinity : Number(high),
    open: low === "" && high === "",
  })));
  const keys = state.key === "" ? null : await load("data/keys");
  const [begin, end] = rejects ? [index.images, index.total] : [0, index.images];
  const found = new Uint32Array(end - begin);
  let n = 0;
  search: for (let i = begin; i < end; i++) {
    if (wanted.split >= 0 && split[i] !== wanted.split) continue;
    if (wanted.foreground >= 0 && foreground[i] !== wanted.foreground) continue;
    if (wanted.background >= 0 && background[i] !== wanted.background) continue;
    if (reject && reason[i] !== reject) continue;
    if (wanted.votes >= 0 && votes[i] !== wanted.votes) continue;
    if (says >= 0 && (people[i] & (FLAGGED - 1)) !== says) continue;
    if (flagged && people[i] < FLAGGED) continue;
    for (const range of ranges) {
      if (range.open) continue;
      const value = range.values[i];
      if (!(value >= Math.fround(range.low) && value <= Math.fround(range.high))) continue search;
    }
    if (keys && !keys[i].includes(state.key)) continue;
    found[n++] = i;
  }
  return found.subarray(0, n);
}

async function ordered(found) {
  const down = state.order === "desc";
  if (state.sort === ORDER) return down ? found.slice().reverse() : found;
  const all = await ascending(state.sort);
  const wanted = new Uint8Array(index.total);
  for (const row of found) wanted[row] = 1;
  const sorted = new Uint32Array(found.length);
  let n = 0;
  for (let k = 0; k < all.length; k++) {
    const row = all[down ? all.length - 1 - k : k];
    if (wanted[row]) { sorted[n++] = row; wanted[row] = 0; }
  }
  for (const row of found) if (wanted[row]) sorted[n++] = row; // those without the score come last in either order
  return sorted;
}

const orders = new Map();

// The rows that have a score, from the lowest to the highest: a radix sort of the bits of the floats, which takes
// milliseconds where comparing takes tenths of a second.
async function ascending(name) {
  if (orders.has(name)) return orders.get(name);
  const values = await score(name);
  const bits = new Uint32Array(values.buffer);
  const keys = Uint32Array.from(bits, (x) => (x & 0x80000000 ? ~x : x | 0x80000000) >>> 0); // negative numbers first
  let order = Uint32Array.from(values.keys()).filter((row) => !Number.isNaN(values[row]));
  for (const shift of [0, 16]) {
    const begins = new Uint32Array(65537);
    for (const row of order) begins[((keys[row] >>> shift) & 65535) + 1]++;
    for (let k = 0; k < 65536; k++) begins[k + 1] += begins[k];
    const next = new Uint32Array(order.length);
    for (const row of order) next[begins[(keys[row] >>> shift) & 65535]++] = row;
    order = next;
  }
  orders.set(name, order);
  return order;
}

async function apply({ keepPage = false, scroll = false } = {}) {
  const now = ++turn;
  $("trouble").hidden = true;
  try {
    const found = await ordered(await matching());
    if (now !== turn) return;
    rows = found;
  } catch (error) {
    complain(error);
    return;
  }
  const pages = countPages();
  state.page = keepPage ? Math.min(state.page, pages) : 1;
  writeHash();
  showControls();
  showPage();
  await showRanges();
  if (scroll) $("images").scrollIntoView();
}

const countPages = () => Math.max(1, Math.ceil(rows.length / Number(state.size)));

function turnTo(page, focus = false) {
  const next = Math.min(countPages(), Math.max(1, page || 1));
  if (next === state.page) { $("page").value = state.page; return; }
  state.page = next;
  writeHash();
  showPage();
  if (focus) $("grid").querySelector("button")?.focus({ preventScroll: true });
}

// The grid

const block = (row) => {
  let [low, high] = [0, index.blocks.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (index.blocks[middle][1] <= row) low = middle; else high = middle - 1;
  }
  return index.blocks[low];
};

const named = (names, label) => names.get(label) ?? String(label);
const title = (row) => `${named(index.foreground, labels.foreground[row])} × ${named(index.background, labels.background[row])}`;

function thumbnail(row) {
  const suffix = index.suffixes[labels.thumbnail[row]];
  const [folder, first, , kind] = block(row);
  return suffix ? `report/thumbnails/${folder}/${kind}${row - first}.${suffix}` : null;
}

function picture(source, alt, what = "This image can’t be read.") {
  if (source === null) return make("div", { class: "none" }, what);
  const image = make("img", { alt, decoding: "async", loading: "lazy" });
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL));
  image.addEventListener("error", () => image.replaceWith(make("div", { class: "none" }, what)));
  image.src = source;
  return image;
}

const without = (row) => (labels.reason[row] ? index.reasons[labels.reason[row] - 1] : "This image can’t be read.");

function tile(row) {
  const more = [];
  if (index.splits.length > 1 && state.split === "") more.push(index.splits[labels.split[row]]);
  if (state.sort !== ORDER) more.push(number(scores.get(state.sort)[row]));
  const button = make("button", { type: "button", class: "tile", "data-row": row }, picture(thumbnail(row), "", without(row)),
    make("span", {}, title(row)), ...(more.length ? [make("span", { class: "more" }, more.join(" · "))] : []));
  return make("li", {}, button);
}

function showPage() {
  const size = Number(state.size);
  const begin = (state.page - 1) * size;
  $("grid").replaceChildren(...Array.from(rows.subarray(begin, begin + size), tile));
  const of = state.reject === "" ? index.images : index.total - index.images;
  const noun = state.reject === "" ? "image" : "reject";
  $("status").textContent = rows.length === of ? counted(of, noun) : `${rows.length.toLocaleString("en")} of ${counted(of, noun)}`;
  if (!rows.length) $("status").textContent += of ? ". No image passes all filters." : "";
  const pages = countPages();
  $("page").value = state.page;
  $("page").max = pages;
  $("pages").textContent = `of ${pages.toLocaleString("en")}`;
  for (const id of ["first", "previous"]) $(id).disabled = state.page <= 1;
  for (const id of ["next", "last"]) $(id).disabled = state.page >= pages;
}

// Controls

const SELECTS = ["reject", "split", "foreground", "background", "votes", "people", "sort", "order", "size"];

function fillControls() {
  const all = ["", "all"];
  const rejects = index.total - index.images;
  const inReasons = new Array(index.reasons.length + 1).fill(0);
  for (let i = index.images; i < index.total; i++) inReasons[labels.reason[i]]++;
  fill($("reject"), [["", "images"], ...(rejects ? [["any", `rejects (${rejects.toLocaleString("en")})`]] : []),
    ...index.reasons.map((reason, i) => [`=${reason}`, `rejects: ${reason} (${inReasons[i + 1].toLocaleString("en")})`])]);
  fill($("split"), [all, ...(index.splits.length > 1 ? index.splits.map((name) => [name, name]) : [])]);
  fill($("foreground"), [all, ...index.foregrounds.map(([, name]) => [name, name])]);
  fill($("background"), [all, ...index.backgrounds.map(([, name]) => [name, name])]);
  const votes = Array.from({ length: index.scorers + 1 }, (_, n) => [n + 1, `${n} of ${index.scorers} for the label`]);
  fill($("votes"), index.scorers ? [["", "any"], ...votes, ["0", "not scored"]] : [["", "any"]]);
  const says = [...PEOPLE.slice(1), PEOPLE[0]].map((said) => [said, said]);
  fill($("people"), index.people ? [["", "anything"], ...says, ["flagged", "flagged: unsafe, artefacts"]] : [["", "anything"]]);
  const names = index.scores.map(({ name }) => [name, name]);
  fill($("sort"), [[ORDER, "order in the set"], ...names]);
  fill($("score"), [["", "choose a score"], ...names]);
}

function showControls() {
  for (const id of [...SELECTS, "key"]) $(id).value = state[id];
  $("score").value = "";
}

async function showRanges() {
  const now = turn;
  const shown = [...$("ranges").children];
  const same = shown.length === state.scores.length && shown.every((each, i) => each.dataset.name === state.scores[i].name);
  if (!same) $("ranges").replaceChildren(...state.scores.map(rangeFields));
  for (const [i, { name, low, high }] of state.scores.entries()) {
    const field = $("ranges").children[i];
    for (const [end, value] of [["low", low], ["high", high]]) {
      const input = field.querySelector(`[data-end=${end}]`);
      if (document.activeElement !== input) input.value = value;
    }
    const values = await score(name);
    if (now !== turn) return;
    drawHistogram(field.querySelector("svg"), values, index.scores.find((each) => each.name === name));
  }
}

function rangeFields({ name }, i) {
  const { low, high } = index.scores.find((each) => each.name === name);
  const input = (end, text, bound) => {
    const field = make("input", { type: "number", step: "any", "data-end": end, placeholder: number(bound) });
    field.addEventListener("input", () => { state.scores[i][end] = limit(field.value); apply(); });
    return make("label", {}, text, field);
  };
  const remove = make("button", { type: "button", "aria-label": `Remove the limits of ${name}` }, "✕");
  remove.addEventListener("click", () => { state.scores.splice(i, 1); apply(); $("score").focus(); });
  const chart = draw("svg", { viewBox: `0 0 ${BINS} 20`, preserveAspectRatio: "none", role: "img", "aria-label": `Distribution of ${name}` });
  return make("fieldset", { class: "limit", "data-name": name }, make("legend", {}, name), chart,
    make("div", { class: "ends" }, input("low", "at least", low), input("high", "at most", high), remove));
}

function drawHistogram(svg, values, { low, high }) {
  const bin = (value) => Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS));
  const count = (list, from, to) => {
    const bins = new Uint32Array(BINS);
    for (let k = from; k < to; k++) {
      const value = values[list ? list[k] : k];
      if (Number.isFinite(value)) bins[bin(value)]++;
    }
    return bins;
  };
  const all = count(null, 0, index.images);
  const now = count(rows, 0, rows.length);
  const most = Math.max(1, ...all);
  const bars = (bins, kind) => Array.from(bins, (n, x) => [n, x]).filter(([n]) => n).map(([n, x]) => {
    const height = Math.max(0.6, (20 * n) / most);
    return draw("rect", { class: kind, x: x + 0.06, y: 20 - height, width: 0.88, height });
  });
  svg.replaceChildren(...bars(all, "all"), ...bars(now, "now"));
}

// The enlarged image

async function details(row) {
  const [folder, first, , kind] = block(row);
  const chunk = Math.floor((row - first) / index.chunk);
  const { shared, rows: some } = await load(`details/${folder}/${kind}${chunk}`);
  const found = some[(row - first) % index.chunk];
  return { ...found, facts: [...found.facts, ...shared] };
}

function facts(heading, pairs) {
  if (!pairs.length) return null;
  const body = make("tbody");
  for (const [name, value] of pairs) body.append(make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value))));
  return make("section", {}, make("h3", {}, heading), make("table", { class: "facts" }, body));
}

function figures(pictures) {
  return pictures.map(([name, path]) => make("figure", {}, picture(`report/${path}`, name), make("figcaption", {}, name)));
}

const drop = (list) => list.filter((each) => each !== null);

function said(row) {
  const pairs = [["split", index.splits[labels.split[row]]], ["foreground", named(index.foreground, labels.foreground[row])],
    ["background", named(index.background, labels.background[row])]];
  if (labels.reason[row]) pairs.push(["rejected", index.reasons[labels.reason[row] - 1]]);
  if (labels.votes[row]) pairs.push(["scorers’ votes for the label", `${labels.votes[row] - 1} of ${index.scorers}`]);
  if (index.people && !labels.reason[row]) pairs.push(["people", PEOPLE[labels.people[row] & (FLAGGED - 1)]]);
  return pairs;
}

async function enlarge(row) {
  state.image = row;
  const at = rows.indexOf(row);
  $("enlarged-title").textContent = title(row);
  $("place").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  $("step-back").disabled = at <= 0;
  $("step-on").disabled = at < 0 || at >= rows.length - 1;
  if (!$("enlarged").open) {
    $("contents").replaceChildren();
    $("enlarged").showModal();
    $("enlarged-title").focus();
  }
  let found;
  try {
    found = await details(row);
  } catch (error) {
    $("contents").replaceChildren(make("p", { class: "notes" }, error.message));
    return;
  }
  if (state.image !== row) return;
  enlarged = found.key;
  writeHash();
  const source = found.full ? `report/${found.full}` : thumbnail(row);
  const main = make("figure", { class: "main" }, picture(source, title(row), without(row)), make("figcaption", {}, found.prompt));
  const parts = [make("div", { class: "pictures" }, main, ...figures(found.pictures ?? []))];
  if (labels.reason[row]) {
    if (source === null) parts.push(make("p", { class: "faint" }, "Nothing is kept of the pixels of a rejected image."));
  } else if (!found.pictures) {
    parts.push(make("p", { class: "notes" }, `Only ${counted(index.full, "image")} were written at full size, with guide, mask and panels; this is the thumbnail. `,
      make("code", {}, "figureground show DIR --full all"), " writes all."));
  }
  for (const panel of found.panels ?? []) {
    parts.push(make("section", { class: "panel" }, make("h3", {}, panel.title),
      ...(panel.pictures.length ? [make("div", { class: "pictures" }, ...figures(panel.pictures))] : []),
      ...drop([facts("", panel.facts)?.querySelector("table") ?? null])));
  }
  const first = make("div", {}, ...drop([facts("Labels", [...said(row), ["key", found.key], ["prompt", found.prompt]]),
    facts("People’s answers", found.people), facts("Scores", found.scores)]));
  parts.push(make("div", { class: "columns" }, first, ...drop([facts("Provenance", found.facts)])));
  $("contents").replaceChildren(...parts);
  $("enlarged").scrollTop = 0;
}

function step(by) {
  const at = rows.indexOf(state.image) + by;
  if (at < 0 || at >= rows.length) return;
  const page = Math.floor(at / Number(state.size)) + 1;
  if (page !== state.page) { state.page = page; showPage(); }
  enlarge(rows[at]);
}

// Events

function listen() {
  for (const id of SELECTS) $(id).addEventListener("change", () => { state[id] = $(id).value; apply(); });
  $("key").addEventListener("input", () => { state.key = $("key").value; apply(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("score").addEventListener("change", () => {
    const name = $("score").value;
    if (name && !state.scores.some((each) => each.name === name)) state.scores.push({ name, low: "", high: "" });
    apply().then(() => $("ranges").lastElementChild?.querySelector("input").focus());
  });
  $("reset").addEventListener("click", () => { state = { ...EMPTY, size: state.size, scores: [] }; apply(); });
  $("first").addEventListener("click", () => turnTo(1));
  $("previous").addEventListener("click", () => turnTo(state.page - 1));
  $("next").addEventListener("click", () => turnTo(state.page + 1));
  $("last").addEventListener("click", () => turnTo(countPages()));
  $("page").addEventListener("change", () => turnTo(parseInt($("page").value, 10)));
  $("grid").addEventListener("click", (event) => {
    const button = event.target.closest("button.tile");
    if (button) enlarge(Number(button.dataset.row));
  });
  $("step-back").addEventListener("click", () => step(-1));
  $("step-on").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("enlarged").close());
  $("enlarged").addEventListener("click", (event) => { if (event.target === $("enlarged")) $("enlarged").close(); });
  $("enlarged").addEventListener("close", () => {
    const button = $("grid").querySelector(`[data-row="${state.image}"]`);
    state.image = enlarged = null;
    writeHash();
    button?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    if ($("enlarged").open) step(by); else turnTo(state.page + by, $("grid").contains(document.activeElement));
  });
  window.addEventListener("hashchange", () => { if (location.hash !== written && !isSection()) restore(); });
}

// A link to a section of the page has a hash too, which says nothing of the view.
const isSection = () => /^#[a-z-]+$/.test(location.hash) && document.getElementById(location.hash.slice(1)) !== null;

async function restore() {
  if (isSection()) {
    const section = location.hash;
    await apply();
    document.querySelector(section).scrollIntoView();
    return;
  }
  const found = await readHash().catch((error) => { complain(error); return null; });
  if (found === null) return;
  state = found;
  enlarged = null;
  await apply({ keepPage: true });
  if (state.image !== null) await enlarge(state.image);
  else if ($("enlarged").open) $("enlarged").close();
}

function linkCounts() {
  const link = (cell, text, change) => {
    if (cell.textContent === "0") return;
    const button = make("button", { type: "button", "aria-label": `${cell.textContent}, show ${text}` }, cell.textContent);
    button.addEventListener("click", () => { state = { ...EMPTY, size: state.size, scores: [], ...change }; apply({ scroll: true }); });
    cell.replaceChildren(button);
  };
  for (const table of document.querySelectorAll("#counts table")) {
    const heads = [...table.tHead.rows[0].cells];
    for (const row of table.querySelectorAll("tr[data-split]")) {
      const split = index.splits.length > 1 ? row.dataset.split : "";
      const foreground = named(index.foreground, Number(row.dataset.foreground));
      for (const cell of [...row.cells].slice(1)) {
        const label = heads[cell.cellIndex].dataset.background;
        const background = label === undefined ? "" : named(index.background, Number(label));
        link(cell, [split, foreground, background].filter(Boolean).join(", "), { split, foreground, background });
      }
    }
  }
  for (const row of document.querySelectorAll("#rejects tr[data-reason]")) {
    if (index.reasons.includes(row.dataset.reason)) link(row.cells[1], row.dataset.reason, { reject: `=${row.dataset.reason}` });
  }
  $("counts-hint").hidden = false;
}

async function begin() {
  try {
    const [said, columns] = await Promise.all([load("data/index"), load("data/labels")]);
    index = said;
    index.foreground = new Map(said.foregrounds);
    index.background = new Map(said.backgrounds);
    labels = Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, decode(column)]));
  } catch (error) {
    complain(error);
    return;
  }
  fillControls();
  listen();
  if (matchMedia("(max-width: 46rem)").matches && location.hash === "") $("filter-box").open = false;
  $("browser").hidden = false;
  await restore();
  document.documentElement.dataset.ready = "";
  setTimeout(linkCounts); // after the first images
}

begin();
