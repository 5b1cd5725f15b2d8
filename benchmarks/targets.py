"""A number and its limit in, whether the target is met out, and a table of targets as text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """One target. wanted: the limit as text; reached: the number that it holds for."""

    name: str
    wanted: str
    reached: float
    met: bool


def at_least(name: str, limit: float, reached: float) -> Target:
    """A number that shall not be smaller."""
    return Target(name, f"at least {limit:.2f}", reached, reached >= limit)


def above(name: str, limit: float, reached: float) -> Target:
    """A number that shall be larger."""
    return Target(name, f"above {limit:.2f}", reached, reached > limit)


def at_most(name: str, limit: float, reached: float) -> Target:
    """A number that shall not be larger."""
    return Target(name, f"at most {limit:.2f}", reached, reached <= limit)


def below(name: str, limit: float, reached: float) -> Target:
    """A number that shall be smaller."""
    return Target(name, f"below {limit:.2f}", reached, reached < limit)


def render_targets(targets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lay targets out as lines; none where there are none."""
    if targets:
        width = max(len(target["name"]) for target in targets)
        yield f"\n{'target':<{width}}{'wanted':>16}{'reached':>9}"
        for target in targets:
            met = "met" if target["met"] else "NOT MET"
            yield f"{target['name']:<{width}}{target['wanted']:>16}{target['reached']:>9.2f}  {met}"
