import dataclasses

import numpy as np
import pytest

from evals import longvideo_catalogue as catalogue
from evals.longvideo import aggregate, measure
from magic141.data.factors import MOTIONS
from magic141.data.render import render
from magic141.data.world import Scene, World
from magic141.errors import InputError

FRAMES = 33 + 3 * 32


def still(law: str = "orbit") -> Scene:
    """A scene without texture, pan or late object, whose subject moves by `law`."""
    world = World(events=False, moving_texture=0.0)
    scenes = (world.scene("test", index) for index in range(1000))
    return next(s for s in scenes if MOTIONS[s.motion.law] == law and s.pan == (0.0, 0.0))


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, Scene]:
    scene = still()
    return render([scene], FRAMES)[0].numpy(), scene


def test_truth_keeps_everything_and_does_not_drift(truth: tuple[np.ndarray, Scene]) -> None:
    found = measure(*truth)
    assert set(found.kept.values()) == {1.0}
    assert all(len(values) == 4 for values in found.curves.values())
    assert found.curves["colour"].min() > 0.95
    assert all((found.curves[f"right-{name}"] == 1.0).all() for name in catalogue.KEPT)
    assert abs(found.slopes["colour"].value) < 0.1
    assert abs(found.slopes["background-change"].value) < 0.1
    assert found.slopes["first-layout"].n == 3  # the first window equals itself
    assert set(found.seams) == set(catalogue.SEAMS)


def test_a_subject_that_fades_away_drifts(truth: tuple[np.ndarray, Scene]) -> None:
    clip, scene = truth
    grey = np.full_like(clip, 128)
    fade = np.linspace(0, 1, FRAMES)[:, None, None, None]
    faded = ((1 - fade) * clip + fade * grey).astype(np.uint8)
    found = measure(faded, scene)
    assert found.slopes["colour"].value < -2  # a fraction a minute: gone within eight seconds
    assert found.curves["shape"][-1] == 0.0  # lost: the worst value, and not none
    assert found.curves["speed-variation"][-1] == 1.0
    assert found.slopes["sharpness"].value < measure(clip, scene).slopes["sharpness"].value


def test_every_window_is_judged_by_itself(truth: tuple[np.ndarray, Scene]) -> None:
    clip, scene = truth
    scenes = World().scenes("test", 0, 400)
    other = next(
        s
        for s in scenes
        if s.subject.shape != scene.subject.shape and s.subject.colour != scene.subject.colour
    )
    changed = clip.copy()
    changed[33:65] = render([other], 33)[0].numpy()[1:]  # of the second window all but its shared first frame
    found = measure(changed, scene)
    for name in ("shape", "colour"):
        assert found.curves[f"right-{name}"].tolist() == [1.0, 0.0, 1.0, 1.0]
        assert found.kept[name] == 1.0


def test_seams_are_sought_where_windows_meet(truth: tuple[np.ndarray, Scene]) -> None:
    clip, scene = truth[0][:73], truth[1]
    jumped = clip.copy()
    starts = (0, 13, 25, 37, 49, 61)
    for number, start in enumerate(starts):
        jumped[start : start + 12] = np.clip(
            jumped[start : start + 12].astype(int) + 9 * (number % 2), 0, 255
        )
    there = measure(jumped, scene, starts).seams["change"].value
    assert there > 5
    assert measure(clip, scene, starts).seams["change"].value < 1
    assert measure(jumped, scene).seams["change"].value < there


def test_a_subject_that_changes_its_speed_between_windows_is_found(truth: tuple[np.ndarray, Scene]) -> None:
    """Half as fast in every second window: in each a subject of one speed, so only what lies between tells."""
    clip, scene = truth
    halved = clip[np.cumsum(np.repeat([0.0, 1.0, 0.5, 1.0, 0.5], [1, 32, 32, 32, 32])).astype(int)]
    steady, jumping = (measure(video, scene).seams["speed"] for video in (clip, halved))
    assert abs(steady.value) < 0.05
    assert jumping.value == pytest.approx(np.log(2), abs=0.15)
    assert measure(render([still("pulse")], 65)[0].numpy(), still("pulse")).seams.get("speed") is None


def test_one_window_has_no_seam(truth: tuple[np.ndarray, Scene]) -> None:
    clip, scene = truth
    assert measure(clip[:33], scene, (0,)).seams == {}
    assert measure(clip[:40], scene, (0, 37)).seams["change"].n == 1


def test_aggregates_are_over_videos(truth: tuple[np.ndarray, Scene]) -> None:
    video = measure(*truth)
    other = dataclasses.replace(video, kept=dict.fromkeys(video.kept, 0.0), slopes={})
    share = aggregate([video, other], "last-colour")
    assert share is not None
    assert (share.value, share.n) == (0.5, 2)
    alone = aggregate([video, other], "drift-colour")
    assert alone is not None
    assert alone.n == 1  # of one video the interval is that of its windows
    assert alone.low < alone.value < alone.high or alone.low == alone.high
    both = aggregate([video, video], "drift-colour")
    assert both is not None
    assert both.n == 2
    assert aggregate([other], "drift-colour") is None


def test_every_metric_is_named_and_measured(truth: tuple[np.ndarray, Scene]) -> None:
    video = measure(*truth)
    missing = [name for name in catalogue.METRICS if aggregate([video], name) is None]
    assert missing == []
    protocols = [catalogue.protocol(name) for name in catalogue.METRICS]
    assert len(set(protocols)) == len(protocols)
    with pytest.raises(InputError, match="unknown metric 'drift-color' of long video; did you mean 'drift-"):
        catalogue.check_metrics(["drift-color"])


def test_short_videos_are_refused(truth: tuple[np.ndarray, Scene]) -> None:
    clip, scene = truth
    with pytest.raises(InputError, match="fill no window"):
        measure(clip[:20], scene)
