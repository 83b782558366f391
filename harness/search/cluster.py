"""The Ray that a search runs on: starting or joining one, whether it is still there, and leaving it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.client import ray as client

from harness.errors import HarnessError, SpaceError, cut
from harness.search.signals import Interrupted
from harness.space.settings import Resources

log = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 300 * 2**20
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # in the environment
ALIVE_S = 60.0  # a cluster must offer the resources within this time
LEAVE_S = 8.0  # what Ray may take to end; then its processes are killed
LOOK_S = 1.0  # between two looks whether Ray is there
GONE = 3  # looks in a row without an answer of the GCS, after which it is gone


class ClusterLost(HarnessError):
    """Ray, or the part of it on this machine, has died. The search ends; what finished is kept."""


def connect(resources: Resources, address: str | None) -> int:
    """Start a local Ray or join the cluster at ``address`` (HOST:PORT, or ``auto``: the one that
    ``RAY_ADDRESS`` names or that runs on this machine); the number of slots it has for us.

    A Ray that we start makes its access token by itself and demands it (token authentication has
    been its default since 2.60; naming the mode here would keep it from making the token).

    Raises:
        SpaceError: the address is dead or refuses this side, or the resources asked for are not there.
        HarnessError: Ray does not start.
        Interrupted: SIGTERM came meanwhile.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    _keep_token_private(make=not address)
    try:
        if address:
            _join(address)
        else:
            _start(resources)
        return _slots(resources)
    except BaseException as error:
        leave()
        if isinstance(error, SystemExit):  # of Ray's own handler
            raise Interrupted(signal.SIGTERM) from None
        raise


def _start(resources: Resources) -> None:
    gpus = _local_gpus()
    if resources.gpu and not gpus:
        raise SpaceError(
            "resources.gpu",
            "a GPU is asked for, but this machine shows none",
            resources.gpu,
            "Remove `resources.gpu` to use CPU cores, or give --address of a cluster that has one.",
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus = max(cores, resources.cpu, (resources.slots or 1) * resources.cpu)
    try:
        context = _init(cpus, gpus)
    except Exception as error:  # Ray raises plain ones
        log.warning("Ray did not start on this machine (%s): once more", _first_line(error))
        leave()
        try:
            context = _init(cpus, gpus)
        except Exception as again:
            raise HarnessError(
                f"Ray did not start on this machine, twice ({_first_line(again)}). The machine may be overloaded: give "
                "the same command again. Ray's logs are in /tmp/ray/session_latest/logs."
            ) from None
    with contextlib.suppress(OSError):  # Ray lets everybody read and write there
        Path(context["session_dir"]).chmod(0o700)


def _init(cpus: int, gpus: int) -> Any:
    return ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        object_store_memory=OBJECT_STORE_BYTES,
    )


def _join(address: str) -> None:
    if address != "auto":
        _probe(address)
        _use_token()
    heard: list[str] = []
    try:
        with _hearing(heard):
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray raises plain ones
        if isinstance(error, AuthenticationError) or "authentica" in f"{error} {heard}".lower():
            raise SpaceError("--address", _refused(error), address, _TOKEN) from None
        log.info("Ray said: %s", "".join(heard))
        rule = f"the Ray cluster there cannot be joined ({_first_line(error)})"
        raise SpaceError("--address", rule, address, "`ray status` on its head node says how it is.") from None


@contextlib.contextmanager
def _hearing(heard: list[str]) -> Iterator[None]:
    """What Ray's C++ side writes to stderr is ``heard`` instead of shown: it says once a second that a token is wrong,
    and Ray then says only that it could not connect."""
    with tempfile.TemporaryFile() as file:
        shown = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))


def _refused(error: Exception) -> str:
    given = any(os.environ.get(name) for name in TOKENS) or _token_file().exists()
    none = not given or "no authentication token" in str(error).lower()
    found = "no token was found here" if none else "it refuses the one given"
    return f"the Ray cluster there demands its access token, and {found}"


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


_TOKEN = (
    "Print it on the cluster's head node with `ray get-auth-token`, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
    "it here, or put it into ~/.ray/auth_token (mode 600)."
)


