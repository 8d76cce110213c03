"""`python -m moonshine_jax.evaluate` is `moonshine evaluate`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.run('evaluate')
