"""What the pipeline and the command line refuse before any work starts. Imports no torch.

Every check raises InputError naming the value, the limit and the remedy, and returns nothing.
"""

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from numbers import Integral, Real

from tokenizers import Tokenizer

from magic141.data.world import STATING
from magic141.errors import InputError

Schedule = Sequence[tuple[float, str]]
"""Prompts and the second from which each is shown."""

MAX_SECONDS = 24 * 3600
FRAME_GROUP = 4
"""Frames in a latent frame; the first frame of a clip has a latent frame to itself."""
EXAMPLE = "a small red ring drifting left over dark stripes"
"""Says what every caption in training said: object, motion and background. Of less, the lab makes noise."""
MAX_WORDS = 38
"""Of a prompt: with the markers of beginning and end, the 40 tokens that the lab's text encoder reads."""


def check_prompt(tokenizer: Tokenizer, prompt: str, allow_empty: bool = False) -> None:
    """`prompt` has words, at most `MAX_WORDS`, and all of them in the vocabulary of the word-level `tokenizer`."""
    words = _words(tokenizer, prompt)
    if not words and not allow_empty:
        raise InputError(f"prompt {prompt!r} has no words: describe the scene, such as {EXAMPLE!r}")
    if len(words) > MAX_WORDS:
        raise InputError(f"prompt has {len(words)} words, the limit is {MAX_WORDS}: shorten it: {prompt!r}")
    known = sorted(word for word in tokenizer.get_vocab() if not word.startswith("<"))
    taught = [word for word in known if word not in STATING]
    if unknown := [word for word in dict.fromkeys(words) if word not in known]:
        hints = []
        for word in unknown:
            near = difflib.get_close_matches(word, taught, n=3, cutoff=0.5)
            hints.append(f"{word!r} (nearest known: {', '.join(near) if near else 'none'})")
        raise InputError(
            f"prompt has words outside the {len(known)} of the lab vocabulary: {'; '.join(hints)}. "
            "All known words are in magic141.data.world.VOCABULARY"
        )


def _words(tokenizer: Tokenizer, prompt: str) -> list[str]:
    return list(tokenizer.normalizer.normalize_str(prompt).split())


def untaught(tokenizer: Tokenizer, prompt: str) -> list[str]:
    """Words of `prompt` that the shipped weights know of and make noise of: no caption of their training had them."""
    return [word for word in dict.fromkeys(_words(tokenizer, prompt)) if word in STATING]


def check_num_frames(num_frames: int) -> None:
    _check_integer("num_frames", num_frames)
    if num_frames < 1 or num_frames % FRAME_GROUP != 1:
        below = max(1, (num_frames - 1) // FRAME_GROUP * FRAME_GROUP + 1)
        near = f"{below} or {below + FRAME_GROUP}" if num_frames > 0 else "33"
        raise InputError(f"num_frames={num_frames} must be {FRAME_GROUP}k+1 (1, 5, 9, …, 33, …): try {near}")


def check_num_inference_steps(num_inference_steps: int) -> None:
    _check_integer("num_inference_steps", num_inference_steps)
    if not 1 <= num_inference_steps <= 1000:
        raise InputError(f"num_inference_steps={num_inference_steps} must lie in 1..1000: 28 is a good start")


def check_flag(name: str, value: object) -> None:
    """Yes, no, or None where that is left to the default."""
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be True or False")


def check_generator(generator: object, count: int) -> None:
    """One for all of `count` prompts, a list with one for each, or none."""
    import torch

    many = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in many):
        raise InputError(f"generator={generator!r} must be a torch.Generator, or a list with one a prompt")
    if isinstance(generator, list) and len(generator) != count:
        raise InputError(f"{len(generator)} generators for {count} prompts: give one for all or one for each")


def check_latents(latents: object, shape: tuple[int, ...]) -> None:
    import torch

    if not isinstance(latents, torch.Tensor):
        raise InputError(
            f"latents are of type {type(latents).__name__} and must be a tensor of shape {shape}"
        )
    if tuple(latents.shape) != shape:
        raise InputError(f"latents have shape {tuple(latents.shape)} and must have {shape}")
    if not torch.isfinite(latents).all():
        raise InputError("latents have values that are not finite: draw them with torch.randn")


def check_guidance_scale(guidance_scale: float, name: str = "guidance_scale") -> None:
    _check_number(name, guidance_scale)
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
        raise InputError(f"{name}={guidance_scale} must be a finite number from 0; 1 turns guidance off")


def check_shift(shift: float | None) -> None:
    if shift is None:
        return
    _check_number("shift", shift)
    if not (math.isfinite(shift) and shift > 0):
        raise InputError(f"shift={shift} must be a finite number above 0; 1 leaves the times evenly spaced")


