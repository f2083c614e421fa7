"""Weight formats in order of preference; what is refused, and why. Rules only; no network, no disk.

The order is that of transformers (modeling_utils.py): model.safetensors, then its index and shards. Pickles come last
and only with allow_pickle = true, since loading one can run any code. No other format is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from modelcache.core.text import join_names
from modelcache.resolver.model_modules import WITH_WEIGHTS, Module, has_word_list, join

SAFE_WEIGHTS = ".safetensors"

_INDEX = ".index.json"
_SAFE_NAMES = ("model.safetensors", "model.safetensors.index.json")
_PICKLE_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Mentioned where there are no safetensors. Not .bin: such a file often holds no weights.
_OTHER_FORMATS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pt", ".pth", ".ckpt")


class WeightFiles:
    """The weight files of one model, chosen folder by folder; `refuse` takes a reason and a hint."""

    def __init__(
        self,
        paths: Collection[str],
        read_json: Callable[[str], Mapping[str, Any]],
        refuse: Callable[[str, str], None],
        *,
        allow_pickle: bool,
    ) -> None:
        self.safetensors: list[str] = []
        """With the indexes of shards."""
        self.pickles: list[str] = []
        self.pickle_indexes: list[str] = []
        self._paths = paths
        self._read_json = read_json
        self._refuse = refuse
        self._allow_pickle = allow_pickle

    @property
    def found(self) -> list[str]:
        """The files of weights, and the indexes of those that are shipped as they are."""
        return [*self.safetensors, *self.pickles]

    def choose(self, folder: str, modules: Sequence[Module]) -> None:
        """Choose the weights of the modules in one folder, or refuse what is there instead."""
        if join(folder, "adapter_config.json") in self._paths:
            self._refuse(
                "it is a PEFT adapter, which loads its base model from elsewhere", "merge it into the base model"
            )
            return
        config_path = join(folder, "config.json")
        config = {} if has_word_list(modules) else self._read_json(config_path)
        named = config.get("transformers_weights")
        if safe := self._first(folder, (str(named),) if named else _SAFE_NAMES, SAFE_WEIGHTS):
            self.safetensors += [safe, *self._shards(folder, safe, SAFE_WEIGHTS)]
        elif named:
            self._refuse(
                f"{config_path} names {named} as its weights, which is not a safetensors file here",
                "use a repository or a revision with model.safetensors",
            )
        elif all(module.opens_no_weights for module in modules):
            return
        elif pickle := self._first(folder, _PICKLE_NAMES, ".bin"):
            self._choose_pickle(folder, pickle)
        elif ("model_type" in config and "architectures" in config) or any(
            module.name in WITH_WEIGHTS for module in modules
        ):
            self.refuse_missing(folder or "its root", below=folder)

    def refuse_missing(self, place: str, *, below: str = "") -> None:
        """Refuse a model without safetensors in `place`, and mention the other formats below a folder."""
        formats = (SAFE_WEIGHTS, *_OTHER_FORMATS)
        others = sorted(path for path in self._paths if path.startswith(below) and path.endswith(formats))
        beside = f"; it has {join_names(others, 3)}" if others else ""
        self._refuse(
            f"it has no safetensors weights in {place}{beside}",
            "use a repository or a revision with model.safetensors",
        )

    def _choose_pickle(self, folder: str, path: str) -> None:
        """Note weights that have to be converted: one file, or an index and its shards."""
        if not self._allow_pickle:
            self._refuse(
                f"its weights are only in {path}, a pickle, and loading one can run any code",
                "ask the owner for safetensors, use a revision that has them, or set allow_pickle = true to have the"
                " tensors, and nothing else, taken out of it into safetensors",
            )
        elif path.endswith(_INDEX):
            self.pickle_indexes.append(path)
            self.pickles += self._shards(folder, path, ".bin")
        else:
            self.pickles.append(path)

    def _first(self, folder: str, names: Sequence[str], ending: str) -> str | None:
        """Return the first of these weight files, or indexes of such, that the repository has."""
        paths = (join(folder, name) for name in names if name.endswith((ending, f"{ending}{_INDEX}")))
        return next((path for path in paths if path in self._paths), None)

    def _shards(self, folder: str, path: str, ending: str) -> Iterator[str]:
        """Yield the shards that an index names; a weight file itself has none."""
        if not path.endswith(_INDEX):
            return
        weight_map = self._read_json(path).get("weight_map")
        shards = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        if not shards:
            self._refuse(f"{path} names no shards", "tell the owner that the repository is broken")
        for shard in (join(folder, name) for name in sorted(shards)):
            if shard in self._paths and shard.endswith(ending):
                yield shard
            else:
                self._refuse(
                    f"{path} names {shard}, which is not there", "tell the owner that the repository is broken"
                )
