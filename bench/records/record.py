"""One line of records.jsonl: the record of a cell, and what it is made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, FiniteFloat, model_validator

from bench.records.base import Frozen

WINDOW = "window"
"""A window of a long video, as `magic141.stages` names it: a stage around the stages of its making."""
MASKED = "masked: as large and as slow as dense"
"""The flag of a cell whose weights are set to zero and stored all the same: its time and size are the dense model's."""
END_TO_END = "end to end"
"""The stage every cell has: text in, encoded file out, for one batch of clips, warm."""
RANDOM_WEIGHTS = "random-weights"
"""The flag of a cell whose weights were never trained: its latency and memory hold, and it has no scores."""
DECIDED = ("weights-missing", "unsupported")
"""Outcomes that say that a question could not be asked."""
DISTURBED = "disturbed"
"""The flag of a cell whose timed samples other work disturbed, too many of them to leave those out."""

Kind = Literal["cell", "analytic", "exam", "gate"]
Outcome = Literal["ok", "oom", "timeout", "unsupported", "weights-missing", "invalid", "crashed"]
Knob = bool | int | float | str | None
NOT_MEASURABLE: Literal["not measurable"] = "not measurable"
Bytes = Annotated[int, Field(gt=0)] | Literal["not measurable"]
"""A byte count, or the words `not measurable`. Never 0: a zero measurement is a failed one."""


class Timing(Frozen):
    """Seconds of one stage. `low` and `high` bound the median at 95 % (None below 5 samples)."""

    median: float = Field(gt=0)
    low: float | None = Field(None, gt=0)
    high: float | None = Field(None, gt=0)
    n: int = Field(gt=0)
    samples: tuple[float, ...] = ()


class ColdStart(Frozen):
    """Seconds that a user pays once, apart from the steady state."""

    imports: float | None = Field(None, ge=0, description="preloading the libraries, once a run")
    spawn: float | None = Field(None, ge=0, description="from asking for the process to its first line")
    load: float | None = Field(None, ge=0, description="weights from disk to a system that is ready")
    first: float | None = Field(None, ge=0, description="the first generation after loading, text to file")
    compile: float | None = Field(
        None,
        ge=0,
        description="what first and warm-up generations took beyond steady ones: compiling, tuning",
    )


SLOWER = 1.25
"""Times as long that a fixed piece of work may take beside a cell, as beside most, on a machine that is as fast."""


class Contamination(Frozen):
    """What else the machine did during one timed sample; see bench/contamination.py for the limits."""

    seconds: float = Field(gt=0)
    steal: float | None = Field(
        None, description="share of the cores' time that the hypervisor gave to others"
    )
    pressure: float | None = Field(None, description="share of the time in which some task waited for a core")
    switches: float | None = Field(None, description="involuntary context switches, a second and thread")
    foreign: float | None = Field(None, description="share of the cores that other processes used")
    pace: float | None = Field(
        None, gt=0, description="seconds of a fixed piece of work, the mean of before and after"
    )
    gpu_clock: int | None = Field(None, description="MHz")
    gpu_throttle: tuple[str, ...] = ()
    gpu_others: int = Field(0, description="other processes that compute on the GPU")
    reasons: tuple[str, ...] = Field((), description="limits that were crossed; none: the sample is valid")


ALLOCATED, TENSORS, RESIDENT = "allocated", "live tensors", "resident"
SMALL_PART, BESIDE_TENSORS = 8, 1 << 27
"""Resident bytes at which tensors are a small part: eight times theirs, where a lab model has twice, and 128 MiB, below
which allocators and caches are most of it."""


class Peak(NamedTuple):
    """`bytes` of a kind that others may not have: only peaks of one kind can be compared."""

    bytes: int
    kind: str


class Memory(Frozen):
    """Peaks in bytes over one warm generation; of a failed cell, those so far."""

    tensors: Bytes = Field(description="live tensor bytes, parameters included (CPU)")
    resident: Bytes = Field(description="anonymous resident set above the post-import baseline")
    cuda_allocated: Bytes
    cuda_reserved: Bytes
    nvml_process: Bytes
    cuda_by_stage: dict[str, int] = Field(default_factory=dict, description="peak allocated bytes per stage")

    @property
    def peak(self) -> Peak | None:
        """The peak to show and to compare by: on a GPU allocated there, else of live tensors; resident where those are
        not counted, or are but a small part of what the process holds, as of a system that computes in numpy.
        """
        if self.cuda_allocated != NOT_MEASURABLE:
            return Peak(int(self.cuda_allocated), ALLOCATED)
        resident = None if self.resident == NOT_MEASURABLE else int(self.resident)
        if self.tensors != NOT_MEASURABLE:
            tensors = int(self.tensors)
            if resident is None or resident < max(SMALL_PART * tensors, BESIDE_TENSORS):
                return Peak(tensors, TENSORS)
        return None if resident is None else Peak(resident, RESIDENT)


