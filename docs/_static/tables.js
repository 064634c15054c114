// A table that is wider than its place becomes a list: a block for each row, with the names of the columns in it.
function fitTables() {
  for (const table of document.querySelectorAll("main table")) {
    table.classList.remove("stacked");
    if (table.getBoundingClientRect().width <= table.parentElement.clientWidth + 1) continue;
    const names = [...table.querySelectorAll("thead tr:first-child th")].map((name) => name.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.children].forEach((cell, column) => cell.setAttribute("data-name", names[column] || ""));
    table.classList.add("stacked");
  }
}
window.addEventListener("load", fitTables);
window.addEventListener("resize", fitTables);
