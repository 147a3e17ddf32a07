"""Which pages have examples that run as tests, and in which folder they run."""

import pytest

collect_ignore = ["conf.py"]
collect_ignore_glob = ["_build/*", "api/*", "gallery/*"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Examples write their files to a folder of their own."""
    monkeypatch.chdir(tmp_path)
