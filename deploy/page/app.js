"use strict";
// Everything from the service is put in with textContent: a passage may hold HTML, and here it is text.

// What UAE can be compared with, the first that a release has by default: name, what it is, name within a sentence.
const OTHERS = {
  base: ["Base encoder", "before training", "the base encoder"],
  dense: ["Dense leg", "UAE’s encoder alone", "the dense leg"],
  bm25: ["BM25", "words alone", "BM25"],
  uae_reranked: ["Second stage", "UAE’s first passages, re-ranked", "the second stage"],
};
const SIDES = { ...OTHERS, uae: ["UAE", "trained on utility", "UAE"] };
const BATCH = 64; // sentences in one request for embeddings
const KEY = "uae-api-key";
const $ = (id) => document.getElementById(id);
let release = null; // the answer of /v1/release
let filter = null; // { id, name } of the one document to search
let beside = null; // the system that UAE is shown beside; null: the first of OTHERS that the release has
let running = new AbortController(); // of the question asked last

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children); // strings become text nodes
  return element;
}

async function call(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service could not be reached.");
  }
  const reply = await response.json().catch(() => null);
  if (response.ok && reply) return reply;
  const wait = response.headers.get("Retry-After");
  const reason = reply?.error?.message ?? `The service answered ${response.status} ${response.statusText}`;
  throw new Refused(response.status, wait ? `${reason} (try again in ${wait} s)` : reason);
}

function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    $("key-why").textContent = sessionStorage.getItem(KEY) ? "The service does not know this API key." : "The service asks for an API key.";
    $("unlock").hidden = false;
    $("key").focus();
    return;
  }
  $("error").textContent = error.message;
  $("error").hidden = false;
}

// ---- asking

async function ask() {
  running.abort();
  const { signal } = (running = new AbortController());
  const query = $("question").value.trim();
  $("error").hidden = $("unlock").hidden = true;
  $("results").removeAttribute("aria-busy");
  document.title = `${query && `${query} · `}Utility-Aligned Embeddings`;
  if (!query) return show(null);
  $("results").setAttribute("aria-busy", "true");
  $("status").textContent = "Searching …";
  try {
    let found;
    for (let tries = 0; tries < 3; tries++) {
      release = await call("v1/release", null, signal);
      found = await searchAll(query, signal);
      if (found.every((side) => side.release === release.fingerprint)) break; // else it was swapped in between
    }
    showRelease();
    show(found);
    highlight(query, found, signal);
  } catch (error) {
    if (signal.aborted) return;
    show(null);
    complain(error);
  } finally {
    if (!signal.aborted) $("results").removeAttribute("aria-busy");
  }
}

const searchAll = (query, signal) => Promise.all([...against(), "uae"].map((system) => search(query, system, signal)));

/** The system on the other side, if the release has any: the chosen one, or the first that there is. */
function against() {
  const there = Object.keys(OTHERS).filter((system) => release.systems.includes(system));
  const chosen = there.includes(beside) ? beside : there[0];
  $("against").replaceChildren(...there.map((system) => new Option(OTHERS[system][0], system, false, system === chosen)));
  $("versus").hidden = there.length < 2;
  return chosen ? [chosen] : [];
}

async function search(query, system, signal) {
  const started = performance.now();
  const filters = filter ? { doc_id: filter.id } : {};
  const reply = await call("v1/search", { query, k: Number($("k").value), system, filters }, signal);
  const took = performance.now() - started;
  const { passages, useful, useful_probability: likely } = reply.results[0];
  return { system, release: reply.release, scoreIs: reply.score_is, passages, useful, likely, took };
}

// ---- showing

function show(found) {
  $("results").replaceChildren(...(found ?? []).map((side) => column(side, found)));
  $("results").classList.toggle("one", found?.length === 1);
  $("legend").hidden = !segmenter || !found?.some((side) => side.passages.length);
  $("legend").replaceChildren(make("mark", "", "Marked"), ": the sentence nearest to the question, by this release’s encoder. It need not hold the answer.");
  $("status").textContent = found ? `${doubt(found)}${summary(found)}` : "";
}

// What UAE knows of its first passage: that it probably does not help.
function doubt(found) {
  const uae = found.find((side) => side.system === "uae");
  if (!uae?.passages.length || uae.useful !== false) return "";
  return `Probably nothing here helps to answer (${Math.round(100 * uae.likely)} % that the first passage does). `;
}

function summary(found) {
  const [other, uae] = found.length > 1 ? found : [null, found[0]];
  const counted = `${uae.passages.length} ${uae.passages.length === 1 ? "passage" : "passages"}`;
  if (!uae.passages.length && !other?.passages.length) return "No passage was found.";
  if (!other) return `${counted}. This release holds no base encoder, so there is nothing to compare with.`;
  if (other.release !== uae.release) return "The release is being swapped: the two sides are not of one release. Ask again.";
  const places = ranks(other);
  const fresh = uae.passages.filter((passage) => !places.has(passage.passage_id)).length;
  const same = uae.passages.filter((passage, place) => places.get(passage.passage_id) === place + 1).length;
  if (same === uae.passages.length) return `${counted}, in the same order on both sides.`;
  const each = other.passages.length === uae.passages.length ? " each" : "";
  return `${counted}${each}: ${same} at the same rank, ${fresh} new with UAE.`;
}

