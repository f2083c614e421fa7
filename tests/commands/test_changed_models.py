"""Models that are changed on the way: code vendored, pickles converted, pooling written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.types import LockedFile
from modelcache.formats.lockfile import format_lock
from modelcache.formats.receipt import format_receipt
from modelcache.pipeline.pins import read_lock
from modelcache.store.layout import read_receipt
from tests.conftest import SOON, Tool, files_below
from tests.support import models, tiny
from tests.support.hub import Slow, StandInHub

pytestmark = pytest.mark.slow

MODEL, IMPL = "org/model", "otherorg/impl"
TRUST, PICKLE = "trust_remote_code = true\n", "allow_pickle = true\n"


def want(tool: Tool, says: str, kind: str = "embedding", model_id: str = MODEL) -> None:
    """Write a manifest of one model, with what it takes to have it."""
    (tool.folder / "models.toml").write_text(f'[[{kind}]]\nid = "{model_id}"\n{says}')


def locked(tool: Tool, number: int = 0) -> dict[str, Any]:
    """The table of one model in models.lock, its files by path."""
    table: dict[str, Any] = tomllib.loads((tool.folder / "models.lock").read_text())["model"][number]
    return {**table, "files": {file["path"]: file for file in table["files"]}}


def sent(hub: StandInHub, file: str) -> int:
    """How many bytes of a file the Hub has sent."""
    return sum(request.sent for request in hub.requests if request.file == file and request.status in (200, 206))


def files_of(home: Path) -> dict[str, bytes]:
    """Every published file but the receipt."""
    return {path: content for path, content in files_below(home).items() if path != ".cache-models.json"}


# Remote code


@pytest.fixture
def elsewhere(hub: StandInHub, tool: Tool, tmp_path: Path) -> str:
    """A model whose code is in another repository; returns that one's commit."""
    hub.add(MODEL, models.remote_code_elsewhere(tmp_path / "model"))
    return hub.add(IMPL, models.remote_code_impl(tmp_path / "impl"))


def test_code_is_refused_with_what_it_is_and_how_to_allow_it(tool: Tool, elsewhere: str) -> None:
    """Absent means no: exit 5, every reference, and both ways out."""
    want(tool, "")
    ran = tool("sync")
    assert ran.exit_code == 5
    for words in (f"{IMPL}--modeling_tiny.TinyModel", "read that code", "trust_remote_code = true", "= false"):
        assert words in ran.err
    assert not tool.home(MODEL).exists()


