"""The claims as a table and as `docs/claims.md`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.claims import steps
from bench.claims.items import Item, Train
from bench.claims.registry import Experiment
from bench.claims.runs import Scale
from bench.claims.verdicts import Answers, Finding, number
from bench.records import ClaimRow, ClaimsTable
from magic141.errors import InputError

HEAD = """# The paper's claims, and what became of them here

Made by `python -m bench claims` from `bench/claims/registry.py`; do not edit. Protocols, sample sizes and thresholds
were committed before the first run that they govern, with these exceptions: those of c1 and c2 were written anew after
two trials of c1, those of d1, d2, d3 and d5 before their third asking, and a3, a4 and d6 to d8 were added after others
had been answered. What was changed on the way, or done otherwise than a protocol says, is listed as its *departure*,
and what an earlier asking found stays beside a later one.

A verdict is *reproduced* or *not reproduced* where its threshold decides; *not testable here* where the lab has no
headroom for it (the reason is given); *not run yet* until all of its trials are done. Of some earlier askings the
answers were not kept. Numbers of the paper are from arXiv 2502.07701.

FD is `fvd-world`, debiased, of generated frames only; lower is better. Distillation progress is normalised as (FD -
FD_56) / (FD_4 - FD_56): 1 where the student is as far as the teacher in as few Euler steps, 0 where it does what the
teacher does in 56. A student need not start at 1: its sampler is another, and unguided. Distances of two trials are
taken as independent, though they share prompts and noise, so that their difference is known better than its interval
says. Intervals over training seeds (claims a to c) are for the validation prompts that all seeds share: what other
prompts would have changed is not in them.

"""
SHOWN = {
    "fvd-world": "fvd-world",
    "accuracy-mean": "attributes",
    "accuracy-colour": "colour",
    "accuracy-shape": "shape",
    "accuracy-background": "background",
    "accuracy-texture": "moving texture",
    "accuracy-motion": "motion law",
    "accuracy-direction": "direction",
    "motion-ratio": "motion / truth",
    "first-frame-psnr": "first frame, dB",
}
"""Scores in the document; a report has all of them."""
RERUN = """
## Run them

`python -m nox -s claims` runs what is missing and resumes. What `bench/claims/published` has answers to is not asked
again, unless with `-- --afresh`; `-- --publish` adds new answers there, so that a run of hours can go on elsewhere.
`-- --quick` runs b2 alone, with smaller numbers of everything (0.12 [0.08, 0.15], in 10 minutes on two cores of an AMD
EPYC, Zen 5); `-- --dry-run` prints the items. Latency of the step table is measured by
`python -m bench run bench/suites/lab.yaml`, each cell in a process alone.
"""


def table(
    experiments: Sequence[Experiment], scale: Scale, answers: Answers, teacher: str = ""
) -> ClaimsTable:
    """Every claim with its verdict. `teacher`: which weights the answers are of."""
    rows = tuple(_row(one, scale, answers) for one in experiments)
    made = steps.step_rows(scale, answers)
    return ClaimsTable(
        scale=scale.name, teacher=teacher, rows=rows, steps=made, steps_protocol=steps.PROTOCOL
    )


def _row(one: Experiment, scale: Scale, answers: Answers) -> ClaimRow:
    try:
        found = one.verdict(scale, answers)
    except InputError as error:  # such as clips in which no subject can be found
        found = Finding("not testable here", note=str(error))
    seeds = one.seeds(scale)
    return ClaimRow(
        id=one.id,
        claim=one.claim,
        paper=one.paper,
        protocol=one.protocol,
        sample=one.sample(scale) + (f"; {seeds} training seeds" if seeds > 1 else ""),
        threshold=one.threshold,
        value=found.value,
        low=found.low,
        high=found.high,
        verdict=found.verdict,
        note=found.note,
        earlier=one.earlier,
        departure=one.departure,
        x_label=found.labels[0],
        y_label=found.labels[1],
        curves=found.curves,
    )


def markdown(
    experiments: Sequence[Experiment], scale: Scale, found: ClaimsTable, items: Sequence[Item]
) -> str:
    """`docs/claims.md`."""
    lines = ["| | claim | the paper | ours, with 95 % interval | verdict |", "|---|---|---|---|---|"]
    for row in found.rows:
        said = "; ".join(filter(None, (row.note, row.earlier)))
        note = f" ({said})" if said else ""
        lines.append(f"| {row.id} | {row.claim} | {row.paper} | {number(row)} | **{row.verdict}**{note} |")
    lines += step_table(found)
    lines.append("\n## Protocols, written before the runs\n")
    for row, one in zip(found.rows, experiments, strict=True):
        lines += [
            f"### {row.id}. {row.claim}\n",
            f"- *Protocol*: {row.protocol}.",
            f"- *Sample*: {row.sample}.",
            f"- *Reproduced if* {row.threshold}.",
            *([f"- *Departure*: {row.departure}."] if row.departure else []),
            f"- *Runs*: {_runs(one, experiments, scale)}.\n",
        ]
    total = sum(item.minutes for item in items)
    lines.append(
        f"All together, what experiments share counted once: {len(items)} items, about {hours(total)} on two\n"
        "cores that multiply bfloat16 natively (a Xeon, Sapphire Rapids), and several times that on others. These\n"
        "costs are estimates; `done.jsonl` in the store records what each took."
    )
    return HEAD + "\n".join(lines) + "\n" + RERUN


def _runs(one: Experiment, experiments: Sequence[Experiment], scale: Scale) -> str:
    items = one.plan(scale)
    trainings = sum(isinstance(item, Train) for item in items)
    said = f"{trainings} trainings, {len(items) - trainings} trials; {hours(one.minutes(scale))} or so on two cores"
    if len(items) > len(one.items(scale)):
        said += ", with all that the step table shows"
    same = [other.id for other in experiments if other is not one and other.plan(scale) == items]
    return f"{said}, the same as those of {', '.join(same)}" if same else said


def step_table(found: ClaimsTable) -> list[str]:
    """Lines of the table of what each number of steps makes, none where nothing is answered."""
    if not found.steps:
        return []
    head = ["model", "steps", "passes", *SHOWN.values()]
    lines = [
        "\n## What steps make\n",
        f"{found.steps_protocol}.\n",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for row in found.steps:
        scores = [number(row.scores[name]) if name in row.scores else "–" for name in SHOWN]
        lines.append("| " + " | ".join([row.name, str(row.steps), str(row.passes), *scores]) + " |")
    return lines


def hours(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
