"""Models as a command line names them: tables of what people type and paste."""

from __future__ import annotations

import pytest

from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.model_arguments import ModelArgument, parse_arguments

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIRROR = "https://mirror.corp:8443/api/huggingface/hf"
NAMED = {
    "a/b": ModelArgument("a/b"),
    "a/b@v1.0": ModelArgument("a/b", "v1.0"),
    "a/b@main": ModelArgument("a/b", "main"),
    "a/b@refs/pr/1": ModelArgument("a/b", "refs/pr/1"),
    f"a/b@{COMMIT}": ModelArgument("a/b", COMMIT),
    " a/b\n": ModelArgument("a/b"),
    "https://huggingface.co/a/b": ModelArgument("a/b"),
    "https://huggingface.co/a/b/": ModelArgument("a/b"),
    "https://huggingface.co/a/b?library=sentence-transformers#usage": ModelArgument("a/b"),
    "https://huggingface.co/a/b/tree/main": ModelArgument("a/b"),
    "https://huggingface.co/a/b/tree/v1": ModelArgument("a/b", "v1"),
    "https://huggingface.co/a/b/tree/refs%2Fpr%2F1": ModelArgument("a/b", "refs/pr/1"),
    f"https://huggingface.co/a/b/commit/{COMMIT}": ModelArgument("a/b", COMMIT),
    "https://huggingface.co/a/b/blob/main/config.json": ModelArgument("a/b"),
    "huggingface.co/a/b": ModelArgument("a/b"),
    "hf.co/a/b": ModelArgument("a/b"),
    "https://hf-mirror.com/a/b/tree/v1": ModelArgument("a/b", "v1"),
    f"{MIRROR}/a/b/tree/v1": ModelArgument("a/b", "v1"),
    "git@hf.co:a/b.git": ModelArgument("a/b"),
    "hf://a/b@v1": ModelArgument("a/b", "v1"),
    "https://user:hunter2@huggingface.co/a/b": ModelArgument("a/b"),
    "models--a--b": ModelArgument("a/b", None, "models--a--b"),
    f"models--a--b/snapshots/{COMMIT}": ModelArgument("a/b", COMMIT, f"models--a--b/snapshots/{COMMIT}"),
    "a__b": ModelArgument("a/b", None, "a__b"),
    "bert-base-uncased": ModelArgument("google-bert/bert-base-uncased", None, "bert-base-uncased"),
    "BERT-base-uncased": ModelArgument("google-bert/bert-base-uncased", None, "BERT-base-uncased"),
    "bert-base-uncased@v1": ModelArgument("google-bert/bert-base-uncased", "v1", "bert-base-uncased@v1"),
    "https://huggingface.co/gpt2": ModelArgument("openai-community/gpt2", None, "https://huggingface.co/gpt2"),
}
REFUSED = {
    "all-mini": '"sentence-transformers/all-mini" or "cross-encoder/all-mini" is probably meant',
    "a/b@": 'a/b: "" is not a branch, tag or commit',
    "a/b@a..b": 'a/b: "a..b" is not a branch, tag or commit',
    "a/b@-x": 'a/b: "-x" is not a branch, tag or commit',
    "a/b:latest": '"a/b:latest" is not a repository id',
    "a/b==1.0": '"a/b==1.0" is not a repository id',
    "a/b/c": '"a/b/c" is not a repository id',
    "https://huggingface.co/": "is not a repository id",
    "https://huggingface.co/datasets/a/b": "is a dataset of the Hub, and no model",
    "/models/a": '"/models/a" is a path, and no id of the Hub',
    "./house-model": '"./house-model" is a path, and no id of the Hub',
    "~/a": '"~/a" is a path, and no id of the Hub',
    "../../etc": "is a path, and no id of the Hub",
    "\x1b[2J": r'"\x1b[2J" is not a repository id',
    "x" * 5000: "is not a repository id",
}


@pytest.mark.parametrize(("text", "expected"), NAMED.items(), ids=NAMED)
def test_what_a_word_names(text: str, expected: ModelArgument) -> None:
    """An id, with a revision where one is named, and with the text where that does not show the id."""
    assert parse_arguments([text], None, f"{MIRROR}/") == (expected,)
    assert parse_arguments([text], Kind.RERANKER, MIRROR) == (expected,)


@pytest.mark.parametrize(("text", "told"), REFUSED.items(), ids=lambda text: text[:40])
def test_what_names_no_model(text: str, told: str) -> None:
    """A guess is suggested and not taken."""
    with pytest.raises(UsageError) as caught:
        parse_arguments([text], None)
    assert told in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1200
    assert caught.value.hint


def test_the_kind_decides_which_owner_is_suggested() -> None:
    """The loader of embedding models has an owner of its own for names without one."""
    for kind, meant in ((Kind.EMBEDDING, "sentence-transformers/x"), (Kind.RERANKER, "cross-encoder/x")):
        with pytest.raises(UsageError) as caught:
            parse_arguments(["x"], kind)
        assert f'; "{meant}" is probably meant' in caught.value.message


def test_one_word_may_name_several() -> None:
    """A build argument in quotes is one word; each model counts once."""
    found = parse_arguments(["a/b  c/d@v1\n\te/f", "a/b"], None)
    assert [model.id for model in found] == ["a/b", "c/d", "e/f"]


@pytest.mark.parametrize("words", [[], [""], [" ", "\n"]])
def test_an_empty_argument_is_told_as_such(words: list[str]) -> None:
    """A build argument that is not set is the usual reason."""
    with pytest.raises(UsageError, match="no model is named") as caught:
        parse_arguments(words, None)
    assert "build argument" in caught.value.hint


def test_all_problems_are_told_at_once() -> None:
    """Also two revisions of one model; each problem once."""
    with pytest.raises(UsageError) as caught:
        parse_arguments(["x", "a/b@v1", "./y", "a/b", "x"], None)
    assert len(caught.value.message.splitlines()) == 3
    assert 'a/b is named twice, with revision "v1" and "main"' in caught.value.message


def test_a_password_in_an_address_is_not_shown() -> None:
    """Neither where the address is refused, nor where it is taken."""
    with pytest.raises(UsageError) as caught:
        parse_arguments(["https://user:hunter2@huggingface.co/datasets/a/b", "https://user:hunter2@hf.co/x"], None)
    assert "hunter2" not in caught.value.message
    (found,) = parse_arguments(["https://user:hunter2@huggingface.co/gpt2"], None)
    assert "hunter2" not in found.pasted
