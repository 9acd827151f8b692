// The baselines in Node: `node server.cjs ws` and `node server.cjs socket.io`; prints its port.
const http = require("node:http");

const value = {
  id: "doc-123",
  title: "Proposal",
  authorId: "user-42",
  updatedAt: 1790000000000,
  tags: ["draft", "shared", "2026"],
  meta: { views: 12, rating: 4.5, public: true, parent: null },
  content: "x".repeat(66),
};
const frame = { type: "stream", streamName: "documents", groupId: "g", event: { type: "update", data: value } };

let sendAll;
const server = http.createServer((request, response) => {
  const count = Number(request.url.split("/").pop());
  for (let i = 0; i < count; i++) sendAll();
  response.writeHead(204).end();
});

if (process.argv[2] === "ws") {
  const { WebSocketServer, WebSocket } = require("ws");
  const sockets = new WebSocketServer({ server, perMessageDeflate: false });
  sendAll = () => {
    const text = JSON.stringify(frame);
    for (const socket of sockets.clients) if (socket.readyState === WebSocket.OPEN) socket.send(text);
  };
} else {
  const { Server } = require("socket.io");
  const io = new Server(server, { perMessageDeflate: false, transports: ["websocket"] });
  io.on("connection", (socket) => socket.join("g"));
  sendAll = () => io.to("g").emit("update", frame);
}

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
