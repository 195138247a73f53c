"""The record of a benchmark cell, the manifest of a run, and the append-only store. Imports no torch.

A run is a folder:

    run.json          the manifest: suite, environment, plan with predicted and measured budget
    records.jsonl     one `Record` a line, appended by the driver alone
    samples/ID.jsonl  one line per prompt and seed of cell ID: its scores, for paired comparisons
    clips/ID/*.mp4    sample clips, named in `Record.clips`

Samples are JSON lines and not parquet or npz: rows are few (prompts x seeds), floats round-trip exactly,
`pandas.read_json(lines=True)`, `jq` and `diff` read them, and no reader needs a binary dependency.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

SCHEMA_VERSION = 1
WINDOW = "window"
"""A window of a long video, as `magic141.stages` names it: a stage around the stages of its making."""
MASKED = "masked: as large and as slow as dense"
"""The flag of a cell whose weights are set to zero and stored all the same: its time and size are the dense model's."""
END_TO_END = "end to end"
"""The stage every cell has: text in, encoded file out, for one batch of clips, warm."""

Kind = Literal["cell", "analytic", "exam", "gate"]
Outcome = Literal["ok", "oom", "timeout", "unsupported", "weights-missing", "invalid", "crashed"]
Knob = bool | int | float | str | None
RANDOM_WEIGHTS = "random-weights"
"""The flag of a cell whose weights were never trained: its latency and memory hold, and it has no scores."""
NOT_MEASURABLE: Literal["not measurable"] = "not measurable"
Bytes = Annotated[int, Field(gt=0)] | Literal["not measurable"]
"""A byte count, or the words `not measurable`. Never 0: a zero measurement is a failed one."""


class RecordError(Exception):
    """A record, manifest or sidecar file cannot be read; the message names file, line and remedy."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Contamination(Frozen):
    """What else the machine did during one timed sample; see bench/contamination.py for the limits."""

    seconds: float = Field(gt=0)
    steal: float | None = Field(
        None, description="share of the cores' time that the hypervisor gave to others"
    )
    pressure: float | None = Field(None, description="share of the time in which some task waited for a core")
    switches: float | None = Field(None, description="involuntary context switches, a second and thread")
    foreign: float | None = Field(None, description="share of the cores that other processes used")
    gpu_clock: int | None = Field(None, description="MHz")
    gpu_throttle: tuple[str, ...] = ()
    gpu_others: int = Field(0, description="other processes that compute on the GPU")
    reasons: tuple[str, ...] = Field((), description="limits that were crossed; none: the sample is valid")


class Memory(Frozen):
    """Peaks in bytes over one warm generation; of a failed cell, those so far."""

    tensors: Bytes = Field(description="live tensor bytes, parameters included (CPU)")
    resident: Bytes = Field(description="anonymous resident set above the post-import baseline")
    cuda_allocated: Bytes
    cuda_reserved: Bytes
    nvml_process: Bytes
    cuda_by_stage: dict[str, int] = Field(default_factory=dict, description="peak allocated bytes per stage")


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


class ExamRow(Frozen):
    """How one score answers to one corruption of truth clips: a line of an exam's samples."""

    score: str
    corruption: str
    values: tuple[float, ...] = Field(min_length=2, description="by amount of harm, truth first")
    monotone: float = Field(ge=-1, le=1, description="Spearman's rank correlation of amount and value")
    signal: float = Field(description="shift at the worst amount over the standard error at n clips")
    n: int = Field(gt=0, description="clips for which the standard error is stated")
    verdict: Literal["sees", "moves", "blind", "fooled"]


