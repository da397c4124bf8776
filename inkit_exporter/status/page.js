"use strict";
// Whatever comes from outside becomes a text node or an attribute's value here, never markup.

// Without the user and password that the page's own address may have: fetch refuses them.
const SOURCE = location.origin + location.pathname.replace(/[^/]*$/, "api/v1/status") + location.search;
const POLL_MS = 5000, TIMEOUT_MS = 10000;
const FEW = matchMedia("(max-width: 46rem)").matches ? 5 : 10;  // rows of a table at first
const STEP = 50;  // rows more with each click

const $ = id => document.getElementById(id);

let latest = JSON.parse($("report").textContent), received = Date.now(), problem = "";
let now = 0;  // by the exporter's clock; it stands still while the exporter does not answer
const shown = {};  // rows of each table, where a click has changed them

const count = n => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("ch") ? "es" : "s"}`;
const words = name => name.replaceAll("_", " ");
const clock = seconds => new Date(seconds * 1000).toLocaleTimeString("en-GB");

function span(seconds) {
  const s = Math.max(0, seconds);
  const pair = (n, a, m, b) => `${Math.floor(n)} ${a}` + (m >= 1 ? ` ${Math.floor(m)} ${b}` : "");
  if (s < 1 && s > 0) return `${Math.ceil(s * 1000)} ms`;
  if (s < 10 && s % 1) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? pair(s / 3600, "h", s % 3600 / 60, "min") : pair(s / 86400, "d", s % 86400 / 3600, "h");
}

// Children are texts, elements, lists of them, or something falsy, which is left out.
function fill(element, ...children) {
  element.append(...children.flat(Infinity).filter(Boolean));
  return element;
}

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return fill(element, ...children);
}

const small = (...children) => make("small", {}, ...children);
const warning = text => make("small", { class: "warn" }, text);
const number = (n, kind) => n ? make("span", { class: kind }, count(n)) : "0";
const stamp = (seconds, text) => make("time", {
  datetime: new Date(seconds * 1000).toISOString(), title: new Date(seconds * 1000).toString(),
}, text);
const since = seconds => stamp(seconds, span(Math.floor(now - seconds)));

const stateOf = account => account.up === null ? "unknown" : account.up ? "up" : "down";
const isStale = account => account.window?.stale;

const owner = name => [name, latest.accounts.some(a => a.account === name && isStale(a)) && warning("stale")];

const accountRow = account => ({
  key: account.account, class: stateOf(account),
  cells: [
    latest.accounts.length > 1
      ? make("a", { href: "?account=" + encodeURIComponent(account.account) }, account.account) : account.account,
    health(account), lastPoll(account), cost(account), nextPoll(account), recent(account.window),
  ],
});

function health(account) {
  const text = { unknown: "… not polled yet", up: "✔ up", down: `✖ down: ${account.reason}` }[stateOf(account)];
  return [
    make("span", { class: "health" }, text),
    stateOf(account) === "down" && [small(account.error), small("for ", since(account.down_since_timestamp_seconds))],
  ];
}

function lastPoll(account) {
  const polled = account.last_poll_timestamp_seconds, success = account.last_successful_poll_timestamp_seconds;
  if (polled === null) return "-";
  return [
    since(polled), " ago", small(`took ${span(account.poll_duration_seconds)}`),
    !account.up && small(success === null ? "none succeeded yet" : ["last success ", since(success), " ago"]),
  ];
}

const cost = account => [
  account.poll_requests === null ? "-" : plural(account.poll_requests, "request"),
  small(`${count(account.requests_last_minute)} of ${count(account.requests_per_minute)} in the last minute`),
  account.invalid_batches > 0 && warning(`records that can't be read as a whole: ${count(account.invalid_batches)} since the start`),
  account.repaired_batches > 0 && small(`records with an inferred count: ${count(account.repaired_batches)} since the start`),
];

function nextPoll(account) {
  const next = account.next_poll_timestamp_seconds, paused = account.paused_until_timestamp_seconds;
  return [
    account.polling ? "polling now" : next === null ? "-"
      : stamp(next, next <= now ? "due" : `in ${span(Math.ceil(next - now))}`),
    small(make("span", { class: "whole" }, `every ${span(account.poll_interval_seconds)}`)),
    paused > now && warning(`the API asked to pause until ${clock(paused)}`),
  ];
}

