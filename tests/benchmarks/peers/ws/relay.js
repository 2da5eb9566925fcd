// A relay on ws, which queues for each phone by itself: `node relay.js PORT`.
"use strict";
const { randomBytes } = require("node:crypto");
const { WebSocketServer } = require("ws");

const HEARTBEAT = 30_000;
const MAX_PHONES = 16;
const servers = new Map();

function serveBinary(socket, id) {
  if (servers.has(id)) return socket.close(4409, "server-id already claimed");
  const server = { binary: socket, phones: new Map() };
  servers.set(id, server);
  socket.on("message", (data) => {
    const { conn_id, frame } = JSON.parse(data);
    server.phones.get(conn_id)?.send(JSON.stringify(frame));
  });
  socket.on("close", () => {
    servers.delete(id);
    for (const phone of server.phones.values()) phone.close(4404, "binary is gone");
  });
}

function servePhone(socket, id) {
  const server = servers.get(id);
  if (!server) return socket.close(4404, "no server with that id");
  if (server.phones.size === MAX_PHONES) return socket.close(4429, "too many phones");
  const conn_id = "c-" + randomBytes(16).toString("base64url");
  server.phones.set(conn_id, socket);
  socket.on("message", (data) => {
    server.binary.send(JSON.stringify({ conn_id, frame: JSON.parse(data) }));
  });
  socket.on("close", () => server.phones.delete(conn_id));
}

function heartbeat(socket) {
  let alive = true;
  socket.on("pong", () => (alive = true));
  const timer = setInterval(() => {
    if (!alive) return socket.terminate();
    alive = false;
    socket.ping();
  }, HEARTBEAT);
  socket.on("close", () => clearInterval(timer));
}

const listener = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  backlog: 4096,
  maxPayload: 262144,
  perMessageDeflate: false,
});
listener.on("connection", (socket, request) => {
  socket.on("error", () => {});
  heartbeat(socket);
  const serve = request.url === "/v1/server" ? serveBinary : servePhone;
  serve(socket, request.headers["x-pyrycode-server"]);
});
