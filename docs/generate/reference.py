"""Reference pages from the code: the commands, the fields of a config, the configs, the API, the project's habits."""

import inspect
import posixpath
import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from absl.flags import FlagValues
from tabulate import tabulate

import moonshine_jax
from moonshine_jax import fields
from moonshine_jax.cli.app import COMMANDS, Command

ROOT = Path(__file__).parents[2]
SITE = 'docs/'  # what a link from a file at the root begins with, to a page of the site

# The pages of the API: title, what it is, and its modules within moonshine_jax; a folder is all of its modules.
API = {
  'losses': ('Losses', ['losses']),
  'models': ('Networks', ['models']),
  'surgery': ('Surgery on any network', ['models/surgery']),
  'ops': ('Operations', ['ops']),
  'data': ('Data', ['data']),
  'training': ('Training', ['training']),
  'search': ('Search', ['search']),
  'workdir': ('Workdirs', ['workdir']),
  'report': ('Reports', ['report']),
  'cost': ('Costs', ['cost']),
  'export': ('Export', ['export']),
  'import_torch': ('Import from PyTorch', ['import_torch']),
  'config': ('Config', ['config', 'fields']),
  'runtime': ('Runtime', ['runtime']),
  'errors': ('Errors', ['errors']),
  'paper': ('The paper', ['paper', 'published']),
}

# The pages that are files of the repository elsewhere.
PROJECT = {
  'contributing.md': 'CONTRIBUTING.md',
  'changelog.md': 'CHANGELOG.md',
  'security.md': 'SECURITY.md',
  'guides/clusters.md': 'launch/README.md',
}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Writes a Markdown table whose last column is prose."""
  cells = [[str(cell).replace('|', r'\|').replace('<', '&lt;') for cell in row] for row in rows]
  markdown = tabulate(cells, headings, 'github', disable_numparse=True)
  return f'<div class="prose" markdown>\n\n{markdown}\n\n</div>'


def commands() -> str:
  """Describes every command of `moonshine`, with its flags."""
  overview = table(
    ['command', 'what it does'], [[f'[`{c.name}`](#{_anchor(c)})', c.summary] for c in COMMANDS.values()]
  )
  return '\n\n'.join([overview, *map(_command, COMMANDS.values())])


def _anchor(command: Command) -> str:
  return command.name.replace(' ', '-')


def _command(command: Command) -> str:
  values = FlagValues()
  command.define_flags(values)
  flags = [values[name] for name in sorted(values) if values[name].name == name]  # without the other names of a flag
  rows = []
  for flag in flags:
    default = ','.join(flag.default) if isinstance(flag.default, list) else flag.default
    state = 'required' if flag.name in command.required else ('' if default in (None, '') else f'`{default}`')
    choices = f' One of {", ".join(flag.parser.enum_values)}.' if hasattr(flag.parser, 'enum_values') else ''
    rows.append([f'`--{flag.name}`', state, flag.help.partition(';\n')[0] + choices])
  usage = ' '.join(['moonshine', command.name, *command.arguments, '[FLAGS]'])
  return '\n\n'.join([
    f'## {command.name} {{ #{_anchor(command)} }}', f'`{usage}`', _fence(command.manual),
    table(['flag', 'default', 'meaning'], rows),
  ])  # fmt: skip


def _fence(manual: str) -> str:
  """Makes fenced code of the indented examples of a docstring, so that they are highlighted."""
  return re.sub(
    r'(?:^ {4}.*\n?)+',
    lambda match: '```sh\n' + re.sub('^ {4}', '', match[0], flags=re.MULTILINE).rstrip() + '\n```\n',
    manual,
    flags=re.MULTILINE,
  )


def config_fields() -> str:
  """Lists the fields of a config by their parts: default, allowed values, meaning."""
  parts: dict[str, list[list[str]]] = {}
  for name, field in fields.FIELDS.items():
    part = name.partition('.')[0] if '.' in name else 'run'
    row = [f'`{name}`', f'`{field.default!r}`', field.kind.expected, field.meaning + (' (recipe)' * field.recipe)]
    parts.setdefault(part, []).append(row)
  headings = ['field', 'default', 'allowed', 'meaning']
  return '\n\n'.join(f'## {part}\n\n{table(headings, rows)}' for part, rows in parts.items())


def configs() -> str:
  """Shows the manual of every config that comes with the package."""
  texts = []
  for path in sorted((ROOT / 'configs').glob('[a-z]*.py')):
    manual = inspect.cleandoc(import_module(f'moonshine_jax.configs.{path.stem}').__doc__ or '')
    manual = re.sub(r'^ {2}(?=\S| {4})', '    ', manual, flags=re.MULTILINE)
    texts.append(f'## {path.stem}\n\n{_fence(manual)}')
  return '\n\n'.join(texts)


def contract() -> list[list[str]]:
  """Returns the layers of the import contract, from the top: the packages of each."""
  with open(ROOT / 'pyproject.toml', 'rb') as file:
    (layers,) = tomllib.load(file)['tool']['importlinter']['contracts']
  return [[name.strip().removeprefix('moonshine_jax.') for name in row.split('|')] for row in layers['layers']]


def api_pages() -> dict[str, str]:
  """Makes the pages of the API: mkdocstrings reads the modules without running them."""
  index = '\n\n'.join(
    ['# The public functions', 'What `import moonshine_jax` offers. Other names are of modules, which may change.']
    + [
      f'::: moonshine_jax.{module}.{name}\n    options:\n      show_root_full_path: false'
      for name, module in moonshine_jax._MODULES.items()
    ]
  )
  pages = {'reference/api/index.md': index}
  for name, (title, parts) in API.items():
    modules = [module for part in parts for module in _modules(part)]
    directives = [f'::: {module}' for module in modules]
    pages[f'reference/api/{name}.md'] = '\n\n'.join([f'# {title}', *directives])
  return pages


def _modules(part: str) -> list[str]:
  path = ROOT / 'moonshine_jax' / part
  paths = [path.with_suffix('.py')] if path.with_suffix('.py').exists() else sorted(path.glob('[a-z]*.py'))
  return ['.'.join(each.relative_to(ROOT).with_suffix('').parts) for each in paths]


def project_pages() -> dict[str, str]:
  """Makes pages of the files that stand at the root, and of the launchers' manual."""
  return {page: _relink(page, (ROOT / path).read_text('utf-8')) for page, path in PROJECT.items()}


def linked(page: str, text: str) -> str:
  """Points a page's links to files of the repository, which lead there without the site, at the pages made of them."""
  pages = {path: made for made, path in PROJECT.items()}
  pages |= {f'moonshine_jax/{part}': f'reference/api/{name}.md' for name, (_, parts) in API.items() for part in parts}
  folder = posixpath.dirname(page)

  def link(match: re.Match) -> str:
    target = pages.get(posixpath.normpath(posixpath.join(SITE, folder, match[1])))
    return f']({posixpath.relpath(target, folder or ".")}' if target else match[0]

  return re.sub(r'\]\(((?:\.\./)+[^)#]+)', link, text)


def _relink(page: str, text: str) -> str:
  """Points links into docs/ at the pages from where `page` is."""
  up = '../' * page.count('/')
  return re.sub(r'\]\((?:\.\./)*docs/', f']({up}', text)
