"""The reference API as its clients see it: the real server, over directories that the tool has filled."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from scripts import serve_limits
from tests.conftest import EMBEDDING, PROJECT, RERANKER, SOON, Tool, files_below
from tests.support import models, preloaded, tiny
from tests.support.hub import StandInHub
from tests.support.models.outputs import TEXTS
from tests.support.serving import JSON, Answer, Server, answer_on, container

if TYPE_CHECKING:
    import numpy as np

pytestmark = pytest.mark.slow

DENSE, HALF, ROUTER, STRICT = "tinyorg/dense", "tinyorg/half", "tinyorg/router", "tinyorg/strict-router"
PROMPTS, HOLED, NARROW, GONE = "tinyorg/prompts", "tinyorg/holed", "tinyorg/narrow", "tinyorg/gone"
WIDE = "tinyorg/wide"
SPARSE, MULTI_VECTOR, OTHER = "tinyorg/sparse", "tinyorg/multi-vector", "tinyorg/graph"
NOT_SERVED = {SPARSE: "sparse", MULTI_VECTOR: "multi_vector", OTHER: "other"}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
LONG = "a word and one more " * 40
QUERY = "where is the cat"
DOCUMENTS = ["rain", "the cat sleeps at home", "", "a lawyer can read", "the cat sleeps at home"]
MAX_BATCH, MAX_BYTES, MAX_REQUESTS = 2048, 4 << 20, 32
WIDTH = 1024  # numbers in a vector of the wide model: the kernel does not keep its answers for a client
SECRET = "sk-nobody-may-see-this"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInHub]:
    """A Hub that stays up while the server runs, so that a question to it would be counted."""
    with StandInHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def root(standin: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with every kind of model, one that was taken away again, and a folder that is none."""
    source, folder = tmp_path_factory.mktemp("repositories"), tmp_path_factory.mktemp("root")
    embeddings = {
        EMBEDDING: tiny.tiny_embedding(source / "embedding"),
        DENSE: models.dense_embedding(source / "dense"),
        HALF: models.fp16_embedding(source / "half"),
        ROUTER: models.router_embedding(source / "router"),
        STRICT: without_default_route(models.router_embedding(source / "strict")),
        PROMPTS: with_prompts(tiny.tiny_embedding(source / "prompts")),
        HOLED: with_nan(tiny.tiny_embedding(source / "holed"), "moon"),
        NARROW: with_too_wide_a_window(tiny.tiny_embedding(source / "narrow")),
        WIDE: wide_embedding(source / "wide"),
        GONE: tiny.tiny_embedding(source / "gone"),
    }
    for model_id, repository in embeddings.items():
        standin.add(model_id, files_below(repository))
    standin.add(RERANKER, files_below(tiny.tiny_reranker(source / "reranker")))
    standin.add(SPARSE, files_below(models.splade_sparse(source / "sparse")))
    standin.add(MULTI_VECTOR, files_below(models.saved_multi_vector(source / "multi-vector")))
    standin.add(OTHER, {"model.onnx": b"\x08\x08graph"})
    kinds = {**dict.fromkeys(embeddings, "embedding"), RERANKER: "reranker", **NOT_SERVED}
    tables = [f'[[{kind}]]\nid = "{model_id}"\n' for model_id, kind in kinds.items()]
    (folder / "models.toml").write_text("".join(tables))
    tool = [sys.executable, str(PROJECT / "cache_models.py"), "--quiet"]
    subprocess.run(tool, cwd=folder, env={**os.environ, "HF_ENDPOINT": standin.url}, check=True)
    shutil.rmtree(home(folder, GONE))
    (folder / "cached_embedding_models" / "stray").mkdir()
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of whom the server runs as."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(root: Path, standin: StandInHub, user: Path) -> Iterator[Server]:
    """The API over that root, ready; it could ask the Hub if it wanted to."""
    standin.forget()
    before = files_below(root)
    with Server(root, env={"HF_ENDPOINT": standin.url, "HOME": str(user), "HF_HOME": str(user / "hf")}) as server:
        yield server.wait_until_ready()
        server.stop()
    assert standin.requests == []
    assert list(user.iterdir()) == []
    assert files_below(root) == before


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    """OpenAI's own client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=SECRET, max_retries=0)


def home(root: Path, model_id: str, kind: str = "embedding") -> Path:
    """Where a model is published."""
    return root / f"cached_{kind}_models" / model_id.replace("/", "__")


def wide_embedding(folder: Path) -> Path:
    """A table of long vectors, whose answers are large and made at once."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny.tiny_embedding(folder / "tiny") / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)]).save(str(folder / "saved"))
    return folder / "saved"


