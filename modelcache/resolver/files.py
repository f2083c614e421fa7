"""Which files of a repository a sentence-transformers model consists of. Rules only; no network, no disk.

The rule follows what the loaders open (sentence_transformers/base/model.py and base/modules/*.py): the folders of
modules, and in each the small files and the weights. Everything else stays behind: second weight formats, ONNX and
OpenVINO sets, training state, images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelcache.core.errors import PolicyError
from modelcache.core.file_types import PAPERS, WEIGHTS, ending_of, is_code, is_named_as_pickle
from modelcache.core.kinds import Kind
from modelcache.core.names import directories_of, problem_with_path, refuse_unsafe_paths
from modelcache.core.text import escape, join_names
from modelcache.core.types import ListedFile, Pooling, RemoteCode, WantedModel
from modelcache.resolver.code_references import CONFIGS, hint_without_code, references
from modelcache.resolver.config_files import ConfigFiles
from modelcache.resolver.included import included_paths, refuse_without_key
from modelcache.resolver.kind_rules import note_on_kind, possible_kinds, problem_with_kind
from modelcache.resolver.model_modules import (
    FROM_CONFIG,
    MAX_MODULES,
    Module,
    has_word_list,
    is_bag_of_words,
    join,
    modules_of,
    note_on_schema,
    problems_with_activations,
)
from modelcache.resolver.model_type import detect_type
from modelcache.resolver.parts import TEMPLATES
from modelcache.resolver.reasons import BROKEN, Reasons
from modelcache.resolver.weights import WeightFiles

# Endings of files that are no part of a model.
_DATA = "csv tsv jsonl parquet arrow db sqlite gz zip tar xz zst 7z log ipynb pdf lock"
_MEDIA = "png jpg jpeg gif svg webp ico bmp mp3 wav mp4 webm"
_NO_MODEL = {f".{ending}" for ending in f"{_DATA} {_MEDIA}".split()}
NOT_SHIPPED = WEIGHTS | _NO_MODEL
"""Endings of files that are shipped only if a table or a configuration names them, in lower case."""

_MOST_SHOWN = 5

# Skipped among small files, and refused in the place of a module's folder.
_DIRECTORIES = ("submodule", "link to a directory")
_POOLING_ADVICE = f"""\
Read the model's card, then add to its [[embedding]] table, for example:
  pooling = "mean"      # or {", ".join(pooling for pooling in Pooling if pooling is not Pooling.MEAN)}
  normalize = true      # or false\
