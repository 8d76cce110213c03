"""`python -m moonshine_jax.report` is `moonshine report`."""

from moonshine_jax.cli import app

if __name__ == '__main__':
  app.run('report')
