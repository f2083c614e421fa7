"""`check` of sparse encoders and multi-vector models: each layout is recorded and proven, each planted change named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.check.golden import parse_golden
from modelcache.core.kinds import Kind, Output
from modelcache.core.types import set_digest
from modelcache.formats.receipt import format_receipt
from modelcache.store.layout import read_receipt
from tests.commands.test_check_shapes import WORDS, Shape, publish, transformer, with_tensors
from tests.support import tiny
from tests.support.checked_root import Checked, Root
from tests.support.hub import StandInHub
from tests.support.models.layouts import MULTI_VECTOR_LAYOUTS, SPARSE_LAYOUTS
from tests.support.spoiled import drop, edit, no_modules, no_vocabulary, not_a_number, seal

pytestmark = pytest.mark.slow


LAYOUTS = {layout.make.__name__: layout for layout in (*SPARSE_LAYOUTS, *MULTI_VECTOR_LAYOUTS)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Every layout, cached through the stand-in Hub, which is gone."""
    folder = tmp_path_factory.mktemp("check-kinds")
    with StandInHub() as hub:
        for name, layout in LAYOUTS.items():
            hub.add(layout.id, layout.make(folder / "repositories" / name))
        return Root.cached(folder / "root", hub, [layout.table for layout in LAYOUTS.values()])


@pytest.fixture(scope="module")
def recorded(root: Root) -> tuple[Checked, Checked]:
    """Two checks that record, the second in a process that nothing was imported for; they write the same bytes."""
    golden = root.folder / "models.golden.json"
    first = root.check("--record")
    written = golden.read_bytes()
    second = root.check("--record", run=subprocess.run)
    assert golden.read_bytes() == written
    assert len(written) < 400_000
    return first, second


def test_every_layout_is_recorded_and_proven(recorded: tuple[Checked, Checked]) -> None:
    """SPLADE in four layouts, with a table for queries, over an embedding model; ColBERT of PyLate and of Stanford."""
    for checked, event in zip(recorded, ("recorded", "proven"), strict=True):
        assert checked.exit_code == 0, checked.lines
        assert {row["model"]: row["event"] for row in checked.rows.values()} == {
            layout.id: event for layout in LAYOUTS.values()
        }


def test_nothing_is_noted_of_a_layout_that_is_whole(recorded: tuple[Checked, Checked]) -> None:
    """A tied decoder, a projection among the transformer's weights, a counter of training: all have their place."""
    notes = [line["text"] for line in recorded[0].lines if line["event"] == "note"]
    assert not [note for note in notes if "weight" in note], notes


def test_a_row_says_what_a_model_gives(recorded: tuple[Checked, Checked]) -> None:
    """The vocabulary and how much of it is in use; the dimension of a token; the similarity; how long a document is."""
    rows = recorded[0].rows
    sparse_row, matrix_row = rows["org/splade_sparse"], rows["org/pylate_multi_vector"]
    assert (sparse_row["kind"], sparse_row["dimension"], sparse_row["similarity"]) == ("sparse", WORDS, "dot")
    assert re.search(rf"{WORDS} numbers, [1-9]\d non-zero  max 64", sparse_row["text"])
    assert (matrix_row["kind"], matrix_row["dimension"], matrix_row["similarity"]) == ("multi_vector", 16, "maxsim")
    assert "16 numbers a token  max 48" in matrix_row["text"]


def test_each_way_is_recorded_in_its_form(root: Root, recorded: tuple[Checked, Checked]) -> None:
    """Every text as query and as document; indices with the values; rows as many as tokens count; and one score."""
    golden = parse_golden((root.folder / "models.golden.json").read_bytes(), "x")
    receipts = [read_receipt(root.home(layout)) for layout in LAYOUTS.values()]
    assert golden.keys() == {set_digest(receipt.files) for receipt in receipts if receipt}
    for one in golden.values():
        asked = [answer.probe.prompt for answer in one.answers]
        matrices = one.kind.spec.output is Output.MATRIX
        assert (asked.count("document"), asked.count("query"), len(asked)) == (8, 8, 17 if matrices else 16)
        if not matrices:
            assert all(answer.indices is not None and answer.dimension > len(answer.values) for answer in one.answers)
            continue
        *_, score = one.answers
        assert (score.probe.query is not None, len(score.values)) == (True, 1)
        queries = {len(answer.rows()) for answer in one.answers if answer.probe.prompt == "query"}
        assert one.id == "org/saved_multi_vector" or queries == {32}  # the others fill a query up


