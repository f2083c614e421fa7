"""A server that was never heard of is asked a few times, quickly, once for all; one that was heard gets patience."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import HubError, HubUnreachableError
from modelcache.transfer.first_contact import FirstContact
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import AlreadyWaitedError, NoContactError, RetryPolicy, ShortageError, TransientError
from tests.conftest import Ran, Tool
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.nginx import free_port
from tests.support.policy_defaults import FIRST
from tests.support.proxy import Foreign, Proxy, TlsFront, make_certificate

MANY = [f"many/{number}" for number in range(5)]


class Attempts:
    """How often an address was looked up, which precedes every connection; the first `unknown` times in vain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.unknown = 0
        self._true = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, *words: Any, **more: Any) -> Any:
        self.count += 1
        if self.count <= self.unknown:
            raise socket.gaierror(socket.EAI_AGAIN, "the resolver is not there yet")
        return self._true(*words, **more)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """Every attempt at a connection."""
    return Attempts(monkeypatch)


@pytest.fixture
def many(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting five small models that the Hub has."""
    folder = tiny.tiny_embedding(tmp_path / "embedding")
    for model in MANY:
        hub.add(model, folder)
    tool.want(*MANY)
    return tool


@contextmanager
def server(kind: str, hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give an address behind which there is no Hub to be heard."""
    if kind == "no such name":
        yield "http://hub.invalid"
    elif kind == "a closed port":
        yield f"http://127.0.0.1:{free_port()}"
    elif kind == "no TLS":
        yield hub.url.replace("http://", "https://")
    elif kind == "TLS":
        with TlsFront(hub.url, make_certificate(folder / "certificate.pem")) as front:
            yield front.url.replace("https://", "http://")
    elif kind == "a certificate that nobody trusts":
        with TlsFront(hub.url, make_certificate(folder / "certificate.pem")) as front:
            yield front.url
    elif kind == "another protocol":
        with Foreign(b"220 ftp.example ready\r\n") as foreign:
            yield f"http://127.0.0.1:{foreign.port}"
    elif "silent" in kind:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody reads
            place = f"127.0.0.1:{silent.getsockname()[1]}"
            if "proxy" in kind:
                monkeypatch.delenv("NO_PROXY")
                monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
            yield "https://hub.invalid" if "proxy" in kind else f"https://{place}"
    elif kind == "no proxy at its port":
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        yield "https://hub.invalid"
    else:
        monkeypatch.delenv("NO_PROXY")
        with Proxy() as proxy:
            proxy.status = int(kind.rpartition(" ")[2])
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            yield "https://hub.invalid"


WAYS = "HF_ENDPOINT.*HTTPS?_PROXY.*--from"
KINDS = {
    "no such name": (4, "^error: hub.invalid: its name cannot be looked up", WAYS),
    "a closed port": (4, "^error: 127.0.0.1: connection refused", WAYS),
    "no TLS": (4, "^error: 127.0.0.1: TLS failed: ", f"{WAYS}.*If that port speaks no TLS, write http://"),
    "TLS": (
        4,
        "^error: 127.0.0.1: .*connection (was closed|reset)",
        f"{WAYS}.*If that port speaks TLS, write https://",
    ),
    "another protocol": (4, "^error: 127.0.0.1: its answer is not HTTP: 220 ftp.example ready .tried", WAYS),
    "a certificate that nobody trusts": (1, "^error: 127.0.0.1: the connection is not secure", "SSL_CERT_FILE"),
    "no proxy at its port": (4, "^error: hub.invalid: the proxy 127.0.0.1:[0-9]+ does not answer", "HTTPS_PROXY"),
    "a proxy that is silent": (
        3,
        "^error: hub.invalid: .*no answer in time",
        "the proxy 127.0.0.1:[0-9]+.*HTTPS_PROXY",
    ),
    "a silent port, asked for TLS": (3, "^error: 127.0.0.1: no answer in time", WAYS),
    "a proxy that says 503": (4, "^error: hub.invalid: the proxy 127.0.0.1:[0-9]+ does not reach it.*503", "HTTPS_"),
    "a proxy that says 403": (1, "^error: the proxy 127.0.0.1:[0-9]+ refuses to connect to hub.invalid", "NO_PROXY"),
}


def count_of(ran: Ran, word: str) -> int:
    """How many lines begin with a word."""
    return len(re.findall(rf"^ *{word}[: ]", ran.err, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["lock", "sync"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_contact_is_one_failure_of_all_models(
    hub: StandInHub,
    many: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attempts: Attempts,
    kind: str,
    command: str,
) -> None:
    """Exit 3 after one series of tries, told once, with the ways around it; a certificate or a refusal ends at once.

    A try that takes all of --timeout before the tunnel or TLS is there is made three times at the most.
    """
    tries, told, hint = KINDS[kind]
    if command == "sync":  # a model that is pinned is met by another path
        assert many("lock").exit_code == 0
        for folder in many.folder.glob("cached_*"):
            shutil.rmtree(folder)
    with server(kind, hub, tmp_path, monkeypatch) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        attempts.count = 0
        hangs = ["--timeout=0.2"] if "silent" in kind else []
        ran = many(command, *(["--upgrade"] if command == "lock" else []), "--retries=3", *hangs)
    assert ran.exit_code == 3, ran.err
    assert (attempts.count, count_of(ran, "retry"), count_of(ran, "error")) == (tries, tries - 1, 1), ran.err
    assert re.search(told, ran.err, re.MULTILINE), ran.err
    assert re.search(f"^hint: .*{hint}", ran.err, re.MULTILINE), ran.err


@pytest.mark.slow
def test_a_resolver_that_comes_up_later_is_waited_for(many: Tool, attempts: Attempts) -> None:
    """As when containers start together: a few tries in vain, none of them counted for a model, and all goes well."""
    attempts.unknown = 3
    ran = many("sync", "--retries=3")
    assert ran.exit_code == 0, ran.err
    assert count_of(ran, "retry") == 3


@pytest.mark.slow
def test_a_content_network_that_is_not_there_is_told_once(
    hub: StandInHub, many: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hub and network are two servers: the one that has answered does not speak for the other one."""
    hub._site.cdn_url = f"http://localhost:{free_port()}"
    ran = many("sync", "--retries=2")
    assert ran.exit_code == 3
    assert count_of(ran, "error") == 1
    assert re.search(r"^error: localhost\b.*connection refused.*\b3 times\b", ran.err, re.MULTILINE)


@pytest.mark.slow
def test_a_pause_ends_at_once_when_the_user_has_had_enough(tool: Tool) -> None:
    """SIGINT while the first contact is waited for: 130, and no further try."""
    tool.want(*MANY)
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    process = tool.process("sync", "--retries=1000", env=env)
    assert process.stderr is not None
    told = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    told += process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert told.count("retry") <= 2  # a pause may have ended just then


def test_pauses_before_the_first_contact_stay_short() -> None:
    """Two seconds each at the most, however many there are; the usual ones grow to eight."""
    pauses: list[float] = []

    class Listening(QuietReporter):
        def event(self, name: str, text: str, /, **data: object) -> None:
            assert name == "retry"
            pauses.append(float(str(data["seconds"])))

    contact = FirstContact(RetryPolicy(retries=6), Listening())
    for _ in range(6):
        with pytest.raises(AlreadyWaitedError):
            contact.call(nobody)
    with pytest.raises(HubUnreachableError, match=r"\b7 times"):
        contact.call(nobody)
    assert len(pauses) == 6
    assert max(pauses) <= 2 * FIRST + 0.1


def nobody() -> str:
    """Ask in vain."""
    raise NoContactError("hub: nobody is there")


def test_what_hangs_is_tried_three_times_at_the_most() -> None:
    """Each such try takes all of --timeout."""
    contact = FirstContact(RetryPolicy(retries=9), QuietReporter())

    def hang() -> str:
        raise NoContactError("hub: no answer in time", hung=True)

    for _ in range(2):
        with pytest.raises(AlreadyWaitedError):
            contact.call(hang)
    with pytest.raises(HubUnreachableError, match=r"\b3 times"):
        contact.call(hang)


def test_many_callers_make_one_series_and_learn_the_same() -> None:
    """As many tries as are allowed, whoever makes them, and one end for all."""
    contact, asked, ends = FirstContact(RetryPolicy(retries=4), QuietReporter()), list[int](), list[str]()

    def ask() -> str:
        asked.append(1)
        return nobody()

    def call() -> None:
        while True:
            try:
                contact.call(ask)
            except AlreadyWaitedError:
                continue
            except HubUnreachableError as error:
                ends.append(error.message)
                return

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(asked) == 5
    assert (len(ends), len(set(ends))) == (8, 1)
    assert re.search(r"nobody is there.*\b5 times\b", ends[0])


@pytest.mark.parametrize("first", ["an answer", "a status", "silence"])
def test_a_server_that_was_there_gets_the_patience_of_each_request(first: str) -> None:
    """Its failures are told to who has them, uncounted here: it may be started anew in the middle of a run."""
    contact = FirstContact(RetryPolicy(retries=0), QuietReporter())

    def ask() -> str:
        if first != "an answer":
            raise TransientError(first)
        return first

    try:
        assert contact.call(ask) == first
    except TransientError:
        assert first != "an answer"
    for _ in range(3):
        with pytest.raises(NoContactError, match="nobody is there"):
            contact.call(nobody)


def test_a_machine_without_descriptors_has_not_met_the_server() -> None:
    """What this machine lacks says nothing about the server."""
    contact = FirstContact(RetryPolicy(), QuietReporter())

    def ask() -> str:
        raise ShortageError("hub: Too many open files")

    with pytest.raises(ShortageError):
        contact.call(ask)
    assert not contact.made


def test_a_refusal_is_kept_for_the_others() -> None:
    """They are not sent to be refused again."""
    contact = FirstContact(RetryPolicy(), QuietReporter())

    def refuse() -> str:
        raise HubError("the proxy refuses")

    for ask in (refuse, nobody):
        with pytest.raises(HubError, match="the proxy refuses"):
            contact.call(ask)


def test_a_server_is_not_given_up_while_bytes_come_from_another() -> None:
    """Its tries are counted anew."""
    contact = FirstContact(RetryPolicy(retries=1), QuietReporter())
    for _ in range(5):
        with pytest.raises(AlreadyWaitedError):
            contact.call(nobody)
        contact.others_progress()
    with pytest.raises(AlreadyWaitedError):
        contact.call(nobody)
    with pytest.raises(HubUnreachableError):
        contact.call(nobody)


def test_a_hub_that_goes_away_after_it_has_answered(hub: StandInHub) -> None:
    """What it meant to be heard of is remembered, by name and by port."""
    client = HttpClient(RetryPolicy(retries=0), QuietReporter())
    with client.get(f"{hub.url}/api/models/a/b", {}) as answer:
        assert answer.status in {401, 404}
    hub.close()
    for _ in range(2):
        with pytest.raises(NoContactError), client.get(f"{hub.url}/api/models/a/b", {}):
            pass
    with pytest.raises(HubUnreachableError), client.get(f"http://127.0.0.1:{free_port()}/", {}):
        pass
