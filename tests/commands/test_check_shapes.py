"""What `check` says of the shapes that repositories have: weights left over, computed, or read by a package.

The counterpart of the table of what `lock` refuses. All models are made here, with random weights, lie in one root with
a receipt each, and are loaded by one run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel, RemoteCode
from modelcache.formats.receipt import format_receipt
from modelcache.sources.directory import DirectoryRepository
from tests.conftest import PROJECT
from tests.support import models, preloaded, tiny
from tests.support.models.bert import seed

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
WORDS = len(tiny.VOCABULARY)
NAMES = sorted({*tiny.WORDS, "river", "judge", "law", "sea"})


@dataclass(frozen=True)
class Shape:
    """A repository, and what is to be said of it: `notes` where it passes, `faults` where not; parts of sentences."""

    make: Callable[[Path], object]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    kind: Kind = Kind.EMBEDDING
    code: bool = False


def transformer(name: str, config: str, **values: Any) -> Callable[[Path], object]:
    """A class of transformers with its tokenizer, and the modules of sentence-transformers where it is to be embedded.

    `name` is the class whose weights are saved; the loader takes another one of the same configuration.
    """

    def make(folder: Path) -> None:
        import transformers

        tiny.write_paper(folder, name, "sentence-similarity")
        with seed(3):
            shape = getattr(transformers, config)(**{"vocab_size": WORDS, "pad_token_id": 0, **SMALL, **values})
            getattr(transformers, name)(shape).save_pretrained(folder)
        error_lines(folder)
        if "ForSequenceClassification" not in name:
            tiny.write_sentence_files(folder, 32)

    return make


def error_lines(folder: Path) -> None:
    """Write a tokenizer that any class takes."""
    tiny.write_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tiny.write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def with_tensors(
    make: Callable[[Path], object], path: str = "model.safetensors", **more: tuple[int, ...]
) -> Callable[[Path], object]:
    """The same with further tensors, under their names with `__` for a dot."""

    def added(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        make(folder)
        draw = torch.Generator().manual_seed(9)
        extra = {name.replace("__", "."): torch.rand(shape, generator=draw) for name, shape in more.items()}
        save_file({**load_file(folder / path), **extra}, folder / path, metadata={"format": "pt"})

    return added


def edited(make: Callable[[Path], object], path: str, **values: Any) -> Callable[[Path], object]:
    """The same with other values in a JSON file."""

    def changed(folder: Path) -> None:
        make(folder)
        tiny.write_json(folder / path, {**json.loads((folder / path).read_text()), **values})

    return changed


def parts(folder: Path, *modules: tuple[str, str]) -> None:
    """Write modules.json: a path and a class of sentence-transformers each."""
    tiny.write_paper(folder, "parts", "sentence-similarity")
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    tiny.write_json(folder / "modules.json", listed)


def static(*, mapped: bool = False, half: bool = False, more: bool = False) -> Callable[[Path], object]:
    """A table of model2vec: plain, with a quantised vocabulary, in half precision, with a tensor that nothing reads."""

    def make(folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        parts(folder, (".", "StaticEmbedding"), ("1_Normalize", "Normalize"))
        tiny.write_tokenizer(folder)
        draw = torch.Generator().manual_seed(5)
        tensors = {"embeddings": torch.rand(20 if mapped else WORDS, 16, generator=draw) - 0.5}
        if mapped:
            tensors["mapping"] = torch.randint(0, 20, (WORDS,), generator=draw)
            tensors["weights"] = torch.rand(WORDS, generator=draw, dtype=torch.float64)
        if half:
            tensors = {"embedding.weight": tensors["embeddings"].half()}
        if more:
            tensors["projection"] = torch.rand(16, 8, generator=draw)
        save_file(tensors, folder / "model.safetensors")

    return make


def bag(folder: Path) -> None:
    """Counted words: no tensor at all."""
    parts(folder, ("0_BoW", "BoW"))
    weights = {word: 1 + number / 10 for number, word in enumerate(NAMES)}
    config = {"vocab": NAMES, "word_weights": weights, "unknown_word_weight": 0.5, "cumulative_term_frequency": True}
    tiny.write_json(folder / "0_BoW/config.json", config)


def weighted(folder: Path) -> None:
    """A table of words, and a weight for each, which the loader takes from a word list."""
    import torch
    from safetensors.torch import save_file

    parts(folder, ("0_WordEmbeddings", "WordEmbeddings"), ("1_WordWeights", "WordWeights"), ("2_Pooling", "Pooling"))
    words = ["PADDING_TOKEN", *NAMES]
    (folder / "0_WordEmbeddings").mkdir()
    table = torch.rand(len(words), 8, generator=torch.Generator().manual_seed(0))
    save_file({"emb_layer.weight": table}, folder / "0_WordEmbeddings/model.safetensors")
    kind = "sentence_transformers.models.tokenizer.WhitespaceTokenizer.WhitespaceTokenizer"
    config = {"tokenizer_class": kind, "update_embeddings": False, "max_seq_length": 1_000_000}
    tiny.write_json(folder / "0_WordEmbeddings/wordembedding_config.json", config)
    split = {"vocab": words, "stop_words": ["the"], "do_lower_case": True}
    tiny.write_json(folder / "0_WordEmbeddings/whitespacetokenizer_config.json", split)
    weights = {word: 1 + number % 7 for number, word in enumerate(words)}
    tiny.write_json(
        folder / "1_WordWeights/config.json", {"vocab": words, "word_weights": weights, "unknown_word_weight": 1}
    )
    tiny.write_json(folder / "2_Pooling/config.json", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})


def own_code(text: str, **tensors: tuple[int, ...]) -> Callable[[Path], object]:
    """A BERT whose last module is code of its own: `text` is what its `load` does with the weights that it `read`."""
    code = f"""
