"""Comparison: which of several fits explains held-out cells best.

compare       the evidence of every fit, differences between them, and verdicts
sweep         fits of all combinations that were declared
result        what compare and compare_genes return: they print verdicts, and have tables, pictures and a report
entry         the fits of one declaration, and the cells that they have scored
question      are two evidences probabilities of the same thing?
refits        evidences of one declaration with several seeds
paired        differences cell by cell, their standard errors, verdicts
looks         cells are added until the verdicts are clear
nested        which model contains which
selection     how much better the best appears because it is the best
stacking      weights of a mixture of fits
usage         active units, effective components, information of the latents
genes         which genes one fit predicts better than another
cache         evidences kept on disk
"""
