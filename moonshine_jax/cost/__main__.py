"""`python -m moonshine_jax.cost` is `moonshine cost`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.run('cost')
