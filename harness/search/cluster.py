"""Start or join Ray, watch whether it is alive, and leave it."""

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
from ray.experimental import internal_kv
from ray.util.client import ray as client

from harness.errors import HarnessError, SpaceError, cut
from harness.machine.cores import usable_cores
from harness.search.signals import Interrupted
from harness.space.settings import Resources

log = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 300 * 2**20  # for the teachers' logits; Ray's default is a share of the machine's memory
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # environment variables
ALIVE_S = 60.0  # a cluster must offer the resources within this time
LEAVE_S = 8.0  # time limit of ray.shutdown; then the processes are killed
LOOK_S = 1.0  # between two checks of Ray
GONE = 3  # checks in a row that the GCS must miss to count as dead


class ClusterLost(HarnessError):
    """Ray, or its raylet on this machine, has died. The search ends; finished trials are kept."""


def connect(resources: Resources, address: str | None) -> int:
    """Start a local Ray or join a cluster, and return the number of slots that fit on it.

    A local Ray creates its access token and demands it (token authentication is the default since Ray 2.60). The
    mode must not be set here, because Ray then creates no token.

    Args:
        resources: of one slot, and the largest number of slots.
        address: HOST:PORT of a cluster, or ``auto``: the cluster in ``RAY_ADDRESS``, else the one on this machine.
            None starts a local Ray.
    Raises:
        SpaceError: nothing answers at the address or access is refused, or the resources are not available.
        HarnessError: Ray does not start.
        Interrupted: SIGTERM arrived during the call.
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
        if isinstance(error, SystemExit):  # raised by Ray's SIGTERM handler
            raise Interrupted(signal.SIGTERM) from None
        raise


def _start(resources: Resources) -> None:
    gpus = _local_gpus()
    if resources.gpu and not gpus:
        raise SpaceError(
            "resources.gpu",
            "the space asks for a GPU, but this machine has none",
            resources.gpu,
            "Remove `resources.gpu` to use CPU cores, or give --address of a cluster that has one.",
        )
    cpus = max(usable_cores(), resources.cpu, (resources.slots or 1) * resources.cpu)
    try:
        context = _init(cpus, gpus)
    except Exception as error:  # ray.init raises errors of many types
        log.warning("Ray did not start on this machine (%s): trying once more", _first_line(error))
        leave()
        try:
            context = _init(cpus, gpus)
        except Exception as second_error:
            raise HarnessError(
                f"Ray failed twice to start on this machine ({_first_line(second_error)}). The machine may be "
                "overloaded: run the same command again. Ray's logs are in /tmp/ray/session_latest/logs."
            ) from None
    with contextlib.suppress(OSError):  # Ray creates it readable and writable by everybody
        Path(context.address_info["session_dir"]).chmod(0o700)


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
    except Exception as error:  # ray.init raises errors of many types
        if isinstance(error, AuthenticationError) or "authentica" in f"{error} {heard}".lower():
            raise SpaceError("--address", _refused(error), address, _TOKEN) from None
        log.info("Ray said: %s", "".join(heard))
        rule = f"the Ray cluster there cannot be joined ({_first_line(error)})"
        raise SpaceError("--address", rule, address, "`ray status` on its head node says how it is.") from None


@contextlib.contextmanager
def _hearing(heard: list[str]) -> Iterator[None]:
    """Append what is written to stderr to ``heard`` instead of showing it.

    If the token is wrong, Ray's C++ core writes so to stderr once a second; the exception only says that Ray could not
    connect.
    """
    with tempfile.TemporaryFile() as file:
        saved_stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved_stderr, 2)
            os.close(saved_stderr)
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))


def _refused(error: Exception) -> str:
    has_token = any(os.environ.get(name) for name in TOKENS) or _token_file().exists()
    none = not has_token or "no authentication token" in str(error).lower()
    reason = "no token was found here" if none else "it refuses the one given"
    return f"the Ray cluster there demands its access token, and {reason}"


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


_TOKEN = (
    "Print it on the cluster's head node with `ray get-auth-token`, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
    "it here, or put it into ~/.ray/auth_token (mode 600)."
)


def _first_line(error: Exception) -> str:
    return cut((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


def _keep_token_private(make: bool) -> None:
    """Make Ray's token file readable by its owner only, because Ray creates it readable by everybody.

    An existing file gets mode 600. If there is none and Ray would ``make`` one, it is created here with that mode.
    """
    path = _token_file()
    with contextlib.suppress(OSError):  # Ray itself reports a missing token
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        has_token = any(os.environ.get(name) for name in TOKENS)
        if make and not has_token and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))


def _use_token() -> None:
    """Use the token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token for a cluster that is given by
    its address. Ray does so only for ``auto``."""
    with contextlib.suppress(ImportError):  # a private function of Ray, which may move
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _probe(address: str) -> None:
    """Fail early if nothing listens at ``address``: Ray would wait for minutes without a message."""
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
    """How many slots fit on the cluster's living nodes if nobody else uses them."""
    return sum(_fit(resources, node["Resources"]) for node in ray.nodes() if node["Alive"])


def _fit(resources: Resources, offered: Mapping[str, float]) -> int:
    fit = int(offered.get("CPU", 0) // resources.cpu)
    return min(fit, int(offered.get("GPU", 0) / resources.gpu + 1e-9)) if resources.gpu else fit


class Watch:
    """Checks whether Ray is alive: the GCS accepts connections and this machine's raylet runs.

    Without this check Ray would end the driver's process, without a message, a minute after its GCS has died.
    """

    def __init__(self) -> None:
        self._looked, self._silent, self.lost = time.monotonic(), 0, False
        self._gcs, self._raylet = None, None
        if client.is_connected():
            return  # with a Ray client (ray://HOST:PORT) this machine runs no part of the cluster
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self._gcs, self._raylet = (host.strip("[]"), int(port)), _raylet(context.get_node_id())

    def check(self) -> None:
        """Check again, at most once per LOOK_S.

        Raises:
            ClusterLost: the GCS or the raylet has died.
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
    """The raylet of ``node`` on this machine; None if this process cannot see it."""
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
    """Leave Ray. A local Ray ends with all its processes.

    ``ray.shutdown`` may hang if parts of Ray have died. After LEAVE_S the processes that Ray started here are killed.
    """
    processes = [p for p in psutil.Process().children(recursive=True) if _is_rays(p)]
    late = threading.Timer(LEAVE_S, _kill, [processes])
    late.daemon = True
    late.start()
    with contextlib.suppress(RayError):
        ray.shutdown()
    late.cancel()
    psutil.wait_procs(processes, timeout=1)
    _kill(processes)


def _is_rays(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        command_line = " ".join(process.cmdline())
        return "ray::" in command_line or f"{os.sep}ray{os.sep}" in command_line
    return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _announcement() -> str:
    """The key of this search's last announcement in Ray's table; all processes of a search have one job."""
    return f"harness {ray.get_runtime_context().get_job_id()}"


def tell_driver(text: str) -> None:
    """In a worker: leave a line for the driver. It is lost where Ray does not take it."""
    if not ray.is_initialized():  # asking Ray for the job would start one
        return
    with contextlib.suppress(Exception):  # a private interface of Ray; only a line of progress depends on it
        internal_kv._internal_kv_put(_announcement(), text)


def heard() -> str:
    """In the driver: the last line that a worker has left; empty if there is none."""
    with contextlib.suppress(Exception):
        return (internal_kv._internal_kv_get(_announcement()) or b"").decode()
    return ""
