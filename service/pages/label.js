"use strict";
// The labelling page: takes the queue, shows one sentence at a time, and stores each choice before it shows what the model says.
const at = (id) => document.getElementById(id);
let queue = [];   // sentences to come, the one shown first
let labels = [];
let last = null;  // the item labelled before this one
let done = 0;
let busy = false;

at("name").value = sessionStorage.getItem("name") || "";

async function call(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (at("key").value) headers.Authorization = "Bearer " + at("key").value;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The service does not answer. Your last choice is not stored; try it again.");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.detail);
  return content;
}

async function fill() {
  const found = await call("GET", "/v1/labels/queue?limit=50&annotator=" + encodeURIComponent(at("name").value));
  labels = found.labels;
  queue = found.items;
}

function show() {
  const item = queue[0];
  at("sentence").textContent = item ? item.sentence : "Nothing waits to be labelled. Thank you.";
  at("choices").replaceChildren(...labels.map((label, place) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = place + 1;
    button.type = "button";
    button.append(key, label);
    button.disabled = !item;
    button.addEventListener("click", () => choose(label));
    return button;
  }));
  at("skip").disabled = !item;
  at("undo").disabled = last === null;
  at("sentence").focus();
}

async function act(work) {
  if (busy) return;
  busy = true;
  at("trouble").textContent = "";
  try {
    await work();
  } catch (error) {
    at("trouble").textContent = error.message;
  }
  busy = false;
}

const choose = (label) => act(async () => {
  const item = queue[0];
  if (!item) return;
  item.key ||= crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2) + Date.now();
  await call("POST", "/v1/labels", { labels: [{
    sentence: item.sentence, label, key: item.key + "-" + label, annotator: at("name").value,
    model_id: item.model_id, predicted: item.predicted, confidence: item.confidence,
  }] });
  const sure = Math.round(100 * item.confidence);
  at("said").textContent = `You said ${label}; the model had said ${item.predicted} (${sure} %).`;
  if (!item.again) done += 1;
  at("progress").textContent = `${done} labelled in this sitting`;
  last = queue.shift();
  if (!queue.length) await fill();
  show();
});

const skip = () => act(async () => {
  if (!queue.length) return;
  queue.push(queue.shift());
  at("said").textContent = "";
  show();
});

const undo = () => act(async () => {
  if (!last) return;
  last.again = true;  // the next choice takes the place of the one before; both stay in the store
  last.key = undefined;
  queue.unshift(last);
  last = null;
  at("said").textContent = "Choose again: what you choose now takes the place of what you chose before.";
  show();
});

at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    sessionStorage.setItem("name", at("name").value);
    await fill();
    at("who").hidden = true;
    at("work").hidden = false;
    show();
  });
});
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  if (at("work").hidden || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "INPUT") return;
  const place = Number(event.key) - 1;
  if (place in labels) choose(labels[place]);
  else if (event.key === "s") skip();
  else if (event.key === "u") undo();
});
fetch("/label/codebook").then((answer) => (answer.ok ? answer.text() : "")).then((html) => { at("codebook").innerHTML = html; });
