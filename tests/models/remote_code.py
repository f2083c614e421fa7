"""Embedding models that bring Python code along, in their own repository or in another one.

The code is a word table with one mixing layer: four files that import each other, so whoever copies it must follow
the imports. Its weights are written without torch.
"""

from __future__ import annotations

from pathlib import Path

from tests.tiny import (
    VOCABULARY,
    random_values,
    write_json,
    write_paper,
    write_safetensors,
    write_sentence_files,
    write_tokenizer,
)

HIDDEN = 32
CODE = {
    "configuration_tiny.py": '''"""Configuration of the tiny model."""

from transformers import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "tiny-words"

    def __init__(self, vocab_size=100, hidden_size=32, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
''',
    "modeling_tiny.py": '''"""A word table and one mixing layer."""

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_tiny import TinyConfig
from .tiny_layers import Mixer


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mixer = Mixer(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return BaseModelOutput(last_hidden_state=self.mixer(self.words(input_ids)))
''',
    "tiny_layers.py": '''"""Layers of the tiny model."""

from torch import nn

from .tiny_scale import SCALE


class Mixer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, states):
        return states + SCALE * self.dense(states).tanh()
''',
    "tiny_scale.py": '''"""A number that only an import of an import reaches."""

SCALE = 1.5
''',
}


def remote_code_embedding(folder: Path) -> Path:
    """A model whose code lies beside its weights."""
    _model(folder, "remote-code-embedding", owner="")
    _code(folder)
    return folder


def remote_code_elsewhere(folder: Path, impl: str = "otherorg/impl") -> Path:
    """The same model with references into the repository ``impl``, and no code of its own."""
    return _model(folder, "remote-code-elsewhere", owner=f"{impl}--")


def remote_code_impl(folder: Path) -> Path:
    """The repository that ``remote_code_elsewhere`` points to: code and no weights."""
    write_paper(folder, "impl", "feature-extraction")
    _code(folder)
    return folder


def _model(folder: Path, title: str, owner: str) -> Path:
    write_paper(folder, title, "sentence-similarity")
    write_tokenizer(folder)
    write_sentence_files(folder, HIDDEN)
    config = {
        "architectures": ["TinyModel"],
        "auto_map": {
            "AutoConfig": f"{owner}configuration_tiny.TinyConfig",
            "AutoModel": f"{owner}modeling_tiny.TinyModel",
        },
        "hidden_size": HIDDEN,
        "model_type": "tiny-words",
        "vocab_size": len(VOCABULARY),
    }
    write_json(folder / "config.json", config)
    tensors = {
        "words.weight": (len(VOCABULARY), HIDDEN),
        "mixer.dense.weight": (HIDDEN, HIDDEN),
        "mixer.dense.bias": (HIDDEN,),
    }
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=9))
    return folder


def _code(folder: Path) -> None:
    for name, text in CODE.items():
        (folder / name).write_text(text, encoding="utf-8")
