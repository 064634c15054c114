"""Stochastic variational inference: how a guide is trained on a model.

run               one run of training, step by step
evaluation        bounds and samples of a fit in training, which leave it as it is
elbo, divergence  the ELBO, and the KL divergences in it that have a closed form
loss, objectives  the loss of a minibatch; terms that a user adds to it
schedules         the KL weight and the learning rate over a run, and early stopping
convergence       whether a fit still improved when its training ended
captured, noise   the training step as one compiled graph, and its random numbers
distributed       one fit in several processes; ``sync_batch_norm``, batch norms over all of them
diagnosis         why a loss is not a number
seeds, progress   random generators, the progress bar
"""
