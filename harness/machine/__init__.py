"""What this computer is, and what a runtime must be told so that its integers are exact here.

Nothing comes in but the machine itself. No file of a study is read, and nothing is timed.
"""
