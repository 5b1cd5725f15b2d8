"""Extension of griffe: the lines `name: what it is` of our docstrings become lists of parameters and attributes."""

import re
from typing import Any

import griffe


class Parameters(griffe.Extension):
    """Turns lines that begin with names of parameters into `Args:`, and those of fields into `Attributes:`."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Rewrite the docstring of a function or method."""
        if func.docstring is not None:
            names = {parameter.name for parameter in func.parameters}
            func.docstring.value = with_section(func.docstring.value, "Args", names)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Rewrite the docstring of a class."""
        if cls.docstring is not None:
            cls.docstring.value = with_section(cls.docstring.value, "Attributes", set(cls.members))


def with_section(text: str, title: str, names: set[str]) -> str:
    """Move entries whose names are all known into a section of this title, at the end or before `Raises:`.

    An entry may have several names, `a, b: what they are`, and a line several entries, `a: this; b: that`.
    """
    lines: list[str] = []
    found: list[tuple[list[str], list[str]]] = []  # the names of each entry, and its text
    in_entry = False
    known = "|".join(sorted(names, key=len, reverse=True))
    for line in re.sub(rf"; ((?:(?:{known}), )*(?:{known}): )", r"\n\1", text).splitlines():
        if named := _names(line, names):
            found.append((named, [line.partition(": ")[2]]))
            in_entry = True
        elif in_entry and line.startswith("    "):
            found[-1][1].append(line)
        else:
            in_entry = False
            lines.append(line)
    if not found:
        return text
    entries = [line for named, about in found for name in named for line in _entry(name, about)]
    at = lines.index("Raises:") if "Raises:" in lines else len(lines)
    return "\n".join([*lines[:at], "", f"{title}:", *(f"    {line}" for line in entries), "", *lines[at:]])


def _entry(name: str, about: list[str]) -> list[str]:
    """Return the lines of an entry. A list in it begins after a blank line, as Markdown wants it."""
    first = next((number for number, line in enumerate(about) if line.lstrip().startswith("- ")), len(about))
    return [f"{name}: {about[0]}", *about[1:first], *([""] if first < len(about) else []), *about[first:]]


def _names(line: str, known: set[str]) -> list[str]:
    entry = re.match(r"([\w, ]+): ", line)
    names = [name.strip() for name in entry[1].split(",")] if entry else []
    return names if set(names) <= known else []
