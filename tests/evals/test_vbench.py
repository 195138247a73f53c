"""VBench's scores with small stand-in networks, against the formulas worked out here by hand."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms
from torchvision.models.optical_flow import raft_large

from evals import vbench, vbench_networks
from evals.protocol import sha256_of
from evals.vbench import (
    aesthetic,
    dynamic_degree,
    i2v_subject,
    imaging_quality,
    motion_smoothness,
    protocol,
    subject_consistency,
    top_speed,
)
from evals.vbench_networks import (
    AESTHETIC,
    AMT,
    DINO,
    MUSIQ,
    RAFT,
    Network,
    WeightsFile,
    dino_features,
    find,
    load_aesthetic,
    load_amt,
    load_dino,
    load_musiq,
    load_raft,
)
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BICUBIC = transforms.InterpolationMode.BICUBIC


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No test finds weights that happen to lie on this machine."""
    monkeypatch.delenv("MAGIC141_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def clip(rng):
    return rng.integers(0, 256, (5, 60, 82, 3), dtype=np.uint8)


def stand_in(seen=None):
    """Vectors of 8 numbers of both signs from any pictures; keeps the pictures in `seen`."""
    torch.manual_seed(0)
    matrix = torch.randn(27, 8)

    def run(pixels):
        if seen is not None:
            seen.extend(pixels)
        return F.adaptive_avg_pool2d(pixels, 3).flatten(1) @ matrix

    return Network("stand-in", run, "0" * 16)


def raw(clip):
    return torch.from_numpy(clip).permute(0, 3, 1, 2).float()


def cosine(a, b):
    return max(0.0, float(F.cosine_similarity(a, b, dim=0)))


def test_subject_consistency_by_hand(clip):
    seen = []
    found = subject_consistency(stand_in(seen), iter(clip))
    pixels = IMAGENET(F.interpolate(raw(clip), (224, int(224 * 82 / 60)), mode="bilinear") / 255)
    assert torch.allclose(torch.stack(seen), pixels, atol=1e-5)
    f = stand_in().run(pixels)
    expected = [(cosine(f[t], f[t - 1]) + cosine(f[t], f[0])) / 2 for t in range(1, 5)]
    assert found == pytest.approx(np.mean(expected), abs=1e-5)


def test_opposite_frames_count_as_nothing_in_common():
    frames = [np.full((32, 32, 3), level, np.uint8) for level in (0, 255, 255)]
    assert subject_consistency(stand_in(), frames) == pytest.approx((0 + 0.5) / 2, abs=1e-5)


def test_i2v_subject_by_hand(clip, rng):
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    seen = []
    found = i2v_subject(stand_in(seen), iter(clip), image)
    of_frames = transforms.Compose(
        [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224), lambda x: x / 255, IMAGENET]
    )
    of_image = transforms.Compose(
        [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224), transforms.ToTensor(), IMAGENET]
    )
    pixels = torch.stack([of_image(Image.fromarray(image)), *of_frames(raw(clip))])
    assert torch.allclose(torch.stack(seen), pixels, atol=1e-5)
    h, *f = stand_in().run(pixels)
    to_image = [cosine(x, h) for x in f]
    pairs = [cosine(a, b) for a, b in zip(f[1:], f[:-1], strict=True)]
    assert found == pytest.approx(0.4 * max(to_image) + 0.3 * np.mean(pairs) + 0.3 * min(pairs), abs=1e-5)


def test_a_still_clip_is_perfectly_consistent(clip):
    still = np.repeat(clip[:1], 4, axis=0)
    assert subject_consistency(stand_in(), still) == pytest.approx(1)
    assert i2v_subject(stand_in(), still, clip[0]) == pytest.approx(1, abs=1e-3)


def test_batches_do_not_show(clip, monkeypatch):
    whole = subject_consistency(stand_in(), clip)
    monkeypatch.setattr(vbench, "_BATCH", 2)
    assert subject_consistency(stand_in(), clip) == pytest.approx(whole, abs=1e-6)


