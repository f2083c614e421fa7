"""The options of the commands that write an image of the models."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from modelcache.cli.options import option
from modelcache.core.kinds import COLLECTIONS
from modelcache.core.names import problem_with_path
from modelcache.image.descriptors import Platform

DEFAULT_PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))


def only() -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return the field of --only."""
    return option(
        "--only", default=(), nargs="+", action="extend", metavar="ID", help="only these models (default: all)"
    )


def platforms(otherwise: str = "") -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return the field of --platform, which is empty where the flag is not given.

    `otherwise` names the platforms that then count instead of the default ones, for the help.
    """
    default = ",".join(map(str, DEFAULT_PLATFORMS))
    return option(
        "--platform",
        default=(),
        metavar="PLATFORM[,...]",
        type=_platforms,
        help=f"platforms that the image is for (default: {default}{otherwise})",
    )


def prefix() -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return the field of --prefix."""
    return option(
        "--prefix",
        default="models",
        metavar="DIR",
        type=_prefix,
        help="the directory of the models in the image (default: models)",
    )


def _prefix(text: str) -> str:
    if problem_with_path(text):
        raise ArgumentTypeError(f"{text!r} is not a directory of an image, such as models or srv/models")
    if taken := COLLECTIONS.intersection(text.split("/")):
        raise ArgumentTypeError(f"{text!r} has {min(taken)} in it, a directory that belongs below the prefix")
    return text


def _platforms(text: str) -> tuple[Platform, ...]:
    try:
        return tuple(dict.fromkeys(map(Platform.parse, text.split(","))))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
