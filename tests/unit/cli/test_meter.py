"""How far a transfer is, by a clock that the test moves."""

from __future__ import annotations

from modelcache.cli.meter import Meter


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def after(*steps: tuple[float, int], total: int = 100_000_000) -> Meter:
    """A meter after some seconds and bytes."""
    clock = Clock()
    meter = Meter(total, clock=clock)
    for seconds, count in steps:
        clock.now += seconds
        meter.advance(count)
    return meter


def test_the_words() -> None:
    """Percent, bytes, rate and time left."""
    assert after((1, 10_000_000), (1, 10_000_000)).cells() == ("20 %", "20.0 of 100 MB", "10.0 MB/s", "8 s left")


def test_nothing_came() -> None:
    """There is no rate, and no time left that could be told."""
    assert after().cells() == ("0 %", "0 B of 100 MB", "0 B/s", "")


def test_nothing_is_to_come() -> None:
    """An empty file is done."""
    assert after(total=0).percent == 100


def test_what_lay_on_disk_before_says_nothing_about_the_line() -> None:
    """The rate is that of the last seconds."""
    steps = [(0.1, 90_000_000), *[(1.0, 1_000_000)] * 8]
    assert 0.9e6 < after(*steps).rate < 1.3e6


def test_bytes_that_were_here_are_no_rate() -> None:
    """A run that resumes tells the rate of the line, from the first second on."""
    clock = Clock()
    meter = Meter(100_000_000, clock=clock)
    meter.advance(0, found=60_000_000)
    for _ in range(4):
        clock.now += 1
        meter.advance(1_000_000)
    assert meter.cells() == ("64 %", "64.0 of 100 MB", "1.0 MB/s", "36 s left")


def test_a_time_that_is_no_time() -> None:
    """Of a rate of nothing no time left is told: it would be days."""
    assert after((10, 15)).cells()[3] == ""


def test_bytes_that_come_again_count_once() -> None:
    """Progress goes back; the rate is that of what is there."""
    meter = after((1, 50_000_000), (1, -50_000_000))
    assert (meter.done, meter.percent, meter.left) == (0, 0, 0.0)


def test_more_than_all_is_all() -> None:
    """Files that are fetched again may count twice for a moment."""
    assert after((1, 150_000_000)).percent == 100
