import pytest

from magic141 import precision


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"avx2"}, False),
        ({"avx512_bf16"}, True),
        ({"avx512f", "avx512_vnni"}, False),
        ({"amx_bf16", "avx512_bf16"}, True),
        (set(), False),
    ],
)
def test_bfloat16_is_native_where_the_cpu_multiplies_it(monkeypatch, flags, native):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    assert precision.native_bfloat16() is native
