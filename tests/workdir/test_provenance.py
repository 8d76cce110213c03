import jax
import pytest

from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.workdir import provenance


@pytest.fixture
def begun(tmp_path):
  """The workdir of a run that was started under the settings that the tests have."""
  facts = Facts((8, 8, 1), 10, (0.0,), (1.0,))
  provenance.record_start(tmp_path, digits.get_config(), facts, 0)
  return tmp_path


def test_a_run_goes_on_in_the_same_environment_without_a_word(begun, capsys):
  provenance.check_resumption(begun, digits.get_config())
  provenance.check_resumption(begun / 'not begun', digits.get_config())
  assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda: jax.enable_x64(True), 'JAX_ENABLE_X64=True (there: False)'),
    (lambda: jax.default_matmul_precision('bfloat16'), 'JAX_DEFAULT_MATMUL_PRECISION=bfloat16 (there: None)'),
    (lambda: jax.threefry_partitionable(False), 'JAX_THREEFRY_PARTITIONABLE=False (there: True)'),
    (lambda: jax.default_prng_impl('rbg'), 'JAX_DEFAULT_PRNG_IMPL=rbg (there: threefry2x32)'),
  ],
)
def test_a_run_does_not_go_on_with_another_arithmetic_or_other_random_numbers(begun, change, message):
  with change(), pytest.raises(UserError) as error:
    provenance.check_resumption(begun, digits.get_config())
  assert str(error.value) == f'{begun} holds a run under {message}: expected the same, to go on, or another workdir'


def test_a_run_on_other_devices_is_told_that_only_rounding_changes(begun, monkeypatch, capsys):
  environment = provenance.environment()
  monkeypatch.setattr(provenance, 'environment', lambda: environment | {'devices': 3, 'jaxlib': '9.9', 'cpus': 96})
  provenance.tell_changes(begun)
  assert capsys.readouterr().err == (
    f"warning: {begun}: goes on under devices 3 (there: {environment['devices']}), jaxlib '9.9' (there: "
    f'{environment["jaxlib"]!r}): equal to rounding, not to the bit\n'
  )


def test_a_run_does_not_go_on_with_another_loss_of_the_users(tmp_path):
  mine = tmp_path / 'mine.py'
  mine.write_text('def loss(student, teacher, labels): return ((student - teacher) ** 2).mean(-1)\n')
  config = digits.get_config()
  config.distill.update(teacher='t', kd_form=f'{mine}:loss', beta=0.0)
  provenance.record_start(tmp_path, config, Facts((8, 8, 1), 10, (0.0,), (1.0,)), 0)
  assert provenance.read_starts(tmp_path)[0]['functions'].keys() == {f'{mine}:loss'}
  provenance.check_resumption(tmp_path, config)
  mine.write_text('def loss(student, teacher, labels): return 0 * student[:, 0]\n')
  with pytest.raises(UserError, match=f'^{tmp_path} holds a run of another loss: {mine} has changed since it began: '):
    provenance.check_resumption(tmp_path, config)
