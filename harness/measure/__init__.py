"""Measurements of a file: its latency, timed in separate processes, and an audit of its layers.

Input: paths of exported files. Output: measurements with their conditions. Nothing here trains or decides.
"""