def test_a_check_that_records_nothing_proves_the_same(root: Root, recorded: tuple[Checked, Checked]) -> None:
    """As a container does when it starts."""
    checked = root.check("org/routes_sparse", "org/stanford_multi_vector")
    assert checked.exit_code == 0
    assert {row["event"] for row in checked.rows.values()} == {"proven"}


# Planted changes. Each model is sealed again, and its recorded numbers are those of the model before.


def change(name: str, how: Callable[[Any], object], path: str = "model.safetensors") -> Callable[[Path], None]:
    """Change the tensors that have this in their names, in place."""

    def spoil(home: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(home / path)
        found = [tensor for one, tensor in tensors.items() if name in one]
        assert found
        for tensor in found:
            how(tensor)
        save_file(tensors, home / path, metadata={"format": "pt"})

    return spoil


def one_number(tensor: Any) -> None:
    """Let one weight be another one."""
    tensor[0, 0] += 1


def one_word(tensor: Any) -> None:
    """Let one word weigh more, which the first text has."""
    tensor[tiny.VOCABULARY.index("the")] *= 1.1


def no_module(part: str) -> Callable[[Path], None]:
    """Take a module out of modules.json."""

    def spoil(home: Path) -> None:
        modules = json.loads((home / "modules.json").read_text())
        left = [module for module in modules if not module["type"].endswith(part)]
        assert len(left) < len(modules)
        (home / "modules.json").write_text(json.dumps(left))

    return spoil


def of_an_embedding_model(home: Path) -> None:
    """An embedding model, on which the loader puts a new SparseAutoEncoder."""
    no_module("SparseAutoEncoder")(home)
    shutil.rmtree(home / "2_SparseAutoEncoder")
    edit("config_sentence_transformers.json", model_type="SentenceTransformer", max_active_dims=None)(home)


def no_settings(home: Path) -> None:
    """A transformer alone, on which the loader puts a new projection."""
    no_modules(home)
    (home / "config_sentence_transformers.json").unlink()


def module_setting(part: str, **values: Any) -> Callable[[Path], None]:
    """Change the settings of a module of this class."""

    def spoil(home: Path) -> None:
        listed = json.loads((home / "modules.json").read_text())
        (path,) = [module["path"] for module in listed if module["type"].endswith(part)]
        edit(f"{path}/config.json", **values)(home)

    return spoil


def with_bias(home: Path) -> None:
    """A projection with a part that the loader leaves out."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(home / "model.safetensors")
    save_file({**tensors, "linear.bias": torch.ones(16)}, home / "model.safetensors", metadata={"format": "pt"})


TABLE = "query_0_SparseStaticEmbedding/model.safetensors"
PREDICTIONS = "cls.predictions"
CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "one-weight": ("splade_sparse", change("transform.dense.weight", one_number), "as document) is no longer zero at"),
    "no-head": ("raw_sparse", drop("predictions.transform"), "random: 0.model.cls.predictions.transform."),
    "zero-head": (
        "saved_sparse",
        change(PREDICTIONS, lambda tensor: tensor.zero_()),
        "it gives nothing but zeros as document: is its head missing, or its table of word weights?",
    ),
    "no-zero": (
        "saved_sparse",
        change("predictions.bias", lambda tensor: tensor.fill_(50.0)),
        'it gives no zero for "The court dismissed the appeal because …" as document',
    ),
    "one-word": ("routes_sparse", change("weight", one_word, TABLE), "as query) moved: cosine 0."),
    "no-table": ("routes_sparse", drop("weight", TABLE), "it does not load: RuntimeError"),
    "zero-table": (
        "saved_routes_sparse",
        change("weight", lambda tensor: tensor.zero_(), TABLE),
        "it gives nothing but zeros as query",
    ),
    "activation": (
        "routes_sparse",
        edit("document_1_SpladePooling/config.json", activation_function="relu"),
        "as document) moved: cosine 0.9",
    ),
    "prompt": (
        "saved_routes_sparse",
        edit("config_sentence_transformers.json", prompts={"query": "the law: "}),
        'the prompt "query" was "" and is "the law: "',
    ),
    "wordless": ("splade_sparse", no_vocabulary, "the same numbers for different words as document: is its vocab"),
    "endless": ("splade_sparse", not_a_number, 'numbers that are not finite for "The court'),
    "fewer-numbers": (
        "csr_sparse",
        edit("config_sentence_transformers.json", max_active_dims=12),
        "has become zero at",
    ),
    "new-encoder": ("csr_sparse", of_an_embedding_model, "random: 2.encoder.weight"),
    "no-encoder": ("csr_sparse", no_module("SparseAutoEncoder"), "gave 128 numbers, and now 32"),
    "one-weight-of-a-projection": (
        "small_stanford_multi_vector",
        change("linear.weight", one_number),
        'probe 1 of 17 ("The court dismissed the appeal because …" as document) moved in row ',
    ),
    "no-projection": ("stanford_multi_vector", drop("linear.weight"), "it does not load: KeyError: 'linear.weight'"),
    "more-of-a-projection": ("stanford_multi_vector", with_bias, "no parameter: linear.bias;"),
    "shorter-queries": (
        "stanford_multi_vector",
        edit("artifact.metadata", query_maxlen=24),
        "as query) gave 32 rows, and now 24",
    ),
    "punctuation": ("stanford_multi_vector", edit("artifact.metadata", mask_punctuation=False), "rows, and now "),
    "no-layer": ("stanford_multi_vector", drop("layer.1.output"), "random: 0.model.encoder.layer.1.output.LayerNorm"),
    "other-marker": (
        "pylate_multi_vector",
        edit("config_sentence_transformers.json", query_prefix="[D] "),
        'the prompt "query" was "[Q] " and is "[D] "',
    ),
    "no-dense": ("pylate_multi_vector", drop("linear.weight", "1_Dense/model.safetensors"), "it does not load: "),
    "longer-documents": (
        "old_pylate_multi_vector",
        edit("config_sentence_transformers.json", document_length=40),
        "rows, and now ",
    ),
    "no-normalize": ("saved_multi_vector", no_module("Normalize"), "has another length in row "),
    "no-row": (
        "saved_multi_vector",
        module_setting("MultiVectorMask", keep_only_token_ids=[100_000]),
        'it gives no vector for "The court dismissed the appeal because …" as document',
    ),
    "new-projection": ("saved_multi_vector", no_settings, "random: 1.linear.weight"),
    "endless-rows": ("pylate_multi_vector", not_a_number, 'numbers that are not finite for "The court'),
}


@pytest.fixture(scope="module")
def spoiled(root: Root, recorded: tuple[Checked, Checked], tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """One check of all changes at once, each in a copy under a name of its own."""
    copy = Root(tmp_path_factory.mktemp("spoiled") / "root")
    copy.folder.mkdir()
    golden = json.loads((root.folder / "models.golden.json").read_text())
    manifest = ""
    for name, (layout_name, spoil, _) in CHANGES.items():
        layout = LAYOUTS[layout_name]
        home = copy.home(layout).with_name(f"org__{name}")
        shutil.copytree(root.home(layout), home)
        before = read_receipt(home)
        assert before is not None
        (home / ".cache-models.json").write_bytes(format_receipt(replace(before, id=f"org/{name}")))
        spoil(home)
        seal(home, recorded=False)
        after = read_receipt(home)
        assert after is not None
        golden["models"][set_digest(after.files)] = golden["models"][set_digest(before.files)]
        manifest += layout.table.replace(layout.id, f"org/{name}")
    (copy.folder / "models.toml").write_text(manifest)
    (copy.folder / "models.golden.json").write_text(json.dumps(golden))
    return copy.check()


@pytest.mark.parametrize("name", CHANGES)
def test_a_planted_change_is_named(name: str, spoiled: Checked) -> None:
    """Exit 6, and the reason: a head, a word, a prompt, a setting, a row."""
    assert spoiled.exit_code == 6
    assert CHANGES[name][2] in "\n".join(spoiled.rows[f"org/{name}"]["problems"])


def test_a_change_of_one_way_is_told_of_no_other(spoiled: Checked) -> None:
    """A word of the table is a matter of queries, an activation one of documents."""
    for name, other in (("one-word", " as document"), ("activation", " as query")):
        assert not [problem for problem in spoiled.rows[f"org/{name}"]["problems"] if other in problem]


@pytest.mark.parametrize(("name", "path"), [("routes_sparse", TABLE), ("stanford_multi_vector", "artifact.metadata")])
def test_a_file_that_a_program_does_not_find_by_the_id_is_named(
    root: Root, recorded: tuple[Checked, Checked], tmp_path: Path, name: str, path: str
) -> None:
    """A client has noted in the view that the repository lacks a file, which then no client looks up any more."""
    copy = Root(tmp_path / "root")
    shutil.copytree(root.folder, copy.folder, symlinks=True)
    snapshot = next((copy.folder / "hub" / f"models--org--{name}" / "snapshots").iterdir())
    note = snapshot.parent.parent / ".no_exist" / snapshot.name / path
    note.parent.mkdir(parents=True)
    note.touch()
    ran = copy.check(f"org/{name}")
    assert ran.exit_code == 6
    assert f"a program that loads it by its id does not find {path} in the Hub view" in ran.lines[-1]["text"]


# The heads of masked language models: SPLADE is any of them, and each class has other names for its head.


def masked(make: Callable[[Path], object], *lost: str) -> Callable[[Path], object]:
    """The repository without the files of sentence-transformers, and without tensors that have this in their names."""

    def made(folder: Path) -> None:
        make(folder)
        shutil.rmtree(folder / "1_Pooling")
        for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
            (folder / name).unlink(missing_ok=True)
        for part in lost:
            drop(part)(folder)

    return made


BERT = transformer("BertForMaskedLM", "BertConfig")
UNTIED = transformer("BertForMaskedLM", "BertConfig", tie_word_embeddings=False)
DISTILBERT = transformer("DistilBertForMaskedLM", "DistilBertConfig", dim=32, n_layers=2, n_heads=2, hidden_dim=48)
POSITIONS = {"pad_token_id": 0, "max_position_embeddings": 70}
ROBERTA = transformer("RobertaForMaskedLM", "RobertaConfig", **POSITIONS)
HEADS: dict[str, Shape] = {
    "bert": Shape(masked(BERT)),
    "bert-of-old": Shape(
        masked(
            with_tensors(
                BERT,
                bert__embeddings__position_ids=(1, 512),
                bert__pooler__dense__weight=(32, 32),
                cls__predictions__decoder__bias=(WORDS,),
                cls__seq_relationship__weight=(2, 32),
            )
        ),
        ("unused weights: cls.seq_relationship, pooler, position_ids",),
    ),
    "bert-untied": Shape(masked(UNTIED)),
    "bert-without-decoder": Shape(
        masked(UNTIED, "decoder"), faults=("random: 0.model.cls.predictions.decoder.bias, ",)
    ),
    "distilbert": Shape(masked(DISTILBERT)),
    "distilbert-without-head": Shape(
        masked(DISTILBERT, "vocab_transform"), faults=("random: 0.model.vocab_transform.bias, ",)
    ),
    "roberta": Shape(masked(ROBERTA)),
    "roberta-without-head": Shape(masked(ROBERTA, "lm_head"), faults=("random: 0.model.lm_head.bias, ",)),
    "modernbert": Shape(
        masked(transformer("ModernBertForMaskedLM", "ModernBertConfig", cls_token_id=2, sep_token_id=3))
    ),
    "electra": Shape(masked(transformer("ElectraForMaskedLM", "ElectraConfig", embedding_size=16))),
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """One check of all heads."""
    root = Root(tmp_path_factory.mktemp("heads"))
    for name, shape in HEADS.items():
        home = root.folder / Kind.SPARSE.spec.collection / f"org__{name}"
        home.mkdir(parents=True)
        shape.make(home)
        publish(home, f"org/{name}", replace(shape, kind=Kind.SPARSE))
    tables = "".join(f'[[sparse]]\nid = "org/{name}"\n' for name in HEADS)
    (root.folder / "models.toml").write_text(tables)
    return root.check()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_its_weights_or_is_told_to_lack_them(name: str, heads: Checked) -> None:
    """Random weights make random vectors; whether those are sparse, is another question."""
    row, shape = heads.rows[f"org/{name}"], HEADS[name]
    problems = [problem for problem in row["problems"] if "keys" in problem]
    assert [told in problem for told, problem in zip(shape.faults, problems, strict=True)] == [True] * len(shape.faults)
    notes = [line["text"] for line in heads.lines if line["event"] == "note" and line.get("model") == f"org/{name}"]
    assert [note.partition(": ")[2] for note in notes] == list(shape.notes)
    assert shape.faults or row["dimension"] == WORDS
