"""The search: Optuna proposes, Ray executes, the driver decides. The driver imports no torch."""