def without_default_route(folder: Path) -> Path:
    """A router that does not encode what is neither query nor document."""
    config = json.loads((folder / "router_config.json").read_text())
    config["parameters"] = {"default_route": None, "allow_empty_key": False, "route_mappings": {}}
    tiny.write_json(folder / "router_config.json", config)
    return folder


def with_prompts(folder: Path) -> Path:
    """A model that puts words before queries and documents."""
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    tiny.write_json(
        folder / "config_sentence_transformers.json",
        {**config, "prompts": {"query": "answer the question ", "document": "read "}, "default_prompt_name": None},
    )
    return folder


def with_nan(folder: Path, word: str) -> Path:
    """A model that gives no finite numbers for texts with this word."""
    weights = bytearray((folder / "model.safetensors").read_bytes())
    length = int.from_bytes(weights[:8], "little")
    tensor = json.loads(weights[8 : 8 + length])["embeddings.word_embeddings.weight"]
    start = 8 + length + tensor["data_offsets"][0] + 4 * tensor["shape"][1] * tiny.VOCABULARY.index(word)
    weights[start : start + 4] = b"\x00\x00\xc0\x7f"
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def with_too_wide_a_window(folder: Path) -> Path:
    """A model that says it takes longer texts than it has positions for, so that these raise something."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        config = json.loads((folder / name).read_text())
        tiny.write_json(folder / name, {**config, key: 1000})
    return folder


def load(root: Path, model_id: str) -> Any:
    """The model as an application has it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(home(root, model_id)), device="cpu", local_files_only=True)


def vectors_of(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    """The vectors, which are in the order of their numbers."""
    import numpy as np

    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], dtype="f4")


@pytest.mark.parametrize("model_id", [EMBEDDING, DENSE, HALF, ROUTER, PROMPTS])
def test_vectors_are_those_of_encode(client: openai.OpenAI, server: Server, root: Path, model_id: str) -> None:
    """In both formats, in the order of the texts, alone and together; base64 and float are one number."""
    import numpy as np

    texts = [LONG, *TEXTS]
    expected = load(root, model_id).encode(texts).astype("f4")
    floats = vectors_of(client.embeddings.create(model=model_id, input=texts, encoding_format="float"))
    np.testing.assert_allclose(floats, expected, atol=2e-6 if model_id != HALF else 2e-3)
    assert vectors_of(client.embeddings.create(model=model_id, input=texts)).tobytes() == floats.tobytes()
    raw = server.ask("/v1/embeddings", {"model": model_id, "input": texts, "encoding_format": "base64"}).body
    packed = b"".join(base64.b64decode(one["embedding"]) for one in raw["data"])
    assert packed == floats.astype("<f4").tobytes()
    assert (raw["object"], raw["model"], raw["data"][0]["object"]) == ("list", model_id, "embedding")

    single = vectors_of(client.embeddings.create(model=model_id, input=TEXTS[0], user="someone"))
    np.testing.assert_allclose(single, floats[1:2], atol=2e-6 if model_id != HALF else 2e-3)