function recent(window) {
  if (!window) return "-";
  const statuses = Object.entries(window.batches_by_status).filter(([, n]) => n).sort(([, a], [, b]) => b - a);
  const age = window.age_seconds + now - latest.timestamp_seconds;
  return [
    `${count(window.batches)} in ${span(window.lookback_seconds)}`,
    small(statuses.map(([name, n]) => `${count(n)} ${words(name)}`).join(", ")),
    window.stale && warning(`stale: as of ${span(Math.floor(age))} ago, withdrawn from the metrics`),
    window.truncated && warning(`older ones are cut off: max_batches is ${count(window.max_batches)}`),
    !window.newest_first && warning("the API does not list newest first: polls read all"),
  ];
}

function destinationRow(destination) {
  const parts = ["failed", "in_progress", "completed"];
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, parts.filter(part => destination[part]).map(part => {
    const share = make("i", { class: part });
    share.style.flex = `${destination[part]} 0 0`;
    return share;
  }));
  return {
    key: JSON.stringify([destination.account, destination.destination]), class: "", numbers: 3,
    cells: [
      destination.destination, owner(destination.account), bar,
      ...parts.map(part => number(destination[part], part)), count(destination.documents),
    ],
  };
}

function batchRow(batch) {
  const changed = batch.last_change_timestamp_seconds;
  return {
    key: JSON.stringify([batch.account, batch.id]), class: "",
    cells: [
      make("span", {}, batch.name || "(no name)", make("br", {}), make("code", {}, batch.id)),
      owner(batch.account),
      since(batch.created_timestamp_seconds),
      [words(batch.status), changed !== null && small("unchanged for ", since(changed))],
      batch.destinations.length ? make("ul", {}, destinationLines(batch.destinations)) : "no destinations",
    ],
  };
}

function destinationLines(destinations) {
  const open = destinations.filter(d => d.failed || d.in_progress), others = destinations.length - open.length;
  const part = (n, kind) => n > 0 && make("span", { class: kind }, `${count(n)} ${words(kind)}`);
  return [
    ...open.map(d => make("li", {}, `${d.destination}: `, part(d.failed, "failed"), d.failed && d.in_progress && ", ",
      part(d.in_progress, "in_progress"), ` of ${count(d.documents)}`)),
    others > 0 && make("li", { class: "faint" },
      open.length > 0 && `${plural(others, "other")}: `, "nothing failed or in progress"),
  ];
}

// This and `set` touch only what differs, so that what is selected or has the focus stays.
function setTable(id, items, makeRow, beyond = 0) {
  const section = $(id), body = section.querySelector("tbody"), button = section.querySelector("button");
  const labels = Array.from(section.querySelectorAll("thead th"), th => th.textContent);
  const rows = items.slice(0, shown[id] ?? FEW).map(makeRow);
  const keys = new Set(rows.map(row => row.key)), lines = new Map();
  for (const line of [...body.rows]) keys.has(line.dataset.key) ? lines.set(line.dataset.key, line) : line.remove();
  rows.forEach((row, i) => {
    const line = lines.get(row.key) ?? make("tr", { "data-key": row.key });
    if (body.rows[i] !== line) body.insertBefore(line, body.rows[i] ?? null);
    if (line.className !== row.class) line.className = row.class;
    row.cells.forEach((content, j) => {
      const cell = make(j ? "td" : "th", { "data-label": labels[j] }, make("div", {}, content));
      if (!j) cell.setAttribute("scope", "row");
      if (j >= row.numbers) cell.className = "number";
      if (!line.cells[j]) line.append(cell);
      else if (!line.cells[j].isEqualNode(cell)) line.cells[j].replaceWith(cell);
    });
  });
  const hidden = items.length - rows.length;
  const label = (hidden ? `Show ${count(Math.min(hidden, STEP))} more of ${count(items.length)}` : "Show fewer")
    + (beyond ? ` (${count(beyond)} are not listed)` : "");
  if (button.textContent !== label) button.textContent = label;
  button.hidden = items.length <= FEW;
  button.onclick = () => { shown[id] = hidden ? rows.length + STEP : FEW; draw(); };
  section.hidden = !items.length;
}

