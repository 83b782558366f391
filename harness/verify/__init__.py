"""Verification of a study: measure its files again (``check``), train its points on new seeds (``confirm``).

Input: a finished study. Output: verdicts with intervals. No result of the search is changed.
"""
