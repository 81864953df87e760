"use strict";
for (const form of document.querySelectorAll("form[data-table]")) {
  const table = document.getElementById(form.dataset.table), body = table.tBodies[0], rows = [...body.rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const search = form.querySelector("input"), picks = [...form.querySelectorAll("select")], heads = [...table.tHead.rows[0].cells];

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row, i) => {
      row.hidden = !(words.every((word) => texts[i].includes(word)) && picks.every((pick) => !pick.value || row.dataset[pick.dataset.row] === pick.value));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  };
  const put = (order, head, way) => {
    body.append(...order);
    heads.forEach((own) => own.removeAttribute("aria-sort"));
    if (head) head.setAttribute("aria-sort", way);
  };
  const sort = (head, column) => {
    const numeric = head.dataset.sort !== "t", before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    const values = new Map(rows.map((row) => {
      const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      return [row, numeric && text !== "" ? Number(text) : text];
    }));
    const least = (x, y) => (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    put([...rows].sort((a, b) => {
      const x = values.get(a), y = values.get(b);
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not known stands last, either way
      return down ? least(y, x) : least(x, y);
    }), head, down ? "descending" : "ascending");
  };

  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("span"); // a <button> is missing where Chromium prints the head again on a page
    button.tabIndex = 0;
    button.setAttribute("role", "button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(head, column);
    });
    head.append(button);
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { put(rows); filter(); }));
  form.hidden = false;
  filter();
}
