"""A machine without data sets, for tests that must not find its own."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest


@pytest.fixture
def empty_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep the machine's own data sets and network out of a test; return the cache."""

    def refused(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Connection refused")

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.delenv("SPIKETUNE_DATA", raising=False)
    monkeypatch.setattr("spiketune.zoo.places.SYSTEM", (cache / "system",))
    monkeypatch.setattr("spiketune.zoo.places.CACHE", cache)
    monkeypatch.setattr("urllib.request.urlopen", refused)
    return cache
