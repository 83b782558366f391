"""The command line: parse, call, print.

Arguments come in, one line of text or a table goes out, with an exit code. No decision is made here that the Python
API would miss.
"""
