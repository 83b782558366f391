"""What a program uses: search, open a study, time and audit files.

Input: spaces, folders of studies and files. Output: studies and their tables. Nothing is decided here that the packages
below do not decide; the command line calls these functions.
"""
