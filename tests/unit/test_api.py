"""The public module: fixed names and signatures, constants read when asked for, the two caching functions."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from pathlib import Path

import pytest

import cache_models
from modelcache.core.errors import IntegrityError, ManifestError, PolicyError, UsageError
from modelcache.core.kinds import Kind
from modelcache.store.load import load
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Tool, files_below
from tests.support import models, preloaded, tiny
from tests.support.hub import StandInHub


def test_names_and_signatures_never_change() -> None:
    """These stand in the contract that users program against."""
    signatures = {
        name: str(inspect.signature(getattr(cache_models, name))).replace("'", "")
        for name in (
            "sanitize_model_id",
            "cache_sentence_transformers",
            "cache_cross_encoders",
            "model_path",
            "index_id",
            "main",
        )
    }
    assert set(cache_models.__all__) >= {"load_embedding_model", "load_reranker", *signatures}
    assert signatures == {
        "sanitize_model_id": "(model_id: str) -> str",
        "cache_sentence_transformers": (
            "(model_ids: Iterable[str], output_dir: Path, *, trust_remote_code: bool = True) -> None"
        ),
        "cache_cross_encoders": "(model_ids: Iterable[str], output_dir: Path) -> None",
        "model_path": "(model_id: str) -> Path",
        "index_id": "(model_id: str) -> str",
        "main": "(argv: Sequence[str] | None = None) -> int",
    }
    assert cache_models.sanitize_model_id("owner/name") == "owner__name"


def test_the_manifest_shipped_lists_the_five_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the project's folder the constants are what models.toml lists."""
    monkeypatch.chdir(PROJECT)
    assert cache_models.EMBEDDING_MODELS == [
        "IoannisKat1/multilingual-e5-large-legal-matryoshka",
        "IoannisKat1/modernbert-embed-base-legal-matryoshka-2",
        "IoannisKat1/bge-m3-legal-matryoshka",
        "IoannisKat1/legal-bert-base-uncased-legal-matryoshka",
    ]
    assert cache_models.RERANKER_MODELS == ["BAAI/bge-reranker-base"]


