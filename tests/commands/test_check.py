"""`check`: every layout passes with the network cut and everything read-only, and each planted fault is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.formats.receipt import format_receipt
from modelcache.store.layout import read_receipt
from tests.conftest import PROJECT
from tests.support import models
from tests.support.checked_root import Checked, Root
from tests.support.hub import StandInHub
from tests.support.models.layouts import LAYOUTS, Layout, layout_of
from tests.support.spoiled import (
    all_the_same,
    append,
    drop,
    edit,
    more_tokens,
    no_modules,
    no_normalize,
    no_pooling,
    no_vocabulary,
    not_a_number,
    other_routes,
    other_tokenizer,
    seal,
)

pytestmark = pytest.mark.slow

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Every layout and the real MiniLM, cached."""
    folder = tmp_path_factory.mktemp("check")
    with StandInHub() as hub:
        for layout in LAYOUTS:
            hub.add(layout.id, layout.make(folder / "repositories" / layout.make.__name__))
        hub.add("otherorg/impl", models.remote_code_impl(folder / "repositories" / "impl"))
        hub.add(MINILM, models.minilm(folder / "repositories" / "minilm"))
        shutil.copytree(folder / "repositories", folder / "sources")
        tables = [layout.table for layout in LAYOUTS] + [f'[[embedding]]\nid = "{MINILM}"\n']
        return Root.cached(folder / "root", hub, tables)


@pytest.fixture(scope="module")
def recorded(root: Root) -> tuple[Checked, Checked]:
    """The first check, in a process that nothing was imported for, and one that records."""
    return root.check(run=subprocess.run), root.check("--record")


def test_every_layout_loads_with_nothing_but_its_directory(recorded: tuple[Checked, Checked]) -> None:
    """Plain, sharded, Router, static, Dense, half precision, converted, pooled, with code: none is left out."""
    checked, _ = recorded
    assert checked.exit_code == 0, checked.lines
    assert set(checked.rows) == {layout.id for layout in LAYOUTS} | {MINILM}
    assert {row["event"] for row in checked.rows.values()} == {"unproven"}
    last = checked.lines[-1]["text"]
    assert f"{len(LAYOUTS) + 1} unproven (`cache-models check --record` records the numbers)" in last
    assert f"{len(LAYOUTS) + 1} recorded in models.golden.json." in recorded[1].lines[-1]["text"]


def test_which_cut_was_used_is_said(recorded: tuple[Checked, Checked]) -> None:
    """Namespaces where they are permitted; the words say so, and name the libraries."""
    (cut,) = [line for line in recorded[0].lines if line["event"] == "cut"]
    allowed = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if allowed:
        assert cut["network"] == "a network namespace of its own"
        assert cut["disk"] == "read-only"
        assert "sentence-transformers" not in cut["text"]
    assert cut["sentence-transformers"].startswith("6.")
    (using,) = [line for line in recorded[0].lines if line["event"] == "using"]
    assert f"sentence-transformers {cut['sentence-transformers']}, " in using["text"]


def test_a_row_says_what_a_model_is(recorded: tuple[Checked, Checked]) -> None:
    """Kind, dimension, limit, similarity, seconds and memory, as the libraries tell them."""
    row = recorded[0].rows[MINILM]
    assert (row["kind"], row["dimension"], row["limit"], row["similarity"]) == ("embedding", 384, 256, "cosine")
    assert 0 < row["seconds"] < 60
    assert 100e6 < row["peak"] < 2e9
    reranker = recorded[0].rows["org/plain_reranker"]
    assert (reranker["kind"], reranker["dimension"], reranker["limit"]) == ("reranker", 1, 64)


def test_recorded_numbers_are_proven(root: Root, recorded: tuple[Checked, Checked]) -> None:
    """After --record the same check says that the numbers are the recorded ones; recording twice writes equal bytes."""
    golden = (root.folder / "models.golden.json").read_bytes()
    checked = root.check("--record")
    assert checked.exit_code == 0
    assert {row["event"] for row in checked.rows.values()} == {"proven"}
    assert f"{len(LAYOUTS) + 1} with the recorded numbers" in checked.lines[-1]["text"]
    assert (root.folder / "models.golden.json").read_bytes() == golden


