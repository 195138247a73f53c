"""Settings, their front, and the panel that chooses among them."""

import pytest

from bench.records import MASKED, Memory
from reports.budget import budget
from reports.build import build
from reports.front import ahead
from reports.load import load
from reports.metrics import metrics
from reports.rows import rows
from reports.settings import above_noise, command, front, python, settings

LONG = "bench.baselines.longvideo:LongVideo"
LAB = "bench.baselines.lab:Lab"
OURS = {"model": "lab", "guidance_scale": 2.0, "shift": 1.0, "precision": "fp32", "task": "text to video"}


def memory(size):
    none = "not measurable"
    return Memory(tensors=size, resident=5, cuda_allocated=none, cuda_reserved=none, nvml_process=none)


def cell(make, name, steps, distance, size, **fields):
    knobs = OURS | {"sparsity": "none", "system": name} | fields.pop("knobs", {})
    scores = {"fvd-world": make.score(distance, 0.01)}
    fields.setdefault("adapter", LAB)
    made = make.record(name, steps, knobs=knobs, scores=scores, memory=memory(size), **fields)
    return made


@pytest.fixture
def found(make, tmp_path):
    """Time grows with steps. `slow` is beaten by `dense`; `masked` would be the fastest and the smallest."""
    cells = [
        cell(make, "dense", 56, 1.00, 100),
        cell(make, "slow", 60, 1.01, 110, knobs={"sparsity": "blocks-0.25"}),
        cell(make, "four", 4, 1.04, 100),
        cell(make, "small", 8, 1.09, 40, knobs={"sparsity": "structured-0.5"}),
        cell(make, "bad", 2, 3.00, 100),
        cell(make, "masked", 1, 0.99, 30, knobs={"sparsity": "unstructured-0.5"}, flags=(MASKED,)),
    ]
    folder = make.run(tmp_path / "run", cells)
    return folder, settings(metrics(rows(load([folder])))[0])


def test_the_front_is_what_nothing_beats_and_zeros_are_no_saving(found):
    assert [one.row.system for one in found[1]] == ["bad", "four", "small", "dense", "slow"]
    assert [one.row.system for one in front(found[1])] == ["bad", "four", "small", "dense"]


def test_what_is_on_the_front_for_its_memory_alone_is_not_joined(found):
    assert [one.row.system for one in ahead(front(found[1]))] == ["bad", "four", "dense"]


def test_what_scores_as_noise_does_is_on_no_front_however_cheap(make, tmp_path):
    cells = [
        cell(make, "good", 8, 1.0, 100),
        cell(make, "wrecked", 2, 30.5, 10, knobs={"sparsity": "structured-0.75"}),
        cell(make, "noise", 0, 30.0, 1, role="reference"),
    ]
    folder = make.run(tmp_path / "run", cells)
    metric = metrics(rows(load([folder])))[0]
    assert [one.row.system for one in front(settings(metric))] == ["wrecked", "good"]
    assert [one.row.system for one in above_noise(settings(metric), metric)] == ["good"]
    html = build([folder], tmp_path / "r.html").read_text()
    lead = html[html.index("No other setting is as good") :].split("</p>")[0]
    assert lead.index(">good") < lead.index("Left out, because noise scores as well") < lead.index(">wrecked")


def test_equal_settings_do_not_beat_each_other(make, tmp_path):
    cells = [cell(make, name, 4, 1.0, 100) for name in ("a", "b")]
    found = settings(metrics(rows(load([make.run(tmp_path / "run", cells)])))[0])
    assert len(front(found)) == 2


def test_the_fastest_and_the_smallest_within_a_share_of_the_dense_one_of_most_steps(found):
    panel = budget(found[1])
    assert panel.baseline.row.system == "dense"  # not `slow`, which has more steps and is pruned
    chosen = {c.share: (c.fastest.row.system, c.smallest.row.system) for c in panel.choices}
    assert chosen == {0.02: ("dense", "dense"), 0.05: ("four", "four"), 0.10: ("four", "small")}


def test_higher_scores_and_targets_have_shares_too(make, tmp_path):
    for better, values in (("higher", (0.9, 0.86, 0.80)), ("target", (1.5, 1.51, 1.6))):
        cells = [
            make.record(str(i), 56 >> i, scores={"q": make.score(value, better=better)})
            for i, value in enumerate(values)
        ]
        panel = budget(settings(metrics(rows(load([make.run(tmp_path / better, cells)])))[0]))
        assert [choice.fastest.row.system for choice in panel.choices] == (
            ["0", "1", "1"] if better == "higher" else ["1", "1", "1"]
        )


