"""Import of networks that were trained in PyTorch: from a state dict to a workdir."""
