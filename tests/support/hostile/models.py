"""Hostile models, and one that is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.models.remote_code import remote_code_embedding
from tests.support.tiny import Shape, floats, tiny_embedding, write_json, write_safetensors

ENDED, GOT = 57, 58
"""The tokens that a hostile model says it reads when its payload has ended, and when it got something."""

_PAYLOADS = Path(__file__).with_name("payloads.py")
# transformers runs a module of a model again for each thing that it makes of it.
_CALL = """

import builtins

from .tiny_payload import {payload}

if not hasattr(builtins, "tokens"):
    builtins.tokens = {ended}
    try:
        if {payload}(**{told!r}):
            builtins.tokens = {got}
    except OSError:
        pass
TinyConfig.max_position_embeddings = builtins.tokens
"""


def hostile(folder: Path, payload: str, told: Mapping[str, Any]) -> Path:
    """A model that runs a payload when it is loaded, and then says how it ended."""
    remote_code_embedding(folder)
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": False})  # then config.json says what it reads
    (folder / "tiny_payload.py").write_bytes(_PAYLOADS.read_bytes())
    code = folder / "configuration_tiny.py"
    code.write_text(code.read_text() + _CALL.format(payload=payload, told=dict(told), ended=ENDED, got=GOT))
    return folder


def broken(folder: Path) -> Path:
    """A model whose numbers are none."""
    tiny_embedding(folder)
    tensors = Shape().tensors()
    none = (floats([math.nan] * math.prod(shape)) for shape in tensors.values())
    write_safetensors(folder / "model.safetensors", tensors, none)
    return folder
