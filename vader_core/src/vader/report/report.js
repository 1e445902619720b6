// A live page says how old it is and reloads itself, less often as it ages; not while clips are paused or text is read.
(() => {
  const { written } = document.body.dataset;
  if (!written) return;
  const opened = Date.now();
  const paused = () => document.getElementById("toggle")?.dataset.paused === "true";
  const said = (seconds) => (seconds < 100 ? `${seconds} s` : `${Math.round(seconds / 60)} min`);
  setInterval(() => {
    const age = Math.max(0, Math.round((Date.now() - written) / 1000));
    document.getElementById("live").textContent = `live, written ${said(age)} ago`;
    const due = Date.now() - opened > 1000 * Math.min(60, Math.max(5, age / 4));
    if (due && !document.hidden && !paused() && !document.querySelector("details[open]")) location.reload();
  }, 1000);
})();

// A history's video is in the page once; its link gives the same bytes.
document.querySelectorAll("a.download").forEach((link) => {
  link.href = link.closest("figure").querySelector("video").src;
  link.hidden = false;
});

// Pairs of clips start together and wait for each other; one button stops them all. Without this script they just loop.
(() => {
  const pairs = [...document.querySelectorAll(".pair")].map((pair) => [...pair.querySelectorAll("video")]);
  const clips = pairs.flat();
  if (!clips.length) return;
  const button = document.getElementById("toggle");
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

  const mark = (clip, state) => { clip.closest(".frame").dataset.state = state; };
  const start = (clip) => clip.play().catch(() => {});
  const apply = () => {
    button.textContent = playing ? "Pause clips" : "Play clips";
    clips.forEach((clip) => (playing ? start(clip) : clip.pause()));
  };

  pairs.forEach((pair) => {
    const over = () => pair.every((clip) => clip.ended || clip.error);
    pair.forEach((clip) => {
      clip.loop = false;
      clip.addEventListener("loadeddata", () => mark(clip, "ready"), { once: true });
      clip.addEventListener("timeupdate", () => clip.currentTime > 0 && mark(clip, "playing"));
      clip.addEventListener("error", () => mark(clip, "failed"));
      if (clip.readyState >= 2) mark(clip, "ready");
      if (clip.error) mark(clip, "failed");
      clip.addEventListener("ended", () => {
        if (!playing || !over()) return;
        setTimeout(() => playing && pair.forEach((one) => { one.currentTime = 0; start(one); }), 250);
      });
    });
  });
  button.hidden = false;
  button.addEventListener("click", () => { playing = !playing; button.dataset.paused = String(!playing); apply(); });
  apply();
})();
