"""Does the gate hold on this machine? `python -m bench.gate.proof aa|slower|larger`: real gates, real injected faults.

    aa       a tree against itself: no gate may FAIL
    slower   the transformer of head runs half a block more, about 10 %: every gate must FAIL
    larger   head holds 5 % more live tensor bytes at its peak: every gate must FAIL

Each gate leaves its journal and result in DIR; what is there is not measured again, so a proof can be interrupted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import hardware
from bench.errors import RunError, SuiteError
from bench.gate import config, report, trees
from bench.gate.baseline import fingerprint
from bench.gate.config import LATENCY, Gates
from bench.gate.run import Question, run
from bench.records import digest
from magic141.errors import Magic141Error

STEP = "denoising step"
PEAK_BYTES = 28_875_784
"""Of a denoising step of the lab model, float32, one clip: what `larger` is 5 % of."""


class Fault(StrEnum):
    AA = "aa"
    SLOWER = "slower"
    LARGER = "larger"


ALLOWED = {
    Fault.AA: {"PASS", "INCONCLUSIVE"},
    Fault.SLOWER: {"FAIL"},
    Fault.LARGER: {"FAIL"},
}
LIMIT = 90
"""Seconds that a gate may take on two cores that nothing else wants."""
CHECKS = {Fault.AA: LATENCY, Fault.SLOWER: LATENCY, Fault.LARGER: "peak_tensor_bytes"}
HALF_A_BLOCK = """\
        half = x.shape[1] // 2
        self._run(block, x[:, :half], block_vec, rope[:half], None)"""
ANCHOR = "        scale, shift = self.norm_out(vec)"
START = "        self._check_inputs(\n            hidden_states,"
EDITS = {
    # The last block runs once more on half of the tokens, and its result is thrown away.
    Fault.SLOWER: (ANCHOR, f"{HALF_A_BLOCK}\n{ANCHOR}"),
    Fault.LARGER: (
        START,
        f"        ballast = torch.empty({PEAK_BYTES // 20 + 1}, dtype=torch.uint8)  # noqa\n{START}",
    ),
}


def make_repository(path: Path, fault: Fault) -> None:
    """A repository with this tree's `magic141` as the tag `base`, and with the fault in it as the tag `head`."""
    shutil.copytree(
        hardware.ROOT / "magic141", path / "magic141", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copyfile(hardware.ROOT / name, path / name)
    _commit(path, "base", "init", "-q")
    if fault in EDITS:
        source = path / "magic141" / "transformer.py"
        source.write_text(inject(source.read_text(encoding="utf-8"), fault), encoding="utf-8")
        _commit(path, "head")


def inject(text: str, fault: Fault) -> str:
    """The text of transformer.py with the fault. Raises RunError where the fault no longer fits in."""
    before, after = EDITS[fault]
    if text.count(before) != 1:
        raise RunError(f"{before.strip()!r} stands {text.count(before)} times in transformer.py: adapt EDITS")
    return text.replace(before, after)


def _commit(path: Path, tag: str, *first: str) -> None:
    who = ["-c", "user.name=proof", "-c", "user.email=proof@localhost", "-c", "commit.gpgsign=false"]
    for words in (first, ("add", "-A"), ("commit", "-q", "-m", tag), ("tag", tag)):
        if words:
            subprocess.run(["git", *who, *words], cwd=path, check=True)


def small(gates: Gates) -> Gates:
    """The one cell that the faults are in; scores are of no interest. Raises SuiteError where it is not there."""
    if STEP not in gates.cells:
        raise SuiteError(
            f"the faults are in {STEP!r}, and the file has {', '.join(map(repr, gates.cells))} only"
        )
    return gates.model_copy(update={"cells": {STEP: gates.cells[STEP]}, "quality": None})


def prove(
    fault: Annotated[Fault, typer.Argument(help="What head has that base has not.")],
    gates: Annotated[int, typer.Option("--gates", min=1, help="How many gates.")] = 10,
    file: Annotated[
        Path, typer.Option("--file", help="gates.yaml, whole for aa, else its denoising step.")
    ] = config.DEFAULT,
    out: Annotated[Path, typer.Option("--out", metavar="DIR")] = Path("results/proof"),
) -> None:
    """Run real gates over a known fault and count verdicts; exit code 1 where one is not what it must be."""
    asked = config.read(file)
    asked = asked if fault is Fault.AA else small(asked)
    # What another tree, machine or gates file gave lies elsewhere, and does not count.
    out = out / digest([asked.id, trees.sha256(hardware.ROOT), fingerprint()])[:12]
    out.mkdir(parents=True, exist_ok=True)
    verdicts: Counter[str] = Counter()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        make_repository(repository, fault)
        for number in range(gates):
            name = f"{fault}-{number:02d}"
            found = _gate(fault, asked, repository, out / f"{name}.json")
            verdicts[verdict(fault, found)] += 1
            seconds.append(found["seconds"])
            changes = ", ".join(
                f"{one['cell']} {one['change']}" for one in _mine(fault, found) if one["change"]
            )
            typer.echo(f"{name}: {found['verdict']} in {found['seconds']:.0f} s ({changes})")
    late = sum(one > LIMIT for one in seconds)
    typer.echo(
        f"{CHECKS[fault]}: {dict(verdicts)}; seconds {min(seconds):.0f} to {max(seconds):.0f}, median "
        f"{statistics.median(seconds):.0f}, {late} of {gates} above {LIMIT}"
    )
    raise typer.Exit(int(bool(verdicts.keys() - ALLOWED[fault]) or late > 0))


def verdict(fault: Fault, found: dict[str, Any]) -> str:
    """Of the whole gate for `aa`; else of the check that the fault is for, INVALID where that has not spoken."""
    if fault is Fault.AA:
        return str(found["verdict"])
    return next((str(one["verdict"]) for one in _mine(fault, found)), "INVALID")


def _gate(fault: Fault, asked: Gates, repository: Path, path: Path) -> dict[str, Any]:
    """The result in `path`, measured first where there is none."""
    if not path.exists():
        head = "base" if fault is Fault.AA else "head"
        question = Question("base", head, asked, path.with_suffix(".jsonl"), repository=repository)
        report.write(run(question), path, None, None)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _mine(fault: Fault, found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in found["findings"] if fault is Fault.AA or one["check"] == CHECKS[fault]]


def main() -> None:
    """Run the door; errors that a caller can mend are printed without a traceback, exit code 2."""
    try:
        typer.run(prove)
    except Magic141Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
