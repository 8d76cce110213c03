"""`moonshine data`: what a data set holds."""

from absl.flags import FlagValues
from tabulate import tabulate

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError, printable, say
from moonshine_jax.report import data_summary

LISTED = 40  # classes at most; of more, the first
FAULTS = 10  # damaged images at most


def main(values: FlagValues, name: str) -> None:
  """Prints what a data set holds, and draws some of its images."""
  fields = {f'data.{flag}': values[flag].value for flag in ('image_size', 'train_split', 'test_split', 'flip')}
  fields |= {'data.name': name, 'data.data_dir': values.data_dir or '', 'data.pad': values.pad}
  if values.image_size:
    fields |= {'data.feed': 'stream', 'data.pad': 0}
  config = config_lib.create_config(fields)
  config_lib.check(config)
  source = sources.open_source(config.data)
  height, width, channels = source.image_shape
  cropped = ', cropped from images of any size' * bool(values.image_size)
  say(f'{name}: {source.num_classes} classes, images of {height}x{width} pixels and {channels} channels{cropped}')
  splits = {
    split: data_summary.summarise(source, split, values.examples)
    for split in dict.fromkeys((config.data.train_split, config.data.test_split))
  }
  for split, summary in splits.items():
    of = f' (of {len(summary.split):,})' if summary.split and len(summary.split) > summary.looked_at else ''
    say(f'{split}: {summary.looked_at:,} images{of}, {len(summary.faults)} damaged')
    for fault in summary.faults[:FAULTS]:
      say(f'  {fault}')
  say(_class_table(source, splits))
  damaged = sum(len(summary.faults) for summary in splits.values())
  train, test = (splits[split].split for split in (config.data.train_split, config.data.test_split))
  if not damaged and train and test:
    facts = sources.measure_facts(source, train, test)
    for statistic, figures in (('mean', facts.mean), ('standard deviation', facts.std)):
      say(f'{statistic} of each channel: {", ".join(f"{figure:.2f}" for figure in figures)} (from 0 to 255)')
    data_summary.draw_sheet(values.out, train, source.classes, config)
    say(f'{values.out}: augmented training images')
  if damaged:
    raise UserError(f'{name}: {damaged} damaged images: expected none')


def _class_table(source: sources.Source, splits: dict[str, data_summary.SplitSummary]) -> str:
  """The examples of each class in each split."""
  counts = [summary.counts.tolist() for summary in splits.values()]
  names = source.classes or [''] * source.num_classes
  rows = [(i, printable(name), *row) for i, (name, *row) in enumerate(zip(names, *counts, strict=True))]
  lines = [tabulate(rows[:LISTED], ['class', 'name', *splits], disable_numparse=[1])]
  if len(rows) > LISTED:
    few = [f'{min(count)} to {max(count)} images of {split}' for split, count in zip(splits, counts, strict=True)]
    lines.append(f'and {len(rows) - LISTED} more; a class has {" and ".join(few)}')
  return '\n'.join(lines)
