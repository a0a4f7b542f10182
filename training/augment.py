"""Sentences with other countries or with slips of the finger in them: neither must decide the label.

In a corpus some names go with one label more often than not, and a model learns that. Only the names of states, their people and
their capitals are swapped, all of one sentence at once, so that a sentence about Iran and Washington becomes one about, say, Peru
and Washington; the label stays.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from training.data import Example

# fmt: off
STATES: tuple[tuple[str, str, str], ...] = (  # state, its adjective, its capital
    ("Iran", "Iranian", "Tehran"), ("North Korea", "North Korean", "Pyongyang"), ("South Korea", "South Korean", "Seoul"),
    ("Japan", "Japanese", "Tokyo"), ("China", "Chinese", "Beijing"), ("Taiwan", "Taiwanese", "Taipei"),
    ("Russia", "Russian", "Moscow"), ("Ukraine", "Ukrainian", "Kyiv"), ("Israel", "Israeli", "Jerusalem"),
    ("Syria", "Syrian", "Damascus"), ("Lebanon", "Lebanese", "Beirut"), ("Iraq", "Iraqi", "Baghdad"),
    ("Egypt", "Egyptian", "Cairo"), ("Turkey", "Turkish", "Ankara"), ("Greece", "Greek", "Athens"),
    ("India", "Indian", "New Delhi"), ("Pakistan", "Pakistani", "Islamabad"), ("Afghanistan", "Afghan", "Kabul"),
    ("Armenia", "Armenian", "Yerevan"), ("Azerbaijan", "Azerbaijani", "Baku"), ("Serbia", "Serbian", "Belgrade"),
    ("Libya", "Libyan", "Tripoli"), ("Ethiopia", "Ethiopian", "Addis Ababa"), ("Eritrea", "Eritrean", "Asmara"),
    ("Rwanda", "Rwandan", "Kigali"), ("Venezuela", "Venezuelan", "Caracas"), ("Colombia", "Colombian", "Bogotá"),
    ("Cuba", "Cuban", "Havana"), ("Peru", "Peruvian", "Lima"), ("Algeria", "Algerian", "Algiers"),
    ("Morocco", "Moroccan", "Rabat"), ("Yemen", "Yemeni", "Sanaa"), ("Myanmar", "Burmese", "Naypyidaw"),
    ("Cambodia", "Cambodian", "Phnom Penh"), ("Vietnam", "Vietnamese", "Hanoi"), ("Belarus", "Belarusian", "Minsk"),
    ("Mali", "Malian", "Bamako"), ("Niger", "Nigerien", "Niamey"), ("Kenya", "Kenyan", "Nairobi"), ("Poland", "Polish", "Warsaw"),
)
# fmt: on
_PLACE = {name: (number, form) for number, state in enumerate(STATES) for form, name in enumerate(state)}
_NAME = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _PLACE), key=len, reverse=True))})\b")

_LONG = re.compile(r"[^\W\d_]{5,}")


def swap_names(text: str, draw: random.Random) -> str:
    """`text` with each state it names, by name, adjective or capital, replaced by another, the same throughout the sentence."""
    found = list(dict.fromkeys(_PLACE[match.group()][0] for match in _NAME.finditer(text)))
    others = draw.sample([number for number in range(len(STATES)) if number not in found], len(found))
    instead = dict(zip(found, others, strict=True))

    def swapped(match: re.Match[str]) -> str:
        number, form = _PLACE[match.group()]
        return STATES[instead[number]][form]

    return _NAME.sub(swapped, text)


def with_swapped_names(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """`examples`, and after them a swapped copy of a `share` of those that name a state."""
    draw = random.Random(seed)
    chosen = [example for example in examples if share and _NAME.search(example.text) and draw.random() < share]
    return [*examples, *(replace(row, id=f"{row.id}-swapped", text=swap_names(row.text, draw)) for row in chosen)]


def with_typos(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """`examples`, a `share` of them with one slip in a word of five letters or more: two letters changed round, one left out, or
    one doubled (the kinds of Damerau, 1964, that need no keyboard)."""
    draw = random.Random(seed)
    return [
        replace(example, text=_slip(example.text, draw)) if share and draw.random() < share else example for example in examples
    ]


def _slip(text: str, draw: random.Random) -> str:
    found = list(_LONG.finditer(text))
    if not found:
        return text
    word = draw.choice(found)
    place = draw.randrange(word.start() + 1, word.end() - 1)
    letters = draw.choice((text[place + 1] + text[place], text[place + 1], text[place] + text[place : place + 2]))
    return text[:place] + letters + text[place + 2 :]
