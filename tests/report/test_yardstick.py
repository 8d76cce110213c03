"""The published accuracies: which runs stand beside them, and what is said of the epoch."""

import dataclasses

import pytest

from moonshine_jax import config as config_lib
from moonshine_jax import published
from moonshine_jax.configs import cifar100_crd
from moonshine_jax.report import html, table_formats, tables, yardstick
from tests.helpers.made_runs import make_run

TEACHER = make_run(
  'teacher',
  [25.0],
  **{'model.depth': published.TEACHER[0], 'model.width': published.TEACHER[1], 'data.name': 'cifar100'},
)
CONFIGS = config_lib.students(cifar100_crd.get_config())


def make_student(name, errors, words, **fields):
  values = config_lib.flatten(CONFIGS[config_lib.folder_name(words)]) | {'distill.teacher': 'teacher', **fields}
  return dataclasses.replace(make_run(name, errors, **values), epochs_done=240)


def test_the_config_has_every_method_for_both_students():
  config = cifar100_crd.get_config()
  config_lib.check(config)
  assert (config.model.depth, config.model.width, config.batch_size, config.epochs) == (40, 2, 64, 240)
  assert len(CONFIGS) == 2 * 8 and config_lib.regime(next(iter(CONFIGS.values()))) == 'none'
  for student in CONFIGS.values():
    config_lib.check(student)


@pytest.mark.parametrize('method', published.METHODS, ids=lambda method: method.name)
def test_a_run_stands_beside_its_own_method_alone(method):
  if method.loss is None:
    return
  for i, (depth, width) in enumerate(published.STUDENTS):
    words = ' '.join([f'depth={depth} width={width}', *(f'{word}={value}' for word, value in method.loss.items())])
    rows = yardstick.compare_accuracies([TEACHER, make_student('a', [30.0, 24.0, 25.0], words)])
    (ours,) = [row for row in rows if row.last]
    assert (ours.method, ours.published) == (method, method.accuracies[i])
    assert (ours.network, ours.last, ours.best) == (f'WRN-{depth}-{width}', (75.0,), (76.0,))
    assert len(rows) == 2 * len(published.METHODS)


def test_the_last_epoch_and_the_best_are_told_apart_in_every_form_of_the_report():
  kd = 'depth=16 width=2 kd_form=hinton alpha=0.9 beta=0.0 temperature=4.0'
  runs = [
    TEACHER,
    make_student('a', [30.0, 24.0, 25.0], kd),
    make_student('b', [30.0, 24.0, 26.0], kd, seed=1, **{'model.seed': 1}),
  ]
  markdown = table_formats.published_markdown(runs)
  (line,) = [line for line in markdown.splitlines() if line.startswith('| KD ') and 'WRN-16-2' in line]
  cells = [cell.strip() for cell in line.split('|')[1:-1]]
  assert cells == ['KD', 'WRN-16-2', '74.50 ± 0.71 (2)', '76.00 ± 0.00 (2)', '74.92', 'last', 'CRD (Tian et al., 2020)']
  assert 'compare the last with the last' in markdown
  page = html.render_page('runs', [(table, {}) for table in tables.make_tables(runs)])
  assert 'Beside what was published' in page and '74.92' in page


@pytest.mark.parametrize(
  'change',
  [
    {'epochs': 24},
    {'data.name': 'cifar10'},
    {'data.mixup': 0.2},
    {'model.block': 'G(N/8)'},
    {'data.held_out': 0.1},
    {'distill.start': 'blockwise'},
  ],
)
def test_a_run_of_another_protocol_is_not_compared(change):
  run = make_student('a', [30.0, 25.0], 'depth=16 width=2 alpha=0.0 beta=0.0')
  assert yardstick.compare_accuracies([run])
  run.config.update_from_flattened_dict(change)
  assert not yardstick.compare_accuracies([run]) and not table_formats.published_markdown([run])
  assert 'Beside what was published' not in html.render_page(
    'runs', [(table, {}) for table in tables.make_tables([run])]
  )


def test_a_student_of_another_teacher_is_not_compared():
  student = make_student('a', [30.0, 25.0], 'depth=16 width=2 kd_form=hinton alpha=0.9 beta=0.0 temperature=4.0')
  other = make_run('teacher', [25.0], **{'model.depth': 16, 'model.width': 4, 'data.name': 'cifar100'})
  assert yardstick.compare_accuracies([TEACHER, student]) and not yardstick.compare_accuracies([other, student])


def test_cifar_100_of_its_archive_is_compared_and_cifar_10_is_not():
  run = make_student('a', [30.0, 25.0], 'depth=16 width=2 alpha=0.0 beta=0.0', **{'data.name': 'cifar:some/archive'})
  assert run.facts.num_classes == 10 and not yardstick.compare_accuracies([run])
  facts = dataclasses.replace(run.facts, num_classes=100)
  assert yardstick.compare_accuracies([dataclasses.replace(run, facts=facts)])
