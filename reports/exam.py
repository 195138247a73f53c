"""The exam of the scores as a table: which of them notice which harm, done to truth by known amounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from bench.records import ExamRow, Record, RecordError, read_samples
from reports import text
from reports.load import Run


@dataclass(frozen=True)
class Exam:
    """One run's exam. `grid` has a line a score, in it an answer (or None) for each of `harms`."""

    record: Record
    clips: int
    harms: tuple[str, ...]
    grid: tuple[tuple[str, tuple[ExamRow | None, ...]], ...]

    @property
    def n(self) -> int:
        """Clips for which standard errors are stated."""
        return next(row.n for _, line in self.grid for row in line if row is not None)

    @property
    def deserving(self) -> list[str]:
        """Scores that harm never improves, the most watchful first, each with the number of harms that it sees."""
        seen = {
            score: sum(row is not None and row.verdict == "sees" for row in line)
            for score, line in self.grid
            if not any(row is not None and row.verdict == "fooled" for row in line)
        }
        order = sorted(seen, key=lambda score: -seen[score])
        return [f"{score} ({seen[score]})" for score in order if seen[score]]

    @property
    def fooled(self) -> list[str]:
        """Scores that some harm improves, with those harms."""
        found = []
        for score, line in self.grid:
            harms = [row.corruption for row in line if row is not None and row.verdict == "fooled"]
            if harms:
                found.append(f"{score} (by {', '.join(harms)})")
        return found


def exams(runs: Sequence[Run]) -> tuple[list[Exam], list[str]]:
    """The exams that ended well, and what went wrong with the others."""
    found, problems = [], []
    for run in runs:
        for record in (record for record in run.records if record.kind == "exam"):
            if record.outcome != "ok":
                problems.append(f"No exam of the scores: {record.outcome}: {record.message}")
                continue
            try:
                rows = [ExamRow.model_validate(row) for row in read_samples(run.path, record)]
            except (RecordError, ValidationError) as error:
                problems.append(f"The exam of the scores cannot be read: {error}")
                continue
            found.append(_exam(record, rows))
    return found, problems


def hover(row: ExamRow) -> str:
    """What a verdict rests on."""
    values = ", ".join(text.number(value) for value in row.values)
    return (
        f"{row.score} under {row.corruption}: truth, then growing harm: {values}\n"
        f"rank correlation {row.monotone:+.2f}; shift at the worst {row.signal:+.3g} standard errors "
        f"of {row.n} clips"
    )


def _exam(record: Record, rows: Sequence[ExamRow]) -> Exam:
    harms = tuple(dict.fromkeys(row.corruption for row in rows))
    answers = {(row.score, row.corruption): row for row in rows}
    scores = dict.fromkeys(row.score for row in rows)
    grid = tuple((score, tuple(answers.get((score, harm)) for harm in harms)) for score in scores)
    clips = record.prompts.count if record.prompts else 0
    return Exam(record, clips, harms, grid)