import torch
from safetensors.torch import load_file
from sentence_transformers.base.modules import Module


class Tilt(Module):
    config_keys = []

    def __init__(self):
        super().__init__()
        self.tilt = torch.nn.Parameter(torch.rand(32))

    def forward(self, features):
        features["sentence_embedding"] = features["sentence_embedding"] + self.tilt
        return features

    def save(self, *args, **kwargs):
        pass

    @classmethod
    def load(cls, place, subfolder="", **kwargs):
        model = cls()
        read = load_file(f"{{place}}/{{subfolder}}/model.safetensors")
        {text}
        return model
"""

    def make(folder: Path) -> None:
        models.custom_module_embedding(folder)
        (folder / "custom_tilt.py").write_text(code)
        path = folder / "2_Tilt" / "model.safetensors"
        tiny.write_safetensors(path, tensors, tiny.random_values(tensors, seed=4))

    return make


READS = {
    "safe-open": ("from safetensors import safe_open", "f = safe_open(path, 'pt')", "f.get_tensor"),
    "slices": ("from safetensors import safe_open", "f = safe_open(path, 'pt')", "(lambda key: f.get_slice(key)[:])"),
    "bytes": ("from safetensors.torch import load as read_all", "f = read_all(open(path, 'rb').read())", "f.get"),
    "numpy": ("from safetensors.numpy import load_file", "f = load_file(path)", "(lambda key: torch.tensor(f[key]))"),
}
"""How code reads weights: what it imports before it loads, how it opens a file, and how it takes a tensor."""


def reads(form: str) -> Callable[[Path], object]:
    """Code that computes its parameter from `a` and `b`, and leaves `c` where it is."""
    imported, opened, tensor = READS[form]

    def make(folder: Path) -> None:
        own_code(
            f"path = f'{{place}}/{{subfolder}}/model.safetensors'; {opened};"
            f" model.tilt.data = {tensor}('a') * {tensor}('b').mean()",
            a=(32,),
            b=(4, 4),
            c=(5,),
        )(folder)
        path = folder / "custom_tilt.py"
        path.write_text(f"{imported}\n{path.read_text()}".replace("        read = load_file(", "        read = str("))

    return make


def in_one_folder(folder: Path) -> None:
    """A module of its own code that lies beside the BERT, in one file with it."""
    from safetensors.torch import load_file, save_file

    own_code("model.tilt.data = read['tilt.values']", tilt=(32,))(folder)
    path = folder / "2_Tilt" / "model.safetensors"
    tilt = {"tilt.values": load_file(path)["tilt"], "tilt.more": load_file(path)["tilt"][:3].clone()}
    save_file({**load_file(folder / "model.safetensors"), **tilt}, folder / "model.safetensors", {"format": "pt"})
    shutil.rmtree(folder / "2_Tilt")
    modules = json.loads((folder / "modules.json").read_text())
    tiny.write_json(folder / "modules.json", [{**one, "path": one["path"].replace("2_Tilt", "")} for one in modules])


def without(*packages: str, says: str) -> Callable[[Path], object]:
    """A model whose code asks for packages that are not there, and then ends with another error."""
    asks = "".join(
        f"""
