"""What is asked of every run that a file system refused something: nothing is lost, and the next runs mend it."""

from __future__ import annotations

from pathlib import Path

from tests.support.faults.forked_runs import End
from tests.support.faults.scenarios import Scenario, Seen, Workspace, look


def bytes_of(seen: Seen) -> dict[str, dict[str, bytes | None]]:
    """The models without modes and times, which a file system may refuse for good."""
    return {name: {path: content for path, (_, _, content) in model.items()} for name, model in seen.models.items()}


def refuse_losses(workspace: Workspace, scenario: Scenario, folder: Path, ended: End) -> float:
    """A run ended in its own words, each model is the old or the new one, and the next runs make all of it good."""
    before, after, settled = bytes_of(scenario.before), bytes_of(scenario.after), bytes_of(scenario.settled)
    seen = bytes_of(look(folder))
    for name in {*seen, *before, *after}:
        allowed = [after.get(name)] if ended.code == 0 else [before.get(name), after.get(name)]
        if ended.code and scenario.fault.no_exchange:
            allowed.append(None)
        assert seen.get(name) in allowed, f"{name} is neither the old version nor the new one: {ended}"
    again = workspace.runs.run(folder, *scenario.sync, fault=scenario.fault)
    assert again.code == 0, again.err
    if scenario.words != scenario.sync:
        repeated = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
        assert repeated.code == 0, repeated.err
    found, rest = look(folder), set(scenario.settled.rest)
    if "the receipts in the root pin the models" in ended.err:
        rest -= {"models.lock"} - found.rest  # it is not written again before the manifest changes
    assert (bytes_of(found), found.views, set(found.rest) ^ rest) == (settled, scenario.settled.views, set())
    assert "models.lock" not in rest or (folder / "models.lock").read_bytes() == scenario.lock
    return again.seconds