class AnalyticRow(Frozen):
    """What one system must cost for one clip, by arithmetic alone: a line of an analytic record's samples."""

    system: str
    setting: str = Field(description="size of the clip, steps, passes a step")
    parameters: int = Field(gt=0, description="of all denoisers, counted on the meta device")
    vae_parameters: int = Field(gt=0)
    parameter_bytes: int = Field(gt=0, description="denoisers and VAE in bf16; no text encoder")
    claimed: str = Field(description="size in the publication's words")
    deviation_from_claim: float | None = Field(description="of one denoiser, as a fraction")
    deviation_from_checkpoint: float | None = Field(description="from the published checkpoint's own count")
    video_tokens: int = Field(gt=0)
    other_tokens: int = Field(ge=0, description="of text, image conditions and sound")
    pass_flops: float = Field(gt=0, description="one forward pass of one clip")
    attention_share: float = Field(ge=0, le=1)
    passes: int = Field(gt=0, description="forward passes a clip, guidance included")
    clip_flops: float = Field(gt=0)
    clip_seconds: float = Field(gt=0, description="seconds of video")
    floor_seconds: dict[str, float] = Field(description="roofline of the denoising of a clip, by device")
    source: str


class CurvePoint(Frozen):
    """One place of a curve, over the seeds of a claim. `low` and `high` span them at 95 % (None with one seed)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Curve(Frozen):
    """A line of a claim's figure."""

    name: str
    points: tuple[CurvePoint, ...]


class ClaimRow(Frozen):
    """A line of the claims table: what the paper says, what was asked here, and what came out."""

    id: str
    claim: str
    paper: str = Field(description="the paper's number")
    protocol: str
    sample: str = Field(description="sample size and seeds")
    threshold: str = Field(description="stated before the runs")
    value: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    verdict: Literal["reproduced", "not reproduced", "not testable here", "not run yet"]
    note: str = ""
    earlier: str = Field("", description="what an earlier asking of the same claim found")
    departure: str = Field("", description="where what was done is not what the protocol says")
    x_label: str = ""
    y_label: str = ""
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _a_verdict_rests_on_a_number(self) -> Self:
        if self.verdict in ("reproduced", "not reproduced") and self.value is None:
            raise ValueError(f"verdict {self.verdict!r} needs a value")
        return self


class StepRow(Frozen):
    """What a model makes in so many steps. `passes`: of its transformer, for a clip."""

    model: str
    steps: int
    passes: int
    scores: dict[str, Score]


class ClaimsTable(Frozen):
    """claims.json, beside the runs of a results folder: the last state of all claims. `teacher`: of its weights.

    steps: models of this lab, at numbers of steps (claims d), asked as `steps_protocol` says.
    """

    schema_version: Literal[1] = 1
    scale: str
    teacher: str = ""
    rows: tuple[ClaimRow, ...]
    steps: tuple[StepRow, ...] = ()
    steps_protocol: str = ""


CLAIMS = "claims.json"
PUBLISHED_CLAIMS = Path(__file__).parent / "claims" / "published" / CLAIMS
"""The table that is committed, for results folders that have none."""


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


