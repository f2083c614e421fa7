"""The changes between two versions, and their effect; it is none exactly where the ids of two indexes are equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.changes import Difference, Part
from modelcache.core.effect import Effect
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.resolver.changes import compare
from modelcache.resolver.index_id import index_id
from tests.support.faults.fuzz import BUDGET
from tests.support.pins import pin, reader, unread
from tests.support.versions import BASE, OLD, Edits, Keys, changed, modules, repository

FILES = repository(Kind.EMBEDDING)
NONE, POSSIBLE, CERTAIN = Effect
Files = Mapping[str, bytes]


def between(old: Files, new: Files, **more: object) -> Difference:
    """Compare two versions, both at hand."""
    return compare(pin(old, **more), pin(new, **more), reader(old), reader(new))  # type: ignore[arg-type]


def rows(difference: Difference) -> list[tuple[Part, str, Effect]]:
    """Part, name and effect of each change."""
    return [(one.part, one.name, one.effect) for one in difference.changes]


MISTRAL: Edits = {
    "config.json": Keys(model_type="mistral", transformers_version="4.57.3"),
    "tokenizer_config.json": Keys(fix_mistral_regex=True),
}
ROBERTA = "sentence_roberta_config.json"
HIDDEN: Edits = {"sentence_bert_config.json": None, ROBERTA: {"max_seq_length": 16}}


@pytest.mark.parametrize(
    ("old", "edits", "more"),
    [
        (MISTRAL, {"config.json": Keys(transformers_version="5.0.0")}, {}),
        (HIDDEN, {"sentence_bert_config.json": {"do_lower_case": False}}, {}),
        ({"prompt.md": b"a"}, {"prompt.md": b"b"}, {"remote_code": RemoteCode.VENDORED}),
        ({"generation_config.json": b"{}"}, {"generation_config.json": b'{"a": 1}'}, {"kind": Kind.OTHER}),
    ],
    ids=["a tokenizer that is read by the version", "a configuration that hides another", "a text for code", "other"],
)
def test_a_change_that_seems_harmless_and_is_not_has_an_effect(
    old: Edits, edits: Edits, more: dict[str, object]
) -> None:
    """Its id of an index is another one, too."""
    one = changed(FILES, old)
    other = changed(one, edits)
    assert between(one, other, **more).effect is POSSIBLE
    pins = [(pin(files, **more), reader(files)) for files in (one, other)]  # type: ignore[arg-type]
    ids = [index_id(*one) for one in pins]
    assert ids[0] != ids[1] or ids == [None, None]


@pytest.mark.parametrize("key", ["model_args", "model_kwargs"])
def test_included_weights_count_where_a_configuration_chooses_them(key: str) -> None:
    """A variant is an argument of transformers."""
    include = {"include": ("model.fp16.safetensors",)}
    one = changed(FILES, {"model.fp16.safetensors": b"a"})
    assert between(one, changed(one, {"model.fp16.safetensors": b"b"}), **include).effect is NONE
    one = changed(one, {"sentence_bert_config.json": Keys(**{key: {"variant": "fp16"}})})
    assert between(one, changed(one, {"model.fp16.safetensors": b"b"}), **include).effect is CERTAIN


def test_equal_versions_have_no_difference_and_nothing_is_read() -> None:
    """The hashes are equal."""
    difference = compare(pin(FILES), pin(FILES), unread, unread)
    assert (difference.is_empty, difference.effect, difference.parts, difference.unread) == (True, NONE, (), ())


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"model.safetensors": b"x"}, [(Part.WEIGHTS, "model.safetensors", CERTAIN)]),
        ({"vocab.txt": b"x"}, [(Part.TOKENIZER, "vocab.txt", POSSIBLE)]),
        ({"modeling_x.py": b"x"}, [(Part.CODE, "modeling_x.py", POSSIBLE)]),
        ({"words.txt": b"x"}, [(Part.FILES, "words.txt", POSSIBLE)]),
        ({"README.md": None}, [(Part.DOCUMENTS, "README.md", NONE)]),
        ({"sentence_bert_config.json": None}, [(Part.SETTINGS, "sentence_bert_config.json: max_seq_length", POSSIBLE)]),
        ({"config_sentence_transformers.json": None}, [(Part.SETTINGS, "config_sentence_transformers.json", NONE)]),
        ({"1_Pooling/config.json": b"{"}, [(Part.SETTINGS, "1_Pooling/config.json", POSSIBLE)]),
        (
            {"modules.json": modules(f"={OLD}Transformer", f"1_Pooling={OLD}Pooling")},
            [(Part.SETTINGS, "modules.json: modules", CERTAIN)],
        ),
        ({"modules.json": None}, [
            (Part.SETTINGS, "modules.json: modules", POSSIBLE),
        ]),
    ],
)  # fmt: skip
def test_a_file_that_differs_is_a_change_of_its_part(edits: Edits, expected: list[tuple[Part, str, Effect]]) -> None:
    """With the settings that differ, where both versions are JSON."""
    assert rows(between(FILES, changed(FILES, edits))) == expected


def test_settings_that_are_not_at_hand_are_named_and_may_have_an_effect() -> None:
    """Which of them differ is not known; a tokenizer's are no worse than the tokenizer itself."""
    new = changed(FILES, {"config.json": Keys(transformers_version="9"), "tokenizer_config.json": Keys(x=1)})
    for read_old, read_new in ((unread, reader(new)), (reader(FILES), unread), (unread, unread)):
        difference = compare(pin(FILES), pin(new), read_old, read_new)
        assert difference.unread == ("config.json",)
        assert rows(difference) == [
            (Part.TOKENIZER, "tokenizer_config.json", POSSIBLE),
            (Part.SETTINGS, "config.json", POSSIBLE),
        ]


