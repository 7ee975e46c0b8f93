"""Plans: which blocks are visited in which order, and what a visit does to the tokens."""
