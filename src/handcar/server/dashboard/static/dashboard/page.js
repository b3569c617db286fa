// What the pages do beyond polling: copy a command, and say when the server is away.
"use strict";

(() => {
  const root = document.documentElement;
  if (navigator.clipboard) root.classList.add("can-copy");

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // A page that nobody looks at asks for nothing.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden) event.preventDefault();
  });

  const say = (away) => { document.getElementById("stale").hidden = !away; };
  document.addEventListener("htmx:error", () => say(true));
  document.addEventListener("htmx:response:error", () => say(true));
  document.addEventListener("htmx:after:swap", (event) => {
    if (event.detail.ctx.response?.status === 200) say(false);
  });
})();
