"""`completion`: the script that completes the command line in a shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modelcache.cli import progress
from modelcache.cli.completion import SHELLS, script
from modelcache.cli.options import CommonOptions, option
from modelcache.cli.progress import LineReporter

_NOTES = """

Each start of a shell reads the script anew; this line turns it on:

bash  echo 'eval "$(cache-models completion bash)"' >> ~/.bashrc
zsh   echo 'eval "$(cache-models completion zsh)"' >> ~/.zshrc
fish  echo 'cache-models completion fish | source' >> ~/.config/fish/config.fish
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommonOptions):
    """The options of `completion`."""

    reads_manifest: ClassVar[bool] = False
    notes: ClassVar[str] = _NOTES
    shell: str = option(metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(options: Options, reporter: LineReporter) -> None:
    """Print the script."""
    del reporter
    progress.show(script(options.shell))
