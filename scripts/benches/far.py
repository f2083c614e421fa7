"""Realistic lines: slow, distant, or with a CDN that limits each connection."""

from __future__ import annotations

from scripts.benches.bed import Bed, curl, hub_same, ours
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.link import Link
from scripts.benches.rounds import in_turn
from tests.support.hub import Slow

_ROUND_TRIP = 0.04
_RATE = 200e6 / 8
_HELD = 50_000_000


def far(bed: Bed) -> Scenario:
    """Fetch a model of 200 MB over a slow, distant line."""
    megabytes = 20 if bed.quick else 192
    model = bed.large("far", "embedding", megabytes, sparse=True)
    with Link(bed.hub.url, bed.hub.cdn_url, round_trip=_ROUND_TRIP, bytes_a_second=_RATE) as link:
        url, cdn = link.urls
        bed.hub.behind(url, cdn)
        peers = [ours(bed, [model], url=url), hub_same(bed, [model], url), curl(bed, [model], url)]
        runs = in_turn(peers, bed.rounds, bed.asked)
        bed.hub.forget()
        in_turn([ours(bed, [model], url=url, name="once more")], 1)
    mine, limit = runs["cache-models"], model.size / _RATE
    # The large file is redirected to the CDN; the Hub itself sends only the small ones.
    small = [one.at for one in bed.hub.requests if one.file and one.host == "hub" and one.status in (200, 206)]
    return Scenario(
        f"cold, {model.size / 1e6:.0f} MB, behind 40 ms a round trip and 200 Mbit/s",
        [("the line's own limit", f"{limit:8.2f} s"), *told(runs, mine)],
        [
            Figure("ours / the line's limit", mine.seconds / limit, 1.1, "<="),
            Figure(
                f"from the first to the last of {len(small)} small files asked for",
                (max(small) - min(small)) / _ROUND_TRIP,
                len(small) / 2,
                "<=",
                "round trips",
            ),
        ],
    )


def held(bed: Bed) -> Scenario:
    """Fetch one large file from a CDN that limits each connection to 50 MB/s."""
    megabytes = 100 if bed.quick else 1112
    model = bed.large("held", "embedding", megabytes, sparse=True)
    bed.hub.fail(Slow(_HELD), on="GET cdn ", times=-1)
    runs = in_turn([ours(bed, [model]), curl(bed, [model])], bed.rounds, bed.asked)
    mine = runs["cache-models"]
    return Scenario(
        f"cold, one file of {megabytes / 1000:.1f} GB, each connection held to 50 MB/s",
        told(runs, mine),
        [Figure("one stream (curl) / ours", runs["curl"].over(mine), 4, ">=")],
    )
