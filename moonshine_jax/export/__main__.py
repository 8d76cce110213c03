"""`python -m moonshine_jax.export` is `moonshine export`."""

from moonshine_jax.cli import app

app.run('export')
