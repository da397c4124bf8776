// What the page shows, and how it follows the exporter, with names from elements.js and rows.js.

// Without the user and password that the page's own address may have: fetch refuses them.
const SOURCE = location.origin + location.pathname.replace(/[^/]*$/, "api/v1/status");
const POLL_MS = 5000, TIMEOUT_MS = 10000;
// Rows of a table at first. Of destinations few, so that the failing batches are in sight.
const few = id => id === "destinations" || matchMedia("(max-width: 46rem)").matches ? 5 : 10;
const STEP = 50;  // rows more with each click
const MOST = 500;  // batches that can be asked for
// The share of failed documents that is more than usual, of at least so many, as the alert InkitDocumentsFailing has it.
const MANY = 0.05, ENOUGH = 50;
const TOO_FEW = 20;  // fewer finished documents tell nothing
const LARGE = { batches: 3, documents: 100 };  // failed: enough to wake somebody, as the alerts have it
const RECENT = 3600;  // seconds: a destination that has failed since is failing now
const SKEWED = 60;  // seconds, as the exporter's log warns

const query = new URLSearchParams(location.search);
if (!query.has("order")) query.set("order", "failed");
const only = query.getAll("destination");

let latest = JSON.parse($("report").textContent), received = Date.now(), problem = "";
let failing = new Set();  // destinations that fail now, by keyOf
const shown = {};  // rows of each table, where a click has changed them

const set = (id, ...content) => patch($(id), fill($(id).cloneNode(false), ...content));

const numeric = ({ numbers }, column) => column >= numbers && { class: "number" };

for (const [id, table] of Object.entries(TABLES)) {
  const heads = table.columns.map((name, j) =>
    make("th", { role: "columnheader", scope: "col", ...numeric(table, j) }, name));
  fill($(id).querySelector("table"),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, heads)), make("tbody", { role: "rowgroup" }));
}

function setTable(id, items, total = items.length) {
  const section = $(id), body = section.querySelector("tbody"), button = section.querySelector("button");
  const table = TABLES[id], rows = items.slice(0, shown[id] ?? few(id)).map(table.row);
  const keys = new Set(rows.map(row => row.key)), lines = new Map();
  for (const line of [...body.rows]) keys.has(line.dataset.key) ? lines.set(line.dataset.key, line) : line.remove();
  rows.forEach((row, i) => {
    const line = lines.get(row.key) ?? make("tr", { "data-key": row.key, role: "row" });
    if (body.rows[i] !== line) body.insertBefore(line, body.rows[i] ?? null);
    if (line.className !== row.class) line.className = row.class;
    row.cells.forEach((content, j) => {
      const role = j ? { role: "cell" } : { role: "rowheader", scope: "row" };
      const attributes = { "data-label": table.columns[j], ...role, ...numeric(table, j) };
      const cell = make(j ? "td" : "th", attributes, make("div", {}, content));
      line.cells[j] ? patch(line.cells[j], cell) : line.append(cell);
    });
  });
  const known = Math.max(items.length, Math.min(total, MOST)), hidden = known - rows.length, beyond = total - known;
  const label = (hidden ? `Show ${count(Math.min(hidden, STEP))} more of ${count(total)}` : "Show fewer")
    + (beyond && !hidden ? ` (${count(beyond)} are not listed)` : "");
  if (button.textContent !== label) button.textContent = label;
  button.hidden = known <= few(id);
  button.onclick = () => {
    shown[id] = hidden ? rows.length + STEP : few(id);
    if (Math.min(shown[id], known) <= items.length) return draw();
    query.set("limit", Math.min(MOST, shown[id]));
    load();
  };
  section.hidden = !items.length;
}

// What to know first: how it is, in words, and the alert whose runbook helps.
function verdict(accounts, destinations, batches) {
  const all = accounts.length, whole = accounts.find(account => account.window?.failing);
  const amountOf = condition => accounts.filter(condition).length;
  const down = amountOf(a => a.up === false), unknown = amountOf(a => a.up === null), stale = amountOf(isStale);
  const accountsThat = (n, one, several) => all === 1 ? `The account ${one}`
    : `${count(n)} of ${plural(all, "account")} ${n === 1 ? one : several}`;
  const [worst, ...others] = destinations.filter(d => d.failing), fails = worst && failure(worst, others.length, all > 1);
  const old = stale ? "; numbers are stale" : "";
  if (!all) return ["unknown", `No account${query.has("account") ? " of that name" : ""} is polled here`];
  if (down) {
    return ["down", `${accountsThat(down, "is", "are")} down${old}${fails ? `. ${fails}` : ""}`,
      alertFor(accounts.find(account => account.up === false))];
  }
  if (fails) return [isIncident(worst) ? "down" : "unknown", fails + old, alertOf(worst.failing)];
  if (unknown) return ["unknown", `${accountsThat(unknown, "has", "have")} not been polled yet`];
  if (stale) return ["unknown", "Numbers are stale: polls take too long", "InkitDataStale"];
  if (whole) {
    const text = `${all > 1 ? `Account ${whole.account}: ` : ""}${amount(whole.window.failing, "batch")}`;
    return isDown(whole.window.failing) ? ["down", text, "InkitAllBatchesFailing"] : ["unknown", text, "InkitBatchesFailing"];
  }
  const failed = sum(destinations, "failed"), finished = failed + sum(destinations, "completed");
  const usual = `${all === 1 ? "The account is" : `All ${count(all)} accounts are`} polled without errors`;
  if (!batches) return ["up", usual];
  if (!failed) return ["up", `${plural(batches, "batch")} failed as a whole; no destination is over the threshold`];
  const text = `${plural(batches, "batch")} ${batches === 1 ? "has" : "have"} failed documents `
    + `(${percent(failed, finished)} of ${count(finished)}); no destination is over the threshold`;
  return failed > MANY * finished && finished >= ENOUGH ? ["unknown", text, "InkitDocumentsFailing"] : ["up", text];
}

