"""The search space: from YAML to recipes.

A file's text comes in; out come a :class:`~harness.space.space.Space` that samples recipes, its baselines and the
trials to try first, or an error with file and line. Nothing here imports torch, trains, or talks to Optuna.
"""