def test_aesthetic_is_a_tenth_of_the_mean_rating(clip):
    seen = []

    def run(pixels):
        seen.extend(pixels)
        return pixels.mean(dim=(1, 2, 3)) + 5

    found = aesthetic(Network("ratings", run, ""), iter(clip))
    small = F.interpolate(raw(clip), (224, int(224 * 82 / 60)), mode="bicubic")
    left = round((small.shape[-1] - 224) / 2)
    pixels = CLIP(small[..., left : left + 224] / 255)
    assert torch.allclose(torch.stack(seen), pixels, atol=1e-5)
    assert found == pytest.approx(float((pixels.mean(dim=(1, 2, 3)) + 5).mean()) / 10, abs=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((700, 300), (512, 219)), ((512, 40), (512, 40))])
def test_imaging_quality_is_a_hundredth_of_the_mean_rating(rng, shape, size):
    frames = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    seen = []

    def run(pixels):
        seen.append(pixels)
        return 100 * pixels.mean(dim=(1, 2, 3))[:, None]

    found = imaging_quality(Network("ratings", run, ""), frames)
    pixels = F.interpolate(raw(frames), size, mode="bilinear") / 255
    assert [x.shape for x in seen] == [(1, 3, *size)] * 2, "MUSIQ rates one frame at a time"
    assert torch.allclose(torch.cat(seen), pixels, atol=1e-5)
    assert found == pytest.approx(float(pixels.mean()), abs=1e-5)


def halfway(seen=None):
    def run(before, after):
        if seen is not None:
            seen.append((before, after))
        return (before + after) / 2

    return Network("halfway", run, "")


def test_a_perfect_interpolator_is_perfectly_smooth():
    ramp = np.stack([np.full((20, 36, 3), 10 * t, np.uint8) for t in range(7)])
    ramp[:, 4:9, 3:30] //= 2
    seen = []
    assert motion_smoothness(halfway(seen), iter(ramp)) == 1
    assert len(seen) == 3
    assert {x.shape for pair in seen for x in pair} == {(1, 3, 32, 48)}
    padded = np.pad(ramp[2], ((6, 6), (6, 6), (0, 0)), mode="edge")
    assert torch.equal(seen[1][0][0], torch.from_numpy(padded).permute(2, 0, 1) / 255)


def test_smoothness_by_hand_with_levels_cut_off(rng):
    clip = rng.integers(0, 256, (6, 17, 33, 3), dtype=np.uint8)
    errors = [
        np.abs(np.floor(clip[t - 1] / 2 + clip[t + 1] / 2) - clip[t]).mean() for t in (1, 3)
    ]  # frame 5 has no successor
    assert motion_smoothness(halfway(), clip) == pytest.approx((255 - np.mean(errors)) / 255, abs=1e-4)


def flows(speeds, seen=None):
    """A stand-in whose pairs have the given speeds in the fastest 5 % of the pixels and none elsewhere."""
    left = iter(speeds)

    def run(before, after):
        if seen is not None:
            seen.append((before, after))
        flow = torch.zeros(1, 2, *before.shape[-2:])
        count = int(0.05 * flow[0, 0].numel())
        speed = next(left)
        flow.view(2, -1)[:, :count] = torch.tensor([[0.6], [-0.8]]) * speed
        return flow

    return Network("flows", run, "")


@pytest.mark.parametrize(
    ("speed", "moving", "expected"), [(3.01, 4, 1), (3.01, 3, 0), (2.99, 15, 0), (3.01, 15, 1)]
)
def test_16_frames_move_where_4_pairs_are_faster_than_the_threshold(speed, moving, expected):
    clip = np.zeros((16, 128, 160, 3), np.uint8)  # 6 * 128 / 256 = 3 px
    speeds = [0.0] * (15 - moving) + [speed] * moving
    assert dynamic_degree(flows(speeds), clip, fps=8) == expected


@pytest.mark.parametrize(("frames", "needed"), [(6, 2), (8, 2), (10, 2), (14, 4), (3, 1)])
def test_the_needed_pairs_are_rounded_to_even(frames, needed):
    clip = np.zeros((frames, 32, 32, 3), np.uint8)
    for moving in (needed - 1, needed):
        speeds = [5.0] * moving + [0.0] * (frames - 1 - moving)
        assert dynamic_degree(flows(speeds), clip, fps=8) == (moving == needed)


