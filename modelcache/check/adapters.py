"""Asking a loaded model: in which ways it can be asked, what it gives for a probe, and which probe it fails at.

Imports the libraries only inside its functions; it runs in the process of one model.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from modelcache.check.probes import PAIRS, QUERY, Answer, Probe
from modelcache.core.kinds import Kind

Ask = Callable[[Probe], "array[float]"]


class FailedError(Exception):
    """A model was loaded, and then failed at one step; the cause says why."""

    def __init__(self, doing: str) -> None:
        """Take the step, so that it completes "fails when it is …"."""
        super().__init__(doing)
        self.doing = doing


def prompts_of(model: Any) -> dict[str, str]:
    """Return the texts that go in front, by name; under "" the name of the one that does unasked."""
    prompts = {name: text for name, text in model.prompts.items() if text}
    if unasked := getattr(model, "default_prompt_name", None):
        prompts[""] = unasked
    return prompts


def ways_of(model: Any, kind: Kind) -> list[Probe]:
    """Return the ways to ask a model, as probes without a text; one with a Router knows no others than its own."""
    from sentence_transformers.base.modules import Router

    if kind is Kind.RERANKER:
        return [Probe(query=QUERY)]
    routers = [module for module in model.modules() if isinstance(module, Router)]
    if not routers:
        return [Probe(prompt=name) for name in ("", *sorted(prompts_of(model).keys() - {""}))]
    tasks = sorted(set.intersection(*map(_tasks, routers)), key=lambda task: (task not in _TASKS, task))
    return [Probe(prompt=task) if task in _TASKS else Probe(task=task) for task in tasks] or [Probe()]


_TASKS = ("query", "document")


def _tasks(router: Any) -> set[str]:
    """Return the names under which a Router lets texts in."""
    from sentence_transformers.base.modality_types import MODALITY_TO_PROCESSOR_ARG

    named = {task for task, modality in router.route_mappings if task and modality in (None, "text")}
    direct = {route for route in router.sub_modules if route == "text" or route not in MODALITY_TO_PROCESSOR_ARG}
    return named | direct


def asker(model: Any, kind: Kind) -> Ask:
    """Return how a probe is put to this model; one at a time, since a batch would change the last bits."""

    def ask(probe: Probe) -> array[float]:
        try:
            return answer(probe)
        except Exception as error:
            raise FailedError(f"asked for {probe.told()}") from error

    def answer(probe: Probe) -> array[float]:
        if kind is Kind.RERANKER:
            found = model.predict([(probe.query, probe.spelled())], show_progress_bar=False)
        elif probe.prompt in _TASKS:
            encode = model.encode_query if probe.prompt == "query" else model.encode_document
            found = encode([probe.spelled()], show_progress_bar=False)
        else:
            way = {"task": probe.task} if probe.task else {"prompt_name": probe.prompt or None}
            found = model.encode([probe.spelled()], show_progress_bar=False, **way)
        return array("f", found.astype("float32").reshape(-1).tobytes())

    return ask


def ask_all(ask: Ask, probes: Sequence[Probe]) -> tuple[list[Answer], list[str]]:
    """Return the answers, and why there is none for a text without a word.

    Some tokenizers make nothing of it, and a vector of zeros cannot be divided by its length. A pair has to give a
    number all the same: one score that is none spoils the order of all others.
    """
    answers, unanswered = [], []
    for probe in probes:
        try:
            answer = Answer(probe, ask(probe))
        except FailedError as error:
            if probe.spelled():
                raise
            unanswered.append(f"{probe.told()}: {type(error.__cause__).__name__}: {error.__cause__}")
            continue
        if probe.spelled() or probe.query is not None or all(map(isfinite, answer.values)):
            answers.append(answer)
        else:
            unanswered.append(f"{probe.told()}: its numbers are not finite")
    return answers, unanswered


def tells_words_apart(ask: Ask, way: Probe) -> bool:
    """Whether it gives other numbers for another word, asked in this way."""
    pairs = ([ask(replace(way, text=word)) for word in pair] for pair in PAIRS)
    return any(one != other for one, other in pairs)
