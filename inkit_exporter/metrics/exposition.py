"""The text of all metrics. Only what has changed is rendered again, by the client library.

Each account is rendered in one step, so that all its numbers are from the same moment. Its text is kept until the
account changes. The metrics of the process always change, so they are rendered at most once a second.
"""

import asyncio
import re
import zlib
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Final, NamedTuple, Protocol

from prometheus_client import Metric, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

_NOT_WANTED = re.compile(r"(?i)q=0(\.0*)?")
_LINE = re.compile(rb".*\n")
_FIRST_SAMPLE = re.compile(rb"^(?!#)", re.MULTILINE)
# About 60 samples, or half a millisecond.
_LONG_BYTES = 5_000

COMPRESSORS: Final = ThreadPoolExecutor(1, "compress")
"""A thread of its own: DNS look-ups that hang may take all of asyncio's."""

_compress = partial(zlib.compress, level=6, wbits=16 + zlib.MAX_WBITS)


class Format(NamedTuple):
    """One of the text formats: its media type, the library's function for it, and the line that ends it."""

    content_type: str
    encode: Callable[[Collector], bytes]
    end: bytes


TEXT: Final = Format("text/plain; version=0.0.4; charset=utf-8", exposition.generate_latest, b"")
OPENMETRICS: Final = Format(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n")


@lru_cache(maxsize=64)
def negotiate(accept: str) -> Format:
    """The first known format and version in an Accept header, or else the text format.

    A format with the weight `q=0` is not wanted (RFC 9110, 12.4.2).
    """
    for media_range in accept.split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        versions = [value.strip('" ') for name, _, value in (p.partition("=") for p in parameters) if name == "version"]
        if any(_NOT_WANTED.fullmatch(parameter) for parameter in parameters):
            continue
        if media_type == "application/openmetrics-text" and set(versions) <= {"0.0.1", "1.0.0"}:
            return OPENMETRICS
        if media_type == "text/plain" and set(versions) <= {"0.0.4"}:
            return TEXT
    return TEXT


class Source(Collector, Protocol):
    """Metrics that stay the same as long as `version` does."""

    def version(self) -> Hashable:
        """A value that changes whenever the metrics do."""


class Exposition:
    """The text of all metrics.

    The accounts come first, in the given order. `changes` must change whenever an account is published. `process`
    changes every second, and then changes caused by time alone show too. It shares no family with the accounts.
    """

    def __init__(
        self, accounts: Callable[[], Mapping[str, Source]], changes: Callable[[], Hashable], process: Source
    ) -> None:
        self._accounts = accounts
        self._changes = changes
        self._process = process
        self._latest: dict[Format, _Latest] = {}
        self._rendering = asyncio.Lock()
        self._renderings = 0

    async def text(self, form: Format) -> bytes:
        """All metrics as they are now."""
        return (await self._now(form)).text

    async def gzipped(self, form: Format) -> bytes:
        """All metrics as they are now, compressed."""
        latest = await self._now(form)
        if latest.compressing is None:
            latest.compressing = asyncio.get_running_loop().run_in_executor(COMPRESSORS, _compress, latest.text)
        # Others wait for it too, whatever becomes of this request.
        return await asyncio.shield(latest.compressing)

    async def selected(self, form: Format, names: Iterable[str]) -> bytes:
        """Only the samples of these names, for `name[]`."""
        wanted = {name.encode() for name in names}
        chosen: list[_Rendering] = []
        for _, rendering in (await self._now(form)).renderings.values():
            found = {header: _select(samples, wanted) for header, samples in rendering.items()}
            chosen.append({header: samples for header, samples in found.items() if samples})
            await asyncio.sleep(0)
        return _join(chosen) + form.end

    async def _now(self, form: Format) -> "_Latest":
        before = self._renderings
        async with self._rendering:
            latest = self._latest.get(form)
            if latest and latest.number > before:  # it began after this request came
                return latest
            version = self._changes(), self._process.version()
            if latest is None or latest.version != version:
                self._renderings = number = self._renderings + 1
                renderings = {}
                for name, source in {**self._accounts(), "": self._process}.items():
                    current = source.version()
                    kept, rendering = latest.renderings.get(name, (None, {})) if latest else (None, {})
                    renderings[name] = current, rendering if kept == current else await _render(source, form)
                text = _join(rendering for _, rendering in renderings.values()) + form.end
                latest = self._latest[form] = _Latest(number, version, renderings, text)
            return latest


_Rendering = Mapping[bytes, bytes]
"""The lines of each family's samples by the comment lines before them."""


@dataclass
class _Latest:
    """The whole text until something changes, and the version and text of each account. The process has no name.

    A text has a higher number than all whose rendering began before.
    """

    number: int
    version: Hashable
    renderings: Mapping[str, tuple[Hashable, _Rendering]]
    text: bytes
    compressing: asyncio.Future[bytes] | None = None


class _Collected(NamedTuple):
    """A collector that returns one family, which was collected before."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return [self.family]


async def _render(source: Source, form: Format) -> _Rendering:
    """Render all families as they are at the call. Other tasks run after each long family, and at the end."""
    rendering = {}
    for family in list(source.collect()):
        text = form.encode(_Collected(family)).removesuffix(form.end)
        header, samples = _FIRST_SAMPLE.split(text, 1)
        rendering[header] = samples
        if len(text) > _LONG_BYTES:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    return rendering


def _select(samples: bytes, names: Collection[bytes]) -> bytes:
    """The lines of samples of these names."""
    return b"".join(line for line in _LINE.findall(samples) if line.partition(b"{")[0].partition(b" ")[0] in names)


def _join(renderings: Iterable[_Rendering]) -> bytes:
    families: dict[bytes, list[bytes]] = {}
    for rendering in renderings:
        for header, samples in rendering.items():
            families.setdefault(header, [header]).append(samples)
    return b"".join(chain.from_iterable(families.values()))
