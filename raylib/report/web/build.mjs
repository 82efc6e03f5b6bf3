// Builds ../assets/report.js, report.css and the licence of what the script contains.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";

// A test compares this with the sources, so that an old bundle is noticed without npm.
const hash = createHash("sha256");
for (const name of [...readdirSync("src").sort().map((name) => `src/${name}`), "build.mjs", "package-lock.json"]) hash.update(readFileSync(name));

mkdirSync("../assets", { recursive: true });
await build({
  entryPoints: ["src/report.js", "src/report.css"],
  outdir: "../assets",
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none", // three.js's notice is kept whole in the file below, ours in the project's LICENSE
  target: ["chrome103", "firefox113", "safari16.4"], // the first with DecompressionStream for zlib data
  loader: { ".css": "css" },
  banner: { js: `/* physface report; contains three.js (MIT), see THREE-LICENSE beside this file; source ${hash.digest("hex")} */` },
});
copyFileSync("node_modules/three/LICENSE", "../assets/THREE-LICENSE");
