"""Decides from a batch's status whether the batch may still change. Pure.

Inkit documents only `Completed` and `In Progress`, so the words of a status decide. Not recognising a final status
costs requests. Taking another one as final makes numbers wrong, so a word of waiting or negation wins.
"""

import re
from functools import lru_cache
from typing import Final

from inkit_exporter.jsonbody import snake_case_of_camel

# Each matches one word.
_FINAL = re.compile(
    "aborted|cancell?ed|completed?|declined|delivered|done|ended|error(s|ed)?|expired|failed|failure|finished|fulfilled|"
    "rejected|stopped|succeeded|success(ful|fully)?|terminated|timed"
)
# The `t` is that of `can't`.
_WAITING = re.compile(
    "accepted|active|again|almost|await|be|before|cannot|created|delayed|deferred|draft|enqueued|held|hold|incomplete|"
    "initial|initiali[sz]ed|initiated|later|nearly|never|new|non?|not|open|paused|planned|progress|queued?|ready|received|"
    "requested|restarted|resumed|retried|retry|scheduled|soon|started|submitted|suspended|t|unfinished|until|wait|will|"
    "yet|(?!during|missing|nothing).+ing"
)

FAILED: Final = re.compile(
    "(?!(partial|complete|finish).*)(.+_)?(failed|failure|error|errored|rejected|declined|expired|timed_out)"
)
"""Matches the name of a final status that means that the whole batch failed. The alerts have the same words."""


@lru_cache(maxsize=64)
def read_status(text: str, further: tuple[str, ...] = ()) -> tuple[str, bool | None]:
    """The name of a status in snake_case, and whether it is final: whether a batch with it does not change any more.

    None means that this is unknown. The statuses in `further` are final too, in any spelling.
    """
    name = snake_case_of_camel(text)
    words = name.split("_")
    if name in map(snake_case_of_camel, further):
        return name, True
    if any(map(_WAITING.fullmatch, words)):
        return name, False
    return name, True if any(map(_FINAL.fullmatch, words)) else None
