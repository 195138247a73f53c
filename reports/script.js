"use strict";
// Playback only: without scripts the page shows the same clips and numbers.
(() => {
  const videos = [...document.querySelectorAll("video:not([controls])")];
  const controls = document.querySelector(".controls");
  if (!videos.length) return;
  controls.hidden = false;
  const [toggle, restart, speed, seek] = ["toggle", "restart", "speed", "seek"].map((id) => document.getElementById(id));
  const visible = new Set();
  let playing = true;

  // The first clip on screen leads; the others join it when they appear, and start over when it does.
  const lead = () => videos.find((video) => visible.has(video) && video.duration);
  const jump = (seconds) => visible.forEach((video) => { video.currentTime = seconds; });
  const set = (on) => {
    playing = on;
    for (const video of videos) {
      if (on && visible.has(video)) video.play().catch(() => {});
      else video.pause();
    }
    toggle.textContent = on ? "Pause all" : "Play all";
  };

  const observer = new IntersectionObserver((entries) => {
    const leader = lead();
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) visible.add(target);
      else visible.delete(target);
      if (isIntersecting && leader) target.currentTime = leader.currentTime;
    }
    set(playing);
  }, { rootMargin: "100px" });
  videos.forEach((video) => observer.observe(video));

  toggle.addEventListener("click", () => set(!playing));
  restart.addEventListener("click", () => { jump(0); set(true); });
  speed.addEventListener("change", () => videos.forEach((video) => { video.playbackRate = Number(speed.value); }));
  seek.addEventListener("input", () => {
    set(false);
    jump((seek.value / 1000) * (lead()?.duration || 0));
  });
  videos.forEach((video) => video.addEventListener("click", () => set(!playing)));

  let before = 0;
  setInterval(() => {
    const leader = lead();
    if (!playing || !leader) return;
    if (leader.currentTime < before) jump(leader.currentTime);
    before = leader.currentTime;
    seek.value = String(Math.round((1000 * leader.currentTime) / leader.duration));
  }, 60);

  if (matchMedia("(prefers-reduced-motion: reduce)").matches) set(false);
})();
