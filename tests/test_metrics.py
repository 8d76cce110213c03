import json

from tensorboardX.proto import event_pb2

from moonshine_jax import metrics


def test_records_are_lines_of_json_and_tensorboard_scalars(tmp_path):
  writer = metrics.Writer(tmp_path, step=0)
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
      event, data = event_pb2.Event.FromString(data[12:12 + length]), data[16 + length:]
      found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
  return found


def test_records_of_steps_that_are_done_again_are_dropped(tmp_path):
  writer = metrics.Writer(tmp_path, step=0)
  for i in (1, 2, 3):
    writer.write({'epoch': i, 'step': 10 * i})
  writer.close()
  writer = metrics.Writer(tmp_path, step=20)
  writer.write({'epoch': 3, 'step': 30, 'again': 1})
  writer.close()
  assert metrics.read(tmp_path) == [
    {'epoch': 1, 'step': 10}, {'epoch': 2, 'step': 20}, {'epoch': 3, 'step': 30, 'again': 1}]


def test_a_workdir_without_metrics_has_no_records(tmp_path):
  assert metrics.read(tmp_path) == []


def test_without_a_terminal_an_epoch_is_a_line(capsys):
  progress = metrics.Progress(epochs=3, steps_per_epoch=2, first_step=0, batch_size=4)
  progress.advance(1)
  progress.epoch(
    {'epoch': 1, 'train_loss': 1.23456, 'train_error': 50.0, 'test_error': 40.0, 'images_per_second': 1234.5})
  progress.close()
  assert capsys.readouterr().err == (
    'epoch 1/3  loss 1.2346  train error 50.00%  test error 40.00%  1,234 images/s\n')
