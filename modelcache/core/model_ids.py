"""Repository ids, and the id in a pasted text.

People paste the address of a page, of a file or of a clone, the name of a folder in a cache, or a name without owner.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelcache.core.text import escape

# The Hub's own rule (huggingface_hub/utils/_validators.py, REPO_ID_REGEX), with the owner required.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>.*)")
_CLONE = re.compile(r"[\w.-]+@[\w.-]+:(?P<rest>.+)")
# A password may contain any delimiter, so after a colon that begins no port it reaches to the last `@`.
_WITH_USER = re.compile(
    r"(?P<before>^|/)[^/@:]*:(?!/|\d+(?:/|$)).*@|(?P<slashes>//)(?:[^/@]*@)+|^[^/@:]+@(?=[\w-]+(?:\.[\w-]+)+[:/])",
    re.DOTALL,
)
_CACHE_FOLDER = re.compile(r"(models|datasets|spaces)--(.+)")
_COLLECTION = re.compile(r"cached_\w+_models")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+(:\d+)?")
# Follows the name of a repository in the address of a page or a file, and precedes a revision.
_WITH_REVISION = ("tree", "blob", "resolve", "raw", "blame", "commit", "commits", "revision")
_PAGES = (*_WITH_REVISION, "discussions")
_REPO_TYPES = ("models", "datasets", "spaces", "collections", "papers")
_LONGEST_PASTED = 1000
_MOST_SIMILAR = 3

# Names without owner that transformers began with (sentence_transformers/util/misc.py, ORIGINAL_TRANSFORMER_MODELS),
# by the owners to whom the Hub has moved them since.
_ORIGINALS = {
    "albert": "albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 albert-xlarge-v2"
    " albert-xxlarge-v1 albert-xxlarge-v2",
    "almanach": "camembert-base",
    "distilbert": "distilbert-base-cased-distilled-squad distilbert-base-cased distilbert-base-german-cased"
    " distilbert-base-multilingual-cased distilbert-base-uncased-distilled-squad"
    " distilbert-base-uncased-finetuned-sst-2-english distilbert-base-uncased distilgpt2 distilroberta-base",
    "FacebookAI": "roberta-base roberta-large-mnli roberta-large xlm-clm-ende-1024 xlm-clm-enfr-1024 xlm-mlm-100-1280"
    " xlm-mlm-17-1280 xlm-mlm-en-2048 xlm-mlm-ende-1024 xlm-mlm-enfr-1024 xlm-mlm-enro-1024 xlm-mlm-tlm-xnli15-1024"
    " xlm-mlm-xnli15-1024 xlm-roberta-base xlm-roberta-large-finetuned-conll02-dutch"
    " xlm-roberta-large-finetuned-conll02-spanish xlm-roberta-large-finetuned-conll03-english"
    " xlm-roberta-large-finetuned-conll03-german xlm-roberta-large",
    "google-bert": "bert-base-cased-finetuned-mrpc bert-base-cased bert-base-chinese bert-base-german-cased"
    " bert-base-german-dbmdz-cased bert-base-german-dbmdz-uncased bert-base-multilingual-cased"
    " bert-base-multilingual-uncased bert-base-uncased bert-large-cased-whole-word-masking-finetuned-squad"
    " bert-large-cased-whole-word-masking bert-large-cased bert-large-uncased-whole-word-masking-finetuned-squad"
    " bert-large-uncased-whole-word-masking bert-large-uncased",
    "google-t5": "t5-11b t5-3b t5-base t5-large t5-small",
    "openai-community": "gpt2-large gpt2-medium gpt2-xl gpt2 openai-gpt roberta-base-openai-detector"
    " roberta-large-openai-detector",
    "Salesforce": "ctrl",
    "transfo-xl": "transfo-xl-wt103",
    "xlnet": "xlnet-base-cased xlnet-large-cased",
}
OWNERS = {name: owner for owner, names in _ORIGINALS.items() for name in names.split()}


@dataclass(frozen=True, slots=True)
class PastedId:
    """The repository that a pasted text names, by `owner/name` or without the owner."""

    name: str
    repo_type: str = "model"
    """On the Hub; this tool caches models only."""
    revision: str = ""
    """A revision in the text other than `main`."""


def is_id(text: str) -> bool:
    """Whether the Hub allows this text as an id: `owner/name`."""
    return bool(_ID.fullmatch(text)) and not text.endswith(".git") and "--" not in text and ".." not in text


def without_user(text: str) -> str:
    """Return a pasted address without user and password."""
    return _WITH_USER.sub(lambda found: found["before"] or found["slashes"] or "", text)


def parse_pasted(text: str) -> PastedId | None:
    """Return the id in a pasted text; None if there is none."""
    plain = text.strip().strip("\"'`<>,;").strip().replace("\\", "/")
    if found := _CLONE.fullmatch(plain):
        return _in_address(_parts(found["rest"]))
    plain = without_user(plain)
    if found := _ADDRESS.fullmatch(plain):
        return _in_address(_parts(found["rest"])[0 if found["scheme"] in ("hf", "file") else 1 :])
    parts = _parts(plain)
    if len(parts) > 2 and _HOST.fullmatch(parts[0]) and parts[2] not in _PAGES:
        return _in_address(parts[1:])
    if len(parts) > 2 and parts[0] in _REPO_TYPES:
        return _in_address(parts)
    whole = "/" not in plain or len(parts) == 2 or (len(parts) > 2 and parts[2] in _PAGES)
    return _in_folder(parts) or (_named(parts) if whole else None)


def unknown_id(text: str, known: Iterable[str]) -> str:
    """Return an id that is not known as a message names it, with the known ids that are meant or similar."""
    known = list(known)
    shown, similar = escape(without_user(text[:_LONGEST_PASTED])), similar_ids(text, known)
    if not similar:
        return shown
    if _other_spellings(text, known):
        meant = " or ".join(f'"{one}"' for one in similar)
        return f"{shown} ({meant} is meant)"
    return f"{shown} (did you mean {' or '.join(map(repr, similar))}?)"


def similar_ids(text: str, known: Iterable[str]) -> list[str]:
    """Return the known ids that a text means, else those that are nearest to it."""
    known = list(dict.fromkeys(known))
    return (_other_spellings(text, known) or _nearest(text, known))[:_MOST_SIMILAR]


def _other_spellings(text: str, known: Iterable[str]) -> list[str]:
    """Return the known ids that a text names: pasted, without the owner, or with another case or other hyphens."""
    name = _folded(text)
    return [one for one in known if name in (_fold(one), _name_of(_fold(one)))]


def _nearest(text: str, known: Sequence[str]) -> list[str]:
    """Return the known ids whose names are spelt much like that in the text; if none is, whose whole ids are."""
    for part in (_name_of, str):
        by_part: dict[str, list[str]] = {}
        for one in known:
            by_part.setdefault(part(_fold(one)), []).append(one)
        if near := difflib.get_close_matches(part(_folded(text)), by_part, _MOST_SIMILAR):
            return [one for word in near for one in by_part[word]]
    return []


def _folded(text: str) -> str:
    """Return the id in a pasted text, or the text itself, for a comparison."""
    pasted = parse_pasted(text[:_LONGEST_PASTED])
    return _fold(pasted.name if pasted else text[:_LONGEST_PASTED])


def _fold(name: str) -> str:
    """Return a name as people remember it: case and the kind of hyphen do not count."""
    return re.sub(r"[-_.\s]+", "-", name.casefold())


def _name_of(model_id: str) -> str:
    """Return an id without its owner."""
    return model_id.rpartition("/")[2]


def _parts(path: str) -> list[str]:
    return [part for part in re.sub(r"[?#].*", "", path).split("/") if part]


def _in_address(parts: list[str]) -> PastedId | None:
    """Read the path of a URL, of the API or of a page."""
    if parts[:1] == ["api"]:
        parts = parts[1:]
    repo_type = parts[0] if parts and parts[0] in _REPO_TYPES and (len(parts) > 2 or parts[0] != "models") else ""
    return _in_folder(parts) or _named(parts[bool(repo_type) :], repo_type or "models")


def _in_folder(parts: list[str]) -> PastedId | None:
    """Read the name of a directory in the Hub's cache, or in a root of ours."""
    for number, part in enumerate(parts):
        if found := _CACHE_FOLDER.fullmatch(part):
            commit = next((one for one in parts[number + 1 :] if re.fullmatch("[0-9a-f]{40}", one)), "")
            return _pasted_id(found[2].replace("--", "/", 1), found[1], commit)
        if (len(parts) == 1 or _COLLECTION.fullmatch(parts[number - 1])) and len(two := re.split("__|--", part)) == 2:
            return _pasted_id("/".join(two), "models")
    return None


def _named(parts: list[str], repo_type: str = "models") -> PastedId | None:
    """Read `owner/name`, `owner/name@revision`, or the path of a page or a file."""
    name, _, revision = "/".join(parts[:2]).partition("@")
    if len(parts) > 3 and parts[2] in _WITH_REVISION:
        revision = re.sub("(?i)%2f", "/", parts[3])
    return _pasted_id(name, repo_type, revision)


def _pasted_id(name: str, repo_type: str, revision: str = "") -> PastedId | None:
    name = name.removesuffix(".git")
    if name in _REPO_TYPES or not is_id(name if "/" in name else f"x/{name}"):
        return None
    return PastedId(name, repo_type.removesuffix("s"), "" if revision == "main" else revision)
