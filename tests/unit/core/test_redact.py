"""What is hidden of a text, and what is not: words stay words, and JSON stays JSON."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from modelcache.core import redact
from modelcache.core.errors import HubError
from modelcache.transfer.retry import TransientError

SECRET = 'hf_ab"c\\d é/+'


@pytest.fixture(autouse=True)
def _one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_forms", set())
    redact.register_secret(SECRET)


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        SECRET.upper(),
        quote(SECRET),
        quote(SECRET, safe=""),
        json.dumps(SECRET)[1:-1],
        repr(SECRET)[1:-1],
        ascii(SECRET)[1:-1],
        base64.b64encode(SECRET.encode()).decode(),
        SECRET.encode().decode("latin-1"),
    ],
)
def test_a_secret_is_hidden_however_it_is_written(form: str) -> None:
    """The words around it stay."""
    assert redact.redact(f"before {form} after {form}") == "before [hidden] after [hidden]"


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    """One may be the beginning of the other."""
    for secret in ("abcdef", "abcdefgh", "abcd"):
        redact.register_secret(secret)
    assert redact.redact("abcdefgh abcdef abcd abc") == "[hidden] [hidden] [hidden] abc"


@pytest.mark.parametrize("short", ["", "a", "to", "the"])
def test_what_is_too_short_to_be_a_secret_is_not_hidden(short: str) -> None:
    """An empty or a tiny password would tear every word apart, and tell by the holes what it is."""
    redact.register_secret(short)
    assert redact.redact("to the end of the atom") == "to the end of the atom"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://h:1/x?Signature=a&b=c: no", "http://h:1/x?[hidden] no"),
        ("url: /x?X-Amz-Signature=a%2Bb (tried)", "url: /x?[hidden] (tried)"),
        ("'http://h/x?a=b', 'y'", "'http://h/x?[hidden]', 'y'"),
        ("unknown key 'x' (did you mean 'y'?) = 1", "unknown key 'x' (did you mean 'y'?) = 1"),
        ("is there too little memory? a=b", "is there too little memory? a=b"),
    ],
)
def test_of_an_address_the_signature_is_hidden(text: str, told: str) -> None:
    """A question is none."""
    assert redact.redact(text) == told


def test_json_stays_json() -> None:
    """A traceback in one line, with quotes and ends of lines in it."""
    line = json.dumps({"text": f"http://h/x?a=b\nnext {SECRET}", "url": "/x?c=d"})
    assert json.loads(redact.redact(line)) == {"text": "http://h/x?[hidden]\nnext [hidden]", "url": "/x?[hidden]"}


@pytest.mark.parametrize("kind", [HubError, TransientError])
def test_an_error_holds_no_secret(kind: type[Exception]) -> None:
    """A program that lets it go has it printed by Python."""
    assert str(kind(f"refused {SECRET}")) == "refused [hidden]"
