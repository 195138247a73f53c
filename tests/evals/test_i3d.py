from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evals.i3d import I3D, load_i3d
from magic141.errors import InputError

# Table 1 of Szegedy et al. 2015, inflated: inputs, then channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}
# "SAME" padding (front, back) by kernel, stride and parity of the size, worked out by hand.
PADS = {
    (7, 2): {0: (2, 3), 1: (3, 3)},
    (3, 2): {0: (0, 1), 1: (1, 1)},
    (3, 1): {0: (1, 1), 1: (1, 1)},
    (2, 2): {0: (0, 0), 1: (0, 1)},
    (1, 2): {0: (0, 0), 1: (0, 0)},
    (1, 1): {0: (0, 0), 1: (0, 0)},
}
# Time, height and width after each stage of ten frames of 224 x 224.
SHAPES = {
    "Conv3d_1a_7x7": (64, 5, 112),
    "MaxPool3d_2a_3x3": (64, 5, 56),
    "Conv3d_2b_1x1": (64, 5, 56),
    "Conv3d_2c_3x3": (192, 5, 56),
    "MaxPool3d_3a_3x3": (192, 5, 28),
    "Mixed_3b": (256, 5, 28),
    "Mixed_3c": (480, 5, 28),
    "MaxPool3d_4a_3x3": (480, 3, 14),
    "Mixed_4b": (512, 3, 14),
    "Mixed_4c": (512, 3, 14),
    "Mixed_4d": (512, 3, 14),
    "Mixed_4e": (528, 3, 14),
    "Mixed_4f": (832, 3, 14),
    "MaxPool3d_5a_2x2": (832, 2, 7),
    "Mixed_5b": (832, 2, 7),
    "Mixed_5c": (1024, 2, 7),
}


