"""A cache and a simple model of it: whatever is done in whatever order, what lies on disk is what the model says.

The model knows which bytes each directory should hold and nothing of how they got there. Each command is a process of
its own, forked from one that has imported everything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support import tiny
from tests.support.faults.forked_runs import WELL, End, Fault, ForkedRuns
from tests.support.hub import StandInHub

RECEIPT = ".cache-models.json"
IDS = ("tinyorg/one", "tinyorg/other", "tinyorg/reranker")


def files_of(model_id: str, version: int) -> dict[str, bytes]:
    """The files of one version: some change with each, one only with every second, one comes and goes."""
    reranks = model_id.endswith("reranker")
    architecture = "BertForSequenceClassification" if reranks else "BertModel"
    files = {
        "README.md": f"{model_id}, version {version}\n".encode(),
        "config.json": json.dumps({"model_type": "bert", "architectures": [architecture]}).encode(),
        "vocab.txt": b"word\n" * (1 + version // 2),
        "model.safetensors": tiny.safetensors_of(f"{model_id} {version} ".encode() * 40),
    }
    if version % 2:
        files["NOTICE"] = b"New."
    if not reranks:
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        files["1_Pooling/config.json"] = b'{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}'
        files["modules.json"] = json.dumps(
            [
                {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{name}"}
                for idx, (path, name) in enumerate(modules)
            ]
        ).encode()
    return files


def manifest(ids: Iterable[str]) -> str:
    """A models.toml."""
    return "\n".join(f'[[{"reranker" if "rerank" in one else "embedding"}]]\nid = "{one}"\n' for one in sorted(ids))


@dataclass
class ExpectedModel:
    """What should lie in one directory: bytes by path, and which version its receipt tells."""

    files: dict[str, bytes] = field(default_factory=dict)
    receipt: int | None = None

    def holds(self, model_id: str, version: int) -> bool:
        """Whether that is a version, whole."""
        return self.receipt == version and self.files == files_of(model_id, version)


def found_in(home: Path) -> dict[str, bytes] | None:
    """What lies there, without the receipt; None where nothing is."""
    if not home.is_dir():
        return None
    paths = [path for path in home.rglob("*") if path.is_file()]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in paths if path.name != RECEIPT}


class CacheMachine(RuleBasedStateMachine):
    """Random days in the life of a cache."""

    hub: StandInHub
    runs: ForkedRuns
    below: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.below / "root"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.newest = dict.fromkeys(IDS, 0)
        self.begin_with_first_versions()
        self.wanted: set[str] = set()
        self.lock: dict[str, int] | None = None
        self.disk: dict[str, ExpectedModel] = {}
        self.settled = False
        """Whether the last command was a sync that succeeded."""
        self.want({IDS[0], IDS[2]})
        self.sync("")

    @classmethod
    def begin_with_first_versions(cls) -> None:
        """Forget what the Hub had."""
        for model_id in IDS:
            if model_id in cls.hub._site.repositories:
                cls.hub.remove(model_id)
            cls.hub.add(model_id, files_of(model_id, 0))

    @classmethod
    def bake(cls) -> None:
        """Fill the other root."""
        cls.begin_with_first_versions()
        (cls.below / "baked").mkdir()
        (cls.below / "baked" / "models.toml").write_text(manifest(IDS))
        assert cls.runs.run(cls.below / "baked", "sync").code == 0

    # what people do ------------------------------------------------------------------------------------------

    @rule(ids=st.sets(st.sampled_from(IDS)))
    def want(self, ids: set[str]) -> None:
        """Write models.toml."""
        self.wanted, self.settled = ids, False
        (self.folder / "models.toml").write_text(manifest(ids))

    @rule(model_id=st.sampled_from(IDS))
    def the_hub_moves_on(self, model_id: str) -> None:
        """A new commit."""
        self.newest[model_id] += 1
        self.hub.add(model_id, files_of(model_id, self.newest[model_id]))

    @rule(how=st.sampled_from(["", "", "", "--locked", "--dry-run"]))
    def sync(self, how: str) -> None:
        """It ends with all that is wanted, pinned as before."""
        asked, pins = len(self.hub.requests), self.pins()
        ended = self.run("sync", *([how] if how else []))
        if how == "--locked" and (self.lock is None or set(self.lock) != self.wanted):
            assert ended.code == 2, ended.err
            return
        assert ended.code == (0 if how == "--dry-run" else self.expected(pins)), ended.err
        if all(self.is_whole(one, version) for one, version in pins.items()):
            assert len(self.hub.requests) == asked, "something was asked for though everything is in place"
        if how != "--dry-run":
            self.carried_out(pins, well=ended.code == 0)

    @rule(at=st.integers(1, 120))
    def sync_is_killed(self, at: int) -> None:
        """At a random call that writes: each model is the old or the new one, whole, and nothing else is touched."""
        pins = self.pins()
        ended = self.run("sync", fault=Fault(at=at, do="kill"))
        if ended.code == -9:
            self.learn(pins)
            return
        assert ended.code == self.expected(pins), ended.err
        self.carried_out(pins, well=ended.code == 0)

    @rule(baked=st.booleans())
    def sync_without_the_hub(self, baked: bool) -> None:
        """Offline, or out of another root that holds the first versions: what is in place, or there, is enough.

        What is not is told, and nothing is lost.
        """
        pins = self.pins()
        if baked:
            pins = {one: (self.lock or {}).get(one, 0) for one in self.wanted}
        asked = len(self.hub.requests)
        words = ["--from", str(self.below / "baked")] if baked else []
        ended = self.run("sync", *words, env={} if baked else {"HF_HUB_OFFLINE": "1"})
        assert len(self.hub.requests) == asked
        there = all((baked and version == 0) or self.is_whole(one, version) for one, version in pins.items())
        assert ended.code in ({self.expected(pins)} if there else {self.expected(pins), 1, 2, 3, 4}), ended.err
        if ended.code == 0:
            self.carried_out(pins, well=True)
        else:
            self.learn(pins)

    @rule(upgrade=st.booleans())
    def write_lock(self, upgrade: bool) -> None:
        """Only `lock` moves a pin, and only when it is told to."""
        held = {} if upgrade else self.lock or {}
        pins = {one: held.get(one, self.newest[one]) for one in self.wanted}
        assert self.run("lock", *(["--upgrade"] if upgrade else [])).code == 0
        self.lock = pins

    @rule(what=st.sampled_from(["lock --check", "verify", "verify --quick", "status"]))
    def look(self, what: str) -> None:
        """Who only looks says no exactly when something is not as pinned, and asks nobody."""
        asked = len(self.hub.requests)
        if what == "lock --check":
            right = self.lock is not None and set(self.lock) == self.wanted
            assert self.run("lock", "--check").code == (0 if right else 2)
        elif what == "status":
            rows = json.loads(self.run("status", "--json", "--quiet").err)
            told = {row["id"]: row["state"].partition(":")[0].replace("partly fetched", "absent") for row in rows}
            stray = {one: expected.receipt for one, expected in self.disk.items() if one not in self.known()}
            foreign = {"": "foreign"} if None in stray.values() else {}
            unwanted = {one: "not wanted" for one, receipt in stray.items() if receipt is not None}
            assert told == {one: self.state(one) for one in self.known()} | unwanted | foreign
        else:
            pins: Mapping[str, int | None] = self.lock if self.lock is not None else self.receipts()
            right = all(self.is_whole(one, version) for one, version in pins.items())
            ended = self.run(*what.split())
            assert ended.code == (0 if right else 1), ended.err
        assert len(self.hub.requests) == asked

    @rule(model_id=st.sampled_from(IDS))
    def path(self, model_id: str) -> None:
        """It names a directory whose names and sizes are those of its receipt."""
        ended, expected = self.run("path", model_id), self.disk.get(model_id)
        if expected is None:
            assert ended.code == 2, ended.err
            return
        told = files_of(model_id, expected.receipt) if expected.receipt is not None else {}
        whole = {name: len(data) for name, data in expected.files.items()} == {n: len(data) for n, data in told.items()}
        assert ended.code == (0 if whole else 1), ended.err

    @rule()
    def prune(self) -> None:
        """What the lock does not name goes, if it has a receipt; nothing goes if the manifest wants one of these."""
        ended, lock = self.run("prune"), self.lock
        doomed = {one for one, held in self.disk.items() if one not in (lock or {}) and held.receipt is not None}
        if lock is None or doomed & self.wanted:
            assert ended.code == 2, ended.err
            return
        assert ended.code == 0, ended.err
        for one in doomed:
            del self.disk[one]

    # what befalls a volume -----------------------------------------------------------------------------------

    @precondition(lambda self: any(expected.files for expected in self.disk.values()))
    @rule(pick=st.data(), how=st.sampled_from(["spoil", "lengthen", "delete", "plant", "touch"]))
    def damage(self, pick: st.DataObject, how: str) -> None:
        """Somebody writes where only this tool should."""
        one = pick.draw(st.sampled_from(sorted(one for one, expected in self.disk.items() if expected.files)))
        expected, home = self.disk[one], self.home(one)
        name = pick.draw(st.sampled_from(sorted(expected.files)))
        if how == "plant":
            name, expected.files["planted"] = "planted", b"x"
        elif how == "spoil":
            expected.files[name] = bytes([expected.files[name][0] ^ 1]) + expected.files[name][1:]
        elif how == "lengthen":
            expected.files[name] += b"x"
        elif how == "touch":
            (home / name).touch()
            return
        else:
            del expected.files[name]
            (home / name).unlink()
            return
        (home / name).write_bytes(expected.files[name])

    @precondition(lambda self: self.disk)
    @rule(pick=st.data(), what=st.sampled_from(["model", "receipt"]))
    def lose(self, pick: st.DataObject, what: str) -> None:
        """A directory goes, or the word of what it is."""
        one = pick.draw(st.sampled_from(sorted(self.disk)))
        if what == "model":
            shutil.rmtree(self.home(one))
            del self.disk[one]
        elif self.disk[one].receipt is not None:
            (self.home(one) / RECEIPT).unlink()
            self.disk[one].receipt = None

    @rule(what=st.sampled_from(["models.lock", ".cache-models.stamp"]))
    def lose_a_file(self, what: str) -> None:
        """The receipts are the pin then; or the stamp is made anew."""
        (self.folder / what).unlink(missing_ok=True)
        if what == "models.lock":
            self.lock = None

    # what must always hold -----------------------------------------------------------------------------------

    @invariant()
    def the_disk_is_as_the_model_says(self) -> None:
        """To the byte."""
        for one in IDS:
            home, expected = self.home(one), self.disk.get(one)
            assert found_in(home) == (expected.files if expected else None), one
            assert (home / RECEIPT).exists() == (expected is not None and expected.receipt is not None), one

    @invariant()
    def after_a_good_run_nothing_is_to_be_done(self) -> None:
        """The next one asks nobody and finds all unchanged; nothing lies about."""
        if not self.settled:
            return
        self.settled = False
        asked = len(self.hub.requests)
        ended = self.run("sync")
        assert ended.code == 0, ended.err
        assert len(self.hub.requests) == asked
        assert "unchanged" in ended.err or not self.wanted
        assert not list(self.folder.glob("*/.cache-models"))

    # the model -----------------------------------------------------------------------------------------------

    def home(self, model_id: str) -> Path:
        """Where a model is published."""
        kind = "reranker" if "rerank" in model_id else "embedding"
        return self.folder / f"cached_{kind}_models" / model_id.replace("/", "__")

    def is_whole(self, model_id: str, version: int | None) -> bool:
        """Whether a version is there."""
        expected = self.disk.get(model_id)
        return expected is not None and version is not None and expected.holds(model_id, version)

    def receipts(self) -> dict[str, int | None]:
        """What the receipts pin of what is wanted."""
        return {one: self.disk[one].receipt if one in self.disk else None for one in self.wanted}

    def pins(self) -> dict[str, int | None]:
        """What holds for each wanted model: the lock, else its receipt, else nothing yet."""
        receipts = self.receipts()
        return {one: (self.lock or {}).get(one, receipts[one]) for one in self.wanted}

    def resolved(self, pins: Mapping[str, int | None]) -> dict[str, int]:
        """The versions that are to be there in the end."""
        return {one: self.newest[one] if version is None else version for one, version in pins.items()}

    def is_foreign(self, model_id: str, version: int) -> bool:
        """Whether a directory without a receipt holds what no sync put there."""
        expected, wanted = self.disk.get(model_id), files_of(model_id, version)
        if expected is None or expected.receipt is not None:
            return False
        return any(wanted.get(name) != data for name, data in expected.files.items())

    def expected(self, pins: Mapping[str, int | None]) -> int:
        """How a sync ends: 4 where a directory is not ours to replace."""
        return 4 if any(self.is_foreign(one, version) for one, version in self.resolved(pins).items()) else 0

    def after(self, pins: Mapping[str, int | None]) -> dict[str, ExpectedModel]:
        """What each wanted model is to be after a sync."""
        return {
            one: self.disk[one] if self.is_foreign(one, version) else ExpectedModel(files_of(one, version), version)
            for one, version in self.resolved(pins).items()
        }

    def carried_out(self, pins: Mapping[str, int | None], *, well: bool) -> None:
        """Take over what a sync did."""
        self.disk |= self.after(pins)
        self.settled = well
        if well and not self.wanted <= set(self.lock or {}):
            self.lock = self.resolved(pins)
        elif well and self.lock is None:
            self.lock = {} if (self.folder / "models.lock").exists() else None

    def learn(self, pins: Mapping[str, int | None]) -> None:
        """See what a run that did not end well has done: each model is as it was, or as it was to be."""
        target = self.after(pins)
        for one in IDS:
            home, old = self.home(one), self.disk.get(one)
            files, told = found_in(home), (home / RECEIPT).exists()
            if files is None and old is None:
                continue
            fitting = [
                expected
                for expected in (old, target.get(one))
                if expected and (expected.files, expected.receipt is not None) == (files, told)
            ]
            assert fitting, f"{one} is neither the old version nor the new one"
            self.disk[one] = fitting[0]
        if not self.wanted <= set(self.lock or {}):
            self.learn_lock(pins)

    def learn_lock(self, pins: Mapping[str, int | None]) -> None:
        """See whether it came as far as to write the lock."""
        path = self.folder / "models.lock"
        told = {one for one in IDS if path.exists() and f'"{one}"' in path.read_text()}
        if told != set(self.lock or {}) or (self.lock is None and path.exists()):
            assert told == self.wanted
            self.lock = self.resolved(pins)

    def known(self) -> set[str]:
        """The models that the manifest or the lock names."""
        return self.wanted | set(self.lock or {})

    def state(self, model_id: str) -> str:
        """The state that `status` tells of a model that is wanted or locked."""
        expected, pin = self.disk.get(model_id), ((self.lock or {}) | self.pins())[model_id]
        if expected is None:
            return "absent"
        if expected.receipt is None:
            pinned = {name: len(data) for name, data in files_of(model_id, pin).items()} if pin is not None else None
            known = pinned is None or all(pinned.get(name) == len(data) for name, data in expected.files.items())
            return "damaged" if known else "foreign"
        if pin is not None and expected.holds(model_id, pin):
            return "ready"
        return "other version" if expected.receipt != pin else "damaged"

    def run(self, *words: str, fault: Fault = WELL, env: Mapping[str, str] | None = None) -> End:
        """Run the tool; it never ends with a bug."""
        if words[0] not in ("sync", "path"):
            self.settled = False
        ended = self.runs.run(self.folder, *words, fault=fault, env=env)
        assert ended.code != 70, ended.err
        assert "Traceback" not in ended.err
        return ended


def machine(hub: StandInHub, runs: ForkedRuns, folder: Path) -> type[CacheMachine]:
    """The machine on a ground of its own, with a root beside it that holds the first version of everything."""
    found = cast(type[CacheMachine], type("CacheMachine", (CacheMachine,), {"hub": hub, "runs": runs, "below": folder}))
    found.bake()
    return found
