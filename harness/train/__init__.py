"""Training one student (or several of equal structure as lanes). Read ``step`` first.

Input: a recipe, a module and tensors. Output: a trained module with masks, scales and a history. No file is written
here, and nothing depends on ONNX or a study.

The attribute ``harness.train`` is the public function :func:`harness.production.train`. Import this package's modules
as in ``from harness.train import fit``.
"""
