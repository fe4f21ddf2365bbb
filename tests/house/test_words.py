# SPDX-License-Identifier: MIT
"""What is written is spelt as dictionaries have it, and messages are English as people speak it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What people read, the sources' comments among it. The words of logs in the rules of diagnose are not ours.
READ = ("*.md", "lib", "meta-memguard", "scripts", "conf", ":!conf/grafana", ":!*/diagnose/*")
KNOWN = "notin,paralell"  # a name of Python's; a misspelt variable as an example
# How nobody says it, and how it is said.
SAID_OTHERWISE = {
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|such\b|room\b|\{)": "is not a ...",
    r"\bpassed over\b": "skipped",
    r"\btells? of\b": "shows, lists",
    r"\bknown are\b": "choose from",
    r"\b(?:is|are) due\b": "should be here",
    r"\b1 (?:jobs|tasks|times|builds|samples|runs|recipes|processes)\b": "1 job",
}


def files(*patterns: str) -> list[str]:
    """The files of the repository that match; fixtures are as they were found."""
    words = ["git", "ls-files", "-z", "--", *patterns, ":!tests/fixtures"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_words_are_spelt_as_in_a_dictionary() -> None:
    """codespell, which knows the usual misspellings, finds none in documents, comments and messages."""
    pytest.importorskip("codespell_lib")
    words = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", KNOWN, *files(*READ)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("name", files("*.md"))
def test_no_word_stands_twice(name: str) -> None:
    """No document says "the the", over the end of a line neither."""
    prose = re.sub(r"^(?:\||    |```).*$|`[^`]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert re.findall(r"\b([a-z]+)\s+\1\b", prose) == []


def messages(tree: ast.Module) -> Iterator[str]:
    """The texts of a module that are no docstrings; what is filled in stands as {}."""
    quiet = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            quiet.update(id(part) for part in node.values)
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quiet:
            yield node.value


@pytest.mark.parametrize("name", files("lib/*.py", "meta-memguard/lib/*.py", ":!*/diagnose/*"))
def test_messages_are_plain_english(name: str) -> None:
    """No text that a user may read has a turn of phrase of a translation; rules about logs have the words of others."""
    for text in messages(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        for pattern, better in SAID_OTHERWISE.items():
            assert not re.search(pattern, text), f"{text!r}: say {better!r}"
