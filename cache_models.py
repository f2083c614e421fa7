#!/usr/bin/env python3
"""Put models of sentence-transformers on disk, ready to load offline.

Run it (`cache-models --help`) or import it; importing needs neither torch nor sentence-transformers.
"""

# Annotations are in quotes, and nothing here is newer than Python 3.6, so that an older Python can say what it lacks.
import os
import sys

TYPE_CHECKING = False  # importing typing would cost a third of a start with nothing to do
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

    EMBEDDING_MODELS: list[str]
    RERANKER_MODELS: list[str]
    EMBEDDINGS_DIR: Path
    RERANKERS_DIR: Path

__all__ = [
    "EMBEDDINGS_DIR",
    "EMBEDDING_MODELS",
    "RERANKERS_DIR",
    "RERANKER_MODELS",
    "cache_cross_encoders",
    "cache_sentence_transformers",
    "index_id",
    "load_embedding_model",
    "load_multi_vector_encoder",
    "load_reranker",
    "load_sparse_encoder",
    "main",
    "model_path",
    "sanitize_model_id",
]


def sanitize_model_id(model_id: str) -> str:
    """Return the directory name of a model: `owner/name` becomes `owner__name`."""
    return model_id.replace("/", "__")


def cache_sentence_transformers(
    model_ids: "Iterable[str]", output_dir: "Path", *, trust_remote_code: bool = True
) -> None:
    """Make each id end as `output_dir/<sanitized id>`, loadable by `SentenceTransformer(<that path>)`.

    Follows models.lock where it names the id, else pins `main` in the receipt. Nothing of a repository is
    executed; `trust_remote_code` only permits its code to be shipped.

    Raises:
        modelcache.core.errors.CacheModelsError: with `message`, `hint` and `exit_code`.

    """
    from modelcache.api import cache_models
    from modelcache.core.kinds import Kind

    cache_models(Kind.EMBEDDING, model_ids, output_dir, trust_remote_code=trust_remote_code)


def cache_cross_encoders(model_ids: "Iterable[str]", output_dir: "Path") -> None:
    """Make each id end as `output_dir/<sanitized id>`, loadable by `CrossEncoder(<that path>)`.

    Raises:
        modelcache.core.errors.CacheModelsError: with `message`, `hint` and `exit_code`.

    """
    from modelcache.api import cache_models
    from modelcache.core.kinds import Kind

    cache_models(Kind.RERANKER, model_ids, output_dir)


def model_path(model_id: str) -> "Path":
    """Return the absolute directory of a cached model, below CACHE_MODELS_ROOT or the current directory.

    Raises:
        modelcache.core.errors.UsageError: it is not there, or another model is in its place.
        modelcache.core.errors.IntegrityError: it is there and not whole.

    """
    from modelcache.api import path_of

    return path_of(model_id)


def index_id(model_id: str) -> str:
    """Return the identity of an index with the vectors of a cached model: `v1-` and 32 hex digits.

    Store it beside the index, and compare it at each start. Equal ids mean equal weights, tokenizer, code and settings:
    then vectors agree within the tolerance of `check`, with equal options of the loader and equal libraries. Different
    ids mean that vectors may not be comparable.

    Raises:
        modelcache.core.errors.UsageError: the model is not there, or gives no vectors, as a reranker.
        modelcache.core.errors.IntegrityError: it is there and not whole.

    """
    from modelcache.api import index_id

    return index_id(model_id)


def load_embedding_model(model_id: str, **kwargs: object) -> "SentenceTransformer":
    """Return the SentenceTransformer of a cached model, loaded without a request; `kwargs` are its own.

    Raises:
        modelcache.core.errors.UsageError, modelcache.core.errors.IntegrityError: as `model_path`.

    """
    from modelcache.api import load_model

    model: SentenceTransformer = load_model("embedding", model_id, kwargs)
    return model


def load_reranker(model_id: str, **kwargs: object) -> "CrossEncoder":
    """Return the CrossEncoder of a cached model, loaded without a request; `kwargs` are its own.

    Raises:
        modelcache.core.errors.UsageError, modelcache.core.errors.IntegrityError: as `model_path`.

    """
    from modelcache.api import load_model

    model: CrossEncoder = load_model("reranker", model_id, kwargs)
    return model


def load_sparse_encoder(model_id: str, **kwargs: object) -> "SparseEncoder":
    """Return the SparseEncoder of a cached model, loaded without a request; `kwargs` are its own.

    Raises:
        modelcache.core.errors.UsageError, modelcache.core.errors.IntegrityError: as `model_path`.

    """
    from modelcache.api import load_model

    model: SparseEncoder = load_model("sparse", model_id, kwargs)
    return model


def load_multi_vector_encoder(model_id: str, **kwargs: object) -> "MultiVectorEncoder":
    """Return the MultiVectorEncoder of a cached model, loaded without a request; `kwargs` are its own.

    Raises:
        modelcache.core.errors.UsageError, modelcache.core.errors.IntegrityError: as `model_path`.

    """
    from modelcache.api import load_model

    model: MultiVectorEncoder = load_model("multi_vector", model_id, kwargs)
    return model


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command line; return its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  # pip is not asked where a checkout is run
        version = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(f"error: cache-models needs Python 3.11 or later; this is {version}\n")
        return 2
    words = sys.argv[1:] if argv is None else list(argv)
    checkout = os.path.dirname(os.path.realpath(__file__)) if __name__ == "__main__" else ""
    try:
        from modelcache.fastpath import is_quiet_start

        if is_quiet_start(words, os.environ, checkout):
            return 0
        from modelcache.cli.main import run

        return run(words, checkout)
    except ModuleNotFoundError as error:
        return _refuse(
            2,
            f"the package {error.name} is missing",
            "Install the tool with its dependencies: `pip install .` in its directory.",
        )
    except KeyboardInterrupt:  # before `cli.main` listens to signals
        if sys.stderr is not None:
            sys.stderr.write("interrupted; run it again to go on where it stopped\n")
        return 130
    except (MemoryError, ImportError, OSError, SyntaxError) as error:  # for want of memory the last is raised, too
        reason, hint = f"cannot start: {error}", "Check the installation, and the limits of memory and of open files."
        if isinstance(error, MemoryError):
            reason, hint = "not enough memory", "Raise the memory limit."
        return _refuse(4, reason, hint)


def _refuse(exit_code: int, reason: str, hint: str) -> int:
    """Print why the command line could not be imported."""
    if sys.stderr is not None:
        sys.stderr.write(f"error: {reason}\nhint: {hint}\n")
    return exit_code


def __getattr__(name: str) -> object:
    """Compute a constant on first use, so that a missing manifest never breaks an import."""
    if name in ("EMBEDDING_MODELS", "RERANKER_MODELS"):
        from modelcache.api import listed_models

        return listed_models(name.partition("_")[0].lower())
    if name in ("EMBEDDINGS_DIR", "RERANKERS_DIR"):
        from modelcache.api import collection

        return collection(name.partition("S_")[0].lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    sys.exit(main())
