"""Starting, joining and watching Ray, where no Ray is needed for it."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import AuthenticationError

from harness.errors import HarnessError, SpaceError
from harness.search import cluster
from harness.search.signals import Interrupted
from harness.space.settings import Resources


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(cluster, "leave", lambda: None)
    return tmp_path


def _raises(error: BaseException) -> Any:
    def work(*_: Any, **__: Any) -> None:
        raise error

    return work


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_rays_token_file_is_made_and_kept_private(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / ".ray" / "auth_token"
    monkeypatch.setattr(cluster, "_init", _raises(Exception("stop here")))
    for given in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}):
        with pytest.MonkeyPatch.context() as told, pytest.raises(HarnessError):
            told.setenv(*next(iter(given.items())))
            cluster.connect(Resources(), None)
        assert not path.exists(), "no token of ours is wanted there"
    with pytest.raises(HarnessError):
        cluster.connect(Resources(), None)
    assert _mode(path) == 0o600 and len(path.read_text()) == 64
    path.write_text("of another")
    path.chmod(0o644)
    with pytest.raises(SpaceError, match="no Ray cluster answers"):
        cluster.connect(Resources(), "127.0.0.1:1")
    assert _mode(path) == 0o600 and path.read_text() == "of another"


def test_a_ray_that_does_not_start_is_tried_twice_and_is_one_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "_init", _raises(Exception("The current node timed out during startup.\nmore")))
    with pytest.raises(HarnessError, match=r"failed twice to start on this machine \(The current node timed") as one:
        cluster.connect(Resources(), None)
    assert "\n" not in str(one.value) and "once more" in caplog.text
    monkeypatch.setattr(cluster, "_init", _raises(SystemExit(15)))
    with pytest.raises(Interrupted) as raised:
        cluster.connect(Resources(), None)
    assert raised.value.exit_code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AuthenticationError("Token authentication is enabled but no authentication token was found"), "no token"),
        (RuntimeError("Authentication failed: the token is invalid"), "it refuses the one given"),
        (ConnectionError("Could not find any running Ray instance.\nmore"), "cannot be joined"),
    ],
    ids=["missing", "wrong", "none"],
)
def test_a_cluster_that_refuses_is_one_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    if "invalid" in str(error):
        monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    monkeypatch.setattr(cluster.ray, "init", _raises(error))
    with pytest.raises(SpaceError, match=said) as raised:
        cluster.connect(Resources(), "auto")
    assert "\n" not in str(raised.value)
    assert ("RAY_AUTH_TOKEN" in str(raised.value)) == ("joined" not in said)


def test_a_gcs_that_is_silent_or_a_raylet_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_S", 0)
    raylet = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        watch = cluster.Watch.__new__(cluster.Watch)
        watch._looked, watch._silent, watch.lost = time.monotonic(), 0, False
        watch._gcs, watch._raylet = gcs.getsockname(), psutil.Process(raylet.pid)
        for _ in range(cluster.GONE + 1):
            watch.check()
    for _ in range(cluster.GONE - 1):
        watch.check()
    with pytest.raises(cluster.ClusterLost, match="GCS"):
        watch.check()
    raylet.kill()
    wait_for = time.monotonic() + 10
    while psutil.Process(raylet.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < wait_for:
        time.sleep(0.01)
    with pytest.raises(cluster.ClusterLost, match="raylet"):
        watch.check()
    assert watch.lost
    raylet.wait()
