"""What `/metrics` answers: rendered by the client library, and again only where something has changed since.

A scrape joins what is there: the text of each account, a family's lines together across the accounts, and after them
what describes the process, which changes all the time and is renewed at most once a second. Each account is rendered
in one go, so that its numbers are of one moment. Compressing follows the same seam: what comes first is compressed
once a change, and only the little after it once a second.
"""

import asyncio
import re
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

_HEADER = re.compile(rb"(?:# .*\n)*")
# About 100 samples, or 1 ms. A scrape has to wait for the others' turns as often.
_BYTES_A_TURN = 10_000
_GZIP = 16 + zlib.MAX_WBITS

COMPRESSORS: Final = ThreadPoolExecutor(1, "compress")
"""Not asyncio's own threads: look-ups of names that hang may take them all."""


class Format(NamedTuple):
    """One of the text formats: its media type, the library's function for it, and the line that ends it."""

    content_type: str
    encode: Callable[[Collector], bytes]
    end: bytes


TEXT: Final = Format("text/plain; version=0.0.4; charset=utf-8", exposition.generate_latest, b"")
OPENMETRICS: Final = Format(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n")


@lru_cache(maxsize=64)
def negotiate(accept: str) -> Format:
    """The first of the two formats that an Accept header names in a version we speak; the text format otherwise."""
    for media_range in accept.split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        versions = [value.strip('" ') for name, _, value in (p.partition("=") for p in parameters) if name == "version"]
        if media_type == "application/openmetrics-text" and set(versions) <= {"0.0.1", "1.0.0"}:
            return OPENMETRICS
        if media_type == "text/plain" and set(versions) <= {"0.0.4"}:
            return TEXT
    return TEXT


class Source(Protocol):
    """Metrics of one origin. While `version` stays equal, so do they."""

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics."""

    def version(self) -> Hashable:
        """Changes whenever they do."""


class Exposition:
    """The text of all metrics.

    Args:
        accounts: the sources that change with polls, in the order in which they are to be listed.
        changes: another value whenever one of those has changed at once. What changes with time is seen with `process`.
        process: the source that changes every second; its families are none of the accounts'.
    """

    def __init__(
        self, accounts: Callable[[], Sequence[Source]], changes: Callable[[], Hashable], process: Source
    ) -> None:
        self._accounts = accounts
        self._changes = changes
        self._process = process
        self._latest: dict[Format, _Whole] = {}
        self._rendering = asyncio.Lock()

    async def text(self, form: Format) -> bytes:
        """All metrics as they are now."""
        return (await self._now(form)).text

    async def gzipped(self, form: Format) -> bytes:
        """The same, compressed."""
        whole = await self._now(form)
        if whole.gzipped is None:
            beginning, compressor = await whole.stable.compressed()
            if whole.gzipped is None:
                compressor = compressor.copy()
                whole.gzipped = beginning + compressor.compress(whole.rest) + compressor.flush()
        return whole.gzipped

    async def selected(self, form: Format, names: Sequence[str]) -> bytes:
        """Only the samples of these names, as `name[]` asks for; rendered for this request alone."""
        sources = (*self._accounts(), self._process)
        return _join([await _render(s.registry.restricted_registry(names), form) for s in sources]) + form.end

    async def _now(self, form: Format) -> "_Whole":
        if (latest := self._latest.get(form)) and self._is_current(latest):
            return latest
        async with self._rendering:
            latest = self._latest.get(form)
            if latest is None or not self._is_current(latest):
                latest = self._latest[form] = await self._renew(form, latest)
            return latest

    def _is_current(self, whole: "_Whole") -> bool:
        return whole.version == self._version()

    def _version(self) -> Hashable:
        return self._changes(), self._process.version()

    async def _renew(self, form: Format, before: "_Whole | None") -> "_Whole":
        version = self._version()
        versions = {source: source.version() for source in self._accounts()}
        stable = before.stable if before and before.stable.versions == versions else None
        if stable is None:
            stable = _Stable()
            for source in self._accounts():
                stable.versions[source] = source.version()
                stable.renderings[source] = (
                    before.stable.renderings[source]
                    if before and before.stable.versions.get(source) == stable.versions[source]
                    else await _render(source.registry, form)
                )
            stable.text = _join(stable.renderings.values())
        rest = _join([await _render(self._process.registry, form)]) + form.end
        return _Whole(stable, version, rest)


_Rendering = Mapping[bytes, bytes]
"""The lines of each family's samples by the comment lines before them."""


class _Stable:
    """The accounts' part of the text, until one of them changes."""

    def __init__(self) -> None:
        self.versions: dict[Source, Hashable] = {}
        self.renderings: dict[Source, _Rendering] = {}
        self.text = b""
        self._compressing: asyncio.Future[tuple[bytes, Any]] | None = None

    async def compressed(self) -> tuple[bytes, Any]:
        """The beginning of a gzip stream, and the compressor that goes on after it, to be copied."""
        if self._compressing is None:
            self._compressing = asyncio.get_running_loop().run_in_executor(COMPRESSORS, _compress, self.text)
        # Others wait for it too, whatever becomes of this request.
        return await asyncio.shield(self._compressing)


class _Whole:
    """The whole text, until anything changes."""

    def __init__(self, stable: _Stable, version: Hashable, rest: bytes) -> None:
        self.stable = stable
        self.version = version
        self.rest = rest
        self.text = stable.text + rest
        self.gzipped: bytes | None = None


def _compress(text: bytes) -> tuple[bytes, Any]:
    compressor = zlib.compressobj(wbits=_GZIP)
    return compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor


class _Families:
    """A collector of families that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _render(collector: Collector, form: Format) -> _Rendering:
    """All families as they are at the call; other tasks get their turn between some of them and the next."""
    rendering, in_turn = {}, 0
    for family in list(collector.collect()):
        text = form.encode(_Families([family])).removesuffix(form.end)
        header = _HEADER.match(text)
        end = header.end() if header else 0
        rendering[text[:end]] = text[end:]
        in_turn += len(text)
        if in_turn > _BYTES_A_TURN:
            in_turn = 0
            await asyncio.sleep(0)
    return rendering


def _join(renderings: Iterable[_Rendering]) -> bytes:
    families: dict[bytes, list[bytes]] = {}
    for rendering in renderings:
        for header, samples in rendering.items():
            families.setdefault(header, [header]).append(samples)
    return b"".join(chain.from_iterable(families.values()))
