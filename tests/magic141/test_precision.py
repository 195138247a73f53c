import pytest

from magic141 import precision


@pytest.mark.parametrize(
    ("flags", "native"),
    [({"avx2"}, False), ({"avx512_bf16"}, False), ({"amx_bf16", "avx512_bf16"}, True), (set(), False)],
)
def test_only_tiles_multiply_bfloat16_fast(monkeypatch, flags, native):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    assert precision.native_bfloat16() is native