function set(id, ...content) {
  const next = fill($(id).cloneNode(false), ...content);
  if (!$(id).isEqualNode(next)) $(id).replaceChildren(...next.childNodes);
}

function verdict(accounts, failing, destinations) {
  const all = accounts.length, worst = destinations[0];
  const amount = condition => accounts.filter(condition).length;
  const down = amount(a => a.up === false), unknown = amount(a => a.up === null), stale = amount(isStale);
  const accountsThat = (n, one, several) => all === 1 ? `The account ${one}`
    : `${count(n)} of ${plural(all, "account")} ${n === 1 ? one : several}`;
  if (!all) return ["unknown", `No account${location.search ? " of that name" : ""} is polled here`];
  if (down) return ["down", `${accountsThat(down, "is", "are")} down${stale ? "; numbers are stale" : ""}`];
  if (unknown) return ["unknown", `${accountsThat(unknown, "has", "have")} not been polled yet`];
  if (stale) return ["unknown", "Numbers are stale: polls take too long"];
  if (failing) return ["unknown", `${plural(failing, "batch")} ${failing === 1 ? "is" : "are"} failing`
    + (worst?.failed ? `; most documents failed at ${worst.destination}` : "")];
  return ["up", `${all === 1 ? "The account is" : `All ${count(all)} accounts are`} polled without errors`];
}

function draw() {
  const unseen = (Date.now() - received) / 1000;
  now = latest.timestamp_seconds + (problem ? 0 : unseen);
  const { accounts, failing_batches: failing, unfinished_batches: unfinished } = latest;
  const destinations = accounts.flatMap(a => (a.window?.destinations ?? []).map(d => ({ account: a.account, ...d })))
    .sort((a, b) => b.failed - a.failed || b.in_progress - a.in_progress);
  const [state, text] = verdict(accounts, failing.total, destinations);

  document.title = `${problem ? "Unreachable: " : state === "down" ? `${text}: ` : ""}Inkit exporter`;
  set("clock", `As of ${clock(latest.timestamp_seconds)}`);
  set("lost", problem && `The exporter does not answer (${problem}). What is shown here is as of `
    + `${clock(latest.timestamp_seconds)}, ${span(Math.floor(unseen))} ago.`);
  $("lost").hidden = !problem;
  $("main").className = `${problem && "stale"} ${accounts.length === 1 ? "single" : ""}`;
  $("verdict").className = `verdict ${state}`;
  set("verdict", text);
  $("all").hidden = !location.search;
  setSums(destinations);
  setTable("accounts", accounts, accountRow);
  setTable("destinations", destinations, destinationRow);
  setTable("failing", failing.listed, batchRow, failing.total - failing.listed.length);
  setTable("unfinished", unfinished.listed, batchRow, unfinished.total - unfinished.listed.length);
  $("main").hidden = false;
}

function setSums(destinations) {
  const { accounts, failing_batches: failing, unfinished_batches: unfinished } = latest;
  const sum = part => destinations.reduce((total, destination) => total + destination[part], 0);
  const note = (batch, before, after) =>
    batch && [" ", small(before, span(Math.floor(now - batch.created_timestamp_seconds)), after)];
  set("failing-sum", number(failing.total, "failed"), note(failing.listed[0], "latest ", " ago"));
  set("unfinished-sum", count(unfinished.total), note(unfinished.listed[0], "oldest "));
  set("failed-sum", number(sum("failed"), "failed"));
  set("in-progress-sum", count(sum("in_progress")));
  $("sums").hidden = !accounts.some(account => account.window);
}

async function load() {
  try {
    const answer = await fetch(SOURCE, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    [latest, received, problem] = [await answer.json(), Date.now(), ""];
  } catch (error) {
    problem = { TimeoutError: "no answer in time", TypeError: "no connection" }[error.name] ?? error.message;
  }
  draw();
}

async function follow() {
  for (;;) {
    await new Promise(resolve => setTimeout(resolve, POLL_MS));
    if (!document.hidden) await load();
  }
}

document.addEventListener("visibilitychange", () => document.hidden || load());
setInterval(() => document.hidden || draw(), 1000);
draw();
follow();
