"use strict";
// Commands with the path of the study, which is known from the page's own address, so that a study may be moved.
(() => {
  // The study's folder if this is the page that stands in it; otherwise the commands are for that folder.
  const folder = () => {
    const path = decodeURIComponent(location.pathname).replace(/^\/(?=[A-Za-z]:)/, "");
    return location.protocol === "file:" && path.endsWith("/report/index.html") ? path.slice(0, -18) || "/" : "";
  };

  // A word of a POSIX shell. Names in it come from the study, so everything unusual is quoted.
  harness.quote = word => /^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

  harness.command = (verb, path, ...more) => {
    const study = folder(), whole = study ? (path ? `${study}/${path}` : study) : path || ".";
    return ["harness", verb, whole, ...more].map(harness.quote).join(" ");
  };

  const copy = async button => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {  // no permission: the text is selected for the keyboard
      getSelection().selectAllChildren(code);
      button.textContent = "press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  };

  for (const code of document.querySelectorAll("code[data-verb]")) {
    code.textContent = harness.command(code.dataset.verb, code.dataset.path);
  }
  for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
  for (const place of document.querySelectorAll(".in-folder")) place.hidden = folder() !== "";
})();
