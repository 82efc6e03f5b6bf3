import { comparison } from "./comparison.js";
import { page } from "./data.js";
import { selfShadowTransfer } from "./light.js";
import { unpackMesh, vertexNormals } from "./mesh.js";
import { reconstruction } from "./reconstruction.js";
import { training } from "./training.js";
import "./report.css";

const PAGES = { comparison, reconstruction, training };

PAGES[page.kind]();

/** For tests and the curious. */
window.physface = { page, selfShadowTransfer, unpackMesh, vertexNormals };