def test_two_frames_need_no_motion_as_in_vbench():
    assert dynamic_degree(flows([0.0]), np.zeros((2, 32, 32, 3), np.uint8), fps=8) == 1


def test_frames_are_kept_8_per_second_and_padded_to_8():
    clip = np.stack([np.full((30, 44, 3), t, np.uint8) for t in range(9)])
    seen = []
    dynamic_degree(flows([0.0] * 9, seen), iter(clip), fps=24)
    assert [(float(a.max()), float(b.max())) for a, b in seen] == [(0, 3), (3, 6)]
    assert seen[0][0].shape == (1, 3, 32, 48)
    seen.clear()
    dynamic_degree(flows([0.0] * 9, seen), iter(clip), fps=3)
    assert len(seen) == 8


def test_the_speed_is_that_of_the_fastest_twentieth():
    flow = np.zeros((2, 10, 10))
    flow[:, 0, :6] = [[3, 6, 0, 0, 9, 0.3], [4, 8, 1, 2, 12, 0.4]]
    assert top_speed(flow) == pytest.approx((5 + 10 + 1 + 2 + 15) / 5)


def test_too_few_frames_and_wrong_ones_are_refused(clip):
    for score in (
        lambda x: subject_consistency(stand_in(), x),
        lambda x: i2v_subject(stand_in(), x, clip[0]),
        lambda x: dynamic_degree(flows([]), x, fps=8),
    ):
        with pytest.raises(InputError, match="at least 2 frames, got 1"):
            score(clip[:1])
        with pytest.raises(InputError, match="got 0"):
            score([])
    with pytest.raises(InputError, match="one frame of 3, needs at least 2 frames, got 1"):
        dynamic_degree(flows([]), clip[:3], fps=24)
    with pytest.raises(InputError, match="at least 3 frames, got 2"):
        motion_smoothness(halfway(), clip[:2])
    with pytest.raises(InputError, match="at least 1 frames, got 0"):
        aesthetic(stand_in(), [])
    with pytest.raises(InputError, match="uint8"):
        subject_consistency(stand_in(), clip / 255)
    with pytest.raises(InputError, match="change shape"):
        motion_smoothness(halfway(), [clip[0], clip[1, 1:]])
    for fps in (0, -8, float("nan"), float("inf")):
        with pytest.raises(InputError, match="fps must be positive"):
            dynamic_degree(flows([]), clip, fps)


def test_protocols_differ_by_metric_and_weights():
    network = Network("n", lambda x: x, "abc")
    assert "model=n" in protocol("aesthetic", network)
    assert "weights=abc" in protocol("i2v-subject", network)
    assert "raft-things" in protocol("vbench-dynamic-degree", network)
    assert protocol("subject-consistency", network).startswith("subject-consistency; frames=all; input=")
    with pytest.raises(InputError, match="no VBench score is called 'beauty'"):
        protocol("beauty", network)


LOADERS = [
    (load_dino, DINO, "timm", "timm"),
    (load_musiq, MUSIQ, "pyiqa", "pyiqa"),
    (load_amt, AMT, "vbench", "--no-deps vbench decord"),
    (load_raft, RAFT, "torchvision.models.optical_flow", "torchvision"),
]


@pytest.mark.parametrize(("load", "wanted", "module", "package"), LOADERS)
def test_a_missing_library_is_named_with_its_package_and_the_file(load, wanted, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsMissing, match=f"pip install {package}") as caught:
        load()
    assert wanted.name in str(caught.value)
    assert wanted.url in str(caught.value)


@pytest.mark.parametrize("load", [load_dino, load_aesthetic, load_musiq, load_amt, load_raft])
def test_missing_weights_are_named_and_nothing_is_made_up(load, monkeypatch, tmp_path):
    monkeypatch.setattr(vbench_networks, "_library", lambda *_: None)  # a random network would be an error
    wanted = {load_dino: DINO, load_aesthetic: AESTHETIC, load_musiq: MUSIQ, load_amt: AMT, load_raft: RAFT}[
        load
    ]
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsMissing, match="Fetch it from https://") as caught:
        load()
    assert wanted.url in str(caught.value)
    assert str(tmp_path / wanted.name) in str(caught.value)
    with pytest.raises(WeightsMissing, match="no weights at"):
        load(tmp_path / "none.pth")