def test_constants_are_read_when_asked_for(tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The manifest of the current directory, and CACHE_MODELS_ROOT, count at the moment of the question."""
    tool.want("a/b", rerankers=("c/d",))
    assert (cache_models.EMBEDDING_MODELS, cache_models.RERANKER_MODELS) == (["a/b"], ["c/d"])
    assert tool.folder / "cached_embedding_models" == cache_models.EMBEDDINGS_DIR
    monkeypatch.setenv("CACHE_MODELS_ROOT", "sub")
    assert tool.folder / "sub" / "cached_reranker_models" == cache_models.RERANKERS_DIR
    (tool.folder / "models.toml").write_text("nonsense")
    with pytest.raises(ManifestError):
        cache_models.EMBEDDING_MODELS  # noqa: B018
    with pytest.raises(AttributeError):
        cache_models.NOTHING  # noqa: B018


def test_the_two_functions_cache_and_write_no_lock(hub: StandInHub, pair: Tool, tmp_path: Path) -> None:
    """Each id ends as output_dir/<sanitized id>; the receipts are the pin; again costs no request."""
    for _ in range(2):
        cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "e")
        cache_models.cache_cross_encoders(iter([RERANKER]), tmp_path / "r")
        assert [path.name for path in (tmp_path / "e").iterdir()] == ["tinyorg__embedding"]
        assert [path.name for path in (tmp_path / "r").iterdir()] == ["tinyorg__reranker"]
        asked = hub.requests
        hub.forget()
    assert asked == []
    assert not (pair.folder / "models.lock").exists()


def test_one_id_that_is_no_list_is_that_id(pair: Tool, tmp_path: Path) -> None:
    """A string is iterable, too: each of its letters would be refused as an id."""
    cache_models.cache_cross_encoders(RERANKER, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").glob("[!.]*")] == [cache_models.sanitize_model_id(RERANKER)]


def test_the_two_functions_follow_the_lock(hub: StandInHub, pair: Tool, tmp_path: Path) -> None:
    """Where the lock names an id, its commit is taken although `main` has moved on."""
    pair("lock")
    (tmp_path / "embedding" / "README.md").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "e", trust_remote_code=False)
    assert files_below(tmp_path / "e" / "tinyorg__embedding")["README.md"] != b"moved on"


def test_a_house_models_id_is_never_shown_to_the_hub(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """What the manifest takes from a directory is taken from there by the functions, too."""
    source = tiny.tiny_embedding(tmp_path / "mine")
    hub.add("me/mine", {"config.json": b"{}"})
    tool.want(extra=f'[[embedding]]\nid = "me/mine"\npath = "{source}"\n')
    for _ in range(2):
        cache_models.cache_sentence_transformers(["me/mine"], tmp_path / "e")
        assert (tmp_path / "e" / "me__mine" / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
        assert tool("lock").exit_code == 0
    assert hub.requests == []


def test_bad_ids_are_refused_with_what_is_meant(tmp_path: Path) -> None:
    """A bare id names the full one; two ids of one directory are an error; nothing is asked or written."""
    with pytest.raises(UsageError, match="sentence-transformers/all-MiniLM-L6-v2"):
        cache_models.cache_sentence_transformers(["all-MiniLM-L6-v2", "x/y"], tmp_path / "e")
    with pytest.raises(UsageError, match=r"a/b__c.*a__b/c"):
        cache_models.cache_cross_encoders(["a/b__c", "a__b/c"], tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_model_path_is_absolute_and_only_of_what_is_whole(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is a repository id to sentence-transformers; ours never is."""
    with pytest.raises(UsageError, match=EMBEDDING):
        cache_models.model_path(EMBEDDING)
    pair("sync")
    monkeypatch.setenv("CACHE_MODELS_ROOT", ".")
    assert cache_models.model_path(EMBEDDING) == pair.home(EMBEDDING)
    assert cache_models.model_path(RERANKER).is_absolute()
    (pair.home(EMBEDDING) / "config.json").unlink()
    with pytest.raises(IntegrityError):
        cache_models.model_path(EMBEDDING)


@pytest.mark.slow
def test_helpers_load_without_a_request(pair: Tool, hub: StandInHub) -> None:
    """By absolute path and offline, although HF_HUB_OFFLINE is not set and a Hub would answer."""
    pair("sync")
    hub.forget()
    code = (
        "import cache_models, sys\n"
        f"model = cache_models.load_embedding_model({EMBEDDING!r}, device='cpu')\n"
        f"reranker = cache_models.load_reranker({RERANKER!r})\n"
        "print(model.encode('rain').shape, reranker.predict([('rain', 'wet')]).shape)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "CACHE_MODELS_ROOT": "."}
    ran = preloaded.run(
        [sys.executable, "-c", code], cwd=pair.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "(32,) (1,)\n"), ran.stderr
    assert hub.requests == []


@pytest.fixture
def with_code(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """An embedding model and a reranker whose code was vendored."""
    hub.add(EMBEDDING, models.remote_code_elsewhere(tmp_path / "embedding"))
    hub.add(RERANKER, models.remote_code_reranker_elsewhere(tmp_path / "reranker"))
    hub.add("otherorg/impl", models.remote_code_impl(tmp_path / "impl"))
    tables = zip(("embedding", "reranker"), (EMBEDDING, RERANKER), strict=True)
    tool.want(extra="".join(f'[[{kind}]]\nid = "{model}"\ntrust_remote_code = true\n' for kind, model in tables))
    assert tool("sync").exit_code == 0
    hub.forget()
    return tool


LOAD_BOTH = (
    "import cache_models, os\n"
    f"model = cache_models.load_embedding_model({EMBEDDING!r}, device='cpu')\n"
    f"reranker = cache_models.load_reranker({RERANKER!r})\n"
    "print(model.encode('rain').shape, reranker.predict([('rain', 'wet')]).shape, os.environ['HF_MODULES_CACHE'])"
)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import transformers\n"], ids=["fresh", "after transformers was imported"])
def test_helpers_trust_exactly_what_was_vendored(with_code: Tool, hub: StandInHub, tmp_path: Path, first: str) -> None:
    """Code that was pinned is run, from a private directory that goes with the process; the home need not exist."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HOME": "/nonexistent/hf", "HOME": "/nonexistent"}
    ran = preloaded.run(
        [sys.executable, "-c", first + LOAD_BOTH],
        cwd=with_code.folder,
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    *shapes, folder = ran.stdout.rsplit(maxsplit=1)
    assert shapes == ["(32,) (1,)"]
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()
    assert hub.requests == []


@pytest.mark.slow
def test_a_directory_for_code_that_is_set_is_used(with_code: Tool, tmp_path: Path) -> None:
    """A HF_MODULES_CACHE that is set is kept."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_MODULES_CACHE": str(tmp_path / "code")}
    ran = preloaded.run(
        [sys.executable, "-c", LOAD_BOTH],
        cwd=with_code.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.endswith(f" {tmp_path / 'code'}\n")
    assert list((tmp_path / "code").rglob("modeling_tiny.py"))


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="cutting the network needs root here")
def test_helpers_load_with_the_network_cut(with_code: Tool) -> None:
    """No network at all: not a request is missed, with code or without."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    cut = "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET\n"
    ran = preloaded.run(
        [sys.executable, "-c", cut + LOAD_BOTH],
        cwd=with_code.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("(32,) (1,)")


def test_leave_of_the_caller_is_needed_to_ship_code(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trust_remote_code` of the caching functions: by default it permits code to be vendored, False ships without."""
    monkeypatch.chdir(tmp_path)
    hub.add(EMBEDDING, models.remote_code_elsewhere(tmp_path / "model"))
    hub.add("otherorg/impl", models.remote_code_impl(tmp_path / "impl"))
    cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "with")
    assert list((tmp_path / "with").rglob("modeling_tiny.py"))
    cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "without", trust_remote_code=False)
    assert not list((tmp_path / "without").rglob("*.py"))
    # The reranker's function has no such word, so it asks for none, and such a model is refused.
    hub.add(RERANKER, models.remote_code_reranker(tmp_path / "reranker"))
    with pytest.raises(PolicyError, match="pairing_tiny"):
        cache_models.cache_cross_encoders([RERANKER], tmp_path / "rerankers")


