/** Who this tab is: a name and a colour, kept for as long as the tab is. */

const FIRST = ["Amber", "Brisk", "Calm", "Clever", "Dapper", "Gentle", "Keen", "Lucky", "Merry", "Nimble", "Quiet", "Sunny"];
const SECOND = ["Badger", "Crane", "Fox", "Heron", "Ibex", "Lark", "Marten", "Otter", "Puffin", "Robin", "Swift", "Wren"];
/** Hues that can be told apart. */
export const HUES = [27, 62, 110, 150, 195, 250, 300, 345];
const KEY = "motia-demo-identity";

const pick = (list) => list[Math.floor(Math.random() * list.length)];

function fresh() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, name: `${pick(FIRST)} ${pick(SECOND)}`, hue: pick(HUES) };
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}

/** Hold a lock on an identity for the life of the tab: a duplicated tab brings a copy along. */
function unclaimed(identity) {
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`${KEY}-${identity.id}`, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      return lock && new Promise(() => {});
    });
  });
}

/** This tab's `{id, name, hue}`. */
export async function whoAmI() {
  let identity = stored();
  if (!identity || !(await unclaimed(identity))) {
    identity = fresh();
    await unclaimed(identity);
  }
  remember(identity);
  return identity;
}

/** Keep a changed name. */
export function remember(identity) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(identity));
  } catch {
    // Storage is off: a new name at each load, then.
  }
}
