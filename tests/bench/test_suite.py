import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import hardware, strict_yaml, systems
from bench.baselines.fake import Fake
from bench.claims import steps
from bench.claims.items import Evaluate
from bench.claims.runs import FULL
from bench.errors import SuiteError
from bench.prompts import SEED_STRIDE
from bench.records import RANDOM_WEIGHTS
from bench.suite import Suite, SystemSpec, parse, read
from bench.systems import knob_names
from magic141 import precision

SUITES = Path(__file__).parents[2] / "bench" / "suites"
FAKE = "bench.baselines.fake:Fake"
LAB = "bench.baselines.lab:Lab"


def plain(**changes: Any) -> dict[str, Any]:
    return {
        "name": "s",
        "systems": {"fake": {"adapter": FAKE, "axes": {"num_inference_steps": [1, 2]}}},
        "prompts": {"texts": ["a", "b"]},
        "scorer": "bench.baselines.fake:SCORER",
        "metrics": ["noise"],
    } | changes


def spec(**fields: Any) -> dict[str, Any]:
    return plain(systems={"fake": {"adapter": FAKE} | fields})


def points(**fields: Any) -> list[dict[str, Any]]:
    cells = parse(spec(**fields), "s").cells()
    return [{name: cell.knobs[name] for name in cell.shown} for cell in cells]


def test_a_grid_crosses_its_axes() -> None:
    assert points(axes={"num_inference_steps": [1, 2], "memory": [5, 6]}) == [
        {"num_inference_steps": steps, "memory": memory} for steps in (1, 2) for memory in (5, 6)
    ]


def test_one_at_a_time_leaves_the_base_once() -> None:
    base = {"num_inference_steps": 4, "memory": 5}
    assert points(
        knobs=base, axes={"num_inference_steps": [2, 4], "memory": [5, 7]}, design="one-at-a-time"
    ) == [
        base,
        base | {"num_inference_steps": 2},
        base | {"memory": 7},
    ]


def test_a_list_lays_points_over_the_base() -> None:
    assert points(knobs={"memory": 5}, points=[{"latency": 0.5}, {"memory": 6}], design="list") == [
        {"memory": 5, "latency": 0.5},
        {"memory": 6},
    ]


