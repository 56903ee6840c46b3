"""What the README says works, works."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dora_nb.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_are_there_word_for_word():
    assert "python3 -m venv .venv && .venv/bin/pip install -e '.[all]' && .venv/bin/dora-nb demo\n" in README
    assert "python3 -m venv .venv && .venv/bin/pip install -e '.[all,test]' && .venv/bin/pytest\n" in README


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("d*/*.md")), ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def test_folders_named_in_the_map_exist():
    for folder in re.findall(r"^\| `([a-z_/]+)` \|", README, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_python_example_runs(tmp_path, monkeypatch):
    """All but what runs the plan, which the executor's own tests and a notebook do."""
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for line in block.splitlines() if not any(each in line for each in ("execute", "run.", "compare("))]
    assert len(lines) == len(block.splitlines()) - 3
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(lines), "README.md", "exec"), {})
    assert (tmp_path / "plan.json").exists()


def test_planning_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(
        r"^dora-nb ((?:plan|share|explain|compose) .*)$", README.replace("\\\n", " "), flags=re.MULTILINE
    )
    assert len(commands) >= 4
    for command in commands:
        ran = CliRunner().invoke(app, shlex.split(command))
        assert ran.exit_code == 0, (command, ran.output, ran.exception)
