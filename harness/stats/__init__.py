"""Numbers from numbers: Pareto fronts, hypervolumes, confidence intervals.

Arrays come in with the direction of each objective, arrays and scalars go out. Nothing here knows files, trials or
studies, and nothing draws at random.
"""
