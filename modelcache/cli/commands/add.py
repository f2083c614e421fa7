"""`add`: write models into models.toml, each with the kind of its repository, and pin them in models.lock."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from modelcache.cli import messages
from modelcache.cli.add_hints import with_options
from modelcache.cli.options import TransferOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import pin_context, report_packages
from modelcache.core.errors import CacheModelsError, PolicyError, SeveralModelsError, UsageError, raise_all
from modelcache.core.kinds import Kind
from modelcache.core.model_arguments import parse_arguments
from modelcache.core.policy import Policy
from modelcache.core.text import join_names, size_in_words
from modelcache.core.types import LockedModel, Pooling, WantedModel
from modelcache.formats.manifest import Manifest, parse_models_and_policy
from modelcache.formats.manifest_tables import table_text, with_tables
from modelcache.pipeline.add import Additions, Settings, as_listed, plan_additions, write_additions
from modelcache.pipeline.bytes_to_fetch import bytes_to_fetch
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.pins import matching_pins, read_lock
from modelcache.resolver.resolve import Resolved
from modelcache.system.files import read_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TransferOptions):
    """The options of `add`."""

    writes_manifest: ClassVar[bool] = True
    ids: Sequence[str] = option(
        nargs="+", metavar="ID", help="owner/name, owner/name@REVISION, or the address of a model's page"
    )
    kind: str | None = option(
        "--kind",
        default=None,
        choices=[str(kind) for kind in Kind],
        help="how the models are loaded (default: read from each repository)",
    )
    trust_remote_code: str | None = option(
        "--trust-remote-code",
        default=None,
        choices=["true", "false"],
        help="for a model that names Python code: ship it with that code, which you have read, or without",
    )
    allow_pickle: bool = switch(
        "--allow-pickle",
        help="convert the weights of a model that has only .bin files to safetensors; with --kind other, ship pickles"
        " that hold tensors alone",
    )
    pooling: str | None = option(
        "--pooling",
        default=None,
        metavar="MODE",
        choices=[str(mode) for mode in Pooling],
        help=f"for an embedding model without modules.json: {', '.join(Pooling)}",
    )
    normalize: str | None = option(
        "--normalize",
        default=None,
        choices=["true", "false"],
        help="whether the vectors of such a model are normalized; goes with --pooling",
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Pin each model that is named and has no pin, then write all of them into models.toml and models.lock."""
    settings = _settings(options)
    arguments = parse_arguments(options.ids, settings.kind, os.environ.get("HF_ENDPOINT", ""))
    content = read_bytes(options.manifest)
    whole = Manifest() if content is None else parse_models_and_policy(content, options.manifest)
    manifest, gate = whole.models, whole.policy
    _refuse_options(settings, gate, options.manifest.name)
    locked = read_lock(options.lockfile) or ()
    additions = plan_additions(arguments, settings, manifest, locked, options.manifest.name)
    if options.locked and not additions.in_place:
        hint = "Leave --locked out (CACHE_MODELS_LOCKED), or add the models where the lock may change."
        raise UsageError("--locked pins nothing, and `add` pins", hint=hint)
    for argument in arguments:
        if argument.pasted:
            text = f"{argument.id} is meant by {argument.pasted}"
            reporter.event("note", text, model=argument.id)
    context = pin_context(options, reporter, gate)
    resolved = _resolve(additions, context, locked, options)
    pins = {**additions.pins, **{model: one.model for model, one in resolved.items()}}
    new = [as_listed(model, pins[model]) for model in additions.models if model not in additions.listed]
    with_tables(content, options.manifest, new)  # says what is wrong with them before anything is reported or written
    _report(additions, pins, resolved, options, reporter)
    if options.dry_run:
        for model in new:
            reporter.line("table", table_text(model), model=model.id)
    elif new or resolved:
        write_additions(options.project, new, [one.model for one in resolved.values()])
    _report_unpinned([model for model in manifest if model not in pins], locked, options, reporter)
    _report_totals(len(new), len(resolved), list(pins.values()), context, options, reporter)


def _settings(options: Options) -> Settings:
    """Return the settings that the options name.

    Raises:
        UsageError: one of them does not go with another.

    """
    if (options.pooling is None) != (options.normalize is None):
        there, lacking = ("--pooling", "--normalize") if options.pooling else ("--normalize", "--pooling")
        hint = f"Add {'--normalize true or --normalize false' if lacking == '--normalize' else '--pooling MODE'}."
        raise UsageError(f"{there} needs {lacking} beside it, so that nothing is guessed", hint=hint)
    kind = Kind(options.kind) if options.kind else None
    if options.pooling and kind and not kind.spec.pools:
        raise UsageError(
            f"--pooling does not go with --kind {kind}: {kind.spec.noun} has no pooling",
            hint="Leave --pooling and --normalize out.",
        )
    if options.pooling and not kind:
        kind = next(kind for kind in Kind if kind.spec.pools)
    return Settings(
        kind=kind,
        trust_remote_code=_boolean(options.trust_remote_code),
        allow_pickle=options.allow_pickle,
        pooling=Pooling(options.pooling) if options.pooling else None,
        normalize=bool(_boolean(options.normalize)),
    )