sys.modules["{package}"] = None
try:
    import {package}
except ImportError:
    pass
"""
        for package in packages
    )

    def make(folder: Path) -> None:
        models.custom_module_embedding(folder)
        (folder / "custom_tilt.py").write_text(f"import sys\n{asks}\nraise {says}\n")

    return make


def pieces(folder: Path) -> None:
    """A tokenizer that is a sentencepiece model alone, as the first XLM-R repositories have it."""
    import transformers

    tiny.write_paper(folder, "pieces", "sentence-similarity")
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model([f"▁{word}" for word in NAMES] + list("abc▁")))
    values = {**SMALL, "vocab_size": len(NAMES) + 10, "pad_token_id": 1, "max_position_embeddings": 70}
    with seed(3):
        transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**values)).save_pretrained(folder)
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 64}
    tiny.write_json(folder / "tokenizer_config.json", settings)
    tiny.write_sentence_files(folder, 32)


def sentencepiece_model(words: list[str]) -> bytes:
    """A unigram model of these pieces, as protobuf writes it: each a message with its text, score and type."""
    import struct

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    listed = [*special, *((word, 1) for word in words)]
    found = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", -float(rank)) + bytes([3 << 3, kind]))
        for rank, (text, kind) in enumerate(listed)
    ]
    return b"".join(found) + field(2, bytes([3 << 3, 1]))


def fails_at(word: str) -> Callable[[Path], object]:
    """A model whose code ends with an error at one text only."""
    text = "model.tilt.data = read['tilt']"
    make = own_code(text, tilt=(32,))

    def added(folder: Path) -> None:
        make(folder)
        path = folder / "custom_tilt.py"
        fails = f'if features["input_ids"].shape[1] > 40:\n            raise KeyError("{word}")\n        features["sen'
        path.write_text(path.read_text().replace('features["sen', fails, 1))

    return added


BERT = transformer("BertModel", "BertConfig")
CLASSIFIER = "is it a model of another kind than its table"
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
CAUSAL = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
HAVE_PIECES = all(importlib.util.find_spec(name) for name in ("sentencepiece", "google"))
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
TRUSTED: dict[str, Shape] = {
    "folded-by-code": Shape(
        own_code("model.tilt.data = read['a'] * read['b'].mean()", a=(32,), b=(4, 4)), ("0 notes",), code=True
    ),
    "random-by-code": Shape(own_code("pass", a=(31,)), faults=("random: 2.tilt", "no parameter: a;"), code=True),
    **{f"read-by-{form}": Shape(reads(form), faults=("no parameter: c;",), code=True) for form in READS},
    "in-one-folder": Shape(in_one_folder, faults=("no parameter: tilt.more;",), code=True),
    "unset-by-code": Shape(
        own_code("model.tilt.data = torch.empty(1 << 24)[:32]", a=(32,)),
        faults=("random: 2.tilt",),
        code=True,
    ),
    "head-of-code": Shape(
        own_code("model.tilt.data = read['tilt']", tilt=(32,), scale=(7,)), faults=("no parameter: scale;",), code=True
    ),
    "constant-of-code": Shape(
        own_code("model.tilt.data = torch.ones(32)", lm_head=(7,)),
        ("computed or constant: 2.tilt", "unused weights: lm_head"),
        code=True,
    ),
    "fails-at-a-text": Shape(
        fails_at("much too long"), faults=("it loads, and fails when it is asked for 80 words: KeyError",), code=True
    ),
}
PACKAGES: dict[str, Shape] = {
    "asks-and-says-so": Shape(
        without(says="ImportError('it requires the einops library', name='einops_of_nobody')"),
        faults=(
            "asks for packages that are not installed here: einops; `pip install einops`",
            "it does not load: ImportError",
        ),
        code=True,
    ),
    "asks-and-misleads": Shape(
        without("flash_attn", "peft", "timm", says="ValueError('files are missing')"),
        faults=("asks for packages that are not installed here: peft; `pip install peft`", "it does not load: "),
        code=True,
    ),
    # Where the packages are installed it passes, as in the images.
    "pieces": Shape(
        pieces,
        faults=() if HAVE_PIECES else ("`pip install sentencepiece", "it does not load: "),
    ),
}
SHAPES: dict[str, Shape] = {
    "bert": Shape(BERT),
    "bert-pretrained": Shape(
        transformer("BertForPreTraining", "BertConfig"), ("unused weights: cls.predictions, cls.seq_relationship",)
    ),
    "bert-old": Shape(with_tensors(BERT, embeddings__position_ids=(1, 512)), ("unused weights: position_ids",)),
    "bert-classifier": Shape(
        with_tensors(BERT, classifier__weight=(1, 32), classifier__bias=(1,)),
        faults=("no parameter: classifier.bias, classifier.weight;", CLASSIFIER),
    ),
    "bert-of-training": Shape(
        with_tensors(BERT, mlp__dense__weight=(32, 32)),
        faults=(
            "no parameter: mlp.dense.weight;",
            "If its card says that they serve training alone, take them out of a copy",
        ),
    ),
    "bert-colbert": Shape(
        with_tensors(transformer("BertForMaskedLM", "BertConfig"), linear__weight=(16, 32)),
        faults=("no parameter: linear.weight;",),
    ),
    "bert-labels": Shape(
        edited(
            with_tensors(BERT, classifier__weight=(1, 32)),
            "config.json",
            architectures=["BertForTokenClassification"],
        ),
        ("unused weights: classifier",),
    ),
    "roberta": Shape(
        transformer("XLMRobertaForMaskedLM", "XLMRobertaConfig", pad_token_id=0, max_position_embeddings=70),
        ("unused weights: lm_head", "unused parameters without a weight: 0.model.pooler"),
    ),
    "mpnet": Shape(
        transformer("MPNetForMaskedLM", "MPNetConfig"),
        ("unused weights: lm_head", "unused parameters without a weight: 0.model.pooler"),
    ),
    "distilbert": Shape(
        transformer("DistilBertForMaskedLM", "DistilBertConfig", dim=32, n_layers=2, n_heads=2, hidden_dim=48),
        ("unused weights: vocab_layer_norm, vocab_projector, vocab_transform",),
    ),
    "albert": Shape(
        transformer("AlbertForPreTraining", "AlbertConfig", embedding_size=16),
        ("unused weights: predictions, sop_classifier",),
    ),
    "electra": Shape(
        transformer("ElectraForPreTraining", "ElectraConfig", embedding_size=16),
        ("unused weights: discriminator_predictions",),
    ),
    "deberta": Shape(
        with_tensors(
            transformer("DebertaV2ForMaskedLM", "DebertaV2Config", **DEBERTA),
            lm_predictions__lm_head__bias=(WORDS,),
            mask_predictions__dense__weight=(32, 32),
        ),
        ("unused weights: cls.predictions, lm_predictions, mask_predictions",),
    ),
    "modernbert": Shape(
        transformer("ModernBertForMaskedLM", "ModernBertConfig", cls_token_id=2, sep_token_id=3),
        ("unused weights: decoder.bias, head.dense, head.norm",),
    ),
    "xlnet": Shape(
        transformer("XLNetLMHeadModel", "XLNetConfig", d_model=32, n_layer=2, n_head=2, d_inner=48),
        ("unused weights: lm_loss",),
    ),
    "nomic": Shape(transformer("NomicBertModel", "NomicBertConfig")),
    "qwen": Shape(
        transformer("Qwen3ForCausalLM", "Qwen3Config", tie_word_embeddings=False, **CAUSAL),
        ("unused weights: lm_head",),
    ),
    "mistral": Shape(transformer("MistralModel", "MistralConfig", **CAUSAL)),
    "gpt2": Shape(transformer("GPT2LMHeadModel", "GPT2Config", n_embd=32, n_layer=2, n_head=2)),
    "gpt-neo-of-old": Shape(
        with_tensors(
            transformer(
                "GPTNeoModel",
                "GPTNeoConfig",
                num_layers=2,
                num_heads=2,
                attention_types=[[["global", "local"], 1]],
                max_position_embeddings=64,
            ),
            h__0__attn__attention__bias=(1, 1, 64, 64),
            h__0__attn__attention__masked_bias=(1,),
        ),
        ("unused weights: attention.bias, masked_bias",),
    ),
    "t5-encoder": Shape(transformer("T5EncoderModel", "T5Config", **T5)),
    "t5": Shape(transformer("T5ForConditionalGeneration", "T5Config", **T5), ("unused weights: decoder",)),
    "reranker": Shape(transformer("BertForSequenceClassification", "BertConfig", num_labels=1), kind=Kind.RERANKER),
    "reranker-of-old": Shape(
        with_tensors(
            transformer(
                "XLMRobertaForSequenceClassification",
                "XLMRobertaConfig",
                num_labels=1,
                pad_token_id=0,
                max_position_embeddings=70,
            ),
            roberta__pooler__dense__weight=(32, 32),
        ),
        ("unused weights: pooler",),
        kind=Kind.RERANKER,
    ),
    "reranker-deberta": Shape(
        transformer("DebertaV2ForSequenceClassification", "DebertaV2Config", num_labels=1, **DEBERTA),
        kind=Kind.RERANKER,
    ),
    "static": Shape(static()),
    "static-mapped": Shape(static(mapped=True), ("computed or constant: 0.embedding.weight",)),
    "static-half": Shape(static(half=True), ('it gives nothing for "": its numbers are not finite',)),
    "static-more": Shape(static(more=True), faults=("no parameter: projection;",)),
    "static-mapped-more": Shape(static(mapped=True, more=True), faults=("no parameter: projection;",)),
    "bag": Shape(bag),
    "weighted": Shape(weighted, ("computed or constant: 1.emb_layer.weight",)),
    **TRUSTED,
    **PACKAGES,
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], list[str]]]:
    """The faults and the notes of every shape, out of one run."""
    root = tmp_path_factory.mktemp("shapes")
    for name, shape in SHAPES.items():
        home = root / f"cached_{shape.kind}_models" / f"org__{name}"
        home.mkdir(parents=True)
        shape.make(home)
        publish(home, f"org/{name}", shape)
    tables = (
        f'[[{shape.kind}]]\nid = "org/{name}"\n{"trust_remote_code = true" * shape.code}\n'
        for name, shape in SHAPES.items()
    )
    (root / "models.toml").write_text("".join(tables))
    ran = preloaded.run(
        [sys.executable, str(PROJECT / "cache_models.py"), "check", "--unconfined", "--log-format=json"],
        cwd=root,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.returncode == 6, lines
    rows = {line["model"]: line["problems"] for line in lines if "problems" in line}
    notes: dict[str, list[str]] = {model: [] for model in rows}
    for line in lines:
        if line["event"] == "note":
            notes[line["model"]].append(line["text"])
    return {model.removeprefix("org/"): (problems, notes[model]) for model, problems in rows.items()}


def publish(home: Path, model: str, shape: Shape) -> None:
    """Write the receipt, as if this had been published so."""
    (home / ".gitattributes").unlink(missing_ok=True)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    repository = DirectoryRepository(model, home)
    pins = [repository.pin(listed) for listed in repository.files.values()]
    files = tuple(sorted((LockedFile(pin.path, pin.size, pin.sha256) for pin in pins), key=lambda file: file.path))
    code = RemoteCode.VENDORED if shape.code else RemoteCode.NONE
    (home / ".cache-models.json").write_bytes(
        format_receipt(LockedModel(shape.kind, model, "main", "c" * 40, files, "mit", code))
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gets_its_verdict(name: str, checked: dict[str, tuple[list[str], list[str]]]) -> None:
    """It passes with these notes and no others, or fails for these reasons."""
    shape = SHAPES[name]
    problems, notes = checked[name]
    assert bool(problems) == bool(shape.faults), problems
    for told in shape.faults:
        assert told in "\n".join(problems)
    if not shape.faults and shape.notes != ("0 notes",):
        assert len(notes) == len(shape.notes), notes
        assert all(any(told in note for note in notes) for told in shape.notes), notes
