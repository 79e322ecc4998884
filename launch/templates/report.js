// Sorts a table by the column whose name is pressed; pressed again, the other way round.
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    const value = (row) => row.cells[column].dataset.value;
    const numbers = [...body.rows].every((row) => value(row) !== "" && isFinite(value(row)));
    const compare = numbers ? (a, b) => a - b : (a, b) => a.localeCompare(b);
    body.append(...[...body.rows].sort((a, b) => sign * compare(value(a), value(b))));
    for (const other of head.parentElement.cells) other.ariaSort = null;
    head.ariaSort = sign === 1 ? "ascending" : "descending";
  });
}
// A figure that is pressed shows its small print; it then scrolls within its frame.
for (const frame of document.querySelectorAll(".zoom")) {
  frame.addEventListener("click", () => frame.classList.toggle("large"));
}
// A link to something that is folded opens the fold.
function unfold() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = place?.querySelector(":scope > details:only-child") ?? place?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  place?.scrollIntoView();
}
addEventListener("hashchange", unfold);
if (location.hash) unfold();
