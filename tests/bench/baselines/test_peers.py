import contextlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from bench import worker
from bench.baselines import tiny
from bench.baselines.diffusers_folder import DiffusersFolder
from bench.baselines.peers import Peer
from bench.baselines.recipes import RECIPES
from bench.errors import SuiteError
from bench.isolation import Announcer
from bench.jobs import RECORD, Job
from bench.measure import Stopwatch
from bench.records import RANDOM_WEIGHTS, Record
from bench.suite import parse
from bench.systems import Request, check_output, make
from magic141.errors import WeightsMissing

REQUESTS = [Request(0, "a red circle", 1), Request(1, "a blue square", 2)]
FAST = "wan-2.1-1.3b"
SLOW = [pytest.param(name, marks=[] if name == FAST else pytest.mark.slow) for name in RECIPES]


@pytest.mark.parametrize("name", SLOW)
def test_every_system_runs_at_test_scale(name: str) -> None:
    peer = Peer(system=name, mode="tiny", precision="fp32")
    peer.load()
    assert (peer.facts().parameter_bytes or 0) > 0
    assert peer.facts().flags == ()
    peer.mode = "real"  # as a checkpoint under another's name would be
    assert [flag.partition(" ")[2] for flag in peer.facts().flags] == ["of the published parameters"]
    peer.mode = "tiny"
    stopwatch = Stopwatch()
    output = peer.generate(REQUESTS, stopwatch)
    check_output(output, 2)
    assert output.frames.shape == (2, peer.num_frames, peer.height, peer.width, 3)
    assert len(stopwatch.samples["denoise"]) % 2 == 0  # two steps
    assert "vae decode" in stopwatch.samples
    assert ("image encode" in stopwatch.samples) == RECIPES[name].image_to_video
    assert ("text encode" in stopwatch.samples) == (name not in ("hunyuanvideo-i2v", "ltx-2"))
    again = peer.generate(REQUESTS, Stopwatch())
    np.testing.assert_array_equal(again.frames, output.frames)
    alone = peer.generate(REQUESTS[1:], Stopwatch()).frames[0]
    assert np.abs(alone.astype(int) - output.frames[1]).max() <= 2  # a clip does not depend on its batch


def test_passes_of_both_experts_are_denoising() -> None:
    """Wan 2.2 has one transformer for early steps and one for late ones."""
    peer = Peer(system="wan-2.2-a14b", mode="tiny", precision="fp32")
    peer.load()
    entered: list[str] = []

    def stages(name: str) -> contextlib.AbstractContextManager[None]:
        entered.append(name)
        return contextlib.nullcontext()

    peer._stages = stages
    for expert in (peer._pipeline.transformer, peer._pipeline.transformer_2):
        with pytest.raises(TypeError):  # called without its arguments, inside the region
            expert.forward()
    assert entered == ["denoise", "denoise"]


def test_every_recipe_has_a_tiny_one_and_a_source() -> None:
    assert list(tiny.TINY) == list(RECIPES)
    for recipe in RECIPES.values():
        assert recipe.citation
        assert recipe.parameters_source
        Peer(system=recipe.name, mode="random")  # its own size is one that it allows


