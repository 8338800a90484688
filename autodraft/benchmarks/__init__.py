"""Programs that produce the JSON and the Markdown in reports/; each is run as `python -m autodraft.benchmarks.NAME`."""
