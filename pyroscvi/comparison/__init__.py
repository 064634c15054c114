"""Comparison: which of several fits explains held-out cells best.

compare       the evidence of every fit, differences between them, and verdicts
sweep         fits of all combinations that were declared
question      are two evidences probabilities of the same thing?
paired        differences cell by cell, their standard errors, verdicts
refits        several seeds of one declaration
stacking      weights of a mixture of fits
usage         active units, effective components, information of the latents
genes         which genes one fit predicts better than another
cache         evidences kept on disk
"""
