"""The rules of `[policy]`: which tables and pins they refuse, with every reason in one error."""

from __future__ import annotations

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.policy import Policy
from modelcache.core.types import LockedFile, LockedModel, Made, Original, RemoteCode, WantedModel

SHA = "a" * 64
WEIGHTS = LockedFile("model.safetensors", 1, SHA)
CODE = LockedFile("modeling_x.py", 1, SHA)
CONVERTED = LockedFile("model.safetensors", 1, SHA, Made.CONVERTED, Original("pytorch_model.bin", 1, SHA))
STRICT = Policy(("apache-2.0", "MIT"), remote_code=False, pickle=False)


def pin(
    *files: LockedFile,
    model_id: str = "a/b",
    licence: str = "mit",
    remote_code: RemoteCode = RemoteCode.NONE,
    pickles: tuple[str, ...] = (),
) -> LockedModel:
    """Return a pin, of safetensors alone where no files are given."""
    found = files or (WEIGHTS,)
    return LockedModel(Kind.OTHER, model_id, "main", "c" * 40, found, licence, remote_code=remote_code, pickles=pickles)


PLAIN, VENDORED, OMITTED = (
    pin(),
    pin(WEIGHTS, CODE, remote_code=RemoteCode.VENDORED),
    pin(remote_code=RemoteCode.OMITTED),
)
BESIDE, OLD, SHIPPED = pin(WEIGHTS, CODE), pin(CONVERTED), pin(LockedFile("x.pt", 1, SHA), pickles=("x.pt",))


def table(*, trust: bool | None = None, pickle: bool = False, line: int = 5) -> WantedModel:
    """Return a table of models.toml."""
    return WantedModel(Kind.OTHER, "a/b", trust_remote_code=trust, allow_pickle=pickle, line=line)


def reasons(policy: Policy, *pins: LockedModel, tables: tuple[WantedModel, ...] = ()) -> list[str]:
    """Return the lines below the heading of the one error, none without an error."""
    errors = policy.refusals(tables, pins)
    assert len(errors) <= 1
    return [line.strip() for error in errors for line in error.message.split("\n")[1:]]


@pytest.mark.parametrize(
    ("policy", "judged", "expected"),
    [
        (Policy(), pin(licence=""), ""),
        (Policy(), VENDORED, ""),
        (Policy(), OLD, ""),
        (Policy(("mit",)), PLAIN, ""),
        (Policy(("MIT",)), PLAIN, ""),
        (Policy(("mit",)), pin(licence="MIT"), ""),
        (
            Policy(("apache-2.0", "mit")),
            pin(licence="cc-by-nc-4.0"),
            "the licence cc-by-nc-4.0 is not among apache-2.0, mit",
        ),
        (Policy(("mit",)), pin(licence="mit-0"), "the licence mit-0 is not among mit"),
        (Policy(("mit",)), pin(licence=""), "no licence is named"),
        (Policy(("mit",)), VENDORED, ""),
        (Policy(remote_code=False), PLAIN, ""),
        (Policy(remote_code=False), OMITTED, ""),
        (Policy(remote_code=False), OLD, ""),
        (Policy(remote_code=False), VENDORED, "it has code (modeling_x.py), but remote_code is false"),
        (Policy(remote_code=False), BESIDE, "it has code (modeling_x.py), but remote_code is false"),
        (Policy(remote_code=False), pin(remote_code=RemoteCode.VENDORED), "it has code, but remote_code is false"),
        (Policy(pickle=False), PLAIN, ""),
        (Policy(pickle=False), VENDORED, ""),
        (Policy(pickle=False), OLD, "it has or is made from a pickle (pytorch_model.bin), but pickle is false"),
        (Policy(pickle=False), SHIPPED, "it has or is made from a pickle (x.pt), but pickle is false"),
    ],
)
def test_a_rule_refuses_what_it_names_and_nothing_else(policy: Policy, judged: LockedModel, expected: str) -> None:
    """By the pin alone; a rule that is not set, or set to true, refuses nothing."""
    assert reasons(policy, judged) == ([f"a/b: {expected}"] if expected else [])


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (table(), ""),
        (table(trust=False), ""),
        (table(trust=True), "its table in line 5 has trust_remote_code = true, but remote_code is false"),
        (table(pickle=True), "its table in line 5 has allow_pickle = true, but pickle is false"),
        (table(trust=True, pickle=True, line=0), ""),
    ],
)
def test_a_permission_that_no_model_may_have_is_refused_by_its_line(judged: WantedModel, expected: str) -> None:
    """Whether the model needs it or not; a model of no table is judged by its pin."""
    assert reasons(STRICT, tables=(judged,)) == ([f"a/b: {expected}"] if expected else [])
    assert STRICT.forbids(judged) is bool(expected)
    assert not Policy().forbids(judged)


def test_table_and_pin_of_a_model_give_a_reason_once() -> None:
    """The line of the table says more than the files."""
    assert reasons(STRICT, VENDORED, tables=(table(trust=True),)) == [
        "a/b: its table in line 5 has trust_remote_code = true, but remote_code is false"
    ]


def test_all_reasons_of_all_models_stand_in_one_error() -> None:
    """A line a model, in their order, and each hint once."""
    bad = pin(CONVERTED, CODE, model_id="c/d", licence="")
    (error,) = STRICT.refusals([table(pickle=True)], [PLAIN, bad, pin(model_id="e/f", licence="other")])
    assert isinstance(error, PolicyError)
    assert (error.exit_code, error.retryable) == (5, False)
    assert error.message.split("\n  ") == [
        "[policy] refuses 3 models:",
        "a/b: its table in line 5 has allow_pickle = true, but pickle is false",
        "c/d: no licence is named; it has code (modeling_x.py), but remote_code is false; it has or is made from a"
        " pickle (pytorch_model.bin), but pickle is false",
        "e/f: the licence other is not among apache-2.0, MIT",
    ]
    assert error.hint.count("owner for safetensors") == 1
    assert "cache-models report" in error.hint


def test_a_name_from_a_lock_cannot_write_to_a_terminal() -> None:
    """A lock may have been edited, and its paths come from repositories."""
    hostile = LockedFile("a\x1b[31m\nerror: x.py", 1, SHA)
    (reason,) = reasons(Policy(remote_code=False), pin(hostile))
    assert "\x1b" not in reason
    assert r"\x1b[31m\nerror" in reason


def test_many_files_are_counted() -> None:
    """Three are named."""
    files = [LockedFile(f"m{number}.py", 1, SHA) for number in range(9)]
    assert "(m0.py, m1.py, m2.py and 6 more)" in reasons(Policy(remote_code=False), pin(*files))[0]
