"""What the command reads from a compiled program, what it refuses, and which formulations it compiles."""

import argparse
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import tpu
from moonshine_jax.ops import grouped_conv
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import total

# Lines of programs compiled for a v5e, shortened.
HLO = """
%region_6.8 (Arg_0.1: f32[], Arg_1.1: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%Arg_0.1, %Arg_1.1)
}

ENTRY %main.765_spmd (param.1: u8[1,50000,3072]) -> (f32[2,16]) {
  %fusion.5 = s32[1,4]{1,0:T(1,128)S(1)} fusion(%x), kind=kLoop, backend_config={"estimated_cycles":"1832","id":"1"}
  %psum.3 = f32[2,16]{1,0:T(2,128)S(1)} all-reduce(%fusion.5), channel_id=1, metadata={op_name="jit(f)/all-gather(x)"}
  %all-reduce.4 = f32[2,16]{1,0} all-reduce(%psum.3), replica_groups={{0,1,2,3}}, to_apply=%region_6.8
  %start.1 = (f32[16]{0}, f32[64]{0}) all-gather-start(%param.1), channel_id=2
  %all-gather-done.1 = f32[64]{0} all-gather-done(%start.1)
  %scattered = f32[16]{0} reduce-scatter(%all-gather-done.1), channel_id=3
  ROOT %fusion.6 = f32[16]{0} fusion(%scattered), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"40"}}
}
"""


def test_reads_a_compiled_program():
  assert tpu.estimated_cycles(HLO) == 1872
  assert tpu.count_collectives(HLO) == {'all-reduce': 2, 'all-gather': 1, 'reduce-scatter': 1}
  assert tpu.count_collectives('ENTRY %main () -> f32[] {\n  ROOT %c = f32[] constant(1)\n}') == {}


def four_devices():
  if len(jax.devices()) < 4:
    pytest.skip('needs 4 devices')
  return jax.devices()[:4]


def describe_collectives(train, evaluation):
  """In place of the steps of a network: programs of one collective."""

  def describe(architecture, flags, replicas):
    x = replicas.replicate(np.zeros(16, np.float32))
    programs = [replicas.compile(lambda x, step=step: step(x, devices.AXIS)) for step in (train, evaluation)]
    return tuple(functools.partial(program.lower, x) for program in programs)

  return describe


def test_ends_well_with_all_reduces_alone_and_with_status_1_beside_an_all_gather(tmp_path, monkeypatch, capsys):
  devices, path = four_devices(), tmp_path / 'rows.json'
  monkeypatch.setattr(tpu, 'find_devices', lambda parser, topology: devices)
  for train, status, message in [
    (lax.psum, 0, ''),
    (lax.all_gather, 1, 'WRN-10-1 S, rule: expected all-reduces alone\n'),
  ]:
    monkeypatch.setattr(tpu, 'describe_steps', describe_collectives(train, lax.psum))
    with pytest.raises(SystemExit) as end:
      tpu.main(['--networks', 'WRN-10-1 S', f'--json={path}'])
    assert (end.value.code, capsys.readouterr().err) == (status, message)
    (row,) = json.loads(path.read_text())['rows']
    assert row['evaluation']['collectives'] == {'all-reduce': 1}
    assert row['train']['collectives'] == ({'all-gather': 1} if status else {'all-reduce': 1})


def test_a_batch_that_the_devices_do_not_divide_is_refused(monkeypatch, capsys):
  devices = four_devices()
  monkeypatch.setattr(tpu, 'find_devices', lambda parser, topology: devices)
  with pytest.raises(SystemExit) as end:
    tpu.main(['--batch=130'])
  assert end.value.code == 2
  assert capsys.readouterr().err.endswith('--batch=130: expected a multiple of the 4 devices\n')


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit) as end:
    tpu.main([])
  assert end.value.code == 2
  assert (
    capsys.readouterr()
    .err.splitlines()[-1]
    .endswith('libtpu, the compiler for TPUs, is not installed: expected it as launch/setup.sh tpu installs it')
  )


def groups_on_a_tpu():
  """The groups of the convolutions in a forward and backward pass that is lowered for a TPU, of one in 4 groups."""

  def loss(x, kernel):
    return grouped_conv.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=4
    ).sum()

  x, kernel = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 16), jnp.float32)
  text = jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel).lower(lowering_platforms=('tpu',)).as_text()
  return [group_count for group_count in (1, 4) if f'group_count = {group_count} : i64' in text]


def test_the_formulation_asked_for_is_what_a_tpu_gets_and_only_while_it_is_asked_for():
  rule = groups_on_a_tpu()
  with tpu.tpu_rule_replaced(tpu.FORMULATIONS['lax']):
    assert 4 in groups_on_a_tpu()
  with tpu.tpu_rule_replaced(tpu.FORMULATIONS['dense']):
    assert groups_on_a_tpu() == [1]
  assert groups_on_a_tpu() == rule


def test_compiles_for_a_topology():
  pytest.importorskip('libtpu')
  replicas = tpu.DescribedReplicas(tpu.find_devices(argparse.ArgumentParser(), 'v5e:2x4'))
  x = replicas.replicate(np.zeros((128, 128), np.float32))
  estimates = tpu.compile_and_analyse(replicas.compile(lambda x: total((x @ x).sum(), replicas.axis_name)).lower(x))
  assert estimates['collectives'] == {'all-reduce': 1}
  assert (
    estimates['cycles'] > 0 and estimates['bytes_held'] >= 128 * 128 * 4 and estimates['bytes_moved'] >= 128 * 128 * 4
  )


def test_an_unknown_topology_is_told_in_one_line(capsys):
  pytest.importorskip('libtpu')
  with pytest.raises(SystemExit) as end:
    tpu.find_devices(argparse.ArgumentParser(), 'v5e:3x1')
  assert end.value.code == 2
  assert capsys.readouterr().err.splitlines()[-1].endswith('expected one as v5e:2x2')
