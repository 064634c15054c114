"""Attacks on the library: thousands of odd inputs, damaged files, kills, and everything else that goes wrong in use.

    python -m tests.attack --inputs 10000            every attack; ten thousand inputs for Fields.read
    python -m tests.attack --only reading --seed 123 --inputs 1      one input alone, the 123rd

Each attack is a function that takes a seed and returns an ``Outcome``. The same seed makes the same input.
"""
