// Building the page's elements. Text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const html = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

// What has not changed stays as it is, so that a selection or a screen reader's place survives.
export function replace(element, children) {
  const next = html("div", {}, ...children);
  if (element.innerHTML !== next.innerHTML) element.replaceChildren(...next.childNodes);
}

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const facts = (pairs) => pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, String(value))]);
