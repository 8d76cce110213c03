"""`python -m moonshine_jax.import_torch` is `moonshine import-torch`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.run('import-torch')
