"""The kind of a model, read from its repository. Rules only; no network, no disk.

A kind is certain where the files say how the model was saved, or where its class fits one kind alone. It is not where
they name no class, or a language model, which people make embedding models, sparse encoders and rerankers from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from modelcache.core.errors import PolicyError, UnclearKindError
from modelcache.core.kinds import Kind
from modelcache.core.types import ListedFile, WantedModel
from modelcache.resolver.config_files import ConfigFiles
from modelcache.resolver.files import choose
from modelcache.resolver.kind_rules import note_on_kind, possible_kinds
from modelcache.resolver.model_modules import modules_of
from modelcache.resolver.model_type import detect_type
from modelcache.resolver.reasons import Reasons


def kind_of(wanted: WantedModel, files: Mapping[str, ListedFile], read: Callable[[ListedFile], bytes]) -> Kind:
    """Return the kind of a wanted model, whose own `kind` does not count; `read` returns a small file.

    For a model that is shipped as no kind, any kind is returned: `choose` refuses it, with every reason.

    Raises:
        UnclearKindError: it can be of several kinds, or its card has to say that it is of this one.

    """
    configs = ConfigFiles(files, read, Reasons().add, directory=wanted.path is not None)
    found = detect_type(files, modules_of(files, configs.read_json), configs.read_json, configs.read_card)
    kinds = possible_kinds(found)
    if not kinds or (len(kinds) == 1 and not note_on_kind(found, kinds[0])):
        return kinds[0] if kinds else wanted.kind
    choices = {kind: keys for kind in kinds if (keys := _needed(replace(wanted, kind=kind), files, read)) is not None}
    if not choices:
        return kinds[0]
    that = "that" if len(kinds) == 1 else "whether"
    nouns = " or ".join(kind.spec.noun for kind in kinds)
    message = f"{wanted.id}: its files do not say {that} it is {nouns} ({found.evidence})"
    tables = " or ".join(f"[[{kind}]]" for kind in choices)
    raise UnclearKindError(message, hint=f"Read its card, then list it under {tables}.", choices=choices)


def _needed(
    wanted: WantedModel, files: Mapping[str, ListedFile], read: Callable[[ListedFile], bytes]
) -> tuple[str, ...] | None:
    """Return the keys of models.toml that a model needs besides its own to be shipped; None where none help."""
    try:
        choose(wanted, list(files.values()), read)
    except PolicyError as error:
        return error.settings or None
    return ()
