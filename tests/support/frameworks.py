"""Run the blocks of docs/frameworks.md: tell what the framework answers, and which connections it tries.

A program that test_frameworks.py starts with an interpreter that has the frameworks. It reads an order from stdin and
prints a report; what the frameworks say goes to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

MARK = "/mark"
TEXTS = ["the cat sleeps in the sun", "a lawyer can read\nthe contract", "river " * 200]
QUERY = "who can read"
PROMPTS = {"query": "question: ", "document": "text: "}

Answers = dict[str, Any]


def main() -> None:
    """Carry out the order."""
    order = json.load(sys.stdin)
    tried = watch_connections()
    report: dict[str, Any] = {}
    # What is registered first runs last: after whatever still sends when the process ends.
    stdout, sys.stdout = sys.stdout, sys.stderr
    atexit.register(lambda: print(json.dumps(report | {"tried in all": tried}), file=stdout, flush=True))

    report["own"] = own_answers(order["embedding"], order["reranker"])
    report["by id"] = answers(order["by id"])
    go_online()
    report["by path"] = answers(order["by path"])
    report["tried"] = len(tried)
    for variant in order["variants"]:
        # The Hub's record then shows which requests belong to which variant.
        with contextlib.suppress(HTTPError):
            urlopen(f"{os.environ['HF_ENDPOINT']}{MARK}")
        with contextlib.suppress(Exception):
            answers(variant)


def go_online() -> None:
    """Let the libraries ask the Hub from here on, as if HF_HUB_OFFLINE had not been set; they look at it each time."""
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False


def watch_connections() -> list[str]:
    """Return a list that grows by each host that is looked up or connected to; only loopback is let through."""
    tried: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        tried.append(str(host))
        if host != "127.0.0.1":
            raise OSError(f"a test reaches nothing but loopback, not {host}")

    sys.addaudithook(watch)
    return tried


def answers(block: str) -> Answers:
    """Run the block, then ask what it made."""
    made: dict[str, Any] = {}
    exec(block, made)
    if "embeddings" in made:
        return langchain(**made)
    return llama_index(**made) if "embed_model" in made else haystack(**made)


def langchain(embeddings: Any, reranker: Any, **_: object) -> Answers:
    """Ask LangChain; its reranker is the CrossEncoder itself."""
    return {
        "documents": embeddings.embed_documents(TEXTS),
        "query": embeddings.embed_query(QUERY),
        "scores": reranker.predict([(QUERY, text) for text in TEXTS]).tolist(),
    }


def llama_index(embed_model: Any, reranker: Any, **_: object) -> Answers:
    """Ask LlamaIndex: without the model's prompts, which it ignores, and with them passed as words."""
    from llama_index.core.schema import NodeWithScore, TextNode

    prompted = type(embed_model)(
        embed_model.model_name,
        local_files_only=True,
        query_instruction=PROMPTS["query"],
        text_instruction=PROMPTS["document"],
    )
    reranker.top_n = len(TEXTS)
    ranked = reranker.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in TEXTS], query_str=QUERY)
    scores = {node.node.text: node.score for node in ranked}
    return {
        "documents": prompted.get_text_embedding_batch(TEXTS),
        "query": prompted.get_query_embedding(QUERY),
        "without prompts": embed_model.get_text_embedding_batch([*TEXTS, QUERY]),
        "scores": [scores[text] for text in TEXTS],
    }


def haystack(document_embedder: Any, text_embedder: Any, ranker: Any, **_: object) -> Answers:
    """Ask Haystack, the query in a pipeline, since running one is what its telemetry tells."""
    from haystack import Document, Pipeline

    pipeline = Pipeline()
    pipeline.add_component("embedder", text_embedder)
    documents = [Document(content=text) for text in TEXTS]
    scores = {found.content: found.score for found in ranker.run(query=QUERY, documents=documents)["documents"]}
    return {
        "documents": [found.embedding for found in document_embedder.run(documents)["documents"]],
        "query": pipeline.run({"embedder": {"text": QUERY}})["embedder"]["embedding"],
        "scores": [scores[text] for text in TEXTS],
    }


def own_answers(embedding: str, reranker: str) -> Answers:
    """Ask sentence-transformers, of the same directories."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    model = SentenceTransformer(embedding, local_files_only=True)
    pairs = [(QUERY, text) for text in TEXTS]
    return {
        "documents": model.encode_document(TEXTS).tolist(),
        "query": model.encode_query(QUERY).tolist(),
        "without prompts": model.encode([*TEXTS, QUERY], prompt="").tolist(),
        "scores": CrossEncoder(reranker, local_files_only=True).predict(pairs).tolist(),
    }


if __name__ == "__main__":
    main()
