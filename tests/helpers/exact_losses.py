"""The forms of the losses of logits by their definitions, in 40 digits, and their slopes by finite differences."""

import decimal
import functools

import jax

from moonshine_jax import losses

PRECISION = 40
STEP = decimal.Decimal(10) ** -13


def softmax(row):
  largest = max(row)
  exponentials = [(x - largest).exp() if x.is_finite() else decimal.Decimal(0) for x in row]
  return [x / sum(exponentials) for x in exponentials]


def divergence(p, q):
  return sum(a * (a / b).ln() for a, b in zip(p, q, strict=True) if a)


def softened(rows, temperature):
  return [softmax([x / temperature for x in row]) for row in rows]


def kl(form, student, teacher, labels, temperature):
  del labels
  values = []
  for q, p in zip(softened(student, temperature), softened(teacher, temperature), strict=True):
    ce = -sum(a * b.ln() for a, b in zip(p, q, strict=True) if a)
    value = {'released': 2 * divergence(p, q) / len(p), 'equation': 2 * ce, 'hinton': divergence(p, q)}[form]
    values.append(value * temperature**2)
  return values


def dkd(student, teacher, labels, temperature):
  values = []
  for q, p, label in zip(softened(student, temperature), softened(teacher, temperature), labels, strict=True):
    others = [i for i in range(len(p)) if i != label]
    of_target = divergence([p[label], sum(p[i] for i in others)], [q[label], sum(q[i] for i in others)])
    p_others, q_others = ([x[i] / sum(x[j] for j in others) for i in others] for x in (p, q))
    values.append(temperature**2 * (of_target + 6 * divergence(p_others, q_others)))
  return values


def wttm(student, teacher, labels, temperature):
  del labels
  values = []
  for q, p in zip(map(softmax, student), map(softmax, teacher), strict=True):
    power = [(x.ln() / temperature).exp() if x else x for x in p]
    values.append(sum(power) * divergence([x / sum(power) for x in power], q))
  return values


def one_less_correlation(student, teacher):
  centred = [[x - decimal.Decimal(sum(row)) / len(row) for x in row] for row in (student, teacher)]
  norms = [sum(x * x for x in row).sqrt() for row in centred]
  if not all(norms):
    return decimal.Decimal(1)
  return 1 - sum(a * b for a, b in zip(*centred, strict=True)) / (norms[0] * norms[1])


def dist(student, teacher, labels, temperature):
  del labels
  q, p = (softened(rows, temperature) for rows in (student, teacher))
  least = decimal.Decimal(losses.correlation.LEAST).exp() / len(student[0])  # below it ours are 0
  columns = [column if max(column) > least else [0] * len(q) for x in (q, p) for column in zip(*x, strict=True)]
  classes = len(student[0])
  of_classes = sum(map(one_less_correlation, columns[:classes], columns[classes:])) / classes
  return [2 * temperature**2 * (one_less_correlation(a, b) + of_classes) for a, b in zip(q, p, strict=True)]


def standardised(rows):
  result = []
  for row in rows:
    mean = sum(row) / len(row)
    deviation = (sum((x - mean) ** 2 for x in row) / (len(row) - 1)).sqrt()
    result.append([(x - mean) / (decimal.Decimal('1e-7') + deviation) for x in row])
  return result


def standardised_hinton(student, teacher, labels, temperature):
  return kl('hinton', standardised(student), standardised(teacher), labels, temperature)


def of_ours(function):
  return lambda student, teacher, labels, temperature: function(student, teacher, temperature)


# Ours, as functions of (student's logits, teacher's, labels, temperature), and the definitions.
FORMS = {
  **{
    form: (of_ours(functools.partial(losses.knowledge_distillation, form=form)), functools.partial(kl, form))
    for form in losses.logits.KL_FORMS
  },
  'dkd': (losses.decoupled_distillation, dkd),
  'wttm': (of_ours(losses.transformed_teacher_matching), wttm),
  'dist': (of_ours(losses.correlation_distillation), dist),
  'standardised': (
    of_ours(
      lambda student, teacher, temperature: losses.knowledge_distillation(
        *map(losses.standardise, (student, teacher)), temperature, 'hinton'
      )
    ),
    standardised_hinton,
  ),
}


@functools.cache
def value_and_gradient(form):
  """Ours, compiled once for each shape: (student's logits, teacher's, labels, temperature) to the sum of the losses."""
  return jax.jit(jax.value_and_grad(lambda *arguments: FORMS[form][0](*arguments).sum()))


def value_and_slopes(form, student, teacher, labels, temperature, directions):
  """The sum of the losses of a batch, and its slopes along directions of the student's logits."""
  with decimal.localcontext(prec=PRECISION):
    exact = functools.partial(FORMS[form][1], labels=labels, temperature=decimal.Decimal(float(temperature)))
    student, teacher, *directions = (
      [[decimal.Decimal(float(x)) for x in row] for row in rows] for rows in (student, teacher, *directions)
    )

    def value(direction, step):
      moved = [[x + step * d for x, d in zip(*rows, strict=True)] for rows in zip(student, direction, strict=True)]
      return sum(exact(moved, teacher))

    slopes = [float((value(each, STEP) - value(each, -STEP)) / (2 * STEP)) for each in directions]
    return float(value(student, 0)), slopes