def test_files_are_found_in_order_and_checked(tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / "a.pth").write_bytes(b"a")
    good = WeightsFile("a.pth", "https://a", sha256_of(hub / "a.pth")[:8])
    assert find(good) == hub / "a.pth"
    with pytest.raises(WeightsCorrupt, match="not 00000000…; fetch it again from https://a"):
        find(WeightsFile("a.pth", "https://a", "00000000"))
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path))
    assert find(good) == hub / "a.pth"
    (tmp_path / "a.pth").write_bytes(b"a")
    assert find(good) == tmp_path / "a.pth"
    assert find(WeightsFile("a.pth", "https://a", "0"), tmp_path / "a.pth") == tmp_path / "a.pth"
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path / "a.pth"))
    with pytest.raises(InputError, match="is no directory"):
        find(good)


def small_vit():
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0
    )
    torch.nn.init.normal_(vit.pos_embed)
    return vit.eval()


def test_dino_features_are_timms_at_the_size_of_training_and_shift_positions_elsewhere():
    vit = small_vit()
    with torch.inference_mode():
        pixels = torch.randn(2, 3, 32, 32)
        assert torch.allclose(dino_features(vit, pixels), vit(pixels), atol=1e-6)
        # At another size: positions by hand through a grid sampled where DINO's scale puts the pixels.
        pixels = torch.randn(1, 3, 50, 70)  # 3 by 4 patches, the rest cut off
        y, x = (torch.arange(n) + 0.5 for n in (3, 4))
        y, x = y * 2 / 3.1, x * 2 / 4.1
        where = torch.stack(torch.meshgrid(x - 1, y - 1, indexing="xy"), dim=-1)[None]
        table = vit.pos_embed[:, 1:].reshape(1, 2, 2, 24).permute(0, 3, 1, 2)
        places = F.grid_sample(table, where, "bicubic", "border", align_corners=False)
        tokens = vit.patch_embed.proj(pixels[..., :48, :64]) + places
        first = vit.cls_token + vit.pos_embed[:, :1]
        tokens = torch.cat([first, tokens.flatten(2).transpose(1, 2)], dim=1)
        expected = vit.norm(vit.blocks(tokens))[:, 0]
        assert torch.allclose(dino_features(vit, pixels), expected, atol=1e-4)


def test_dino_loads_its_file_and_only_its_own(tmp_path, monkeypatch):
    saved = small_vit()
    torch.save(saved.state_dict(), tmp_path / DINO.name)
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path))

    def other(*_, **__):
        vit = small_vit()
        torch.nn.init.ones_(vit.pos_embed)
        return vit

    monkeypatch.setattr(timm, "create_model", other)
    dino = load_dino()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(dino.run(pixels), saved(pixels), atol=1e-6)
    assert dino.identity == sha256_of(tmp_path / DINO.name)[:16]
    torch.save({"pos_embed": saved.pos_embed}, tmp_path / "part.pth")
    (tmp_path / "page.pth").write_text("<html>")
    torch.save([1], tmp_path / "list.pth")
    for name in ("part.pth", "page.pth", "list.pth"):
        with pytest.raises(InputError, match="is no state dict of VisionTransformer"):
            load_dino(tmp_path / name)


