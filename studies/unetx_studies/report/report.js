"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("thumbnail");
  const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  const show = (event) => {
    const key = event.points[0].customdata;
    if (!(key in data.thumbnails)) return;
    box.innerHTML = data.thumbnails[key];
    const { clientX: x, clientY: y } = event.event;
    box.style.left = `${Math.min(x + 16, innerWidth - 316)}px`;
    box.style.top = `${Math.min(y + 16, Math.max(0, innerHeight - 260))}px`;
    box.hidden = false;
  };
  data.figures.forEach((figure, number) => {
    const place = document.getElementById(`plot${number}`);
    figure.layout.font = { ...figure.layout.font, color: ink() };
    Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: false });
    place.on("plotly_hover", show);
    place.on("plotly_unhover", () => { box.hidden = true; });
  });
  document.querySelectorAll(".case input[type=range]").forEach((slider) => {
    const notes = slider.dataset.notes.split("|"), place = slider.closest(".case");
    slider.addEventListener("input", () => {
      place.querySelectorAll(".slice").forEach((slice) => { slice.toggleAttribute("hidden", slice.dataset.slice !== slider.value); });
      place.querySelector("output").textContent = notes[slider.value];
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.querySelectorAll(".plot").forEach((place) => Plotly.relayout(place, { "font.color": ink() }));
  });
})();
