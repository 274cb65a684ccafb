"""What the documentation says is there: links, commands, options, generated pages, the README's example; and nothing that should not be."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flows import cli

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "state", "operators", "connectors", "flows", "bench", "tests", "docs")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def load(path: Path) -> ModuleType:
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language ("" for none said)."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def anchor(title: str) -> str:
    """Return the anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- links ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, part = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        if not path.exists() or ROOT not in [path, *path.parents]:
            broken.append(target)
        elif part and part not in {anchor(t) for t in re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.M)}:
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index)}
    assert [name(page) for page in PAGES if page not in linked and page.name != "index.md"] == []


def test_quoted_section_titles_exist() -> None:
    """`(page.md), "Title"` is how one page, and code, points at a section of another."""
    missing = []
    for path in [*PAGES, *SOURCES]:
        for target, title in re.findall(r"(?:\]\(|docs/)([\w./-]+\.md)\)?, \\?\"([^\"\\]+)\\?\"", path.read_text(encoding="utf-8")):
            page = next((p for p in (path.parent / target, ROOT / "docs" / target, ROOT / target) if p.is_file()), None)
            titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M) if page else []
            if not any(found.startswith(" ".join(title.split())) for found in titles):
                missing.append(f"{name(path)}: {target}, {title}")
    assert missing == []


# --- commands ---------------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of every line of a block without a language, and of every inline code, that is a command."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in blocks(page, "") for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        for line in lines:
            words = line.split("  #")[0].split(" #")[0].strip()
            if re.match(r"(\.venv/bin/)?(hedgerow|make|python) ", words + " "):
                yield name(page), words


COMMANDS = sorted(set(commands()))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda text: text)
def test_commands_exist_with_their_options(page: str, line: str) -> None:
    words = shlex.split(line.replace(".venv/bin/", ""))
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z.]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
        assert set(words[1:]) <= targets
    elif words[0] == "python":
        module = ROOT / (words[2].replace(".", "/") + ".py") if words[1] == "-m" else ROOT / words[1]
        assert module.is_file()
    elif len(words) > 1:
        assert words[1].rstrip("…,") in cli.COMMANDS
        if not re.search(r"[\[…|]|start\|stop", line) and len(words) > 2:
            check_options(words[1:])


def check_options(words: list[str]) -> None:
    """Let the real parser read a command line whose placeholders (FLOW, N) stand for something."""
    values = {"FLOW": "execution", "N": "2", "DURATION": "2h"}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            cli.build_parser(words[0]).parse_args([values.get(word, word) for word in words])
    except SystemExit as end:
        # inline code often names a command with one option and nothing else: then only the option must exist
        if end.code:
            unfinished = ("the following arguments are required", "expected one argument")
            told = said.getvalue()
            if "unrecognized" in told or not any(words in told for words in unfinished):
                pytest.fail(f"{' '.join(words)}: {told}")


# --- generated pages and examples -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load(ROOT / "docs" / "generate.py")


def test_generated_pages_are_current(generator: Any) -> None:
    assert generator.missing() == []
    assert generator.out_of_date() == [], "run `make docs`"


