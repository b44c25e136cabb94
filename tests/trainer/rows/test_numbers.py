"""Numbers in texts: each is read whole, by its exact value, or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rows.numbers.reading import NotOneNumber, Number, last_number, read_answer


def value(text: str) -> str | None:
    number = last_number(text)
    return None if number is None else str(number.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "42"),
        ("It is 42.", "42"),
        ("It is 42!", "42"),
        ("-7", "-7"),
        ("+7", "7"),
        ("\u22127.5", "-15/2"),
        ("\u2013\u00bd", "-1/2"),
        ("x=-3", "-3"),
        ("x = - 3", "-3"),
        ("(-3)", "-3"),
        ("-(3)", "-3"),
        ("minus 5", "-5"),
        ("1,234,567.89", "123456789/100"),
        ("1\u202f234", "1234"),
        ("10{,}000", "10000"),
        (".5", "1/2"),
        ("3.14.", "157/50"),
        ("1e-3", "1/1000"),
        ("6.02 \\times 10^{23}", "602000000000000000000000"),
        ("6.02 x 10^23", "602000000000000000000000"),
        ("10\u00b2", "100"),
        ("2^{10}", "1024"),
        ("2**10", "1024"),
        ("(-2)^2", "4"),
        ("-2^2", "-4"),
        ("1/2", "1/2"),
        ("1 / 2", "1/2"),
        ("3\u20444", "3/4"),
        ("2\u00bd", "5/2"),
        ("3 1/2", "7/2"),
        ("\\frac{3}{4}", "3/4"),
        ("-\\dfrac{3}{4}", "-3/4"),
        ("3\\tfrac12", "7/2"),
        ("so \\boxed{\\frac{1}{2}} of 9", "1/2"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("50%", "1/2"),
        ("50\\%", "1/2"),
        ("12.5 percent", "1/8"),
        ("5 per cent", "1/20"),
        ("3 million", "3000000"),
        ("$5", "5"),
        ("$5$", "5"),
        ("-$5", "-5"),
        ("5 \u20ac", "5"),
        ("12kg", "12"),
        ("5\\text{ cm}", "5"),
        ("5 m\u00b2", "5"),
        ("45^\\circ", "45"),
        ("a 5-day trip", "5"),
        ("**42**", "42"),
        ("`42`", "42"),
        ("<answer>42</answer>", "42"),
        ("<<48/2=24>>24", "24"),
        ("5 (five)", "5"),
        ("3 + 2 = 5", "5"),
        ("He has 3 and 2 more, which makes 5.", "5"),
        ("\uff14\uff12", "42"),
        ("\u0664\u0662", "42"),
        ("1\u200b0", "10"),
        ("007", "7"),
        ("-0", "0"),
    ],
)
def test_a_number_is_read_in_all_the_ways_in_which_people_write_it(text: str, expected: str) -> None:
    assert value(text) == expected


NO_NUMBERS = [
    "",
    "none",
    "inf",
    "NaN",
    "\u221e",
    "gemma3",
    "covid-19",
    "0x1F",
    "v1.2.3",
    "3:2",
    "10:30",
    "10:30 pm",
    "10am",
    "2024-01-05",
    "3 and 5",
    "3 or 5",
    "3 to 5",
    "3-5",
    "3\u20135",
    "3 out of 5",
    "5 (or 7)",
    "(3, 5)",
    "1, 2, 3",
    "3; 5",
    "$3 and $5",
    "10-3",
    "10 - 3",
    "10-$3",
    "2*3",
    "2(3)",
    "\\sqrt{3}",
    "\u221a3",
    "square root of 9",
    "log_2 8",
    "f(3)",
    "3\\pi",
    "3\u03c0",
    "2x",
    "2 x",
    "x/2",
    "5n + 3",
    "3i",
    "5k",
    "5!$",
    "$5!$",
    "\\boxed{5!}x",
    "not 5",
    "> 5",
    "\u2265 5",
    "\\geq 5",
    "\u00b15",
    "|-5|",
    "5+",
    "1/0",
    "1/2/3",
    "\\frac{1}{0}",
    "\\frac{\\pi}{2}",
    "\\frac{1}{2}x",
    "3-1/2",
    "3 5/2",
    "0^0",
    "2^{1/2}",
    "2^{-1}^2",
    "9^{9999}",
    "1e99999",
    "9" * 5000,
    "12,34",
    "1234,567",
    "0,5",
    "1.234,5",
    "1_000",
    "1 234",
    "3rd",
    "5\u2030",
    "0.333...",
    "0.\\overline{3}",
    "0.3\u0305",
    "\u2167",
    "\u2460",
    "1\u2460",
    "5'10\"",
    "[" * 3000 + "5" + "]" * 3000,
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_part_of_something_else_is_no_number(text: str) -> None:
    """A completion that ends so is not paid for any number in it."""
    assert value(text) is None
    with pytest.raises(NotOneNumber):
        read_answer(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("five", "has no number"),
        ("2+2=4\n#### 4", "has more than one number"),
        ("1 km is 1000 m", "has more than one number"),
        ("5!", "is no number that can be compared"),
        ("10:30", "is no number that can be compared"),
        ("9" * 30_000, "is too long for a number"),
    ],
)
def test_an_answer_is_one_number_or_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(NotOneNumber, match=reason):
        read_answer(text)


@pytest.mark.parametrize(
    ("answer", "text", "agree"),
    [
        ("5", "5 cm", True),
        ("5 cm", "5", True),
        ("5 cm", "It is 5 cm long.", True),
        ("5 cm", "5 m", False),
        ("5 mW", "5 MW", False),
        ("12 square meters", "12 square meters in all", True),
        ("12 square meters", "12 meters", False),
        ("$5", "5 dollars", True),
        ("5 dollars", "$5", True),
        ("$5", "\u20ac5", False),
        ("$5$", "\u20ac5", True),
        ("20\u00b0C", "20 \u00b0F", False),
        ("5 apples", "5 apple", True),
        ("It is 5 now", "5 cm", True),
    ],
)
def test_units_have_to_agree_where_both_have_one(answer: str, text: str, agree: bool) -> None:
    number = last_number(text)
    assert number is not None
    assert number.has_unit_of(read_answer(answer)) is agree


INTEGERS = st.integers(-(10**9), 10**9)
FRACTIONS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)


def spellings(number: Fraction) -> list[str]:
    """Return the number as people could write it."""
    sign, size = "-" if number < 0 else "", abs(number)
    over, under = size.numerator, size.denominator
    whole, rest = divmod(over, under)
    texts = [
        f"{sign}{over}/{under}",
        f"{sign}{over:,}/{under}",
        f"{sign}\\frac{{{over}}}{{{under}}}",
        f"{sign}\\dfrac {{{over}}} {{{under}}}",
        f"\\frac{{{sign}{over}}}{{{under}}}",
        f"({sign}{over} / {under})",
    ]
    if whole and rest:
        texts += [f"{sign}{whole} {rest}/{under}", f"{sign}{whole}\\frac{{{rest}}}{{{under}}}"]
    if under == 1:
        texts += [
            f"{sign}{over}",
            f"{sign}{over:,}",
            f"{sign}{over}.00",
            f"\N{MINUS SIGN}{over}" if sign else f"+{over}",
        ]
    return texts


@given(FRACTIONS, st.sampled_from(["{}", " {} ", "So it is {}.", "= {}", "\\boxed{{{}}}", "${}$", "**{}**", "a: {}\n"]))
def test_all_spellings_of_a_number_have_its_value(number: Fraction, frame: str) -> None:
    for text in spellings(number):
        framed = frame.format(text)
        read = last_number(framed)
        assert read is not None, framed
        assert read.value == read_answer(framed).value == number, framed


@given(st.decimals(-(10**6), 10**6, places=4, allow_nan=False), st.integers(-20, 20))
def test_decimals_percentages_and_powers_of_ten_are_exact(decimal: object, power: int) -> None:
    exact = Fraction(str(decimal))
    assert read_answer(f"{decimal}").value == exact
    assert read_answer(f"{decimal}%").value == exact / 100
    assert read_answer(f"{decimal}e{power}").value == exact * Fraction(10) ** power
    assert read_answer(f"{decimal} \\times 10^{{{power}}}").value == exact * Fraction(10) ** power


JOINED = [
    "{}:{}",
    "{} and {}",
    "{} or {}",
    "{}, {}",
    "{} - {}",
    "{}-{}",
    "{}\u2013{}",
    "{} * {}",
    "{} to {}",
    "({}, {})",
]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(JOINED))
def test_two_numbers_are_not_one_of_them(first: int, second: int, joined: str) -> None:
    text = joined.format(first, second)
    assert last_number(text) is None
    with pytest.raises(NotOneNumber):
        read_answer(text)


@given(st.text(alphabet="0123456789.,-+/*^%!:()[]{}\\frac sqrt\u00b2\u00bd$\u20ac and\n", max_size=40))
def test_an_answer_is_read_as_a_completion_is(text: str) -> None:
    """Both read the same number, and nothing else can happen."""
    completed = last_number(text)
    try:
        answer = read_answer(text)
    except NotOneNumber:
        return
    assert isinstance(completed, Number)
    assert completed.value == answer.value
