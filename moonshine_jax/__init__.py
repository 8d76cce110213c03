"""Moonshine JAX: distil trained convolutional networks into students with cheap convolutions."""
