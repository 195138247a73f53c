"""The named stages of a generation, and a clock for them. Imports no torch.

The pipeline enters `stage_hook(name)` around each stage, so that whoever measures decides how.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

TEXT_ENCODE = "text encode"
IMAGE = "image"
"""Text to image, whole: its denoising steps and the decoding of its one frame."""
IMAGE_ENCODE = "image encode"
DENOISE = "denoise"
"""One step of image to video; entered `num_inference_steps` times."""
VAE_DECODE = "vae decode"
WINDOW = "window"
"""One window of a long video, from its prompt to its frames: entered around the stages above. The first entry is the
time to the first frame."""
FILE_ENCODE = "file encode"

StageHook = Callable[[str], AbstractContextManager[object]]


def unmeasured(stage: str) -> AbstractContextManager[object]:
    """The hook that does nothing."""
    return nullcontext(stage)


@dataclass
class StageClock:
    """A stage hook that keeps the wall seconds of every entry, in order, by stage.

    `synchronize` runs at both edges of a stage: on an accelerator `torch.cuda.synchronize`, or work that was
    only queued would be billed to whichever stage waits for it.
    """

    synchronize: Callable[[], object] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds.setdefault(stage, []).append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.synchronize is not None:
            self.synchronize()
