import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magic141.autoencoder import AutoencoderMagic141
from magic141.errors import InputError


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    model = AutoencoderMagic141(width=32, fine_width=16, encoder_blocks=2, decoder_blocks=2).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("out.weight"):  # zero at initialisation, which would hide every block
            torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


@given(groups=st.integers(0, 4), start=st.booleans(), height=st.integers(1, 3), width=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_latents_and_videos_have_the_documented_shapes(vae, groups, start, height, width):
    frames = 4 * groups + 1 if start else 4 * (groups + 1)
    video = torch.rand(2, 3, frames, 8 * height, 8 * width)
    latents = vae.encode(video, start)
    assert latents.shape == (2, 16, groups + 1, height, width)
    assert vae.decode(latents, start).shape == video.shape


@pytest.mark.parametrize("frame", [0, 3, 4, 5, 8, 11, 12])
def test_a_frame_changes_no_latent_before_its_own_group(vae, frame):
    video = torch.rand(1, 3, 13, 16, 16)
    changed = video.clone()
    changed[:, :, frame] = 0
    group = (frame + 3) // 4
    moved = (vae.encode(video) - vae.encode(changed)).abs().amax((0, 1, 3, 4)) > 0
    assert not moved[:group].any()
    assert moved[group]


@pytest.mark.parametrize("group", range(4))
def test_a_latent_changes_no_frame_before_its_own_group(vae, group):
    latents = torch.randn(1, 16, 4, 2, 2)
    changed = latents.clone()
    changed[:, :, group] += 1
    moved = (vae.decode(latents) - vae.decode(changed)).abs().amax((0, 1, 3, 4)) > 0
    first = max(4 * group - 3, 0)
    assert not moved[:first].any()
    assert moved[first]


def test_an_image_is_the_beginning_of_its_video(vae):
    video = torch.rand(1, 3, 9, 16, 16)
    torch.testing.assert_close(vae.encode(video[:, :, :1]), vae.encode(video)[:, :, :1], atol=1e-5, rtol=1e-5)


def test_pixels_keep_their_place():
    """With every block an identity, a linear encoder and decoder that undo each other give the video back."""
    vae = AutoencoderMagic141(latent_channels=768, width=768, fine_width=96).eval()
    with torch.no_grad():
        for conv in (vae.patch, vae.down, vae.to_latent, vae.from_latent, vae.up, vae.to_pixels):
            conv.bias.zero_()
            torch.nn.init.dirac_(conv.weight)
        video = torch.rand(1, 3, 5, 16, 24)
        torch.testing.assert_close(vae(video), video, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "start"), [(4, True), (0, True), (5, False), (0, False), (33, False)])
def test_a_wrong_number_of_frames_is_refused(vae, frames, start):
    with pytest.raises(InputError, match=f"{frames} frames"):
        vae.encode(torch.zeros(1, 3, frames, 16, 16), start)


def test_a_wrong_size_is_refused(vae):
    with pytest.raises(InputError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 3, 1, 20, 16))


def test_weights_survive_a_round_trip(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    again = AutoencoderMagic141.from_pretrained(tmp_path).eval()
    video = torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(again.encode(video), vae.encode(video))


@given(parts=st.lists(st.integers(1, 3), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_decoding_in_parts_is_decoding_at_once(vae, parts):
    latents = torch.randn(2, 16, sum(parts), 2, 3)
    state, videos = None, []
    for part in latents.split(parts, dim=2):
        video, state = vae.decode_next(part, state)
        videos.append(video)
    torch.testing.assert_close(torch.cat(videos, dim=2), vae.decode(latents), atol=1e-5, rtol=1e-5)
    if len(parts) > 1:
        alone = vae.decode(latents.split(parts, dim=2)[-1], start=False)
        assert not torch.allclose(videos[-1], alone, atol=1e-3), "the state matters"
    assert [tuple(tap.shape) for tap in state] == [(2, 1, 32, 2, 3)] * 2
    assert all(tap.untyped_storage().nbytes() == tap.nbytes for tap in state), "it keeps nothing else alive"
