// What AsyncAPI's own parser says of the document on stdin, as JSON: diagnostics that are errors or
// warnings, and the channels of the messages that it found.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"), { source: process.argv[2] });
const said = diagnostics
  .filter(({ severity }) => severity <= 1)
  .map(({ severity, code, path, message }) => ({ severity, code, path: path.join("."), message }));
const messages = document?.messages().all().map((message) => message.id()) ?? [];
console.log(JSON.stringify({ parsed: document !== undefined, said, messages }, null, 1));
