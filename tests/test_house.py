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

ROOT = Path(__file__).resolve().parent.parent
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
            default = "required" if parameter.required else f"default {plain(parameter.default)!r}"
            lines.append(f"    {names}: {default}")
    return "\n".join(lines) + "\n"


def plain(default: object) -> object:
    """A default without what differs between machines."""
    if isinstance(default, Path):
        return (default.relative_to(ROOT) if default.is_relative_to(ROOT) else default).as_posix()
    return getattr(default, "value", default)


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


@pytest.mark.parametrize(
    "modules",
    [
        "magic141, magic141.weights, magic141.presets",
        "bench.suite, bench.records, bench.gate_power_command, reports.build",
    ],
)
def test_light_modules(modules: str) -> None:
    code = f"import sys, {modules}; print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_magic141_exports() -> None:
    """What `import magic141` offers comes with the first use, by its own name."""
    package = import_module("magic141")
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_every_import_is_declared() -> None:
    """pyproject.toml names what the packages import, where whoever installs it would look."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    core = names(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"]
    train, quantise = (core | names(extras[extra]) for extra in ("train", "quantise"))
    harness = core | names(project["dependency-groups"]["bench"])
    timings = harness | names([line for line in project["dependency-groups"]["dev"] if isinstance(line, str)])
    providers = {
        module: {canonicalize_name(name) for name in distributions}
        for module, distributions in metadata.packages_distributions().items()
    }
    ours = {"magic141", "bench", "evals", "reports"}
    for path in (path for package in ours for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        special = {
            ("magic141", "train"): train,
            ("magic141", "sparsify"): quantise,
            ("bench", "micro"): timings,
        }
        declared = special.get(parts[:2], core if parts[0] == "magic141" else harness)
        for module in imported(path) - set(sys.stdlib_module_names) - ours:
            # An extra need not be installed: then its package is taken to be called like its module.
            assert providers.get(module, {module}) & declared, (
                f"{'/'.join(parts)} imports {module}: declare it"
            )


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


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
