"""Files that are shipped because a table of models.toml names them, byte for byte: `include`, and all of an [[other]].

Code and pickles among them need their key, as everywhere. Rules only; no network, no disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from modelcache.core.errors import PolicyError
from modelcache.core.file_patterns import PATTERN_KEYS, matches, nearest_names, unmatched
from modelcache.core.file_types import ending_of, is_code, is_named_as_pickle
from modelcache.core.text import join_names
from modelcache.core.types import ListedFile, LockedFile, WantedModel
from modelcache.resolver.reasons import Reasons, Refuse

_MOST_SUGGESTIONS = 5


def included_paths(wanted: WantedModel, files: Mapping[str, ListedFile], refuse: Refuse) -> list[str]:
    """Return the files that `include` names; refuse a pattern that names none."""
    names, suggestions = list(files), _MOST_SUGGESTIONS
    for key in PATTERN_KEYS:
        for pattern in unmatched(getattr(wanted, key), names):
            suggestions -= 1  # each compares the pattern with every name
            near = nearest_names(pattern, names) if suggestions >= 0 else ()
            meant = f"did you mean {join_names(near)}?" if near else "its page on the Hub lists its files"
            refuse(f"{key} names {pattern}, and there is no such file", meant, key)
    return [path for path in names if matches(path, wanted.include)]


def include_line(paths: Sequence[str]) -> str:
    """Return the keys of models.toml that ship these files; a `.bin` may be a pickle, but for those of OpenVINO."""
    weights = [path for path in paths if ending_of(path) == ".bin" and "openvino" not in path]
    pickle = " and allow_pickle = true" if weights or _named_as_pickles(paths) else ""
    code = " and trust_remote_code = true" if any(map(is_code, paths)) else ""
    return f"include = {json.dumps(list(paths), ensure_ascii=False)}{pickle}{code}"


def refuse_without_key(wanted: WantedModel, paths: Iterable[str], refuse: Refuse) -> None:
    """Refuse code and pickles among files that are shipped as they are, where the table does not allow them."""
    paths = sorted(paths)
    if (code := [path for path in paths if is_code(path)]) and not wanted.trust_remote_code:
        refuse(
            f"{join_names(code)} {_is(code)} code",
            f"read it, then set trust_remote_code = true, or {_leave_out(wanted, code=True)}",
            "trust_remote_code",
        )
    if (pickles := _named_as_pickles(paths)) and not wanted.allow_pickle:
        refuse(*_without_allow_pickle(wanted, pickles))


def pickles_among(wanted: WantedModel, named: Collection[str], begin_as_pickles: Collection[str]) -> list[str]:
    """Return the pickles among files that are shipped as they are; `begin_as_pickles` are so by their first bytes.

    Raises:
        PolicyError: the table does not allow them, or the name of one says something else.

    """
    refused = Reasons()
    weights = [path for path in begin_as_pickles if path in named and ending_of(path) == ".bin"]
    hidden = {*begin_as_pickles}.intersection(named).difference(weights, _named_as_pickles(named))
    for path in sorted(hidden):
        hint = f"{_leave_out(wanted)}, or ask the owner to name it .pt, so that it is read before it is shipped"
        refused.add(f"{path} is a pickle, and its name does not say so", hint)
    if weights and not wanted.allow_pickle:
        refused.add(*_without_allow_pickle(wanted, sorted(weights)))
    if refused:
        raise PolicyError(refused.message(f"{wanted.id} is not shipped"), settings=refused.settings)
    return sorted({*weights, *_named_as_pickles(named)})


def refuse_replaced(wanted: WantedModel, included: Collection[str], derived: Iterable[LockedFile]) -> None:
    """Refuse a file that `include` names where this tool writes another one in its place.

    Raises:
        PolicyError: with every such file.

    """
    if lost := sorted(file.path for file in derived if file.path in included and (file.made or file.original)):
        raise PolicyError(
            f"{wanted.id} is not shipped: include names {join_names(lost)}, and another file has to have that name",
            hint="Take it out of include.",
        )


def _without_allow_pickle(wanted: WantedModel, paths: Sequence[str]) -> Iterator[str]:
    yield f"{join_names(paths)} {_is(paths)} pickled, and loading a pickle can run any code"
    yield f"set allow_pickle = true to ship what holds tensors and nothing else, or {_leave_out(wanted)}"
    yield "allow_pickle"


def _named_as_pickles(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if is_named_as_pickle(path)]


def _is(paths: Sequence[str]) -> str:
    return "is" if len(paths) == 1 else "are"


def _leave_out(wanted: WantedModel, *, code: bool = False) -> str:
    if wanted.include:
        return "leave it out of include"
    return "set it to false to leave all code out" if code else "name it in exclude"
