"use strict";
// Whatever comes from outside becomes a text node or an attribute's value here, never markup.

// Without the user and password that the page's own address may have: fetch refuses them.
const SOURCE = location.origin + location.pathname.replace(/[^/]*$/, "api/v1/status") + location.search;
const EVERY = 5000, PATIENCE = 10000, FEW = matchMedia("(max-width: 46rem)").matches ? 5 : 10;
const STEP = 50, shown = {};
const $ = id => document.getElementById(id);
let latest = JSON.parse($("report").textContent), received = Date.now(), problem = "", now = 0;

const count = n => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("ch") ? "es" : "s"}`;
const clock = seconds => new Date(seconds * 1000).toLocaleTimeString("en-GB");

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter(child => child !== null));
  return element;
}

function span(seconds) {
  const s = Math.max(0, seconds);
  const pair = (n, a, m, b) => `${Math.floor(n)} ${a}` + (m >= 1 ? ` ${Math.floor(m)} ${b}` : "");
  if (s < 1 && s > 0) return `${Math.ceil(s * 1000)} ms`;
  if (s < 10 && s % 1) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? pair(s / 3600, "h", s % 3600 / 60, "min") : pair(s / 86400, "d", s % 86400 / 3600, "h");
}

const stamp = (seconds, text) => make("time", {
  datetime: new Date(seconds * 1000).toISOString(), title: new Date(seconds * 1000).toString(),
}, text);
const since = seconds => stamp(seconds, span(Math.floor(now - seconds)));
const small = (...children) => make("small", {}, ...children);
const warning = text => make("small", { class: "warn" }, text);
const owner = name => [name,
  latest.accounts.some(a => a.account === name && a.window?.stale) ? warning("stale") : null];

const health = account => account.up === null ? "unknown" : account.up ? "up" : "down";

function accountRow(account) {
  const name = latest.accounts.length > 1
    ? make("a", { href: "?account=" + encodeURIComponent(account.account) }, account.account) : account.account;
  const lasted = account.last_poll_timestamp_seconds, success = account.last_successful_poll_timestamp_seconds;
  return {
    key: account.account, class: health(account),
    cells: [
      [name],
      account.up === null ? [make("span", { class: "health" }, "… not polled yet")]
        : account.up ? [make("span", { class: "health" }, "✔ up")]
        : [make("span", { class: "health" }, `✖ down: ${account.reason}`), small(account.error),
          small("for ", since(account.down_since_timestamp_seconds))],
      lasted === null ? ["-"]
        : [since(lasted), " ago", small(`took ${span(account.poll_duration_seconds)}`),
          account.up ? null : small(...success === null ? ["none succeeded yet"] : ["last success ", since(success), " ago"])],
      [account.poll_requests === null ? "-" : plural(account.poll_requests, "request"),
        small(`${count(account.requests_last_minute)} of ${count(account.requests_per_minute)} in the last minute`)],
      nextPoll(account),
      account.window ? recent(account.window) : ["-"],
    ],
  };
}

function nextPoll(account) {
  const next = account.next_poll_timestamp_seconds, paused = account.paused_until_timestamp_seconds;
  return [
    account.polling ? "polling now" : next === null ? "-"
      : stamp(next, next <= now ? "due" : `in ${span(Math.ceil(next - now))}`),
    small(make("span", { class: "whole" }, `every ${span(account.poll_interval_seconds)}`)),
    paused === null || paused <= now ? null : warning(`the API asked to pause until ${clock(paused)}`),
  ];
}

function recent(window) {
  const statuses = Object.entries(window.batches_by_status).filter(([, n]) => n).sort(([, a], [, b]) => b - a);
  const age = window.age_seconds + now - latest.timestamp_seconds;
  return [
    `${count(window.batches)} in ${span(window.lookback_seconds)}`,
    small(statuses.map(([name, n]) => `${count(n)} ${name.replaceAll("_", " ")}`).join(", ")),
    window.stale ? warning(`stale: as of ${span(Math.floor(age))} ago, withdrawn from the metrics`) : null,
    window.truncated ? warning(`older ones are cut off: max_batches is ${count(window.max_batches)}`) : null,
    window.newest_first ? null : warning("the API does not list newest first: polls read all"),
  ];
}

function destinationRow([account, destination]) {
  const parts = ["failed", "in_progress", "completed"], bar = make("div", { class: "bar", "aria-hidden": "true" });
  for (const part of parts) {
    if (!destination[part]) continue;
    bar.append(make("i", { class: part }));
    bar.lastChild.style.flex = `${destination[part]} 0 0`;
  }
  const number = part => destination[part] ? make("span", { class: part }, count(destination[part])) : "0";
  return {
    key: JSON.stringify([account, destination.destination]), class: "", numbers: 3,
    cells: [[destination.destination], owner(account), [bar], ...parts.map(part => [number(part)]), [count(destination.documents)]],
  };
}

function batchRow(batch) {
  const changed = batch.last_change_timestamp_seconds;
  const open = batch.destinations.filter(d => d.failed || d.in_progress), rest = batch.destinations.length - open.length;
  const lines = open.map(d => make("li", {}, `${d.destination}: `,
    d.failed ? make("span", { class: "failed" }, `${count(d.failed)} failed`) : null,
    d.failed && d.in_progress ? ", " : null,
    d.in_progress ? make("span", { class: "in_progress" }, `${count(d.in_progress)} in progress`) : null,
    ` of ${count(d.documents)}`));
  if (rest) lines.push(make("li", { class: "faint" }, `${open.length ? `${plural(rest, "other")}: ` : ""}nothing failed or in progress`));
  return {
    key: JSON.stringify([batch.account, batch.id]), class: "",
    cells: [
      [make("span", {}, batch.name || "(no name)", make("br", {}), make("code", {}, batch.id))], owner(batch.account),
      [since(batch.created_timestamp_seconds)],
      [batch.status.replaceAll("_", " "), changed === null ? null : small("unchanged for ", since(changed))],
      [lines.length ? make("ul", {}, ...lines) : "no destinations"],
    ],
  };
}

// Touches only what differs, so that what is selected or has the focus stays.
function fill(id, items, makeRow, beyond = 0) {
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
      const cell = make(j ? "td" : "th", { "data-label": labels[j] }, make("div", {}, ...content.filter(part => part !== null)));
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
  const next = $(id).cloneNode(false);
  next.append(...content.filter(part => part !== null));
  if (!$(id).isEqualNode(next)) $(id).replaceChildren(...next.childNodes);
}

function verdict(accounts, failing, destinations) {
  const down = accounts.filter(a => a.up === false).length, unknown = accounts.filter(a => a.up === null).length;
  const stale = accounts.filter(a => a.window?.stale).length;
  const all = accounts.length, are = `of ${plural(all, "account")}`;
  if (!all) return ["unknown", location.search ? "No account of that name is polled here" : "No account is polled here"];
  if (down) return ["down", `${all === 1 ? "The account is" : `${count(down)} ${are} ${down === 1 ? "is" : "are"}`} down`
    + (stale ? "; numbers are stale" : "")];
  if (unknown) return ["unknown", `${all === 1 ? "The account has" : `${count(unknown)} ${are} ${unknown === 1 ? "has" : "have"}`} not been polled yet`];
  if (stale) return ["unknown", "Numbers are stale: polls take too long"];
  if (failing) return ["unknown", `${plural(failing, "batch")} ${failing === 1 ? "is" : "are"} failing`
    + (destinations[0]?.[1].failed ? `; most documents failed at ${destinations[0][1].destination}` : "")];
  return ["up", all === 1 ? "The account is polled without errors" : `All ${count(all)} accounts are polled without errors`];
}

function draw() {
  $("lost").hidden = !problem;
  $("main").classList.toggle("stale", Boolean(problem));
  const elapsed = (Date.now() - received) / 1000;
  now = latest.timestamp_seconds + (problem ? 0 : elapsed);
  if (problem) set("lost", `The exporter does not answer (${problem}). `
    + `What is shown here is as of ${clock(latest.timestamp_seconds)}, ${span(Math.floor(elapsed))} ago.`);
  const { failing_batches: failing, unfinished_batches: unfinished } = latest;
  const destinations = latest.accounts.flatMap(a => (a.window?.destinations ?? []).map(d => [a.account, d]));
  destinations.sort(([, a], [, b]) => b.failed - a.failed || b.in_progress - a.in_progress);
  const [state, text] = verdict(latest.accounts, failing.total, destinations);
  $("verdict").className = `verdict ${state}`;
  set("verdict", text);
  set("clock", `As of ${clock(latest.timestamp_seconds)}`);
  document.title = `${problem ? "Unreachable: " : state === "down" ? `${text}: ` : ""}Inkit exporter`;
  $("main").classList.toggle("single", latest.accounts.length === 1);
  $("all").hidden = !location.search;
  fill("accounts", latest.accounts, accountRow);
  fill("failing", failing.listed, batchRow, failing.total - failing.listed.length);
  fill("unfinished", unfinished.listed, batchRow, unfinished.total - unfinished.listed.length);
  fill("destinations", destinations, destinationRow);

  const sum = part => destinations.reduce((total, [, d]) => total + d[part], 0);
  const sums = (id, n, kind, note = null) => set(id, n && kind ? make("span", { class: kind }, count(n)) : count(n), note && " ", note && small(note));
  const [oldest] = unfinished.listed, [newest] = failing.listed;
  const age = batch => span(Math.floor(now - batch.created_timestamp_seconds));
  sums("failing-sum", failing.total, "failed", newest && `latest ${age(newest)} ago`);
  sums("unfinished-sum", unfinished.total, "", oldest && `oldest ${age(oldest)}`);
  sums("failed-sum", sum("failed"), "failed");
  sums("in-progress-sum", sum("in_progress"), "");
  $("sums").hidden = !latest.accounts.some(a => a.window);
  $("main").hidden = false;
}

async function load() {
  try {
    const answer = await fetch(SOURCE, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    [latest, received, problem] = [await answer.json(), Date.now(), ""];
  } catch (error) {
    problem = { TimeoutError: "no answer in time", TypeError: "no connection" }[error.name] ?? error.message;
  }
  draw();
}

async function follow() {
  for (;;) {
    await new Promise(resolve => setTimeout(resolve, EVERY));
    if (!document.hidden) await load();
  }
}

document.addEventListener("visibilitychange", () => document.hidden || load());
setInterval(() => document.hidden || draw(), 1000);
draw();
follow();
