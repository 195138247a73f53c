"""What git says of the checkout that the package lies in, and of none around it."""

import shutil
import subprocess

import pytest

from magic141 import source


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that surrounds the folder `package`, which is asked about."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (("init", "--quiet"), (*who, "commit", "--quiet", "--allow-empty", "--message", "one")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(source, "ROOT", tmp_path / "package")
    return tmp_path


def test_the_commit_is_that_of_its_own_checkout(checkout, monkeypatch):
    monkeypatch.setattr(source, "ROOT", checkout)
    assert len(source.commit()) == 40
    assert source.git("status", "--porcelain") == ""
    assert source.git("no-such-command") is None


def test_a_repository_around_an_installed_package_is_not_its_own(checkout):
    assert source.git("rev-parse", "HEAD") is None
    assert source.commit() == "unknown"


def test_without_git_the_commit_is_unknown(checkout, monkeypatch):
    monkeypatch.setattr(source, "ROOT", checkout)
    monkeypatch.setenv("PATH", str(checkout / "nothing"))
    assert source.commit() == "unknown"
