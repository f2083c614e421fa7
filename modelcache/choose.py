"""Which files of a repository a sentence-transformers model consists of. Rules only; no network, no disk.

The rule follows what the loaders open: sentence_transformers/base/model.py and base/modules/*.py for
modules and their folders, transformers/modeling_utils.py for the preference among weight formats
(model.safetensors, then its index and shards, then pickles). Everything beside it stays behind: second
weight formats, ONNX and OpenVINO sets, training state, images.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from modelcache import git_lfs
from modelcache.errors import PolicyError
from modelcache.layout import OTHER_WEIGHTS, SAFE_WEIGHTS, refuse_unsafe_paths
from modelcache.records import LARGEST_TEXT, Kind, ListedFile, Pooling, RemoteCode, WantedModel
from modelcache.references import CONFIGS, references
from modelcache.text import shown

# Files that lie beside a model and are no part of it, by the end of their names.
_DATA = "csv tsv jsonl parquet arrow db sqlite gz zip tar xz zst 7z log ipynb pdf lock"
_MEDIA = "png jpg jpeg gif svg webp ico bmp mp3 wav mp4 webm"
_NOT_SHIPPED = OTHER_WEIGHTS | {SAFE_WEIGHTS} | {f".{ending}" for ending in f"{_DATA} {_MEDIA}".split()}

# sentence_transformers/base/modules: what routes to other modules, and what cannot load without weights.
_ROUTERS = ("Router", "Asym")
_WITH_WEIGHTS = ("Transformer", "Dense", "StaticEmbedding", "LSTM", "CNN", "LayerNorm", "WeightedLayerPooling")
_MOST_MODULES = 256
_MOST_TOLD = 5
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_SAVED = "config_sentence_transformers.json"
# Its "model_type", which is absent where it says nothing new.
_TYPES = {Kind.EMBEDDING: "SentenceTransformer", Kind.RERANKER: "CrossEncoder"}
_POOLING_ADVICE = f"""\
Read the model's card, then add to its [[embedding]] table, for example:
  pooling = "mean"      # or {", ".join(pooling for pooling in Pooling if pooling is not Pooling.MEAN)}
  normalize = true      # or false\
"""
_OTHER_FORMATS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shipped of a repository; each group is sorted by path."""

    files: tuple[ListedFile, ...]
    """Shipped byte for byte, but for references to code in `configs` when it is vendored."""
    remote_code: RemoteCode
    configs: tuple[ListedFile, ...] = ()
    """Those that may name code."""
    pickles: tuple[ListedFile, ...] = ()
    """Weights that are converted and shipped as safetensors only."""
    pickle_indexes: tuple[ListedFile, ...] = ()
    """Indexes whose shards are such weights."""
    notes: tuple[str, ...] = ()
    """What people should know of it although it is shipped."""


