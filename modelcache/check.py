"""Proving that cached models load and give their numbers, with no network: `probe` looks, here it is judged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import IO, Any

from modelcache.digests import set_digest
from modelcache.errors import CheckError, UsageError
from modelcache.golden import Golden, GoldenFile, moved, moved_prompts
from modelcache.layout import Places
from modelcache.probes import Answer, from_json, probe_to_json
from modelcache.records import LockedModel

_PROJECT = Path(__file__).resolve().parent.parent
_PROGRAM = "import sys; sys.path.append(sys.argv[2]); from modelcache.probe import main; main()"
# What the libraries need of the environment. Tokens and passwords are not among it: a model's own code is run.
_ENVIRONMENT = re.compile(r"PATH|LANG|TZ|VIRTUAL_ENV|(LC|LD|PYTHON|OMP|MKL|KMP|OPENBLAS|GOMP|TORCH|CUDA)_?.*")
_MOST_NAMES = 5
_LAST_WORDS = 15


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the models were looked at."""

    network: str
    """How the network was cut."""
    disk: str
    seconds: float
    """How long the libraries took to import."""
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one model showed; the numbers are those of a row for people."""

    model: LockedModel
    faults: Sequence[str] = ()
    """Why it fails, whatever was recorded; one reason each."""
    moves: Sequence[str] = ()
    """Which recorded numbers it no longer gives."""
    notes: Sequence[str] = ()
    proven: bool = False
    """Whether golden vectors were there to be compared."""
    dimension: int = 0
    limit: int | None = None
    """Tokens that it reads of a text."""
    similarity: str = ""
    seconds: float = 0.0
    peak: int = 0
    """Bytes."""
    answers: Sequence[Answer] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """All that is wrong; nothing when it passes."""
        return [*self.faults, *self.moves]


def check(models: Sequence[LockedModel], root: Path, golden: GoldenFile) -> Iterator[Surroundings | Verdict]:
    """Load each model below `root` in a process that is cut off: first tell where, then one verdict a model.

    Raises:
        UsageError: sentence-transformers is not installed here.
        CheckError: the process ended before all was told.

    """
    orders = []
    for model in models:
        known = golden.models.get(set_digest(model.files))
        order = {
            "kind": model.kind,
            "id": model.id,
            "root": str(root),
            "directory": str(Places.below(root).home(model.kind, model.id)),
            "probes": [probe_to_json(answer.probe) for answer in known.answers] if known else [],
        }
        orders.append(order)
    with _probing(orders) as lines:
        ready = next(lines)
        if "missing" in ready:
            raise UsageError(
                f"check loads the models, and {ready['missing']} is not installed here",
                hint="Run it where the models are used, or `pip install sentence-transformers`.",
            )
        yield Surroundings(**ready)
        for model, seen in zip(models, lines, strict=True):
            yield judge(model, seen, golden)


def judge(model: LockedModel, seen: Mapping[str, Any], golden: GoldenFile) -> Verdict:
    """Say what is wrong with a model, from what was seen of it."""
    faults = [f"it wants to reach {where}" for where in dict.fromkeys(seen["attempts"])]
    faults += [f"modules.json names {path}, and there is no such directory" for path in seen["absent"]]
    if "error" in seen:
        return Verdict(model, [*faults, f"it does not load: {seen['error']}"])
    answers = [from_json(answer) for answer in seen["answers"]]
    if seen["fallback"]:
        faults.append("it has no modules.json, so the loader pools as it likes")
    if seen["unfilled"]:
        faults.append(f"parameters that no weight file names, so that they are random: {_some(seen['unfilled'])}")
    if seen["lost"]:
        faults.append(f"weights for which the model has no parameter, so that they are lost: {_some(seen['lost'])}")
    if endless := [answer.probe.told() for answer in answers if not all(map(isfinite, answer.values))]:
        faults.append(f"numbers that are not finite for {_some(endless)}")
    if other := {len(answer.values) for answer in answers} - {seen["dimension"]}:
        faults.append(f"it gives {min(other)} numbers instead of {seen['dimension']}")
    known = golden.models.get(set_digest(model.files))
    return Verdict(
        model=model,
        faults=faults,
        moves=[*moved_prompts(known, seen["prompts"]), *moved(known, answers, golden)] if known else [],
        notes=list(_notes(model, seen, answers, golden)),
        proven=known is not None,
        dimension=seen["dimension"],
        limit=seen["limit"],
        similarity=seen["similarity"],
        seconds=seen["seconds"],
        peak=seen["peak"],
        answers=answers,
        prompts=seen["prompts"],
    )


def _notes(model: LockedModel, seen: Mapping[str, Any], answers: Sequence[Answer], golden: GoldenFile) -> Iterator[str]:
    """Say what is worth knowing and no fault."""
    if seen["harmless"]:
        yield f"without a weight, and not used: {_some(seen['harmless'])}"
    if seen["unused"]:
        yield f"in the weights, and not used: {_some(seen['unused'])}"
    if set_digest(model.files) not in golden.models:
        for other in golden.models.values():
            if (other.id, other.kind) == (model.id, model.kind):
                count = len(list(moved(other, answers, golden)))
                same = f"{count} of {len(other.answers)} numbers are others" if count else "its numbers are the same"
                yield f"another version of it is recorded: {same}"


def recorded(verdicts: Sequence[Verdict], versions: Mapping[str, str], before: GoldenFile) -> GoldenFile:
    """Return the golden file of these models: new numbers of those that pass, the old ones of the others."""
    models = {}
    for verdict in verdicts:
        digest, model = set_digest(verdict.model.files), verdict.model
        if verdict.answers and not verdict.problems:
            models[digest] = Golden(model.id, model.kind, tuple(verdict.answers), verdict.prompts, versions)
        elif digest in before.models:
            models[digest] = before.models[digest]
    return GoldenFile(models, before.cosine, before.score)


@contextmanager
def _probing(orders: Sequence[Mapping[str, Any]]) -> Iterator[Iterator[dict[str, Any]]]:
    """Start the process that looks at the models; give what it tells, one object for itself and one a model."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as lines,
        tempfile.TemporaryDirectory(prefix="cache-models-") as scratch,
        tempfile.TemporaryFile() as said,
    ):
        try:
            process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-c", _PROGRAM, str(writing), str(_PROJECT)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd=scratch,
                env=_environment(scratch),
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        try:
            if process.stdin:  # always
                with suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(json.dumps({"scratch": scratch, "models": orders}).encode())
            yield _read(lines, process, said, len(orders) + 1)
        finally:
            process.kill()
            process.wait()


def _read(lines: IO[bytes], process: subprocess.Popen[bytes], said: IO[bytes], count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        line = lines.readline()
        if not line:
            process.wait()  # its last words may still come
            said.seek(0)
            words = said.read().decode(errors="replace").splitlines()[-_LAST_WORDS:]
            raise CheckError(
                "the process that loads the models has ended too early:\n  " + "\n  ".join(words),
                hint="Load a model by hand, as README shows, to see more.",
            )
        yield json.loads(line)


def _environment(scratch: str) -> dict[str, str]:
    """Return the environment of an application with an empty Hugging Face cache and no secrets."""
    kept = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    return {
        **kept,
        "HOME": scratch,
        "TMPDIR": scratch,
        "HF_HOME": f"{scratch}/hf",
        "HF_MODULES_CACHE": f"{scratch}/modules",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
