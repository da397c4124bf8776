"""An API that deviates from its documentation in the way that a file of the catalogue describes."""

import asyncio
import base64
import copy
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from msgspec import UNSET

from inkit_exporter.demo import JsonBatch, format_time, page_of
from support.api import batch
from support.deviations import DEFAULT_PAGE_SIZE, Answer, Deviation, Documents, Without
from support.faulty import http
from support.spellings import ENCODINGS, filled_in, with_times

Answered = tuple[int, dict[str, str | None], bytes]
"""Status, headers and body."""


def make_batch(number: int, created: float) -> JsonBatch:
    """A documented batch of the base listing by its number. The newest is 0; 0, 2 and 4 are in progress."""
    running = number in (0, 2, 4)
    counts = {"inkit_storage": (2, 0, 0)}
    if number % 2 == 0:
        counts["salesforce"] = (1, 0, 2) if running else (2, 1, 0)
    if number % 3 == 0:
        counts["box"] = (1, 0, 0)
    status = "In Progress" if running else "Completed"
    return batch(f"fb_{number}", status=status, destinations=counts, total=3, created_at=format_time(created))


class Account:
    """One account at that API. The truth is in `batches`: documented, newest first."""

    def __init__(self, name: str, deviation: Deviation, now: float) -> None:
        self.name = name
        self.token = f"secret-{name}-token"
        self.deviation = deviation
        self.batches = [make_batch(i, now - 60 * (i + 1)) for i in range(deviation.batches)]
        self._now = now
        self.made = deviation.batches
        self._answers: dict[tuple[tuple[str, str], ...], Answered] = {}
        self._goes_on = False

    def base_url(self, port: int) -> str:
        """The account's base URL."""
        return f"http://127.0.0.1:{port}/{self.name}/v1"

    def add(self, created: float) -> None:
        """Add a new batch."""
        self.batches.insert(0, make_batch(6 * self.made, created))
        self.made += 1
        self._answers.clear()

    def change(self, batch_id: str, what: str) -> None:
        """Let a batch `finish`, `progress` or `vanish`. Does nothing if the batch does not exist."""
        for found in [found for found in self.batches if found["id"] == batch_id]:
            counts = found["destinations"]["salesforce"]
            if what == "finish":
                found["status"] = "Completed"
                counts |= {"completed": counts["count"] - 1, "failed": 1, "in_progress": 0}
            elif what == "progress" and counts["in_progress"]:
                counts |= {"completed": counts["completed"] + 1, "in_progress": counts["in_progress"] - 1}
            elif what == "vanish":
                self.batches.remove(found)
        self._answers.clear()

    def go_on(self) -> None:
        """Finish batch 0, progress 2, remove 4, and add a new one, when the next poll begins."""
        self._goes_on = True

    def _go_on(self) -> None:
        self._goes_on = False
        self.change("fb_0", "finish")
        self.change("fb_2", "progress")
        self.change("fb_4", "vanish")
        self.add(self._now + 1)

    def numbers(self) -> tuple[Documents, dict[str, int]]:
        """The right numbers for the current batches: documents, and batches by status; without zeros."""
        expect = self.deviation.expect
        if expect.documents is not None and expect.batches is not None:
            return expect.documents, expect.batches
        return sums(self.batches, set(expect.numbers.without) if isinstance(expect.numbers, Without) else set())

    def answer(self, query: Mapping[str, str]) -> Answered:
        """Answer a request for the list."""
        if self._goes_on and query.get("page") == "1":
            self._go_on()
        key = tuple(query.items())
        if key not in self._answers:
            self._answers[key] = self._make_answer(query)
        status, headers, body = self._answers[key]
        return status, {"Content-Type": "application/json"} | with_times(headers, time.time()), body

    def _make_answer(self, query: Mapping[str, str]) -> Answered:
        server = self.deviation.server
        for key, status in server.refuses.items():
            if key in query:
                return _problem(status, f"{key} is out of range: {query[key]}")
        number = 1 if "page" in server.ignores else int(query.get("page", "1"))
        size = DEFAULT_PAGE_SIZE if "page_size" in server.ignores else int(query.get("page_size", DEFAULT_PAGE_SIZE))
        size = server.page_size or size
        last = max(1, math.ceil(len(self.batches) / size))
        answers = self.deviation.answers
        if given := answers.get(number) or (answers.get("beyond") if number > last else None) or answers.get("all"):
            return self._given(given)
        if number > last:
            if isinstance(server.beyond, int):
                return _problem(server.beyond, "no such page")
            number = {"empty": number, "first": 1, "last": last}[server.beyond]
        page = copy.deepcopy(page_of(self._listed(query), number, size))
        for record in page["items"]:
            rank = int(record["id"].removeprefix("fb_"))
            for change in self.deviation.records:
                change.apply(record, rank)
        for change in self.deviation.page:
            change.apply(page, number)
        return self._encoded(_dump(page, self._now))

    def _listed(self, query: Mapping[str, str]) -> list[JsonBatch]:
        server = self.deviation.server
        order = server.order
        if "sort" in query and "sort" not in server.ignores:
            order = "newest" if query["sort"] == "-created_at" else "oldest"
        if order == "shuffled":
            return sorted(self.batches, key=lambda record: str(record["id"])[::-1])
        return self.batches if order == "newest" else self.batches[::-1]

    def _given(self, answer: Answer) -> Answered:
        if answer.json is not UNSET:
            body = _dump(answer.json, self._now)
        elif answer.base64:
            body = base64.b64decode(answer.base64)
        else:
            body = filled_in(answer.text, self._now).encode("utf-8", "surrogateescape")
        return answer.status, answer.headers, body

    def _encoded(self, body: bytes) -> Answered:
        server = self.deviation.server
        body = server.before.encode() + body + server.after.encode()
        for encoding in server.encode:
            body = ENCODINGS[encoding](body)
        return 200, server.headers, body