def test_the_libraries_are_imported_once(recorded: tuple[Checked, Checked], root: Root, tmp_path: Path) -> None:
    """One import, however many models there are; each is noted in a pipe, since no file can be written."""
    note = tmp_path / "imports"
    os.mkfifo(note)
    reading = os.open(note, os.O_RDONLY | os.O_NONBLOCK)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'sentence_transformers':\n"
        f"        open({str(note)!r}, 'a').write('x')\n"
        "sys.addaudithook(hook)\n"
    )
    copy = root.with_only(tmp_path / "root", "plain_embedding", "static_embedding", "plain_reranker")
    checked = copy.check(env={"PYTHONPATH": str(site)}, run=subprocess.run)
    assert (checked.exit_code, len(checked.rows)) == (0, 3)
    assert os.read(reading, 100) == b"x"
    os.close(reading)


# Planted faults. Each is sealed again, so that the bytes are as pinned and only the loading can tell.


SECRETS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LDAP_PASSWORD", "TORCHSERVE_TOKEN", "PYTHON_KEYRING_PASSWORD")
SPY = """
import os, pathlib
for place in (*pathlib.Path('/proc').glob('*/environ'), pathlib.Path('TOKEN')):
    try:
        seen = place.read_text(errors='replace')
    except OSError:
        continue
    if 's3cret' in seen:
        raise SystemExit(f'it is in {place}')
"""
CALL = "\nimport urllib.request\ntry:\n    urllib.request.urlopen('http://example.org/x')\nexcept OSError:\n    pass\n"
NATIVE_CALL = (
    "\nimport ctypes, struct\n"
    "libc = ctypes.CDLL(None)\n"
    "there = struct.pack('=HHI8x', 2, 0x5000, 0x01020304)\n"
    "libc.connect(libc.socket(2, 1, 0), there, 16)\n"
)
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "plain_embedding": (drop("layer.1.output"), "random: 0.model.encoder.layer.1.output.LayerNorm.bias"),
    "plain_reranker": (drop("classifier"), "random: 0.model.classifier.bias, 0.model.classifier.weight"),
    "remote_code_embedding": (drop("mixer"), "random: 0.model.mixer.dense.bias"),
    "dense_bin_embedding": (edit("config.json", num_hidden_layers=1), "no parameter: encoder.layer.1."),
    "bin_only_embedding": (no_normalize, "has another length: 1 then, "),
    "router_embedding": (
        drop("layer.1.output", "document_0_Transformer/model.safetensors"),
        "random: 0.sub_modules.document.0.model.encoder.layer.1.output.LayerNorm.bias",
    ),
    "dense_embedding": (no_pooling, "modules.json names 1_Pooling, and there is no such directory"),
    "native_with_gone_code": (no_modules, "no modules.json, so sentence-transformers falls back to mean pooling"),
    "static_embedding": (not_a_number, "numbers that are not finite"),
    "fp16_embedding": (
        edit("config_sentence_transformers.json", prompts={"query": "ask: "}),
        '"query" was "" and is "ask: "',
    ),
    "sharded_embedding": (other_tokenizer, "moved: cosine"),
    "no_modules_embedding": (
        edit("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True),
        "moved: cosine",
    ),
    "saved_reranker": (other_tokenizer, "moved by"),
    "custom_module_embedding": (append("custom_tilt.py", CALL), "attempted network access to example.org"),
    "remote_code_reranker": (
        append("tiny_scale.py", NATIVE_CALL),
        "attempted network access to something that is not Python code",
    ),
    "remote_code_elsewhere": (append("tiny_scale.py", "\nimport os\nos.kill(os.getpid(), 9)\n"), "ended by signal 9"),
    "remote_code_reranker_elsewhere": (append("tiny_scale.py", "\nimport einops_of_nobody\n"), "einops_of_nobody"),
    "tasks_embedding": (
        lambda home: (home / "tasks" / "retrieval.safetensors").unlink(),
        "its code wants tasks/retrieval.safetensors, which is not shipped",
    ),
    "sharded_bin_embedding": (
        edit("1_Pooling/config.json", word_embedding_dimension=33),
        "it gives 32 numbers instead of 33",
    ),
}
# Of these the layout has been spoiled in another way above; they are copies under names of their own.
MORE_FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "org/wordless": ("plain_embedding", no_vocabulary, "the same numbers for different words: is its vocabulary"),
    "org/wordless-reranker": ("plain_reranker", no_vocabulary, "the same numbers for different words"),
    "org/constant": ("static_embedding", all_the_same, "the same numbers for different words"),
    "org/routed": ("router_embedding", other_routes, "numbers that are not finite for"),
    "org/late-import": (
        "remote_code_embedding",
        append("tiny_scale.py", "\nimport importlib\nimportlib.import_module('.tiny_' + 'more', __package__)\n"),
        "its code imports tiny_more from beside itself in a way that shows only when it runs",
    ),
    "org/beside": (
        "remote_code_embedding",
        append("tiny_scale.py", "\nfrom pathlib import Path\n(Path(__file__).parent / 'scale.json').read_text()\n"),
        "its code opens scale.json beside itself, where transformers copies only code",
    ),
    "org/calling": (
        "remote_code_embedding",
        append(
            "tiny_scale.py",
            "\nfrom huggingface_hub import hf_hub_download\nhf_hub_download('org/calling', 'tasks/x.json')\n",
        ),
        "its code asks the Hub for files that are not shipped: tasks/x.json; run",
    ),
    "org/hidden": (
        "custom_module_embedding",
        append("custom_tilt.py", "\nopen('gone.json')\n"),
        "custom_tilt.py is there, and sentence-transformers hides the error that its import ended with",
    ),
    "org/short-reranker": (
        "plain_reranker",
        edit("config.json", num_hidden_layers=1),
        "no parameter: bert.encoder.layer.1.",
    ),
}
WITH_A_NOTE = {"org/rare": ("plain_embedding", more_tokens, "the tokenizer of 0 goes up to 5000, its embeddings to ")}


