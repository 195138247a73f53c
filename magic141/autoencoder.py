"""The lab's video autoencoder: causal in time, 8 x 8 x 4 compression, 16 whitened channels.

Work happens where it is cheap: two residual blocks on a 16 x 16 grid that carries two frames a cell, the rest at latent
resolution. Time is handled in groups of four frames, each seeing its own group and, through one tap a block, the group
before it. A clip's frame 0 forms a group by itself (repeated to fill it), so an image is a one-frame video.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from magic141.errors import InputError

GROUP = 4
"""Frames in a latent frame."""

State = tuple[Tensor, ...]
"""What a decoder that has read part of a video must remember: for each block its tap on the last group,
(B, 1, width, H/8, W/8)."""


def silent(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with an output of zero, so that its residual block starts as the identity."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class CausalBlock(nn.Module):
    """Residual block: 3 x 3 convolution plus one tap on the previous group's features, then a pointwise layer.

    Without normalisation, as in EDSR (arXiv 1707.02921): reconstruction wants the range of its input kept.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.before = nn.Conv2d(width, width, 1, bias=False)
        self.out = silent(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, groups: int, tap: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: (B * groups, width, H, W). `tap`, (B, 1, width, H, W), is on the group before x; so is the one returned
        on the last group of x, for the x that follows.
        """
        taps = self.before(x).unflatten(0, (-1, groups))
        first = torch.zeros_like(taps[:, :1]) if tap is None else tap
        past = torch.cat([first, taps[:, :-1]], dim=1).flatten(0, 1)
        return x + self.out(F.gelu(self.conv(x) + past, approximate="tanh")), taps[:, -1:]


class FineBlock(nn.Module):
    """Residual block on the 16 x 16 grid, blind to other frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.out = silent(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.conv(x), approximate="tanh"))


class AutoencoderMagic141(ModelMixin, ConfigMixin):
    """Video (B, 3, T, H, W) in [-1, 1] <-> latents (B, 16, t, H/8, W/8) of zero mean and unit variance.

    T = 1 + 4 (t - 1) for a clip from its start, 4 t for a continuation (`start=False`). H and W are multiples of 8.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 256,
        fine_width: int = 64,
        encoder_blocks: int = 3,
        decoder_blocks: int = 2,
        fine_blocks: int = 1,
    ) -> None:
        super().__init__()
        pixels = 3 * 2 * 4 * 4  # two frames of a 4 x 4 patch
        self.patch = nn.Conv2d(pixels, fine_width, 3, padding=1)
        self.fine_encoder = nn.ModuleList(FineBlock(fine_width) for _ in range(fine_blocks))
        self.down = nn.Conv2d(8 * fine_width, width, 1)
        self.encoder = nn.ModuleList(CausalBlock(width) for _ in range(encoder_blocks))
        self.to_latent = nn.Conv2d(width, latent_channels, 1)
        # Whitening by running statistics: downstream, latents have zero mean and unit variance without any constant.
        self.whiten = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.01)
        self.from_latent = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.decoder = nn.ModuleList(CausalBlock(width) for _ in range(decoder_blocks))
        self.up = nn.Conv2d(width, 8 * fine_width, 1)
        self.fine_decoder = nn.ModuleList(FineBlock(fine_width) for _ in range(fine_blocks))
        self.to_pixels = nn.Conv2d(fine_width, pixels, 3, padding=1)

    @apply_forward_hook
    def encode(self, video: Tensor, start: bool = True) -> Tensor:
        """Latents (B, 16, t, H/8, W/8) of a video (B, 3, T, H, W).

        Raises InputError when T is not 4k+1 (from the start) or 4k (a continuation), or H or W no multiple of 8.
        """
        _, _, frames, height, width = video.shape
        if frames % GROUP != int(start) or frames == 0:
            kind = "4k+1, the first frame alone" if start else "4k"
            raise InputError(f"{frames} frames cannot be encoded: their number must be {kind}")
        if height % 8 or width % 8:
            raise InputError(f"{height}x{width} pixels cannot be encoded: both sides must be multiples of 8")
        if start:
            video = torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)
        batch, groups = len(video), video.shape[2] // GROUP
        # (B, C, (g s p), (h y), (w x)) -> (B g s, C p y x, h, w): g groups, s halves of p = 2 frames, 4 x 4 patches
        x = video.unflatten(2, (groups, 2, 2)).unflatten(5, (-1, 4)).unflatten(7, (-1, 4))
        x = x.permute(0, 2, 3, 1, 4, 6, 8, 5, 7).flatten(3, 6).flatten(0, 2)
        x = self.patch(x.contiguous(memory_format=torch.channels_last))
        for block in self.fine_encoder:
            x = block(x)
        x = F.pixel_unshuffle(x, 2).unflatten(0, (-1, 2)).flatten(1, 2)
        x = self.down(x)
        for block in self.encoder:
            x, _ = block(x, groups)
        latents = self.whiten(self.to_latent(x))
        return latents.unflatten(0, (batch, groups)).transpose(1, 2)

    @apply_forward_hook
    def decode(self, latents: Tensor, start: bool = True) -> Tensor:
        """Video (B, 3, T, H, W), not clamped, of latents (B, 16, t, H/8, W/8)."""
        video, _ = self._decode(latents)
        return video[:, :, GROUP - 1 :] if start else video

    @apply_forward_hook
    def decode_next(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next part of a video that comes in parts: its frames, and the state that its next part needs.

        Without a state the latents start the video. The parts, one after the other, are the frames that `decode` makes
        of all latents at once, in memory that does not grow with their number.
        """
        video, taps = self._decode(latents, state)
        # Cloned, or each tap would keep those of all groups alive.
        return video[:, :, GROUP - 1 :] if state is None else video, tuple(tap.clone() for tap in taps)

    def _decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, list[Tensor]]:
        """Four frames for every latent frame, and each block's tap on the last group."""
        batch, _, groups, _, _ = latents.shape
        x = self.from_latent(
            latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        )
        taps = []
        for i, block in enumerate(self.decoder):
            x, tap = block(x, groups, None if state is None else state[i])
            taps.append(tap)
        x = F.pixel_shuffle(self.up(x).unflatten(1, (2, -1)).flatten(0, 1), 2)
        for block in self.fine_decoder:
            x = block(x)
        x = self.to_pixels(x).unflatten(0, (batch, groups, 2)).unflatten(3, (3, 2, 4, 4))
        return x.permute(0, 3, 1, 2, 4, 7, 5, 8, 6).flatten(7, 8).flatten(5, 6).flatten(2, 4), taps

    def forward(self, video: Tensor, start: bool = True, noise: Tensor | None = None) -> Tensor:
        """Reconstruction of `video`; `noise`, of the latents' shape, is added on the way to smooth their space."""
        latents = self.encode(video, start)
        return self.decode(latents if noise is None else latents + noise, start)
