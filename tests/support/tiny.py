"""Write small model repositories by hand, with nothing but the standard library.

The files are those a sentence-transformers repository on the Hub has, so the demo and the transfer tests get a
model that loads without having torch to make it. Nothing here knows the tool under test.
"""

from __future__ import annotations

import json
import math
import random
import sys
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = """
a about after all and answer apple are as at bank be bird black blue book boy bread but buy by can car cat child
city coffee cold contract court day did dog door drink each fast fire fish food for from game girl give go good
green has have he home horse house how i in is it judge law lawyer light like long man market milk money moon
music new night not of old on one open or paper people play price question rain read red river road run sea sell
she ship sleep slow small snow song star street sun table tea that the they this to town train tree two under
walk wall warm was water we what where white who wind window with woman word work you young
"""
WORDS = tuple(TEXT.split())
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789")
# Letters stand for whatever the words do not cover, so no ordinary text becomes [UNK].
VOCABULARY = (*SPECIAL, *".,?!-'", *LETTERS, *("##" + letter for letter in LETTERS), *(w for w in WORDS if len(w) > 1))

MIT = """MIT License

Copyright (c) the authors of this test model

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
BLOCK = 1024 * 1024
ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that make one BERT different from another."""

    vocabulary: int = len(VOCABULARY)
    hidden: int = 32
    layers: int = 2
    inner: int = 64
    heads: int = 2
    positions: int = 64

    def config(self, architecture: str) -> dict[str, object]:
        """Return what config.json says of this shape."""
        return {
            "architectures": [architecture],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.inner,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": self.positions,
            "model_type": "bert",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "vocab_size": self.vocabulary,
        }

    def tensors(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Return every parameter of a BertModel with its shape, in the order the file has them."""
        found: dict[str, tuple[int, ...]] = {}

        def linear(name: str, to: int, of: int) -> None:
            found[f"{prefix}{name}.weight"] = (to, of)
            found[f"{prefix}{name}.bias"] = (to,)

        def norm(name: str) -> None:
            found[f"{prefix}{name}.LayerNorm.weight"] = (self.hidden,)
            found[f"{prefix}{name}.LayerNorm.bias"] = (self.hidden,)

        found[f"{prefix}embeddings.word_embeddings.weight"] = (self.vocabulary, self.hidden)
        found[f"{prefix}embeddings.position_embeddings.weight"] = (self.positions, self.hidden)
        found[f"{prefix}embeddings.token_type_embeddings.weight"] = (2, self.hidden)
        norm("embeddings")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                linear(f"{layer}.attention.{part}", self.hidden, self.hidden)
            norm(f"{layer}.attention.output")
            linear(f"{layer}.intermediate.dense", self.inner, self.hidden)
            linear(f"{layer}.output.dense", self.hidden, self.inner)
            norm(f"{layer}.output")
        linear("pooler.dense", self.hidden, self.hidden)
        return found


def tiny_embedding(folder: Path) -> Path:
    """Write a whole embedding model of about 115 KB: Transformer, Pooling, Normalize."""
    shape = Shape()
    write_paper(folder, "tiny-embedding", "sentence-similarity")
    write_tokenizer(folder)
    write_json(folder / "config.json", shape.config("BertModel"))
    write_sentence_files(folder, shape.hidden)
    tensors = shape.tensors()
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=1))
    return folder


def tiny_reranker(folder: Path) -> Path:
    """Write a whole cross-encoder of about 115 KB as transformers saves it: no modules.json."""
    shape = Shape()
    write_paper(folder, "tiny-reranker", "text-ranking")
    write_tokenizer(folder)
    write_json(folder / "config.json", {**shape.config("BertForSequenceClassification"), **ONE_LABEL})
    tensors = {**shape.tensors("bert."), **classifier(shape)}
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=2))
    return folder


def big_embedding(folder: Path, megabytes: int, *, sparse: bool = False, all_tokens: bool = False) -> Path:
    """Write an embedding model whose weights take about ``megabytes`` million bytes, quickly.

    The numbers mean nothing, but they are finite and fit config.json, so the model loads. From 1112 megabytes on it
    has the shape of XLM-RoBERTa base. ``sparse`` leaves the weights as a hole: no disk, all zeros. With ``all_tokens``
    the tokenizer has as many words as the weights have rows for them, which takes real tokenizers' time to load.
    """
    shape = shape_of(megabytes * 1_000_000)
    write_paper(folder, f"big-embedding-{megabytes}", "sentence-similarity")
    write_tokenizer(folder, shape.vocabulary if all_tokens else 0)
    write_json(folder / "config.json", shape.config("BertModel"))
    write_sentence_files(folder, shape.hidden)
    write_weights(folder, shape.tensors(), sparse=sparse)
    return folder


def big_reranker(folder: Path, megabytes: int, *, sparse: bool = False, all_tokens: bool = False) -> Path:
    """Write a cross-encoder of that size, otherwise as ``big_embedding``."""
    shape = shape_of(megabytes * 1_000_000)
    write_paper(folder, f"big-reranker-{megabytes}", "text-ranking")
    write_tokenizer(folder, shape.vocabulary if all_tokens else 0)
    write_json(folder / "config.json", {**shape.config("BertForSequenceClassification"), **ONE_LABEL})
    write_weights(folder, {**shape.tensors("bert."), **classifier(shape)}, sparse=sparse)
    return folder


def classifier(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a cross-encoder has on top."""
    return {"classifier.weight": (1, shape.hidden), "classifier.bias": (1,)}


def write_weights(folder: Path, tensors: Mapping[str, tuple[int, ...]], *, sparse: bool) -> None:
    """Write weights of cheap numbers, or of none."""
    write_safetensors(folder / "model.safetensors", tensors, () if sparse else cheap_blocks(size_of(tensors)))


def shape_of(size: int) -> Shape:
    """Return a shape with about ``size`` bytes of weights; the vocabulary takes what the layers leave."""
    hidden, heads, positions = (768, 12, 512) if size >= 60_000_000 else (64, 2, 64)
    layer = 4 * 12 * hidden * hidden
    layers = max(1, min(12, size // 2 // layer))
    bare = Shape(0, hidden, layers, 4 * hidden, heads, positions)
    rest = size - size_of(bare.tensors())
    return replace(bare, vocabulary=max(len(VOCABULARY), rest // (4 * hidden)))


def size_of(tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Return the bytes that float32 tensors of these shapes take."""
    return 4 * sum(math.prod(shape) for shape in tensors.values())


def random_values(tensors: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[bytes]:
    """Give each tensor values from a fixed seed, so that two writers write the same bytes."""
    # random() alone is promised to give the same numbers in every Python; gauss() is not.
    draw = random.Random(seed).random
    for name, shape in tensors.items():
        count = math.prod(shape)
        if name.endswith("LayerNorm.weight"):
            yield floats([1.0] * count)
        elif name.endswith("LayerNorm.bias"):
            yield floats([0.0] * count)
        else:
            yield floats(draw() - 0.5 for _ in range(count))


def cheap_blocks(size: int, length: int = BLOCK) -> Iterator[bytes | memoryview]:
    """Yield ``size`` bytes of small floats: one block, turned differently for each place in the file.

    No two blocks are equal, so a block that lands in the wrong place is seen.
    """
    draw = random.Random(3).random
    block = floats(draw() - 0.5 for _ in range(BLOCK // 4)) * (length // BLOCK)
    twice = memoryview(block + block)
    for number, done in enumerate(range(0, size, length)):
        start = number * 4 * 8191 % BLOCK
        yield twice[start : start + min(length, size - done)]


def floats(values: Iterable[float]) -> bytes:
    """Return the values as little-endian 32-bit floats."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, tuple[int, ...]], chunks: Iterable[bytes | memoryview]) -> None:
    """Write float32 tensors one after the other; what ``chunks`` leaves out becomes a hole of zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for chunk in chunks:
            file.write(chunk)
        file.truncate(8 + len(text) + end)


def safetensors_of(data: bytes, size: int = 0) -> bytes:
    """Return a safetensors file that holds these bytes as one tensor; zeros follow them up to ``size`` in all."""

    def header(length: int) -> bytes:
        text = json.dumps({"weights": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}})
        return (240).to_bytes(8, "little") + text.encode().ljust(240)

    data = data.ljust(size - len(header(0)), b"\0")
    return header(len(data)) + data


def write_pickle(path: Path, size: int) -> Path:
    """Write a state dict of about ``size`` bytes as torch.save does, in tensors of 4 MB at most, without torch."""
    numbers = [min(1 << 20, size // 4 - done) for done in range(0, size // 4, 1 << 20)]
    code = [b"\x80\x02}("]
    for number, count in enumerate(numbers):
        name = f"tensor.{number}".encode()
        code.append(b"X" + len(name).to_bytes(4, "little") + name + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        key = str(number).encode()
        code.append(b"X\x07\0\0\0storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key)
        code.append(b"X\x03\0\0\0cpuJ" + count.to_bytes(4, "little") + b"tQK\0J" + count.to_bytes(4, "little"))
        code.append(b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"".join(code) + b"u.")
        archive.writestr("archive/byteorder", b"little")
        for number, (count, block) in enumerate(zip(numbers, cheap_blocks(sum(numbers) * 4, 4 * BLOCK), strict=True)):
            archive.writestr(f"archive/data/{number}", block[: 4 * count])
        archive.writestr("archive/version", b"3\n")
    return path


def write_tokenizer(folder: Path, size: int = 0) -> None:
    """Write a lower-casing WordPiece tokenizer over VOCABULARY in all the files BERT repositories have.

    Where ``size`` is larger, made-up words fill it up.
    """
    vocabulary = (*VOCABULARY, *(f"word{number}" for number in range(size - len(VOCABULARY))))
    ids = {token: number for number, token in enumerate(vocabulary)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **plain} for token in SPECIAL],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, *second],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "special_tokens_map.json", names)
    rest = {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}
    write_json(folder / "tokenizer_config.json", {**names, **rest})
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")


def write_sentence_files(folder: Path, dimension: int) -> None:
    """Write what sentence-transformers adds to a transformers repository: modules, pooling, lengths."""
    parts = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(folder / "config_sentence_transformers.json", {"__version__": versions})
    pooling = {"word_embedding_dimension": dimension, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def write_paper(folder: Path, title: str, task: str, tags: Sequence[str] = ()) -> None:
    """Write the files that are read by people and by git: card, licence, attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    tagged = "".join(f"- {tag}\n" for tag in tags)
    front = f"---\nlicense: mit\nlanguage: en\nlibrary_name: sentence-transformers\npipeline_tag: {task}\n"
    front += f"tags:\n{tagged}---\n" if tags else "---\n"
    (folder / "README.md").write_text(f"{front}\n# {title}\n\nA model of random weights, made for tests.\n", "utf-8")
    (folder / "LICENSE").write_text(MIT, "utf-8")
    large = "".join(f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in ("bin", "h5", "onnx", "safetensors"))
    (folder / ".gitattributes").write_text(large, "utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON the way it stands in repositories: two spaces and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
