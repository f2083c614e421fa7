"""Serve a folder as an OCI registry: python -m tests.support.registry FOLDER."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from .registry import StandInRegistry


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; the address is the only line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.registry", description=__doc__)
    parser.add_argument("folder", type=Path, help="keeps the repositories; may be empty or missing")
    parser.add_argument("--port", type=int, default=0, help="of the registry (default: any)")
    options = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with StandInRegistry(options.folder, port=options.port) as registry:
        print(registry.address, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
