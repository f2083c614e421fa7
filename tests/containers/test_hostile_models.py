"""Hostile models in a real `docker build`, where no namespace can be had and the shell holds the token."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.containers.engine import Docker, make_context
from tests.support import models, tiny
from tests.support.hostile.doors import END, VERDICTS
from tests.support.hostile.models import broken, hostile
from tests.support.hostile.outside import DEEP, HONEST, Outside, Run
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

TOKEN = "hf_this-must-not-be-seen-by-a-model"
LEFT = "left-by-a-model"
KEPT = "/dev/shm/kept"
IMAGE = "cache-models-test:attacked"
USERS = (10001, 0)
SHELL = 1  # the number of its process
TOLD: dict[str, dict[str, Any]] = {
    "clears_the_covers": {"marker": f"/tmp/{LEFT}"},
    "leaves_files": {"folders": ["/tmp", "/var/tmp", "/app", "/etc"], "name": LEFT},
    "digs_deep": {"name": DEEP, "levels": 2000},
    "swaps_the_scratch": {"folder": KEPT},
    "floods_stdout": {"megabytes": 100},
    "fills_the_scratch": {"megabytes": 2048},
    "reads_the_token": {"mark": TOKEN},
    "reads_credentials": {"paths": ["/run/secrets/users_token", f"{KEPT}/netrc"], "mark": TOKEN},
    "overwrites_another_model": {"path": "/models/cached_embedding_models/zeta__last/README.md"},
    "kills_by_owning_a_socket": {"number": SHELL},
    "leaves_a_daemon": {"name": LEFT, "seconds": 60},
}
"""What payloads are told that try a door of a container; those that speak for others are told the same everywhere."""
# As the stage `checked`, and the worst that people do: they are root, and the token is there while the code runs. The
# secret has another name than the one for the Hub, which must not get it over plain http.
STAGES = "".join(
    f"""
FROM serve AS attacked-{user}
USER {user}
COPY --from=locker /app/models.toml /app/models.lock ./
RUN --network=none --mount=type=bind,from=models,source=/models,target=/models \\
    --mount=type=secret,id=users_token,env=HF_TOKEN --mount=type=secret,id=users_token,mode=0444 \\
    mkdir {KEPT} && echo "$HF_TOKEN" > {KEPT}/netrc; \\
    cache-models check --locked; echo "check ended with $?"; \\
    sleep 1; grep -l {LEFT} /proc/[0-9]*/comm; ls {KEPT}
"""
    for user in USERS
)


@dataclass(frozen=True)
class Attack:
    """How a build went in which all models tried."""

    run: Run
    """The check in it."""
    said: str
    """All that the build said."""
    layer: list[tarfile.TarInfo]
    """What it left in the image."""
    failed: str
    """What the build of the stage `checked` said, with the same models."""


@pytest.fixture(scope="module")
def attacks(bridge: str, clean_docker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Attack]]:
    """Build once for each user, with all models."""
    folder = tmp_path_factory.mktemp("hostile")
    with StandInHub(host=bridge) as hub:
        docker = Docker(hub.url)
        context = make_context(folder / "context", publish(hub, folder))
        with (context / "Dockerfile").open("a") as dockerfile:
            dockerfile.write(STAGES)
        (folder / "token").write_text(TOKEN)
        docker.build(context, "--target", "lock", "--output", str(context))
        failed = docker.build(context, "--target", "checked", check=False)
        assert failed.returncode
        yield {user: build(docker, context, f"attacked-{user}", folder, failed.stderr) for user in USERS}


@pytest.fixture(params=USERS, ids=["the image's user", "root"])
def attack(request: pytest.FixtureRequest, attacks: dict[int, Attack]) -> Attack:
    """How it went for one of them."""
    return attacks[request.param]


def build(docker: Docker, context: Path, stage: str, folder: Path, failed: str) -> Attack:
    """Build one stage."""
    words = ["--target", stage, "--no-cache-filter", stage, "--tag", IMAGE]
    said = docker.build(context, *words, "--secret", f"id=users_token,src={folder / 'token'}").stderr
    text = re.sub(r"^#\d+ [\d.]+ ?", "", said, flags=re.MULTILINE)
    code = int(re.findall(r"^check ended with (\d+)", text, re.MULTILINE)[-1])
    return Attack(Run(text, code, memory=0, most=0), said, last_layer(docker, folder), failed)


def publish(hub: StandInHub, folder: Path) -> list[str]:
    """Put the models on the Hub; return the tables of the manifest."""
    shell = cast("Outside", SimpleNamespace(number=SHELL))
    speaking = [door for door in (*VERDICTS, *END) if door.name != "types_on_the_terminal"]
    hub.add("acme/first", models.remote_code_embedding(folder / "first"))
    hub.add("zeta/last", tiny.tiny_embedding(folder / "last"))
    hub.add("hostile/speaks-for-the-next-broken", broken(folder / "broken"))
    names = [*HONEST, "hostile/speaks-for-the-next-broken"]
    for name, told in TOLD.items():
        names.append(f"hostile/{name.replace('_', '-')}")
        hub.add(names[-1], hostile(folder / name, name, told))
    for door in speaking:
        names.append(door.id)
        hub.add(door.id, hostile(folder / door.name, door.payload or door.name, door.told(shell)))
    return [f'[[embedding]]\nid = "{name}"\ntrust_remote_code = true\n' for name in names]


def last_layer(docker: Docker, folder: Path) -> list[tarfile.TarInfo]:
    """Return what the last step left in the image."""
    docker("save", "--output", str(folder / "image.tar"), IMAGE)
    with tarfile.open(folder / "image.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        content = archive.extractfile(manifest["Layers"][-1])
        assert content is not None
        with tarfile.open(fileobj=content) as layer:
            return layer.getmembers()


def test_honest_models_are_judged_in_the_build(attack: Attack) -> None:
    """Each verdict is the model's own, and the build of the stage that has to pass fails for the models that do not."""
    assert not attack.run.spoiled, attack.said
    assert attack.run.exit_code == 6, attack.said
    assert not attack.run.passed("hostile/speaks-for-the-next-broken"), attack.said
    assert not attack.run.forged, attack.said
    assert "hostile/speaks-for-the-next-broken does not pass" in attack.failed


def test_every_hostile_model_ran_in_the_build(attack: Attack) -> None:
    """A payload that never ran has shown nothing."""
    ids = [f"hostile/{name.replace('_', '-')}" for name in TOLD]
    assert [name for name in ids if not attack.run.tried(name)] == [], attack.said


def test_no_model_gets_the_token_or_fills_the_disk_in_the_build(attack: Attack) -> None:
    """From no environment, no mounted secret, and no file of the user's."""
    assert [name for name in attack.run.rows if attack.run.got(name)] == [], attack.said
    assert TOKEN not in attack.said


def test_nothing_of_a_model_is_in_the_image(attack: Attack) -> None:
    """No file, no directory that was not there, and of the user's own file nothing is gone."""
    assert [member.name for member in attack.layer if not member.isdir()] == []
    assert [member.name for member in attack.layer if re.search(rf"{LEFT}|{DEEP}|cache-models", member.name)] == []
    assert re.search(r"^netrc\s*$", attack.run.text, re.MULTILINE), attack.said


def test_no_process_of_a_model_goes_on_in_the_build(attack: Attack) -> None:
    """When the check has ended, before the step has."""
    assert not re.search(r"^/proc/\d+/comm", attack.run.text, re.MULTILINE), attack.said
