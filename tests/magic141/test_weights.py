import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from magic141 import weights
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing


def make_folder(folder: Path, content: bytes = b"tensor") -> Path:
    (folder / "vae").mkdir(parents=True)
    (folder / weights.INDEX).write_text("{}")
    (folder / "vae" / "model.safetensors").write_bytes(content)
    (folder / "README.md").write_text("a card")
    return folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the shipped weights, with `lab` in it; no directory of the user's own."""
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped")
    monkeypatch.delenv(weights.DIRECTORY_VARIABLE, raising=False)
    weights.seal(make_folder(tmp_path / "shipped" / "lab"))
    return tmp_path / "shipped" / "lab"


def test_search_order(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.resolve("lab") == shipped
    own = make_folder(tmp_path / "own" / "lab")
    monkeypatch.setenv(weights.DIRECTORY_VARIABLE, str(own.parent))
    assert weights.resolve("lab") == own
    assert weights.resolve(str(shipped)) == shipped, "an explicit path goes before MAGIC141_WEIGHTS"
    # A folder that happens to have a preset's name does not shadow the preset.
    make_folder(tmp_path / "lab")
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("lab") == own
    assert weights.resolve("./lab").resolve() == tmp_path / "lab"
    assert weights.resolve(Path("lab")).resolve() == tmp_path / "lab"


def test_own_presets_are_known(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = make_folder(tmp_path / "own" / "mine")
    monkeypatch.setenv(weights.DIRECTORY_VARIABLE, str(mine.parent))
    assert weights.presets() == ["lab", "mine"]
    assert weights.resolve("mine") == mine
    with pytest.raises(InputError, match=r"unknown preset 'lba': did you mean 'lab'\? known are lab, mine"):
        weights.resolve("lba")


def test_missing_weights_list_the_places(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shipped / weights.INDEX).unlink()
    with pytest.raises(WeightsMissing, match=r"no weights 'lab' in .*lab"):
        weights.resolve("lab")
    for path in ("./nothing", tmp_path / "nothing", "a/b/c"):
        with pytest.raises(WeightsMissing, match="no such folder"):
            weights.resolve(path)
    with pytest.raises(WeightsMissing, match=r"has no model_index\.json"):
        weights.resolve(tmp_path)
    monkeypatch.setenv(weights.DIRECTORY_VARIABLE, str(tmp_path / "typo"))
    with pytest.raises(InputError, match=r"MAGIC141_WEIGHTS=.*typo.* is no directory"):
        weights.resolve("lab")


def flip_a_bit(folder: Path) -> None:
    path = folder / "vae" / "model.safetensors"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def truncate(folder: Path) -> None:
    path = folder / "vae" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose(folder: Path) -> None:
    (folder / "vae" / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lose])
def test_damage_is_found_and_named(shipped: Path, damage: Callable[[Path], None]) -> None:
    damage(shipped)
    with pytest.raises(WeightsCorrupt, match=r"model\.safetensors.*git checkout -- magic141/weights"):
        weights.resolve("lab")


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../outside", f"{'0' * 64}  /etc/hostname"])
def test_damaged_sums_are_refused(shipped: Path, line: str) -> None:
    with (shipped / weights.SUMS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(WeightsCorrupt, match="SHA256SUMS line 3"):
        weights.resolve("lab")


def test_emptied_sums_are_refused(shipped: Path) -> None:
    (shipped / weights.SUMS).write_text("")
    with pytest.raises(WeightsCorrupt, match=r"does not list model_index\.json"):
        weights.resolve("lab")


def test_the_card_may_change(shipped: Path) -> None:
    (shipped / "README.md").write_text("a better card")
    assert list(weights.verify(shipped)) == [weights.INDEX, "vae/model.safetensors"]


def test_sums_have_the_format_of_sha256sum(shipped: Path) -> None:
    expected = [
        f"{weights.file_sha256(shipped / n)}  {n}\n" for n in (weights.INDEX, "vae/model.safetensors")
    ]
    assert (shipped / weights.SUMS).read_bytes().decode() == "".join(expected)


def test_tokenizer_problems_are_named(shipped: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"tokenizer\.json does not exist"):
        weights.tokenizer(shipped)
    (shipped / "tokenizer").mkdir()
    (shipped / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsCorrupt, match=r"tokenizer\.json is no tokenizer"):
        weights.tokenizer(shipped)


def test_only_pipelines_are_sealed(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"has no model_index\.json"):
        weights.seal(tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(content=st.binary(min_size=1, max_size=64), other=st.binary(min_size=1, max_size=64))
def test_fingerprint_depends_on_content_alone(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, other: bytes
) -> None:
    root = tmp_path_factory.mktemp("weights")
    one, same, another = (
        make_folder(root / name, data)
        for name, data in {"one": content, "same": content, "other": other}.items()
    )
    unsealed = weights.fingerprint(one)
    weights.seal(one)
    assert weights.fingerprint(one) == unsealed == weights.fingerprint(same)
    assert (weights.fingerprint(another) == unsealed) == (content == other)


class Hub:
    """Stands in for `snapshot_download`: a cache that may hold a folder, and a hub that may."""

    def __init__(self, cached: Path | None = None, online: Path | None = None) -> None:
        self.cached, self.online = cached, online
        self.downloads = 0

    def __call__(self, repository: str, *, local_files_only: bool = False) -> str:
        self.downloads += not local_files_only
        found = self.cached if local_files_only else self.online
        if found is None:
            raise LocalEntryNotFoundError(f"no snapshot of {repository}")
        return os.fspath(found)


def test_hub_comes_after_the_cache(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, online = make_folder(tmp_path / "cached"), make_folder(tmp_path / "online")
    weights.seal(cached)
    hub = Hub(cached, online)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert weights.resolve("someone/lab") == cached
    assert hub.downloads == 0
    lose(cached)  # as an interrupted download leaves it
    assert weights.resolve("someone/lab") == online
    hub.cached = hub.online = None
    with pytest.raises(WeightsMissing, match=r"in .*/lab, the Hugging Face cache, the hub .*no snapshot"):
        weights.resolve("someone/lab")


def test_hub_repository_must_be_a_pipeline(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(online=tmp_path))
    with pytest.raises(WeightsMissing, match=r"has no model_index\.json: it is no diffusers pipeline"):
        weights.resolve("someone/dataset")


def test_the_hub_is_asked_as_the_caller_says(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, **how: object) -> str:
        asked.append(how)
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    how = {"revision": "v1.2", "cache_dir": tmp_path, "local_files_only": True}
    with pytest.raises(WeightsMissing):
        weights.resolve("someone/model", how)
    assert asked == [how, how]