@pytest.mark.slow
def test_the_manifest_says_how_where_only_an_id_is_given(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave for pickles, code and pooling come from models.toml; a lock made of it is followed."""
    monkeypatch.chdir(tmp_path)
    hub.add(EMBEDDING, models.no_modules_embedding(tmp_path / "model"))
    hub.add(RERANKER, models.remote_code_reranker(tmp_path / "reranker"))
    Path("models.toml").write_text(
        f'[[embedding]]\nid = "{EMBEDDING}"\npooling = "mean"\nnormalize = true\n'
        f'[[reranker]]\nid = "{RERANKER}"\ntrust_remote_code = true\n'
    )
    for _ in range(2):
        cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "e")
        cache_models.cache_cross_encoders([RERANKER], tmp_path / "r")
        assert (tmp_path / "e" / "tinyorg__embedding" / "modules.json").exists()
        assert (tmp_path / "r" / "tinyorg__reranker" / "pairing_tiny.py").exists()
        assert cache_models.main(["lock", "--quiet"]) == 0
        shutil.rmtree(tmp_path / "e")
        shutil.rmtree(tmp_path / "r")


def test_a_model_replaced_while_it_is_loaded_is_loaded_again(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """What was read half and half is not given out; a model that never keeps still is an error."""
    pair("sync")
    loads = []

    def loader(directory: str, **options: object) -> str:
        loads.append(options)
        if len(loads) == 1:
            (tmp_path / "embedding" / "vocab.txt").write_text("moved on")
            hub.add(EMBEDDING, files_below(tmp_path / "embedding"))
            assert pair("lock", "--upgrade").exit_code == pair("sync").exit_code == 0
        return (Path(directory) / "vocab.txt").read_text()

    assert load(Kind.EMBEDDING, EMBEDDING, pair.folder, loader, {"device": "cpu"}) == "moved on"
    assert loads == [{"local_files_only": True, "trust_remote_code": False, "device": "cpu"}] * 2
