"""The reference API over cached models: embeddings in OpenAI's format, reranking in that of Jina and Cohere.

    python -m scripts.serve [--host 0.0.0.0] [--port 8080]

It exists so that the whole chain runs and is tested: one process, one request at a time, no API keys. For production
traffic, replace it with an inference engine; an engine needs only the model directories. `scripts/serve_limits.py`
limits the resources that clients can take.

Beyond OpenAI's parameters `POST /v1/embeddings` takes `input_type`, "query" or "document". It selects the model's own
prompt, and in a router model the matching route (`encode_query`, `encode_document`). Without it a text goes through
`encode`. A text longer than the model's window is truncated, as in sentence-transformers; `usage` counts the tokens
that the model read. Torch uses every core that it sees: set OMP_NUM_THREADS where the container may use only some.

Starlette is the core of FastAPI: 70 ms of import instead of 220, and no dependency beyond those of transformers.
msgspec parses and validates JSON in 0.6 MB, and writes vectors nine times faster than json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        # Process 1 of a container ignores these signals by default, and the imports below take a second. uvicorn
        # replaces these handlers, gives requests GRACE_SECONDS and raises the signal again. Then the process exits at
        # once: it has nothing to save, and a running model cannot be interrupted.
        signal.signal(number, lambda *_: os._exit(0))

from modelcache.check.pip_packages import missing_library
from modelcache.cli.messages import error_lines
from modelcache.cli.progress import write_line

if __name__ == "__main__":
    libraries = ("msgspec", "numpy", "starlette", "uvicorn", "sentence_transformers", "torch")
    if lacking := [name for name in libraries if find_spec(name) is None]:
        refusal = missing_library(lacking[0], "the server", install="pip install '.[serve]'")
        write_line("\n".join(error_lines(refusal)), sys.stderr)
        sys.exit(refusal.exit_code)

import msgspec
import numpy as np
import uvicorn
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import cache_models
from modelcache.api import root
from modelcache.core.errors import CacheModelsError, CheckError, UsageError
from modelcache.core.kinds import Kind, Output
from modelcache.core.types import LockedModel
from modelcache.store.layout import Places
from modelcache.store.lookup import model_path, other_models
from modelcache.system.limits import give_back
from scripts.serve_limits import IDLE_SECONDS, MAX_REQUESTS, Bounded, Connection, RefusedError, Uploads

MAX_BATCH = 2048  # texts or documents in one request, the limit of OpenAI and Jina
GRACE_SECONDS = 1  # for requests to end after SIGTERM
TIDY_SECONDS = 0.25  # the least time between two returns of free memory, which take 3 ms each
PROBES = ("A short text.", "Another one, a little longer, to see that numbers come out.")
TERMINATION_LOG = Path("/dev/termination-log")
DESCRIPTION = (
    "The reference API over cached models: embeddings in OpenAI's format, reranking in that of Jina and Cohere. "
    "It serves the models below CACHE_MODELS_ROOT (default: the current directory), one request at a time, without API "
    "keys. For production traffic replace it with an inference engine."
)
SERVED = "this API serves embeddings and rerankers only"

Text = Annotated[str, Meta(min_length=1)]


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of every body. Unknown fields are refused: ignoring one could give other numbers than intended."""

    model: str


class EmbeddingsBody(Body, frozen=True):
    """The body of POST /v1/embeddings."""

    # Token ids are parsed here so that they can be refused with a message of our own.
    input: Text | Annotated[list[Text | int | list[int]], Meta(min_length=1, max_length=MAX_BATCH)]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: Literal["query", "document"] | None = None
    user: str | None = None


class Document(Struct, frozen=True):
    """A document that is an object; its other fields are ignored."""

    text: str


class RerankBody(Body, frozen=True):
    """The body of POST /v1/rerank."""

    query: Text
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_BATCH)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


A = TypeVar("A", bound=Body)
Answers = dict[str, Callable[[A], bytes]]  # by model id