SHARDS = {"model-1.safetensors": b"1", "model-2.safetensors": b"2", "model.safetensors.index.json": b"{}"}
WHOLE = {"model.safetensors": b"w"}


@pytest.mark.parametrize(
    ("old", "new", "converted", "part"),
    [
        (WHOLE, SHARDS, ((), ()), Part.FORMAT),
        (SHARDS, WHOLE, ((), ()), Part.FORMAT),
        (SHARDS, {**SHARDS, "model-2.safetensors": b"3"}, ((), ()), Part.WEIGHTS),
        (WHOLE, {"model.safetensors": b"v"}, (WHOLE, ()), Part.FORMAT),
        (WHOLE, {"model.safetensors": b"v"}, ((), WHOLE), Part.FORMAT),
        (WHOLE, {"model.safetensors": b"v"}, (WHOLE, WHOLE), Part.WEIGHTS),
        (WHOLE, {}, ((), ()), Part.WEIGHTS),
        ({"2_Dense/model.safetensors": b"d", **WHOLE}, WHOLE, ((), ()), Part.WEIGHTS),
        ({"2_Dense/model.safetensors": b"d", **WHOLE}, {"2_Dense/model.safetensors": b"e", **SHARDS}, ((), ()), None),
    ],
)
def test_weights_in_other_files_than_before_may_be_the_same(
    old: Files, new: Files, converted: tuple[Files, Files], part: Part | None
) -> None:
    """In shards, in one file, out of a pickle, folder by folder; weights that are gone altogether are not."""
    before, after = pin(old, converted[0]), pin(new, converted[1])
    difference = compare(before, after, reader(old), reader(new))
    if part is None:
        assert difference.parts == (Part.WEIGHTS, Part.FORMAT)
        assert difference.effect is CERTAIN
    else:
        assert difference.parts == (part,)
        assert difference.effect is (POSSIBLE if part is Part.FORMAT else CERTAIN)


def test_what_a_lock_says_beside_the_files_is_a_change() -> None:
    """Words, not the types of Python."""
    old = pin(FILES, licence="mit", include=("a", "b"), exclude=(), packages=("x",))
    new = replace(old, licence="", gated=True, include=(), exclude=("c",), packages=(), revision="dev")
    found = [(one.part, one.name, one.old, one.new) for one in compare(old, new, unread, unread).changes]
    assert found == [
        (Part.CODE, "packages", "x", ""),
        (Part.LICENCE, "licence", "mit", ""),
        (Part.ACCESS, "gated", "false", "true"),
        (Part.PIN, "exclude", "", "c"),
        (Part.PIN, "include", "a b", ""),
        (Part.PIN, "revision", "main", "dev"),
    ]


