"""All registries in one object, to validate recipes. Imports only declarations."""

from __future__ import annotations

from harness.methods import Registries
from harness.models import MODELS
from harness.runtimes import RUNTIMES
from harness.tasks import TASKS
from harness.techniques import CLIPS, DISTILLS, PRUNERS, QUANTIZERS

REGISTRIES = Registries(TASKS, MODELS, CLIPS, PRUNERS, QUANTIZERS, DISTILLS, RUNTIMES)
