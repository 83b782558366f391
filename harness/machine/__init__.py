"""This machine's properties, and the runtime options that make integer arithmetic exact on it.

No file of a study is read, and nothing is timed.
"""
