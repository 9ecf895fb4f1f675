"use strict";
const order = new Intl.Collator(undefined, { numeric: true });
const ABSENT = "–";

// A button in each head sorts; cells that hold nothing come last either way.
function sortBy(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return { row, number: parseFloat(cell.dataset.value), text: cell.textContent.trim() };
  });
  rows.sort((a, b) => {
    const absent = (a.text === ABSENT) - (b.text === ABSENT);
    const numbers = !isNaN(a.number) && !isNaN(b.number);
    const ahead = numbers ? a.number - b.number : order.compare(a.text, b.text);
    return absent || (down ? -ahead : ahead);
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

function search(table, text, shown) {
  const words = text.toLowerCase().split(/\s+/);
  let count = 0;
  for (const row of table.tBodies[0].rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => content.includes(word));
    count += !row.hidden;
  }
  shown.textContent = `rows: ${count} of ${table.tBodies[0].rows.length}`;
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column, head));
    head.append(button);
  });
  const box = table.parentNode.previousElementSibling;
  const input = box.querySelector("input");
  input.addEventListener("input", () => search(table, input.value, box.querySelector("output")));
  box.hidden = table.tBodies[0].rows.length < 6;
}

// The line in the spectrogram follows the sound; a click goes to that time.
for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio");
  const picture = player.querySelector(".spectrogram");
  const line = picture.querySelector("i");
  const follow = () => {
    line.style.left = `${Math.min(100, (100 * audio.currentTime) / player.dataset.seconds)}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    follow();
  });
  audio.addEventListener("seeked", follow);
  picture.addEventListener("click", (event) => {
    audio.currentTime = (event.offsetX / picture.clientWidth) * player.dataset.seconds;
    audio.play();
  });
}
