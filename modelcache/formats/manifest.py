"""models.toml: the wanted models. All problems are reported at once, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from modelcache.core.errors import ManifestError, UsageError
from modelcache.core.file_patterns import MOST_PATTERNS, PATTERN_KEYS, problem_with_pattern
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import similar_ids, unknown_id
from modelcache.core.names import problem_with_id, problem_with_revision, sanitize_model_id
from modelcache.core.policy import NO_RULES, Policy
from modelcache.core.text import did_you_mean, escape
from modelcache.core.types import Pooling, WantedModel
from modelcache.formats.manifest_policy import POLICY, policy_of, problems_with_policy
from modelcache.formats.toml import decode_text, parse_toml

# A new key also stands in `core.types` (WantedModel, LockedModel and its `misfits`), in `formats.pin_table`, in
# `formats.manifest_tables`, which writes it, in `resolver.resolve`, which copies it into the pin, and in `api`, whose
# functions take no manifest.
_KEYS = {
    "id": str,
    "revision": str,
    "path": str,
    "trust_remote_code": bool,
    "allow_pickle": bool,
    "pooling": str,
    "normalize": bool,
    "include": list,
    "exclude": list,
}
_KEY_OF_LINE = re.compile(r"""\s*(?:\[+\s*)?(?:"([^"\\]+)"|'([^']+)'|([\w-]+))\s*[=\].]""")
_MOST_PROBLEMS = 1000
_NAMES = {str: "a string", bool: "true or false", list: "a list of strings"}
_HINT = f'Write one table a model: {" or ".join(f"[[{kind}]]" for kind in Kind)} with id = "owner/name".'
_ADD_HINT = "`cache-models add ID` writes a model into models.toml."
LISTING_HINT = "`cache-models status` lists the models."


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a manifest."""

    models: tuple[WantedModel, ...] = ()
    """In its order."""
    policy: Policy = NO_RULES


def parse_manifest(content: bytes | None, path: Path) -> tuple[WantedModel, ...]:
    """Return the models of a manifest; see `parse_models_and_policy`."""
    return parse_models_and_policy(content, path).models


def parse_policy(content: bytes | None, path: Path) -> Policy:
    """Return the rules of a manifest's `[policy]`; None, a file that is not there, sets none.

    ManifestError has every problem of the manifest, as with `parse_manifest`.
    """
    return NO_RULES if content is None else parse_models_and_policy(content, path).policy


def parse_models_and_policy(content: bytes | None, path: Path) -> Manifest:
    """Turn the bytes of a manifest into its models and its rules; None stands for a file that is not there.

    ManifestError has every problem on a line of its own, as `name:line: problem`.
    """
    if content is None:
        raise ManifestError(f"there is no {path}", hint=f"{_ADD_HINT} {_HINT} Or name another file with --manifest.")
    try:
        text = decode_text(content)
        document = parse_toml(text)
    except ValueError as error:
        raise ManifestError(f"{path.name} is not TOML: {error}", hint=_HINT) from error

    lines = _LineNumbers(text)
    models: list[WantedModel] = []
    ids: list[tuple[Kind, str, int]] = []
    problems: list[tuple[int, str]] = []
    for key, tables in document.items():
        if len(problems) > _MOST_PROBLEMS:  # no one reads so many, and each takes a search
            break
        if key == POLICY:
            line = lines.table(key, 0)
            problems += [(lines.key(word, line), problem) for word, problem in _few(problems_with_policy(tables))]
            continue
        if key not in tuple(Kind):
            problems.append((lines.key(key, 0), _unknown_at_top(key, tables)))
            continue
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            problems.append((lines.key(key, 0), f"{key} must be tables: write [[{key}]]"))
            continue
        for index, table in enumerate(tables):
            line = lines.table(key, index)
            found = [(lines.key(word, line), problem) for word, problem in _few(_problems_of(table, Kind(key)))]
            problems += found
            if isinstance(table.get("id"), str):
                ids.append((Kind(key), table["id"], line))
            if not found:
                pooling = Pooling(table["pooling"]) if "pooling" in table else None
                patterns = {name: tuple(table.get(name, ())) for name in PATTERN_KEYS}
                models.append(WantedModel(Kind(key), line=line, **{**table, **patterns, "pooling": pooling}))
    problems += _duplicates(ids)
    if problems:
        raise ManifestError("\n".join(f"{path.name}:{line}: {problem}" for line, problem in sorted(problems)))
    in_order = tuple(sorted(models, key=lambda model: model.line))
    return Manifest(in_order, policy_of(document.get(POLICY, {})))


def _few(problems: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return islice(problems, _MOST_PROBLEMS)


def select(models: Sequence[WantedModel], ids: Sequence[str]) -> tuple[WantedModel, ...]:
    """Return the models that the command line names, all of them when it names none; refuse an unknown id."""
    refuse_unknown(ids, [model.id for model in models], "the manifest", hint=_ADD_HINT)
    return tuple(model for model in models if not ids or model.id in ids)


def refuse_unknown(ids: Iterable[str], known: Iterable[str], where: str, *, hint: str = LISTING_HINT) -> None:
    """Refuse all ids that are not known together, each with the known ids that are meant or similar.

    `where` says where they were looked for; `hint` is what to do about ids that resemble none.
    """
    known = dict.fromkeys(known)
    if unknown := [model_id for model_id in dict.fromkeys(ids) if model_id not in known]:
        if any(similar_ids(model_id, known) for model_id in unknown):
            hint = LISTING_HINT
        raise UsageError(f"not in {where}: {', '.join(unknown_id(one, known) for one in unknown)}", hint=hint)


def _unknown_at_top(name: str, value: object) -> str:
    tables = [*(f"[[{kind}]]" for kind in Kind), f"[{POLICY}]"]
    # Brackets alone are no likeness.
    suggestion = did_you_mean(name, [*Kind, POLICY]) and did_you_mean(f"[[{name}]]", tables)
    if isinstance(value, (list, dict)):
        return f"unknown table [[{escape(name)}]]{suggestion or f'; the tables are {_listed(tables)}'}"
    return f"unknown key {name!r}{suggestion or f' above the first table; the tables are {_listed(tables)}'}"


def _unknown_key(key: str, kind: Kind) -> str:
    known = list(_KEYS)
    return f"unknown key {key!r} in [[{kind}]]{did_you_mean(key, known) or f'; the keys are {_listed(known)}'}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _problems_of(table: dict[str, object], kind: Kind) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if key not in _KEYS:
            yield key, _unknown_key(key, kind)
        elif type(value) is not _KEYS[key]:
            yield key, f"{key} must be {_NAMES[_KEYS[key]]}, not {value!r}"
        elif value == "":
            yield key, f"{key} is empty"
        elif (key == "id" and (problem := problem_with_id(str(value), kind))) or (
            key == "revision" and (problem := problem_with_revision(str(value)))
        ):
            yield key, problem
        elif isinstance(value, list):
            yield from ((key, problem) for problem in _problems_with_patterns(key, value))
        elif key == "pooling" and value not in tuple(Pooling):
            yield key, f"pooling must be one of {', '.join(Pooling)}, not {value!r}"
    if "exclude" in table and kind.spec.loads:
        yield "exclude", f"exclude is for [[{Kind.OTHER}]]: the loader of {kind.spec.noun} needs all of its files"
    if "id" not in table:
        yield "", f'[[{kind}]] has no id; write id = "owner/name"'
    if "path" in table and "revision" in table:
        yield "revision", "a model from a path has no revision; remove one of the two"
    if not kind.spec.pools and (stray := {"pooling", "normalize"} & table.keys()):
        pooled = " and ".join(f"[[{kind}]]" for kind in Kind if kind.spec.pools)
        yield min(stray), f"{min(stray)} is for {pooled}: {kind.spec.noun} has no pooling"
    elif ("pooling" in table) != ("normalize" in table):
        there, lacking = ("pooling", "normalize") if "pooling" in table else ("normalize", "pooling")
        yield there, f"{there} needs {lacking} beside it, so that nothing is guessed"


def _problems_with_patterns(key: str, patterns: Sequence[object]) -> Iterator[str]:
    if len(patterns) > MOST_PATTERNS:
        yield f"{key} has more than {MOST_PATTERNS} patterns"
        return
    for pattern in patterns:
        if not isinstance(pattern, str):
            yield f"{key} must be {_NAMES[list]}, and has {pattern!r}"
        elif problem := problem_with_pattern(pattern):
            yield f"the pattern {pattern!r} of {key} {problem}"


def _duplicates(ids: Sequence[tuple[Kind, str, int]]) -> Iterator[tuple[int, str]]:
    seen: dict[tuple[Kind, str], tuple[str, int]] = {}
    kinds: dict[str, tuple[Kind, int]] = {}
    for kind, model_id, line in ids:
        other, above = kinds.setdefault(model_id, (kind, line))
        if other is not kind:  # programs find a model by its id alone
            yield line, f"{model_id} is listed under [[{other}]] in line {above}, too; a model has one kind: remove one"
        first, where = seen.setdefault((kind, sanitize_model_id(model_id).casefold()), (model_id, line))
        if where == line and first is model_id:
            continue
        if first == model_id:
            yield line, f"{model_id} is listed twice (first in line {where}); remove one"
        else:
            shared = f"{model_id} would share one directory with {first} of line {where}"
            yield line, f"{shared}; list one of them in another models.toml, for a root of its own"


class _LineNumbers:
    """The line of each table and key; tomllib keeps no positions."""

    def __init__(self, text: str) -> None:
        # Multi-line strings are blanked out: their lines are no TOML, and are counted.
        blank = re.sub(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'', lambda string: "\n" * string[0].count("\n"), text)
        self._tables: dict[str, list[int]] = {}
        self._keys: dict[tuple[int, str], int] = {}
        table = 0
        for number, line in enumerate(blank.split("\n"), 1):
            if header := re.match(r"""\s*\[\[?\s*["']?([\w-]+)["']?\s*\]""", line):
                self._tables.setdefault(header[1], []).append(number)
            if key := _KEY_OF_LINE.match(line):
                for where in (0, table):
                    self._keys.setdefault((where, key[1] or key[2] or key[3]), number)
            if line.lstrip().startswith("["):
                table = number

    def table(self, name: str, index: int) -> int:
        """Return the line of the index-th [[name]], or of [name]; of the key, where it is written inline."""
        lines = self._tables.get(name, [])
        return lines[index] if index < len(lines) else self.key(name, 0)

    def key(self, name: str, table: int) -> int:
        """Return the line that sets `name` below the header in line `table`; the header's when none does."""
        return self._keys.get((table, name), max(table, 1))
