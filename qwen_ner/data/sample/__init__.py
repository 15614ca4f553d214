"""A small made-up data set of e-commerce Chinese: train.jsonl (2000 rows), dev.jsonl (300), test.jsonl (300).

Reviews, customer-service chat, search logs, product and livestream news, with CLUENER's ten labels. The sentences are
filled from hand-written templates and word lists, so every offset is right by construction, and about a third of the
surfaces in dev and in test do not occur in train. Persons, titles and most brands are invented; no row comes from
another data set. Use it to try the framework and in tests: scores on it say nothing about real text.

A row: `{"text":"三星在北京","entities":[{"label":"company","start":0,"end":2},…]}`, with half-open character offsets
in text order. `tools/sample/generate.py` in the repository writes the same bytes again.
"""
