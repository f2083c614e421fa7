"""The facts about a model that a reviewer asks for: its licence, its base model, its code, how it was proven."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from modelcache.core.file_types import OTHER_WEIGHTS, ending_of, is_code
from modelcache.core.types import LockedFile, LockedModel, Original, set_digest

UNKNOWN = "unknown"
CARD_NAME = "README.md"
_OTHER = "other"
"""The value of `license` beside which a card names the licence in `license_name`."""
_LICENCE_FILE = re.compile(r"(?i)(^|[^a-z])(licen[cs]es?|notices?|copying)([^a-z]|$)")
_NOT_TEXT = OTHER_WEIGHTS | {".safetensors", ".json"}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The words of a model card's front matter that a report repeats; they are a stranger's, and short."""

    licences: tuple[str, ...] = ()
    licence_name: str = ""
    licence_link: str = ""
    base_models: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    """The keys `extra_gated_…`, with which an owner asks for consent before the files can be fetched."""


@dataclass(frozen=True, slots=True)
class LicenceFile:
    """A file LICENSE, NOTICE or COPYING, with its first line that is not blank."""

    path: str
    first_line: str = ""
    """Empty where the file is not on disk, or has none."""


class Source(StrEnum):
    """Where a fact is from."""

    CARD = "card"
    LOCK = "lock"


class Proof(StrEnum):
    """Whether numbers of `check` are recorded for exactly these files."""

    PROVEN = "proven"
    UNPROVEN = "unproven"
    NEVER_LOADED = "never loaded"


@dataclass(frozen=True, slots=True)
class ReportedModel:
    """A pinned model, with the facts that its files on disk add."""

    pin: LockedModel
    proof: Proof
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries with which its numbers were recorded; empty if it is not proven."""
    on_disk: bool = False
    """Whether its files were read, and are as pinned; otherwise all is from the lock alone."""
    card: ModelCard = ModelCard()
    licence_files: tuple[LicenceFile, ...] = ()
    index_id: str | None = None
    """The identity of an index with its vectors (`resolver.index_id`); None where it gives none, or is not on disk."""

    @property
    def digest(self) -> str:
        """The set digest of its files."""
        return set_digest(self.pin.files)

    @property
    def licences(self) -> tuple[str, ...]:
        """The names of its licences, of which `other` is replaced by the card's own name; none where it is unknown."""
        card = self.card
        names = card.licences or ((card.licence_name,) if card.licence_name else ())
        names = tuple((card.licence_name or name) if name == _OTHER else name for name in names)
        return names or ((self.pin.licence,) if self.pin.licence else ())

    @property
    def licence_source(self) -> Source | None:
        """Where its licence is named."""
        if self.card.licences or self.card.licence_name:
            return Source.CARD
        return Source.LOCK if self.pin.licence else None

    @property
    def other_licence(self) -> str:
        """The licence that the lock has, and `[policy]` judges, where the card on disk names another; else empty."""
        named = self.card.licences
        return self.pin.licence if named and self.pin.licence not in named else ""

    @property
    def gated(self) -> tuple[Source, ...]:
        """Where it says that the files can be fetched only after consent to terms: the Hub in the lock, or the card."""
        found = ((Source.LOCK, self.pin.gated), (Source.CARD, bool(self.card.terms)))
        return tuple(source for source, says in found if says)

    @property
    def code(self) -> tuple[tuple[LockedFile, Original], ...]:
        """Its files of code, and those that came with them from other repositories, each with its original."""
        return tuple((file, self.pin.original_of(file)) for file in self.pin.files if _is_vendored(file))

    @property
    def made(self) -> tuple[LockedFile, ...]:
        """Its files that no repository has byte for byte."""
        return tuple(file for file in self.pin.files if file.made)


def is_licence_file(path: str) -> bool:
    """Whether a file is LICENSE, NOTICE, COPYING or alike, by its name."""
    name = path.rpartition("/")[2]
    return bool(_LICENCE_FILE.search(name)) and not is_code(path) and ending_of(path) not in _NOT_TEXT


def _is_vendored(file: LockedFile) -> bool:
    copied = file.original is not None and file.made is None
    return copied or is_code(file.path)
