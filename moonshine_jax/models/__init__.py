"""Networks as Flax linen modules that return (logits, activations), and the factory that builds them by name."""
