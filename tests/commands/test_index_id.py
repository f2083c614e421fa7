"""The id of an index is another one for each change that moves a vector, and the same for those that move none.

Real models, small ones, published by `sync` and loaded by `cache_models`: `tests.support.index_id.rows` has the table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cache_models
from modelcache.core.errors import IntegrityError, UsageError
from modelcache.core.kinds import Kind
from modelcache.pipeline.index_id import index_id_of
from modelcache.store.layout import read_receipt
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Tool, files_below
from tests.support import models, preloaded, tiny
from tests.support.baked import Pinned, bake
from tests.support.hub import StandInHub
from tests.support.index_id import child, edits
from tests.support.index_id.rows import CASES, table

if TYPE_CHECKING:
    import numpy as np

MOVES = [(case, change) for case in CASES for change in CASES[case].moves]
MOVES_NONE = [(case, change) for case in CASES for change in CASES[case].moves_none]


@dataclass(frozen=True)
class Published:
    """Every version of every model: its index id and its vectors, by the names of case and change."""

    ids: dict[tuple[str, str], str]
    vectors: dict[tuple[str, str], np.ndarray]

    def moved(self, case: str, change: str) -> bool:
        """Whether any number differs from that of the unchanged model by more than rounding does."""
        import numpy as np

        one, other = self.vectors[case, ""], self.vectors[case, change]
        return one.shape != other.shape or not np.allclose(one, other, atol=1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Publish each case and each change of it as a model of its own; one process loads all."""
    import numpy as np

    folder = tmp_path_factory.mktemp("index-id")
    tables, names = [], {}
    for case_name, case in CASES.items():
        changes = {"": lambda _: None, **case.moves, **case.moves_none}
        for number, (change_name, change) in enumerate(changes.items()):
            place = folder / "made" / f"{case_name}-{number}"
            if not number:
                case.make(place)
            else:
                shutil.copytree(folder / "made" / f"{case_name}-0", place)
            if not isinstance(change, str):
                change(place)
            model_id = f"org/{case_name}-{number}"
            names[model_id] = (case_name, change_name)
            tables.append(table(case, change if isinstance(change, str) else case.says, model_id, str(place)))
    root = folder / "root"
    root.mkdir()
    (root / "models.toml").write_text("\n".join(tables))
    command = [sys.executable, str(PROJECT / "cache_models.py")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "CACHE_MODELS_ROOT": str(root), "HF_HUB_OFFLINE": "1"}
    ran = preloaded.run([*command, "sync"], cwd=root, env=environment, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    ran = preloaded.run(
        [sys.executable, child.__file__, str(folder / "vectors.npz")],
        input=json.dumps([(CASES[case].kind, model_id) for model_id, (case, _) in names.items()]),
        cwd=root,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    ran_status = preloaded.run(
        [*command, "status", "--json"], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    rows = json.loads(ran_status.stdout)
    with np.load(folder / "vectors.npz") as vectors:
        found = {names[model_id]: vectors[model_id] for model_id in names}
    return Published({names[row["id"]]: row["index_id"] for row in rows}, found)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "change"), MOVES)
def test_a_change_that_moves_a_vector_gives_another_id(published: Published, case: str, change: str) -> None:
    """The vectors show that the change is one."""
    assert published.moved(case, change)
    assert published.ids[case, change] != published.ids[case, ""]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "change"), MOVES_NONE)
def test_a_change_that_moves_no_vector_gives_the_same_id(published: Published, case: str, change: str) -> None:
    """Documents, files for other programs, and spellings of the same settings."""
    assert not published.moved(case, change)
    assert published.ids[case, change] == published.ids[case, ""]


# of one model, wherever it is --------------------------------------------------------------------------------------


def status(tool: Tool) -> dict[str, dict[str, Any]]:
    """The rows of `status --json`, by id."""
    return {row["id"]: row for row in json.loads(tool("status", "--json").out)}


