"""The search: Optuna proposes, Ray executes, the driver decides.

A space and a folder come in; a study with records and files of all trials goes out. The driver imports no torch, and
only ``pool`` and ``cluster`` import Ray.
"""
