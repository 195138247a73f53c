from __future__ import annotations

import math
import os
from fractions import Fraction

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from scipy import linalg
from torch import nn

from evals import fvd
from evals.frechet import Moments, extrapolated
from evals.fvd import PROTOCOLS, Extractor, duplicates, features, find_extractor
from evals.i3d import FILE, I3D
from evals.kernel import kernel_distance
from evals.protocol import ProtocolMismatch, require_same_protocol, sha256_of
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class StandIn(nn.Module):
    """Takes what the published TorchScript takes; four means a channel, turned into 400 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(12, 400, generator=torch.Generator().manual_seed(0)))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        x = x.float()
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            x = F.interpolate(x, [x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        return F.adaptive_avg_pool3d(x, [1, 2, 2]).flatten(1) @ self.mix


PLAIN = Extractor(StandIn(), "plain", scripted=False)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.jit.script(StandIn()).save(os.fspath(path))
    return path


@pytest.fixture
def published(script, monkeypatch):
    """The stand-in, passed off as the published file."""
    monkeypatch.setattr(fvd, "SHA256", sha256_of(script))
    return script


@pytest.fixture(autouse=True)
def no_directory(monkeypatch):
    monkeypatch.delenv("MAGIC141_WEIGHTS", raising=False)


def clips(rng, count, shape=(10, 20, 30, 3)):
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def weights_of(size, target, half_pixel):
    """(target, size) matrix of linear interpolation, in exact fractions."""
    matrix = np.zeros((target, size))
    for i in range(target):
        source = Fraction(i * size, target)
        if half_pixel:
            source = max(Fraction(2 * i + 1, 2) * Fraction(size, target) - Fraction(1, 2), Fraction(0))
        low = math.floor(source)
        matrix[i, low] += 1 - (source - low)
        matrix[i, min(low + 1, size - 1)] += source - low
    return matrix


def resized(frames, height, width, half_pixel):
    rows = weights_of(frames.shape[1], height, half_pixel)
    columns = weights_of(frames.shape[2], width, half_pixel)
    pixels = frames.transpose(3, 0, 1, 2).astype(np.float64)
    return rows @ pixels @ columns.T * 2 / 255 - 1


@pytest.mark.parametrize("size", [(17, 40), (64, 64), (300, 260), (224, 224)])
@pytest.mark.parametrize(("name", "half_pixel"), [("styleganv", True), ("tf", False)])
def test_squashing_agrees_with_exact_weights(rng, size, name, half_pixel):
    frames = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    got = PROTOCOLS[name].preprocess(frames)
    assert got.shape == (3, 2, 224, 224)
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), resized(frames, 224, 224, half_pixel), atol=1e-4)
    assert float(got.min()) >= -1
    assert float(got.max()) <= 1


@pytest.mark.parametrize(
    ("size", "target"),
    [((30, 50), (224, 374)), ((50, 30), (374, 224)), ((300, 256), (263, 224)), ((224, 224), (224, 224))],
)
def test_short_side_and_centre_crop(rng, size, target):
    frames = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    top, left = ((side - 224) // 2 for side in target)
    expected = resized(frames, *target, True)[:, :, top : top + 224, left : left + 224]
    assert np.allclose(PROTOCOLS["videogpt"].preprocess(frames).numpy(), expected, atol=1e-4)


def test_crop_rounds_up_as_videogpt_does(rng):
    side = next(n for n in range(8, 400) if math.ceil(n * (224 / n)) == 225)
    frames = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    expected = resized(frames, 225, 224, True)[:, :, :224]
    assert np.allclose(PROTOCOLS["videogpt"].preprocess(frames).numpy(), expected, atol=1e-4)


def test_protocols_see_different_pixels(rng):
    frames = clips(rng, 1)[0]
    seen = [protocol.preprocess(frames) for protocol in PROTOCOLS.values()]
    assert min(float((a - b).abs().max()) for a, b in zip(seen, seen[1:] + seen[:1], strict=True)) > 0.1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_script_and_module_give_the_same_features(rng, published, name):
    """With `styleganv` the script resizes and scales, for the module we do."""
    extractor = find_extractor(published)
    assert extractor.scripted
    assert extractor.sha256 == sha256_of(published)
    some = clips(rng, 3)
    ours = np.concatenate(list(features(some, PLAIN, PROTOCOLS[name])))
    theirs = np.concatenate(list(features(some, extractor, PROTOCOLS[name])))
    assert theirs.shape == (3, 400)
    assert theirs.dtype == np.float64
    assert np.allclose(ours, theirs, atol=1e-4)


def test_switches_handed_to_the_script(rng):
    calls = []

    def network(x, **switches):
        calls.append((x.dtype, tuple(x.shape), switches))
        return torch.zeros(len(x), 400)

    for name in ("styleganv", "videogpt"):
        list(features(clips(rng, 1), Extractor(network, "x", scripted=True), PROTOCOLS[name]))
    on, off = ({"rescale": raw, "resize": raw, "return_features": True} for raw in (True, False))
    assert calls == [
        (torch.uint8, (1, 3, 10, 20, 30), on),
        (torch.float32, (1, 3, 10, 224, 224), off),
    ]


def test_features_stream_in_order(rng, published):
    some, read = clips(rng, 5), []

    def reading():
        for index, clip in enumerate(some):
            read.append(index)
            yield clip

    stream = features(reading(), PLAIN, PROTOCOLS["tf"], batch=2)
    parts = [next(stream)]
    assert read == [0, 1, 2]
    parts += list(stream)
    assert [len(part) for part in parts] == [2, 2, 1]
    single = [next(features([clip], PLAIN, PROTOCOLS["tf"])) for clip in some]
    assert np.allclose(np.concatenate(parts), np.concatenate(single), atol=1e-4)
    # Raw clips of two sizes cannot share a batch.
    mixed = [*clips(rng, 2), *clips(rng, 1, (10, 8, 8, 3))]
    sizes = [len(part) for part in features(mixed, find_extractor(published), PROTOCOLS["styleganv"])]
    assert sizes == [2, 1]
    assert list(features([], PLAIN, PROTOCOLS["tf"])) == []


@pytest.mark.parametrize(
    ("shapes", "dtype", "says"),
    [
        ([(10, 8, 8, 3), (9, 8, 8, 3)], np.uint8, "clip 1 has 9 frames, FVD needs at least 10"),
        ([(10, 8, 8, 3), (16, 8, 8, 3)], np.uint8, "clip 1 has 16 frames, the first had 10"),
        ([(10, 8, 8, 3)], np.float32, "clip 0 is float32"),
        ([(10, 3, 8, 8)], np.uint8, "needs uint8 .T, H, W, 3."),
    ],
)
def test_bad_clips_are_named(shapes, dtype, says):
    with pytest.raises(InputError, match=says):
        list(features([np.zeros(shape, dtype) for shape in shapes], PLAIN, PROTOCOLS["tf"]))


def test_a_network_of_another_width_is_refused(rng):
    narrow = Extractor(lambda x: torch.zeros(len(x), 7), "x", scripted=False)
    with pytest.raises(InputError, match=r"returned \(1, 7\) for 1 clips"):
        list(features(clips(rng, 1), narrow, PROTOCOLS["tf"]))


class Hub:
    """Stands for hf_hub_download: what the cache and the network have."""

    def __init__(self, cached=None, online=None):
        self.cached, self.online, self.downloads = cached, online, 0

    def __call__(self, repository, file, *, local_files_only=False):
        assert (repository, file) == ("flateon/FVD-I3D-torchscript", "i3d_torchscript.pt")
        self.downloads += not local_files_only
        found = self.cached if local_files_only else self.online
        if found is None:
            raise LocalEntryNotFoundError("no such entry") if local_files_only else ConnectionError("offline")
        return os.fspath(found)


def test_search_order(published, tmp_path, monkeypatch):
    hub = Hub(online=published)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert find_extractor().scripted
    assert hub.downloads == 1
    hub.cached, hub.online = published, None
    assert find_extractor().scripted
    assert hub.downloads == 1
    hub.cached = None
    monkeypatch.setenv("MAGIC141_WEIGHTS", os.fspath(published.parent))
    assert find_extractor().scripted
    monkeypatch.setenv("MAGIC141_WEIGHTS", os.fspath(tmp_path))
    with pytest.raises(WeightsMissing, match="the hub .offline.*flateon/FVD-I3D-torchscript") as caught:
        find_extractor()
    assert os.fspath(tmp_path / FILE) in str(caught.value)
    assert "MAGIC141_WEIGHTS" in str(caught.value)
    monkeypatch.setenv("MAGIC141_WEIGHTS", os.fspath(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="is no directory"):
        find_extractor()
    with pytest.raises(WeightsMissing, match="no weights at"):
        find_extractor(tmp_path / FILE)


@pytest.mark.parametrize("explicit", [True, False])
def test_another_script_is_never_run(script, monkeypatch, explicit):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("ran it"))
    monkeypatch.setenv("MAGIC141_WEIGHTS", os.fspath(script.parent))
    with pytest.raises(WeightsCorrupt, match="the published i3d_torchscript.pt has bec6519f66ea"):
        find_extractor(script if explicit else None)


def test_state_dicts_need_no_script(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("ran it"))
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(I3D().state_dict(), path)
    extractor = find_extractor(path)
    assert isinstance(extractor.network, I3D)
    assert (extractor.scripted, extractor.sha256) == (False, sha256_of(path))
    torch.save(I3D(7).state_dict(), path)
    with pytest.raises(InputError, match="has 7 classes, FVD needs 400"):
        find_extractor(path)


def compare(generated, reference, name="tf", frames=16, extractor="abc"):
    return fvd.fvd(generated, reference, PROTOCOLS[name], frames=frames, extractor=extractor)


@pytest.mark.parametrize(("name", "bias"), [("styleganv", True), ("videogpt", False), ("tf", False)])
def test_plain_distance_agrees_with_sqrtm(rng, name, bias):
    a, b = rng.normal(size=(60, 8)), rng.normal(0.3, 1.2, size=(50, 8))
    cov_a, cov_b = np.cov(a.T, bias=bias), np.cov(b.T, bias=bias)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    plain = compare(a, b, name).plain
    assert plain.value == pytest.approx(expected, rel=1e-6)
    assert (plain.low, plain.high, plain.n, plain.note) == (None, None, 60, "")
    assert compare(Moments.of(a), Moments.of(b), name).plain == plain


def test_enough_clips_give_the_extrapolation(rng):
    a, b = rng.normal(size=(60, 8)), rng.normal(size=(500, 8))
    found = compare(a, b)
    value = extrapolated(a, Moments.of(b), degree=2)
    assert (found.infinity.value, found.infinity.low, found.infinity.high) == value[:3]
    assert found.kernel.value == kernel_distance(a, b).value
    assert "fit=1, 1/N, 1/N^2; " in found.infinity.protocol
    assert "n=infinity; n-reference=500" in found.infinity.protocol


@pytest.mark.parametrize("count", [5, 8])
def test_too_few_clips_are_told_loudly(rng, count):
    a, b = rng.normal(size=(count, 8)), rng.normal(size=(30, 8))
    found = compare(a, b)
    assert found.infinity is None
    assert f"ONLY {count} GENERATED CLIPS: with 8 or fewer" in found.plain.note
    assert f"needs at least 32 clips, got {count}" in found.plain.note
    assert found.kernel.value == kernel_distance(a, b).value
    assert found.kernel.note == found.plain.note
    assert found.kernel.protocol.startswith("kvd; ")
    assert "ONLY 8 REFERENCE CLIPS" in compare(b, a[:8] if count == 8 else rng.normal(size=(8, 8))).plain.note
    from_moments = compare(a, Moments.of(b))
    assert from_moments.infinity is from_moments.kernel is None


def test_note_begins_at_the_width(rng):
    assert "ONLY" not in compare(rng.normal(size=(9, 8)), rng.normal(size=(30, 8))).plain.note


def test_duplicates_are_named(rng):
    rows = rng.normal(size=(40, 400)) * 3
    rows[[7, 31]] = rows[2]
    rows[12] = rows[11] * (1 + 1e-7)
    rows[20] = rows[21] * (1 + 1e-3)
    assert duplicates(rows) == [[2, 7, 31], [11, 12]]
    assert duplicates(rows[:1]) == duplicates(np.empty((0, 4))) == []
    assert duplicates(np.zeros((3, 4))) == [[0, 1, 2]]
    found = compare(rows, rows[::-1])
    assert found.duplicates == [[2, 7, 31], [11, 12]]
    assert "the same features: [2, 7, 31], [11, 12]" in found.plain.note


def test_repeated_clips_have_no_extrapolation(rng):
    """Twenty copies of four clips: enough rows, no covariance."""
    found = compare(np.repeat(rng.normal(size=(4, 8)), 20, axis=0), rng.normal(size=(30, 8)))
    assert found.infinity is None
    assert "singular" in found.plain.note
    assert [len(group) for group in found.duplicates] == [20] * 4
    assert found.kernel is not None


def test_protocol_strings_tell_what_differs(rng):
    a, b = rng.normal(size=(20, 8)), rng.normal(size=(30, 8))
    scores = [compare(a, b, name).plain for name in PROTOCOLS]
    scores += [
        compare(a, b, frames=17).plain,
        compare(a, b, extractor="def").plain,
        compare(a[1:], b).plain,
        compare(a, b[1:]).plain,
        compare(rng.normal(size=(40, 8)), b).infinity,
    ]
    assert len({score.protocol for score in scores}) == len(scores)
    with pytest.raises(ProtocolMismatch, match=r"covariance=1/N.*squash.*short side"):
        require_same_protocol(*scores[:2])
    assert scores[0].protocol == (
        "fvd; antialias=no; covariance=1/N; crop=none; extractor=abc; frames=16; "
        "layer=logits averaged over time; n=20; n-reference=30; name=styleganv; "
        "resize=bilinear half-pixel squash"
    )


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (np.zeros((20, 8)), np.zeros((20, 7)), "differ in width"),
        (np.full((20, 8), np.nan), np.zeros((20, 8)), "NaN"),
        (np.zeros((1, 8)), np.zeros((20, 8)), "more than 1 rows"),
    ],
)
def test_bad_features_are_named(a, b, says):
    with pytest.raises(InputError, match=says):
        compare(a, b)
