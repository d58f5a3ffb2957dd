"""What the paper says of test images under a model without and with L_fd, seen on runs of our own.

Observations, not proofs: L_fd of a test image needs its annotation, and so does its Dice.
"""
