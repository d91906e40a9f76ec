"""Words that say nothing about what a question is after. Questions lose them, documents never."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ENGLISH = (
    "a about after again all also am an and any anybody anyone anything are as at be because "
    "been before being between both but by can cannot could did do does doing done down "
    "during each either else every everybody everyone everything few for from further get "
    "gets getting give given go got had has have having he her here hers him his how however "
    "i if in instead into is it its itself just let like long many may me might mine more "
    "most much must my myself need neither no nor not now of off on once one only or other "
    "our ours out over own please rather same say shall she should show so some somebody "
    "someone something still such tell than that the their theirs them then there these they "
    "thing things this those through to too under until up upon us use used using very was "
    "way we well were what whatever when where whether which while who whole whom whose why "
    "will with within without would yet you your yours "
)

STOP_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"english": frozenset(_ENGLISH.split())}
)
