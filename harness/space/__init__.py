"""The search space: from YAML to recipes.

Input: a file's text. Output: a :class:`~harness.space.space.Space` that samples recipes, its baselines and its first
trials, or an error with file and line. Nothing here imports torch, trains, or uses Optuna.
"""
