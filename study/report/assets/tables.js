// What tables and texts share: elements from plain text, numbers, sorting, copying.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) {
    if (child !== null && child !== undefined) made.append(child); // a text becomes a text node: no markup in it acts
  }
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const percent = (value, digits) => (isNumber(value) ? `${(value * 100).toFixed(digits).replace("-", "\u2212")} %` : "");

function fourDigits(value) {
  if (!isNumber(value)) return "";
  const text = Math.abs(value) >= 1000 ? Math.round(value).toString() : Number(value.toPrecision(4)).toString();
  return text.replaceAll("-", "\u2212");
}

function compareValues(one, other) {
  if (one === null || one === undefined || one === "") return other === null || other === undefined || other === "" ? 0 : 1;
  if (other === null || other === undefined || other === "") return -1;
  if (isNumber(one) && isNumber(other)) return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const one of heads) one.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[place];
        if (cell.querySelector(".none")) return null;
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([one], [other]) => {
        const order = compareValues(one, other);
        return rising || one === null || other === null ? order : -order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

function copyButton() {
  return element("button", { type: "button", class: "copy" }, "Copy");
}

async function copyCommand(button) {
  const code = button.parentElement.querySelector("code");
  let done = false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    done = true;
  } catch {
    const range = document.createRange(); // no access to the clipboard: mark the text, and try the old way
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => (button.textContent = "Copy"), 1600);
}