function failure(destination, others, naming) {
  const { destination: name, failing: run } = destination, account = naming ? ` (account ${destination.account})` : "";
  const what = !isRecent(destination) ? `${name}${account} failed when it was last used`
    : isDown(run) ? `Nothing arrives at ${name}${account}` : `${name}${account} fails`;
  return `${what}: ${amount(run, "document")}${others ? `; ${plural(others, "other destination")} too` : ""}`;
}

function draw() {
  const unseen = (Date.now() - received) / 1000;
  now = latest.timestamp_seconds + (problem ? 0 : unseen);
  const { accounts, failing_batches: failed, unfinished_batches: unfinished } = latest;
  const found = accounts.flatMap(a => (a.window?.destinations ?? []).map(d => ({ account: a.account, ...d })));
  const all_failed = sum(found, "failed");
  const rank = d => d.failing ? (isIncident(d) ? 1e12 : 1e6) + d.failing.failed : 0;
  const destinations = found.map(d => ({ ...d, all_failed })).sort((a, b) =>
    rank(b) - rank(a) || b.failed - a.failed || b.in_progress - a.in_progress);
  failing = new Set(found.filter(d => d.failing && isIncident(d)).map(d => keyOf(d.account, d.destination)));
  const [state, text, alert] = verdict(accounts, destinations, failed.total);

  document.title = `${problem ? "Unreachable: " : state === "down" ? `${text}: ` : ""}Inkit exporter`;
  set("clock", "As of ", at(latest.timestamp_seconds, "2-digit"));
  set("lost", problem && `The exporter does not answer (${problem}). What is shown here is as of `
    + `${clock(latest.timestamp_seconds, "2-digit")}, ${span(Math.floor(unseen))} ago.`);
  $("lost").hidden = !problem;
  $("main").className = `${problem && "stale"} ${accounts.length === 1 ? "single" : ""}`;
  $("verdict").className = `verdict ${state}`;
  set("verdict", text, alert && [" ", runbook(alert)]);
  setFilters();
  setSums(destinations, state === "down");
  setTable("accounts", accounts);
  set("storage", storageLine(latest.storage));
  setTable("destinations", destinations);
  set("order", [["failed", "most failed first"], ["newest", "newest first"]].map(([order, label], i) => [i > 0 && " · ",
    make("a", { href: address("order", order), ...query.get("order") === order && { "aria-current": "true" } }, label)]));
  setTable("failing", failed.listed.map(batch => ({ ...batch, all_failed })), failed.total);
  set("stuck", runbook("InkitBatchStuck"));
  setTable("unfinished", unfinished.listed, unfinished.total);
  $("main").hidden = false;
}

const storageLine = storage => storage && [
  "Storage: ", storage.healthy ? `healthy, ${(storage.size_bytes / 2 ** 20).toFixed(1)} MiB` : [
    make("strong", { class: "warn" }, `not healthy: ${storage.error}. A restart loses what happened since`),
    " ", runbook("InkitStorageUnhealthy"),
  ],
  storage.failures > 0 && `; ${plural(storage.failures, "failure")} since the start`,
];

function setFilters() {
  const filters = ["account", "destination"].filter(name => query.has(name));
  $("filters").hidden = !filters.length;
  set("filters", filters.map(name => [
    `Only ${name} `, make("strong", {}, query.getAll(name).join(", ")), " ",
    make("a", { href: address(name, null) }, `Show all ${name}s`), " ",
  ]));
}

function setSums(destinations, isFailing) {
  const { accounts, failing_batches: failed, unfinished_batches: unfinished } = latest;
  const newest = Math.max(...accounts.map(a => a.window?.newest_failing_batch_created_timestamp_seconds ?? 0));
  const note = (time, before, after) => time > 0 && [" ", small(before, span(Math.floor(now - time)), after)];
  set("failing-sum", number(failed.total, isFailing && "failed"), only.length === 0 && note(newest, "latest ", " ago"));
  set("unfinished-sum", count(unfinished.total), note(unfinished.listed[0]?.created_timestamp_seconds, "oldest "));
  set("failed-sum", number(sum(destinations, "failed"), isFailing && "failed"));
  set("in-progress-sum", count(sum(destinations, "in_progress")));
  $("sums").hidden = !accounts.some(account => account.window);
}

async function load() {
  try {
    const answer = await fetch(`${SOURCE}?${query}`, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
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
document.addEventListener("DOMContentLoaded", () => $("json").search = `?${query}`);
draw();
follow();
