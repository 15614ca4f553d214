"""A small made-up data set of e-commerce Chinese: train.jsonl (2000 rows), dev.jsonl (300), test.jsonl (300).

Reviews, customer-service chat, search logs, and product and livestream news, with CLUENER's ten labels. `generate`
fills hand-written templates (`templates`) with words from hand-written lists (`words`), so every offset is right by
construction, and about a third of the surfaces in dev and in test do not occur in train. Persons, titles and most
brands are invented; no row comes from another data set. It is for trying the framework and for tests: scores on it
say nothing about real text.

A row: `{"text":"三星在北京","entities":[{"label":"company","start":0,"end":2},…]}`, with half-open character offsets
in text order. `python -m qwen_ner.data.sample.generate OUT_DIR` writes the same bytes again.
"""
