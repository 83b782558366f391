"""Training one student (or several of equal structure as lanes).

The attribute ``harness.train`` is the public function (:func:`harness.production.train`); import what is in here
by ``from harness.train import fit``.
"""
