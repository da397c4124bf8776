"""What a batch's status says: whether the batch may still change. Pure.

Inkit documents `Completed` and `In Progress` only, so the words of a status decide. A final status that is taken for a
passing one costs requests. The reverse costs truth, so a word of waiting or negation wins.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from inkit_exporter.api.labels import snake_case

# Of one word.
_FINAL = re.compile(
    "aborted|cancell?ed|completed?|declined|delivered|done|ended|error(s|ed)?|expired|failed|failure|finished|fulfilled|"
    "rejected|stopped|succeeded|success(ful|fully)?|terminated|timed"
)
# Of one word too. The `t` is that of `can't`.
_WAITING = re.compile(
    "accepted|active|again|almost|await|be|before|cannot|created|delayed|deferred|draft|enqueued|held|hold|incomplete|"
    "initial|initiali[sz]ed|initiated|later|nearly|never|new|non?|not|open|paused|planned|progress|queued?|ready|received|"
    "requested|restarted|resumed|retried|retry|scheduled|soon|started|submitted|suspended|t|unfinished|until|wait|will|"
    "yet|(?!during|missing|nothing).+ing"
)

MAX_LENGTH: Final = 256
"""Of a longer status, nothing is known."""

Statuses = frozenset[str]
"""Statuses as `name_status` returns them."""


class Status(NamedTuple):
    """A status in snake_case, and whether it is final: a batch with it does not change. None if nothing tells."""

    name: str
    final: bool | None


@lru_cache(maxsize=64)
def read_status(text: str, further: Statuses = frozenset()) -> Status:
    """What a status from the API says, or the beginning of a long one; `further` ones are final too."""
    name = name_status(text)
    words = name.split("_")
    if name in further:
        return Status(name, final=True)
    if len(text) > MAX_LENGTH:
        return Status(name, final=None)
    if any(map(_WAITING.fullmatch, words)):
        return Status(name, final=False)
    return Status(name, final=True if any(map(_FINAL.fullmatch, words)) else None)


def name_status(text: str) -> str:
    """A status in snake_case: `In Progress` and `InProgress` → `in_progress`."""
    return snake_case(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text))