class Windows(Frozen):
    """Pace of a long video that is made window by window, in seconds, over the timed generations."""

    first_frame: Timing = Field(description="from the prompt to the first window's frames, one a generation")
    later: Timing | None = Field(None, description="every later window; None where there is none")
    jitter: float | None = Field(None, ge=0, description="standard deviation of the later windows")
    slowest: float | None = Field(None, gt=0, description="of the later windows: what a player must buffer")


class Score(Frozen):
    """One number of one metric over a cell, with its 95 % interval.

    `value` is None where the metric is not defined for these clips, and then `note` says why. `floor` is what
    truth scores against truth, already subtracted. `better` = "target" means: nearer to `target` is better.
    """

    value: FiniteFloat | None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    n: int = Field(gt=0)
    protocol: str = Field(min_length=1, description="scores with different protocols are not comparable")
    better: Literal["higher", "lower", "target"]
    target: FiniteFloat | None = None
    floor: FiniteFloat | None = None
    unit: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _missing_needs_a_reason(self) -> Self:
        if self.value is None and not self.note:
            raise ValueError("a score without a value needs a note that says why")
        if (self.better == "target") != (self.target is not None):
            raise ValueError("`target` goes with better='target', and only with it")
        return self


class Clip(Frozen):
    """A stored sample. `path` is relative to the run folder, with forward slashes."""

    index: int = Field(ge=0, description="place of the prompt in the cell's prompt list")
    prompt: str
    seed: int
    path: str
    role: Literal["fixed", "worst"] = "fixed"
    sha256: str | None = Field(None, description="of the file")


class Sidecar(Frozen):
    path: str
    sha256: str
    rows: int


class Prompts(Frozen):
    """Which prompts a cell asks: a world split and count, or a list; `sha256` covers the texts."""

    source: str
    count: int = Field(gt=0)
    sha256: str


class Record(Frozen):
    """One line of records.jsonl. A failed cell is a row too: `outcome`, `message`, `stage_reached` tell."""

    schema_version: Literal[1] = 1
    kind: Kind = Field(
        "cell",
        description="exam, analytic: their samples are `ExamRow`s, `AnalyticRow`s, and nothing is timed",
    )
    cell: str = Field(description="hash of the question: system, knobs, weights, prompts, seeds, protocols")
    fingerprint: str = Field(description="hash of the answer's environment")
    adapter: str = Field("", description="package.module:Class of the system; empty in records of before")
    sources_sha256: str | None = Field(
        None, description="of the adapter's and scorer's code, as far as it lies outside this repository"
    )
    suite: str
    system: str
    role: Literal["system", "reference"] = "system"
    knobs: dict[str, Knob] = Field(
        default_factory=dict, description="as resolved: precision auto is a dtype here"
    )
    weights_sha256: str | None = None
    prompts: Prompts | None = None
    seeds: tuple[int, ...] = ()
    outcome: Outcome
    message: str = ""
    stage_reached: str | None = None
    cold_start: ColdStart = ColdStart()
    stages: dict[str, Timing] = Field(
        default_factory=dict,
        description="END_TO_END and its parts; a stage entered k times a generation has k samples for its one",
    )
    real_time_factor: Timing | None = Field(None, description="wall / video seconds, end to end, warm")
    contamination: tuple[Contamination, ...] = Field(
        (), description="of every timed sample, also of invalid ones"
    )
    empty_region_seconds: float | None = Field(None, description="what timing itself costs a stage")
    memory: Memory | None = None
    parameter_bytes: int | None = Field(
        None, gt=0, description="of the network that sparsity changes, as stored: zeros count in full"
    )
    windows: Windows | None = None
    counters: dict[str, int | float] = Field(default_factory=dict, description="of one call of a gate's cell")
    energy_joules: float | None = Field(None, gt=0, description="per batch of clips, the whole card")
    scores: dict[str, Score] = Field(default_factory=dict)
    samples: Sidecar | None = None
    clips: tuple[Clip, ...] = ()
    flags: tuple[str, ...] = Field((), description="e.g. overhead-bound, disturbed")
    warnings: tuple[str, ...] = ()
    command: str = Field(description="reproduces this row, from the repository root")
    started: datetime
    seconds: float = Field(ge=0, description="wall seconds of the cell in all")

    @model_validator(mode="after")
    def _ok_means_measured(self) -> Self:
        if self.kind == "cell" and self.outcome == "ok":
            if END_TO_END not in self.stages:
                raise ValueError(f"a cell without the stage {END_TO_END!r} cannot have outcome 'ok'")
            if self.memory is None or self.real_time_factor is None:
                raise ValueError("a cell without memory or real-time factor cannot have outcome 'ok'")
        if self.outcome != "ok" and not self.message:
            raise ValueError(f"outcome {self.outcome!r} needs a message")
        return self
