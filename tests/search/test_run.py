"""A whole search on digits: what it leaves, how it goes on, what it refuses, and what it chooses."""

import copy
import itertools
import json

import jax
import numpy as np
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax import losses
from moonshine_jax.data import sources
from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.runtime.signals import Signals
from moonshine_jax.search import front, networks, program
from moonshine_jax.search import run as run_lib
from moonshine_jax.search.run import Search, choose_best, search_blocks
from moonshine_jax.search.settings import Settings
from moonshine_jax.training import loop, terms
from moonshine_jax.training.evaluation import evaluate_workdir
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir

SETTINGS = Settings(candidates=('G(N/8)', 'B(2)'), solutions=2, held_out=0.05)
BUDGETS = ({'parameters': 40_000.0}, {'parameters': 70_000.0, 'multiply_adds': 7e5})


@pytest.fixture(scope='module')
def found(small_runs, trained, tmp_path_factory):
  """The teacher's workdir, the folder of a search from it, named from beside it, and the networks for BUDGETS."""
  teacher, _ = trained
  out = tmp_path_factory.mktemp('search') / 'out'
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(teacher.parent)
    return teacher, out, search_blocks(teacher.name, out, BUDGETS, SETTINGS)


def test_the_networks_are_within_their_budgets_and_workdirs_as_any(found):
  teacher, out, networks_found = found
  for network, budget in zip(networks_found, BUDGETS, strict=True):
    result = evaluate_workdir(network.workdir)
    assert {'parameters', 'multiply_adds'} >= budget.keys()
    assert all(result[name] <= most for name, most in budget.items())
    assert result['test_error'] == pytest.approx(network.test_error)
    assert network.facts == Trained.open(teacher).facts and network.config.epochs == 0
  assert {str(workdir) for workdir in Workdir.find(out)} == {str(network.workdir) for network in networks_found}


def test_a_score_is_the_loss_of_the_teacher_with_one_block_of_the_candidate(found):
  """By a network that is put together by hand, evaluated on what is held out."""
  teacher, out, _ = found
  search = Search(teacher, out, SETTINGS)
  scores, uniform, of_teacher, _ = search.store.read_scores()
  assert scores[:, 0].tolist() == [0, 0, 0] and (scores[:, 1:] > 0).all() and set(uniform) == {1, 2}
  blocks = search.store.block_variables(2, False)
  variables = {name: dict(tree) for name, tree in search.teacher.variables.items()}
  for name, tree in variables.items():
    tree['conv3_block1'] = blocks[name]['conv3_block1']
  config = copy.deepcopy(search.teacher.config)
  config.data.held_out = SETTINGS.held_out
  _, held_out = sources.read_splits(search.teacher.source(), config.data)
  config.model.block = 'S,B(2),S'
  network = networks.create_network(config.model, search.teacher.facts)
  logits = jax.jit(lambda variables, images: network(variables, images, False)[0])(variables, held_out.images)
  expected = search.teacher.network(search.teacher.variables, held_out.images, False)[0]
  kl = losses.knowledge_distillation(logits, expected, 1.0, 'hinton')
  np.testing.assert_allclose(scores[1, 2], np.mean(kl), rtol=1e-4)
  error = 100 * np.mean(np.argmax(expected, 1) != held_out.labels)
  assert of_teacher['error'] == pytest.approx(error) and of_teacher['kl'] == pytest.approx(0, abs=1e-6)


def test_what_is_chosen_has_the_least_sum_of_the_roots_of_its_scores(found):
  teacher, out, networks_found = found
  search = Search(teacher, out, SETTINGS)
  scores, *_ = search.store.read_scores()
  for budget, network in zip(BUDGETS, networks_found, strict=True):
    told = json.loads((network.workdir.path / 'found.json').read_text())['solutions']
    within = [
      choice
      for choice in itertools.product(*map(np.flatnonzero, search.choices))
      if all(program.cost_of(choice, search.costs[name]) <= most for name, most in budget.items())
    ]
    sums = sorted(sum(scores[place, column] ** 0.5 for place, column in enumerate(choice)) for choice in within)
    assert told[0]['predicted'] == pytest.approx(sums[0])


