"""Pareto fronts, hypervolumes and confidence intervals.

Input: arrays and the direction of each objective. Output: arrays and scalars. Nothing here uses files, trials or
studies, and nothing is random.
"""