"""
_BEGINNINGS = ("modules.json", "config.json", "adapter_config.json")
"""A loader opens one of these first; an adapter is refused with a reason of its own."""
_AS_OTHER = f"""\
To have its files pinned and published, and never loaded, list it under [[{Kind.OTHER}]] \
(`cache-models add --kind {Kind.OTHER} ID`).\
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a repository to ship; each group is sorted by path."""

    files: tuple[ListedFile, ...]
    """Shipped byte for byte, but for references to code in `configs` when it is vendored."""
    remote_code: RemoteCode
    configs: tuple[ListedFile, ...] = ()
    """Those that may name code."""
    pickles: tuple[ListedFile, ...] = ()
    """Weights that are converted and shipped as safetensors only."""
    pickle_indexes: tuple[ListedFile, ...] = ()
    """Indexes whose shards are such weights."""
    named: frozenset[str] = frozenset()
    """Those of `files` that the table names."""
    included: frozenset[str] = frozenset()
    """Those of `named` that the loader does not open."""
    notes: tuple[str, ...] = ()
    """Notes on a model that is shipped all the same."""


def choose(wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> Choice:
    """Choose the files to ship; `read` returns a small file, and is called for shipped ones only.

    Only files that would be shipped are judged; a log with an odd name beside them is left behind.

    Raises:
        PolicyError: with every reason for which this model is not shipped, and what to do.

    """
    choice = _Chooser(wanted, listing, read).choose()
    refuse_unsafe_paths(wanted.id, {file.path for file in (*choice.files, *choice.pickles)})
    return choice


class _Chooser:
    def __init__(self, wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> None:
        self.wanted = wanted
        self.files = {file.path: file for file in listing}
        self.refused = Reasons()
        self.refuse = self.refused.add
        self.hint = ""
        self.notes: Sequence[str] = ()
        self.modules_named: list[Module] = []
        self.modules_in: dict[str, list[Module]] = defaultdict(list)
        """By folder, without Routers: a folder of a Router alone has small files and no weights."""
        self.configs = ConfigFiles(self.files, read, self.refuse, directory=wanted.path is not None)
        self.read_json = self.configs.read_json
        self.weights = WeightFiles(self.files, self.read_json, self.refuse, allow_pickle=wanted.allow_pickle)

    def choose(self) -> Choice:
        self.refuse_no_model()
        folders = self.folders()
        self.check_kind()
        of_small_files = {*folders, *(join(folder, TEMPLATES) for folder in folders)}
        kept = [path for path in self.files if path.rpartition("/")[0] in of_small_files and self.is_small_file(path)]
        reasons = len(self.refused)
        for folder in folders:
            if self.modules_in[folder]:
                self.weights.choose(folder, self.modules_in[folder])
        weights = [*self.weights.safetensors, *self.weights.pickles]
        # That its pooling has to be said is no reason to look no further: weights in GGUF alone would be the next one.
        told = len(self.refused) > (reasons if self.hint else 0)
        if not (weights or told or self.configs.links or is_bag_of_words(self.modules_named)):
            self.weights.refuse_missing("its root" if self.modules_in[""] else "the folders of its modules")
        configs = [path for folder in folders for path in self.code_configs(folder)]
        remote_code = self.check_code(configs)
        if remote_code is not RemoteCode.VENDORED:
            for problem in problems_with_activations(self.modules_named, self.read_json):
                self.refuse(*problem)
        named = frozenset(included_paths(self.wanted, self.files, self.refuse))
        included = named.difference(kept, self.weights.safetensors)
        refuse_without_key(self.wanted, included, self.refuse)
        self.configs.links |= {path for path in (*kept, *weights, *included) if not self.files[path].plain}
        self.refuse_links()
        if self.refused:
            raise PolicyError(
                self.refused.message(f"{self.wanted.id} is not shipped"),
                hint=self.hint if self.refused.settings else _AS_OTHER,
                settings=self.refused.settings,
            )
        return Choice(
            files=self.files_at([*kept, *self.weights.safetensors, *included]),
            remote_code=remote_code,
            configs=self.files_at(configs),
            pickles=self.files_at(self.weights.pickles),
            pickle_indexes=self.files_at(self.weights.pickle_indexes),
            named=named,
            included=included,
            notes=tuple(self.notes),
        )

    def refuse_no_model(self) -> None:
        """Refuse a repository, or a directory, without a file of a model at its top."""
        at_top = [path for path in self.files if "/" not in path and not path.startswith(".")]
        if any(ending_of(path) not in PAPERS | _NO_MODEL or not self.files[path].plain for path in at_top):
            if self.files.keys().isdisjoint(_BEGINNINGS):
                reason = "it has no config.json and no modules.json, so no loader of sentence-transformers takes it"
                self.refuse(reason, "check the id and `revision`")
            return
        folders = sorted(path.removesuffix("/config.json") for path in self.files if path.endswith("/config.json"))
        below = f"; there is a config.json in {join_names(folders, _MOST_SHOWN)}" if folders else ""
        hint = "use a repository with the model at its top, or check the id and `revision`"
        if self.wanted.path is not None:
            hint = "use `path` for the directory that holds the model's config.json"
        self.refuse(f"it holds no model, as it has no configuration and no weights{below}", hint)
        raise PolicyError(self.refused.message(f"{self.wanted.id} is not shipped"), hint=_AS_OTHER)

    def files_at(self, paths: Iterable[str]) -> tuple[ListedFile, ...]:
        return tuple(self.files[path] for path in sorted(set(paths)))

    def folders(self) -> list[str]:
        """Read the modules, and return their folders, the root (``""``) first."""
        modules = modules_of(self.files, self.read_json)
        if not (modules or self.refused or self.configs.links):
            self.refuse("its modules.json names no module", BROKEN)
        if len(modules) > MAX_MODULES:
            self.refuse(f"it has more than {MAX_MODULES} modules", "use another repository")
        found = {"": None}
        for module in modules[:MAX_MODULES]:
            folder = module.folder
            if folder and (problem := problem_with_path(folder)):
                self.refuse(f"the folder {escape(folder)} of a module {problem}", "ask the owner to move the module")
                continue
            found[folder] = None
            self.modules_named.append(module)
            above = [*directories_of(folder), folder]
            self.configs.links |= {path for path in above if path in self.files and not self.files[path].plain}
            self.check_config(module)
            if not module.is_router:
                self.modules_in[folder].append(module)
        return list(found)

    def check_config(self, module: Module) -> None:
        """Refuse a module that has lost its configuration, as when only the root of a directory was uploaded."""
        path = join(module.folder, "config.json")
        if module.is_library(*FROM_CONFIG) and path not in self.files and not self.configs.links:
            reason = f"{module.named_in} names a {escape(module.name)}, and there is no {escape(path)}"
            hint = "copy the directory whole, with the folders in it"
            self.refuse(reason, hint if self.wanted.path is not None else "ask the owner to upload it")

    def refuse_links(self) -> None:
        """Refuse links and other entries that are not plain files, in the place of a file or a module's folder."""
        if not (paths := sorted(self.configs.links)):
            return
        entries = ", ".join(sorted({self.files[path].entry for path in paths}))
        problem = f"is a {entries}" if len(paths) == 1 else f"are not files ({entries})"
        hint = "use a revision without it, or ask the owner to put a file in its place"
        if self.wanted.path is not None:
            hint = "copy the directory with `cp -rL`, so that it holds files instead of links"
        self.refuse(f"{join_names(paths, _MOST_SHOWN)} {problem}, and only plain files are shipped", hint)

    def check_kind(self) -> None:
        """Refuse a model that the loader of this kind would change into another one without an error."""
        wanted, whole = self.wanted, "modules.json" in self.files
        found = detect_type(self.files, self.modules_named, self.read_json, self.configs.read_card)
        if problem := problem_with_kind(found, wanted.kind):
            self.refuse(*problem, "kind" if possible_kinds(found) else "")
        elif wanted.kind.spec.pools and not whole and not wanted.pooling:
            self.refuse(
                "it has no modules.json, so its files do not say how its vectors are pooled",
                "say it with pooling and normalize, or use a repository that sentence-transformers saved",
                "pooling",
            )
            self.hint = _POOLING_ADVICE
        elif whole and wanted.pooling:
            self.refuse("its modules.json says how its vectors are pooled", "take out pooling and normalize", "pooling")
        notes = [note_on_kind(found, wanted.kind)]
        # A cross-encoder without LogitScore loads without these files.
        if wanted.kind.spec.pools or any(module.is_library("LogitScore") for module in self.modules_named):
            notes.append(note_on_schema(self.modules_named, self.read_json))
        self.notes = [note for note in notes if note]
        for module in self.modules_named:
            path = join(module.folder, "config.json")
            if module.is_library("LogitScore") and type(self.read_json(path).get("true_token_id")) is not int:
                reason = f"{path} has no true_token_id, so its files do not say which token makes the score"
                self.refuse(reason, "ask the owner to add it, or use another revision")

    def code_configs(self, folder: str) -> Iterator[str]:
        """Yield the configurations of a folder in which code may be named."""
        for name in CONFIGS:
            path = join(folder, name)
            if path in self.files and not (name == "config.json" and has_word_list(self.modules_in[folder])):
                yield path

    def is_small_file(self, path: str) -> bool:
        """Whether it is a configuration, a file of a tokenizer, the card or the licence."""
        name = PurePosixPath(path).name
        if self.files[path].entry in _DIRECTORIES and name != TEMPLATES:
            return False
        # Code is shipped only when a configuration names it; training scripts are not needed to load it.
        if name.startswith(".") or name.endswith(".index.json") or is_code(name) or is_named_as_pickle(name):
            return False
        return ending_of(name) not in NOT_SHIPPED

    def check_code(self, configs: Sequence[str]) -> RemoteCode:
        """Decide on the code that the configurations name; code without permission is named in the refusal."""
        named = []
        for path in configs:
            try:
                named += references(path, self.configs.read(path))
            except PolicyError as error:
                self.refuse(error.message, error.hint)
        if not named:
            return RemoteCode.NONE
        if self.wanted.trust_remote_code:
            return RemoteCode.VENDORED
        without = hint_without_code(named)
        if self.wanted.trust_remote_code is False and without:
            return RemoteCode.OMITTED
        without = without and f"; {without}"
        problems = dict.fromkeys(reference.problem_in(self.wanted.id, self.files) for reference in named)
        if missing := [problem for problem in problems if problem]:
            for reason, hint in missing[:_MOST_SHOWN]:
                self.refuse(reason, f"{hint}{without}", "trust_remote_code = false" if without else "")
            return RemoteCode.NONE
        code = list(dict.fromkeys(reference.describe() for reference in named))
        more = f"; and {len(code) - _MOST_SHOWN} more" if len(code) > _MOST_SHOWN else ""
        self.refuse(
            f"it asks to run code of its own ({'; '.join(code[:_MOST_SHOWN])}{more})",
            "read that code, on the model's page or in the repository named before --, then set"
            f" trust_remote_code = true to have it pinned and shipped{without}",
            "trust_remote_code",
        )
        return RemoteCode.NONE
