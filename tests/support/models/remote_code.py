"""Models that bring Python code along, in their own repository or in another one.

The code is a word table with one mixing layer: files that import each other, so whoever copies it must follow the
imports. The weights are written without torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.tiny import (
    VOCABULARY,
    random_values,
    tiny_embedding,
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
    "pairing_tiny.py": '''"""One score for a pair of texts."""

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from .modeling_tiny import TinyModel


class TinyPair(TinyModel):
    def __init__(self, config):
        super().__init__(config)
        self.score = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        states = super().forward(input_ids).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(states.amax(dim=1)))
''',
    "tiny_scale.py": '''"""A number that only an import of an import reaches."""

SCALE = 1.5
''',
}

TILT = '''"""Adds a learned vector to every embedding."""

import torch
from sentence_transformers.base.modules import Module


class Tilt(Module):
    config_keys = ["size"]

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.tilt = torch.nn.Parameter(torch.zeros(size))

    def forward(self, features):
        features["sentence_embedding"] = features["sentence_embedding"] + self.tilt
        return features

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        places = ("token", "cache_folder", "revision", "local_files_only")
        hub = {key: kwargs[key] for key in places if key in kwargs}
        model = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        return cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=model, **hub)
'''
LOADER = """
    @classmethod
    def from_pretrained(cls, place, *args, config=None, **kwargs):
        from safetensors.torch import load_file
        from transformers.utils import cached_file

        places = ("cache_dir", "revision", "token", "local_files_only")
        path = cached_file(place, "model.safetensors", **{key: kwargs[key] for key in places if key in kwargs})
        model = cls(config)
        model.load_state_dict(dict(zip(model.state_dict(), load_file(path).values())))
        return model.eval()
"""
TASKS = """
    @classmethod
    def from_pretrained(cls, place, *args, **kwargs):
        from safetensors.torch import load_file
        from transformers.utils import cached_file

        model = super().from_pretrained(place, *args, **kwargs)
        places = ("cache_dir", "revision", "token", "local_files_only")
        hub = {key: kwargs[key] for key in places if key in kwargs}
        path = cached_file(place, f"tasks/{model.config.task}.safetensors", **hub)
        model.words.weight.data *= load_file(path)["scale"]
        return model
"""
_TENSORS = {
    "words.weight": (len(VOCABULARY), HIDDEN),
    "mixer.dense.weight": (HIDDEN, HIDDEN),
    "mixer.dense.bias": (HIDDEN,),
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


def remote_code_reranker(folder: Path) -> Path:
    """A cross-encoder whose code lies beside its weights."""
    _pair(folder, "remote-code-reranker", owner="")
    _code(folder)
    return folder


def remote_code_reranker_elsewhere(folder: Path, impl: str = "otherorg/impl") -> Path:
    """The same cross-encoder with references into the repository ``impl``."""
    return _pair(folder, "remote-code-reranker-elsewhere", owner=f"{impl}--")


def custom_module_embedding(folder: Path) -> Path:
    """A BERT whose last module is a class of the repository's own, with weights of its own."""
    tiny_embedding(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2] = {"idx": 2, "name": "2", "path": "2_Tilt", "type": "custom_tilt.Tilt"}
    write_json(folder / "modules.json", modules)
    (folder / "custom_tilt.py").write_text(TILT, encoding="utf-8")
    write_json(folder / "2_Tilt" / "config.json", {"size": HIDDEN})
    tensors = {"tilt": (HIDDEN,)}
    write_safetensors(folder / "2_Tilt" / "model.safetensors", tensors, random_values(tensors, seed=21))
    return folder


def own_loader_embedding(folder: Path) -> Path:
    """A model whose code reads the weights itself, under names of its own, as some do."""
    remote_code_embedding(folder)
    code = folder / "modeling_tiny.py"
    code.write_text(code.read_text() + LOADER, encoding="utf-8")
    tensors = {f"old_{number}": shape for number, shape in enumerate(_TENSORS.values())}
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=23))
    return folder


def tasks_embedding(folder: Path) -> Path:
    """A model whose code reads a file for each task, in a folder that no configuration names."""
    remote_code_embedding(folder)
    code = folder / "modeling_tiny.py"
    code.write_text(code.read_text() + TASKS, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "task": "retrieval"})
    tensors = {"scale": (HIDDEN,)}
    (folder / "tasks").mkdir()
    for seed, task in enumerate(("clustering", "retrieval"), start=25):
        write_safetensors(folder / "tasks" / f"{task}.safetensors", tensors, random_values(tensors, seed=seed))
    write_json(folder / "onnx" / "config.json", config)
    return folder


def native_with_gone_code(folder: Path) -> Path:
    """A BERT, which transformers has itself, that names code of a repository which is no more."""
    tiny_embedding(folder)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "goneorg/impl--configuration_old.Old", "AutoModel": "goneorg/impl--modeling_old.Old"}
    write_json(folder / "config.json", {**config, "auto_map": auto_map})
    return folder


def _pair(folder: Path, title: str, owner: str) -> Path:
    _model(folder, title, owner)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {**config["auto_map"], "AutoModelForSequenceClassification": f"{owner}pairing_tiny.TinyPair"}
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    write_json(folder / "config.json", {**config, "architectures": ["TinyPair"], "auto_map": auto_map, **labels})
    tensors = {**_TENSORS, "score.weight": (1, HIDDEN), "score.bias": (1,)}
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=10))
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
    write_safetensors(folder / "model.safetensors", _TENSORS, random_values(_TENSORS, seed=9))
    return folder


def _code(folder: Path) -> None:
    for name, text in CODE.items():
        (folder / name).write_text(text, encoding="utf-8")
