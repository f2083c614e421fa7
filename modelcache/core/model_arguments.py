"""Models as a command line names them: an id, an id with a revision, or what people paste instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import OWNERS, is_id, parse_pasted, without_user
from modelcache.core.names import problem_with_id, problem_with_revision
from modelcache.core.text import escape

_LONGEST = 1000
_HUB = "https://huggingface.co/"
_HINT = "Name each model as owner/name, as owner/name@REVISION, or by the address of its page."
_PATH_HINT = "A model in a directory is listed in models.toml by hand, with `path`."


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """A model of the Hub that a command line names."""

    id: str
    revision: str | None = None
    """None where no revision is named."""
    pasted: str = ""
    """The text that this id was read from, where it does not show the id as it is."""


def parse_arguments(words: Iterable[str], kind: Kind | None, endpoint: str = "") -> tuple[ModelArgument, ...]:
    """Return the models that words name, each once; one word may hold several, between spaces.

    `kind` is that of all of them, None where it is not known. The address of a page on `endpoint` is read as one of
    the Hub, whatever path the endpoint has.

    Raises:
        UsageError: with every problem.

    """
    words = list(words)
    found: dict[str, ModelArgument] = {}
    problems: dict[str, str] = {}
    for text in (one for word in words for one in word.split()):
        argument = _parse(text, kind, endpoint)
        if isinstance(argument, UsageError):
            problems.setdefault(argument.message, argument.hint)
            continue
        first = found.setdefault(argument.id, argument)
        if first.revision != argument.revision:
            revisions = " and ".join(f'"{one.revision or "main"}"' for one in (first, argument))
            problems.setdefault(f"{argument.id} is named twice, with revision {revisions}", "Name it once.")
    if problems:
        raise UsageError("\n".join(problems), hint=" ".join(dict.fromkeys(problems.values())))
    if not found:
        hint = "A variable may be empty: is the build argument set? " + _HINT
        raise UsageError("no model is named: the argument is empty" if words else "no model is named", hint=hint)
    return tuple(found.values())


def _parse(text: str, kind: Kind | None, endpoint: str) -> ModelArgument | UsageError:
    """Return the model that one text names, or the problem with it."""
    name, at, revision = text.partition("@")
    if is_id(name):
        problem = problem_with_revision(revision) if at else None
        return UsageError(f"{name}: {problem}", hint=_HINT) if problem else ModelArgument(name, revision or None)
    if endpoint and text.startswith(f"{endpoint.rstrip('/')}/"):
        text = _HUB + text[len(endpoint.rstrip("/")) + 1 :]
    if text.startswith(("/", ".", "~")):
        return UsageError(f'"{escape(text, _LONGEST)}" is a path, and no id of the Hub', hint=_PATH_HINT)
    meant = parse_pasted(text[:_LONGEST])
    owner = OWNERS.get(meant.name.lower()) if meant and "/" not in meant.name else None
    if meant is None or meant.repo_type != "model" or not (owner or "/" in meant.name):
        return UsageError(problem_with_id(text, kind) or "", hint=_HINT)
    if meant.revision and (problem := problem_with_revision(meant.revision)):
        return UsageError(f"{meant.name}: {problem}", hint=_HINT)
    pasted = without_user(text[:_LONGEST]) if owner or meant.name not in text else ""
    return ModelArgument(f"{owner}/{meant.name.lower()}" if owner else meant.name, meant.revision or None, pasted)
