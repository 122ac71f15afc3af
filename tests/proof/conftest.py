"""The stand-in of a hub's cache, and a world without a network."""

from __future__ import annotations

import socket
from importlib import import_module

import pytest

import flowrank
from tests.proof import stand_in


@pytest.fixture(scope="session")
def cache(tmp_path_factory, bolt_folder):
    return stand_in.make_cache(tmp_path_factory.mktemp("hub"), bolt_folder)


@pytest.fixture
def offline(cache, monkeypatch):
    """huggingface_hub finds the stand-in, and whoever asks for a connection fails."""

    connect = socket.socket.connect

    def refuse(one, address):
        assert one.family == socket.AF_UNIX, "a connection was asked for"
        return connect(one, address)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return cache


@pytest.fixture(scope="session")
def flat(tmp_path_factory):
    return stand_in.flat_folder(tmp_path_factory.mktemp("data") / "flat")


@pytest.fixture(scope="session")
def parent(bolt_folder):
    return flowrank.load(bolt_folder)


@pytest.fixture
def few_stages(monkeypatch):
    stages = import_module("flowrank.search.stages")
    monkeypatch.setattr(stages, "_STEP", 0.3)
    monkeypatch.setattr(stages, "_PRECISION", 4.0)