def check_size(height: int, width: int, multiple: int) -> None:
    for name, value in (("height", height), ("width", width)):
        _check_integer(name, value)
        if value < multiple or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise InputError(f"{name}={value} must be a positive multiple of {multiple}: try {near}")


def check_fps(fps: float) -> None:
    _check_number("fps", fps)
    if not (math.isfinite(fps) and 1 <= fps <= 240):
        raise InputError(f"fps={fps} must lie in 1..240 frames a second; the lab's clips play at 16")


def check_seconds(seconds: float) -> None:
    _check_number("seconds", seconds)
    if not 0 < seconds <= MAX_SECONDS:  # also false for NaN
        raise InputError(f"seconds={seconds} must lie above 0 and up to {MAX_SECONDS}: try 60")


def check_window(window: int, overlap: int) -> None:
    """`window` is 4k+1 frames, and of its k+1 latent frames `overlap` are its predecessor's: at least one, not all."""
    _check_integer("window", window)
    _check_integer("overlap", overlap)
    if window < 1 + FRAME_GROUP or window % FRAME_GROUP != 1:
        below = max(1 + FRAME_GROUP, (window - 1) // FRAME_GROUP * FRAME_GROUP + 1)
        raise InputError(
            f"window={window} must be {FRAME_GROUP}k+1 frames from 5 up: try {below} or {below + FRAME_GROUP}"
        )
    latents = window // FRAME_GROUP + 1
    if not 1 <= overlap < latents:
        raise InputError(
            f"overlap={overlap} must lie in 1..{latents - 1}: a window of {window} frames has {latents} latent "
            "frames, and at least one must be known and one new"
        )


def check_cross_fade(cross_fade: int, overlap: int) -> None:
    _check_integer("cross_fade", cross_fade)
    if not 0 <= cross_fade < overlap:
        raise InputError(
            f"cross_fade={cross_fade} must lie in 0..{overlap - 1}: of {overlap=} latent frames one must stay known"
        )


def check_chaining(chaining: str, overlap: int) -> None:
    if chaining not in ("latent", "frame"):
        raise InputError(f"chaining={chaining!r} is unknown; use 'latent' or 'frame'")
    if chaining == "frame" and overlap != 1:
        raise InputError(f"overlap={overlap} must be 1 with chaining='frame': it knows one frame")


def check_history_noise(history_noise: float) -> None:
    _check_number("history_noise", history_noise)
    if not 0 <= history_noise <= 1:  # also false for NaN
        raise InputError(f"history_noise={history_noise} must lie in 0..1; training used up to 0.3")


def check_schedule(schedule: Schedule, seconds: float) -> None:
    """`schedule` starts at second 0, goes forwards, and ends before `seconds`."""
    if not isinstance(schedule, Sequence) or not all(_is_entry(item) for item in schedule):
        raise InputError(f"prompt must be text, or a schedule of pairs (second, text), got {schedule!r}")
    if not schedule:
        raise InputError("the prompt schedule is empty: give at least a prompt for second 0")
    starts = [start for start, _ in schedule]
    if starts[0] != 0:
        raise InputError(
            f"the prompt schedule starts at second {starts[0]:g}: its first prompt must start at 0"
        )
    for before, after in itertools.pairwise(starts):
        if not after > before:
            raise InputError(
                f"in the prompt schedule {after:g} s follows {before:g} s: put it in order of time"
            )
    if not starts[-1] < seconds:
        raise InputError(
            f"the prompt schedule has a prompt at {starts[-1]:g} s, and the video ends at {seconds:g} s: "
            "drop the prompt or ask for more seconds"
        )


def parse_schedule(text: str) -> list[tuple[float, str]]:
    """Prompts with their start in seconds, from text such as "0:a red ring orbiting … 20:a blue star resting …".

    Raises InputError for text without a start before its first prompt, or a start without a prompt.
    """
    before, *rest = re.split(r"(?:^|\s)(\d+(?:\.\d*)?)\s*:", text)
    if before.strip() or not rest:
        raise InputError(f"prompts {text!r} must be a second, a colon and a prompt each: '0:{EXAMPLE} 20:…'")
    schedule = [(float(start), prompt.strip()) for start, prompt in zip(rest[::2], rest[1::2], strict=True)]
    for start, prompt in schedule:
        if not prompt:
            raise InputError(
                f"prompts {text!r} have nothing at {start:g} s: describe the scene after the colon"
            )
    return schedule


def check_seed(seed: int) -> None:
    _check_integer("seed", seed)
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed} must lie in 0..2^63-1")


def _is_entry(item: object) -> bool:
    match item:
        case [Real(), str()]:
            return True
    return False


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name}={value!r} must be a whole number")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):  # a tensor of one element has it
        raise InputError(f"{name}={value!r} must be a number")