def randomize(model, seed):
    """Weights that keep activations of order 1, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("conv3d.weight"):
            value.copy_(noise * (2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif name.endswith("bn.weight"):
            value.copy_(1 + 0.1 * noise)
        elif not name.endswith("num_batches_tracked"):
            value.copy_(0.1 * noise)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return randomize(I3D(), 0)


def pad(x, kernel, stride, value):
    sides = [PADS[k, s][n % 2] for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.pad(x, [side for pair in reversed(sides) for side in pair], value=value)


def convolve(x, weights, name, kernel, stride=1):
    x = F.conv3d(pad(x, (kernel,) * 3, (stride,) * 3, 0.0), weights[f"{name}.conv3d.weight"], stride=stride)
    mean, var, scale, shift = (
        weights[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(min=0)


def pool(x, kernel, stride):
    windows = pad(x, kernel, stride, -torch.inf)
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), 2):
        windows = windows.unfold(axis, k, s)
    return windows.amax(dim=(-3, -2, -1))


def mix(x, weights, name):
    one = convolve(convolve(x, weights, f"{name}.b1a", 1), weights, f"{name}.b1b", 3)
    two = convolve(convolve(x, weights, f"{name}.b2a", 1), weights, f"{name}.b2b", 3)
    pooled = convolve(pool(x, (3, 3, 3), (1, 1, 1)), weights, f"{name}.b3b", 1)
    return torch.cat([convolve(x, weights, f"{name}.b0", 1), one, two, pooled], dim=1)


def by_the_table(x, weights):
    """Every stage of figure 3 of the paper, in order."""
    yield (x := convolve(x, weights, "Conv3d_1a_7x7", 7, 2))
    yield (x := pool(x, (1, 3, 3), (1, 2, 2)))
    yield (x := convolve(x, weights, "Conv3d_2b_1x1", 1))
    yield (x := convolve(x, weights, "Conv3d_2c_3x3", 3))
    yield (x := pool(x, (1, 3, 3), (1, 2, 2)))
    for name in MIXED:
        if name == "4b":
            yield (x := pool(x, (3, 3, 3), (2, 2, 2)))
        if name == "5b":
            yield (x := pool(x, (2, 2, 2), (2, 2, 2)))
        yield (x := mix(x, weights, f"Mixed_{name}"))


def test_shapes_and_head_of_ten_frames(model):
    clip = torch.rand(1, 3, 10, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        stages = list(model.stages(clip))
        logits = model.head(stages[-1][1])
    assert {name: tuple(x.shape[1:4]) for name, x in stages} == SHAPES
    assert all(x.shape[3] == x.shape[4] for _, x in stages)
    weight, bias = model.logits.conv3d.weight[:, :, 0, 0, 0], model.logits.conv3d.bias
    # One pooling window: 2 x 7 x 7 is the whole of what is left.
    expected = stages[-1][1].mean(dim=(2, 3, 4)) @ weight.T + bias
    assert logits.shape == (1, 400)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_forward_is_the_stages_and_the_head(monkeypatch):
    model = I3D(5)
    last = torch.randn(2, 1024, 4, 7, 7)
    monkeypatch.setattr(model, "stages", lambda x: iter([("Mixed_5c", last)]))
    assert model(torch.zeros(2, 3, 32, 224, 224)).equal(model.head(last))


def test_logits_are_averaged_over_overlapping_windows(model):
    last = torch.randn(2, 1024, 4, 7, 7, generator=torch.Generator().manual_seed(2))
    space = last.mean(dim=(3, 4)).numpy().astype(np.float64)
    weight = model.logits.conv3d.weight.detach().numpy()[:, :, 0, 0, 0].astype(np.float64)
    windows = [weight @ (space[0, :, t] + space[0, :, t + 1]) / 2 for t in range(3)]
    expected = np.mean(windows, axis=0) + model.logits.conv3d.bias.detach().numpy()
    with torch.inference_mode():
        assert np.allclose(model.head(last)[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(10, 34, 45), (11, 57, 64)])
def test_every_layer_agrees_with_the_table(model, size):
    """Odd and even sizes on all axes; each stage on what the reference says of the one before."""
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    weights = model.state_dict()
    with torch.inference_mode():
        ours, theirs = list(model.stages(x)), list(by_the_table(x, weights))
    assert len(ours) == len(theirs) == len(SHAPES)
    for (name, got), expected in zip(ours, theirs, strict=True):
        assert got.shape == expected.shape, name
        assert float(expected.std()) > 0.05, name
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), name


def test_first_convolution_by_hand(model):
    """One output element of an even-sized input as a sum over the elements that "SAME" lets it see."""
    x = torch.randn(1, 3, 10, 12, 14, generator=torch.Generator().manual_seed(4)).numpy().astype(np.float64)
    weight = model.state_dict()["Conv3d_1a_7x7.conv3d.weight"].numpy().astype(np.float64)
    total = np.zeros(64)
    for offsets in np.ndindex(7, 7, 7):
        # Output (0, 0, 6) starts two before twice its index.
        t, h, w = (2 * index - 2 + offset for index, offset in zip((0, 0, 6), offsets, strict=True))
        if 0 <= t < 10 and 0 <= h < 12 and 0 <= w < 14:
            total += weight[(slice(None), slice(None), *offsets)] @ x[0, :, t, h, w]
    unit = model.Conv3d_1a_7x7
    seen = []
    handle = unit.conv3d.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        unit(torch.from_numpy(x).float())
    handle.remove()
    assert np.allclose(seen[0][0, :, 0, 0, 6].numpy(), total, atol=1e-4)


def test_parameter_count_layer_by_layer():
    def unit(inputs, outputs, kernel):
        return inputs * outputs * kernel**3 + 2 * outputs

    total = unit(3, 64, 7) + unit(64, 64, 1) + unit(64, 192, 3)
    for inputs, c0, c1a, c1b, c2a, c2b, c3 in MIXED.values():
        total += unit(inputs, c0, 1) + unit(inputs, c1a, 1) + unit(c1a, c1b, 3)
        total += unit(inputs, c2a, 1) + unit(c2a, c2b, 3) + unit(inputs, c3, 1)
    total += 1024 * 400 + 400
    assert total == 12_697_264
    assert sum(p.numel() for p in I3D().parameters()) == total


def without_counters(state):
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def in_lower_case(state):
    """The same weights under the names of kinetics_i3d_pytorch."""
    units = {
        "Conv3d_1a_7x7": "conv3d_1a_7x7",
        "Conv3d_2b_1x1": "conv3d_2b_1x1",
        "Conv3d_2c_3x3": "conv3d_2c_3x3",
        "logits": "conv3d_0c_1x1",
    }
    units |= {f"Mixed_{m}.{b}": f"mixed_{m}.{name}" for m in MIXED for b, name in BRANCHES.items()}
    renamed = {}
    for unit, name in units.items():
        for part, theirs in (("conv3d", "conv3d"), ("bn", "batch3d")):
            for key in (key for key in state if key.startswith(f"{unit}.{part}.")):
                renamed[f"{name}.{theirs}.{key.removeprefix(f'{unit}.{part}.')}"] = state[key]
    return renamed


@pytest.mark.parametrize(
    ("layout", "zipped"), [(dict, True), (without_counters, False), (in_lower_case, True)]
)
def test_published_layouts_round_trip(model, tmp_path, layout, zipped):
    saved = layout(model.state_dict())
    assert len(without_counters(saved)) == 57 * 5 + 2
    torch.save(saved, tmp_path / "i3d.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_i3d(tmp_path / "i3d.pt")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for key, value in without_counters(model.state_dict()).items():
        assert loaded.state_dict()[key].equal(value), key


def test_key_names_are_those_of_the_published_files(model):
    keys = model.state_dict().keys()
    assert {
        "Conv3d_1a_7x7.conv3d.weight",
        "Conv3d_1a_7x7.bn.running_mean",
        "Mixed_3b.b0.conv3d.weight",
        "Mixed_3b.b1a.bn.bias",
        "Mixed_5c.b3b.conv3d.weight",
        "logits.conv3d.bias",
    } <= keys


def test_other_class_counts_load(tmp_path):
    torch.save(I3D(7).state_dict(), tmp_path / "i3d.pt")
    assert load_i3d(tmp_path / "i3d.pt").logits.conv3d.out_channels == 7


def drop(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {"fc.weight": torch.zeros(2)}, r"missing .* and 284 more, unexpected fc\.weight;"),
        (lambda s: drop(s, "Mixed_4c.b0.bn.bias"), r"missing Mixed_4c\.b0\.bn\.bias, unexpected nothing"),
        (lambda s: s | {"Mixed_4c.b0.bn.bias": torch.zeros(3)}, r"other shapes .* Mixed_4c\.b0\.bn\.bias"),
        (lambda s: [1, 2], "holds list"),
        (lambda s: {"state_dict": s}, "holds dict, not a plain state dict"),
    ],
)
def test_unknown_files_are_refused(model, tmp_path, change, says):
    torch.save(change(model.state_dict()), tmp_path / "i3d.pt")
    with pytest.raises(InputError, match=says):
        load_i3d(tmp_path / "i3d.pt")


def test_a_file_of_noise_is_refused(tmp_path):
    (tmp_path / "i3d.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match="is no PyTorch state dict"):
        load_i3d(tmp_path / "i3d.pt")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 3, 9, 224, 224), "at least 10 frames, got 9"),
        ((1, 3, 10, 128, 128), "got .*128, 128.*resize"),
        ((3, 10, 224, 224), "got .*resize"),
        ((1, 1, 10, 224, 224), "got .*resize"),
    ],
)
def test_wrong_input_is_named(model, shape, says):
    with pytest.raises(InputError, match=says):
        model(torch.zeros(shape))
