import json

import pytest
import torch

from magic141 import weights
from magic141.autoencoder import AutoencoderMagic141
from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.train import recipes


def test_packing_one_stage_keeps_the_rest_of_the_shipped_weights(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderMagic141()
    vae.save_pretrained(tmp_path / "vae" / "model")
    facts = {"stage": "vae", "samples": 16, "seconds": 1.0, "seed": 0, "machine": "m", "commit": "0" * 40}
    facts["command"] = "python -m magic141.train vae"
    (tmp_path / "vae" / "card.json").write_text(json.dumps(facts))
    target = tmp_path / "packed"
    recipes.pack(tmp_path, target)

    packed, shipped = Magic141Pipeline.from_pretrained(target), Magic141Pipeline.from_pretrained("lab")
    for name in ("transformer", "text_encoder"):
        ours, theirs = (getattr(pipe, name).state_dict() for pipe in (packed, shipped))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(packed.vae.to_pixels.weight, vae.to_pixels.weight.half().float())
    stages = json.loads((target / "training.json").read_text("utf-8"))["stages"]
    assert [row["stage"] for row in stages] == ["vae", "clip", "t2i", "i2v"]
    assert "| vae | 16 |" in (target / "README.md").read_text("utf-8")
    assert weights.verify(target)


def test_a_folder_without_a_trained_stage_is_refused(tmp_path):
    with pytest.raises(InputError, match="no trained stage"):
        recipes.pack(tmp_path, tmp_path / "packed")


def test_stages_that_start_from_nothing_say_so(tmp_path):
    with pytest.raises(InputError, match="'clip' takes none"):
        recipes.train_clip(tmp_path, 1.0, 1, 0, "lab")
