"""What is counted and what it is attributed to; no run is run."""

import mmap

import pytest

from benchmarks import host_memory


def test_resident_counts_pages_once_they_are_touched_and_remembers_the_peak():
  before, size = host_memory.resident_bytes('VmRSS'), 2**26
  with mmap.mmap(-1, size) as pages:
    assert host_memory.resident_bytes('VmRSS') - before < size / 2
    pages[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)
    assert host_memory.resident_bytes('VmRSS') - before > 0.9 * size
  assert host_memory.resident_bytes('VmRSS') - before < size / 2
  assert host_memory.resident_bytes('VmHWM') - before > 0.9 * size


def test_each_run_adds_one_thing():
  assert host_memory.attribute_peaks([300, 450, 600], data_bytes=100) == {
    'programs': 300,
    'activations': 150,
    'data': 150,
    'total': 600,
    'data_set': 100,
    'data_sets': 1.5,
  }


def test_the_runs_differ_in_one_thing_at_a_time():
  whole = host_memory.make_config('somewhere')
  small, recipe = host_memory.shrink(whole, host_memory.SMALL_BATCH), host_memory.shrink(whole, whole.batch_size)
  assert (small.batch_size, recipe.batch_size, whole.batch_size) == (16, 128, 128)
  small.batch_size = recipe.batch_size
  assert small.to_dict() == recipe.to_dict()
  recipe.data.update(train_split='train', test_split='test')
  assert recipe.to_dict() == whole.to_dict()


def test_data_that_is_not_there_is_told_before_any_run(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(host_memory, 'ProcessPoolExecutor', lambda *args: pytest.fail('a run was begun'))
  with pytest.raises(SystemExit):
    host_memory.main([f'--data_dir={tmp_path}/nowhere'])
  assert 'cifar10' in capsys.readouterr().err
