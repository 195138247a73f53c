"""What a training finds on the disk when it is resumed, and what an interrupt leaves there."""

import json
import signal

import pytest
import torch

from magic141 import resume
from magic141.errors import InputError


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "checkpoint.pt"
    resume.write({"step": 3, "weights": torch.ones(2)}, path)
    assert resume.read(path)["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:100], lambda whole: b"text"])
def test_a_damaged_one_is_named_with_its_remedy(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    resume.write({"weights": torch.ones(1000)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged .*: delete it"):
        resume.read(path)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    resume.write({"step": 1}, path)

    def full(state, partial):
        partial.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="cannot be written .is the disk full.*: make room"):
        resume.write({"step": 2}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert resume.read(path)["step"] == 1


def test_a_curve_ends_where_the_checkpoint_was(tmp_path):
    curve = tmp_path / "loss.jsonl"
    resume.rewind(curve, 5)
    assert not curve.exists()
    curve.write_text("".join(json.dumps({"step": step}) + "\n" for step in (10, 20, 30)) + '{"step": 4')
    resume.rewind(curve, 20)
    assert [json.loads(line)["step"] for line in curve.read_text().splitlines()] == [10, 20]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_waits_for_the_step_in_flight(number, raised):
    def end(*_):
        raise SystemExit

    done = []

    def work():
        with resume.unbroken_steps() as stopped:
            for step in range(10):
                if step == 3:
                    signal.raise_signal(number)
                done.append(step)
                if stopped():
                    break

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(raised):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == [0, 1, 2, 3]


def test_a_second_signal_does_not_wait():
    def work():
        with resume.unbroken_steps():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one was to end this at once")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with resume.unbroken_steps() as stopped:
            signal.raise_signal(signal.SIGINT)
            assert not stopped()
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_inside_is_no_signal():
    with pytest.raises(ValueError, match="own"), resume.unbroken_steps():
        raise ValueError("own")
