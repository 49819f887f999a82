"use strict";

const form = document.getElementById("form");
const button = document.getElementById("rerank");
const status = document.getElementById("status");
const results = document.getElementById("results");
const rows = document.getElementById("rows");

function say(text, warn) {
  status.textContent = text;
  status.classList.toggle("warn", Boolean(warn));
}

function cell(row, text, ...classes) {
  const made = row.insertCell();
  made.role = "cell";
  made.textContent = text;
  made.classList.add(...classes);
}

function moved(places) {
  if (places === 0) return ["same place", ""];
  return places > 0 ? [`▲ up ${places}`, "up"] : [`▼ down ${-places}`, "down"];
}

// What a person can do about it: what `nats-rerank query` says, too.
const ADVICE = {
  no_responders: "No worker listens. Start one with `nats-rerank worker`, with the same nats.url and nats.subject",
  timed_out: "No worker answered in time. The workers may be busy, or still starting: try again",
  disconnected: "The gateway is not connected to NATS. Check that nats-server is running, and nats.url",
  circuit_open: "The workers have failed or were slow of late, and are not asked for a moment: try again shortly",
  switched_off: "Reranking is switched off",
  overloaded: "The workers are full: try again shortly, or start more of them",
  unavailable: "The worker is switched off, stopping, or has no model: see its log",
};

function explained(reason) {
  return `${ADVICE[reason] || `No ranking (${reason})`}. The order below is the one you gave.`;
}

function show(rankings, documents, ranked) {
  document.getElementById("results-title").textContent = ranked ? "New order" : "Order as it was";
  rows.replaceChildren();
  rankings.forEach((ranking, place) => {
    const row = rows.insertRow();
    row.role = "row";
    const [text, way] = moved(ranking.index - place);
    cell(row, String(place + 1), "number");
    cell(row, String(ranking.index + 1), "number");
    cell(row, text, "number", ...(way ? [way] : []));
    cell(row, ranked ? ranking.score.toPrecision(4) : "none", "number");
    cell(row, documents[ranking.index], "text");
  });
  results.hidden = false;
  document.getElementById("results-title").focus({ preventScroll: false });
}

async function rerank() {
  const query = form.elements.query.value;
  const documents = form.elements.documents.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const token = form.elements.token.value.trim();
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const began = performance.now();
  const answer = await fetch("rerank", { method: "POST", headers, body: JSON.stringify({ query, documents }) });
  const elapsed = Math.round(performance.now() - began);
  const body = await answer.json();
  if (!answer.ok) {
    results.hidden = true;
    say(`Refused (${answer.status}): ${body.error.message}`, true);
    return;
  }
  const fallback = answer.headers.get("Rerank-Fallback");
  const partial = answer.headers.get("Rerank-Partial");
  show(body.rankings, documents, !fallback);
  if (fallback) say(explained(fallback), true);
  else if (partial) say(`Not all documents were scored in time (${partial}): the rest keep their order below.`, true);
  else say(`${body.rankings.length} documents by ${body.model || "no model"} in ${elapsed} ms.`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  say("Asking the workers.");
  try {
    await rerank();
  } catch (error) {
    results.hidden = true;
    say(`The gateway did not answer: ${error.message}`, true);
  } finally {
    button.disabled = false;
  }
});
