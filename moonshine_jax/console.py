"""What commands print."""


def print_table(lines: list[list[str]], left: int = 1) -> None:
  """Prints lines of cells in columns as wide as their widest cell; so many of them are aligned to the left."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for line in lines:
    cells = [cell.ljust(width) if i < left else cell.rjust(width)
             for i, (cell, width) in enumerate(zip(line, widths, strict=True))]
    print('  '.join(cells).rstrip())
