"""models.toml: what is understood, and that everything wrong is told at once, each with its line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.errors import ManifestError, UsageError
from modelcache.core.kinds import Kind
from modelcache.core.policy import Policy
from modelcache.core.types import Pooling, WantedModel
from modelcache.formats.manifest import parse_manifest, parse_policy, select
from modelcache.pipeline.pins import read_manifest

PROJECT = Path(__file__).parents[3]


def wanted(model_id: str, line: int, kind: Kind = Kind.EMBEDDING, **rest: Any) -> WantedModel:
    """Shorten what the tables below are full of."""
    return WantedModel(kind, model_id, line=line, **rest)


KEYS = "the keys are id, revision, path, trust_remote_code, allow_pickle, pooling, normalize, include and exclude"
RULES = "the keys are licences, remote_code and pickle"
APART = "list one of them in another models.toml, for a root of its own"


def problems(text: str) -> list[str]:
    """Return what is wrong in a manifest, a line each."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode(), Path("m.toml"))
    return caught.value.message.splitlines()


ALL_TABLES = "the tables are [[embedding]], [[reranker]], [[sparse]], [[multi_vector]], [[other]] and [policy]"


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("", ()),
        ("# only words\n", ()),
        ('[[embedding]]\nid = "a/b"\n', (wanted("a/b", 1),)),
        (
            '[[embedding]]\nid = "a/b"\nrevision = "v1"\ntrust_remote_code = false\nallow_pickle = true\n',
            (wanted("a/b", 1, revision="v1", trust_remote_code=False, allow_pickle=True),),
        ),
        (
            '[[embedding]]\nid = "a/b"\npooling = "lasttoken"\nnormalize = true\n',
            (wanted("a/b", 1, pooling=Pooling.LAST, normalize=True),),
        ),
        ('[[reranker]]\npath = "../mine"\nid = "a/b"\n', (wanted("a/b", 1, Kind.RERANKER, path="../mine"),)),
        (
            '[[reranker]]\nid = "a/b"\n\n[[embedding]]\nid = "e/f"\n[[reranker]]\nid = "c/d"\n',
            (wanted("a/b", 1, Kind.RERANKER), wanted("e/f", 4), wanted("c/d", 6, Kind.RERANKER)),
        ),
        ('embedding = [{ id = "a/b" }, { id = "c/d" }]\n', (wanted("a/b", 1), wanted("c/d", 1))),
        ('# one\nembedding = [\n  { id = "a/b" },\n]\n', (wanted("a/b", 2),)),
        ('  [[ embedding ]] # x\n  id = "a/b" # y\n', (wanted("a/b", 1),)),
        ('[["embedding"]]\n"id" = "a/b"\n', (wanted("a/b", 1),)),
        ('# hé\r\n\r\n[[embedding]]\r\nid = "a/b"\r\n', (wanted("a/b", 3),)),
        ('\ufeff[[embedding]]\nid = "a/b"\n', (wanted("a/b", 1),)),
        ('[[embedding]]\nid = "a/b"\npath = "modèles/日本"\n', (wanted("a/b", 1, path="modèles/日本"),)),
        ('[[embedding]]\nid = "a/b"\nrevision = "refs/pr/1"', (wanted("a/b", 1, revision="refs/pr/1"),)),
    ],
    ids=[
        "empty",
        "a comment",
        "an id",
        "every key of the Hub",
        "pooling",
        "a path",
        "both kinds, in their order",
        "inline array",
        "inline array over lines",
        "spaces and comments",
        "quoted keys",
        "CRLF",
        "a byte order mark",
        "UTF-8",
        "no last newline",
    ],
)
def test_a_good_manifest(text: str, models: tuple[WantedModel, ...], tmp_path: Path) -> None:
    """Models come in the order of the file, with what is not said at its default."""
    path = tmp_path / "models.toml"
    path.write_bytes(text.encode())
    assert read_manifest(path) == models