@pytest.mark.parametrize(("model_id", "normalises"), [(EMBEDDING, True), (ROUTER, True), (DENSE, False)])
def test_dimensions_cut_and_keep_the_length(client: openai.OpenAI, model_id: str, normalises: bool) -> None:
    """A cut vector has length 1 where whole ones have; a model that does not normalise is only cut."""
    import numpy as np

    whole = vectors_of(client.embeddings.create(model=model_id, input=TEXTS))
    expected = whole[:, :5]
    if normalises:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    cut = vectors_of(client.embeddings.create(model=model_id, input=TEXTS, dimensions=5))
    np.testing.assert_allclose(cut, expected, atol=2e-6)
    full = vectors_of(client.embeddings.create(model=model_id, input=TEXTS, dimensions=whole.shape[1]))
    assert full.tobytes() == whole.tobytes()


@pytest.mark.parametrize("model_id", [PROMPTS, ROUTER, STRICT])
def test_input_type_takes_the_models_own_way(client: openai.OpenAI, root: Path, model_id: str) -> None:
    """The prompt, or the route, that the model has for queries and for documents."""
    import numpy as np

    model = load(root, model_id)
    found = {}
    for input_type, encode in (("query", model.encode_query), ("document", model.encode_document)):
        answer = client.embeddings.create(model=model_id, input=TEXTS, extra_body={"input_type": input_type})
        found[input_type] = vectors_of(answer)
        np.testing.assert_allclose(found[input_type], encode(TEXTS), atol=2e-6)
    assert not np.allclose(found["query"], found["document"], atol=0.01)


def test_usage_counts_what_the_model_reads(server: Server, root: Path) -> None:
    """Special tokens and prompt are in it, padding is not, and a long text ends where the model's window ends."""
    tokenizer = load(root, EMBEDDING).tokenizer
    count = sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)

    def used(**fields: object) -> int:
        usage = server.ask("/v1/embeddings", {"model": EMBEDDING, "input": TEXTS, **fields}).body["usage"]
        assert usage["prompt_tokens"] == usage["total_tokens"]
        total: int = usage["total_tokens"]
        return total

    assert used() == count
    assert used(input=[*TEXTS, LONG]) == count + 64
    assert used(model=PROMPTS, input_type="query") == count + 3 * len(TEXTS)
    assert used(model=STRICT, input_type="query") == count - 2 * len(TEXTS)  # a table reads no special tokens


def test_rerank_sorts_by_the_scores_of_predict(server: Server, root: Path) -> None:
    """Best first, equal ones as they came, whether a document is a text or an object."""
    import numpy as np
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(home(root, RERANKER, "reranker")), device="cpu", local_files_only=True)
    expected = model.predict([(QUERY, document) for document in DOCUMENTS])
    mixed = [text if number % 2 else {"text": text, "id": number} for number, text in enumerate(DOCUMENTS)]
    asked: dict[str, object] = {"model": RERANKER, "query": QUERY, "documents": mixed}
    answer = server.ask("/v1/rerank", asked).body
    order = [result["index"] for result in answer["results"]]
    assert order == sorted(range(len(DOCUMENTS)), key=lambda index: (-round(float(expected[index]), 5), index))
    scores = [result["relevance_score"] for result in answer["results"]]
    np.testing.assert_allclose(scores, expected[order], atol=2e-6)
    assert answer["model"] == RERANKER
    tokens = model.tokenizer([QUERY] * len(DOCUMENTS), DOCUMENTS)["input_ids"]
    assert answer["usage"]["total_tokens"] == sum(map(len, tokens))
    assert all(result.keys() == {"index", "relevance_score"} for result in answer["results"])

    best = server.ask("/v1/rerank", {**asked, "top_n": 2, "return_documents": True}).body["results"]
    assert [result["index"] for result in best] == order[:2]
    assert [result["document"] for result in best] == [{"text": DOCUMENTS[index]} for index in order[:2]]
    assert len(server.ask("/v1/rerank", {**asked, "top_n": 99}).body["results"]) == len(DOCUMENTS)


