import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from evals.clip_scores import ClipJudge, clip_scores
from magic141.errors import InputError, WeightsMissing

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small checkpoint in the layout of the hub."""
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, path / "open_clip_model.safetensors"
    )
    size = {
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": size}))
    return path


@pytest.fixture(scope="module")
def judge(folder):
    return ClipJudge.load(f"local-dir:{folder}")


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


def test_scores_are_those_of_open_clip_by_hand(judge, folder, clip):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    from PIL import Image

    with torch.no_grad():
        f = model.encode_image(torch.stack([transform(Image.fromarray(x)) for x in clip]))
        g = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(["a red ring"]))[0]
    f, g = f / f.norm(dim=1, keepdim=True), g / g.norm()
    consecutive, first = (f[1:] * f[:-1]).sum(1), f[1:] @ f[0]
    found = clip_scores(judge, iter(clip), "a red ring", clip[2])
    expected = {
        "clip-text": (f @ g).mean(),
        "clip-consistency": consecutive.mean(),
        "clip-first-frame": first.mean(),
        "clip-background": (consecutive.clamp(min=0) + first.clamp(min=0)).mean() / 2,
        "clip-image": (f @ f[2]).mean(),
    }
    assert found == {name: pytest.approx(float(value), abs=1e-5) for name, value in expected.items()}


def test_a_still_picture_is_perfectly_consistent_and_order_does_not_show_in_a_mean(judge, clip):
    still = clip_scores(judge, np.repeat(clip[:1], 4, axis=0), "a ring")
    assert still["clip-consistency"] == pytest.approx(1)
    forward, backward = (clip_scores(judge, x, "a ring")["clip-text"] for x in (clip, clip[::-1]))
    assert forward == pytest.approx(backward)


def test_only_what_was_given_is_scored(judge, clip):
    assert set(clip_scores(judge, clip)) == {"clip-consistency", "clip-first-frame", "clip-background"}


def test_batches_do_not_show(judge, clip, monkeypatch):
    whole = clip_scores(judge, clip)
    monkeypatch.setattr("evals.clip_scores._BATCH", 2)
    assert clip_scores(judge, clip) == pytest.approx(whole, abs=1e-6)


def test_long_prompts_are_known_to_be_cut_off(judge):
    assert not judge.is_truncated("a red ring")
    assert judge.is_truncated("a red ring " * 20)
    assert not judge.is_truncated("red " * 10)  # with the two markers exactly what the model reads
    assert judge.is_truncated("red " * 11)


def test_the_protocol_names_the_weights(judge, folder, tmp_path):
    assert judge.identity in judge.protocol("clip-text")
    torch.manual_seed(1)
    other = open_clip.CLIP(**CONFIG).state_dict()
    save_file({k: v.contiguous() for k, v in other.items()}, tmp_path / "open_clip_model.safetensors")
    config = (folder / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    assert ClipJudge.load(f"local-dir:{tmp_path}").identity != judge.identity


def test_what_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no model 'ViT-Z'"):
        ClipJudge.load("ViT-Z")
    with pytest.raises(InputError, match="needs weights; open_clip knows openai"):
        ClipJudge.load("RN50")
    with pytest.raises(WeightsMissing, match="could not be fetched"):
        ClipJudge.load(f"local-dir:{tmp_path}")

    def offline(*args, **kwargs):
        raise OSError("no route to the hub")

    monkeypatch.setattr(open_clip, "create_model", offline)  # it would first make 150 M random parameters
    with pytest.raises(WeightsMissing, match="no route to the hub"):
        ClipJudge.load()


def test_one_frame_has_no_consistency(judge, clip):
    with pytest.raises(InputError, match="at least 2 frames"):
        clip_scores(judge, clip[:1])
