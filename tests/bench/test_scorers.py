import numpy as np
import pandas as pd
import pytest

from bench.baselines.fake import SCORER
from bench.errors import UnsupportedError
from bench.longvideo_scorer import LONG
from bench.prompts import PromptSpec
from bench.scorers import LAB, Clips, objection
from bench.systems import Output, Request
from evals import lab
from evals.protocol import Score
from magic141.errors import InputError

OUTPUT = Output(np.zeros((2, 33, 64, 64, 3), np.uint8))
SCENES = PromptSpec(split="test", count=2).scenes()
REQUESTS = [Request(index, prompt, index, scene) for index, (prompt, scene) in enumerate(SCENES)]


def test_lab_scores_become_records(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def score(
        frames: object, scenes: object, first_frames: object, prompts: object, metrics: object
    ) -> lab.LabScores:
        seen.update(scenes=scenes, first_frames=first_frames, prompts=prompts, metrics=metrics)
        flickering = Score(
            value=0.5, low=None, high=None, n=2, protocol="p", better="higher", unit="fraction"
        )
        table = pd.DataFrame({"prompt": prompts, "flickering": [0.4, 0.6], "flow": [1.0, np.nan]})
        omitted = {"first-frame-psnr": "no first frames were given"}
        return lab.LabScores({"flickering": flickering}, table, omitted, np.empty((0, 32)))

    monkeypatch.setattr(lab, "score", score)
    metrics = ["flickering", "first-frame-psnr"]
    found = LAB.score(OUTPUT, REQUESTS, metrics)
    prompts = [prompt for prompt, _ in SCENES]
    assert seen == {
        "scenes": [s for _, s in SCENES],
        "first_frames": None,
        "prompts": prompts,
        "metrics": metrics,
    }
    assert list(found.aggregate) == metrics
    assert (found.aggregate["flickering"].value, found.aggregate["flickering"].unit) == (0.5, "fraction")
    absent = found.aggregate["first-frame-psnr"]
    assert (absent.value, absent.note, absent.unit) == (None, "no first frames were given", "dB")
    assert absent.protocol == LAB.protocols(metrics, 2, 33)["first-frame-psnr"]
    assert [list(row) for row in found.per_sample] == [["flickering", "flow"]] * 2


def test_lab_scores_need_scenes_and_known_metrics() -> None:
    with pytest.raises(UnsupportedError, match="prompts of the lab world"):
        LAB.score(OUTPUT, [REQUESTS[0], Request(1, "a cat", 0)], ["flickering"])
    with pytest.raises(InputError, match="flickering"):
        LAB.protocols(["flickerin"], 2, 33)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 17, 64, 64, 3), "clips of 1 or 33 frames, and these have 17"),
        ((2, 33, 480, 832, 3), "are 832 x 480"),
    ],
)
def test_clips_of_another_shape_are_unsupported(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        LAB.score(Output(np.zeros(shape, np.uint8)), REQUESTS, ["flickering"])


def test_long_video_may_have_any_length_and_no_other_pace() -> None:
    assert objection(LONG, Clips(True, 961, (64, 64), 16)) == ""
    assert "play at 24" in objection(LONG, Clips(fps=24))
    assert objection(SCORER, Clips(False, 5, (16, 16), 3)) == ""  # one that has no say
