"""The second environment of a gate: made with uv where that runs, else with pip."""

from pathlib import Path

import pytest

from bench.gate import environments


@pytest.mark.skipif(environments.os.name != "posix", reason="the shim is a shell script")
@pytest.mark.parametrize(("exit_code", "makers"), [(0, ["venv", "pip"]), (127, ["-m", "-m"])])
def test_a_shim_with_nothing_behind_it_is_no_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, makers: list[str]
) -> None:
    shim = tmp_path / "uv"
    shim.write_text(f"#!/bin/sh\nexit {exit_code}\n", encoding="utf-8")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    folder, ran = tmp_path / "environment", []

    def run(words: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        ran.append(words[1])

    environments._make(folder, folder / "python", "numpy==1.0\n", ["numpy"], run)
    assert ran == makers
