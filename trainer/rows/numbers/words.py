"""Words that belong to a number, or that make it another one."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words, and signs, that may stand directly behind a number. Other letters there, as in 2x or 5k, make it no number.
ATTACHED_UNITS = _words(
    "mm cm dm m km in ft yd mi mg g kg t lb lbs oz ml mL cl dl l L ms s sec min h hr hrs V W kW kWh A J kJ N Pa kPa "
    "Hz kHz MHz GHz C F mph kmh px KB MB GB TB EUR USD GBP m^2 cm^2 km^2 m^3 cm^3 m/s km/h m/s^2"
)
# A single letter behind a number, after a space, is a variable, if it is no unit or an article.
ARTICLES = frozenset({"a", "A", "I"})
CURRENCIES = {
    "$": "dollar",
    "usd": "dollar",
    "€": "euro",
    "eur": "euro",
    "£": "pound",
    "gbp": "pound",
    "¥": "yen",
    "₹": "rupee",
}
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
PERCENT = frozenset({"percent", "pct"})
NEGATIVE = frozenset({"minus", "negative"})
# Words that join two numbers to something that is not one of them.
JOINERS = _words(
    "and or nor to of out by x X times plus minus over per mod through thru until till versus vs divided multiplied "
    "choose"
)
# Words before a number that make it another one.
NOT_BEFORE = _words(
    "sqrt root log ln lg lb exp sin cos tan cot sec csc arcsin arccos arctan gcd lcm max min floor ceil abs mod not "
    "isn't past half twice double triple thrice binom"
)
# The same with "of" in between.
NOT_BEFORE_OF = NOT_BEFORE | _words(
    "square cube squares cubes third thirds quarter quarters fourth fifth tenth percent power factorial logarithm sine "
    "cosine tangent reciprocal inverse opposite negative multiple multiples"
)
# Words behind a number that make it another one.
NOT_AFTER = _words(
    "pi tau squared cubed factorial sqrt root th halves thirds quarters fourths fifths sixths eighths tenths "
    "hundredths thousandths half third am pm bc choose mod hundreds thousands millions billions dozens"
)


def unit_name(word: str) -> str:
    """Return a unit's name: singular, and without the braces of exponents.

    Short units keep upper and lower case, which tell mW from MW.
    """
    plain = word.replace("{", "").replace("}", "")
    if plain.casefold() in CURRENCIES:
        return CURRENCIES[plain.casefold()]
    if len(plain) < 3 or "^" in plain or "/" in plain:
        return plain
    folded = plain.casefold()
    return folded.removesuffix("s") if len(folded) > 3 else folded