class TokenCount:
    """Counts the tokens that a model reads: with the prompt, after truncation, without padding."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401  # mypy has no types of torch
        self.seen = 0
        model.register_forward_pre_hook(self._see)

    def _see(self, _model: object, arguments: tuple[Any, ...]) -> None:
        mask = arguments[0].get("attention_mask")  # a static embedding has neither a mask nor padding
        self.seen += int(mask.sum()) if mask is not None else arguments[0]["input_ids"].numel()


class Embedder:
    """An embedding model that is loaded and has given finite numbers."""

    def __init__(self, model_id: str) -> None:
        model = cache_models.load_embedding_model(model_id)
        self._tokens = TokenCount(model)
        self._encoders: dict[str | None, Callable[..., Any]] = {}
        tried = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
        for input_type, encode in tried.items():
            try:
                vectors = finite(encode(list(PROBES), show_progress_bar=False))
            except ValueError as error:  # a router that has no such route, or no default route
                say(f"{model_id} cannot encode with input_type {input_type or 'absent'}: {error}")
                continue
            self._encoders[input_type] = encode
            self._width = vectors.shape[1]
            # Measured, because the module Normalize may be the last one, inside a router, or absent.
            self._normalises = bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01))
        if not self._encoders:
            raise ValueError("it encodes neither plain texts nor queries nor documents")

    def answer(self, body: EmbeddingsBody) -> bytes:
        """Return the vectors in the order of the texts."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not all(isinstance(text, str) for text in texts):
            words = "token ids are not accepted, only texts (in LangChain: check_embedding_ctx_length=False)"
            raise RefusedError(400, words, param="input")
        if body.input_type not in self._encoders:
            words = "this model takes as input_type: " + " or ".join(name or "none" for name in self._encoders)
            raise RefusedError(400, words, param="input_type")
        dimensions = body.dimensions or self._width
        if dimensions > self._width:
            raise RefusedError(400, f"this model has {self._width} dimensions", param="dimensions")
        # A whole vector is returned as the model gives it; a truncated one has to be normalised again.
        cut = {"truncate_dim": dimensions, "normalize_embeddings": self._normalises} if dimensions < self._width else {}
        self._tokens.seen = 0
        vectors = finite(self._encoders[body.input_type](texts, show_progress_bar=False, **cut))
        if body.encoding_format == "base64":
            written = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        else:
            written = vectors.tolist()
        rows = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(written)]
        return list_response(body, self._tokens, data=rows)


