"""Calls of pretrained networks: from a state to the arguments of the network and back."""
