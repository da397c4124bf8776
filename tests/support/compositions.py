"""Random combinations of deviations, each of which leaves the truth readable."""

from typing import Any, Final

from hypothesis import strategies as st

from support.deviations import Answer, Change, Deviation, Expected, Server

COUNTS: Final = ("count", "completed", "failed", "in_progress")
PAGINATION: Final = "metadata.pagination."

_NUMBERS = st.sampled_from(("documented", "text", "float", "float-text", "exponent", "exponent-up"))
_NO_NUMBERS: st.SearchStrategy[Any] = st.sampled_from((None, True, {}, [], "many", -1, 0.5, ""))
_UNNEEDED: st.SearchStrategy[Any] = st.sampled_from((None, True, -3, {"a": [1]}, [], "x", "<<NaN>>", "<<1e999>>"))
_NEXT_PAGES = st.sampled_from(
    ("boolean", "text", "float", "exponent", "address", "relative-address", "query", "opaque", "zero")
)
_TIMES = st.sampled_from(
    ("documented", "east", "west", "no-zone", "blank", "nanoseconds", "no-fraction", "epoch", "epoch-whole")
)
_STATUSES = st.sampled_from(("documented", "joined", "constant", "hyphens"))
_PLACES = st.sampled_from((("metadata", "meta"), ("metadata.pagination", "pagination"), ("metadata.pagination", ".")))
_SOME = st.none() | st.lists(st.integers(0, 40), min_size=1, max_size=8)


@st.composite
def deviations(draw: st.DrawFn) -> Deviation:
    """Any number of deviations at a time."""
    ways = draw(_ways)
    packed = draw(st.sampled_from(("", "gzip", "deflate")))
    beyond = draw(st.sampled_from(_beyond(ways)))
    return Deviation(
        what="",
        expect=Expected(numbers="documented"),
        batches=draw(st.integers(0, 35)),
        records=draw(_records()),
        page=draw(_pages(ways)),
        answers={"beyond": Answer(status=204)} if beyond == "empty" and draw(st.booleans()) else {},
        server=Server(
            page_size=draw(st.sampled_from((None, None, 5, 7, 20))),
            ignores=draw(st.sampled_from(([], [], ["page_size"], ["sort"]))),
            order=draw(st.sampled_from(("newest", "oldest"))),
            beyond=beyond,
            headers={"Content-Encoding": packed} if packed else {},
            encode=draw(st.sampled_from(([], ["bom"]))) + [packed] * bool(packed),
        ),
    )


@st.composite
def _draw_ways(draw: st.DrawFn) -> dict[str, str]:
    """What each hint says. A wrong hint that ends too early needs a right one beside it."""
    counts = st.sampled_from((*("right",) * 4, "missing", "no number", "too small", "too large"))
    ways = {key: draw(counts) for key in ("page_count", "total_count")}
    told = "right" in ways.values()
    may = ["right", *["missing"] * (told or "too small" not in ways.values()), *["null", "for ever"] * told]
    return ways | {"next_page": draw(st.sampled_from(may))}


_ways = _draw_ways()


def _beyond(ways: dict[str, str]) -> list[Any]:
    """An answer beyond the end of the list that shows the end."""
    if {*ways.values()} <= {"missing", "no number"}:
        return ["empty", 400, 404, 422]
    wrong = {"too large", "too small"} & {
        *ways.values()
    }  # a count that is too small for most lists is too large for an empty one
    endless = wrong or (ways["next_page"] == "for ever" and ways["total_count"] != "right")
    return ["empty"] if endless else ["empty", "first", "last"]


@st.composite
def _pages(draw: st.DrawFn, ways: dict[str, str]) -> list[Change]:
    changes = []
    for key, way in ways.items():
        place = PAGINATION + key
        match way:
            case "right":
                changes.append(Change(spell={place: draw(_NEXT_PAGES if key == "next_page" else _NUMBERS)}))
            case "missing":
                changes.append(Change(drop=[place]))
            case "too small":
                changes.append(Change(set={place: draw(st.integers(0, 3))}))
                changes.append(Change(at=draw(st.lists(st.integers(1, 5))), set={place: 0}))
            case "no number":
                changes.append(Change(set={place: draw(_NO_NUMBERS)}))
            case _:
                changes.append(Change(set={place: {"null": None, "for ever": 99, "too large": 999}[way]}))
    others = draw(st.lists(st.sampled_from(("page_size", "current_page", "prev_page")), unique=True))
    changes.append(Change(set={PAGINATION + key: draw(_NO_NUMBERS) for key in others}))
    changes.append(Change(move=dict(draw(st.lists(_PLACES, max_size=1)))))
    return changes


@st.composite
def _records(draw: st.DrawFn) -> list[Change]:
    lost = draw(st.none() | st.sampled_from(COUNTS))
    infer = [Change(drop=[f"destinations.*.{lost}"]), Change(set={f"destinations.*.{lost}": None}), Change()]
    unused: st.SearchStrategy[Any] = st.sampled_from((None, {}, dict.fromkeys(COUNTS, 0)))
    return [
        Change(at=draw(_SOME), set={"name": draw(_UNNEEDED), "total": draw(_UNNEEDED)}),
        Change(at=draw(_SOME), drop=draw(st.lists(st.sampled_from(("name", "total")), unique=True))),
        Change(at=draw(_SOME), spell={f"destinations.*.{count}": draw(_NUMBERS) for count in COUNTS}),
        Change(at=draw(_SOME), spell={"created_at": draw(_TIMES), "status": draw(_STATUSES)}),
        Change(spell={"id": draw(st.sampled_from(("documented", "digits")))}),
        draw(st.sampled_from(infer)),
        Change(at=draw(_SOME), set={"destinations.*.status": draw(_UNNEEDED)}),
        Change(at=draw(_SOME), set={"destinations.sepire": draw(unused)}),
    ]
