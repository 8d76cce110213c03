import json

import pytest
from tensorboardX.proto import event_pb2

from moonshine_jax.errors import UserError
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.workdir import metrics


def test_records_are_lines_of_json_and_tensorboard_scalars(tmp_path):
  writer = metrics.Writer(tmp_path, epochs=0)
  records = [{'epoch': i, 'step': 10 * i, 'train_loss': 1 / i} for i in (1, 2)]
  for record in records:
    writer.write(record)
  writer.close()
  assert [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == records
  assert metrics.read(tmp_path) == records
  assert scalars(tmp_path) == [('train_loss', 10, 1.0), ('train_loss', 20, 0.5)]


def scalars(workdir):
  """What TensorBoard's files hold: records of a length, 4 bytes of checksum, an event and 4 bytes more."""
  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      length = int.from_bytes(data[:8], 'little')
      event, data = event_pb2.Event.FromString(data[12 : 12 + length]), data[16 + length :]
      found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
  return found


def test_records_of_steps_that_are_done_again_are_dropped(tmp_path):
  writer = metrics.Writer(tmp_path, epochs=0)
  for i in (1, 2, 3):
    writer.write({'epoch': i, 'step': 10 * i})
  writer.close()
  writer = metrics.Writer(tmp_path, epochs=2)
  writer.write({'epoch': 3, 'step': 30, 'again': 1})
  writer.close()
  assert metrics.read(tmp_path) == [
    {'epoch': 1, 'step': 10},
    {'epoch': 2, 'step': 20},
    {'epoch': 3, 'step': 30, 'again': 1},
  ]


def test_the_record_of_the_start_stays(tmp_path):
  metrics.write(tmp_path, [{'epoch': epoch, 'step': 10 * epoch} for epoch in (0, 1, 2)])
  for epochs in (1, 0):
    metrics.Writer(tmp_path, epochs).close()
    assert [record['epoch'] for record in metrics.read(tmp_path)] == list(range(epochs + 1))
  metrics.write(tmp_path, [{'epoch': epoch, 'step': 10 * epoch} for epoch in (0, 0, 1)])
  with pytest.raises(UserError, match='expected a record of each epoch from 1 to 1'):
    metrics.Writer(tmp_path, 1)


def test_each_start_has_a_tensorboard_file_of_its_own(tmp_path):
  """Named after the second alone, that of a quick restart would take the place of the one before."""
  for i in range(3):
    writer = metrics.Writer(tmp_path, epochs=i)
    writer.write({'epoch': i + 1, 'step': 10 * (i + 1), 'train_loss': float(i)})
    writer.close()
  assert scalars(tmp_path) == [('train_loss', 10, 0.0), ('train_loss', 20, 1.0), ('train_loss', 30, 2.0)]


def test_a_torn_last_line_is_none_and_goes(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"epoch": 1, "step": 10}\n{"epoch": 2, "st')
  assert metrics.read(tmp_path) == [{'epoch': 1, 'step': 10}]
  metrics.Writer(tmp_path, epochs=1).close()
  assert path.read_text() == '{"epoch": 1, "step": 10}\n'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"epoch": 1, "step": 10}\n{"epoch": 2, "st\n', 'metrics.jsonl, line 2: damaged'),
    ('{"epoch": 1, "step": 10}\n\xff\n', 'metrics.jsonl, line 2: damaged'),
    ('{"epoch": 1, "step": 10}\n[]\n', 'metrics.jsonl, line 2: damaged'),
    ('{"epoch": 1, "step": 10}\n{"epoch": 2, "st', 'metrics.jsonl: expected a record of each epoch from 1 to 2'),
    ('{"epoch": 2, "step": 20}\n', 'metrics.jsonl: expected a record of each epoch from 1 to 2'),
    ('', 'metrics.jsonl: expected a record of each epoch from 1 to 2'),
  ],
)
def test_records_that_a_checkpoint_has_behind_it_are_missed(tmp_path, text, message):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(UserError, match=message):
    metrics.Writer(tmp_path, epochs=2)
  assert path.read_bytes() == text.encode('latin-1')


def test_a_workdir_without_metrics_has_no_records(tmp_path):
  assert metrics.read(tmp_path) == []


def test_without_a_terminal_an_epoch_is_a_line(capsys):
  progress = ProgressBar(epochs=3, steps_per_epoch=2, first_step=0, batch_size=4, evaluated_on='test')
  progress.advance(1)
  progress.epoch(
    {'epoch': 1, 'train_loss': 1.23456, 'train_error': 50.0, 'test_error': 40.0, 'images_per_second': 1234.5}
  )
  progress.close()
  assert capsys.readouterr().err == ('epoch 1/3  loss 1.2346  train error 50.00%  test error 40.00%  1,234 images/s\n')
