"""Which windows make a long video, and which prompt each of them shows. Imports no torch.

The first window is a clip: its latent 0 encodes one frame, every later latent four. Each next window lies inside the
video, so all its latents encode four frames; the first `overlap` of them are its predecessor's last ones.
"""

from dataclasses import dataclass

from magic141 import arguments
from magic141.arguments import FRAME_GROUP, Schedule
from magic141.errors import InputError
from magic141.presets import LAB

FPS = LAB.video.fps


@dataclass(frozen=True)
class Plan:
    """The windows of a video of `seconds`, `window` frames each but for the kind of their first latent.

    Raises InputError: a number that `arguments.check_seconds` or `arguments.check_window` refuses, or no whole frame.
    """

    seconds: float
    window: int
    overlap: int

    def __post_init__(self) -> None:
        arguments.check_seconds(self.seconds)
        arguments.check_window(self.window, self.overlap)
        if not self.frames:
            raise InputError(
                f"seconds={self.seconds} hold no frame at {FPS} a second: ask for {1 / FPS} or more"
            )

    @property
    def frames(self) -> int:
        """Of the whole video, to the nearest one."""
        return round(float(self.seconds) * FPS)

    @property
    def latents(self) -> int:
        """Latent frames of a window."""
        return self.window // FRAME_GROUP + 1

    @property
    def starts(self) -> list[int]:
        """The first new frame of each window. The last window may make more frames than the video has."""
        return [0, *range(self.window, self.frames, FRAME_GROUP * (self.latents - self.overlap))]

    def prompts(self, schedule: Schedule) -> list[str]:
        """The prompt of each window: the one in force at its first new frame.

        Raises InputError for a schedule that `arguments.check_schedule` refuses, and where a prompt gets no window.
        """
        arguments.check_schedule(schedule, self.seconds)
        shown = [
            max(i for i, (start, _) in enumerate(schedule) if start * FPS <= frame) for frame in self.starts
        ]
        if skipped := set(range(len(schedule))) - set(shown):
            start, prompt = schedule[min(skipped)]
            raise InputError(
                f"no window begins while the prompt of {start:g} s, {prompt!r}, is in force: windows begin at "
                f"0, then every {FRAME_GROUP * (self.latents - self.overlap) / FPS:g} s from {self.window / FPS:g} s; "
                "start it earlier, or let it last longer"
            )
        return [schedule[i][1] for i in shown]
