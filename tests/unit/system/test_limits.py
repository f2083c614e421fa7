"""Which failures are those of this machine: told as 4, wherever they surface."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import HubUnreachableError, LimitError
from modelcache.store.leases import Leases
from modelcache.system.files import read_bytes, storage_errors
from modelcache.system.limits import affordable, limit_behind, limit_met
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import RetryPolicy, RetryState, ShortageError, TransientError
from tests.conftest import EMBEDDING, Tool
from tests.support.hub import StandInHub
from tests.unit.system.test_threads import no_more_threads


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process have only so many more descriptors than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # the next one that is free
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_limit_is_found_beneath_other_exceptions(number: int) -> None:
    """As cause, as context, as an argument, as urllib3's reason."""
    low = OSError(number, os.strerror(number), "/some/file")
    pool = urllib3.PoolManager()
    high = urllib3.exceptions.MaxRetryError(pool.connection_from_url("http://x"), "/", reason=low)
    caused = RuntimeError("no")
    caused.__cause__ = urllib3.exceptions.ProtocolError("broken", low)
    for error in (low, high, caused):
        limit = limit_behind(error, "do it")
        assert limit is not None
        assert (limit.exit_code, limit.message) == (4, f"cannot do it: {os.strerror(number)}: /some/file")


def test_other_failures_are_no_limits() -> None:
    """Also those whose chain leads back to themselves."""
    error = OSError(errno.ENOSPC, "full")
    error.__cause__ = ValueError("a")
    error.__cause__.__context__ = error
    assert limit_behind(error) is None
    assert limit_met(error) is None


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd"), ImportError("failed to map")])
def test_what_lacks_is_asked_for(error: Exception) -> None:
    """An exception that says nothing of it is explained by what cannot be had."""
    with descriptors(0):
        limit = limit_met(error)
    assert limit is not None
    assert ("memory" if isinstance(error, MemoryError) else "Too many open files") in limit.message


def test_memory_is_told_where_it_lacked() -> None:
    """A model is named, and the code is that of the machine."""
    with pytest.raises(LimitError, match=r"cache a/b.*Cannot allocate memory"), storage_errors("cache a/b"):
        raise MemoryError


def test_a_file_that_no_descriptor_is_left_for_is_not_wrong(tmp_path: Path) -> None:
    """The manifest is there and may be right: 4, not 2."""
    (tmp_path / "models.toml").write_text("")
    with descriptors(0), pytest.raises(LimitError, match="Too many open files"):
        read_bytes(tmp_path / "models.toml")


def test_a_request_that_no_descriptor_is_left_for_is_tried_again(hub: StandInHub) -> None:
    """Others may be done by then."""
    client = HttpClient(RetryPolicy(retries=0), QuietReporter())
    with descriptors(0), pytest.raises(ShortageError, match="Too many open files"), client.get(f"{hub.url}/x", {}):
        pass


@pytest.mark.parametrize(
    ("error", "kind"), [(ShortageError("x"), LimitError), (TransientError("x"), HubUnreachableError)]
)
def test_who_is_to_blame_when_there_is_no_try_left(error: TransientError, kind: type[Exception]) -> None:
    """The machine is, or the Hub."""
    with pytest.raises(kind):
        RetryState("it", RetryPolicy(retries=0), QuietReporter(), threading.Event()).failed(error)


def test_transfers_are_as_many_as_descriptors_allow() -> None:
    """At least one, and never more than asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        found = []
        for limit in (0, 12, 16, 20, 32, 1000):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            found.append(affordable(8))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [1, 1, 1, 2, 5, 8]


@pytest.mark.parametrize(("beat", "counts"), [(2.0, False), (0.0, True)], ids=["not due", "due"])
def test_a_lease_counts_without_a_thread(tmp_path: Path, beat: float, counts: bool) -> None:
    """The download counts in its place, not at every byte."""
    with no_more_threads():
        lease = Leases(tmp_path, beat=beat).take("a__b")
    assert lease is not None
    with lease:
        path = tmp_path / ".cache-models" / "a__b.lease"
        before = path.read_bytes()
        lease.beat_if_due()
        assert (path.read_bytes() != before) == counts
    assert not path.exists()


def test_a_journal_of_long_numbers_counts_for_nothing(pair: Tool) -> None:
    """Python refuses to read them (5,000 digits), and nobody writes such a file."""
    assert pair("lock").exit_code == 0
    staging = pair.home(EMBEDDING).parent / ".cache-models" / f"{pair.home(EMBEDDING).name}~0123456789ab"
    staging.mkdir(parents=True)
    for line in (pair.folder / "models.lock").read_text().splitlines():
        if 'sha256 = "' in line:
            sha256 = line.partition('sha256 = "')[2][:64]
            (staging / sha256).write_bytes(b"x" * 5000)
            (staging / f"{sha256}.ranges").write_bytes(b"0 " + b"9" * 5000 + b"\n" + b"8" * 5000 + b" 1\n")
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
