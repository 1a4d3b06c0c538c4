"""The report: one HTML page of a run, or of several, with its curves, evaluations and rollouts.

curves.py     what metrics.jsonl and eval.jsonl hold, as columns
charts.py     which metrics are drawn together
rollouts.py   the stored rollouts as an index and chunks
page.py       all of it as one page
serve.py      the page of a run that is going on
assets/       HTML, CSS and JavaScript of the page, and the charting library uPlot (MIT licence)
"""
