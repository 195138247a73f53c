"""A lab that trains and asks nothing, and a driver of it."""

import json
from pathlib import Path

from bench.claims import registry
from bench.claims.driver import Driver
from bench.claims.runs import QUICK
from magic141.errors import WeightsMissing
from tests.bench.claims.answers import trial


class Lab:
    """Stands in for training and trials, and dies where it is told to."""

    def __init__(self, out, dies_at=None):
        self.out, self.dies_at, self.asked, self.trained = out, dies_at, [], []

    def ask(self, question):
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(question)
        model = str(question.knobs.get("model"))
        if "student" in model:
            raise WeightsMissing("no weights yet")
        return trial(4.0 if "latent" in model else 3.0, sample=question.sample)

    def command(self, words, short=False):
        out = Path(words[words.index("--out") + 1])
        if words[0] == "pack":
            assert (out / "i2v" / "card.json").exists()
            Path(words[words.index("--target") + 1]).mkdir()
            return
        self.trained.append(words)
        folder = out / words[0] if words[0] in ("t2i", "i2v") else out / words[words.index("--name") + 1]
        for step in range(QUICK.snapshots):
            (folder / "snapshots" / f"{step:07d}").mkdir(parents=True)
        samples = int(words[words.index("--samples") + 1])
        (folder / "card.json").write_text(json.dumps({"samples": samples // 2 if short else samples}))


BOTH = registry.chosen(QUICK, ["b1", "b2"])


B1 = registry.chosen(QUICK, ["b1"])


def driver(lab, experiments=None, out=None, command=None, notes=None, known=None):
    return Driver(
        experiments or BOTH, QUICK, out or lab.out / "store", lab.ask,
        (notes if notes is not None else []).append, command or lab.command, known,
    )  # fmt: skip