def test_without_a_dense_setting_there_is_no_panel(make, tmp_path):
    cells = [cell(make, "pruned", 4, 1.0, 100, knobs={"sparsity": "structured-0.5"})]
    folder = make.run(tmp_path / "run", cells)
    assert budget(settings(metrics(rows(load([folder])))[0])) is None
    assert 'id="budget"' not in build([folder], tmp_path / "r.html").read_text("utf-8")


def test_a_batch_costs_its_share(make, tmp_path):
    one, four = rows(
        load([make.run(tmp_path / "r", [make.record(knobs={"batch_size": size}) for size in (1, 4)])])
    )
    assert four.clip_seconds == pytest.approx(one.clip_seconds / 4)


def test_settings_say_how_to_ask_for_them(found):
    rows_ = {one.row.system: one.row for one in found[1]}
    assert command(rows_["four"]) == (
        "python -m magic141 generate 'a small red ring drifting left over dark stripes' -o clip.mp4 "
        "--model lab --steps 4 --guidance 2 --shift 1 --precision float32"
    )
    first, second = command(rows_["small"]).splitlines()
    assert first.endswith("sparsify --model lab --sparsity structured-0.5 -o ./lab-structured-0.5")
    assert "--model ./lab-structured-0.5 " in second
    code = python(rows_["small"])
    compile(code, "setting", "exec")
    assert "apply(pipe, *parse('structured-0.5'))" in code
    assert "num_inference_steps=8, guidance_scale=2.0, shift=1.0" in code


def test_long_video_and_strangers_have_their_own_commands(make, tmp_path):
    long = {"seconds": 60.0, "window": 33, "overlap": 2, "anchor": True, "match_statistics": True}
    cells = [
        make.record("long", 4, knobs=OURS | long | {"history_noise": 0.1}, adapter=LONG),
        make.record("one pass", 4, knobs=OURS | long | {"windows": "one"}, adapter=LONG),
        make.record("stranger", 4),
    ]
    ours, whole, stranger = rows(load([make.run(tmp_path / "run", cells)]))
    assert command(ours).endswith(
        "--seconds 60 --window 33 --overlap 2 --history-noise 0.1 --anchor --match-statistics --precision float32"
    )
    assert "pipe.stream(" in python(ours)
    for row in (whole, stranger):
        assert command(row) == row.record.command
        assert python(row) == ""


def test_a_clip_at_once_and_a_criterion_are_asked_for(make, tmp_path):
    at_once = make.record("at once", 4, knobs=OURS | {"task": "text to video at once"}, adapter=LAB)
    chosen = {
        "sparsity": "structured-0.5",
        "criterion": "taylor",
        "num_frames": 17,
        "image_guidance_scale": 3.0,
    }
    pruned = make.record("pruned", 4, knobs=OURS | chosen, adapter=LAB)
    first, second = rows(load([make.run(tmp_path / "run", [at_once, pruned])]))
    assert "--at-once" in command(first)
    assert "factorised=False" in python(first)
    sparsify, generate = command(second).splitlines()
    assert "--sparsity structured-0.5 --criterion taylor --refit -o" in sparsify
    assert "--frames 17" in generate
    assert "--at-once" not in generate
    assert "--image-guidance 3" in generate
    assert "shown = calibrate.losses(pipe, 4)" in python(second)
    assert "apply(pipe, *parse('structured-0.5', 'taylor', refit=True), calibration=shown)" in python(second)


@pytest.mark.parametrize(
    ("sparsity", "words"),
    [
        ("structured-0.5+int8", "--criterion taylor --refit"),
        ("blocks-0.25", "--criterion taylor"),
        ("unstructured-0.5", ""),
        ("int8", ""),
    ],
)
def test_what_makes_no_sense_for_a_way_is_not_asked(make, tmp_path, sparsity, words):
    made = make.record("x", 4, knobs=OURS | {"sparsity": sparsity, "criterion": "taylor"}, adapter=LAB)
    (row,) = rows(load([make.run(tmp_path / "run", [made])]))
    asked = command(row).splitlines()[0]
    assert (words or "-o") in asked
    assert ("--refit" in asked) == ("--refit" in words)
    assert ("--criterion" in asked) == ("calibrate" in python(row)) == bool(words)


def test_a_solver_is_asked_for(make, tmp_path):
    made = make.record("x", 4, knobs=OURS | {"solver": "unipc"}, adapter=LAB)
    (row,) = rows(load([make.run(tmp_path / "run", [made])]))
    assert "--solver unipc" in command(row)
    assert "pipe.scheduler = with_solver('unipc', pipe.scheduler)" in python(row)
    compile(python(row), "row", "exec")


