"""Training GANs: losses, penalties, recipes, the trainer, scores."""