@pytest.mark.parametrize("key", ["ID", "Id", "ids"])
def test_a_misspelt_key_suggests_the_key_that_is_meant(key: str) -> None:
    """Whatever its capitals; so does a table."""
    assert "did you mean 'id'?" in problems(f"[[embedding]]\n{key} = 'a/b'")[-1]


@pytest.mark.parametrize("table", ["Embedding", "EMBEDDINGS", "embeding", "embedding_"])
@pytest.mark.parametrize("written", ["[[{}]]\nid = 'a/b'", "[{}]\nid = 'a/b'", "{} = ['a/b']"])
def test_a_misspelt_table_suggests_the_table_that_is_meant(table: str, written: str) -> None:
    """However it is written."""
    assert problems(written.format(table)) == [f"m.toml:1: unknown table [[{table}]] (did you mean '[[embedding]]'?)"]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Policy()),
        ("[policy]\n", Policy()),
        ("[policy]\nremote_code = true\npickle = true\n", Policy()),
        ("[policy]\nlicences = ['apache-2.0', 'MIT']", Policy(licences=("apache-2.0", "MIT"))),
        ("[policy]\nremote_code = false", Policy(remote_code=False)),
        ("policy = { pickle = false }", Policy(pickle=False)),
        ("policy.pickle = false", Policy(pickle=False)),
        ("\ufeff['policy']\r\npickle = false\r\n", Policy(pickle=False)),
    ],
)
@pytest.mark.parametrize("before", ["", "\n[[embedding]]\nid = 'a/b'\n"], ids=["alone", "below a model"])
def test_a_policy_is_read_wherever_it_stands(text: str, policy: Policy, before: str) -> None:
    """A rule that is not set is no rule, and the models are read as without the table."""
    inline = not text.lstrip("\ufeff").startswith("[")
    content = (f"{text}\n{before}" if inline else f"{before}{text}".replace("\ufeff", "", bool(before))).encode()
    assert parse_policy(content, Path("m.toml")) == policy
    assert [model.id for model in parse_manifest(content, Path("m.toml"))] == ["a/b"] * bool(before)


def test_a_policy_that_stands_twice_is_no_toml() -> None:
    """The parser refuses it, with the line."""
    assert re.match(r"m\.toml is not TOML: .*policy.*line 3", problems("[policy]\n\n[policy]\n")[0])


def test_no_manifest_has_no_policy() -> None:
    """A lock alone is judged by no rule."""
    assert parse_policy(None, Path("m.toml")) == Policy()


@pytest.mark.parametrize("door", [parse_manifest, parse_policy])
def test_both_doors_report_every_problem(door: Callable[[bytes, Path], object]) -> None:
    """A wrong model is an error for whoever asks for the policy, and the other way round."""
    with pytest.raises(ManifestError) as caught:
        door(b"[policy]\nx = 1\n[[embedding]]\nid = 'b'", Path("m.toml"))
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["2", "4"]


def test_what_is_not_toml_is_told_with_its_line() -> None:
    """The parser's words mean more beside the text that they are about."""
    assert problems("[[embedding]]\nid = a/b\n")[0].endswith(': "id = a/b"')


