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
SCORES = "## Scores\n"
"""What stands below this heading is measured by `bench`, and kept when the card is written again."""
COLUMNS = ("stage", "samples", "minutes", "seed", "machine", "commit", "command")


def write_card(stages: list[dict[str, Any]], exams: dict[str, dict[str, float]], path: Path) -> None:
    """Write the card at `path` from the facts of `stages` (as `card.json` holds them) and their `exams`."""
    old = path.read_text("utf-8") if path.exists() else ""
    kept = old[old.index(SCORES) :] if SCORES in old else ""
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
    partial = path.with_suffix(".partial")
    partial.write_text(HEAD + "\n".join(lines) + "\n\n" + kept, "utf-8", newline="\n")
    partial.replace(path)


def facts_of(run: Path, stages: tuple[str, ...]) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """The facts and exams that `stages` left under `run`; a stage without them is left out."""
    cards = [run / stage / "card.json" for stage in stages]
    exams = {
        stage: json.loads((run / stage / "exam.json").read_text("utf-8"))
        for stage in stages
        if (run / stage / "exam.json").exists()
    }
    return [json.loads(card.read_text("utf-8")) for card in cards if card.exists()], exams
