"""What is registered: commands, seeds, what experiments share. No training."""

import math

import pytest

from bench.claims import registry, runs
from bench.claims.items import Evaluate, Train
from bench.claims.runs import FULL, QUICK
from bench.errors import SuiteError


def test_quick_fits_twenty_minutes():
    experiments = registry.chosen(QUICK)
    assert [one.id for one in experiments] == ["b2"]
    assert sum(item.minutes for item in registry.plan(experiments, QUICK)) < 20


def test_full_has_the_seeds_that_were_promised():
    assert registry.EXPERIMENTS["a1"].seeds(FULL) >= 3
    assert registry.EXPERIMENTS["b1"].seeds(FULL) >= 2


def test_seeds_samples_and_tasks_reach_the_command():
    trained = [item for item in registry.EXPERIMENTS["a2"].items(FULL) if isinstance(item, Train)]
    assert len(trained) == 6
    both = next(item for item in trained if item.words.count("--task") == 2)
    hard = next(item for item in trained if item.words.count("--task") == 1)
    samples = [int(item.words[item.words.index("--samples") + 1]) for item in (both, hard)]
    assert samples[0] == math.floor(samples[1] * runs.ALTERNATING_SHARE)
    assert {item.words[item.words.index("--seed") + 1] for item in trained} == {"0", "1", "2"}
    asked = {
        item.knobs["task"] for item in registry.EXPERIMENTS["a2"].items(FULL) if isinstance(item, Evaluate)
    }
    assert asked == {"text to video", "text to video at once"}


def test_every_training_command_is_understood():
    import typer.main

    from magic141.train.__main__ import app

    group = typer.main.get_command(app)
    for item in registry.plan(registry.chosen(FULL), FULL):
        if isinstance(item, Train):
            command = group.commands[item.words[0]]
            command.make_context(item.words[0], list(item.words[1:]))


def test_the_dial_is_asked_in_the_world_that_was_trained_in():
    for item in registry.EXPERIMENTS["c1"].items(FULL):
        if isinstance(item, Evaluate) and item.snapshot is not None:
            assert f"stated{item.sample.stated:g}-events{int(item.sample.events)}" in item.of


def test_settings_of_the_dial_start_from_what_knows_the_words_of_all():
    for name in ("c1", "c2"):
        trained = {one.name: one for one in registry.EXPERIMENTS[name].items(FULL) if isinstance(one, Train)}
        starts = [one for one in trained.values() if not one.needs]
        assert all(one.words.count("--stated") == 3 for one in starts)
        assert all(trained[need] in starts for one in trained.values() for need in one.needs)
        assert len(trained) - len(starts) == 16


def test_experiments_share_what_they_can_and_what_starts_elsewhere_shares_nothing():
    of_claim = {name: {item.name for item in one.items(FULL)} for name, one in registry.EXPERIMENTS.items()}
    hard = {name for name in of_claim["a1"] if name.startswith("dmd2-text-to-video")}
    assert hard <= of_claim["a2"]
    assert not of_claim["c1"] & of_claim["a1"]
    assert not of_claim["c2"] & of_claim["b1"]


@pytest.mark.parametrize(
    ("name", "samples"), [("a1", "8,000"), ("a2", "7,813 and 8,000"), ("b1", "16,000"), ("c2", "16,000")]
)
def test_the_sample_says_how_long_trainings_are(name, samples):
    assert f"a run of {samples} samples" in registry.EXPERIMENTS[name].sample(FULL)


@pytest.mark.parametrize("pair", [registry.equal_samples, registry.equal_flops])
def test_the_students_start_is_asked_as_its_curve_is(pair):
    for lines in pair(FULL, from_start=True):
        items = {item.name: item for item in lines.items}
        start, *ends = (items[name] for name in lines.anchors)
        assert start.knobs == items[lines.curves[0][0]].knobs
        assert items[start.of].words[items[start.of].words.index("--samples") + 1] == "1"
        assert [item.knobs["guidance_scale"] for item in ends] == [2.0, 3.0]
        for item in ends:
            assert item.knobs["task"] == start.knobs["task"]
            assert (item.knobs["num_inference_steps"], item.sample) == (56, start.sample)


def test_an_unknown_claim_is_named():
    with pytest.raises(SuiteError, match="no claim is called 'z9'"):
        registry.chosen(FULL, ["z9"])


def test_the_dial_has_no_quick_form():
    with pytest.raises(SuiteError, match="c1 has no quick form"):
        registry.chosen(QUICK, ["c1"])


def test_no_trial_of_the_step_table_asks_what_its_task_cannot_answer():
    """A first frame is given from true frames alone; what lacks a score is no answer."""
    trials = [item for item in registry.EXPERIMENTS["d1"].plan(FULL) if isinstance(item, Evaluate)]
    assert {item.knobs["task"] for item in trials} == {"image to video", "text to video at once"}
    for item in trials:
        assert ("first-frame-psnr" in item.metrics) == (item.knobs["task"] == "image to video")


def test_what_is_asked_again_is_asked_of_prompts_that_no_other_trial_has():
    asked = {
        name: [one.sample for one in registry.EXPERIMENTS[name].plan(FULL) if isinstance(one, Evaluate)]
        for name in ("d1", "d4", "d6")
    }
    again = asked["d6"][3:]
    assert {(sample.start, sample.prompts) for sample in again} == {(2176, 2048)}
    assert all(one.start + one.prompts <= 2176 for name in ("d1", "d4") for one in asked[name])
    assert asked["d6"][:3] == asked["d1"][:3]


def test_a_claim_asks_what_decides_it_and_the_step_table_hangs_on_one():
    models = [
        (item.knobs["model"], item.knobs["num_inference_steps"])
        for item in registry.EXPERIMENTS["d3"].plan(FULL)
    ]
    assert models == [("lab", 4), ("lab", 56), ("lab-student", 4)]
    assert registry.EXPERIMENTS["d1"].plan(FULL)[:3] == registry.EXPERIMENTS["d3"].plan(FULL)
    assert len(registry.EXPERIMENTS["d1"].plan(FULL)) == 31
