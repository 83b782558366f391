"""Files: safe reading, durable writing, checksums, and masking of passwords.

Input: a path, possibly in somebody else's study. Output: the complete content, or an error that names the path.
No module here interprets the content of a file.
"""
