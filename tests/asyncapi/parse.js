// What AsyncAPI's own parser says of the files that are named, as JSON: diagnostics that are errors or
// warnings, and the messages that it found.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const told = {};
for (const source of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(source, "utf8"), { source });
  const said = diagnostics
    .filter(({ severity }) => severity <= 1)
    .map(({ severity, code, path, message }) => ({ severity, code, path: path.join("."), message }));
  const messages = document?.messages().all().map((message) => message.id()) ?? [];
  told[source] = { parsed: document !== undefined, said, messages };
}
console.log(JSON.stringify(told, null, 1));
