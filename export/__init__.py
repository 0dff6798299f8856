"""Deploying a trained generator; installed as `minigan.export`. Nothing lives here yet."""
