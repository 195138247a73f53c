"""The clip stage: its loss falls, its terms reach the towers they should, its exam can be failed."""

import json

import pytest
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from magic141.conditioning import encode_image, encode_prompt, make_text_image_model, make_tokenizer, tokenize
from magic141.data.world import World
from magic141.train import clip
from magic141.train.loop import Settings

CAPTION = "a small red ring drifting left over dark stripes"


@pytest.fixture(scope="module")
def batch():
    scenes, starts = World().scenes("train", 0, 16), list(range(16))
    captions = [scene.caption(start) for scene, start in zip(scenes, starts, strict=True)]
    return clip.pictures(scenes, starts), tokenize(make_tokenizer(), captions)


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(0)
    return clip.Objective(make_text_image_model())


def test_short_training_lowers_the_loss_and_leaves_loadable_weights(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(clip, "exam", lambda model: asked.append(model) or {"text motion": 0.5})
    settings = Settings(
        out=tmp_path, samples=160, batch_size=8, lr=3e-3, muon_lr=5e-3, warmup_steps=3, ema=0.5
    )
    model, seen = clip.train(settings)

    curve = [json.loads(line) for line in (tmp_path / "clip" / "loss.jsonl").read_text().splitlines()]
    for term in ("from_text", "from_image", "bag", "word", "pixels"):
        assert curve[-1][term] < curve[0][term], term
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]
    assert asked == [model]
    assert json.loads((tmp_path / "clip" / "exam.json").read_text()) == {"text motion": 0.5}
    assert seen.samples == 160

    folder = tmp_path / "clip" / "text_encoder"
    assert CLIPModel.from_pretrained(folder).dtype == torch.bfloat16
    loaded = CLIPModel.from_pretrained(folder, dtype=model.dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "clip" / "tokenizer")
    assert loaded.config._attn_implementation == model.config._attn_implementation
    for ours, theirs in zip(
        encode_prompt(model, make_tokenizer(), CAPTION),
        encode_prompt(loaded, tokenizer, CAPTION),
        strict=True,
    ):
        torch.testing.assert_close(theirs, ours)
    images = torch.zeros(1, 3, 64, 64)
    torch.testing.assert_close(encode_image(loaded, images), encode_image(model, images))


@pytest.mark.parametrize(
    ("term", "text", "vision"),
    [
        ("contrast", True, True),
        ("from_text", True, False),
        ("word", True, False),
        ("from_image", False, True),
        ("bag", False, True),
        ("offset", True, True),
        ("pixels", False, True),
    ],
)
def test_terms_train_the_tower_they_are_for(objective, batch, term, text, vision):
    objective.zero_grad(set_to_none=True)
    objective(*batch, torch.Generator().manual_seed(0))[term].backward()
    towers = objective.model.text_model, objective.model.vision_model
    reached = [any(p.grad is not None and p.grad.any() for p in tower.parameters()) for tower in towers]
    assert reached == [text, vision]


def test_offset_is_what_all_vectors_share():
    spread = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert clip.offset(spread) == 0.0
    assert clip.offset(spread + 3.0) == 9.0


def test_same_generator_same_loss(objective, batch):
    first, second = (objective(*batch, torch.Generator().manual_seed(7))["loss"] for _ in range(2))
    assert torch.equal(first, second)


def test_probe_reads_what_is_there_and_only_that():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1200, 16, generator=generator)
    labels = features[:, :4].argmax(1)
    noise = torch.randint(4, (1200,), generator=generator)
    assert clip.probe(features[:800], labels[:800], features[800:], labels[800:]) > 0.95
    assert clip.probe(features[:800], noise[:800], features[800:], noise[800:]) < 0.4


def test_probe_ignores_undefined_labels():
    features = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] > 0).long()
    answers = labels.clone()
    answers[::2] = -1
    assert clip.probe(features, labels, features, answers) > 0.95


def test_position_is_explained_only_where_tokens_hold_it():
    generator = torch.Generator().manual_seed(0)

    def features(count: int, signal: float) -> clip.Features:
        positions = 20 + 8 * torch.randn(count, 2, generator=generator)
        tokens = torch.randn(count, 16, 8, generator=generator)
        tokens[:, 3, :2] = signal * positions / 8 + (1 - signal) * tokens[:, 3, :2]
        return clip.Features(torch.zeros(count, 1), tokens, {}, positions, 0.0)

    assert clip.explained(features(1000, 1.0), features(200, 1.0)) > 0.95
    assert clip.explained(features(1000, 0.0), features(200, 0.0)) < 0.1


def test_untrained_model_fails_the_exam():
    torch.manual_seed(0)
    scores = clip.exam(make_text_image_model().eval(), train_size=120, test_size=120)
    assert {"text motion", "text direction", "image shape compositional", "retrieval"} <= scores.keys()
    assert not any(name.startswith("image motion") for name in scores)
    assert all(-1 <= score <= 1 for name, score in scores.items() if "position" not in name)
    assert scores["retrieval"] < 0.05
    assert scores["image shape"] < 0.5
