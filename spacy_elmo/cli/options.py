"""Translates our commands for typer: a Literal becomes a list of choices, a class of settings becomes options.

All versions of typer that spaCy supports know enumerations. Only the newest know Literals.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from inspect import Parameter
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer import Option


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Literal parameter its choices, and a dataclass parameter one option per field.

    The metadata of a field say what its option shows: `help`, `min`, `metavar`, `short`. The command receives a
    value of the Literal, and an instance of the dataclass.
    """
    hints = get_type_hints(command)
    parameters: list[Parameter] = []
    settings: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            settings[name] = hints[name]
            parameters += _options_of(hints[name])
        else:
            parameters.append(parameter.replace(annotation=_for_typer(name, hints[name])))

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: value.value if isinstance(value, Enum) else value for name, value in arguments.items()}
        for name, kind in settings.items():
            given[name] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
        command(**given)

    # Keyword-only, because a parameter with a default may precede one without. Typer passes all by name.
    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(settings: type) -> Iterator[Parameter]:
    hints = get_type_hints(settings)
    for one in fields(settings):
        shown = dict(one.metadata)
        names = [shown.pop("short")] if "short" in shown else []
        if names or hints[one.name] is bool:  # otherwise typer adds `--no-...`
            names.insert(0, f"--{one.name.replace('_', '-')}")
        option = Option(one.default, *names, **shown)
        yield Parameter(
            one.name, Parameter.KEYWORD_ONLY, default=option, annotation=_for_typer(one.name, hints[one.name])
        )


def _for_typer(name: str, hint: Any) -> Any:
    """Return an enumeration for a Literal, and `str` for text or a number."""
    if get_origin(hint) is Literal:
        return Enum(name, {choice: choice for choice in get_args(hint)}, type=str)
    return str if hint == str | int else hint
