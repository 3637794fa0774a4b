// The page of `figureground review`. All text is set as text, never as HTML. Every answer is on disk before the next
// image is shown: the server sends the next images together with its word that the answer is saved.
"use strict";

const $ = (id) => document.getElementById(id);
const ANSWERS = [["yes", "Yes", "Y"], ["no", "No", "N"], ["unsure", "Can’t tell", "T"]];
const FLAGS = [["unsafe", "Unsafe", "U"], ["artefacts", "Artefacts", "A"]];
const KEYS = { y: "yes", 1: "yes", n: "no", 2: "no", t: "unsure", 3: "unsure", "?": "unsure" };
const SMALL = 256; // images below this edge are enlarged without smoothing, in pixels

const browser = Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36)).join("");
let annotator = "";
let grid = false;
let shown = null; // what the server sent last
let current = 0; // of one image: which question is answered next
let marks = []; // of the grid: for each image its answer and flags
let began = 0; // when the images became visible, in milliseconds
let busy = false;
let failed = null; // the request to repeat
let guide = false;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const say = (text) => { $("status").textContent = text; };
const seconds = () => Math.round((performance.now() - began) / 10) / 100;

async function ask(route, body) {
  const response = await fetch(`api/${route}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), cache: "no-store",
  });
  let said;
  try { said = await response.json(); } catch { said = { error: `the server answered ${response.status}` }; }
  if (!response.ok) throw new Error(said.error);
  return said;
}

// Sends a request and shows what comes next; if it fails, the page says so, keeps it, and shows nothing new.
async function send(route, body, done) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    const said = await ask(route, { annotator, browser, grid, ...body });
    failed = null;
    $("trouble").hidden = true;
    busy = false;
    done(said);
  } catch (error) {
    busy = false;
    failed = () => send(route, body, done);
    const lost = error instanceof TypeError; // fetch: no connection
    const what = route === "answer" || route === "undo" ? "NOT SAVED. " : "";
    $("trouble-text").textContent = what + (lost
      ? "The server doesn’t answer. It may have been stopped: start figureground review again and open the new address. What was saved before is safe."
      : error.message);
    $("trouble").hidden = false;
    $("retry").focus();
    say("");
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

// --- beginning and end ---------------------------------------------------------------------------

async function begin() {
  const main = $("main");
  $("bar").hidden = $("tools").hidden = true;
  const input = make("input", { type: "text", id: "annotator", maxlength: 64, autocomplete: "off", spellcheck: "false", required: true });
  const form = make("form", {}, input, make("button", { type: "submit", class: "main" }, "Begin"));
  form.addEventListener("submit", (event) => { event.preventDefault(); enter(input.value); });
  const known = make("ul", { class: "known" });
  main.replaceChildren(make("div", { class: "card" },
    make("h1", {}, "Are the labels right?"),
    make("p", {}, "You are shown images, one after another, with a question or two about each. Answer what you see. Every answer is saved at once, so you can stop at any time."),
    form, make("label", { for: "annotator", class: "faint" }, "Your name, under which your answers are saved"), known));
  input.focus();
  try {
    const said = await ask("annotators", {});
    for (const name of said.annotators) {
      known.append(make("li", {}, make("button", { type: "button", onclick: () => enter(name) }, `Go on as ${name}`)));
    }
  } catch (error) { say(error.message); }
}

function enter(name) {
  annotator = name;
  send("next", {}, (said) => {
    annotator = said.annotator;
    history.replaceState(null, "", `#${encodeURIComponent(annotator)}`);
    show(said);
  });
}

function finish() {
  const { elsewhere } = shown.progress;
  $("main").replaceChildren(make("div", { class: "card" },
    make("h1", { tabindex: -1 }, elsewhere ? "Nothing left for now" : "Done, thank you"),
    make("p", {}, elsewhere
      ? `All images that are left (${elsewhere}) are being looked at by somebody else.`
      : "You have answered everything that you are asked. You can close this page."),
    make("p", {}, make("button", { type: "button", onclick: () => send("next", {}, show) }, "Look again"))));
  $("main").querySelector("h1").focus();
}

// --- what is shown -------------------------------------------------------------------------------

