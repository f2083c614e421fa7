"""Hostile models: each tries one door out of `check`, as root, as another user, and where no namespace can be had.

`tests/support/hostile` has the table of doors. All models of it are checked in one run, between two honest ones.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.conftest import unavailable
from tests.support.hostile.doors import DOORS, Door
from tests.support.hostile.surroundings import SURROUNDINGS, attack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else"),
]

_NAMES = [door.name for door in DOORS]


def attacked(way: str, surrounding: str) -> dict[str, Any]:
    """Attack; where no other user can run this project, skip."""
    try:
        return attack(way, surrounding)
    except FileNotFoundError as error:
        unavailable(str(error))


@pytest.fixture(scope="module", params=SURROUNDINGS, ids=[name.replace(" ", "-") for name in SURROUNDINGS])
def check(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One check of all models, in one of the surroundings."""
    return attacked("check", request.param)


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    """The same models, loaded as an application does."""
    return {surrounding: attacked("plain", surrounding) for surrounding in ("root", "user")}


def test_honest_models_are_judged_beside_hostile_ones(check: dict[str, Any]) -> None:
    """The first, the last, and the one whose numbers are none; it ends as the models deserve, with no traceback."""
    assert not check["spoiled"], check["text"]
    assert check["rows"]["hostile/speaks-for-the-next-broken"][0] == "failed", check["text"]
    assert check["exit_code"] == 6, check["text"]


@pytest.mark.parametrize("door", DOORS, ids=_NAMES)
def test_a_hostile_model_does_no_harm(check: dict[str, Any], door: Door) -> None:
    """Its code ran, and nothing outside has changed, was told, was reached or lives on."""
    assert door.name in check["tried"], check["text"]
    assert not check["harm"][door.name], check["text"]


@pytest.mark.parametrize("door", DOORS, ids=_NAMES)
def test_without_a_check_it_does_harm(plain: dict[str, dict[str, Any]], door: Door) -> None:
    """The same model and the same look from outside: a door that nobody tried would look shut, too."""
    loaded = plain["root" if door.only_root else "user"]
    assert loaded["harm"][door.name], loaded["text"]
