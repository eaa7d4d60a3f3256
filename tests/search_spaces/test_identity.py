"""Which settings name a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from search_spaces.settings import Description, identity
from study.networks.settings import NetworkSettings

PART = NetworkSettings(backbone="vgg11")


@dataclass(frozen=True, kw_only=True)
class Grown:
    old: Annotated[int, Description("known from the start")] = 1
    new: Annotated[int, Description("known since later", added=True)] = 2
    part: NetworkSettings = PART


def test_an_added_setting_names_a_trial_only_where_it_differs_from_its_default() -> None:
    part = identity(PART)
    assert identity(Grown()) == {"old": 1, "part": part}
    assert identity(Grown(new=3)) == {"old": 1, "new": 3, "part": part}
