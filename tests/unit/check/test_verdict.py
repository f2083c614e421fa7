"""What is said of a model that was looked at: each fault and each note by name, with nothing loaded."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest

from modelcache.check.golden import Golden
from modelcache.check.probes import Answer, Observation, Probe, answer_from_json, answer_to_json, probe_from_json
from modelcache.check.verdict import judge, recorded
from modelcache.cli.commands import check
from modelcache.core.kinds import Kind, Output
from modelcache.core.types import LockedModel, set_digest
from tests.support.published_model import pinned

MODEL = pinned()
OTHER = pinned(commit="d" * 40, content={"x": b"x"})
ANSWER = Answer(Probe("law"), array("f", [0.5, 1.0]))
WELL = Observation(dimension=2, dtype="float32", answers=(ANSWER,))
GOLDEN = {set_digest(MODEL.files): Golden(MODEL.id, MODEL.kind, (ANSWER,))}
SPARSE, MULTI_VECTOR = replace(MODEL, kind=Kind.SPARSE), replace(MODEL, kind=Kind.MULTI_VECTOR)
MANY = [f"layer.{number}" for number in range(40)]

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"attempts": ["hub:443", "hub:443"]}, "it attempted network access to hub:443"),
    "folder": ({"missing_folders": ["1_Pooling"]}, "modules.json names 1_Pooling, and there is no such directory"),
    "pooling": (
        {"default_pooling": True},
        "it has no modules.json, so sentence-transformers falls back to mean pooling",
    ),
    "by id": (
        {"not_found_by_id": ["config.json"]},
        "a program that loads it by its id does not find config.json in the Hub view",
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


def sparse(probe: Probe, *indices: int, dimension: int = 4) -> Answer:
    """A sparse vector with a number at each of these indices."""
    return Answer(probe, array("f", [0.5] * len(indices)), array("I", indices), dimension)


def matrix(probe: Probe, rows: int, columns: int = 4) -> Answer:
    """A matrix of so many rows."""
    return Answer(probe, array("f", [0.5] * (rows * columns)), dimension=columns)


DOCUMENT, QUERY, EMPTY = Probe("law", prompt="document"), Probe("law", prompt="query"), Probe(prompt="query")
LONG, PAIR = Probe(words=80, prompt="query"), Answer(Probe("law", query="judge"), array("f", [3]))
NO_ZERO = "it gives no zero for {}: is it a model of another kind than its table?"


@pytest.mark.parametrize(
    ("model", "answers", "faults", "notes"),
    [
        (SPARSE, [sparse(DOCUMENT, 1, 3), sparse(QUERY, 0), sparse(EMPTY)], [], []),
        (
            SPARSE,
            [sparse(DOCUMENT, 1), sparse(QUERY), sparse(LONG)],
            ["it gives nothing but zeros as query: is its head missing, or its table of word weights?"],
            [],
        ),
        (
            SPARSE,
            [sparse(DOCUMENT, 1), sparse(QUERY), sparse(LONG, 1)],
            [],
            ['it gives nothing but zeros for "law" as query: does it know none of these words?'],
        ),
        (
            SPARSE,
            [sparse(DOCUMENT, 0, 1, 2, 3), sparse(QUERY, 1), sparse(EMPTY, 0, 1, 2, 3)],
            [NO_ZERO.format('"law" as document')],
            [],
        ),
        (SPARSE, [sparse(DOCUMENT, 1), sparse(QUERY, 1, dimension=3)], ["it gives 3 numbers instead of 4"], []),
        (
            SPARSE,
            [replace(sparse(DOCUMENT, 1), values=array("f", [float("inf")]))],
            ['numbers that are not finite for "law" as document'],
            [],
        ),
        (MULTI_VECTOR, [matrix(DOCUMENT, 3), matrix(QUERY, 32), matrix(EMPTY, 0), PAIR], [], []),
        (
            MULTI_VECTOR,
            [matrix(DOCUMENT, 0), matrix(QUERY, 1), matrix(LONG, 0), PAIR],
            ['it gives no vector for "law" as document, 80 words as query'],
            [],
        ),
        (
            MULTI_VECTOR,
            [matrix(DOCUMENT, 2, columns=3), matrix(QUERY, 2), PAIR],
            ["it gives 3 numbers a token instead of 4"],
            [],
        ),
        (
            MULTI_VECTOR,
            [matrix(DOCUMENT, 1), replace(PAIR, values=array("f", [float("nan")]))],
            ['numbers that are not finite for "judge" with "law"'],
            [],
        ),
    ],
)
def test_answers_of_the_other_forms_are_judged(
    model: LockedModel, answers: list[Answer], faults: list[str], notes: list[str]
) -> None:
    """Nothing but zeros, no zero, no row, another dimension; an empty text may give nothing, and anything else."""
    verdict = judge(model, replace(WELL, dimension=4, answers=answers), {})
    assert (verdict.faults, verdict.notes) == (faults, notes)
    assert bool(recorded([model], [verdict], {}, {})) == (not faults)


@pytest.mark.parametrize(
    ("model", "answers", "told"),
    [
        (MODEL, [ANSWER], "embedding  4  no limit  dot"),
        (SPARSE, [sparse(DOCUMENT, 1, 3), sparse(QUERY, 0)], "sparse  4 numbers, 2 non-zero  no limit  dot"),
        (MULTI_VECTOR, [matrix(DOCUMENT, 3)], "multi_vector  4 numbers a token  no limit  dot"),
    ],
)
def test_a_row_says_how_many_numbers_there_are(model: LockedModel, answers: list[Answer], told: str) -> None:
    """Of a sparse vector also how many are not zero, for the first text."""
    verdict = judge(model, replace(WELL, dimension=4, similarity="dot", answers=answers), {})
    assert told in check.row(verdict)
    assert check.fields(verdict)["dimension"] == 4


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
    ("values", "told", "effect"),
    [
        ([0.5, 1.0], "0 of 1 outputs changed; vectors stay as they are, as far as these texts show", "none"),
        (
            [-0.5, 1.0],
            "1 of 1 outputs changed; cosine at least 0.6000, mean 0.6000; no order of texts to compare;"
            " vectors will differ: re-index",
            "certain",
        ),
    ],
)
def test_another_version_is_compared_and_proves_nothing(values: list[float], told: str, effect: str) -> None:
    """Its numbers are worth knowing; those of another model are not."""
    seen = replace(WELL, answers=(Answer(Probe("law"), array("f", values)),))
    verdict = judge(OTHER, seen, GOLDEN)
    notes = [f"compared with the recorded version: {told}"]
    assert (verdict.faults, list(verdict.moves), verdict.notes, verdict.proven) == ([], [], notes, False)
    assert (check.fields(verdict)["proven"], check.fields(verdict)["effect"]) == (False, effect)
    other_kind = judge(replace(OTHER, kind=Kind.RERANKER), seen, GOLDEN)
    assert (other_kind.notes, other_kind.movement) == ([], None)
    assert "effect" not in check.fields(other_kind)


def test_of_several_recorded_versions_the_furthest_is_compared() -> None:
    """An index may be of any of them, and equal numbers of one of them say nothing of the others."""
    near, far = (
        Golden(MODEL.id, MODEL.kind, (Answer(Probe("law"), array("f", values)),)) for values in ([0.5, 0.9], [1, -0.5])
    )
    (note,) = judge(OTHER, WELL, {**GOLDEN, "a": near, "b": far, "c": replace(far, id="a/b")}).notes
    assert note.startswith("compared with the furthest of 3 recorded versions: 1 of 1 outputs changed; cosine at least")
    assert "cosine at least 0.0000, mean 0.0000; " in note


def test_numbers_that_moved_are_told() -> None:
    """First by how much, then each; and they are recorded anew where that is asked for."""
    seen = replace(WELL, answers=(Answer(Probe("law"), array("f", [-0.5, 1.0])),), prompts={"query": "q: "})
    verdict = judge(MODEL, seen, GOLDEN)
    assert verdict.moves == [
        "compared with the recorded numbers: 1 of 1 outputs changed; cosine at least 0.6000, mean 0.6000;"
        ' no order of texts to compare; other prompts: "query"; vectors will differ: re-index',
        'the prompt "query" was "" and is "q: "',
        'probe 1 of 1 ("law") moved: cosine 0.600000, at least 0.99999',
    ]
    assert verdict.proven
    assert verdict.moves[0] in check.failure(verdict, GOLDEN, {}).message
    (golden,) = recorded([MODEL], [verdict], {"torch": "2"}, GOLDEN).values()
    assert (golden.answers, golden.prompts, golden.versions) == (tuple(seen.answers), {"query": "q: "}, {"torch": "2"})
    assert recorded([OTHER], [], {}, GOLDEN) == {}


def test_the_fields_have_the_figures_where_numbers_are_recorded() -> None:
    """Also of a model that gives the recorded numbers: a program need not read the sentences."""
    fields = check.fields(judge(MODEL, WELL, GOLDEN))
    expected = {"effect": "none", "recorded": 1, "comparable": 1, "changed": 0, "cosine_min": 1.0, "cosine_mean": 1.0}
    assert {name: fields[name] for name in expected} == expected
    assert not {"score_max", "queries"} & fields.keys()


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
        answer_from_json({"text": "law", "values": values}, Output.VECTOR)
    with pytest.raises(ValueError, match="an answer"):
        answer_from_json({"text": "law"}, Output.VECTOR)
    assert answer_from_json(answer_to_json(ANSWER), Output.VECTOR) == ANSWER


INCLUDED = {
    **dict.fromkeys(("config.json", "model.safetensors", "tokenizer.json", "README.md"), b"{}"),
    **dict.fromkeys(("onnx/model.onnx", "openvino/openvino_model.xml", "sparse_linear.pt"), b"x"),
}


@pytest.mark.parametrize(
    ("include", "named"),
    [
        (("*",), ["onnx/model.onnx", "openvino/openvino_model.xml", "sparse_linear.pt"]),
        (("onnx/",), ["onnx/model.onnx"]),
        (("*.json",), []),
        ((), []),
    ],
)
def test_only_what_no_loader_opens_is_noted_as_not_run(include: tuple[str, ...], named: list[str]) -> None:
    """A wide pattern names the weights and the tokenizer, too, and these have just been loaded."""
    verdict = judge(replace(pinned(INCLUDED), include=include), WELL, {})
    said = f"included for other programs, and not run here: {', '.join(named)}"
    assert [note for note in verdict.notes if "included" in note] == ([said] if named else [])
