"""Which files of a model's repository its vendored code seems to read, beside those that the loaders open. Rules only.

The literals in the code tell: a path of a file, or a folder of the repository, alone or at the front of a pattern. That
is a guess: a file too many costs bytes, and with a file too few the model does not load. So plain data is shipped, with
a note.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from modelcache.core.names import directories_of, problem_with_path
from modelcache.core.text import join_names
from modelcache.core.types import ListedFile
from modelcache.resolver.included import include_line
from modelcache.resolver.remote_code import CodeFile

# None of these formats can run code. A picture is shipped where code names it; those in a folder are for people.
_PLAIN = "safetensors json jsonl txt csv tsv yaml yml toml model vocab bpe tiktoken jinja"
_MEDIA = "png jpg jpeg webp bmp wav mp3 flac"
_FOR_PEOPLE = f"{_MEDIA} gif svg mp4 md py ipynb pdf"
_PLAIN_ENDINGS, _MEDIA_ENDINGS, _FOR_PEOPLE_ENDINGS = (
    frozenset(f".{ending}" for ending in endings.split()) for endings in (_PLAIN, _MEDIA, _FOR_PEOPLE)
)
# The same model for other programs, and states of its training; code that names these loads it in another way.
_OTHER_USES = re.compile(r"(?i)(onnx|openvino|coreml|tflite|gguf|ggml|mlx|runs|logs|checkpoint-.*)")
_PATTERN = re.compile(r"[*?\[{%]")
_MOST_FILES, _MOST_BYTES = 200, 2 << 30
_MOST_NOTES = 20
_MOST_SHOWN = 5


@dataclass(slots=True)
class _FilesRead:
    """Files that code seems to read, each with the file of code that names it."""

    shipped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    too_much: dict[str, str] = field(default_factory=dict)
    """Files and folders beyond the limit for files that are shipped on a guess."""
    size: int = 0

    def add(self, name: str, source: str, files: Iterable[ListedFile]) -> None:
        """Ship a file, or the files of a folder, if there is room."""
        more = [file for file in files if file.path not in self.shipped]
        size = self.size + sum(file.size for file in more)
        if len(self.shipped) + len(more) > _MOST_FILES or size > _MOST_BYTES:
            self.too_much.setdefault(name, source)
            return
        self.size = size
        self.shipped |= {file.path: source for file in more}


def files_read_by_code(
    model_id: str, code: Iterable[CodeFile], listings: Mapping[str, Mapping[str, ListedFile]], shipped: Collection[str]
) -> tuple[list[ListedFile], list[str]]:
    """Return the files of the model's repository that are shipped because of its code, and notes on them.

    `listings` has every repository that code is from. Code finds files in the model's own directory only, so files of
    other repositories get a note, unless the model has such a file, too.
    """
    code, own = list(code), listings[model_id]
    # The code of a module opens files in the module's own folder.
    folders = {path.rpartition("/")[0] for path in shipped} | {""}
    found = _files_named_by(code, own, shipped, folders)
    outcomes = (
        (found.shipped, "shipped, too"),
        (found.left, "left behind, since only safetensors and plain data are shipped beside what the loaders open"),
        (found.too_much, f"left behind, since that would be more than {_MOST_FILES} files or {_MOST_BYTES >> 30} GiB"),
    )
    notes = [
        f"{source} seems to read {join_names(paths)}: {outcome}"
        + ("" if named is found.shipped else f"; to ship: {include_line(paths[:_MOST_SHOWN])}")
        for named, outcome in outcomes
        for source, paths in _by_source(named)
    ]
    for repository in sorted(listings.keys() - {model_id}):
        others = _files_named_by([one for one in code if one.repository == repository], listings[repository], own)
        for source, paths in _by_source({**others.shipped, **others.left, **others.too_much}):
            notes.append(
                f"{source} of {repository} seems to read {join_names(paths)} of that repository: left behind, since"
                " its code finds files in the model's own directory only"
            )
    more = [f"{len(notes) - _MOST_NOTES} more files of code seem to read others"] if len(notes) > _MOST_NOTES else []
    return [own[path] for path in found.shipped], [*notes[:_MOST_NOTES], *more]


def _files_named_by(
    code: Iterable[CodeFile],
    listing: Mapping[str, ListedFile],
    shipped: Collection[str],
    folders: Collection[str] = ("",),
) -> _FilesRead:
    """Return the files of a repository that code names, but for those that are shipped in any case.

    Files are named from the root, or from one of `folders`.
    """
    by_name, below = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for path in sorted(listing):
        is_hidden = "/." in f"/{path}"
        for folder in directories_of(path):
            if folder in folders:
                by_name[path.removeprefix(f"{folder}/")].append(path)
            if folder and path not in shipped and not is_hidden:
                below[folder].append(path)
    found, named_folders = _FilesRead(), dict[str, str]()
    for file_of_code in code:
        for literal in sorted(file_of_code.literals):
            name, is_pattern = _path_of(literal)
            named = [] if is_pattern else by_name.get(name, [])
            for path in named:
                # An index of weights may not be that of the weights that are shipped.
                if path in shipped or ("/" not in name and name.endswith(".index.json")):
                    continue
                if _is_safe(listing[path], _PLAIN_ENDINGS | _MEDIA_ENDINGS):
                    found.add(path, file_of_code.path, [listing[path]])
                else:
                    found.left.setdefault(path, file_of_code.path)
            if not named and name in below and not _OTHER_USES.fullmatch(name.partition("/")[0]):
                named_folders.setdefault(name, file_of_code.path)
    for folder, source in named_folders.items():
        files = [listing[path] for path in below[folder]]
        found.add(f"{folder}/", source, [file for file in files if _is_safe(file, _PLAIN_ENDINGS)])
        others = [file.path for file in files if not _is_safe(file, _PLAIN_ENDINGS | _FOR_PEOPLE_ENDINGS)]
        found.left = dict.fromkeys(others, source) | found.left
    return found


def _is_safe(file: ListedFile, endings: Collection[str]) -> bool:
    ending = PurePosixPath(file.path).suffix.lower()
    return file.plain and ending in endings and problem_with_path(file.path) is None


def _path_of(literal: str) -> tuple[str, bool]:
    """Return the path in a literal, up to the folder before a pattern, and whether it has a pattern."""
    name = literal.removeprefix("*").lstrip("/").removeprefix("./")
    if pattern := _PATTERN.search(name):
        return name[: pattern.start()].rpartition("/")[0], True
    return name.rstrip("/"), False


def _by_source(found: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    by_source: dict[str, list[str]] = defaultdict(list)
    for path, source in sorted(found.items()):
        by_source[source].append(path)
    return sorted(by_source.items())