function show(said) {
  shown = said;
  const { mine, left, images, done } = said.progress;
  $("bar").hidden = $("tools").hidden = false;
  $("progress").max = Math.max(1, mine + left);
  $("progress").value = mine;
  $("counts").textContent = `${annotator}: ${mine} of ${mine + left} · all: ${done} of ${images}`;
  $("view").lastElementChild.textContent = grid ? "One" : "Grid";
  if (said.undone !== undefined) say(said.undone ? `Undone: ${said.undone} answer${said.undone === 1 ? "" : "s"}.` : "There is nothing to undo.");
  else if (said.replaced) say("Saved. It replaces your earlier answer about the same image.");
  else if (said.saved) say(said.saved === 1 ? "Saved." : `Saved ${said.saved} answers.`);
  if (!said.items.length) finish();
  else if (grid) showGrid();
  else showOne();
  for (const id of said.ahead) new Image().src = `image/${id}`;
}

function picture(id, alt) {
  const image = make("img", { alt });
  image.addEventListener("load", () => {
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL);
    began = performance.now();
  });
  image.addEventListener("error", () => image.replaceWith(make("p", { class: "faint broken" }, "This image can’t be read.")));
  image.src = `image/${id}`;
  return image;
}

function showOne() {
  const item = shown.items[0];
  current = Math.max(0, item.asked.findIndex((each) => each.answer === null));
  began = performance.now();
  const pictures = make("div", { class: "pictures" }, make("figure", {}, make("div", { class: "mat" }, picture(item.id, "The image to judge"))));
  const questions = item.asked.map((asked, index) => {
    const answers = ANSWERS.map(([value, text, key]) => make("button", {
      type: "button", class: value, "aria-pressed": String(asked.answer === value), onclick: () => answer(index, value),
    }, make("kbd", {}, key), ` ${text}`));
    return make("section", { class: index === current ? "question now" : "question", "aria-label": asked.text },
      make("h2", { tabindex: -1 }, asked.text), asked.hint ? make("p", { class: "hint" }, asked.hint) : "",
      make("div", { class: "answers", role: "group", "aria-label": "Answer" }, ...answers));
  });
  const flags = FLAGS.map(([name, text, key]) => make("button", {
    type: "button", "aria-pressed": String(item.flags[name]), "data-flag": name, onclick: () => flag(name),
  }, make("kbd", {}, key), ` ${text}`));
  const guideButton = make("button", { type: "button", id: "guide", "aria-pressed": "false", onclick: showGuide }, make("kbd", {}, "G"), " Guide");
  $("main").replaceChildren(make("div", { class: "one" }, pictures, make("div", {}, ...questions,
    make("div", { class: "flags", role: "group", "aria-label": "Flags and guide" }, ...flags, shown.guides ? guideButton : ""))));
  const now = $("main").querySelectorAll(".question")[current];
  now.querySelector("h2").focus({ preventScroll: true });
  if (current === 0) window.scrollTo(0, 0);
  else now.scrollIntoView({ block: "nearest" });
  guide = false;
}

function answer(index, value) {
  const item = shown.items[0];
  send("answer", { answers: [{ id: item.id, question: item.asked[index].question, answer: value, seconds: seconds() }] }, show);
}

function flag(name) {
  if (grid) return flagTile(name);
  const item = shown.items[0];
  const value = item.flags[name] ? "no" : "yes";
  send("answer", { answers: [{ id: item.id, question: name, answer: value, seconds: seconds() }] }, show);
}

async function showGuide() {
  if (grid || !$("guide")) return;
  const pictures = $("main").querySelector(".pictures");
  guide = !guide;
  $("guide").setAttribute("aria-pressed", String(guide));
  if (!guide) return pictures.lastElementChild.remove();
  const mat = make("div", { class: "mat" }, make("p", { class: "faint" }, "Looking for the guide …"));
  const image = make("img", { alt: "The guide that the image was made from" });
  image.addEventListener("load", () => {
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL);
    mat.replaceChildren(image);
  });
  image.addEventListener("error", () => mat.replaceChildren(make("p", { class: "faint" }, "The guide of this image can’t be drawn here.")));
  image.src = `guide/${shown.items[0].id}`;
  pictures.append(make("figure", {}, mat, make("figcaption", {}, "Made from")));
}

// --- the grid ------------------------------------------------------------------------------------

