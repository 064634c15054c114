"""Fitting a guide to a model, and keeping what came of it.

fit, run          the public function; one run of training, step by step
elbo, divergence  the bound that is climbed; the closed forms in it; ``loss``, what is made of it for a minibatch
distributed       one fit in several processes; ``across``, batch norms that see the cells of all
schedules         how the KL weight rises, and how long to wait for something better
objectives        what is asked for beside the bound
result            ``Fit``, and what a user does next
checkpoints       fits on disk; ``declarations`` as JSON; ``resume``, a run written down as it goes
diagnosis         what a loss that is not a number comes from
seeds, progress   random numbers behind the user's back; the bar
"""
