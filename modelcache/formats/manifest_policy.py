"""The table `[policy]` of models.toml: its problems, and the rules that it sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from modelcache.core.names import plain_licence
from modelcache.core.policy import Policy
from modelcache.core.text import did_you_mean

POLICY = "policy"
"""The name of the table."""

# A new rule also stands in `core.policy`, which judges by it, and in docs/models-toml.md.
_KEYS = {"licences": list, "remote_code": bool, "pickle": bool}
_NAMES = {list: "a list of strings", bool: "true or false"}
_LISTED = "licences, remote_code and pickle"


def problems_with_policy(table: object) -> Iterator[tuple[str, str]]:
    """Yield each problem with the value of `policy`, behind the key that it is about; "" is the table itself."""
    if not isinstance(table, dict):
        written = "one table" if isinstance(table, list) else "a table"
        yield "", f"{POLICY} must be {written}: write [{POLICY}]"
        return
    for key, value in table.items():
        if key not in _KEYS:
            yield key, f"unknown key {key!r} in [{POLICY}]{did_you_mean(key, _KEYS) or f'; the keys are {_LISTED}'}"
        elif type(value) is not _KEYS[key]:
            yield key, f"{key} must be {_NAMES[_KEYS[key]]}, not {value!r}"
        elif isinstance(value, list):
            yield from ((key, problem) for problem in _problems_with_licences(value))


def _problems_with_licences(licences: Sequence[object]) -> Iterator[str]:
    if not licences:
        yield "licences is empty, so that no model is allowed; without the key every licence is"
    for licence in licences:
        if not isinstance(licence, str):
            yield f"licences must be {_NAMES[list]}, and has {licence!r}"
        elif not licence:
            yield "licences has an empty string"
        elif not plain_licence(licence):
            yield f"licences has {licence!r}, which no card names; write it as cards do: apache-2.0"


def policy_of(table: Mapping[str, object]) -> Policy:
    """Return the rules of a table that has no problem."""
    licences = table.get("licences", ())
    assert isinstance(licences, (list, tuple))
    return Policy(
        licences=tuple(licences),
        remote_code=table.get("remote_code", True) is True,
        pickle=table.get("pickle", True) is True,
    )
