from moonshine_jax import cost
from moonshine_jax.models.wide_resnet import WideResNet


def test_the_teacher_costs_what_is_published():
  counted = cost.count(WideResNet(40, 2, 'S', 10), (32, 32, 3))
  assert counted == cost.Cost(parameters=2_248_954, multiply_adds=327_599_360)


def test_multiply_adds_counted_by_hand():
  # WRN-10-1 with blocks S, G(N/8) and BG(2,M) on 8x8 images of 1 channel: output positions times weights.
  stem = 64 * 9 * 1 * 16
  conv2 = 64 * (9 * 16 * 16) * 2  # the shortcut is the identity
  conv3 = 16 * (9 * 16 * 8 + 16 * 32 + 9 * 32 * 8 + 32 * 32 + 16 * 32)
  conv4 = 16 * 32 * 32 + 4 * (9 * 32 + 32 * 64 + 32 * 64)  # the first 1x1 comes before the stride
  fully_connected = 64 * 10
  counted = cost.count(WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10), (8, 8, 1))
  assert counted.multiply_adds == stem + conv2 + conv3 + conv4 + fully_connected