const ranks = (side) => new Map(side.passages.map((passage, place) => [passage.passage_id, place + 1]));

function column(side, found) {
  const [name, what] = SIDES[side.system];
  const other = found.find((each) => each !== side);
  const heading = make("h2", "", name, " ", make("span", "soft", what));
  heading.id = `head-${side.system}`;
  const section = make(
    "section",
    side.system,
    make("div", "head", heading, make("span", "soft took", `${Math.round(side.took)} ms`)),
    make("ol", "", ...side.passages.map((passage, place) => card(passage, place + 1, side, other))),
  );
  section.setAttribute("aria-labelledby", heading.id);
  if (!side.passages.length) section.append(make("p", "soft", "No passage."));
  return section;
}

function card(passage, rank, side, other) {
  const score = make("span", "soft score", passage.score.toFixed(3));
  score.title = `${side.scoreIs}; compare it within one side only`;
  const title = make("h3", "", passage.title || passage.source);
  const text = make("p", "passage", passage.text);
  const only = make("button", "", "only this document");
  only.type = "button";
  only.onclick = () => setFilter({ id: passage.doc_id, name: passage.title || passage.source });
  const source = make("span", "source", passage.source);
  const where = make("div", "where soft", source, ` · characters ${passage.start}–${passage.end}`);
  if (filter?.id !== passage.doc_id) where.append(only);
  const line = make("div", "line", make("span", "rank", String(rank)), title);
  if (other && side.release === other.release) line.append(moved(rank, ranks(other).get(passage.passage_id), side, other));
  line.append(score);
  const item = make("li", "", line);
  if (passage.section) item.append(make("div", "soft section", passage.section));
  item.append(text, where);
  for (const element of [title, text, source, item.querySelector(".section")]) if (element) element.dir = "auto";
  item.dataset.passage = passage.passage_id;
  item.tabIndex = rank === 1 ? 0 : -1;
  return item;
}

function moved(rank, there, side, other) {
  const trained = side.system === "uae";
  let [kind, short, long] = ["", "same rank", "the same rank on both sides"];
  if (!there) {
    const name = SIDES[other.system][2];
    [kind, short, long] = [trained ? "up" : "down", trained ? "new" : "dropped", `not among the ${other.passages.length} of ${name}`];
  } else if (there !== rank) {
    const by = trained ? there - rank : rank - there;
    kind = by > 0 ? "up" : "down";
    short = trained ? `${by > 0 ? "+" : "−"}${Math.abs(by)}` : `UAE: ${there}`;
    const name = SIDES[trained ? other.system : side.system][2];
    long = `rank ${trained ? there : rank} with ${name}, ${trained ? rank : there} with UAE`;
  }
  const tag = make("span", `move ${kind}`, make("span", "", short), make("span", "hidden", ` (${long})`));
  tag.firstChild.title = long;
  return tag;
}

function showRelease() {
  const copy = make("button", "copy", "copy");
  const code = make("code", "", release.fingerprint.slice(0, 12));
  code.title = release.fingerprint;
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy the release's fingerprint");
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(release.fingerprint);
      copy.textContent = "copied";
    } catch { // no clipboard over plain HTTP: shown in full, selected
      code.textContent = release.fingerprint;
      getSelection().selectAllChildren(code);
    }
  };
  const version = release.version ? `${release.model ?? "model"} ${release.version}` : "not from a registry";
  const metrics = Object.entries(release.metrics ?? {}).filter(([name]) => !name.includes("/")) // not each reader's
    .map(([name, value]) => `${name} ${Number(value).toFixed(3)}`);
  const list = make("dl");
  const add = (name, ...value) => list.append(make("div", "", make("dt", "", name), make("dd", "", ...value)));
  add("Release", code, " ", copy);
  add("Model version", version, release.promoted_at ? `, registered ${release.promoted_at.slice(0, 10)}` : "");
  add("Passages", release.passages.toLocaleString("en-GB"));
  add("Backend", release.backend);
  if (metrics.length) add("Test questions, when registered", metrics.join(" · "));
  $("release").replaceChildren(list);
  $("release").hidden = false;
  if (!release.systems.includes("base")) $("about").textContent = "Ask the encoder trained on what helps an LLM answer.";
}

// ---- the sentence nearest to the question

const segmenter = Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "sentence" });

function sentences(text) {
  const spans = [];
  // A lone line break is wrapping, not the end of a sentence; offsets stay as they are.
  const flat = text.replace(/(\S)\n(?=\S)/g, "$1 ");
  for (const { segment, index } of segmenter.segment(flat)) {
    const last = spans.at(-1);
    if (last && last.end - last.start < 25 && flat[last.end - 1] !== "\n") last.end = index + segment.length; // "Fig." and "3." are no sentences
    else spans.push({ start: index, end: index + segment.length });
  }
  return spans.map(({ start, end }) => ({ start, end: start + text.slice(start, end).trimEnd().length })).filter((span) => span.end > span.start);
}

