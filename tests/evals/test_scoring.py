import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from evals import command, fvd, results
from evals.__main__ import app
from evals.appearance import MEASURES, measure
from evals.catalogue import VBENCH_METRICS
from evals.clip_scores import ClipJudge
from evals.clips import find, frames
from evals.exam import Answer
from evals.fvd import PROTOCOLS, Extractor
from evals.scoring import FvdRequest, Request, Wanted, check_names, score_clips
from evals.vbench_networks import Network
from evals.vbench_scores import DIMENSIONS
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError
from magic141.video import write_video

FRAMES = 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six good clips of three kinds, a still one, and five that cannot be scored."""
    path = tmp_path_factory.mktemp("clips")
    clips = render(World().scenes("test", 0, 6), FRAMES).numpy()
    for i, clip in enumerate(clips[:4]):
        write_video(path / f"{i}.mp4", clip, 16)
    (path / "pictures").mkdir()
    for i, frame in enumerate(clips[4]):
        Image.fromarray(frame).save(path / "pictures" / f"frame{i}.png")
    pages = [Image.fromarray(frame) for frame in clips[5]]
    pages[0].save(path / "five.gif", save_all=True, append_images=pages[1:], duration=62)
    write_video(path / "still.mp4", np.repeat(clips[0][:1], FRAMES, axis=0), 16)
    (path / "empty.mp4").touch()
    (path / "text.mp4").write_text("not a video")
    write_video(path / "one.mp4", clips[0][:1], 16)
    whole = (path / "1.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (path / "dots").mkdir()
    for i in range(FRAMES):
        Image.new("RGB", (1, 1)).save(path / "dots" / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def scores(folder):
    return score_clips(find([folder]), Request())


def test_every_clip_is_in_the_file_and_the_failed_ones_say_why(scores):
    assert len(scores.clips) == 12
    reasons = {clip.name: clip.reason for clip in scores.failed}
    says = {
        "cut.mp4": "cut off",
        "dots": "frames of 1x1 are too small",
        "empty.mp4": "0 bytes",
        "one.mp4": "at least 2 frames",
        "text.mp4": "no video",
    }
    assert reasons.keys() == says.keys()
    assert all(text in reasons[name] for name, text in says.items())
    assert all(score.n == 7 and "5 of 12 clips failed" in score.note for score in scores.aggregate.values())
    assert list(scores.aggregate) == list(MEASURES)


def test_values_are_those_of_the_measures(scores, folder):
    clip = next(clip for clip in scores.clips if clip.name == "2.mp4")
    assert clip.values == measure(frames(find([folder / "2.mp4"])[0]))
    assert (clip.frames, clip.height, clip.width, clip.fps) == (FRAMES, 64, 64, 16.0)
    assert scores.aggregate["flow"].value == pytest.approx(
        np.mean([clip.values["flow"] for clip in scores.clips if clip.outcome == "ok"])
    )


def test_a_still_clip_is_flagged(scores):
    flagged = {clip.name: {flag.name for flag in clip.flags} for clip in scores.clips}
    assert "static" in flagged["still.mp4"]


class Pooled(torch.nn.Module):
    """Stands for I3D: 400 fixed projections of a coarse picture of the clip."""

    def forward(self, x):
        small = torch.nn.functional.adaptive_avg_pool3d(x, (2, 4, 4)).flatten(1)
        weight = torch.randn(small.shape[1], 400, generator=torch.Generator().manual_seed(0))
        return small @ weight


def fvd_request(sources, length=FRAMES):
    extractor = Extractor(Pooled(), "0" * 64, scripted=False)
    return Request(measures=["flow"], fvd=FvdRequest(PROTOCOLS["videogpt"], extractor, sources, length))


def test_a_set_is_no_distance_from_itself_and_short_clips_are_named(folder):
    sources = find([folder])
    found = score_clips(sources, fvd_request([s for s in sources if s.name != "one.mp4"]))
    assert found.aggregate["fvd"].value == pytest.approx(0, abs=1e-6)
    assert found.aggregate["fvd"].n == 7
    assert "ONLY 7 GENERATED CLIPS" in found.aggregate["fvd"].note
    for says in ("empty.mp4: empty file", "dots: frames of 1x1 are too small for FVD"):
        assert any(says in warning for warning in found.warnings)
    longer = score_clips(sources, fvd_request(sources, FRAMES + 1))
    assert "fvd" in longer.omitted
    assert any(f"{FRAMES} frames, and {FRAMES + 1} are needed" in warning for warning in longer.warnings)


def test_a_reference_of_one_clip_gives_no_distance_but_the_rest(folder):
    found = score_clips(find([folder]), fvd_request(find([folder / "0.mp4"])))
    assert "2 clips on each side" in found.omitted["fvd"]
    assert found.aggregate["flow"].n == 7


def test_clips_too_short_for_i3d_give_no_distance_but_the_rest(folder):
    found = score_clips(find([folder]), fvd_request(find([folder / "0.mp4"]), 9))
    assert "9 frames, FVD needs at least 10" in found.omitted["fvd"]
    assert found.aggregate["flow"].n == 7


@pytest.mark.parametrize("alone", [False, True])
def test_short_clips_and_a_reference_of_one_clip_show_in_the_exit_code(folder, tmp_path, monkeypatch, alone):
    monkeypatch.setattr(fvd, "find_extractor", lambda *_: Extractor(Pooled(), "0" * 64, scripted=False))
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "short.mp4", np.stack(list(frames(find([folder / "0.mp4"])[0])))[:9], 16)
    for name in ("0.mp4", "1.mp4"):
        shutil.copy(folder / name, clips)
    reference = folder / "0.mp4" if alone else clips
    options = ["--metrics", "flow,fvd", "--fvd-frames", "10"]
    done = run("score", clips, "--reference", reference, *options, "-o", tmp_path / "s.json")
    assert done.exit_code == 1, done.output
    found = results.read(tmp_path / "s.json")
    assert found.aggregate["flow"].n == 3
    assert "short.mp4: 9 frames, and 10 are needed for FVD" in found.warnings
    assert ("fvd" in found.aggregate) != alone
    assert ("2 clips on each side" in found.omitted.get("fvd", "")) == alone


def test_networks_score_the_clips_that_have_what_they_ask_for(folder):
    dino = Network("stand-in", lambda x: x.mean((2, 3)), "0" * 16)
    (source,) = find([folder / "still.mp4"])
    image = next(iter(frames(source)))
    for images in ({}, {"still.mp4": image}):
        wanted = Request(
            measures=[],
            networks={"subject-consistency": dino, "i2v-subject": dino},
            images=images,
            omitted={"aesthetic": "weights-missing: some file"},
        )
        found = score_clips([source], wanted)
        assert found.clips[0].values["subject-consistency"] == pytest.approx(1)
        assert ("i2v-subject" in found.clips[0].values) == bool(images)
        assert found.omitted["aesthetic"] == "weights-missing: some file"
        assert "stand-in" in found.aggregate["subject-consistency"].protocol


def test_missing_weights_are_named_and_the_rest_is_scored(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    output = tmp_path / "s.json"
    done = run(
        "score", folder / "0.mp4", "-o", output, "--metrics", "flow,subject-consistency,motion-smoothness"
    )
    assert done.exit_code == 1
    found = results.read(output)
    assert list(found.aggregate) == ["flow"]
    assert set(found.omitted) == {"subject-consistency", "motion-smoothness"}
    assert all(reason.startswith("weights-missing: ") for reason in found.omitted.values())


def test_names_are_checked():
    wanted = check_names(["fvd", "flow", "clip-text", "aesthetic"])
    assert wanted == Wanted(["flow"], ["clip-text"], ["aesthetic"], fvd=True)
    assert tuple(DIMENSIONS) == VBENCH_METRICS
    with pytest.raises(InputError, match="did you mean 'sharpness'"):
        check_names(["sharpnes"])


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_command_scores_and_compares(folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("file,prompt,seed\n0,a ring,0\n1.mp4,a star,0\n", encoding="utf-8")
    outputs = [tmp_path / f"{i}.json" for i in range(2)]
    clips = [folder / "0.mp4", folder / "1.mp4"]
    for output in outputs:
        done = run("score", *clips, "-o", output, "--csv", tmp_path / "s.csv", "--prompts", prompts)
        assert done.exit_code == 0, done.output
    found = results.read(outputs[0])
    assert [(clip.prompt, clip.seed) for clip in found.clips] == [("a ring", "0"), ("a star", "0")]
    assert str(folder) not in outputs[0].read_text()
    assert (tmp_path / "s.csv").read_text().startswith("name,outcome,")
    done = run("compare", *outputs)
    assert done.exit_code == 0, done.output
    assert "no difference shown" in " ".join(done.output.split())


def test_first_frames_of_16_bits_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    assert (command._images(tmp_path, ["a.mp4"])["a.mp4"] == 100).all()
    Image.new("F", (4, 4)).save(tmp_path / "a.png", format="tiff")
    with pytest.raises(InputError, match=r"a.png' cannot be used: pixels of mode 'F'"):
        command._images(tmp_path, ["a.mp4"])


def test_eighty_columns_hold_the_names_and_values_of_known_clips():
    console = Console(width=80, file=io.StringIO())
    rows = "truth", "static", "noise", "half speed", "other scenes", "blurred", "frozen half-way", "grain"
    values = {row: {"oracle-background-change": -0.123, "accuracy-background": 120.754} for row in rows}
    command.show_calibration(["oracle-background-change", "accuracy-background", "none"], values, console)
    *_, drift, accuracy, none = console.file.getvalue().splitlines()
    assert drift.split() == ["oracle-background-change", *["-0.123"] * 8]
    assert accuracy.split() == ["accuracy-background", *["120.8"] * 8]
    assert none.split() == ["none", *["-"] * 8]


def test_eighty_columns_tell_the_scores_of_an_exam_apart():
    console = Console(width=80, file=io.StringIO())
    names = "accuracy-background", "accuracy-backwards", "oracle-colour-drift"
    harms = "blur", "drop", "duplicate", "flicker", "freeze", "shuffle", "slow", "wrong-colour"
    answers = [Answer(name, harm, "higher", (1.0, 0.0), -1.0, -5.0) for name in names for harm in harms]
    command.show_exam(answers, console)
    assert [line.split()[0] for line in console.file.getvalue().splitlines()[-3:]] == list(names)


def test_drift_goes_on_after_a_clip_that_cannot_be_read(folder, tmp_path):
    done = run("drift", folder, "--window", "4")
    said = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "empty.mp4: failed:" in said
    assert "brightness" in said


def test_what_fails_shows_in_the_exit_code(folder, tmp_path):
    done = run("score", folder, "-o", tmp_path / "s.json", "--metrics", "flow")
    assert done.exit_code == 1
    facts = json.loads((tmp_path / "s.json").read_text())
    assert len(facts["clips"]) == 12
    for name in ("cut.mp4", "dots", "empty.mp4", "one.mp4", "text.mp4"):
        assert f"{name}: failed: " in done.output
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"file": "other.mp4", "prompt": "a ring"}\n')
    done = run(
        "score", folder / "0.mp4", "-o", tmp_path / "t.json", "--metrics", "flow", "--prompts", prompts
    )
    assert done.exit_code == 1
    assert "no line of the prompts file" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "does not exist"),
        (["{clips}", "--metrics", "flwo"], "did you mean 'flow'"),
        (["{clips}", "--metrics", "fvd"], "give --reference"),
        (
            ["{clips}", "--metrics", "fvd", "--reference", "{clips}", "--fvd-protocol", "x"],
            "use one of styleganv",
        ),
        (
            ["{clips}", "--metrics", "clip-text,fvd", "--reference", "{clips}", "--fvd-protocol", "x"],
            "use one of styleganv",
        ),
        (["{clips}", "--images", "{clips}/empty.mp4"], "no folder"),
        (["{clips}", "--prompts", "none.csv"], "cannot read prompts"),
        (
            ["{clips}", "--metrics", "clip-text"],
            "clip-text compares clips with something else: give --prompts",
        ),
        (["{clips}", "--metrics", "clip-image"], "give --images"),
        (["{clips}", "--metrics", "aesthetic", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["{clips}", "--csv", "{output}"], "name two files"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_decoded(folder, tmp_path, args, says):
    output = tmp_path / "s.json"
    words = [arg.replace("{clips}", str(folder)).replace("{output}", str(output)) for arg in args]
    done = run("score", *words, "-o", output)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_refused_before_networks_are_loaded(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(ClipJudge, "load", lambda *_: pytest.fail("loaded it"))
    (tmp_path / "p.csv").write_text("file,prompt\n0,a ring\n", encoding="utf-8")
    wanted = ["--metrics", "clip-text", "--prompts", tmp_path / "p.csv"]
    done = run("score", folder, "-o", tmp_path / "none" / "s.json", *wanted)
    assert "cannot write" in str(done.exception)
