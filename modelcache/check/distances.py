"""Distances between two rows of numbers, in pure Python: the process that runs the checks loads no numpy. No disk."""

from __future__ import annotations

import math
from array import array
from operator import mul


def dot(one: array[float], other: array[float]) -> float:
    """Return the dot product."""
    product: float = math.sumprod(one, other) if hasattr(math, "sumprod") else sum(map(mul, one, other))
    return product


def length(numbers: array[float]) -> float:
    """Return the length of a vector."""
    return math.hypot(*numbers)


def cosine(one: array[float], other: array[float]) -> float:
    """Return the cosine of the angle between two vectors, neither of them zero; NaN where a number is not finite."""
    return dot(one, other) / (length(one) * length(other))


def differences(one: array[float], other: array[float]) -> list[float]:
    """Return by how much each number differs."""
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def largest(numbers: list[float]) -> float:
    """Return the largest number; NaN where any is, which `max` finds only if it comes first."""
    return math.nan if any(map(math.isnan, numbers)) else max(numbers, default=0.0)
