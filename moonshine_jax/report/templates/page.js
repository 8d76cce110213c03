// A click on a heading sorts by its column, a second one the other way; cells without a number stay last.
for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const heading = button.closest('th'), table = button.closest('table'), body = table.tBodies[0];
    const column = Number(heading.dataset.column);
    const sign = heading.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === '' || y === '') return (x === '') - (y === '');
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    });
    body.append(...rows);
  });
}
