"""What people paste instead of an id, and which id is meant."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.api import cache_models
from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import OWNERS, PastedId, is_id, parse_pasted, similar_ids, unknown_id, without_user
from modelcache.core.names import problem_with_id
from modelcache.core.types import WantedModel
from modelcache.formats.manifest import select

COMMIT = "5617a9f61b028005a4858fdac845db406aefb181"
ID = "BAAI/bge-m3"
ADDRESSES = [
    f"https://huggingface.co/{ID}",
    f"https://huggingface.co/{ID}/",
    f"http://www.huggingface.co/{ID}",
    f"https://huggingface.co/{ID}/tree/main",
    f"https://huggingface.co/{ID}/blob/main/1_Pooling/config.json",
    f"https://huggingface.co/{ID}/resolve/main/config.json?download=true",
    f"https://huggingface.co/{ID}?library=sentence-transformers",
    f"https://huggingface.co/{ID}#usage",
    f"https://huggingface.co/{ID}/discussions/7",
    f"https://huggingface.co/api/models/{ID}/revision/main",
    f"https://huggingface.co/models/{ID}",
    f"https://mirror.example:8443/{ID}/tree/main",
    f"https://somebody:password@huggingface.co/{ID}",
    f"huggingface.co/{ID}",
    f"hf.co/{ID}/tree/main",
    f"hf-mirror.com/{ID}",
    f"hf://{ID}",
    f"hf://models/{ID}",
    f"hf://{ID}@main",
    f"git@hf.co:{ID}",
    f"git@hf.co:{ID}.git",
    f"ssh://git@hf.co/{ID}",
]
NAMES = [
    f"{ID}/tree/main",
    f"{ID}/resolve/main/config.json",
    f"{ID}@main",
    f"{ID}/",
    f"/{ID}",
    f"{ID}.git",
    f"{ID} ",
    f"\t{ID}\n",
    f"{ID},",
    f'"{ID}"',
    f"<{ID}>",
    "BAAI\\bge-m3",
    "models--BAAI--bge-m3",
    "~/.cache/huggingface/hub/models--BAAI--bge-m3",
    "hub/models--BAAI--bge-m3/refs/main",
    "C:\\Users\\me\\.cache\\huggingface\\hub\\models--BAAI--bge-m3",
    "BAAI__bge-m3",
    "BAAI--bge-m3",
    "/models/cached_embedding_models/BAAI__bge-m3",
]


@pytest.mark.parametrize("pasted", [*ADDRESSES, *NAMES])
def test_the_id_that_is_meant_is_told(pasted: str) -> None:
    """It stands in the message, in the form in which it is to be written."""
    assert parse_pasted(pasted) == PastedId(ID)
    assert (problem_with_id(pasted, Kind.EMBEDDING) or "").endswith(f'"{ID}" is meant')


@pytest.mark.parametrize(
    ("pasted", "revision"),
    [
        (f"https://huggingface.co/{ID}/tree/v2", "v2"),
        (f"https://huggingface.co/{ID}/commit/{COMMIT}", COMMIT),
        (f"https://huggingface.co/{ID}/blob/refs%2Fpr%2F3/config.json", "refs/pr/3"),
        (f"hf://{ID}@v2", "v2"),
        (f"/hub/models--BAAI--bge-m3/snapshots/{COMMIT}/config.json", COMMIT),
    ],
)
def test_a_revision_in_an_address_is_told(pasted: str, revision: str) -> None:
    """Whoever pasted the page of a revision wants that one."""
    assert parse_pasted(pasted) == PastedId(ID, revision=revision)
    assert f'"{ID}", with revision = "{revision}" is meant' in (problem_with_id(pasted, Kind.EMBEDDING) or "")


@pytest.mark.parametrize(
    ("pasted", "sort"),
    [
        ("https://huggingface.co/datasets/BAAI/data", "dataset"),
        ("https://huggingface.co/datasets/squad", "dataset"),
        ("datasets/BAAI/data", "dataset"),
        ("hf://datasets/BAAI/data", "dataset"),
        ("datasets--BAAI--data", "dataset"),
        ("https://huggingface.co/api/datasets/BAAI/data", "dataset"),
        ("https://huggingface.co/spaces/mteb/leaderboard", "space"),
        ("https://huggingface.co/collections/BAAI/bge-66797a74476eb1f085c7446d", "collection"),
        ("https://huggingface.co/papers/2402.03216", "paper"),
    ],
)
def test_what_is_no_model_is_told_as_what_it_is(pasted: str, sort: str) -> None:
    """No id is suggested: there is none."""
    assert f"is a {sort} of the Hub, and no model" in (problem_with_id(pasted, Kind.EMBEDDING) or "")


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "/",
        "https://",
        "https://huggingface.co",
        "https://huggingface.co/models?sort=trending",
        "https://huggingface.co/datasets",
        "a/b/c",
        "a/",
        "/b",
        "../b",
        "./b",
        "a b/c",
        "C:/models/x",
        "models--",
        "x/y--z",
    ],
)
def test_where_no_id_can_be_read_none_is_suggested(pasted: str) -> None:
    """A wrong suggestion is worse than none."""
    assert parse_pasted(pasted) is None
    assert 'must look like "owner/name"' in (problem_with_id(pasted, Kind.EMBEDDING) or "")


def test_a_password_in_an_address_is_not_told() -> None:
    """People paste clone addresses with a token in them."""
    problem = problem_with_id(f"https://somebody:hf_abcdef@huggingface.co/{ID}", Kind.EMBEDDING) or ""
    assert "hf_abcdef" not in problem
    assert f"https://huggingface.co/{ID}" in problem


@pytest.mark.parametrize(
    ("bare", "full"),
    [
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("models--xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
        ("https://huggingface.co/distilroberta-base", "distilbert/distilroberta-base"),
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("https://huggingface.co/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_a_name_without_owner_gets_the_right_one(bare: str, full: str) -> None:
    """The models that transformers began with have other owners than those of sentence-transformers."""
    assert f'has no owner; "{full}" is probably meant' in (problem_with_id(bare, Kind.EMBEDDING) or "")


def test_the_names_that_the_library_takes_as_they_are_are_known() -> None:
    """The list is that of the installed sentence-transformers, read from its source."""
    found = importlib.util.find_spec("sentence_transformers")
    if found is None or found.origin is None:
        pytest.skip("sentence-transformers is not installed")
    tree = ast.parse(Path(found.origin).with_name("util").joinpath("misc.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORIGINAL_TRANSFORMER_MODELS"
    ]
    assert set(names) == OWNERS.keys()


def test_every_way_in_tells_the_id() -> None:
    """The public functions, and the ids behind a command, go by the same rule."""
    with pytest.raises(UsageError, match=f'"{ID}" is meant'):
        cache_models(Kind.EMBEDDING, [f"https://huggingface.co/{ID}"], Path("nowhere"))
    with pytest.raises(UsageError, match=f'"{ID}" is meant'):
        select([WantedModel(Kind.EMBEDDING, ID)], [f"https://huggingface.co/{ID}/tree/main"])


@settings(deadline=None)
@given(st.text(alphabet="ab/-_.:@ \\#?%2Fhfmodels", max_size=30) | st.text(max_size=12))
def test_whatever_is_pasted_an_id_comes_out_or_none(text: str) -> None:
    """Nothing that is suggested is refused next."""
    if meant := parse_pasted(text):
        assert is_id(meant.name) or is_id(f"x/{meant.name}")


@pytest.mark.parametrize(
    "pasted",
    [
        f"https://somebody:se@cret@huggingface.co/{ID}",
        f"https://somebody:sec/ret@huggingface.co/{ID}",
        f"https://somebody:sec?r#et@huggingface.co/{ID}",
        f"https://somebody:sec\x1b[31m\nret@huggingface.co/{ID}",
        f"https://hf_secret@huggingface.co/{ID}",
        f"somebody:hf_secret@huggingface.co/{ID}",
        f"hf_secret@huggingface.co:{ID}",
        f"hf_secret@huggingface.co/{ID}",
        f"//somebody:secret@huggingface.co/{ID}",
        f"https:/somebody:secret@huggingface.co/{ID}",
    ],
)
def test_a_pasted_password_is_not_told(pasted: str) -> None:
    """However it is written; what follows is told."""
    told = problem_with_id(pasted, Kind.EMBEDDING)
    assert told is not None
    assert not {part for part in ("somebody", "sec", "cret", "ret@", "31m") if part in told}, told
    assert f"huggingface.co{':' if 'co:' in pasted else '/'}{ID}" in told


@pytest.mark.parametrize(
    "pasted",
    [f"https://h:8080/{ID}@main", f"{ID}@main", "name@v1.0", f"localhost:8080/{ID}", "C:\\models", "a:b", f"hf://{ID}"],
)
def test_what_is_no_password_stays(pasted: str) -> None:
    """A port, a revision, a drive."""
    assert without_user(pasted) == pasted


KNOWN = ("BAAI/bge-m3", "BAAI/bge-reranker-base", "sentence-transformers/all-MiniLM-L6-v2", "acme/all-MiniLM-L12-v2")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("all-MiniLM-L6-v2", [KNOWN[2]]),
        ("all-minilm-l6-v2", [KNOWN[2]]),
        ("all_MiniLM_L6_v2", [KNOWN[2]]),
        ("baai/BGE-M3", [KNOWN[0]]),
        ("BAAI__bge-m3", [KNOWN[0]]),
        ("models--BAAI--bge-m3", [KNOWN[0]]),
        ("https://huggingface.co/BAAI/bge-m3/tree/main", [KNOWN[0]]),
        (" BAAI/bge-m3 ", [KNOWN[0]]),
    ],
)
def test_another_spelling_of_a_known_id_names_the_one_that_is_meant(text: str, meant: list[str]) -> None:
    """Without owner, in other case, with other hyphens, as a folder or as an address."""
    assert similar_ids(text, KNOWN) == meant
    assert unknown_id(text, KNOWN).endswith(f'("{meant[0]}" is meant)')


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("BAAI/bge-m4", ["BAAI/bge-m3"]),
        ("BAII/bge-m3", ["BAAI/bge-m3"]),
        ("intfloat/bge-reranker-bas", ["BAAI/bge-reranker-base"]),
        ("bge-rerankr-base", ["BAAI/bge-reranker-base"]),
        ("all-MiniLM-L16-v2", ["acme/all-MiniLM-L12-v2", "sentence-transformers/all-MiniLM-L6-v2"]),
        ("no/such", []),
        ("", []),
    ],
)
def test_a_misspelt_id_names_the_nearest_ones(text: str, near: list[str]) -> None:
    """By their names first: the owner alone makes no id similar."""
    assert sorted(similar_ids(text, KNOWN)) == near
    assert ("did you mean" in unknown_id(text, KNOWN)) is bool(near)


def test_a_name_of_several_owners_is_told_with_each() -> None:
    """No one of them can be taken for the other."""
    assert unknown_id("m", ["a/m", "b/m", "a/n"]) == 'm ("a/m" or "b/m" is meant)'


@settings(deadline=None)
@given(st.text(alphabet="ab/-_.:@ \\#?%2Fhfmodels\n\x1b", max_size=30) | st.text(max_size=12))
def test_whatever_is_unknown_is_one_safe_line(text: str) -> None:
    """It is printed, so it makes no row of its own."""
    assert unknown_id(text, KNOWN).isprintable()
    assert set(similar_ids(text, KNOWN)) <= set(KNOWN)
