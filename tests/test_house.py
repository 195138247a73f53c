"""The rules of the house: who imports whom, light doors, frozen command lines, commands that README and CI share.

`python tests/test_house.py` writes the command lines as they are now to tests/command_lines/, to be reviewed
and committed with the change that made them.
"""

import ast
import contextlib
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from io import StringIO
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FROZEN = Path(__file__).parent / "command_lines"
DOORS = ["magic141", "magic141.train", "bench", "evals", "reports"]
HEAVY = ("torch", "torchvision", "diffusers", "transformers")


def commands(door: str) -> Iterator[tuple[str, ...]]:
    """Every path of subcommands behind `python -m door`, the empty one first."""

    def walk(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))

    yield from walk(command_of(door), ())


def command_of(door: str) -> object:
    return typer.main.get_command(import_module(f"{door}.__main__").app)


def describe(door: str) -> str:
    """One line for each option of each command: what a script that calls the door depends on."""
    lines = []
    for path in commands(door):
        command = command_of(door)
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        lines.append(" ".join(["python -m", door, *path]))
        for parameter in command.params:  # type: ignore[attr-defined]
            names = "/".join([*parameter.opts, *parameter.secondary_opts])
            default = "required" if parameter.required else f"default {parameter.default!r}"
            lines.append(f"    {names}: {default}")
    return "\n".join(lines) + "\n"


def test_import_contracts() -> None:
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("door", DOORS)
def test_help_comes_without_torch(door: str) -> None:
    """One fresh process a door prints the help of each of its commands, then says what it has imported."""
    done = subprocess.run(
        [sys.executable, __file__, door], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages, heavy = json.loads(done.stdout)
    assert heavy == []
    for path, page in pages.items():
        assert "Usage" in page, f"{door} {path} --help printed {page!r}"


@pytest.mark.parametrize("door", DOORS)
def test_command_line_is_frozen(door: str) -> None:
    assert describe(door) == (FROZEN / f"{door}.txt").read_text("utf-8"), (
        f"the options of `python -m {door}` changed; if that is meant, run `python tests/test_house.py`"
    )


def test_importing_magic141_is_light_and_lazy() -> None:
    code = """
import sys, magic141
assert not {"torch", "diffusers"} & set(sys.modules), "import magic141 is heavy"
for name in magic141.__all__:
    assert getattr(magic141, name).__name__ == name
    assert name in dir(magic141)
try:
    magic141.nothing
except AttributeError:
    pass
else:
    raise AssertionError("an unknown attribute was found")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_import_is_declared() -> None:
    """What the packages import is in pyproject.toml: magic141 in the dependencies, the harness there or in `bench`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    core = {Requirement(line).name for line in project["project"]["dependencies"]}
    harness = core | {Requirement(line).name for line in project["dependency-groups"]["bench"]}
    providers = {
        module: {canonicalize_name(name) for name in names}
        for module, names in metadata.packages_distributions().items()
    }
    for package, declared in {
        "magic141": core,
        "bench": harness,
        "evals": harness,
        "reports": harness,
    }.items():
        for path in (ROOT / package).rglob("*.py"):
            for module in (
                imported(path) - set(sys.stdlib_module_names) - {"magic141", "bench", "evals", "reports"}
            ):
                assert providers[module] & declared, f"{path.relative_to(ROOT)} imports {module}: declare it"


def imported(path: Path) -> set[str]:
    """The top-level names that the file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_constraints_hold_names_and_versions_only() -> None:
    line = re.compile(r"[a-z0-9._-]+==[\w.+-]+( ; .+)?")
    for text in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert line.fullmatch(text), text


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    _, command = readme.split("```")[1].strip().splitlines()
    assert command == "python -m nox -s tests"
    assert command in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_version_is_said_once() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {import_module('magic141').__version__}\n" in citation


def print_help(door: str) -> None:
    pages = {}
    for path in commands(door):
        sys.argv = [door, *path, "--help"]
        page = StringIO()
        with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
            runpy.run_module(door, run_name="__main__", alter_sys=True)
        pages[" ".join(path)] = page.getvalue()
    print(json.dumps([pages, sorted(set(HEAVY) & set(sys.modules))]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) > 1:
        print_help(sys.argv[1])
    else:
        FROZEN.mkdir(exist_ok=True)
        for name in DOORS:
            (FROZEN / f"{name}.txt").write_text(describe(name), "utf-8", newline="\n")