def test_our_own_manifest_is_good() -> None:
    """What the repository ships is read, and lists what the design names."""
    models = read_manifest(PROJECT / "models.toml")
    assert [model.kind for model in models] == [Kind.EMBEDDING] * 4 + [Kind.RERANKER]
    assert models[-1].id == "BAAI/bge-reranker-base"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nembeddings = []", ["m.toml:2: unknown table [[embeddings]] (did you mean '[[embedding]]'?)"]),
        (
            "x = 1",
            [f"m.toml:1: unknown key 'x' above the first table; {ALL_TABLES}"],
        ),
        (
            "[[model]]\nid = 'a/b'",
            [f"m.toml:1: unknown table [[model]]; {ALL_TABLES}"],
        ),
        ("\n\n[[rerankers]]\nid = 'a/b'", ["m.toml:3: unknown table [[rerankers]] (did you mean '[[reranker]]'?)"]),
        ("embedding = 1", ["m.toml:1: embedding must be tables: write [[embedding]]"]),
        ("\n[reranker]\nid = 'a/b'", ["m.toml:2: reranker must be tables: write [[reranker]]"]),
        ("embedding = ['a/b']", ["m.toml:1: embedding must be tables: write [[embedding]]"]),
        (
            "[[embedding]]\nid = 'a/b'\n\nrevison = 'x'",
            ["m.toml:4: unknown key 'revison' in [[embedding]] (did you mean 'revision'?)"],
        ),
        ("[[reranker]]\nzzz = 1\nid = 'a/b'", [f"m.toml:2: unknown key 'zzz' in [[reranker]]; {KEYS}"]),
        ("[[embedding]]\nid = 1", ["m.toml:2: id must be a string, not 1"]),
        ("[[embedding]]\nid = ['a/b']", ["m.toml:2: id must be a string, not ['a/b']"]),
        ("[[embedding]]\nid = 'a/b'\nrevision = 1.5", ["m.toml:3: revision must be a string, not 1.5"]),
        ("[[embedding]]\nid = 'a/b'\npath = true", ["m.toml:3: path must be a string, not True"]),
        (
            "[[embedding]]\nid = 'a/b'\ntrust_remote_code = 'false'",
            ["m.toml:3: trust_remote_code must be true or false, not 'false'"],
        ),
        ("[[embedding]]\nid = 'a/b'\nallow_pickle = 1", ["m.toml:3: allow_pickle must be true or false, not 1"]),
        (
            "[[embedding]]\nid = 'a/b'\npooling = 'median'\nnormalize = true",
            [
                "m.toml:3: pooling must be one of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken,"
                " not 'median'"
            ],
        ),
        (
            "[[embedding]]\nid = 'a/b'\npooling = 'mean'",
            ["m.toml:3: pooling needs normalize beside it, so that nothing is guessed"],
        ),
        (
            "[[embedding]]\nid = 'a/b'\nnormalize = false",
            ["m.toml:3: normalize needs pooling beside it, so that nothing is guessed"],
        ),
        (
            "[[reranker]]\nid = 'a/b'\nnormalize = true\npooling = 'mean'",
            ["m.toml:3: normalize is for [[embedding]]: a cross-encoder has no pooling"],
        ),
        ("[[embedding]]\n\nid = ''", ["m.toml:3: id is empty"]),
        ("[[embedding]]\nid = 'a/b'\nrevision = ''", ["m.toml:3: revision is empty"]),
        ("[[embedding]]\nid = 'a/b'\npath = ''", ["m.toml:3: path is empty"]),
        ("\n[[embedding]]\n", ['m.toml:2: [[embedding]] has no id; write id = "owner/name"']),
        ("[[embedding]]\nrevision = 'x'", ['m.toml:1: [[embedding]] has no id; write id = "owner/name"']),
        (
            "[[embedding]]\nid = 'all-MiniLM-L6-v2'",
            [
                'm.toml:2: "all-MiniLM-L6-v2" has no owner; "sentence-transformers/all-MiniLM-L6-v2" is probably meant',
            ],
        ),
        (
            "[[reranker]]\nid = 'ms-marco'",
            ['m.toml:2: "ms-marco" has no owner; "cross-encoder/ms-marco" is probably meant'],
        ),
        (
            "[[embedding]]\nid = '../b'",
            ['m.toml:2: "../b" is not a repository id; it must look like "owner/name"'],
        ),
        (
            "[[embedding]]\nid = 'https://huggingface.co/a/b'",
            ['m.toml:2: "https://huggingface.co/a/b" is not a repository id; "a/b" is meant'],
        ),
        (
            "[[embedding]]\nid = 'a/b'\nrevision = '../x'",
            ['m.toml:3: "../x" is not a branch, tag or commit'],
        ),
        (
            "[[embedding]]\nid = 'a/b'\npath = 'x'\nrevision = 'main'",
            ["m.toml:4: a model from a path has no revision; remove one of the two"],
        ),
        (
            "[[embedding]]\nid = 'a/b'\n[[embedding]]\nid = 'c/d'\n[[embedding]]\nid = 'a/b'",
            ["m.toml:5: a/b is listed twice (first in line 1); remove one"],
        ),
        (
            "[[embedding]]\nid = 'a/b'\n[[reranker]]\nid = 'a/b'",
            ["m.toml:3: a/b is listed under [[embedding]] in line 1, too; a model has one kind: remove one"],
        ),
        (
            "[[embedding]]\nid = 'a/b__c'\n[[embedding]]\nid = 'a__b/c'",
            [f"m.toml:3: a__b/c would share one directory with a/b__c of line 1; {APART}"],
        ),
        (
            "[[reranker]]\nid = 'a/B'\n[[reranker]]\nid = 'A/b'",
            [f"m.toml:3: A/b would share one directory with a/B of line 1; {APART}"],
        ),
        (
            "[[embedding]]\nid = 'a/b'\n[[embedding]]\nid = 'a/b'\nrevison = 'x'",
            [
                "m.toml:3: a/b is listed twice (first in line 1); remove one",
                "m.toml:5: unknown key 'revison' in [[embedding]] (did you mean 'revision'?)",
            ],
        ),
        (
            "embedding = [{ id = 'a/b' }, { id = 'a/b' }]",
            ["m.toml:1: a/b is listed twice (first in line 1); remove one"],
        ),
        ("\nembedding = [{ id = 'a/b', nope = 1 }]", [f"m.toml:2: unknown key 'nope' in [[embedding]]; {KEYS}"]),
        ("[[policy]]\nremote_code = false", ["m.toml:1: policy must be one table: write [policy]"]),
        ("\npolicy = false", ["m.toml:2: policy must be a table: write [policy]"]),
        ("[polcy]\nremote_code = false", ["m.toml:1: unknown table [[polcy]] (did you mean '[policy]'?)"]),
        (
            "[policy]\nlicenses = ['mit']",
            ["m.toml:2: unknown key 'licenses' in [policy] (did you mean 'licences'?)"],
        ),
        ("[policy]\n\nzzz = 1", [f"m.toml:3: unknown key 'zzz' in [policy]; {RULES}"]),
        ("[policy]\n[policy.pickle]", ["m.toml:1: pickle must be true or false, not {}"]),
        ("[policy]\nlicences = 'mit'", ["m.toml:2: licences must be a list of strings, not 'mit'"]),
        ("[policy]\nremote_code = ''", ["m.toml:2: remote_code must be true or false, not ''"]),
        ("[policy]\npickle = 0", ["m.toml:2: pickle must be true or false, not 0"]),
        (
            "[policy]\nlicences = []",
            ["m.toml:2: licences is empty, so that no model is allowed; without the key every licence is"],
        ),
        (
            "[policy]\nremote_code = false\nlicences = ['', 1, 'Apache 2.0', 'mit']",
            [
                "m.toml:3: licences has 'Apache 2.0', which no card names; write it as cards do: apache-2.0",
                "m.toml:3: licences has an empty string",
                "m.toml:3: licences must be a list of strings, and has 1",
            ],
        ),
        (
            "policy = { pickle = 1 }\n[[embedding]]\nid = 'b'",
            [
                "m.toml:1: pickle must be true or false, not 1",
                'm.toml:3: "b" has no owner; "sentence-transformers/b" is probably meant',
            ],
        ),
        ("policy.pickle = 1", ["m.toml:1: pickle must be true or false, not 1"]),
        (
            "[[embedding]]\nid = 'a/b'\npolicy = 1\n\n[policy]\npickle = 1",
            [
                "m.toml:3: unknown key 'policy' in [[embedding]] (did you mean 'pooling'?)",
                "m.toml:6: pickle must be true or false, not 1",
            ],
        ),
        (
            "# é\r\n[[embedding]]\r\nid = 'b/'\r\n",
            ['m.toml:3: "b/" is not a repository id; it must look like "owner/name"'],
        ),
    ],
)
def test_a_problem_and_its_line(text: str, expected: list[str]) -> None:
    """What is wrong is named with its value, on the line where it stands."""
    assert problems(text) == expected


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CR LF"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "a byte order mark"])
def test_lines_stay_right_in_a_file_from_windows(mark: str, line_end: str, tmp_path: Path) -> None:
    """Neither a mark before the first table nor the ends of the lines move a problem."""
    path = tmp_path / "models.toml"
    lines = ["[[embeding]]", "id = 'x/y'", "[[embedding]]", "id = 'b/'", ""]
    path.write_bytes((mark + line_end.join(lines)).encode())
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["1", "4"]


