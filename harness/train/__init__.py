"""Training one student (or several of equal structure as lanes). Read ``step`` first.

A recipe, a module and tensors come in; a trained module with masks, scales and a history goes out. No file is written
here, and nothing knows ONNX or a study.

The attribute ``harness.train`` is the public function (:func:`harness.production.train`); import what is in here
by ``from harness.train import fit``.
"""
