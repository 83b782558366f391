"""Bytes on the disk: read safely, written durably, checked, with passwords masked.

What comes in is a path that may belong to somebody else's study; what goes out is whole, or an error that names it.
No module here knows what a file means.
"""
