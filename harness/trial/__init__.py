"""One trial, in a worker: recipes in, files and records out.

Recipes and folders come in as plain data; a record that says what the file is goes out, or one that says why there
is none. Nothing raises past here, and nothing here knows a study, Optuna or Ray.
"""
