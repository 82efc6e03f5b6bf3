// The page of one reconstruction.

import { page } from "./data.js";
import { FaceList } from "./faces.js";
import * as rows from "./rows.js";
import { shell } from "./shell.js";
import { distributions, failures, runTab } from "./tabs.js";
import { Viewer } from "./viewer.js";

export function reconstruction() {
  const list = new FaceList({ open });
  const viewer = new Viewer({
    facts: rows.facts,
    step: (row, by) => list.step(row, by),
    title: rows.title,
    links: rows.files,
    onshow: (row) => {
      history.replaceState(null, "", `#face=${encodeURIComponent(page.rows.face_id[row])}`);
      list.reveal(row);
    },
    onclose: () => history.replaceState(null, "", "#"),
  });
  const failed = failures();
  const show = shell({
    title: page.title,
    subtitle: subtitle(),
    tabs: [
      { key: "faces", label: "Faces", make: () => list.node, count: page.totals.faces, shown: () => list.grid.draw() },
      { key: "failures", label: "Without a mesh", make: () => failed.node, count: failed.count, shown: failed.shown },
      { key: "figures", label: "Distributions", make: () => distributions((range) => {
        list.setRange(range);
        show("faces");
      }) },
      { key: "run", label: "Run", make: runTab },
    ],
  });
  list.update();

  function open(row) {
    viewer.show(row);
  }
  const wanted = decodeURIComponent(location.hash.replace(/^#face=/, ""));
  const row = wanted ? page.rows.face_id.indexOf(wanted) : -1;
  if (row >= 0 && rows.hasDetail(row)) open(row);
}

function subtitle() {
  const { run, totals } = page;
  const parts = [page.name, `${totals.images.toLocaleString("en-US")} images, ${totals.faces.toLocaleString("en-US")} faces`];
  if (run.config?.method) parts.push(`method ${run.config.method}`);
  if (run.started) parts.push(run.started.replace("T", " ").replace("Z", " UTC"));
  if (page.privacy !== "none" && page.privacy !== "unknown") parts.push(`privacy ${page.privacy}`);
  return parts.filter(Boolean).join(" · ");
}