def test_it_goes_on_without_doing_anything_twice(found, monkeypatch):
  teacher, out, networks_found = found
  monkeypatch.setattr(loop, 'train_to_end', lambda run: pytest.fail('candidates learn again'))
  monkeypatch.setattr(networks, 'put_together', lambda *_: pytest.fail('networks are put together again'))
  again = search_blocks(teacher, out, BUDGETS, SETTINGS)
  assert [str(network.workdir) for network in again] == [str(network.workdir) for network in networks_found]


def test_it_goes_on_from_another_folder(found):
  run = Search(found[0], found[1], SETTINGS).prepare_run()
  assert [student.workdir.begun for student in run.students] == [True, True]


def test_what_is_refused_leaves_no_search(found, tmp_path):
  for candidates in ('B(2)',), ('G(N/8)',):
    with pytest.raises(UserError, match='^parameters 100: no network of these candidates is within it'):
      search_blocks(found[0], tmp_path / 'out', [{'parameters': 100.0}], Settings(candidates=candidates))
  assert not (tmp_path / 'out').exists()
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='file: cannot be written: Not a directory'):
    Search(found[0], tmp_path / 'file', SETTINGS)


def test_a_network_is_tuned_by_its_teacher_s_logits_alone_whatever_taught_the_teacher(found):
  config = copy.deepcopy(Trained.open(found[0]).config)
  taught = {'ce_weight': 1.0, 'alpha': 0.3, 'kd_form': 'dkd', 'kd_warmup': 20, 'standardise': True}
  config.distill.update(taught)
  config.optimizer.warmup_epochs = 5
  config.update_from_flattened_dict({**networks.TUNING, 'epochs': 1, 'distill.teacher': 'there'})
  config_lib.check(config)
  assert terms.weights(config.distill) == (0.0, 1.0, 0.0)
  assert not (config.distill.kd_warmup or config.distill.standardise) and config.distill.kd_form == 'hinton'


def test_a_budget_above_the_teacher_s_cost_is_the_teacher(found, capsys):
  teacher, out, _ = found
  (network,) = search_blocks(teacher, out, [{'parameters': 1e6}], SETTINGS)
  assert 'the teacher is within the budget' in capsys.readouterr().out
  assert network.config.model.block == 'S'
  assert jax.tree.all(jax.tree.map(np.array_equal, network.variables, Trained.open(teacher).variables))


def test_the_front(found, capsys):
  teacher, out, _ = found
  table = front.write_front(Search(teacher, out, SETTINGS))
  assert table == (out / 'front.md').read_text().rstrip('\n')
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
  assert rows[0] == ['', 'block', 'parameters', 'multiply-adds', 'KL', 'held-out error %', 'test error %']
  kinds = [row[0] for row in rows[2:]]
  assert kinds.count('teacher') == 1 and kinds.count('uniform') == 2 and kinds.count('searched') >= 2
  assert ['teacher', '`S`', '77,875', '781,504', '0.0000'] in [row[:5] for row in rows]
  values = json.loads((out / 'front.json').read_text())
  assert len(values['networks']) == len(rows) - 2 and values['seconds'].keys() == {'candidates', 'scores'}
  assert b'held-out error' in (out / 'front.svg').read_bytes()


@pytest.mark.parametrize(
  ('settings', 'budget', 'message'),
  [
    ({'epochs': 2}, {'parameters': 5e4}, r'holds another search: epochs=2 \(there: 1\): expected the same, or another'),
    ({'candidates': ('B(2)',)}, {'parameters': 5e4}, r"holds another search: candidates=\['B\(2\)'\] \(there: "),
    ({'solutions': 3}, BUDGETS[0], r'params-40000 holds another search: solutions=3 \(there: 2\)'),
    (
      {},
      {'parameters': 100.0},
      '^parameters 100: no network of these candidates is within it: expected at least 20,339',
    ),
  ],
)
def test_what_cannot_go_on(found, settings, budget, message):
  teacher, out, _ = found
  changed = Settings(**{name: getattr(SETTINGS, name) for name in Settings.__annotations__} | settings)
  with pytest.raises(UserError, match=message):
    search_blocks(teacher, out, [budget], changed)