class Environment(Frozen):
    """Where a run took place. `fingerprint` hashes every field that can change a number."""

    source_sha256: str = Field(description="the files of magic141, evals and bench that can change numbers")
    constraints_sha256: str | None
    commit: str | None
    dirty: bool | None
    platform: str
    python: str
    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    versions: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of the environment. The commit is left out: the source hash says more, and says it exactly."""
        return digest(self.model_dump(mode="json", exclude={"commit", "dirty"}))


class Budget(Frozen):
    cells: int
    seconds: float
    bytes: int


class PlannedCell(Frozen):
    cell: str
    system: str
    knobs: dict[str, Knob]
    seconds: float = Field(ge=0, description="predicted")
    bytes: int = Field(ge=0, description="predicted disk")
    flags: tuple[str, ...] = Field((), description="what its system says of itself beforehand")


class FirstClip(Frozen):
    path: str
    prompt: str
    system: str
    seconds: float
    real_time_factor: float


class Manifest(Frozen):
    """run.json: what a run was asked, where it ran, and predicted against measured budget."""

    schema_version: Literal[1] = 1
    run: str
    suite: str
    suite_path: str = Field("", description="the file that the suite came from")
    question: dict[str, Any] = Field(description="the suite as resolved, every default written out")
    command: str
    started: datetime
    finished: datetime | None = None
    fingerprint: str
    environment: Environment
    plan: tuple[PlannedCell, ...]
    shard: str | None = Field(
        None, description="i/n where this run answers every n-th cell of what was asked"
    )
    asked: tuple[PlannedCell, ...] = Field((), description="of a shard: the cells of all shards")
    predicted: Budget
    measured: Budget | None = None
    first_clip: FirstClip | None = None

    @classmethod
    def read(cls, run: Path) -> Self:
        """Raises `RecordError` where RUN has no readable run.json."""
        path = run / "run.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{run} is no run: it has no run.json") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise RecordError(f"{path} cannot be read as schema version {SCHEMA_VERSION}: {error}") from error

    def write(self, run: Path) -> None:
        write_atomically(run / "run.json", self.model_dump_json(indent=1) + "\n")


def digest(value: object, length: int = 16) -> str:
    """First `length` hex digits of the sha256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def write_atomically(path: Path, text: str) -> None:
    """Writes beside `path`, then renames: a reader sees the old text or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """The append-only records.jsonl of a run. Readers use `records`; only the driver calls `append`."""

    def __init__(self, run: Path) -> None:
        self.path = run / "records.jsonl"

    @classmethod
    def at(cls, path: Path) -> Self:
        """A store in a file of any name, outside a run: baselines of gates."""
        store = cls(path.parent)
        store.path = path
        return store

    def records(self) -> list[Record]:
        """All complete lines. A torn last line (no newline: the writer was killed) is not there yet.

        Raises `RecordError` for a complete line that is no record.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [self._parse(number, line) for number, line in enumerate(lines, 1)]

    def repair(self) -> bool:
        """Cuts a torn last line, so that the next append starts a line of its own. True if there was one."""
        if not self.path.exists():
            return False
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == len(content):
            return False
        with self.path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
        return True

    def append(self, record: Record) -> None:
        """One write, then fsync: after a return the record survives a kill of this process or the machine.

        Raises `RecordError` where the disk refuses (it is full); the store is then as it was.
        """
        line = record.model_dump_json().encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:  # a buffer would be written once more when it closes
            end = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self.path, end)
                raise RecordError(
                    f"{self.path} takes no more ({error.strerror}): its records are whole; free some space, then "
                    f"--resume {self.path.parent} runs what is left"
                ) from error

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            version = json.loads(line).get("schema_version")
            if version != SCHEMA_VERSION:
                raise RecordError(
                    f"{self.path}:{number} has schema version {version}; this bench reads {SCHEMA_VERSION}"
                )
            return Record.model_validate_json(line)
        except (ValueError, AttributeError) as error:
            raise RecordError(
                f"{self.path}:{number} is no record: {error}. Only the last line can be torn by a kill, so "
                "the file was edited or its disk is damaged: restore it, or delete the line and use --resume"
            ) from error


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of every cell, in order of first appearance: a cell that ran again replaces itself."""
    return {record.cell: record for record in records}


def write_samples(run: Path, cell: str, rows: Sequence[Mapping[str, Any]]) -> Sidecar:
    """Writes samples/CELL.jsonl. Rows of a cell have `index`, `prompt`, `seed`; a missing score is null."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path = run / "samples" / f"{cell}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Sidecar(path=path.relative_to(run).as_posix(), sha256=sha256, rows=len(rows))


def read_samples(run: Path, record: Record) -> Iterator[dict[str, Any]]:
    """Rows of a record's sidecar. Raises `RecordError` where the file is gone or is not the recorded one."""
    if record.samples is None:
        raise RecordError(f"cell {record.cell} ({record.outcome}) has no samples")
    path = run / record.samples.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"samples of cell {record.cell} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != record.samples.sha256:
        raise RecordError(
            f"{path} is not what its record names (sha256 differs): run the cell again with --resume"
        )
    yield from map(json.loads, content.splitlines())
