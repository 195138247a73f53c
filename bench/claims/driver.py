"""Runs the items that a store lacks, one after the other, and says after each what the claims look like.

A store is a folder: `done.jsonl`, a line an item; `train/TEACHER/NAME-KEY`, the trainings, each resumed from its own
checkpoint, and begun anew where its key is another. An interruption loses one item, or of a training its last minutes.
What `bench.claims.published` has answers to is not run again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bench import jsonl
from bench.claims import published
from bench.claims.document import table
from bench.claims.items import PIPELINE, Evaluate, Item, Train
from bench.claims.published import Done
from bench.claims.registry import EXPERIMENTS, Experiment, plan
from bench.claims.runs import TEACHER, Scale
from bench.errors import RunError
from bench.records import CLAIMS, ClaimsTable, digest, write_atomically
from bench.trials import PROTOCOL, Question, Trial, value
from evals.catalogue import STATISTICS, WEIGHTS, identity
from magic141 import weights
from magic141.errors import InputError, Magic141Error, WeightsMissing

ROOT = Path(__file__).parents[2]
DONE = "done.jsonl"


@dataclass
class Driver:
    """One invocation. `ask` answers a trial; `command` runs a training to its end, and raises where that fails.

    known: the folder of what is published, if it counts.
    """

    experiments: Sequence[Experiment]
    scale: Scale
    out: Path
    ask: Callable[[Question], Trial]
    note: Callable[[str], None]
    command: Callable[[Sequence[str]], None] = field(default_factory=lambda: in_a_process)
    known: Path | None = published.FOLDER

    def __post_init__(self) -> None:
        self._weights: dict[str, str] = {}
        self._teacher = weights.fingerprint(weights.resolve(TEACHER))[:8]
        self.out.mkdir(parents=True, exist_ok=True)
        self._by_name = {item.name: item for item in plan(list(EXPERIMENTS.values()), self.scale)}
        known = published.answers(self.known) if self.known else {}
        path = self.out / DONE
        lines = published.parsed(jsonl.read(path), path, "name another folder with --out")
        self._done = known | {line.key: line for line in lines}

    @property
    def items(self) -> list[Item]:
        return plan(self.experiments, self.scale)

    def left(self) -> list[Item]:
        """Items still to run, those whose weights are missing included."""
        return self._left(self.experiments)

    def _left(self, experiments: Sequence[Experiment]) -> list[Item]:
        """Without trainings that none of them needs any more, because the answers are published."""
        items = [item for item in plan(experiments, self.scale) if self._key(item) not in self._done]
        asked = {name for item in items if isinstance(item, Evaluate) for name in item.needs}
        needed = asked.union(*(item.needs for item in items if item.name in asked))
        return [item for item in items if isinstance(item, Evaluate) or item.name in needed]

    def answered(self) -> list[Done]:
        """Those items of this invocation that are done, in this store or before."""
        lines = (self._done.get(self._key(item)) for item in self.items)
        return [line for line in lines if line is not None]

    def table(self) -> ClaimsTable:
        """The claims of this invocation as they stand."""
        return self._table(self.experiments)

    def whole(self) -> ClaimsTable:
        """All claims as they stand, those of other invocations too."""
        return self._table(list(EXPERIMENTS.values()))

    def _table(self, experiments: Sequence[Experiment]) -> ClaimsTable:
        lines = {item.name: self._done.get(self._key(item)) for item in plan(experiments, self.scale)}
        answers = {name: line.trial for name, line in lines.items() if line and line.trial}
        return table(experiments, self.scale, answers, self._teacher)

    def run(self) -> int:
        """Run what is left; returns how many items could not be. After each the table is written anew."""
        self._publish()
        failed: set[str] = set()
        for item in self.left():
            if lacking := failed.intersection(item.needs):
                self._fail(item, f"it needs {', '.join(lacking)}", failed)
                continue
            self.note(f"{item.name} (about {item.minutes:.1f} min)")
            clock = time.perf_counter()
            try:
                trial = self._answer(item)
            except Magic141Error as error:
                self._fail(item, str(error), failed)
                continue
            done = Done(key=self._key(item), name=item.name, seconds=time.perf_counter() - clock, trial=trial)
            jsonl.append(self.out / DONE, done.model_dump_json())
            self._done[done.key] = done
            self._publish()
        return len(failed)

    def _key(self, item: Item) -> str:
        """Of the item, the trainings that it needs, the weights that it rests on, and how it is scored."""
        preset = str(item.knobs.get("model", TEACHER)) if isinstance(item, Evaluate) else TEACHER
        if preset not in self._weights:
            self._weights[preset] = _fingerprint(preset)
        facts = {
            "items": self._ids(item),
            "weights": self._weights[preset],
            "teacher": self._teacher,
            "scoring": (PROTOCOL, *map(identity, (WEIGHTS, STATISTICS))),
        }
        return digest(facts)

    def _ids(self, item: Item) -> list[str]:
        return [item.id, *(id for name in item.needs for id in self._ids(self._by_name[name]))]

    def _answer(self, item: Item) -> Trial | None:
        """A trial's answer; a training has none."""
        if isinstance(item, Evaluate):
            return self._evaluate(item)
        self._train(item)
        return None

    def _train(self, item: Train) -> None:
        folder = self._folder(item.name)
        words = [self._located(word, item.needs) for word in item.words]
        stage = words[0] in ("t2i", "i2v")
        own = ["--out", str(folder), "--latents", str(folder.parent / "latents")]
        self.command([*words, *(own if stage else ["--out", str(folder.parent), "--name", folder.name])])
        ended = folder / words[0] if stage else folder
        wanted = int(words[words.index("--samples") + 1])
        seen = json.loads((ended / "card.json").read_text("utf-8"))["samples"]
        if seen < wanted:
            raise RunError(
                f"{item.name} ended at {seen:,} of {wanted:,} samples, for its minutes were over: this machine is too "
                "slow for a comparison at equal samples at this scale"
            )
        if item.packed:
            self.command(["pack", "--out", str(folder), "--target", str(folder / PIPELINE)])

    def _folder(self, name: str) -> Path:
        """Of a training. With its key, so that what it rests on is what its answers' keys say."""
        return self.out / "train" / self._teacher / f"{name}-{self._key(self._by_name[name])[:8]}"

    def _located(self, word: str, names: Sequence[str]) -> str:
        for name in names:
            word = word.replace("{" + name + "}", str(self._folder(name)))
        return word

    def _evaluate(self, item: Evaluate) -> Trial:
        knobs = dict(item.knobs)
        model = None if item.of is None else self._trained(item.of, item.snapshot)
        if model is not None:
            knobs["model"] = str(model)
        trial = self.ask(Question(knobs, item.sample, item.metrics, item.ends))
        # An answer without its scores is none: it would be kept, and never asked again.
        for metric in item.metrics:
            value(trial, metric)
        if model is None:
            return trial
        # Where the store lies is no part of an answer, which others will read.
        return trial.model_copy(
            update={"knobs": {**trial.knobs, "model": model.relative_to(self.out).as_posix()}}
        )

    def _trained(self, name: str, snapshot: int | None) -> Path:
        """What a training left: a pipeline, or one of the snapshots on the way to it."""
        folder = self._folder(name)
        if snapshot is None:
            return folder / PIPELINE
        kept = sorted((folder / "snapshots").glob("[0-9]*"))
        if snapshot >= len(kept):
            raise RunError(f"training {name} kept {len(kept)} snapshots, and number {snapshot + 1} is asked")
        return kept[snapshot]

    def _fail(self, item: Item, why: str, failed: set[str]) -> None:
        self.note(f"{item.name} is left out: {why}")
        failed.add(item.name)

    def _publish(self) -> None:
        """The table in the store, and beside it, where the reports of the other runs find it.

        There it has those of other invocations too that are answered with these weights. A quick one leaves a full
        one of the same weights as it is.
        """
        write_atomically(self.out / CLAIMS, self.table().model_dump_json(indent=1) + "\n")
        shared = self.out.parent / CLAIMS
        if self.scale.name != "full" and shared.exists():
            theirs = _read(shared)
            if theirs.scale == "full" and theirs.teacher == self._teacher:
                return
        known = [one for one in EXPERIMENTS.values() if one in self.experiments or not self._left([one])]
        write_atomically(shared, self._table(known).model_dump_json(indent=1) + "\n")


def _read(path: Path) -> ClaimsTable:
    try:
        return ClaimsTable.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        raise RunError(f"{path} cannot be read, delete it: {error}") from error


def _fingerprint(preset: str) -> str:
    """Of its weights; `missing` where there are none yet."""
    try:
        return weights.fingerprint(weights.resolve(preset))
    except (InputError, WeightsMissing):
        return "missing"


def in_a_process(words: Sequence[str]) -> None:
    """`python -m magic141.train WORDS`, which ends with this process. Raises RunError where it fails."""
    # Told to end, Python goes at once, without the `except` that ends the child.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        done = subprocess.run([sys.executable, "-m", "magic141.train", *words], cwd=ROOT, check=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    if done.returncode:
        raise RunError(f"`python -m magic141.train {' '.join(words)}` failed with code {done.returncode}")