def test_a_stranger_with_a_model_is_not_made_by_our_command(make, tmp_path):
    theirs = {"model": "acme/video-7b", "precision": "bf16"}
    named = make.record("named", 4, knobs=theirs, adapter="bench.baselines.diffusers_folder:DiffusersFolder")
    before = [make.record(name, 4, knobs=OURS) for name in ("theirs", "ours")]  # records that do not say
    systems = {"theirs": {"adapter": "acme.video:Adapter"}, "ours": {"adapter": LAB}}
    folder = make.run(tmp_path / "run", [named, *before], question={"systems": systems})
    *strangers, ours = rows(load([folder]))
    for row in strangers:
        assert command(row) == row.record.command
        assert python(row) == ""
    assert "--model lab" in command(ours)
    assert "from_pretrained('lab')" in python(ours)


def test_in_bf16_the_vae_stays_in_fp32_as_the_bench_had_it(make, tmp_path):
    made = make.record("x", 4, knobs=OURS | {"precision": "bf16"}, adapter=LAB)
    (row,) = rows(load([make.run(tmp_path / "run", [made])]))
    assert "--precision bfloat16" in command(
        row
    )  # which leaves the VAE alone, too: tests/magic141/test_cli.py
    code = python(row)
    compile(code, "row", "exec")
    assert "dtype" not in code
    for part in ("transformer", "text_encoder"):
        assert f"pipe.{part}.to(torch.bfloat16)" in code
    assert "vae" not in code


def test_the_panel_is_a_table_and_its_script_has_all_it_needs(found, tmp_path):
    html = build([found[0]], tmp_path / "r.html").read_text("utf-8")
    panel = html[html.index('id="budget"') : html.index("</section>", html.index('id="budget"'))]
    assert panel.count("<tr data-name=") == 5
    assert "masked" not in panel
    assert 'class="limits" role="group" aria-label="Your limits" hidden' in panel  # shown by the script
    assert "2&nbsp;%" in panel
    assert 'data-memory="40"' in panel
    for name in ("limit-seconds", "limit-memory", "limit-quality", "budget-answer"):
        assert f'id="{name}"' in panel
    assert "No setting beats these" in html


def test_a_few_bytes_decide_nothing(make, tmp_path):
    """Slower, worse, and smaller by sixteen bytes of forty million: dominated."""
    cells = [cell(make, "good", 2, 1.0, 40_354_258), cell(make, "bad", 8, 2.0, 40_354_242)]
    found = settings(metrics(rows(load([make.run(tmp_path / "run", cells)])))[0])
    assert [one.row.system for one in front(found)] == ["good"]
    assert budget(found).choices[0].smallest.row.system == "good"


def test_peaks_of_two_kinds_do_not_dominate_each_other(make, tmp_path):
    resident = Memory(
        tensors=4, resident=500_000_000, cuda_allocated="not measurable", cuda_reserved="not measurable",
        nvml_process="not measurable",
    )  # fmt: skip
    small, foreign = cell(make, "small", 2, 0.9, 90), cell(make, "foreign", 8, 1.0, 100)
    foreign = foreign.model_copy(update={"memory": resident})
    folder = make.run(tmp_path / "run", [small, foreign])
    found = settings(metrics(rows(load([folder])))[0])
    assert {one.row.system for one in front(found)} == {"small", "foreign"}
    html = build([folder], tmp_path / "r.html").read_text()
    assert "<small>resident</small>" in html


def test_settings_of_two_environments_do_not_dominate_each_other(make, tmp_path):
    cells = [cell(make, "here", 8, 1.0, 100), cell(make, "there", 2, 0.9, 90, fingerprint="e" * 16)]
    found = settings(metrics(rows(load([make.run(tmp_path / "run", cells)])))[0])
    assert {one.row.system for one in front(found)} == {"here", "there"}
    assert {one.row.system for one in budget(found).settings} == {"here"}


def test_what_is_quantised_in_bf16_is_asked_for_in_bf16(make, tmp_path):
    knobs = OURS | {"precision": "bf16", "sparsity": "int8"}
    (row,) = rows(load([make.run(tmp_path / "run", [make.record("x", 4, knobs=knobs, adapter=LAB)])]))
    sparsify, generate = command(row).splitlines()
    assert "--sparsity int8 --precision bfloat16 -o" in sparsify
    assert generate.endswith("--precision bfloat16")
