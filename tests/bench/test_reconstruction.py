"""The autoencoder alone, by the shipped weights and on few clips."""

import numpy as np
import pytest

from bench import reconstruction
from bench.baselines.reconstruction import Reconstruction
from bench.measure import Stopwatch
from bench.prompts import PromptSpec
from bench.systems import Request, check_output
from magic141.data.render import masks, render
from magic141.data.world import World

SCENES = PromptSpec(split="test", count=3).scenes()
REQUESTS = [Request(index, prompt, index, scene) for index, (prompt, scene) in enumerate(SCENES)]


def test_it_is_truth_but_for_what_is_lost() -> None:
    system = Reconstruction()
    system.load()
    output = system.generate(REQUESTS, Stopwatch())
    check_output(output, 3)
    truth = render([scene for _, scene in SCENES], 33).numpy()
    errors = np.abs(output.frames.astype(float) - truth).mean((1, 2, 3, 4))
    assert (errors > 0.1).all()
    assert (errors < 10).all()
    np.testing.assert_array_equal(output.first_frames, truth[:, 0])
    again = system.generate(REQUESTS[1:2], Stopwatch()).frames[0].astype(float)
    assert np.abs(again - output.frames[1]).max() <= 1  # a batch may round otherwise


def test_an_error_of_known_size_has_its_ratio_inside_and_out() -> None:
    """Five grey levels on the object's mask, and on the pixels within two of it; one everywhere else."""
    scenes = World().scenes("test", 0, 4)
    requests = [Request(index, scene.caption(), index, scene) for index, scene in enumerate(scenes)]
    mask = masks(scenes, 9).numpy()
    near = mask.copy()
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            padded = np.pad(mask, ((0, 0), (0, 0), (2, 2), (2, 2)))
            near |= padded[:, :, 2 + dy : 66 + dy, 2 + dx : 66 + dx]
    truth = render(scenes, 9).numpy().astype(int)
    size = np.where(near, 5, 1)[..., None]
    made = np.where(truth < 128, truth + size, truth - size).astype(np.uint8)
    for (whole, inside), place in zip(reconstruction._ratios(requests, made), near, strict=True):
        assert inside == pytest.approx(20 * np.log10(255 / 5))
        share = place.mean()
        assert whole == pytest.approx(10 * np.log10(255**2 / (25 * share + 1 - share)))


@pytest.mark.slow
def test_the_shipped_autoencoder_is_as_its_card_says() -> None:
    found = reconstruction.examine("lab", 192)
    assert found["psnr-still"].low > 31
    assert found["psnr-moving"].low > 29
    assert found["psnr-object"].low > 23
    assert found["accuracy-colour"].value > 0.98
    assert len(list(reconstruction.lines(found))) == len(found)