def choose(wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> Choice:
    """Choose the files to ship; `read` gives the content of a small file, and is asked for shipped ones only.

    Raises:
        PolicyError: with every reason for which this model is not shipped, and the way out.

    """
    refuse_unsafe_paths(wanted.id, (file.path for file in listing))
    return _Chooser(wanted, listing, read).choose()


class _Chooser:
    def __init__(self, wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> None:
        self.wanted = wanted
        self.files = {file.path: file for file in listing}
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            self.by_folder[path.rpartition("/")[0]].append(path)
        self.refused: dict[str, None] = {}
        self.hint = ""
        self.pickles: list[str] = []
        self.pickle_indexes: list[str] = []
        self.module_folders: set[str] = set()
        self.weighty: set[str] = set()
        self.dense: set[str] = set()
        self._read = read
        self._contents: dict[str, bytes] = {}
        self._documents: dict[str, Mapping[str, Any]] = {}

    def choose(self) -> Choice:
        folders, modules = self.folders(), self.module_folders
        self.look_at_kind()
        kept = {path for folder in folders for path in self.small_files(folder)}
        weights = [path for folder in folders if folder in modules for path in self.weights(folder)]
        if not (weights or self.pickles or self.refused):
            self.refuse_other_formats()
        configs = [path for folder in folders for name in CONFIGS if (path := _join(folder, name)) in self.files]
        remote_code = self.look_for_code(configs)
        if remote_code is not RemoteCode.VENDORED:
            self.look_at_activations()
        if self.refused:
            raise PolicyError(f"{self.wanted.id} is not shipped:\n  " + "\n  ".join(self.refused), hint=self.hint)
        return Choice(
            files=self.listed(kept | set(weights)),
            remote_code=remote_code,
            configs=self.listed(configs),
            pickles=self.listed(self.pickles),
            pickle_indexes=self.listed(self.pickle_indexes),
        )

    def listed(self, paths: Iterable[str]) -> tuple[ListedFile, ...]:
        return tuple(self.files[path] for path in sorted(set(paths)))

    def look_at_kind(self) -> None:
        """Refuse what the loader of this kind would change without a word into another model."""
        wanted, whole = self.wanted, "modules.json" in self.files
        saved = str(self.document(_SAVED).get("model_type", "SentenceTransformer"))
        if whole and saved != _TYPES[wanted.kind]:
            other = {name: kind for kind, name in _TYPES.items()}.get(saved)
            way_out = (
                f"list it under [[{other}]]"
                if other
                else "use an embedding model or a cross-encoder; nothing else is cached"
            )
            self.refuse(f"it was saved as a {shown(saved)}", way_out)
        elif wanted.kind is Kind.EMBEDDING and not whole and not wanted.pooling:
            self.refuse(
                "it has no modules.json, so nothing says how its vectors are pooled",
                "say it with pooling and normalize, or use a repository that sentence-transformers saved",
            )
            self.hint = _POOLING_ADVICE
        elif whole and wanted.pooling:
            self.refuse("it says itself how its vectors are pooled, in modules.json", "take out pooling and normalize")

    def folders(self) -> list[str]:
        """Return the folder of every module, the root (``""``) first; Routers hold modules of their own."""
        found = [""]
        found += [
            self.module_at(str(module.get("path") or ""), str(module.get("type", "")))
            for module in self.modules("modules.json")
        ]
        if len(found) == 1:
            self.module_folders.add("")  # no modules.json: the root is the one module
        for folder in found:  # grows while it is walked: a Router's route may be a Router again
            routes = self.document(_join(folder, "router_config.json")) or self.document(_join(folder, "config.json"))
            types = routes.get("types")
            for name, module_type in types.items() if isinstance(types, dict) else ():
                path = self.module_at(_join(folder, str(name)), str(module_type))
                if path not in found and len(found) <= _MOST_MODULES:
                    found.append(path)
        if len(found) > _MOST_MODULES:
            self.refuse(f"it has more than {_MOST_MODULES} modules", "use another repository")
        return list(dict.fromkeys(found))[:_MOST_MODULES]

    def modules(self, path: str) -> Iterator[Mapping[str, Any]]:
        document = self.document(path)
        entries = document.get("entries", ())
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield entry

    def module_at(self, folder: str, module_type: str) -> str:
        """Note a module, and return its folder; a Router itself has no weights."""
        folder, name = posixpath.normpath(folder.strip("/")), module_type.rpartition(".")[2]
        if folder == ".":
            folder = ""
        if module_type.startswith("sentence_transformers.sparse_encoder."):
            self.refuse("it is a sparse encoder", "only dense embedding models and cross-encoders are cached")
        if name not in _ROUTERS:
            self.module_folders.add(folder)
        if name in _WITH_WEIGHTS:
            self.weighty.add(folder)
        if name == "Dense":
            self.dense.add(folder)
        return folder

    def small_files(self, folder: str) -> Iterator[str]:
        """Yield configurations, tokenizer files, the card and the licence: what is directly in the folder."""
        for path in self.by_folder[folder] + self.by_folder[_join(folder, "additional_chat_templates")]:
            name = PurePosixPath(path).name
            # Code is shipped only when a configuration names it; training scripts are nobody's business.
            if name.startswith(".") or name.endswith((".py", ".index.json")):
                continue
            if PurePosixPath(name.lower()).suffix not in _NOT_SHIPPED:
                yield path

    def weights(self, folder: str) -> Iterator[str]:
        """Yield the weight files of one module, by the loaders' own order of preference."""
        if _join(folder, "adapter_config.json") in self.files:
            self.refuse(
                "it is a PEFT adapter, which loads its base model from elsewhere", "merge it into the base model"
            )
            return
        config = self.document(_join(folder, "config.json"))
        named = config.get("transformers_weights")
        for name in (str(named),) if named else ("model.safetensors", "model.safetensors.index.json"):
            path = _join(folder, name)
            if path in self.files and name.endswith((".safetensors", ".safetensors.index.json")):
                yield path
                if name.endswith(".index.json"):
                    yield from self.shards(folder, path)
                return
        if named:
            self.refuse(
                f"{_join(folder, 'config.json')} names {named} as its weights, which is no safetensors file here",
                "use a repository or a revision with model.safetensors",
            )
            return
        if pickled := [name for name in (_PICKLE, _PICKLE_INDEX) if _join(folder, name) in self.files]:
            self.take_pickles(folder, _join(folder, pickled[0]))
        elif ("model_type" in config and "architectures" in config) or folder in self.weighty:
            self.refuse_other_formats(folder)

    def take_pickles(self, folder: str, path: str) -> None:
        """Note weights that have to be converted: one file, or an index and its shards."""
        if not self.wanted.allow_pickle:
            self.refuse(
                f"its weights are only in {path}, a pickle, and loading one can run any code",
                "ask the owner for safetensors, use a revision that has them, or set allow_pickle = true to have the"
                " tensors, and nothing else, taken out of it into safetensors",
            )
        elif path.endswith(".json"):
            self.pickle_indexes.append(path)
            self.pickles += self.shards(folder, path, ".bin")
        else:
            self.pickles.append(path)

    def shards(self, folder: str, index: str, ending: str = ".safetensors") -> Iterator[str]:
        weight_map = self.document(index).get("weight_map")
        shards = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        if not shards:
            self.refuse(f"{index} names no shards", "tell the owner that the repository is broken")
        for shard in sorted(shards):
            path = _join(folder, shard)
            if path in self.files and path.endswith(ending):
                yield path
            else:
                self.refuse(f"{index} names {path}, which is not there", "tell the owner that the repository is broken")

    def refuse_other_formats(self, folder: str = "") -> None:
        others = [path for path in self.files if path.startswith(folder) and path.endswith(_OTHER_FORMATS)]
        beside = f"; it has {', '.join(sorted(others)[:3])}" if others else ""
        self.refuse(
            f"it has no safetensors weights in {folder or 'its root'}{beside}",
            "use a repository or a revision with model.safetensors",
        )

    def look_for_code(self, configs: Sequence[str]) -> RemoteCode:
        """Say what becomes of the code that the configurations name; without leave, what it is and how to allow it."""
        named = []
        for path in configs:
            try:
                named += references(path, self.content(path))
            except PolicyError as error:
                self.refuse(error.message, error.hint)
        if not named:
            return RemoteCode.NONE
        if self.wanted.trust_remote_code:
            return RemoteCode.VENDORED
        needed = any(reference.is_module for reference in named)
        if self.wanted.trust_remote_code is False and not needed:
            return RemoteCode.OMITTED
        without = (
            "; if the installed transformers has the class itself, trust_remote_code = false ships the model without it"
        )
        told = list(dict.fromkeys(reference.told() for reference in named))
        more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        self.refuse(
            f"it asks to run code of its own ({'; '.join(told[:_MOST_TOLD])}{more})",
            "read that code, on the model's page or in the repository named before --, then set"
            f" trust_remote_code = true to have it pinned and shipped{'' if needed else without}",
        )
        return RemoteCode.NONE

    def look_at_activations(self) -> None:
        """Refuse activations that the loaders replace by a default of their own, with nothing but a warning.

        They do so for all that is not torch's (base/modules/dense.py, load; cross_encoder/model.py,
        _resolve_activation_fn).
        """
        config = self.document("config.json")
        saved = config.get("sentence_transformers")
        named = [
            ("config.json", config.get("sbert_ce_default_activation_function")),
            ("config.json", saved.get("activation_fn") if isinstance(saved, dict) else None),
            (_SAVED, self.document(_SAVED).get("activation_fn")),
            *(
                (path := _join(folder, "config.json"), self.document(path).get("activation_function"))
                for folder in sorted(self.dense)
            ),
        ]
        for path, name in named:
            if isinstance(name, str) and not name.startswith("torch."):
                self.refuse(
                    f"{path} names the activation {shown(name)}, in the place of which the loader would put"
                    " another without a word",
                    "ask the owner to name one of torch's",
                )

    def refuse(self, reason: str, way_out: str) -> None:
        line = f"{reason}: {way_out}"
        self.refused[line] = None

    def content(self, path: str) -> bytes:
        """Return a configuration, asked for once.

        Raises:
            PolicyError: with those before it, it is larger than could be read in little memory; or a git-lfs pointer.

        """
        if path not in self._contents:
            if (size := self.files[path].size) > LARGEST_TEXT:
                told = f"{path} has {size} bytes, which is no configuration file"
                raise PolicyError(told, hint="tell the owner that the repository is broken")
            if sum(map(len, self._contents.values())) + size > LARGEST_TEXT:
                told = f"{path} and the configurations before it have more than {LARGEST_TEXT} bytes"
                raise PolicyError(told, hint="use another repository")
            content = self._read(self.files[path])
            if git_lfs.is_pointer(content):
                way_out = git_lfs.way_out(directory=self.wanted.path is not None)
                raise PolicyError(git_lfs.problem(path), hint=way_out)
            self._contents[path] = content
        return self._contents[path]

    def document(self, path: str) -> Mapping[str, Any]:
        """Return a JSON file as a mapping (a list under "entries"); empty where the repository has none."""
        if path not in self.files:
            return {}
        if path not in self._documents:
            try:
                content = json.loads(self.content(path))
            except PolicyError as error:
                self.refuse(error.message, error.hint)
                content = {}
            except (ValueError, RecursionError):
                self.refuse(f"{path} is not JSON", "tell the owner that the repository is broken")
                content = {}
            self._documents[path] = content if isinstance(content, dict) else {"entries": content}
        return self._documents[path]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
