"use strict";
// How the page writes numbers and times, and makes elements. Whatever comes from outside becomes a text node or an
// attribute's value here, never markup.
// page.py joins elements.js, rows.js and page.js to one script, in this order: each uses names of the others.

const RUNBOOKS = "https://github.com/inkit-exporter/inkit-exporter/blob/main/docs/runbooks.md#";

const $ = id => document.getElementById(id);

let now = 0;  // by the exporter's clock; it stands still while the exporter does not answer

const count = n => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("ch") ? "es" : "s"}`;
const words = name => name.replaceAll("_", " ");
const sum = (items, part) => items.reduce((total, item) => total + item[part], 0);
const keyOf = (account, name) => JSON.stringify([account, name]);

function percent(part, whole) {
  const n = 100 * part / whole;
  if (n > 0 && n < 0.1) return "under 0.1%";
  return `${n < 10 && n % 1 ? n.toFixed(1) : Math.min(Math.round(n), part < whole ? 99 : 100)}%`;
}

// Times are in the reader's time zone, and name it.
function clock(seconds, second) {
  const time = new Date(seconds * 1000), today = time.toDateString() === new Date(now * 1000).toDateString();
  return time.toLocaleString("en-GB", {
    hour: "2-digit", minute: "2-digit", second, timeZoneName: "short", ...!today && { day: "numeric", month: "short" },
  });
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
const warning = (...children) => make("small", { class: "warn" }, ...children);
const number = (n, kind) => n ? make("span", { class: kind || "some" }, count(n)) : "0";
const stamp = (seconds, text) => make("time", {
  datetime: new Date(seconds * 1000).toISOString(), title: new Date(seconds * 1000).toISOString(),
}, text);
const since = seconds => stamp(seconds, span(Math.floor(now - seconds)));
const at = (seconds, second) => stamp(seconds, clock(seconds, second));
const runbook = alert => make("a", { href: RUNBOOKS + alert.toLowerCase() }, `Runbook ${alert}`);

// This page with another parameter, or without one.
function address(name, value) {
  const next = new URLSearchParams(location.search);
  value === null ? next.delete(name) : next.set(name, value);
  return next.size ? `?${next}` : "./";
}

const choose = (name, value) => make("a", { href: address(name, value), title: `Only ${name} ${value}` }, value);

// Makes `old` like `next`, and touches only what differs: what is selected or has the focus stays.
function patch(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeName !== next.nodeName) return old.replaceWith(next);
  if (old.nodeType === Node.TEXT_NODE) return void (old.data = next.data);
  for (const { name } of [...old.attributes]) next.hasAttribute(name) || old.removeAttribute(name);
  for (const { name, value } of next.attributes) {
    if (name === "style") old.style.cssText = value;  // the Content-Security-Policy forbids to set the attribute
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = [...old.childNodes], after = [...next.childNodes];
  after.forEach((child, i) => before[i] ? patch(before[i], child) : old.append(child));
  before.slice(after.length).forEach(child => child.remove());
}

