"""``beeline lora``: files of adapters."""
