"""Benchmarks: what they ask, how their files are written, how an answer is scored: by the official rules, and rightly.

Nothing here runs a model or a flow: files and texts in, numbers out. One benchmark, one module; `registry` knows them
by name. The words: a benchmark has **items** (a question about a video); a **prediction** is what a model replied to
an item; a **grade** is what a reply is worth by one **protocol**; a **metric** is a sum of grades.

Protocols: "official" does what the benchmark's own script does, its faults included; "strict" does it right: every
item counts, a reply that cannot be read is wrong and counted, nothing is guessed. Others carry the name of the
published scorer that they reproduce ("vlmevalkit", "lmms_eval", ...).
"""
