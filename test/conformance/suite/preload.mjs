// Both suites import globSync from "fs", which Node.js has from version 22 on,
// and a module whose import is missing does not start. They use it for nothing
// that we run. Before them, on an older Node.js, this puts a module in the place
// of "fs" that has the name.
import * as fs from "node:fs";
import { register } from "node:module";

if (!("globSync" in fs)) {
  register("./resolve.mjs", import.meta.url);
}
