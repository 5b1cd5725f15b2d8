"""Finds sentences that are hard to read: `python scripts/plain_english.py [FILE ...]`.

It reads the prose of Markdown files, and the docstrings, comments, messages and help texts of Python files. Without
arguments, it reads all such files that git knows. A sentence is hard to read if it has more than 35 words, or one of
`PHRASES`. The exit status is 1 if there is such a sentence.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_WORDS = 35
# Phrases that readers stumble over, and what to write instead.
PHRASES = {
    r"(is|are|was) gone on with|(goes|go|went) on where": "continues, resumes",
    r"that (is|are|has|have) none\b|which (is|are) none\b": "say what is missing",
    r"\bwho (has|have|wants|needs|is|are|knows|does)\b(?=[^?]*$)": 'say "if you ..."',
    r"(takes|take|give|gives) no (harm|account)": "say what happens",
    r"\bof (one|your|its|their|his)'s own\b": "own",
    r"\bbeside (it|them|that|this|each other)\b": "next to it; compared with it; as well",
    r"\b(anew|wherefore|whereof|thereof|therein|henceforth|whilst|upon|ere|hitherto)\b": "an everyday word",
    r"\b(is|are) to be (had|seen|found|read|done|said|told|had)\b": "you can ...; is in ...",
    r"\bin which case\b|\bthe same holds\b": "two sentences",
    r"\b(utilize|leverage|facilitate|prior to|in terms of)\b": "use, help, before, in",
}
_SKIPPED = (  # data, names of people, and this list
    *("scripts/plain_english.py", "tests/data/", "spacy_elmo/models/", "experiments/data/", "benchmarks/SOURCE.md"),
    "training/en_elmo_sm/ATTRIBUTION",
)
_FEWEST = 6  # words of a string that counts as a message


def main() -> int:
    """Print a line for each sentence that is hard to read."""
    files = [Path(name) for name in sys.argv[1:]] or list(_known())
    found = [(path, line, what) for path in files for line, text in passages(path) for what in faults(text)]
    for path, line, what in found:
        print(f"{path.resolve().relative_to(ROOT)}:{line}: {what}")
    return int(bool(found))


def _known() -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md", "*.py"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else _found()  # not in a clone, or not its owner's
    yield from (ROOT / name for name in names if not name.startswith(_SKIPPED))


def _found() -> Iterator[str]:
    for path in sorted([*ROOT.rglob("*.md"), *ROOT.rglob("*.py")]):
        name = path.relative_to(ROOT)
        if not any(part.startswith(".") or part in ("build", "dist") for part in name.parts):
            yield name.as_posix()


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each paragraph that people read in a file."""
    text = path.read_text(encoding="utf8")
    yield from _python(text) if path.suffix == ".py" else _markdown(text)


def _markdown(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    paragraph: list[str] = []
    begin, in_code = first, False
    for number, line in enumerate([*text.splitlines(), ""], first):
        stripped = line.strip()
        if stripped.startswith(("```", "~~~")):
            in_code = not in_code
        begins_item = re.match(r"([-*+>]|\d+\.)\s", stripped)
        ends = in_code or not stripped or stripped.startswith(("#", "|", "```", "~~~", "<", "[![", "    "))
        if (ends or begins_item) and paragraph:
            yield begin, " ".join(paragraph)
            paragraph = []
        if not ends:
            begin = begin if paragraph else number
            paragraph.append(stripped)


def _python(text: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            constant = body[0].value
            if isinstance(constant.value, str):
                docstrings.add(constant)
                yield from _docstring(constant.value, constant.lineno)
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (node not in docstrings | inside and isinstance(node, ast.Constant)):
            message = _flat(node)
            is_list = message.count(",") * 3 > len(message.split())
            is_pattern = re.search(r"\\|\(\?|_\{", message) is not None
            if len(message.split()) >= _FEWEST and "\n" not in message.strip() and not is_list and not is_pattern:
                yield node.lineno, message
    yield from _comments(text)


def _docstring(text: str, first: int) -> Iterator[tuple[int, str]]:
    # An entry such as "name: what it is" begins a new paragraph. So does "Raises:", and what is indented as code.
    lines = [line if not re.match(r"\s*[\w, ]+:( |$)", line) else f"- {line.strip()}" for line in text.splitlines()]
    yield from _markdown("\n".join("" if line.startswith("        ") else line for line in lines), first)


def _flat(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_flat(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _comments(text: str) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != last + 1:
            yield last - len(block) + 1, " ".join(block)
            block = []
        block.append(token.string.lstrip("#: "))
        last = line
    if block:
        yield last - len(block) + 1, " ".join(block)


def faults(text: str) -> Iterator[str]:
    """Yield what is hard to read in a paragraph."""
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for sentence in re.split(r"(?<=[.!?])[\"')*]*\s+(?=[\"'(*A-Z0-9])", text):
        n_words = len(re.findall(r"\w[\w'.,/-]*", sentence))
        if n_words > MOST_WORDS:
            yield f"{n_words} words in one sentence: {_short(sentence)}"
        for phrase, instead in PHRASES.items():
            if found := re.search(phrase, sentence, re.IGNORECASE):
                yield f'"{found.group()}" ({instead}): {_short(sentence)}'


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= 90 else f"{sentence[:87]}..."


if __name__ == "__main__":
    sys.exit(main())
