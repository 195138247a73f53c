"""What a system under test must offer. Ours and third parties' come through this one door.

A system is a dataclass whose fields are its knobs: a suite's knobs are checked against their names and types,
and their defaults become part of the question. A knob such as `auto` is resolved in `__post_init__`, so that
records say what it meant. A complete one:

    @dataclass
    class Adapter:
        num_inference_steps: int = 4
        batch_size: int = 1                       # read by the bench: clips per timed generation

        imports: ClassVar[tuple[str, ...]] = ("torch", "mypackage")   # imported once, before any cell
        fps: ClassVar[int] = 16

        def weights(self) -> str | None:          # sha256 of what `load` loads; None where there are none
            return None

        def seconds_per_clip(self) -> float:      # a rough guess, for the plan
            return 1.0

        def load(self) -> None: ...               # heavy imports belong here, not at the top of the module

        def generate(self, requests, stages) -> Output:
            with stages("denoise"):                  # device synchronised at both edges
                ...
            return Output(frames)                 # uint8, (N, T, H, W, 3)

        def facts(self) -> Facts:                 # of the loaded system; may be left out
            return Facts(parameter_bytes=10_000_000)

It may have `flags`, a tuple of words that every one of its records then carries: with `random-weights` its cells are
timed and never scored.

Name it in a suite as `adapter: mypackage.mymodule:Adapter`. Raise `bench.errors.UnsupportedError` for a
question that it cannot answer and `magic141.errors.WeightsMissing` where weights are not found: each is an
outcome of its own.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

import numpy as np
from pydantic import TypeAdapter, ValidationError

from bench.errors import InvalidOutputError, SuiteError, nearest
from bench.records import END_TO_END, Knob
from magic141.errors import Magic141Error
from magic141.stages import DENOISE, FILE_ENCODE, IMAGE, IMAGE_ENCODE, TEXT_ENCODE, VAE_DECODE

if TYPE_CHECKING:
    from magic141.data.world import Scene

T = TypeVar("T")

STAGES = (TEXT_ENCODE, IMAGE, IMAGE_ENCODE, DENOISE, VAE_DECODE, FILE_ENCODE)
"""In the order of tables. A system may mark others; the bench itself marks `FILE_ENCODE`."""


RESERVED = (END_TO_END, FILE_ENCODE)
"""Stages that the bench marks, and no system may."""

LATER = "later"
"""Metadata of a knob's field, true where there were answers before there was such a knob: left at its default it is no
part of the question, so that they still answer it."""


@dataclass(frozen=True)
class Request:
    """One clip to make. `seed` is the generator's; `scene` is set for prompts of the lab world."""

    index: int
    prompt: str
    seed: int
    scene: Scene | None = None


@dataclass(frozen=True)
class Output:
    """`frames` uint8 (N, T, H, W, 3). `first_frames` uint8 (N, H, W, 3): what each clip was to start from.

    `starts`: of a long video made in windows, the first new frame of each, 0 first; the same for all N.
    """

    frames: np.ndarray
    first_frames: np.ndarray | None = None
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a loaded system says about itself: for `Record.parameter_bytes` and `Record.flags`."""

    parameter_bytes: int | None = None
    flags: tuple[str, ...] = ()


class Stages(Protocol):
    """Marks a stage: `with stages("VAE decode"): …`. May nest; costs a few microseconds."""

    def __call__(self, name: str, /) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Marks:
    """`stages` for a system: those that the bench marks itself are refused, or their times would be of two things."""

    stages: Stages

    def __call__(self, name: str, /) -> AbstractContextManager[None]:
        if not isinstance(name, str) or name in RESERVED:
            raise InvalidOutputError(f"stage {name!r} is marked by the bench itself: call it something else")
        return self.stages(name)


class System(Protocol):
    imports: ClassVar[tuple[str, ...]]
    fps: ClassVar[int]

    def weights(self) -> str | None: ...

    def seconds_per_clip(self) -> float: ...

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output: ...


def find(path: str, kind: str = "adapter") -> Any:
    """The object at `package.module:Name`. Raises SuiteError naming the part that does not exist."""
    module_name, separator, name = path.partition(":")
    if not separator or not name:
        raise SuiteError(f"{kind} {path!r} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # somebody's module may raise anything
        raise SuiteError(
            f"{kind} {path!r}: module {module_name!r} cannot be imported ({_said(error)})"
        ) from error
    if not hasattr(module, name):
        raise SuiteError(f"{kind} {path!r}: {module_name} has no {name!r}{nearest(name, vars(module))}")
    return getattr(module, name)


def make(path: str, knobs: Mapping[str, Knob]) -> System:
    """An instance of the adapter at `path`, not loaded yet. Raises SuiteError for a wrong knob, or one that no record
    could hold.
    """
    adapter = find(path)
    if not dataclasses.is_dataclass(adapter):
        raise SuiteError(f"adapter {path!r} is no dataclass: its fields are its knobs (see bench/systems.py)")
    known = knob_names(adapter)
    for name in knobs:
        if name not in known:
            raise SuiteError(f"{path} has no knob {name!r}{nearest(name, known)} Known: {', '.join(known)}")
    try:
        system: System = TypeAdapter(adapter).validate_python(dict(knobs))
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            reason = f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {reason}"
        raise SuiteError(f"{path}: {reason}") from error
    except Magic141Error:
        raise
    except (Exception, SystemExit) as error:
        raise SuiteError(f"{path} cannot be made of these knobs: {_said(error)}") from error
    for name, value in knobs_of(system).items():
        if not _is_knob(value):
            raise SuiteError(
                f"{path}: {name}={value!r} is no knob: give it a value, or a default, that is a finite number, a text, "
                "true, false or null"
            )
    return system


METHODS = ("weights", "seconds_per_clip", "load", "generate")


def ask(path: str, method: str, question: Callable[[], T]) -> T:
    """What a system answers while a run is planned. Raises SuiteError naming adapter and method where it raises
    anything but a typed error.
    """
    try:
        return question()
    except Magic141Error:
        raise
    except (Exception, SystemExit) as error:
        raise SuiteError(f"{path}: {method} raised {_said(error)}") from error


def check_members(path: str, system: System) -> None:
    """Raises SuiteError where a method is missing, `imports` or `flags` are no texts, or `fps` no positive integer."""
    for name in METHODS:
        if not callable(_member(path, system, name)):
            raise SuiteError(f"{path} has no method {name}(): see bench/systems.py for what a system offers")
    for name, absent, what in (("imports", None, "names of modules"), ("flags", (), "words")):
        check_texts(path, name, _member(path, system, name, absent), what)
    fps = _member(path, system, "fps")
    if not isinstance(fps, int) or isinstance(fps, bool) or fps < 1:
        raise SuiteError(f"{path}: fps={fps!r} is no positive integer: give the frames a second of its clips")


def check_texts(owner: str, name: str, found: object, what: str) -> None:
    """Raises SuiteError unless what `owner` has under `name` is a tuple or list of texts."""
    if not isinstance(found, tuple | list) or not all(isinstance(word, str) for word in found):
        raise SuiteError(f"{owner}: {name}={found!r} are no {what}: give a tuple of texts")


def _member(path: str, system: System, name: str, absent: object = None) -> object:
    """What the system has under `name`, which may be a property that raises."""
    return ask(path, name, lambda: getattr(system, name, absent))


def weights(path: str, system: System) -> str | None:
    """What the system says of its weights. Raises WeightsMissing, and SuiteError where that is no text."""
    found = ask(path, "weights()", lambda: system.weights())
    if found is not None and not isinstance(found, str):
        raise SuiteError(
            f"{path}: weights() is {found!r}: return their sha256 as text, or None where there are none"
        )
    return found


def seconds_per_clip(path: str, system: System) -> float:
    """The system's own guess. Raises SuiteError where that is no number of seconds."""
    guess: object = ask(path, "seconds_per_clip()", lambda: system.seconds_per_clip())
    if not isinstance(guess, Real) or not 0 <= float(guess) < math.inf:
        raise SuiteError(
            f"{path}: seconds_per_clip() is {guess!r}, not a number of seconds: return a rough guess"
        )
    return float(guess)


