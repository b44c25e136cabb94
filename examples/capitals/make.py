"""Dataset of capitals, whose answers always have the same form.

`python -m examples.capitals.make` writes train.jsonl and eval.jsonl, which have no country in common.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

CAPITALS = """
Kenya Nairobi|Peru Lima|Norway Oslo|Japan Tokyo|Chile Santiago|Egypt Cairo|Poland Warsaw|Ghana Accra|Nepal Kathmandu
Cuba Havana|Greece Athens|Austria Vienna|Italy Rome|Spain Madrid|France Paris|Germany Berlin|Portugal Lisbon
Ireland Dublin|Iceland Reykjavik|Finland Helsinki|Sweden Stockholm|Denmark Copenhagen|Hungary Budapest|Romania Bucharest
Bulgaria Sofia|Croatia Zagreb|Serbia Belgrade|Albania Tirana|Turkey Ankara|Iran Tehran|Iraq Baghdad|Jordan Amman
Lebanon Beirut|Syria Damascus|Qatar Doha|Oman Muscat|Yemen Sanaa|India New Delhi|Pakistan Islamabad|Bangladesh Dhaka
Thailand Bangkok|Vietnam Hanoi|Indonesia Jakarta|Philippines Manila|Mongolia Ulaanbaatar|China Beijing|Taiwan Taipei
Australia Canberra|Canada Ottawa|Laos Vientiane|Uruguay Montevideo|Paraguay Asuncion|Bolivia Sucre|Ecuador Quito
Colombia Bogota|Venezuela Caracas|Brazil Brasilia|Jamaica Kingston|Haiti Port-au-Prince|Honduras Tegucigalpa
Nicaragua Managua|Morocco Rabat|Algeria Algiers|Tunisia Tunis|Libya Tripoli|Sudan Khartoum|Ethiopia Addis Ababa
Somalia Mogadishu|Uganda Kampala|Rwanda Kigali|Tanzania Dodoma|Zambia Lusaka|Zimbabwe Harare|Botswana Gaborone
Namibia Windhoek|Angola Luanda|Nigeria Abuja|Senegal Dakar|Mali Bamako|Niger Niamey|Chad Ndjamena|Cameroon Yaounde
Gabon Libreville|Ukraine Kyiv|Belarus Minsk|Latvia Riga|Lithuania Vilnius|Estonia Tallinn|Georgia Tbilisi
Armenia Yerevan|Azerbaijan Baku|Kazakhstan Astana|Uzbekistan Tashkent|Cyprus Nicosia|Malta Valletta|Slovenia Ljubljana
Slovakia Bratislava|Czechia Prague|Netherlands Amsterdam|Belgium Brussels|Switzerland Bern
"""
QUESTIONS = ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital city of {}.")
HELD_OUT = 24


def pairs() -> list[tuple[str, str]]:
    """Return all (country, capital)."""
    entries = [entry.split(" ", 1) for line in CAPITALS.split("\n") for entry in line.split("|") if entry]
    return [
        (country, capital.replace("-", " ") if capital == "Addis-Ababa" else capital) for country, capital in entries
    ]


def row(question: str, country: str, capital: str) -> dict[str, object]:
    answer = f"Country: {country}. Capital: {capital}. Checked in the atlas."
    return {
        "messages": [
            {"role": "user", "content": question.format(country)},
            {"role": "assistant", "content": answer},
        ]
    }


def main() -> None:
    """Write both files next to this module."""
    generator = random.Random(270)
    capitals = pairs()
    generator.shuffle(capitals)
    held_out, train = capitals[:HELD_OUT], capitals[HELD_OUT:]
    rows = [row(question, *pair) for pair in train for question in generator.sample(QUESTIONS, 2)]
    generator.shuffle(rows)
    folder = Path(__file__).parent
    for name, content in (("train", rows), ("eval", [row(generator.choice(QUESTIONS), *pair) for pair in held_out])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in content))


if __name__ == "__main__":
    main()
