"""What is shipped is looked at when a model is locked: pointers of git-lfs, and weights whose header does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, PROJECT, Tool, files_below
from tests.support import models, tiny
from tests.support.hub import Chunked, Flip, IgnoreRange, StandInHub

WEIGHTS = "model.safetensors"
OLD = b"version http://git-media.io/v/2\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
PLACES = ("hub", "directory")


def pointer(content: bytes) -> bytes:
    """What git keeps in the place of a file."""
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in a directory."""
    return tiny.tiny_embedding(tmp_path / "embedding")


def want(hub: StandInHub, tool: Tool, model: Path, place: str, extra: str = "") -> None:
    """Want the model, from the Hub or from its directory."""
    hub.add(EMBEDDING, model)
    path = "" if place == "hub" else f'path = "{model}"\n'
    tool.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\n{path}{extra}')


def refusal(tool: Tool) -> str:
    """Lock and sync a model that is refused, and return what was said; nothing is written."""
    for command in ("lock", "sync"):
        ran = tool(command)
        assert ran.exit_code == 5, ran.err
        assert not (tool.folder / "models.lock").exists()
        assert not tool.home(EMBEDDING).exists()
    return ran.err


def sent(hub: StandInHub, file: str = WEIGHTS) -> int:
    """How many bytes of a file were sent."""
    return sum(request.sent for request in hub.requests if request.file == file and request.status in (200, 206))


# pointers -------------------------------------------------------------------------------------------------------

POINTED = [WEIGHTS, "tokenizer.json", "vocab.txt", "README.md", "config.json", "modules.json", "1_Pooling/config.json"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", POINTED)
def test_a_pointer_in_the_place_of_any_file_is_refused(
    hub: StandInHub, tool: Tool, model: Path, path: str, place: str
) -> None:
    """Weights, tokenizer, words, configurations, whether git-lfs had them or not: exit 5, the file, and the way out."""
    (model / path).write_bytes(pointer((model / path).read_bytes()))
    want(hub, tool, model, place)
    told = refusal(tool)
    assert f"{path} is a git-lfs pointer" in told
    assert ("git lfs pull" if place == "directory" else "tell the owner") in told


@pytest.mark.parametrize("place", PLACES)
def test_every_pointer_is_told_at_once(hub: StandInHub, tool: Tool, model: Path, place: str) -> None:
    """A checkout without git-lfs has several; also in forms that git-lfs used to have."""
    (model / WEIGHTS).write_bytes(OLD)
    (model / "tokenizer.json").write_bytes(pointer(b"x"))
    (model / "sentencepiece.bpe.model").write_bytes(pointer(b"y"))
    want(hub, tool, model, place)
    told = refusal(tool)
    pointers = (WEIGHTS, "tokenizer.json", "sentencepiece.bpe.model")
    assert all(f"{path} is a git-lfs pointer" in told for path in pointers)
    assert told.count("is a git-lfs pointer") == 3


def test_what_is_not_shipped_may_be_a_pointer(hub: StandInHub, tool: Tool, model: Path) -> None:
    """A picture, a second format of the weights: only what would be shipped is judged."""
    for path in ("picture.png", "pytorch_model.bin", "onnx/model.onnx", "3_Other/config.json"):
        (model / path).parent.mkdir(exist_ok=True)
        (model / path).write_bytes(pointer(b"x"))
    want(hub, tool, model, "hub")
    assert tool("sync").exit_code == 0


def test_a_text_about_pointers_is_none(hub: StandInHub, tool: Tool, model: Path) -> None:
    """A longer file, or one that only mentions the words."""
    (model / "README.md").write_bytes(pointer(b"x").ljust(2000))
    (model / "NOTICE").write_bytes(b"This is what a pointer looks like:\n" + pointer(b"x"))
    want(hub, tool, model, "directory")
    assert tool("sync").exit_code == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_pointer_to_a_pickle_is_refused_before_it_is_converted(
    hub: StandInHub, tool: Tool, model: Path, place: str
) -> None:
    """With the way out that helps, instead of "not a zip file"."""
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(pointer(b"x"))
    want(hub, tool, model, place, "allow_pickle = true\n")
    assert "pytorch_model.bin is a git-lfs pointer" in refusal(tool)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["a shard", "the index", "every shard"])
