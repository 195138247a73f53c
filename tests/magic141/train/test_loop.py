import json
import signal

import pytest
import torch
from torch import nn

from magic141.errors import InputError, TrainingDiverged
from magic141.train.loop import Settings, averaged, fit


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))

    def loss(step, generator):
        x = torch.randn(32, 8, generator=generator)
        return {"loss": (model(x) - x[:, :1].sin()).square().mean()}

    return model, loss


def options(out, samples):
    return Settings(out=out, samples=samples, batch_size=32, lr=1e-2, muon_lr=1e-2, warmup_steps=5, ema=0.9)


def test_training_lowers_the_loss_and_writes_its_curve(tmp_path):
    model, loss = problem()
    before = loss(0, torch.Generator().manual_seed(1))["loss"].item()
    _average, seen = fit(model, loss, options(tmp_path, 32 * 100))
    assert loss(0, torch.Generator().manual_seed(1))["loss"].item() < 0.3 * before
    assert (seen.step, seen.samples) == (100, 3200)
    assert len((tmp_path / "loss.jsonl").read_text().splitlines()) == 10


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    class Interrupt(Exception):
        pass

    whole, loss = problem()
    expected, _ = fit(whole, loss, options(tmp_path / "whole", 32 * 40))

    model, loss = problem()
    halted = False

    def stops(step, generator):
        nonlocal halted
        if step == 23 and not halted:
            halted = True
            raise Interrupt
        return loss(step, generator)

    always = Settings(**{**vars(options(tmp_path / "cut", 32 * 40)), "checkpoint_minutes": 0.0})
    try:
        fit(model, stops, always)
    except Interrupt:
        model, loss = problem()
    found, seen = fit(model, loss, always)
    assert halted
    assert seen.step == 40
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_interrupt_keeps_all_that_was_learned(tmp_path):
    model, loss = problem()
    expected, _ = fit(model, loss, options(tmp_path / "whole", 32 * 40))
    model, loss = problem()

    def interrupted(step, generator):
        if step == 24:
            signal.raise_signal(signal.SIGINT)
        return loss(step, generator)

    rare = options(tmp_path / "cut", 32 * 40)
    with pytest.raises(KeyboardInterrupt):
        fit(model, interrupted, rare)
    curve = tmp_path / "cut" / "loss.jsonl"
    with curve.open("a") as lost:  # as of steps that a kill has lost
        lost.write('{"step": 30, "loss": 1}\n')
    found, seen = fit(*problem(), rare)
    assert seen.step == 40
    assert [json.loads(line)["step"] for line in curve.read_text().splitlines()] == [10, 20, 30, 40]
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_snapshot_that_was_cut_short_is_taken_again(tmp_path):
    always = Settings(**{**vars(options(tmp_path, 32 * 40)), "checkpoint_minutes": 0.0, "snapshots": 4})
    taken = []

    def keep(average, seen):
        taken.append(seen.step)
        if len(taken) == 2:
            raise KeyboardInterrupt  # the checkpoint is of after the update that reached this point

    model, loss = problem()
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, always, keep=keep)
    model, loss = problem()
    fit(model, loss, always, keep=keep)
    assert taken == [10, 20, 20, 30, 40]


def test_a_run_made_longer_keeps_snapshots_of_its_new_length(tmp_path):
    taken = []
    for samples in (32 * 40, 32 * 80):
        model, loss = problem()
        longer = Settings(**{**vars(options(tmp_path, samples)), "snapshots": 4})
        fit(model, loss, longer, keep=lambda _, seen: taken.append(seen.step))
    assert taken == [10, 20, 30, 40, 60, 80]


def test_a_run_that_has_ended_is_returned_as_it_was(tmp_path):
    model, loss = problem()
    snapshots = Settings(**{**vars(options(tmp_path, 32 * 4)), "snapshots": 2})
    taken = []

    def keep(average, seen):
        taken.append(seen.step)

    expected, before = fit(model, loss, snapshots, keep=keep)
    found, seen = fit(problem()[0], loss, snapshots, keep=keep)
    assert (seen, taken) == (before, [2, 4])
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lr": -1.0}, "lr=-1.0 must be above 0"),
        ({"lr": float("nan")}, "lr=nan must be above 0"),
        ({"lr": float("inf")}, "lr=inf, muon_lr=0.01 must be finite"),
        ({"muon_lr": float("nan")}, "muon_lr=nan must be finite"),
        ({"budget_minutes": float("nan")}, "budget_minutes=nan must be above 0"),
        ({"batch_size": 0}, "batch_size=0 must be above 0"),
    ],
)
def test_lengths_and_rates_that_are_none_are_refused(tmp_path, wrong, says):
    with pytest.raises(InputError, match=says):
        Settings(**{**vars(options(tmp_path, 32)), **wrong})


@pytest.mark.parametrize("changed", [{"lr": 2e-2}, {"muon_lr": 0.0}, {"batch_size": 16}, {"seed": 1}])
def test_a_run_of_another_rate_is_not_gone_on_with(tmp_path, changed):
    model, loss = problem()
    fit(model, loss, options(tmp_path, 32 * 4))
    longer = Settings(**{**vars(options(tmp_path, 32 * 8)), **changed})
    with pytest.raises(
        InputError, match=f"is of a run with {next(iter(changed))}=.* train in another folder"
    ):
        fit(problem()[0], loss, longer)
    _, seen = fit(problem()[0], loss, options(tmp_path, 32 * 8))
    assert seen.step == 8


def test_a_checkpoint_that_does_not_say_of_what_run_is_refused(tmp_path):
    model, loss = problem()
    fit(model, loss, options(tmp_path, 32 * 4))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del saved["asked"], saved["kept"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="of an older version"):
        fit(problem()[0], loss, options(tmp_path, 32 * 8))


def test_an_update_that_is_no_number_is_left_out(tmp_path):
    model, loss = problem()

    def now_and_then(step, generator):
        terms = loss(step, generator)
        return {"loss": terms["loss"] * (float("nan") if step % 7 == 3 else 1)}

    average, seen = fit(model, now_and_then, options(tmp_path, 32 * 40))
    assert seen.step == 40
    assert all(parameter.isfinite().all() for part in (model, average) for parameter in part.parameters())
    assert "NaN" not in (tmp_path / "loss.jsonl").read_text()


def test_a_run_that_diverges_stops_and_leaves_the_checkpoint_from_before(tmp_path):
    model, loss = problem()
    always = Settings(**{**vars(options(tmp_path, 32 * 40)), "checkpoint_minutes": 0.0})

    def from_twenty_on(step, generator):
        return {"loss": loss(step, generator)["loss"] * (float("inf") if step >= 20 else 1)}

    with pytest.raises(
        TrainingDiverged, match="10 times running, the last time at step 29 .* lower learning rates"
    ):
        fit(model, from_twenty_on, always)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in saved["model"].values())
    _, seen = fit(model, loss, always)  # and can be gone on with
    assert seen.step == 40


def test_a_budget_in_minutes_ends_a_run(tmp_path):
    model, loss = problem()
    quick = Settings(**{**vars(options(tmp_path, 10**12)), "budget_minutes": 0.01})
    assert 0 < fit(model, loss, quick)[1].samples < 10**12


def test_a_short_average_forgets_its_first_weights():
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.999)
    nn.init.constant_(model.weight, 100.0)
    average.update_parameters(model)  # the first update copies
    nn.init.constant_(model.weight, 1.0)
    for _ in range(100):
        average.update_parameters(model)
    assert average.module.weight.item() < 1.01
