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
    section: list[str] = []
    in_entry = False
    for line in text.splitlines():
        if found := _names(line, names):
            text_of_all = line.partition(": ")[2]
            section += [f"{name}: {text_of_all}" for name in found]
            in_entry = True
        elif in_entry and line.startswith("    "):
            section.append(line)
        else:
            in_entry = False
            lines.append(line)
    if not section:
        return text
    known = "|".join(sorted(names, key=len, reverse=True))
    entries = re.sub(rf"; ({known}): ", r"\n\1: ", "\n".join(section)).splitlines()
    at = lines.index("Raises:") if "Raises:" in lines else len(lines)
    return "\n".join([*lines[:at], "", f"{title}:", *(f"    {line}" for line in entries), "", *lines[at:]])


def _names(line: str, known: set[str]) -> list[str]:
    entry = re.match(r"([\w, ]+): ", line)
    names = [name.strip() for name in entry[1].split(",")] if entry else []
    return names if set(names) <= known else []
