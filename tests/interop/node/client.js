// WebSocket clients on npm's `ws`, driven by JSON lines on stdin that tell what each is to do, and
// telling in JSON lines on stdout what happens to it. `tests/interop/clients.py` has the other end.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const clients = new Map();

const tell = (id, event, more) => process.stdout.write(JSON.stringify({ id, event, ...more }) + "\n");

function connect({ id, url, headers }) {
  const client = new WebSocket(url, { headers, perMessageDeflate: true });
  clients.set(id, client);
  client.on("open", () => tell(id, "open", { extensions: client.extensions }));
  client.on("message", (data, isBinary) => tell(id, "message", { text: data.toString(), binary: isBinary }));
  client.on("ping", () => tell(id, "ping"));
  client.on("pong", () => tell(id, "pong"));
  client.on("error", () => {}); // "close" follows
  client.on("close", (code, reason) => tell(id, "close", { code, reason: reason.toString() }));
}

const todo = {
  connect,
  send: ({ id, text, binary }) => clients.get(id).send(text, { binary }),
  ping: ({ id }) => clients.get(id).ping("are you there?"),
  close: ({ id, code, reason }) => clients.get(id).close(code, reason),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  todo[command.do](command);
}).on("close", () => process.exit());
