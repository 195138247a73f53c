"""What the methods of distillation have in common."""

from __future__ import annotations

from torch import nn

from magic141.train.fields import Field, Text, guided
from magic141.train.flow import Batch
from magic141.transformer import Magic141Transformer3DModel


class Distillation(nn.Module):
    """A student that learns and a teacher that stays as it is. `empty`: the text without words.

    turns: steps of one round, in which each part of a method has learned.
    """

    turns = 1

    def __init__(
        self,
        student: Magic141Transformer3DModel,
        teacher: Magic141Transformer3DModel,
        empty: Text,
        *,
        guidance_scale: float,
        shift: float,
    ) -> None:
        super().__init__()
        self.student, self.empty, self.guidance_scale, self.shift = student, empty, guidance_scale, shift
        # In a tuple: no part of what is trained or saved.
        self._teacher = (teacher.requires_grad_(False).eval(),)

    def guided_teacher(self, batch: Batch) -> Field:
        """What the student should say without guidance."""
        return guided(self._teacher[0], batch, self.empty, self.guidance_scale)
