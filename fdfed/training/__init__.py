"""Local training: the loss of a step, the steps of a round, and what survives between rounds.

`step` and `local_round` are the method; `initialise` and `sharing` are what both sides agree on;
`site_state` and `model_file` are what is kept; `precision` and `device` say on what it runs.
"""
