"""Writes the reference of `tfpyop.testing` from its docstrings: `python docs/build_reference.py`."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tfpyop.testing

PAGE = Path(__file__).with_name("testing-reference.md")
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Source")
INTRODUCTION = """\
# Reference: `tfpyop.testing`

What [Test your op](testing.md) uses. This page is written from the docstrings, by `python docs/build_reference.py`.
"""
GROUPS = {
    "Strategies": ["arguments", "cotangents", "tangents", "Arguments"],
    "All checks at once": ["check_op", "make_test_class", "CHECKS", "Report", "ChecksError"],
    "Checks": [*tfpyop.testing.CHECKS, "Outcome", "CheckError"],
}


def reference() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += ["\n".join(entry(name, getattr(tfpyop.testing, name))) for name in names]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def entry(name: str, value: Any) -> Iterator[str]:
    """The lines of one name: a heading, its signature, and its docstring."""
    yield f"### `{name}`\n"
    if not callable(value):
        yield f"The names of all checks and the checks, in the order in which they run: {', '.join(value)}.\n"
        return
    if inspect.isfunction(value):
        yield f"```text\n{signature(name, value)}\n```\n"
    yield from docstring(inspect.getdoc(value) or "")
    for member, function in vars(value).items() if inspect.isclass(value) else ():
        text = inspect.getdoc(function) if isinstance(function, property) or inspect.isfunction(function) else None
        if text and not member.startswith("_"):
            call = signature(member, function) if inspect.isfunction(function) else member
            yield f"- `{call}`: {' '.join(text.split())}"
    yield ""


def signature(name: str, function: Any) -> str:
    """A call with defaults, without annotations, which the docstring tells in words."""
    read = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in read.parameters.values()
        if parameter.name != "self"
    ]
    text = str(read.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return name + re.sub(r"<class '(\w+\.)*(\w+)'>", r"\2", text)


def docstring(text: str) -> Iterator[str]:
    """A docstring as Markdown: sections become lists, examples become code."""
    section, is_example = "", False
    for line in [*text.splitlines(), ""]:
        is_code = line.startswith(">>> ") or (is_example and line != "")
        if is_code != is_example:
            yield "```pycon" if is_code else "\n```\n"
            is_example = is_code
        title, _, rest = line.partition(":")
        if title in SECTIONS:
            section = title
            yield f"**{title}**: {rest.strip()}" if rest.strip() else f"**{title}**\n"
        elif section and re.match(r"  [\w*]+: ", line) and section != "Returns":
            item, _, meaning = line.strip().partition(": ")
            yield f"- `{item}`: {meaning}"
        else:
            yield line.strip() if section and not is_code else line


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
