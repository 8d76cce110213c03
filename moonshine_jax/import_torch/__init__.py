"""A PyTorch state dict to the workdir of a trained network."""