def test_a_pointer_among_shards_is_refused(hub: StandInHub, tool: Tool, tmp_path: Path, what: str, place: str) -> None:
    """Each is named."""
    model = models.sharded_embedding(tmp_path / "embedding")
    shards = sorted(model.glob("*.safetensors"))
    wrong = {"a shard": shards[:1], "the index": [model / f"{WEIGHTS}.index.json"], "every shard": shards}[what]
    for path in wrong:
        path.write_bytes(pointer(path.read_bytes()))
    want(hub, tool, model, place)
    told = refusal(tool)
    assert all(f"{path.name} is a git-lfs pointer" in told for path in wrong)


def test_a_pointer_in_the_place_of_code_is_refused(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    model = models.remote_code_embedding(tmp_path / "embedding")
    (model / "tiny_scale.py").write_bytes(pointer(b"x"))
    want(hub, tool, model, "hub", "trust_remote_code = true\n")
    assert "tiny_scale.py is a git-lfs pointer" in refusal(tool)


# headers --------------------------------------------------------------------------------------------------------


def header(data: bytes, change: Callable[[dict[str, dict[str, object]]], object]) -> bytes:
    """A file of weights with a changed header."""
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    change(table)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


UNSOUND: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "half a file": (lambda data: data[: len(data) // 2], "are there"),
    "one byte short": (lambda data: data[:-1], "are there"),
    "one byte more": (lambda data: data + b"\0", "are there"),
    "cut within its header": (lambda data: data[:2000], "it is cut short"),
    "seven bytes": (lambda data: data[:7], "it is cut short"),
    "nothing": (lambda _: b"", "it is cut short"),
    "zeros": (lambda data: bytes(len(data)), "not a JSON object"),
    "a page": (lambda data: b"<!doctype html><html>".ljust(len(data)), "it is cut short"),
    "a header of 2^63": (lambda data: b"\xff" * 8 + data[8:], "it is cut short"),
    "a header of 5 MB": (lambda _: (5_000_000).to_bytes(8, "little") + b"{}".ljust(5_000_000), "is the limit"),
    "a hole": (lambda data: header(data, lambda table: table.popitem()), "are there"),
    "a type that is too small": (
        lambda data: header(data, lambda table: table["pooler.dense.bias"].update(dtype="F16")),
        "does not take",
    ),
    "a pickle": (lambda data: b"PK\3\4".ljust(len(data), b"\1"), "it is cut short"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", UNSOUND)
def test_weights_whose_header_does_not_fit_are_refused(
    hub: StandInHub, tool: Tool, model: Path, what: str, place: str
) -> None:
    """Exit 5, the file, what is wrong with it, and what to do."""
    change, reason = UNSOUND[what]
    (model / WEIGHTS).write_bytes(change((model / WEIGHTS).read_bytes()))
    want(hub, tool, model, place)
    told = refusal(tool)
    assert f"{WEIGHTS} is not a sound safetensors file: " in told
    assert reason in told
    assert ("copy it anew" if place == "directory" else "tell the owner") in told


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_half_a_shard_and_a_pointer_are_told_together(hub: StandInHub, tool: Tool, tmp_path: Path, place: str) -> None:
    """All that is wrong with a model, in one run."""
    model = models.sharded_embedding(tmp_path / "embedding")
    first, second, *_ = sorted(model.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-4])
    second.write_bytes(pointer(b"x"))
    want(hub, tool, model, place)
    told = refusal(tool)
    assert f"{first.name} is not a sound safetensors file" in told
    assert f"{second.name} is a git-lfs pointer" in told


@pytest.mark.parametrize("tensors", [10, 2_000])
def test_of_large_weights_the_header_is_all_that_lock_fetches(
    hub: StandInHub, tool: Tool, model: Path, tensors: int
) -> None:
    """One range for an ordinary header, two for a long one; `sync` fetches each byte once, from the known address."""
    shapes = {f"tensor.{number}": (5_000_000 // tensors,) for number in range(tensors)}
    tiny.write_safetensors(model / WEIGHTS, shapes, ())
    size = 8 + int.from_bytes((model / WEIGHTS).read_bytes()[:8], "little")
    want(hub, tool, model, "hub")
    assert tool("lock").exit_code == 0
    asked = [request for request in hub.requests if request.file == WEIGHTS and request.host == "cdn"]
    assert [request.status for request in asked] == [206] * (1 + (size > 32 << 10))
    assert sum(request.sent for request in asked) == max(size, 32 << 10)
    hub.forget()
    (tool.folder / "models.lock").unlink()
    assert tool("sync", "--jobs=1").exit_code == 0
    assert len([request for request in hub.requests if request.file == WEIGHTS and request.host == "hub"]) == 1
    assert (tool.home(EMBEDDING) / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


@pytest.mark.parametrize("tensors", [10, 2_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_is_left_after_the_header(
    hub: StandInHub, tool: Tool, model: Path, tensors: int, chunked: bool
) -> None:
    """It sends the file from its beginning, which has 100 MB here; only what is in the line by then is lost."""
    shapes = {f"tensor.{number}": (25_000_000 // tensors,) for number in range(tensors)}
    tiny.write_safetensors(model / WEIGHTS, shapes, ())
    want(hub, tool, model, "hub")
    hub.fail(IgnoreRange(), on="GET cdn ", times=-1)
    if chunked:
        hub.fail(Chunked(1 << 16), on="GET cdn ", times=-1)
    assert tool("lock").exit_code == 0
    assert sent(hub) < 40_000_000


def test_a_header_that_was_spoiled_on_the_way_is_read_once_more(hub: StandInHub, tool: Tool, model: Path) -> None:
    """The owner is not blamed for what a proxy did once; what comes spoiled twice is refused."""
    want(hub, tool, model, "hub")
    hub.fail(Flip(8), on="GET cdn ", times=1)
    assert tool("lock").exit_code == 0
    hub.fail(Flip(8), on="GET cdn ", times=-1)
    assert tool("lock", "--upgrade").exit_code == 5


def test_headers_are_read_in_flat_memory(hub: StandInHub, tool: Tool, model: Path) -> None:
    """Twelve shards, each with the largest header that is read, of the smallest entries."""
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(72_000))
    text = b"{" + entries + b"}"
    names = [f"model-{number:05}-of-00012.safetensors" for number in range(12)]
    for number, name in enumerate(names):
        (model / name).write_bytes((len(text) + number).to_bytes(8, "little") + text + b" " * number)
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": dict(zip(names, names, strict=True))}))
    want(hub, tool, model, "hub")
    code = (
        "import re, sys; from cache_models import main; code = main(['lock']); print(open('/proc/self/status').read())"
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tool.folder, env=env, capture_output=True, text=True, check=True)
    assert (tool.folder / "models.lock").exists(), done.stderr
    peak = re.search(r"VmHWM:\s+(\d+)", done.stdout)
    assert peak
    assert int(peak[1]) / 1024 < 192


def test_a_directory_that_is_cut_after_the_lock_is_not_published(hub: StandInHub, tool: Tool, model: Path) -> None:
    """Its hash tells."""
    want(hub, tool, model, "directory")
    assert tool("lock").exit_code == 0
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-4])
    assert tool("sync").exit_code == 1
    assert not tool.home(EMBEDDING).exists()
    assert files_below(model).keys() >= {WEIGHTS}
