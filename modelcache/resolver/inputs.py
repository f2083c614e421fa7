"""The inputs of a model's outputs: weights, tokenizer, code and settings, each in one schema. Rules only."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from modelcache.core.changes import Part
from modelcache.core.file_patterns import matches
from modelcache.core.file_types import SAFE_WEIGHTS, ending_of, is_openvino
from modelcache.core.types import LARGEST_TEXT, LockedFile, LockedModel, Made, RemoteCode
from modelcache.resolver.files import NOT_SHIPPED
from modelcache.resolver.library_schema import SIMILARITY, is_of_transformer
from modelcache.resolver.model_modules import Module, modules_of
from modelcache.resolver.parts import TEMPLATES, part_of, part_of_document
from modelcache.resolver.settings import module_names, settings_of
from modelcache.resolver.weights import WEIGHTS_INDEX

Read = Callable[[LockedFile], bytes | None]
"""Returns the content of a configuration as it is published; None where it cannot be had."""

_MODULES = "modules.json"
_OTHER_ENGINES = frozenset({".onnx", ".onnx_data", ".gguf"})
_COUNTED = (Part.WEIGHTS, Part.TOKENIZER, Part.SETTINGS, Part.CODE, Part.FILES)
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Input:
    """A file of a model, and the settings in it."""

    part: Part
    sha256: str
    settings: Mapping[str, str] | None = None
    """By key, each as JSON; None for a file that is compared by its bytes, and where these cannot be had."""
    without_effect: Mapping[str, str] | None = None
    """Settings that no output depends on."""
    converted: bool = False
    """Whether it was made from a pickle."""

    @property
    def counted(self) -> str | Mapping[str, str] | None:
        """Return what outputs may depend on, as far as it is known: the settings, else the bytes; None for nothing.

        Both `compare` and `index_id` go by it: outputs stay as they are where it is equal for every file.
        """
        if self.part not in _COUNTED:
            return None
        return self.sha256 if self.settings is None else self.settings or None


def inputs_of(model: LockedModel, read: Read, with_settings: Container[str] | None = None) -> dict[str, Input]:
    """Return every file of a model by its path, with its part and, of a configuration that could be read, its settings.

    `read` is called for configurations of a few megabytes at most: for those at the paths `with_settings`, else for
    all, and for those that say which modules a model has.
    """
    if not model.kind.spec.loads:
        return {file.path: Input(part_of_document(file.path) or Part.FILES, file.sha256) for file in model.files}
    documents = _Documents({file.path: file for file in model.files}, read)
    loaded = _Loaded(model, documents)
    found = {}
    for file in model.files:
        part = part_of(file.path, loaded.is_included, model.remote_code)
        whole = Input(part, file.sha256, converted=file.made is Made.CONVERTED)
        reads = with_settings is None or file.path in with_settings
        found[file.path] = _with_settings(file, whole, loaded, documents) if reads else whole
    return found


def _with_settings(file: LockedFile, whole: Input, loaded: _Loaded, documents: _Documents) -> Input:
    """Return a file with its settings, if it has any and can be read."""
    if whole.part is not Part.SETTINGS and file.path.rpartition("/")[2] not in _TOKENIZER_SETTINGS:
        return whole
    document = documents.parse(file.path)
    if document is None:
        return whole
    try:
        if file.path == _MODULES:
            return replace(whole, settings=module_names(loaded.modules, document))
        modules = [] if loaded.has_another_of(file.path) else loaded.modules_in(file.path)
        settings = settings_of(file.path, document, modules, loaded.model.kind.spec.model_class)
    except RecursionError:
        return whole
    without_effect = {key: settings.pop(key) for key in (SIMILARITY,) if key in settings}
    return replace(whole, settings=settings, without_effect=without_effect)


@dataclass(frozen=True, slots=True)
class _Documents:
    """The configurations of a model, parsed."""

    files: Mapping[str, LockedFile]
    read: Read
    parsed: dict[str, Any] = field(default_factory=dict)

    def parse(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Return the JSON of a file, which is read once; None where it cannot be read, or is none."""
        if path not in self.parsed:
            file = self.files.get(path)
            content = self.read(file) if file and file.size <= LARGEST_TEXT else None
            self.parsed[path] = None
            with suppress(ValueError, RecursionError):
                self.parsed[path] = None if content is None else json.loads(content)
        return self.parsed[path]

    def read_json(self, path: str) -> Mapping[str, Any]:
        """Return a file as `model_modules` asks for it."""
        document = self.parse(path)
        if document is None:
            return {}
        return document if isinstance(document, dict) else {"entries": document}


class _Loaded:
    """The files of a model that its loader opens."""

    def __init__(self, model: LockedModel, documents: _Documents) -> None:
        self.model = model
        self._documents = documents

    @cached_property
    def modules(self) -> Sequence[Module]:
        """The modules of the model; where only a card has changed they are not asked for."""
        return modules_of(self._documents.files, self._documents.read_json)

    def modules_in(self, path: str) -> list[Module]:
        """Return the modules whose folder a file is in."""
        folder = path.rpartition("/")[0]
        return [module for module in self.modules if module.folder == folder]

    def has_another_of(self, path: str) -> bool:
        """Whether a folder has two configurations of a Transformer: the first one that has any key hides the other.

        So a default that is written down counts (base/modules/transformer.py, load_config).
        """
        folder = path.rpartition("/")[0]
        inner = [other for other in self._documents.files if other.rpartition("/")[0] == folder]
        return is_of_transformer(path) and sum(map(is_of_transformer, inner)) > 1

    def is_included(self, path: str) -> bool:
        """Whether `include` alone is the reason for which a file is published, and no loader opens it.

        Code of the model may open any file that PyTorch can read.
        """
        if not matches(path, self.model.include):
            return False
        if self.model.remote_code is RemoteCode.VENDORED:
            return ending_of(path) in _OTHER_ENGINES or is_openvino(path)
        folder, _, name = path.rpartition("/")
        folders = {"", *(module.folder for module in self.modules)}
        if folder.removesuffix(TEMPLATES).removesuffix("/") not in folders:
            return True
        if self._weights_are_chosen_in(folder):
            return False
        if ending_of(path) == SAFE_WEIGHTS:
            return name != f"model{SAFE_WEIGHTS}" and name not in self._weights_named_in(folder)
        return name.startswith(".") or ending_of(path) in NOT_SHIPPED

    def _weights_are_chosen_in(self, folder: str) -> bool:
        """Whether the Transformer of a folder is configured to load other weights than `model.safetensors`.

        These are arguments of `from_pretrained` in transformers.
        """
        configs = [path for path in self._documents.files if path.rpartition("/")[0] == folder]
        settings = [self._documents.read_json(path) for path in filter(is_of_transformer, configs)]
        given = [document.get(key) for document in settings for key in ("model_args", "model_kwargs")]
        return any(isinstance(one, dict) and not one.keys().isdisjoint(("variant", "gguf_file")) for one in given)

    def _weights_named_in(self, folder: str) -> list[object]:
        """Return the names of the weight files that the index or the configuration of a folder has."""
        read_json = self._documents.read_json
        weights = read_json(posixpath.join(folder, f"model{WEIGHTS_INDEX}")).get("weight_map")
        named = read_json(posixpath.join(folder, "config.json")).get("transformers_weights")
        return [*(weights.values() if isinstance(weights, dict) else ()), named]