def test_unset_knobs_take_the_recipe() -> None:
    peer = Peer(system="wan-2.2-a14b", mode="random", num_inference_steps=8)
    assert (peer.height, peer.width, peer.num_frames, peer.fps) == (720, 1280, 81, 16)
    assert (peer.num_inference_steps, peer.guidance_scale) == (8, 4.0)
    assert Peer(system="wan-2.2-a14b", mode="random", guidance_scale=0.0).guidance_scale == 0.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"system": "wan-2.1"}, "did you mean 'wan-2.1-1"),
        ({"mode": "tiny", "num_frames": 6}, "must be 4k [+] 1"),
        ({"mode": "tiny", "system": "cogvideox-2b", "num_frames": 13}, "must be 8k [+] 1"),
        ({"mode": "random", "height": 481}, "must be multiples of 16"),
        ({"mode": "random", "model": "./folder"}, "drop one of the two"),
        ({"mode": "random", "height": -16}, "must be multiples of 16"),
        ({"mode": "random", "num_inference_steps": 0}, "num_inference_steps=0 must lie in 1..1000"),
        ({"mode": "big"}, "mode='big'"),
    ],
)
def test_knobs_are_checked_before_anything_is_loaded(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        make("bench.baselines.peers:Peer", knobs)  # type: ignore[arg-type]


def test_absent_weights_are_an_outcome_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(name: str, local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(WeightsMissing, match="hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers"):
        Peer().weights()
    assert asked == [True]
    with pytest.raises(WeightsMissing):
        Peer(model="./no-such-folder").weights()


def test_a_repository_that_is_named_is_not_downloaded_either(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def resolve(name: str, hub: dict[str, Any]) -> Path:
        asked.append(hub)
        raise WeightsMissing("not there")

    monkeypatch.setattr("bench.baselines.peers.weights.resolve", resolve)
    with pytest.raises(WeightsMissing):
        Peer(model="owner/name").weights()
    assert asked == [{"local_files_only": True}]


def test_half_a_download_is_missing_weights(tmp_path: Path) -> None:
    parts = {
        "transformer": ["diffusers", "X"],
        "scheduler": ["diffusers", "Y"],
        "image_encoder": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Z"} | parts))
    with pytest.raises(WeightsMissing, match="has no transformer/: download it again"):
        Peer(model=str(tmp_path)).weights()
    for name in ("transformer/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    with pytest.raises(WeightsMissing, match="has no weights of transformer/"):
        Peer(model=str(tmp_path)).weights()
    index = {"weight_map": {"a": "x-00001.safetensors", "b": "x-00002.safetensors"}}
    (tmp_path / "transformer" / "x.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "transformer" / "x-00001.safetensors").touch()
    with pytest.raises(WeightsMissing, match="has no transformer/x-00002.safetensors"):
        DiffusersFolder(model=str(tmp_path)).weights()
    other = {"weight_map": {"a": "x-00001-of-00003.bin"}}  # of a format that was not downloaded
    (tmp_path / "transformer" / "x.bin.index.json").write_text(json.dumps(other))
    (tmp_path / "transformer" / "x-00002.safetensors").touch()
    before = DiffusersFolder(model=str(tmp_path)).weights()
    assert before == Peer(model=str(tmp_path)).weights()
    (tmp_path / "scheduler" / "vocabulary.txt").touch()
    assert DiffusersFolder(model=str(tmp_path)).weights() != before


def test_a_local_folder_is_its_own_weights(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    assert len(Peer(model=str(tmp_path)).weights() or "") == 64
    assert Peer(mode="random").weights() is None


def test_random_prompts_have_the_published_shape_and_follow_their_seed() -> None:
    import torch

    peer = Peer(system="hunyuanvideo", mode="random")
    peer._device, peer._dtype = "cpu", torch.float32
    both = peer._random_embeddings(REQUESTS)
    assert both["prompt_embeds"].shape == (2, 256, 4096)
    assert both["pooled_prompt_embeds"].shape == (2, 768)
    torch.testing.assert_close(
        peer._random_embeddings(REQUESTS[1:])["prompt_embeds"][0], both["prompt_embeds"][1]
    )


def run(tmp_path: Path, **knobs: object) -> Record:
    """The record of one cell, answered in this process."""
    systems = {"peer": {"adapter": "bench.baselines.peers:Peer", "knobs": knobs}}
    head = {"scorer": "bench.baselines.fake:SCORER", "metrics": ["brightness"], "repeats": 1, "warmup": 0}
    suite = parse({"name": "s", "systems": systems, "prompts": {"texts": ["a red circle"]}, **head}, "s")
    (cell,) = suite.cells()
    worker.run_cell(Job(cell, suite, "f", 1, "command", tmp_path), Announcer(Mock(), Mock()))
    return Record.model_validate_json((tmp_path / RECORD).read_bytes())


@pytest.mark.usefixtures("quiet_machine")
def test_random_weights_are_timed_flagged_and_never_scored(tmp_path: Path) -> None:
    record = run(tmp_path, system=FAST, mode="tiny", precision="fp32")
    assert (record.outcome, record.message) == ("ok", "")
    assert record.flags == (RANDOM_WEIGHTS,)
    assert (record.scores, record.samples, record.clips) == ({}, None, ())
    assert record.memory is not None
    assert record.stages["denoise"].n == 4  # two steps, with and without text


def test_a_failure_keeps_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Peer) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(Peer, "load", load)
    record = run(tmp_path, mode="random")
    assert record.outcome == "oom"
    assert record.flags == (RANDOM_WEIGHTS,)