def count(path: str, knobs: Mapping[str, Knob], name: str, absent: int) -> int:
    """The value of a knob that the bench itself reads, `absent` where there is none or it is null.

    Raises SuiteError unless it is a whole number of 1 or more.
    """
    value = knobs.get(name)
    if value is None:
        return absent
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SuiteError(f"{path}: {name}={value!r} must be 1 or more, and whole: the bench reads this knob")
    return value


def knobs_of(system: System) -> dict[str, Knob]:
    """Every knob with its value, defaults written out, but for those of `LATER` knobs."""
    return {
        field.name: value
        for field in dataclasses.fields(cast(Any, system))
        if field.init
        and not ((value := getattr(system, field.name)) == field.default and field.metadata.get(LATER))
    }


def _is_knob(value: object) -> bool:
    finite = not isinstance(value, float) or math.isfinite(value)
    return finite and (value is None or isinstance(value, bool | int | float | str))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def knob_names(adapter: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(adapter) if field.init]


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1], any float type, as uint8. Raises InvalidOutputError for NaN and infinities."""
    if not np.isfinite(frames).all():
        bad = frames.size - int(np.isfinite(frames).sum())
        raise InvalidOutputError(f"{bad:,} of {frames.size:,} values are not finite")
    return (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)


def facts_of(system: System) -> Facts:
    """What a loaded system says about itself, if it says anything."""
    ask: Callable[[], Facts] | None = getattr(system, "facts", None)
    return Facts() if ask is None else ask()


def check_output(output: Output, count: int) -> None:
    """Raises InvalidOutputError unless `output` holds `count` videos with something in each of them, and first frames
    that fit them, if any.
    """
    check_shape(output, count)
    frames = output.frames
    flat = np.flatnonzero(frames.reshape(count, -1).max(1) == frames.reshape(count, -1).min(1))
    if flat.size:  # what a NaN looks like once it is cast
        raise InvalidOutputError(
            f"{flat.size} of {count} clips are one flat colour, the first is clip {flat[0]}"
        )


def check_shape(output: Output, count: int) -> None:
    """Raises InvalidOutputError unless `output` can be written as `count` videos; costs nothing."""
    held: object = getattr(output, "frames", output)
    if held is output or not isinstance(held, np.ndarray):
        raise InvalidOutputError(
            f"generate returned {type(held).__name__}: return Output(frames), a numpy array uint8 (N, T, H, W, 3)"
        )
    frames, first = output.frames, output.first_frames
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise InvalidOutputError(f"frames are {frames.dtype} {frames.shape}, not uint8 (N, T, H, W, 3)")
    if len(frames) != count or frames.shape[1] < 2:
        raise InvalidOutputError(
            f"frames have shape {frames.shape} for {count} requests; a clip has 2 frames or more"
        )
    height, width = frames.shape[2:4]
    if height % 2 or width % 2 or not height or not width:
        raise InvalidOutputError(
            f"frames are {width}x{height}: sides must be even, because files are H.264; crop or pad one pixel"
        )
    if first is not None and (first.dtype != np.uint8 or first.shape != (count, height, width, 3)):
        raise InvalidOutputError(
            f"first_frames are {first.dtype} {first.shape}, not uint8 {(count, height, width, 3)}"
        )
