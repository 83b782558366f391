"""What a program uses: search, open a study, time and audit files.

Input: spaces, folders of studies and files. Output: studies and their tables. No rule of the search is decided here,
and nothing is printed; the command line calls the same functions.
"""
