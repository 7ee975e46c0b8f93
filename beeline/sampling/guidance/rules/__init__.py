"""Rules: how guidance combines a strong and a weak prediction."""
