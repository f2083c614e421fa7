"""Name the file that a model's own code did not find, by its error and its requests to the Hub. Rules only."""

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
# Ends where the message goes on, or before the position in the code.
_PATH = r"([^'\"\n]+?)(?=['\"\n]| \([^ ()]+:\d+\)|$)"
_BESIDE_CODE = re.compile(rf"/transformers_modules/[^/'\"\n]+/[0-9a-f]{{16}}/{_PATH}")
_NAMED = re.compile(r"does not appear to have a file named ([^'\"\n]+?)\. ")
_MODULE = re.compile(r"No module named '(?:transformers_modules\.\w+\.\w+\.)?(\w+)'")


def missing_files(model: LockedModel, observed: Observation) -> Iterator[str]:
    """Yield each file that the code did not find, with a hint; none after other errors, or for a model without code."""
    if model.remote_code is not RemoteCode.VENDORED:
        return
    shipped = {file.path for file in model.files}
    yield from _asked_of_the_hub(model, observed, shipped)
    if found := _MODULE.search(observed.error):
        yield from _not_imported(found, shipped)
    elif _NOT_FOUND.search(observed.error):
        yield from _not_opened(model, observed.error, shipped)


def _asked_of_the_hub(model: LockedModel, observed: Observation, shipped: Collection[str]) -> Iterator[str]:
    """Yield the files of its own repository for which a model's code asked the Hub."""
    of_model = re.compile(rf"/{re.escape(model.id)}/resolve/[^/]+/([^?]+)")
    paths = dict.fromkeys(unquote(found[1]) for attempt in observed.attempts if (found := of_model.search(attempt)))
    if any(re.search(rf"/api/models/{re.escape(model.id)}(?![\w.-])", attempt) for attempt in observed.attempts):
        yield "its code asks the Hub about its own repository: its owner has to look into the model's directory instead"
    missing = [path for path in paths if path not in shipped]
    present = [path for path in paths if path in shipped]
    if missing:
        yield f"its code asks the Hub for files that are not shipped: {join_names(missing)}; {_hint(model)}"
    if present:
        yield (
            f"its code asks the Hub for files that are in the model's directory: {join_names(present)};"
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
    if found := _BESIDE_CODE.search(error):
        yield (
            f"its code opens {escape(found[1], 200)} beside itself, where transformers copies only code: its owner has"
            " to open that file in the model's directory, which the loader names to the code"
        )
        return
    found = _NAMED.search(error) or re.search(f"{home}/{_PATH}", error)
    if found and found[1] not in shipped:
        yield f"its code wants {escape(found[1], 200)}, which is not shipped: {_hint(model)}"


def _hint(model: LockedModel) -> str:
    return (
        f"run `cache-models lock --upgrade {model.id}`, which ships safetensors and plain data that code names by"
        " path or folder in a literal; where that does not help, correct a copy of the repository and name its"
        " directory as `path`"
    )
