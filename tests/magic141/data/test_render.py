import dataclasses

import numpy as np
import pytest
import torch

from magic141.data.factors import SHAPES, TEXTURES
from magic141.data.render import masks, render
from magic141.data.world import World

SCENES = World().scenes("test", 0, 40)


def test_frames_are_uint8_of_the_asked_shape():
    video = render(SCENES[:3], 5)
    assert video.shape == (3, 5, 64, 64, 3)
    assert video.dtype == torch.uint8


def test_a_scene_looks_the_same_alone_and_in_a_batch():
    together = render(SCENES, 9)
    for row in (0, 7, 23, 39):
        assert torch.equal(render([SCENES[row]], 9)[0], together[row])


@pytest.mark.parametrize("texture", range(len(TEXTURES)))
def test_a_later_window_is_part_of_a_longer_video(texture):
    scene = next(scene for scene in World().scenes("test", 0, 400) if scene.texture.kind == texture)
    whole = render([scene], 60)[0, 40:].int()
    assert (render([scene], 20, start=40)[0].int() - whole).abs().max() <= 1  # rounding alone


def test_each_scene_can_have_a_start_of_its_own():
    both = render(SCENES[:2], 4, start=[0, 30])
    assert torch.equal(both[1], render(SCENES[1:2], 4, start=30)[0])


def test_only_texture_pan_and_object_move():
    still = next(
        scene
        for scene in World(moving_texture=0.0, events=False).scenes("test", 0, 400)
        if scene.motion.name == "still" and scene.pan == (0.0, 0.0)
    )
    video = render([still], 33)[0]
    assert (video == video[:1]).all()


@pytest.mark.parametrize("texture", range(1, len(TEXTURES)))
def test_moving_textures_move_and_are_band_limited(texture):
    scenes = [scene for scene in World().scenes("test", 0, 600) if scene.texture.kind == texture]
    scene = next(scene for scene in scenes if scene.motion.name == "still" and scene.pan == (0.0, 0.0))
    plain = dataclasses.replace(scene, texture=dataclasses.replace(scene.texture, kind=0), late=None)
    scene = dataclasses.replace(scene, late=None)
    veil = (render([scene], 17)[0].float() - render([plain], 17)[0].float()).mean(-1)
    assert (veil[1:] - veil[:-1]).abs().mean() > 0.5
    spectrum = torch.fft.rfft2(veil).abs().square().sum(0)
    row, column = torch.fft.fftfreq(64)[:, None].abs(), torch.fft.rfftfreq(64)[None]
    fine = torch.maximum(row.expand_as(spectrum), column.expand_as(spectrum)) > 1 / 3
    assert spectrum[fine].sum() < 0.05 * spectrum.sum()  # next to nothing finer than 3 pixels


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_masks_lie_where_the_truth_says(shape):
    world = World(events=False)
    scenes = [scene for scene in world.scenes("test", 0, 100) if scene.subject.shape == shape][:4]
    grid = np.arange(64) + 0.5
    for scene, mask in zip(scenes, masks(scenes, 9).numpy(), strict=True):
        truth = scene.truth(9)
        for frame in range(9):
            weight = mask[frame] / mask[frame].sum()
            centre = np.array([(weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()])
            # Centroids of triangles and stars are off their centres by design.
            assert np.abs(centre - truth.positions[frame, 0]).max() < 0.3 * truth.radii[frame, 0]


def test_colours_are_those_of_the_subject():
    red = next(scene for scene in SCENES if scene.subject.colour == 0)
    mask = masks([red], 1)[0, 0]
    inside = render([red], 1)[0, 0][mask].float().mean(0)
    assert inside[0] > 180
    assert inside[1] < 90
    assert inside[2] < 90
