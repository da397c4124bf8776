"""Which statuses are final: whole words decide, in any spelling. A word of waiting or negation overrides them."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.api import Api, batch
from support.conversation import joined, read_parts
from support.exporter import StartExporter, write_config
from support.samples import sample_key, up

from inkit_exporter.api.batches import AccountLabels, Batch, Counts
from inkit_exporter.api.statuses import read_status
from inkit_exporter.jsonbody import snake_case_of_camel
from inkit_exporter.labels import LABEL_LIMIT

FINAL = (
    "Success", "Completed", "Complete", "Delivered", "Expired", "Error", "Failed", "Cancelled", "Canceled", "Done",
    "Finished", "Aborted", "Succeeded", "Rejected", "Terminated", "Errors", "Failure", "Successful",
)  # fmt: skip
WAITING = (
    "Not", "Retrying", "Awaiting", "Pending", "Processing", "Progress", "Queued", "Scheduled", "Never", "Yet",
    "Running", "Paused", "Retry", "Incomplete", "Until", "Will", "Unfinished", "Resumed",
)  # fmt: skip
NEITHER = (
    "With",
    "Partially",
    "At",
    "In",
    "Delivery",
    "Cancellation",
    "Documents",
    "Missing",
    "Nothing",
    "Archived",
    "2",
)

SPELLINGS: tuple[Callable[[list[str]], str], ...] = (
    " ".join,
    "".join,
    lambda words: "_".join(words).upper(),
    lambda words: "-".join(words).lower(),
    lambda words: f" {', '.join(words)}! ",
    lambda words: words[0].lower() + "".join(words[1:]),
)


@given(st.lists(st.sampled_from(FINAL + WAITING + NEITHER), min_size=1, max_size=5), st.sampled_from(SPELLINGS))
def test_a_final_word_makes_a_status_final_unless_it_also_has_a_word_of_waiting(
    words: list[str], spell: Callable[[list[str]], str]
) -> None:
    waits, ends = bool({*words} & {*WAITING}), bool({*words} & {*FINAL})
    expected = False if waits else True if ends else None
    if spell(["a", "b"]) == "ab" and "2" in words:
        return  # "ab2" does not show where the next word begins
    assert read_status(spell(words))[1] is expected


@pytest.mark.parametrize(
    ("status", "final"),
    [
        *((text, True) for text in (
            "Success", "Completed with errors", "CompletedWithErrors", "Partially Completed", "Delivered", "Expired",
            "Error", "Failed", "Cancelled", "CANCELED", "Timed Out", "Delivery failed", "Failed to deliver",
            "Failed: 2 of 3", "PDFFailed", "Failed during delivery", "Failed, recipient missing",
            "completed_with_warnings",
        )),
        *((text, False) for text in (
            "In Progress", "InProgress", "Not completed", "Failed, retrying", "Awaiting delivery",
            "Pending cancellation", "Pending", "Queued", "Scheduled", "Incomplete",
            "Never delivered", "Can't be delivered", "Cancelling",
            "Almost done", "Failed (will be retried)", "Processing complete", "Not yet expired", "New", "Created",
        )),
        *((text, None) for text in (
            "", "!?", "unknown", "Archived", "Cancellation", "Undelivered", "Uncompleted", "Completedness",
            "Wellfailed", "Geliefert", "x" * 256,
        )),
    ],
)  # fmt: skip
def test_statuses_are_final_or_passing_or_unknown(status: str, final: bool | None) -> None:
    assert read_status(status)[1] is final


@given(st.text(max_size=300))
def test_any_text_is_read_and_a_configured_final_status_matches_in_every_spelling(text: str) -> None:
    name, final = read_status(text)
    assert name == snake_case_of_camel(text)
    assert final in (True, False, None)
    assert read_status(text, (text,))[1] is True
    assert read_status(name, (name,))[1] is True


def test_a_configured_final_status_matches_as_a_whole_not_by_its_words() -> None:
    further = ("Awaiting Archive",)
    assert read_status("AwaitingArchive", further) == ("awaiting_archive", True)
    assert read_status("awaiting archive documents", further)[1] is False
    assert read_status("Archive", further)[1] is None


def test_of_a_status_of_more_than_256_characters_nothing_is_known() -> None:
    statuses = ["Completed " * 25 + "again.", "Completed " * 26]
    body = {"items": [batch(f"fb_{i}", status=status) for i, status in enumerate(statuses)]}
    page = joined(read_parts(json.dumps(body).encode(), AccountLabels(), time.time()))
    assert [(b.status, b.final) for b in page.batches] == [("other", False), ("unknown", None)]


def test_a_status_that_is_labelled_other_is_still_read_as_final_or_not() -> None:
    statuses = [f"Odd {i}" for i in range(LABEL_LIMIT)] + ["Expired", "Expired " + "x" * 80, "Sent", "Sent, retrying"]
    body = {"items": [batch(f"fb_{i}", status=status) for i, status in enumerate(statuses)]}
    page = joined(read_parts(json.dumps(body).encode(), AccountLabels(), time.time()))
    assert [(b.status, b.finished) for b in page.batches[-4:]] == [
        ("other", True), ("other", True), ("other", False), ("other", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("final", "in_progress", "finished"), [(True, 0, True), (True, 1, False), (False, 0, False), (False, 1, False)]
)
def test_a_batch_is_finished_if_its_status_is_final_and_no_document_is_in_progress(
    final: bool, in_progress: int, finished: bool
) -> None:
    destinations = {"box": Counts(1, 0, 0, 0), "dropbox": Counts(1, 0, 0, in_progress)}
    assert Batch("fb", "", 0.0, "odd", destinations, final).finished is finished


def unfinished(samples: dict[str, float]) -> bool:
    return sample_key("inkit_oldest_unfinished_batch_created_timestamp_seconds", account="default") in samples


async def test_each_unknown_status_is_named_once_with_how_many_batches_have_it(
    api: Api, exporter: StartExporter
) -> None:
    """The number of named statuses is limited, as labels are."""
    statuses = ["Archived", "Failed", "Archived", "Not completed", "Mislaid", "Archived", "Expired"]
    statuses += [f"Odd {i}" for i in range(100)]
    api.batches = [batch(f"fb_{i}", age=100 + i, status=status) for i, status in enumerate(statuses)]
    running = await exporter(poll={"page_size": 50})
    polls = sample_key("inkit_polls_total", account="default")
    samples = await running.wait_for(lambda s: s.get(polls, 0) >= 3)
    assert unfinished(samples)
    named = [line for line in running.log if "final_statuses" in line]
    assert [line for line in named if "`archived`" in line and "batches=3" in line]
    assert [line for line in named if "`mislaid`" in line and "batches=1" in line]
    assert 20 < len(named) < LABEL_LIMIT
    assert all("level=warning" in line for line in named)


async def test_a_reload_applies_changed_final_statuses(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1", status="Archived"), batch("fb_2", age=70, status="Awaiting Archive")]
    running = await exporter()
    assert unfinished(await running.wait_for(lambda s: up(s) == 1))
    write_config(tmp_path, api.base_url, poll={"final_statuses": ["archived", "AwaitingArchive"]})
    running.process.send_signal(signal.SIGHUP)
    samples = await running.wait_for(lambda s: not unfinished(s))
    assert samples[sample_key("inkit_batches", account="default", batch_status="archived")] == 1
