"""Numbers read from a file: its latency by a protocol, its layers by an audit, in processes of their own.

Paths of exported files come in, measurements with their conditions go out. Nothing here trains, or decides what is
good.
"""