def test_counters_of_the_hedger_are_worded(generator: Any) -> None:
    """Every name that counters() gives beside the balance, taken from its source: `result["name"]`, `result[f"dlq_{…}"]`."""
    tree = ast.parse((ROOT / "operators" / "hedger.py").read_text(encoding="utf-8"))
    counters = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "counters")
    given = {
        node.slice.value if isinstance(node.slice, ast.Constant) else "dlq_<reason>"
        for node in ast.walk(counters)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    assert given | set(generator.hedges.BALANCE) == generator.HEDGER_COUNTERS.keys()


def test_a_code_or_counter_without_wording_is_told(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(generator.HEDGE_REASONS, generator.HedgeReason.dust)
    monkeypatch.delitem(generator.REASONS, generator.Reason.ttl_expired)
    monkeypatch.delitem(generator.HEDGER_COUNTERS, "echo")
    monkeypatch.setitem(generator.COUNTERS, "no_such", "")
    assert generator.missing() == ["dust", "echo", "no_such", "ttl_expired"]


def test_settings_and_metrics_mentioned_exist(generator: Any) -> None:
    known = set(
        re.findall(r"HEDGEROW_[A-Z_]+", "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if "tests" not in path.parts))
    )
    known |= {generator.variable(field) for field in generator.Settings.model_fields}
    metrics = {
        f"{metric}{end}"
        for metric, (kind, _) in generator.METRICS.items()
        for end in {"counter": ("_total",), "gauge": ("",), "histogram": ("",)}[kind]
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"HEDGEROW_[A-Z_]+", text)) <= known, name(page)
        assert set(re.findall(r"\bhedgerow_[a-z_]+", text)) <= metrics | {"hedgerow_simulator"}, name(page)


def test_reasons_and_counters_mentioned_in_operations_exist(generator: Any) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for counter in re.findall(r'\{name=~?"([^"]+)"\}', text):
        for one in counter.replace("\\|", "|").split("|"):
            assert one in generator.COUNTERS or one in generator.HEDGER_COUNTERS or one in ("benchmark_overrun",), one


def test_readme_example_is_what_comes_out() -> None:
    report, fill = (json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    assert report == json.loads((ROOT / "docs" / "example" / "report.json").read_text())
    assert fill == json.loads((ROOT / "docs" / "example" / "fill.json").read_text())
    assert load(ROOT / "docs" / "example" / "run.py").fill() == fill


def test_ids_of_the_readme_example_follow_from_the_rule() -> None:
    fill = json.loads((ROOT / "docs" / "example" / "fill.json").read_text())
    text = "".join(f"{len(part)}:{part}," for part in ("ALPHA", "ACC-1", "BTC-USD", "T-1001")) + "20260105"
    fill_id = uuid.uuid5(uuid.UUID("6f2d5c8e-1b3a-4f70-95e3-c1a08462f1dc"), text)
    assert fill["payload"]["fill_id"] == str(fill_id)
    assert fill["msg_id"] == str(uuid.uuid5(uuid.UUID("2b7e1516-28ae-d2a6-abf7-f8a85e4d3c2c"), f"{fill_id}:v1"))
    rules = (ROOT / "docs" / "reconciliation.md").read_text(encoding="utf-8")
    assert text in rules
    assert str(fill_id) in rules
    assert fill["msg_id"] in rules


def test_example_decision_is_as_the_contract_says() -> None:
    module = load(ROOT / "docs" / "example" / "release.py")
    told = json.loads(
        module.decision("7c9e6679-7425-40de-944b-e07fc1f90ae7", "RELEASE", "A. Trader", "by phone", 1_767_614_400_000_000_000)
    )
    assert told["ts"] == "2026-01-05T12:00:00Z"
    with pytest.raises(ValueError, match="RELEASE"):
        module.decision("7c9e6679-7425-40de-944b-e07fc1f90ae7", "MAYBE", "A. Trader", "by phone", 1_767_614_400_000_000_000)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


# --- what may not be there --------------------------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    """Return the files of the project: what git would take, or all text files where there is no repository."""
    try:
        told = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / line for line in told.splitlines() if (ROOT / line).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [*PAGES, *SOURCES]


def test_nothing_is_left_to_do() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    found = [f"{name(path)}: {hit[0]}" for path in [*PAGES, *SOURCES] for hit in words.finditer(path.read_text(encoding="utf-8"))]
    assert found == []


def test_lock_files_name_no_place_and_hold_hashes() -> None:
    for path in (ROOT / "requirements.lock", ROOT / "requirements-dev.lock", ROOT / "requirements-data.lock"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text
        pins = re.findall(r"^\S+==\S+", text, re.M)
        assert len(pins) == len(re.findall(r"^\S", text, re.M))
        assert text.count("--hash=sha256:") >= len(pins)


def test_project_names_no_folder_of_a_machine() -> None:
    places = re.compile(r"(?<![\w./])/(?:work|root|home/\w+)/")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}: {hit[0]}" for hit in places.finditer(text) if path != Path(__file__).resolve()]
    assert found == []


# --- how files begin --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in SOURCES if path.read_text(encoding="utf-8").strip()], ids=name)
def test_files_begin_with_what_they_are_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "a file opens with what it is for, what it may not do and where its rules come from"
    assert len(docstring) > 20


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.M))
    assert targets == set(re.findall(r"^([a-z]+):.*## ", text, re.M)) | {"help"}
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_subcommands_all_have_a_module_with_run() -> None:
    for command, spec in cli.COMMANDS.items():
        module = importlib.import_module(spec.module)
        assert callable(module.run), command
        if hasattr(module, "add_arguments") and spec.module != "flows.cli":
            module.add_arguments(argparse.ArgumentParser())