def test_status_and_python_give_one_id_and_rerankers_have_none(pair: Tool) -> None:
    """A score is no vector, and files that nothing loads give none."""
    (pair.folder / "more").mkdir()
    (pair.folder / "more" / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    pair.want(EMBEDDING, rerankers=(RERANKER,), extra='\n[[other]]\nid = "acme/more"\npath = "more"\n')
    assert pair("sync").exit_code == 0
    rows = status(pair)
    assert re.fullmatch(r"v1-[0-9a-f]{32}", cache_models.index_id(EMBEDDING))
    assert rows[EMBEDDING]["index_id"] == cache_models.index_id(EMBEDDING)
    for model_id in (RERANKER, "acme/more"):
        assert rows[model_id]["index_id"] is None
        with pytest.raises(UsageError, match="gives no vectors"):
            cache_models.index_id(model_id)
    with pytest.raises(UsageError, match="no/such"):
        cache_models.index_id("no/such")


def test_the_id_is_that_of_the_files_alone(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the name, the commit, the revision, the root, nor the place that they came from counts."""
    files = files_below(tmp_path / "embedding")
    hub.add("acme/copy", {**files, "README.md": b"# A copy\n"}, branch="v2")
    extra = 'revision = "v2"\n\n[[embedding]]\nid = "acme/house"\npath = "../embedding"\n'
    pair.want(EMBEDDING, "acme/copy", extra=extra)
    assert pair("sync").exit_code == 0
    rows = status(pair)
    assert len({row["commit"] for row in rows.values()}) == 3
    monkeypatch.setenv("CACHE_MODELS_ROOT", str(tmp_path / "other"))
    assert pair("sync").exit_code == 0
    assert {row["index_id"] for row in rows.values()} == {cache_models.index_id(EMBEDDING)}


def test_code_counts_wherever_it_comes_from(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The same code beside the weights, and out of another repository."""
    hub.add("org/own", models.remote_code_embedding(tmp_path / "own"))
    hub.add("org/elsewhere", models.remote_code_elsewhere(tmp_path / "elsewhere"))
    hub.add("otherorg/impl", models.remote_code_impl(tmp_path / "impl"))
    trust = "trust_remote_code = true\n"
    tool.want("org/own", extra=f'{trust}\n[[embedding]]\nid = "org/elsewhere"\n{trust}')
    assert tool("sync").exit_code == 0
    assert cache_models.index_id("org/own") == cache_models.index_id("org/elsewhere")


@pytest.mark.slow
def test_converted_weights_with_equal_bytes_give_an_equal_id(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """MiniLM as a pickle becomes the file that its owner published."""
    import torch
    from safetensors.torch import load_file

    hub.add("org/native", models.minilm(tmp_path / "native"))
    pickled = models.minilm(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    hub.add("org/pickled", pickled)
    tool.want("org/native", "org/pickled", extra="allow_pickle = true\n")
    assert tool("sync").exit_code == 0
    assert cache_models.index_id("org/native") == cache_models.index_id("org/pickled")


def test_the_same_files_as_another_kind_have_another_id(tool: Tool) -> None:
    """The vectors of an embedding model are not those of a sparse one, and neither those of a multi-vector model."""
    kinds = [kind for kind in Kind if kind not in (Kind.RERANKER, Kind.OTHER)]
    bake(tool.folder, *(Pinned(kind, f"acme/{kind}") for kind in kinds))
    assert len({cache_models.index_id(f"acme/{kind}") for kind in kinds}) == len(kinds) == 3


@pytest.mark.parametrize("path", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"])
def test_a_damaged_configuration_is_an_error_and_no_other_id(pair: Tool, path: str) -> None:
    """Also where size and time are as they were, so that only its bytes tell."""
    assert pair("sync").exit_code == 0
    file = pair.home(EMBEDDING) / path
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content.replace(b"e", b"E", 1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(IntegrityError, match=re.escape(path)):
        cache_models.index_id(EMBEDDING)
    assert status(pair)[EMBEDDING]["index_id"] is None
    file.unlink()
    with pytest.raises(IntegrityError):
        cache_models.index_id(EMBEDDING)


def test_a_model_that_is_not_ready_has_no_id(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Absent, damaged, or of another version than the lock wants."""
    pair("lock")
    assert status(pair)[EMBEDDING]["index_id"] is None
    pair("sync")
    weights = pair.home(EMBEDDING) / "model.safetensors"
    weights.rename(tmp_path / "weights")
    row = status(pair)[EMBEDDING]
    assert (row["state"].partition(":")[0], row["index_id"]) == ("damaged", None)
    (tmp_path / "weights").rename(weights)
    assert status(pair)[EMBEDDING]["index_id"]
    hub.add(EMBEDDING, {**files_below(tmp_path / "embedding"), "vocab.txt": b"other\n"})
    pair("lock", "--upgrade")
    row = status(pair)[EMBEDDING]
    assert (row["state"].partition(":")[0], row["index_id"]) == ("other version", None)


def test_the_id_costs_no_torch_and_is_the_same_in_each_process(pair: Tool) -> None:
    """Whatever order sets have; nothing that loads models, and nothing that asks the Hub, is imported."""
    assert pair("sync").exit_code == 0
    code = f"""\
import sys, cache_models
print(cache_models.index_id({EMBEDDING!r}))
assert not {{"torch", "sentence_transformers", "transformers", "numpy", "huggingface_hub"}} & set(sys.modules)
"""
    for seed in ("0", "1", "4000"):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=pair.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == cache_models.index_id(EMBEDDING)


def two_versions(tool: Tool, hub: StandInHub, tmp_path: Path) -> list[Path]:
    """Return two folders with a manifest and a lock each, of two versions that differ in two configurations."""
    made = tiny.tiny_embedding(tmp_path / "versions")
    folders = []
    for number in range(2):
        edits.setting("config.json", layer_norm_eps=0.1 + number)(made)
        edits.setting("1_Pooling/config.json", pooling_mode_cls_token=bool(number))(made)
        hub.add(EMBEDDING, files_below(made))
        folder = tmp_path / f"version {number}"
        folder.mkdir()
        (folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n')
        assert tool("lock", "--manifest", str(folder / "models.toml")).exit_code == 0
        folders.append(folder)
    return folders


def test_the_id_of_a_replaced_model_is_that_of_one_version(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Of the receipt that was read first, no file of the new version is taken for one of the old."""
    ids, pins = [], []
    for folder in two_versions(pair, hub, tmp_path):
        assert pair("sync", "--manifest", str(folder / "models.toml")).exit_code == 0
        ids.append(cache_models.index_id(EMBEDDING))
        pins.append(read_receipt(pair.home(EMBEDDING)))
    assert ids[0] != ids[1]
    assert pins[0]
    with pytest.raises(IntegrityError):
        index_id_of(pair.home(EMBEDDING), pins[0])


def test_no_mix_of_two_versions_while_one_replaces_the_other(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """A program that asks without a pause, while the model is replaced again and again, is given either id."""
    folders = two_versions(pair, hub, tmp_path)
    allowed = set()
    for folder in folders:
        assert pair("sync", "--manifest", str(folder / "models.toml")).exit_code == 0
        allowed.add(cache_models.index_id(EMBEDDING))
    found: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with suppress(IntegrityError):  # where no directory could be exchanged, it is not there for an instant
                found.append(cache_models.index_id(EMBEDDING))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(8):
            manifest = folders[number % 2] / "models.toml"
            assert pair("sync", "--manifest", str(manifest)).exit_code == 0
    finally:
        stop.set()
        asking.join()
    assert set(found) == allowed
