"""Query parameters that requests can do without, because a server may refuse them. Pure."""

import math
from collections.abc import Iterable

# Seconds until requests send again what was refused.
_REFUSAL_HOLDS = 86_400.0


class OptionalParameters:
    """The parameters that requests leave out because the server refuses them, and its `reason` in its own words.

    `in_vain_at` is when no alternative helped. Times are wall time in seconds.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.left_out: frozenset[str] = frozenset()
        self.reason = ""
        self.in_vain_at = -math.inf
        self._names = frozenset(names)
        self._refused: frozenset[str] = frozenset()
        self._since = -math.inf

    def expire(self) -> None:
        """Make the next `forget_refusals` send all again. Nothing changes now, because a listing may be running."""
        self._since = -math.inf

    def forget_refusals(self, now: float) -> bool:
        """Send all again if the refusal is a day old. `now` is wall time. Returns whether that changes requests."""
        before, holds = self.left_out, 0 <= now - self._since < _REFUSAL_HOLDS
        self.left_out = self._refused if holds else frozenset()
        return self.left_out != before

    def tried_in_vain(self, now: float, seconds: float) -> bool:
        """Whether leaving out all alternatives has not helped within these seconds."""
        return 0 <= now - self.in_vain_at < seconds

    def alternatives(self) -> list[frozenset[str]]:
        """What to try leaving out, the likeliest first: what was refused before, one parameter more, or all."""
        more = [self.left_out | {name} for name in sorted(self._names - self.left_out)]
        ways = dict.fromkeys([self._refused, *more, self._names])
        return [way for way in ways if way > self.left_out]

    def leave_out(self, names: frozenset[str], reason: str, now: float) -> bool:
        """Leave these out from now on. Returns whether one of them was not refused before."""
        news = not names <= self._refused
        self.left_out = self._refused = names
        self.reason, self._since = reason, now
        return news