def test_every_problem_is_told_at_once() -> None:
    """One run is enough to mend a manifest; problems come in the order of the lines."""
    text = """\
wrong = 1
[[reranker]]
id = "ms-marco"
allow_pickle = "no"

[[embedding]]
revision = "a b"

[[embedding]]
id = "a/b"
[[embedding]]
id = "A/b"
path = "x"
revision = "main"
"""
    found = problems(text)
    assert [line.split(":")[1] for line in found] == ["1", "3", "4", "6", "7", "11", "14"]
    assert [
        word in line
        for word, line in zip(
            ["unknown key", "no owner", "true or false", "has no id", "not a branch", "share one", "no revision"],
            found,
            strict=True,
        )
    ] == [True] * 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "# a\u2028b\n[[embedding]]\nid = 'b'",
            "m.toml:3: ",
        ),
        pytest.param(
            "[[embedding]]\nid = 'a/b'\npath = '''\n[[embedding]]\n'''\n[[embedding]]\nid = 'b'",
            "m.toml:7: ",
        ),
        pytest.param(
            "[['embedding']]\nid = 'a/b'\n[[embedding]]\nid = 'b'",
            "m.toml:4: ",
        ),
        pytest.param(
            "[[embedding]]\nid = 'a/b'\n[embedding.foo]\nx = 1",
            "m.toml:1: ",  # of the model that the table belongs to
        ),
    ],
    ids=["another end of line", "a header in a string", "a quoted header", "a table below"],
)
def test_the_line_is_right_in_odd_files(text: str, expected: str) -> None:
    """Whatever stands around it, a problem is told with its own line."""
    assert [line[: len(expected)] for line in problems(text)] == [expected]


