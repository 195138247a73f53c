from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evals.protocol import ProtocolMismatch, Score, protocol_string, require_same_protocol
from magic141.errors import InputError

SCORE = Score(value=1.0, low=0.5, high=1.5, n=64, protocol=protocol_string("fvd", frames=16), better="lower")


def test_equal_facts_give_equal_strings():
    assert protocol_string("fvd", a=1, b=2) == protocol_string("fvd", b=2, a=1) == "fvd; a=1; b=2"


def test_different_protocols_refuse_and_say_what_differs():
    other = replace(SCORE, protocol=protocol_string("fvd", frames=10))
    require_same_protocol(SCORE, replace(SCORE, value=9.0))
    with pytest.raises(ProtocolMismatch, match=r"frames=16.*frames=10"):
        require_same_protocol(SCORE, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"value": math.nan}, "finite"), ({"better": "target"}, "disagree"), ({"target": 1.0}, "disagree")],
)
def test_a_score_that_makes_no_sense_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        replace(SCORE, **change)


def test_a_fact_cannot_forge_another():
    with pytest.raises(InputError, match="';'"):
        protocol_string("fvd", frames="16; n=2048")