function showGrid() {
  const asked = shown.items[0].asked[0];
  began = performance.now();
  marks = shown.items.map((item) => ({ answer: asked.usual, flags: { ...item.flags } }));
  const rule = asked.usual
    ? `Every image counts as “${asked.usual}” unless you mark it: look at each one.`
    : "Mark each image; those without a mark are asked again.";
  const tiles = shown.items.map((item, index) => {
    const tile = make("button", { type: "button", class: "tile", onclick: () => cycle(index) },
      picture(item.id, ""), make("span", { class: "mark" }, make("b", {}), make("span", { class: "set" })));
    tile.addEventListener("focus", () => { current = index; });
    return make("li", {}, tile);
  });
  $("main").replaceChildren(make("div", { class: "grid" },
    make("h2", { tabindex: -1 }, asked.text),
    make("p", { class: "hint" }, asked.hint ? `${asked.hint} · ` : "", rule),
    make("ul", { class: "tiles" }, ...tiles),
    make("div", { class: "foot" },
      make("button", { type: "button", class: "main", id: "save", onclick: saveGrid }),
      make("span", { class: "faint" }, "Click, tap or Space: yes, no, can’t tell."))));
  marks.forEach((_, index) => paint(index));
  current = 0;
  tileOf(0).focus({ preventScroll: true });
}

const tileOf = (index) => $("main").querySelectorAll(".tile")[index];

function paint(index) {
  const { answer: value, flags } = marks[index];
  const text = value ? ANSWERS.find(([name]) => name === value)[1] : "Not marked";
  const set = FLAGS.filter(([name]) => flags[name]).map(([, name]) => name).join(", ");
  const tile = tileOf(index);
  tile.className = `tile ${value ?? "open"}`;
  tile.querySelector("b").textContent = text;
  tile.querySelector(".set").textContent = set;
  tile.setAttribute("aria-label", `Image ${index + 1} of ${marks.length}: ${text}${set ? `, ${set}` : ""}`);
  const marked = marks.filter((each) => each.answer).length;
  $("save").textContent = `Save ${marked} answer${marked === 1 ? "" : "s"}`;
  $("save").disabled = marked === 0;
}

function mark(index, value) { marks[index].answer = value; paint(index); }

function cycle(index) {
  const order = ANSWERS.map(([name]) => name);
  mark(index, order[(order.indexOf(marks[index].answer) + 1) % order.length]);
}

function flagTile(name) {
  marks[current].flags[name] = !marks[current].flags[name];
  paint(current);
}

function saveGrid() {
  const marked = marks.filter((mark) => mark.answer).length;
  if (!marked) return;
  const each = Math.round(seconds() / marked * 100) / 100;
  const answers = [];
  shown.items.forEach((item, index) => {
    if (marks[index].answer) {
      answers.push({ id: item.id, question: item.asked[0].question, answer: marks[index].answer, seconds: each });
    }
    for (const [name] of FLAGS) {
      if (marks[index].flags[name] !== item.flags[name]) {
        answers.push({ id: item.id, question: name, answer: marks[index].flags[name] ? "yes" : "no", seconds: each });
      }
    }
  });
  send("answer", { answers }, show);
}

function move(key) {
  const across = getComputedStyle($("main").querySelector(".tiles")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
  const to = Math.min(marks.length - 1, Math.max(0, current + step));
  tileOf(to).focus();
}

// --- keys and buttons ----------------------------------------------------------------------------

function switchView() { grid = !grid; say(""); send("next", {}, show); }
function undo() { send("undo", {}, show); }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat && !event.key.startsWith("Arrow")) return;
  if ($("help-text").open || event.target instanceof HTMLInputElement || !shown || busy || failed) return;
  const asks = shown.items.length > 0;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (grid && asks && key.startsWith("Arrow")) move(key);
  else if (grid && asks && key === "Enter") saveGrid();
  else if (!$("keys").checked) return;
  else if (asks && Object.hasOwn(KEYS, key)) { if (grid) mark(current, KEYS[key]); else answer(current, KEYS[key]); }
  else if (asks && key === "u") flag("unsafe");
  else if (asks && key === "a") flag("artefacts");
  else if (asks && key === "g") showGuide();
  else if (key === "z") undo();
  else if (key === "v") switchView();
  else if (key === "h") $("help-text").showModal();
  else return;
  event.preventDefault();
});

document.addEventListener("DOMContentLoaded", () => {
  $("view").addEventListener("click", switchView);
  $("undo").addEventListener("click", undo);
  $("help").addEventListener("click", () => $("help-text").showModal());
  $("close").addEventListener("click", () => $("help-text").close());
  $("retry").addEventListener("click", () => { if (failed) failed(); });
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { /* a damaged address */ }
  if (name) enter(name); else begin();
});
