// The tables, with names from elements.js and page.js. `row` makes a row: its key, its class, and its cells. Columns from `numbers` on are numbers.

const TABLES = {
  accounts: { columns: ["Account", "Health", "Last poll", "Cost", "Next poll", "Recent batches"], row: accountRow },
  destinations: {
    columns: ["Destination", "Account", "Now", "Failed of finished", "Failed", "In progress", "Completed", "Documents"],
    numbers: 4, row: destinationRow,
  },
  failing: { columns: ["Batch", "Account", "Created", "Status", "Failed", "Documents"], row: failingRow },
  unfinished: { columns: ["Batch", "Account", "Created", "Status", "Documents"], row: unfinishedRow },
};

const stateOf = account => account.up === null ? "unknown" : account.up ? "up" : "down";
const isStale = account => account.window?.stale;

const owner = name => [name, latest.accounts.some(a => a.account === name && isStale(a)) && warning("stale")];

function accountRow(account) {
  return {
    key: account.account, class: stateOf(account),
    cells: [
      latest.accounts.length > 1 ? choose("account", account.account) : account.account,
      health(account), lastPoll(account), cost(account), nextPoll(account), recent(account),
    ],
  };
}

function health(account) {
  const text = { unknown: "… not polled yet", up: "✔ up", down: `✖ down: ${account.reason}` }[stateOf(account)];
  const began = account.down_since_timestamp_seconds;
  return [
    make("span", { class: "health" }, text),
    stateOf(account) === "down" && [
      small(account.error), small("for ", since(began), ", since ", at(began)), small(runbook(alertFor(account))),
    ],
  ];
}

const alertFor = account => account.reason === "auth" ? "InkitKeyRejected" : "InkitApiFailing";

function lastPoll(account) {
  const polled = account.last_poll_timestamp_seconds, success = account.last_successful_poll_timestamp_seconds;
  if (polled === null) return "-";
  return [
    since(polled), " ago", small(`took ${span(account.poll_duration_seconds)}`),
    !account.up && small(success === null ? "none succeeded yet" : ["last success ", since(success), " ago, ", at(success)]),
  ];
}

const cost = account => [
  account.poll_requests === null ? "-" : plural(account.poll_requests, "request"),
  small(`${count(account.requests_last_minute)} of ${count(account.requests_per_minute)} in the last minute`),
];

function nextPoll(account) {
  const next = account.next_poll_timestamp_seconds, paused = account.paused_until_timestamp_seconds;
  return [
    account.progress ? progress(account) : account.polling ? "polling now" : next === null ? "-"
      : stamp(next, next <= now ? "due" : `in ${span(Math.ceil(next - now))}`),
    small(make("span", { class: "whole" }, `every ${span(account.poll_interval_seconds)}`)),
    paused > now && warning("the API asked to pause until ", at(paused, "2-digit")),
  ];
}

function progress({ progress: { page, of_pages: pages, seconds_left: left }, requests_per_minute: limit }) {
  const text = `page ${count(page)}` + (pages ? ` of about ${count(pages)}` : "")
    + (left === null ? "" : `, ${span(Math.ceil(left))} left at ${plural(limit, "request")} a minute`);
  return ["listing", make("progress", { "aria-label": "Listing", ...pages && { max: pages, value: page } }), small(text)];
}

function recent(account) {
  const { window, invalid_batches: invalid, repaired_batches: repaired, clock_skew_seconds: skew } = account;
  const statuses = Object.entries(window?.batches_by_status ?? {}).filter(([, n]) => n).sort(([, a], [, b]) => b - a);
  const age = window && window.age_seconds + now - latest.timestamp_seconds;
  return [
    window ? [
      `${count(window.batches)} in ${span(window.lookback_seconds)}`,
      small(statuses.map(([name, n]) => `${count(n)} ${words(name)}`).join(", ")),
      window.stale && warning(`stale: as of ${span(Math.floor(age))} ago, withdrawn from the metrics; `, runbook("InkitDataStale")),
      window.truncated && warning(`older ones are cut off: max_batches is ${count(window.max_batches)}; `,
        runbook("InkitWindowTruncated")),
      !window.newest_first && warning("the API does not list newest first: polls read all"),
      window.failing && small(make("span", { class: "failed" }, amount(window.failing, "batch"))),
    ] : "-",
    invalid > 0 && warning(`unreadable or partly unreadable records: ${count(invalid)} since the start; `,
      runbook("InkitInvalidRecords")),
    repaired > 0 && small(`records with an inferred count: ${count(repaired)} since the start; `,
      runbook("InkitRepairedRecords")),
    Math.abs(skew) >= SKEWED
      && warning(`this clock is ${span(Math.abs(skew))} ${skew > 0 ? "behind" : "ahead of"} the API's; `,
        runbook("InkitClockWrong")),
  ];
}

