import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from magic141.autoencoder import AutoencoderMagic141
from magic141.conditioning import make_text_image_model
from magic141.data.render import masks
from magic141.data.world import World
from magic141.errors import InputError
from magic141.train import latents
from magic141.train.latents import CLIPS, LONG, WORLD, SetSpec, coverage, encode_set


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    vae = AutoencoderMagic141(width=32, fine_width=16).to(memory_format=torch.channels_last)
    return vae.eval(), make_text_image_model().bfloat16().eval()


def test_an_interrupted_encoding_goes_on_where_it_stopped(tmp_path, encoders):
    whole = encode_set(tmp_path / "whole", SetSpec("clips", 2, 0), 6, *encoders, batch=2)

    class Interrupted(Exception):
        pass

    class Fragile(AutoencoderMagic141):
        calls = 0

        def encode(self, video, start=True):
            self.calls += 1
            if self.calls == 3:
                raise Interrupted
            return super().encode(video, start)

    vae, clip = encoders
    fragile = Fragile(**{key: vae.config[key] for key in ("width", "fine_width")}).eval()
    fragile.load_state_dict(vae.state_dict())
    with pytest.raises(Interrupted):
        encode_set(tmp_path / "cut", SetSpec("clips", 2, 0), 6, fragile, clip, batch=2)
    again = encode_set(tmp_path / "cut", SetSpec("clips", 2, 0), 6, fragile, clip, batch=2)
    assert fragile.calls == 4  # the two finished batches are not encoded again
    np.testing.assert_allclose(again.latents, whole.latents, atol=0.02)
    np.testing.assert_array_equal(again.cover, whole.cover)


def test_latents_of_other_weights_are_not_mixed(tmp_path, encoders):
    vae, clip = encoders
    encode_set(tmp_path, SetSpec("clips", 2, 0), 2, vae, clip, batch=2)
    rounded = copy.deepcopy(vae).half().float()
    assert len(encode_set(tmp_path, SetSpec("clips", 2, 0), 2, rounded, clip, batch=2)) == 2  # as packed
    other = copy.deepcopy(vae)
    next(other.parameters()).data += 0.1
    for count in (2, 4):
        with pytest.raises(InputError, match="holds latents of other weights"):
            encode_set(tmp_path, SetSpec("clips", 2, 0), count, other, clip, batch=2)


def test_a_set_grows_and_keeps_its_rows(tmp_path, encoders):
    small = encode_set(tmp_path, SetSpec("clips", 2, 0), 3, *encoders, batch=2)
    kept = small.latents[:].copy()
    large = encode_set(tmp_path, SetSpec("clips", 2, 0), 5, *encoders, batch=2)
    assert len(large) == 5
    np.testing.assert_array_equal(large.latents[:3], kept)
    assert np.abs(large.latents[3:]).max() > 0
    assert not (tmp_path / "growing").exists()


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_set_whose_growth_was_interrupted_grows_again(tmp_path, encoders, monkeypatch, replaced):
    spec = SetSpec("clips", 2, 0)
    whole = encode_set(tmp_path / "whole", spec, 5, *encoders, batch=2)
    encode_set(tmp_path / "cut", spec, 3, *encoders, batch=2)
    calls = []

    def interrupted(source, target):
        if str(source).endswith(".npy"):
            calls.append(target)
            if len(calls) > replaced:
                raise KeyboardInterrupt
        replace_file(source, target)

    replace_file = latents.os.replace
    with monkeypatch.context() as patch:
        patch.setattr(latents.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode_set(tmp_path / "cut", spec, 5, *encoders, batch=2)
    found = encode_set(tmp_path / "cut", spec, 5, *encoders, batch=2)
    for name in ("latents", "image_tokens", "cover"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=0.02)


def test_a_set_cut_short_serves_a_smaller_request_without_its_unwritten_rows(tmp_path, encoders):
    whole = encode_set(tmp_path, SetSpec("clips", 2, 0), 5, *encoders, batch=2)
    (tmp_path / "clips" / "done.json").write_text('{"rows": 4}')
    served = encode_set(tmp_path, SetSpec("clips", 2, 0), 3, *encoders, batch=2)
    assert len(served) == 3
    np.testing.assert_array_equal(served.latents, whole.latents[:3])


def test_coverage_keeps_the_area_of_objects():
    scenes = [WORLD.scene("train", row) for row in range(3)]
    mask = masks(scenes, 9)
    share = coverage(mask)
    assert share.shape == (3, 3, 16, 16)
    areas = mask.float().mean((2, 3))
    expected = torch.stack([areas[:, 0], areas[:, 1:5].mean(1), areas[:, 5:9].mean(1)], dim=1)
    torch.testing.assert_close(share.mean((2, 3)), expected)


def test_sets_have_the_lengths_that_training_needs():
    assert CLIPS.frames == 33
    assert LONG.frames >= 97


def test_what_captions_state_takes_turns_and_leaves_the_clips_alone(tmp_path, encoders):
    plain, told = SetSpec("clips", 2, 0, World(stated=1.0)), SetSpec("clips", 2, 0, stated=(0.0, 1.0))
    assert plain.folder == told.folder == SetSpec("clips", 2, 0).folder
    assert SetSpec("clips", 2, 0, World(events=False)).folder != told.folder
    rows = range(6)
    silent, full = (
        encode_set(tmp_path, spec, 6, *encoders, batch=2) for spec in (replace(told, stated=()), plain)
    )
    turns = encode_set(tmp_path, told, 6, *encoders, batch=2)
    assert [turns.caption(row, 0) for row in rows] == [
        (full if row % 2 else silent).caption(row, 0) for row in rows
    ]
    assert any(full.caption(row, 0) != silent.caption(row, 0) for row in rows)
    drawn = [World(stated=stated).scene("train", 0) for stated in (0.0, 1.0)]
    assert replace(drawn[1], stated=drawn[0].stated) == drawn[0]
