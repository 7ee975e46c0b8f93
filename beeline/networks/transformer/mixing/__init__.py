"""Mixers beside softmax and linear attention: in groups of tokens, by convolutions, and by scans."""
