"""Do the numbers hold? Files measured again, points trained again on new seeds.

A finished study comes in; verdicts with intervals go out. No result of a search is changed here.
"""
