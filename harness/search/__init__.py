"""The search: Optuna proposes, Ray executes, the driver decides.

Input: a space and a folder. Output: a study with records and files of all trials. The driver imports no torch, and
only ``pool`` and ``cluster`` import Ray.
"""
