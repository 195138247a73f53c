"""Byte counts, against figures made by hand."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from magic141.errors import InputError
from magic141.presets import MAGIC141_13B
from magic141.sparsify.memory import parameter_bytes, predicted_bytes
from magic141.transformer import Magic141Transformer3DModel

# The linear layers of HunyuanVideo-I2V by hand, h = 3072: rows (one bias each) and weights.
# Dual-stream block: modulation 12; for each of two streams qkv 3, out 1, MLP 4 + 4 in squares of h.
# Single-stream block: modulation 3, qkv 3, MLP in 4, out 5. Refiner block: qkv 3, out 1, MLP 4 + 4, modulation 2.
H = 3072
SQUARES = 20 * (12 + 2 * 12) + 40 * (3 + 3 + 4 + 5) + 2 * (3 + 1 + 8 + 2)
ROWS = (20 * (12 + 2 * (3 + 1 + 4 + 1)) + 40 * (3 + 3 + 4 + 1) + 2 * (3 + 1 + 4 + 1 + 2)) * H
# Two embeddings of time (256) and text (768, 4096), two layers each; the output's modulation; refiner's input (4096),
# video tokens in (33 channels x 4) and out (16 x 4).
SENSITIVE_ROWS = (8 + 2 + 1) * H + 64
SENSITIVE = (4 + 2) * H * H + (256 + 768 + 256 + 4096 + 132 + 64) * H
WEIGHTS = SQUARES * H * H + 4096 * H + SENSITIVE
BIASES = ROWS + SENSITIVE_ROWS + H
# Norms: queries and keys (2 x 128) of each stream, and two layer norms with bias in each refiner block.
NORMS = (20 * 2 + 40) * 2 * 128 + 2 * 2 * 2 * H


@pytest.fixture(scope="module")
def paper() -> Magic141Transformer3DModel:
    with torch.device("meta"):
        return Magic141Transformer3DModel(**asdict(MAGIC141_13B.transformer))


def test_the_papers_model_takes_half_the_memory_in_int8(paper: Magic141Transformer3DModel) -> None:
    assert WEIGHTS + BIASES + NORMS == 12_810_991_680
    bf16 = parameter_bytes(paper.to(torch.bfloat16))
    assert bf16 == predicted_bytes(paper) == 2 * (WEIGHTS + BIASES + NORMS) == 25_621_983_360
    # A byte a weight, and for each row a float32 scale and a zero point of one byte.
    int8 = predicted_bytes(paper, "int8")
    assert int8 == WEIGHTS + 5 * BIASES + 2 * (BIASES + NORMS) == 12_830_833_088
    assert bf16 / int8 == pytest.approx(2.0, abs=0.005)


def test_the_papers_model_in_int4_takes_three_tenths(paper: Magic141Transformer3DModel) -> None:
    packed = WEIGHTS - SENSITIVE
    int4 = predicted_bytes(paper, "int4")
    scales = packed // 64 * 2 * 2  # a scale and a zero point of bfloat16 for 64 weights
    assert int4 == packed // 2 + scales + 2 * (SENSITIVE + BIASES + NORMS) == 7_316_992_128


def test_a_tensor_with_two_names_counts_once() -> None:
    first, second = nn.Linear(3, 5), nn.Linear(3, 5)
    second.weight = first.weight
    assert parameter_bytes(nn.Sequential(first, second)) == 4 * (15 + 5 + 5)
    assert parameter_bytes(nn.Sequential(first, nn.BatchNorm1d(5))) == 4 * (15 + 5 + 4 * 5) + 8


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="kind='int3' is unknown"):
        predicted_bytes(nn.Linear(4, 4), "int3")
