"""`lock`: pin the models of models.toml in models.lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelcache.cli import messages
from modelcache.cli.options import TransferOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import run_context
from modelcache.formats.lockfile import format_lock
from modelcache.formats.manifest import select
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.pins import matching_pins, read_lock, read_manifest, refuse_stale_lock
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TransferOptions):
    """The options of `lock`."""

    upgrade: Sequence[str] | None = option(
        "--upgrade",
        default=None,
        nargs="*",
        metavar="ID",
        help="pin these models anew (all, if none is named)",
    )
    check: bool = switch("--check", help="only check that the lock fits the manifest; needs no network")


def run(options: Options, reporter: LineReporter) -> None:
    """Pin each model that has no valid pin, and write models.lock."""
    manifest = read_manifest(options.manifest)
    locked = read_lock(options.lockfile)
    if options.check or options.locked:
        refuse_stale_lock(manifest, locked, options.lockfile.name)
        reporter.line("ready", f"{options.lockfile.name} fits {options.manifest.name}.")
        return
    anew = set(select(manifest, options.upgrade)) if options.upgrade is not None else set()
    pins = matching_pins([model for model in manifest if model not in anew], locked, None)
    unpinned, upgrade = [model for model in manifest if model not in pins], options.upgrade is not None
    resolved = resolve_all(unpinned, run_context(options, reporter), locked or (), upgrade=upgrade)
    for model in manifest:
        if model in pins:
            reporter.event("keep", f"{model.id:<52} {pins[model].commit[:12]}", model=model.id)
            continue
        pinned, whole = resolved[model].model, resolved[model].repository_size
        row = f"{messages.pinned_row(pinned)} of {messages.size(whole)}"
        reporter.event("lock", row, model=model.id, commit=pinned.commit, bytes=pinned.size, repository_bytes=whole)
        if pinned.packages:
            reporter.event("needs", f"{model.id}: {_needs(pinned.packages)}", model=model.id, packages=pinned.packages)
    models = [pins[model] if model in pins else resolved[model].model for model in manifest]
    text = format_lock(models)
    if not options.dry_run:
        with storage_errors(f"write {options.lockfile}"):
            write_text_atomically(options.lockfile, text)
    fetched = sum(one.model.size_to_fetch for one in resolved.values())
    repositories = sum(one.repository_size for one in resolved.values())
    of_whole = f" of {messages.size(repositories)}" if fetched <= repositories else ""
    saving = f"; {messages.size(fetched)}{of_whole} will be fetched" if resolved else ""
    verb = "would pin" if options.dry_run else "pins"
    reporter.line(
        "ready", f"{options.lockfile.name} {verb} {messages.models(len(models))}{saving}.", models=len(models)
    )


def _needs(imported: Sequence[str]) -> str:
    """Return the packages that a model's code imports, with a pip line for those that are known."""
    from modelcache.check.pip_packages import PACKAGES, pip_install  # few models need it, and it takes time to import

    known = [PACKAGES[name] for name in imported if name in PACKAGES]
    unknown = [name for name in imported if name not in PACKAGES]
    ways = [f"`{pip_install(known)}`"] if known else []
    ways += [f"the model's card may say where {', '.join(unknown)} is from"] if unknown else []
    return f"loading it needs {', '.join(imported)}, which its code imports: {'; '.join(ways)}"
