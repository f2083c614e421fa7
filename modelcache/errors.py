"""What can go wrong, by whose fault it is; each class knows its exit code (README, "Exit codes")."""

from __future__ import annotations

from collections.abc import Sequence

from modelcache.hidden import hidden
from modelcache.records import Verification


class CacheModelsError(Exception):
    """A failure with a known cause: `message` says what and where, `hint` what to do about it."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = hidden(message)  # here as well, since a program's traceback is not ours to look through
        super().__init__(self.message)
        self.hint = hint


class IntegrityError(CacheModelsError):
    """Bytes are not what the lock, or the Hub's own listing, says they are."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", verification: Verification | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verification = verification or Verification()


class UsageError(CacheModelsError):
    """The command was called with something it cannot work with."""

    exit_code = 2


class ManifestError(UsageError):
    """models.toml is wrong; the message holds every problem, each with its line."""


class LockfileError(UsageError):
    """models.lock is missing, damaged, or does not fit models.toml."""


class HubError(CacheModelsError):
    """The Hub did not give what was asked for."""

    exit_code = 3


class HubUnreachableError(HubError):
    """No usable answer within the bounds of --timeout and --retries; trying again later can help."""


class AccessDeniedError(HubError):
    """The repository is gated or private and this token may not read it; trying again does not help."""


class NotOnHubError(HubError):
    """No such repository, revision or file; trying again does not help."""


class StorageError(CacheModelsError):
    """The disk is full, read-only, or not ours to write."""

    exit_code = 4


class LimitError(StorageError):
    """Memory, descriptors or processes that this machine does not give."""


class OccupiedError(StorageError):
    """Something else is where a model belongs; other models are not concerned."""


class PolicyError(CacheModelsError):
    """The model holds something that is not shipped: pickled weights, untrusted code, unsafe names."""

    exit_code = 5


class CheckError(CacheModelsError):
    """A model does not load, or gives other numbers than it gave when they were recorded."""

    exit_code = 6


class SeveralModelsError(CacheModelsError):
    """More than one model failed; all of them are told, and the exit code is the least curable one."""

    # A Job that retries on 3 and 4 and gives up on 2 and 5 must not retry what no retry can mend.
    _LEAST_CURABLE_FIRST = (70, 2, 5, 6, 1, 4, 3)

    def __init__(self, errors: Sequence[CacheModelsError]) -> None:
        super().__init__(f"{len(errors)} models failed")
        self.errors = tuple(errors)
        self.exit_code = min((e.exit_code for e in errors), key=self._LEAST_CURABLE_FIRST.index)


def raise_all(errors: Sequence[CacheModelsError]) -> None:
    """Raise what was collected: nothing, the one error, or all of them as one."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralModelsError(errors)
