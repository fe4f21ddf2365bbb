# SPDX-License-Identifier: MIT
"""What documents name is there: files, headings, commands, options, scripts, variables; and what is there is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from memguard_cli.main import memguard
from testbed import addresses, variables

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("meta-memguard/*.md")])
# Of the tests and scripts, and what a command of the user's finds in its environment.
OTHER_VARIABLES = {
    "MEMGUARD_BITBAKE",
    "MEMGUARD_CHECKOUTS",
    "MEMGUARD_COMPLETE",
    "MEMGUARD_LIMIT_BYTES",
    "MEMGUARD_PYTHON",
    "MEMGUARD_RECIPE",
    "MEMGUARD_TASK",
    "MEMGUARD_USED_BYTES",
    "MEMGUARD_V2RUN",
    "MEMGUARD_WANTED_BYTES",
}

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(document: Path) -> str:
    """The text of a document."""
    return document.read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """The anchors that forges and site generators make of a document's headings."""
    prose = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """The files of the repository that a document links to or shows, each with the anchor in it, "" for none."""
    found = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text_of(document))
    for target in (link or image for link, image in found):
        path, _, anchor = target.partition("#")
        if "://" not in target and not target.startswith("mailto:"):
            yield (document.parent / path).resolve() if path else document, anchor


def subcommands(command: click.Command, name: str = "memguard") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, by the words that people type."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from subcommands(below, f"{name} {word}")


COMMANDS = dict(subcommands(memguard))


def command_lines(document: Path) -> Iterator[list[str]]:
    """The words of each `memguard ...` in a code span, a block or an indented line of a document."""
    text = text_of(document)
    spans = re.findall(r"(?<!`)`(?:scripts/)?(memguard [^`\n]+)`(?!`)", text)
    lines = re.findall(
        r"^ *(?:\$ |- run: )?(?:scripts/)?(memguard [a-z].*)$", "\n".join(code_blocks(text)), re.MULTILINE
    )
    for line in [*spans, *lines]:
        yield re.split(r"\s[#|>]|\s--\s", line)[0].split()


def code_blocks(text: str) -> list[str]:
    """The fenced and the indented blocks of a document."""
    return [
        *re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL),
        *re.findall(r"^    (?!\s)(.+)$", text, re.MULTILINE),
    ]


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    """A link to a file of the repository leads to one, and to a heading in it."""
    for target, anchor in links(document):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target.name}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links to every page beside it."""
    pages = {page for page in DOCS.glob("*.md") if page.name != "README.md"}
    assert pages <= {path for path, _ in links(DOCS / "README.md")}


def test_every_page_is_on_the_site() -> None:
    """mkdocs.yml lists every page of docs/, once."""
    listed = re.findall(r"[\w-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(DOCS / name for name in listed) == sorted(DOCS.glob("*.md"))


def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Every link within the site leads somewhere, and no page has a script, style or picture of another host."""
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(r"<(?:script|img)[^>]+src=\"(?:https?:)?//[^>]*|<link[^>]+href=\"(?:https?:)?//[^>]*", pages)


@documents
def test_every_command_in_a_document_exists(document: Path) -> None:
    """A subcommand that a document names is there, with the options that stand beside it."""
    for words in command_lines(document):
        depth = max(count for count in range(1, len(words) + 1) if " ".join(words[:count]) in COMMANDS)
        command = COMMANDS[" ".join(words[:depth])]
        line = " ".join(words)
        if isinstance(command, click.Group):
            assert depth > 1 or words[1].startswith("-"), line
        context = click.Context(command, help_option_names=["-h", "--help"])
        options = {name for parameter in command.get_params(context) for name in parameter.opts}
        above = {name for parameter in memguard.params for name in parameter.opts} if depth == 1 else set()
        named = {word.partition("=")[0].rstrip(".,;:") for word in words[depth:] if re.match(r"--?[a-z]", word)}
        assert named <= options | above, line


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_every_command_is_documented(name: str) -> None:
    """docs/commands.md names every subcommand, and shows it in use."""
    assert re.search(rf"{name}\b", text_of(DOCS / "commands.md"))


