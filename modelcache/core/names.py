"""Names: model ids, directories, and the paths that a model may contain."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain

from modelcache.core.errors import PolicyError, UsageError
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import OWNERS, is_id, parse_pasted, without_user
from modelcache.core.text import escape, first_lines

RECEIPT_NAME = ".cache-models.json"
STATE_NAME = ".cache-models"

# One fixed mtime makes equal models equal image layers; tar and zip both can hold it (1980-01-01).
PUBLISHED_MTIME = 315532800

DIGEST = re.compile("sha256:[0-9a-f]{64}")
"""The digest of a blob or a manifest of an image."""

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}")
_NOT_PORTABLE = re.compile(r"""[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]|[. ](/|$)""")
_WHITEOUT = re.compile(r"(^|/)\.wh\.")  # image-spec, layer.md
_LICENCE = re.compile(r"[A-Za-z0-9.+_-]{1,64}")
_LONGEST_PASTED = 1000
_MOST_PARTS = 16
_MOST_NAMES = 50_000
_MOST_SPELLINGS = 9
_WINDOWS_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def sanitize_model_id(model_id: str) -> str:
    """Return the directory name of a model: `owner/name` becomes `owner__name`."""
    return model_id.replace("/", "__")


def problem_with_id(model_id: str, kind: Kind | None) -> str | None:
    """Return the problem with a model id, or None if it is `owner/name` as the Hub allows it.

    Where the kind is not known (None), the owners of all kinds are suggested for an id without one.
    """
    if is_id(model_id):
        return None
    pasted = model_id[:_LONGEST_PASTED]
    shown, meant = f'"{escape(without_user(pasted))}"', parse_pasted(pasted)
    if meant is None:
        return f'{shown} is not a repository id; it must look like "owner/name"'
    if meant.repo_type != "model":
        return f"{shown} is a {meant.repo_type} of the Hub, and no model"
    if "/" not in meant.name:
        known = OWNERS.get(meant.name.lower())
        owners = [known] if known else [one.spec.default_owner for one in (Kind if kind is None else [kind])]
        ids = " or ".join(f'"{owner}/{meant.name}"' for owner in owners if owner)
        meaning = f"{ids} is probably meant" if ids else "its page on the Hub shows it"
        return f"{shown} has no owner; {meaning}"
    at = f', with revision = "{escape(meant.revision)}"' if meant.revision else ""
    return f'{shown} is not a repository id; "{meant.name}"{at} is meant'


def problem_with_revision(revision: str) -> str | None:
    """Return the problem with the name of a branch, tag or commit, or None."""
    if _REVISION.fullmatch(revision) and ".." not in revision:
        return None
    return f'"{escape(revision)}" is not a branch, tag or commit'


def problem_with_path(path: str) -> str | None:
    """Return the problem with a file's path in a model, or None.

    A path is POSIX and relative, and stays below the model; Windows and macOS volumes must be able to hold it, too.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts:
        return "leaves the model's directory"
    if "" in parts or "." in parts:
        return "is not a plain relative path"
    if _NOT_PORTABLE.search(path) or any(_WINDOWS_DEVICES.fullmatch(part) for part in parts):
        return "has characters or a name that not every file system can hold"
    if _WHITEOUT.search(path):
        return "has a name that removes files where an image is unpacked"
    too_long = len(path) > 1024 or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
    if too_long or len(parts) > _MOST_PARTS:
        return "is too long" if too_long else "is nested too deeply"
    ours = _fold(parts[0]) in (RECEIPT_NAME, STATE_NAME)
    return "is a name that this tool keeps for itself" if ours else None


def directories_of(path: str) -> Iterator[str]:
    """Yield the directories that a path is in, from the root (``""``) downwards."""
    return accumulate(path.split("/")[:-1], lambda above, name: f"{above}/{name}" if above else name, initial="")


def refuse_unsafe_paths(
    model_id: str,
    paths: Iterable[str],
    hint: str = "Do not use this repository before its owner has explained or renamed these files.",
) -> None:
    """Check all file paths of a model.

    Raises:
        PolicyError: a path leaves the directory, collides with another, or is not portable; the message names them.

    """
    paths = list(paths)
    wrong = {path: problem for path in paths if (problem := problem_with_path(path))}
    odd = (f"{path!r} {problem}" for path, problem in wrong.items())
    if problems := first_lines(chain(odd, _collisions([path for path in paths if path not in wrong]))):
        raise PolicyError(
            f"{model_id} has files that are not safe to write:\n  " + "\n  ".join(problems),
            hint=hint,
        )


def refuse_colliding_ids(ids: Iterable[str]) -> None:
    """Check that no two ids share a directory.

    Raises:
        UsageError: some sanitise to one name (`a/b__c` and `a__b/c`); the message names them.

    """
    by_name = defaultdict(set)
    for model_id in ids:
        by_name[sanitize_model_id(model_id).casefold()].add(model_id)
    problems = [" and ".join(sorted(same)) for same in by_name.values() if len(same) > 1]
    if problems:
        raise UsageError(
            "these ids would share one directory: " + "; ".join(problems),
            hint="Cache them under different roots (--root).",
        )


def _collisions(paths: list[str]) -> Iterator[str]:
    """Yield paths that would be one name, or a file and a directory, where case and composition do not count."""
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    files: set[str] = set()
    for path in paths:
        for name in (*directories_of(path), path):
            same = spellings[_fold(name)]
            if len(same) <= _MOST_SPELLINGS:
                same[name] = None
        if path in files:
            yield f"{path!r} and {path!r} are one name on some volumes"
        files.add(path)
        if len(spellings) > _MOST_NAMES:
            yield f"there are more than {_MOST_NAMES} names of files and directories"
            return
    for same in spellings.values():
        if len(same) > 1:
            yield f"{' and '.join(map(repr, sorted(same)[:3]))} are one name on some volumes"
    folded = set(map(_fold, files))
    for path in paths:
        if not folded.isdisjoint(map(_fold, directories_of(path))):
            yield f"{path!r} lies below a name that is also a file"


def _fold(name: str) -> str:
    """Return a name as a volume that ignores case and Unicode composition compares it."""
    return unicodedata.normalize("NFC", name).casefold()


def plain_licence(text: object) -> str:
    """Return a licence as cards name it (`apache-2.0`); empty for anything else, which is not safe to print."""
    return text if isinstance(text, str) and _LICENCE.fullmatch(text) else ""
