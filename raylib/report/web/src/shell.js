// What every page has: heading, tabs, light and dark.

import { el } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };

function themeButton() {
  let at = 0;
  try {
    at = Math.max(0, THEMES.indexOf(localStorage.getItem("physface-theme")));
  } catch {} // a file's page may have no storage
  const button = el("button", { type: "button", class: "icon theme", onclick: () => {
    at = (at + 1) % THEMES.length;
    try {
      localStorage.setItem("physface-theme", THEMES[at]);
    } catch {}
    apply();
  } });
  const apply = () => {
    if (at) document.documentElement.dataset.theme = THEMES[at];
    else delete document.documentElement.dataset.theme;
    button.textContent = SIGNS[THEMES[at]];
    button.title = `Colors: ${THEMES[at]}`;
    button.setAttribute("aria-label", button.title);
  };
  apply();
  return button;
}

/** Fills the page; `tabs` are {key, label, make, count, shown}, made when they are first shown. Returns a function that shows a tab. */
export function shell({ title, subtitle, tabs }) {
  const buttons = tabs.map(({ key, label, count }) =>
    el("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": `panel-${key}`, onclick: () => show(key) }, label, count !== undefined && el("b", { text: count.toLocaleString("en-US") })));
  const panels = tabs.map(({ key }) => el("div", { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}`, hidden: true }));
  const show = (key) => {
    tabs.forEach((tab, i) => {
      buttons[i].setAttribute("aria-selected", String(tab.key === key));
      panels[i].hidden = tab.key !== key;
      if (tab.key !== key) return;
      if (!panels[i].hasChildNodes()) panels[i].append(tab.make());
      tab.shown?.();
    });
    scrollTo(0, 0);
  };
  document.getElementById("app").append(
    el("header", { class: "top" },
      el("div", { class: "titles" }, el("h1", { text: title }), el("p", { class: "subtitle", text: subtitle, title: subtitle })),
      themeButton(),
      tabs.length > 1 && el("nav", { role: "tablist" }, ...buttons)),
    el("main", {}, ...panels));
  show(tabs[0].key);
  return show;
}