def _refuse_options(settings: Settings, gate: Policy, name: str) -> None:
    """Refuse permissions that the policy of the manifest, whose file is called `name`, takes back for every model."""
    permissions = {
        "--trust-remote-code true": ("remote_code", bool(settings.trust_remote_code) and not gate.remote_code),
        "--allow-pickle": ("pickle", settings.allow_pickle and not gate.pickle),
    }
    if vain := [f"{option}: {key} is false" for option, (key, forbidden) in permissions.items() if forbidden]:
        message = f"[policy] of {name} refuses {', '.join(vain)}"
        raise PolicyError(message, hint="Leave such an option out, or change [policy] first.")


def _boolean(text: str | None) -> bool | None:
    return None if text is None else text == "true"


def _resolve(
    additions: Additions, context: RunContext, locked: Sequence[LockedModel], options: Options
) -> dict[WantedModel, Resolved]:
    """Pin the models that have no pin; a refusal names the options with which they can be added."""
    try:
        return resolve_all(additions.unpinned, context, locked, pinned=additions.pins, detect=additions.detect)
    except CacheModelsError as error:
        if additions.listed.isdisjoint(additions.unpinned):
            errors = error.errors if isinstance(error, SeveralModelsError) else [error]
            raise_all([with_options(one, pooling=options.pooling is not None) for one in errors])
        raise  # a model that models.toml lists has its settings there


def _report(
    additions: Additions,
    pins: Mapping[WantedModel, LockedModel],
    resolved: Mapping[WantedModel, Resolved],
    options: Options,
    reporter: LineReporter,
) -> None:
    """Print the row of each model."""
    width = max(len(model.id) for model in additions.models)
    for model in additions.models:
        pin, one = pins[model], resolved.get(model)
        fields = {"model": pin.id, "kind": str(pin.kind), "commit": pin.commit, "bytes": pin.size}
        fields |= {"repository_bytes": one.repository_size} if one else {}
        row = messages.new_pin_row(pin, one.repository_size, width) if one else messages.pinned_row(pin, width)
        if model not in additions.listed:
            held = "" if one else f", as {options.lockfile.name} pins it already"
            reporter.event("add", f"{row}  [[{pin.kind}]]{held}", **fields)
        else:
            place = f"already in {options.manifest.name}, line {model.line}"
            name, text = ("lock", f"{row}  {place}") if one else ("keep", f"{pin.id:<{width}}  {place}")
            reporter.event(name, text, **fields)
        if one:
            report_packages(pin, reporter)


def _report_unpinned(
    others: Sequence[WantedModel], locked: Sequence[LockedModel], options: Options, reporter: LineReporter
) -> None:
    """Name the models that were listed before, and that the lock does not pin: they are left for `lock`."""
    pinned = matching_pins(others, locked, None)
    if lacking := [model.id for model in others if model not in pinned]:
        text = f"{options.lockfile.name} does not pin {join_names(lacking)}; `cache-models lock` does"
        reporter.event("unpinned", text, models=lacking)


def _report_totals(
    new: int,
    pinned: int,
    pins: Sequence[LockedModel],
    context: RunContext,
    options: Options,
    reporter: LineReporter,
) -> None:
    """Print the last line: what changed in which file, and what `sync` will fetch of these models."""
    manifest, lockfile, would = options.manifest.name, options.lockfile.name, options.dry_run
    sizes = [bytes_to_fetch(pin, context) for pin in pins]
    to_fetch, exact = sum(count for count, _ in sizes), all(is_exact for _, is_exact in sizes)
    if new:
        has = "would have" if would else "has"
        text = f"{manifest} {has} {new} new model{'s' * (new != 1)}, pinned in {lockfile}"
    elif pinned:
        text = f"{lockfile} {'would pin' if would else 'pins'} {messages.models(pinned)} more"
    else:
        text = f"{manifest} and {lockfile} are unchanged"
    if to_fetch:
        amount = f"{'' if exact else 'at most '}{size_in_words(to_fetch)}"
        text += f"; {amount} would be fetched" if would else f"; `cache-models` will fetch {amount}"
    else:
        text += "; nothing has to be fetched"
    reporter.line("ready", f"{text}.", models=len(pins), added=new, pinned=pinned, to_fetch=to_fetch)
