"""`python -m moonshine_jax` is `moonshine`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.main()