def _first_line(error: Exception) -> str:
    return cut((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


def _keep_token_private(make: bool) -> None:
    """Ray writes its token file so that everybody can read it. Where there is one it is made private; where
    Ray would ``make`` one, it is there already, and was never readable by others."""
    path = _token_file()
    with contextlib.suppress(OSError):  # Ray says what it lacks
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        given = any(os.environ.get(name) for name in TOKENS)
        if make and not given and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))


def _use_token() -> None:
    """Offer the token that is at hand (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token) to a cluster that
    is named by its address: Ray itself does so for ``auto`` only."""
    with contextlib.suppress(ImportError):  # no public function of Ray's
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _probe(address: str) -> None:
    """A dead address makes Ray wait for minutes without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise SpaceError(
            "--address",
            f"no Ray cluster answers there ({error})",
            address,
            "Give HOST:PORT as `ray start --head` printed it.",
        ) from None


def _local_gpus() -> int:
    from harness.machine.host import gpus

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(gpus()) if visible is None else len([d for d in visible.split(",") if d.strip()])


def _slots(resources: Resources) -> int:
    deadline = time.monotonic() + ALIVE_S
    while time.monotonic() < deadline:
        fit = room(resources)
        if fit >= 1:
            return min(fit, resources.slots or fit)
        time.sleep(1)
    raise SpaceError(
        "resources",
        f"the cluster never offered {resources.cpu} CPU and {resources.gpu:g} GPU for a slot",
        {k: ray.cluster_resources().get(k, 0) for k in ("CPU", "GPU")},
        "Ask for less, or add nodes.",
    )


def room(resources: Resources) -> int:
    """How many slots fit on the cluster's living nodes, were nobody else there."""
    return sum(_fit(resources, node["Resources"]) for node in ray.nodes() if node["Alive"])


def _fit(resources: Resources, offered: Mapping[str, float]) -> int:
    fit = int(offered.get("CPU", 0) // resources.cpu)
    return min(fit, int(offered.get("GPU", 0) / resources.gpu + 1e-9)) if resources.gpu else fit


class Watch:
    """Looks whether Ray is still there: the GCS answers, and this machine's raylet lives. Ray itself ends the
    driver's process without a word a minute after its GCS has died."""

    def __init__(self) -> None:
        self._looked, self._silent, self.lost = time.monotonic(), 0, False
        self._gcs, self._raylet = None, None
        if client.is_connected():
            return  # of ray://HOST:PORT this machine has no part
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self._gcs, self._raylet = (host.strip("[]"), int(port)), _raylet(context.get_node_id())

    def check(self) -> None:
        """Look again, at most once in LOOK_S.

        Raises:
            ClusterLost: it is gone.
        """
        if self._gcs is None or time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        if self._raylet is not None and not _lives(self._raylet):
            self.lost = True
            raise ClusterLost("Ray's process on this machine (raylet) has died")
        try:
            socket.create_connection(self._gcs, timeout=2).close()
            self._silent = 0
        except OSError:
            self._silent += 1
        if self._silent >= GONE:
            self.lost = True
            raise ClusterLost(f"Ray's control service (GCS) at {self._gcs[0]}:{self._gcs[1]} has died")


def _raylet(node: str) -> psutil.Process | None:
    """The process of this machine's node; None where it cannot be seen."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and f"--node_id={node}" in (process.info["cmdline"] or []):
            return process
    return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def leave() -> None:
    """Leave Ray; a local one ends with all of its processes. Ray's own farewell may hang where parts of it have
    died: after LEAVE_S what it started here is killed."""
    own = [p for p in psutil.Process().children(recursive=True) if _is_rays(p)]
    late = threading.Timer(LEAVE_S, _kill, [own])
    late.daemon = True
    late.start()
    with contextlib.suppress(RayError):
        ray.shutdown()
    late.cancel()
    psutil.wait_procs(own, timeout=1)
    _kill(own)


def _is_rays(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        told = " ".join(process.cmdline())
        return "ray::" in told or f"{os.sep}ray{os.sep}" in told
    return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
