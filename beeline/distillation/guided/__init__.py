"""Distillation of guidance, so that sampling takes one pass of the network per evaluation."""
