"""What the pipeline and the command line refuse before any work starts. Imports no torch.

Every function raises InputError naming the value, the limit and the remedy, and returns nothing.
"""

import difflib
import math

from tokenizers import Tokenizer

from magic141.errors import InputError

FRAME_GROUP = 4
"""Frames in a latent frame; the first frame of a clip has a latent frame to itself."""
MAX_WORDS = 38
"""Of a prompt: with the markers of beginning and end, the 40 tokens that the lab's text encoder reads."""


def check_prompt(tokenizer: Tokenizer, prompt: str, allow_empty: bool = False) -> None:
    """`prompt` has words, at most `MAX_WORDS`, and all of them in the vocabulary of the word-level `tokenizer`."""
    words = tokenizer.normalizer.normalize_str(prompt).split()
    if not words and not allow_empty:
        raise InputError(f"prompt {prompt!r} has no words: describe the scene, such as 'a small red ring'")
    if len(words) > MAX_WORDS:
        raise InputError(f"prompt has {len(words)} words, the limit is {MAX_WORDS}: shorten it: {prompt!r}")
    known = sorted(word for word in tokenizer.get_vocab() if not word.startswith("<"))
    if unknown := [word for word in dict.fromkeys(words) if word not in known]:
        hints = []
        for word in unknown:
            near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
            hints.append(f"{word!r} (nearest known: {', '.join(near) if near else 'none'})")
        raise InputError(
            f"prompt has words outside the {len(known)} of the lab vocabulary: {'; '.join(hints)}. "
            "All known words are in magic141.data.world.VOCABULARY"
        )


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


def check_guidance_scale(guidance_scale: float, name: str = "guidance_scale") -> None:
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
        raise InputError(f"{name}={guidance_scale} must be a finite number from 0; 1 turns guidance off")


def check_shift(shift: float | None) -> None:
    if shift is not None and not (math.isfinite(shift) and shift > 0):
        raise InputError(f"shift={shift} must be a finite number above 0; 1 leaves the times evenly spaced")


def check_size(height: int, width: int, multiple: int) -> None:
    for name, value in (("height", height), ("width", width)):
        _check_integer(name, value)
        if value < multiple or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise InputError(f"{name}={value} must be a positive multiple of {multiple}: try {near}")


def check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and 1 <= fps <= 240):
        raise InputError(f"fps={fps} must lie in 1..240 frames a second; the lab's clips play at 16")


def check_seed(seed: int) -> None:
    _check_integer("seed", seed)
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed} must lie in 0..2^63-1")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name}={value!r} must be a whole number")
