"""`include`: files of a repository beside those that the loader opens, shipped byte for byte."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.file_types import CODE, OTHER_WEIGHTS, PICKLES
from modelcache.core.types import RemoteCode
from modelcache.formats.lockfile import format_lock
from modelcache.pipeline.pins import read_lock
from tests.conftest import EMBEDDING, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

ONNX = {
    "onnx/model.onnx": b"\x08\x08graph",
    "onnx/model.onnx_data": bytes(5000),
    "onnx/model_O3.onnx": b"\x08\x08other",
}
OPENVINO = {"openvino/openvino_model.xml": b"<net/>", "openvino/openvino_model.bin": bytes(range(200))}
HEADS = ("colbert_linear.pt", "sparse_linear.pt")


@pytest.fixture
def repository(hub: StandInHub, tmp_path: Path) -> dict[str, bytes]:
    """A model with files for other programs beside it."""
    files = files_below(tiny.tiny_embedding(tmp_path / "model"))
    for name in HEADS:
        tiny.write_pickle(tmp_path / name, 4000)
        files[name] = (tmp_path / name).read_bytes()
    files |= {**ONNX, **OPENVINO, "adapters/de/adapter_config.json": b"{}", "train.py": b"print()\n"}
    hub.add(EMBEDDING, files)
    return files


def want(tool: Tool, *keys: str) -> None:
    tool.want(EMBEDDING, extra="".join(f"{key}\n" for key in keys))


def published(tool: Tool) -> dict[str, bytes]:
    return {path: data for path, data in files_below(tool.home(EMBEDDING)).items() if path != ".cache-models.json"}


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        (['include = ["onnx/model.onnx"]'], ["onnx/model.onnx"]),
        (['include = ["onnx/model.onnx*"]'], ["onnx/model.onnx", "onnx/model.onnx_data"]),
        (['include = ["onnx/"]'], [*ONNX]),
        (['include = ["**/*.onnx"]'], ["onnx/model.onnx", "onnx/model_O3.onnx"]),
        (['include = ["openvino/**", "adapters/**"]'], [*OPENVINO, "adapters/de/adapter_config.json"]),
        (['include = ["*_linear.pt"]', "allow_pickle = true"], [*HEADS]),
        (['include = ["train.py"]', "trust_remote_code = true"], ["train.py"]),
        (['include = ["config.json", "README.md"]'], []),
    ],
)
def test_named_files_are_shipped_byte_for_byte(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes], keys: list[str], more: list[str]
) -> None:
    """From lock to the published directory and the Hub view; and a second start finds all of it in place."""
    want(tool)
    assert tool("sync").exit_code == 0
    plain = published(tool)
    want(tool, *keys)
    assert tool("lock", "--check").exit_code == 2
    assert tool("lock").exit_code == 0
    assert tool("sync", "--locked").exit_code == 0
    assert published(tool) == plain | {path: repository[path] for path in more}
    assert tool("verify").exit_code == 0
    (view,) = (tool.folder / "hub" / "models--tinyorg--embedding" / "snapshots").iterdir()
    assert all((view / path).read_bytes() == repository[path] for path in more)
    hub.forget()
    assert tool("sync").exit_code == 0
    assert not hub.requests
    want(tool)
    assert tool("sync").exit_code == 0
    assert published(tool) == plain


def test_what_is_included_is_written_down_and_kept(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """The lock has the patterns, so that a later run knows whether the pin still fits."""
    want(tool, 'include = ["onnx/model.onnx"]')
    assert tool("lock").exit_code == 0
    (pin,) = read_lock(tool.folder / "models.lock") or ()
    assert pin.include == ("onnx/model.onnx",)
    first = (tool.folder / "models.lock").read_bytes()
    (tool.folder / "models.lock").unlink()
    assert tool("lock").exit_code == 0
    assert (tool.folder / "models.lock").read_bytes() == first


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (['include = ["onnx/model_03.onnx"]'], ["include names onnx/model_03.onnx", "did you mean onnx/model_O3.onnx"]),
        (['include = ["model_O3.onnx"]'], ["did you mean onnx/model_O3.onnx"]),
        (['include = ["gguf/*"]'], ["there is no such file"]),
        (['include = ["*_linear.pt"]'], ["colbert_linear.pt, sparse_linear.pt", "pickle", "allow_pickle = true"]),
        (['include = ["train.py"]'], ["train.py is code", "trust_remote_code = true"]),
        (['include = ["train.py"]', "trust_remote_code = false"], ["train.py is code"]),
        (['include = ["nope", "train.py", "sparse_linear.pt"]'], ["nope", "train.py is code", "sparse_linear.pt"]),
    ],
)
def test_a_refusal_names_every_reason(
    tool: Tool, repository: Mapping[str, bytes], keys: list[str], words: list[str]
) -> None:
    """A pattern without a file, with the nearest names; code and pickles without their keys."""
    want(tool, *keys)
    ran = tool("lock")
    assert ran.exit_code == 5, ran.err
    assert all(word in ran.err for word in words), ran.err
    assert not (tool.folder / "models.lock").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("head.pt", pickle.dumps({"weight": [1.0]})),
        ("head.pt", pickle.dumps(print, protocol=0)),
        ("head.bin", b"cos\nsystem\n(S'true'\ntR."),
        ("head.BIN", pickle.dumps([1, 2])),
        ("openvino_model.bin", pickle.dumps(print, protocol=0)),
        ("head.p", b"anything"),
        ("spiece.model", pickle.dumps(print)),
        ("words.txt", pickle.dumps(print, protocol=0)),
        ("old.dat", b"x".ljust(257, b"\0") + b"ustar"),
        ("graph.onnx", b"PK\x03\x04first entry" + b"x" * 9000 + b"data.pkl"),
        ("head.pkl", pickle.dumps([1, 2])),
        ("head.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'"),
        ("weights.dat", pickle.dumps({"weight": [1.0]}, protocol=2)),
        ("weights", pickle.dumps(print, protocol=4)),
    ],
)
def test_a_pickle_with_anything_but_tensors_is_refused(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes], name: str, content: bytes
) -> None:
    """`allow_pickle` permits tensors only, and the name of the file does not matter."""
    hub.add(EMBEDDING, {**repository, name: content})
    want(tool, f'include = ["{name}"]', "allow_pickle = true")
    ran = tool("lock")
    assert ran.exit_code == 5, ran.err
    assert name in ran.err
    assert "pickle" in ran.err
    assert tool("sync").exit_code == 5
    assert not tool.home(EMBEDDING).exists()


def test_a_torch_file_under_another_name_is_refused(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    """torch.load opens it whatever its name is."""
    hub.add(EMBEDDING, {**repository, "weights.data": repository["sparse_linear.pt"]})
    want(tool, 'include = ["weights.data"]', "allow_pickle = true")
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "weights.data is a pickle, and its name does not say so" in ran.err


def test_a_pickle_is_read_once(tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]) -> None:
    """`lock` fetches it to read it, `sync` takes it from there, and a later `lock` knows it from the pin."""
    tool.use_root()
    want(tool, 'include = ["sparse_linear.pt"]', "allow_pickle = true")
    assert tool("lock").exit_code == 0
    assert tool("sync").exit_code == 0
    hub.add(EMBEDDING, {**repository, "README.md": b"# Other words\n"})
    assert tool("lock", "--upgrade").exit_code == 0
    fetched = [request for request in hub.requests if "sparse_linear.pt" in request.path and request.host != "cdn"]
    assert len(fetched) == 1, hub.requests


def test_a_permission_that_is_taken_back_unfits_the_pin(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """A lock with a pickle or with code is stale where models.toml no longer allows it."""
    want(tool, 'include = ["sparse_linear.pt", "train.py"]', "allow_pickle = true", "trust_remote_code = true")
    assert tool("sync").exit_code == 0
    want(tool, 'include = ["sparse_linear.pt", "train.py"]')
    ran = tool("sync", "--locked")
    assert ran.exit_code == 2
    assert "allow_pickle true instead of false" in ran.err
    assert "trust_remote_code true instead of unset" in ran.err


def test_a_lock_names_no_such_file_without_its_pattern(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """A lock that was edited by hand ships no pickle."""
    want(tool, 'include = ["onnx/model.onnx"]')
    assert tool("lock").exit_code == 0
    lock = tool.folder / "models.lock"
    lock.write_text(lock.read_text().replace('include = ["onnx/model.onnx"]\n', ""))
    want(tool)
    ran = tool("sync")
    assert ran.exit_code == 2
    assert "onnx/model.onnx is never published unless include names it" in ran.err


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('"onnx/*"', "include must be a list of strings"),
        ("[1]", "include must be a list of strings, and has 1"),
        ('[""]', "the pattern '' of include is not a short name"),
        ('["/etc/*"]', "the pattern '/etc/*' of include is not relative to the repository"),
        ('["../*"]', "is not relative to the repository"),
        ('["a\\\\b"]', "is not relative to the repository"),
    ],
)
def test_a_wrong_pattern_is_told_with_its_line(tool: Tool, value: str, problem: str) -> None:
    """Before any request."""
    want(tool, f"include = {value}")
    ran = tool("lock")
    assert ran.exit_code == 2
    assert "models.toml:3:" in ran.err
    assert problem in ran.err


def test_exclude_is_for_what_is_never_loaded(tool: Tool) -> None:
    """The loader needs its files."""
    want(tool, 'exclude = ["README.md"]')
    ran = tool("lock")
    assert ran.exit_code == 2
    assert "exclude is for [[other]]" in ran.err


def test_files_that_an_engine_wants_are_named_when_they_are_left_behind(
    tool: Tool, repository: Mapping[str, bytes]
) -> None:
    """In one line, with the keys that ship them; and these keys do, also beside what is included already."""
    want(tool, 'include = ["train.py"]', "trust_remote_code = true")
    (said,) = [event["text"] for event in events(tool, "lock") if "left behind" in event["text"]]
    keys = said.partition("to ship: ")[2].split(" and ")
    patterns = ["train.py", *HEADS, "onnx/model.onnx", "onnx/model.onnx_data"]
    assert keys == [f"include = {json.dumps(patterns)}", "allow_pickle = true", "trust_remote_code = true"]
    want(tool, *keys)
    assert not [event["text"] for event in events(tool, "lock") if "left behind" in event["text"]]
    assert tool("sync").exit_code == 0
    assert published(tool).keys() >= set(patterns)


def test_an_onnx_file_without_its_numbers_is_noted(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """Half of a set is of no use."""
    want(tool, 'include = ["onnx/model.onnx"]')
    assert 'include = ["onnx/model.onnx", "colbert_linear.pt"' in tool("lock").err
    want(tool, 'include = ["onnx/model.onnx", "*_linear.pt"]', "allow_pickle = true")
    ran = tool("lock")
    assert 'left behind: onnx/model.onnx_data; to ship: include = ["onnx/model.onnx"' in ran.err


def test_a_lock_is_read_back_whatever_lies_beside_the_model(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]
) -> None:
    """None of it is shipped where the loader does not need it."""
    beside = {f"x{ending}" for ending in OTHER_WEIGHTS | PICKLES | CODE} | {"X2.PY", "X2.PT"}
    hub.add(EMBEDDING, {**repository, **dict.fromkeys(beside, b"x")})
    want(tool)
    assert tool("sync").exit_code == 0
    assert tool("verify").exit_code == 0
    assert not beside & published(tool).keys()


def test_weights_are_converted_and_shipped_as_they_are(tool: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """A pattern may name a pickle that the loader needs as safetensors."""
    folder = tiny.tiny_embedding(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    tiny.write_pickle(folder / "pytorch_model.bin", 100_000)
    hub.add(EMBEDDING, folder)
    want(tool, 'include = ["*.bin"]', "allow_pickle = true")
    assert tool("sync").exit_code == 0
    assert {"pytorch_model.bin", "model.safetensors"} <= published(tool).keys()
    assert tool("verify").exit_code == 0


def test_binary_files_that_are_no_pickles_need_no_key(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]
) -> None:
    """Models of CTranslate2 and fastText, and arrays of numbers, have endings that pickles have, too."""
    numpy = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    files = {"ct2/model.bin": b"\x06\0\0\0\x12\0TransformerSpec\0", "x.npy": numpy, "x.npz": b"PK\x03\x04rest"}
    hub.add(EMBEDDING, {**repository, **files})
    want(tool, f"include = {json.dumps(list(files))}")
    assert tool("sync").exit_code == 0
    assert published(tool).items() >= files.items()


def test_a_small_file_that_is_a_pickle_is_left_behind(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]
) -> None:
    """No loader opens it; a file with such a name that is none is shipped as it always was."""
    hub.add(EMBEDDING, {**repository, "train_state": pickle.dumps(print), "notes": b"words\n"})
    want(tool)
    ran = tool("sync")
    assert ran.exit_code == 0
    assert "left behind, as it is a pickle that no loader opens: train_state" in ran.err
    assert {"train_state", "notes"} & published(tool).keys() == {"notes"}


def test_a_lock_that_was_edited_ships_no_pickle_that_was_not_read(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]
) -> None:
    """`sync` reads it again before it is published."""
    want(tool, 'include = ["sparse_linear.pt"]', "allow_pickle = true")
    assert tool("lock").exit_code == 0
    evil = pickle.dumps(print)
    commit = hub.add(EMBEDDING, {**repository, "sparse_linear.pt": evil})
    lock = tool.folder / "models.lock"
    (pin,) = read_lock(lock) or ()
    files = tuple(
        replace(file, size=len(evil), sha256=hashlib.sha256(evil).hexdigest()) if file.path.endswith(".pt") else file
        for file in pin.files
    )
    lock.write_text(format_lock([replace(pin, commit=commit, files=files)]))
    ran = tool("sync", "--locked")
    assert ran.exit_code == 5, ran.err
    assert not tool.home(EMBEDDING).exists()


def test_all_pickles_are_judged_at_once(tool: Tool, hub: StandInHub, repository: Mapping[str, bytes]) -> None:
    """Each costs a download, so one run tells of all."""
    hub.add(EMBEDDING, {**repository, "a.pt": pickle.dumps(1), "b.pkl": pickle.dumps(2)})
    want(tool, 'include = ["a.pt", "b.pkl"]', "allow_pickle = true")
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "a.pt is a pickle, and is not shipped" in ran.err
    assert "b.pkl is a pickle, and is not shipped" in ran.err


def test_a_file_that_the_tool_writes_itself_is_not_included(tool: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """It would not be shipped byte for byte."""
    files = files_below(tiny.tiny_embedding(tmp_path / "bare"))
    del files["modules.json"]
    hub.add(EMBEDDING, files)
    want(tool, 'include = ["1_Pooling/*"]', 'pooling = "mean"', "normalize = true")
    ran = tool("lock")
    assert ran.exit_code == 5
    assert "include names 1_Pooling/config.json, and another file has to have that name" in ran.err


def test_code_that_is_included_is_not_run(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """Nothing names it, so the loaders need no trust."""
    want(tool, 'include = ["train.py"]', "trust_remote_code = true")
    assert tool("sync").exit_code == 0
    (pin,) = read_lock(tool.folder / "models.lock") or ()
    assert (pin.remote_code, pin.trust_remote_code) == (RemoteCode.NONE, True)


def test_a_directory_has_included_files_too(tool: Tool, repository: Mapping[str, bytes]) -> None:
    """A model from a `path`."""
    for path, data in repository.items():
        target = tool.folder / "house" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    want(tool, 'path = "house"', 'include = ["onnx/*", "sparse_linear.pt"]', "allow_pickle = true")
    assert tool("sync").exit_code == 0
    assert published(tool).keys() >= {*ONNX, "sparse_linear.pt"}
    (tool.folder / "house" / "sparse_linear.pt").write_bytes(pickle.dumps(print))
    (tool.folder / "models.lock").unlink()
    assert tool("lock", "--upgrade").exit_code == 5


def events(tool: Tool, *words: str) -> list[dict[str, str]]:
    ran = tool(*words, "--log-format", "json")
    assert ran.exit_code == 0, ran.err
    return [json.loads(line) for line in ran.err.splitlines()]


@pytest.mark.slow
def test_heads_of_torch_are_loaded_as_plain_tensors(
    tool: Tool, hub: StandInHub, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    """As FlagEmbedding loads those of bge-m3: `torch.load(weights_only=True)` of what torch.save wrote."""
    import torch

    heads = {"colbert_linear.pt": torch.nn.Linear(32, 32), "sparse_linear.pt": torch.nn.Linear(32, 1).half()}
    for name, head in heads.items():
        torch.save(head.state_dict(), tmp_path / name)
    hub.add(EMBEDDING, {**repository, **{name: (tmp_path / name).read_bytes() for name in heads}})
    want(tool, 'include = ["*_linear.pt"]', "allow_pickle = true")
    assert tool("sync").exit_code == 0
    for name, head in heads.items():
        found = torch.load(tool.home(EMBEDDING) / name, weights_only=True)
        assert found.keys() == head.state_dict().keys()
        assert all(torch.equal(found[key], value) for key, value in head.state_dict().items())
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    hub.add(EMBEDDING, {**repository, "sparse_linear.pt": (tmp_path / "module.pt").read_bytes()})
    want(tool, 'include = ["*_linear.pt"]', "allow_pickle = true")
    ran = tool("lock", "--upgrade")
    assert ran.exit_code == 5
    assert "sparse_linear.pt is a pickle, and is not shipped" in ran.err
