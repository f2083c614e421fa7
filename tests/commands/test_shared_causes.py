"""A cause that is not one model's own is reported once, with the models that it concerns."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Ran, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub, Status

MODELS = [f"tinyorg/model-{number}" for number in range(6)]
"""More than are pinned at the same time."""


@pytest.fixture
def six(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting six models that the Hub has."""
    files = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    for model in MODELS:
        hub.add(model, files)
    tool.want(*MODELS)
    return tool


def assert_told_once(ran: Ran, exit_code: int) -> None:
    """One error, one hint, and every model named once."""
    lines = ran.err.splitlines()
    assert ran.exit_code == exit_code, ran.err
    assert [line.partition(":")[0] for line in lines if line.startswith(("error", "hint"))] == ["error", "hint"]
    [named] = [line for line in lines if line.startswith("  models: ")]
    assert sorted(named.removeprefix("  models: ").split(", ")) == MODELS


@pytest.mark.parametrize("command", ["lock", "sync"])
def test_a_wrong_token_is_told_once_naming_the_models(
    six: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """With the source of the token; the Hub answers 401 for each model."""
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")
    ran = six(command)
    assert_told_once(ran, 3)
    assert "HF_TOKEN" in ran.err.splitlines()[0]


def test_a_token_that_expires_after_the_lock_is_told_once(
    six: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the files are refused, and not the listing."""
    assert six("lock").exit_code == 0
    for kept in six.folder.glob("cached_*_models"):
        os.rename(kept, six.folder / "away")
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")
    assert_told_once(six("sync", "--locked"), 3)


def test_a_hub_out_of_reach_is_told_once_naming_the_models(six: Tool, hub: StandInHub) -> None:
    """Those that were not begun are among them."""
    hub.close()
    assert_told_once(six("sync", "--timeout=1"), 3)


@pytest.mark.parametrize(("retries", "told"), [("0", "(tried once)"), ("1", "(tried 2 times)")])
def test_a_hub_out_of_reach_is_told_with_the_tries_and_a_way_that_lock_has(
    six: Tool, hub: StandInHub, retries: str, told: str
) -> None:
    """`--from` is an option of `sync` alone, so the hint names both."""
    hub.close()
    ran = six("lock", f"--retries={retries}")
    assert (ran.exit_code, told in ran.err) == (3, True), ran.err
    assert "`cache-models sync --from`" in ran.err


def test_a_rate_limit_is_told_in_words(six: Tool, hub: StandInHub) -> None:
    """The number alone is to be looked up."""
    hub.fail(Status(429, {"Retry-After": "0"}), on="GET hub", times=-1)
    ran = six("sync")
    assert_told_once(ran, 3)
    assert "error: 127.0.0.1: status 429 (too many requests)" in ran.err


def test_a_hub_that_fails_is_told_once_naming_the_models(six: Tool, hub: StandInHub) -> None:
    """Each model has its own retries, and the reason is the same."""
    hub.fail(Status(500, {"Retry-After": "0"}), on="GET hub", times=-1)
    assert_told_once(six("sync"), 3)


def test_offline_is_told_once_naming_the_models(six: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models that have to be fetched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_told_once(six("sync"), 3)


def test_a_wrong_setting_is_told_once_naming_the_models(six: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a token in quotes."""
    monkeypatch.setenv("HF_TOKEN", "'hf_x'")
    assert_told_once(six("sync"), 2)


def test_offline_names_only_what_has_to_be_fetched(six: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are in place."""
    assert six("sync", *MODELS[1:]).exit_code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = six("sync")
    assert f"  models: {MODELS[0]}" in ran.err.splitlines()


def test_gated_repositories_are_told_one_by_one(six: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Each has a page of its own, on which its terms are accepted."""
    files = files_below(tmp_path / "embedding")
    for model in MODELS:
        hub.add(model, files, gated=True)
    ran = six("sync")
    assert ran.exit_code == 3
    for model in MODELS:
        assert f"{hub.url}/{model}" in ran.err
    assert "  models:" not in ran.err


def test_the_json_event_has_the_models_in_its_text(six: Tool, hub: StandInHub) -> None:
    """As the lines on a terminal."""
    hub.close()
    ran = six("sync", "--log-format=json", "--timeout=1")
    event = json.loads(ran.err.splitlines()[-1])
    assert event["event"] == "error"
    assert all(model in event["text"] for model in MODELS)


def test_a_model_that_is_refused_by_itself_claims_no_other(six: Tool, hub: StandInHub) -> None:
    """It fails beside one for which the Hub is out of reach; that one names the models that were not begun."""
    assert six("lock").exit_code == 0
    for kept in six.folder.glob("cached_*_models"):
        os.rename(kept, six.folder / "away")
    hub.fail(Status(403), on=f"{MODELS[0]}/", times=-1)
    hub.fail(Status(500, {"Retry-After": "0"}), on=f"{MODELS[1]}/", times=-1)
    ran = six("sync", "--locked", "--jobs=4")
    named = [line.removeprefix("  models: ") for line in ran.err.splitlines() if line.startswith("  models: ")]
    assert named == [", ".join([MODELS[1], *MODELS[4:]])]


def test_a_root_that_is_a_file_is_told_once_naming_the_models(six: Tool) -> None:
    """Nothing below it can be made, whichever model comes first."""
    (six.folder / "root").write_text("x")
    assert_told_once(six("sync", "--root=root"), 4)


def test_too_little_space_is_told_once_naming_the_models(six: Tool, small_volume: Path) -> None:
    """Before the first byte."""
    assert_told_once(six("sync", f"--root={small_volume}"), 4)


@pytest.mark.parametrize("option", ["ro,size=64m", "nr_inodes=15,size=64m"], ids=["read-only", "no inode left"])
def test_a_volume_that_takes_no_more_is_told_once_naming_the_models(six: Tool, small_volume: Path, option: str) -> None:
    """Each model meets it at another path."""
    assert six("lock").exit_code == 0
    subprocess.run(["mount", "-o", f"remount,{option}", small_volume], check=True)
    assert_told_once(six("sync", "--locked", f"--root={small_volume}"), 4)


def test_a_model_from_a_directory_is_not_told_of_a_hub_out_of_reach(six: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """It needs none."""
    six.want(*MODELS, extra='[[embedding]]\nid = "acme/house"\npath = "../embedding"\n')
    hub.close()
    assert_told_once(six("lock", "--timeout=1"), 3)
