"""Weight formats in order of preference; what is refused, and why. Rules only; no network, no disk.

The order is that of transformers (modeling_utils.py): model.safetensors, then its index and shards. Pickles come last
and only with allow_pickle = true, since loading one can run any code. No other format is shipped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from modelcache.core.file_types import SAFE_WEIGHTS
from modelcache.core.text import join_names
from modelcache.resolver.model_modules import WITH_WEIGHTS, Module, ReadJson, has_word_list, join
from modelcache.resolver.reasons import BROKEN, Refuse

_SAFE_REPOSITORY = "use a repository or a revision with model.safetensors"
_INDEX = ".index.json"
WEIGHTS_INDEX = f"{SAFE_WEIGHTS}{_INDEX}"
"""The ending of an index that names shards."""
_SAFE_NAMES = ("model.safetensors", "model.safetensors.index.json")
_PICKLE_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Mentioned where there are no safetensors. Not .bin: such a file often holds no weights.
_OTHER_FORMATS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pt", ".pth", ".ckpt")


@dataclass(slots=True)
class WeightFiles:
    """The weight files of one model, chosen folder by folder."""

    paths: Collection[str]
    read_json: ReadJson
    refuse: Refuse
    allow_pickle: bool
    safetensors: list[str] = field(default_factory=list)
    """With the indexes of shards."""
    pickles: list[str] = field(default_factory=list)
    pickle_indexes: list[str] = field(default_factory=list)

    def choose(self, folder: str, modules: Sequence[Module]) -> None:
        """Choose the weights of the modules in one folder, or refuse what is there instead."""
        if join(folder, "adapter_config.json") in self.paths:
            self.refuse(
                "it is a PEFT adapter, which loads its base model from elsewhere", "merge it into the base model"
            )
            return
        config_path = join(folder, "config.json")
        config = {} if has_word_list(modules) else self.read_json(config_path)
        if any(module.is_library("SparseStaticEmbedding") for module in modules):
            self._refuse_words_elsewhere(config_path, config.get("path"))
        named = config.get("transformers_weights")
        if safe := self._first(folder, (str(named),) if named else _SAFE_NAMES, SAFE_WEIGHTS):
            self.safetensors += [safe, *self._shards(folder, safe, SAFE_WEIGHTS)]
        elif named:
            self.refuse(
                f"{config_path} names {named} as its weights, which is not a safetensors file here",
                _SAFE_REPOSITORY,
            )
        elif all(module.opens_no_weights for module in modules):
            return
        elif pickle := self._first(folder, _PICKLE_NAMES, ".bin"):
            self._choose_pickle(folder, pickle)
        elif {"model_type", "architectures"} <= config.keys() or any(one.name in WITH_WEIGHTS for one in modules):
            self.refuse_missing(folder or "its root", below=folder)

    def refuse_missing(self, place: str, *, below: str = "") -> None:
        """Refuse a model without safetensors in `place`, and mention the other formats below a folder."""
        formats = (SAFE_WEIGHTS, *_OTHER_FORMATS)
        others = sorted(path for path in self.paths if path.startswith(below) and path.endswith(formats))
        beside = f"; it has {join_names(others, 3)}" if others else ""
        self.refuse(f"it has no safetensors weights in {place}{beside}", _SAFE_REPOSITORY)

    def _refuse_words_elsewhere(self, config_path: str, words: object) -> None:
        """Refuse a table of words that its module does not look for in the model (sparse_static_embedding.py, load)."""
        if isinstance(words, str) and words.endswith(".json"):
            self.refuse(
                f"{config_path} names {words}, which the loader looks for outside of the model",
                "ask the owner to save that module with its weights, by sentence-transformers",
            )

    def _choose_pickle(self, folder: str, path: str) -> None:
        """Note weights that have to be converted: one file, or an index and its shards."""
        if not self.allow_pickle:
            self.refuse(
                f"its weights are only in {path}, a pickle, and loading one can run any code",
                "ask the owner for safetensors, use a revision that has them, or set allow_pickle = true to have the"
                " tensors, and nothing else, taken out of it into safetensors",
                "allow_pickle",
            )
        elif path.endswith(_INDEX):
            self.pickle_indexes.append(path)
            self.pickles += self._shards(folder, path, ".bin")
        else:
            self.pickles.append(path)

    def _first(self, folder: str, names: Sequence[str], ending: str) -> str | None:
        """Return the first of these weight files, or indexes of such, that the repository has."""
        paths = (join(folder, name) for name in names if name.endswith((ending, f"{ending}{_INDEX}")))
        return next((path for path in paths if path in self.paths), None)

    def _shards(self, folder: str, path: str, ending: str) -> Iterator[str]:
        """Yield the shards that an index names; a weight file itself has none."""
        if not path.endswith(_INDEX):
            return
        weight_map = self.read_json(path).get("weight_map")
        shards = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        if not shards:
            self.refuse(f"{path} names no shards", BROKEN)
        for shard in (join(folder, name) for name in sorted(shards)):
            if shard in self.paths and shard.endswith(ending):
                yield shard
            else:
                self.refuse(f"{path} names {shard}, which is not there", BROKEN)