@pytest.mark.parametrize(
    "text",
    ["[[embedding]", "id = ", "<<<<<<< HEAD\n", "a = 1\na = 2", "x = " + "[" * 10_000, "\0", "a = 2020-13-45"],
    ids=["half a header", "no value", "merge conflict", "a key twice", "deep", "NUL", "no such date"],
)
def test_what_is_not_toml_is_said_so(text: str) -> None:
    """The parser's own words, with the name of the file."""
    assert problems(text)[0].startswith("m.toml is not TOML: ")


def test_a_number_without_end_is_a_problem_of_the_manifest() -> None:
    """A number that Python refuses to read is no bug of ours."""
    with pytest.raises(ManifestError):
        parse_manifest(("x = " + "1" * 5000).encode(), Path("m.toml"))


def test_a_missing_manifest_says_what_to_write(tmp_path: Path) -> None:
    """Its path, and the shortest manifest there is."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "models.toml")
    assert str(tmp_path / "models.toml") in caught.value.message
    assert "[[embedding]]" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe[\0", "UTF-16"), (b"\xfe\xff\0[", "UTF-16"), (b'# x\ny = "\xe9"', "line 2")],
    ids=["UTF-16", "UTF-16, the other way", "Latin-1"],
)
def test_a_manifest_that_is_not_utf8_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    """TOML is UTF-8; the encoding is named, as far as it is known, or the line."""
    (tmp_path / "models.toml").write_bytes(content)
    with pytest.raises(ManifestError, match=r"models\.toml") as caught:
        read_manifest(tmp_path / "models.toml")
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value.__cause__.__cause__, UnicodeDecodeError)
    assert told in caught.value.message


def test_a_directory_is_no_manifest(tmp_path: Path) -> None:
    """Docker makes one where a mounted file is missing."""
    with pytest.raises(UsageError, match=os.strerror(errno.EISDIR)):
        read_manifest(tmp_path)


def test_select_takes_what_is_named() -> None:
    """None named is all; an id as both kinds is both; an unknown one is refused with a suggestion."""
    models = (wanted("a/b", 1), wanted("c/d", 2), wanted("a/b", 3, Kind.RERANKER))
    assert select(models, []) == models
    assert select(models, ["a/b"]) == (models[0], models[2])
    with pytest.raises(UsageError, match=r"\ba/c\b.*'a/b'.*\bnothing\b") as caught:
        select(models, ["a/c", "c/d", "nothing"])
    assert "c/d" not in caught.value.message


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(["id", "revision", "path", "trust_remote_code", "allow_pickle", "revison"]) | st.text(
    min_size=1, max_size=8
)
POLICIES = st.dictionaries(
    st.sampled_from(["licences", "remote_code", "pickle", "licenses"]) | st.text(max_size=4),
    st.booleans() | st.lists(st.sampled_from(["mit", "", "Apache 2.0"]) | VALUES, max_size=3) | VALUES,
    max_size=4,
)
ID = st.sampled_from(["a/b", "A/b", "a/b__c", "a__b/c", "minilm", "", "../x"])
TABLES = st.lists(
    st.fixed_dictionaries({}, optional={"id": ID}).flatmap(
        lambda table: st.dictionaries(WORDS, VALUES, max_size=3).map(lambda rest: {**rest, **table})
    ),
    max_size=4,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["embedding", "reranker", "embeddings"]) | st.text(min_size=1, max_size=5),
    TABLES | VALUES,
    max_size=4,
).flatmap(lambda rest: st.just(rest) | (POLICIES | TABLES | VALUES).map(lambda policy: {"policy": policy, **rest}))
LINES = st.lists(
    st.sampled_from(
        [
            "[[embedding]]",
            "[[reranker]]",
            "[embedding]",
            "[policy]",
            "[[policy]]",
            "pickle = false",
            'licences = ["mit"]',
            'id = "a/b"',
            'id = "b"',
            "revision = 1",
            "x = '''",
            "'''",
            "#",
        ]
    )
    | st.text(max_size=10),
    max_size=10,
).map("\n".join)


@settings(deadline=None)
@given(st.text() | LINES)
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    """No content of the file ends as a bug of ours."""
    with suppress(ManifestError):
        parse_manifest(text.encode(), Path("m.toml"))


@settings(deadline=None)
@given(DOCUMENTS)
def test_any_document_is_a_manifest_or_told_with_lines(document: dict[str, Any]) -> None:
    """Every problem of a well-formed document has a line that exists."""
    text = tomlkit.dumps(document)
    try:
        models = parse_manifest(text.encode(), Path("m.toml"))
        policy = parse_policy(text.encode(), Path("m.toml"))
    except ManifestError as error:
        found = [line.split(":") for line in error.message.splitlines()]
        assert all(parts[0] == "m.toml" and 1 <= int(parts[1]) <= len(text.splitlines()) for parts in found)
        assert found == sorted(found, key=lambda parts: int(parts[1]))
    else:
        assert len({(model.kind, model.id) for model in models}) == len(models)
        assert all(re.fullmatch(r"[\w.+-]+", licence) for licence in policy.licences)
