"""``fit``, the ``Fit`` that it returns, and fits on disk.

fit           the public function
result        ``Fit``, and every method on it
checkpoints   save and load; ``declarations``, models and guides as JSON
files         files that are written whole and carry checksums
adapted       the guide of a fit, trained further on other cells; ``sleep``, on cells that the model simulates
observers     what looks at a fit after every epoch: checkpoints that are kept, event files for TensorBoard
resume        a run that is written down as it goes, and continued
"""
