"""A study in a database. Operations are retried while it is locked, restarting or unreachable.

An operation may fail after its commit, when only the answer is lost. Every operation is therefore safe to repeat: a
new trial is looked up by a token before it is created again, a told trial by its state and values.
"""

from __future__ import annotations

import copy
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from harness.errors import DiskError, HarnessError, SpaceError
from harness.files.access import FileMistake, read_bytes, write_bytes_durably
from harness.files.passwords import expanded, masked
from harness.stats.direction import Direction

log = logging.getLogger(__name__)
LIMIT_S = 120.0  # for how long an operation is retried: enough for a server to restart
FIRST_S, MOST_S = 0.1, 5.0  # first and longest pause between two tries
CONNECT_S = 10  # time limit of one connection attempt
ID_BYTES = 100
ID, OWNER, PLACE = "study.id", "harness:folder", "harness:place"
TOKEN = "harness:token"
DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module: package
FULL = ("disk is full", "readonly database", "disk I/O error", "No space left on device", "' is full")  # from messages
BUSY = ("database is locked", "starting up", "shutting down", "already exists")  # retried also on opening


class Database(RDBStorage):
    """Optuna's database storage, for one writer. Retrying ends early when ``give_up`` returns True.

    Raises (from any operation):
        HarnessError: the database has not answered for ``LIMIT_S`` seconds.
        DiskError: the database cannot write to its disk.
    """

    def __init__(self, url: URL, give_up: Callable[[], bool] = lambda: False):
        self._shown, self._give_up, self._opened, self._token = masked(str(url)), give_up, False, ""
        options = {"pool_pre_ping": True, "connect_args": _timeouts(url)}
        whole = url.render_as_string(hide_password=False)
        self._patiently(lambda retrying: RDBStorage.__init__(self, whole, options))
        self._opened = True

    def _patiently(self, operation: Callable[[bool], Any]) -> Any:
        """Retry ``operation`` until it succeeds and return its result. Its argument says whether an earlier try
        failed."""
        started, pause, retrying = time.monotonic(), FIRST_S, False
        while True:
            try:
                result = operation(retrying)
            except (exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                reason = self._passing(error)
                if reason is None:
                    raise
            else:
                if retrying:
                    log.warning("%s answers again", self._shown)
                return result
            waited = time.monotonic() - started
            if waited > LIMIT_S or self._give_up():
                raise HarnessError(
                    f"{self._shown}: the database did not answer for {waited:.0f} s ({reason}). "
                    "Finished trials are kept. When the database answers, give the same command again."
                )
            if not retrying:
                log.warning("%s does not answer (%s): the search waits up to %.0f s", self._shown, reason, LIMIT_S)
            retrying = True
            self._sleep(pause)
            pause = min(2 * pause, MOST_S)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._give_up():
            time.sleep(min(0.2, seconds))

    def _passing(self, error: Exception) -> str | None:
        """The driver's message if the error may pass by itself, else None."""
        cause = error if isinstance(error, exc.SQLAlchemyError) else error.__cause__
        said = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
        if any(words in said for words in FULL):
            raise DiskError(f"{self._shown}: {said}") from None
        if any(words in said for words in BUSY):
            return said
        lost = isinstance(cause, exc.OperationalError | exc.InterfaceError | exc.TimeoutError)
        lost = lost or (isinstance(cause, exc.DBAPIError) and cause.connection_invalidated)
        return said if lost and self._opened else None

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        template = copy.deepcopy(template_trial) or optuna.trial.create_trial(state=TrialState.RUNNING)
        template.system_attrs = {**template.system_attrs, TOKEN: uuid.uuid4().hex}
        make = super()._create_new_trial
        return self._patiently(lambda retrying: make(study_id, template))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """The trial that an earlier try created, else a new one. (Optuna itself calls this up to five times.)"""
        from optuna.storages._rdb.models import TrialModel, TrialSystemAttributeModel

        assert template_trial is not None  # _create_new_trial always passes one
        token = template_trial.system_attrs[TOKEN]
        if token == self._token:
            held = TrialSystemAttributeModel.key == TOKEN, TrialSystemAttributeModel.value_json == f'"{token}"'
            created = session.query(TrialModel).join(TrialSystemAttributeModel).filter(*held).one_or_none()
            if created is not None:
                return created
        self._token = token
        return super()._get_prepared_new_trial(study_id, template_trial, session)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tell, read = super().set_trial_state_values, super().get_trial

        def tell_once(retrying: bool) -> bool:
            if retrying:
                trial = read(trial_id)
                if trial.state is state and (values is None or trial.values == list(values)):
                    return True
            return tell(trial_id, state, values)

        return self._patiently(tell_once)


def _repeatable(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    def patient(self: Database, *args: Any, **named: Any) -> Any:
        return self._patiently(lambda retrying: method(self, *args, **named))

    return patient


for _name in (
    "create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs",
    "get_all_studies", "_set_trial_param", "set_trial_user_attr", "set_trial_system_attr", "get_trial", "_get_trials",
    "get_trial_id_from_study_id_trial_number",
):  # fmt: skip
    setattr(Database, _name, _repeatable(_name))


def _timeouts(url: URL) -> dict[str, Any]:
    """Options with which the driver notices a server that disappeared. Those in the URL take precedence."""
    options: dict[str, Any] = {}
    if url.get_backend_name() in ("mysql", "mariadb", "postgresql"):
        options["connect_timeout"] = CONNECT_S
    if url.get_driver_name() in ("psycopg", "psycopg2"):
        options |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
    return {name: value for name, value in options.items() if name not in url.query}


def open_database(text: str, give_up: Callable[[], bool]) -> Database:
    """The database at an Optuna URL.

    Raises:
        SpaceError: it cannot be opened; a missing driver is named.
    """
    try:
        url = make_url(expanded(text))
    except exc.ArgumentError:
        raise _unopened("not an Optuna URL", "ArgumentError", "Example: sqlite:///study.db.") from None
    try:
        return Database(url, give_up)
    except ImportError as error:
        cause = error.__cause__ or error
        module = str(getattr(cause, "name", None) or "").partition(".")[0]
        remedy = f"Install it: pip install {DRIVERS.get(module, module)}."
        raise _unopened(masked(text), f"its driver {module} is not installed", remedy) from None
    except exc.NoSuchModuleError:
        remedy = "Write postgresql://." if url.drivername == "postgres" else "Example: sqlite:///study.db."
        raise _unopened(masked(text), f"there is no kind of database {url.drivername!r}", remedy) from None
    except HarnessError:
        raise
    except exc.DBAPIError as error:
        said = str(error.orig).strip().partition("\n")[0]
        raise _unopened(masked(text), said, "Is the server there, with this database and user?") from None
    except Exception as error:  # drivers raise many kinds
        raise _unopened(masked(text), type(error).__name__, "Example: sqlite:///study.db.") from None


def _unopened(shown: str, why: str, remedy: str) -> SpaceError:
    return SpaceError("search.storage", f"cannot be opened ({why})", shown, remedy)


def claim(storage: BaseStorage, folder: Path, directions: Sequence[Direction]) -> str:
    """The name of the study in the database that belongs to ``folder``; the study is created if there is none.

    The study is identified by the folder's random id (``study.id``). A moved folder keeps its study. A copy, or another
    folder of the same name, gets its own study, whose name contains its id.
    """
    folder_id, here = _id_of(folder), str(folder.resolve())
    studies = storage.get_all_studies()
    mine = next((s for s in studies if s.user_attrs.get(OWNER) == folder_id), None)
    if mine is not None and _is_elsewhere(mine.user_attrs.get(PLACE, here), here, folder_id):
        folder_id, mine = new_id(folder), None
    if mine is None:
        name = folder.resolve().name
        same = next((s for s in studies if s.study_name == name), None)
        older = same is not None and OWNER not in same.user_attrs and (folder / "trials").is_dir()
        if same is not None and not older:
            name = f"{name}-{folder_id[:8]}"
            log.warning("the database has a study of another folder called %r: this one is %r there", folder.name, name)
        study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, directions=directions)
        study.set_user_attr(OWNER, folder_id)
    else:
        study = optuna.load_study(study_name=mine.study_name, storage=storage)
    if mine is None or mine.user_attrs.get(PLACE) != here:
        study.set_user_attr(PLACE, here)
    return study.study_name


def _id_of(folder: Path) -> str:
    path = folder / ID
    return _read_id(path) if path.exists() else new_id(folder)


def _read_id(path: Path) -> str:
    return read_bytes(path, ID_BYTES, path.parent).decode(errors="replace").strip()


def new_id(folder: Path) -> str:
    """Write a new id for ``folder``, so that no study in the database belongs to it."""
    folder_id = uuid.uuid4().hex
    write_bytes_durably(folder / ID, f"{folder_id}\n".encode())
    return folder_id


def _is_elsewhere(place: str, here: str, folder_id: str) -> bool:
    """Whether the study's folder is still at ``place``, so that the folder ``here`` is a copy of it."""
    other = Path(place, ID)
    try:
        return place != here and _read_id(other) == folder_id
    except (OSError, FileMistake):
        return False
