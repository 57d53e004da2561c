// What is nicer with scripts. Every page works without.

// Moments are told in the reader's zone, with UTC for whoever points at them. Days are UTC days and stay.
const near = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
function tellTimes(within) {
  for (const time of within.querySelectorAll("time:not([data-day], [title])")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = `${time.dateTime.replace("T", " ").replace("Z", "")} UTC`;
    time.textContent = near.format(at);
  }
}

// As if a person had selected it and pressed the keys: that needs no leave, and works over plain http, too. Where it
// fails, the text is selected all the same, and a key press away.
function copy(source) {
  const text = source.value ?? source.textContent;
  if (source.select) source.select();
  else getSelection().selectAllChildren(source);
  const put = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  };
  document.addEventListener("copy", put);
  try {
    return document.execCommand("copy");
  } finally {
    document.removeEventListener("copy", put);
  }
}

// A button that copies the text of another element.
function offerCopies(within) {
  for (const button of within.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    const plain = button.textContent;
    button.addEventListener("click", () => {
      const source = document.getElementById(button.dataset.copy);
      button.textContent = copy(source) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => (button.textContent = plain), 2000);
    });
  }
}

// Filters that are not set stay out of the address.
function tidyFilters(within) {
  for (const form of within.querySelectorAll("form[method=get]")) {
    form.addEventListener("submit", () => {
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
      setTimeout(() => [...form.elements].forEach((field) => (field.disabled = false)));
    });
  }
}

// One click is enough: a form that is on its way is not sent again.
function sendOnce(within) {
  for (const form of within.querySelectorAll("form[method=post]")) {
    if (form.target) continue; // it leaves this page where it is
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) return event.preventDefault();
      form.dataset.sent = "yes";
    });
  }
}
addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent));

// A question that is open closes with Escape.
addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.activeElement?.closest("details.ask[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

// What was just done is told once: not again when the page is loaded again, or gone back to.
const here = new URL(location.href);
if (here.searchParams.has("done")) {
  here.searchParams.delete("done");
  history.replaceState(null, "", here);
}

function enhance(within) {
  tellTimes(within);
  offerCopies(within);
  tidyFilters(within);
  sendOnce(within);
}
enhance(document);

// A part of a page that is looked at again and again, unless somebody is about to do something there.
for (const live of document.querySelectorAll("[data-refresh]")) {
  const busy = () => document.hidden || live.querySelector("details[open]") || live.contains(document.activeElement);
  const timer = setInterval(async () => {
    if (busy()) return;
    try {
      // What a form that was not accepted shows has an address that cannot be asked for.
      const answer = await fetch(live.dataset.from ?? location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok || answer.redirected) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(live.id);
      if (!fresh || busy()) return;
      if (!fresh.dataset.refresh) clearInterval(timer); // nothing goes on any more
      live.replaceChildren(...fresh.childNodes);
      enhance(live);
    } catch {
      // The next look may succeed.
    }
  }, 1000 * Number(live.dataset.refresh));
}
