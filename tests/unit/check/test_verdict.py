"""What is said of a model that was looked at: each fault and each note by name, with nothing loaded."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest

from modelcache.check.golden import Golden
from modelcache.check.probes import Answer, Observation, Probe, answer_from_json, answer_to_json, probe_from_json
from modelcache.check.verdict import judge, recorded
from modelcache.core.kinds import Kind
from modelcache.core.types import set_digest
from tests.support.published_model import pinned

MODEL = pinned()
OTHER = pinned(commit="d" * 40, content={"x": b"x"})
ANSWER = Answer(Probe("law"), array("f", [0.5, 1.0]))
WELL = Observation(dimension=2, dtype="float32", answers=(ANSWER,))
GOLDEN = {set_digest(MODEL.files): Golden(MODEL.id, MODEL.kind, (ANSWER,))}
MANY = [f"layer.{number}" for number in range(40)]

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"attempts": ["hub:443", "hub:443"]}, "it attempted network access to hub:443"),
    "folder": ({"missing_folders": ["1_Pooling"]}, "modules.json names 1_Pooling, and there is no such directory"),
    "pooling": (
        {"default_pooling": True},
        "it has no modules.json, so sentence-transformers falls back to mean pooling",
    ),
    "missing": (
        {"newly_initialized": ["a", "b"]},
        "missing keys, parameters that no weight file names, so that they are newly initialized at random: a, b",
    ),
    "unexpected": ({"unexpected": ["a"]}, "unexpected keys, weights for which the model has no parameter: a"),
    "constant": ({"constant_prompts": [" as query"]}, "it gives the same numbers for different words as query"),
    "endless": ({"answers": [Answer(Probe("law"), array("f", [0.5, float("nan")]))]}, "numbers that are not finite"),
    "dimension": ({"dimension": 3}, "it gives 2 numbers instead of 3"),
    "error": ({"error": "ValueError: no"}, "it does not load: ValueError: no"),
    "asked": (
        {"error": "ValueError: no", "failed_step": 'asked for "law"'},
        'it loads, and fails when it is asked for "law": ValueError: no',
    ),
    "package": (
        {"missing_packages": ["Pillow"]},
        "it asks for packages that are not installed here: Pillow; `pip install Pillow`",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_once(fault: str) -> None:
    """And nothing else; such a model is not recorded."""
    seen, told = FAULTS[fault]
    verdict = judge(MODEL, replace(WELL, **seen), {})
    assert len(verdict.faults) == 1
    assert verdict.faults[0].startswith(told)
    assert recorded([MODEL], [verdict], {}, {}) == {}
    assert recorded([MODEL], [verdict], {}, GOLDEN) == GOLDEN


def test_of_many_names_some_are_told() -> None:
    """The rest is counted."""
    (told,) = judge(MODEL, replace(WELL, newly_initialized=MANY), {}).faults
    assert told.endswith("more")
    assert MANY[0] in told
    assert MANY[-1] not in told


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"newly_initialized_unused": ["a"]}, "unused parameters without a weight: a"),
        ({"unused": ["a"]}, "unused weights: a"),
        ({"computed": ["a"]}, "parameters without a weight, but the same at each load, so computed or constant: a"),
        ({"unanswered": ['"": IndexError']}, 'it gives nothing for "": IndexError'),
        ({"unreachable_tokens": ["5 tokens"]}, "5 tokens: a text with one of the others ends in an error"),
    ],
)
def test_what_is_no_fault_is_noted(seen: dict[str, Any], told: str) -> None:
    """It passes all the same."""
    verdict = judge(MODEL, replace(WELL, **seen), GOLDEN)
    assert (verdict.faults, verdict.moves, verdict.notes, verdict.proven) == ([], [], [told], True)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.5, 1.0], ["another version of it is recorded: its numbers are the same"]),
        ([-0.5, 1.0], ["another version of it is recorded: 1 of 1 numbers are others"]),
    ],
)
def test_another_version_is_compared_and_proves_nothing(values: list[float], told: list[str]) -> None:
    """Its numbers are worth knowing; those of another model are not."""
    seen = replace(WELL, answers=(Answer(Probe("law"), array("f", values)),))
    verdict = judge(OTHER, seen, GOLDEN)
    assert (verdict.faults, verdict.notes, verdict.proven) == ([], told, False)
    assert judge(replace(OTHER, kind=Kind.RERANKER), seen, GOLDEN).notes == []


def test_numbers_that_moved_are_told() -> None:
    """And recorded anew where that is asked for."""
    seen = replace(WELL, answers=(Answer(Probe("law"), array("f", [-0.5, 1.0])),), prompts={"query": "q: "})
    verdict = judge(MODEL, seen, GOLDEN)
    assert len(verdict.moves) == 2
    assert verdict.proven
    (golden,) = recorded([MODEL], [verdict], {"torch": "2"}, GOLDEN).values()
    assert (golden.answers, golden.prompts, golden.versions) == (tuple(seen.answers), {"query": "q: "}, {"torch": "2"})
    assert recorded([OTHER], [], {}, GOLDEN) == {}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"text": 1},
        {"words": 0},
        {"words": 1_000_001},
        {"words": "many"},
        {"text": "x", "query": 1},
        {"text": "x", "prompt": None},
        {"text": "x", "task": []},
    ],
)
def test_what_is_no_probe_is_refused(entry: dict[str, Any]) -> None:
    """It comes from a file that people edit."""
    with pytest.raises(ValueError, match="a probe"):
        probe_from_json(entry)


@pytest.mark.parametrize("values", [None, 1, "?", "AAA=", "AAAAAAA=", ""])
def test_what_is_no_answer_is_refused(values: object) -> None:
    """Not base64, not 32-bit floats, nothing at all."""
    with pytest.raises(ValueError, match="an answer"):
        answer_from_json({"text": "law", "values": values})
    with pytest.raises(ValueError, match="an answer"):
        answer_from_json({"text": "law"})
    assert answer_from_json(answer_to_json(ANSWER)) == ANSWER
