"""What is asked of every run that a file system refused something: nothing is lost, and the next runs mend it."""

from __future__ import annotations

from pathlib import Path

from tests.support.faults.forked_runs import End
from tests.support.faults.scenarios import Seen, Stage, Story, look


def bytes_of(seen: Seen) -> dict[str, dict[str, bytes | None]]:
    """The models without modes and times, which a file system may refuse for good."""
    return {name: {path: content for path, (_, _, content) in model.items()} for name, model in seen.models.items()}


def refuse_losses(stage: Stage, story: Story, folder: Path, ended: End) -> float:
    """A run ended in its own words, each model is the old or the new one, and the next runs make all of it good."""
    before, after, settled = bytes_of(story.before), bytes_of(story.after), bytes_of(story.settled)
    seen = bytes_of(look(folder))
    for name in {*seen, *before, *after}:
        allowed = [after.get(name)] if ended.code == 0 else [before.get(name), after.get(name)]
        if ended.code and story.fault.no_exchange:
            allowed.append(None)
        assert seen.get(name) in allowed, f"{name} is neither the old version nor the new one: {ended}"
    again = stage.forks.run(folder, *story.sync, fault=story.fault)
    assert again.code == 0, again.err
    if story.words != story.sync:
        repeated = stage.forks.run(folder, *story.words, fault=story.fault)
        assert repeated.code == 0, repeated.err
    found, rest = look(folder), set(story.settled.rest)
    if "the receipts are the pin" in ended.err:
        rest -= {"models.lock"} - found.rest  # it is not written again before the manifest changes
    assert (bytes_of(found), set(found.rest)) == (settled, rest)
    assert "models.lock" not in rest or (folder / "models.lock").read_bytes() == story.lock
    return again.seconds
