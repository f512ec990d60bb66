"""Side-by-side measurements: ours against the vendor's client, in one run, as ratios."""
