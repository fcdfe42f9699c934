"""Charts: numbers in, pictures out, for pages and notebooks.

curves.py says what a chart shows, and the same in words; plots.py draws it by matplotlib.
"""
