"""The command line: parse, call, print.

Input: arguments. Output: text, a table and an exit code. Nothing is decided here that the Python API cannot do.
"""