def sums(batches: list[JsonBatch], missing: set[str]) -> tuple[Documents, dict[str, int]]:
    """Documents and batches of a documented list, less what is missing; without zeros."""
    documents: Documents = {}
    statuses: dict[str, int] = {}
    for found in batches:
        number = found["id"].removeprefix("fb_")
        if number in missing:
            continue
        status = found["status"].lower().replace(" ", "_")
        statuses[status] = statuses.get(status, 0) + 1
        for name, counts in found["destinations"].items():
            if not {f"{number}.{name}", f"{number}.*"} & missing:
                row = documents.setdefault(name, {}).setdefault(status, [0, 0, 0, 0])
                for i, key in enumerate(("count", "completed", "failed", "in_progress")):
                    row[i] += counts[key]
    return documents, statuses


_REQUEST = re.compile(r"GET /([\w-]+)/v1(/\S*?)\?(\S*) HTTP/1\.1\r\n")


class DeviantApi:
    """Serves accounts, each below a path of its name. `strange` holds requests that the exporter must not make."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.accounts = accounts
        self.strange: list[str] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        while head := (await _read_head(reader)):
            status, headers, body = self._answer(head)
            writer.write(http(body, status, **headers))
            await writer.drain()

    def _answer(self, head: str) -> Answered:
        match = _REQUEST.match(head)
        account = self.accounts.get(match[1]) if match else None
        if not match or not account or f"X-Inkit-API-Token: {account.token}\r\n" not in head:
            self.strange.append(head)
            return _problem(401, "who is there?")
        if match[2] != account.deviation.path:
            self.strange.append(head)
            return _problem(404, "nothing here")
        return account.answer(dict(parse_qsl(match[3])))


async def _read_head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


def _problem(status: int, detail: str) -> Answered:
    return status, {}, json.dumps({"detail": detail}).encode()


def _dump(value: Any, now: float) -> bytes:
    """Encode as JSON. Text between `<<` and `>>` is inserted literally."""
    text = json.dumps(with_times(value, now), ensure_ascii=False)
    return re.sub(r'"<<(.*?)>>"', lambda match: match[1], text).encode("utf-8", "surrogateescape")
