"""From a trained student to a file, and back.

A student's module, masks and scales come in; an ONNX file with integers really packed goes out, checked against the
module. Nothing is rounded or calibrated again here, and nothing is timed.
"""
