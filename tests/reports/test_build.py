import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.records import Contamination, FirstClip
from reports import build as building
from reports.build import build
from reports.load import ReportError

HOSTILE = """</h3><script>alert("x")</script><img src=x onerror='alert(1)'> & {{ 7 * 7 }} $x^{2 #0101ff"""
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Elements, ids and text of a page; checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page(folders, output):
    return Page(build(folders, output).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(run_with_clips, tmp_path_factory):
    """The report of a finished run with clips: its file and its parsed page."""
    path = build([run_with_clips], tmp_path_factory.mktemp("reports") / "report.html")
    return path, Page(path.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(full):
    path, found = full
    for tag, attributes in found.elements:
        for name in ("src", "href", "xlink:href", "poster", "srcset", "data", "action"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in next(m["content"] for m in found.all("meta") if "http-equiv" in m)


def test_ids_are_unique_and_every_link_has_a_target(full):
    ids = [attributes["id"] for _, attributes in full[1].elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [value for _, a in full[1].elements for k, value in a.items() if k in ("href", "xlink:href")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_pictures_clips_and_tables_can_be_read_without_seeing_them(full):
    found = full[1]
    plots = [a for a in found.all("svg") if "role" in a]
    assert len(plots) == len(found.all("svg")) == 7  # two large, three small, the front, the stages
    assert all(len(a["aria-label"]) > 40 for a in plots)
    assert all(a.get("aria-label") for a in found.all("video"))
    assert all(a.get("scope") for a in found.all("th"))
    assert found.all("html")[0]["lang"] == "en"


def test_clips_play_muted_in_a_loop_and_all_of_the_choice_is_shown(full):
    videos = full[1].all("video")
    assert len(videos) == 9 * 3  # nine cells; two fixed prompts and the worst
    for video in videos:
        assert {"muted", "loop", "autoplay", "playsinline"} <= set(video)
        assert video["src"].startswith("data:video/mp4;base64,")
    assert "image-rendering: pixelated" in full[0].read_text(encoding="utf-8")
    assert any("colour 0.500" in video["title"] for video in videos)  # the clip's own score, from the sidecar


def test_every_number_has_n_interval_and_command(full):
    found = full[1]
    fields = [
        a["title"] for a in found.all("td") if "title" in a and a["title"].startswith(("n =", "median"))
    ]
    assert len(fields) == 9 * (2 + 4)  # latency, real-time factor, four scores
    for title in fields:
        assert re.search(r"n = \d", title)
        assert "95 % interval" in title
        assert "python -m bench run" in title
    for steps in (2, 56):
        assert f"--only lab-teacher/{steps}" in found.text


def test_environment_and_budget_are_told(full):
    for fact in (
        "AMD EPYC 7B13",
        "torch 2.15.0",
        "0170c5f",
        "predicted 9 cells",
        "measured 9 cells",
        "f" * 16,
    ):
        assert fact in full[1].text


def test_the_first_clip_is_told(make, tmp_path):
    first = FirstClip(path="first.mp4", prompt=HOSTILE, system="lab", seconds=9.5, real_time_factor=4.6)
    text = page(
        [make.run(tmp_path / "run", [make.record(scores={})], first_clip=first)], tmp_path / "r.html"
    ).text
    assert f"first.mp4 by lab in 9.50 s, cold: {HOSTILE}" in text


def test_the_same_records_give_the_same_bytes(full, run_with_clips, tmp_path):
    again = build([run_with_clips], tmp_path / "again.html")
    assert again.read_bytes() == full[0].read_bytes()


def test_references_are_named_in_every_plot(full):
    for plot in full[1].all("svg")[:5]:
        assert all(name in plot["aria-label"] for name in ("truth", "static", "noise"))


def test_many_series_differ_in_colour_or_shape_and_the_legend_shows_both(make, tmp_path):
    cells = [make.record(f"system {number}", steps) for number in range(20) for steps in (4, 8)]
    unscored = make.record("unscored", 4, scores={})
    html = build([make.run(tmp_path / "run", [*cells, unscored])], tmp_path / "r.html").read_text("utf-8")
    legend = html[html.index('<ul class="legend">') :].partition("</ul>")[0]
    entries = re.findall(r"--series-(\d)\)\" aria-hidden=\"true\">(.)</b> ([^<]+)</li>", legend)
    assert len({(colour, sign) for colour, sign, _ in entries}) == len(entries) == 20
    assert "unscored" not in {name for *_, name in entries}


def test_a_partial_run_says_so_and_shows_every_cell(make, tmp_path):
    cells = make.sweep()
    found = page([make.run(tmp_path / "run", cells[:3], missing=cells[3:])], tmp_path / "r.html")
    assert "Partial run. 6 of 9 cells have no record yet" in found.text
    assert "The verdict may change." in found.text
    assert found.text.count("not run yet predicted 20.0 s") == 6
    for steps in (16, 28, 56):
        assert f"lab-teacher · {steps} steps" in found.text
    assert "not finished" in found.text


def test_a_run_without_any_record_has_a_report(make, tmp_path):
    found = page([make.run(tmp_path / "run", [], missing=make.sweep())], tmp_path / "r.html")
    assert "nothing to compare" in found.text
    assert not found.all("svg")


def test_a_failed_cell_is_a_row_with_its_reason(make, tmp_path):
    outcomes = ["oom", "timeout", "unsupported", "weights-missing", "invalid", "crashed"]
    failures = [
        make.failed(outcome, "it broke <here>", steps=100 + place, stage_reached="VAE decode")
        for place, outcome in enumerate(outcomes)
    ]
    found = page(
        [make.run(tmp_path / "run", [make.record(steps=4), *failures], clips=True)], tmp_path / "r.html"
    )
    assert "6 cells without a result" in found.text
    for place, outcome in enumerate(outcomes):
        name = f"lab-teacher · {100 + place} steps"
        assert f"{name} {outcome} at VAE decode: it broke <here>" in found.text  # the table
        assert f"{name} ({outcome})" in found.text  # the caveats
    assert len(found.all("video")) == 3
    assert len([a for a in found.all("div") if a.get("class") == "empty"]) == 6 * 3  # gaps that say why


def test_only_failures_and_only_fake_systems_work(make, tmp_path):
    failures = make.run(tmp_path / "failures", [make.failed("crashed", "killed", steps=n) for n in (1, 2)])
    assert "nothing to compare" in page([failures], tmp_path / "f.html").text
    fake = make.run(
        tmp_path / "fake", [make.record("fake", None, scores={}, knobs={"latency": n}) for n in (1, 2)]
    )
    found = page([fake], tmp_path / "g.html")
    assert "only cost can be compared" in found.text
    assert not found.all("video")


def test_several_runs_stand_side_by_side(make, run_with_clips, tmp_path):
    other = make.run(
        tmp_path / "other", [make.record("lab-student", 4, quality=0.95, fingerprint="e" * 16)], clips=True
    )
    found = page([run_with_clips, other], tmp_path / "r.html")
    assert "A: 20261123-180000" in found.text
    assert "B: other" in found.text
    assert "Best quality by fvd-world (lower is better): lab-student · 4 steps (B)" in found.text
    assert "come from different environments" in found.text
    assert len(found.all("video")) == 10 * 3


def test_hostile_text_stays_text(make, tmp_path):
    cell = make.record(HOSTILE, 4, command=HOSTILE, warnings=(HOSTILE,), flags=(HOSTILE,))
    scores = {HOSTILE: make.score(1.0, protocol=HOSTILE, unit=HOSTILE)}
    cell = cell.model_copy(update={"scores": scores, "cell": HOSTILE[:9]})
    bad = make.failed("crashed", HOSTILE, system="other", steps=2)
    folder = make.run(
        tmp_path / "run", [cell, make.record(HOSTILE, 8), bad], question={"description": HOSTILE}
    )
    text = build([folder], tmp_path / "r.html").read_text(encoding="utf-8")
    found = Page(text)
    assert len(found.all("script")) == 1
    assert not found.all("img")
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert HOSTILE in found.text


def test_hostile_prompts_stay_text(make, tmp_path, monkeypatch):
    cell = make.record()
    folder = make.run(tmp_path / "run", [cell], clips=True)
    store = folder / "records.jsonl"
    prompt = json.dumps(HOSTILE)[1:-1]
    store.write_text(
        store.read_text(encoding="utf-8").replace("a large blue star orbiting over snow", prompt)
    )
    found = page([folder], tmp_path / "r.html")
    assert len(found.all("script")) == 1
    assert any(HOSTILE in video["aria-label"] for video in found.all("video"))


def test_clips_beyond_the_limit_are_left_out_by_whole_rows_and_named(
    run_with_clips, full, tmp_path, monkeypatch
):
    whole = full[0].stat().st_size
    monkeypatch.setattr(building, "MAX_BYTES", whole - 1000)
    path = build([run_with_clips], tmp_path / "r.html")
    assert path.stat().st_size <= whole - 1000
    found = Page(path.read_text(encoding="utf-8"))
    assert len(found.all("video")) == 18
    assert (
        "1 row of clips left out to keep this file small: a large blue star orbiting over snow." in found.text
    )
    assert "The worst clip of each cell" in found.text
    monkeypatch.setattr(building, "MAX_BYTES", 10_000)
    with pytest.raises(ReportError, match="without any clip"):
        build([run_with_clips], tmp_path / "s.html")
    assert not (tmp_path / "s.html").exists()


def test_a_clip_that_is_gone_is_told(make, tmp_path):
    folder = make.run(tmp_path / "run", [make.record()], clips=True)
    next(folder.glob("clips/*/00000-0.mp4")).unlink()
    found = page([folder], tmp_path / "r.html")
    assert "file missing" in found.text
    assert "is in the record but cannot be read" in found.text


def test_a_clip_outside_the_run_is_not_embedded(make, tmp_path):
    make.clip(tmp_path / "private.mp4", (255, 0, 0))
    folder = make.run(tmp_path / "run", [make.record()], clips=True)
    store = folder / "records.jsonl"
    store.write_text(re.sub(r"clips/\w+/00000-0.mp4", "../private.mp4", store.read_text()))
    found = page([folder], tmp_path / "r.html")
    assert "leads out of the run folder" in found.text
    assert len(found.all("video")) == 2


def test_a_changed_sidecar_is_told(make, tmp_path):
    folder = make.run(tmp_path / "run", [make.record()], clips=True)
    next(folder.glob("samples/*.jsonl")).write_text("{}\n")
    assert "sha256 differs" in page([folder], tmp_path / "r.html").text


def test_warnings_flags_notes_and_dirt_are_caveats(make, tmp_path):
    noted = {"fvd-world": make.score(1.0, note="n too small for a covariance")}
    cells = [
        make.record(steps=n, flags=("overhead-bound",), warnings=("stolen time",), scores=noted)
        for n in (2, 4)
    ]
    text = page([make.run(tmp_path / "run", cells)], tmp_path / "r.html").text
    both = "(lab-teacher · 2 steps, lab-teacher · 4 steps)"
    for note in ("overhead-bound", "stolen time", "fvd-world: n too small for a covariance"):
        assert f"{note} {both}" in text


def test_a_machine_that_changed_its_speed_is_a_caveat(make, tmp_path):
    def paced(steps, *paces, **fields):
        seen = tuple(Contamination(seconds=1, pace=pace, **fields) for pace in paces)
        return make.record(steps=steps, contamination=seen)

    steady = [paced(1, 1e-3), paced(2, 1e-3, 3e-3, 1e-3), paced(4, 1.2e-3), paced(8, None)]
    text = page([make.run(tmp_path / "steady", steady)], tmp_path / "r.html").text
    assert "was slower beside" not in text
    changing = [*steady, paced(16, 2.04e-3, 2.04e-3), paced(28, 1.8e-3, reasons=("steal time",))]
    text = page([make.run(tmp_path / "run", changing)], tmp_path / "r.html").text
    assert "was slower beside 2 cells than beside most" in text
    assert "took up to 1.7× the usual time" in text
    assert "(lab-teacher · 16 steps, lab-teacher · 28 steps)." in text


def test_any_scores_can_be_plotted(make, tmp_path):
    values = [(1.0, 1.0), (0.0, 0.0), (-0.2, 0.1), (1e-9, 1e9), (-5.0, -3.0), (0.0, 40.0)]
    kinds = [(better, pair) for better in ("lower", "higher", "target") for pair in values]

    def scores(place):
        return {f"q{i}": make.score(pair[place], better=better) for i, (better, pair) in enumerate(kinds)}

    cells = [make.record(steps=2 << place, scores=scores(place)) for place in (0, 1)]
    far = {f"q{i}": make.score(4e3, better=better) for i, (better, _) in enumerate(kinds)}
    cells.append(make.record("noise", None, role="reference", scores=far))
    found = page([make.run(tmp_path / "run", cells)], tmp_path / "r.html")
    assert len(found.all("svg")) == len(kinds) + 3  # two large ones of the first score, and the front
    assert not re.search(r"\b(nan|inf)\b", " ".join(a.get("d", "") for a in found.all("path")))


def test_scores_without_value_or_interval_are_shown(make, tmp_path):
    cells = [
        make.record(steps=2, scores={"q": make.score(None, note="no drift clip among them")}),
        make.record(steps=4, scores={"q": make.score(2.0).model_copy(update={"low": None, "high": None})}),
    ]
    text = page([make.run(tmp_path / "run", cells)], tmp_path / "r.html").text
    assert "undefined" in text
    assert "no drift clip among them" in text
    assert "no interval" in text


def test_a_failed_write_leaves_the_old_report(run_with_clips, tmp_path, monkeypatch):
    output = tmp_path / "r.html"
    output.write_text("old")

    def full_disk(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(ReportError, match="No space left"):
        build([run_with_clips], output)
    monkeypatch.undo()
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_reports_never_import_torch(run_with_clips, tmp_path):
    code = (
        "import sys; from pathlib import Path; from reports.build import build; "
        f"build([Path({str(run_with_clips)!r})], Path({str(tmp_path / 'r.html')!r})); "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'magic141', 'evals'} & set(sys.modules)) or 0)"
    )
    root = Path(building.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
