"""What a sequence of pages shows about a list, for any kind of record."""

import pytest

from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.paging.parameters import OptionalParameters
from inkit_exporter.paging.sequence import InconsistentListing, PageSequence


def whole_listing(cutoff: float, max_records: int) -> PageSequence:
    return PageSequence(1, cutoff, max_records, whole=True, to_end=False, size=0, known_last="")


def read(sequence: PageSequence, *pages: list[float], total: int | None = None) -> None:
    for page in pages:
        sequence.add([(f"{created}", created) for created in page], 0, Pagination(more=True, total_count=total))


def test_a_full_listing_knows_its_order_and_its_expected_pages() -> None:
    sequence = whole_listing(cutoff=0.0, max_records=100)
    read(sequence, [99, 98], [97, 90])
    assert sequence.ordered
    assert sequence.expected_pages(now=100.0) == 20, "two pages cover a tenth of the time"
    read(sequence, [95, 89], total=12)
    assert not sequence.ordered
    assert sequence.expected_pages(now=100.0) == 6, "without order, times give no estimate"


def test_a_part_of_a_list_must_be_in_order() -> None:
    sequence = PageSequence(3, 0.0, 100, whole=False, to_end=False, size=2, known_last="")
    with pytest.raises(InconsistentListing, match=r"^page 4: the list is not newest first$"):
        read(sequence, [5, 4], [6, 3])


def test_after_a_resume_newer_records_may_follow_and_the_page_starts_again() -> None:
    sequence = whole_listing(cutoff=0.0, max_records=100)
    read(sequence, [9, 8], [7, 6])
    sequence.resume()
    read(sequence, [8, 7], [9.5, 6], [5, 4])
    assert sequence.ids == {"9", "8", "7", "6", "9.5", "5", "4"}


def test_after_a_resume_the_sequence_goes_back_to_a_page_that_begins_with_a_known_record() -> None:
    sequence = whole_listing(cutoff=0.0, max_records=100)
    read(sequence, *([90.0 - i] for i in range(8)))
    sequence.resume()
    asked = []
    for first in (99, 98, 90.0):
        asked.append(sequence.next)
        read(sequence, [first])
    assert asked == [8, 7, 5]
    assert sequence.next == 6
    assert sequence.ids.isdisjoint({"99", "98"}), "pages between them and the known ones may not be read yet"


def test_a_sequence_can_not_resume_if_only_its_first_page_may_be_known() -> None:
    sequence = whole_listing(cutoff=0.0, max_records=100)
    read(sequence, [9], [8], [7])
    sequence.resume()
    read(sequence, [19])
    with pytest.raises(InconsistentListing):
        read(sequence, [18])


def test_equal_times_do_not_show_that_the_rest_of_the_list_is_older() -> None:
    sequence = whole_listing(cutoff=10.0, max_records=2)
    read(sequence, [5, 5])
    assert not sequence.past_window
    assert not sequence.full
    read(sequence, [4, 4])
    assert sequence.past_window


def test_an_endless_unordered_list_is_an_error() -> None:
    sequence = whole_listing(cutoff=0.0, max_records=4)
    with pytest.raises(InconsistentListing, match="in no order and too long to read"):
        read(sequence, *([float(2 * i), float(2 * i + 1)] for i in range(50)))
    assert sequence.furthest == 12


def test_the_likeliest_refusal_is_tried_first_and_after_a_day_all_parameters_are_sent() -> None:
    day = 86_400.0
    parameters = OptionalParameters({"a", "b"})
    assert parameters.alternatives() == [{"a"}, {"b"}, {"a", "b"}]
    assert parameters.leave_out(frozenset("b"), "no b", now=5.0)
    assert parameters.alternatives() == [{"a", "b"}]
    parameters.forget_refusals(now=4.0 + day)
    assert parameters.left_out == {"b"}
    parameters.forget_refusals(now=5.0 + day)
    assert not parameters.left_out
    assert parameters.alternatives() == [{"b"}, {"a"}, {"a", "b"}]
    assert not parameters.leave_out(frozenset("b"), "no b", now=day), "a known refusal is not new"
