"""The campaign: what could go wrong with runs, files, checkpoints and hubs is brought about, and the outcome counted.

    make torture                            all of it, at most an hour on two cores
    make torture ARGS=--quick               a few of each, about five minutes
    make torture ARGS="kill flips"          these two
    make torture ARGS="kill --seed 17 --count 1"     one try again

An attack is a function here that is given a `Ground`, and a line in `registry`; `attack` has the contract.
"""
