"""`python -m moonshine_jax.export` is `moonshine export`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.run('export')
