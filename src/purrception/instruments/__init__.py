"""Instruments: measurements of a model's uncertainty, calibration, memorisation and smoothness.

Each is a function on tensors that returns a frozen record; none reads or writes a file. A model is a *posterior
function* (z_t, t) → ln π or a *mean function* (z_t, t) → μ, so that a network, the exact posterior of a data set
and a posterior that was damaged on purpose are measured in the same way.

posteriors · uncertainty · calibration · codebook use · drift · oracle · smoothness · bound · temperature ·
training monitor
"""