def test_overrides_follow_a_knob() -> None:
    found = points(
        axes={"num_inference_steps": [2, 4], "memory": [5, 6]},
        overrides=[
            {"when": {"num_inference_steps": 2}, "set": {"latency": 0.25}},
            {"when": {"memory": 6}, "set": {"latency": 0.5}},
        ],
    )
    assert [point.get("latency") for point in found] == [0.25, 0.25, None, 0.5]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (plain(metric=["noise"]), "unknown key 'metric'; did you mean 'metrics'?"),
        (spec(desing="grid"), "systems.fake: unknown key 'desing'; did you mean 'design'?"),
        (plain(prompts={"splt": "test"}), "prompts: unknown key 'splt'; did you mean 'split'?"),
        (
            spec(axes={"num_inference_step": [1]}),
            "no knob 'num_inference_step'; did you mean 'num_inference_steps'?",
        ),
        (spec(knobs={"num_inference_steps": "many"}), "num_inference_steps='many'"),
        (spec(knobs={"batch_size": 0}), "batch_size=0 must be 1 or more"),
        (spec(adapter="bench.baselines.fake:Fack"), "has no 'Fack'; did you mean 'Fake'?"),
        (spec(adapter="bench.baselines.nowhere:Fake"), "cannot be imported"),
        (spec(adapter="Fake"), "not of the form package.module:Name"),
        (spec(adapter="bench.baselines.fake:nearest"), "is no dataclass"),
        (spec(design="list"), "needs at least one"),
        (spec(design="list", points=[{}], axes={"memory": [1]}), "has no meaning"),
        (spec(axes={"memory": []}), "axes.memory"),
        (plain(metrics=["noize"]), "unknown metric 'noize'; did you mean 'noise'?"),
        (plain(metrics=["noise", "noise"]), "names a value twice"),
        (plain(prompts={"split": "test"}), "a split needs it"),
        (plain(prompts={"texts": ["a"], "split": "test", "count": 1}), "exactly one"),
        (plain(prompts={"file": "no/such.txt"}), "cannot be read"),
        (plain(repeats=0), "repeats: Input should be greater than or equal to 1 (got 0)"),
        (plain(name="a/b"), "name"),
        (plain(warmup=9), "`warmup` is 9 and `warmup_limit` is 5, which is the most"),
        (spec(warmup=3) | {"warmup_limit": 2}, "`systems.fake.warmup` is 3 and `warmup_limit` is 2"),
        (plain(prompts={"texts": ["a"], "start": 3}), "`start` of the lab world has no meaning beside"),
        (plain(prompts={"texts": ["a"], "events": False, "terse": True}), "`events`, `terse` of the lab"),
        (plain(prompts={"file": "a.txt", "stated": 0.5}), "`stated` of the lab world has no meaning"),
        (
            spec(overrides=[{"when": {"num_inference_step": 2}, "set": {"latency": 1}}]),
            "overrides.0: bench.baselines.fake:Fake has no knob 'num_inference_step'; did you mean 'num_inf",
        ),
        (
            spec(overrides=[{"when": {"num_inference_steps": 77}, "set": {"latency": 1}}]),
            "systems.fake.overrides.0: `when` {'num_inference_steps': 77} applies to no point",
        ),
        (spec(knobs={"latency": float("nan")}), "latency=nan is no knob"),
        (spec(knobs={"num_inference_steps": True, "batch_size": "x"}), "batch_size='x'"),
        (plain(systems={"a": {"adapter": FAKE}, "b": {"adapter": FAKE}}), "asks the same question as a"),
        ({}, "systems: Field required"),
        ([], "s: "),
    ],
)
def test_mistakes_are_named(data: Any, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse(data, "s").cells()
    assert said in str(caught.value)


def test_an_override_follows_a_default_and_what_a_knob_resolves_to() -> None:
    override = {"when": {"num_inference_steps": Fake.num_inference_steps}, "set": {"latency": 0.5}}
    assert points(knobs={"memory": 5}, overrides=[override]) == [{"memory": 5, "latency": 0.5}]
    lab = {"adapter": LAB, "knobs": {"precision": "auto"}}
    for value in ("auto", hardware.auto_precision()):
        changed = lab | {"overrides": [{"when": {"precision": value}, "set": {"shift": 2.0}}]}
        (point,) = SystemSpec.model_validate(changed).knob_points("lab")
        assert point["shift"] == 2.0


def test_a_system_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(f"name: s\nsystems:\n  a: {{adapter: '{FAKE}'}}\n  a: {{adapter: '{LAB}'}}\n")
    with pytest.raises(SuiteError, match="twice.yaml: line 4 names 'a' a second time"):
        read(path)


THEIRS = """
from bench.baselines.fake import dataclass, Fake
from pathlib import Path

@dataclass
class Folder(Fake):
    where: Path = Path("a")

@dataclass
class Sizes(Fake):
    sizes: tuple[int, ...] = (1, 2)

@dataclass
class Auto(Fake):
    num_frames: str = "auto"

@dataclass
class NoFile(Fake):
    def weights(self):
        return Path("no/such").read_text()

@dataclass
class NoText(Fake):
    def weights(self):
        return 5

@dataclass
class NanGuess(Fake):
    def seconds_per_clip(self):
        return float("nan")

@dataclass
class NoGuess(Fake):
    def seconds_per_clip(self):
        pass

@dataclass
class BadInit(Fake):
    def __post_init__(self):
        {}["no"]

@dataclass
class NoImports(Fake):
    imports = None

@dataclass
class FlagsOfOneText(Fake):
    flags = "random-weights"

@dataclass
class PaceRaises(Fake):
    fps = property(lambda self: 1 / 0)

@dataclass
class OwnImports(Fake):
    imports = property(lambda self: ("json", "decimal"))

@dataclass
class NoWeights:
    steps: int = 1
    imports = ()
    fps = 16
    def load(self): ...
    def generate(self, requests, stages): ...
    def seconds_per_clip(self):
        return 1.0

@dataclass
class Picky(Fake):
    fault: str = "none"

    def __post_init__(self):
        self.hit("init")

    def weights(self):
        self.hit("weights")

    def seconds_per_clip(self):
        self.hit("guess")
        return 1.0

    def hit(self, place):
        from bench.errors import UnsupportedError
        from magic141.errors import WeightsMissing
        if self.fault == place:
            raise UnsupportedError("window must not exceed steps")
        if self.fault == f"missing {place}":
            raise WeightsMissing("no weights at all")

class Scorer:
    imports = ()
    def protocols(self, metrics, clips, num_frames):
        return {name: "p" for name in metrics}
    def score(self, output, requests, metrics): ...

NO_IMPORTS = Scorer()
NO_IMPORTS.imports = None
NO_SCORE = type("NoScore", (), {"imports": (), "protocols": Scorer.protocols})()
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("Folder", r"where=PosixPath\('a'\) is no knob"),
        ("Sizes", r"sizes=\(1, 2\) is no knob"),
        ("Auto", "num_frames='auto' must be 1 or more, and whole"),
        ("NoFile", r"theirs:NoFile: weights\(\) raised FileNotFoundError: .*no/such"),
        ("NoText", r"theirs:NoText: weights\(\) is 5: return their sha256"),
        ("NanGuess", r"theirs:NanGuess: seconds_per_clip\(\) is nan, not a number of seconds"),
        ("NoGuess", r"theirs:NoGuess: seconds_per_clip\(\) is None, not a number of seconds"),
        ("BadInit", "theirs:BadInit cannot be made of these knobs: KeyError: 'no'"),
        ("NoImports", "theirs:NoImports: imports=None are no names of modules"),
        ("FlagsOfOneText", "theirs:FlagsOfOneText: flags='random-weights' are no words"),
        ("PaceRaises", "theirs:PaceRaises: fps raised ZeroDivisionError"),
        ("NoWeights", r"theirs:NoWeights has no method weights\(\)"),
    ],
)
def test_what_an_adapter_does_in_a_plan_is_named(theirs: None, adapter: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        parse(spec(adapter=f"theirs:{adapter}"), "s").cells()


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ("NO_IMPORTS", "scorer theirs:NO_IMPORTS: imports=None are no names of modules"),
        ("NO_SCORE", r"scorer theirs:NO_SCORE has no method score\(\)"),
    ],
)
def test_what_is_no_scorer_is_named(theirs: None, scorer: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        parse(plain(scorer=f"theirs:{scorer}"), "s").cells()


def test_imports_may_be_a_property(theirs: None) -> None:
    suite = parse(spec(adapter="theirs:OwnImports"), "s")
    assert suite.systems["fake"].imports("fake") == ("json", "decimal")


@pytest.mark.parametrize("place", ["init", "weights", "guess"])
@pytest.mark.parametrize("missing", [False, True])
def test_what_a_system_refuses_while_it_is_planned_is_a_row(theirs: None, place: str, missing: bool) -> None:
    fault = f"missing {place}" if missing else place
    suite = parse(spec(adapter="theirs:Picky", axes={"fault": ["none", fault]}), "s")
    good, bad = suite.cells()
    assert (good.unsupported, good.weights_missing) == (None, None)
    said = (None, "no weights at all") if missing else ("window must not exceed steps", None)
    assert (bad.unsupported, bad.weights_missing) == said
    assert bad.knobs["fault"] == fault
    assert bad.predicted_seconds == 0 < good.predicted_seconds
    assert suite.systems["fake"].imports("fake") == ()


def test_an_axis_may_hold_what_the_base_has_by_default() -> None:
    axes = {"num_inference_steps": [Fake.num_inference_steps, 8]}
    cells = parse(spec(axes=axes, design="one-at-a-time"), "s").cells()
    assert [cell.knobs["num_inference_steps"] for cell in cells] == [Fake.num_inference_steps, 8]


def test_blocks_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text(
        f"name: s\nscorer: bench.baselines.fake:SCORER\nmetrics: [noise]\nprompts: {{texts: [a]}}\nsystems:\n"
        f"  a: &a {{adapter: '{FAKE}', knobs: {{num_inference_steps: 1}}}}\n"
        "  b: {<<: *a, knobs: {num_inference_steps: 2}}\n"
    )
    suite = read(path)
    assert [spec.knobs["num_inference_steps"] for spec in suite.systems.values()] == [1, 2]
    nested = tmp_path / "nested.yaml"
    nested.write_text("b: &b {x: 1}\nouter: {inner: &a {<<: *b, x: 2}}\nc: {<<: *a}\nlist: [*a, {y: 1}]\n")
    assert strict_yaml.read(nested, "suite")["c"] == {"x": 2}
    path.write_text(path.read_text().replace("2}}", "2}, knobs: {}}"))
    with pytest.raises(SuiteError, match="names 'knobs' a second time"):
        read(path)


def test_a_mark_of_byte_order_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\n", encoding="utf-8-sig")
    assert ids(plain(prompts={"file": str(path)})) == ids(plain())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class A(:", "SyntaxError: invalid syntax"),
        ("nothing", "NameError: name 'nothing' is not defined"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SuiteError, match=f"'broken_module' cannot be imported .{said}"):
        parse(spec(adapter="broken_module:A"), "s").cells()


def lab_scored(**changes: Any) -> dict[str, Any]:
    data = plain(prompts={"split": "test", "count": 2}, metrics=["flickering"]) | changes
    return {key: value for key, value in data.items() if key != "scorer"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": {"texts": ["a cat"]}}, "systems.fake: lab scores need prompts of the lab world"),
        (
            {"systems": {"lab": {"adapter": LAB, "knobs": {"num_frames": 17}}}},
            "systems.lab: lab scores read clips of 1 or 33 frames, and these have 17",
        ),
        (
            {
                "systems": {
                    "theirs": {
                        "adapter": "bench.baselines.diffusers_folder:DiffusersFolder",
                        "knobs": {"fps": 8},
                    }
                }
            },
            "systems.theirs: .* at 16 frames a second, and these clips play at 8",
        ),
    ],
)
def test_what_the_lab_scores_cannot_read_is_refused_in_the_plan(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        parse(lab_scored(**changes), "s").cells()


def test_pictures_and_clips_of_the_lab_are_scored_and_noise_of_random_weights_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = {"lab": {"adapter": LAB, "axes": {"num_frames": [1, 33]}}}
    assert len(parse(lab_scored(systems=lab), "s").cells()) == 2
    monkeypatch.setattr(Fake, "flags", (RANDOM_WEIGHTS,), raising=False)
    assert parse(lab_scored(prompts={"texts": ["a cat"]}), "s").cells()


def test_code_of_others_is_a_part_of_who_answers_and_not_of_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "acme_video"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "adapter.py").write_text("from bench.baselines.fake import Fake\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = spec(adapter="acme_video.adapter:Fake")
    (first,) = parse(data, "s").cells()
    (package / "model.py").write_bytes("# a neighbour, in Latin-1: é\n".encode("latin-1"))
    (second,) = parse(data, "s").cells()
    assert first.id == second.id
    assert None is not first.sources_sha256 != second.sources_sha256
    assert all(cell.sources_sha256 is None for cell in parse(plain(exam=16), "s").cells())
    assert hardware.foreign_sha256("yaml:Loader") is not None  # also where it lies in our .venv
    assert hardware.foreign_sha256("", "no_such_module:A") is None


def test_files_that_are_no_suites(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(SuiteError, match="is not YAML"):
        read(tmp_path / "bad.yaml")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(SuiteError, match="is empty"):
        parse(plain(prompts={"file": str(tmp_path / "empty.txt")}), "s").cells()


def ids(data: dict[str, Any]) -> list[str]:
    return [cell.id for cell in parse(data, "s").cells()]


def test_ids_are_the_question_and_nothing_else() -> None:
    base = ids(plain())
    same = [
        plain(name="other", description="words"),
        plain(time_limit=1),
        plain(clips=1),
        plain(threads=1),
        plain(systems={"renamed": plain()["systems"]["fake"]}),
        spec(
            points=[{"num_inference_steps": 1}, {"num_inference_steps": 2, "memory": Fake.memory}],
            design="list",
        ),
    ]
    assert all(ids(data) == base for data in same)
    different = [
        plain(prompts={"texts": ["a", "c"]}),
        plain(prompts={"texts": ["b", "a"]}),
        plain(seeds=[1]),
        plain(seeds=[0, 1]),
        plain(metrics=["brightness"]),
        plain(repeats=4),
        plain(warmup=0),
        plain(quality_batch=3),
        spec(knobs={"memory": 7}, axes={"num_inference_steps": [1, 2]}),
    ]
    others = [ids(data) for data in different]
    assert all(set(other).isdisjoint(base) for other in others)
    assert len({tuple(other) for other in others}) == len(others)


def test_ids_are_stable_across_releases() -> None:
    """A changed id orphans stored results: change it on purpose, with a note in the change log."""
    assert ids(plain()) == ["41d6567b224df00f", "1af7c932f200d439"]


@settings(max_examples=30, deadline=None)
@given(st.permutations(["num_inference_steps", "memory", "latency"]))
def test_ids_ignore_the_order_of_knobs(order: list[str]) -> None:
    values = {"num_inference_steps": 3, "memory": 9, "latency": 0.5}
    assert ids(spec(knobs={name: values[name] for name in order})) == ids(spec(knobs=values))


def test_missing_weights_are_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "weights", lambda self: "ab" * 32)
    with_weights = parse(plain(), "s").cells()
    assert with_weights[0].weights_sha256 == "ab" * 32
    monkeypatch.undo()
    assert with_weights[0].id not in ids(plain())


def test_every_prompt_has_noise_of_its_own() -> None:
    requests = parse(plain(seeds=[0, 3]), "s").requests()
    assert [(r.index, r.prompt, r.seed) for r in requests] == [
        (0, "a", 0),
        (1, "b", 1),
        (0, "a", 3 * SEED_STRIDE),
        (1, "b", 3 * SEED_STRIDE + 1),
    ]


def test_prompts_from_the_world_bring_their_scenes() -> None:
    requests = parse(plain(prompts={"split": "test", "start": 2, "count": 3}), "s").requests()
    assert len({r.prompt for r in requests}) > 1
    assert all(r.scene is not None and r.scene.caption() == r.prompt for r in requests)
    dialled = parse(plain(prompts={"split": "test", "start": 2, "count": 3, "stated": 1.0}), "s").requests()
    assert [r.prompt for r in dialled] != [r.prompt for r in requests]


def test_terse_prompts_are_another_question_and_state_nothing() -> None:
    asked = {"split": "test", "start": 2, "count": 3}
    requests = parse(plain(prompts=asked | {"terse": True}), "s").requests()
    assert all(len(r.prompt.split()) == 4 for r in requests)
    assert not set(ids(plain(prompts=asked | {"terse": True}))) & set(ids(plain(prompts=asked)))
    with pytest.raises(SuiteError, match="a terse caption states nothing hidden"):
        parse(plain(prompts=asked | {"terse": True, "stated": 0.5}), "s")


def test_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\n\n b \n", encoding="utf-8")
    assert ids(plain(prompts={"file": str(path)})) == ids(plain())


@pytest.mark.parametrize(
    ("visible", "found"), [("0", 0), ("2,0", 2), ("GPU-abc", "GPU-abc"), ("MIG-1, 0", "MIG-1")]
)
def test_the_card_is_the_first_that_cuda_sees(visible: str, found: int | str) -> None:
    asked = SimpleNamespace(nvmlDeviceGetHandleByIndex=int, nvmlDeviceGetHandleByUUID=str)
    assert hardware._first_visible(asked, visible) == found
    for nothing in ("", "NoDevFiles"):
        with pytest.raises(ValueError, match="invalid literal"):
            hardware._first_visible(asked, nothing)


def test_auto_precision_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, dtype in (({"amx_bf16"}, "bf16"), ({"avx512_bf16"}, "bf16"), ({"avx512f"}, "fp32")):
        monkeypatch.setattr(hardware, "gpu_name", lambda: None)
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert systems.knobs_of(systems.make(LAB, {}))["precision"] == dtype
        assert systems.knobs_of(systems.make(LAB, {"precision": "fp32"}))["precision"] == "fp32"
    for capability, dtype in ((9, "bf16"), (7, "fp32")):
        monkeypatch.setattr(hardware, "gpu_name", lambda: "a card")
        monkeypatch.setattr(hardware, "_gpu_capability", lambda capability=capability: capability)
        assert systems.knobs_of(systems.make(LAB, {}))["precision"] == dtype


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid(path: Path) -> None:
    suite = read(path)
    assert suite.name == path.stem
    assert suite.cells()


def test_quick_and_full_ask_for_the_same_settings() -> None:
    quick, full = read(SUITES / "lab.yaml"), read(SUITES / "lab-full.yaml")
    for name in ("teacher", "teacher by UniPC", "student", "truth", "reconstruction", "static", "noise"):
        assert full.systems[name] == quick.systems[name]
    for name in ("teacher", "student"):
        assert full.systems[f"{name} from truth"].points == quick.systems[name].points
    assert (quick.metrics, quick.seeds) == (full.metrics, full.seeds)
    steps = [point["num_inference_steps"] for point in quick.systems["teacher"].points]
    assert steps == [1, 2, 4, 8, 16, 28, 56]
    asked = {point["sparsity"] for point in quick.systems["sparsity"].points}
    assert asked <= set(full.systems["sparsity"].axes["sparsity"])
    assert quick.systems["long video"].metrics == full.systems["long video"].metrics


def test_the_quick_sweep_times_every_row_of_the_claims_step_table_but_the_controls() -> None:
    timed = [cell.knobs for cell in read(SUITES / "lab.yaml").cells() if "num_inference_steps" in cell.knobs]
    trials = [item for item in steps.step_table(FULL) if isinstance(item, Evaluate) and item.of is None]
    assert len(trials) == 21
    for knobs in (trial.knobs for trial in trials):
        task = "text to video" if knobs["task"] == "image to video" else knobs["task"]
        wanted = {**knobs, "task": task, "batch_size": 1, "sparsity": "none"}
        if wanted["shift"] is None:
            del wanted["shift"]
        assert any(
            wanted.items() <= cell.items()
            and cell.get("solver") == wanted.get("solver")
            and "seconds" not in cell
            for cell in timed
        ), wanted


def test_the_quick_sweep_turns_every_knob_from_a_cell_that_is_there() -> None:
    """A curve needs its neighbours: a pruned cell differs from the teacher's in its sparsity alone."""
    cells = read(SUITES / "lab.yaml").cells()
    for knob in ("num_inference_steps", "sparsity", "batch_size", "seconds", "window", "overlap"):
        rest = [
            (cell.adapter, {name: value for name, value in cell.knobs.items() if name != knob})
            for cell in cells
            if knob in cell.knobs and cell.role == "system"
        ]
        assert max(rest.count(one) for one in rest) > 1, knob


def test_the_schema_knows_every_key() -> None:
    schema = Suite.model_json_schema()
    assert set(schema["properties"]) == set(Suite.model_fields)
    assert schema["additionalProperties"] is False


def test_a_resolved_suite_reads_back() -> None:
    suite = parse(plain(), "s")
    assert parse(yaml.safe_load(yaml.safe_dump(suite.model_dump(mode="json"))), "again") == suite


def test_knobs_are_the_fields() -> None:
    assert knob_names(Fake) == ["num_inference_steps", "batch_size", "latency", "memory", "outcome", "stage"]


def test_an_exam_is_one_more_question_and_changes_no_other() -> None:
    without = parse(plain(), "s").cells()
    cells = parse(plain(exam=16), "s").cells()
    assert [cell.id for cell in cells[:-1]] == [cell.id for cell in without]
    assert cells[-1].kind == "exam"
    assert cells[-1].id != parse(plain(exam=17), "s").cells()[-1].id


def test_a_scorer_without_exam_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.baselines.fake

    monkeypatch.delattr(bench.baselines.fake.FakeScorer, "exam")
    with pytest.raises(SuiteError, match="fake:SCORER has none"):
        parse(plain(exam=16), "s").cells()


def test_a_system_may_have_prompts_and_metrics_of_its_own() -> None:
    long = {
        "adapter": FAKE,
        "knobs": {"latency": 0.5},
        "prompts": {"texts": ["a"]},
        "metrics": ["brightness"],
    }
    suite = parse(plain(systems=plain()["systems"] | {"long": long | {"warmup": 0, "repeats": 1}}), "s")
    *shared, own = suite.cells()
    assert [cell.id for cell in shared] == ids(plain())  # what others are asked does not change
    assert (own.prompts.count, list(own.protocols)) == (1, ["brightness"])
    asked = suite.asked_of("long")
    assert (len(asked.requests()), asked.warmup, asked.repeats, asked.metrics) == (1, 0, 1, ["brightness"])
    assert suite.asked_of("fake") == suite.asked_of("exam of the scores") == suite
    alone = parse(plain(systems={"any": long}, warmup=0, repeats=1), "s").cells()[0]
    assert (
        own.id
        == alone.id
        == parse(
            plain(systems={"x": {"adapter": FAKE, "knobs": {"latency": 0.5}}}, warmup=0, repeats=1)
            | {"prompts": {"texts": ["a"]}, "metrics": ["brightness"]},
            "s",
        )
        .cells()[0]
        .id
    )
    with pytest.raises(SuiteError, match="systems.long.metrics` names a value twice"):
        parse(plain(systems={"long": long | {"metrics": ["noise", "noise"]}}), "s")


@dataclass
class Chosen(Fake):
    """What only an override makes whole: at four steps it takes no guidance."""

    guided: bool = True

    def __post_init__(self) -> None:
        if self.num_inference_steps == 4 and self.guided:
            raise SuiteError("four steps take no guidance")


def test_a_point_that_an_override_makes_whole_is_planned() -> None:
    overrides = [
        {"when": {"num_inference_steps": 2}, "set": {"guided": True}},
        {"when": {"num_inference_steps": 4}, "set": {"guided": False}},
    ]
    spec = SystemSpec.model_validate(
        {
            "adapter": f"{__name__}:Chosen",
            "axes": {"num_inference_steps": [2, 4]},
            "overrides": overrides,
        }
    )
    assert [point["guided"] for point in spec.knob_points("chosen")] == [True, False]
