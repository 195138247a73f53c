"""Trials whose numbers are known, to read verdicts off."""

import numpy as np

from bench.claims.curves import Lines
from bench.records import Score
from bench.trials import Sample, Trial


def score(value, half=0.1, **more):
    return Score(
        value=value, low=value - half, high=value + half, n=64, protocol="p", **({"better": "lower"} | more)
    )


def trial(distance, half=0.1, accuracy=(0.9,) * 50, motion=1.0, sample=None, **more):
    scores = {
        "fvd-world": score(distance, half),
        "accuracy-mean": score(float(np.mean(accuracy)), better="higher"),
        "motion-ratio": score(motion, better="target", target=1.0),
    }
    sample = sample or Sample(split="validation", prompts=64)
    return Trial(
        question="q", knobs={}, weights_sha256=None, sample=sample, scores=scores, seconds=1,
        accuracy=accuracy, **more,
    )  # fmt: skip


def lines(name, curves, anchors=("few", "many")):
    names = [[f"{name}{seed}@{k}" for k in range(len(one))] for seed, one in enumerate(curves)]
    answers = {
        n: trial(y) for row, one in zip(names, curves, strict=True) for n, y in zip(row, one, strict=True)
    }
    return Lines(name, [], names, anchors, 100), answers


ANCHORS = {"few": trial(9.0), "many": trial(1.0)}
