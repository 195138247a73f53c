import re

import pytest

from bench.records import END_TO_END, Contamination, Timing
from reports.load import load
from reports.metrics import metrics
from reports.rows import rows
from reports.speedup import ceiling, speed_ups
from reports.verdict import verdict


def timing(seconds, n=5):
    return Timing(median=seconds, low=0.95 * seconds, high=1.07 * seconds, n=n)


def cell(make, system, steps, guidance, denoise, **knobs):
    """Half a second besides denoising, of which 0.1 s lies between stages."""
    stages = {
        "text encode": timing(0.1),
        "image": timing(0.2 * denoise),
        "denoise": timing(0.8 * denoise / steps, n=5 * steps),
        "vae decode": timing(0.3),
        END_TO_END: timing(denoise + 0.5),
    }
    return make.record(system, steps, knobs={"guidance_scale": guidance, **knobs}, stages=stages)


@pytest.fixture
def found(make, tmp_path):
    cells = [
        cell(make, "teacher", 4, 2.0, 0.8),
        cell(make, "teacher", 28, 2.0, 4.5),
        cell(make, "student", 4, 1.0, 0.3),
        cell(make, "student", 8, 1.0, 0.6),
        cell(make, "student from truth", 4, 1.0, 0.2, task="image to video"),
        cell(make, "a minute", 4, 1.0, 9.0, seconds=60.0),
        cell(make, "four at once", 4, 1.0, 0.9, batch_size=4),
    ]
    return rows(load([make.run(tmp_path / "run", cells)]))


def test_the_ceiling_is_what_remains_without_denoising(found):
    assert ceiling(found[1]) == pytest.approx(5.0 / 0.5)


def test_four_steps_without_guidance_are_compared_with_twenty_eight_with_it_of_the_same_work(found):
    (gain,) = speed_ups(found)
    assert (gain.fast.system, gain.slow.system) == ("student", "teacher")
    assert gain.ratio == pytest.approx(5.0 / 0.8)
    assert gain.low < gain.ratio < gain.high < gain.ceiling


def test_the_verdict_prints_the_ceiling_beside_the_gain(found):
    sentences = verdict(found, next(iter(metrics(found)), None))
    said = re.sub("<[^>]+>", "", str(sentences[-1])).replace("\u2009", " ").replace("\u00a0", " ")
    assert said.startswith("student · 4 steps is 6.2× faster [5.5 – 7.0] than")
    assert said.endswith("with denoising that took no time it would be 10× (Amdahl&rsquo;s ceiling).")


def test_all_that_are_compared_with_one_setting_share_a_sentence(make, tmp_path):
    cells = [
        cell(make, "teacher", 28, 2.0, 4.5),
        cell(make, "student", 4, 1.0, 0.75),
        cell(make, "thin", 4, 1.0, 0.5),
        cell(make, "thinner", 4, 1.0, 0.3),
    ]
    shown = rows(load([make.run(tmp_path / "run", cells)]))
    said = re.sub("<[^>]+>", "", str(verdict(shown, next(iter(metrics(shown)), None))[-1]))
    said = re.sub(r" \[.*?\]", "", said.replace("\u2009", " ").replace("\u00a0", " "))
    assert said.startswith(
        "student · 4 steps is 4.0× faster, thin · 4 steps is 5.0× faster and thinner · 4 steps is 6.2× faster than"
    )
    assert said.count("Amdahl") == 1


def test_what_takes_longer_is_called_slower(make, tmp_path):
    cells = [cell(make, "teacher", 28, 2.0, 0.7), cell(make, "student", 4, 1.0, 1.9)]
    shown = rows(load([make.run(tmp_path / "run", cells)]))
    said = re.sub("<[^>]+>", "", str(verdict(shown, next(iter(metrics(shown)), None))[-1]))
    assert said.replace("\u2009", " ").startswith("student · 4\u00a0steps is 2.00× slower [1.78 – 2.25] than")


def test_without_a_student_there_is_nothing_to_compare(make, tmp_path):
    assert not speed_ups(rows(load([make.run(tmp_path / "run", make.sweep())])))


@pytest.mark.parametrize(("pace", "said"), [(1.2e-3, None), (1.5e-3, "1.5×"), (0.6e-3, "0.6×")])
def test_a_gain_measured_at_another_speed_of_the_machine_says_so(make, tmp_path, pace, said):
    fast, slow = cell(make, "student", 4, 1.0, 0.3), cell(make, "teacher", 28, 2.0, 4.5)
    paced = [
        one.model_copy(update={"contamination": (Contamination(seconds=1, pace=seconds),)})
        for one, seconds in ((fast, pace), (slow, 1e-3))
    ]
    found = rows(load([make.run(tmp_path / "run", paced)]))
    sentence = str(verdict(found, next(iter(metrics(found)), None))[-1])
    warning = f"(but a fixed piece of work took the machine {said} as long beside it)"
    assert (warning in sentence) == (said is not None)
    assert said is not None or "fixed piece" not in sentence


def test_times_of_two_environments_are_no_speed_up(make, tmp_path):
    cells = [
        cell(make, "teacher", 28, 2.0, 4.5),
        cell(make, "student", 4, 1.0, 0.3).model_copy(update={"fingerprint": "e" * 16}),
    ]
    assert not speed_ups(rows(load([make.run(tmp_path / "run", cells)])))
