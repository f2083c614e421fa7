"""`outdated`, `lock --upgrade --dry-run` and `lock --diff` say the same of a newer commit, and fetch no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelcache.core.effect import Effect, effect_sentence
from modelcache.core.kinds import Kind
from tests.conftest import Tool
from tests.support.hub import Request, StandInHub
from tests.support.versions import BASE, CODE, OLD, WEIGHTS, Edits, Keys, changed, modules, pickle, repository, weights

MODEL, IMPL = "tinyorg/model", "other/impl"
ST, ST_JSON, POOLING = "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"
NOTE = " (other files than before: the numbers may be equal)"
NOTHING = "nothing that is shipped"
HEADER = 1 << 15
TRUST, PICKLE = "trust_remote_code = true", "allow_pickle = true"
NONE, POSSIBLE, CERTAIN = Effect
MODULES = [f"={OLD}Transformer", f"1_Pooling={OLD}Pooling"]
NEWER = [
    f"={BASE}transformer.Transformer",
    "1_Pooling=sentence_transformers.sentence_transformer.modules.pooling.Pooling",
]
CARD = b"---\nlicense: mit\n---\nnew"
NORMALIZE = f"2_Normalize={OLD}Normalize"
CODED: Edits = {"config.json": Keys(auto_map={"AutoModel": "modeling_x.X"}), "modeling_x.py": CODE}
OF_OTHERS: Edits = {"config.json": Keys(auto_map={"AutoModel": f"{IMPL}--modeling_x.X"})}
PICKLED: Edits = {"model.safetensors": None, "pytorch_model.bin": pickle(100_000)}
SHARDS = {f"model-0000{number}-of-00002.safetensors": weights(number) for number in (1, 2)}
INDEX = {"weight_map": {f"w{number}": shard for number, shard in enumerate(SHARDS)}}


@dataclass(frozen=True)
class Row:
    """A change of a repository, and the words for it."""

    edits: Edits
    says: tuple[tuple[str, str], ...] = ()
    effect: Effect = NONE
    kind: Kind = Kind.EMBEDDING
    before: Edits = field(default_factory=dict)
    """The difference of the pinned version from the usual one."""
    keys: str = ""
    """Keys of its table in models.toml."""
    impl: tuple[Edits, Edits] | None = None
    """Both versions of the repository of its code, which has moved, while its own commit has not."""
    licence: tuple[str, str] | None = None
    reads_weights: bool = False
    """Whether `lock` converts the weights, or reads all of a small file, to know its hash."""

    @property
    def meaning(self) -> str:
        """The last line about the model."""
        return effect_sentence(self.effect, self.kind.spec.output) if self.says else NOTHING


def setting(path: str, key: str, old: str, new: str) -> tuple[str, str]:
    """The words for a setting that differs."""
    return "settings", f"{path}: {key} {old} → {new}"


ROWS = {
    # Files that are not shipped, or that no output depends on.
    "the same files again": Row({}),
    "ONNX, which is not shipped": Row({"onnx/model.onnx": b"\x08\x07" * 9, "onnx/config.json": b"{}"}),
    "an image": Row({"picture.png": b"\x89PNG"}),
    "the card": Row({"README.md": CARD}, (("documents", "README.md"),)),
    "the text of the licence": Row({"LICENSE": b"new"}, (("licence", "LICENSE"),)),
    "the licence": Row({}, (("licence", "apache-2.0 → mit"),), licence=("apache-2.0", "mit")),
    "a licence where none was": Row(
        {"README.md": b"---\nlicense: mit\n---\n"},
        (("documents", "README.md"), ("licence", "unset → mit")),
        before={"README.md": b"none"},
    ),
    "notes in a configuration": Row(
        {"config.json": Keys(transformers_version="5.0", _name_or_path="x")}, (("settings", "config.json"),)
    ),
    # Settings.
    "the length": Row({ST: Keys(max_seq_length=32)}, (setting(ST, "max_seq_length", "64", "32"),), POSSIBLE),
    "prompts": Row(
        {ST_JSON: Keys(prompts={"query": "search: ", "document": "", "law": "x"})},
        (setting(ST_JSON, "prompts.law", "unset", '"x"'), setting(ST_JSON, "prompts.query", '"q: "', '"search: "')),
        POSSIBLE,
        before={ST_JSON: Keys(prompts={"query": "q: "})},
    ),
    "the prompt that is used unasked": Row(
        {ST_JSON: Keys(default_prompt_name="query")},
        (setting(ST_JSON, "default_prompt_name", "unset", '"query"'),),
        POSSIBLE,
        before={ST_JSON: Keys(prompts={"query": "q: "})},
    ),
    "the pooling": Row(
        {POOLING: Keys(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)},
        (setting(POOLING, "pooling_mode", '["mean"]', '["cls"]'),),
        CERTAIN,
    ),
    "a module": Row(
        {"modules.json": modules(*MODULES, NORMALIZE)},
        (
            setting(
                "modules.json",
                "modules",
                '…Pooling (1_Pooling)"]',
                '…Pooling (1_Pooling)", "Normalize (2_Normalize)"]',
            ),
        ),
        CERTAIN,
        before={"modules.json": modules(*MODULES)},
    ),
    "the function that compares vectors": Row(
        {ST_JSON: Keys(similarity_fn_name="dot")}, (setting(ST_JSON, "similarity_fn_name", "unset", '"dot"'),)
    ),
    "the activation": Row(
        {"config.json": Keys(hidden_act="relu")}, (setting("config.json", "hidden_act", '"gelu"', '"relu"'),), POSSIBLE
    ),
    "the schema of a newer sentence-transformers": Row(
        {
            "modules.json": modules(*NEWER),
            POOLING: {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True},
            ST_JSON: Keys(model_type="SentenceTransformer", prompts={"query": "", "document": ""}),
            ST: Keys(transformer_task="feature-extraction"),
        },
        (("settings", f"{POOLING}, {ST_JSON}, modules.json, {ST}"),),
        before={"modules.json": modules(*MODULES)},
    ),
    # The tokenizer.
    "the tokenizer": Row({"tokenizer.json": Keys(version="2.0")}, (("tokenizer", "tokenizer.json"),), POSSIBLE),
    "the vocabulary": Row({"vocab.txt": b"[PAD]\nnew\n"}, (("tokenizer", "vocab.txt"),), POSSIBLE),
    "a setting of the tokenizer": Row(
        {"tokenizer_config.json": Keys(model_max_length=32)},
        (("tokenizer", "tokenizer_config.json: model_max_length 64 → 32"),),
        POSSIBLE,
    ),
    "a file less": Row({"vocab.txt": None}, (("tokenizer", "vocab.txt (gone)"),), POSSIBLE),
    # Weights.
    "the weights": Row({"model.safetensors": weights(1)}, (("weights", "model.safetensors"),), CERTAIN),
    "the weights and more": Row(
        {"model.safetensors": weights(1), "README.md": CARD, ST: Keys(max_seq_length=32)},
        (
            ("weights", "model.safetensors"),
            setting(ST, "max_seq_length", "64", "32"),
            ("documents", "README.md"),
        ),
        CERTAIN,
    ),
    "the weights in shards": Row(
        {"model.safetensors": None, "model.safetensors.index.json": INDEX, **SHARDS},
        (
            (
                "format",
                ", ".join([*(f"{shard} (new)" for shard in SHARDS), "model.safetensors (gone)"])
                + f", model.safetensors.index.json (new){NOTE}",
            ),
        ),
        POSSIBLE,
    ),
    "one shard": Row(
        {next(iter(SHARDS)): weights(3)},
        (("weights", next(iter(SHARDS))),),
        CERTAIN,
        before={"model.safetensors": None, "model.safetensors.index.json": INDEX, **SHARDS},
    ),
    "a pickle that its owner has converted": Row(
        {"model.safetensors": weights(4)},
        (("format", f"model.safetensors{NOTE}"),),
        POSSIBLE,
        before=PICKLED,
        keys=PICKLE,
        reads_weights=True,
    ),
    "another pickle": Row(
        {"pytorch_model.bin": pickle(80_000)},
        (("weights", "model.safetensors"),),
        CERTAIN,
        before=PICKLED,
        keys=PICKLE,
        reads_weights=True,
    ),
    "a new card beside a pickle": Row(
        {"README.md": CARD}, (("documents", "README.md"),), before=PICKLED, keys=PICKLE, reads_weights=True
    ),
    "weights that lie in git": Row(
        {"model.safetensors": weights(1)},
        (("weights", "model.safetensors"),),
        CERTAIN,
        before={".gitattributes": b"#"},
        reads_weights=True,
    ),
    # Code.
    "code": Row({"modeling_x.py": CODE + b"# new\n"}, (("code", "modeling_x.py"),), POSSIBLE, before=CODED, keys=TRUST),
    "more code": Row(
        {"modeling_x.py": b"from .more import Y\n" + CODE, "more.py": b"Y = 1\n"},
        (("code", "modeling_x.py, more.py (new)"),),
        POSSIBLE,
        before=CODED,
        keys=TRUST,
    ),
    "less code": Row(
        {"modeling_x.py": CODE, "more.py": None},
        (("code", "modeling_x.py, more.py (gone)"),),
        POSSIBLE,
        before={**CODED, "modeling_x.py": b"from .more import Y\n" + CODE, "more.py": b"Y = 1\n"},
        keys=TRUST,
    ),
    "no code any more": Row(
        {"config.json": Keys(auto_map=None), "modeling_x.py": None},
        (
            ("settings", 'config.json: auto_map.AutoModel "modeling_x.X" → unset'),
            ("code", "modeling_x.py (gone)"),
            ("code", "remote_code vendored → none"),
        ),
        POSSIBLE,
        before=CODED,
        keys=TRUST,
    ),
    "a package that the code imports": Row(
        {"modeling_x.py": b"import einops\n" + CODE},
        (("code", "modeling_x.py"), ("code", "packages unset → einops")),
        POSSIBLE,
        before=CODED,
        keys=TRUST,
    ),
    "code of another repository": Row(
        {},
        (("code", "modeling_x.py"),),
        POSSIBLE,
        before=OF_OTHERS,
        keys=TRUST,
        impl=({"modeling_x.py": CODE}, {"modeling_x.py": CODE + b"# new\n"}),
    ),
    "a file that the code reads": Row(
        {"words.txt": b"b"},
        (("files", "words.txt"),),
        POSSIBLE,
        before={**CODED, "modeling_x.py": b'F = open("words.txt")\n' + CODE, "words.txt": b"a"},
        keys=TRUST,
    ),
    # Files for other programs.
    "ONNX that `include` names": Row(
        {"onnx/model.onnx": b"\x08\x07" * 10},
        (("included", "onnx/model.onnx"),),
        before={"onnx/model.onnx": b"\x08\x07" * 9},
        keys='include = ["onnx/*"]',
    ),
    "more files that `include` names": Row(
        {"onnx/model_O3.onnx": b"\x08\x07" * 10, "onnx/config.json": b"{}"},
        (("included", "onnx/config.json (new), onnx/model_O3.onnx (new)"),),
        before={"onnx/model.onnx": b"\x08\x07" * 9},
        keys='include = ["onnx/*"]',
    ),
    "a card beside a pickle that is left behind": Row(
        {"README.md": CARD}, (("documents", "README.md"),), before={"train_state": b"\x80\x02}q\x00."}
    ),
    # Every kind.
    "a reranker's weights": Row(
        {"model.safetensors": weights(1)}, (("weights", "model.safetensors"),), CERTAIN, Kind.RERANKER
    ),
    "a reranker's labels": Row(
        {"config.json": Keys(id2label={"0": "yes"}, label2id={"yes": 0})},
        (
            setting("config.json", "id2label.0", '"LABEL_0"', '"yes"'),
            setting("config.json", "label2id.LABEL_0", "0", "unset"),
            setting("config.json", "label2id.yes", "unset", "0"),
        ),
        POSSIBLE,
        Kind.RERANKER,
    ),
    "a reranker's card": Row({"README.md": CARD}, (("documents", "README.md"),), NONE, Kind.RERANKER),
    "a sparse encoder's weights": Row(
        {"model.safetensors": weights(1)}, (("weights", "model.safetensors"),), CERTAIN, Kind.SPARSE
    ),
    "a sparse encoder's pooling": Row(
        {"1_SpladePooling/config.json": Keys(pooling_strategy="sum")},
        (setting("1_SpladePooling/config.json", "pooling_strategy", "unset", '"sum"'),),
        POSSIBLE,
        Kind.SPARSE,
    ),
    "a multi-vector model's weights": Row(
        {"model.safetensors": weights(1)}, (("weights", "model.safetensors"),), CERTAIN, Kind.MULTI_VECTOR
    ),
    "a multi-vector model's words to skip": Row(
        {"1_MultiVectorMask/config.json": Keys(skiplist_words=["."])},
        (setting("1_MultiVectorMask/config.json", "skiplist_words", "unset", '["."]'),),
        POSSIBLE,
        Kind.MULTI_VECTOR,
    ),
    "files that are never loaded": Row(
        {"gguf/model-Q4.gguf": b"GGUF" + b"\2" * 40_000, "notes.json": {"a": 2}},
        (("files", "gguf/model-Q4.gguf, notes.json"),),
        POSSIBLE,
        Kind.OTHER,
    ),
    "the card of files that are never loaded": Row(
        {"README.md": CARD}, (("documents", "README.md"),), NONE, Kind.OTHER
    ),
}


def want(tool: Tool, kind: Kind = Kind.EMBEDDING, keys: str = "") -> None:
    """Write a manifest of one model."""
    (tool.folder / "models.toml").write_text(f'[[{kind}]]\nid = "{MODEL}"\n{keys}\n')


def ran(tool: Tool, *words: str) -> str:
    """Run a command that has to succeed; return its stdout."""
    done = tool(*words)
    assert done.exit_code == 0, done.err
    return done.out


def indented(lines: list[str]) -> list[str]:
    """Take the indentation off, which every line but the first has."""
    assert all(line.startswith(" " * 11) for line in lines[1:])
    return [lines[0], *(line[11:] for line in lines[1:])]


def of_weights(hub: StandInHub) -> list[Request]:
    """Return the requests for weights, of both servers."""
    return [request for request in hub.requests if (request.file or "").endswith((*WEIGHTS, ".gguf"))]


def short(commit: str) -> str:
    """Return a commit as it is printed."""
    return commit[:12]


@pytest.mark.parametrize("name", ROWS)
def test_the_three_commands_say_the_same_of_a_change(name: str, hub: StandInHub, tool: Tool) -> None:
    """The same rows and the same last sentence; `outdated` and `--diff` fetch no weights, `--dry-run` their headers."""
    row = ROWS[name]
    files = changed(repository(row.kind), row.before)
    licences = row.licence or (None, None)
    pinned = hub.add(MODEL, files, licence=licences[0])
    if row.impl:
        hub.add(IMPL, changed({}, row.impl[0]))
    want(tool, row.kind, row.keys)
    ran(tool, "lock")
    old = (tool.folder / "models.lock").read_bytes()
    (tool.folder / "old.lock").write_bytes(old)
    newest = pinned
    if row.impl:
        hub.add(IMPL, changed({}, row.impl[1]))
    else:
        newest = hub.add(MODEL, changed(files, row.edits), licence=licences[1])
    hub.forget()

    lines = indented(ran(tool, "outdated").splitlines())
    commits = [f"{short(pinned)} 2024-01-01  pinned"]
    commits += [f"{short(newest)} 2024-01-02  newest of main"] if newest != pinned else []
    said = [f"{part:<10} {text}" for part, text in row.says] + [row.meaning]
    assert lines == [f"outdated   {row.kind:<12} {MODEL}", *commits, *said]
    (found,) = json.loads(ran(tool, "outdated", "--json"))
    assert (found["state"], found["commit"], found["newest"]) == ("outdated", pinned, newest)
    assert (found["effect"], found["meaning"]) == (row.effect.name.lower(), row.meaning)
    assert of_weights(hub) == []

    hub.forget()
    events = [
        json.loads(line) for line in tool("lock", "--upgrade", "--dry-run", "--log-format", "json").err.splitlines()
    ]
    said = [f"differs  {MODEL}: {part}: {text}" for part, text in row.says] + [f"effect   {MODEL}: {row.meaning}"]
    assert [event["text"] for event in events if event["event"] in ("differs", "effect")] == said
    (moved,) = [event for event in events if event["event"] in ("upgrade", "change")]
    assert of_difference(moved) == of_difference(found)
    assert (tool.folder / "models.lock").read_bytes() == old
    sent: dict[str, int] = {}
    for request in of_weights(hub):
        sent[str(request.file)] = sent.get(str(request.file), 0) + request.sent * (request.host == "cdn")
    assert row.reads_weights or max(sent.values(), default=0) <= HEADER

    ran(tool, "lock", "--upgrade")
    hub.forget()
    moves = "changed" if newest == pinned else "moved"
    commits = [" → ".join(dict.fromkeys([short(pinned), short(newest)]))]
    said = [f"{part:<10} {text}" for part, text in row.says] + [row.meaning]
    lines = indented(ran(tool, "lock", "--diff", "old.lock").splitlines())
    assert lines == [f"{moves:<10} {row.kind:<12} {MODEL}", *commits, *said]
    (difference,) = json.loads(ran(tool, "lock", "--diff", "old.lock", "--format", "json"))
    assert of_difference(difference) == of_difference(found)
    assert of_weights(hub) == []

    hub.forget()
    (current,) = json.loads(ran(tool, "outdated", "--json"))
    assert (current["state"], current["changes"]) == ("current", [])
    assert len(hub.requests) <= (3 if row.impl else 2)


def of_difference(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a difference; the hash of converted weights is not known before they are converted."""
    changes = [
        {key: value for key, value in change.items() if (change["part"], key) != ("weights", "new")}
        for change in fields["changes"]
    ]
    return {"changes": changes, **{key: fields[key] for key in ("unread", "effect", "meaning")}}
