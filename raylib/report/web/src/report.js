import "./report.css";
import { page } from "./data.js";
import { selfShadowTransfer } from "./light.js";
import { unpackMesh, vertexNormals } from "./mesh.js";
import { reconstruction } from "./reconstruction.js";

const PAGES = { reconstruction };

PAGES[page.kind]();

/** For tests and the curious. */
window.physface = { page, selfShadowTransfer, unpackMesh, vertexNormals };
