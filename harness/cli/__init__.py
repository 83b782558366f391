"""The command line: parse, call, print.

Input: arguments. Output: text, a table and an exit code. All decisions are made in the Python API, none here.
"""