function vector(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

async function embed(model, texts, input_type, signal) {
  const batches = [];
  for (let at = 0; at < texts.length; at += BATCH) batches.push(texts.slice(at, at + BATCH));
  const replies = await Promise.all(
    batches.map((input) => call("v1/embeddings", { model, input, input_type, encoding_format: "base64" }, signal)),
  );
  return replies.flatMap((reply) => reply.data.map((each) => vector(each.embedding)));
}

async function highlight(query, found, signal) {
  const texts = new Map(found.flatMap((side) => side.passages.map((passage) => [passage.passage_id, passage.text])));
  if (!segmenter || !texts.size) return;
  const model = found.at(-1).release; // asked for by fingerprint: another release would refuse
  const spans = [...texts].flatMap(([id, text]) => sentences(text).map((span) => ({ id, ...span, text: text.slice(span.start, span.end) })));
  try {
    const [[question], vectors] = await Promise.all([
      embed(model, [query], "query", signal),
      embed(model, spans.map((span) => span.text), "document", signal),
    ]);
    if (signal.aborted) return;
    const best = new Map();
    spans.forEach((span, at) => {
      const near = vectors[at].reduce((sum, value, axis) => sum + value * question[axis], 0);
      if (!(best.get(span.id)?.near >= near)) best.set(span.id, { ...span, near });
    });
    for (const item of $("results").querySelectorAll("li")) {
      const { start, end } = best.get(item.dataset.passage) ?? {};
      if (end === undefined) continue;
      const text = texts.get(item.dataset.passage);
      item.querySelector(".passage").replaceChildren(text.slice(0, start), make("mark", "", text.slice(start, end)), text.slice(end));
    }
  } catch (error) {
    if (!signal.aborted) $("legend").textContent = `No sentence is marked: ${error.message}`;
  }
}

// ---- address, filter, keyboard

function address() {
  const parameters = new URLSearchParams();
  const query = $("question").value.trim();
  if (query) parameters.set("q", query);
  if ($("k").value !== "5") parameters.set("k", $("k").value);
  if (beside) parameters.set("against", beside);
  if (filter) parameters.set("doc", filter.id);
  const search = parameters.size ? `?${parameters}` : "";
  if (search !== location.search) history.pushState(filter, "", search || location.pathname);
}

function restore(typed = "") {
  const parameters = new URLSearchParams(location.search);
  $("question").value = parameters.get("q") ?? typed;
  $("k").value = parameters.get("k") ?? "5";
  if (!$("k").value) $("k").value = "5";
  beside = parameters.get("against");
  const id = parameters.get("doc");
  filter = id ? { id, name: history.state?.name ?? id } : null;
  showFilter();
}

function showFilter() {
  $("filter").hidden = !filter;
  $("filter-name").textContent = filter?.name ?? "";
}

function setFilter(to) {
  filter = to;
  showFilter();
  address();
  $("question").focus();
  ask();
}

$("ask").onsubmit = (event) => { event.preventDefault(); address(); ask(); };
$("against").onchange = () => { beside = $("against").value; address(); ask(); };
$("k").onchange = () => { if ($("question").value.trim()) { address(); ask(); } };
$("unfilter").onclick = () => setFilter(null);
$("unlock").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  $("question").focus();
  start();
};

function go(item) {
  if (!item) return;
  for (const each of $("results").querySelectorAll("li")) each.tabIndex = -1;
  item.tabIndex = 0;
  item.focus();
  item.scrollIntoView({ block: "nearest" });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const at = event.target;
  const item = at.closest?.("#results li");
  const typing = at.matches?.("input, select, textarea");
  const items = [...(item?.parentElement.children ?? [])];
  const lists = [...$("results").querySelectorAll("ol")];
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  const across = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (event.key === "/" && !typing) $("question").select();
  else if (event.key === "Escape" && item) $("question").select();
  else if (event.key === "ArrowDown" && at === $("question")) go($("results").querySelector("li"));
  else if (step && item) { const to = items[items.indexOf(item) + step]; to ? go(to) : step < 0 && $("question").select(); }
  else if (event.key === "j" && !typing) go($("results").querySelector("li"));
  else if (across && item) { const list = lists[lists.indexOf(item.parentElement) + across]; go(list?.children[Math.min(items.indexOf(item), list.children.length - 1)]); }
  else return;
  event.preventDefault();
});

// The same passage on the other side.
function twins(event) {
  const item = event.target.closest?.("#results li");
  const entered = event.type === "focusin" || event.type === "mouseover";
  for (const each of $("results").querySelectorAll("li")) each.classList.toggle("twin", Boolean(entered && item && each.dataset.passage === item.dataset.passage));
}
for (const kind of ["focusin", "focusout", "mouseover", "mouseout"]) $("results").addEventListener(kind, twins);

async function start() {
  if ($("question").value.trim()) return ask();
  $("unlock").hidden = $("error").hidden = true;
  try {
    release = await call("v1/release");
    showRelease();
  } catch (error) {
    complain(error);
  }
}

addEventListener("popstate", () => { restore(); ask(); });
restore($("question").value);  // who was faster than this script keeps what they typed
start();
