"""Compressed answers are decompressed, up to the size limit."""

import asyncio
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkit_exporter.transport import PART_BYTES, BodyError, decompress

FORMS = {"gzip": ("gzip", 31), "deflate": ("deflate", 15), "raw deflate": ("deflate", -15)}
Body = bytes | bytearray
BODY = b'{"items": []}'


def compressed(body: bytes, form: str, level: int = -1) -> bytes:
    packer = zlib.compressobj(level, wbits=FORMS[form][1])
    return packer.compress(body) + packer.flush()


def decompressed(data: Body, encoding: str, limit: int = 2**24) -> Body:
    return asyncio.run(decompress(data, encoding, limit))


@given(
    st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(max_size=20), st.integers(0, 3 * PART_BYTES)),
    st.sampled_from(list(FORMS)),
    st.integers(0, 9),
)
def test_any_body_in_any_compression_is_restored(body: bytes, form: str, level: int) -> None:
    data = compressed(body, form, level)
    assert decompressed(data, FORMS[form][0]) == decompressed(bytearray(data), FORMS[form][0].upper()) == body


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("form", FORMS)
def test_a_body_may_end_with_a_part_and_be_as_large_as_the_limit(form: str, level: int, size: int) -> None:
    data = compressed(bytes(size), form, level)
    assert decompressed(data, FORMS[form][0], limit=size) == bytes(size)
    with pytest.raises(
        BodyError, match=rf"^the decompressed answer is larger than max_response_size \({size - 1} bytes\)$"
    ):
        decompressed(data, FORMS[form][0], limit=size - 1)


@given(st.lists(st.binary(max_size=99), min_size=1), st.booleans(), st.integers(0, 2))
def test_gzip_may_have_several_members(parts: list[bytes], large: bool, padding: int) -> None:
    """As in RFC 1952. Servers make them that compress an answer piece by piece."""
    parts.append(bytes(PART_BYTES * large))
    data = b"".join(compressed(part, "gzip", level=0) for part in parts)
    assert decompressed(data + bytes(padding), "gzip") == b"".join(parts)


def test_a_member_that_is_cut_short_is_an_error() -> None:
    member = compressed(BODY, "gzip")
    for size in range(1, len(member)):
        with pytest.raises(BodyError, match=r"^the answer's compressed data are cut short$"):
            decompressed(member + member[:size], "gzip")


def test_the_size_limit_applies_to_all_members_together() -> None:
    with pytest.raises(BodyError, match="larger than max_response_size"):
        decompressed(compressed(bytes(PART_BYTES), "gzip") * 4, "gzip", limit=4 * PART_BYTES - 1)


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "x-gzip", "deflate"])
def test_gzip_is_recognised_by_its_first_byte_whatever_the_header_says(encoding: str) -> None:
    assert decompressed(compressed(BODY, "gzip"), encoding) == BODY


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "x-gzip"])
def test_uncompressed_bodies_stay_unchanged(encoding: str) -> None:
    assert decompressed(BODY, encoding, limit=1) is BODY


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_an_empty_body_stays_empty(encoding: str) -> None:
    assert decompressed(b"", encoding) == b""


def test_bytes_after_the_compressed_body_are_ignored() -> None:
    assert decompressed(compressed(BODY, "gzip") + bytes(3 * PART_BYTES), "gzip") == BODY


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("br", "br"), ("ZSTD", "zstd"), ("gzip, gzip", "gzip, gzip"), ("secret-token", "something")],
)
def test_the_error_names_an_unknown_encoding_unless_the_name_is_long(encoding: str, named: str) -> None:
    with pytest.raises(BodyError, match=f"^the answer is compressed as {named}; only gzip and deflate can be read$"):
        decompressed(compressed(BODY, "gzip"), encoding)


@given(st.sampled_from(list(FORMS)), st.data())
def test_a_truncated_body_is_an_error(form: str, data: st.DataObject) -> None:
    good = compressed(BODY * 10, form)
    with pytest.raises(BodyError, match=r"^the answer's compressed data are cut short$"):
        decompressed(good[: data.draw(st.integers(1, len(good) - 1))], FORMS[form][0])


def test_a_damaged_body_is_an_error() -> None:
    with pytest.raises(BodyError, match=r"^the answer's compressed data are damaged \(.*check"):
        decompressed(compressed(BODY, "gzip")[:-8] + bytes(8), "gzip")


@given(st.binary(), st.sampled_from(["", "gzip", "deflate"]))
def test_any_bytes_are_decompressed_or_refused(data: bytes, encoding: str) -> None:
    try:
        decompressed(data, encoding)
    except BodyError as error:
        assert "compressed data are" in str(error)
