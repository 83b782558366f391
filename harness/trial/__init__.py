"""One trial, in a worker: recipes in, files and records out.

Input: recipes and folders, as plain data. Output: a record that describes the file, or one that says why there is none.
A trial's errors become records, except disk errors, which are raised. Nothing here depends on a study, Optuna or Ray.
"""
