"""What a batch's status says: whether the batch may still change. Pure.

Inkit documents `Completed` and `In Progress` only, so the words of a status decide. A final status that is taken for a
passing one costs requests. The reverse costs truth, so a word of waiting or negation wins.
"""

import re
from functools import lru_cache
from typing import Final

from inkit_exporter.jsonbody import snake_case_of_camel

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


@lru_cache(maxsize=64)
def read_status(text: str, further: frozenset[str] = frozenset()) -> tuple[str, bool | None]:
    """A status, or the beginning of a long one, in snake_case, and whether it is final; None if nothing tells.

    A batch does not change once its status is final. So are those named in `further`, too.
    """
    name = snake_case_of_camel(text)
    words = name.split("_")
    if name in further:
        return name, True
    if len(text) > MAX_LENGTH:
        return name, None
    if any(map(_WAITING.fullmatch, words)):
        return name, False
    return name, True if any(map(_FINAL.fullmatch, words)) else None
