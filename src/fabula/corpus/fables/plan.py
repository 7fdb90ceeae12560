"""What a fable may be about, which features it may have, and how probable each is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LANGUAGES = ("es", "en")

SETUPS: tuple[str, ...] = (
    "resource_sharing",
    "turn_taking",
    "complementary_skills",
    "trade",
    "joint_problem_solving",
    "communication",
    "altruism",
    "conflict_resolution",
    "failed_cooperation",
    "non_cooperative_agent",
    "win_lose",
    "fair_competition",
)

FEATURES: tuple[str, ...] = ("dialogue", "moral", "twist", "foreshadowing", "conflict", "bad_ending")

# Flag -> (probability, probability in the set-ups where it differs). The set-ups are equally probable.
# "named" is not a feature of the story: it says whether the characters bear proper names.
CHANCES: Mapping[str, tuple[float, Mapping[str, float]]] = MappingProxyType(
    {
        "named": (0.65, {}),
        "dialogue": (0.7, {}),
        "moral": (0.7, {}),
        "twist": (0.25, {}),
        "foreshadowing": (0.25, {}),
        "conflict": (0.3, {"altruism": 0.0, "conflict_resolution": 1.0}),
        "bad_ending": (0.2, {"non_cooperative_agent": 0.5, "win_lose": 0.3, "altruism": 0.1}),
    }
)
