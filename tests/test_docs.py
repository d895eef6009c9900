"""The documents do what they say: their Python runs and prints what is written beside it, commands and links exist."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support import processes

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
DATABASE = "postgresql://user:password@localhost:5432/app"
LANGUAGES = {"python", "sh", "diff"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its document and `##` section, its language, the number of its first line, and its text."""

    document: str
    section: str
    language: str
    line: int
    text: str


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found, section = [], ""
    for match in re.finditer(r"^## (?P<section>[^\n]+)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", text, re.M | re.S):
        section = match["section"] or section
        if match["text"] is not None:
            line = text.count("\n", 0, match.start("text")) + 1
            found.append(Block(path.name, section, match["language"], line, match["text"]))
    return found


BLOCKS = blocks_of(README)
PYTHON = [block for document in DOCUMENTS for block in blocks_of(document) if block.language == "python"]
COMMANDS = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
FILES = {match[1]: block for block in PYTHON if (match := re.match(r"# (\w+\.py)\n", block.text))}
SECTIONS = {
    f"{document}: {section}": list(blocks)
    for (document, section), blocks in groupby(
        (block for block in PYTHON if block not in FILES.values()), lambda block: (block.document, block.section)
    )
}


def as_code(block: Block, database: str) -> str:
    """The block on its own line numbers, so that a traceback names the line of the document."""
    return "\n" * (block.line - 1) + block.text.replace(DATABASE, database)


def promised(block: Block) -> list[str]:
    """The lines that the comments beside and below `print` say will be printed."""
    lines, beside = [], False
    for line in block.text.splitlines():
        print_call = re.search(r"\bprint\(.*\)  # (.*)$", line)
        below = re.match(r"\s+# (.*)$", line) if beside else None
        if found := print_call or below:
            lines.append(found[1])
        beside = bool(found)
    return lines


def run(block: Block, folder: Path, database: str) -> list[str]:
    """Run a block in a process of its own. Gives the lines that it printed."""
    script = folder / f"{block.document.removesuffix('.md')}_line_{block.line}.py"
    script.write_text(as_code(block, database), encoding="utf-8")
    done = processes.run(script.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    noted = ("refused: ", "slow: ")  # by the log
    assert not [line for line in done.stderr.splitlines() if not line.startswith(noted)]
    return done.stdout.splitlines()


@pytest.mark.parametrize("section", SECTIONS)
def test_the_python_of_a_section_runs_from_top_to_bottom(section: str, tmp_path: Path, postgres_uri: str) -> None:
    for name, block in FILES.items():
        (tmp_path / name).write_text(as_code(block, postgres_uri), encoding="utf-8")
    for block in SECTIONS[section]:
        assert run(block, tmp_path, postgres_uri) == promised(block), f"{block.document}, line {block.line}"


def test_no_block_is_left_out() -> None:
    fences = re.findall(r"^```\w+$", README.read_text(encoding="utf-8"), re.M)
    assert len(fences) == len(BLOCKS)
    assert {block.language for block in BLOCKS} == LANGUAGES
    assert set(FILES) == {"app.py"}
    assert sum(map(len, SECTIONS.values())) + len(FILES) == len(PYTHON) > 8


def test_most_sections_promise_an_output() -> None:
    silent = [name for name, blocks in SECTIONS.items() if not any(promised(block) for block in blocks)]
    assert [name for name in silent if name.startswith("README.md")] == ["README.md: setup()"]


def test_the_changed_line_can_be_imported_on_both_sides() -> None:
    [change] = [block.text for block in BLOCKS if block.language == "diff"]
    before, after = re.findall(r"^[-+](.+)$", change, re.M)
    for line in (before, after):
        names: dict[str, object] = {}
        exec(line, names)
        assert "SqliteSaver" in names
    assert after == before.replace("langgraph.checkpoint", "langgraph_checkpoint_dual")


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = [command.removeprefix("make ") for command in COMMANDS if command.startswith("make ")]
    assert set(named) == {"demo", "test", "bench"} <= targets


def test_the_python_commands_run(tmp_path: Path, postgres_uri: str) -> None:
    url = "postgresql://?" + urlencode(conninfo_to_dict(postgres_uri), quote_via=quote)
    commands = [command for command in COMMANDS if command.startswith("python ")]
    for number, command in enumerate(commands):
        script, *arguments = command.replace(DATABASE, url).split()[1:]
        done = processes.run(
            ROOT / script,
            *arguments,
            "--model",
            "local",
            given=f"command {number}\nwhat did I just tell you?\n",
            cwd=tmp_path,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"You told me: command {number}" in done.stdout
    assert len(commands) == 2


def test_every_command_is_checked() -> None:
    assert [command for command in COMMANDS if not command.startswith(("make ", "python "))] == ["pip install ."]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]
