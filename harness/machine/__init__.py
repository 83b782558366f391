"""This machine's properties, and the runtime options that make integer arithmetic exact on it.

Input: only the machine itself. Output: a description of it, and options. No file of a study is read, and nothing is
timed.
"""
