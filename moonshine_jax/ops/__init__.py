"""Operations that XLA runs slowly, in forms that it runs fast."""
