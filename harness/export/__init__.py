"""From a trained student to a file, and back.

Input: a student's module, masks and scales. Output: an ONNX file that stores packed integers, checked against the
module. Nothing is rounded or calibrated here, and nothing is timed.
"""