def copy_as(model: str, layout: Layout, root: Path) -> Path:
    """Have a model again under another id; return its directory."""
    home = Layout(layout.make, layout.kind).home(root)
    copy = home.with_name(model.replace("/", "__"))
    shutil.copytree(home, copy)
    before = read_receipt(copy)
    assert before is not None
    (copy / ".cache-models.json").write_bytes(format_receipt(replace(before, id=model)))
    with (root / "models.toml").open("a") as manifest:
        manifest.write(layout.table.replace(layout.id, model))
    return copy


@pytest.fixture(scope="module")
def spoiled(root: Root, recorded: tuple[Checked, Checked], tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """One check of all faults at once."""
    copy = Root(tmp_path_factory.mktemp("spoiled") / "root")
    shutil.copytree(root.folder, copy.folder)
    (copy.folder / "models.lock").unlink()
    for model, (name, spoil, _) in {**MORE_FAULTS, **WITH_A_NOTE}.items():
        home = copy_as(model, layout_of(name), copy.folder)
        spoil(home)
        seal(home, recorded=False)
    for layout in LAYOUTS:
        if layout.make.__name__ in FAULTS:
            FAULTS[layout.make.__name__][0](copy.home(layout))
            seal(copy.home(layout))
    return copy.check()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, spoiled: Checked) -> None:
    """Exit 6, and the reason, not a symptom."""
    layout = layout_of(name)
    if name == "remote_code_reranker" and not any("namespace" in line.get("network", "") for line in spoiled.lines):
        pytest.skip("without a namespace nobody sees what native code does")
    assert spoiled.exit_code == 6
    assert FAULTS[name][1] in spoiled.problems(layout)


@pytest.mark.parametrize("model", MORE_FAULTS)
def test_another_planted_fault_is_named(model: str, spoiled: Checked) -> None:
    """Numbers that come, and mean nothing; a way of a Router that is asked under its own name."""
    problems = "\n".join(spoiled.rows[model]["problems"])
    assert MORE_FAULTS[model][2] in problems
    assert model != "org/routed" or " as ask" in problems


