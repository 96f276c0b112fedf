"""Instruments: what a model holds possible, how far that can be trusted, and how smooth its field is.

Each is a function on tensors with a frozen record as its result; none reads or writes a file. They see a model as
a *posterior function* (z_t, t) → ln π, or as a *mean function* (z_t, t) → μ, so that a network, the exact
posterior of a data set and a posterior that was damaged on purpose are measured in the same way.

posteriors · uncertainty · calibration · codebook use · drift · oracle · smoothness · bound · temperature ·
training monitor
"""
