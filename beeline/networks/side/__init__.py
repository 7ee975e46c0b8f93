"""Small trained networks beside a frozen one, whose activations need no gradients."""
