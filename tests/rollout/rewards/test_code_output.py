"""Outputs are equal as judges of programs hold them for equal."""

import pytest

from rollout.rewards.code_output import same_output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.00000\n3", "3.0\n3.00"),
        ("x = 0.30000000000000004 m", "x = 0.3 m"),
        ("0.333333", "0.33333333333333"),
        ("1e-07", "0.0000001000"),
        ("123456789.12", "123456789.1234567"),
        ("-0.0", "0.0"),
    ],
)
def test_numbers_with_a_decimal_point_are_equal_however_they_are_written(text, expected):
    assert same_output(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.0", "3"),
        ("0.33", "0.333333"),
        ("1234567.90", "1234567.89"),
        ("1.0  2.0", "1.0 2.00"),
        ("1.0", "1.00 2.0"),
        ("nan", "0.5"),
        ("inf", f"{'9' * 400}.0"),
        ("1_0.0", "10.0"),
        ("YES", "Yes"),
    ],
)
def test_other_numbers_and_other_words_are_wrong(text, expected):
    assert not same_output(text, expected)


def test_blank_lines_around_an_output_are_none_of_it():
    assert same_output("\n \n5\n6 \n\n", "5\r\n6\r\n")
    assert same_output("5", "\n5")
    assert not same_output("5\n\n6", "5\n6")