// Of a run of failures: "29 of 34 documents failed since 02:14 UTC".
const amount = (run, what) => `${count(run.failed)} of ${plural(run.finished, what)} failed since `
  + (run.maybe_earlier ? "at least " : "") + clock(run.since_timestamp_seconds);
const isDown = run => run.failed === run.finished;
// A run is an incident if it is large enough to wake somebody, and still goes on.
const isRecent = ({ failing: run, last_failed_timestamp_seconds: failed }) =>
  Math.max(run.newest_batch_created_timestamp_seconds, failed ?? 0) > now - RECENT;
const isIncident = destination => isRecent(destination) && (destination.failing.failed >= LARGE.documents
  || destination.failing.batches >= LARGE.batches);
const alertOf = run => isDown(run) ? "InkitDestinationDown" : "InkitDestinationFailing";

function destinationRow(destination) {
  const parts = ["failed", "in_progress", "completed"], { failed, completed, failing: run } = destination;
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, parts.filter(part => destination[part]).map(part => {
    const share = make("i", { class: part });
    share.style.flex = `${destination[part]} 0 0`;
    return share;
  }));
  return {
    key: keyOf(destination.account, destination.destination), class: !run ? "" : isIncident(destination) ? "down" : "unknown",
    cells: [
      choose("destination", destination.destination), owner(destination.account), condition(destination),
      [failed + completed ? percent(failed, failed + completed) : "-", bar],
      [number(failed, run && isIncident(destination) && "failed"), failed > 0 && small(`${percent(failed, destination.all_failed)} of all failed`)],
      number(destination.in_progress, "in_progress"), count(completed), count(destination.documents),
    ],
  };
}

function condition(destination) {
  const { failing: run, failed, completed } = destination, finished = failed + completed;
  const failure = destination.last_failed_timestamp_seconds, arrival = destination.last_completed_timestamp_seconds;
  return [
    run ? [
      make("span", { class: "health" }, !isRecent(destination) ? "✖ failed last" : isDown(run) ? "✖ nothing arrives" : "✖ failing"),
      small(amount(run, "document")),
      small("for ", since(run.since_timestamp_seconds), `, in ${plural(run.batches, "batch")}`),
      !isRecent(destination) && small("no batch since ", at(run.newest_batch_created_timestamp_seconds)),
      small(runbook(alertOf(run))),
    ] : !finished ? "nothing finished yet" : !failed ? "none failed" : finished < TOO_FEW ? "too few to tell" : "under the threshold",
    failure && small("last failure ", since(failure), " ago"),
    arrival && small("last arrival ", since(arrival), " ago"),
  ];
}

const batchCells = batch => [
  make("span", {}, batch.name || "(no name)", make("br", {}), make("code", {}, batch.id)),
  owner(batch.account),
  [since(batch.created_timestamp_seconds), small(at(batch.created_timestamp_seconds))],
];
const documentsOf = batch =>
  batch.destinations.length ? make("ul", {}, destinationLines(batch)) : "no destinations";

function failingRow(batch) {
  const failed = sum(batch.destinations.filter(d => !only.length || only.includes(d.destination)), "failed");
  return {
    key: keyOf(batch.account, batch.id), class: "",
    cells: [
      ...batchCells(batch), words(batch.status),
      [count(failed), failed > 0 && small(`${percent(failed, Math.max(failed, batch.all_failed))} of all failed`)],
      documentsOf(batch),
    ],
  };
}

function unfinishedRow(batch) {
  const changed = batch.last_change_timestamp_seconds;
  return {
    key: keyOf(batch.account, batch.id), class: "",
    cells: [
      ...batchCells(batch), [words(batch.status), changed !== null && small("unchanged for ", since(changed))],
      documentsOf(batch),
    ],
  };
}

function destinationLines({ account, destinations }) {
  const open = destinations.filter(d => d.failed || d.in_progress), others = destinations.length - open.length;
  const part = (n, kind, strong) => n > 0 && make("span", { class: strong ? kind : "some" }, `${count(n)} ${words(kind)}`);
  return [
    ...open.map(d => make("li", {}, `${d.destination}: `,
      part(d.failed, "failed", failing.has(keyOf(account, d.destination))), d.failed > 0 && d.in_progress > 0 && ", ",
      part(d.in_progress, "in_progress", true),
      ` of ${count(d.documents)}` + (d.failed && d.documents > 1 ? ` (${percent(d.failed, d.documents)} failed)` : ""))),
    others > 0 && make("li", { class: "faint" },
      open.length > 0 && `${plural(others, "other")}: `, "nothing failed or in progress"),
  ];
}