@pytest.mark.parametrize(
  'change',
  [
    {'choice': [0, 1]},
    {'choice': [0, 1, 99]},
    {'solutions': [{'block': 'S', 'ce': 1.0, 'error': 50.0}]},
    {'test': {}},
  ],
)
def test_a_damaged_network_of_a_search_is_one_line(found, tmp_path, change):
  search = Search(found[0], found[1], SETTINGS)
  file = next(iter(search.store.networks())) / 'found.json'
  (tmp_path / 'found.json').write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(UserError, match=f'^{tmp_path}/found.json: damaged'):
    search.store.read_found(tmp_path)


@pytest.mark.parametrize('budget', [{}, {'params': 5e4}, {'parameters': 0.0}, {'latency': float('inf')}])
def test_a_budget_that_cannot_be_meant(found, budget):
  with pytest.raises(UserError, match='expected numbers above 0 of some of parameters, multiply_adds, latency$'):
    Search(found[0], found[1], SETTINGS).check([budget])


def test_a_folder_of_other_files_is_refused(found, tmp_path):
  (tmp_path / 'notes').touch()
  with pytest.raises(UserError, match='holds other files than of a search: expected a new folder'):
    Search(found[0], tmp_path, SETTINGS)


def test_a_signal_stops_between_batches(found, monkeypatch):
  teacher, out, _ = found
  monkeypatch.setattr(Signals, 'received', 'SIGTERM', raising=False)
  monkeypatch.setattr(Signals, '__init__', lambda self: None)
  with pytest.raises(Preempted, match='SIGTERM: what is done is saved'):
    search_blocks(teacher, out, [{'parameters': 50_000.0}], SETTINGS)


SOLUTIONS = [
  {'kl': 0.1, 'latency': 1.0, 'measured_latency': 1.3},
  {'kl': 0.2, 'latency': 1.0, 'measured_latency': 0.95},
  {'kl': 0.3, 'latency': 1.0, 'measured_latency': 0.8},
]


@pytest.mark.parametrize(
  ('latency', 'best', 'warnings'),
  [(1.4, 0, ['add up']), (1.0, 1, []), (0.9, 2, ['add up']), (0.5, 2, ['more than the budget', 'add up'])],
)
def test_the_best_network_is_within_the_latency_that_is_measured(latency, best, warnings, capsys):
  assert choose_best('there', SOLUTIONS, 'kl', {'latency': latency}) == best
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == len(warnings) and all(words in line for words, line in zip(warnings, lines, strict=True))


def test_without_a_latency_the_loss_decides():
  assert choose_best('there', SOLUTIONS[::-1], 'kl', {'parameters': 1.0}) == 2


def test_latencies_are_measured_once_and_add_up_to_the_teacher_s(found, monkeypatch, tmp_path):
  teacher, _, _ = found
  search = Search(teacher, tmp_path / 'out', SETTINGS)
  measured = []

  def measure(space, choices, batch):
    measured.append(choices)
    return [1.0 - sum(0.1 * place * (candidate > 0) for place, candidate in enumerate(choice, 1)) for choice in choices]

  monkeypatch.setattr(run_lib.latency, 'measure_whole', measure)
  search.check([{'latency': 0.9}])
  seconds = search.costs['latency']
  assert seconds[range(3), 0].tolist() == [1.0, 0.0, 0.0] and seconds[0, 0] + seconds[1, 2] == pytest.approx(0.8)
  assert len(measured) == 1 and len(measured[0]) == 1 + 3 * 2
  np.testing.assert_array_equal(Search(teacher, tmp_path / 'out', SETTINGS).costs['latency'], seconds)
  with pytest.raises(UserError, match='latency 100 ms: no network'):
    search.check([{'latency': 0.1}])

  choices = [search.space.teacher, search.space.uniform(1)]
  assert search.measure_whole(choices) == pytest.approx([1.0, 0.4])
  assert search.measure_whole([*choices, search.space.uniform(2)]) == pytest.approx([1.0, 0.4, 0.4])
  assert [len(choices) for choices in measured] == [7, 1 + 2, 1 + 1]  # each once, beside the teacher
