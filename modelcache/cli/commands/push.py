"""`push`: write the models to a registry as one OCI image, alone or on top of another image."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from modelcache.cli import messages, progress
from modelcache.cli.image_options import DEFAULT_PLATFORMS, only, platforms, prefix
from modelcache.cli.options import NetworkOptions, insecure, option
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import connector
from modelcache.core.errors import UsageError
from modelcache.core.text import size_in_words
from modelcache.image.descriptors import Platform
from modelcache.image.documents import image_documents
from modelcache.image.reference import Reference
from modelcache.pipeline.export import export
from modelcache.pipeline.push import find_base, open_registry
from modelcache.pipeline.verify import pins_of_image
from modelcache.store.layer_digests import LayerDigests


def _image(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None  # of a ValueError argparse shows no text


def _base(text: str) -> Reference | None:
    return _image(text) if text else None


def _target(text: str) -> Reference:
    image = _image(text)
    if image.digest:
        raise ArgumentTypeError(
            "an image is pushed under a tag, as in ghcr.io/team/models:v1, and `push` prints its digest"
        )
    return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(NetworkOptions):
    """The options of `push`."""

    target: Reference = option(
        metavar="REF",
        type=_target,
        help="REGISTRY/REPOSITORY[:TAG], as in `docker push`, and with the login of `docker login`",
    )
    base: Reference | None = option(
        "--base",
        default=None,
        metavar="IMAGE",
        type=_base,
        help="put the models on top of this image, which is in a registry",
    )
    only: Sequence[str] = only()
    platforms: Sequence[Platform] = platforms(", or those of IMAGE")
    prefix: str = prefix()
    insecure: bool = insecure()


def run(options: Options, reporter: LineReporter) -> None:
    """Push the image; print its digest."""
    if options.base == options.target:
        hint = "Give the image with models a tag of its own, as in REPOSITORY:1-models."
        raise UsageError(f"{options.target} is both the base and the target, so its tag would be lost", hint=hint)
    pins = pins_of_image(options.project, options.only)
    target, base = options.target, None
    connect = connector(options, reporter, insecure=options.insecure)
    if options.base:
        same = options.base.registry == target.registry
        connect_base = connect if same else connector(options, reporter, insecure=False)
        base = find_base(options.base, connect_base(options.base), options.platforms)
        make_documents = partial(base.documents, prefix=options.prefix)
    else:
        make_documents = partial(image_documents, platforms=options.platforms or DEFAULT_PLATFORMS)
    open_target = partial(
        open_registry,
        repository=connect(target),
        places=options.project.places,
        digests=LayerDigests(options.root),
        base=base,
        advance=reporter.advance,
    )
    done = export(
        pins,
        options.project,
        open_target,
        prefix=options.prefix,
        make_documents=make_documents,
        reporter=reporter,
        name="push",
    )
    if base:
        reporter.event("note", f"{target} is not checked: start your program in it once, without a network")
    there = f", {done.layers - done.written} of them there already" if done.written < done.layers else ""
    layers = f"{done.layers} layer{'s' * (done.layers != 1)}{there}"
    text = f"{messages.models(len(pins))} in {target}: {size_in_words(done.size)} in {layers}."
    fields = {"digest": done.digest, "layers": done.layers, "written": done.written, "image": str(target)}
    reporter.line("ready", text, models=len(pins), **fields)
    progress.show(done.digest)
