// Writes with the published adapters: node write.mjs NODE_MODULES PORT COMMANDS (JSON).
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [modules, port, commands] = process.argv.slice(2)
const require = createRequire(`${modules}/x.js`)
const load = async (name) => import(pathToFileURL(require.resolve(name)))
const { RedisStreamAdapterManager } = await load('@motiadev/adapter-redis-streams')
const { RedisStateAdapter } = await load('@motiadev/adapter-redis-state')
const where = { socket: { host: '127.0.0.1', port: Number(port) } }
const manager = new RedisStreamAdapterManager(where)
const states = { lasting: new RedisStateAdapter(where), mortal: new RedisStateAdapter(where, { ttl: 3600 }) }
const client = manager.getClient()
while (!client.isReady) await new Promise((done) => setTimeout(done, 10))
for (const [kind, name, group, id, value] of JSON.parse(commands)) {
  if (kind === 'set') await manager.createStream(name).set(group, id, value)
  else if (kind === 'delete') await manager.createStream(name).delete(group, id)
  else await states[name].set(group, id, value)
}
await manager.shutdown()
await Promise.all(Object.values(states).map((state) => state.cleanup()))
