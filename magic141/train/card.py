"""The model card: what each stage saw, written from the facts that the stages left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# magic141 lab

Text to image to video at 64x64, 33 frames, 16 fps, in the lab world of `magic141.data.world`. Every weight here was
trained from scratch by `magic141.train`; one transformer serves text-to-image, image-to-video, continuation and
text-to-video through its mask. The captions' closed vocabulary is its limit: it knows nothing else.

## Training

"""
NOTES, SCORES = "## Notes\n", "## Scores\n"
"""What stands below the first of these headings is written by hand or measured by `bench`, and kept when the card is
written again."""
FACTS = "training.json"
"""The same facts for programs, beside the card."""
STAGES = ("vae", "clip", "t2i", "i2v")
COLUMNS = ("stage", "samples", "minutes", "seed", "machine", "commit", "command")


def write_card(stages: list[dict[str, Any]], exams: dict[str, dict[str, float]], path: Path) -> None:
    """Write the card at `path`, and `FACTS` beside it, from the facts of `stages` (as `card.json` holds them)."""
    kept = _kept(path)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for facts in stages:
        row = facts | {
            "minutes": round(facts["seconds"] / 60),
            "samples": f"{facts['samples']:,}",
            "commit": f"`{facts['commit'][:10]}`",
            "command": f"`{facts['command']}`",
        }
        lines.append("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |")
    lines += [f"\n{facts['note']}" for facts in stages if "note" in facts]
    for stage, exam in exams.items():
        lines += [f"\nExam of stage `{stage}` on unseen scenes:\n", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in exam.items()]
    facts_text = json.dumps({"stages": stages, "exams": exams}, indent=1) + "\n"
    for target, text in (
        (path, HEAD + "\n".join(lines) + "\n\n" + kept),
        (path.with_name(FACTS), facts_text),
    ):
        partial = target.with_suffix(".partial")
        partial.write_text(text, "utf-8", newline="\n")
        partial.replace(target)


STUDENT_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# magic141 {name}

A student of few denoising steps, distilled from the lab teacher by `magic141.train distill`. Guidance is in its
weights: leave it at 1, the default of this folder. Use {steps} steps, with {sampler}.

| | |
|---|---|
| method | {method} |
| tasks, in turns | {tasks} |
| started from | {initial} |
| guidance of the teacher | {guidance} |
| shift of the times | {shift} |
| stored | {stored} |
| updates, samples, minutes | {seen} |

## Training

"""


RECOVERED_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# magic141 {name}

The weights `{dense}` pruned to {size:.3f} of the transformer's parameters, then trained to say what `{dense}` says
(`magic141.train recover`). It is used as that is: same steps, same guidance.

| | |
|---|---|
| pruned | {sparsity} by {criterion}{refitted} |
| went on from | {initial} |
| weight of the flow matching loss | {flow} |
| updates, samples, minutes | {seen} |

## Training

"""


def write_student_card(facts: dict[str, Any], trained: dict[str, Any] | None, path: Path) -> None:
    """The card of a student from the `facts` of its folder, and those that its run left when it ended (`card.json`)."""
    kept = _kept(path)
    recovered = facts["method"] == "recover"
    head = RECOVERED_HEAD if recovered else STUDENT_HEAD
    sampler = (
        "Euler's method" if facts["method"] == "cfg" else "`FewStepScheduler`, which noises afresh after each"
    )
    stored = "whole"
    if "rank" in facts:
        lost = f"{facts['left_out']:.1%} of it is left out"
        times = f", times {facts['strength']:g}" if facts.get("strength", 1) != 1 else ""
        stored = f"what it changes of `lab`{times}, in matrices of rank {facts['rank']}: {lost}"
    used = f", and {facts['used_shift']} where it is used" if "used_shift" in facts else ""
    shown = {
        **facts,
        "stored": stored,
        "shift": f"{facts.get('shift')}{used}",
        "initial": facts.get("initial") or ("the dense weights themselves" if recovered else "not recorded"),
        "refitted": ", then refitted" if facts.get("sparsity", "").startswith("structured") else "",
        "name": path.parent.name,
        "sampler": sampler,
        "tasks": ", ".join(facts.get("tasks", ())),
        "seen": f"{_counted(facts['step'])}, {_counted(facts['samples'])}, {facts['seconds'] / 60:.0f}",
    }
    run = "The run has not ended; this is a student on its way.\n"
    if trained is not None:
        row = [str(trained[name]) for name in ("seed", "machine", "commit", "command")]
        run = "| seed | machine | commit | command |\n|---|---|---|---|\n| " + " | ".join(row) + " |\n"
    partial = path.with_suffix(".partial")
    partial.write_text(head.format(**shown) + run + "\n" + kept, "utf-8", newline="\n")
    partial.replace(path)


def _kept(path: Path) -> str:
    """What the card at `path` has from its notes or scores on."""
    old = path.read_text("utf-8") if path.exists() else ""
    begins = [old.index(heading) for heading in (NOTES, SCORES) if heading in old]
    return old[min(begins) :] if begins else ""


def _counted(number: int | None) -> str:
    """None is of a run that was cut off before it wrote its record."""
    return "not recorded" if number is None else f"{number:,}"


def facts_of(run: Path, kept: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Facts and exams of the weights in `kept`, those of stages that `run` has trained brought up to date.

    A stage's new run replaces its old ones, unless it went on from weights (`--initial`, or a stage t2i of the run that
    did): then it is added to them.
    """
    path = kept / FACTS
    old = json.loads(path.read_text("utf-8")) if path.exists() else {"stages": [], "exams": {}}
    stages, exams, went_on = list(old["stages"]), dict(old["exams"]), False
    for stage in STAGES:
        if not (run / stage / "card.json").exists():
            continue
        new = json.loads((run / stage / "card.json").read_text("utf-8"))
        went_on = went_on or "--initial" in new["command"]
        if not went_on:
            stages = [facts for facts in stages if facts["stage"] != stage]
        if new not in stages:
            stages.append(new)
        if (run / stage / "exam.json").exists():
            exams[stage] = json.loads((run / stage / "exam.json").read_text("utf-8"))
    return sorted(stages, key=lambda facts: STAGES.index(facts["stage"])), exams
