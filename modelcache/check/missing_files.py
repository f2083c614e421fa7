"""Which file of a model its own code wanted and did not find, by the error that it ended with. Rules only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

from modelcache.check.probes import Observation
from modelcache.core.text import escape, join_names
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.store.layout import Places

_NOT_FOUND = re.compile(r"FileNotFoundError: |No such file or directory|does not appear to have a file named ")
# Up to where a message goes on, or the place in the code follows.
_PATH = r"([^'\"\n]+?)(?=['\"\n]| \([^ ()]+:\d+\)|$)"
_BESIDE = re.compile(rf"/transformers_modules/[^/'\"\n]+/[0-9a-f]{{16}}/{_PATH}")
_NAMED = re.compile(r"does not appear to have a file named ([^'\"\n]+?)\. ")
_MODULE = re.compile(r"No module named '(?:transformers_modules\.\w+\.\w+\.)?(\w+)'")


def missing_files(model: LockedModel, seen: Observation) -> Iterator[str]:
    """Yield each file that was wanted, with a way out; none where another error ended it, or the model has no code."""
    if model.remote_code is not RemoteCode.VENDORED:
        return
    shipped = {file.path for file in model.files}
    yield from _asked_of_the_hub(model, seen, shipped)
    if found := _MODULE.search(seen.error):
        yield from _not_imported(found, shipped)
    elif _NOT_FOUND.search(seen.error):
        yield from _not_opened(model, seen.error, shipped)


def _asked_of_the_hub(model: LockedModel, seen: Observation, shipped: Collection[str]) -> Iterator[str]:
    """Yield the files of its own repository for which a model's code asked the Hub."""
    of_model = re.compile(rf"/{re.escape(model.id)}/resolve/[^/]+/([^?]+)")
    paths = dict.fromkeys(unquote(found[1]) for attempt in seen.attempts if (found := of_model.search(attempt)))
    if any(re.search(rf"/api/models/{re.escape(model.id)}(?![\w.-])", attempt) for attempt in seen.attempts):
        yield "its code asks the Hub about its own repository: its owner has to look into the model's directory instead"
    lacking, there = ([path for path in paths if (path in shipped) is known] for known in (False, True))
    if lacking:
        yield f"its code asks the Hub for files that are not shipped: {join_names(lacking)}; {_way_out(model)}"
    if there:
        yield (
            f"its code asks the Hub for files that are in the model's directory: {join_names(there)};"
            " its owner has to open them there"
        )


def _not_imported(found: re.Match[str], shipped: Collection[str]) -> Iterator[str]:
    """Yield why a module beside the code was not found."""
    name = found[1]
    if found[0] != f"No module named '{name}'":
        yield (
            f"its code imports {name} from beside itself in a way that shows only when it runs, so that transformers"
            f' does not copy it: its owner has to write "from .{name} import …" at the beginning of a line'
        )
    elif f"{name}.py" in shipped:
        yield (
            f"{name}.py is there, and sentence-transformers hides the error that its import ended with: its code does"
            " not find a file, or lacks the class"
        )


def _not_opened(model: LockedModel, error: str, shipped: Collection[str]) -> Iterator[str]:
    """Yield the file that was not found beside the code, or in the model's directory."""
    home = re.escape(Places.below(Path()).home(model.kind, model.id).as_posix())
    if found := _BESIDE.search(error):
        yield (
            f"its code opens {escape(found[1], 200)} beside itself, where transformers copies only code: its owner has"
            " to open that file in the model's directory, which the loader names to the code"
        )
        return
    found = _NAMED.search(error) or re.search(f"{home}/{_PATH}", error)
    if found and found[1] not in shipped:
        yield f"its code wants {escape(found[1], 200)}, which is not shipped: {_way_out(model)}"


def _way_out(model: LockedModel) -> str:
    return (
        f"run `lock --upgrade {model.id}`, which ships safetensors and plain data that code names by path or folder in"
        " a literal; where that does not help, correct a copy of the repository and name its directory as `path`"
    )
