from harness.api.latency import bench as bench
from harness.api.studies import Study as Study
from harness.api.studies import open_study as open_study
from harness.api.studies import plan as plan
from harness.api.studies import search as search
from harness.export.packed import load as load
from harness.measure.audit import audit as audit
from harness.production import train as train
from harness.space.space import load_recipe as load_recipe
from harness.space.space import load_space as load_space

__version__: str
