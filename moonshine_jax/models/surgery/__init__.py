"""Surgery on any linen module: look into it, replace its convolutions, take its activations out."""
