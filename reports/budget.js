"use strict";
// The budget panel: without scripts its tables stand as they are.
(() => {
  const panel = document.querySelector(".budget");
  if (!panel) return;
  const rows = [...panel.querySelectorAll("tr[data-seconds]")];
  const [seconds, memory, quality] = ["seconds", "memory", "quality"].map((name) => document.getElementById(`limit-${name}`));
  const answer = document.getElementById("budget-answer");
  const lower = panel.dataset.better !== "higher";
  const limit = (input, otherwise) => (input.value === "" ? otherwise : Number(input.value));
  const choose = () => {
    const bar = limit(quality, lower ? Infinity : -Infinity);
    let best = null;
    for (const row of rows) {
      const data = row.dataset;
      const value = Number(data.quality);
      const fits = Number(data.seconds) <= limit(seconds, Infinity)
        && (data.memory === "" ? memory.value === "" : Number(data.memory) / 1e6 <= limit(memory, Infinity))
        && (lower ? value <= bar : value >= bar);
      row.hidden = !fits;
      if (fits && (!best || (lower ? value < Number(best.dataset.quality) : value > Number(best.dataset.quality)))) best = row;
    }
    rows.forEach((row) => row.classList.toggle("chosen", row === best));
    answer.textContent = best ? `Best quality within these limits: ${best.dataset.name}.` : "No setting keeps these limits: loosen one.";
  };
  panel.querySelector(".limits").hidden = false;
  [seconds, memory, quality].forEach((input) => input.addEventListener("input", choose));
  choose();
})();