def test_models_are_listed_by_the_ids_of_their_receipts(client: openai.OpenAI, server: Server) -> None:
    """What was taken away is not there, what has no receipt is not served, and one model can be asked for."""
    listed = {model.id: model for model in client.models.list()}
    embeddings = (EMBEDDING, DENSE, HALF, ROUTER, STRICT, PROMPTS, HOLED, NARROW, WIDE)
    kinds = {model_id: (model.model_extra or {})["kind"] for model_id, model in listed.items()}
    assert kinds == {**dict.fromkeys(embeddings, "embedding"), RERANKER: "reranker", **NOT_SERVED}
    assert client.models.retrieve(DENSE) == listed[DENSE]
    assert listed[DENSE].owned_by == "tinyorg"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve(GONE)
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=GONE, input="a")
    assert [line for line in server.lines if "stray is not served" in line]


@pytest.mark.parametrize(("model_id", "kind"), NOT_SERVED.items())
def test_a_model_of_another_kind_is_listed_and_not_loaded(
    client: openai.OpenAI, server: Server, model_id: str, kind: str
) -> None:
    """Both endpoints refuse it, and the answer and the log say that no endpoint takes it."""
    serves = "this API serves embeddings and rerankers only"
    for path, body in (("embeddings", EMBED), ("rerank", RANK)):
        answer = server.ask(f"/v1/{path}", {**body, "model": model_id})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "wrong_model_kind", "model")
        assert answer.error["message"] == f"{model_id} is of kind {kind}, and {serves}"
    assert client.models.retrieve(model_id).id == model_id
    assert f"{kind} {model_id} is listed and not loaded: {serves}\n" in server.lines
    assert not [line for line in server.lines if line.startswith(f"loaded {kind}")]
    assert "10 models ready\n" in server.lines


EMBED: dict[str, object] = {"model": EMBEDDING, "input": "a"}
RANK: dict[str, object] = {"model": RERANKER, "query": "a", "documents": ["b"]}
REFUSED: list[tuple[str, object, int, str | None, str | None]] = [
    ("embeddings", b"{", 400, None, None),
    ("embeddings", b'{"model": "\xff"}', 400, None, None),
    ("embeddings", b'{"model": "\\ud800"}', 400, None, None),
    ("embeddings", b"[" * 100_000, 400, None, None),
    ("embeddings", [], 400, None, None),
    ("embeddings", {"model": EMBEDDING}, 400, "input", None),
    ("embeddings", {"input": "a"}, 400, "model", None),
    ("embeddings", {**EMBED, "model": "tinyorg/nowhere"}, 404, "model", "model_not_found"),
    ("embeddings", {**EMBED, "model": RERANKER}, 400, "model", "wrong_model_kind"),
    ("embeddings", {**EMBED, "model": 1}, 400, "model", None),
    ("embeddings", {**EMBED, "input": []}, 400, "input", None),
    ("embeddings", {**EMBED, "input": ""}, 400, "input", None),
    ("embeddings", {**EMBED, "input": ["a", ""]}, 400, "input", None),
    ("embeddings", {**EMBED, "input": ["a"] * (MAX_BATCH + 1)}, 400, "input", None),
    ("embeddings", {**EMBED, "input": [101, 102]}, 400, "input", None),
    ("embeddings", {**EMBED, "input": [[101], [102]]}, 400, "input", None),
    ("embeddings", {**EMBED, "input": {"text": "a"}}, 400, "input", None),
    ("embeddings", {**EMBED, "dimensions": 0}, 400, "dimensions", None),
    ("embeddings", {**EMBED, "dimensions": 33}, 400, "dimensions", None),
    ("embeddings", {**EMBED, "dimensions": 1 << 80}, 400, "dimensions", None),
    ("embeddings", {**EMBED, "dimensions": "8"}, 400, "dimensions", None),
    ("embeddings", {**EMBED, "encoding_format": "int8"}, 400, "encoding_format", None),
    ("embeddings", {**EMBED, "input_type": "passage"}, 400, "input_type", None),
    ("embeddings", {**EMBED, "model": STRICT}, 400, "input_type", None),
    ("embeddings", {**EMBED, "dimension": 8}, 400, "dimension", None),
    ("embeddings", {**EMBED, "model": HOLED, "input": "the moon"}, 500, None, "not_finite"),
    ("embeddings", {**EMBED, "model": NARROW, "input": LONG}, 500, None, None),
    ("rerank", {**RANK, "model": EMBEDDING}, 400, "model", "wrong_model_kind"),
    ("rerank", {**RANK, "query": ""}, 400, "query", None),
    ("rerank", {**RANK, "documents": []}, 400, "documents", None),
    ("rerank", {**RANK, "documents": ["a"] * (MAX_BATCH + 1)}, 400, "documents", None),
    ("rerank", {**RANK, "documents": [{"title": "a"}]}, 400, "documents", None),
    ("rerank", {**RANK, "top_n": 0}, 400, "top_n", None),
    ("rerank", {**RANK, "max_chunks_per_doc": 1}, 400, "max_chunks_per_doc", None),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "code"), REFUSED)
