from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from evals import lab, laws, oracle, subject
from evals.catalogue import ORACLE
from evals.corruptions import CORRUPTIONS, LEVELS
from magic141.data.factors import COLOURS, HUES, MOTIONS, SHAPES, TEXTURES, TONES
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError

FIRST = 3_500_000
"""Index of the first scene: none that the oracle was tried on."""


@pytest.fixture(scope="module")
def scenes():
    return World().scenes("test", FIRST, 32)


@pytest.fixture(scope="module")
def truth(scenes):
    return render(scenes).numpy()


@pytest.fixture(scope="module")
def scores(scenes, truth):
    """Of truth."""
    return table(truth, scenes)


@pytest.fixture(scope="module")
def plain():
    """A small red circle that drifts right over plain dark grey, alone and without turns: (scene, how to change it)."""
    scene = next(
        s for s in World(events=False, moving_texture=0.0).scenes("test", 0, 200) if is_law(s, "drift")
    )
    look = replace(scene.subject, shape=0, colour=0, size=0)
    backdrop = replace(scene.backdrop, kind=0, tone=0, hue=0)
    motion = replace(scene.motion, direction=0, speed=0.8, place=(20.0, 32.0))
    return replace(scene, subject=look, backdrop=backdrop, motion=motion, pan=(0.0, 0.0))


def is_law(scene, name):
    return MOTIONS[scene.motion.law] == name


def moving(scene, **changes):
    return replace(scene, motion=replace(scene.motion, **changes))