def test_vendored_code_is_pinned_file_by_file(tool: Tool, elsewhere: str) -> None:
    """Repository, commit and hash of each; what was rewritten, with the hash it had; all of it in the receipt, too."""
    want(tool, TRUST)
    assert tool("lock").exit_code == 0
    table = locked(tool)
    assert table["remote_code"] == "vendored"
    code = {path: file for path, file in table["files"].items() if path.endswith(".py")}
    assert sorted(code) == ["configuration_tiny.py", "modeling_tiny.py", "tiny_layers.py", "tiny_scale.py"]
    assert all(file["from"] == {"repository": IMPL, "commit": elsewhere} for file in code.values())
    config = table["files"]["config.json"]
    assert config["made"] == "rewritten"
    assert config["from"]["path"] == "config.json"
    assert config["from"]["sha256"] != config["sha256"]

    assert tool("sync").exit_code == 0
    auto_map = json.loads((tool.home(MODEL) / "config.json").read_text())["auto_map"]
    assert auto_map == {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    receipt = read_receipt(tool.home(MODEL))
    assert receipt is not None
    assert {
        file.path: file.original.commit for file in receipt.files if file.path in code and file.original
    } == dict.fromkeys(code, elsewhere)


def test_packages_that_code_imports_are_told_with_a_pip_line(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """By pip's names, which may be others; a name that only the code vouches for is not recommended."""
    code = models.remote_code_embedding(tmp_path / "model") / "tiny_scale.py"
    code.write_text("import PIL.Image\nimport einops\nimport house_lib\n" + code.read_text())
    hub.add(MODEL, tmp_path / "model")
    want(tool, TRUST)
    assert (
        f"{MODEL}: its code imports PIL, einops, house_lib (`pip install Pillow einops`;"
        " its card may say where house_lib is from)"
    ) in tool("lock").err
    assert locked(tool)["packages"] == ["PIL", "einops", "house_lib"]


def test_files_that_code_reads_are_pinned_and_told(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Byte for byte from the model's own commit; nothing else of the repository comes with them."""
    hub.add(MODEL, models.tasks_embedding(tmp_path / "model"))
    want(tool, TRUST)
    ran = tool("lock")
    tasks = ["tasks/clustering.safetensors", "tasks/retrieval.safetensors"]
    assert re.search(f"^  note .*{MODEL}: modeling_tiny.py .*{', '.join(tasks)}", ran.err, re.MULTILINE)
    assert [path for path in locked(tool)["files"] if "/" in path] == ["1_Pooling/config.json", *tasks]
    assert tool("sync").exit_code == 0
    for task in tasks:
        assert (tool.home(MODEL) / task).read_bytes() == (tmp_path / "model" / task).read_bytes()
    want(tool, "trust_remote_code = false\n")
    assert not re.search("^  note .*tasks", tool("lock").err, re.MULTILINE)
    assert not [path for path in locked(tool)["files"] if path.startswith("tasks")]


def test_pinned_code_stays_when_its_repository_moves(
    hub: StandInHub, tool: Tool, elsewhere: str, tmp_path: Path
) -> None:
    """Another commit of the other repository changes nothing until the model is locked anew."""
    want(tool, TRUST)
    tool("lock")
    before = (tool.folder / "models.lock").read_bytes()
    moved = models.remote_code_impl(tmp_path / "moved")
    (moved / "tiny_scale.py").write_text("SCALE = 2.5\n")
    commit = hub.add(IMPL, moved)
    assert tool("lock").exit_code == 0
    assert (tool.folder / "models.lock").read_bytes() == before
    assert tool("sync").exit_code == 0
    assert "1.5" in (tool.home(MODEL) / "tiny_scale.py").read_text()

    assert tool("lock", "--upgrade").exit_code == 0
    assert locked(tool)["files"]["tiny_scale.py"]["from"]["commit"] == commit
    assert tool("sync").exit_code == 0
    assert "2.5" in (tool.home(MODEL) / "tiny_scale.py").read_text()
    assert tool("verify").exit_code == 0


def test_packages_that_code_imports_are_told(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """What the runtime must have beside torch and sentence-transformers stands in the lock."""
    repository = models.remote_code_embedding(tmp_path / "model")
    scale = repository / "tiny_scale.py"
    scale.write_text("import einops\nimport numpy\nfrom timm.layers import x\n" + scale.read_text())
    hub.add(MODEL, repository)
    want(tool, TRUST)
    ran = tool("lock")
    assert locked(tool)["packages"] == ["einops", "timm"]
    assert "einops" in ran.err
    assert "timm" in ran.err


def test_nothing_of_the_code_runs_while_it_is_cached(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Leave to run code is leave to ship it; lock, sync, verify and status only read it."""
    repository = models.remote_code_embedding(tmp_path / "model")
    canary = tmp_path / "canary"
    for path in repository.glob("*.py"):
        path.write_text(path.read_text() + f"\nopen({str(canary)!r}, 'w')\n")
    hub.add(MODEL, repository)
    want(tool, TRUST)
    for command in ("lock", "sync", "verify", "status", "sync"):
        assert tool.run(command).exit_code == 0
    assert not canary.exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("from . import tiny_scale", "imports ."),
        ("from .sub.part import x", "imports .sub.part"),
        ("from ..up import x", "imports ..up"),
        ("from .missing import x", "has no missing.py in its root"),
    ],
)
def test_code_that_cannot_be_brought_along_is_refused(
    hub: StandInHub, tool: Tool, tmp_path: Path, line: str, told: str
) -> None:
    """The loaders would not find it either: exit 5, with the file and the line's own words."""
    repository = models.remote_code_embedding(tmp_path / "model")
    scale = repository / "tiny_scale.py"
    scale.write_text(f"{line}\n{scale.read_text()}")
    hub.add(MODEL, repository)
    want(tool, TRUST)
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "tiny_scale.py" in ran.err
    assert told in ran.err


def test_a_name_collision_with_other_bytes_is_refused(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Two repositories, one name, two contents: nothing could be right."""
    repository = models.remote_code_elsewhere(tmp_path / "model")
    config = json.loads((repository / "config.json").read_text())
    config["auto_map"]["AutoTokenizer"] = "tiny_scale.Tokenizer"
    tiny.write_json(repository / "config.json", config)
    (repository / "tiny_scale.py").write_text("SCALE = 9\n")
    hub.add(MODEL, repository)
    hub.add(IMPL, models.remote_code_impl(tmp_path / "impl"))
    want(tool, TRUST)
    ran = tool("lock")
    assert ran.exit_code == 5
    assert re.search(rf"tiny_scale\.py of {MODEL}\b.*tiny_scale\.py of {IMPL}\b", ran.err)


def test_a_repository_of_code_that_is_gone_is_told(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Exit 3, which repository, and that the class may be native."""
    hub.add(MODEL, models.native_with_gone_code(tmp_path / "model"))
    want(tool, TRUST)
    ran = tool("lock")
    assert ran.exit_code == 3
    assert "goneorg/impl" in ran.err
    assert "trust_remote_code = false" in ran.err


@pytest.mark.parametrize("shut", ["private", "gated"])
def test_a_repository_of_code_that_needs_a_token_says_so(
    hub: StandInHub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shut: str
) -> None:
    """Exit 3: which model names it, that HF_TOKEN may open it, and that there is a way without; with it all is well."""
    hub.token = "hf_right"
    hub.add(MODEL, models.remote_code_elsewhere(tmp_path / "model"))
    hub.add(IMPL, models.remote_code_impl(tmp_path / "impl"), private=shut == "private", gated=shut == "gated")
    want(tool, TRUST)
    ran = tool("lock")
    assert ran.exit_code == 3
    for words in (MODEL, IMPL, "HF_TOKEN", "trust_remote_code = false"):
        assert words in ran.err
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert tool("lock").exit_code == 0


def test_leave_that_is_taken_back_refuses_again(tool: Tool, elsewhere: str) -> None:
    """A pin with code does not answer a manifest without leave; neither does what lies in the root."""
    want(tool, TRUST)
    assert tool("sync").exit_code == 0
    want(tool, "")
    assert tool("sync").exit_code == 5
    assert tool("lock", "--check").exit_code == 2
    want(tool, "trust_remote_code = false\n")
    assert tool("sync").exit_code == 0
    assert not list(tool.home(MODEL).glob("*.py"))


def test_a_receipt_grants_no_code(hub: StandInHub, tool: Tool, elsewhere: str) -> None:
    """One that says that there is none, beside files of code, is not believed; nothing of it gets into a lock."""
    want(tool, TRUST)
    assert tool("sync").exit_code == 0
    lock, receipt = tool.folder / "models.lock", tool.home(MODEL) / ".cache-models.json"
    lock.unlink()
    table = json.loads(receipt.read_text())
    del table["remote_code"]
    receipt.write_text(json.dumps(table))
    want(tool, "")
    for words in (["sync"], ["sync", "--from", str(tool.folder), "--root", str(tool.folder / "other")]):
        ran = tool(*words)
        assert ran.exit_code in (2, 5), ran.err
        assert not lock.exists()
    assert tool("verify").exit_code == 1


def test_a_directory_may_name_code_of_the_hub(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """`path`: the model from disk, the code it names from the Hub, pinned."""
    models.remote_code_elsewhere(tool.folder / "mine")
    commit = hub.add(IMPL, models.remote_code_impl(tmp_path / "impl"))
    want(tool, TRUST + 'path = "mine"\n')
    assert tool("sync").exit_code == 0
    assert locked(tool)["files"]["tiny_scale.py"]["from"] == {"repository": IMPL, "commit": commit}
    assert not [request for request in hub.requests if MODEL in request.path]
    shutil.rmtree(tool.home(MODEL))
    assert tool("sync", "--locked").exit_code == 0
    assert tool("verify").exit_code == 0


# Pickles


@pytest.fixture
def pickled(hub: StandInHub, tool: Tool, tmp_path: Path) -> Path:
    """A model whose weights are only in a pickle, wanted with leave to convert; returns the repository."""
    repository = models.bin_only_embedding(tmp_path / "model")
    hub.add(MODEL, repository)
    want(tool, PICKLE)
    return repository


def test_a_pickle_is_refused_without_leave(tool: Tool, pickled: Path) -> None:
    """Exit 5, and the key that allows it."""
    want(tool, "")
    ran = tool("sync")
    assert ran.exit_code == 5
    assert "pytorch_model.bin" in ran.err
    assert "allow_pickle = true" in ran.err


def test_a_lock_that_pins_a_pickle_itself_is_refused(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """Edited so that it is right in itself: nothing is fetched, exit 2, and the way that the hint shows is one."""
    assert tool("lock").exit_code == 0
    lock = tool.folder / "models.lock"
    (model,), good = read_lock(lock) or (), lock.read_bytes()
    (weights,) = (file.original for file in model.files if file.path == "model.safetensors")
    assert weights is not None
    others = [file for file in model.files if file.original != weights]
    pickle_itself = LockedFile(weights.path, weights.size, weights.sha256)
    lock.write_text(format_lock([replace(model, files=(*others, pickle_itself))]))
    want(tool, "")
    hub.forget()
    ran = tool("sync")
    assert ran.exit_code == 2
    assert "pytorch_model.bin" in ran.err
    assert re.search("^hint: ", ran.err, re.MULTILINE)
    assert not tool.home(MODEL).exists()
    assert hub.requests == []
    lock.unlink()
    want(tool, PICKLE)
    assert tool("lock").exit_code == 0
    assert lock.read_bytes() == good


def test_only_safetensors_is_published_and_the_pickles_hash_is_kept(tool: Tool, pickled: Path) -> None:
    """The tensors are torch's own; lock and receipt say from which file they are."""
    import torch
    from safetensors.torch import load_file

    assert tool("sync").exit_code == 0
    home = tool.home(MODEL)
    assert not list(home.rglob("*.bin"))
    file = locked(tool)["files"]["model.safetensors"]
    assert file["made"] == "converted"
    assert file["from"]["path"] == "pytorch_model.bin"
    assert file["from"]["size"] == (pickled / "pytorch_model.bin").stat().st_size
    assert file["from"]["sha256"] in (home / ".cache-models.json").read_text()
    theirs = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    ours = load_file(home / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_pickle_travels_once_for_lock_and_sync(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """What `lock` converted is kept for `sync`, which gives it a second name instead of a copy."""
    size = (pickled / "pytorch_model.bin").stat().st_size
    tool.use_root()
    assert tool("lock").exit_code == 0
    assert sent(hub, "pytorch_model.bin") == size
    (kept,) = (tool.folder / "cached_embedding_models" / ".cache-models").glob(
        f"*/{locked(tool)['files']['model.safetensors']['sha256']}.kept"
    )
    inode = kept.stat().st_ino
    assert len(list(kept.parent.glob(f"{locked(tool)['files']['model.safetensors']['from']['sha256']}.kept"))) == 1
    assert tool("sync").exit_code == 0
    assert sent(hub, "pytorch_model.bin") == size
    assert (tool.home(MODEL) / "model.safetensors").stat().st_ino == inode
    assert not (tool.folder / "cached_embedding_models" / ".cache-models").exists()
    hub.forget()
    assert tool("sync").exit_code == 0
    assert hub.requests == []


def test_a_lock_alone_makes_the_same_bytes_elsewhere(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """Another machine fetches the pickle, converts it, and must come to the pinned hash."""
    assert tool("sync").exit_code == 0
    before = files_below(tool.home(MODEL))
    shutil.rmtree(tool.folder / "cached_embedding_models")
    hub.forget()
    assert tool("sync", "--locked").exit_code == 0
    assert files_below(tool.home(MODEL)) == before
    assert sent(hub, "pytorch_model.bin") == (pickled / "pytorch_model.bin").stat().st_size


def test_a_new_commit_with_the_same_pickle_fetches_none(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """The earlier lock knows what the pickle was converted to, and the root still has it."""
    assert tool("sync").exit_code == 0
    inode = (tool.home(MODEL) / "model.safetensors").stat().st_ino
    (pickled / "README.md").write_text("another card\n")
    hub.add(MODEL, pickled)
    hub.forget()
    assert tool("lock", "--upgrade").exit_code == 0
    assert tool("sync").exit_code == 0
    assert sent(hub, "pytorch_model.bin") == 0
    assert (tool.home(MODEL) / "model.safetensors").stat().st_ino == inode
    assert (tool.home(MODEL) / "README.md").read_text() == "another card\n"


def test_a_pickle_that_was_kept_is_converted_again(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """Without the lock that said what it became, as after a run that failed; it is not fetched again."""
    tool.use_root()
    assert tool("lock").exit_code == 0
    first = (tool.folder / "models.lock").read_bytes()
    (tool.folder / "models.lock").unlink()
    hub.forget()
    assert tool("lock").exit_code == 0
    assert sent(hub, "pytorch_model.bin") == 0
    assert (tool.folder / "models.lock").read_bytes() == first


def planted(tool: Tool, source: Path) -> tuple[bytes, str, str]:
    """Weights that are not those of the pickle, with their hash and that of the pickle."""
    evil = tiny.safetensors_of(b"planted")
    pickle_hash = hashlib.sha256((source / "pytorch_model.bin").read_bytes()).hexdigest()
    return evil, hashlib.sha256(evil).hexdigest(), pickle_hash


def plant_notes(tool: Tool, evil: bytes, made: str, pickle_hash: str) -> None:
    """A kept file, with the note that an earlier version left beside what it converted."""
    staging = tool.home(MODEL).parent / ".cache-models" / "org__model~0123456789ab"
    staging.mkdir(parents=True)
    (staging / f"{made}.kept").write_bytes(evil)
    (staging / f"{pickle_hash}.made").write_text(made)


def plant_receipt(tool: Tool, evil: bytes, made: str, pickle_hash: str) -> None:
    """A whole model with a sound receipt, which says that the pickle became these weights."""
    assert tool("sync").exit_code == 0
    (model,) = read_lock(tool.folder / "models.lock") or ()
    home = tool.home(MODEL)
    files = [
        replace(file, size=len(evil), sha256=made) if file.path == "model.safetensors" else file for file in model.files
    ]
    (home / "model.safetensors").unlink()
    (home / "model.safetensors").write_bytes(evil)
    (home / ".cache-models.json").write_bytes(format_receipt(replace(model, files=tuple(files))))
    (tool.folder / "models.lock").unlink()


def plant_files(tool: Tool, evil: bytes, made: str, pickle_hash: str) -> None:
    """Other bytes under every name that a staging directory gives to the pickle, and to what it becomes."""
    staging = tool.home(MODEL).parent / ".cache-models" / "org__model~0123456789ab"
    for name in (
        pickle_hash,
        f"{pickle_hash}.kept",
        f"originals/{pickle_hash}",
        "tree/pytorch_model.bin",
        "tree/model.safetensors",
        "made",
    ):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(evil)
    (tool.home(MODEL)).mkdir()
    for name in ("pytorch_model.bin", "model.safetensors", "config.json"):
        (tool.home(MODEL) / name).write_bytes(evil)


def plant_in_the_cache(tool: Tool, evil: bytes, made: str, pickle_hash: str) -> None:
    """Other bytes under the name that the Hugging Face cache gives to the pickle."""
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / pickle_hash).write_bytes(evil)


PLANTS = (plant_notes, plant_receipt, plant_files, plant_in_the_cache)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("words", [["lock"], ["lock", "--upgrade"]], ids=" ".join)
def test_what_lies_in_a_root_does_not_decide_what_is_pinned(
    hub: StandInHub,
    tool: Tool,
    pickled: Path,
    plant: Callable[[Tool, bytes, str, str], None],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whoever can write into a volume must not choose the weights: the lock is that of an empty root."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hfcache"))
    assert tool("lock", "--root", str(tmp_path / "clean")).exit_code == 0
    lock = tool.folder / "models.lock"
    clean = lock.read_bytes()
    lock.unlink()
    evil, made, pickle_hash = planted(tool, pickled)
    plant(tool, evil, made, pickle_hash)
    ran = tool(*words)
    assert ran.exit_code == 0, ran.err
    assert lock.read_bytes() == clean
    assert made.encode() not in clean


def test_an_earlier_lock_is_believed_where_its_bytes_are(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """It is the user's own word, while a planted file cannot be what a lock names: no pickle is fetched."""
    assert tool("sync").exit_code == 0
    first = (tool.folder / "models.lock").read_bytes()
    hub.forget()
    plant_notes(tool, *planted(tool, pickled))
    assert tool("lock", "--upgrade").exit_code == 0
    assert (tool.folder / "models.lock").read_bytes() == first
    assert sent(hub, "pytorch_model.bin") == 0


def test_a_volume_without_room_for_both_is_told_before_the_first_byte(
    hub: StandInHub, tool: Tool, pickled: Path, small_volume: Path
) -> None:
    """Exit 4: the pickle and its tensors lie side by side once."""
    ran = tool("lock", "--root", str(small_volume))
    assert ran.exit_code == 4
    assert re.search(r"\bneeded [\d.]+ \w?B, free [\d.]+ \w?B\b", ran.err)
    assert sent(hub, "pytorch_model.bin") == 0


def test_what_a_dead_conversion_left_makes_room(tool: Tool, pickled: Path, small_volume: Path) -> None:
    """On a volume with room for one attempt, a part that nobody will finish is given up; what is kept stays."""
    subprocess.run(["mount", "-o", "remount,size=520k", small_volume], check=True)
    state = small_volume / "cached_embedding_models" / ".cache-models"
    dead, kept = state / "org__model~0123456789ab", state / "org__model~ffffffffffff"
    for folder, name in ((dead, "0" * 64), (kept, f"{'1' * 64}.kept")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(bytes(150_000))
    ran = tool("lock", "--root", str(small_volume))
    assert ran.exit_code == 0, ran.err
    assert (dead.exists(), kept.exists()) == (False, True)


@pytest.mark.parametrize("done", ["lock", "sync"])
def test_what_is_known_needs_no_place_to_write(tool: Tool, pickled: Path, small_volume: Path, done: str) -> None:
    """A root that is read-only is enough to lock anew, where it has what the lock says that the pickle became.

    Without the lock nothing says it that could be believed, and there is nowhere to convert the pickle: exit 4.
    """
    subprocess.run(["mount", "-o", "remount,size=2m", small_volume], check=True)
    assert tool(done, "--root", str(small_volume)).exit_code == 0
    lock = (tool.folder / "models.lock").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    assert tool("lock", "--upgrade", "--root", str(small_volume)).exit_code == 0
    assert (tool.folder / "models.lock").read_bytes() == lock
    (tool.folder / "models.lock").unlink()
    ran = tool("lock", "--root", str(small_volume))
    assert ran.exit_code == 4
    assert os.strerror(errno.EROFS) in ran.err
    assert re.search("^hint: .*--root", ran.err, re.MULTILINE)
    assert not (tool.folder / "models.lock").exists()


def test_a_kept_file_with_other_bytes_is_not_believed(tool: Tool, pickled: Path) -> None:
    """After a power cut a name may outlive its bytes: the pickle is converted again."""
    tool.use_root()
    assert tool("lock").exit_code == 0
    lock = tool.folder / "models.lock"
    first, sha256 = lock.read_bytes(), locked(tool)["files"]["model.safetensors"]["sha256"]
    (kept,) = (tool.folder / "cached_embedding_models" / ".cache-models").glob(f"*/{sha256}.kept")
    os.truncate(kept, 100)
    lock.unlink()
    assert tool("lock").exit_code == 0
    assert lock.read_bytes() == first
    assert tool("sync").exit_code == 0
    assert tool("verify").exit_code == 0


def test_a_plain_file_with_the_bytes_of_a_made_one_is_fetched(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Equal contents are fetched once; which of them can be fetched at all decides which."""
    repository = models.remote_code_elsewhere(tmp_path / "model")
    local = (repository / "config.json").read_bytes().replace(f"{IMPL}--".encode(), b"")
    (repository / "chat_config.json").write_bytes(local)
    hub.add(MODEL, repository)
    hub.add(IMPL, models.remote_code_impl(tmp_path / "impl"))
    want(tool, TRUST)
    assert tool("lock").exit_code == 0
    assert tool("sync", "--locked").exit_code == 0
    assert (
        (tool.home(MODEL) / "chat_config.json").read_bytes() == (tool.home(MODEL) / "config.json").read_bytes() == local
    )


def test_a_dry_run_converts_and_leaves_nothing(tool: Tool, pickled: Path) -> None:
    """It has to know what would be pinned; nothing of it stays."""
    assert tool("lock", "--dry-run").exit_code == 0
    assert sorted(path.name for path in tool.folder.iterdir()) == ["models.toml"]


@pytest.mark.parametrize("published", [False, True], ids=["an empty root", "another version in place"])
def test_converted_bytes_that_are_not_the_pinned_ones_are_not_published(
    hub: StandInHub, tool: Tool, pickled: Path, published: bool
) -> None:
    """A lock that was made with another rule, or edited, ends with 1, names the file, and its hint leads out."""
    assert tool("sync").exit_code == 0
    (model,) = read_lock(tool.folder / "models.lock") or ()
    other = replace(
        model,
        files=tuple(replace(f, sha256="a" * 64) if f.path == "model.safetensors" else f for f in model.files),
    )
    (tool.folder / "models.lock").write_text(format_lock([other]))
    if published:
        (tool.home(MODEL) / ".cache-models.json").write_bytes(format_receipt(other))
        (tool.home(MODEL) / "model.safetensors").write_bytes(b"damaged")
    else:
        shutil.rmtree(tool.folder / "cached_embedding_models")
    before = files_of(tool.home(MODEL))
    ran = tool("sync")
    assert ran.exit_code == 1
    assert "model.safetensors" in ran.err
    assert "a" * 64 in ran.err
    assert files_of(tool.home(MODEL)) == before

    hub.forget()
    (command,) = re.findall(r"`cache-models (.*)`", ran.err)
    assert command == f"lock --upgrade {MODEL}"
    assert tool(*command.split()).exit_code == 0
    assert read_lock(tool.folder / "models.lock") == (model,)
    assert tool("sync").exit_code == 0
    assert tool("verify").exit_code == 0
    assert sent(hub, "pytorch_model.bin") == 0  # what the failed run fetched is used


def test_another_root_lends_converted_weights(hub: StandInHub, tool: Tool, pickled: Path, tmp_path: Path) -> None:
    """`--from`: the finished files are copied; no pickle is needed, and no Hub."""
    assert tool("sync").err.endswith(" 1 fetched.\n")  # to be pinned; then it is only moved into its place
    hub.close()
    ran = tool("sync", "--from", str(tool.folder), "--root", str(tmp_path / "other"))
    assert (ran.exit_code, ran.err.endswith(" 1 copied.\n")) == (0, True)
    other = tmp_path / "other" / "cached_embedding_models" / "org__model"
    assert files_below(other) == files_below(tool.home(MODEL))


@pytest.mark.usefixtures("pickled")
def test_a_pickle_of_the_hugging_face_cache_is_told_as_a_copy(
    hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`lock` converts it to know its hash, and `sync` converts it again, because nothing was kept here."""
    from huggingface_hub import constants, snapshot_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hfcache"))
    snapshot_download(MODEL, cache_dir=tmp_path / "hfcache", endpoint=hub.url)
    events = [json.loads(line) for line in tool("lock", "--log-format=json").err.splitlines()]
    assert [event["event"] for event in events if "seconds" in event] == ["convert"]
    assert tool("sync").err.endswith(" 1 copied.\n")


def test_converted_shards_keep_their_index(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The index names the converted shards, and says what it was."""
    hub.add(MODEL, models.sharded_bin_embedding(tmp_path / "model"))
    want(tool, PICKLE)
    assert tool("sync").exit_code == 0
    home = tool.home(MODEL)
    index = json.loads((home / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in home.glob("*.safetensors")}
    assert locked(tool)["files"]["model.safetensors.index.json"]["from"]["path"] == "pytorch_model.bin.index.json"


def test_pickles_that_become_equal_are_all_there(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Modules with equal weights, from pickles that differ or are one: a lock alone makes each of their files."""
    repository = big_pickle(tmp_path / "model", 4000)
    weights = repository / "pytorch_model.bin"
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    modules = json.loads((repository / "modules.json").read_text())
    tiny.write_json(repository / "modules.json", [*modules, dense, {**dense, "idx": 4, "path": "4_Dense"}])
    for folder in (repository / "3_Dense", repository / "4_Dense"):
        folder.mkdir()
        shutil.copy(weights, folder)
        tiny.write_json(folder / "config.json", {})
    with zipfile.ZipFile(repository / "4_Dense" / weights.name, "a") as archive:
        archive.writestr("archive/.data/serialization_id", b"1")
    hub.add(MODEL, repository)
    want(tool, PICKLE)
    assert tool("lock").exit_code == 0
    ran = tool("sync", "--locked")
    assert ran.exit_code == 0, ran.err
    assert tool("verify").exit_code == 0
    made = [path.read_bytes() for path in tool.home(MODEL).rglob("*.safetensors")]
    assert len(made) == 3
    assert len(set(made)) == 1


def test_a_pickle_that_is_damaged_is_refused(hub: StandInHub, tool: Tool, pickled: Path) -> None:
    """A bit of the numbers has changed before it was uploaded: exit 5 names the entry, and nothing is left behind."""
    weights = pickled / "pytorch_model.bin"
    content = bytearray(weights.read_bytes())
    with zipfile.ZipFile(weights) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    content[info.header_offset + 5000] ^= 1
    weights.write_bytes(content)
    hub.add(MODEL, pickled)
    for command in ("lock", "sync"):
        ran = tool(command)
        assert ran.exit_code == 5
        assert f'"{info.filename}"' in ran.err
    assert not (tool.folder / "models.lock").exists()
    assert not tool.home(MODEL).exists()
    assert not [path for path in tool.folder.rglob("*") if path.is_file() and path.name == "made"]


class _Call:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("how", ["calls", "legacy", "not contiguous", "a zip bomb"])
def test_a_pickle_that_is_more_than_tensors_is_refused_by_name(
    hub: StandInHub, tool: Tool, pickled: Path, tmp_path: Path, how: str
) -> None:
    """Exit 5 names the file and the reason; nothing it asks for is done, and nothing is published."""
    import torch

    weights, canary = pickled / "pytorch_model.bin", tmp_path / "canary"
    match how:
        case "calls":
            with zipfile.ZipFile(weights, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps({"weight": _Call(canary)}, protocol=2))
        case "legacy":
            torch.save(torch.load(weights, weights_only=True), weights, _use_new_zipfile_serialization=False)
        case "not contiguous":
            torch.save({"weight": torch.zeros(4, 6).t()}, weights)
        case "a zip bomb":
            with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("archive/data.pkl", b"\0" * (64 << 20))
    hub.add(MODEL, pickled)
    ran = tool("sync")
    assert ran.exit_code == 5
    assert "pytorch_model.bin" in ran.err
    assert "allow_pickle" not in ran.err  # there is leave for it
    assert str(tool.folder) not in ran.err
    assert not canary.exists()
    assert not tool.home(MODEL).exists()


def test_processes_that_start_together_convert_once(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Without a lock, too: one fetches the pickle, the others wait for what it is converted to."""
    repository = big_pickle(tmp_path / "model", 3_000_000)
    hub.add(MODEL, repository)
    want(tool, PICKLE)
    hub.fail(Slow(1_000_000), on="GET cdn .*pytorch_model.bin")
    running = [tool.process("sync") for _ in range(3)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sent(hub, "pytorch_model.bin") == (repository / "pytorch_model.bin").stat().st_size
    assert tool("verify").exit_code == 0


def test_a_killed_conversion_goes_on_where_it_stopped(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """`lock`, killed while the pickle comes: the next one asks for the rest."""
    repository = big_pickle(tmp_path / "model", 3_000_000)
    size = (repository / "pytorch_model.bin").stat().st_size
    hub.add(MODEL, repository)
    want(tool, PICKLE)
    tool.use_root()
    hub.fail(Slow(500_000), on="GET cdn .*pytorch_model.bin")
    process = tool.process("lock")
    deadline = time.monotonic() + SOON
    while not list(tool.folder.rglob("*.ranges")) or sum(p.stat().st_size for p in tool.folder.rglob("*.ranges")) < 40:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.forget()
    assert tool("lock").exit_code == 0
    assert 0 < sent(hub, "pytorch_model.bin") < size
    assert tool("sync").exit_code == 0
    assert tool("verify").exit_code == 0


def big_pickle(folder: Path, size: int) -> Path:
    """A model whose weights are a pickle of about `size` bytes."""
    repository = tiny.tiny_embedding(folder)
    (repository / "model.safetensors").unlink()
    tiny.write_pickle(repository / "pytorch_model.bin", size)
    return repository


# Pooling


def test_pooling_is_written_down_and_pinned(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """modules.json and its modules are made from two words in the manifest; the repository's files stay as they are."""
    repository = models.no_modules_embedding(tmp_path / "model")
    hub.add(MODEL, repository)
    want(tool, "")
    ran = tool("sync")
    assert ran.exit_code == 5
    assert 'pooling = "mean"' in ran.err
    want(tool, 'pooling = "cls"\nnormalize = true\n')
    assert tool("sync").exit_code == 0
    published = files_of(tool.home(MODEL))
    made = {path for path, file in locked(tool)["files"].items() if file.get("made") == "written"}
    assert made == {"modules.json", "1_Pooling/config.json"}
    assert locked(tool)["pooling"] == "cls"
    assert [module["path"] for module in json.loads(published["modules.json"])] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads(published["1_Pooling/config.json"])
    assert pooling["word_embedding_dimension"] == 32
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_cls_token"]
    assert all(content == (repository / path).read_bytes() for path, content in published.items() if path not in made)


def test_another_pooling_is_another_pin(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The manifest moves it, and only it: no weights are fetched again, but for their header."""
    hub.add(MODEL, models.no_modules_embedding(tmp_path / "model"))
    want(tool, 'pooling = "cls"\nnormalize = true\n')
    assert tool("sync").exit_code == 0
    want(tool, 'pooling = "mean"\nnormalize = false\n')
    assert tool("lock", "--check").exit_code == 2
    hub.forget()
    assert tool("sync").exit_code == 0
    assert sent(hub, "model.safetensors") <= 32 << 10
    assert len(json.loads((tool.home(MODEL) / "modules.json").read_text())) == 2
    assert tool("verify").exit_code == 0


@pytest.mark.parametrize("config", [{"model_type": "bert"}, {"hidden_size": "32"}, {"hidden_size": 0}, []])
def test_a_width_that_is_nowhere_said_is_refused(
    hub: StandInHub, tool: Tool, tmp_path: Path, config: Mapping[str, Any]
) -> None:
    """Exit 5: the pooling module has to know how wide the vectors are."""
    repository = models.no_modules_embedding(tmp_path / "model")
    tiny.write_json(repository / "config.json", config)
    hub.add(MODEL, repository)
    want(tool, 'pooling = "cls"\nnormalize = true\n')
    ran = tool("sync")
    assert ran.exit_code == 5
    assert "how wide" in ran.err
