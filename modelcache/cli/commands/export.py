"""`export`: write the models as one OCI image, to a layout directory, an archive or stdout."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelcache.cli import messages, progress
from modelcache.cli.image_options import DEFAULT_PLATFORMS, only, platforms, prefix
from modelcache.cli.options import ProjectOptions, option
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import StorageError, UsageError
from modelcache.core.text import escape, size_in_words
from modelcache.image.descriptors import Platform
from modelcache.image.documents import TAG, image_documents
from modelcache.image.layers import Layer
from modelcache.pipeline.export import ImageTarget, export
from modelcache.pipeline.verify import pins_of_image
from modelcache.sources.schemes import SCHEME, Scheme
from modelcache.store.image_archive import open_archive, open_stream
from modelcache.store.image_layout import open_layout
from modelcache.store.layout import Places
from modelcache.system.files import absolute

_STDOUT = "-"
_ARCHIVE, _LAYOUT = f"{Scheme.ARCHIVE}:", f"{Scheme.LAYOUT}:"
_COLON_HINT = "A path with a colon begins with ./ or /, and has neither oci: nor oci-archive: in front."
_TARGET_HINT = "TARGET is a directory with a slash at its end, a file that ends in .tar, or - for stdout."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ProjectOptions):
    """The options of `export`."""

    target: str = option(
        completes="file", metavar="TARGET", help="DIR/ for an OCI layout, FILE.tar for an archive, - for stdout"
    )
    only: Sequence[str] = only()
    platforms: Sequence[Platform] = platforms()
    prefix: str = prefix()


def run(options: Options, reporter: LineReporter) -> None:
    """Write the image; print its digest, unless stdout has the image itself."""
    open_target = _target(options.target, options.project.places)
    pins = pins_of_image(options.project, options.only)
    make_documents = partial(image_documents, platforms=options.platforms or DEFAULT_PLATFORMS)
    done = export(
        pins,
        options.project,
        open_target,
        prefix=options.prefix,
        make_documents=make_documents,
        reporter=reporter,
    )
    reused = f", {done.layers - done.written} of them reused" if done.written < done.layers else ""
    layers = f"{done.layers} layer{'s' * (done.layers != 1)}{reused}"
    where = "on stdout" if options.target == _STDOUT else f"in {escape(options.target)}"
    text = f"{messages.models(len(pins))} {where}: {size_in_words(done.size)} in {layers}."
    reporter.line("ready", text, models=len(pins), digest=done.digest, layers=done.layers, written=done.written)
    if options.target != _STDOUT:
        progress.show(done.digest)


def _target(text: str, places: Places) -> Callable[[Sequence[Layer]], AbstractContextManager[ImageTarget]]:
    """Return the function that opens the target.

    Raises:
        UsageError: it says neither which form it has, nor where; or it is in a directory that holds the models.

    """
    if text == _STDOUT:
        if sys.stdout is None or sys.stdout.isatty():
            state = "is closed" if sys.stdout is None else "is a terminal, which an image is not for"
            raise UsageError(f"stdout {state}", hint=_TARGET_HINT)
        return partial(open_stream, _write_stdout)
    path = text.removeprefix(_ARCHIVE).removeprefix(_LAYOUT)
    if not path:
        raise UsageError("the target has no name", hint=_TARGET_HINT)
    if path == text and SCHEME.match(path) and not os.path.lexists(path):
        message = f"{escape(text)} is no file or directory, and `cache-models export` writes nothing else"
        raise UsageError(message, hint=f"{_TARGET_HINT} {_COLON_HINT} `cache-models push` writes to a registry.")
    if path != text and ":" in os.path.basename(path):
        raise UsageError(f"{escape(text)} has a REF, but the image is always named {TAG}", hint=_COLON_HINT)
    _refuse_among_models(absolute(path), places)
    if text.startswith(_ARCHIVE) or (path.endswith(".tar") and not text.startswith(_LAYOUT)):
        if not absolute(path).parent.is_dir():
            raise UsageError(f"there is no directory {absolute(path).parent}", hint="Make it, then run this again.")
        return partial(open_archive, absolute(path))
    if text.startswith(_LAYOUT) or path.endswith("/") or os.path.isdir(path):
        return partial(open_layout, absolute(path))
    raise UsageError(f"{escape(path)!r} is neither a directory nor a name that ends in .tar", hint=_TARGET_HINT)


def _refuse_among_models(path: Path, places: Places) -> None:
    """Refuse a target in a collection or in the Hub view: it would be an extra file of a model, or look like one."""
    for folder in (*places.collections.values(), places.hub):
        if folder and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            hint = f"Name a target outside of {folder}."
            raise UsageError(f"{path} is in a directory that holds the models", hint=hint)


def _write_stdout(content: bytes | memoryview) -> None:
    left = memoryview(content)
    try:
        fd = sys.stdout.fileno()
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:  # a pipe that another process on it has made non-blocking
                select.select([], [fd], [])
    except OSError as error:
        hint = "Check where the output goes, then run this again."
        raise StorageError(f"cannot write to stdout: {error.strerror}", hint=hint) from error