class Reranker:
    """A cross-encoder that is loaded and has given one finite number for a pair."""

    def __init__(self, model_id: str) -> None:
        self._model = cache_models.load_reranker(model_id)
        self._tokens = TokenCount(self._model)
        scores = self._scores([PROBES])
        if scores.ndim != 1:
            raise ValueError(f"it gives {scores.shape[1]} numbers for a pair; a reranker has to give one")

    def _scores(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return finite(self._model.predict(pairs, show_progress_bar=False))

    def answer(self, body: RerankBody) -> bytes:
        """Return the best documents first, those with equal scores in the order of the request."""
        texts = [document if isinstance(document, str) else document.text for document in body.documents]
        self._tokens.seen = 0
        scores = self._scores([(body.query, text) for text in texts]).tolist()
        best = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
        rows: list[dict[str, object]] = [{"index": index, "relevance_score": scores[index]} for index in best]
        if body.return_documents:
            rows = [{**row, "document": {"text": texts[index]}} for row, index in zip(rows, best, strict=True)]
        return list_response(body, self._tokens, results=rows)


def finite(numbers: np.ndarray) -> np.ndarray:
    """Return numbers as little-endian float32; refuse NaN and infinity, which JSON cannot represent."""
    if not np.isfinite(numbers).all():
        raise RefusedError(500, "the model gave numbers that are not finite", code="not_finite")
    return numbers.astype("<f4")


def list_response(body: Body, tokens: TokenCount, **rows: object) -> bytes:
    """Write a list in OpenAI's format."""
    usage = {"prompt_tokens": tokens.seen, "total_tokens": tokens.seen}
    return msgspec.json.encode({"object": "list", "model": body.model, **rows, "usage": usage})


class Service:
    """The models, their loading state, and the one thread that loads and runs them.

    One thread: torch spreads a single request over all cores, so two requests at a time would only share the cores and
    need the memory of both. OpenMP also keeps a team of threads for each thread that calls it.
    """

    def __init__(self, found: Sequence[LockedModel]) -> None:
        self.found = found
        outputs = (Output.VECTOR, Output.SCORE)
        self.served = [model for model in found if model.kind.spec.output in outputs]  # the others are listed only
        self.embedders: Answers[EmbeddingsBody] = {}
        self.rerankers: Answers[RerankBody] = {}
        # The model that is being loaded; empty when the service is ready.
        self.loading = self.served[0].id if self.served else ""
        self.worker = ThreadPoolExecutor(1, "models")
        self._lock = asyncio.Lock()
        self._uploads = Uploads()
        self._requests = 0  # requests whose body has arrived and whose answer is not sent yet
        self._tidied = 0.0

    def load(self) -> None:
        """Load every served model in the worker's thread; raise CacheModelsError for the first that fails."""
        for model in self.served:
            self.loading = model.id
            began = time.monotonic()
            try:
                if model.kind.spec.output is Output.VECTOR:
                    self.embedders[model.id] = Embedder(model.id).answer
                else:
                    self.rerankers[model.id] = Reranker(model.id).answer
            except CacheModelsError:
                raise
            except Exception as error:  # the libraries may raise anything
                traceback.print_exc()
                hint = "`cache-models check` loads it in the same way, and names the cause if it is a known one."
                raise CheckError(f"{model.id} does not load: {type(error).__name__}: {error}", hint=hint) from error
            say(f"loaded {model.kind} {model.id} {model.commit[:12]} in {time.monotonic() - began:.1f} s")
        self.loading = ""
        say(f"{len(self.served)} models ready")

    async def embeddings(self, request: Request) -> Response:
        """Answer POST /v1/embeddings."""
        return await self._answer(request, EmbeddingsBody, self.embedders)

    async def rerank(self, request: Request) -> Response:
        """Answer POST /v1/rerank."""
        return await self._answer(request, RerankBody, self.rerankers)

    async def _answer(self, request: Request, shape: type[A], answers: Answers[A]) -> Response:
        """Read a request, wait until the worker is free, and let it answer."""
        if self.loading:
            raise RefusedError(503, f"not ready: loading {self.loading}", code="not_ready")
        self._refuse_overload()  # before the body is read, so that it is not sent in vain
        body = parse_body(await self._uploads.read(request), shape)
        if body.model not in answers:
            named = self._named(body.model)
            why = f"which {request.url.path} does not take" if named in self.served else f"and {SERVED}"
            words = f"{body.model} is of kind {named.kind}, {why}"
            raise RefusedError(400, words, param="model", code="wrong_model_kind")
        request.state.held.enter_context(self._counted())
        async with self._lock:
            if await request.is_disconnected():  # the client no longer waits, and may have sent a new request
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            answering = loop.run_in_executor(self.worker, answers[body.model], body)
            self.worker.submit(self._tidy)  # runs while the answer is sent, and also after a failure
            content = await answering
        return Response(content, media_type="application/json")

    def _tidy(self) -> None:
        """Return free memory to the system, in the worker's thread: texts of all lengths fragment the heap."""
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            give_back()
            self._tidied = time.monotonic()

    def _refuse_overload(self) -> None:
        if self._requests >= MAX_REQUESTS:  # clients can retry, but memory is limited
            raise RefusedError(503, f"{MAX_REQUESTS} requests are waiting already", code="overloaded")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._refuse_overload()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def _named(self, model_id: str) -> LockedModel:
        for model in self.found:
            if model.id == model_id:
                return model
        words = f"{model_id} is not served here; GET /v1/models lists the models"
        raise RefusedError(404, words, param="model", code="model_not_found")

    async def models(self, _request: Request) -> Response:
        """Answer GET /v1/models."""
        return JSONResponse({"object": "list", "data": [card(model) for model in self.found]})

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/{owner/name}."""
        return JSONResponse(card(self._named(request.path_params["model_id"])))

    async def healthz(self, _request: Request) -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "alive"})

    async def readyz(self, _request: Request) -> Response:
        """Say whether every served model is loaded and has given finite numbers."""
        if self.loading:
            return JSONResponse({"status": "not ready", "reason": f"loading {self.loading}"}, 503)
        return JSONResponse({"status": "ready"})


def card(model: LockedModel) -> dict[str, object]:
    """Return a model in OpenAI's format, with its kind; a receipt has no date."""
    owner = model.id.partition("/")[0]
    return {"id": model.id, "object": "model", "created": 0, "owned_by": owner, "kind": str(model.kind)}


def parse_body(content: bytearray, shape: type[A]) -> A:
    """Parse a body; refuse one with the wrong shape."""
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.ValidationError as error:
        place = re.search(r"(?:at `\$\.|field `)(\w+)[^`]*`$", str(error))  # "at `$.input[0]`", "unknown field `foo`"
        raise RefusedError(400, str(error), param=place and place[1]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None


def refuse(_request: Request | None, error: Exception) -> Response:
    """Return any failure in OpenAI's error format."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):  # raised by Starlette: no such path, no such method
        headers |= error.headers or {}
        error = RefusedError(error.status_code, error.detail)
    elif isinstance(error, ClientDisconnect):
        error = RefusedError(499, "the client is gone")  # for the log; the answer is not read
    elif not isinstance(error, RefusedError):
        error = RefusedError(500, "a bug, or an input that this model does not accept; the server's log has details")
    if error.status == 503:
        headers["Retry-After"] = "1"
    if error.close:
        headers["Connection"] = "close"
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    told = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": told}, error.status, headers)


class Logged:
    """The application, with one line on stderr per request: never a query string, a header or a text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log its status and duration."""
        began = time.monotonic()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001  # it is answered already; its message may contain a text of a client
            say("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        if scope["path"] not in ("/healthz", "/readyz"):
            path = scope["raw_path"].decode()
            say(f"{scope['method']} {path} {status} {(time.monotonic() - began) * 1000:.0f} ms")


def make_app(service: Service) -> ASGIApp:
    """Return the application."""
    routes = [
        Route("/v1/embeddings", service.embeddings, methods=["POST"]),
        Route("/v1/rerank", service.rerank, methods=["POST"]),
        Route("/v1/models", service.models),
        Route("/v1/models/{model_id:path}", service.model),
        Route("/healthz", service.healthz),
        Route("/readyz", service.readyz),
    ]
    failures = (RefusedError, HTTPException, ClientDisconnect, Exception)
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(failures, refuse))
    return Logged(Bounded(app, lambda error: refuse(None, error)))


def find_models(places: Places) -> list[LockedModel]:
    """Return the receipts of the models; raise CacheModelsError, before torch loads, if none is there or one is bad."""
    found = []
    ours, foreign = other_models((), places)
    for home, model in ours.items():
        if places.home(model.kind, model.id) == home:
            model_path(model.id, Places({model.kind: places.collections[model.kind]}))
            found.append(model)
        else:
            foreign.append(home)
    for home in foreign:
        say(f"{home} is not served: its receipt is missing or names another directory")
    if not found:
        hint = "Run `cache-models sync` first, or check CACHE_MODELS_ROOT."
        folder = places.collections[Kind.EMBEDDING].parent
        raise UsageError(f"no model is in the cached_*_models directories of {folder}", hint=hint)
    return found


def serve(host: str, port: int) -> None:
    """Serve until a signal ends the process; raise CacheModelsError if the server cannot start."""
    service = Service(find_models(Places.below(root())))
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        hint = "Check --host (HOST) and --port (PORT), and that no other process listens there."
        raise UsageError(f"cannot listen on {host} port {port}: {error}", hint=hint) from error
    app = make_app(service)
    http: dict[str, Any] = {"http": Connection, "ws": "none", "lifespan": "off", "server_header": False}
    log: dict[str, Any] = {"log_config": None, "access_log": False}
    ends: dict[str, Any] = {"timeout_keep_alive": IDLE_SECONDS, "timeout_graceful_shutdown": GRACE_SECONDS}
    server = uvicorn.Server(uvicorn.Config(app, **http, **log, **ends))

    def stop_if_failed(loading: Future[None]) -> None:
        if loading.exception():  # a pod that can never become ready has to end and give the reason
            server.should_exit = True

    loading = service.worker.submit(service.load)
    loading.add_done_callback(stop_if_failed)
    say(f"listening on {host} port {listener.getsockname()[1]}; {len(service.served)} models to load")
    for model in service.found:
        if model not in service.served:
            say(f"{model.kind} {model.id} is listed and not loaded: {SERVED}")
    if not service.served:
        say("no model is served: all that are here are of other kinds")
    server.run(sockets=[listener])
    loading.result()


def say(text: str) -> None:
    """Print one line to stderr."""
    write_line(text, sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; return its exit code, with the meanings of cache_models.py."""
    parser = argparse.ArgumentParser(prog="python -m scripts.serve", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--host",
        default=os.environ.get("HOST") or "0.0.0.0",  # noqa: S104
        help="address to listen on (default: the variable HOST, else 0.0.0.0)",
    )
    parser.add_argument(
        "--port",
        default=os.environ.get("PORT") or "8080",
        type=int,
        help="port to listen on; 0: any (default: the variable PORT, else 8080)",
    )
    options = parser.parse_args(argv)
    # Requests of libraries to the Hub have to fail. Progress bars do not belong in a log.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        # No directory is writable, but importing torch makes one for compiled code. An existing directory satisfies it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.sep)
    try:
        serve(options.host, options.port)
    except CacheModelsError as error:
        words = "\n".join(error_lines(error))
        say(words)
        if TERMINATION_LOG.exists():  # `kubectl describe pod` shows it
            with suppress(OSError):
                TERMINATION_LOG.write_text(words[-4096:])
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