@documents
def test_every_script_in_a_document_exists(document: Path) -> None:
    """A script that a document names is there, and so is what `scripts/bench` measures."""
    text = text_of(document)
    for name in re.findall(r"\bscripts/(\w+)", text):
        assert (ROOT / "scripts" / name).exists(), name
    for name in re.findall(r"scripts/bench ([a-z]\w+)\b(?= -|`)", text):
        assert (ROOT / "tests" / "bench" / f"{name}.py").exists(), name


@documents
def test_every_file_in_a_document_exists(document: Path) -> None:
    """A path of the repository that stands as code in a document is there."""
    pattern = r"`((?:conf|docs|lib|meta-memguard|tests)/[\w./-]+)`"
    paths = [path for path in re.findall(pattern, text_of(document)) if not path.startswith("conf/local")]
    bases = [ROOT, ROOT / "meta-memguard", ROOT / "tests" / "bench" / "oe-layer"]
    missing = [path for path in paths if not any((base / path).exists() for base in bases)]
    assert [path for path in missing if Path(path).name not in ("bblayers.conf", "bitbake.conf")] == []


@documents
def test_variables_in_documents_exist(document: Path) -> None:
    """A variable that a document speaks of is one of the class, or one of the tests'."""
    known = {variable.name for variable in variables.read(variables.CLASS.read_text(encoding="utf-8"))}
    named = set(re.findall(r"\bMEMGUARD_[A-Z_]*[A-Z]\b", text_of(document)))
    assert named <= known | OTHER_VARIABLES


def test_every_variable_is_explained_to_readers() -> None:
    """Each variable is named in a guide or a page on methods, and not in the reference alone."""
    known = {variable.name for variable in variables.read(variables.CLASS.read_text(encoding="utf-8"))}
    guides = "\n".join(text_of(page) for page in DOCS.glob("*.md") if page.name not in ("variables.md", "constants.md"))
    assert {name for name in known if not re.search(rf"\b{name}\b", guides)} == set()


def test_every_extra_is_among_the_ways_to_install() -> None:
    """Those of pyproject.toml that are for users."""
    extras = text_of(ROOT / "pyproject.toml").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE)) - {"docs", "test"}
    assert names == set(re.findall(r"clone\[([\w,]+)\]", text_of(DOCS / "install.md"))[0].split(","))


@documents
def test_an_image_is_named_whole(document: Path) -> None:
    """With its tag, as conf/addresses.yml has it: otherwise scripts/addresses does not find it."""
    image = addresses.read()["image"]
    named = re.findall(rf"{re.escape(image.rpartition(':')[0])}[\w:.-]*", text_of(document))
    assert set(named) <= {image}


def test_a_cluster_is_asked_about_one_namespace() -> None:
    """Each kubectl to type says in which namespace the builds are, where what it asks for has one."""
    text = text_of(DOCS / "kubernetes.md")
    typed = re.findall(r"^ +(kubectl .*)$", text, re.MULTILINE) + re.findall(r"`(kubectl [^`.]+ [^`]+)`", text)
    assert len(typed) > 12
    for line in typed:
        assert re.search(r"\s-n\s+builds\b|create namespace|describe node|pod \.\.\.", line), line


@documents
def test_what_is_installed_can_be_had(document: Path) -> None:
    """An install command of a document names what conf/addresses.yml has as the package, or a wheel."""
    if document.name == "CHANGELOG.md":
        return  # it says what was, not what to type
    for named in re.findall(r"\b(?:pipx?|uv tool) install (?:-\S+ )*'?([^\s'`\[]+)", text_of(document)):
        assert named == addresses.read()["package"] or named.endswith(".whl"), named
