"""The difference between two versions of a model, as values: which parts have changed, and the effect of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelcache.core.effect import Effect


class Part(StrEnum):
    """The part of a model that a file or a setting belongs to; also its word in output."""

    WEIGHTS = "weights"
    FORMAT = "format"
    """Weights in other files than before: in shards, or out of a pickle. Their numbers may be equal."""
    TOKENIZER = "tokenizer"
    SETTINGS = "settings"
    """Modules, pooling, prompts, lengths, and all else that the configurations say."""
    CODE = "code"
    FILES = "files"
    """Other files that the model may read."""
    INCLUDED = "included"
    """Files for other programs, which `include` names."""
    DOCUMENTS = "documents"
    """The card, and other text for people."""
    LICENCE = "licence"
    ACCESS = "access"
    """Whether the repository is gated."""
    PIN = "pin"
    """Keys of models.toml that the pin was made with."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file or setting that differs; `old` and `new` are empty where only one version has it.

    Of a file they are its SHA-256, of a setting its value as JSON.
    """

    part: Part
    name: str
    """The path of a file; of a setting the path, a colon and the key: `config.json: hidden_act`."""
    old: str
    new: str
    effect: Effect = Effect.NONE
    is_file: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """How two versions of a model differ."""

    changes: tuple[Change, ...] = ()
    """Sorted by part, in the order of `Part`, and by name."""
    unread: tuple[str, ...] = ()
    """Configurations that differ, and could not be read in both versions: which settings differ is not known."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs that a model directory holds, or a lock says of it."""
        return not self.changes

    @property
    def effect(self) -> Effect:
        """The largest effect of all changes."""
        return max((change.effect for change in self.changes), default=Effect.NONE)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that have changed."""
        return tuple(dict.fromkeys(change.part for change in self.changes))
