"""A stand-in Hugging Face Hub for tests and demos: real HTTP, real protocol, faults on request."""

from .desk import Request
from .faults import (
    DropHeaders,
    Fault,
    Flip,
    Html,
    IgnoreRange,
    Reset,
    Short,
    Silent,
    Slow,
    Stall,
    Status,
    WrongLength,
    WrongRange,
)
from .hub import StandInHub

__all__ = [
    "DropHeaders",
    "Fault",
    "Flip",
    "Html",
    "IgnoreRange",
    "Request",
    "Reset",
    "Short",
    "Silent",
    "Slow",
    "Stall",
    "StandInHub",
    "Status",
    "WrongLength",
    "WrongRange",
]