def table(clips, scenes):
    rows = [oracle.measure(clip, scene) for clip, scene in zip(clips, scenes, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in ORACLE}


def clip_of(scene):
    return render([scene]).numpy()[0]


def test_subject_is_found_where_it_is(scenes, truth):
    errors = []
    for clip, scene in zip(truth, scenes, strict=True):
        track = subject.locate(clip, scene)
        assert (track.inks == scene.subject.colour).all()
        errors.append(np.linalg.norm(track.centres - scene.truth(33).positions[:, 0], axis=1))
    assert np.median(errors) < 0.25
    assert np.quantile(errors, 0.99) < 1.0


def test_every_ink_is_told_from_every_backdrop_and_texture(scenes):
    looks = [
        replace(
            replace(scenes[i % len(scenes)], late=None, late_motion=None),
            subject=replace(scenes[0].subject, colour=colour, shape=i % len(SHAPES), size=i % 2),
            backdrop=replace(scenes[i % len(scenes)].backdrop, tone=tone, hue=hue),
            texture=replace(scenes[0].texture, kind=texture),
            motion=replace(
                scenes[0].motion, place=(30.0, 34.0), name="still", law=MOTIONS.index("still"), speed=0.0
            ),
        )
        for i, (colour, tone, hue, texture) in enumerate(
            product(range(len(COLOURS)), range(len(TONES)), range(len(HUES)), range(len(TEXTURES)))
        )
    ]
    frames = render(looks, 1).numpy()
    for frame, look in zip(frames, looks, strict=True):
        track = subject.locate(frame, look)
        assert track.inks[0] == look.subject.colour, look
        assert track.centres[0] == pytest.approx((30.0, 34.0), abs=0.6), look
        assert (track.same[0], track.others[0]) == (1, 0), look


def test_truth_scores_as_truth(scores):
    assert scores["oracle-found"].mean() == scores["oracle-colour"].mean() == 1
    assert scores["oracle-count"].mean() > 0.98
    assert scores["oracle-shape"].mean() > 0.85
    assert np.median(scores["oracle-tracking-error"]) < 0.3
    assert np.nanmedian(scores["oracle-direction-error"]) < 3
    assert np.nanmedian(scores["oracle-speed-variation"]) < 0.08
    assert np.nanmedian(scores["oracle-bounce-error"]) < 0.15
    assert scores["oracle-colour-drift"].mean() < 1
    assert np.nanmean(scores["oracle-size-drift"]) < 0.05
    assert scores["oracle-shape-drift"].mean() < 0.1
    assert np.nanmean(scores["oracle-background-change"]) < 0.2


def test_scores_are_defined_where_the_caption_asks_for_them(scenes, scores):
    for row, scene in enumerate(scenes):
        law = MOTIONS[scene.motion.law]
        defined = {name for name in ORACLE if np.isfinite(scores[name][row])} - {"oracle-bounce-error"}
        wanted = set(ORACLE) - {"oracle-bounce-error"}
        if scene.labels()["direction"] < 0:
            wanted.remove("oracle-direction-error")
        if law in ("still", "pulse"):
            wanted.remove("oracle-speed-variation")
        if law == "pulse":
            wanted.remove("oracle-size-drift")
        if scene.texture.kind or scene.pan != (0.0, 0.0):
            wanted.remove("oracle-background-change")
        assert defined == wanted


@pytest.mark.parametrize("name", MOTIONS)
def test_every_scene_is_a_member_of_its_law(name):
    for scene in [s for s in World().scenes("train", 0, 60) if is_law(s, name)]:
        truth = scene.truth(33)
        path, radii = laws.fit(truth.positions[:, 0], truth.radii[:, 0], scene)
        assert np.sqrt(((path - truth.positions[:, 0]) ** 2).sum(axis=1).mean()) < 0.25
        if name == "pulse":
            assert np.abs(radii - truth.radii[:, 0]).max() < 0.25


def test_flight_is_that_of_the_world():
    turned = 0
    for scene in [s for s in World().scenes("train", 0, 300) if is_law(s, "drift")]:
        motion, truth = scene.motion, scene.truth(33)
        turns = [(40.0, 0.0), (40.0, 0.0)]
        if motion.turn_every:
            frames = range(motion.first_turn, 33, motion.turn_every)
            signs = [1.0 if scene.seed >> count & 1 else -1.0 for count in range(len(frames))]
            turns[: len(frames)] = zip(map(float, frames), signs, strict=True)
            turned += len(frames)
        place, velocity = truth.positions[:1, 0], truth.velocity[:1, 0]
        path = laws.flight(place, velocity, np.array([turns]), scene.bodies[0].radius, 33)[0]
        np.testing.assert_allclose(path, truth.positions[:, 0], atol=1e-9)
    assert turned > 10


def test_a_wrong_motion_is_no_member(plain):
    rest = np.full((33, 2), 32.0)
    radii = np.full(33, 7.0)
    for name in ("drift", "orbit", "zigzag"):
        path, _ = laws.fit(rest, radii, moving(plain, law=MOTIONS.index(name), name=name))
        assert np.sqrt(((path - rest) ** 2).sum(axis=1).mean()) > 2, name
    _, swollen = laws.fit(rest, radii, moving(plain, law=MOTIONS.index("pulse"), name="pulse"))
    assert np.sqrt(((swollen - radii) ** 2).mean()) > 1
    scores = oracle.measure(clip_of(plain), moving(plain, law=MOTIONS.index("still"), name="still"))
    assert scores["oracle-tracking-error"] > 5


@pytest.mark.parametrize("turn", range(8))
def test_direction_error_is_the_angle(plain, turn):
    clip = clip_of(moving(plain, direction=turn, place=(32.0, 32.0)))
    scores = oracle.measure(clip, plain)
    assert scores["oracle-direction-error"] == pytest.approx(min(turn, 8 - turn) * 45, abs=4)
    assert (scores["oracle-tracking-error"] < 0.5) == (turn == 0)


def test_a_still_picture_has_no_direction_and_no_speed(plain):
    clip = np.repeat(clip_of(plain)[:1], 33, axis=0)
    scores = oracle.measure(clip, plain)
    assert scores["oracle-direction-error"] == 90
    assert scores["oracle-speed-variation"] == 1
    assert scores["oracle-tracking-error"] > 2


def test_walls_reflect(plain):
    towards = moving(plain, direction=0, speed=1.0, place=(44.5, 32.0))
    clip = clip_of(towards)
    assert oracle.measure(clip, towards)["oracle-bounce-error"] < 0.1
    sticks = clip.copy()
    sticks[13:] = clip[12]  # touches the wall at 57
    assert oracle.measure(sticks, towards)["oracle-bounce-error"] == pytest.approx(1, abs=0.1)
    assert np.isnan(oracle.measure(clip_of(plain), plain)["oracle-bounce-error"])


@pytest.mark.parametrize("picture", ["noise", "black", "ink"])
def test_pictures_of_nothing_have_no_subject(plain, picture, rng):
    clip = np.zeros((33, 64, 64, 3), np.uint8)
    if picture == "noise":
        clip = rng.integers(0, 256, clip.shape, dtype=np.uint8)
    elif picture == "ink":
        clip[:] = subject._INKS[plain.subject.colour]
    scores = oracle.measure(clip, plain)
    assert scores["oracle-found"] == scores["oracle-count"] == 0
    assert scores["oracle-tracking-error"] == oracle.LOST


def test_no_subject_is_as_wrong_as_can_be(plain):
    clip = np.full((33, 64, 64, 3), 52, np.uint8)
    scores = oracle.measure(clip, plain)
    assert scores["oracle-found"] == scores["oracle-colour"] == scores["oracle-count"] == 0
    assert scores["oracle-tracking-error"] == oracle.LOST
    assert scores["oracle-direction-error"] == 90
    assert np.isnan(scores["oracle-colour-drift"])
    half = clip_of(plain)
    half[17:] = 52
    assert oracle.measure(half, plain)["oracle-found"] == 0.5
    assert oracle.measure(half, plain)["oracle-tracking-error"] == pytest.approx(
        np.sqrt(0.5) * oracle.LOST, abs=0.1
    )


@pytest.mark.parametrize("name", MOTIONS)
def test_a_glimpse_of_the_subject_is_scored_or_lost(plain, name):
    scene = moving(plain, law=MOTIONS.index(name), name=name)
    for kept in (1, oracle.FEW):
        clip = clip_of(scene)
        clip[1 : 33 - kept] = 52
        scores = oracle.measure(clip, scene)
        assert scores["oracle-found"] == kept / 32
        expected = np.sqrt(1 - kept / 32) * oracle.LOST if kept == oracle.FEW else oracle.LOST
        assert scores["oracle-tracking-error"] == pytest.approx(expected, abs=0.1)


def test_a_second_copy_is_counted_and_the_first_stays_the_subject(plain):
    clip = clip_of(plain)
    clip[9:, 2:16, 40:54] = clip_of(moving(plain, place=(47.0, 9.0)))[0, 2:16, 40:54]
    scores = oracle.measure(clip, plain)
    assert scores["oracle-count"] == 8 / 32
    assert scores["oracle-tracking-error"] < 0.3
    other = clip.copy()
    other[9:, 2:16, 40:54] = clip[9:, 2:16, 40:54, ::-1]  # blue: an arrival that nobody announced
    assert oracle.measure(other, plain)["oracle-count"] == 1


def test_size_drift_is_the_logarithm_of_growth(plain):
    clip = clip_of(plain)
    assert oracle.measure(clip, plain)["oracle-size-drift"] < 0.05
    clip[17:] = clip_of(replace(plain, subject=replace(plain.subject, size=1)))[17:]
    scores = oracle.measure(clip, plain)
    assert scores["oracle-size-drift"] == pytest.approx(np.log(11 / 7) / 2, abs=0.02)
    assert scores["oracle-shape-drift"] < 0.1


def test_background_change_is_in_grey_levels(plain):
    clip = clip_of(plain)
    clip[1:] += np.where(np.arange(32) % 2, 3, 0).astype(np.uint8)[:, None, None, None]
    assert oracle.measure(clip, plain)["oracle-background-change"] == pytest.approx(
        1.5 * np.sqrt(3), rel=0.01
    )


# The harm that a score is for: its values must move one way with the amount, and far from truth at the worst.
ANSWERS = (
    ("slow", "oracle-tracking-error", 1, 1.0),
    ("freeze", "oracle-tracking-error", 1, 1.0),
    ("freeze", "oracle-speed-variation", 1, 0.5),
    ("shuffle", "oracle-tracking-error", 1, 2.0),
    ("wrong colour", "oracle-colour", -1, 0.99),
    ("wrong colour", "oracle-count", -1, 0.99),
    ("swap", "oracle-colour", -1, 0.4),
    ("swap", "oracle-shape", -1, 0.05),
    ("swap", "oracle-colour-drift", 1, 50.0),
    ("swap", "oracle-shape-drift", 1, 0.05),
    ("noise", "oracle-background-change", 1, 10.0),
    ("flicker", "oracle-background-change", 1, 10.0),
    ("blur", "oracle-shape", -1, 0.02),
)


@pytest.fixture(scope="module")
def harmed(scenes, truth, scores):
    """Harm -> scores of the same clips unharmed, half harmed, and at the worst."""
    few = slice(0, 10)
    answers = {}
    for name in dict.fromkeys(name for name, *_ in ANSWERS):
        answers[name] = [{score: values[few] for score, values in scores.items()}]
        for level in (2, LEVELS):
            clips = CORRUPTIONS[name](scenes[few], truth[few], level, np.random.default_rng(level))
            answers[name].append(table(clips, scenes[few]))
    return answers


@pytest.mark.parametrize(("harm", "score", "way", "least"), ANSWERS)
def test_scores_answer_to_the_harm_that_they_are_for(harmed, harm, score, way, least):
    values = [way * np.nanmean(level[score]) for level in harmed[harm]]
    assert values == sorted(values)
    assert values[-1] - values[0] > least


def test_direction_answers_to_a_shuffle_and_motion_not_to_flicker(harmed):
    assert np.nanmean(harmed["shuffle"][-1]["oracle-direction-error"]) > 10
    np.testing.assert_allclose(
        harmed["flicker"][-1]["oracle-tracking-error"],
        harmed["flicker"][0]["oracle-tracking-error"],
        atol=0.02,
    )


def test_lab_scores_include_them_when_asked(scenes, truth):
    found = lab.score(truth[:8], scenes[:8], metrics=["oracle-colour", "oracle-tracking-error"])
    assert found.aggregate["oracle-colour"].value == 1
    assert found.aggregate["oracle-tracking-error"].unit == "px"
    assert "lost=16 px" in found.aggregate["oracle-tracking-error"].protocol
    assert found.per_sample["oracle-tracking-error"].mean() == pytest.approx(
        found.aggregate["oracle-tracking-error"].value
    )
    assert not set(ORACLE) & set(lab.score(truth[:2], scenes[:2], metrics=["accuracy-colour"]).per_sample)


def test_what_no_clip_defines_is_omitted_with_a_reason(scenes, truth):
    rows = [row for row, scene in enumerate(scenes) if is_law(scene, "still")]
    found = lab.score(truth[rows], [scenes[row] for row in rows], metrics=["oracle-bounce-error"])
    assert found.omitted == {"oracle-bounce-error": "not defined for any of these clips"}


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (np.zeros((33, 64, 64, 3)), "uint8"),
        (np.zeros((33, 32, 64, 3), np.uint8), r"\(T, 64, 64, 3\)"),
        (np.zeros((17, 64, 64, 3), np.uint8), "33 frames, got 17"),
    ],
)
def test_bad_input_is_named(scenes, clip, says):
    with pytest.raises(InputError, match=says):
        oracle.measure(clip, scenes[0])
