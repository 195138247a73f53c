"""The lab conditioning: vocabulary, errors, shapes, and the prior with and without an image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magic141.conditioning import (
    EOS,
    MAX_WORDS,
    TEXT_LENGTH,
    UNK,
    USUAL_LENGTH,
    WIDTH,
    encode_image,
    encode_prompt,
    make_text_image_model,
    make_tokenizer,
    prior,
    tokenize,
)
from magic141.data.world import VOCABULARY, World
from magic141.errors import InputError

TOKENIZER = make_tokenizer()
PROMPT = "a small red ring drifting left over dark stripes"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return make_text_image_model().eval()


@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=MAX_WORDS))
def test_known_words_survive_a_round_trip(words):
    ids = tokenize(TOKENIZER, " ".join(words))
    assert ids.shape == (1, TEXT_LENGTH)
    assert TOKENIZER.decode(ids[0], skip_special_tokens=True) == " ".join(words)


@given(st.integers(0, 10**6), st.integers(0, 64), st.sampled_from((0.0, 0.5, 1.0)))
@settings(max_examples=100, deadline=None)
def test_every_caption_of_the_world_is_encodable(index, start, stated):
    caption = World(stated=stated).scene("train", index).caption(start)
    words = caption.split()
    assert len(words) <= MAX_WORDS
    ids = tokenize(TOKENIZER, caption)[0]
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids, skip_special_tokens=True).split() == words


def test_case_and_punctuation_do_not_matter():
    assert torch.equal(tokenize(TOKENIZER, "A small, red RING."), tokenize(TOKENIZER, "a small red ring"))


def test_tokenizer_survives_saving(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = type(TOKENIZER).from_pretrained(tmp_path)
    assert torch.equal(tokenize(loaded, PROMPT), tokenize(TOKENIZER, PROMPT))
    with pytest.raises(InputError, match="red"):
        encode_prompt(make_text_image_model(), loaded, "rad")


def test_unknown_words_are_named_with_their_neighbours(model):
    with pytest.raises(InputError) as error:
        encode_prompt(model, TOKENIZER, "a smal red rhinoceros")
    message = str(error.value)
    assert "'smal' (nearest known: small" in message
    assert "'rhinoceros'" in message
    assert "'red'" not in message


@pytest.mark.parametrize("marker", [UNK, EOS])
def test_markers_cannot_be_typed(model, marker):
    with pytest.raises(InputError, match="outside"):
        encode_prompt(model, TOKENIZER, f"a red {marker} ring")


@pytest.mark.parametrize("prompt", ["", "   ", "...!"])
def test_empty_prompt_needs_permission(model, prompt):
    with pytest.raises(InputError, match="no words"):
        encode_prompt(model, TOKENIZER, ["red", prompt])
    tokens, pooled = encode_prompt(model, TOKENIZER, ["red", prompt], allow_empty=True)
    assert tokens.shape == (2, USUAL_LENGTH, WIDTH)
    assert not torch.equal(pooled[0], pooled[1])


def test_long_prompt_names_length_and_limit(model):
    encode_prompt(model, TOKENIZER, "red " * MAX_WORDS)
    with pytest.raises(InputError, match=f"{MAX_WORDS + 1} words, the limit is {MAX_WORDS}"):
        encode_prompt(model, TOKENIZER, "red " * (MAX_WORDS + 1))


@pytest.mark.parametrize("prompts", [3, None, ["red", 3]])
def test_prompt_must_be_text(model, prompts):
    with pytest.raises(InputError, match="must be text"):
        encode_prompt(model, TOKENIZER, prompts)


def test_text_has_unit_scale_and_depends_on_every_word(model):
    tokens, pooled = encode_prompt(model, TOKENIZER, [PROMPT, PROMPT.replace("left", "right")])
    assert tokens.shape == (2, USUAL_LENGTH, WIDTH)
    assert pooled.shape == (2, WIDTH)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(2, USUAL_LENGTH), rtol=0.01, atol=0)
    assert not torch.allclose(pooled[0], pooled[1])


def test_batch_and_single_agree(model):
    batch, _ = encode_prompt(model, TOKENIZER, [PROMPT, "red"])
    alone, _ = encode_prompt(model, TOKENIZER, PROMPT)
    torch.testing.assert_close(batch[:1], alone, atol=1e-5, rtol=1e-5)


def test_a_long_prompt_has_all_its_tokens(model):
    words = [VOCABULARY[i] for i in range(USUAL_LENGTH - 2)]
    usual, pooled = encode_prompt(model, TOKENIZER, " ".join(words))
    assert usual.shape[1] == USUAL_LENGTH
    longer, _ = encode_prompt(model, TOKENIZER, " ".join([*words, "red"]))
    assert longer.shape[1] == TEXT_LENGTH
    beside, pooled_beside = encode_prompt(model, TOKENIZER, [" ".join(words), " ".join([*words, "red"])])
    torch.testing.assert_close(beside[:1, :USUAL_LENGTH], usual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled_beside[:1], pooled, atol=1e-5, rtol=1e-5)


def test_usual_captions_have_the_usual_length():
    assert all(len(scene.caption(0).split()) <= USUAL_LENGTH - 2 for scene in World().scenes("test", 0, 2000))


def test_image_tokens_follow_their_patch(model):
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, 16:32, 48:] = 1.0  # row 1, column 3: token 7
    tokens = encode_image(model, images)
    assert tokens.shape == (2, 16, WIDTH)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(2, 16), rtol=0.01, atol=0)
    assert (tokens[1] - tokens[0]).square().sum(-1).argmax() == 7


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 32, 64), (1, 1, 64, 64)])
def test_wrong_image_shape(model, shape):
    with pytest.raises(InputError, match="64, 64"):
        encode_image(model, torch.zeros(shape))


def test_prior_can_be_switched_off(model):
    text, _ = encode_prompt(model, TOKENIZER, PROMPT)
    image = encode_image(model, torch.zeros(1, 3, 64, 64))
    both = prior(text, image)
    assert both.shape == (1, 16 + USUAL_LENGTH, WIDTH)
    assert torch.equal(both[:, :16], image)
    assert torch.equal(both[:, 16:], text)
    assert prior(text) is text


def test_model_fits_its_budget(model):
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_600_000
