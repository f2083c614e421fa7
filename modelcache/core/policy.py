"""The table `[policy]` of models.toml: rules that hold for every model, judged by manifest and lock alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelcache.core.errors import PolicyError
from modelcache.core.file_types import is_code
from modelcache.core.text import join_names
from modelcache.core.types import LockedModel, Made, WantedModel

_FILES_NAMED = 3
_TRUST, _PICKLE = "trust_remote_code = true", "allow_pickle = true"
_OTHER_LICENCE = "read a licence before you add it to licences"
_NO_LICENCE = (
    "where no licence is named, `cache-models report` shows the files that may hold one: ask the owner to name it in"
    " the card (`license: …`)"
)
_NO_CODE = "set trust_remote_code = false to ship a model without its code"
_NO_PICKLE = "ask the owner for safetensors instead of a pickle"
_ELSE = "else take the model out of models.toml, or change [policy]"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for what is shipped; without values there is none."""

    licences: tuple[str, ...] = ()
    """The licences that are allowed, as cards name them, in any case; with none of them every licence is."""
    remote_code: bool = True
    """Whether a model may be shipped with code."""
    pickle: bool = True
    """Whether a model may be shipped with pickles, or with weights that are made from one."""

    def forbids(self, wanted: WantedModel) -> bool:
        """Whether the table of a model permits something that no model may have; then it need not be pinned."""
        return any(self._against_table(wanted))

    def explained(self, error: PolicyError) -> PolicyError:
        """Return the refusal of a model, and say of the keys that would permit it that no model may have them."""
        forbidden = {"trust_remote_code": ("remote_code", self.remote_code), "allow_pickle": ("pickle", self.pickle)}
        keys = [forbidden[key] for key in error.settings if key in forbidden]
        if not (rules := [f"{rule} = false" for rule, permitted in keys if not permitted]):
            return error
        more = f"[policy] has {' and '.join(rules)}, so no key permits that here."
        return PolicyError(error.message, hint=f"{error.hint} {more}".lstrip(), settings=error.settings)

    def refusals(self, wanted: Iterable[WantedModel], pins: Iterable[LockedModel]) -> list[PolicyError]:
        """Return one error that has every reason against tables and pins, by model; none where there is no reason.

        A model that stands in no table (its line is 0) is judged by its pin alone.
        """
        found: dict[str, dict[str, str]] = {}
        for model in wanted:
            found.setdefault(model.id, {}).update(self._against_table(model))
        for pin in pins:
            reasons = found.setdefault(pin.id, {})
            for hint, reason in self._against_pin(pin):
                reasons.setdefault(hint, reason)  # of a table that permits it, the line says more
        lines = [f"{model_id}: {'; '.join(reasons.values())}" for model_id, reasons in found.items() if reasons]
        if not lines:
            return []
        hints = dict.fromkeys(hint for reasons in found.values() for hint in reasons)
        models = "1 model" if len(lines) == 1 else f"{len(lines)} models"
        hint = "; ".join([*hints, _ELSE])
        return [PolicyError("\n  ".join([f"[policy] refuses {models}:", *lines]), hint=f"{hint[0].upper()}{hint[1:]}.")]

    def _against_table(self, wanted: WantedModel) -> Iterator[tuple[str, str]]:
        """Yield a hint and the reason for each permission that the table of a model gives in vain."""
        if not wanted.line:
            return
        if wanted.trust_remote_code and not self.remote_code:
            yield _NO_CODE, f"its table in line {wanted.line} has {_TRUST}, but remote_code is false"
        if wanted.allow_pickle and not self.pickle:
            yield _NO_PICKLE, f"its table in line {wanted.line} has {_PICKLE}, but pickle is false"

    def _against_pin(self, pin: LockedModel) -> Iterator[tuple[str, str]]:
        """Yield a hint and the reason for each rule that a pin breaks."""
        allowed = {licence.casefold() for licence in self.licences}
        if allowed and not pin.licence:
            yield _NO_LICENCE, "no licence is named"
        elif allowed and pin.licence.casefold() not in allowed:
            yield _OTHER_LICENCE, f"the licence {pin.licence} is not among {join_names(self.licences)}"
        if pin.trust_remote_code and not self.remote_code:
            yield _NO_CODE, f"it has code{_named(_code_of(pin))}, but remote_code is false"
        if pin.has_pickles and not self.pickle:
            yield _NO_PICKLE, f"it has or is made from a pickle{_named(_pickles_of(pin))}, but pickle is false"


NO_RULES = Policy()
"""The policy of a command that ships nothing, and of a manifest that sets no rule."""


def _code_of(pin: LockedModel) -> list[str]:
    return [file.path for file in pin.files if is_code(file.path)]


def _pickles_of(pin: LockedModel) -> list[str]:
    made = [file.original.path for file in pin.files if file.made is Made.CONVERTED and file.original]
    return [*pin.pickles, *made]


def _named(paths: list[str]) -> str:
    return f" ({join_names(paths, _FILES_NAMED)})" if paths else ""
