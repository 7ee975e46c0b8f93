"""Networks that encode data to latents and decode them."""
