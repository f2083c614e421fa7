"""Errors of several models: equal causes are one error, with the models that it concerns."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from modelcache.cli.messages import error_lines
from modelcache.core.errors import (
    AccessDeniedError,
    CacheModelsError,
    HubUnreachableError,
    LimitError,
    NotOnHubError,
    ProxyRefusedError,
    SettingError,
    SeveralModelsError,
    TokenRefusedError,
    raise_all,
)

IDS = ["a/one", "a/two", "b/three"]
SHARED = [
    TokenRefusedError("hub does not accept the token", hint="set another"),
    HubUnreachableError("hub: connection refused", hint="wait"),
    ProxyRefusedError("the proxy refuses", hint="ask"),
    SettingError("HF_ENDPOINT is no address", hint="mend it"),
]


def collected(errors: list[CacheModelsError]) -> CacheModelsError:
    """What a command ends with that has met these errors."""
    with pytest.raises(CacheModelsError) as caught:
        raise_all(errors)
    return caught.value


@pytest.mark.parametrize("error", SHARED, ids=lambda error: type(error).__name__)
def test_a_shared_cause_is_told_once_with_its_models(error: CacheModelsError) -> None:
    """The error itself, as one: class, exit code, whether to try again; and a line with the models."""
    found = collected([error.concerning([model]) for model in IDS])
    assert (type(found), found.message, found.hint) == (type(error), error.message, error.hint)
    assert (found.exit_code, found.retryable) == (error.exit_code, error.retryable)
    assert found.models == tuple(IDS)
    assert error_lines(found) == [f"error: {error.message}", "  models: a/one, a/two, b/three", f"hint: {error.hint}"]
    assert error.models == ()  # the errors of other models may be copies of it


@pytest.mark.parametrize("kind", [HubUnreachableError, LimitError])
def test_messages_with_the_model_before_a_shared_cause_become_one(kind: type[CacheModelsError]) -> None:
    """Each retry says which file of which model it is about."""
    cause = "hub: status 500 (tried 6 times)"
    alike = [kind(f"{model}: config.json: {cause}", cause=cause).concerning([model]) for model in IDS]
    assert error_lines(collected(alike))[0] == f"error: {cause}"
    assert str(collected(alike)) == cause
    assert error_lines(collected(alike[:1])) == [f"error: {IDS[0]}: config.json: {cause}"]


def test_one_model_of_a_shared_cause_is_named() -> None:
    """The message names none."""
    assert error_lines(collected([SHARED[0].concerning(IDS[:1])]))[1] == "  models: a/one"


@pytest.mark.parametrize("kind", [AccessDeniedError, NotOnHubError])
def test_a_cause_of_each_model_is_told_for_each(kind: type[CacheModelsError]) -> None:
    """As of gated repositories: each has a page of its own."""
    found = collected([kind(f"{model} is gated").concerning([model]) for model in IDS])
    assert isinstance(found, SeveralModelsError)
    assert error_lines(found) == [f"error: {model} is gated" for model in IDS]


def test_different_causes_stay_apart() -> None:
    """Two causes are two errors, each with its models; the number of models counts."""
    errors = [SHARED[0].concerning([IDS[0]]), SHARED[1].concerning([IDS[1]]), SHARED[0].concerning([IDS[2]])]
    found = collected(errors)
    assert isinstance(found, SeveralModelsError)
    assert [error.models for error in found.errors] == [(IDS[0], IDS[2]), (IDS[1],)]
    assert str(found) == "3 models failed"


def test_many_models_are_counted() -> None:
    """A line that names hundreds helps nobody."""
    line = error_lines(SHARED[0].concerning([f"a/{number}" for number in range(100)]))[1]
    assert line.endswith(" more")
    assert len(line) < 1000


@pytest.mark.parametrize("how", [lambda error: error, lambda error: error.concerning(IDS)], ids=["raised", "copied"])
def test_a_traceback_has_the_hint(how: Callable[[CacheModelsError], CacheModelsError]) -> None:
    """A program that calls the Python functions shows a traceback, not our lines; no secret is in it."""
    hint = "see https://hub/x?X-Amz-Signature=secret"
    told = "".join(traceback.format_exception(how(HubUnreachableError("hub: closed", hint=hint))))
    assert "hub: closed" in told
    assert told.count("\nhint: see https://") == 1
    assert "secret" not in told


def test_a_traceback_of_several_errors_has_each_of_them() -> None:
    """That two models failed is not enough to go on."""
    told = "".join(traceback.format_exception(collected([NotOnHubError("a/b is gone", hint="look"), *SHARED[:1]])))
    for part in ("a/b is gone", "hint: look", SHARED[0].message, f"hint: {SHARED[0].hint}"):
        assert part in told