def test_what_is_refused_is_told_in_openais_shape(
    server: Server, path: str, body: object, status: int, param: str | None, code: str | None
) -> None:
    answer = server.ask(f"/v1/{path}", body)
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert (answer.status, answer.error["type"]) == (status, kind)
    assert (answer.error["param"], answer.error["code"]) == (param, code), answer.error
    assert answer.error["message"]


def test_nulls_are_as_if_absent(server: Server) -> None:
    """Some clients write every field that they know."""
    nulls = dict.fromkeys(("dimensions", "encoding_format", "input_type", "user"))
    assert server.ask("/v1/embeddings", {**EMBED, **nulls}).body == server.ask("/v1/embeddings", EMBED).body
    assert server.ask("/v1/rerank", {**RANK, "top_n": None, "return_documents": None}).status == 200


def test_paths_and_methods_that_are_not_there(server: Server) -> None:
    assert server.ask("/v1/completions", {}).error["type"] == "invalid_request_error"
    assert server.ask("/v1/completions", {}).status == 404
    for path in ("/v1/embeddings", "/v1/rerank"):
        answer = server.ask(path)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert answer.error["type"] == "invalid_request_error"
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize(
    "headers", [{"Content-Length": str(1 << 40)}, {"Transfer-Encoding": "chunked"}], ids=["declared", "chunked"]
)
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_body_is_refused_while_it_is_read(server: Server, headers: Mapping[str, str], connection: str) -> None:
    """The answer comes before the end of a body that has none, and reaches a client that is still sending."""
    block = b"x" * 65536
    piece = block if "Content-Length" in headers else b"10000\r\n" + block + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Connection": connection}.items())
        line.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
        for _ in range(2 * MAX_BYTES // len(block)):
            line.sendall(piece)
        with line.makefile("rb") as reader:
            assert reader.readline().split()[1] == b"413"


def test_a_body_may_be_as_large_as_is_said(server: Server) -> None:
    """To the byte; JSON may have spaces at its end."""
    largest = json.dumps(EMBED).encode().ljust(MAX_BYTES)
    assert server.ask("/v1/embeddings", largest).status == 200
    refused = server.ask("/v1/embeddings", largest + b" ")
    assert (refused.status, refused.error["code"]) == (413, "request_too_large")


def test_who_finds_no_place_is_told_when_to_come_again(server: Server) -> None:
    """A request keeps its place until its answer is read; when some have gone, others are answered again.

    So clients that ask and do not read hold no more memory than that many answers.
    """
    much = json.dumps({"model": WIDE, "input": ["the cat"] * (MAX_BATCH // 4)}).encode()
    size = len(server.ask("/v1/embeddings", much).content)
    lines = []
    for _ in range(MAX_REQUESTS):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/embeddings", much)
        lines.append((connection, connection.getresponse()))  # its header is there, and the rest is not read
    refused = server.ask("/v1/embeddings", EMBED)
    assert (refused.status, refused.error["code"], refused.error["type"]) == (503, "overloaded", "server_error")
    assert refused.headers["Retry-After"] == "1"
    assert server.ask("/healthz").status == server.ask("/readyz").status == 200

    connection, response = lines.pop()
    assert len(response.read()) == size
    until(server, 200)
    connection.close()
    for connection, response in lines:
        response.close()
        connection.close()
    until(server, 200)


def test_a_body_that_does_not_arrive_takes_no_place(server: Server) -> None:
    """Idle uploads, several times as many as requests have places, keep nobody out, and can be ended well."""
    lines = []
    for _ in range(serve_limits.MAX_UPLOADS):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.putrequest("POST", "/v1/embeddings")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
        lines.append(connection)
    for _ in range(3):
        assert server.ask("/v1/embeddings", EMBED).status == 200
    told = answer_on(lines[0])
    assert (told.status, told.error["code"], told.headers["Retry-After"]) == (503, "overloaded", "1")
    lines[-1].send(json.dumps(EMBED).encode()[1:].ljust(999))
    assert answer_on(lines[-1]).status == 200
    for connection in lines:
        connection.close()


def test_a_body_with_two_lengths_is_refused(server: Server) -> None:
    """In OpenAI's shape; the connection ends, so that nothing can hide behind such a body."""
    headers = {**JSON, "Content-Length": "5", "Transfer-Encoding": "chunked"}
    answer = server.ask("/v1/embeddings", b"0\r\n\r\n", headers=headers)
    assert (answer.status, answer.headers["Connection"]) == (400, "close")
    assert "Transfer-Encoding" in answer.error["message"]


def test_memory_does_not_grow_with_requests(server: Server) -> None:
    """After hundreds of requests of some lengths, a thousand of the same kinds take no more; all say 200 or 400."""

    def ask(number: int) -> int:
        texts = [LONG[: 1 + 7 * number % 80]] * (1 + number % 3)
        path, body = (
            ("rerank", {**RANK, "documents": texts}) if number % 3 == 1 else ("embeddings", {**EMBED, "input": texts})
        )
        return server.ask(f"/v1/{path}", {**body, "unknown": 1} if number % 7 == 2 else body).status

    assert {ask(number) for number in range(400)} == {200, 400}
    before = resident(server)
    for number in range(1000):
        ask(number)
    assert resident(server) - before < 4 << 20


def test_memory_does_not_grow_with_texts_of_all_lengths(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Tensors of all sizes leave holes in the heap; here a layer of real size gives them, and 130 requests suffice."""
    source = models.minilm(tmp_path / "minilm")
    config = json.loads((source / "config.json").read_text())
    tiny.write_json(source / "config.json", {**config, "num_hidden_layers": 1})
    hub.add(MINILM, source)
    tool.want(MINILM)
    assert tool("sync").exit_code == 0
    dice = random.Random(7)

    def ask(server: Server) -> int:
        texts = ["cat " * int(3 * 133 ** dice.random()) for _ in range(dice.randint(1, 8))]
        assert server.ask("/v1/embeddings", {"model": MINILM, "input": texts}).status == 200
        return resident(server)

    with Server(tool.folder) as server:
        server.wait_until_ready()
        sizes = [ask(server) for _ in range(150)]
    # The least of some: free memory is not given back after each request.
    assert min(sizes[-20:]) - min(sizes[:20]) < 24 << 20


def resident(server: Server) -> int:
    """Return how many bytes of memory the server has."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_who_has_gone_is_not_worked_for(server: Server) -> None:
    """A client that gives up and asks again must not make the queue longer each time."""
    said = len(server.lines)
    much = json.dumps({**EMBED, "input": [LONG * 2] * MAX_BATCH}).encode()
    lines = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(3)]
    for connection in lines:
        connection.request("POST", "/v1/embeddings", much)
        time.sleep(0.1)
    for connection in lines[1:]:
        connection.close()
    assert answer_on(lines[0]).status == 200
    lines[0].close()
    until(server, 200)
    while sum("POST " in line for line in server.lines[said:]) < 4:
        time.sleep(0.01)
    assert any(" 499 " in line for line in server.lines[said:])


def until(server: Server, status: int) -> Answer:
    """Ask again until the answer has this status; what others sent has to arrive first."""
    for _ in range(200):
        if (answer := server.ask("/v1/embeddings", EMBED)).status == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(answer)


def test_the_log_has_a_line_a_request_and_no_secret(server: Server) -> None:
    """Method, path, status and time; no query string, no header, no text."""
    said = len(server.lines)
    headers = {**JSON, "Authorization": f"Bearer {SECRET}"}
    for body in ({**EMBED, "input": SECRET}, {**EMBED, "input": SECRET, "dimensions": 99}, {**EMBED, "input": [1]}):
        server.ask(f"/v1/embeddings?key={SECRET}", body, headers=headers)
    server.ask("/healthz")
    server.ask("/v1/end%0Aof%0Alog")
    while not (lines := server.lines[said:]) or "/v1/end" not in lines[-1]:
        time.sleep(0.01)
    forms = [r"POST /v1/embeddings 200 \d+ ms", *[r"POST /v1/embeddings 400 \d+ ms"] * 2, r"GET \S+ 404 \d+ ms"]
    assert [bool(re.fullmatch(form, line.strip())) for form, line in zip(forms, lines, strict=True)] == [True] * 4

    assert server.ask("/v1/embeddings", {"model": NARROW, "input": f"{SECRET} {LONG}"}).error["type"] == "server_error"
    while "POST /v1/embeddings 500 " not in server.lines[-1]:
        time.sleep(0.01)
    assert "in answer" in "".join(server.lines)
    assert SECRET not in "".join(server.lines)


def test_from_the_first_second_to_the_last(hub: StandInHub, pair: Tool, tmp_path: Path) -> None:
    """Alive at once, refusing until every model has answered, then ready; SIGTERM ends it amid a long answer.

    All that as process 1, as any user and with nowhere to write, where the machine lets a test have that.
    """
    hub.add(MINILM, models.minilm(tmp_path / "minilm"))
    pair.want(EMBEDDING, MINILM, rerankers=(RERANKER,))
    assert pair("sync").exit_code == 0
    ended: list[object] = []

    def ask_much(server: Server) -> None:
        try:
            ended.append(server.ask("/v1/embeddings", {"model": MINILM, "input": ["the cat " * 200] * 2000}))
        except (OSError, http.client.HTTPException) as error:
            ended.append(error)

    with Server(pair.folder, before=container()) as server:
        assert server.ask("/healthz").status == 200
        unready = server.ask("/readyz")
        assert (unready.status, unready.body["reason"]) == (503, f"loading {MINILM}")
        early = server.ask("/v1/embeddings", EMBED)
        assert (early.status, early.error["code"], early.headers["Retry-After"]) == (503, "not_ready", "1")
        assert len(server.ask("/v1/models").body["data"]) == 3
        server.wait_until_ready()
        assert server.ask("/v1/embeddings", EMBED).status == 200

        asking = threading.Thread(target=ask_much, args=(server,))
        asking.start()
        time.sleep(1)
        assert server.ask("/healthz").status == 200
        assert not ended
        assert server.stop() < 10  # a second and a little; to the end of the answer it would be a minute
        asking.join()
        assert isinstance(ended[0], Exception)


def test_process_1_ends_while_it_imports_torch(pair: Tool) -> None:
    """The kernel gives process 1 no default for signals, and nothing may wait for the loading thread."""
    if not (before := container()):
        pytest.skip("namespaces of its own are not permitted here")
    assert pair("sync").exit_code == 0
    with Server(pair.folder, before=before) as server:
        assert server.stop() < 10


def test_a_signal_ends_it_before_it_has_imported_anything(tmp_path: Path) -> None:
    """Held in the middle of its imports; with 0, so by a handler: process 1 would not hear it otherwise."""
    (tmp_path / "uvicorn.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    command = [sys.executable, "-m", "scripts.serve"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.terminate()
        assert process.wait(SOON) == 0


def test_a_model_that_gives_no_numbers_ends_the_process(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Its bytes are as pinned, so only loading can tell; the exit code is the one for that."""
    hub.add(HOLED, files_below(with_nan(tiny.tiny_embedding(tmp_path / "holed"), "[CLS]")))
    tool.want(HOLED)
    assert tool("sync").exit_code == 0
    with Server(tool.folder) as server:
        assert server.end() == 6
    failed, hint = server.lines[-2:]
    assert failed.startswith(f"error: {HOLED} does not load: ")
    assert "not finite" in failed
    assert hint.startswith("hint: `cache-models check` ")


def test_a_root_without_a_model_that_is_served(hub: StandInHub, tool: Tool) -> None:
    """The server starts, says that it serves none, is ready, and lists what is there."""
    hub.add(OTHER, {"model.onnx": b"\x08\x08graph"})
    (tool.folder / "models.toml").write_text(f'[[other]]\nid = "{OTHER}"\n')
    assert tool("sync").exit_code == 0
    with Server(tool.folder) as server:
        assert server.ask("/readyz").status == 200
        assert [model["id"] for model in server.ask("/v1/models").body["data"]] == [OTHER]
        assert server.ask("/v1/embeddings", {**EMBED, "model": OTHER}).error["code"] == "wrong_model_kind"
        assert server.ask("/v1/embeddings", EMBED).error["code"] == "model_not_found"
        server.stop()
    assert "no model is served: all that are here are of other kinds\n" in server.lines


def test_what_is_wrong_before_loading_is_told_at_once(pair: Tool) -> None:
    """No model, a damaged model, a port in use: an exit code and words, without torch."""
    assert pair("sync").exit_code == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, words = run(pair.folder, "--port", str(taken.getsockname()[1]))
    assert (code, words.startswith("error: cannot listen on 127.0.0.1 port")) == (2, True)
    (pair.home(EMBEDDING) / "config.json").unlink()
    code, words = run(pair.folder)
    assert (code, f"{EMBEDDING} is damaged or incomplete" in words, "missing  config.json" in words) == (1, True, True)
    code, words = run(pair.folder / "elsewhere")
    assert (code, words.startswith("error: no model is in "), "hint: " in words) == (2, True, True)
    code, words = run(pair.folder, "--po", "1")
    assert (code, "unrecognized arguments" in words) == (2, True)


def run(root: Path, *words: str) -> tuple[int, str]:
    """Start the server where it cannot run; return its exit code and what it said."""
    command = [sys.executable, "-m", "scripts.serve", "--host", "127.0.0.1", *words]
    environment = {**os.environ, "CACHE_MODELS_ROOT": str(root)}
    ran = preloaded.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout == ""
    return ran.returncode, ran.stderr


def test_the_page_is_what_happens(server: Server) -> None:
    """docs/serve.md: its client is run against the server, its commands name what is there, its limits are ours."""
    page = (PROJECT / "docs" / "serve.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    exec(code.replace("http://localhost:8080", server.url).replace(MINILM, PROMPTS), made)
    assert [len(vector) for vector in made["vectors"]] == [32, 32]
    (commands,) = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "$ python -m scripts.serve --port 8080\n" in commands
    limits = {MAX_BATCH, MAX_BYTES >> 20, MAX_REQUESTS, serve_limits.MAX_UPLOADS, serve_limits.MAX_UPLOAD_BYTES >> 20}
    limits |= {serve_limits.HEAD_SECONDS, serve_limits.READ_SECONDS, serve_limits.SEND_SECONDS, serve_limits.MAX_IDLE}
    limits |= {serve_limits.IDLE_SECONDS, serve_limits.SEND_RATE >> 10}
    assert limits <= {int(number) for number in re.findall(r"\d+", page)}
