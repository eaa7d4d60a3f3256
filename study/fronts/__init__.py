"""Policies times costs: grids of operating points, sweeps over all betas, exact fronts."""