MEANINGS: dict[str, tuple[bytes, ...]] = {
    "config.json": (
        b'{"a": 1}',
        b'{"a": 1, "transformers_version": "5"}',
        b'{"a": 2}',
        b'{"torch_dtype": "x"}',
        b'{"dtype": "x"}',
        b"{",
        b"null",
        b"[]",
        b'{"transformers_weights": "other.safetensors"}',
    ),
    "modules.json": (
        json.dumps(modules(f"={OLD}Transformer", f"1_Pooling={OLD}Pooling")).encode(),
        json.dumps(modules(f"={BASE}transformer.Transformer", f"1_Pooling={BASE}Pooling")).encode(),
        json.dumps(modules(f"={OLD}Transformer", f"1_Pooling={OLD}Dense")).encode(),
        json.dumps(modules(f"={OLD}Transformer", f"data={OLD}Pooling")).encode(),
        b"[]",
        b"{",
    ),
    "1_Pooling/config.json": (
        b'{"pooling_mode_mean_tokens": true}',
        b'{"pooling_mode": "mean"}',
        b"{}",
        b'{"pooling_mode": "cls"}',
        b'{"use_residual": false}',
    ),
    "config_sentence_transformers.json": (
        b"{}",
        b'{"__version__": {}}',
        b'{"similarity_fn_name": "dot"}',
        b'{"similarity_fn_name": "cosine"}',
        b'{"prompts": {"a": "b"}}',
    ),
    "tokenizer_config.json": (b"{}", b'{"a": 1}', b'{"name_or_path": "x"}', b"{"),
    "data/x.json": (b"{}", b'{"use_residual": false}', b'{"a": 1}'),
    "data/tokenizer_config.json": (b"{}", b'{"a": 1}'),
    "model.safetensors": (b"1", b"2"),
    "other.safetensors": (b"1", b"2"),
    "model.safetensors.index.json": (b"{}", b'{"weight_map": {"a": "other.safetensors"}}'),
    "vocab.txt": (b"1", b"2"),
    "onnx/model.onnx": (b"1", b"2"),
    "modeling_x.py": (b"1", b"2"),
    "README.md": (b"1", b"2"),
    "LICENSE": (b"1", b"2"),
}
VERSIONS = st.fixed_dictionaries({}, optional={path: st.sampled_from(contents) for path, contents in MEANINGS.items()})
INCLUDES = st.sampled_from([(), ("*",), ("data/*",), ("onnx/*", "other.safetensors")])
CODES = st.sampled_from(list(RemoteCode))
KINDS = st.sampled_from([Kind.EMBEDDING, Kind.SPARSE, Kind.MULTI_VECTOR])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[LockedModel, Files], tuple[LockedModel, Files]]:
    """Two versions of a model, the second often like the first."""
    kind, old = draw(KINDS), draw(VERSIONS)
    new = {**old, **draw(VERSIONS)} if draw(st.booleans()) else draw(VERSIONS)
    if draw(st.booleans()):
        new = {path: content for path, content in new.items() if path in old}
    found = []
    for files in (old, new):
        converted = [path for path in files if path == "model.safetensors" and draw(st.booleans())]
        model = pin(files, converted, kind, include=draw(INCLUDES), remote_code=draw(CODES), licence=draw(LICENCES))
        found.append((model, files))
    return found[0], found[1]


LICENCES = st.sampled_from(["mit", ""])


@given(pairs())
@BUDGET
def test_no_effect_and_one_index_id_are_the_same(
    both: tuple[tuple[LockedModel, Files], tuple[LockedModel, Files]],
) -> None:
    """Where all can be read: what `outdated` says of vectors is what a guard of an index says."""
    (old, before), (new, after) = both
    effect = compare(old, new, reader(before), reader(after)).effect
    assert (effect is Effect.NONE) == (index_id(old, reader(before)) == index_id(new, reader(after)))


@pytest.mark.parametrize("path", MEANINGS)
def test_no_effect_and_one_index_id_are_the_same_for_every_pair_of_contents(path: str) -> None:
    """One file at a time, all of its contents, also without it."""
    rest = {name: contents[0] for name, contents in MEANINGS.items() if name != path}
    versions = [rest, *({**rest, path: content} for content in MEANINGS[path])]
    for (old, new), (one, other) in product(product(versions, repeat=2), product([(), ("*",)], repeat=2)):
        before, after = pin(old, include=one), pin(new, include=other)
        effect = compare(before, after, reader(old), reader(new)).effect
        same = index_id(before, reader(old)) == index_id(after, reader(new))
        assert (effect is Effect.NONE) is same, (old.get(path), new.get(path), one, other)


@pytest.mark.parametrize(
    ("content", "effect"), [(b"{}", NONE), (b'{"use_cache": true}', NONE), (b'{"a": 1}', POSSIBLE), (b"{", POSSIBLE)]
)
def test_include_may_take_the_only_settings_of_a_file_out_of_the_count(content: bytes, effect: Effect) -> None:
    """The file is the same in both versions; it counts only where `include` does not name it."""
    files = {**FILES, "data/x.json": content}
    before, after = pin(files), pin(files, include=("data/*",))
    assert compare(before, after, reader(files), reader(files)).effect is effect
    assert (index_id(before, reader(files)) == index_id(after, reader(files))) is (effect is NONE)


def test_an_index_id_is_of_its_form_and_a_score_has_none() -> None:
    """`v1-` and 32 digits; another kind has another id."""
    found = {kind: index_id(pin(FILES, kind=kind), reader(FILES)) for kind in Kind}
    assert found[Kind.RERANKER] is found[Kind.OTHER] is None
    ids = [one for one in found.values() if one]
    assert len(set(ids)) == 3
    assert all(one.startswith("v1-") and len(one) == 35 for one in ids)
