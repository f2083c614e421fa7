"""Models of every kind that an application may name, and the lines in which applications do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT
from tests.support import models, tiny
from tests.support.hub import StandInHub
from tests.support.models.remote_code import CODE as SOURCES

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PLAIN, TAGGED, DENSE, PICKLE, HOUSE = "org/plain", "org/tagged", "org/dense", "org/pickle", "acme/house"
CODE, ELSEWHERE, ONE_FILE, OWN_MODULE = "org/code", "org/code-elsewhere", "org/code-in-one-file", "org/own-module"
RERANKER, CODE_RERANKER, ONE_FILE_RERANKER = "acme/house-reranker", "acme/own-architecture", "org/reranker-in-one-file"
_TRUST = "trust_remote_code = true"
_TABLES = (
    ("embedding", MINILM, ""),
    ("embedding", PLAIN, ""),
    ("embedding", TAGGED, 'revision = "v1"'),
    ("embedding", DENSE, ""),
    ("embedding", PICKLE, "allow_pickle = true"),
    ("embedding", HOUSE, 'path = "../house"'),
    ("embedding", CODE, _TRUST),
    ("embedding", ELSEWHERE, _TRUST),
    ("embedding", ONE_FILE, _TRUST),
    ("embedding", OWN_MODULE, _TRUST),
    ("reranker", RERANKER, ""),
    ("reranker", CODE_RERANKER, _TRUST),
    ("reranker", ONE_FILE_RERANKER, _TRUST),
)
MODELS = {model_id for _, model_id, _ in _TABLES}


@dataclass(frozen=True)
class Load:
    """A line of an application, with the id of a model, and what gives the same with a directory."""

    by_id: str  # an expression; `model` is the id in it, `commit` the pinned commit
    model: str
    by_path: str = ""  # the same expression if empty; `model` is the directory in it
    equals: str = ""  # the model whose directory is meant, if it is another one
    since: int = 3  # the first major version of sentence-transformers that can load this

    @property
    def name(self) -> str:
        """Return the line as it stands in an application, and whose directory it is compared with."""
        return self.by_id.replace("(model", f'("{self.model}"') + f"  # {self.equals or self.model}"


def _encode(more: str = "") -> str:
    return f"SentenceTransformer(model{more}).encode(TEXTS)"


def _score(more: str = "") -> str:
    return f"CrossEncoder(model{more}).predict(PAIRS)"


def _states(more: str = "") -> str:
    tokens = f'AutoTokenizer.from_pretrained(model{more})(TEXTS, padding=True, return_tensors="pt")'
    return f"AutoModel.from_pretrained(model{more})(**{tokens}).last_hidden_state"


def _text(function: str, file: str, more: str = "") -> tuple[str, str]:
    """Return how a file of a repository is read, and how one of a directory is."""
    return f'open({function}(model, "{file}"{more})).read()', f'open(f"{{model}}/{file}").read()'


_READ, _FIND = _text("hf_hub_download", "config.json"), _text("try_to_load_from_cache", "config.json")
_READ_COMMIT = _text("hf_hub_download", "config.json", ", revision=commit")
_READ_NESTED = _text("hf_hub_download", "1_Pooling/config.json")
_TAG, _MAIN, _COMMIT, _TRUSTED = ', revision="v1"', ', revision="main"', ", revision=commit", ", trust_remote_code=True"
LOADS = (
    Load(_encode(), PLAIN),
    Load(_encode(", local_files_only=True"), PLAIN),
    Load(_encode(), MINILM),
    Load(_encode(), MINILM.partition("/")[2]),
    Load(_encode(), DENSE),
    Load(_encode(), PICKLE),
    Load(_encode(), HOUSE),
    Load(_encode(_COMMIT), HOUSE),
    Load(_encode(), TAGGED),
    Load(_encode(_TAG), TAGGED),
    Load(_encode(_MAIN), TAGGED),
    Load(_encode(_COMMIT), TAGGED),
    # From a directory, transformers 4 copies only the files that the first file imports, not what these import.
    Load(_encode(_TRUSTED), CODE, equals=ONE_FILE),
    Load(_encode(_TRUSTED), CODE, since=6),
    Load(_encode(_TRUSTED), ELSEWHERE, equals=ONE_FILE),
    Load(_encode(_TRUSTED), ONE_FILE),
    Load(_encode(_TRUSTED), OWN_MODULE, since=6),
    Load(_score(), RERANKER),
    Load(_score(_TRUSTED), CODE_RERANKER, equals=ONE_FILE_RERANKER),
    Load(_score(_TRUSTED), CODE_RERANKER, since=6),
    Load(_score(_TRUSTED), ONE_FILE_RERANKER),
    Load(_states(), MINILM),
    Load(_states(_TAG), TAGGED),
    Load("SentenceTransformer(snapshot_download(model)).encode(TEXTS)", MINILM, _encode()),
    Load('SentenceTransformer(snapshot_download(model, revision="v1")).encode(TEXTS)', TAGGED, _encode()),
    Load(_READ[0], MINILM, _READ[1]),
    Load(_READ_COMMIT[0], TAGGED, _READ_COMMIT[1]),
    Load(_READ_NESTED[0], DENSE, _READ_NESTED[1]),
    Load(_FIND[0], PLAIN, _FIND[1]),
    Load('str(try_to_load_from_cache(model, "none.json"))', PLAIN, "str(None)"),
)
# An application that says these has another cache than that of the variables.
OTHER_CACHES = (
    Load(_encode(', cache_folder="elsewhere"'), PLAIN),
    Load('environ.update(SENTENCE_TRANSFORMERS_HOME="elsewhere") or ' + _encode(), PLAIN),
)


def fill(folder: Path) -> Path:
    """Let the tool publish all of these models in a new root below a folder, and return the root; the Hub is gone."""
    tiny.tiny_embedding(folder / "house")
    tables = [f'[[{kind}]]\nid = "{model_id}"\n{says}\n' for kind, model_id, says in _TABLES]
    with StandInHub() as hub:
        _publish(hub, folder)
        return sync(hub, folder / "root", tables)


def sync(hub: StandInHub, root: Path, tables: Iterable[str]) -> Path:
    """Let the tool publish what these tables list in a new root."""
    root.mkdir()
    (root / "models.toml").write_text("\n".join(tables))
    command = [sys.executable, str(PROJECT / "cache_models.py"), "sync"]
    env = {**os.environ, "HF_ENDPOINT": hub.url}
    ran = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return root


def _publish(hub: StandInHub, made: Path) -> None:
    plain = tiny.tiny_embedding(made / "plain")
    hub.add(PLAIN, plain)
    hub.tag(TAGGED, "v1", hub.add(TAGGED, models.plain_embedding(made / "tagged")))
    hub.add(TAGGED, plain)  # main goes on, the tag stays
    hub.add(MINILM, models.minilm(made / "minilm"))
    hub.add(DENSE, _dense(made / "dense"))
    hub.add(PICKLE, models.bin_only_embedding(made / "pickle"))
    hub.add(CODE, models.remote_code_embedding(made / "code"))
    hub.add(ELSEWHERE, models.remote_code_elsewhere(made / "elsewhere"))
    hub.add("otherorg/impl", models.remote_code_impl(made / "impl"))
    hub.add(ONE_FILE, _in_one_file(models.remote_code_embedding(made / "one-file")))
    hub.add(OWN_MODULE, models.custom_module_embedding(made / "own-module"))
    hub.add(RERANKER, tiny.tiny_reranker(made / "reranker"))
    hub.add(CODE_RERANKER, models.remote_code_reranker(made / "code-reranker"))
    hub.add(ONE_FILE_RERANKER, _in_one_file(models.remote_code_reranker(made / "one-file-reranker")))


def _dense(folder: Path) -> Path:
    """Make a model with a Dense module in a folder of its own, in the files that every version reads."""
    tiny.tiny_embedding(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2] = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    tiny.write_json(folder / "modules.json", modules)
    sizes = {"in_features": tiny.Shape().hidden, "out_features": 16}
    activation = {"bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    tiny.write_json(folder / "2_Dense" / "config.json", sizes | activation)
    tensors = {"linear.weight": (16, tiny.Shape().hidden), "linear.bias": (16,)}
    weights = tiny.random_values(tensors, seed=31)
    tiny.write_safetensors(folder / "2_Dense" / "model.safetensors", tensors, weights)
    return folder


def _in_one_file(folder: Path) -> Path:
    """Let each file of the code that config.json names hold what it imports, but for the configuration."""
    text = ""
    for name in ("tiny_scale.py", "tiny_layers.py", "modeling_tiny.py", "pairing_tiny.py"):
        lines = SOURCES[name].splitlines(keepends=True)
        text += "".join(line for line in lines if not line.startswith("from .") or "configuration" in line)
        (folder / name).write_text(text)
    for name in ("tiny_scale.py", "tiny_layers.py"):
        (folder / name).unlink()
    return folder
