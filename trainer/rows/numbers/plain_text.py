r"""Text as numbers are read in it: one spelling for each digit, sign and mark.

Unicode's variants of digits, signs and spaces get one form, LaTeX loses what only changes its looks, and the contents
of the last `\boxed{}` stand for the whole text, as in answers of the MATH data set (Hendrycks et al.,
arXiv:2103.03874).
"""

from __future__ import annotations

import re
import unicodedata

# Spaces that separate thousands, in one form. Between other characters they are spaces.
THIN_SPACE = "\N{THIN SPACE}"
# Stands for whatever ends an expression: an equals sign, a tag, a delimiter of LaTeX.
BOUNDARY = "="
# Stands for a character that has a numeric value but is no digit, such as a Roman numeral or a circled number.
NUMERAL = "\N{ROMAN NUMERAL ONE HUNDRED THOUSAND}"
# Stands for a sign of mathematics that is not read, such as ≥ or ∞.
OPERATOR = "±"

_CHARACTERS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{EM DASH}": BOUNDARY,
    "\N{FRACTION SLASH}": "/",
    "\N{DIVISION SLASH}": "/",
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{DOT OPERATOR}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{ALMOST EQUAL TO}": BOUNDARY,
    "\N{RIGHTWARDS ARROW}": BOUNDARY,
    "\N{RIGHTWARDS DOUBLE ARROW}": BOUNDARY,
    "\N{NO-BREAK SPACE}": THIN_SPACE,
    "\N{NARROW NO-BREAK SPACE}": THIN_SPACE,
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "&": BOUNDARY,
}
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
# A line over a digit repeats it for ever.
_MARKED_DIGIT = re.compile("(?<=[0-9])[\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f]+")
_SUBSCRIPTS = re.compile("[₀-₉₊₋]+")
# Each pair is applied in turn.
_REWRITINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>\n]{0,200}>>", BOUNDARY),  # a calculation in an answer of GSM8K
        (r"</?[A-Za-z][\w-]{0,40}/?>", BOUNDARY),  # a tag
        (r"-([$€£¥₹])(?=[\d.])", r"\1-"),
        (r"!=|<=|>=(?!=)|\\(?:neq?|leq?|geq?|lt|gt)(?![A-Za-z])", " < "),
        (r"(?<![-=])[-=]+>|={2,}|\\(?:approx|simeq|to|[Rr]ightarrow|implies)(?![A-Za-z])", BOUNDARY),
        (r"\\(?:left|right|displaystyle|boxed|fbox|!)(?![A-Za-z])", ""),
        (r"\{,\}", ","),
        (r"\\[,;: ]|~", THIN_SPACE),
        (r"\\\\|\\newline(?![A-Za-z])", "\n"),
        (r"\\[()\[\]]|\$\$", BOUNDARY),
        (r"\\([%$#{}])", r"\1"),
        (r"\^ ?\{? ?\\(?:circ|degree) ?\}?|\\degree(?![A-Za-z])", "°"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|emph)\s*\{([^{}]*)\}", r" \1 "),
        (r"(?<=[^\W\d_]) +\^", "^"),
        (r"(?<![\w)}\]*])(\*{1,3}|`)(?=[^\s*])([^*`\n]{1,200})(?<=\S)\1(?![\w({\[*])", r"\2"),  # emphasis, code
    )
]


def plain_text(text: str) -> str:
    """Return a text in the form in which numbers are read."""
    text = _last_box(_translate(unicodedata.normalize("NFC", text)))
    for pattern, replacement in _REWRITINGS:
        text = pattern.sub(replacement, text)
    return text


def _translate(text: str) -> str:
    """Replace characters by their usual form."""
    text = _SUPERSCRIPTS.sub(lambda run: f"^{{{unicodedata.normalize('NFKC', run.group())}}}", text)
    text = _SUBSCRIPTS.sub(lambda run: f"_{{{unicodedata.normalize('NFKC', run.group())}}}", text)
    text = _MARKED_DIGIT.sub(OPERATOR, text)
    return text.translate({ord(each): _usual_form(each) for each in set(text) if not each.isascii()} | _ASCII)


_ASCII = {ord(each): form for each, form in _CHARACTERS.items() if each.isascii()}


def _usual_form(character: str) -> str:
    """Return what stands for a character outside of ASCII."""
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isdecimal():
        return str(int(character))
    decomposed = unicodedata.normalize("NFKC", character)
    if "\N{FRACTION SLASH}" in decomposed:
        numerator, _, denominator = decomposed.partition("\N{FRACTION SLASH}")
        return rf"\frac{{{numerator}}}{{{denominator}}}" if denominator else NUMERAL
    if unicodedata.category(character) in ("No", "Nl"):
        return NUMERAL
    if unicodedata.category(character) == "Cf":  # it cannot be seen
        return ""
    if unicodedata.category(character) == "Sm" and character not in "√":
        return OPERATOR
    # Full-width forms are the same characters, only wider.
    return _CHARACTERS.get(decomposed, decomposed) if "\uff01" <= character <= "\uff5e" else character


def _last_box(text: str) -> str:
    r"""Return the contents of the last `\boxed{}`, or the text if it has none.

    A boundary behind them tells that an exclamation mark there ends no sentence.
    """
    begin = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if begin < 0:
        return text
    begin = text.index("{", begin) + 1
    depth = 1
    for place in re.finditer(r"[{}]", text[begin:]):
        depth += 1 if place.group() == "{" else -1
        if depth == 0:
            return text[begin : begin + place.start()] + BOUNDARY
    return text
