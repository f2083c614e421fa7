"""The errors of this tool, ordered by cause.

Each class carries its exit code (README, "Exit codes"), that code's meaning for `--help` and its rank, and whether
trying again can help. A subclass inherits all four, so a new class cannot lack one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Self

from modelcache.core.kinds import Kind
from modelcache.core.redact import redact
from modelcache.core.types import Verification


class CacheModelsError(Exception):
    """A failure with a known cause: `message` says what failed and where, `hint` what to do about it."""

    exit_code = 70
    meaning = "a bug here"
    rank = 0
    """Of several failures the lowest rank gives the exit code: a Job that retries on 3 and 4 and gives up on 2 and 5
    must not retry what no retry can mend. A class that sets an exit code sets its meaning and its rank, too."""
    retryable = False
    """Whether the same command can succeed later, with nothing changed by hand."""
    shared = False
    """Whether the cause is as a rule not the model's own: then the message names no model."""

    def __init__(self, message: str, *, hint: str = "", cause: str = "") -> None:
        self.message = redact(message)  # a program may print a traceback of its own
        super().__init__(self.message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {redact(hint)}")
        self.cause = redact(cause) or (self.message if self.shared else "")
        """The message without the model, where the cause is not the model's own; equal causes are reported once."""
        self.models: tuple[str, ...] = ()
        """The models that such a cause concerns; see `concerning`."""

    def concerning(self, models: Iterable[str]) -> Self:
        """Return this error as that of these models, if its cause is not one model's own."""
        if not self.cause:
            return self
        error = copy(self)
        error.models = tuple(dict.fromkeys((*self.models, *models)))
        return error.with_traceback(self.__traceback__)


class IntegrityError(CacheModelsError):
    """Bytes differ from a digest: that of the lock, of the Hub's own listing, or of an image."""

    exit_code = 1
    meaning = "bytes do not match"
    rank = 4

    def __init__(self, message: str, *, hint: str = "", verification: Verification | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verification = verification or Verification()


class UsageError(CacheModelsError):
    """An argument or a file of the user is wrong."""

    exit_code = 2
    meaning = "wrong usage, manifest or lock"
    rank = 1


class SettingError(UsageError):
    """A setting of the environment is wrong: the endpoint, the token, the login for a registry, a proxy."""

    shared = True


class ManifestError(UsageError):
    """models.toml is wrong; the message holds every problem, each with its line."""


class UnclearKindError(UsageError):
    """The files of a repository do not say for certain how its model is loaded."""

    def __init__(self, message: str, *, hint: str = "", choices: Mapping[Kind, Sequence[str]] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.choices = choices or {}
        """The kinds that it can be, each with the keys of models.toml that it then needs (`PolicyError.settings`)."""


class LockfileError(UsageError):
    """models.lock is missing, damaged, or does not fit models.toml."""


class HubError(CacheModelsError):
    """The Hub, or a registry, did not give or take what was asked for."""

    exit_code = 3
    meaning = "the Hub or a registry failed or refused"
    rank = 6


class HubUnreachableError(HubError):
    """No usable answer within the bounds of --timeout and --retries; trying again later can help."""

    retryable = True
    shared = True


class ProxyRefusedError(HubError):
    """A proxy does not let the request through; trying again does not help."""

    shared = True


class AccessDeniedError(HubError):
    """The token or login may not read, or write, a gated or private repository; trying again does not help."""


class TokenRefusedError(AccessDeniedError):
    """The Hub does not accept the token, or a registry the login, for any repository."""

    shared = True


class NotOnHubError(HubError):
    """No such repository, revision, file, image or blob; trying again does not help."""


class NoRouteError(HubError):
    """A mirror does not answer this kind of question, while the Hub does."""


class StorageError(CacheModelsError):
    """The disk is full, read-only, or not ours to write."""

    exit_code = 4
    meaning = "storage or a limit of this machine"
    rank = 5
    retryable = True


class LimitError(StorageError):
    """The machine gives no more memory, descriptors or processes."""


class OccupiedError(StorageError):
    """Something else stands in the place of a model; other models are not concerned."""

    retryable = False


class NoLinksError(StorageError):
    """A volume has no symbolic links, so the Hub view of a model cannot be written; the model is in place."""

    retryable = False


class SourceDirectoryError(StorageError):
    """The directory that a model comes from (`path`) cannot be used; other models are not concerned."""

    retryable = False


class PolicyError(CacheModelsError):
    """The model has something that is not shipped: pickled weights, untrusted code, a licence that is not allowed."""

    exit_code = 5
    meaning = "refused by policy"
    rank = 2

    def __init__(self, message: str, *, hint: str = "", settings: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.settings = tuple(settings)
        """The keys of models.toml with which the model is shipped; none if no key helps.

        `kind` stands for its table; a permission is true, but for `trust_remote_code = false`.
        """


class CheckError(CacheModelsError):
    """A model does not load, or gives other numbers than it gave when they were recorded."""

    exit_code = 6
    meaning = "a model does not load or gives other numbers"
    rank = 3


class SeveralModelsError(CacheModelsError):
    """More than one model failed: each is reported, and the exit code is that of the lowest rank."""

    def __init__(self, errors: Sequence[CacheModelsError]) -> None:
        super().__init__(f"{sum(max(1, len(error.models)) for error in errors)} models failed")
        self.errors = tuple(errors)
        for error in errors:
            self.add_note("\n".join([str(error), *getattr(error, "__notes__", ())]))
        least_curable = min(errors, key=lambda error: error.rank)
        self.exit_code, self.rank = least_curable.exit_code, least_curable.rank
        self.retryable = all(error.retryable for error in errors)


def exit_codes() -> dict[int, str]:
    """Return the meaning of each exit code of an error, in order."""
    classes: list[type[CacheModelsError]] = [CacheModelsError, *CacheModelsError.__subclasses__()]
    return {error.exit_code: error.meaning for error in sorted(classes, key=lambda error: error.exit_code)}


def raise_all(errors: Sequence[CacheModelsError]) -> None:
    """Raise the errors that were collected, if any: the only one itself, several as one.

    Equal errors count once, and so do errors of one cause, which then has the models of all of them.
    """
    different: dict[tuple[type[CacheModelsError], str, str], CacheModelsError] = {}
    for error in errors:
        key = (type(error), error.cause or error.message, error.hint)
        same = different.setdefault(key, error)
        if same is not error and same.cause:
            different[key] = merged = same.concerning(error.models)
            merged.message, merged.args = same.cause, (same.cause,)
    if len(different) == 1:
        raise next(iter(different.values()))
    if different:
        raise SeveralModelsError(tuple(different.values()))
