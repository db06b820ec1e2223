"""Names of files, rows and tables: what is built is what is read, and anything else is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.relfile import RelFile, Slot
from walarchiver.core.table import quote_identifier, quote_literal
from walarchiver.errors import UsageError

numbers = st.integers(1, 2**32 - 1)


@given(st.builds(RelFile, numbers, numbers | st.just(0), numbers))
def test_a_file_survives_its_own_text_and_is_three_numbers_in_a_record(file: RelFile) -> None:
    assert RelFile.parse(str(file)) == file
    assert struct.unpack("<III", file.packed()) == file


@pytest.mark.parametrize(
    "text",
    [
        *("", "1663/5", "1663/5/16384/1", "1663/5/", "a/b/c", " 1663/5/16384", "-1/5/7", "1663.5.7"),
        *("1663/5/4294967296", "0/5/16384", "1663/5/0", "99999999999/5/7"),
    ],
)
def test_what_names_no_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not TABLESPACE|names no file"):
        RelFile.parse(text)


def test_a_row_is_read_as_postgresql_prints_it() -> None:
    assert Slot.parse("(0,12)") == Slot(0, 12)
    for text in ("", "(1)", "(1,2,3)", "(a,b)"):
        with pytest.raises(ValueError, match="invalid literal"):
            Slot.parse(text)


def test_names_and_texts_stay_inside_their_quotes() -> None:
    assert quote_identifier('a"; DROP TABLE b --') == '"a""; DROP TABLE b --"'
    assert quote_literal("it's \\ so") == "'it''s \\ so'"
    with pytest.raises(UsageError, match="NUL"):
        quote_identifier("a\0b")
