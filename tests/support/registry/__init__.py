"""A stand-in OCI registry for tests: real HTTP, real protocol, faults on request."""

from tests.support.hub.faults import (
    DropHeaders,
    Fault,
    Flip,
    FlipFirst,
    Headers,
    Html,
    IgnoreRange,
    Reset,
    Short,
    Silent,
    Slow,
    Stall,
    Status,
)
from tests.support.hub.wire import Ending

from .faults import ExpireToken, ForgetUpload, IgnoreMount, NoRanges, OtherBytes, StopUpload, refusal
from .login import Login
from .registry import StandInRegistry
from .request_log import Request

__all__ = [
    "DropHeaders",
    "Ending",
    "ExpireToken",
    "Fault",
    "Flip",
    "FlipFirst",
    "ForgetUpload",
    "Headers",
    "Html",
    "IgnoreMount",
    "IgnoreRange",
    "Login",
    "NoRanges",
    "OtherBytes",
    "Request",
    "Reset",
    "Short",
    "Silent",
    "Slow",
    "Stall",
    "StandInRegistry",
    "Status",
    "StopUpload",
    "refusal",
]