def test_a_token_beyond_the_table_is_noted(spoiled: Checked) -> None:
    """It is no fault before somebody writes it: the library's own models have such tokens."""
    ((model, (_, _, told)),) = WITH_A_NOTE.items()
    assert spoiled.rows[model]["event"] == "unproven"
    assert any(told in line["text"] for line in spoiled.lines if line.get("model") == model and line["event"] == "note")


def test_one_models_failure_does_not_hide_the_others(spoiled: Checked) -> None:
    """Those that were left alone pass, the real MiniLM among them."""
    left = {layout.id for layout in LAYOUTS if layout.make.__name__ not in FAULTS} | {MINILM}
    assert {spoiled.rows[model]["event"] for model in left} == {"proven"}


def test_a_moved_number_is_told_with_its_probe(spoiled: Checked) -> None:
    """Which of how many, its text, by how much."""
    layout = layout_of("sharded_embedding")
    assert 'probe 1 of 8 ("The court dismissed the appeal because …") moved: cosine 0.' in spoiled.problems(layout)
    assert "at least 0.99999" in spoiled.problems(layout)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (other_tokenizer, "changed  tokenizer.json"),
        (no_pooling, "missing  1_Pooling/config.json"),
        (drop("pooler"), "changed  model.safetensors"),
        (
            edit("config_sentence_transformers.json", prompts={"query": "ask: "}),
            "changed  config_sentence_transformers.json",
        ),
    ],
    ids=["another tokenizer", "no pooling", "other weights", "another prompt"],
)
def test_bytes_that_are_not_the_pinned_ones_are_not_even_loaded(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    """Exit 1 names the file; code that nobody pinned could be among them."""
    layout = layout_of("plain_embedding")
    copy = root.with_only(tmp_path / "root", "plain_embedding")
    spoil(copy.home(layout))
    checked = copy.check()
    assert checked.exit_code == 1
    assert not checked.rows
    assert told in checked.lines[-1]["text"]


def test_a_file_that_a_program_does_not_find_by_the_id_is_named(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """A client has noted in the view that the repository lacks a file, which then no client looks up any more."""
    (tmp_path / "copy").mkdir()
    copy = Root(tmp_path / "copy" / "root")
    shutil.copytree(root.folder, copy.folder, symlinks=True)
    snapshot = next((copy.folder / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots").iterdir())
    note = snapshot.parent.parent / ".no_exist" / snapshot.name / "modules.json"
    note.parent.mkdir(parents=True)
    note.touch()
    ran = copy.check(MINILM)
    assert ran.exit_code == 6
    assert "a program that loads it by its id does not find modules.json in the Hub view" in ran.lines[-1]["text"]


def test_one_flipped_byte_is_named(root: Root, recorded: tuple[Checked, Checked], tmp_path: Path) -> None:
    """Also one that no number would show."""
    layout = layout_of("plain_embedding")
    copy = root.with_only(tmp_path / "root", "plain_embedding")
    weights = bytearray((copy.home(layout) / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy.home(layout) / "model.safetensors").write_bytes(weights)
    checked = copy.check()
    assert checked.exit_code == 1
    assert "changed  model.safetensors" in checked.lines[-1]["text"]


def test_other_libraries_are_told_when_numbers_moved(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """An upgrade is the usual cause; and the hint says how to accept what is meant."""
    copy = root.with_only(tmp_path / "root", "plain_embedding")
    moved_golden(copy, "plain_embedding")
    path = copy.folder / "models.golden.json"
    path.write_text(re.sub(r'"transformers": "[^"]*"', '"transformers": "5.0.0"', path.read_text()))
    checked = copy.check()
    assert checked.exit_code == 6
    text = checked.lines[-1]["text"]
    assert "compared with the recorded numbers: 1 of 8 outputs changed; cosine at least " in text
    assert "vectors will differ: re-index\n" in text
    assert "probe 2 of 8" in text
    assert "recorded with transformers 5.0.0" in text
    assert "check --record" in text


def test_another_version_is_unproven_and_compared_all_the_same(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """Numbers for another digest: exit 0, said, and by how much they differ, which a store of vectors hangs on."""
    layout = layout_of("plain_embedding")
    copy = root.with_only(tmp_path / "root", "plain_embedding")
    other_tokenizer(copy.home(layout))
    seal(copy.home(layout), recorded=False)
    checked = copy.check()
    assert checked.exit_code == 0
    assert checked.rows[layout.id]["event"] == "unproven"
    (note,) = [line["text"] for line in checked.lines if line["event"] == "note"]
    assert re.search(
        r"compared with the recorded version: [1-8] of 8 outputs changed; cosine at least -?0\.\d+, ", note
    )


def test_a_model_that_is_not_there_is_told_and_the_others_are_checked(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """Exit 1 for what is missing, a row for what is there; its recorded numbers stay, also when others are recorded."""
    copy = root.with_only(tmp_path / "root", "plain_embedding", "static_embedding")
    shutil.copytree(copy.home(layout_of("plain_embedding")), tmp_path / "aside")
    shutil.rmtree(copy.home(layout_of("plain_embedding")))
    checked = copy.check("--record")
    assert checked.exit_code == 1
    assert list(checked.rows) == ["org/static_embedding"]
    assert "org/plain_embedding is not there" in checked.lines[-1]["text"]
    assert summary_of(checked) == f"2 models in {copy.folder}: 1 with the recorded numbers, 1 failed."


def summary_of(checked: Checked) -> str:
    """The line before the errors of a check in which something failed."""
    (line,) = [line["text"] for line in checked.lines if line["event"] == "checked"]
    return str(line)


def moved_golden(root: Root, name: str) -> None:
    """Let the recorded numbers of a model be others than it gives."""
    path = root.folder / "models.golden.json"
    golden = json.loads(path.read_text())
    (entry,) = [entry for entry in golden["models"].values() if entry["id"] == layout_of(name).id]
    entry["answers"][1]["values"] = entry["answers"][0]["values"]
    path.write_text(json.dumps(golden))


def test_recording_accepts_numbers_that_moved(root: Root, recorded: tuple[Checked, Checked], tmp_path: Path) -> None:
    """What the hint says works: exit 0, what moved is said, and the next check is content."""
    copy = root.with_only(tmp_path / "root", "plain_embedding")
    moved_golden(copy, "plain_embedding")
    assert copy.check().exit_code == 6
    checked = copy.check("--record")
    assert checked.exit_code == 0
    (by, which) = (line["text"] for line in checked.lines if line["event"] == "note")
    assert "compared with the recorded numbers: 1 of 8 outputs changed; cosine at least " in by
    assert "moved: cosine" in which
    assert checked.lines[-1]["text"].endswith("loads with no network: 1 recorded in models.golden.json.")
    assert copy.check().rows["org/plain_embedding"]["event"] == "proven"


def test_recording_keeps_what_a_faulty_model_gave(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """A model that is broken is not the measure of itself: exit 6, and its numbers stay as they were."""
    copy = root.with_only(tmp_path / "root", "plain_embedding", "static_embedding")
    drop("layer.1.output")(copy.home(layout_of("plain_embedding")))
    seal(copy.home(layout_of("plain_embedding")))
    before = json.loads((copy.folder / "models.golden.json").read_text())["models"]
    checked = copy.check("--record")
    assert checked.exit_code == 6
    after = json.loads((copy.folder / "models.golden.json").read_text())["models"]
    assert {entry["id"] for entry in after.values()} == {"org/plain_embedding", "org/static_embedding"}
    assert after.items() <= before.items()
    assert summary_of(checked) == f"2 models in {copy.folder}: 1 with the recorded numbers, 1 failed."


@pytest.mark.parametrize(
    ("words", "fate"),
    [
        (["--record"], "recorded in models.golden.json"),
        ([], "unproven (`cache-models check --record` records the numbers)"),
    ],
)
def test_one_failure_does_not_hide_what_became_of_the_others(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path, words: list[str], fate: str
) -> None:
    """The last line before the errors counts the models that pass, and says whether their numbers were written."""
    copy = root.with_only(tmp_path / "root", "plain_embedding", "static_embedding")
    drop("layer.1.output")(copy.home(layout_of("plain_embedding")))
    seal(copy.home(layout_of("plain_embedding")))
    golden = copy.folder / "models.golden.json"
    golden.unlink()
    checked = copy.check(*words)
    assert (checked.exit_code, checked.lines[-1]["event"]) == (6, "error")
    assert summary_of(checked) == f"2 models in {copy.folder}: 1 {fate}, 1 failed."
    assert golden.exists() == bool(words)


def test_recording_makes_a_damaged_file_anew(root: Root, recorded: tuple[Checked, Checked], tmp_path: Path) -> None:
    """Without --record it is refused (2), with the hint that then works; a dry run writes nothing and says so."""
    copy = root.with_only(tmp_path / "root", "static_embedding")
    golden = copy.folder / "models.golden.json"
    golden.write_text("{}")
    refused = copy.check()
    assert refused.exit_code == 2
    assert "check --record" in refused.lines[-1]["text"]
    golden.unlink()
    dry = copy.check("--record", "--dry-run")
    assert not golden.exists()
    assert "1 unproven" in dry.lines[-1]["text"]
    golden.write_text("{}")
    assert copy.check("--record").exit_code == 0
    assert copy.check().rows["org/static_embedding"]["event"] == "proven"


def test_secrets_are_not_shown_to_the_models_code(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """Code that is trusted to compute vectors is not trusted with them: in no process's environment, in no file."""
    layout = layout_of("remote_code_embedding")
    copy = root.with_only(tmp_path / "root", "remote_code_embedding")
    token = tmp_path / "token"
    token.write_text("s3cret")
    append("tiny_scale.py", SPY.replace("TOKEN", str(token)))(copy.home(layout))
    seal(copy.home(layout))
    env = {**dict.fromkeys(SECRETS, "s3cret"), "HF_TOKEN_PATH": str(token)}
    checked = copy.check(env=env, run=subprocess.run)
    (cut,) = [line for line in checked.lines if line["event"] == "cut"]
    if "namespace" not in cut["network"]:
        pytest.skip("without a namespace files and other processes are there to be read")
    assert checked.exit_code == 0, checked.lines


def test_code_runs_no_more_when_leave_to_run_it_is_withdrawn(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """The lock of before still allows it: it is refused with 2, and nothing is loaded."""
    copy = root.with_only(tmp_path / "root", "remote_code_embedding")
    shutil.copy(root.folder / "models.lock", copy.folder)
    (copy.folder / "models.toml").write_text(f'[[embedding]]\nid = "{layout_of("remote_code_embedding").id}"\n')
    for checked in (copy.check(), copy.check("--locked")):
        assert (checked.exit_code, checked.rows) == (2, {})
        assert "models.lock" in checked.lines[-1]["text"]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="user namespaces cannot be used up here")
def test_where_no_namespace_is_permitted_sockets_refuse(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path
) -> None:
    """As in most containers: the check says which cut it was, and still sees what Python code tries."""
    copy = root.with_only(tmp_path / "root", "plain_embedding", "custom_module_embedding")
    custom = layout_of("custom_module_embedding")
    append("custom_tilt.py", CALL)(copy.home(custom))
    seal(copy.home(custom))
    # A user namespace in which no further one may be made, and a process in it without capabilities.
    spent = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    command = [sys.executable, str(PROJECT / "cache_models.py"), "check", "--log-format=json"]
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", spent, "sh", *command],
        cwd=copy.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.returncode == 6, lines
    (cut,) = [line for line in lines if line["event"] == "cut"]
    assert "blocked Python sockets" in cut["network"]
    rows = {line["model"]: line["event"] for line in lines if "peak" in line}
    assert rows == {"org/plain_embedding": "proven", "org/custom_module_embedding": "failed"}
    assert "attempted network access to example.org" in lines[-1]["text"]
