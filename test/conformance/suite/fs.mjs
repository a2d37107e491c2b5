// The module "fs" with the one name that Node.js 20 lacks.
export * from "node:fs";
export { default } from "node:fs";

export function globSync() {
  throw new Error("globSync is not there before Node.js 22");
}
