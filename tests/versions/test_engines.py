"""Other engines read what is published: the blocks of docs/engines.md are run with the engines that it names.

Each engine is in an environment of its own beside that of the tests (scripts/other-libraries makes them).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PROJECT, Tool, unavailable
from tests.support import tiny
from tests.support.by_id.outputs import environment
from tests.support.engines import EMBEDDING, RERANKER
from tests.support.frameworks import PROMPTS, Answers, own_answers
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs" / "engines.md").read_text()
INTRODUCTION, *_SECTIONS = PAGE.split("\n## ")
SECTIONS = {section.partition("\n")[0]: section for section in _SECTIONS}
# The code of each section that has any: by id, then by path.
BLOCKS = {
    name: blocks
    for name, section in SECTIONS.items()
    if (blocks := re.findall(r"^```(?:python|sh)\n((?:(?!^```).*\n)*)```$", section, re.MULTILINE))
}
ENGINES = ("infinity", "txtai", "fastembed")
OWN_LIST = "fastembed with a model of its own list"
LISTED = "Qdrant/all-MiniLM-L6-v2-onnx"
MANIFESTS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# For the export of a repository's ONNX files.
OTHER_REQUIREMENTS = {"onnx", "onnxscript", "torch", "transformers"}

Publish = Callable[[Path, str], None]


def test_every_block_is_run() -> None:
    """No block stands on the page that no test here runs."""
    assert list(BLOCKS) == [*ENGINES, OWN_LIST]
    assert [len(blocks) for blocks in BLOCKS.values()] == [2, 2, 2, 2]
    assert len(MANIFESTS) == 2
    assert PAGE.count("```") == 2 * (8 + 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_page_installs_is_what_is_tested(engine: str) -> None:
    """The page and the requirements name the same versions."""
    requirements = (PROJECT / f"requirements-engines-{engine}.txt").read_text()
    wanted = re.findall(r"^([^#\s]+)", requirements, re.MULTILINE)
    installed = re.findall(r'`pip install "(.*)"`', SECTIONS[engine])
    assert [line for line in wanted if re.split(r"\W", line)[0] not in OTHER_REQUIREMENTS] == installed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding model with prompts, a reranker of the identity, and the same one without that setting."""
    folder = tmp_path_factory.mktemp("made")
    embedding, reranker = tiny.tiny_embedding(folder / "embedding"), tiny.tiny_reranker(folder / "reranker")
    tiny.tiny_reranker(folder / "with-sigmoid")
    extend(embedding / "config_sentence_transformers.json", prompts=PROMPTS)
    extend(reranker / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    return folder


@pytest.fixture(scope="module")
def with_onnx(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with ONNX files, and the embedding model as a repository of ONNX files alone."""
    folder = tmp_path_factory.mktemp("with-onnx") / "made"
    shutil.copytree(made, folder)
    models = [str(folder / "embedding"), str(folder / "reranker")]
    ran = run("fastembed", ["tests.support.models.onnx_export", *models], folder.with_name("export"))
    assert ran.returncode == 0, ran.stderr
    (folder / "listed").mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "onnx/model.onnx",
    ):
        shutil.copy(folder / "embedding" / name, folder / "listed")
    return folder


@pytest.fixture
def publish(hub: StandInHub, tool: Tool) -> Publish:
    """Publishing what a manifest wants of the models that were made."""

    def do(models: Path, manifest: str) -> None:
        for model_id, name in ((EMBEDDING, "embedding"), (RERANKER, "reranker"), (LISTED, "listed")):
            if f'"{model_id}"' in manifest:
                hub.add(model_id, models / name)
        (tool.folder / "models.toml").write_text(manifest)
        ran = tool("sync")
        assert ran.exit_code == 0, ran.err

    return do


@pytest.mark.parametrize("engine", ["infinity", "txtai"])
def test_an_engine_reads_the_weights(engine: str, publish: Publish, tool: Tool, made: Path, tmp_path: Path) -> None:
    """By id and by path, without network and with a read-only root, the numbers are those of sentence-transformers."""
    publish(made, re.sub(r"^include .*\n", "", MANIFESTS[0], flags=re.MULTILINE))
    for answers in both_ways(engine, BLOCKS[engine], tool.folder, tmp_path):
        compare(answers, expected(tool, made))


@pytest.mark.parametrize(
    "files", [("model.onnx",), ("model_large.onnx", "model_large.onnx_data")], ids=["one file", "weights beside it"]
)
def test_fastembed_runs_the_included_file(
    files: tuple[str, ...], publish: Publish, tool: Tool, with_onnx: Path, tmp_path: Path
) -> None:
    """The same with an ONNX file of the repository, alone or with its weights beside it; no other one is published."""
    included = ", ".join(f'"onnx/{name}"' for name in files)
    publish(with_onnx, MANIFESTS[0].replace('"onnx/model.onnx"', included))
    assert sorted(path.name for path in (tool.home(EMBEDDING) / "onnx").iterdir()) == list(files)
    blocks = [block.replace("onnx/model.onnx", f"onnx/{files[0]}") for block in BLOCKS["fastembed"]]
    for answers in both_ways("fastembed", blocks, tool.folder, tmp_path):
        compare(answers, expected(tool, with_onnx))


def test_fastembed_finds_a_model_of_its_own_list(publish: Publish, tool: Tool, with_onnx: Path, tmp_path: Path) -> None:
    """A repository without weights is published as it is, and found under the name that fastembed has for it."""
    publish(with_onnx, MANIFESTS[1])
    own = own_answers(str(with_onnx / "embedding"), str(with_onnx / "reranker"))
    for answers in both_ways("fastembed", BLOCKS[OWN_LIST], tool.folder, tmp_path, OWN_LIST):
        assert "raw" not in answers
        compare(answers, own)


def expected(tool: Tool, made: Path) -> Answers:
    """Ask sentence-transformers for what an engine should answer, of the directories that are published."""
    embedding = str(tool.home(EMBEDDING))
    own = own_answers(embedding, str(tool.home(RERANKER, "reranker")))
    # The same weights where no activation is named: there the scores are after a sigmoid.
    scores = own_answers(embedding, str(made / "with-sigmoid"))["scores"]
    assert scores == pytest.approx([1 / (1 + np.exp(-raw)) for raw in own["scores"]], abs=1e-6)
    return {**own, "scores": scores, "raw": own["scores"]}


def compare(answers: Answers, own: Answers) -> None:
    """Find every answer of an engine equal to the one that is wanted; the prompts must have made a difference."""
    assert {"documents", "query"} < answers.keys() <= own.keys()
    assert own["without prompts"][:-1] != own["documents"]
    for question, answer in answers.items():
        assert np.array(answer) == pytest.approx(np.array(own[question]), abs=1e-5), question


def both_ways(engine: str, blocks: list[str], root: Path, folder: Path, section: str = "") -> list[Answers]:
    """Run the two blocks of a section; no connection is tried, and no file written to the home directory."""
    says = SECTIONS[section or engine]
    return [
        ask(engine, block, root, folder / way, names + says)
        for way, block, names in zip(("by id", "by path"), blocks, (INTRODUCTION, ""), strict=True)
    ]


def ask(engine: str, block: str, root: Path, home: Path, says: str) -> Answers:
    """Run a block with the variables that the page names, and return the engine's answers."""
    settings = dict(re.findall(r"`([A-Z_]+)=([^`]+)`", says.replace("/models", str(root))))
    order = {"root": str(root), "engine": engine, "block": block.replace("/models", str(root))}
    ran = run(engine, ["tests.support.engines"], home, json.dumps(order), settings)
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    assert report["tried"] == []
    assert [path for path in home.rglob("*") if path.is_file()] == []
    answers: Answers = report["answers"]
    return answers


def run(
    engine: str, words: list[str], home: Path, order: str = "", settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module with the interpreter of an engine, in an empty home."""
    folder = Path(sys.prefix) / f"engines-{engine}"
    if not (folder / "installed").exists():
        unavailable("scripts/other-libraries has not made the environments of the engines")
    spare = home.with_name(f"{home.name}, temporary")
    for place in (home, spare):
        place.mkdir()
    env = environment(home) | {"TMPDIR": str(spare)} | (settings or {})
    env["PATH"] = f"{folder / 'bin'}:{env['PATH']}"
    return subprocess.run(
        [folder / "bin" / "python", "-m", *words],
        input=order,
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def extend(path: Path, **settings: object) -> None:
    """Add settings to a JSON file."""
    tiny.write_json(path, json.loads(path.read_text()) | settings)
