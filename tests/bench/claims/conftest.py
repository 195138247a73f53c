import pytest


@pytest.fixture
def known(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    return folder
