"""`[[other]]`: any repository, all of it or a part, pinned and published, and never loaded."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping

import pytest
from huggingface_hub import hf_hub_download, snapshot_download

import cache_models
from modelcache.check.golden import Golden, format_golden
from modelcache.check.probes import Answer, Probe
from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from tests.conftest import EMBEDDING, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

GLINER = "urchade/gliner"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "LICENSE": b"Apache License\n",
    "gliner_config.json": b"{}",
    "onnx/model.onnx": b"\x08\x08graph",
    "docs/picture.png": b"\x89PNG",
    "data/table.parquet": b"PAR1",
    "tokenizer.json": b"{}",
}

DATA = ("docs/picture.png", "data/table.parquet")


def want(tool: Tool, *keys: str, extra: str = "") -> None:
    (tool.folder / "models.toml").write_text("\n".join(["[[other]]", f'id = "{GLINER}"', *keys, "", extra]))


def published(tool: Tool) -> dict[str, bytes]:
    found = files_below(tool.home(GLINER, "other"))
    return {path: data for path, data in found.items() if path not in (".cache-models.json", ".gitattributes")}


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ([], []),
        (['exclude = ["docs/*", "*.parquet"]'], ["docs/picture.png", "data/table.parquet"]),
        (['include = ["tokenizer*"]'], ["gliner_config.json", "onnx/model.onnx", *DATA]),
        (['include = ["onnx/", "*.json"]', 'exclude = ["gliner*"]'], ["gliner_config.json", *DATA]),
        (
            ['include = ["onnx/"]', 'exclude = ["README.md"]'],
            ["README.md", "gliner_config.json", "tokenizer.json", *DATA],
        ),
    ],
)
def test_all_of_it_or_what_is_named(tool: Tool, hub: StandInHub, keys: list[str], left: list[str]) -> None:
    """The licence and the card come with any part; the second start asks for nothing."""
    hub.add(GLINER, FILES, licence="apache-2.0")
    want(tool, *keys)
    assert tool("sync").exit_code == 0
    assert published(tool) == {path: data for path, data in FILES.items() if path not in left}
    assert tool("verify").exit_code == 0
    assert tool("lock", "--check").exit_code == 0
    hub.forget()
    assert tool("sync").exit_code == 0
    assert not hub.requests
    assert tool("path", GLINER).out.strip() == str(tool.home(GLINER, "other"))
    (row,) = json.loads(tool("status", "--json").out)
    assert (row["kind"], row["state"], row["hub_view"]) == ("other", "ready", True)


def test_it_is_found_by_its_id(tool: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the Hub view, as every model."""
    commit = hub.add(GLINER, FILES)
    want(tool)
    assert tool("sync").exit_code == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    cache = tool.folder / "hub"
    path = hf_hub_download(GLINER, "onnx/model.onnx", cache_dir=cache, local_files_only=True)
    assert os.path.samefile(path, tool.home(GLINER, "other") / "onnx" / "model.onnx")
    assert snapshot_download(GLINER, cache_dir=cache, local_files_only=True).endswith(commit)


def test_a_changed_byte_is_fetched_again_and_prune_removes_it(tool: Tool, hub: StandInHub) -> None:
    """All promises hold for it."""
    hub.add(GLINER, FILES)
    want(tool)
    assert tool("sync").exit_code == 0
    path = tool.home(GLINER, "other") / "gliner_config.json"
    path.write_bytes(b"[]")
    assert tool("verify").exit_code == 1
    assert tool("sync").exit_code == 0
    assert published(tool) == FILES
    (tool.folder / "models.toml").write_text("")
    assert tool("lock").exit_code == 0
    assert tool("prune").exit_code == 0
    assert not tool.home(GLINER, "other").exists()
    assert not (tool.folder / "hub").exists()


def test_check_says_that_it_is_never_loaded(tool: Tool, hub: StandInHub) -> None:
    """Alone it needs no library; a changed byte fails all the same."""
    hub.add(GLINER, FILES)
    want(tool)
    assert tool("sync").exit_code == 0
    ran = tool("check")
    assert ran.exit_code == 0, ran.err
    assert "never loaded; its bytes are as pinned" in ran.err
    assert f"Nothing to load in {tool.folder}: 1 model of [[other]] never loaded." in ran.err
    (tool.home(GLINER, "other") / "tokenizer.json").write_bytes(b"[]")
    assert tool("check").exit_code == 1


def test_recording_makes_no_file_with_nothing_in_it(tool: Tool, hub: StandInHub) -> None:
    """There is no number of a model that is never loaded; a file that is there loses what is wanted no more."""
    hub.add(GLINER, FILES)
    want(tool)
    assert tool("sync").exit_code == 0
    assert tool("check", "--record").exit_code == 0
    golden = tool.folder / "models.golden.json"
    assert not golden.exists()
    numbers = Golden("gone/model", Kind.EMBEDDING, (Answer(Probe("one"), array("f", [1.0])),))
    golden.write_text(format_golden({"1" * 64: numbers}))
    assert tool("check", "--record").exit_code == 0
    assert golden.read_text() == format_golden({})