def test_aesthetic_is_the_head_on_unit_vectors_of_clip(tmp_path, monkeypatch):
    torch.manual_seed(0)
    head, matrix = torch.nn.Linear(768, 1), torch.randn(3, 768)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    model = SimpleNamespace(encode_image=lambda pixels: 7 * pixels.mean(dim=(2, 3)) @ matrix)
    judge = SimpleNamespace(model=model, device=torch.device("cpu"), identity="c1ip")
    asked = []
    monkeypatch.setattr(vbench_networks.ClipJudge, "load", lambda *args: asked.append(args) or judge)
    network = load_aesthetic(tmp_path / "head.pth")
    assert asked == [("ViT-L-14-quickgelu", "openai", "cpu")]
    pixels = torch.randn(2, 3, 4, 4)
    vectors = pixels.mean(dim=(2, 3)) @ matrix
    expected = (vectors / vectors.norm(dim=1, keepdim=True)) @ head.weight[0] + head.bias
    assert torch.allclose(network.run(pixels), expected, atol=1e-5)
    assert network.identity == f"{sha256_of(tmp_path / 'head.pth')[:16]}+c1ip"

    def offline(*_):
        raise WeightsMissing("the weights are not here")

    monkeypatch.setattr(vbench_networks.ClipJudge, "load", offline)
    with pytest.raises(WeightsMissing, match="not here.*open_clip_model.safetensors of timm/vit_large"):
        load_aesthetic(tmp_path / "head.pth")


def test_musiq_reads_its_file_and_rates_in_evaluation_mode(tmp_path, monkeypatch):
    class MUSIQ(torch.nn.Module):
        def __init__(self, pretrained_model_path):
            super().__init__()
            self.scale = torch.load(pretrained_model_path)["params"]

        def forward(self, pixels):
            assert not self.training
            return self.scale * pixels.mean(dim=(1, 2, 3))[:, None]

    module = ModuleType("pyiqa.archs.musiq_arch")
    module.MUSIQ = MUSIQ
    for name in ("pyiqa", "pyiqa.archs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"params": torch.tensor(80.0)}, tmp_path / "musiq.pth")
    network = load_musiq(tmp_path / "musiq.pth")
    assert imaging_quality(network, np.full((2, 32, 32, 3), 255, np.uint8)) == pytest.approx(0.8)
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="is no checkpoint of MUSIQ"):
        load_musiq(tmp_path / "empty.pth")


def test_amt_predicts_the_middle_from_its_wrapped_state_dict(tmp_path, monkeypatch):
    class Model(torch.nn.Module):
        def __init__(self, corr_radius, corr_lvls, num_flows):
            super().__init__()
            self.shape = (corr_radius, corr_lvls, num_flows)
            self.bias = torch.nn.Parameter(torch.zeros(()))

        def forward(self, a, b, time, scale_factor, eval):
            assert (self.shape, scale_factor, eval) == ((3, 4, 3), 1.0, True)
            return {"imgt_pred": a + (b - a) * time + self.bias}

    name = "vbench.third_party.amt.networks.AMT-S"
    module = ModuleType(name)
    module.Model = Model
    parts = name.split(".")
    for stop in range(1, 5):
        monkeypatch.setitem(sys.modules, ".".join(parts[:stop]), ModuleType(parts[stop - 1]))
    monkeypatch.setitem(sys.modules, name, module)
    torch.save({"state_dict": {"bias": torch.tensor(10 / 255 + 1e-6)}}, tmp_path / "amt.pth")
    still = np.full((3, 16, 16, 3), 100, np.uint8)
    assert motion_smoothness(load_amt(tmp_path / "amt.pth"), still) == pytest.approx(245 / 255)


def test_raft_of_torchvision_runs_from_a_file(tmp_path, rng, monkeypatch):
    assert vbench_networks.RAFT_UPDATES == 20
    monkeypatch.setattr(vbench_networks, "RAFT_UPDATES", 3)
    torch.manual_seed(0)
    model = raft_large(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    raft = load_raft(tmp_path / "raft.pth")
    a, b = (torch.from_numpy(rng.uniform(0, 255, (1, 3, 128, 136))).float() for _ in range(2))
    with torch.inference_mode():
        flow = raft.run(a, b)
        expected = model(a / 127.5 - 1, b / 127.5 - 1, num_flow_updates=3)[-1]
    assert flow.shape == (1, 2, 128, 136)
    assert torch.allclose(flow, expected, rtol=1e-3, atol=1e-2 * float(expected.abs().max()))
    with pytest.raises(InputError, match="sides of at least 128 px, got 136x120"):
        raft.run(a[..., :120, :], b[..., :120, :])
