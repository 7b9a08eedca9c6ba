"""Learning from one's own samples: sample, score, select, batch, each a function that a config names."""
