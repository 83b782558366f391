"""A real cluster of several nodes that demands a token: nodes that die and join, and who is refused.

The nodes are processes of this machine (:mod:`ray.cluster_utils`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.driving import ROOT, Study, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.long]
TOKEN = "a" * 64
HEAD = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = []
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "add":
        nodes.append(cluster.add_node(num_cpus=1))
    else:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


class Cluster:
    """A head without CPUs, and nodes of one CPU that come and go."""

    def __init__(self, box: Path):
        environment = {**os.environ, "HARNESS_FAKE": str(box), "HARNESS_FAKE_S": "0.5"}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD],
            **{"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL, "text": True, "env": environment},
            cwd=ROOT,
        )
        self.address = self._line()
        assert self.address, "the head did not start"

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("box"))
    yield made
    made.process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("token", "said"),
    [({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}, "it refuses the one"), ({}, "no token was found here")],
    ids=["wrong", "missing"],
)
def test_a_wrong_or_missing_token_is_one_message(
    cluster: Cluster, tmp_path: Path, token: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = Study(tmp_path).start(cluster.address, **token)
    out, err = refused.communicate(timeout=200)
    assert (refused.returncode, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("harness: --address") and said in line and "RAY_AUTH_TOKEN" in line


def test_nodes_die_and_join_and_a_second_search_waits_for_room(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    studies: list[Study] = []
    for name, trials in (("first", 60), ("second", 12)):
        (tmp_path / name).mkdir()
        studies.append(Study(tmp_path / name, trials=trials))
    first, second = studies
    records: Callable[[], int] = lambda: len(first.files())  # noqa: E731
    cluster.tell("add")
    cluster.tell("add")
    driver = first.start(cluster.address)
    wait_until(lambda: records() >= 2, "the search does not get on")
    waiting = second.start(cluster.address, WAITS_S="1")
    cluster.tell("remove")
    before = records()
    wait_until(lambda: records() >= before + 2 or driver.poll() is not None, "the other node does not go on")
    cluster.tell("add")
    out, err = driver.communicate(timeout=300)
    assert out.strip().endswith("complete 60 0"), err
    out, err = waiting.communicate(timeout=300)
    assert out.strip().endswith("complete 12 0") and "workers are not ready" in err, err
