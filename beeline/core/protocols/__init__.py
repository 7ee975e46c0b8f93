"""Every protocol of every slot."""
