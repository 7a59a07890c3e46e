"use strict";
// Sort a table by the column whose head was pressed; rows without a value go last.
function sortBy(head) {
  const body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  const valueOf = (row) => {
    const cell = row.cells[head.cellIndex];
    return cell.dataset.value ?? cell.textContent.replaceAll(",", "").replace("–", "");
  };
  const compare = (a, b) => {
    const one = valueOf(a), other = valueOf(b);
    if (one === "" || other === "") return (one === "") - (other === "");
    const words = isNaN(one) || isNaN(other);
    const order = words ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return down ? -order : order;
  };
  for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...body.rows].sort(compare));
}
// Tables that were written as Markdown have no buttons yet.
for (const head of document.querySelectorAll("section thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