@pytest.mark.parametrize(
    ("files", "keys", "words"),
    [
        (
            {"model.py": b"x = 1\n"},
            [],
            ["model.py is code", "set it to false to leave all code out", "trust_remote_code = true"],
        ),
        ({"lib.so": b"\x7fELF"}, [], ["lib.so is code"]),
        ({"pytorch_model.bin": b"\x80\x02}."}, [], ["pytorch_model.bin is pickled", "allow_pickle = true"]),
        ({"a.pt": b"x", "b.pkl": b"x"}, [], ["a.pt, b.pkl are pickled"]),
        ({}, ['include = ["nope*"]'], ["include names nope*"]),
        ({}, ['exclude = ["nope*"]'], ["exclude names nope*"]),
        ({}, ['exclude = ["*"]'], ["no file is left of it"]),
        ({}, ['include = ["tokenizer.json"]', 'exclude = ["tokenizer.json"]'], ["no file is left of it"]),
        ({"a/../b": b""}, [], ["a/../b"]),
    ],
)
def test_a_refusal_names_the_reason(
    tool: Tool, hub: StandInHub, files: Mapping[str, bytes], keys: list[str], words: list[str]
) -> None:
    """As for any model."""
    hub.add(GLINER, {**FILES, **files})
    want(tool, *keys)
    ran = tool("lock")
    assert ran.exit_code == 5, ran.err
    assert all(word in ran.err for word in words), ran.err


def test_without_trust_it_is_shipped_without_its_code(tool: Tool, hub: StandInHub) -> None:
    """And with it, it is shipped whole; nothing of it runs."""
    hub.add(GLINER, {**FILES, "model.py": b"raise SystemExit(9)\n"})
    want(tool, "trust_remote_code = false")
    assert tool("sync").exit_code == 0
    assert published(tool) == FILES
    want(tool, "trust_remote_code = true")
    assert tool("sync").exit_code == 0
    assert "model.py" in published(tool)
    assert tool("check").exit_code == 0


def test_code_that_include_names_is_not_dropped_in_silence(tool: Tool, hub: StandInHub) -> None:
    """`trust_remote_code = false` leaves out what no pattern names."""
    hub.add(GLINER, {**FILES, "model.py": b"x = 1\n"})
    want(tool, 'include = ["*.py"]', "trust_remote_code = false")
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "model.py is code" in ran.err


def test_files_with_names_that_cannot_be_shipped_are_excluded(tool: Tool, hub: StandInHub) -> None:
    """The refusal says so, and the names that it has are patterns."""
    hub.add(GLINER, {**FILES, "con.txt": b"", "a:b.txt": b"", "License/x.parquet": b"PAR1"})
    want(tool)
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "Name them in exclude" in ran.err
    want(tool, 'exclude = ["con.txt", "a:b.txt", "License/*"]')
    assert tool("sync").exit_code == 0
    assert published(tool) == FILES


def test_a_part_is_noted_as_one(tool: Tool, hub: StandInHub) -> None:
    """Under the other tables `include` adds; here it selects."""
    hub.add(GLINER, {**FILES, "license_plate.pt": b"x", "licenses/y.pt": b"x"})
    want(tool, 'include = ["*.json"]')
    ran = tool("lock")
    assert ran.exit_code == 0, ran.err
    assert "include names all that is shipped; 5 files of it are left behind" in ran.err


def test_a_pickle_of_tensors_is_shipped_as_it_is(tool: Tool, hub: StandInHub) -> None:
    """Nothing is converted, as nothing loads it here."""
    tiny.write_pickle(tool.folder / "pytorch_model.bin", 3000)
    content = (tool.folder / "pytorch_model.bin").read_bytes()
    hub.add(GLINER, {**FILES, "pytorch_model.bin": content})
    want(tool, "allow_pickle = true")
    assert tool("sync").exit_code == 0
    assert published(tool) == {**FILES, "pytorch_model.bin": content}
    want(tool)
    assert tool("sync", "--locked").exit_code == 2


def test_no_loader_takes_it(tool: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`path` does; a loader of another kind says as what it is published."""
    hub.add(GLINER, FILES)
    want(tool)
    assert tool("sync").exit_code == 0
    assert cache_models.model_path(GLINER) == tool.home(GLINER, "other")
    from modelcache.store.load import load

    with pytest.raises(UsageError, match="which nothing here loads"):
        load(Kind.EMBEDDING, GLINER, tool.folder, lambda path, **options: path, {})


def test_any_model_may_be_listed_as_other_and_in_one_table_only(tool: Tool, hub: StandInHub) -> None:
    """A model that could be loaded, too."""
    hub.add(GLINER, FILES)
    want(tool, extra=f'[[embedding]]\nid = "{GLINER}"\n')
    ran = tool("lock")
    assert ran.exit_code == 2
    assert "a model has one kind" in ran.err


def test_add_takes_the_kind(tool: Tool, hub: StandInHub) -> None:
    """`add --kind other` writes the table; without the kind it is not guessed."""
    hub.add(GLINER, FILES)
    ran = tool("add", GLINER)
    assert ran.exit_code != 0
    assert "list it under [[other]]" in ran.err, ran.err
    assert tool("add", GLINER, "--kind", "other").exit_code == 0
    assert (tool.folder / "models.toml").read_text() == f'[[other]]\nid = "{GLINER}"\n'
    assert tool("sync", "--locked").exit_code == 0
    assert published(tool) == FILES


def test_it_is_carried_from_another_root(tool: Tool, hub: StandInHub) -> None:
    """`sync --from`, as in a container that fills a volume."""
    hub.add(GLINER, FILES)
    hub.add(EMBEDDING, {})
    want(tool)
    assert tool("sync").exit_code == 0
    hub.remove(GLINER)
    assert tool("sync", "--from", str(tool.folder), "--root", str(tool.folder / "volume")).exit_code == 0
    home = tool.folder / "volume" / "cached_other_models" / "urchade__gliner"
    assert {path: (home / path).read_bytes() for path in FILES} == FILES
