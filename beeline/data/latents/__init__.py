"""Latents of images: autoencoders, the modality, and shards on disk."""
