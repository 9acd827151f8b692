/** A network cable for this tab: pulled, nothing connects and every socket breaks. */

class DeadSocket {
  readyState = 0;
  constructor() {
    setTimeout(() => this.onclose?.({ code: 1006 }), 0);
  }
  send() {}
  close() {}
}

const sockets = new Set();
let pulled = false;

/** A WebSocket that knows whether the cable is in. */
export class PluggedSocket {
  constructor(...address) {
    if (pulled) return new DeadSocket();
    const socket = new WebSocket(...address);
    sockets.add(socket);
    socket.addEventListener("close", () => sockets.delete(socket));
    return socket;
  }
}

/** `fetch`, as long as the cable is in. */
export function pluggedFetch(...request) {
  return pulled ? Promise.reject(new TypeError("unplugged")) : fetch(...request);
}

/** Pull the cable, or put it back. */
export function plug(inserted) {
  pulled = !inserted;
  if (pulled) for (const socket of sockets) socket.close(4000, "unplugged");
  else window.dispatchEvent(new Event("online"));
}
