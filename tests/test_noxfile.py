"""The environment that nox makes: kept while it is good, made anew where it cannot be."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def real() -> ModuleType:
    """Loaded once: nox warns of a session that is registered twice."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def noxfile(real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The real one, for a checkout elsewhere."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    venv = tmp_path / ".venv"
    for name, value in {"ROOT": tmp_path, "VENV": venv, "PYTHON": venv / "python"}.items():
        monkeypatch.setattr(real, name, value)
    monkeypatch.setattr(real, "STAMP", venv / "stamp")
    return real


def commands(noxfile: ModuleType) -> list[str]:
    """What making the environment runs; the interpreter appears with the command that makes it."""
    ran: list[str] = []

    def run(*words: Any, **_: Any) -> None:
        ran.append(" ".join(map(str, words)))
        noxfile.VENV.mkdir(exist_ok=True)
        noxfile.PYTHON.touch()

    def error(text: str) -> None:
        raise RuntimeError(text)

    noxfile.ensure_venv(SimpleNamespace(run=run, chdir=lambda path: None, log=lambda text: None, error=error))
    return ran


def test_it_is_made_once_and_after_a_change_of_its_inputs(noxfile, monkeypatch):
    monkeypatch.setattr(noxfile, "working_uv", lambda: "uv")
    assert [words.split()[1] for words in commands(noxfile)] == ["venv", "pip"]
    assert commands(noxfile) == []
    (noxfile.ROOT / "constraints.txt").write_text("newer", encoding="utf-8")
    assert [words.split()[1] for words in commands(noxfile)] == ["pip"]


def test_one_that_uv_made_can_go_on_without_uv(noxfile, monkeypatch):
    monkeypatch.setattr(noxfile, "working_uv", lambda: "uv")
    commands(noxfile)
    (noxfile.ROOT / "constraints.txt").write_text("newer", encoding="utf-8")
    monkeypatch.setattr(noxfile, "working_uv", lambda: None)
    assert "ensurepip" in commands(noxfile)[0]


def test_one_of_an_older_version_is_brought_up_to_date(noxfile, monkeypatch):
    monkeypatch.setattr(noxfile, "working_uv", lambda: "uv")
    commands(noxfile)
    (noxfile.VENV / "left over").touch()
    noxfile.STAMP.write_text("a hash alone", encoding="utf-8")
    assert [words.split()[1] for words in commands(noxfile)] == ["pip"]
    assert (noxfile.VENV / "left over").exists()


def test_the_environment_that_nox_runs_from_is_not_deleted(noxfile, monkeypatch):
    monkeypatch.setattr(noxfile, "working_uv", lambda: "uv")
    commands(noxfile)
    noxfile.STAMP.write_text("elsewhere\na hash", encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(noxfile.VENV))
    with pytest.raises(RuntimeError, match="run nox with a Python outside of it"):
        commands(noxfile)
    assert noxfile.PYTHON.exists()


def test_one_that_was_moved_is_made_anew(noxfile, monkeypatch):
    monkeypatch.setattr(noxfile, "working_uv", lambda: "uv")
    commands(noxfile)
    (noxfile.VENV / "left over").touch()
    monkeypatch.setattr(noxfile, "ROOT", noxfile.ROOT / "." / "elsewhere")
    noxfile.ROOT.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (noxfile.ROOT / name).write_text(name, encoding="utf-8")
    assert [words.split()[1] for words in commands(noxfile)] == ["venv", "pip"]
    assert not (noxfile.VENV / "left over").exists()
