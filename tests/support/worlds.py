"""Worlds in which promtool evaluates the rules: exporters as they are scraped, simulated poll by poll.

Times are in seconds from the start of a world unless a name says minutes.
"""

import json
import math
import os
import re
import subprocess
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86_400
REASONS = ("auth", "timeout", "server_error")
_POLL_SECONDS = 2

Series = dict[str, list[float | None]]
"""A value for each scrape, None where there is none, by selector."""


@dataclass(frozen=True)
class Failing:
    """Documents fail between these times: this share of each batch."""

    begin: float
    end: float
    share: float = 1.0


@dataclass(frozen=True)
class Flow:
    """Documents for one destination, in equal batches spread over those hours of each day that have traffic."""

    destination: str
    documents_a_day: int
    batch: int = 1
    failing: Sequence[Failing] = ()
    hours: tuple[int, int] = (0, 24)
    days: tuple[int, ...] = tuple(range(7))

    def batches(self, until: float) -> Iterator[tuple[float, int]]:
        """When each batch ends, and how many of its documents fail."""
        every = (self.hours[1] - self.hours[0]) * HOUR * self.batch / self.documents_a_day
        for day in range(int(until // DAY) + 1):
            if day % 7 in self.days:
                for number in range(self.documents_a_day // self.batch):
                    at = day * DAY + self.hours[0] * HOUR + (number + 0.5) * every
                    shares = [failing.share for failing in self.failing if failing.begin <= at < failing.end]
                    yield at, round(self.batch * max(shares, default=0))


@dataclass(frozen=True)
class Start:
    """An exporter starts: where, and whether its totals go on. It is away from `stopped` on, if that is given."""

    at: float = 0
    instance: str = "exporter:10465"
    kept: bool = False
    stopped: float | None = None


Outcome = tuple[str, float]
"""How a poll ends: `ok` or a reason, and after how many seconds."""


def succeeds(_at: float) -> Outcome:
    """Every poll does."""
    return "ok", _POLL_SECONDS


def fails(begin: float, end: float, *reasons: str, seconds: float = _POLL_SECONDS) -> Callable[[float], Outcome]:
    """Polls of that time fail, for these reasons by turns."""

    def outcome(at: float) -> Outcome:
        return (reasons[int((at - begin) // 60) % len(reasons)], seconds) if begin <= at < end else succeeds(at)

    return outcome


@dataclass(frozen=True)
class Exporter:
    """One exporter of one account."""

    account: str = "production"
    labels: str = ""
    interval: float = 60
    clock: float = 0
    """How far its clock is ahead."""
    polls: Callable[[float], Outcome] = succeeds
    flows: Sequence[Flow] = ()
    starts: Sequence[Start] = (Start(),)
    gauges: Mapping[str, Callable[[float], float | None]] = field(default_factory=dict)
    """Further series of the account: by name, or name and labels."""
    of_process: Mapping[str, Callable[[float], float | None]] = field(default_factory=dict)
    """Further series of the exporter."""

    def series(self, scrape: float, until: float) -> Series:
        """What Prometheus gets of it."""
        found: Series = {}
        scrapes = int(until // scrape) + 1
        totals: dict[tuple[str, str], float] = defaultdict(float)
        events = [(at, failed, flow) for flow in self.flows for at, failed in flow.batches(until)]
        events.sort(key=lambda event: event[0])
        seen = 0
        for number, start in enumerate(self.starts):
            later = self.starts[number + 1].at if number + 1 < len(self.starts) else until + 1
            stopped = min(later, start.stopped if start.stopped is not None else math.inf)
            if not start.kept:
                totals.clear()
            state: dict[str, float] = {"inkit_polls_total": 0, "inkit_poll_interval_seconds": self.interval}
            state |= {f'inkit_poll_failures_total{{reason="{reason}"}}': 0 for reason in REASONS}
            state |= _totals(self.flows, totals)
            history = [(start.at, dict(state))]
            at, first = start.at + 1, not start.kept
            while at < stopped:
                outcome, seconds = self.polls(at)
                ended = at + seconds
                state["inkit_polls_total"] += 1
                state["inkit_up"] = int(outcome == "ok")
                state["inkit_poll_duration_seconds"] = seconds
                if outcome == "ok":
                    state["inkit_last_successful_poll_timestamp_seconds"] = ended + self.clock
                    while seen < len(events) and events[seen][0] <= ended:
                        _, failed, flow = events[seen]
                        seen += 1
                        if not first:
                            totals["completed", flow.destination] += flow.batch - failed
                            totals["failed", flow.destination] += failed
                            totals["batches", flow.destination] += failed > 0
                    first = False
                    state |= _totals(self.flows, totals)
                else:
                    state[f'inkit_poll_failures_total{{reason="{outcome}"}}'] += 1
                history.append((ended, dict(state)))
                at += self.interval * max(1, -(-seconds // self.interval))
            for scraped in range(-int(-start.at // scrape), scrapes):
                if scraped * scrape >= stopped:
                    break
                _, state = history[bisect_right(history, scraped * scrape, key=itemgetter(0)) - 1]
                for selector, value in self._scraped(start.instance, scraped * scrape, state):
                    found.setdefault(selector, [None] * scrapes)[scraped] = value
        return found

    def _scraped(self, instance: str, at: float, state: Mapping[str, float]) -> Iterator[tuple[str, float | None]]:
        target = f'job="inkit", instance="{instance}"' + (f", {self.labels}" if self.labels else "")
        account = f'{target}, account="{self.account}"'
        yield f"up{{{target}}}", 1
        for name, value in state.items():
            yield _selector(name, account), value
        for name, gauge in self.gauges.items():
            yield _selector(name, account), gauge(at)
        for name, gauge in self.of_process.items():
            yield _selector(name, target), gauge(at)


def _selector(name: str, labels: str) -> str:
    """The name of a series, which may have labels of its own, with those of its target."""
    name, _, own = name.partition("{")
    return f"{name}{{{labels}{', ' + own if own else '}'}"


def _totals(flows: Iterable[Flow], totals: Mapping[tuple[str, str], float]) -> dict[str, float]:
    names = {"completed": "documents_completed", "failed": "documents_failed", "batches": "batches_with_failures"}
    return {
        f'inkit_{name}_total{{destination="{flow.destination}"}}': totals.get((kind, flow.destination), 0.0)
        for flow in flows
        for kind, name in names.items()
    }


@dataclass(frozen=True)
class Fires:
    """An alert fires between these minutes, the second excluded."""

    alert: str
    begin: int
    end: int
    account: str | None = None
    """None is for any account."""


@dataclass(frozen=True)
class World:
    """Exporters for some minutes, and all alerts that fire meanwhile."""

    name: str
    minutes: int
    exporters: Sequence[Exporter] = ()
    fires: Sequence[Fires] = ()
    scrape: float = 60
    step: int = 1
    """Minutes between evaluations of the rules."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further series, in promtool's notation."""

    def __str__(self) -> str:
        return self.name

    def test(self, *places: str) -> dict[str, Any]:
        """The world as a test of promtool's; or copies of it, each with some more labels on all series."""
        series: Series = {}
        for exporter in self.exporters:
            series |= exporter.series(self.scrape, self.minutes * 60)
        values = {selector: notation(each) for selector, each in series.items()} | dict(self.more)
        inputs = [
            {"series": selector.replace("{", f"{{{place}, " if place else "{"), "values": text}
            for place in places or ("",)
            for selector, text in values.items()
        ]
        return {"name": self.name, "interval": f"{int(self.scrape)}s", "input_series": inputs}

    def expectations(self, by: str, selector: str = "", copies: Sequence[str] = ("",)) -> list[dict[str, Any]]:
        """At each time at which an alert begins or ends, and just before, all that fire; and how often each did.

        They are counted `by` these labels, in each of the copies, which are named by their labels.
        """
        firing = f'ALERTS{{alertstate="firing"{selector}}}'
        times = {0, self.minutes}
        for one in self.fires:
            times |= {one.begin - self.step, one.begin, one.end - self.step, min(one.end, self.minutes)}
        checks = []
        for time in sorted(times):
            now = [one for one in self.fires if one.begin <= time < one.end]
            checks.append(_check(f"count by ({by}) ({firing})", time, now, copies))
        evaluations = [one for one in self.fires for _ in range(one.begin, min(one.end, self.minutes + 1), self.step)]
        total = f"sum by ({by}) (count_over_time({firing}[{self.minutes + 1}m]))"
        return [*checks, _check(total, self.minutes, evaluations, copies)]

    def ever(self) -> dict[str, Any]:
        """Which alerts fire at any time, which is the same in all versions of Prometheus."""
        firing = 'ALERTS{alertstate="firing", alertname!="InkitExporterMissing"}'
        expression = f"group by (alertname) (count_over_time({firing}[{self.minutes + 1}m]))"
        once = {one.alert: one for one in self.fires if one.alert != "InkitExporterMissing"}
        return _check(expression, self.minutes, list(once.values()), ("",))


def _check(expression: str, minutes: int, fires: Sequence[Fires], copies: Sequence[str]) -> dict[str, Any]:
    found = Counter(
        f'{{alertname="{one.alert}"' + (f', account="{one.account}"' if one.account else "") for one in fires
    )
    samples = [
        {"labels": labels + (f", {copy}}}" if copy else "}"), "value": number}
        for labels, number in found.items()
        for copy in copies
    ]
    return {"expr": expression, "eval_time": f"{minutes}m", "exp_samples": samples}


def notation(values: Sequence[float | None]) -> str:
    """Values as promtool reads them: equal ones, and equal steps, written as one."""
    parts, place = [], 0
    while place < len(values):
        value = values[place]
        if value is None:
            count = sum(1 for _ in next(group for _, group in groupby(values[place:])))
            parts.append(f"_x{count}" if count > 1 else "_")
            place += count
            continue
        following = values[place + 1] if place + 1 < len(values) else None
        if following is None:
            parts.append(f"{value:.15g}")
            place += 1
            continue
        step, count = following - value, 1
        while place + count + 1 < len(values):
            here, there = values[place + count], values[place + count + 1]
            if here is None or there is None or there - here != step:
                break
            count += 1
        parts.append(f"{value:.15g}{step:+.15g}x{count}")
        place += count + 1
    return " ".join(parts)


def promtool(folder: Path, rules: str, tests: Sequence[Mapping[str, Any]], step: int = 1) -> str:
    """Let promtool run tests of these rules, evaluated each `step` minutes; returns what it found wrong, or nothing."""
    (folder / "rules.yml").write_text(rules)
    suite = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": f"{step}m",
        "group_eval_order": re.findall(r"^ *- name: (\w+)$", rules, flags=re.MULTILINE),
        "tests": tests,
    }
    (folder / "tests.yml").write_text(json.dumps(suite))
    env = os.environ | {"GOGC": "400"}  # collecting garbage less often saves a sixth of its time
    command = ["promtool", "test", "rules", "tests.yml"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert re.search(r"SUCCESS|FAILED", said), said
    return "" if done.returncode == 0 else said


def failed_expressions(said: str) -> set[str]:
    """The expressions of which promtool says that they are not as expected."""
    return {json.loads(text) for text in re.findall(r"^ +expr: (\".*\"), time: ", said, flags=re.MULTILINE)}
