"""The reference pages, one module each.

Input: the declarations in harness. Output: Markdown. Nothing here imports torch or runs a search.
"""
